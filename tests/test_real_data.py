"""The whole path on the real Smart-Grid Smart-City file."""

from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest

from meterlake.delta.store import Store
from meterlake.engine.local import LocalEngine
from meterlake.ingest import intake
from meterlake.integrate import derivations
from meterlake.pipeline.derivation import Session
from meterlake.questions.sql import query
from meterlake.settings import load_settings

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
CONF = load_settings(late_hooks=())
COLUMNS = {
    "general_supply_kwh": "kw",
    "controlled_load_kwh": "kw_controlled",
    "gross_generation_kwh": "kw_generation",
    "net_generation_kwh": "kw_export",
    "other_kwh": "kw_other",
}

# Thousands of files: on a test server that would take long and show nothing more.
ON_A_FOLDER = pytest.mark.parametrize("store", ["file"], indirect=True)


def oracle_keys(raw: pl.DataFrame) -> int:
    """Distinct (meter, type, time) after the doubled hours are put in calendar order."""
    keys = set()
    for (customer,), rows in raw.sort("calendar_key").group_by("customer_id", maintain_order=True):
        seen: set[datetime] = set()
        for time, *values in rows.select("reading_datetime", *COLUMNS).iter_rows():
            summer_time_starts = time.date() in (date(2012, 10, 7), date(2013, 10, 6))
            moved = time.replace(hour=3) if summer_time_starts and time.hour == 2 else time
            time = moved if time in seen else time
            seen.add(time)
            keys |= {
                (customer, kind, time)
                for kind, value in zip(COLUMNS.values(), values, strict=True)
                if value is not None
            }
    return len(keys)


def check(store: Store, path: Path, rows: int) -> None:
    raw = pl.read_parquet(path)
    engine = LocalEngine(2)
    taken = intake.ingest(Session(store, engine, CONF, NOW), [str(path)])
    assert (taken.rows, taken.quarantined) == (rows, 0)
    done = derivations.integrate(Session(store, engine, CONF, NOW))
    assert done.added == oracle_keys(raw)
    assert taken.readings == done.added + done.replaced + done.duplicates
    found = query(
        store,
        "select count(*), count(distinct (meter_id, reading_type, reading_date_time)), "
        "sum(reading_value) filter (where reading_type = 'kw') from readings",
    ).row(0)
    assert found[:2] == (done.added, done.added)
    again = intake.ingest(Session(store, engine, CONF, NOW), [str(path)])
    assert (again.already_ingested, again.rows) == (1, 0)
    repeated = derivations.integrate(Session(store, engine, CONF, NOW))
    assert repeated == derivations.IntegrationResult()


@ON_A_FOLDER
def test_the_weeks_with_doubled_hours_end_with_the_right_keys(
    store: Store, shared_data: Path, tmp_path: Path
) -> None:
    day = pl.col("reading_datetime").dt.date()
    weeks = (
        day.is_between(date(2012, 9, 24), date(2012, 9, 24))
        | day.is_between(date(2012, 10, 5), date(2012, 10, 9))
        | day.is_between(date(2013, 10, 5), date(2013, 10, 7))
        | day.is_between(date(2014, 3, 2), date(2014, 3, 3))
    )
    raw = pl.read_parquet(shared_data / "sgsc" / "sgsc_50.parquet").filter(weeks)
    assert raw.select("customer_id", "reading_datetime").is_duplicated().sum() == 2 * 158
    raw.write_parquet(tmp_path / "weeks.parquet")
    check(store, tmp_path / "weeks.parquet", raw.height)


@ON_A_FOLDER
@pytest.mark.soak
def test_the_whole_file_ends_with_the_right_keys(store: Store, shared_data: Path) -> None:
    check(store, shared_data / "sgsc" / "sgsc_50.parquet", 1_278_870)
    count = query(store, "select count(*) from readings where reading_type = 'kw'").item()
    assert count == 1_278_870 - 4
