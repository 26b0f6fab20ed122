"""A lake that version 0.1 made becomes one of ours, and answers as it did.

The lake and the answers are those of 0.1 itself (tests/support/first_lake.py). Each change of a
table extends this test.
"""

import gzip
import io
import tarfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import zstandard
from support import first_lake, ml, work
from typer.testing import CliRunner

from meterlake.cli import app
from meterlake.delta import commit as commits
from meterlake.delta import lake_format
from meterlake.delta.commit import snapshot
from meterlake.delta.journal import logged
from meterlake.delta.store import Store, open_store
from meterlake.delta.table import fetched, scan
from meterlake.engine.local import LocalEngine
from meterlake.errors import BadInput
from meterlake.ingest import intake
from meterlake.integrate.derivations import integrate
from meterlake.pipeline import upkeep
from meterlake.pipeline.derivation import Session
from meterlake.pipeline.upgrade import STEPS, upgrade
from meterlake.questions.sql import query
from meterlake.schema import DELIVERIES, LATE_ARRIVALS, QUARANTINE, READING_TYPES, READINGS, STAGING

PACKED = Path(__file__).parents[1] / "data" / "lake-0.1.tar.zst"
NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
CONF = ml.settings("America/Los_Angeles").model_copy(update={"interval_minutes": 60.0})


@pytest.fixture
def old(tmp_path: Path) -> Store:
    """A copy of the lake that 0.1 made."""
    with zstandard.open(PACKED, "rb") as data, tarfile.open(fileobj=io.BytesIO(data.read())) as tar:
        tar.extractall(tmp_path, filter="data")
    return open_store(str(tmp_path / "lake"))


def answers(store: Store) -> dict[str, pl.DataFrame]:
    """What 0.1 answered."""
    folder = Path(store.url).parent / "answers"
    return {path.stem: pl.read_csv(path, infer_schema=False) for path in folder.iterdir()}


def check(store: Store, *, repair: bool = False) -> upkeep.Checked:
    return upkeep.check(Session(store, LocalEngine(2), CONF, NOW), repair=repair)


def of_deliveries(store: Store) -> tuple[list[Any], set[tuple[str, str]]]:
    """The rows of deliveries, and what each live file says it was made from."""
    rows = fetched(scan(store, DELIVERIES, snapshot(store, DELIVERIES).files))
    files = {
        (f.path, f.made_from)
        for table in (STAGING, QUARANTINE, LATE_ARRIVALS)
        for f in logged(store, table).files.values()
    }
    return rows.sort("delivery_id").rows(), files


def test_an_upgraded_lake_is_whole_and_answers_as_before(old: Store) -> None:
    assert upgrade(old, now=NOW, settings=CONF).was == 1
    assert check(old).findings == ()
    for name, expected in answers(old).items():
        found = query(old, first_lake.QUESTIONS[name])
        if name == "staging":
            found, expected = by_value(found, expected)
        same(found.select(expected.columns), expected, name)
    assert upgrade(old, now=NOW).steps == 0


