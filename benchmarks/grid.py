"""How fast a day of the grid is worked out, and how well outages are found.

    python benchmarks/grid.py           # some minutes
    python benchmarks/grid.py --quick   # 600 meters, few days; judges nothing
    python benchmarks/grid.py --json    # the last line is one JSON object

Speed: 10,000 meters and one day on the topology of ../shared/data/topology, or on a simulated one
where that is not there. Beside it volt/var in the way that it is usually done: one SQL query for
each transformer and hour, on the same readings.

Outages: so many days of a simulated grid, outages of transformers injected, and 5 % of all reads
taken away by chance. An outage that was found is right where it overlaps one that was injected
at the same transformer, and one that was injected is found where it overlaps one that was found.
"""

import argparse
import gzip
import io
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from statistics import median

import duckdb
import polars as pl
from reporting import Figures, Target, conclude, machine

from meterlake.dataflows.run import Scope, run_dataflow
from meterlake.delta.store import Store, open_store
from meterlake.engine.local import LocalEngine
from meterlake.grid.derivations import GRID, update_grid
from meterlake.ingest import intake
from meterlake.integrate import derivations
from meterlake.integrate.derivations import cluster
from meterlake.pipeline.derivation import Session
from meterlake.questions.sql import query
from meterlake.settings import Settings
from meterlake.simulate.grid import meters_of, simulate_grid
from meterlake.simulate.readings import ReadingsPlan, simulate_readings

SHIPPED = Path(__file__).resolve().parents[2] / "shared" / "data" / "topology"
NEAR = (47.61, -122.33)
START = datetime(2024, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
MISSING = 0.05  # share of the reads that are taken away
ENGINE = LocalEngine(2)


@dataclass(frozen=True)
class Size:
    """How much is measured: all of it, or the quick form."""

    meters: int
    days: int
    rounds: int
    queries: int


FULL = Size(10_000, 14, 5, 144)
QUICK = Size(600, 4, 2, 12)


def settings(store: Store) -> Settings:
    return Settings(lake=store.url, late_hooks=(), workers=2)


def lake_of(folder: Path, topology: Path, meters: int, days: int, *, truth: bool) -> Store:
    """A lake with readings and topology; with a truth, faults and missing reads are in it."""
    chosen = meters_of(topology, most=min(meters, len(meters_of(topology))))
    plan = ReadingsPlan(
        devices=len(chosen), meters=chosen, interval_minutes=15, start=START,
        end=START + days * DAY,
    )  # fmt: skip
    inbox = folder / "inbox"
    simulate_readings(plan, inbox, truth=folder / "truth.parquet" if truth else None)
    if truth:
        for number, path in enumerate(sorted(inbox.iterdir())):
            thin_out(path, random.Random(number))
    store = open_store(str(folder / "lake"))
    now = START + (days + 1) * DAY
    conf = settings(store)
    intake.ingest(Session(store, ENGINE, conf, now), [str(inbox)])
    derivations.integrate(Session(store, ENGINE, conf, now))
    cluster(Session(store, ENGINE, conf, now))
    run_dataflow(store, "topology", Scope(str(topology)), settings=conf, now=now)
    return store


def thin_out(path: Path, chance: random.Random) -> None:
    """Take rows of a file away by chance."""
    header, *rows = gzip.decompress(path.read_bytes()).decode().splitlines()
    kept = [row for row in rows if chance.random() >= MISSING]
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=1, mtime=0) as file:
        file.write("\n".join([header, *kept, ""]).encode())
    path.write_bytes(out.getvalue())


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def speed(folder: Path, size: Size) -> Figures:
    """Seconds of one day: each of the tables, all of them, and volt/var by queries."""
    topology = SHIPPED
    if size is QUICK or not SHIPPED.exists():
        topology = folder / "topology"
        simulate_grid(size.meters, NEAR, topology)
    store = lake_of(folder, topology, size.meters, 1, truth=False)
    rounds: dict[str, list[float]] = {name: [] for name in (*GRID, "all")}
    for _ in range(size.rounds):
        for name in GRID:
            rounds[name].append(timed(partial(update, store, name)))
        rounds["all"].append(sum(rounds[name][-1] for name in GRID))
    figures: Figures = {f"{name}_seconds": median(rounds[name]) for name in rounds}
    transformers = query(
        store, "SELECT DISTINCT distribution_transformer_id AS id FROM meter_topology"
    )["id"].to_list()
    asked = [(transformer, hour) for transformer in transformers for hour in range(24)]
    some = random.Random(1).sample(asked, min(size.queries, len(asked)))
    with duckdb.connect() as kept:
        prepare(kept, store)
        ways = {
            "query": lambda transformer, hour: query(store, asked_for(transformer, hour)),
            "duckdb": lambda transformer, hour: kept.sql(asked_for(transformer, hour)).fetchall(),
        }
        for name, ask in ways.items():
            each = timed(lambda ask=ask: [ask(*one) for one in some]) / len(some)  # type: ignore[misc]
            figures[f"{name}_seconds"] = each * len(asked)
            figures[f"times_faster_than_{name}"] = each * len(asked) / median(rounds["volt-var"])
    figures["queries_asked"], figures["queries_in_all"] = len(some), len(asked)
    return figures


