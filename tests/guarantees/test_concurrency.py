"""Once, and readers never wait: many processes on one lake make what one makes alone."""

import os
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support import work
from support.fault_proxy import Fault, FaultProxy, share
from support.grids import START, WORKS, Life, life_of_a_grid

from meterlake.delta import upsert
from meterlake.delta.store import Store, open_store
from meterlake.engine.local import LocalEngine
from meterlake.ingest import intake
from meterlake.pipeline import runner, upkeep
from meterlake.pipeline.derivation import Session
from meterlake.questions.sql import query
from meterlake.simulate.readings import ReadingsPlan, simulate_readings

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
INGESTING, INTEGRATING = 4, 2


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    plan = ReadingsPlan(
        devices=15, interval_minutes=60, start=START, end=START + timedelta(days=1),
        file_every=timedelta(hours=2), late_percent=20, late_minutes=300, bad_percent=2,
    )  # fmt: skip
    made = simulate_readings(plan, tmp_path_factory.mktemp("inbox"))
    assert len(made.files) >= 12
    return [str(file.path) for file in made.files]


@pytest.fixture(scope="module")
def alone(files: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return made_by_one(files, str(tmp_path_factory.mktemp("alone") / "lake"))


def made_by_one(files: list[str], lake: str) -> dict[str, str]:
    """What one process makes of the files."""
    work.ingest(lake, files, NOW)
    work.integrate(lake, NOW)
    work.cluster(lake, NOW)
    return work.contents(open_store(lake))


def together(
    store: Store, files: list[str], environment: dict[str, str], *, meanwhile: str
) -> None:
    """Four processes ingest, each some files that others ingest too; two do that meanwhile."""
    context = work.processes()
    chance = random.Random(3)
    children = []
    for _ in range(INGESTING):
        some = chance.sample(files, len(files) * 3 // 4)
        children.append(
            work.start(context, "ingest", store.url, some, NOW, environment=environment)
        )
    for _ in range(INTEGRATING):
        children.append(work.start(context, meanwhile, store.url, NOW, 3, environment=environment))
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * len(children)
    work.ingest(store.url, files, NOW)
    work.integrate(store.url, NOW)
    work.cluster(store.url, NOW)


def aws_variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("AWS_")}


def test_processes_at_once_make_the_lake_that_one_makes_alone(
    store: Store,
    files: list[str],
    alone: dict[str, str],
    record_property: Callable[[str, object], None],
) -> None:
    together(store, files, aws_variables(), meanwhile="serve_often")
    assert work.contents(store) == alone
    assert upkeep.check(Session(store, LocalEngine(2), work.CONF, NOW)).findings == ()
    record_property("concurrent processes", INGESTING + INTEGRATING)


def test_processes_at_once_over_a_store_that_fails_make_the_same_lake(
    s3_lake: str,
    files: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    files = files[:8]
    alone = made_by_one(files, str(tmp_path / "alone"))
    faults = [f for f in Fault if f is not Fault.DELAY]
    policy = share(5, seed=1, faults=[*faults, Fault.DELAY], at_most=3)
    with FaultProxy(os.environ["AWS_ENDPOINT_URL"], policy, delay=0.1) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        store = open_store(s3_lake)
        together(store, files, aws_variables(), meanwhile="integrate_often")
        assert work.contents(store) == alone
        assert upkeep.check(Session(store, LocalEngine(2), work.CONF, NOW)).findings == ()
        injected = sum(proxy.injected.values())
        assert injected > 50
        assert set(proxy.injected) >= set(faults)
    record_property("requests that failed", injected)


def test_a_query_during_writes_sees_whole_files_and_whole_integrations(
    tmp_path: Path, files: list[str]
) -> None:
    lake = str(tmp_path / "lake")
    work.ingest(lake, files[:1], NOW)
    work.integrate(lake, NOW)
    store = open_store(lake)
    sizes = {}
    for file in files:
        alone = open_store(str(tmp_path / "alone" / Path(file).name))
        done = intake.ingest(Session(alone, LocalEngine(1), work.CONF, NOW), [file])
        sizes[Path(file).name] = (done.stored, done.quarantined)
    context = work.processes()
    children = [
        work.start(context, "ingest", lake, files[1:], NOW),
        work.start(context, "integrate_often", lake, NOW, 10),
    ]
    seen = set()
    while any(child.is_alive() for child in children):
        rows = query(
            store,
            "SELECT source_file, count(reason), count(*) - count(reason) FROM "
            "(SELECT DISTINCT source_file, source_row, NULL AS reason FROM staging UNION ALL "
            "SELECT source_file, source_row, reason FROM quarantine) GROUP BY ALL",
        )
        for name, quarantined, stored in rows.iter_rows():
            assert (stored, quarantined) == sizes[name]
        ahead = query(
            store,
            "SELECT count(*) FROM readings ANTI JOIN staging USING (meter_id, reading_date_time)",
        ).item()
        assert ahead == 0, "the integrated table was ahead of staging"
        hours = query(
            store,
            "SELECT reading_type, count(DISTINCT reading_date_time) FROM readings GROUP BY ALL",
        )
        assert hours["count(DISTINCT reading_date_time)"].n_unique() == 1
        seen.add(rows.height)
    assert len(seen) > 2, "the query was not asked while files came in"


Change = tuple[str, tuple[object, ...]]
"""A job of support.work, and its arguments after the lake."""


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Life:
    return life_of_a_grid(tmp_path_factory.mktemp("life"))


@pytest.fixture
def changes(life: Life) -> dict[str, Change]:
    """What is to be done in a lake `with_a_grid`."""
    later = NOW + timedelta(days=1)
    return {
        "integrate": ("integrate", (later,)),
        "topology": ("topology", (life.grids[1], WORKS, later)),
        "weather": ("weather", (life.weather[1], START, later)),
        "grid": ("grid", (later,)),
    }


def with_a_grid(lake: str, life: Life) -> None:
    """A lake up to date, to which late reads have come since."""
    work.ingest(lake, life.deliveries[:1], NOW)
    work.integrate(lake, NOW)
    work.topology(lake, life.grids[0], START, NOW)
    work.weather(lake, life.weather[0], START, NOW)
    work.grid(lake, NOW)
    work.ingest(lake, life.deliveries[1:], NOW + timedelta(days=1))


def do(lake: str, change: Change) -> None:
    job, args = change
    getattr(work, job)(lake, *args)


@pytest.mark.proof
@pytest.mark.parametrize(
    "store", ["file", pytest.param("s3", marks=pytest.mark.soak)], indirect=True
)
def test_dataflows_and_grid_updates_at_once_make_the_lake_that_one_after_the_other_make(
    store: Store,
    life: Life,
    changes: dict[str, Change],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    alone = str(tmp_path / "alone")
    for lake in (store.url, alone):
        with_a_grid(lake, life)
    was = work.view(store)
    for change in changes.values():
        do(alone, change)
    becomes = work.view(open_store(alone))
    context, environment = work.processes(), aws_variables()
    children = [
        work.start(context, job, store.url, *args, environment=environment)
        for job, args in [*changes.values()] * 2
    ]
    while any(child.is_alive() for child in children):
        assert work.view(store) in (was, becomes), "half a snapshot holds"
    assert [child.exitcode for child in children] == [0] * len(children)
    do(store.url, changes["grid"])  # what was integrated after the grid's turn
    assert work.contents(store) == work.contents(open_store(alone))
    assert upkeep.check(Session(store, LocalEngine(2), work.CONF, NOW)).findings == ()
    record_property("concurrent processes", len(children))


@pytest.mark.parametrize(
    "job", ["grid", *(pytest.param(j, marks=pytest.mark.soak) for j in ("topology", "weather"))]
)
def test_a_job_that_the_same_job_overtakes_before_each_of_its_commits_changes_nothing_more(
    life: Life, changes: dict[str, Change], tmp_path: Path, job: str
) -> None:
    lake, alone = str(tmp_path / "lake"), str(tmp_path / "alone")
    for one in (lake, alone):
        with_a_grid(one, life)
        do(one, changes["integrate"])
    do(alone, changes[job])
    module = runner if job == "grid" else upsert
    real, overtakings = module.commit, []

    with pytest.MonkeyPatch.context() as patch:

        def overtaken(*args: Any, **options: Any) -> Any:
            if args[1].name not in overtakings:
                overtakings.append(args[1].name)
                with pytest.MonkeyPatch.context() as other:
                    other.setattr(module, "commit", real)
                    do(lake, changes[job])
            return real(*args, **options)

        patch.setattr(module, "commit", overtaken)
        do(lake, changes[job])
    assert overtakings
    assert work.contents(open_store(lake)) == work.contents(open_store(alone))
