"""The files: complete, in their windows, the same every time."""

import csv
import gzip
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meterlake.errors import BadInput
from meterlake.simulate import readings
from meterlake.simulate.readings import (
    ReadingsPlan,
    Simulated,
    SimulatedFile,
    device_id,
    simulate_readings,
)

START = datetime(2024, 1, 31, tzinfo=UTC)
HEADER = "time,arrival_time,device_id,measure_name,load,crrnt,pf,kva,kw,vltg"
STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{7}"
LINE = re.compile(rf"{STAMP},{STAMP},[0-9a-f-]{{36}},readings(,-?\d+\.\d{{3}}){{6}}")


def plan(**changes: Any) -> ReadingsPlan:
    small: dict[str, Any] = {
        "devices": 70,
        "interval_minutes": 30,
        "start": START,
        "end": START + timedelta(2),
    }
    return ReadingsPlan(**(small | changes))


def lines(path: Path) -> list[str]:
    with gzip.open(path, "rt", encoding="ascii", newline="") as text:
        header, *rest = text.read().split("\n")
    assert header == HEADER
    assert rest.pop() == ""
    return rest


def rows(done: Simulated) -> list[dict[str, str]]:
    return [row for file in done.files for row in csv.DictReader([HEADER, *lines(file.path)])]


