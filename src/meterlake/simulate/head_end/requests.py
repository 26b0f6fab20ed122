"""Requests for files: what was asked for, and what became of it."""

import uuid
from dataclasses import astuple, dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from meterlake.simulate.head_end.store import ReadStore, aware, naive

REMOVED = "the file was removed after its time; ask for it again"

_FIELDS = "request_id, number, status, start_date, end_date, record_count, size, sha256, error"


class RequestStatus(StrEnum):
    """What has become of a request."""

    QUEUED = "queued"
    SUBMITTED = "submitted"
    RUNNING = "running"
    COMPLETED = "completed"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True)
class FileRequest:
    """A file that was asked for: the reads that arrive in [start_date, end_date).

    Attributes
    ----------
    number : int
        How many were asked for before it.
    record_count, size, sha256
        Rows of the file, bytes of it as compressed, and their hash; None until it is completed.
    error : str or None
        Why there is no file.
    """

    request_id: str
    number: int
    status: RequestStatus
    start_date: datetime
    end_date: datetime
    record_count: int | None = None
    size: int | None = None
    sha256: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class RequestOutcome:
    """How a request ended; the fields are those of a `Request`."""

    status: RequestStatus
    record_count: int | None = None
    size: int | None = None
    sha256: str | None = None
    error: str | None = None


class Requests:
    """The requests of a store. Threads may share it."""

    def __init__(self, store: ReadStore) -> None:
        self._store = store

    def add(self, start: datetime, end: datetime) -> FileRequest:
        """Queue a request."""
        request_id = str(uuid.uuid4())
        with self._store.change() as cursor:
            row = cursor.execute("SELECT count(*) FROM requests").fetchone()
            number = 0 if row is None else row[0]
            cursor.execute(
                "INSERT INTO requests (request_id, number, status, start_date, end_date)"
                " VALUES (?, ?, 'queued', ?, ?)",
                [request_id, number, *(naive(moment) for moment in (start, end))],
            )
        return FileRequest(request_id, number, RequestStatus.QUEUED, start, end)

    def find(self, request_id: str) -> FileRequest | None:
        """A request by its id; None: there is none."""
        return self._first("WHERE request_id = ?", request_id)

    def next(self) -> FileRequest | None:
        """The first request that is not done, in the order of asking."""
        return self._first("WHERE status IN ('queued', 'submitted', 'running') ORDER BY number")

    def tell(self, request_id: str, status: RequestStatus) -> None:
        """Note that work on a request goes on."""
        with self._store.change() as cursor:
            cursor.execute(
                "UPDATE requests SET status = ? WHERE request_id = ?", [status.value, request_id]
            )

    def finish(self, request_id: str, outcome: RequestOutcome, *, now: datetime) -> None:
        """Note the end of a request."""
        with self._store.change() as cursor:
            cursor.execute(
                "UPDATE requests SET status = ?, record_count = ?, size = ?, sha256 = ?, error = ?,"
                " finished_at = ? WHERE request_id = ?",
                [*astuple(outcome), naive(now), request_id],
            )

    def ids(self) -> set[str]:
        """The ids of all that was ever asked for."""
        with self._store.cursor() as cursor:
            rows = cursor.execute("SELECT request_id FROM requests").fetchall()
        return {row[0] for row in rows}

    def completed(self) -> set[str]:
        """The ids of the requests whose files are there."""
        with self._store.cursor() as cursor:
            rows = cursor.execute(
                "SELECT request_id FROM requests WHERE status = 'completed'"
            ).fetchall()
        return {row[0] for row in rows}

    def expire(self, now: datetime, keep: timedelta) -> list[str]:
        """Note that files are removed that were finished long ago; their ids."""
        with self._store.cursor() as cursor:
            found = cursor.execute(
                "SELECT request_id FROM requests WHERE status = 'completed'"
                " AND epoch_us(?) - epoch_us(finished_at) > ?",
                [naive(now), keep // timedelta(microseconds=1)],
            ).fetchall()
        for (request_id,) in found:
            self.finish(request_id, RequestOutcome(RequestStatus.FAILED, error=REMOVED), now=now)
        return [row[0] for row in found]

    def _first(self, which: str, *parameters: Any) -> FileRequest | None:
        with self._store.cursor() as cursor:
            row = cursor.execute(
                f"SELECT {_FIELDS} FROM requests {which} LIMIT 1",  # noqa: S608  # our own words
                list(parameters),
            ).fetchone()
        if row is None:
            return None
        request_id, number, status, start, end, *rest = row
        return FileRequest(
            request_id, number, RequestStatus(status), aware(start), aware(end), *rest
        )
