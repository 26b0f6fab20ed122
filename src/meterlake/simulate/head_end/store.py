"""What the head-end keeps: reads by arrival, how far it has read, and requests. One DuckDB file.

Reads and the moment up to which they are complete change in one transaction, so that a crash at
any time leaves neither a gap nor a double. Values are in thousandths, as the registers show them;
times are UTC without saying so.
"""

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
from arro3.core import Table as ArrowTable
from numpy.typing import NDArray

from meterlake.errors import Unavailable
from meterlake.simulate.head_end.generate import CHUNK_ROWS, US_PER_MINUTE
from meterlake.simulate.plan import ReadingsPlan, instant_of, minute_of
from meterlake.simulate.registers import READING_TYPES

_VALUES = ", ".join(f'"{name}" INTEGER NOT NULL' for name in READING_TYPES)

_TABLES = f"""
CREATE TABLE IF NOT EXISTS reads (
    arrival_time TIMESTAMP NOT NULL, time TIMESTAMP NOT NULL, device INTEGER NOT NULL, {_VALUES});
CREATE TABLE IF NOT EXISTS state (
    devices INTEGER, interval_minutes INTEGER, late_percent DOUBLE, late_minutes INTEGER,
    seed BIGINT, start_time TIMESTAMP, next_minute BIGINT, clock TIMESTAMP,
    complete_until TIMESTAMP);
CREATE TABLE IF NOT EXISTS requests (
    request_id VARCHAR, number BIGINT, status VARCHAR, start_date TIMESTAMP, end_date TIMESTAMP,
    record_count BIGINT, size BIGINT, sha256 VARCHAR, error VARCHAR, finished_at TIMESTAMP);
"""

_LOCKED, _PROCESS = "Could not set lock", re.compile(r"\(PID (\d+)\)")  # as DuckDB says it

_PLAN = ("devices", "interval_minutes", "late_percent", "late_minutes", "seed", "start_time")


@dataclass(frozen=True)
class ReadingState:
    """How far the head-end has read.

    Attributes
    ----------
    next_minute : int
        The first step that is not stored, in minutes since 1970.
    clock : datetime
        What the head-end's clock showed last.
    complete_until : datetime
        Every read that arrives before it is stored.
    """

    next_minute: int
    clock: datetime
    complete_until: datetime


def naive(moment: datetime) -> datetime:
    """A moment as the store has it."""
    return moment.astimezone(UTC).replace(tzinfo=None)


def aware(moment: datetime) -> datetime:
    """A moment of the store."""
    return moment.replace(tzinfo=UTC)


