"""Serving has what integrated has, whatever happened when: late reads, open days, crashes."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest import mock

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import work
from support.energy_oracle import energy_by_day

from meterlake.delta import commit as commits
from meterlake.delta.commit import snapshot
from meterlake.delta.store import Store, open_store
from meterlake.delta.table import fetched, scan
from meterlake.engine.local import LocalEngine
from meterlake.errors import Unavailable
from meterlake.integrate import consumption, derivations
from meterlake.pipeline import runner, upkeep
from meterlake.pipeline.derivation import Session
from meterlake.questions.sql import query
from meterlake.readings import file_cache
from meterlake.readings.consumption import read_consumption
from meterlake.readings.reader import Reader
from meterlake.schema import READINGS, SERVING_READINGS
from meterlake.settings import load_settings

HEADER = "time,arrival_time,device_id,measure_name,load,crrnt,pf,kva,kw,vltg"
START = datetime(2024, 3, 29, tzinfo=UTC)  # three days later London's clocks go forward
DAYS = 5
METERS = ("m1", "m2", "m3")
ZONE = "Europe/London"

COLUMNS = [c.name for c in READINGS.columns if c.name not in ("year", "month", "day", "hour")]
KEY = ["reading_type", "meter_id", "reading_date_time"]


@dataclass(frozen=True)
class Delivery:
    """Hourly reads of a meter from an hour on, with one value, and when they arrived."""

    meter: str
    first: int
    hours: int
    kw: float
    arrived: int


@dataclass(frozen=True)
class Cluster:
    """Clustering some hours after the start; `crash` stops it before its commit of that number."""

    now: int
    merge_days: int
    crash: int


Action = Delivery | Cluster

delivery = st.builds(
    Delivery,
    meter=st.sampled_from(METERS),
    first=st.integers(0, 24 * DAYS - 1),
    hours=st.sampled_from([1, 3, 24, 60]),
    kw=st.sampled_from([0.0, 1.5, -2.25, 7.125]),
    arrived=st.integers(0, 400),
)
clustering = st.builds(
    Cluster,
    now=st.integers(0, 24 * (DAYS + 4)),
    merge_days=st.sampled_from([1, 2, 31]),
    crash=st.sampled_from([0, 0, 0, 1, 2, 3, 4, 5]),
)
windows = st.lists(
    st.tuples(st.integers(-5, 24 * DAYS), st.integers(1, 24 * DAYS)), min_size=2, max_size=2
)
histories = st.lists(st.one_of(delivery, delivery, clustering, clustering), min_size=3, max_size=8)


@pytest.fixture(autouse=True)
def files_are_kept_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_cache, "ASKED", 1)


class Life:
    """A lake that lives through a history, and a reader that is there all the time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = open_store(str(folder / "lake"))
        self.store.put("inbound/new", b"")
        self.reader = Reader(self.store, keep_mb=10)
        self.files = 0

    def deliver(self, *deliveries: Delivery) -> None:
        for delivered in deliveries:
            self._ingest(delivered)
        work.integrate(self.store.url, START + timedelta(days=30))

    def _ingest(self, delivered: Delivery) -> None:
        self.files += 1
        arrived = START + timedelta(hours=delivered.arrived)
        rows = []
        for hour in range(delivered.first, delivered.first + delivered.hours):
            time = START + timedelta(hours=hour)
            rows.append(
                f"{time:%Y-%m-%d %H:%M:%S},{arrived:%Y-%m-%d %H:%M:%S},{delivered.meter},"
                f"readings,,,,,{delivered.kw},{230 + self.files}"
            )
        path = self.folder / f"{self.files}.csv"
        path.write_text("\n".join([HEADER, *rows, f"# {self.files}", ""]))
        work.ingest(self.store.url, [str(path)], START + timedelta(days=30))

    def cluster(self, clustering: Cluster) -> None:
        conf = load_settings(
            timezone=ZONE, merge_days=clustering.merge_days, merge_after_days=0.5,
            cluster_after_hours=1.0, serving_file_rows=30, interval_minutes=60,
        )  # fmt: skip
        real, count = commits.commit, 0

        def commit(*args: object, **options: object) -> object:
            nonlocal count
            count += 1
            if count == clustering.crash:
                raise Unavailable("crashed")
            return real(*args, **options)  # type: ignore[arg-type]

        # Ranges of so few rows that a day has several files.
        with (
            mock.patch.object(runner, "commit", commit),
            mock.patch.object(consumption, "RANGE_ROWS", 30),
        ):
            try:
                now = START + timedelta(hours=clustering.now)
                derivations.cluster(Session(self.store, LocalEngine(2), conf, now))
            except Unavailable as error:
                assert str(error) == "crashed"


def integrated(store: Store) -> pl.DataFrame:
    state = snapshot(store, READINGS)
    return fetched(scan(store, READINGS, state.files).select(COLUMNS)).sort(KEY)


def same(found: pl.DataFrame, wanted: pl.DataFrame) -> None:
    assert found.select(wanted.columns).equals(wanted), (found, wanted)


