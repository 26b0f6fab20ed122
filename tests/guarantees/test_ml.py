"""Models, forecasts and judged days: once and all or nothing, whatever is killed, fails or hurries.

What holds for every table of theirs holds for the files of models too: those of each row of the
table of models are there, byte for byte.
"""

import itertools
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from guarantees.test_concurrency import aws_variables
from guarantees.test_faults import OPERATIONS, OneFails, failing
from guarantees.test_kill import Step, live_through
from support import ml, work
from support.fault_proxy import Fault, FaultProxy, share
from support.grids import small_grid, write_grid
from support.ml import DAY, NOW, START

from meterlake.delta import commit as commits
from meterlake.delta import upsert
from meterlake.delta.store import Store, open_store
from meterlake.engine.local import LocalEngine
from meterlake.errors import Unavailable
from meterlake.forecast import learning, models
from meterlake.pipeline import runner, upkeep
from meterlake.pipeline.derivation import Session
from meterlake.questions.sql import query
from meterlake.schema import ANOMALIES, FORECASTS, MODELS, NODE_FORECASTS

Record = Callable[[str, object], None]
Change = tuple[str, tuple[object, ...]]
"""A job of support.work, and its arguments after the lake."""

DAYS = 70
END = START + DAYS * DAY
LATER = NOW + DAY
OURS = {t.name for t in (MODELS, FORECASTS, NODE_FORECASTS, ANOMALIES)}
ROWS, OTHER_ROWS = 1000, 2000  # what models learn from: another number makes another model
CHANGED_BY = {
    "train": ["models"],
    "forecast": ["forecasts", "node_forecasts"],
    "detect": ["anomalies"],
}
JOBS: dict[str, Change] = {
    "train": ("train", (LATER, ROWS)),
    "forecast": ("forecast", (LATER, END)),
    "detect": ("detect", (LATER,)),
}
FIRST_JOBS: list[Change] = [
    ("train", (NOW, ROWS)), ("forecast", (NOW, END)), ("detect", (NOW,))
]  # fmt: skip
CAME_LATE: Change = ("grow", (LATER, DAYS + 7, DAYS - 3, 2))  # corrections, and a week more


def do(lake: str, change: Change) -> None:
    job, args = change
    getattr(work, job)(lake, *args)


def copied(lake: Path, store: Store) -> Store:
    """The same lake elsewhere, on an object store too."""
    if store.is_local:
        return ml.copied(lake, Path(store.url))
    for path in lake.rglob("*"):
        if path.is_file():
            store.put(str(path.relative_to(lake)), path)
    return store


def held_of(store: Store) -> dict[str, str]:
    """A hash of the rows of each of our tables."""
    return work.contents(store, OURS)


def nothing_is_wrong(store: Store) -> None:
    """Of our tables and of all models; what they are made of has no staging here."""
    done = upkeep.check(Session(store, LocalEngine(1), work.CONF, NOW))
    assert [f for f in done.findings if f.table in OURS] == []


def whole_models(store: Store) -> list[str]:
    """The names of models, each of which can be loaded."""
    names: list[str] = models.listed(store)["name"].sort().to_list()
    assert all(models.load(store, name).name == name for name in names)
    return names


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with readings and a grid."""
    folder = tmp_path_factory.mktemp("untrained")
    lake = folder / "lake"
    work.grow(str(lake), NOW, DAYS, 0, 1)
    below = {name: f"t{1 + n % 2}" for n, name in enumerate(ml.names(ml.METERS)[2:])}
    work.topology(str(lake), str(write_grid(folder / "grid", small_grid(**below))), START, NOW)
    return lake


@pytest.fixture(scope="module")
def base(untrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with a model, forecasts and judged days, to which readings have come since."""
    lake = tmp_path_factory.mktemp("base") / "lake"
    ml.copied(untrained, lake)
    for change in (*FIRST_JOBS, CAME_LATE):
        do(str(lake), change)
    return lake


@pytest.fixture(scope="module")
def first(base: Path) -> str:
    """The name of its model."""
    return models.load(open_store(str(base))).name


@pytest.fixture(scope="module")
def after(
    base: Path, first: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, str]]:
    """What `base` holds after each job alone; the others are as they were."""
    held = {"": held_of(open_store(str(base)))}
    for name, change in JOBS.items():
        store = ml.copied(base, tmp_path_factory.mktemp("after") / "lake")
        do(store.url, change)
        held[name] = held_of(store)
        assert {t for t in held[""] if held[name][t] != held[""][t]} == set(CHANGED_BY[name])
        nothing_is_wrong(store)
    return held


