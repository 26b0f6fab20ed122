"""How many people can ask at once: one meter's 30 days over HTTP, beside the same written naively.

    python benchmarks/serve.py           # a quarter of an hour the first time, then a minute
    python benchmarks/serve.py --quick   # few meters and days; judges nothing
    python benchmarks/serve.py --json    # the last line is one JSON object

A lake of 10,000 meters x 30 days x 15 minutes, kw alone, is made once and kept. The server runs in
two processes, who asks in another, all on the same cores: 16 connections, each with one question at
a time, meters at random, whole answers read. Naive is the same endpoint with DuckDB over the hour
partitions of the integrated readings, in as many processes; the floor answers the same bytes
without looking for them.
"""

import argparse
import multiprocessing
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
from reporting import Figures, Target, conclude, machine

from meterlake.delta.lake_format import FORMAT
from meterlake.delta.store import open_store
from meterlake.engine.local import LocalEngine
from meterlake.ingest import intake
from meterlake.integrate import derivations
from meterlake.integrate.derivations import cluster
from meterlake.pipeline.derivation import Session
from meterlake.settings import Settings
from meterlake.simulate.readings import device_id

START = datetime(2024, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
COLUMNS = (
    "time", "arrival_time", "device_id", "measure_name",
    "load", "crrnt", "pf", "kva", "kw", "vltg",
)  # fmt: skip
CONNECTIONS = 16
PROCESSES = 2


@dataclass(frozen=True)
class Size:
    """How much is measured: all of it, or the quick form."""

    meters: int
    days: int
    seconds: float
    naive_seconds: float


FULL = Size(10_000, 30, 30.0, 30.0)
QUICK = Size(50, 3, 1.0, 1.0)


# --- the lake


def lake_of(cache: Path, size: Size) -> Path:
    """A clustered lake, made the first time that it is asked for."""
    folder = cache / f"serve-{size.meters}-meters-{size.days}-days-format-{FORMAT}"
    if (folder / "done").exists():
        return folder / "lake"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    store, engine = open_store(str(folder / "lake")), LocalEngine(2)
    settings = Settings(lake=store.url, late_hooks=())
    chance = np.random.default_rng(1)
    meters = pl.DataFrame({"device_id": [str(device_id(n)) for n in range(size.meters)]})
    for number in range(size.days):
        start = START + number * DAY
        evening = start + DAY + timedelta(hours=12)
        times = pl.datetime_range(
            start, start + DAY, "15m", closed="left", time_zone="UTC", eager=True
        )
        rows = pl.DataFrame({"time": times.dt.strftime("%Y-%m-%d %H:%M:%S")}).join(
            meters, how="cross"
        )
        rows = rows.with_columns(
            pl.lit(f"{start + DAY:%Y-%m-%d %H:%M:%S}").alias("arrival_time"),
            pl.lit("readings").alias("measure_name"),
            *(pl.lit("").alias(name) for name in ("load", "crrnt", "pf", "kva", "vltg")),
            pl.Series("kw", chance.gamma(2.0, 0.4, rows.height).round(3)),
        )
        file = folder / "day.csv"
        rows.select(COLUMNS).write_csv(file)
        done = intake.ingest(Session(store, engine, settings, evening), [str(file)])
        if done.failures or done.quarantined:
            raise SystemExit(f"the lake could not be made: {done.failures}")
        derivations.integrate(Session(store, engine, settings, evening))
        file.unlink()
    cluster(Session(store, engine, settings, START + (size.days + 2) * DAY))
    (folder / "done").touch()
    return folder / "lake"


# --- servers


@contextmanager
def meterlake_server(lake: Path) -> Iterator[int]:
    command = [sys.executable, "-m", "meterlake", "serve", "--lake", str(lake), "--port", "0"]
    with subprocess.Popen(
        [*command, "--processes", str(PROCESSES)], stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "POLARS_MAX_THREADS": "1"},
    ) as server:  # fmt: skip
        assert server.stdout is not None
        try:
            told = server.stdout.readline()
            yield int(told.split("http://127.0.0.1:")[1].split()[0])
        finally:
            server.send_signal(signal.SIGTERM)