def by_value(found: pl.DataFrame, expected: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Both with a row for each value; 0.1 had a column for each reading type."""
    types = [name for name in READING_TYPES if name in expected.columns]
    others = [c for c in expected.columns if c not in types]
    values = expected.unpivot(
        types, index=others, variable_name="reading_type", value_name="reading_value"
    ).drop_nulls("reading_value")
    order = ["source_sha256", "source_row", "reading_type"]
    text = pl.col("source_row").cast(pl.String)
    return (
        found.drop_nulls("reading_value").with_columns(text).sort(order),
        values.sort(order),
    )


def same(found: pl.DataFrame, expected: pl.DataFrame, name: str) -> None:
    """What is found is what 0.1 answered, as text; sums may differ in their last digit."""
    assert found.height == expected.height, name
    for column, dtype in found.schema.items():
        one, other = found[column], expected[column]
        if dtype == pl.Datetime("us", "UTC"):
            assert one.equals(other.str.to_datetime(time_zone="UTC", time_unit="us")), column
        elif dtype.is_float():
            apart = (one - other.cast(pl.Float64)).abs().max()
            assert one.is_null().equals(other.is_null()), (name, column)
            assert apart is None or apart < 1e-9, (name, column)  # type: ignore[operator]
        else:
            text = one.cast(pl.String)
            assert text.equals(other), (name, column)


def test_without_a_setting_the_length_is_inferred_and_no_day_is_complete(old: Store) -> None:
    upgrade(old, now=NOW)
    sql = "SELECT DISTINCT interval_seconds, length_source FROM readings"
    assert set(query(old, sql).rows()) <= {(3600, "inferred"), (None, "unknown")}
    rows = query(old, "SELECT energy_kwh, is_complete FROM consumption_daily ORDER BY ALL")
    assert not rows["is_complete"].any()
    assert rows["energy_kwh"].null_count() == 0


def test_a_delivery_that_is_gone_keeps_its_values_without_a_length(old: Store) -> None:
    (gone,) = (f.path for f in old.list("inbound") if "late" in f.path)
    old.delete(gone)
    upgrade(old, now=NOW, settings=CONF)
    rows = query(
        old,
        "SELECT source_file, count(*) AS n, count(interval_seconds) AS known FROM staging "
        "GROUP BY ALL ORDER BY ALL",
    ).rows()
    assert [(name, known == n) for name, n, known in rows if "late" in name] == [
        ("late.csv.gz", False)
    ]
    assert all(known == n for name, n, known in rows if "late" not in name)


def test_each_delivery_of_the_old_lake_has_its_row(old: Store) -> None:
    upgrade(old, now=NOW)
    rows = fetched(scan(old, DELIVERIES, snapshot(old, DELIVERIES).files)).sort("source_file")
    assert rows.select("source_file", "rows", "quarantined", "state").rows() == [
        ("first.csv.gz", 2112, 0, "active"),
        ("last-again.csv.gz", 97, 1, "active"),
        ("last.csv", 97, 1, "active"),
        ("late.csv.gz", 8, 0, "active"),
    ]
    # 0.1 took the same content twice, packed and not; it is known as the same now.
    assert rows["sha256"][1] == rows["sha256"][2] == rows["source_sha256"][2]


def test_an_upgraded_lake_takes_in_more_and_what_it_has_but_once(
    old: Store, tmp_path: Path
) -> None:
    upgrade(old, now=NOW)
    first = old.read(next(f.path for f in old.list("inbound") if "first" in f.path))
    text = gzip.decompress(first)
    (tmp_path / "first.csv").write_bytes(text)
    row = text.splitlines()[1].replace(b"2024-01-01 00:00", b"2024-01-24 00:00")
    (tmp_path / "next.csv").write_bytes(text.splitlines()[0] + b"\n" + row + b"\n")
    paths = [str(tmp_path / name) for name in ("first.csv", "next.csv")]
    done = intake.ingest(Session(old, LocalEngine(1), CONF, NOW), paths)
    assert (done.already_ingested, done.stored, done.failures) == (1, 1, [])
    result = integrate(Session(old, LocalEngine(1), CONF, NOW))
    assert result.added == 1
    assert check(old).findings == ()


@pytest.mark.proof
@pytest.mark.parametrize("table", [STAGING, QUARANTINE, LATE_ARRIVALS, DELIVERIES])
def test_what_is_damaged_after_an_upgrade_is_made_again(old: Store, table: Any) -> None:
    upgrade(old, now=NOW)
    held = work.contents(old)
    for file in snapshot(old, table).files:
        old.delete(f"{table.path}/{file.path}")
    assert check(old, repair=True).findings == ()
    assert work.contents(old) == held


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.soak
@pytest.mark.parametrize("after", [False, True])
def test_an_upgrade_that_was_killed_anywhere_goes_on(
    tmp_path: Path, old: Store, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    real: Callable[..., None] = commits._write
    left = 0

    def written(*args: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0 and not after:
            raise Killed
        real(*args)
        if left < 0:
            raise Killed

    monkeypatch.setattr(commits, "_write", written)
    kills = 0
    while True:
        left = 0 if after else 1
        before = query_as_plain_delta(old)
        try:
            upgrade(old, now=NOW)
            break
        except Killed:
            kills += 1
            assert lake_format.format_of(old) == 1
            assert query_as_plain_delta(old) == before
            with pytest.raises(BadInput, match="meterlake upgrade"):
                snapshot(old, READINGS)
    assert kills > len(STEPS)
    monkeypatch.undo()
    assert check(old).findings == ()
    rows, files = of_deliveries(old)
    assert len(rows) == 4
    assert all(made_from for _, made_from in files)


def query_as_plain_delta(store: Store) -> int:
    """Rows of the integrated table, for who knows nothing of our formats."""
    return int(pl.scan_delta(store.uri(READINGS.path)).select(pl.len()).collect().item())


@pytest.mark.parametrize(
    "command", ["catalog", "integrate", "check", "vacuum", "ingest README.md", "keys list"]
)
def test_a_lake_of_another_format_is_refused(old: Store, command: str) -> None:
    def told() -> str:
        done = CliRunner().invoke(app, [*command.split(), "--lake", old.url])
        assert done.exit_code == 1
        return done.stderr

    assert "has format 1. Run: meterlake upgrade" in told()
    old.put(lake_format.PATH, b'{"format": 4}')
    assert "has format 4. Install a newer meterlake" in told()
    with pytest.raises(BadInput, match="Install a newer meterlake"):
        upgrade(old, now=NOW)


def test_a_lake_that_another_process_makes_just_now_is_not_taken_for_an_old_one(
    store: Store, deliver: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("inbound/early.csv", b"")  # the folder is there, and nothing in it yet
    looks = Store.has

    def has(self: Store, path: str) -> bool:  # after the first look at the statement
        monkeypatch.setattr(Store, "has", looks)
        file = deliver("a.csv", "2024-01-01 00:00:00,2024-01-01 01:00:00,m1,readings,,,,,1,")
        work.ingest(store.url, [str(file)], NOW)
        return any(looks(self, f"{t.path}/_delta_log/{0:020}.json") for t in (STAGING, DELIVERIES))

    monkeypatch.setattr(Store, "has", has)
    assert lake_format.format_of(store) == lake_format.FORMAT


def test_a_new_lake_states_its_format_once(store: Store, deliver: Callable[..., Path]) -> None:
    paths = [str(deliver("a.csv", "2024-01-01 00:00:00,2024-01-01 01:00:00,m1,readings,,,,,1,"))]
    work.ingest(store.url, paths, NOW)
    assert lake_format.format_of(store) == lake_format.FORMAT
    stated = store.read(lake_format.PATH)
    work.integrate(store.url, NOW)
    assert store.read(lake_format.PATH) == stated
