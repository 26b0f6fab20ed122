"""What more meters cost: log and commit, an hour of integration, a day of serving, and the sizing.

    python benchmarks/scale.py            # a quarter of an hour, 3 GB of memory and of disk
    python benchmarks/scale.py --quick    # small; judges nothing
    python benchmarks/scale.py --json     # the last line is one JSON object

Every step runs in a process of its own, on one core with one Polars thread, as in a Spark task of
one core. Seconds are those of the processor, which other work on the machine lengthens less; peak
memory is the largest resident set of that process. Add actions are of files that do not exist: a
log does not ask for them. Reads are drawn by chance, in staging files such as ingest leaves of
deliveries of 10,000 meters. What is printed last, the sizing for 1, 10 and 50 million meters, is
extrapolated by the rules in `sizing`; not in --quick.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import ceil, log10
from pathlib import Path

import numpy as np
import polars as pl
from deltalake import DeltaTable
from reporting import Figures, Target, conclude, machine
from rivals import Stopwatch

from meterlake.delta.commit import Change, commit, snapshot
from meterlake.delta.store import Store, open_store
from meterlake.delta.table import DataFile, write_file
from meterlake.engine.local import LocalEngine
from meterlake.ingest import intake
from meterlake.ingest.stage import write_reads
from meterlake.integrate import cluster, derivations
from meterlake.integrate.hours import hour_partition, integrate_hours, plan_hours
from meterlake.pipeline.derivation import Session
from meterlake.readings.layout import LiveLayout
from meterlake.readings.meter_ranges import RANGE_ROWS, meter_ranges
from meterlake.schema import READINGS, SERVING_READINGS, STAGING, TABLES, Table
from meterlake.schema.projection import of_reads
from meterlake.settings import Settings
from meterlake.simulate.readings import ReadingsPlan, device_id, simulate_readings

START = datetime(2024, 1, 1, tzinfo=UTC)
DAY, HOUR, STEP = timedelta(days=1), timedelta(hours=1), timedelta(minutes=15)
VALUES = ("load", "crrnt", "pf", "kva", "kw", "vltg")
STEPS_A_DAY = 96
DELIVERED = 10_000  # meters of a delivered file
BLOCK_ROWS = 120_000  # rows of a staging file: a block of 16 MB of text
DAILY_ADDS = 24 * len(VALUES)
FURTHER = 20  # commits, of which one writes a checkpoint
FILE_ROWS = RANGE_ROWS
FLEETS = (1_000_000, 10_000_000, 50_000_000)
WITHIN_HOURS, USED = 4.0, 0.7  # the day's reads in this time, with cores this busy


@dataclass(frozen=True)
class Size:
    """How much is measured: all of it, or the quick form."""

    adds: tuple[int, ...]
    growth_days: int
    hours: tuple[int, ...]
    days: tuple[int, ...]
    by_meter: int
    range_rows: tuple[int, ...]
    day: int


FULL = Size(
    adds=(1_000, 10_000, 100_000, 300_000),
    growth_days=365,
    hours=(10_000, 100_000, 400_000, 1_000_000),
    days=(10_000, 100_000, 400_000, 1_000_000),
    by_meter=100_000,
    range_rows=(500_000, 2_000_000, 8_000_000),
    day=10_000,
)
QUICK = Size((100, 300, 600, 1_000), 40, (1_000, 10_000), (1_000, 25_000), 10_000, (500_000,), 500)


# --- what runs in a process of its own: the log


def made_up(table: Table, count: int, first: int = 0) -> Iterator[DataFile]:
    """Files of a table that nobody wrote, numbered from `first`, as its jobs would name them."""
    chance = np.random.default_rng(first)
    for number in range(first, first + count):
        name, sha256 = chance.bytes(16).hex(), chance.bytes(32).hex()
        meters = None
        if table == READINGS:
            start, length = START + number // len(VALUES) * HOUR, HOUR
            partition = hour_partition(start)
        else:
            start, length = START + number // 600 * DAY, DAY
            partition = {k: v for k, v in hour_partition(start).items() if k != "hour"}
        if table == SERVING_READINGS:
            meters = (device_id(number), device_id(number + 1))
        if table != STAGING:
            partition = {"reading_type": VALUES[number % len(VALUES)], **partition}
        path = "/".join(f"{k}={v}" for k, v in partition.items()) + f"/part-{name}.parquet"
        last = start + length - STEP
        yield DataFile(path, 20_000_000, 2_000_000, partition, start, last, sha256, meters)


def add_files(store: Store, table: Table, count: int, first: int) -> float:
    """Commit that many made-up files; the seconds."""
    files = list(made_up(table, count, first))
    watch = Stopwatch()
    commit(store, table, Change({f"bench/{first}": 0}, add=files), now=START)
    return watch.figures()["cpu_seconds"]


def one_commit(store: Store, name: str, count: int) -> Figures:
    """All adds in one commit."""
    seconds = add_files(store, TABLES[name], count, 0)
    return Stopwatch().figures() | {
        "cpu_seconds": seconds,
        "log_mb": sum(_log(store, name, ".json")) / 1e6,
    }


def list_table(store: Store, name: str) -> Figures:
    """Open a table and list its files, in a new process."""
    watch = Stopwatch()
    files = len(snapshot(store, TABLES[name]).files)
    return watch.figures() | {"files": files}


def write_checkpoint(store: Store, name: str) -> Figures:
    """Write the checkpoint of a table."""
    delta = DeltaTable(store.uri(TABLES[name].path))
    watch = Stopwatch()
    delta.create_checkpoint()
    return watch.figures() | {"checkpoint_mb": sum(_log(store, name, ".parquet")) / 1e6}


def commits_of(store: Store, name: str, adds: int, count: int, first: int) -> Figures:
    """So many further commits: mean seconds of the last 20, the longest, and the log's size."""
    seconds = [add_files(store, TABLES[name], adds, first + n * adds) for n in range(count)]
    last = seconds[-FURTHER:]
    return {
        "cpu_seconds": sum(last) / len(last),
        "longest": max(last),
        "commits_mb": sum(_log(store, name, ".json")) / 1e6,
        "checkpoints_mb": sum(_log(store, name, ".parquet")) / 1e6,
        "checkpoints": len(_log(store, name, ".parquet")),
    }


