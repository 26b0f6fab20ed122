"""All or nothing: whichever single write, read, commit or request fails, the lake is whole."""

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from deltalake.exceptions import DeltaError
from support import work
from support.fault_proxy import Fault, FaultProxy, from_nth, nth, share
from support.grids import START, Life, life_of_a_grid

from meterlake import storage
from meterlake.delta import commit as commits
from meterlake.delta.store import Store, open_store
from meterlake.engine.local import LocalEngine
from meterlake.errors import Unavailable
from meterlake.grid.derivations import GRID
from meterlake.ingest import intake
from meterlake.pipeline import upkeep
from meterlake.pipeline.derivation import Session

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
Deliver = Callable[..., Path]
Record = Callable[[str, object], None]


def row(time: str, arrival: str, meter: str, kw: float) -> str:
    return f"2024-01-{time}:00,2024-01-{arrival}:00,{meter},readings,,,,,{kw},"


@pytest.fixture
def files(deliver: Deliver) -> list[str]:
    first = [row("01 00:00", "01 00:05", "m1", 1), row("01 01:00", "02 00:00", "m1", 2), "damaged"]
    then = [row("01 00:00", "01 00:09", "m1", 3), row("01 00:00", "01 00:09", "m1", 3), "bad", ""]
    return [str(deliver("a.csv.gz", *first)), str(deliver("b.csv", *then))]


def take(lake: str, file: str) -> None:
    done = intake.ingest(Session(open_store(lake), LocalEngine(1), work.CONF, NOW), [file])
    if done.failures:
        raise Unavailable(done.failures[0].reason)


def the_jobs(lake: str, files: list[str]) -> Iterator[Callable[[], None]]:
    """A life of a lake, job by job."""
    for file in files:
        yield lambda file=file: take(lake, file)  # type: ignore[misc]
        yield lambda: work.integrate(lake, NOW)


@pytest.fixture
def states(tmp_path: Path, files: list[str]) -> list[dict[str, str]]:
    """What the lake holds before the first job and after each."""
    lake = str(tmp_path / "clean")
    held = [work.contents(open_store(lake))]
    for job in the_jobs(lake, files):
        job()
        held.append(work.contents(open_store(lake)))
    return held


class OneFails:
    """Counts the lake's operations and fails one of them, before or after it took effect."""

    def __init__(self, number: int, *, afterwards: bool) -> None:
        self.number, self.afterwards, self.seen, self.failed = number, afterwards, 0, False

    def around(self, real: Callable[..., Any], error: Exception) -> Callable[..., Any]:
        def operation(*args: Any, **options: Any) -> Any:
            self.seen += 1
            mine = self.seen == self.number
            self.failed |= mine
            if mine and not self.afterwards:
                raise error
            result = real(*args, **options)
            if mine:
                raise error
            return result

        return operation


OPERATIONS = ("put", "read", "delete", "list")


@contextmanager
def failing(fault: OneFails, operations: tuple[str, ...] = OPERATIONS) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in operations:
            refused = Unavailable(f"the store refuses to {name}")
            patch.setattr(Store, name, fault.around(getattr(Store, name), refused))
        for name in ("_write", "_create"):
            error = DeltaError(f"the log refuses to {name}")
            patch.setattr(commits, name, fault.around(getattr(commits, name), error))
        patch.setattr(commits, "_create", turned(commits._create))
        yield


def turned(create: Callable[..., Any]) -> Callable[..., Any]:
    """What `_create` itself would make of an error of the log."""

    def operation(*args: Any) -> Any:
        try:
            return create(*args)
        except DeltaError as error:
            raise Unavailable(str(error)) from error

    return operation


EVERY = pytest.mark.parametrize(
    "every", [7, pytest.param(1, marks=pytest.mark.soak)], ids=["seventh", "one"]
)


