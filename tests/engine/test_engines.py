"""Every engine does the same: the port's laws, and every job on each of them."""

import json
import os
import pickle
import shutil
import signal
import socket
import sys
import threading
import time
import venv
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pyspark import SparkContext
from support import ml, work
from support.grids import small_grid, write_grid
from support.seaweed import SeaweedFS
from support.spark_cluster import SparkCluster
from typer.testing import CliRunner

from meterlake import __version__, cli
from meterlake.dataflows.run import Scope, run_dataflow
from meterlake.delta.commit import snapshots
from meterlake.delta.store import Store, open_store
from meterlake.engine import Engine, Result, Unit
from meterlake.engine.local import LocalEngine
from meterlake.engine.spark import SparkEngine, _Raised, _Task, require_java, spark_engine
from meterlake.errors import BadInput, Unavailable
from meterlake.forecast import detection, forecasts, training
from meterlake.formats import tabular
from meterlake.formats.registry import recognise
from meterlake.formats.source import DeliveredFile
from meterlake.grid.derivations import GRID, update_grid
from meterlake.ingest import intake, land
from meterlake.ingest.stage import cut
from meterlake.integrate import derivations, hours
from meterlake.pipeline import upkeep
from meterlake.pipeline.derivation import Session
from meterlake.schema import DELIVERIES, LATE_ARRIVALS, READINGS, SERVING_READINGS, STAGING, TABLES
from meterlake.settings import load_settings
from meterlake.simulate.grid import simulate_grid
from meterlake.simulate.readings import ReadingsPlan, simulate_readings

START = datetime(2024, 1, 1, tzinfo=UTC)
NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
EVENING = START + timedelta(hours=20)  # the hours that follow are of two days
HOUR = timedelta(hours=1)


# --- machines that go away (the last test has the other; the cluster has one driver at a time)


