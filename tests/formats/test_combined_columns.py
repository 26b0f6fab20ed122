"""Several columns that are one series: tariffs that are added, or alternatives."""

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.deliveries import expected, read, readings, reasons

from meterlake.errors import BadInput
from meterlake.formats.profile import read_profile

TARIFFS = """
name = "tariffs"
interval_minutes = 60
meter = "meter"
[time]
column = "Hour Start"
[values]
"Low Tariff" = { type = "kw", unit = "kWh", combine = "sum" }
"Normal Tariff" = { type = "kw", unit = "kWh", combine = "sum" }
"Low Returned" = { type = "kw_export", unit = "kWh", combine = "sum" }
"Normal Returned" = { type = "kw_export", unit = "kWh", combine = "sum" }
"""
MEASURED = """
name = "measured"
delimiter = ";"
interval_minutes = 15
meter = "meter"
quality = "quality"
[time]
column = "at"
[values]
measured = { type = "kw", unit = "kWh", combine = "first" }
estimated = { type = "kw", unit = "kWh", combine = "first" }
"""
PROFILE = """
name = "combined"
meter = "meter"
not_read = ["---", "-9999"]
time = {{ column = "at" }}
[values]
a = {{ type = "kw", unit = "kW", combine = "{combine}" }}
v = {{ type = "vltg", unit = "V" }}
b = {{ type = "kw", unit = "W", combine = "{combine}" }}
c = {{ type = "kw", unit = "kW", multiplier = -1, combine = "{combine}" }}
"""


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("profile", "delivered", "wanted"),
    [
        (TARIFFS, "tariffs.csv", "tariffs_expected.csv"),
        (MEASURED, "measured_or_estimated.csv", "measured_expected.csv"),
    ],
)
def test_the_cases_of_tariffs_and_of_estimates(
    shared_data: Path, tmp_path: Path, profile: str, delivered: str, wanted: str, kind: str
) -> None:
    case = shared_data.parent / "cases" / "g16-two-columns-one-type"
    path = case / delivered
    if kind == "parquet":
        path = tmp_path / "a.parquet"
        delimiter = read_profile(profile, origin="test").delimiter
        pl.read_csv(case / delivered, separator=delimiter).write_parquet(path)
    parsed = read(profile, path)
    assert parsed.rejected.is_empty()
    assert readings(parsed) == pytest.approx(expected(case / wanted))


def test_a_value_has_the_flag_of_its_row(shared_data: Path) -> None:
    case = shared_data.parent / "cases" / "g16-two-columns-one-type"
    reads = read(MEASURED, case / "measured_or_estimated.csv").reads.sort("source_row")
    assert reads["quality"].to_list() == ["L1", "L3", None]


CELLS = st.one_of(
    st.sampled_from(["", "---", "-9999", "-9999.0", "0", "oops"]),
    st.integers(-(10**6), 10**6).map(str),
)


@settings(max_examples=60)
@given(
    rows=st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=10),
    combine=st.sampled_from(["sum", "first"]),
    kind=st.sampled_from(["csv", "parquet"]),
)
def test_columns_are_added_where_all_are_read_or_the_first_that_is_filled_holds(
    rows: list[tuple[str, ...]],
    combine: str,
    kind: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    table = pl.DataFrame(
        [("m", f"2024-01-01T00:{n:02d}:00Z", *row, "230") for n, row in enumerate(rows)],
        schema=["meter", "at", "a", "b", "c", "v"],
        orient="row",
    )
    path = tmp_path_factory.mktemp("combined") / f"a.{kind}"
    table.write_csv(path, quote_style="never") if kind == "csv" else table.write_parquet(path)
    parsed = read(PROFILE.format(combine=combine), path)
    wanted, rejected = {}, set()
    for n, row in enumerate(rows):
        if "oops" in row:
            rejected.add(n + (2 if kind == "csv" else 1))
            continue
        at = table["at"][n]
        wanted["m", "vltg", at] = 230.0
        # kW, W, and kW with the sign turned.
        kw = [
            float(cell) * factor
            for cell, factor in zip(row, (1, 0.001, -1), strict=True)
            if cell not in ("", "---", "-9999", "-9999.0")
        ]
        if combine == "sum" and len(kw) == 3:
            wanted["m", "kw", at] = sum(kw)
        if combine == "first" and kw:
            wanted["m", "kw", at] = kw[0]
    assert set(reasons(parsed)) == rejected
    assert readings(parsed) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (', combine = "first"', "", 'columns .* combine = "sum" .* combine = "first"'),
        ('combine = "first" }\nest', 'combine = "sum" }\nest', "'measured', 'estimated' all give"),
        (', combine = "first" }\nest', " }\nest", "'measured', 'estimated' all give kw"),
        ('{ type = "kw", unit = "kWh", combine = "first" }\nest',
         '{ type = "kw_export", unit = "kWh" }\nest', "'estimated': combine needs a second"),
        ('combine = "first"', 'combine = "last"', "combine"),
        ("[values]", '[long]\ntype_column = "k"\nvalue_column = "x"\n[values]', "long table"),
    ],
)  # fmt: skip
def test_a_profile_says_in_each_column_of_a_type_how_they_are_one(
    old: str, new: str, words: str
) -> None:
    assert read_profile(MEASURED, origin="test").by_series == {"kw": ["measured", "estimated"]}
    with pytest.raises(BadInput, match=words):
        read_profile(MEASURED.replace(old, new), origin="test")
