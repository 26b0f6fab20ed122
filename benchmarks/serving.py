"""How fast one meter's history is there, and what the layout that makes it so costs.

    python benchmarks/serving.py           # half an hour the first time, then some minutes
    python benchmarks/serving.py --quick   # 300 meters, 12 days; judges nothing
    python benchmarks/serving.py --json    # the last line is one JSON object

A lake of 10,000 meters x 90 days x 15 minutes, six types, 518 million readings, is made once and
kept; a run works on copies of it. It is clustered day by day, as a lake that lives is, so the
last days are files of their own and the earlier ones runs of days.
"""

import argparse
import hashlib
import io
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import duckdb
import polars as pl
from arro3.core import Table as ArrowTable
from reporting import Figures, Target, conclude, machine

from meterlake.delta.commit import snapshot
from meterlake.delta.store import Store, open_store
from meterlake.engine.local import LocalEngine
from meterlake.ingest import intake
from meterlake.integrate import derivations
from meterlake.integrate.cluster import clustered
from meterlake.pipeline.derivation import Derivation, Made, Session
from meterlake.pipeline.runner import Outcome, bring_up
from meterlake.readings.layout import LiveLayout
from meterlake.readings.reader import Reader
from meterlake.schema import READINGS, SERVING_READINGS
from meterlake.settings import Settings
from meterlake.simulate.readings import ReadingsPlan, device_id, simulate_readings

