"""Where the integrated files lie, and that other tools read them as they are."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import polars as pl
import pytest

from meterlake.delta.commit import snapshot
from meterlake.delta.journal import added_since
from meterlake.delta.store import Store
from meterlake.delta.table import scan
from meterlake.engine.local import LocalEngine
from meterlake.ingest import intake
from meterlake.integrate import derivations
from meterlake.pipeline.derivation import Session
from meterlake.schema import READING_TYPES, READINGS, STAGING, TABLES, polars_schema
from meterlake.settings import load_settings
from meterlake.simulate.readings import ReadingsPlan, simulate_readings

START = datetime(2024, 1, 1, tzinfo=UTC)
CONF = load_settings(late_hooks=())


@pytest.fixture
def filled(store: Store, tmp_path: Path) -> Store:
    plan = ReadingsPlan(devices=4, interval_minutes=15, start=START, end=START + timedelta(days=1))
    simulate_readings(plan, tmp_path / "inbox")
    intake.ingest(Session(store, LocalEngine(2), CONF, START), [str(tmp_path / "inbox")])
    derivations.integrate(Session(store, LocalEngine(2), CONF, START))
    return store


@pytest.mark.parametrize("store", ["file"], indirect=True)  # looks into the folder
def test_each_hour_of_each_type_is_one_file_at_the_guides_path(filled: Store) -> None:
    root = Path(filled.url) / "integrated" / "readings" / "parquet"
    files = sorted(str(p.parent.relative_to(root)) for p in root.rglob("*.parquet"))
    wanted = [
        f"reading_type={kind}/year=2024/month=01/day=01/hour={hour:02d}"
        for kind in ("crrnt", "kva", "kw", "load", "pf", "vltg")
        for hour in range(24)
    ]
    assert [f for f in files if not f.startswith("_delta_log")] == wanted


@pytest.mark.parametrize("store", ["file"], indirect=True)  # looks into the folder
def test_plain_duckdb_and_plain_polars_read_the_files_with_hive_partitioning(
    filled: Store,
) -> None:
    root = f"{filled.url}/integrated/readings/parquet"
    relation = duckdb.sql(
        "select count(*), sum(reading_value), count(distinct reading_type) from "
        f"read_parquet('{root}/**/*.parquet', hive_partitioning = true) where hour = '05'"
    )
    assert relation is not None
    count, value, kinds = relation.fetchall()[0]
    assert (count, kinds) == (4 * 4 * 6, 6)
    rows = pl.scan_parquet(f"{root}/**/*.parquet", hive_partitioning=True).collect()
    fifth = rows.filter(pl.col("hour").cast(pl.Int64) == 5)
    assert fifth["reading_value"].sum() == pytest.approx(value)
    assert set(rows.columns) == {c.name for c in READINGS.columns}


def test_the_stored_columns_have_the_declared_types(filled: Store) -> None:
    for table in (READINGS, STAGING):
        (file, *_) = snapshot(filled, table).files
        found = pl.read_parquet_schema(filled.uri(f"{table.path}/{file.path}"))
        wanted = polars_schema(table)
        # Texts that repeat are a dictionary in the file, and a column of text to who scans it.
        text = {name: pl.String() if t == pl.Categorical else t for name, t in found.items()}
        assert text == {c.name: wanted[c.name] for c in table.file_columns}


def test_units_and_obis_codes_are_those_of_the_reading_type(filled: Store) -> None:
    rows = scan(filled, READINGS, snapshot(filled, READINGS).files).collect()
    found = rows.select("reading_type", "unit", "obis_code", "reading_source").unique().rows()
    assert sorted(found) == sorted(
        (t.name, t.unit, t.obis_code, "B") for t in list(READING_TYPES.values())[:6]
    )


def test_the_log_knows_each_files_rows_and_times(filled: Store) -> None:
    state = snapshot(filled, READINGS)
    assert state.rows == 4 * 96 * 6
    assert state.newest == START + timedelta(hours=23, minutes=45)
    for file in state.files[:3]:
        rows = pl.read_parquet(filled.uri(f"{READINGS.path}/{file.path}"))
        times = rows["reading_date_time"]
        assert (file.rows, file.first, file.last) == (rows.height, times.min(), times.max())


def test_the_journal_names_the_files_that_came_after_a_version(
    filled: Store, deliver: Callable[..., Path]
) -> None:
    before = snapshot(filled, STAGING)
    path = deliver("b.csv.gz", "2024-02-01 00:00:00,2024-02-01 00:00:01,m1,readings,,,,,1,")
    intake.ingest(Session(filled, LocalEngine(1), CONF, START), [str(path)])
    after = snapshot(filled, STAGING)
    added = added_since(filled, STAGING, after=before.version, until=after.version)
    old = {f.path for f in before.files}
    assert {f.path for f in added} == {f.path for f in after.files} - old
    assert len(added) == 1


def test_tables_that_do_not_exist_yet_are_empty(store: Store) -> None:
    for table in TABLES.values():
        state = snapshot(store, table)
        assert (state.version, state.rows, state.newest) == (-1, 0, None)
        assert scan(store, table, state.files).collect().is_empty()
