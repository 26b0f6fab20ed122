"""The jobs as child processes run them, and what a lake looks like from outside."""

import hashlib
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess

import polars as pl

from meterlake import jobs
from meterlake.engine.local import LocalEngine
from meterlake.jobs import upkeep
from meterlake.jobs.cluster import cluster as run_cluster
from meterlake.lake.commit import snapshots
from meterlake.lake.store import Store, open_store
from meterlake.lake.table import fetched, scan
from meterlake.schema import TABLES
from meterlake.settings import load_settings

CONF = load_settings(late_hooks=())


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
    done = jobs.ingest(open_store(lake), list(paths), engine=LocalEngine(2), settings=CONF, now=now)
    if done.failures:
        raise SystemExit(3)


def integrate(lake: str, now: datetime) -> None:
    """Integrate once."""
    jobs.integrate(open_store(lake), engine=LocalEngine(2), settings=CONF, now=now)


def cluster(lake: str, now: datetime) -> None:
    """Bring serving and the energies up to date."""
    run_cluster(open_store(lake), engine=LocalEngine(2), settings=CONF, now=now)


def vacuum(lake: str, now: datetime, retain: timedelta = timedelta(0)) -> None:
    """Remove what no version needs."""
    store = open_store(lake)
    upkeep.vacuum(store, engine=LocalEngine(2), retain=retain, now=now, nobody_else=True)


def repair(lake: str, now: datetime) -> None:
    """Check, and derive again."""
    upkeep.check(open_store(lake), engine=LocalEngine(2), now=now, repair=True)


def contents(store: Store) -> dict[str, str]:
    """A hash of each table's rows, whatever their order and files, of one state of the lake."""
    return {
        name: fingerprint(fetched(scan(store, state.table, state.files))) if state.files else "none"
        for name, state in snapshots(store, TABLES.values()).items()
    }


def fingerprint(rows: pl.DataFrame) -> str:
    """A hash of rows, whatever their order; commit versions and moments of jobs left out."""
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
