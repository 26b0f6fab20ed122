"""The same jobs on Spark, next to the local engine and to Spark's own DataFrames.

    python benchmarks/spark.py            # some minutes, a free machine with Java 17
    python benchmarks/spark.py --quick    # 1,000 meters, judges nothing
    python benchmarks/spark.py --json     # the last line is one JSON object

Ingest and integrate of 10,000 meters x 4 days x 15 minutes, four gzip files. Every load runs in a
process of its own, in turns. Spark's session, its executors and their Python processes are there
before the clock starts; what they import for the work counts. The median of the rounds counts,
and whatever a load says, the readings it left are counted.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from ingest import READINGS_A_ROW, STEPS_A_DAY, Bench, bench
from reporting import Figures, Target, conclude, machine

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from support.spark_cluster import SparkCluster

DAYS = 4
NAMES = {
    "local": "meterlake, local engine",
    "local[2]": "meterlake on Spark `local[2]`",
    "standalone": "meterlake on a standalone cluster, two workers of one core",
    "dataframe": "Spark DataFrames `local[2]`: CSV, unpivot, repartition, sorted partitioned write",
}
LIMITS = {"local[2]": 1.5, "standalone": 1.7}  # times the time of the local engine


@dataclass(frozen=True)
class Size:
    """How much is measured: all of it, or the quick form."""

    devices: int
    rounds: int

    @property
    def readings(self) -> int:
        """Readings of all files."""
        return self.devices * STEPS_A_DAY * DAYS * READINGS_A_ROW


FULL, QUICK = Size(10_000, 3), Size(1_000, 1)


# --- what runs in a process of its own


def load_meterlake(inbox: Path, folder: Path, master: str) -> Figures:
    """Ingest and integrate the files of a folder, on Spark or (no master) on this engine."""
    import polars as pl

    from meterlake.delta.commit import snapshot
    from meterlake.delta.store import open_store
    from meterlake.delta.table import scan
    from meterlake.engine import Engine
    from meterlake.engine.local import LocalEngine
    from meterlake.engine.spark import spark_engine
    from meterlake.ingest import intake
    from meterlake.integrate import derivations
    from meterlake.pipeline.derivation import Session
    from meterlake.schema import READINGS
    from meterlake.settings import Settings

    @contextmanager
    def engine() -> Iterator[Engine]:
        if not master:
            yield LocalEngine(settings.workers)
            return
        with spark_engine(master) as spark:
            list(spark.map(abs, range(-8, 0)))
            yield spark

    settings = Settings(lake=str(folder / "lake"))
    store, now = open_store(settings.lake), datetime.now(UTC)
    with engine() as running:
        began = time.perf_counter()
        taken = intake.ingest(Session(store, running, settings, now), [str(inbox)])
        ingested = time.perf_counter()
        brought = derivations.integrate(Session(store, running, settings, now))
        ended = time.perf_counter()
    if taken.failures or taken.quarantined or brought.added != taken.readings:
        raise SystemExit(f"meterlake's counts do not balance: {taken}, {brought}")
    live = snapshot(store, READINGS).files
    return {
        "seconds": ended - began,
        "ingest_seconds": ingested - began,
        "integrate_seconds": ended - ingested,
        "readings": scan(store, READINGS, live).select(pl.len()).collect().item(),
    }


def load_dataframe(inbox: Path, folder: Path, master: str) -> Figures:
    """The same transformation by Spark's own means; nothing is committed or kept apart."""
    from pyspark.sql import SparkSession
    from pyspark.sql import functions as f

    builder = SparkSession.builder.appName("rival")
    for name, value in {
        "spark.master": master,
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.memory": "4g",
        "spark.ui.enabled": "false",
        "spark.log.level": "ERROR",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.parquet.compression.codec": "zstd",
    }.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    session.range(1000).selectExpr("sum(id)").collect()
    values = ("load", "crrnt", "pf", "kva", "kw", "vltg")
    schema = "time timestamp, arrival_time timestamp, device_id string, measure_name string, "
    schema += ", ".join(f"{name} double" for name in values)
    stacked = ", ".join(f"'{name}', {name}" for name in values)
    keys = ["reading_type", "year", "month", "day", "hour"]
    out = str(folder / "readings")
    began = time.perf_counter()
    (
        session.read.csv(str(inbox), header=True, schema=schema)
        .selectExpr(
            "device_id AS meter_id",
            "time AS reading_date_time",
            "arrival_time",
            f"stack({len(values)}, {stacked}) AS (reading_type, reading_value)",
        )
        .where("reading_value IS NOT NULL")
        .withColumns(
            {
                part: f.date_format("reading_date_time", pattern)
                for part, pattern in (("year", "yyyy"), ("month", "MM"), ("day", "dd"))
            }
        )
        .withColumn("hour", f.date_format("reading_date_time", "HH"))
        .repartition(*keys)
        .sortWithinPartitions(*keys, "meter_id", "reading_date_time")
        .write.partitionBy(*keys)
        .parquet(out)
    )
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "readings": session.read.parquet(out).count()}


