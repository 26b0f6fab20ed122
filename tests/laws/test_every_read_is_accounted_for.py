"""The main law: whatever arrives in whatever order, the lake is what a slow oracle says.

The oracle reads the delivered text line by line with the standard library and imports
nothing of meterlake.
"""

import csv
import gzip
import math
import random
import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isal import igzip

from meterlake.delta.store import open_store
from meterlake.engine.local import LocalEngine
from meterlake.ingest import intake
from meterlake.integrate import derivations, hours
from meterlake.pipeline.derivation import Session
from meterlake.questions.sql import query
from meterlake.readings.reader import Reader
from meterlake.settings import load_settings
from meterlake.simulate.readings import ReadingsPlan, simulate_readings

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
START = datetime(2024, 1, 1, tzinfo=UTC)
TYPES = ("load", "crrnt", "pf", "kva", "kw", "vltg")
HEADER = "time,arrival_time,device_id,measure_name,load,crrnt,pf,kva,kw,vltg"
LATE_AFTER = timedelta(minutes=60)


@dataclass
class Oracle:
    """What a lake must hold after these files, worked out one cell at a time."""

    rows: int = 0
    bad: int = 0
    late: int = 0
    versions: dict[tuple[str, str, datetime], list[tuple[datetime, str, int, float]]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def take(self, name: str, text: str) -> None:
        for number, line in enumerate(text.splitlines()[1:], start=2):
            self.rows += 1
            cells = next(csv.reader([line]))
            try:
                time, arrival, values = self._typed(cells)
            except ValueError:
                self.bad += 1
                continue
            for kind, value in zip(TYPES, values, strict=True):
                self.versions[cells[2], kind, time].append((arrival, name, number, value))
                self.late += arrival - time > LATE_AFTER

    def _typed(self, cells: list[str]) -> tuple[datetime, datetime, list[float]]:
        if len(cells) != 10 or not cells[2] or cells[3] != "readings":
            raise ValueError(cells)
        values = [float(v) for v in cells[4:]]
        if not all(map(math.isfinite, values)):
            raise ValueError(cells)
        return _instant(cells[0]), _instant(cells[1]), values

    @property
    def table(self) -> dict[tuple[str, str, datetime], float]:
        return {key: max(reads)[3] for key, reads in self.versions.items()}

    @property
    def counts(self) -> tuple[int, int, int]:
        """Added, replaced, duplicates: keys, further versions of a key, the rest."""
        contents = sum(len({(r[0], r[3]) for r in reads}) for reads in self.versions.values())
        arrived = sum(map(len, self.versions.values()))
        return len(self.versions), contents - len(self.versions), arrived - contents


def _instant(text: str) -> datetime:
    base, _, fraction = text.partition(".")
    moment = datetime.strptime(base, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    return moment + timedelta(microseconds=int(fraction[:6].ljust(6, "0")))


def _table(store_path: Path) -> dict[tuple[str, str, datetime], float]:
    frame = query(
        open_store(str(store_path)),
        "select meter_id, reading_type, reading_date_time, reading_value from readings",
    )
    assert frame.select("meter_id", "reading_type", "reading_date_time").is_unique().all()
    return {(m, k, t.astimezone(UTC)): v for m, k, t, v in frame.iter_rows()}


good_row = st.tuples(
    st.sampled_from(["m1", "m2", "Zähler 3"]),
    st.integers(0, 7),  # quarter hours
    st.sampled_from([0, 1, 61, 1440]),  # minutes from reading to arrival
    st.sampled_from([0.0, 1.5, -2.25]),
)
bad_row = st.sampled_from(
    [
        "2024-13-01 00:00:00,2024-01-01 00:00:09,m1,readings,1,1,1,1,1,1",
        "2024-01-01 00:00:00,2024-01-01 00:00:09,m1,readings,1,1,1,1,x,1",
        "2024-01-01 00:00:00,2024-01-01 00:00:09,m1,readings,1,1,1,1,1e309,1",
        "2024-01-01 00:00:00,2024-01-01 00:00:09,m1,readings,1,1,1,NaN,1,1",
        "2024-01-01 00:00:00,2024-01-01 00:00:09,,readings,1,1,1,1,1,1",
        "2024-01-01 00:00:00,2024-01-01 00:00:09,m1,readings,1,1,1,1,1",
        "2024-01-01 00:00:00,2024-01-01 00:00:09,m1,readings,1,1,1,1,1,1,1",
        "2024-01-01 00:00:00,,m1,readings,1,1,1,1,1,1",
        "2024-01-01 00:00:00,2024-01-01 00:00:09,m1,alarm,1,1,1,1,1,1",
        "nonsense",
    ]
)


def _line(row: str | tuple[str, int, int, float]) -> str:
    if isinstance(row, str):
        return row
    meter, quarter, delay, value = row
    time = START + timedelta(minutes=15 * quarter)
    arrival = time + timedelta(minutes=delay)
    stamps = ",".join(f"{t:%Y-%m-%d %H:%M:%S}.0000000" for t in (time, arrival))
    return f"{stamps},{meter},readings,{value},{value},1.0,{value},{value},220.0"


files_of_rows = st.lists(
    st.lists(st.one_of(good_row, good_row, good_row, bad_row), max_size=12), min_size=1, max_size=4
)


@settings(max_examples=12)
@given(
    files=files_of_rows,
    seed=st.integers(0, 1000),
    unit_rows=st.sampled_from([1, 8, 250_000]),
)
def test_any_files_in_any_order_integrated_at_any_moments_give_what_the_oracle_says(
    files: list[list[str | tuple[str, int, int, float]]], seed: int, unit_rows: int
) -> None:
    chance = random.Random(seed)
    oracle = Oracle()
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(hours, "UNIT_ROWS", unit_rows)
        lake = Path(folder) / "lake"
        paths: list[Path] = []
        for number, rows in enumerate(files):
            text = "\n".join([f"{HEADER}", *map(_line, rows)]) + "\n"
            path = Path(folder) / f"reads_{number}.csv.gz"
            # Equal texts would be one delivery: a file is known by its content.
            path.write_bytes(igzip.compress(text.encode()))
            if path.read_bytes() in [p.read_bytes() for p in paths]:
                continue
            paths.append(path)
            oracle.take(path.name, text)
        chance.shuffle(paths)
        store, engine, conf = open_store(str(lake)), LocalEngine(2), load_settings(late_hooks=())
        taken_rows = quarantined = late = 0
        counts = [0, 0, 0]
        for path in [*paths, *paths]:  # each delivered twice
            taken = intake.ingest(Session(store, engine, conf, NOW), [str(path)])
            taken_rows += taken.rows
            quarantined += taken.quarantined
            if chance.random() < 0.5 or path is paths[-1]:
                done = derivations.integrate(Session(store, engine, conf, NOW))
                counts = [
                    a + b
                    for a, b in zip(
                        counts, (done.added, done.replaced, done.duplicates), strict=True
                    )
                ]
                late += done.late
        assert (taken_rows, quarantined, late) == (oracle.rows, oracle.bad, oracle.late)
        assert tuple(counts) == oracle.counts
        assert taken_rows * 6 == sum(counts) + quarantined * 6
        assert _table(lake) == oracle.table
        again = derivations.integrate(Session(store, engine, conf, NOW))
        assert again == derivations.IntegrationResult()


@pytest.mark.parametrize("seed", [1, 2])
def test_simulated_late_and_bad_rows_balance_and_match_the_oracle(
    tmp_path: Path, seed: int
) -> None:
    plan = ReadingsPlan(
        devices=100,
        interval_minutes=30,
        start=START,
        end=START + timedelta(hours=30),
        late_percent=20,
        late_minutes=1440,
        bad_percent=2,
        seed=seed,
    )
    made = simulate_readings(plan, tmp_path / "inbox")
    oracle = Oracle()
    for file in made.files:
        oracle.take(file.path.name, gzip.decompress(file.path.read_bytes()).decode())
    assert oracle.bad == made.bad_rows > 0
    store, engine = open_store(str(tmp_path / "lake")), LocalEngine(2)
    conf = load_settings(late_hooks=())
    taken = intake.ingest(Session(store, engine, conf, NOW), [str(tmp_path / "inbox")])
    done = derivations.integrate(Session(store, engine, conf, NOW))
    assert taken.rows == oracle.rows == made.rows
    assert taken.quarantined == oracle.bad
    assert (done.added, done.replaced, done.duplicates) == oracle.counts
    assert taken.rows * 6 == done.added + done.replaced + done.duplicates + taken.quarantined * 6
    assert done.late == oracle.late > 0
    assert _table(tmp_path / "lake") == oracle.table


def test_one_meters_readings_are_the_tables_rows_of_it(tmp_path: Path) -> None:
    end = START + timedelta(hours=32)
    plan = ReadingsPlan(devices=5, interval_minutes=15, start=START, end=end)
    simulate_readings(plan, tmp_path / "inbox")
    store, engine = open_store(str(tmp_path / "lake")), LocalEngine(2)
    conf = load_settings(late_hooks=())
    intake.ingest(Session(store, engine, conf, NOW), [str(tmp_path / "inbox")])
    derivations.integrate(Session(store, engine, conf, NOW))
    everything = query(store, "select * from readings where reading_type = 'vltg'")
    meter = everything["meter_id"][0]
    start, end = START + timedelta(hours=5), START + timedelta(hours=30, minutes=30)
    found = Reader(store).readings(meter, reading_types="vltg", start=start, end=end)
    wanted = everything.filter(
        pl.col("meter_id") == meter,
        pl.col("reading_date_time").is_between(start, end, closed="left"),
    ).sort("reading_date_time")
    assert found["reading_value"].to_list() == wanted["reading_value"].to_list()
    assert found.height == 25 * 4 + 2
