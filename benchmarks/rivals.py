"""What the same file costs elsewhere: the floor, a line-by-line parse, and three databases.

Each function loads one gzip file of readings (Table 1 of the guide) into an empty folder and
says what it took. It runs in a process of its own, started by `ingest.py`; imports and the
start of a server are not counted. Every rival is set up as kindly as we know how.
"""

import csv
import glob
import gzip
import importlib.util
import json
import os
import pwd
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

VALUES = ("load", "crrnt", "pf", "kva", "kw", "vltg")
LINES = 100_000  # lines of the file that the line-by-line parse reads
ZSTD_LEVEL = 1  # as meterlake writes

Figures = dict[str, float]
Load = Callable[[Path, Path], Figures]


class NotInstalled(Exception):
    """A rival is not on this machine."""


class Stopwatch:
    """Wall-clock and processor seconds of this process since it was made."""

    def __init__(self) -> None:
        self._wall = time.perf_counter()
        self._cpu = time.process_time()

    def figures(self) -> Figures:
        """Seconds so far, and the largest memory this process has held [MB]."""
        return {
            "seconds": time.perf_counter() - self._wall,
            "cpu_seconds": time.process_time() - self._cpu,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }


def floor(file: Path, folder: Path) -> Figures:
    """Polars alone, no commit: scan with typed columns, unpivot, write by type and hour."""
    import polars as pl

    times = {"time": pl.Datetime("us"), "arrival_time": pl.Datetime("us")}
    watch = Stopwatch()
    _write_by_type_and_hour(pl.scan_csv(file, schema_overrides=times), folder)
    return watch.figures() | {"readings": parquet_rows(folder)}


def floor_text(file: Path, folder: Path) -> Figures:
    """The same, with the times read as text and parsed after: Polars remembers those it met."""
    import polars as pl

    times = pl.col("time", "arrival_time").str.slice(0, 26)
    watch = Stopwatch()
    rows = pl.scan_csv(file).with_columns(
        times.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="us")
    )
    _write_by_type_and_hour(rows, folder)
    return watch.figures() | {"readings": parquet_rows(folder)}


def lines(file: Path, folder: Path) -> Figures:
    """Python, line by line: times and values typed, an object per reading."""
    del folder
    return _by_line(file, len)


def worker(file: Path, folder: Path) -> Figures:
    """The same, each object handed on as JSON: what a worker of the guide does."""
    del folder
    return _by_line(file, lambda objects: sum(1 for one in objects if json.dumps(one).encode()))


def duckdb(file: Path, folder: Path) -> Figures:
    """DuckDB: a native table on disk, sorted by meter, type and time."""
    _require("duckdb")
    import duckdb as library

    columns = {"time": "TIMESTAMP", "arrival_time": "TIMESTAMP", "device_id": "VARCHAR"}
    columns |= {"measure_name": "VARCHAR"} | dict.fromkeys(VALUES, "DOUBLE")
    watch = Stopwatch()
    with library.connect(folder / "readings.duckdb") as connection:
        connection.execute(
            f"""CREATE TABLE readings AS
            SELECT device_id AS meter_id, reading_type, time AS reading_date_time, arrival_time,
                   reading_value
            FROM (UNPIVOT (FROM read_csv('{file}', header = true, columns = {columns}))
                  ON {", ".join(VALUES)} INTO NAME reading_type VALUE reading_value)
            ORDER BY meter_id, reading_type, reading_date_time"""
        )
        connection.execute("CHECKPOINT")
        figures = watch.figures()
        counted = connection.execute("SELECT count(*) FROM readings").fetchone()
    return figures | {"readings": 0 if counted is None else counted[0]}


def chdb(file: Path, folder: Path) -> Figures:
    """Embedded ClickHouse: a MergeTree on disk, ordered by meter, type and time."""
    _require("chdb")
    from chdb.session import Session

    columns = "time DateTime64(7, ''UTC''), arrival_time DateTime64(7, ''UTC''), "
    columns += "device_id String, measure_name String, "
    columns += ", ".join(f"{name} Float64" for name in VALUES)
    pairs = ", ".join(f"('{name}', {name})" for name in VALUES)
    session = Session(str(folder / "chdb"))
    watch = Stopwatch()
    session.query(
        """CREATE TABLE readings (
            meter_id String, reading_type LowCardinality(String),
            reading_date_time DateTime64(6, 'UTC'), arrival_time DateTime64(6, 'UTC'),
            reading_value Float64)
        ENGINE = MergeTree ORDER BY (meter_id, reading_type, reading_date_time)"""
    )
    session.query(
        f"""INSERT INTO readings
        SELECT device_id, pair.1, time, arrival_time, pair.2
        FROM (SELECT device_id, time, arrival_time, arrayJoin([{pairs}]) AS pair
              FROM file('{file}', CSVWithNames, '{columns}'))"""
    )
    figures = watch.figures()
    readings = int(str(session.query("SELECT count() FROM readings", "CSV")))
    session.close()
    return figures | {"readings": readings}


