"""How fast an inbound file becomes readings in the lake, next to what else people would use.

    python benchmarks/ingest.py            # some minutes, a free machine
    python benchmarks/ingest.py --quick    # 1,000 meters, judges nothing
    python benchmarks/ingest.py --json     # the last line is one JSON object

Every load runs in a process of its own, in turns, on the same gzip file of 10,000 meters x
1 day x 15 minutes. Times are from the first call to the committed result, without imports; the
median of the rounds counts. Whatever a load says, the readings it left are counted.
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import isnan, nan
from pathlib import Path
from statistics import median

import rivals
from reporting import Target, conclude, machine
from rivals import Figures, NotInstalled, Stopwatch

ROUNDS = 3
STEPS_A_DAY = 96
READINGS_A_ROW = 6
START = datetime(2024, 1, 1, tzinfo=UTC)

NAMES = {
    "meterlake": "**meterlake**: ingest + integrate, committed",
    "floor": "the floor: Polars scan with typed columns, unpivot, write; no commit",
    "floor_text": "the same, times read as text and parsed after",
    "worker": "Python line by line, a JSON object per reading (extrapolated)",
    "lines": "Python line by line, parsed only (extrapolated)",
    "duckdb": "DuckDB, sorted native table",
    "chdb": "embedded ClickHouse (chdb), MergeTree",
    "postgresql": "PostgreSQL, COPY, unpivot, unique index",
}
DATABASES = ("duckdb", "chdb", "postgresql")
SLOW = ("worker", "lines", "postgresql")


@dataclass(frozen=True)
class Size:
    """How much is measured: all of it, or the quick form."""

    devices: int
    rounds: int
    rivals: tuple[str, ...]
    grown_days: int

    @property
    def readings(self) -> int:
        """Readings of one day."""
        return self.devices * STEPS_A_DAY * READINGS_A_ROW


FULL = Size(10_000, ROUNDS, ("worker", "lines", *DATABASES), 30)
QUICK = Size(1_000, 1, ("worker", "lines", "duckdb"), 2)


# --- what runs in a process of its own


def load_meterlake(file: Path, folder: Path) -> Figures:
    """Ingest and integrate one more file into the lake in a folder."""
    began = time.perf_counter()
    import polars as pl

    from meterlake.delta.commit import snapshot
    from meterlake.delta.store import open_store
    from meterlake.delta.table import scan
    from meterlake.engine.local import LocalEngine
    from meterlake.ingest import intake
    from meterlake.integrate import derivations
    from meterlake.pipeline.derivation import Session
    from meterlake.schema import READINGS
    from meterlake.settings import Settings

    settings = Settings(lake=str(folder / "lake"))
    store, engine = open_store(settings.lake), LocalEngine(settings.workers)
    imports = time.perf_counter() - began
    now = datetime.now(UTC)
    watch = Stopwatch()
    taken = intake.ingest(Session(store, engine, settings, now), [str(file)])
    ingest = watch.figures()
    brought = derivations.integrate(Session(store, engine, settings, now))
    total = watch.figures()
    if taken.failures or taken.quarantined or brought.added != taken.readings:
        raise SystemExit(f"meterlake's counts do not balance: {taken}, {brought}")
    live = snapshot(store, READINGS).files
    return total | {
        "import_seconds": imports,
        "ingest_seconds": ingest["seconds"],
        "integrate_seconds": total["seconds"] - ingest["seconds"],
        "ingest_peak_mb": ingest["peak_mb"],
        "readings": scan(store, READINGS, live).select(pl.len()).collect().item(),
    }


def simulate(folder: Path, devices: int, days: int, file_days: int) -> Figures:
    """Write the inbound files of some days."""
    from meterlake.simulate.readings import ReadingsPlan, simulate_readings

    plan = ReadingsPlan(
        devices=devices,
        interval_minutes=24 * 60 // STEPS_A_DAY,
        start=START,
        end=START + timedelta(days=days),
        file_every=timedelta(days=file_days),
    )
    return {"rows": simulate_readings(plan, folder).rows}


def child(name: str, arguments: list[str]) -> int:
    """Do one thing and print its figures as the last line."""
    try:
        if name == "simulate":
            folder, *numbers = arguments
            devices, days, file_days = (int(n) for n in numbers)
            figures = simulate(Path(folder), devices, days, file_days)
        else:
            load = {"meterlake": load_meterlake, **rivals.LOADS}[name]
            figures = load(Path(arguments[0]), Path(arguments[1]))
    except NotInstalled:
        figures = {}
    print(json.dumps(figures), flush=True)
    return 0


# --- what starts them


class Bench:
    """Runs loads one after another, each in its own process and its own new folder."""

    def __init__(self, cache: Path, work: Path, tell: Callable[[str], None]) -> None:
        self._cache = cache
        self._work = work
        self._tell = tell

    def files(self, devices: int, days: int, *, file_days: int = 1) -> list[Path]:
        """The inbound files of some days, made the first time they are asked for."""
        folder = self._cache / f"{_simulator()}-{devices}-meters-{days}-days-{file_days}-a-file"
        if not folder.exists():
            self._tell(f"simulating {devices:,} meters x {days} days")
            partial = folder.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            self._run("simulate", str(partial), str(devices), str(days), str(file_days))
            partial.rename(folder)
        return sorted(folder.glob("*.csv.gz"))

    def load(self, name: str, file: Path, *, readings: int, into: Path | None = None) -> Figures:
        """Load one file and check what is there; {} where the rival is not installed."""
        folder = into or self._work / name
        folder.mkdir(parents=True, exist_ok=True)
        _warm(file)
        os.sync()
        figures = self._run(name, str(file), str(folder))
        if into is None:
            shutil.rmtree(folder)
        if figures and name not in ("lines", "worker") and figures["readings"] != readings:
            raise SystemExit(f"{name}: {figures['readings']:,.0f} readings, not {readings:,}")
        if figures:
            self._tell(f"{name}: {figures['seconds']:.2f} s")
        return figures

    def folder(self, name: str) -> Path:
        """A folder that stays from load to load."""
        return self._work / name

    def _run(self, *arguments: str) -> Figures:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("METERLAKE_")}
        command = [sys.executable, str(Path(__file__).resolve()), "--child", *arguments]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, cwd=self._work, env=environment
        ) as process:
            try:
                said, _ = process.communicate()
            except BaseException:
                process.terminate()  # it may have a server to stop
                raise
        if process.returncode != 0:
            raise SystemExit(f"{arguments[0]} failed")
        figures: Figures = json.loads(said.splitlines()[-1])
        return figures


@contextmanager
def bench(tell: Callable[[str], None]) -> Iterator[Bench]:
    """A bench in a folder of its own, removed afterwards; the simulated files are kept."""
    place = Path(tempfile.gettempdir()) / "meterlake-bench"
    cache = Path(os.environ.get("METERLAKE_BENCH_CACHE") or place).absolute()
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="meterlake-bench-") as work:
        Path(work).chmod(0o755)  # a database's own user must get to its folder
        yield Bench(cache, Path(work), tell)


def side_by_side(bench: Bench, size: Size) -> dict[str, Figures]:
    """Every load's medians over the rounds, all in turns.

    `ratio` is meterlake's time per reading to the load's, each from the same round.
    """
    (file,) = bench.files(size.devices, 1)
    runs: dict[str, list[Figures]] = {}
    names = ("meterlake", "floor", "floor_text", *size.rivals)
    for name in names:
        if name not in SLOW:  # once unmeasured: the first start reads programs from disk
            bench.load(name, file, readings=size.readings)
    for number in range(size.rounds):
        for name in names:
            if name == "postgresql" and number > 0:
                continue  # long, and far from a close race
            if figures := bench.load(name, file, readings=size.readings):
                runs.setdefault(name, []).append(figures)
                figures["ratio"] = _speed(figures) / _speed(runs["meterlake"][number])
    return {name: _medians(figures) for name, figures in runs.items()}


def long_file(bench: Bench, size: Size) -> Figures:
    """One file four times as long, into a new lake."""
    (file,) = bench.files(size.devices, 4, file_days=4)
    runs = [bench.load("meterlake", file, readings=4 * size.readings) for _ in range(size.rounds)]
    return _medians(runs)


def growth(bench: Bench, size: Size) -> dict[str, Figures]:
    """A further day's load into a lake of one day and into one of many, in turns."""
    days = size.grown_days
    files = bench.files(size.devices, days + ROUNDS)
    young, grown = bench.folder("young"), bench.folder("grown")

    def load(folder: Path, day: int) -> Figures:
        return bench.load("meterlake", files[day], readings=(day + 1) * size.readings, into=folder)

    for day in range(days):
        load(grown, day)
    load(young, 0)
    pairs = [(load(young, 1 + n), load(grown, days + n)) for n in range(ROUNDS)]
    return {
        "young": _medians([pair[0] for pair in pairs]),
        "grown": _medians([pair[1] for pair in pairs]),
    }