@pytest.fixture(scope="module", autouse=True)
def _learnt_once() -> Iterator[None]:
    """Trainings of this process that learn the same learn it once, which is what takes long."""
    learn, trained = learning.learn, learning.trained
    parts: dict[Any, Any] = {}
    results: dict[Any, Any] = {}

    def learn_once(*args: Any) -> Callable[[Any], Any]:
        def work(unit: Any) -> Any:
            key = unit.hours, unit.share, unit.seed
            if key not in parts:
                parts[key] = learn(*args)(unit)
            return parts[key]

        return work

    def train_once(learnt: Sequence[Any], unit: Any, *args: Any) -> Any:
        key = unit.hours, unit.share
        if key not in results:
            results[key] = trained(learnt, unit, *args)
        return results[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("meterlake.forecast.training.learn", learn_once)
        patch.setattr("meterlake.forecast.training.trained", train_once)
        yield


# --- what fails


@pytest.mark.parametrize(
    ("job", "every", "afterwards"),
    [
        pytest.param("train", 12, False, id="train, refused"),
        *(
            pytest.param(job, 12, False, id=f"{job}, refused", marks=pytest.mark.proof)
            for job in ("forecast", "detect")
        ),
        pytest.param("train", 16, True, id="train, done but not told", marks=pytest.mark.proof),
        *(
            pytest.param(job, 1, after, id=f"{job}, each, {after}", marks=pytest.mark.soak)
            for job in JOBS
            for after in (False, True)
        ),
    ],
)
def test_each_single_failure_leaves_each_table_before_or_after_and_every_model_whole(
    tmp_path: Path,
    base: Path,
    after: dict[str, dict[str, str]],
    job: str,
    every: int,
    afterwards: bool,
    record_property: Record,
) -> None:
    injected = 0
    for number in itertools.count(1 + len(job) % every, every):
        fault = OneFails(number, afterwards=afterwards)
        store = ml.copied(base, tmp_path / f"lake {number}")
        try:
            with failing(fault, (*OPERATIONS, "has")):
                do(store.url, JOBS[job])
        except Unavailable:
            for table, rows in held_of(store).items():
                assert rows in (after[""][table], after[job][table]), table
            whole_models(store)
            do(store.url, JOBS[job])
        assert held_of(store) == after[job]
        whole_models(store)
        if not fault.failed:
            break
        injected += 1
        shutil.rmtree(store.url)
    assert injected * every > 10
    record_property("faults injected", injected)


def test_a_batch_that_failed_between_its_commits_is_done_by_the_next_one(
    base: Path, after: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    store, real = ml.copied(base, tmp_path / "lake"), commits.commit

    def refused(*args: Any, **options: Any) -> Any:
        if args[1] == NODE_FORECASTS:
            raise Unavailable("the log refuses")
        return real(*args, **options)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Unavailable):
        patch.setattr(runner, "commit", refused)
        do(store.url, JOBS["forecast"])
    half = {**after[""], "forecasts": after["forecast"]["forecasts"]}
    assert held_of(store) == half, "sums are ahead of what they are sums of"
    do(store.url, JOBS["forecast"])
    assert held_of(store) == after["forecast"]


def test_on_an_s3_that_fails_the_jobs_make_what_they_make_on_one_that_does_not(
    s3_lake: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    record_property: Record,
) -> None:  # fmt: skip
    clean = ml.copied(base, tmp_path / "clean")
    copied(base, open_store(s3_lake))
    with FaultProxy(os.environ["AWS_ENDPOINT_URL"], delay=0.1) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        proxy.reset(share(4, seed=1, faults=list(Fault), at_most=2))
        for change in JOBS.values():
            do(s3_lake, change)
        injected = sum(proxy.injected.values())
        proxy.reset()
        for change in JOBS.values():
            do(clean.url, change)
        assert held_of(open_store(s3_lake)) == held_of(clean)
        assert whole_models(open_store(s3_lake)) == whole_models(clean)
    assert injected > 10
    record_property("requests that failed", injected)


# --- what is killed


@pytest.mark.proof
def test_a_job_killed_at_any_moment_leaves_the_lake_before_or_after_it(
    untrained: Path, tmp_path: Path, record_property: Record
) -> None:
    """Every job on a lake that has nothing of the kind, and on one to which readings have come."""
    context, chance = work.processes(), random.Random(1)
    clean, lake = (ml.copied(untrained, tmp_path / name) for name in ("clean", "lake"))
    kills = 0
    for changes in (FIRST_JOBS, list(JOBS.values())):
        steps = []
        for job, args in changes:
            began = time.perf_counter()
            child = work.start(context, job, clean.url, *args)
            child.join()
            assert child.exitcode == 0
            seconds = time.perf_counter() - began
            steps.append(Step(job, (lake.url, *args), seconds, work.contents(clean), ""))
        kills += live_through(steps, lake, chance, {}, 1)
        assert whole_models(lake) == whole_models(clean)
        nothing_is_wrong(lake)
        for store in (clean, lake):
            do(store.url, CAME_LATE)
    assert kills
    record_property("kills survived", kills)


def test_a_training_that_is_cut_off_is_no_model_and_is_done_again(
    base: Path, after: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    """By what no code can catch: at a file, at the commit, and after it."""

    class Killed(BaseException):
        pass

    def cut(at: int) -> Callable[..., Any]:
        def put(store: Store, path: str, *args: Any) -> None:
            seen.append(path)
            if len(seen) == at:
                raise Killed
            real(store, path, *args)

        return put

    real, store = Store.put, ml.copied(base, tmp_path / "lake")
    names = whole_models(store)
    for at in (2, 5):
        seen: list[str] = []
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            patch.setattr(Store, "put", cut(at))
            do(store.url, JOBS["train"])
        assert held_of(store) == after[""] and whole_models(store) == names
    left = {f.path for f in store.list("ml/models")}
    do(store.url, JOBS["train"])
    assert held_of(store) == after["train"] and len(whole_models(store)) == 2
    assert left < {f.path for f in store.list("ml/models")}, "the same files are written once more"
    do(store.url, ("train", (LATER + DAY, ROWS)))  # it was done already
    assert held_of(store) == after["train"]


# --- what goes on at once


@pytest.mark.parametrize(
    ("job", "table"), [(job, table) for job, tables in CHANGED_BY.items() for table in tables]
)
def test_a_job_that_the_same_job_overtakes_before_a_commit_changes_nothing_more(
    base: Path, after: dict[str, dict[str, str]], tmp_path: Path, job: str, table: str
) -> None:
    store = ml.copied(base, tmp_path / "lake")
    overtaken(store, job, table, JOBS[job])
    assert held_of(store) == after[job]
    whole_models(store)


def test_what_a_training_overtakes_is_of_the_model_that_it_began_with(
    base: Path, first: str, after: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    store = ml.copied(base, tmp_path / "lake")
    overtaken(store, "forecast", "node_forecasts", JOBS["train"])
    overtaken(store, "detect", "anomalies", ("train", (LATER + DAY, ROWS)), use=first)
    assert held_of(store) == {t: after[j][t] for j, tables in CHANGED_BY.items() for t in tables}
    assert len(whole_models(store)) == 2 and models.load(store).name != first
    do(store.url, JOBS["forecast"])
    made = query(store, "SELECT DISTINCT model_name FROM forecasts ORDER BY ALL")
    assert made["model_name"].to_list() == whole_models(store)


def overtaken(store: Store, job: str, table: str, by: Change, **options: Any) -> None:
    """Do a job, with another change right before its first commit of a table."""
    module: Any = {"train": upsert}.get(job, runner)
    real, was_overtaken = module.commit, False

    def committed(*args: Any, **more: Any) -> Any:
        nonlocal was_overtaken
        if args[1].name == table and not was_overtaken:
            was_overtaken = True
            with pytest.MonkeyPatch.context() as other:
                other.setattr(module, "commit", real)
                do(store.url, by)
        return real(*args, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "commit", committed)
        name, args = JOBS[job]
        getattr(work, name)(store.url, *args, **options)
    assert was_overtaken


@pytest.mark.proof
def test_processes_at_once_make_what_one_after_the_other_make(
    store: Store, base: Path, first: str, tmp_path: Path, record_property: Record
) -> None:
    """Two trainings, and two forecasts and two judgements by the model before."""
    copied(base, store)
    alone = ml.copied(base, tmp_path / "alone")
    pinned: list[Change] = [("forecast", (LATER, END, first)), ("detect", (LATER, first))]
    trainings: list[Change] = [("train", (LATER, rows)) for rows in (ROWS, OTHER_ROWS)]
    for change in (*pinned, *trainings):
        do(alone.url, change)
    context, environment = work.processes(), aws_variables()
    changes = [*trainings, *pinned, *pinned]
    children = [
        work.start(context, job, store.url, *args, environment=environment) for job, args in changes
    ]
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * len(children)
    here, there = work.contents(store), work.contents(alone)
    assert {t for t in here if here[t] != there[t]} <= {"models"}
    assert whole_models(store) == whole_models(alone)
    # Who came first is another, and so is what was compared; but not which is the best.
    rows = models.listed(store).drop("chosen_at", "wql_before")
    assert rows.equals(models.listed(alone).drop("chosen_at", "wql_before"))
    assert models.load(store).name == models.load(alone).name
    nothing_is_wrong(store)
    left = f"{MODELS.path}/cut-off/card.json"
    store.put(left, b"{}")
    work.vacuum(store.url, datetime.now(tz=NOW.tzinfo) + DAY)
    assert not store.has(left)
    nothing_is_wrong(store)
    record_property("concurrent processes", len(children))
