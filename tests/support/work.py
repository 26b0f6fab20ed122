"""The jobs as child processes run them, and what a lake looks like from outside."""

import hashlib
import multiprocessing
import os
import sys
import time
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess

import polars as pl
from deltalake import DeltaTable
from support import ml

from meterlake.dataflows.run import Scope, run_dataflow
from meterlake.delta.commit import snapshot, snapshots
from meterlake.delta.store import Store, open_store
from meterlake.delta.table import fetched, log_files, scan
from meterlake.engine.local import LocalEngine
from meterlake.forecast import detection
from meterlake.forecast.forecasts import forecast_all
from meterlake.forecast.training import train as run_train
from meterlake.grid.derivations import GRID, update_grid
from meterlake.ingest import intake
from meterlake.integrate import derivations
from meterlake.pipeline import upkeep
from meterlake.pipeline.derivation import Session
from meterlake.questions.sql import query
from meterlake.schema import READINGS, Table, known_tables
from meterlake.settings import load_settings
from meterlake.topology.upstream import METER_TOPOLOGY

CONF = load_settings(late_hooks=())
NOTHING = "none"  # what a table without rows has, there or not
LOADED = ("dataflow", "window_start", "window_end", "source", "rows", "message")


def processes() -> ForkServerContext:
    """Children that begin with everything imported, so that many can be started and killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["support.work"])
    # Python 3.11's server does not take over sys.path.
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    forkserver.ensure_running()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before
    return context


def start(context: ForkServerContext, job: str, *args: object, **options: object) -> BaseProcess:
    """Run one of the functions below in a child."""
    process = context.Process(target=_run, args=(job, args, options), daemon=True)
    process.start()
    return process


def _run(job: str, args: tuple[object, ...], options: dict[str, object]) -> None:
    os.environ.update(options.pop("environment", {}))  # type: ignore[call-overload]
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115  (an error's story is the exit code here)
    globals()[job](*args, **options)


def ingest(lake: str, paths: Sequence[str], now: datetime) -> None:
    """Take files in, one moment for all."""
    done = intake.ingest(Session(open_store(lake), LocalEngine(2), CONF, now), list(paths))
    if done.failures:
        raise SystemExit(3)


def integrate(lake: str, now: datetime) -> None:
    """Integrate once."""
    derivations.integrate(Session(open_store(lake), LocalEngine(2), CONF, now))


def cluster(lake: str, now: datetime) -> None:
    """Bring serving and the energies up to date."""
    derivations.cluster(Session(open_store(lake), LocalEngine(2), CONF, now))


def vacuum(lake: str, now: datetime, retain: timedelta = timedelta(0)) -> None:
    """Remove what no version needs."""
    store = open_store(lake)
    upkeep.vacuum(Session(store, LocalEngine(2), CONF, now), retain=retain, nobody_else=True)


def checkpoint(store: Store, table: Table) -> None:
    """Write a checkpoint of every version that a table's log has."""
    for version in sorted(log_files(store, table).commits):
        DeltaTable(
            store.uri(table.path), version=version, storage_options=store.delta_options
        ).create_checkpoint()


def shorten_logs(store: Store) -> None:
    """Expire all that can expire of every table's log."""
    for table in known_tables().values():
        checkpoint(store, table)
    vacuum(store.url, datetime.now(UTC) + timedelta(days=1))


def repair(lake: str, now: datetime) -> None:
    """Check, and derive again."""
    upkeep.check(Session(open_store(lake), LocalEngine(2), CONF, now), repair=True)


def topology(lake: str, folder: str, at: datetime, now: datetime) -> None:
    """Take a snapshot of the grid over."""
    store = open_store(lake)
    run_dataflow(store, "topology", Scope(folder, at=at), settings=CONF, now=now)


def weather(lake: str, folder: str, since: datetime, now: datetime) -> None:
    """Load the weather at the meters of the topology."""
    store = open_store(lake)
    run_dataflow(store, "weather", Scope(folder, start=since), settings=CONF, now=now)


def grid(lake: str, now: datetime) -> None:
    """Bring every table of the grid up to date."""
    for name in GRID:
        update_grid(Session(open_store(lake), LocalEngine(2), CONF, now), GRID[name])


def train(lake: str, now: datetime, rows: int) -> None:
    """Train a small model."""
    conf = ml.settings(train_rows=rows)
    run_train(open_store(lake), engine=LocalEngine(1), settings=conf, now=now)


def forecast(lake: str, now: datetime, start: datetime, use: str | None = None) -> None:
    """Forecast all meters and nodes."""
    store, conf = open_store(lake), ml.settings()
    forecast_all(Session(store, LocalEngine(1), conf, now), start=start, use=use)


def detect(lake: str, now: datetime, use: str | None = None) -> None:
    """Judge the days that are new or have changed."""
    detection.detect(Session(open_store(lake), LocalEngine(1), ml.settings(), now), use=use)


def grow(lake: str, now: datetime, days: int, since: int, seed: int) -> None:
    """Put days of readings of a fleet into the lake, once, and their energies."""
    store, last = open_store(lake), ml.START + (days - 1) * ml.DAY
    if all(f.last is None or f.last < last for f in snapshot(store, READINGS).files):
        whole = ml.fleet(ml.METERS, days, seed=seed)[:, since * 24 :]
        rows = ml.readings(ml.by_meter(ml.names(ml.METERS), whole), ml.START + since * ml.DAY)
        ml.fill(store, rows, now=now)
    ml.bring_up(store, ml.settings(), now)


def contents(store: Store, names: Collection[str] = ()) -> dict[str, str]:
    """A hash of each table's rows, whatever their order and files, of one state of the lake.

    Of the runs of dataflows it has what was loaded, whether once or again.
    With `names` it is of these tables alone.
    """
    tables = [t for t in known_tables().values() if not names or t.name in names]
    return {
        name: fingerprint(fetched(scan(store, s.table, s.files))) if s.files else NOTHING
        for name, s in snapshots(store, tables).items()
    }


def view(store: Store) -> str:
    """The same of the topology as readers see it."""
    return fingerprint(query(store, f"SELECT * FROM {METER_TOPOLOGY}"))


def runs(store: Store) -> list[tuple[str, str]]:
    """Each run of a dataflow that was recorded, and how it ended."""
    return query(store, "SELECT dataflow, outcome FROM dataflow_runs ORDER BY ALL").rows()


def fingerprint(rows: pl.DataFrame) -> str:
    """A hash of rows, whatever their order; commit versions and moments of jobs left out."""
    if {"dataflow", "outcome"} <= set(rows.columns):
        # A run that was cut off has left no row or one, and a repeated one finds less to change.
        assert rows["run_id"].is_unique().all(), "a run was recorded twice"
        rows = rows.filter(pl.col("outcome") == "succeeded").select(LOADED).unique()
    if rows.is_empty():
        return NOTHING
    of_the_job = ("staging_version", "detected_at", "detection_date", "run_id", "seconds")
    rows = rows.drop(of_the_job, strict=False)
    if "hour" not in rows.columns and "reading_value" in rows.columns:
        rows = rows.drop("day")  # serving's is of the file, which may hold several days
    text = rows.sort(rows.columns).write_csv()
    return f"{rows.height}:{hashlib.sha256(text.encode()).hexdigest()}"


def integrate_often(lake: str, now: datetime, times: int) -> None:
    """Integrate again and again."""
    for _ in range(times):
        integrate(lake, now)
        time.sleep(0.05)


def serve_often(lake: str, now: datetime, times: int) -> None:
    """Integrate and cluster again and again."""
    for _ in range(times):
        integrate(lake, now)
        cluster(lake, now)