START = datetime(2024, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
WINDOW = 30 * DAY
ENGINE = LocalEngine(2)


@dataclass(frozen=True)
class Size:
    """How much is measured: all of it, or the quick form."""

    meters: int
    young: int
    grown: int
    more: int
    window: timedelta
    questions: int
    rival_questions: int


FULL = Size(10_000, 30, 90, 3, WINDOW, 400, 15)
QUICK = Size(300, 4, 12, 1, 4 * DAY, 20, 3)


# --- the lakes


def deliver(day: int, size: Size, folder: Path) -> Path:
    """The inbound files of one day."""
    shutil.rmtree(folder, ignore_errors=True)
    start = START + day * DAY
    simulate_readings(
        ReadingsPlan(
            devices=size.meters, interval_minutes=15, start=start, end=start + DAY, file_every=DAY
        ),
        folder,
    )
    return folder


STEPS = {SERVING_READINGS.name: "cluster"}  # of a clustering; the others are of energy


def ingest(store: Store, inbox: Path, now: datetime) -> None:
    done = intake.ingest(Session(store, ENGINE, settings(store), now), [str(inbox)])
    if done.failures or done.quarantined:
        raise SystemExit(f"the simulated files were not taken in: {done.failures}")


def integrate(store: Store, now: datetime) -> None:
    derivations.integrate(Session(store, ENGINE, settings(store), now))


def settings(store: Store) -> Settings:
    return Settings(lake=store.url, late_hooks=())


def morning_after(days: int) -> datetime:
    """The moment at which a lake of so many days is clustered."""
    return START + days * DAY + timedelta(hours=12)


def base_lakes(cache: Path, size: Size, tell: Callable[[str], None]) -> tuple[Path, Path]:
    """Integrated lakes of few and of many days, made the first time they are asked for."""
    folder = cache / f"{_code()}-{size.meters}-meters-{size.grown}-days"
    young, grown = folder / "young", folder / "grown"
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        store = open_store(str(grown))
        for day in range(size.grown):
            tell(f"making day {day + 1} of {size.grown}")
            if day == size.young:
                _copy(grown, young)
            ingest(store, deliver(day, size, folder / "inbox"), morning_after(day + 1))
            integrate(store, morning_after(day + 1))
        (folder / "done").touch()
    return young, grown


@contextmanager
def copy_of(base: Path) -> Iterator[Store]:
    """A copy beside the base, for one run; files are never changed, so links will do."""
    with tempfile.TemporaryDirectory(prefix="run-", dir=base.parent) as folder:
        _copy(base, Path(folder) / "lake")
        yield open_store(str(Path(folder) / "lake"))


def cluster_by_day(store: Store, size: Size, days: int, tell: Callable[[str], None]) -> None:
    """Cluster as the days pass; all at once up to the last ones, which makes the same files."""
    for day in (days - 10, *range(days - 9, days + 1)):
        if day > 0:
            tell(f"clustering up to day {day} of {days}")
            derivations.cluster(Session(store, ENGINE, settings(store), morning_after(day)))


# --- what is measured


def ask(question: Callable[[str, datetime], int], asked: Sequence[tuple[str, datetime]]) -> Figures:
    """Milliseconds of each question: median and 99th percentile, after one unmeasured."""
    question(*asked[0])
    times = []
    for meter, start in asked:
        began = time.perf_counter()
        rows = question(meter, start)
        times.append((time.perf_counter() - began) * 1000)
        if rows == 0:
            raise SystemExit(f"no reading of {meter} from {start}")
    times.sort()
    return {
        "median_ms": median(times),
        "p99_ms": times[min(len(times) - 1, int(len(times) * 0.99))],
        "rows": float(rows),
    }


def questions(size: Size, days: int, count: int, *, last: bool) -> list[tuple[str, datetime]]:
    """Meters drawn by chance, with windows drawn too, or the last days."""
    chance = random.Random(7)
    end = START + days * DAY
    quarters = int((end - START - size.window) / timedelta(minutes=15))
    return [
        (
            device_id(chance.randrange(size.meters)),
            end - size.window if last else START + chance.randrange(quarters + 1) * (DAY / 96),
        )
        for _ in range(count)
    ]


def by_reader(store: Store, size: Size) -> Callable[[str, datetime], int]:
    reader = Reader(store)
    return lambda meter, start: len(
        reader.readings([meter], reading_types=["kw"], start=start, end=start + size.window)
    )


def by_duckdb_over_hours(store: Store, size: Size) -> Callable[[str, datetime], int]:
    """DuckDB over just the hour files that the window needs: the kindest way there is."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    layout = LiveLayout(store).now()

    def question(meter: str, start: datetime) -> int:
        end = start + size.window
        pieces = layout.pieces("kw", start, end, by_meter=False)
        files = [store.uri(f"{READINGS.path}/{f.path}") for p in pieces for f in p.files]
        return _rows(
            connection,
            "SELECT * FROM read_parquet($files) WHERE meter_id = $meter "
            "AND reading_date_time >= $start AND reading_date_time < $end",
            {"files": files, "meter": meter, "start": start, "end": end},
        )

    return question


def by_duckdb_table(store: Store, size: Size, folder: Path) -> Callable[[str, datetime], int]:
    """DuckDB's own table of kw, sorted by meter and time."""
    connection = duckdb.connect(str(folder / "kw.duckdb"))
    connection.execute("SET TimeZone = 'UTC'")
    files = [
        store.uri(f"{SERVING_READINGS.path}/{f.path}")
        for f in snapshot(store, SERVING_READINGS).files
        if f.partition["reading_type"] == "kw"
    ]
    connection.execute(
        "CREATE TABLE kw AS SELECT * FROM read_parquet($files) "
        "ORDER BY meter_id, reading_date_time",
        {"files": files},
    )
    return lambda meter, start: _rows(
        connection,
        "SELECT * FROM kw WHERE meter_id = $meter "
        "AND reading_date_time >= $start AND reading_date_time < $end",
        {"meter": meter, "start": start, "end": start + size.window},
    )


def _rows(connection: duckdb.DuckDBPyConnection, sql: str, asked: dict[str, object]) -> int:
    """The answer's rows, in memory and counted."""
    return ArrowTable.from_arrow(connection.sql(sql, params=asked)).num_rows


def by_one_sorted_file(
    store: Store, size: Size, days: int, path: Path
) -> Callable[[str, datetime], int]:
    """The floor: the very readings asked for in one file, sorted, known to hold no others."""
    end = START + days * DAY
    pieces = LiveLayout(store).now().pieces("kw", end - size.window, end)
    rows = pl.concat(clustered(store, pieces)).sort("meter_id", "reading_date_time")
    rows.write_parquet(path, compression="zstd", compression_level=1, row_group_size=16_384)
    return lambda meter, _: (
        pl.scan_parquet(path).filter(pl.col("meter_id") == meter).collect().height
    )


def one_more_day(store: Store, size: Size, day: int, inbox: Path) -> Figures:
    """Seconds of each step for one more day."""
    seconds: dict[str, float] = {}
    now = morning_after(day + 1)
    ingest(store, deliver(day, size, inbox), now)
    os.sync()
    began = time.perf_counter()
    integrate(store, now)
    seconds["integrate"] = time.perf_counter() - began

    def timed(session: Session, derivation: Derivation[Made], **options: Any) -> Outcome[Made]:
        began = time.perf_counter()
        outcome = bring_up(session, derivation, **options)
        into = STEPS.get(derivation.name, "energy")
        into = "merge" if derivation.rearranges else into
        seconds[into] = seconds.get(into, 0.0) + time.perf_counter() - began
        return outcome

    with mock.patch.object(derivations, "bring_up", timed):
        began = time.perf_counter()
        done = derivations.cluster(Session(store, ENGINE, settings(store), now))
        seconds["all_of_cluster"] = time.perf_counter() - began
    if done.days != 6 or done.consumption_days != 1:
        raise SystemExit(f"one more day was clustered otherwise: {done}")
    return seconds


def sizes(store: Store, day: datetime) -> Figures:
    """Bytes per reading of each table, and of one day's readings sorted and packed at will."""
    serving, integrated = snapshot(store, SERVING_READINGS), snapshot(store, READINGS)
    layout = LiveLayout(store).now()
    kinds = layout.reading_types
    packed = rows = 0
    for kind in kinds:
        pieces = layout.pieces(kind, day, day + DAY)
        for frame in clustered(store, pieces):
            buffer = io.BytesIO()
            frame.write_parquet(
                buffer, compression="zstd", compression_level=9, row_group_size=frame.height
            )
            packed, rows = packed + buffer.tell(), rows + frame.height
    return {
        "serving": serving.bytes / serving.rows,
        "integrated": integrated.bytes / integrated.rows,
        "floor": packed / rows,
    }


# --- what is printed


NAMES = {
    "last": "**meterlake**, the last 30 days",
    "any": "**meterlake**, any 30 days of 90",
    "young": "**meterlake**, the last 30 days, lake of 30 days",
    "hours": "DuckDB over the hour files of the window, listed for it",
    "table": "DuckDB, its own table of kw, sorted by meter",
    "floor": "the floor: Polars, one sorted file of just these 30 days",
}


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        epilog="Example: python benchmarks/serving.py --json. The lake (about 11 GB) is kept in "
        "METERLAKE_BENCH_CACHE, or in meterlake-bench in the folder for temporary files.",
    )
    parser.add_argument("--quick", action="store_true", help="small and short; judges no target")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    options = parser.parse_args()
    size = QUICK if options.quick else FULL
    command = f"command: python benchmarks/serving.py {' '.join(sys.argv[1:])}".rstrip()
    print(command, *machine(), "", sep="\n", flush=True)
    place = Path(tempfile.gettempdir()) / "meterlake-bench"
    cache = Path(os.environ.get("METERLAKE_BENCH_CACHE") or place).absolute()

    def tell(text: str) -> None:
        print(f"  {text}", file=sys.stderr, flush=True)

    young, grown = base_lakes(cache, size, tell)
    figures: dict[str, Figures] = {}
    count = size.questions
    with copy_of(young) as store:
        cluster_by_day(store, size, size.young, tell)
        last = questions(size, size.young, count, last=True)
        figures["young"] = ask(by_reader(store, size), last)
    with copy_of(grown) as store:
        folder = Path(store.url).parent
        cluster_by_day(store, size, size.grown, tell)
        last = questions(size, size.grown, count, last=True)
        some = questions(size, size.grown, count, last=False)
        figures["last"] = ask(by_reader(store, size), last)
        figures["any"] = ask(by_reader(store, size), some)
        few = size.rival_questions
        figures["hours"] = ask(by_duckdb_over_hours(store, size), last[:few])
        sorted_file = folder / "floor.parquet"
        figures["floor"] = ask(by_one_sorted_file(store, size, size.grown, sorted_file), last)
        figures["table"] = ask(by_duckdb_table(store, size, folder), last)
        figures["bytes"] = sizes(store, START + 40 * DAY if size is FULL else START + DAY)
        days = [
            one_more_day(store, size, size.grown + n, folder / "inbox") for n in range(size.more)
        ]
        figures["day"] = {name: median(day.get(name, 0.0) for day in days) for name in days[0]}
    for name in ("cluster", "energy"):
        figures["day"][f"{name}_ratio"] = median(day[name] / day["integrate"] for day in days)
    print("| one meter, kw | median ms | p99 ms | rows | times meterlake |", sep="\n")
    print("|---|--:|--:|--:|--:|")
    for name, title in NAMES.items():
        of = figures[name]
        times = of["median_ms"] / figures["last"]["median_ms"]
        print(
            f"| {title} | {of['median_ms']:.1f} | {of['p99_ms']:.1f} | {of['rows']:,.0f} "
            f"| {times:.2f} |"
        )
    day, size_of = figures["day"], figures["bytes"]
    print(
        "",
        "| one more day | s | times integrate |",
        "|---|--:|--:|",
        *(
            f"| {title} | {day[name]:.2f} | {day[name] / day['integrate']:.2f} |"
            for name, title in {
                "integrate": "integrate",
                "cluster": "cluster: days by meter",
                "merge": "merge runs of days (that day's, if one ended)",
                "energy": "energy per day, week, month",
                "all_of_cluster": "all of cluster, with reading the log",
            }.items()
        ),
        "",
        "| bytes per reading | |",
        "|---|--:|",
        *(f"| {name} | {value:.2f} |" for name, value in size_of.items()),
        sep="\n",
    )
    slowest = max(figures[n]["median_ms"] for n in ("last", "any"))
    targets = {
        "one meter, 30 days: median [ms]": Target(slowest, "<=", 10),
        "one meter, 30 days: p99 [ms]": Target(
            max(figures[n]["p99_ms"] for n in ("last", "any")), "<=", 40
        ),
        "times faster than DuckDB over the hours": Target(
            figures["hours"]["median_ms"] / figures["last"]["median_ms"], ">=", 50
        ),
        "times the time, from 30 to 90 days": Target(
            figures["last"]["median_ms"] / figures["young"]["median_ms"], "<", 1.5
        ),
        "clustering, times integrating the day": Target(day["cluster_ratio"], "<=", 0.5),
        "energy, times integrating the day": Target(day["energy_ratio"], "<=", 0.2),
        "bytes per reading in serving": Target(size_of["serving"], "<=", 4),
    }
    return conclude("serving", figures, targets, quick=options.quick, as_json=options.json)


def _copy(base: Path, copy: Path) -> None:
    shutil.copytree(base, copy, copy_function=os.link)


def _code() -> str:
    """A short name of the code that makes the base: other code, other lake."""
    source = Path(__file__).resolve().parent.parent / "src" / "meterlake"
    files = [
        *sorted((source / "simulate").glob("*.py")),
        *sorted((source / "ingest").glob("*.py")),
        source / "integrate" / "hours.py",
    ]
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()[:8]


if __name__ == "__main__":
    sys.exit(main())
