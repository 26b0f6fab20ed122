"""All or nothing: a process killed at any moment leaves the lake before or after its job."""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support import work
from support.grids import after_works, read_grid, write_grid

from meterlake.delta.commit import snapshots
from meterlake.delta.store import Store, open_store
from meterlake.engine.local import LocalEngine
from meterlake.pipeline import upkeep
from meterlake.pipeline.derivation import Session
from meterlake.questions.sql import query
from meterlake.schema import TABLES, TOPOLOGY
from meterlake.simulate.grid import meters_of, simulate_grid
from meterlake.simulate.readings import ReadingsPlan, simulate_readings
from meterlake.simulate.weather import simulate_weather

START = datetime(2024, 1, 1, tzinfo=UTC)
NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
HERE = (47.6, -122.3)
OUTAGES = "SELECT id FROM outages WHERE level <> 'meter' AND date = '2024-01-01'"
IN_SEVERAL_COMMITS = {"cluster", "topology", "weather", "grid", "forecast"}


@dataclass(frozen=True)
class Step:
    """A job of the history that the test lives through, and what the lake holds after it.

    `view` is of the topology, as readers see it then.
    """

    job: str
    args: tuple[object, ...]
    seconds: float
    after: dict[str, str]
    view: str


def the_moment_after_all_retentions() -> datetime:
    return datetime.now(UTC) + timedelta(days=1)


def grids(folder: Path) -> list[Path]:
    """A grid, m0 to m2 on a transformer of their own, and the same after works."""
    simulate_grid(12, HERE, folder / "first")
    grid = read_grid(folder / "first")
    pole, meter = grid["service_transformer"][0], grid["smart_meter"][0]
    grid["service_transformer"].append({**pole, "id": "corner"})
    corner = {"serviceTransformerId": "corner"}
    grid["smart_meter"] += [{**meter, **corner, "id": f"m{m}"} for m in range(3)]
    both = {"first": grid, "second": after_works(grid)}
    return [write_grid(folder / name, nodes) for name, nodes in both.items()]


def inbox(folder: Path, grid: Path) -> list[str]:
    """Late, doubled and damaged deliveries, and one that corrects an earlier one.

    m0 to m2 are silent together in some hours, until late reads of some of them come.
    """
    plan = ReadingsPlan(
        devices=12, interval_minutes=60, start=START, end=START + timedelta(days=2),
        late_percent=25, late_minutes=1440, bad_percent=3, seed=7,
        meters=meters_of(grid, most=12),
    )  # fmt: skip
    files = [file.path for file in simulate_readings(plan, folder).files]
    rows = [
        f"2024-01-01 {h:02d}:00:00,2024-01-09 {h:02d}:00:00,m{m},readings,,,,,{h}.{m},"
        for h in range(24)
        for m in range(3)
    ]
    header = "time,arrival_time,device_id,measure_name,load,crrnt,pf,kva,kw,vltg"
    silent = slice(30, 42)
    deliveries = (
        [*rows[: silent.start], *rows[silent.stop :]],
        [*rows[:30], "damaged"],
        [*rows[::2], *rows[::3]],
    )
    for number, values in enumerate(deliveries):
        path = folder / f"corrections_{number}.csv"
        path.write_text("\n".join([header, *(v.replace("0.", f"{number}.") for v in values), ""]))
        files.append(path)
    return [str(path) for path in files]


def history(
    files: Sequence[str], grids: Sequence[Path], weather: Path, lake: str
) -> list[tuple[str, tuple[object, ...]]]:
    """Every job, in an order in which each has something to do."""
    steps: list[tuple[str, tuple[object, ...]]] = []
    for number, file in enumerate(files):
        later = NOW + timedelta(days=1, hours=number)
        steps.append(("ingest", (lake, [file], NOW + timedelta(hours=number))))
        if number % 2:
            steps.append(("integrate", (lake, later)))
        if number == 1:
            steps.append(("topology", (lake, str(grids[0]), START, later)))
            steps.append(("weather", (lake, str(weather), START, later)))
        if number == 3:
            steps.append(("cluster", (lake, later)))
            steps.append(("grid", (lake, later)))
            steps.append(("topology", (lake, str(grids[1]), START + timedelta(days=1), later)))
        if number == 5:
            steps.append(("grid", (lake, later)))
    steps.append(("ingest", (lake, list(files), NOW + timedelta(days=3))))
    steps.append(("integrate", (lake, NOW + timedelta(days=4))))
    steps.append(("cluster", (lake, NOW + timedelta(days=4))))
    steps.append(("vacuum", (lake, the_moment_after_all_retentions())))
    return steps