def instant(text: str) -> datetime:
    return datetime.strptime(text[:26], "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=UTC)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def window_of(file: SimulatedFile) -> datetime:
    stamp = file.path.name.removeprefix("readings_").removesuffix(".csv.gz")
    return datetime.strptime(stamp, "%Y%m%dT%H%M%S%z")


def test_devices_are_named_as_in_the_shipped_topology() -> None:
    assert device_id(0) == "0fb26833-a9c2-3115-ad21-a082e21213f3"
    assert device_id(1) == "503d4c60-3ff0-3d2b-9ea0-6fb5b0078031"


def test_every_line_has_the_form_of_table_1(tmp_path: Path) -> None:
    done = simulate_readings(plan(late_percent=10), tmp_path)
    assert all(LINE.fullmatch(line) for file in done.files for line in lines(file.path))
    assert {row["time"][19:] for row in rows(done)} == {".0000000"}


def test_every_meter_has_one_row_for_every_step(tmp_path: Path) -> None:
    done = simulate_readings(plan(late_percent=20, late_minutes=100), tmp_path)
    wanted = {
        (f"{START + timedelta(minutes=30 * step):%Y-%m-%d %H:%M:%S}.0000000", device_id(index))
        for step in range(96)
        for index in range(70)
    }
    found = Counter((row["time"], row["device_id"]) for row in rows(done))
    assert set(found) == wanted
    assert set(found.values()) == {1}


def test_the_counts_are_those_of_the_files(tmp_path: Path) -> None:
    seen: list[SimulatedFile] = []
    done = simulate_readings(plan(late_percent=20), tmp_path, on_file=seen.append)
    assert seen == done.files
    assert [file.rows for file in done.files] == [len(lines(file.path)) for file in done.files]
    assert [file.bytes for file in done.files] == [f.path.stat().st_size for f in done.files]
    assert done.rows == 70 * 96
    assert done.readings == 6 * done.rows
    assert (done.bad_rows, done.injected) == (0, 0)
    assert set(tmp_path.iterdir()) == {file.path for file in done.files}


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    unruly = plan(late_percent=20, bad_percent=2)
    for run in ("one", "two"):
        simulate_readings(unruly, tmp_path / run, truth=tmp_path / f"{run}.csv")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()


def test_another_seed_gives_other_bytes(tmp_path: Path) -> None:
    simulate_readings(plan(seed=1), tmp_path / "one")
    simulate_readings(plan(seed=2), tmp_path / "two")
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert one.keys() == two.keys()
    assert all(one[name] != two[name] for name in one)


def test_the_size_of_the_chunks_changes_no_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Larger than a piece of the compressor, so that it is handed several.
    unruly = plan(
        devices=200, end=START + timedelta(days=1), late_percent=20, late_minutes=100, bad_percent=2
    )
    for chunk_rows in (1, 1000, 200_000):
        monkeypatch.setattr(readings, "CHUNK_ROWS", chunk_rows)
        simulate_readings(unruly, tmp_path / f"{chunk_rows}", truth=tmp_path / "truth.csv")
    assert contents(tmp_path / "1") == contents(tmp_path / "200000")
    assert contents(tmp_path / "1000") == contents(tmp_path / "200000")


def test_a_period_is_the_sum_of_its_parts(tmp_path: Path) -> None:
    middle = START + timedelta(days=1)
    whole = simulate_readings(plan(), tmp_path / "whole")
    before = simulate_readings(plan(end=middle), tmp_path / "before")
    after = simulate_readings(plan(start=middle), tmp_path / "after")
    assert rows(before) + rows(after) == rows(whole)


def test_a_row_lies_in_the_file_of_its_arrival(tmp_path: Path) -> None:
    every = timedelta(hours=6)
    done = simulate_readings(plan(late_percent=20, late_minutes=400, file_every=every), tmp_path)
    for file in done.files:
        start = window_of(file)
        assert (start - START) % every == timedelta(0)
        for row in csv.DictReader([HEADER, *lines(file.path)]):
            assert start <= instant(row["arrival_time"]) < start + every


def test_rows_lie_by_step_of_arrival(tmp_path: Path) -> None:
    done = simulate_readings(plan(late_percent=20, late_minutes=100), tmp_path)
    step = timedelta(minutes=30)
    steps = [(instant(row["arrival_time"]) - START) // step for row in rows(done)]
    assert steps == sorted(steps)


@pytest.mark.parametrize("interval_minutes", [1, 15, 1440])
def test_a_punctual_reading_arrives_before_the_next_is_taken(
    tmp_path: Path, interval_minutes: int
) -> None:
    end = START + timedelta(days=1)
    few = plan(devices=9, interval_minutes=interval_minutes, end=end)
    done = simulate_readings(few, tmp_path)
    assert len(done.files) == 1
    most = min(timedelta(minutes=4), timedelta(minutes=interval_minutes))
    for row in rows(done):
        delay = instant(row["arrival_time"]) - instant(row["time"])
        assert timedelta(seconds=2) <= delay < most


@pytest.mark.parametrize("late_minutes", [0, 45, 1440])
def test_late_meters_are_late_with_every_reading(tmp_path: Path, late_minutes: int) -> None:
    done = simulate_readings(plan(late_percent=10, late_minutes=late_minutes), tmp_path)
    late = timedelta(minutes=late_minutes)
    delays: dict[str, list[timedelta]] = {}
    for row in rows(done):
        delay = instant(row["arrival_time"]) - instant(row["time"])
        delays.setdefault(row["device_id"], []).append(delay)
    short, long = timedelta(seconds=2), timedelta(minutes=4)
    on_time = [all(short <= one <= long for one in each) for each in delays.values()]
    delayed = [all(late + short <= one <= late + long for one in each) for each in delays.values()]
    assert sum(delayed) == (7 if late_minutes else 70)
    assert sum(on_time) == (63 if late_minutes else 70)
    assert done.late_rows == 7 * 96


def test_files_go_on_until_the_last_late_row_and_skip_empty_windows(tmp_path: Path) -> None:
    late = plan(end=START + timedelta(days=1), late_percent=10, late_minutes=3 * 1440)
    done = simulate_readings(late, tmp_path)
    assert [window_of(file) for file in done.files] == [START, START + timedelta(days=3)]
    assert [file.rows for file in done.files] == [63 * 48, 7 * 48]


@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    devices=st.integers(1, 130),
    interval_minutes=st.sampled_from([15, 60, 720]),
    steps=st.integers(1, 9),
    file_steps=st.integers(1, 12),
    late_percent=st.sampled_from([0.0, 30.0, 100.0]),
    late_minutes=st.integers(0, 3000),
)
def test_rows_are_devices_times_steps_whatever_the_plan(
    tmp_path_factory: pytest.TempPathFactory,
    devices: int,
    interval_minutes: int,
    steps: int,
    file_steps: int,
    late_percent: float,
    late_minutes: int,
) -> None:
    any_plan = plan(
        devices=devices,
        interval_minutes=interval_minutes,
        end=START + steps * timedelta(minutes=interval_minutes),
        file_every=file_steps * timedelta(minutes=interval_minutes),
        late_percent=late_percent,
        late_minutes=late_minutes,
    )
    done = simulate_readings(any_plan, tmp_path_factory.mktemp("any"))
    assert done.rows == devices * steps
    assert len({(row["time"], row["device_id"]) for row in rows(done)}) == devices * steps


def test_nothing_is_left_of_a_file_that_could_not_be_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(line: str, dice: int) -> str:
        raise ZeroDivisionError

    monkeypatch.setattr(readings, "damage", fail)
    with pytest.raises(ZeroDivisionError):
        simulate_readings(plan(bad_percent=50), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("taken")
    with pytest.raises(BadInput, match="needs a folder"):
        simulate_readings(plan(), tmp_path / "out")