@EVERY
@pytest.mark.parametrize("afterwards", [False, True], ids=["refused", "done but not told"])
def test_each_single_write_and_commit_that_fails_leaves_the_lake_before_or_after(
    tmp_path: Path,
    files: list[str],
    states: list[dict[str, str]],
    afterwards: bool,
    every: int,
    record_property: Record,
) -> None:
    base = tmp_path / "base"  # the lake before a job
    base.mkdir()
    injected = 0
    for number in range(len(states) - 1):
        for operation in itertools.count(1 + number % every, every):
            fault = OneFails(operation, afterwards=afterwards)
            lake = tmp_path / f"lake {number} {operation}"
            shutil.copytree(base, lake, copy_function=os.link)
            store = open_store(str(lake))
            job, *following = list(the_jobs(str(lake), files))[number : number + 2]
            try:
                with failing(fault):
                    job()
            except Unavailable:
                assert work.contents(store) in states[number : number + 2]
                job()
            assert work.contents(store) == states[number + 1]
            if not fault.failed:
                break
            injected += 1
            for another in following:
                another()
                assert work.contents(store) == states[number + 2]
            assert upkeep.check(Session(store, LocalEngine(1), work.CONF, NOW)).findings == ()
            shutil.rmtree(lake)
        list(the_jobs(str(base), files))[number]()
    assert injected * every > 25
    record_property("faults injected", injected)


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Life:
    return life_of_a_grid(tmp_path_factory.mktemp("life"))


def the_jobs_of_a_grid(lake: str, life: Life) -> Iterator[tuple[str, Callable[[], None]]]:
    """The jobs of a lake with a grid, each twice and by name."""
    for number in range(2):
        later = NOW + timedelta(days=number)
        at = START + timedelta(days=number)
        delivery, grid = life.deliveries[number], life.grids[number]
        weather = life.weather[number]
        yield "ingest", partial(work.ingest, lake, [delivery], later)
        yield "integrate", partial(work.integrate, lake, later)
        yield "cluster", partial(work.cluster, lake, later)
        yield "topology", partial(work.topology, lake, grid, at, later)
        yield "weather", partial(work.weather, lake, weather, START, later)
        yield "grid", partial(work.grid, lake, later)


CHANGED_BY = {
    "cluster": {
        "serving_readings", "consumption_daily", "consumption_weekly", "consumption_monthly",
    },
    "topology": {"topology", "dataflow_runs"},
    "weather": {"weather", "dataflow_runs"},
    "grid": {derivation.name for derivation in GRID.values()},
}  # fmt: skip


WRITES = ("put", "delete")  # and commits: a grid's update reads a lot


@EVERY
@pytest.mark.parametrize(
    ("job", "operations", "afterwards"),
    [
        *(
            pytest.param(job, OPERATIONS, False, id=f"{job}, refused", marks=pytest.mark.proof)
            for job in ("cluster", "topology")
        ),
        pytest.param("weather", OPERATIONS, False, id="weather, refused"),
        pytest.param(
            "weather", OPERATIONS, True, id="weather, done but not told", marks=pytest.mark.proof
        ),
        *(
            pytest.param(job, OPERATIONS, True, id=f"{job}, done", marks=pytest.mark.soak)
            for job in ("cluster", "topology")
        ),
        pytest.param("grid", WRITES, False, id="grid, refused", marks=pytest.mark.proof),
        pytest.param("grid", OPERATIONS, False, id="grid, all refused", marks=pytest.mark.soak),
        pytest.param("grid", OPERATIONS, True, id="grid, all done", marks=pytest.mark.soak),
    ],
)
def test_each_single_failure_of_a_job_of_several_commits_leaves_each_table_before_or_after(
    tmp_path: Path,
    life: Life,
    job: str,
    operations: tuple[str, ...],
    afterwards: bool,
    every: int,
    record_property: Record,
) -> None:
    base, clean = tmp_path / "base", tmp_path / "clean"
    jobs = list(the_jobs_of_a_grid(str(base), life))
    last = max(number for number, (name, _) in enumerate(jobs) if name == job)
    for _, do in jobs[:last]:
        do()
    before, old_view = work.contents(open_store(str(base))), work.view(open_store(str(base)))

    def run(lake: str) -> None:
        list(the_jobs_of_a_grid(lake, life))[last][1]()

    shutil.copytree(base, clean, copy_function=os.link)
    run(str(clean))
    after, new_view = work.contents(open_store(str(clean))), work.view(open_store(str(clean)))
    assert {t for t in after if after[t] != before[t]} == CHANGED_BY[job]
    injected = 0
    for number in itertools.count(1, every):
        fault = OneFails(number, afterwards=afterwards)
        lake = str(tmp_path / f"lake {number}")
        shutil.copytree(base, lake, copy_function=os.link)
        try:
            with failing(fault, operations):
                run(lake)
        except Unavailable:
            left = work.contents(open_store(lake))
            for table, rows in left.items():
                assert rows in (before[table], after[table]), table
            if job == "topology":
                assert (left["topology"], work.view(open_store(lake))) in (
                    (before["topology"], old_view),
                    (after["topology"], new_view),
                ), "half a snapshot holds"
            run(lake)
        assert work.contents(open_store(lake)) == after
        if not fault.failed:
            break
        injected += 1
    assert injected * every > len(CHANGED_BY[job])
    record_property("faults injected", injected)