def judge(loads: dict[str, Figures], long: Figures, grown: dict[str, Figures]) -> dict[str, Target]:
    """What issue 2 asks of the figures."""
    ours = loads["meterlake"]
    targets = {
        "times the floor": Target(loads["floor"]["ratio"], "<=", 2.0),
        "times the readings/s of line by line": Target(1 / loads["worker"]["ratio"], ">=", 10.0),
    }
    for name in DATABASES:
        if name in loads:
            targets[f"times the time of {name}"] = Target(loads[name]["ratio"], "<", 1.0)
    growth = grown["grown"]["seconds"] / grown["young"]["seconds"]
    return targets | {
        "peak memory [MB]": Target(ours["peak_mb"], "<", 1500.0),
        "times the memory for 4 x the file": Target(long["peak_mb"] / ours["peak_mb"], "<=", 1.3),
        "times the cost of a day, with many days there": Target(growth, "<=", 1.3),
    }


# --- what is printed


def table(loads: dict[str, Figures], size: Size) -> list[str]:
    """The loads, in Markdown."""
    out = [
        f"| {size.readings:,} readings | s | processor s | million readings/s | peak MB "
        "| meterlake takes |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, title in NAMES.items():
        if figures := loads.get(name):
            whole = size.readings / figures["readings"]
            cells = (
                _shown(figures["seconds"] * whole, ".2f"),
                _shown(figures.get("cpu_seconds", nan) * whole, ".2f"),
                _shown(_speed(figures) / 1e6, ".2f"),
                _shown(figures.get("peak_mb", nan), ".0f"),
                f"{figures['ratio']:.2f} x its time",
            )
            out.append(f"| {title} | {' | '.join(cells)} |")
        else:
            why = "not installed" if name in size.rivals else "not in --quick"
            out.append(f"| {title} | {why} | | | | |")
    return out


def details(
    loads: dict[str, Figures], long: Figures, grown: dict[str, Figures], size: Size
) -> list[str]:
    """Where meterlake's time and memory go, in words."""
    ours, young, old = loads["meterlake"], grown["young"], grown["grown"]
    return [
        f"meterlake: ingest {ours['ingest_seconds']:.2f} s, integrate "
        f"{ours['integrate_seconds']:.2f} s; before them {ours['import_seconds']:.2f} s of imports",
        f"one file of 4 days: {long['seconds']:.2f} s, peak {long['peak_mb']:.0f} MB",
        f"one more day: into a lake of 1 to 3 days {young['seconds']:.2f} s, peak "
        f"{young['peak_mb']:.0f} MB; of {size.grown_days} to {size.grown_days + ROUNDS - 1} days "
        f"{old['seconds']:.2f} s, peak {old['peak_mb']:.0f} MB",
    ]


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        epilog="Example: python benchmarks/ingest.py --json. Simulated files (about 2 GB) are kept "
        "in METERLAKE_BENCH_CACHE, or in meterlake-bench in the folder for temporary files.",
    )
    parser.add_argument("--quick", action="store_true", help="small and short; judges no target")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    options = parser.parse_args()
    size = QUICK if options.quick else FULL
    lines = [f"command: python benchmarks/ingest.py {' '.join(sys.argv[1:])}".rstrip(), *machine()]
    print(*lines, "", sep="\n", flush=True)
    with bench(lambda text: print(f"  {text}", file=sys.stderr, flush=True)) as running:
        loads = side_by_side(running, size)
        print(*table(loads, size), "", sep="\n", flush=True)
        long = long_file(running, size)
        grown = growth(running, size)
    print(*details(loads, long, grown, size), sep="\n")
    targets = judge(loads, long, grown)
    return conclude(
        "ingest",
        {**loads, "four_days": long, **grown},
        targets,
        quick=options.quick,
        as_json=options.json,
    )


def _medians(runs: list[Figures]) -> Figures:
    return {name: median(run[name] for run in runs) for name in runs[0]}


def _speed(figures: Figures) -> float:
    return figures["readings"] / figures["seconds"]


def _shown(value: float, form: str) -> str:
    return "" if isnan(value) else format(value, form)


def _warm(file: Path) -> None:
    """Bring a file into the page cache, so that nobody is first."""
    with file.open("rb") as content:
        while content.read(1 << 20):
            pass


def _simulator() -> str:
    """A short name of the simulator's code: other code, other files."""
    code = Path(__file__).resolve().parent.parent / "src" / "meterlake" / "simulate"
    digest = hashlib.sha256(b"".join(f.read_bytes() for f in sorted(code.glob("*.py"))))
    return digest.hexdigest()[:8]


def _leave(number: int, frame: object) -> None:
    """End as if by an error, so that folders are removed and servers stopped."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _leave)
    if sys.argv[1:2] == ["--child"]:
        sys.exit(child(sys.argv[2], sys.argv[3:]))
    sys.exit(main())