def waiting(store: Store, tmp_path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """A lake with files that wait to be integrated; its contents now, and after that."""
    files = inbox(tmp_path / "inbox")[:4]
    alike = open_store(str(tmp_path / "alike"))
    for one in (store, alike):
        intake.ingest(Session(one, LocalEngine(2), work.CONF, NOW), files)
    before = work.contents(store)
    derivations.integrate(Session(alike, LocalEngine(2), work.CONF, NOW))
    return before, work.contents(alike)


def files_of(store: Store) -> int:
    return sum(f.path.endswith(".parquet") for f in store.list(READINGS.path))


def until(happens: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.soak
def test_the_driver_is_killed_in_mid_job_and_the_next_run_ends_right(
    driver: Any, cluster: SparkCluster, tmp_path: Path
) -> None:
    store = open_store(str(tmp_path / "lake"))
    before, after = waiting(store, tmp_path)
    job = tmp_path / "job.py"
    job.write_text(
        "from meterlake.cli import run\nfrom meterlake.integrate import hours\n\n"
        "hours.UNIT_ROWS = 60\nrun()\n"
    )
    with cluster.submit(job, "integrate", "--engine", "spark", "--lake", store.url) as running:
        until(lambda: files_of(store) > 10 or running.poll() is not None)
        os.killpg(running.pid, signal.SIGKILL)
    assert running.returncode == -signal.SIGKILL
    assert work.contents(store) == before
    derivations.integrate(Session(store, driver.engine(), work.CONF, NOW))
    assert work.contents(store) == after
    assert upkeep.check(Session(store, LocalEngine(2), work.CONF, NOW)).findings == ()
    removed = upkeep.vacuum(
        Session(store, LocalEngine(2), work.CONF, datetime.now(UTC)),
        retain=timedelta(0),
        nobody_else=True,
    )
    assert removed.orphans > 10


# --- the port


def test_results_come_in_the_units_order(engine: Engine) -> None:
    assert list(engine.map(lambda n: n * n, range(50))) == [n * n for n in range(50)]
    assert list(engine.map(lambda n: n, list[int]())) == []


def test_units_are_drawn_only_as_fast_as_they_are_worked_off(engine: Engine) -> None:
    drawn = 0

    def units() -> Iterator[int]:
        nonlocal drawn
        for n in range(100):
            drawn += 1
            yield n

    results = engine.map(lambda n: n, units())
    assert next(results) == 0
    assert drawn <= 3 * 4 * 2  # waves, units a core, cores
    assert list(results) == list(range(1, 100))


def test_an_error_of_a_unit_is_raised_as_it_is_and_ends_the_job(engine: Engine) -> None:
    drawn = []

    def units() -> Iterator[int]:
        for n in range(1000):
            drawn.append(n)
            yield n

    def refuse(n: int) -> int:
        if n == 3:
            raise BadInput("a unit needs to be another number than 3")
        return n

    with pytest.raises(BadInput, match="another number than 3"):
        list(engine.map(refuse, units()))
    assert len(drawn) < 30
    with pytest.raises(ZeroDivisionError) as caught:
        list(engine.map(lambda n: 1 // n, range(10)))
    if engine.sends_units:  # where it happened is told, for it was elsewhere
        assert "1 // n" in caught.value.__notes__[0]


def test_a_unit_that_fails_once_is_tried_again_and_one_that_always_fails_is_told(
    spark: SparkEngine,
) -> None:
    def fails_at_first(n: int) -> int:
        from pyspark import TaskContext

        context = TaskContext.get()
        if context is not None and context.attemptNumber() == 0:
            raise Unavailable("not yet")
        return n

    assert list(spark.map(fails_at_first, range(5))) == list(range(5))

    def fails(n: int) -> int:
        raise Unavailable("the storage is away")

    with pytest.raises(Unavailable, match="the storage is away"):
        list(spark.map(fails, range(2)))


def test_a_task_has_as_many_polars_threads_as_cores(spark: SparkEngine) -> None:
    def threads(n: int) -> tuple[int, str | None]:
        import os

        import polars

        return polars.thread_pool_size(), os.environ.get("POLARS_MAX_THREADS")

    assert set(spark.map(threads, range(4))) == {(1, "1")}


def test_executors_reach_s3_as_the_driver_does_and_spark_is_not_told_how(
    spark: SparkEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "the id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "the token")

    def keys(n: int) -> tuple[str | None, ...]:
        import os

        kinds = ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN")
        return tuple(os.environ.get(f"AWS_{kind}") for kind in kinds)

    assert set(spark.map(keys, range(4))) == {("the id", "the secret", "the token")}
    monkeypatch.delenv("AWS_SESSION_TOKEN")  # of other keys, none of these is left there
    assert set(spark.map(keys, range(4))) == {("the id", "the secret", None)}
    told = str(spark._context.getConf().getAll())
    assert "the secret" not in told and "the id" not in told


def test_a_store_that_is_sent_takes_no_secret_along(s3_lake: str, seaweed: SeaweedFS) -> None:
    store = open_store(s3_lake)
    store.put("object", b"bytes")
    sent = pickle.dumps(store)
    assert seaweed.secret_key.encode() not in sent
    assert pickle.loads(sent).read("object") == b"bytes"


def test_what_is_missing_on_the_executors_is_said(
    spark: SparkEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    venv.create(tmp_path / "bare", symlinks=True)
    monkeypatch.setattr(spark._context, "pythonExec", str(tmp_path / "bare" / "bin" / "python"))
    with pytest.raises(BadInput, match=r"executors need the meterlake package.*No module named"):
        list(spark.map(abs, [1]))
    monkeypatch.setattr(spark._context, "pythonExec", str(tmp_path / "no python"))
    with pytest.raises(BadInput, match=r"executors need Python.*no python"):
        list(spark.map(abs, [1]))
    monkeypatch.undo()
    assert list(spark.map(abs, [-1])) == [1]


def test_executors_of_another_version_are_refused() -> None:
    (answer,) = _Task(b"", {}, "0.0.0", 1)([b"unit"])
    refused = pickle.loads(answer)
    assert isinstance(refused, _Raised) and isinstance(refused.error, BadInput)
    assert f"need meterlake 0.0.0, as the driver has; found {__version__}" in str(refused.error)


@pytest.mark.parametrize(
    ("java", "found"),
    [(None, "found no 'java'"), ('openjdk version "11.0.2" 2019', "11.0.2"),
     ('java version "1.8.0_202"', "1.8.0"), ("", "found none")],
)  # fmt: skip
def test_the_error_says_which_java_is_needed(
    java: str | None, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if java is not None:
        (tmp_path / "java").write_text(f"#!/bin/sh\necho '{java}' >&2\n")
        (tmp_path / "java").chmod(0o755)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin" if java is not None else str(tmp_path))
    with pytest.raises(BadInput, match=f"needs Java 17 or later: .*{found}"):
        require_java()


def test_the_error_says_how_to_install_pyspark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyspark", None)
    with (
        pytest.raises(BadInput, match=r"pip install 'meterlake\[spark\]'"),
        spark_engine("local[2]"),
    ):
        pass


@pytest.mark.parametrize("master", ["nonsense", "spark://host", "local[x]", "yarn://host", ""])
def test_a_master_that_is_none_is_refused_before_anything_starts(master: str) -> None:
    with pytest.raises(BadInput, match=r"'spark_master'.*such as local\[2\], spark://host:7077"):
        load_settings(spark_master=master)


@pytest.mark.parametrize(
    "master",
    ["local", "local[*]", "local[2]", "local[2,3]", "spark://a:7077", "spark://a:1,b:2", "yarn",
     "k8s://https://host:6443"],
)  # fmt: skip
def test_a_master_of_every_kind_is_taken(master: str) -> None:
    assert load_settings(spark_master=master).spark_master == master


def test_a_master_that_does_not_answer_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOG4J_CONFIGURATION_FILE", "PYSPARK_PYTHON"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(SparkContext, "_active_spark_context", None)
    with socket.socket() as taken:  # and not listened to
        taken.bind(("127.0.0.1", 0))
        master = f"spark://127.0.0.1:{taken.getsockname()[1]}"
        message = f"master at {master}; nothing answers there: Connection refused"
        with spark_engine(master) as engine, pytest.raises(Unavailable, match=message):
            list(engine.map(abs, [1]))


def test_where_there_is_nothing_to_do_spark_is_not_started() -> None:
    def connect() -> SparkContext:
        raise AssertionError("it was started")

    assert list(SparkEngine(connect).map(abs, list[int]())) == []


# --- the jobs


@pytest.fixture
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little data in many units: these are planned by the driver."""
    monkeypatch.setattr(hours, "UNIT_ROWS", 150)
    monkeypatch.setattr(land, "FRAME_BYTES", 20_000)
    monkeypatch.setattr(tabular, "BLOCK_ROWS", 100)


def inbox(folder: Path) -> list[str]:
    """Deliveries of every kind: gzip, text that is cut in ranges, Parquet, damaged, doubled."""
    plan = ReadingsPlan(
        devices=30, interval_minutes=30, start=EVENING, end=EVENING + timedelta(hours=8),
        file_every=timedelta(hours=2), late_percent=20, late_minutes=180, bad_percent=2, seed=3,
    )  # fmt: skip
    files = [Path(f.path) for f in simulate_readings(plan, folder).files]
    header = "time,arrival_time,device_id,measure_name,load,crrnt,pf,kva,kw,vltg"
    rows = [
        f"{EVENING + h * HOUR:%F %T},2024-01-09 {h:02d}:00:00,m{m},readings,1,2,3,4,{h}.{m},230.{m}"
        for h in range(8)
        for m in range(150)
    ]
    text = folder / "corrections.csv"
    text.write_text("\n".join([header, *rows, "damaged", ""]))
    table = folder / "table.parquet"
    pl.read_csv(text.read_bytes(), n_rows=300).with_columns(kw=pl.col("kw") + 1).write_parquet(
        table
    )
    again = folder / "again.csv.gz"
    again.write_bytes(files[0].read_bytes())
    broken = folder / "broken.csv.gz"
    broken.write_bytes(files[1].read_bytes()[:-200])
    return [str(f) for f in (*files, text, table, again, broken)]


def live_through(store: Store, engine: Engine, files: list[str]) -> dict[str, Any]:
    """Every job once or more; what they said, but for the names of files."""
    said: dict[str, Any] = {}

    def integrate(name: str, now: datetime) -> None:
        done = derivations.integrate(Session(store, engine, work.CONF, now))
        said[f"{name} integrate"] = vars(done)
        clustered = derivations.cluster(Session(store, engine, work.CONF, now))
        said[f"{name} cluster"] = vars(clustered)

    half = len(files) // 2
    for name, some in (("first", files[:half]), ("second", files[half:])):
        done = intake.ingest(Session(store, engine, work.CONF, NOW), some)
        said[f"{name} ingest"] = done
        integrate(name, NOW + HOUR)
    grid = Path(files[0]).with_name("grid")
    simulate_grid(10, (47.6, -122.3), grid)
    run_dataflow(store, "topology", Scope(str(grid)), settings=work.CONF, now=NOW)
    grid_settings = work.CONF.grid.model_copy(update={"outage_meter_minutes": 0.0})
    conf = work.CONF.model_copy(update={"grid": grid_settings})
    for name in GRID:
        said[name] = update_grid(Session(store, engine, conf, NOW), GRID[name])
    checked = upkeep.check(Session(store, engine, work.CONF, NOW))
    said["check"] = checked
    for table in (STAGING, READINGS, SERVING_READINGS):
        state = snapshots(store, [table])[table.name]
        file = min(state.files, key=lambda f: (tuple(f.partition.values()), f.rows))
        store.put(f"{table.path}/{file.path}", b"damaged")
    repaired = upkeep.check(Session(store, engine, work.CONF, NOW), repair=True)
    said["repair"] = Counter((f.table, f.problem) for f in repaired.repaired), repaired.findings
    later = datetime.now(UTC) + timedelta(days=1)
    removed = upkeep.vacuum(Session(store, engine, work.CONF, later), retain=HOUR)
    said["vacuum"] = removed.superseded, removed.orphans, removed.leftovers
    return said


@pytest.mark.usefixtures("small_units")
def test_every_job_gives_the_same_lake_on_every_engine(spark: SparkEngine, tmp_path: Path) -> None:
    files = inbox(tmp_path / "inbox")
    store, alike = (open_store(str(tmp_path / name)) for name in ("spark", "local"))
    there, here = live_through(store, spark, files), live_through(alike, LocalEngine(2), files)
    for step, said in here.items():
        assert there[step] == said, step
    assert work.contents(store) == work.contents(alike)
    # and there was something to do for every job
    assert here["second integrate"]["replaced"] > 0
    assert here["first ingest"].quarantined > 0 and len(here["second ingest"].failures) == 1
    assert here["second ingest"].already_ingested == 1
    assert here["check"].findings == ()
    repaired, left = here["repair"]
    assert {table for table, _ in repaired} >= {"staging", "readings", "serving_readings"}
    assert left == () and here["vacuum"][0] > 10
    assert all(here[name] == 2 for name in GRID)
    states = snapshots(alike, TABLES.values())
    assert all(states[name].rows for name in ("volt_var", "transformer_load", "outages"))


def test_every_engine_gives_the_same_model_forecasts_and_anomalies(
    spark: SparkEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ml.small_networks(monkeypatch)
    monkeypatch.setattr(training, "_RANGE_METERS", 3)
    monkeypatch.setattr(forecasts, "RANGE_ROWS", 3000)
    alike = open_store(str(tmp_path / "local"))
    conf = ml.settings(country="AU", subdivision="NSW")
    ml.fill(alike, ml.readings(ml.by_meter(ml.names(7), ml.fleet(7, 130))))
    ml.bring_up(alike, conf)
    folder = write_grid(tmp_path / "grid", small_grid(**dict.fromkeys(ml.names(4), "t1")))
    run_dataflow(alike, "topology", Scope(str(folder), at=ml.START), settings=conf, now=ml.NOW)
    shutil.copytree(tmp_path / "local", tmp_path / "spark")
    store = open_store(str(tmp_path / "spark"))

    def said(store: Store, engine: Engine) -> tuple[Any, ...]:
        session = Session(store, engine, conf, ml.NOW)
        trained = training.train(store, engine=engine, settings=conf, now=ml.NOW)
        return trained, forecasts.forecast_all(session), detection.detect(session)

    here = said(alike, LocalEngine(2))
    assert said(store, spark) == here
    found = work.contents(alike)
    assert work.contents(store) == found
    trained, forecasted, detected = here
    assert trained.no_band is None and forecasted.nodes == 2 and detected.judged > 500
    tables = "models", "forecasts", "node_forecasts", "anomalies"
    assert work.NOTHING not in [found[name] for name in tables]


class Twice(LocalEngine):
    """As where Spark speculates: every unit is worked on twice, and one of the results counts."""

    sends_units = True

    def map(self, work: Callable[[Unit], Result], units: Iterable[Unit]) -> Iterator[Result]:
        return super().map(lambda unit: (work(unit), work(unit))[1], units)


@pytest.mark.usefixtures("small_units")
def test_units_that_are_worked_on_twice_give_the_same_lake(tmp_path: Path) -> None:
    files = inbox(tmp_path / "inbox")[:3]
    twice, once = (open_store(str(tmp_path / name)) for name in ("twice", "once"))
    for store, engine in ((twice, Twice(2)), (once, LocalEngine(2))):
        intake.ingest(Session(store, engine, work.CONF, NOW), files)
        derivations.integrate(Session(store, engine, work.CONF, NOW))
        derivations.cluster(Session(store, engine, work.CONF, NOW))
    assert work.contents(twice) == work.contents(once)
    later = datetime.now(UTC) + timedelta(days=1)
    removed = upkeep.vacuum(Session(twice, Twice(2), work.CONF, later), retain=HOUR)
    by_driver = LATE_ARRIVALS, DELIVERIES
    units = [t for t in TABLES.values() if t not in by_driver]
    written = [f for t in units for f in once.list(t.path) if f.path.endswith(".parquet")]
    assert removed.orphans == len(written)
    assert work.contents(twice) == work.contents(once)


@pytest.mark.usefixtures("small_units")
def test_a_stream_is_one_unit_where_units_are_sent_and_the_rest_is_cut_in_ranges(
    tmp_path: Path,
) -> None:
    store = open_store(str(tmp_path / "lake"))

    def parts(file: str, *, by_reference: bool) -> list[Any]:
        source = land.land(store, land.delivery_of(Path(file)))
        fmt = recognise(source, default_zone="UTC")
        return list(cut(fmt, source, by_reference=by_reference))

    gz, *_, text, table, _, _ = inbox(tmp_path / "inbox")
    (stream,) = parts(gz, by_reference=True)
    assert isinstance(stream, DeliveredFile)
    assert all(block.data is not None for block in parts(gz, by_reference=False))
    for file in (text, table):
        ranges = parts(file, by_reference=True)
        assert len(ranges) > 2 and all(block.data is None for block in ranges)
        assert ranges == parts(file, by_reference=False)


@pytest.mark.usefixtures("spark")
def test_every_command_that_changes_the_lake_takes_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = inbox(tmp_path / "inbox")[:2]
    monkeypatch.chdir(tmp_path)

    def told(*args: str) -> Any:
        options = ["--engine", "spark", "--output", "json"]
        result = CliRunner().invoke(cli.app, [*args, *options], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    assert told("ingest", *files)["files"] == 2
    assert told("integrate")["added"] > 0
    assert told("cluster", "--rebuild")["days"] > 0
    assert told("check")["findings"] == []
    assert told("vacuum", "--retain", "0m", "--nobody-else")["superseded"] > 0
    wrong = CliRunner().invoke(cli.app, ["integrate", "--spark-master", "local"])
    assert wrong.exit_code == 1


def test_a_worker_is_killed_in_mid_job_and_the_job_ends_right(
    s3_lake: str, spark: SparkEngine, cluster: SparkCluster, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(hours, "UNIT_ROWS", 60)
    store = open_store(s3_lake)
    before, after = waiting(store, tmp_path)
    done = []
    thread = threading.Thread(
        target=lambda: done.append(derivations.integrate(Session(store, spark, work.CONF, NOW)))
    )
    cluster.stop_worker()  # what it is given it holds, so that the job cannot end before it
    thread.start()
    until(lambda: files_of(store) > 10)
    assert thread.is_alive() and work.contents(store) == before
    cluster.kill_worker()
    thread.join()
    assert cluster.alive() == 1
    assert done[0].added > 0
    assert work.contents(store) == after
    assert upkeep.check(Session(store, LocalEngine(2), work.CONF, NOW)).findings == ()