@pytest.fixture(scope="session")
def clean_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Step]]:
    """The history lived through once without a kill; its steps for another lake."""
    folder = tmp_path_factory.mktemp("clean")
    lake = str(folder / "lake")
    both = grids(folder / "grids")
    files = inbox(folder / "inbox", both[0])
    simulate_weather(HERE, START, START + timedelta(days=2), folder / "weather")
    context = work.processes()
    work.start(context, "integrate", str(folder / "warm up"), NOW).join()
    lived: list[Step] = []
    outages, view = [], work.NOTHING
    for job, args in history(files, both, folder / "weather", lake):
        began = time.perf_counter()
        child = work.start(context, job, *args)
        child.join()
        seconds = time.perf_counter() - began
        assert child.exitcode == 0
        store = open_store(lake)
        view = work.view(store) if job == "topology" else view
        lived.append(Step(job, args[1:], seconds, work.contents(store), view))
        if job == "grid":
            outages.append(query(store, OUTAGES).rows())
    assert outages == [[("corner",)], []], "no outage was withdrawn"

    def steps(another: str) -> list[Step]:
        return [replace(step, args=(another, *step.args)) for step in lived]

    return steps


def live_through(
    steps: Sequence[Step],
    store: Store,
    chance: random.Random,
    environment: dict[str, str],
    of_a_step: int,
) -> int:
    """Every step, killed at random moments again and again until it is done; number of kills."""
    context = work.processes()
    kills = 0
    before, view = work.contents(store), work.NOTHING
    for step in steps:
        for attempt in range(of_a_step + 1):
            child = work.start(context, step.job, *step.args, environment=environment)
            if attempt < of_a_step:
                child.join(chance.uniform(0, 1.1 * step.seconds))
                child.kill()
            child.join()
            now = work.contents(store)
            if child.exitcode == 0:
                break
            assert child.exitcode == -9
            kills += 1
            if step.job in IN_SEVERAL_COMMITS:
                for table, rows in now.items():
                    assert rows in (before[table], step.after[table]), f"{table} is half done"
                if step.job == "topology":
                    held = now[TOPOLOGY.name], work.view(store)
                    whole = (before[TOPOLOGY.name], view), (step.after[TOPOLOGY.name], step.view)
                    assert held in whole, "half a snapshot holds"
            else:
                assert now in (before, step.after), f"{step.job} was left half done"
        assert now == step.after, f"{step.job} run again is not what one clean run is"
        before, view = step.after, step.view
    return kills


def nothing_is_wrong_nor_left(store: Store) -> None:
    """After a last vacuum: every file is a live one, every commit there, all rows right."""
    assert upkeep.check(Session(store, LocalEngine(2), work.CONF, NOW)).findings == ()
    work.vacuum(store.url, the_moment_after_all_retentions())
    states = snapshots(store, TABLES.values())
    live = {f"{s.table.path}/{f.path}" for s in states.values() for f in s.files}
    there = {f.path for t in TABLES.values() for f in store.list(t.path)}
    assert {path for path in there if path.endswith(".parquet")} == live
    assert list(store.leftovers()) == []


def kill_until(
    kills: int,
    steps_of: Callable[[str], list[Step]],
    new_lake: Callable[[int], str],
    environment: dict[str, str],
    of_a_step: int = 3,
) -> int:
    """Lives, each of whose steps is killed so many times at most, until so many were survived."""
    done = lives = 0
    while done < kills:
        lives += 1
        lake = new_lake(lives)
        chance = random.Random(lives)
        done += live_through(steps_of(lake), open_store(lake), chance, environment, of_a_step)
        nothing_is_wrong_nor_left(open_store(lake))
    return done


@pytest.mark.parametrize(
    ("kills", "of_a_step"),
    [
        (6, 1),
        pytest.param(30, 3, marks=pytest.mark.proof),
        pytest.param(2000, 3, marks=pytest.mark.soak),
    ],
    ids=["6", "30", "2000"],
)
def test_a_process_killed_at_any_moment_leaves_the_lake_before_or_after_its_job(
    kills: int,
    of_a_step: int,
    clean_run: Callable[[str], list[Step]],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    survived = kill_until(kills, clean_run, lambda n: str(tmp_path / f"lake {n}"), {}, of_a_step)
    record_property("kills survived", survived)
