"""`not_read`: what a profile lists is no reading, whether it is text, a number or NaN."""

import math
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.deliveries import expected, read, readings, reasons

from meterlake.formats.tabular import ProfileFormat

PROFILE = """
name = "loggers"
meter = "meter"
not_read = {listed}
[time]
column = "at"
[values]
kw = {{ type = "kw", unit = "W", multiplier = 2 }}
v = {{ type = "vltg", unit = "V" }}
"""
LONG = """
name = "registers"
meter = "meter"
not_read = {listed}
[time]
column = "at"
[values]
kw = {{ type = "kw", unit = "W", multiplier = 2 }}
v = {{ type = "vltg", unit = "V" }}
[long]
type_column = "register"
value_column = "value"
"""
LISTED = ["4294967.295", "-9999", "---", "NaN"]


def times(count: int) -> list[str]:
    return [f"2024-01-01T{i // 60:02d}:{i % 60:02d}:00Z" for i in range(count)]


def wide(kw: Sequence[Any] | pl.Series, v: Sequence[Any]) -> pl.DataFrame:
    return pl.DataFrame({"meter": ["S1"] * len(kw), "at": times(len(kw)), "kw": kw, "v": v})


def stored(table: pl.DataFrame, name: str, values: Sequence[float | None]) -> dict[Any, float]:
    return {
        ("S1", name, at): value
        for at, value in zip(table["at"], values, strict=True)
        if value is not None
    }


def test_the_four_sentinels_of_meters_loggers_and_pandas(shared_data: Path) -> None:
    case = shared_data.parent / "cases" / "g10-not-read-that-is-a-number"
    parsed = read((case / "sentinels.toml").read_text(), case / "sentinels.csv")
    assert parsed.rejected.is_empty()
    assert readings(parsed) == expected(case / "expected.csv")


@pytest.mark.parametrize("is_fast", [True, False])
@pytest.mark.parametrize(
    "cell",
    ["4294967.295", "4294967.2950", "-9999", "-9999.0", " -9999 ", "-9.999e3", "NaN", "nan", "---"],
)
def test_what_is_listed_is_not_read_and_the_rows_other_value_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cell: str, is_fast: bool
) -> None:
    if not is_fast:
        monkeypatch.setattr(ProfileFormat, "_read_fast", lambda *_: None)
    table = wide([cell, "3", "5"], ["230", "231", cell])
    table.write_csv(tmp_path / "a.csv", quote_style="never")
    parsed = read(PROFILE.format(listed=LISTED), tmp_path / "a.csv")
    assert parsed.rejected.is_empty()
    assert readings(parsed) == (
        stored(table, "kw", [None, 0.006, 0.01]) | stored(table, "vltg", [230, 231, None])
    )


@pytest.mark.parametrize(
    ("dtype", "listed"),
    [
        *[(dtype, text) for dtype in (pl.String(), pl.Categorical()) for text in LISTED],
        *[(dtype, text) for dtype in (pl.Float64(), pl.Float32()) for text in LISTED[:2]],
        (pl.Float64(), "NaN"), (pl.Float32(), "NaN"), (pl.Float64(), "nan"),
        (pl.Int16(), "-9999"), (pl.Int64(), "-9999.0"), (pl.UInt32(), "4294967295"),
        (pl.Decimal(12, 3), "4294967.295"), (pl.Decimal(12, 3), "-9999"),
    ],
)  # fmt: skip
def test_a_parquet_column_of_any_type_holds_what_is_listed(
    tmp_path: Path, dtype: pl.DataType, listed: str
) -> None:
    cells = pl.Series([listed, "3", "5", None])
    if dtype.is_numeric():
        kind = float if dtype.is_float() else Decimal
        cells = pl.Series([kind(listed), kind(3), kind(5), None])
    table = wide(cells.cast(dtype), [230.0] * 4)
    table.write_parquet(tmp_path / "a.parquet")
    assert pl.read_parquet_schema(tmp_path / "a.parquet")["kw"] == dtype
    parsed = read(PROFILE.format(listed=[listed]), tmp_path / "a.parquet")
    assert parsed.rejected.is_empty()
    assert readings(parsed) == pytest.approx(
        stored(table, "kw", [None, 0.006, 0.01, None]) | stored(table, "vltg", [230.0] * 4)
    )


