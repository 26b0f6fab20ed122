"""The head-end as a whole: its folder, what it reads as time passes, and what it is asked for.

Two threads work: one reads the meters, one writes files. Both may be ended at any time, and
continue where they were after the next start.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, replace
from datetime import datetime
from pathlib import Path

import polars as pl

from meterlake.errors import BadInput, Unavailable
from meterlake.simulate.fleet import fleet_of
from meterlake.simulate.head_end.clock import Clock
from meterlake.simulate.head_end.faults import Faults
from meterlake.simulate.head_end.files import Written, shown, write_file
from meterlake.simulate.head_end.generate import reads_of, steps_at_once
from meterlake.simulate.head_end.options import Wanted, take_up
from meterlake.simulate.head_end.requests import (
    FileRequest,
    RequestOutcome,
    Requests,
    RequestStatus,
)
from meterlake.simulate.head_end.store import ReadingState, ReadStore
from meterlake.simulate.plan import instant_of, minute_of

TICK_SECONDS = 0.5
PAUSE_SECONDS = 3.0  # before what the disk refused is tried again
OUTBOX = "outbox"

_log = logging.getLogger("meterlake.simulate.head_end")


class WritingStopped(Exception):
    """The head-end is told to stop; what was asked for is done after its next start."""


class HeadEnd:
    """A head-end in a folder, which continues where it was left. Threads may share it.

    Raises
    ------
    BadInput
        The folder is a file, or holds reads of other meters.
    Unavailable
        The folder cannot be written, or another process has it.
    """

    def __init__(self, folder: Path, wanted: Wanted, faults: Faults, *, machine: Clock) -> None:
        self.files = folder / "sftp" / OUTBOX
        self._partial = folder / "partial"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # it has secrets
            for each in (self.files, self._partial):
                each.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise BadInput(f"--folder needs a folder, found the file '{error.filename}'") from error
        except OSError as error:
            raise Unavailable(f"--folder {folder} cannot be written: {error.strerror}") from error
        self._store = ReadStore(folder / "hes.duckdb")
        self._faults, self._keep = faults, wanted.keep
        self.plan, self._state, self.now = take_up(self._store, wanted, machine)
        self._fleet = fleet_of(self.plan)
        self._requests = Requests(self._store)
        self._oldest: datetime | None = None
        self._asked = threading.Event()
        self._stopped = threading.Event()
        self._has_more = False
        self._untold: dict[str, str] = {}  # why files failed, where that could not be noted
        self._remove_leftovers()

    # --- what it is asked

    @property
    def complete_until(self) -> datetime:
        """Every read that arrives before it is stored, and no other will ever come."""
        return self._state.complete_until

    def oldest(self) -> datetime | None:
        """The first arrival; None: nothing has arrived yet."""
        if self._oldest is None:
            self._oldest = self._store.oldest(self.complete_until)
        return self._oldest

    def window(self, start: datetime, end: datetime | None) -> tuple[datetime, datetime]:
        """The window of arrival that is meant, which ends where the reads are complete.

        Raises
        ------
        BadInput
            It ends before it starts.
        """
        if end is not None and start > end:
            raise BadInput(
                f"The window needs a start_date that is not after its end_date; found "
                f"{start.isoformat()} and {end.isoformat()}"
            )
        until = self.complete_until
        return start, max(start, until if end is None else min(end, until))

    def ask(self, start: datetime, end: datetime | None) -> FileRequest:
        """Queue a request for a file. Raises BadInput as `window` does."""
        request = self._requests.add(*self.window(start, end))
        self._asked.set()
        return request

    def request(self, request_id: str) -> FileRequest | None:
        """A request by its id; None: there is none."""
        found = self._requests.find(request_id)
        if found is None or request_id not in self._untold:
            return found
        return replace(found, status=RequestStatus.FAILED, error=self._untold[request_id])

    def page(
        self, start: datetime, end: datetime | None, *, offset: int, size: int
    ) -> tuple[int, pl.DataFrame]:
        """How many reads arrive in a window, and some of them as they are given away."""
        parts = self._store.parts(
            *self.window(start, end), step_minutes=self.plan.interval_minutes, rows=0
        )
        found, before, left = [self._store.reads(start, start)], 0, size
        for first, last, count in parts:
            skipped = max(0, offset - before)
            if left > 0 and skipped < count:
                found.append(self._store.reads(first, last, offset=skipped, limit=left))
                left -= found[-1].height
            before += count
        return before, shown(pl.concat(found), self._fleet.device_ids)

    # --- what it does

    def stop(self) -> None:
        """Tell both threads to end."""
        self._stopped.set()
        self._asked.set()

    def close(self) -> None:
        """Close the store, once nothing is under way."""
        self._store.close()

    def read_meters(self) -> None:
        """Read the meters as time passes, until it is told to stop."""
        while not self._stopped.is_set():
            is_behind = False
            if self._tried("storing reads", self.advance):
                self._tried("removing old files", self.remove_old_files)
                is_behind = instant_of(self._state.next_minute) <= self.now()
            else:
                self._tried("opening the store again", self._store.reopen)
            if not is_behind:
                self._stopped.wait(TICK_SECONDS)

    def write_files(self) -> None:
        """Write the files that are asked for, until it is told to stop."""
        while not self._stopped.is_set():
            self._asked.clear()
            done = self._tried("writing files", self.write_next)
            if done and not self._has_more and not self._stopped.is_set():
                self._asked.wait()

    def advance(self) -> None:
        """Read the meters' next steps, if the clock has reached them: some, not to take long.

        Raises
        ------
        Unavailable
            The disk is full, say: nothing was stored.
        """
        state, step = self._state, self.plan.interval_minutes
        now = max(self.now(), state.clock)
        due = (minute_of(now) - state.next_minute) // step + 1
        reads, next_minute = None, state.next_minute
        if due > 0:
            next_minute += min(due, steps_at_once(self.plan)) * step
            reads = reads_of(self.plan, self._fleet, first=state.next_minute, last=next_minute)
        # Punctual reads arrive before the next step; late ones are stored with the others.
        until = max(state.complete_until, min(now, instant_of(next_minute)))
        following = ReadingState(next_minute, now, until)
        self._store.advance(following, reads)
        self._state = following

    def write_next(self) -> None:
        """Write the next file that is asked for, if there is one.

        Raises
        ------
        Unavailable
            What became of it could not be noted.
        """
        request = self._requests.next()
        self._has_more = request is not None
        if request is None:
            return
        written = None
        if request.request_id not in self._untold:
            self._requests.tell(request.request_id, RequestStatus.SUBMITTED)
            self._requests.tell(request.request_id, RequestStatus.RUNNING)
            try:
                written = self._write(request)
            except WritingStopped:
                return
            except OSError as error:
                self._fail(request, error.strerror or str(error))
            except Unavailable as error:
                self._fail(request, str(error))
        reason = self._untold.get(request.request_id)
        if reason is not None:
            outcome = RequestOutcome(RequestStatus.FAILED, error=reason)
        elif written is None:
            outcome = RequestOutcome(RequestStatus.SKIPPED)
        else:
            outcome = RequestOutcome(RequestStatus.COMPLETED, *astuple(written))
        self._requests.finish(request.request_id, outcome, now=self.now())
        self._untold.pop(request.request_id, None)

    def _write(self, request: FileRequest) -> Written | None:
        """Write the file of a request; None: it would have no rows."""
        parts = self._store.parts(
            request.start_date, request.end_date, step_minutes=self.plan.interval_minutes
        )
        if not parts:
            return None
        path = self.files / _name(request.request_id)
        tables = self._tables(request, parts)
        return write_file(tables, path, partial=self._partial / path.name)

    def _tables(
        self, request: FileRequest, parts: Sequence[tuple[datetime, datetime, int]]
    ) -> Iterator[pl.DataFrame]:
        """The reads of a request, part by part, out of order where a fault has them so."""
        for number, (start, end, _) in enumerate(parts):
            if self._stopped.is_set():
                raise WritingStopped
            table = shown(self._store.reads(start, end), self._fleet.device_ids)
            order = self._faults.order_of(table.height, request=request.number, part=number)
            yield table if order is None else table[order]

    def _fail(self, request: FileRequest, reason: str) -> None:
        """Keep in mind why there is no file: the disk may be too full to note it."""
        self._untold[request.request_id] = f"the file could not be written: {reason}"

    def remove_old_files(self) -> None:
        """Remove the files that were finished long ago."""
        for request_id in self._requests.expire(self.now(), self._keep):
            (self.files / _name(request_id)).unlink(missing_ok=True)

    def _remove_leftovers(self) -> None:
        """Its own files that a killed process left: half done, or removed by half."""
        ids, completed = self._requests.ids(), self._requests.completed()
        for folder, known in ((self._partial, ids), (self.files, ids - completed)):
            names = {_name(request_id) for request_id in known}
            for path in folder.iterdir():
                if path.name in names and not path.is_dir():
                    path.unlink()

    def _tried(self, what: str, work: Callable[[], None]) -> bool:
        """Whether some work could be done; if not, a warning and a pause."""
        try:
            work()
        except (Unavailable, OSError) as error:
            if not self._stopped.is_set():
                _log.warning("%s failed and is tried again in %g s: %s", what, PAUSE_SECONDS, error)
                self._stopped.wait(PAUSE_SECONDS)
            return False
        return True


def _name(request_id: str) -> str:
    return f"{request_id}.csv.gz"