def child(name: str, arguments: list[str]) -> int:
    """Do one thing and print its figures as the last line."""
    inbox, folder, master = arguments
    load = load_dataframe if name == "dataframe" else load_meterlake
    print(json.dumps(load(Path(inbox), Path(folder), master)), flush=True)
    return 0


# --- what starts them


def load(
    running: Bench, name: str, inbox: Path, size: Size, master: str, environment: dict[str, str]
) -> Figures:
    """Run one load into a new folder and check what it left."""
    folder = running.folder(name.replace("[", "-").strip("]"))
    folder.mkdir()
    os.sync()
    kept = {k: v for k, v in os.environ.items() if not k.startswith("METERLAKE_")}
    command = [sys.executable, str(Path(__file__).resolve()), "--child", name]
    done = subprocess.run(
        [*command, str(inbox), str(folder), master],
        stdout=subprocess.PIPE, text=True, check=False, cwd=folder, env=kept | environment,
    )  # fmt: skip
    if done.returncode != 0:
        raise SystemExit(f"{name} failed")
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    if figures["readings"] != size.readings:
        raise SystemExit(f"{name}: {figures['readings']:,.0f} readings, not {size.readings:,}")
    shutil.rmtree(folder)
    return figures


def side_by_side(
    running: Bench, size: Size, tell: Callable[[str], None]
) -> dict[str, list[Figures]]:
    """Every load in every round; `ratio` is its time to the local engine's of the round."""
    files = running.files(size.devices, DAYS)
    inbox = files[0].parent
    runs: dict[str, list[Figures]] = {name: [] for name in NAMES}

    def measured(name: str, master: str, environment: dict[str, str]) -> None:
        figures = load(running, name, inbox, size, master, environment)
        runs[name].append(figures)
        tell(f"{name}: {figures['seconds']:.2f} s")

    here = {"PYSPARK_PYTHON": sys.executable}
    for number in range(size.rounds):
        measured("local", "", here)
        measured("local[2]", "local[2]", here)
        with SparkCluster(workers=2) as cluster:
            measured("standalone", cluster.master, cluster.environment())
        measured("dataframe", "local[2]", here)
        for name in NAMES:
            figures = runs[name][number]
            figures["ratio"] = figures["seconds"] / runs["local"][number]["seconds"]
    return runs


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        epilog="Example: python benchmarks/spark.py --json",
    )
    parser.add_argument("--quick", action="store_true", help="small and short; judges no target")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    options = parser.parse_args()
    size = QUICK if options.quick else FULL
    lines = [f"command: python benchmarks/spark.py {' '.join(sys.argv[1:])}".rstrip(), *machine()]
    print(*lines, "", sep="\n", flush=True)

    def tell(text: str) -> None:
        print(f"  {text}", file=sys.stderr, flush=True)

    with bench(tell) as running:
        runs = side_by_side(running, size, tell)
    figures = {
        name: {what: median(run[what] for run in of) for what in of[0]} for name, of in runs.items()
    }
    print(f"| {size.readings:,} readings | s | of it ingest | times the local engine |")
    print("|---|--:|--:|--:|")
    for name, title in NAMES.items():
        of = figures[name]
        ingest = f"{of['ingest_seconds']:.2f}" if "ingest_seconds" in of else ""
        print(f"| {title} | {of['seconds']:.2f} | {ingest} | {of['ratio']:.2f} |")
    targets = {
        f"times the time of the local engine, {name}": Target(figures[name]["ratio"], "<=", limit)
        for name, limit in LIMITS.items()
    }
    faster = [
        d["seconds"] / s["seconds"]
        for d, s in zip(runs["dataframe"], runs["local[2]"], strict=True)
    ]
    targets["times faster than DataFrames, local[2]"] = Target(median(faster), ">=", 2.0)
    return conclude("spark", figures, targets, quick=options.quick, as_json=options.json)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        sys.exit(child(sys.argv[2], sys.argv[3:]))
    sys.exit(main())