def test_what_is_not_listed_stays_a_number_and_nan_an_error(tmp_path: Path) -> None:
    table = wide([-9999.0, math.nan, 4294967.25, 0.0], [230.0] * 4)
    wanted = stored(table, "kw", [-19.998, None, 8589.9345, 0.0])
    wanted |= stored(table, "vltg", [230.0, None, 230.0, 230.0])
    table.write_parquet(tmp_path / "a.parquet")
    table.write_csv(tmp_path / "a.csv")
    for name, row in {"a.parquet": 2, "a.csv": 3}.items():
        parsed = read(PROFILE.format(listed=["4294967.295", "-", "9999"]), tmp_path / name)
        assert readings(parsed) == pytest.approx(wanted)
        assert reasons(parsed) == {row: "kw is not a finite number: 'NaN'"}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_long_tables_row_that_is_not_read_is_a_row_without_a_reading(
    tmp_path: Path, kind: str
) -> None:
    table = pl.DataFrame(
        {
            "meter": ["S1"] * 4,
            "at": [t for t in times(2) for _ in range(2)],
            "register": ["kw", "v"] * 2,
            "value": [-9999.0, 230.0, 3.0, math.nan],
        }
    )
    path = tmp_path / f"a.{kind}"
    table.write_csv(path) if kind == "csv" else table.write_parquet(path)
    parsed = read(LONG.format(listed=LISTED), path)
    assert parsed.rejected.is_empty()
    assert readings(parsed) == {("S1", "kw", times(2)[1]): 0.006, ("S1", "vltg", times(2)[0]): 230}


def test_rows_with_a_listed_number_are_not_read_a_second_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again: list[int] = []
    parse_lines = ProfileFormat._parse_lines

    def counted(self: ProfileFormat, lines: pl.DataFrame, *rest: Any) -> Any:
        again.append(lines.height)
        return parse_lines(self, lines, *rest)

    monkeypatch.setattr(ProfileFormat, "_parse_lines", counted)
    table = wide(["-9999", "3", "NaN", "4294967.295"], ["230"] * 4)
    table.write_csv(tmp_path / "a.csv")
    assert len(readings(read(PROFILE.format(listed=LISTED), tmp_path / "a.csv"))) == 5
    assert again == []
    table[1, "v"] = ""
    table.write_csv(tmp_path / "a.csv")
    assert len(readings(read(PROFILE.format(listed=LISTED), tmp_path / "a.csv"))) == 4
    assert again == [1]


CELLS = st.one_of(
    st.sampled_from(["", "NaN", "nan", "inf", "-inf", "---", "n/a", "oops", "0", "-0", "1e400"]),
    st.sampled_from(["-9999", "-9999.0", "4294967.295", "4294967.2950", "4294967.2951", "99"]),
    st.floats(allow_nan=False, allow_infinity=False, width=32).map(repr),
)


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def meant(cell: str, listed: Sequence[str]) -> float | None:
    """What a cell says: a number, or None. ValueError: neither a number nor not read."""
    if cell == "" or cell in listed:
        return None
    number = float(cell)
    numbers = [float(text) for text in listed if is_number(text)]
    if number in numbers or (math.isnan(number) and any(math.isnan(n) for n in numbers)):
        return None
    if not math.isfinite(number):
        raise ValueError
    return number


@settings(max_examples=80)
@given(
    rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=12),
    listed=st.lists(CELLS.filter(bool), max_size=4),
    kind=st.sampled_from(["csv", "text", "float"]),
)
def test_each_cell_is_a_number_or_not_read_or_its_row_is_rejected(
    rows: list[tuple[str, str]],
    listed: list[str],
    kind: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    if kind == "float":  # a column of floats has no texts
        rows = [(a, b) for a, b in rows if is_number(a) and is_number(b)] or [("1", "NaN")]
    table = wide([a for a, _ in rows], [b for _, b in rows])
    path = tmp_path_factory.mktemp("not_read") / ("a.csv" if kind == "csv" else "a.parquet")
    if kind == "csv":
        table.write_csv(path, quote_style="never")
    elif kind == "text":
        table.write_parquet(path)
    else:
        table.with_columns(
            pl.Series(name, [float(c) for c in table[name]]) for name in ("kw", "v")
        ).write_parquet(path)
    parsed = read(PROFILE.format(listed=listed), path)
    wanted, rejected = {}, set()
    for n, (at, row) in enumerate(zip(table["at"], rows, strict=True)):
        try:
            kw, v = (meant(cell, listed) for cell in row)
        except ValueError:
            rejected.add(n + (2 if kind == "csv" else 1))
            continue
        if kw is not None:
            wanted["S1", "kw", at] = kw * 2e-3
        if v is not None:
            wanted["S1", "vltg", at] = v
    assert set(reasons(parsed)) == rejected
    assert readings(parsed) == pytest.approx(wanted)