@pytest.mark.parametrize("step", [211, pytest.param(1, marks=pytest.mark.soak)])
@pytest.mark.parametrize("fault", [Fault.DROP_BEFORE, Fault.DROP_AFTER, Fault.ERROR_503, Fault.CUT])
def test_each_single_request_to_s3_that_fails_is_asked_again(
    s3_lake: str,
    files: list[str],
    states: list[dict[str, str]],
    fault: Fault,
    step: int,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Record,
) -> None:
    injected = 0
    with FaultProxy(os.environ["AWS_ENDPOINT_URL"]) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        for number in range(1, 10_000, step):
            proxy.reset(nth(number, fault))
            lake = f"{s3_lake}/{number}"
            for job in the_jobs(lake, files):
                job()
            injected += sum(proxy.injected.values())
            over = proxy.seen < number
            proxy.reset()
            assert work.contents(open_store(lake)) == states[-1]
            if over:
                break
    assert injected >= 1
    record_property("requests that failed", injected)


@pytest.mark.parametrize("seed", [pytest.param(n, marks=pytest.mark.soak) for n in range(1, 9)])
def test_a_lake_with_a_grid_on_an_s3_that_fails_is_what_it_is_on_one_that_does_not(
    s3_lake: str,
    life: Life,
    tmp_path: Path,
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Record,
) -> None:
    clean, injected = str(tmp_path / "clean"), 0
    policy = share(4, seed=seed, faults=list(Fault), at_most=2)
    with FaultProxy(os.environ["AWS_ENDPOINT_URL"], delay=0.1) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        alike = the_jobs_of_a_grid(clean, life)
        for (_, there), (name, here) in zip(the_jobs_of_a_grid(s3_lake, life), alike, strict=True):
            if name == "cluster":
                continue
            if name in CHANGED_BY:
                proxy.reset(policy)
            there()
            injected += sum(proxy.injected.values())
            proxy.reset()
            here()
        assert work.contents(open_store(s3_lake)) == work.contents(open_store(clean))
        assert work.runs(open_store(s3_lake)) == work.runs(open_store(clean))
    assert injected > 10
    record_property("requests that failed", injected)


def test_an_s3_server_that_goes_away_leaves_the_lake_before_or_after(
    s3_lake: str,
    files: list[str],
    states: list[dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    record_property: Record,
) -> None:
    monkeypatch.setattr(storage, "PATIENCE", storage.Patience(retries=1, retry_seconds=2))
    monkeypatch.setattr(storage, "pause", lambda attempt: None)
    gone = 0
    with FaultProxy(os.environ["AWS_ENDPOINT_URL"]) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        for number in range(3, 200, 67):
            proxy.reset()
            lake = f"{s3_lake}/{number}"
            proxy.reset(from_nth(number))
            for at, job in enumerate(the_jobs(lake, files)):
                try:
                    job()
                except Unavailable as error:
                    assert "testsecret" not in str(error)
                    gone += 1
                    proxy.reset()
                    assert work.contents(open_store(lake)) in states[at : at + 2]
                    job()
            proxy.reset()
            assert work.contents(open_store(lake)) == states[-1]
    assert gone >= 2
    record_property("servers that went away", gone)


def test_a_vacuum_that_fails_at_any_file_removes_nothing_that_is_needed(
    tmp_path: Path, files: list[str], states: list[dict[str, str]]
) -> None:
    failures = 0
    base = str(tmp_path / "base")
    for job in the_jobs(base, files):
        job()
    for number in range(1, 40):
        lake = str(tmp_path / f"lake {number}")
        shutil.copytree(base, lake, copy_function=os.link)
        fault = OneFails(number, afterwards=bool(number % 2))
        with failing(fault):
            try:
                work.vacuum(lake, datetime(2099, 1, 1, tzinfo=UTC))
            except Unavailable:
                failures += 1
        assert work.contents(open_store(lake)) == states[-1]
        if not fault.failed:
            break
    assert failures >= 5