def prepare(connection: duckdb.DuckDBPyConnection, store: Store) -> None:
    """One connection for all queries: the topology in memory, the hours' files as a view."""
    topology = query(store, "SELECT * FROM meter_topology").to_arrow()
    connection.register("delivered", topology)
    connection.execute("CREATE TABLE meter_topology AS SELECT * FROM delivered")
    files = f"{store.url}/integrated/readings/parquet/*/*/*/*/*/*.parquet"
    connection.execute(
        f"CREATE VIEW readings AS SELECT * FROM read_parquet('{files}', hive_partitioning = true, "
        "hive_types_autocast = false)"
    )


def update(store: Store, name: str) -> None:
    update_grid(Session(store, ENGINE, settings(store), START + 3 * DAY), GRID[name], rebuild=True)


def asked_for(transformer: str, hour: int) -> str:
    """SQL of the voltages of one transformer and hour."""
    start = START + timedelta(hours=hour)
    return (
        "SELECT avg(reading_value), min(reading_value), max(reading_value), "
        "quantile_cont(reading_value, 0.95) FROM readings JOIN meter_topology USING (meter_id) "
        f"WHERE reading_type = 'vltg' AND distribution_transformer_id = '{transformer}' "
        f"AND year = '{start:%Y}' AND month = '{start:%m}' AND day = '{start:%d}' "
        f"AND hour = '{start:%H}'"
    )


def outages(folder: Path, size: Size) -> Figures:
    """Precision and recall of the outages of transformers."""
    topology = folder / "topology"
    simulate_grid(size.meters, NEAR, topology)
    store = lake_of(folder, topology, size.meters, size.days, truth=True)
    for name in ("meter-supply", "outages"):
        update(store, name)
    found = query(
        store, "SELECT id, start, \"end\" FROM outages WHERE level = 'service_transformer'"
    )
    injected = (
        pl.read_parquet(folder / "truth.parquet")
        .filter(pl.col("kind") == "outage")
        .select(pl.col("transformer").alias("id"), "start", "end")
        .unique()
    )
    others = query(
        store,
        "SELECT count(*) FROM outages WHERE level NOT IN ('meter', 'service_transformer')",
    ).item()
    exact = found.join(injected, on=["id", "start", "end"], how="semi").height
    return {
        "outages_injected": injected.height,
        "outages_found": found.height,
        "outages_exact": exact,
        "outages_of_higher_nodes": others,
        "precision": overlapping(found, injected) / max(1, found.height),
        "recall": overlapping(injected, found) / max(1, injected.height),
    }


def overlapping(these: pl.DataFrame, those: pl.DataFrame) -> int:
    """How many of these overlap one of those at the same transformer."""
    pairs = these.with_row_index("number").join(those, on="id", suffix="_other")
    both = pairs.filter(
        pl.col("start") < pl.col("end_other"), pl.col("end") > pl.col("start_other")
    )
    return both["number"].n_unique()


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        epilog="Example: python benchmarks/grid.py --json",
    )
    parser.add_argument("--quick", action="store_true", help="small and short; judges no target")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    options = parser.parse_args()
    size = QUICK if options.quick else FULL
    lines = [f"command: python benchmarks/grid.py {' '.join(sys.argv[1:])}".rstrip(), *machine()]
    print(*lines, "", sep="\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="meterlake-grid-") as folder:
        figures = {
            "speed": speed(Path(folder) / "speed", size),
            "outages": outages(Path(folder) / "outages", size),
        }
    print("| | |", "|---|--:|", sep="\n")
    for of in figures.values():
        for name, figure in of.items():
            print(f"| {name.replace('_', ' ')} | {figure:,.3f} |")
    fast, found = figures["speed"], figures["outages"]
    targets = {
        "seconds of a day, all tables": Target(fast["all_seconds"], "<=", 5),
        "volt/var, times faster than a query each": Target(
            fast["times_faster_than_query"], ">=", 20
        ),
        "precision of outages": Target(found["precision"], ">=", 0.95),
        "recall of outages": Target(found["recall"], ">=", 0.95),
    }
    return conclude("grid", figures, targets, quick=options.quick, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