def _log(store: Store, name: str, ending: str) -> list[int]:
    folder = Path(store.uri(TABLES[name].path), "_delta_log")
    return [f.stat().st_size for f in folder.iterdir() if f.name.endswith(ending)]


# --- what runs in a process of its own: units of work


def reads(
    ids: pl.Series, start: datetime, steps: int, *, values: tuple[str, ...] = VALUES
) -> pl.DataFrame:
    """Wide reads of some meters, drawn by chance, ordered by time."""
    meters, rows = len(ids), len(ids) * steps
    chance = np.random.default_rng([int(start.timestamp()), int(ids[0][:8], 16)])
    times = pl.datetime_range(
        start, start + (steps - 1) * STEP, STEP, time_unit="us", time_zone="UTC", eager=True
    )
    nth = np.repeat(np.arange(steps), meters)
    delay = pl.Series(chance.integers(60_000_000, 900_000_000, rows)).cast(pl.Duration("us"))
    return pl.DataFrame(
        {
            "meter_id": ids.gather(np.tile(np.arange(meters), steps)),
            "reading_date_time": times.gather(nth),
            "arrival_time": times.gather(nth) + delay,
            **{name: chance.gamma(2.0, 0.5, rows).round(3) for name in values},
            "source_row": np.arange(2, rows + 2),
        }
    )


