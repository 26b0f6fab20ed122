"""The job that pulls from head-end systems: windows of arrival, each once.

A file is ordered for a window of arrivals, waited for, fetched, verified and taken in. In the
very commit that brings its reads, how far the integration is moves from the window's start to its
end (the cursor, a key of staging's log): whatever is cut off between, the two cannot disagree.
What was ordered is kept, so the next pull goes on with the same file.
"""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from meterlake.delta.commit import Change, Mark, Step, commit
from meterlake.delta.journal import Provenance
from meterlake.delta.lock import Claim, claimed, utc_now
from meterlake.delta.store import Store
from meterlake.engine import Engine
from meterlake.engine.progress import Progress, silent
from meterlake.errors import BadInput, MeterlakeError, Unavailable, plain
from meterlake.ingest.intake import ingest
from meterlake.schema import INTEGRATIONS, STAGING
from meterlake.settings import Settings
from meterlake.source_settings import IntegrationSettings
from meterlake.sources.head_end import Extent, File, Gone, HeadEnd
from meterlake.sources.integrations import (
    CURSOR,
    EPOCH,
    Row,
    claim_of,
    cursor_of,
    named_integration,
    rows_of,
    write_row,
)
from meterlake.sources.received import (
    Announced,
    Damaged,
    FileUnavailable,
    forget,
    parts_folder,
    verify,
)
from meterlake.sources.secrets import password
from meterlake.sources.sftp import Server, download

_POLLS_UNKEPT = 3  # an order that is done by then, and small, is not worth writing down
_UNKEPT_BYTES = 4_000_000
_WAITS = 8  # how often `wait_minutes` an order is waited for, in all
_POLL_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0)
_PORT = 22


@dataclass(frozen=True)
class Means:
    """How a pull tells the time, waits, and draws by chance.

    `pause` waits so many seconds; `check` is called in the midst of long work. What either raises
    ends the pull, which the next one goes on with. `brought` is told of each window.
    """

    clock: Callable[[], datetime] = utc_now
    pause: Callable[[float], object] = time.sleep
    check: Callable[[], object] = lambda: None
    chance: Callable[[], float] = random.random
    brought: "Callable[[Pulled], object]" = lambda done: None


@dataclass(frozen=True)
class Pulled:
    """What a pull did: windows it went through, those of them that were empty, what came in.

    `cursor` is how far it is, and `head_end_now` how late it is there.
    """

    name: str
    windows: int = 0
    empty: int = 0
    rows: int = 0
    stored: int = 0
    quarantined: int = 0
    cursor: datetime | None = None
    head_end_now: datetime | None = None

    def plus(self, later: "Pulled") -> "Pulled":
        """What this and a later one did."""
        names = ("windows", "empty", "rows", "stored", "quarantined")
        sums = {name: getattr(self, name) + getattr(later, name) for name in names}
        return replace(later, **sums)


def pull(
    store: Store,
    name: str,
    *,
    engine: Engine,
    settings: Settings,
    means: Means | None = None,
    progress: Progress = silent,
) -> Pulled:
    """Take in what has arrived at a head-end system since the last time, up to now there.

    Raises
    ------
    Taken
        Another process pulls from it.
    BadInput, Unavailable
        It failed, which is written down; what came in before stays. The next pull goes on.
    """
    means = means or Means()
    told = named_integration(settings, name)
    tables = STAGING, INTEGRATIONS
    alone = claimed(
        store, claim_of(name), tables=tables, clock=means.clock, pause=means.pause, waits=()
    )
    with alone as claim:
        row = rows_of(store).get(name)
        begun = replace(row or Row(name, means.clock()), tried_at=means.clock())
        run = _Run(store, told, begun, engine, settings, means, claim, progress)
        try:
            done = run.through()
        except MeterlakeError as error:
            with suppress(Unavailable):  # the lake is away, or another has it: the cause is told
                run.write(_failed(run.row, told, error, means))
            raise
        due = begun.tried_at + timedelta(minutes=told.interval_minutes)
        now = means.clock()
        run.write(replace(run.row, succeeded_at=now, next_eligible=due, failures=0, last_error=""))
    return done