def everything_is_as_integrated_has_it(life: Life, windows: Sequence[tuple[int, int]]) -> None:
    truth = integrated(life.store)
    without_arrival = truth.drop("arrival_time")
    types = ["kw", "vltg"]
    for reader in (life.reader, Reader(life.store)):
        same(reader.readings(METERS, reading_types=types), without_arrival)
    same(life.reader.readings(METERS, reading_types=types, with_arrival=True), truth)
    for start, hours in windows:
        window = START + timedelta(hours=start), START + timedelta(hours=start + hours)
        found = life.reader.readings(["m2", "m1"], start=window[0], end=window[1])
        inside = pl.col("reading_date_time").is_between(*window, closed="left")
        wanted = pl.col("meter_id").is_in(["m1", "m2"]) & (pl.col("reading_type") == "kw")
        same(found, without_arrival.filter(inside & wanted))
        of_one = pl.col("meter_id") == "m1"
        for _ in range(2):  # from a file, and from a file that is kept
            found = life.reader.readings(
                ["m1"], reading_types=types, start=window[0], end=window[1]
            )
            same(
                found, without_arrival.filter(inside & of_one & pl.col("reading_type").is_in(types))
            )
    columns = ", ".join(without_arrival.columns)
    same(query(life.store, f"SELECT {columns} FROM readings ORDER BY {', '.join(KEY)}"),
         without_arrival)  # fmt: skip
    same(query(life.store, f"SELECT * FROM readings ORDER BY {', '.join(KEY)}"), truth)
    energies_are_those_of_the_readings(life, truth)


def energies_are_those_of_the_readings(life: Life, truth: pl.DataFrame) -> None:
    found = read_consumption(life.reader, METERS, by="day", zone=ZONE)
    reads = truth.filter(pl.col("reading_type") == "kw").select(
        "meter_id", "reading_date_time", "reading_value", "interval_seconds"
    )
    wanted = energy_by_day(reads.rows(), ZONE)
    assert {(r["meter_id"], r["date"]) for r in found.to_dicts()} == set(wanted)
    for row in found.to_dicts():
        of_day = wanted[row["meter_id"], row["date"]]
        assert {name: row[name] for name in of_day} == pytest.approx(of_day)
    months = read_consumption(life.reader, METERS, by="month", zone=ZONE)
    assert months["intervals"].sum() == found["intervals"].sum()
    total = found["energy_kwh"].fill_null(0.0).sum()
    assert months["energy_kwh"].fill_null(0.0).sum() == pytest.approx(total)


@settings(max_examples=3)
@given(history=histories, windows=windows)
def test_whoever_reads_by_serving_gets_what_integrated_has(
    history: list[Action], windows: list[tuple[int, int]]
) -> None:
    live_through(history, windows)


@pytest.mark.soak
@settings(max_examples=300)
@given(history=histories, windows=windows)
def test_whoever_reads_by_serving_gets_what_integrated_has_in_many_lives(
    history: list[Action], windows: list[tuple[int, int]]
) -> None:
    live_through(history, windows)


def test_a_late_read_of_a_merged_file_is_read_at_once_and_its_file_renewed(
    tmp_path: Path,
) -> None:
    life = Life(tmp_path)
    life.deliver(
        *(Delivery(meter, first=0, hours=24 * DAYS, kw=1.5, arrived=200) for meter in METERS)
    )
    life.cluster(Cluster(now=24 * 60, merge_days=31, crash=0))
    spans = {f.partition["day"] for f in snapshot(life.store, SERVING_READINGS).files}
    assert spans == {"01", "29"}  # the days of March, and those of April
    life.deliver(Delivery("m2", first=30, hours=1, kw=9.0, arrived=300))
    everything_is_as_integrated_has_it(life, [(29, 3), (0, 31)])
    life.cluster(Cluster(now=24 * 60, merge_days=31, crash=0))
    everything_is_as_integrated_has_it(life, [(29, 3), (0, 31)])
    assert {f.partition["day"] for f in snapshot(life.store, SERVING_READINGS).files} == spans
    assert upkeep.check(Session(life.store, LocalEngine(2), work.CONF, START)).findings == ()


def live_through(history: Sequence[Action], windows: Sequence[tuple[int, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        life = Life(Path(folder))
        for action in history:
            if isinstance(action, Delivery):
                life.deliver(action)
            else:
                life.cluster(action)
            everything_is_as_integrated_has_it(life, windows)
        assert upkeep.check(Session(life.store, LocalEngine(2), work.CONF, START)).findings == ()
        over = Cluster(now=24 * (DAYS + 10), merge_days=2, crash=0)
        life.cluster(over)
        everything_is_as_integrated_has_it(life, windows)
        assert upkeep.check(Session(life.store, LocalEngine(2), work.CONF, START)).findings == ()
        # All days are over by now: serving has every reading, and a further run does nothing.
        assert snapshot(life.store, SERVING_READINGS).rows == snapshot(life.store, READINGS).rows
        before = snapshot(life.store, SERVING_READINGS).version
        life.cluster(over)
        assert snapshot(life.store, SERVING_READINGS).version == before