def postgresql(file: Path, folder: Path) -> Figures:
    """PostgreSQL: COPY, unpivot into a table, unique index; a private server, no network."""
    wide = ", ".join(f"{name} float8" for name in VALUES)
    pairs = ", ".join(f"('{name}', {name})" for name in VALUES)
    load = f"""
        CREATE UNLOGGED TABLE delivered (time timestamptz, arrival_time timestamptz,
            device_id text, measure_name text, {wide});
        \\copy delivered FROM PROGRAM 'gzip -dc "{file}"' (FORMAT csv, HEADER)
        BEGIN;
        CREATE TABLE readings AS
            SELECT device_id AS meter_id, reading_type, time AS reading_date_time, arrival_time,
                   reading_value
            FROM delivered, LATERAL (VALUES {pairs}) AS v (reading_type, reading_value);
        CREATE UNIQUE INDEX ON readings (meter_id, reading_type, reading_date_time);
        COMMIT;"""
    with _server(folder) as psql:
        watch = time.perf_counter()
        psql(load)
        seconds = time.perf_counter() - watch
        return {"seconds": seconds, "readings": int(psql("SELECT count(*) FROM readings"))}


def parquet_rows(folder: Path) -> int:
    """Rows of all Parquet files under a folder, from the files themselves."""
    import polars as pl

    return int(pl.scan_parquet(folder / "**/*.parquet").select(pl.len()).collect().item())


def postgresql_version() -> str | None:
    """Version of the PostgreSQL that would be used; None where there is none."""
    found = _programs()
    if found is None:
        return None
    said = subprocess.run([found["postgres"], "-V"], check=True, capture_output=True, text=True)
    return said.stdout.split()[2]


LOADS: dict[str, Load] = {
    "floor": floor,
    "floor_text": floor_text,
    "lines": lines,
    "worker": worker,
    "duckdb": duckdb,
    "chdb": chdb,
    "postgresql": postgresql,
}


def _write_by_type_and_hour(rows: "pl.LazyFrame", folder: Path) -> None:
    import polars as pl

    index = ["time", "arrival_time", "device_id", "hour"]
    long = rows.with_columns(hour=pl.col("time").dt.hour()).unpivot(
        VALUES, index=index, variable_name="reading_type", value_name="reading_value"
    )
    sink = pl.PartitionBy(folder / "floor", key=["reading_type", "hour"], include_key=False)
    long.sink_parquet(sink, mkdir=True, compression="zstd", compression_level=ZSTD_LEVEL)


def _by_line(file: Path, hand_on: Callable[[list[dict[str, object]]], int]) -> Figures:
    readings = 0
    watch = Stopwatch()
    with gzip.open(file, "rt", newline="") as text:
        for row in islice(csv.DictReader(text), LINES):
            readings += hand_on(_objects(row))
    return watch.figures() | {"readings": readings}


def _objects(row: dict[str, str]) -> list[dict[str, object]]:
    time_ = datetime.fromisoformat(row["time"]).isoformat()
    arrival = datetime.fromisoformat(row["arrival_time"]).isoformat()
    return [
        {
            "meter_id": row["device_id"],
            "reading_value": float(row[name]),
            "reading_type": name,
            "reading_date_time": time_,
            "arrival_time": arrival,
        }
        for name in VALUES
    ]


def _require(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise NotInstalled(module)


def _programs() -> dict[str, str] | None:
    """Where PostgreSQL's programs lie; Debian keeps most of them off the path."""
    installed = sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)
    path = os.pathsep.join([os.environ.get("PATH", ""), *installed])
    found = {name: shutil.which(name, path=path) for name in ("initdb", "postgres", "psql")}
    return None if None in found.values() else {name: str(at) for name, at in found.items()}


@contextmanager
def _server(folder: Path) -> Iterator[Callable[[str], str]]:
    """Run PostgreSQL in a folder for itself; gives a function that runs SQL."""
    found = _programs()
    if found is None:
        raise NotInstalled("postgresql")
    user = _server_user()
    data = folder / "data"
    data.mkdir(mode=0o700)
    if user is not None:
        shutil.chown(data, user)
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
    subprocess.run(
        [found["initdb"], "-D", data, "-U", "bench", "-A", "trust", "-E", "UTF8", "--no-locale"],
        check=True, capture_output=True, user=user, env=environment, cwd=data,
    )  # fmt: skip
    settings = {
        "listen_addresses": "", "unix_socket_directories": data, "timezone": "UTC",
        "shared_buffers": "1GB", "work_mem": "256MB", "maintenance_work_mem": "1GB",
        "wal_level": "minimal", "max_wal_senders": "0", "max_wal_size": "8GB",
        "synchronous_commit": "off",
    }  # fmt: skip
    options = [o for name, value in settings.items() for o in ("-c", f"{name}={value}")]
    server = subprocess.Popen(
        [found["postgres"], "-D", data, *options],
        user=user, env=environment, cwd=data,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    client = [
        found["psql"],
        "-h",
        str(data),
        "-U",
        "bench",
        "-d",
        "postgres",
        "-v",
        "ON_ERROR_STOP=1",
    ]

    def run(sql: str) -> str:
        return subprocess.run(
            [*client, "-qAtX"], input=sql, check=True, capture_output=True, text=True,
            env=environment,
        ).stdout  # fmt: skip

    try:
        _wait_until_ready(server, client, environment)
        yield run
    finally:
        server.send_signal(signal.SIGINT)  # "fast" shutdown
        server.wait(timeout=60)


def _server_user() -> str | None:
    """PostgreSQL refuses to run as root: then Debian's user for it, or one without rights."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _wait_until_ready(
    server: subprocess.Popen[bytes], client: list[str], environment: dict[str, str]
) -> None:
    for _ in range(300):
        answer = subprocess.run(
            [*client, "-c", "SELECT 1"], check=False, capture_output=True, env=environment
        )
        if answer.returncode == 0:
            return
        if server.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError("PostgreSQL did not start")
