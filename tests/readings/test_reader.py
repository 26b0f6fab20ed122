"""A reader keeps in memory which files there are, and is never behind or half ahead."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from support import work

from meterlake.delta.commit import snapshot
from meterlake.delta.journal import Entry
from meterlake.delta.store import Store
from meterlake.delta.table import DataFile, fetched, scan, table_at
from meterlake.engine.local import LocalEngine
from meterlake.errors import BadInput, Conflict
from meterlake.integrate import derivations
from meterlake.integrate.derivations import cluster
from meterlake.pipeline import upkeep
from meterlake.pipeline.derivation import Made, Plan, Run, Session
from meterlake.questions.sql import query
from meterlake.readings import layout as layouts
from meterlake.readings.consumption import read_consumption
from meterlake.readings.layout import LiveLayout
from meterlake.readings.reader import Reader
from meterlake.schema import CONSUMPTION_DAILY, READINGS, SERVING_READINGS, Table
from meterlake.settings import load_settings

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
Deliver = Callable[..., Path]


def row(time: str, arrival: str, kw: float, meter: str = "m1") -> str:
    return f"2024-01-{time}:00,2024-01-{arrival}:00,{meter},readings,,,,,{kw},"


@pytest.fixture
def take(store: Store, deliver: Deliver, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Take in hourly reads and integrate them."""
    monkeypatch.setattr(work, "CONF", load_settings(late_hooks=(), interval_minutes=60))
    numbers = iter(range(100))

    def taken(*rows: str) -> None:
        work.ingest(store.url, [str(deliver(f"{next(numbers)}.csv", *rows))], NOW)
        work.integrate(store.url, NOW)

    return taken