@contextmanager
def plain_server(kind: str, lake: Path) -> Iterator[int]:
    """A small FastAPI application of serve_naive.py on uvicorn, in as many processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with subprocess.Popen(
        [sys.executable, "-m", "uvicorn", f"serve_naive:{kind}", "--port", str(port),
         "--workers", str(PROCESSES), "--log-level", "error", "--no-access-log"],
        cwd=Path(__file__).parent, env={**os.environ, "LAKE": str(lake)},
    ) as server:  # fmt: skip
        try:
            deadline = time.monotonic() + 60
            while socket.socket().connect_ex(("127.0.0.1", port)):
                if time.monotonic() > deadline:
                    raise SystemExit("the naive server does not start")
                time.sleep(0.1)
            yield port
        finally:
            server.send_signal(signal.SIGTERM)


# --- who asks


def asked(port: int, path: str, meters: list[str], seconds: float) -> Figures:
    """Requests in a second, and how long answers took [ms], asked from a process of its own."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        taken, failed, size = pool.apply(_ask, (port, path, meters, seconds))
    if failed:
        raise SystemExit(f"{failed} answers were not what they have to be")
    in_order = np.sort(np.array(taken)) * 1e3
    return {
        "requests_per_second": len(taken) / seconds,
        "median_ms": float(np.quantile(in_order, 0.5)),
        "p99_ms": float(np.quantile(in_order, 0.99)),
        "bytes_of_an_answer": size,
    }


def _ask(port: int, path: str, meters: list[str], seconds: float) -> tuple[list[float], int, int]:
    taken: list[float] = []
    failed: list[bytes] = []
    sizes: list[int] = []
    stop = time.monotonic() + seconds

    def connection(seed: int) -> None:
        chance = random.Random(seed)
        buffer = bytearray(1 << 20)
        with socket.create_connection(("127.0.0.1", port)) as to:
            while time.monotonic() < stop:
                began = time.perf_counter()
                where = path.format(meter=chance.choice(meters))
                to.sendall(f"GET {where} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
                got = to.recv_into(buffer)
                while got and b"\r\n\r\n" not in buffer[:got]:
                    got += to.recv_into(memoryview(buffer)[got:])
                head, _, _ = bytes(buffer[:got]).partition(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                left = length + len(head) + 4 - got
                while left > 0:
                    read = to.recv_into(buffer)
                    if not read:
                        break
                    left -= read
                taken.append(time.perf_counter() - began)
                sizes.append(length)
                if left or b" 200 " not in head.split(b"\r\n")[0] or length < 1000:
                    failed.append(head)

    threads = [threading.Thread(target=connection, args=(n,)) for n in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return taken, len(failed), max(sizes)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    size = QUICK if options.quick else FULL
    print(*machine(), sep="\n", flush=True)
    place = Path(tempfile.gettempdir()) / "meterlake-bench"
    cache = Path(os.environ.get("METERLAKE_BENCH_CACHE") or place).absolute()
    lake = lake_of(cache, size)
    meters = [str(device_id(n)) for n in range(size.meters)]
    last = START + (size.days - 1) * DAY
    path = f"/consumption/{{meter}}?reading_date_from={START:%Y%m%d}&reading_date_to={last:%Y%m%d}"
    found: dict[str, Figures] = {}
    with meterlake_server(lake) as port:
        asked(port, path, meters, min(3.0, size.seconds))
        found["meterlake"] = asked(port, path, meters, size.seconds)
    with plain_server("naive", lake) as port:
        found["naive, DuckDB over hours"] = asked(port, path, meters, size.naive_seconds)
    with plain_server("floor", lake) as port:
        found["floor, the bytes alone"] = asked(port, path, meters, size.seconds)
    print("", "| server | requests/s | median ms | p99 ms |", "|---|--:|--:|--:|", sep="\n")
    for name, figures in found.items():
        shown = (figures[key] for key in ("requests_per_second", "median_ms", "p99_ms"))
        print(f"| {name} |", " | ".join(f"{value:,.1f}" for value in shown), "|")
    ours, naive = found["meterlake"], found["naive, DuckDB over hours"]
    ratio = ours["requests_per_second"] / naive["requests_per_second"]
    return conclude(
        "serve",
        found,
        {
            "requests per second": Target(ours["requests_per_second"], ">=", 300),
            "p99 [ms]": Target(ours["p99_ms"], "<=", 100),
            "times as many as naive": Target(ratio, ">=", 20),
        },
        quick=options.quick,
        as_json=options.json,
    )


if __name__ == "__main__":
    sys.exit(main())