class ReadStore:
    """The DuckDB file of a head-end. Threads may share it.

    Raises
    ------
    Unavailable
        Another process has it open, or the disk does not let it be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writing = threading.Lock()
        self._connection = _open(path)
        with self.cursor() as cursor:
            cursor.execute(_TABLES)

    def close(self) -> None:
        """Close the file; later calls get Unavailable."""
        self._connection.close()

    def reopen(self) -> None:
        """Start over, after an error that DuckDB does not recover from."""
        self._connection.close()
        self._connection = _open(self._path)

    @contextmanager
    def cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection for one thread's questions. DuckDB's errors become Unavailable."""
        try:
            with self._connection.cursor() as cursor:
                yield cursor
        except duckdb.Error as error:
            raise Unavailable(f"The store {self._path} failed: {_first_line(error)}") from error

    @contextmanager
    def change(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A transaction, one at a time: all of it or nothing."""
        with self._writing, self.cursor() as cursor:
            cursor.execute("BEGIN")
            yield cursor  # an error closes the cursor, which rolls back
            cursor.execute("COMMIT")

    # --- how far it has read

    def begin(self, plan: ReadingsPlan, clock: datetime) -> ReadingState:
        """Take on a plan where there is none yet."""
        told = [getattr(plan, name) for name in _PLAN[:-1]] + [naive(plan.start)]
        with self.change() as cursor:
            cursor.execute(
                "INSERT INTO state VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [*told, plan.start_minute, naive(clock), naive(plan.start)],
            )
        return ReadingState(plan.start_minute, clock, plan.start)

    def plan(self) -> tuple[ReadingsPlan, ReadingState] | None:
        """The plan that was taken on, and how far it is done; None: there is none yet."""
        with self.cursor() as cursor:
            row = cursor.execute("SELECT * FROM state").fetchone()
        if row is None:
            return None
        of = dict(zip(_PLAN, row, strict=False))
        start = aware(of.pop("start_time"))
        end = instant_of(minute_of(start) + of["interval_minutes"])
        return ReadingsPlan(start=start, end=end, **of), ReadingState(
            row[6], aware(row[7]), aware(row[8])
        )

    def advance(self, state: ReadingState, reads: Mapping[str, NDArray[Any]] | None) -> None:
        """Store reads, and how far that is, in one transaction.

        Raises
        ------
        Unavailable
            The disk is full, say: nothing was stored.
        """
        with self.change() as cursor:
            if reads is not None:
                cursor.register("taken", dict(reads))
                cursor.execute("INSERT INTO reads SELECT * FROM taken")
            cursor.execute(
                "UPDATE state SET next_minute = ?, clock = ?, complete_until = ?",
                [state.next_minute, naive(state.clock), naive(state.complete_until)],
            )

    def oldest(self, before: datetime) -> datetime | None:
        """The first arrival before a moment."""
        with self.cursor() as cursor:
            row = cursor.execute(
                "SELECT min(arrival_time) FROM reads WHERE arrival_time < ?", [naive(before)]
            ).fetchone()
        return None if row is None or row[0] is None else aware(row[0])

    # --- reads of a window of arrival

    def parts(
        self, start: datetime, end: datetime, *, step_minutes: int, rows: int = CHUNK_ROWS
    ) -> list[tuple[datetime, datetime, int]]:
        """Cut a window into ones of whole steps with about so many reads.

        Returns
        -------
        list of start, end, count
            One after the other; windows without a read are left out.
        """
        step_us = step_minutes * US_PER_MINUTE
        with self.cursor() as cursor:
            counts = cursor.execute(
                "SELECT epoch_us(arrival_time) // ? AS step, count(*) FROM reads"
                " WHERE arrival_time >= ? AND arrival_time < ? GROUP BY step ORDER BY step",
                [step_us, naive(start), naive(end)],
            ).fetchall()
        found: list[tuple[datetime, datetime, int]] = []
        for step, count in counts:
            first = max(start, instant_of(step * step_minutes))
            last = min(end, instant_of((step + 1) * step_minutes))
            if found and found[-1][2] + count <= rows:
                found[-1] = found[-1][0], last, found[-1][2] + count
            else:
                found.append((first, last, count))
        return found

    def reads(
        self, start: datetime, end: datetime, *, offset: int = 0, limit: int | None = None
    ) -> pl.DataFrame:
        """Reads that arrive in [start, end), by arrival, meter and time; values in thousandths."""
        with self.cursor() as cursor:
            found = cursor.sql(
                "SELECT * FROM reads WHERE arrival_time >= $start AND arrival_time < $end"
                " ORDER BY arrival_time, device, time LIMIT $limit OFFSET $offset",
                params={
                    "start": naive(start),
                    "end": naive(end),
                    "limit": 2**62 if limit is None else limit,
                    "offset": offset,
                },
            )
            return pl.DataFrame(ArrowTable.from_arrow(found))


def _open(path: Path) -> duckdb.DuckDBPyConnection:
    try:
        return duckdb.connect(
            str(path),
            config={
                "threads": "2",
                "memory_limit": "512MB",
                "temp_directory": str(path.with_name("spill")),
            },
        )
    except duckdb.Error as error:
        if _LOCKED in str(error):
            found = _PROCESS.search(str(error))
            who = "another process" if found is None else f"process {found[1]}"
            raise Unavailable(
                f"--folder {path.parent} is in use by {who}. Stop it, or give another --folder"
            ) from error
        raise Unavailable(
            f"The store {path} cannot be opened: {_first_line(error)}. Give another --folder"
        ) from error


def _first_line(error: duckdb.Error) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