@pytest.mark.parametrize("store", ["file"], indirect=True)
def test_the_logs_are_read_once_and_then_followed(
    store: Store, take: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    take(row("01 00:00", "01 00:05", 1.0))
    work.cluster(store.url, NOW)
    opened = []
    real = table_at

    def counting(*args: object) -> object:
        opened.append(args)
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(layouts, "table_at", counting)
    reader = Reader(store)
    for number in range(1, 4):
        assert reader.readings(["m1"])["reading_value"].to_list() == [1.0] * number
        take(row(f"0{number} 01:00", "09 00:05", 1.0))
        if number == 2:
            work.cluster(store.url, NOW)
    assert len(opened) == 2 + 2  # the reader's, and that of the one clustering


@pytest.mark.parametrize("store", ["file"], indirect=True)
def test_a_reader_that_paused_while_the_log_was_shortened_is_not_behind(
    store: Store, take: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    take(row("01 00:00", "01 00:05", 1.0))
    work.cluster(store.url, NOW)
    reader = Reader(store)
    assert reader.readings(["m1"]).height == 1
    for hour in (1, 2, 3):
        take(row(f"01 0{hour}:00", "09 00:05", 1.0))  # late: so its table's log is up to date
        work.cluster(store.url, NOW)
    work.shorten_logs(store)
    asked = time.monotonic()
    monkeypatch.setattr("meterlake.readings.layout.time.monotonic", lambda: asked + 7200)
    assert reader.readings(["m1"]).height == 4


@pytest.mark.parametrize("store", ["file"], indirect=True)
def test_a_read_that_is_integrated_while_a_clustering_runs_is_not_taken_for_clustered(
    store: Store, take: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for day in ("01", "02", "03"):
        take(row(f"{day} 00:00", f"{day} 00:05", 1.0))
    real = derivations.MERGING

    def late(run: Run) -> Plan[Made]:
        if not len(seen):
            seen.append(run)
            take(row("02 00:00", "09 00:05", 7.0))
            raise Conflict("plan again")
        return real.plan(run)

    seen: list[Run] = []

    with monkeypatch.context() as patch:
        patch.setattr(derivations, "MERGING", replace(real, plan=late))
        work.cluster(store.url, NOW)
    assert len(snapshot(store, SERVING_READINGS).files) == 1  # they were merged
    reader = Reader(store)
    assert reader.readings(["m1"])["reading_value"].to_list() == [1.0, 7.0, 1.0]
    work.cluster(store.url, NOW)
    assert reader.readings(["m1"])["reading_value"].to_list() == [1.0, 7.0, 1.0]


@pytest.mark.parametrize("store", ["file"], indirect=True)
def test_serving_and_integrated_are_read_as_of_one_version(
    store: Store, take: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    take(row("01 00:00", "01 00:05", 1.0))
    work.cluster(store.url, NOW)
    reader = Reader(store)
    reader.readings(["m1"])
    real, overtaken = LiveLayout._coming, list[str]()

    def between(self: LiveLayout, table: Table, version: int) -> Iterator[Entry]:
        yield from real(self, table, version)
        if not overtaken:  # after one table was followed and before the other is
            overtaken.append(table.name)
            take(row("01 00:00", "09 00:05", 5.0), row("02 00:00", "09 00:05", 6.0))
            work.cluster(store.url, NOW)

    monkeypatch.setattr(LiveLayout, "_coming", between)
    assert reader.readings(["m1"])["reading_value"].to_list() in ([1.0], [5.0, 6.0])
    assert overtaken == ["serving_readings"]
    assert reader.readings(["m1"])["reading_value"].to_list() == [5.0, 6.0]


@pytest.mark.parametrize("store", ["file"], indirect=True)
def test_files_of_other_meters_and_times_are_not_opened(
    store: Store, take: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        work, "CONF", load_settings(late_hooks=(), serving_file_rows=2, interval_minutes=60)
    )
    meters = [f"m{n}" for n in range(8)]
    for day in ("01", "20"):
        take(*(row(f"{day} {h:02d}:00", f"{day} 23:05", 1.0, m) for m in meters for h in (3, 4)))
    work.cluster(store.url, NOW)
    assert len(snapshot(store, SERVING_READINGS).files) == 2 * len(meters)
    opened: list[DataFile] = []

    def counting(store: Store, table: Table, files: list[DataFile]) -> pl.LazyFrame:
        opened.extend(files)
        return scan(store, table, files)

    monkeypatch.setattr(layouts, "scan", counting)
    start = datetime(2024, 1, 20, tzinfo=UTC)
    found = Reader(store).readings(["m3"], start=start, end=start + timedelta(days=1))
    assert (found.height, len(opened)) == (2, 1)


def test_readings_are_the_same_with_and_without_serving(
    store: Store, take: Callable[..., None]
) -> None:
    take(*(row(f"01 {h:02d}:00", "02 00:05", h, m) for m in ("m2", "m1") for h in range(5)))
    before = Reader(store).readings(["m1", "m2"])
    assert before["reading_value"].to_list() == [0.0, 1.0, 2.0, 3.0, 4.0] * 2
    everything = query(store, "SELECT * FROM readings ORDER BY ALL")
    work.cluster(store.url, NOW)
    assert snapshot(store, SERVING_READINGS).rows == 10
    assert Reader(store).readings(["m1", "m2"]).equals(before)
    assert query(store, "SELECT * FROM readings ORDER BY ALL").equals(everything)
    hours = "SELECT year, month, day, hour, unit, obis_code, reading_source FROM readings"
    assert set(query(store, hours).rows()) == {
        ("2024", "01", "01", f"{h:02d}", "kW", "1-0:16.7.0", "B") for h in range(5)
    }


@pytest.mark.parametrize("store", ["file"], indirect=True)
@pytest.mark.parametrize(
    ("sql", "by_meter"),
    [
        ("SELECT count(*) FROM readings", True),
        ("SELECT meter_id, max(reading_value) FROM readings GROUP BY ALL", True),
        ("WITH r AS (SELECT * FROM readings) SELECT sum(reading_value) FROM r", True),
        ("SELECT * FROM readings", False),
        ("FROM readings", False),
        ("SELECT r FROM readings r", False),
        ("SELECT count(*) FROM readings WHERE arrival_time > reading_date_time", False),
        ("SELECT COLUMNS('arr.*') FROM readings", False),
        ("SELECT a.meter_id FROM readings a JOIN readings b USING (arrival_time)", False),
    ],
)
def test_a_query_takes_serving_but_where_it_needs_the_arrival(
    store: Store, take: Callable[..., None], sql: str, by_meter: bool
) -> None:
    take(row("01 00:00", "01 00:05", 1.0))
    work.cluster(store.url, NOW)
    wanted = query(store, sql)
    # Without the files of the other table the answer is the same.
    other = READINGS if by_meter else SERVING_READINGS
    for file in snapshot(store, other).files:
        store.delete(f"{other.path}/{file.path}")
    assert query(store, sql).equals(wanted)


@pytest.mark.parametrize("store", ["file"], indirect=True)
def test_a_local_day_is_whole_though_serving_has_not_all_of_its_utc_days(
    store: Store, take: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In Kathmandu days begin at 18:15 UTC: their files are read in part, and stay in order."""
    monkeypatch.setattr(work, "CONF", load_settings(late_hooks=(), interval_minutes=30))
    half_hours = ((d, h, m) for d in (1, 2, 3) for h in range(24) for m in (15, 45))
    take(*(row(f"{d:02d} {h:02d}:{m:02d}", "09 00:05", h) for d, h, m in half_hours))
    settings = load_settings(timezone="Asia/Kathmandu")
    early = datetime(2024, 1, 3, 1, tzinfo=UTC)  # the local day is over, its second UTC day not
    cluster(Session(store, LocalEngine(1), settings, early))
    daily = snapshot(store, CONSUMPTION_DAILY)
    found = fetched(scan(store, CONSUMPTION_DAILY, daily.files)).sort("date")
    second = found.filter(pl.col("date") == datetime(2024, 1, 2).date())  # noqa: DTZ001
    assert second.select("intervals", "is_complete", "hours").row(0) == (48, True, 24.0)
    cluster(Session(store, LocalEngine(1), settings, NOW), rebuild=True)
    again = snapshot(store, CONSUMPTION_DAILY)
    rebuilt = fetched(scan(store, CONSUMPTION_DAILY, again.files)).sort("date")
    assert rebuilt.filter(pl.col("date").is_in(found["date"])).equals(found)


@pytest.mark.parametrize("store", ["file"], indirect=True)
def test_energy_of_another_zone_is_refused_and_recomputed(
    store: Store, take: Callable[..., None]
) -> None:
    take(*(row(f"{d:02d} {h:02d}:00", "09 00:05", 1.0) for d in (1, 2, 3) for h in range(24)))
    work.cluster(store.url, NOW)
    sydney = load_settings(timezone="Australia/Sydney")
    with pytest.raises(BadInput, match=r"days in UTC.*Australia/Sydney.*--rebuild"):
        cluster(Session(store, LocalEngine(1), sydney, NOW))
    with pytest.raises(BadInput, match="days in UTC"):
        read_consumption(Reader(store), ["m1"], by="day", zone="Australia/Sydney")
    cluster(Session(store, LocalEngine(1), sydney, NOW), rebuild=True)
    found = read_consumption(Reader(store), ["m1"], by="day", zone="Australia/Sydney")
    assert [(str(d), kwh) for d, kwh in found.select("date", "energy_kwh").rows()] == [
        ("2024-01-01", 13.0), ("2024-01-02", 24.0), ("2024-01-03", 24.0), ("2024-01-04", 11.0),
    ]  # fmt: skip
    for name in ("consumption_weekly", "consumption_monthly"):
        rows = query(store, f"SELECT sum(energy_kwh) AS kwh, count(*) AS n FROM {name}")
        assert rows.row(0) == (72.0, 1)


@pytest.mark.parametrize("store", ["file"], indirect=True)
def test_energy_is_up_to_the_last_reading_though_its_day_is_open(
    store: Store, take: Callable[..., None]
) -> None:
    hours = [f"{d:02d} {h:02d}:00" for d in (1, 2) for h in range(24)][:36]
    take(*(row(at, "03 00:05", 2.0) for at in hours))
    morning = datetime(2024, 1, 2, 13, tzinfo=UTC)
    work.cluster(store.url, morning)
    assert snapshot(store, SERVING_READINGS).rows == 24
    reader = Reader(store)
    found = read_consumption(reader, ["m1"], by="day", zone="UTC")
    assert found.select("energy_kwh", "is_complete").rows() == [(48.0, True), (24.0, False)]
    table = fetched(scan(store, SERVING_READINGS, snapshot(store, SERVING_READINGS).files))
    assert table["reading_date_time"].max() == datetime(2024, 1, 1, 23, tzinfo=UTC)
    # A late read counts at once.
    take(row("01 05:00", "08 00:05", 9.0))
    found = read_consumption(reader, ["m1"], by="week", zone="UTC")
    assert found.select("energy_kwh", "intervals").rows() == [(79.0, 36)]


@pytest.mark.parametrize("store", ["file"], indirect=True)
def test_where_integrated_was_lost_and_made_again_serving_is_too(
    store: Store, take: Callable[..., None]
) -> None:
    for kw in (1.0, 2.0, 3.0, 4.0):
        take(*(row(f"01 {h:02d}:00", f"0{int(kw) + 2} 00:05", kw) for h in range(24)))
    work.cluster(store.url, NOW)
    for file in store.list("integrated"):
        store.delete(file.path)
    work.integrate(store.url, NOW)
    for kw in (97.0, 98.0, 99.0):  # beyond the version that serving had consumed
        take(row("01 00:00", f"09 00:{kw - 60:.0f}", kw))
    wanted = [99.0] + [4.0] * 23
    for _ in range(2):
        reader = Reader(store)
        assert reader.readings(["m1"])["reading_value"].to_list() == wanted
        assert query(store, "SELECT max(reading_value) FROM readings").item() == 99.0
        energy = read_consumption(reader, ["m1"], by="day", zone="UTC")
        assert energy["energy_kwh"].to_list() == [sum(wanted)]
        assert upkeep.check(Session(store, LocalEngine(1), work.CONF, NOW)).findings == ()
        work.cluster(store.url, NOW)
    for table in ("consumption_daily", "consumption_weekly", "consumption_monthly"):
        assert query(store, f"SELECT energy_kwh FROM {table}").rows() == [(sum(wanted),)]
    assert snapshot(store, SERVING_READINGS).rows == 24