@dataclass
class _Run:
    """One pull: window by window."""

    store: Store
    told: IntegrationSettings
    row: Row
    engine: Engine
    settings: Settings
    means: Means
    claim: Claim
    progress: Progress
    checked_at: float = field(default_factory=time.monotonic)

    def through(self) -> Pulled:
        """Every window from the cursor to what is complete now."""
        name, head_end = self.row.name, HeadEnd(self.told.url, pause=self.means.pause)
        try:
            extent = head_end.extent()
            known = cursor_of(self.store, name)
            self._check_known(known, extent)
            cursor = known or self._first(extent)
            done = Pulled(name, cursor=cursor)
            begin = cursor
            while cursor is not None and cursor < extent.complete_until:
                self._tell(begin, cursor, extent.complete_until)
                file = self._ordered(head_end, cursor, extent.complete_until)
                rows, stored = self._taken(file, was=known)
                known = cursor = file.end_date
                is_empty = file.status == "skipped"
                window = Pulled(name, 1, int(is_empty), rows, stored, rows - stored, cursor)
                self.means.brought(window)
                done = done.plus(window)
            return replace(done, head_end_now=extent.now)
        finally:
            head_end.close()

    def write(self, row: Row) -> None:
        """Write the integration's row down, while the integration is ours."""
        self.row = row
        write_row(self.claim, row, now=self.means.clock())

    def _first(self, extent: Extent) -> datetime | None:
        """Where a first window begins; None: nothing has arrived."""
        first, oldest = self.told.first_date, extent.oldest
        if first is None or oldest is None:
            return oldest
        if first.tzinfo is None:
            first = first.replace(tzinfo=ZoneInfo(self.settings.timezone))
        return max(first.astimezone(UTC), oldest)

    def _check_known(self, known: datetime | None, extent: Extent) -> None:
        if known is not None and known > extent.complete_until:
            raise BadInput(
                f"The lake has the arrivals of '{self.row.name}' up to {known}, and the head-end "
                f"system at {self.told.url} knows none after {extent.complete_until}: is it "
                "another one, or was it set up anew? Give it a name of its own in meterlake.toml"
            )

    def _ordered(self, head_end: HeadEnd, cursor: datetime, until: datetime) -> File:
        """The file of the next window: the one that was ordered already, where there is one."""
        longest = timedelta(hours=self.told.window_hours)
        end = until if until - cursor <= longest else cursor + longest
        file = None
        if self.row.request_id is not None and self.row.asked_from == cursor:
            with suppress(Gone):
                file = head_end.file(self.row.request_id)
        if file is None:
            file = head_end.order(cursor, end)
            self.row = replace(
                self.row,
                request_id=file.request_id,
                ordered_at=self.means.clock(),
                asked_from=file.start_date,
                asked_to=file.end_date,
            )
            self._check_window(file, cursor, end)
        file = self._finished(head_end, file)
        self._check_window(file, cursor, end if self.row.asked_to is None else self.row.asked_to)
        return file

    def _finished(self, head_end: HeadEnd, file: File) -> File:
        """Wait until a file is finished."""
        until = self.means.clock() + timedelta(minutes=self.told.wait_minutes)
        for asked, seconds in enumerate(_growing(_POLL_SECONDS)):
            if file.status in ("completed", "skipped"):
                return file
            if file.status == "failed":
                self._forget_order()
                raise Unavailable(
                    f"The head-end system could not make the file {file.request_id}: "
                    f"{file.error or 'it does not say why'}. The next pull orders it again"
                )
            if self.means.clock() >= until:
                ordered_at = self.row.ordered_at or until
                if until - ordered_at > _WAITS * timedelta(minutes=self.told.wait_minutes):
                    self._forget_order()  # nothing will come of it any more
                raise Unavailable(
                    f"The file {file.request_id} is still {file.status} after "
                    f"{self.told.wait_minutes:g} minutes. The next pull goes on waiting for it"
                )
            self._alive()
            if asked == _POLLS_UNKEPT:
                self.write(self.row)
            self.means.pause(seconds)
            try:
                file = head_end.file(file.request_id)
            except Gone:
                self._forget_order()
                raise
        raise AssertionError("pauses do not end")

    def _check_window(self, file: File, cursor: datetime, end: datetime) -> None:
        if file.start_date != cursor or not cursor < file.end_date <= end:
            self._forget_order()
            raise BadInput(
                f"The head-end system needs to answer for the window that was ordered, {cursor} "
                f"to {end}; found {file.start_date} to {file.end_date}"
            )

    def _taken(self, file: File, *, was: datetime | None) -> tuple[int, int]:
        """Take a finished file in, and the cursor to its end; its rows, and those stored."""
        key, now = CURSOR + self.row.name, self.means.clock()
        step = Step(-1 if was is None else _micros(was), _micros(file.end_date))
        marks: dict[str, Mark] = {key: step, **self.claim.marks}
        rows = stored = 0
        is_in = False
        parts = parts_folder(self.store.url, self.row.name)
        if file.status == "completed" and file.record_count != 0:
            path = self._fetched(file, parts)
            done = ingest(
                self.store,
                [str(path)],
                engine=self.engine,
                settings=self.settings,
                now=now,
                profile=self.told.profile,
                marks=marks,
                progress=self._progress,
            )
            for failure in done.failures:
                if not failure.is_bad:
                    raise Unavailable(failure.reason)
                self._forget_order()  # the same file would be as bad again
                raise BadInput(failure.reason)
            rows, stored = done.rows, done.stored
            is_in = not done.already_ingested
        if not is_in:  # nothing arrived, or just these bytes were taken in before
            change = Change({}, marks=marks, provenance=Provenance("pull"))
            commit(self.store, STAGING, change, now=now)
        forget(parts)
        self._forget_order()
        return rows, stored

    def _fetched(self, file: File, parts: Path) -> Path:
        """A finished file on this machine, whole and verified."""
        if file.sftp_location is None or file.size is None:
            self._forget_order()
            raise Unavailable(
                f"The head-end system says that the file {file.request_id} is completed, but not "
                "where it is and how large. Try again later"
            )
        path = parts / file.request_id / f"{file.request_id}.csv.gz"
        forget(parts, but=file.request_id)
        total = file.size
        if total > _UNKEPT_BYTES:
            self.write(self.row)

        def seen(done: int) -> None:
            self._alive()
            self.progress("bytes", total, done)

        try:
            is_whole = path.is_file() and path.stat().st_size == total
            if not is_whole:
                download(self._server(), file.sftp_location, path, size=total, seen=seen)
            verify(path, Announced(total, file.sha256, file.record_count))
        except (Damaged, FileUnavailable):
            self._forget_order()
            raise
        except OSError as error:
            raise Unavailable(
                f"'{path.name}' cannot be kept in {path.parent}: {error.strerror or error}"
            ) from error
        return path

    def _server(self) -> Server:
        told = self.told
        return Server(
            *told.sftp_host,
            told.user,
            password(told, f"Integration '{self.row.name}'"),
            None if told.key_file is None else told.key_file.expanduser(),
            told.host_key,
            None if told.known_hosts is None else told.known_hosts.expanduser(),
        )

    def _forget_order(self) -> None:
        self.row = replace(
            self.row, request_id=None, ordered_at=None, asked_from=None, asked_to=None
        )

    def _progress(self, what: str, total: int | None, done: int) -> None:
        self._alive()
        self.progress(what, total, done)

    def _alive(self) -> None:
        """Go on having the claim, looking every so often; end where it is to be ended."""
        self.means.check()
        if time.monotonic() - self.checked_at > 30:
            self.claim.check()
            self.checked_at = time.monotonic()

    def _tell(self, begin: datetime | None, cursor: datetime, until: datetime) -> None:
        self.means.check()
        self.claim.check()
        if begin is not None:
            hours = [round((moment - begin).total_seconds() / 3600) for moment in (until, cursor)]
            self.progress(f"{self.row.name}, hours of arrivals", *hours)


def _failed(row: Row, told: IntegrationSettings, error: MeterlakeError, means: Means) -> Row:
    """The row after a failure: tried again later, the later the more often it has failed."""
    failures = row.failures + 1
    longest = min(told.retry_seconds * 2.0 ** min(failures - 1, 60), told.retry_seconds_at_most)
    seconds = longest * (0.5 + means.chance() / 2)  # so that many do not come back at once
    return replace(
        row,
        failures=failures,
        last_error=plain(error, 2000),
        next_eligible=means.clock() + timedelta(seconds=seconds),
    )


def _growing(pauses: tuple[float, ...]) -> Iterator[float]:
    yield from pauses
    while True:
        yield pauses[-1]


def _micros(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)