def stage(store: Store, meters: int, steps: int) -> Figures:
    """Staging files of one delivery after the other: of `steps` steps of time, a block each."""
    files: list[DataFile] = []
    width = min(BLOCK_ROWS // steps, meters)
    for first in range(0, meters, width):
        ids = pl.Series([device_id(first + number) for number in range(width)])
        same = {
            "received_at": START + DAY,
            "source_file": f"readings_{first // DELIVERED:05d}.csv.gz",
            "source_sha256": "0" * 64,
            "delivery_id": f"{first // DELIVERED:016d}",
            "interval_seconds": 900,
            "length_source": "lake",
            "status": "raw",
        }
        files += write_reads(store, reads(ids, START, steps), same)
    commit(store, STAGING, Change({"bench": 0}, add=files), now=START)
    return {"files": len(files), "mb": sum(f.size for f in files) / 1e6}


def integrate_unit(store: Store) -> Figures:
    """Integrate the first unit of what is staged."""
    staged = snapshot(store, STAGING).files
    unit = next(plan_hours(staged, staged))
    watch = Stopwatch()
    done = integrate_hours(store, late_after=HOUR)(unit)
    figures = watch.figures() | {"hours": (unit.end - unit.start) / HOUR}
    return figures | _written(done.files, figures["cpu_seconds"])


def write_hours(store: Store, meters: int) -> Figures:
    """Integrated files of one type and day."""
    files = []
    ids = pl.Series([device_id(number) for number in range(meters)]).sort()
    by_meter = np.add.outer(np.arange(meters), meters * np.arange(4)).ravel()
    for hour in range(24):
        start = START + hour * HOUR
        wide = reads(ids, start, 4, values=("kw",))[by_meter].with_columns(
            pl.col("arrival_time").alias("_arrival"),
            pl.col("kw").alias("reading_value"),
            pl.lit(None, pl.String).alias("quality"),
            pl.lit("total").alias("channel"),
            pl.lit(900, pl.Int64).alias("interval_seconds"),
            pl.lit("lake").alias("length_source"),
            pl.lit("raw").alias("status"),
        )
        partition = {"reading_type": "kw", **hour_partition(start)}
        rows = wide.select(of_reads("kw"))
        files.append(write_file(store, READINGS, rows, partition=partition, name=f"part-{hour}"))
    commit(store, READINGS, Change({"bench": 0}, add=files), now=START)
    return {"files": len(files), "mb": sum(f.size for f in files) / 1e6}


def cluster_day(store: Store, range_rows: int) -> Figures:
    """Cluster one type and day, in files of about so many rows."""
    (unit,) = cluster.plan_days(LiveLayout(store).now(), closed_until=START + DAY)
    watch = Stopwatch()
    next(meter_ranges(store, unit.pieces, range_rows))
    cuts = watch.figures()
    watch = Stopwatch()
    files = cluster.cluster_span(store, range_rows)(unit).files
    figures = watch.figures() | {"cut_seconds": cuts["cpu_seconds"], "cut_peak_mb": cuts["peak_mb"]}
    return figures | _written(files, figures["cpu_seconds"])


def simulate(store: Store, meters: int) -> Figures:
    """Write the inbound file of a day, beside the lake."""
    plan = ReadingsPlan(
        devices=meters, interval_minutes=15, start=START, end=START + DAY, file_every=DAY
    )
    return {"rows": simulate_readings(plan, _inbox(store)).rows}


def whole_day(store: Store) -> Figures:
    """Ingest, integrate and cluster one delivered day: seconds, bytes and files of each."""
    inbox = _inbox(store)
    settings = Settings(lake=store.url, late_hooks=())
    engine, now = LocalEngine(1), START + 2 * DAY
    watch = Stopwatch()
    taken = intake.ingest(Session(store, engine, settings, now), [str(inbox)])
    ingest = watch.figures()
    derivations.integrate(Session(store, engine, settings, now))
    integrate = watch.figures()
    derivations.cluster(Session(store, engine, settings, now))
    whole = watch.figures()
    tables = {t.name: snapshot(store, t) for t in (STAGING, READINGS, SERVING_READINGS)}
    return {
        "readings": taken.readings,
        "ingest": ingest["cpu_seconds"],
        "integrate": integrate["cpu_seconds"] - ingest["cpu_seconds"],
        "cluster": whole["cpu_seconds"] - integrate["cpu_seconds"],
        "ingest_peak_mb": ingest["peak_mb"],
        "peak_mb": whole["peak_mb"],
        "inbound_bytes": sum(f.stat().st_size for f in inbox.iterdir()) / taken.readings,
        **{f"{name}_bytes": state.bytes / taken.readings for name, state in tables.items()},
        **{f"{name}_files": len(state.files) for name, state in tables.items()},
    }


def _inbox(store: Store) -> Path:
    return Path(store.url).with_name("inbox")


def _written(files: tuple[DataFile, ...], seconds: float) -> Figures:
    rows, size = sum(f.rows for f in files), sum(f.size for f in files)
    return {
        "readings": rows,
        "s_per_million": seconds / rows * 1e6,
        "files": len(files),
        "mb": size / 1e6,
        "bytes": size / rows,
    }


CHILDREN: dict[str, Callable[..., Figures]] = {
    f.__name__: f
    for f in (
        one_commit,
        list_table,
        write_checkpoint,
        commits_of,
        stage,
        integrate_unit,
        write_hours,
        cluster_day,
        simulate,
        whole_day,
    )
}


# --- what starts them


def run(lake: Path, step: Callable[..., Figures], *arguments: object) -> Figures:
    """A step in a process of its own, on one core."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("METERLAKE_")}
    script = str(Path(__file__).resolve())
    done = subprocess.run(
        [sys.executable, script, "--child", step.__name__, json.dumps([str(lake), *arguments])],
        env=environment | {"POLARS_MAX_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode != 0:
        raise SystemExit(f"{step.__name__} {arguments} failed")
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    print(f"  {step.__name__} {arguments}: {done.stdout.strip()}", file=sys.stderr, flush=True)
    return figures


def logs(work: Path, size: Size) -> dict[str, Figures]:
    """Commit, list, checkpoint, list, and 20 commits more: per table and number of adds."""
    found = {}
    tables = {
        READINGS: (size.adds, DAILY_ADDS),
        SERVING_READINGS: (size.adds[1:], DAILY_ADDS),
        STAGING: (size.adds[1:-1], 9),
    }
    for table, (counts, further) in tables.items():
        for adds in counts:
            lake = work / f"{table.name}-{adds}"
            committed = run(lake, one_commit, table.name, adds)
            listed = run(lake, list_table, table.name)
            checkpoint = run(lake, write_checkpoint, table.name)
            again = run(lake, list_table, table.name)
            more = run(lake, commits_of, table.name, further, FURTHER, adds)
            found[f"{table.name} {adds:,}"] = {
                "adds": adds,
                "commit_s": committed["cpu_seconds"],
                "commit_peak_mb": committed["peak_mb"],
                "commit_mb": committed["log_mb"],
                "list_s": listed["cpu_seconds"],
                "list_peak_mb": listed["peak_mb"],
                "checkpoint_s": checkpoint["cpu_seconds"],
                "checkpoint_mb": checkpoint["checkpoint_mb"],
                "again_s": again["cpu_seconds"],
                "again_peak_mb": again["peak_mb"],
                "further_s": more["cpu_seconds"],
                "further_longest_s": more["longest"],
            }
    return found


def growth(work: Path, size: Size) -> Figures:
    """A year of daily commits to integrated."""
    lake, name = work / "year", READINGS.name
    grown = run(lake, commits_of, name, DAILY_ADDS, size.growth_days, 0)
    listed = run(lake, list_table, name)
    return grown | {"list_s": listed["cpu_seconds"], "list_peak_mb": listed["peak_mb"]}


def units(work: Path, size: Size) -> dict[str, Figures]:
    """Units of integration and of serving, as meters grow."""
    found = {}
    steps = BLOCK_ROWS // DELIVERED
    staged = [("hour", meters, steps) for meters in size.hours]
    staged.append(("hour, delivered by meter,", size.by_meter, STEPS_A_DAY))
    for what, meters, of_steps in staged:
        with tempfile.TemporaryDirectory(dir=work) as folder:
            run(Path(folder), stage, meters, of_steps)
            found[f"{what} {meters:,}"] = run(Path(folder), integrate_unit)
    for meters in size.days:
        with tempfile.TemporaryDirectory(dir=work) as folder:
            run(Path(folder), write_hours, meters)
            for rows in size.range_rows if meters == size.by_meter else [FILE_ROWS]:
                other = "" if rows == FILE_ROWS else f", files of {rows:,}"
                found[f"day {meters:,}{other}"] = run(Path(folder), cluster_day, rows)
    return found


# --- what follows from it


def sizing(
    log: dict[str, Figures], work: dict[str, Figures], day: Figures, size: Size
) -> dict[str, Figures]:
    """What fleets need, by these rules.

    Ingest costs per reading what it costs for one delivered file. Integrate and cluster cost what
    the largest measured unit costs, times its growth over a unit of a tenth of the meters for each
    further factor of ten. What grows with meters or files, memory of a unit and the costs of a log,
    lies on the line through the two largest measured.
    """
    found = {}
    for meters in FLEETS:
        readings = meters * STEPS_A_DAY * len(VALUES)
        hours = {n: work[f"hour {n:,}"] for n in size.hours}
        days = {n: work[f"day {n:,}"] for n in size.days}
        cost = {
            "ingest": day["ingest"] / day["readings"] * 1e6,
            "integrate": _cost(hours, meters),
            "cluster": _cost(days, meters),
        }
        core_hours = {name: readings / 1e6 * each / 3600 for name, each in cost.items()}
        ranges = ceil(meters * STEPS_A_DAY / FILE_ROWS)
        figures = {
            "readings_day": readings,
            **{f"{name}_core_hours": each for name, each in core_hours.items()},
            "core_hours": sum(core_hours.values()),
            "cores": sum(core_hours.values()) / WITHIN_HOURS / USED,
            "hour_minutes": core_hours["integrate"] * 60 / 24,
            "span_minutes": core_hours["cluster"] * 60 / len(VALUES),
            "hour_gb": _on_line(hours, meters, "peak_mb") / 1e3,
            "span_gb": _on_line(days, meters, "peak_mb") / 1e3,
        }
        sizes = {
            name: day[f"{name}_bytes"] * readings / 1e9
            for name in ("inbound", STAGING.name, READINGS.name, SERVING_READINGS.name)
        }
        figures |= {f"{name}_gb_day": each for name, each in sizes.items()}
        figures["tb_year"] = sum(sizes.values()) * 365 / 1e3
        deliveries = ceil(meters / DELIVERED)
        figures |= {
            "deliveries_day": deliveries,
            "staging_files_day": deliveries * day["staging_files"],
            "readings_files_day": DAILY_ADDS,
            "serving_readings_files_day": ranges * len(VALUES),
        }
        objects = [n for name, n in figures.items() if name.endswith("files_day")]
        figures["files_year"] = 365 * (sum(objects) + deliveries)
        for table in (STAGING, READINGS, SERVING_READINGS):
            logged = {n: log[name] for n in size.adds if (name := f"{table.name} {n:,}") in log}
            files = 365 * int(figures[f"{table.name}_files_day"])
            figures |= {
                f"{table.name}_list_s": _on_line(logged, files, "again_s"),
                f"{table.name}_list_gb": _on_line(logged, files, "again_peak_mb") / 1e3,
                f"{table.name}_commit_s": _on_line(logged, files, "further_s"),
            }
            # A checkpoint every 20 commits is kept; on the average it has half a year's files.
            commits = deliveries if table == STAGING else 1
            last = _on_line(logged, files, "checkpoint_mb")
            figures[f"{table.name}_log_gb"] = commits * 365 / FURTHER * last / 2 / 1e3
        figures["ingest_commit_hours_day"] = deliveries * figures[f"{STAGING.name}_commit_s"] / 3600
        found[f"{meters:,} meters"] = figures
    return found


def _cost(measured: dict[int, Figures], meters: int) -> float:
    """Seconds per million readings, with the growth that was measured going on."""
    largest = max(measured)
    cost = measured[largest]["s_per_million"]
    tenth = min(measured, key=lambda n: abs(n - largest / 10))
    grows = max(1.0, cost / measured[tenth]["s_per_million"])
    return float(cost * grows ** log10(max(meters / largest, 1.0)))


def _on_line(measured: dict[int, Figures], count: int, name: str) -> float:
    """A figure for so many, on the line through the two largest that were measured."""
    low, high = sorted(measured)[-2:]
    slope = (measured[high][name] - measured[low][name]) / (high - low)
    return measured[high][name] + slope * (count - high)


def judge(log: dict[str, Figures], work: dict[str, Figures], size: Size) -> dict[str, Target]:
    """What must hold for the sizing to be worth anything: cost in step with readings and files."""
    few, many = (log[f"{READINGS.name} {n:,}"] for n in (size.adds[-2], size.adds[-1]))
    per_add = [of["commit_s"] / of["adds"] for of in (few, many)]
    targets = {}
    for job, what, meters in (("integrate", "hour", size.hours), ("cluster", "day", size.days)):
        cost = [work[f"{what} {n:,}"]["s_per_million"] for n in (meters[0], meters[-1])]
        title = f"{job}: cost of a reading, {meters[-1]:,} to {meters[0]:,} meters"
        targets[title] = Target(cost[1] / cost[0], "<=", 1.5)
    return targets | {
        f"commit: cost of an add, {size.adds[-1]:,} to {size.adds[-2]:,}": Target(
            per_add[1] / per_add[0], "<=", 1.5
        ),
        f"list {size.adds[-1]:,} files after a checkpoint [s]": Target(many["again_s"], "<=", 10),
    }


# --- what is printed


LOG_COLUMNS = {
    "commit_s": ("commit s", ".2f"),
    "commit_peak_mb": ("peak MB", ",.0f"),
    "commit_mb": ("commit MB", ",.1f"),
    "list_s": ("open and list s", ".2f"),
    "list_peak_mb": ("peak MB", ",.0f"),
    "checkpoint_s": ("checkpoint s", ".2f"),
    "checkpoint_mb": ("checkpoint MB", ",.1f"),
    "again_s": ("then list s", ".2f"),
    "again_peak_mb": ("peak MB", ",.0f"),
    "further_s": ("a further commit s", ".3f"),
    "further_longest_s": ("with checkpoint s", ".2f"),
}
UNIT_COLUMNS = {
    "readings": ("readings", ",.0f"),
    "cpu_seconds": ("processor s", ".2f"),
    "s_per_million": ("s per million", ".3f"),
    "peak_mb": ("peak MB", ",.0f"),
    "files": ("files", ",.0f"),
    "mb": ("MB", ",.1f"),
    "bytes": ("bytes a reading", ".2f"),
}

CUT_COLUMNS = {
    "cut_seconds": ("processor s", ".2f"),
    "cut_peak_mb": ("peak MB", ",.0f"),
}


def rows(title: str, loads: dict[str, Figures], columns: dict[str, tuple[str, str]]) -> list[str]:
    """Some loads in Markdown, one a row."""
    return [
        f"| {title} | {' | '.join(name for name, _ in columns.values())} |",
        f"|---|{'--:|' * len(columns)}",
        *(
            f"| {name} | {' | '.join(format(of[c], form) for c, (_, form) in columns.items())} |"
            for name, of in loads.items()
        ),
        "",
    ]


def fleet_rows(fleets: dict[str, Figures]) -> list[str]:
    """Fleets in Markdown, one a column; none, where small sizes say nothing of them."""
    out = [f"| | {' | '.join(fleets)} |", f"|---|{'--:|' * len(fleets)}"] if fleets else []
    for name in next(iter(fleets.values()), {}):
        values = [of[name] for of in fleets.values()]
        shown = (format(value, ",.4g" if value < 1e4 else ",.0f") for value in values)
        out.append(f"| {name} | {' | '.join(shown)} |")
    return out


def names_and_values(figures: Figures) -> str:
    """Figures in one line."""
    return ", ".join(f"{name} {value:,.4g}" for name, value in figures.items())


def child(name: str, arguments: str) -> int:
    """Do one step and print its figures as the last line."""
    lake, *numbers = json.loads(arguments)
    print(json.dumps(CHILDREN[name](open_store(lake), *numbers)), flush=True)
    return 0


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        epilog="Example: python benchmarks/scale.py --json",
    )
    parser.add_argument("--quick", action="store_true", help="small and short; judges no target")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    options = parser.parse_args()
    size = QUICK if options.quick else FULL
    command = f"command: python benchmarks/scale.py {' '.join(sys.argv[1:])}".rstrip()
    print(command, *machine(), "", sep="\n", flush=True)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory(prefix="meterlake-bench-") as folder:
        work = Path(folder)
        run(work / "day", simulate, size.day)
        day = run(work / "day", whole_day)
        print(f"one delivered day: {names_and_values(day)}", "", sep="\n", flush=True)
        log = logs(work, size)
        print(*rows("table and adds", log, LOG_COLUMNS), sep="\n", flush=True)
        year = growth(work, size)
        print(f"{size.growth_days} commits: {names_and_values(year)}", "", sep="\n", flush=True)
        done = units(work, size)
        print(*rows("unit, meters", done, UNIT_COLUMNS), sep="\n", flush=True)
        cuts = {name: of for name, of in done.items() if "cut_seconds" in of}
        print(*rows("of it, finding where to cut", cuts, CUT_COLUMNS), sep="\n", flush=True)
    fleets = {} if options.quick else sizing(log, done, day, size)
    print(*fleet_rows(fleets), sep="\n")
    figures = {"day": day, "year": year, **log, **done, **fleets}
    return conclude(
        "scale", figures, judge(log, done, size), quick=options.quick, as_json=options.json
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        sys.exit(child(sys.argv[2], sys.argv[3]))
    sys.exit(main())
