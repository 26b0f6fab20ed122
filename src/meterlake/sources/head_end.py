"""A source that makes files when it is asked: a head-end system.

A file is ordered for a window of arrivals and waited for. What was ordered is kept, so the next
run resumes with the same file.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from meterlake.errors import BadInput, Unavailable
from meterlake.settings import Settings
from meterlake.source_settings import Address, IntegrationSettings
from meterlake.sources.fetcher import credentials, opened
from meterlake.sources.head_end_api import Extent, Gone, HeadEndClient, OrderedFile
from meterlake.sources.ledger import integration_key
from meterlake.sources.port import (
    Batch,
    Cursor,
    Means,
    Order,
    Place,
    Schedule,
    SourceFile,
    TakenFile,
    Version,
)

_POLLS_UNKEPT = 3  # an order that is done by then, and small, is not worth a commit
_UNKEPT_BYTES = 4_000_000
_WAITS = 8  # how often `wait_minutes` an order is waited for, in all
_BEHIND = timedelta(hours=1)  # a head-end system that lags further says so
_POLL_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0)


@dataclass
class HeadEndSource:
    """The arrivals at a head-end system, one window in each batch."""

    name: str
    settings: Settings
    means: Means = field(default_factory=Means)
    is_exclusive: bool = True
    puts_away: bool = False
    pending: Order | None = None

    def __post_init__(self) -> None:
        self._told = told = named_integration(self.settings, self.name)
        self.key = integration_key(self.name)
        self.profile = told.profile
        self.schedule = Schedule(
            60 * told.interval_minutes,
            told.retry_seconds,
            told.retry_seconds_at_most,
            told.attempts,
        )
        self._api: HeadEndClient | None = None
        self._extent: Extent | None = None  # as it was when the run began
        self._began: datetime | None = None  # where the run's first window begins
        self._wait_until: datetime | None = None  # for the pending file
        self._waits = 0

    def poll(self, cursor: Cursor) -> Batch:
        """Order the file of the next window, or ask how far it is."""
        api = self._api = self._api or HeadEndClient(self._told.url, pause=self.means.pause)
        extent = self._extent or self._first_look(api, cursor)
        until, start = extent.complete_until, cursor.until or self._first(extent)
        if start is None or start >= until:
            return Batch(problems=self._behind(extent))
        self._began = self._began or start
        longest = timedelta(hours=self._told.window_hours)
        file = self._ordered(api, start, until if until - start <= longest else start + longest)
        order = self.pending
        assert order is not None
        if file.status not in ("completed", "skipped"):
            batch = self._waiting(file, order)
        else:
            self._wait_until = None
            self._check_window(file, start, order.end)
            is_empty = file.status == "skipped" or file.record_count == 0
            batch = Batch(
                () if is_empty else (self._announced(file),),
                next_cursor=file.end_date,
                is_last=file.end_date >= until,
                keeps_order=not is_empty and (file.size or 0) > _UNKEPT_BYTES,
            )
        total, done = (round((at - self._began) / timedelta(hours=1)) for at in (until, start))
        problems = self._behind(extent) if batch.is_last else ()
        return replace(
            batch, problems=problems, progress=(f"{self.name}, hours of arrivals", total, done)
        )

    def opened(self) -> AbstractContextManager[Place]:
        """Connect to its SFTP server, while the context lasts."""
        host, port = self._told.sftp_host
        who = credentials(self._told, self._told.user, f"Integration '{self.name}'")
        return opened(Address("sftp", host, port, self._told.user, ""), who)

    def put_away(self, dealt: Sequence[TakenFile]) -> tuple[()]:
        """Nothing is changed there."""
        return ()

    def postpone(self, file: SourceFile) -> None:
        """Have the file made again."""
        self.pending = None

    def close(self) -> None:
        """Close the connection to its API."""
        if self._api is not None:
            self._api.close()
        self._api = self._extent = self._began = self._wait_until = None

    def _first_look(self, api: HeadEndClient, cursor: Cursor) -> Extent:
        extent = self._extent = api.extent()
        if cursor.until is not None and cursor.until > extent.complete_until:
            raise BadInput(
                f"The lake has the arrivals of '{self.name}' up to {cursor.until}, and the "
                f"head-end system at {self._told.url} knows none after {extent.complete_until}: "
                "is it another one, or was it set up again? Give it a name of its own in "
                "meterlake.toml"
            )
        return extent

    def _behind(self, extent: Extent) -> tuple[str, ...]:
        if extent.now - extent.complete_until <= _BEHIND:
            return ()
        until, now = (
            f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
            for moment in (extent.complete_until, extent.now)
        )
        return (
            f"its reads are complete up to {until} only, and there it is {now}: it still reads. "
            "Pull again for the rest",
        )

    def _first(self, extent: Extent) -> datetime | None:
        """Where a first window begins; None: nothing has arrived."""
        first, oldest = self._told.first_date, extent.oldest
        if first is None or oldest is None:
            return oldest
        if first.tzinfo is None:
            first = first.replace(tzinfo=ZoneInfo(self.settings.timezone))
        return max(first.astimezone(UTC), oldest)

    def _ordered(self, api: HeadEndClient, start: datetime, end: datetime) -> OrderedFile:
        """The file of the next window: the one that was ordered already, where there is one."""
        if self.pending is not None and self.pending.start == start:
            try:
                return api.file(self.pending.request_id)
            except Gone:
                self.pending = None
                if self._wait_until is not None:
                    raise
        file = api.order(start, end)
        self.pending = Order(file.request_id, self.means.clock(), file.start_date, file.end_date)
        self._check_window(file, start, end)
        return file

    def _check_window(self, file: OrderedFile, start: datetime, end: datetime) -> None:
        if file.start_date != start or not start < file.end_date <= end:
            self.pending = None
            raise BadInput(
                f"The head-end system needs to answer for the window that was ordered, {start} "
                f"to {end}; found {file.start_date} to {file.end_date}"
            )

    def _waiting(self, file: OrderedFile, order: Order) -> Batch:
        """Have a file that is not finished asked for again, as long as it is waited for."""
        if file.status == "failed":
            self.pending = None
            raise Unavailable(
                f"The head-end system could not make the file {file.request_id}: "
                f"{file.error or 'it does not say why'}. The next pull orders it again"
            )
        wait, now = timedelta(minutes=self._told.wait_minutes), self.means.clock()
        if self._wait_until is None:
            self._wait_until, self._waits = now + wait, 0
        if now >= self._wait_until:
            if self._wait_until - order.ordered_at > _WAITS * wait:
                self.pending = None  # nothing will come of it any more
            raise Unavailable(
                f"The file {file.request_id} is still {file.status} after "
                f"{self._told.wait_minutes:g} minutes. The next pull continues to wait for it"
            )
        self._waits += 1
        return Batch(
            is_last=False,
            wait_seconds=_POLL_SECONDS[min(self._waits, len(_POLL_SECONDS)) - 1],
            keeps_order=self._waits == _POLLS_UNKEPT + 1,
        )

    def _announced(self, file: OrderedFile) -> SourceFile:
        """A finished file, to be fetched."""
        if file.sftp_location is None or file.size is None:
            self.pending = None
            raise Unavailable(
                f"The head-end system says that the file {file.request_id} is completed, but not "
                "where it is and how large. Try again later"
            )
        return SourceFile(
            file.sftp_location,
            Version(file.size),
            file.sha256,
            file.record_count,
            delivered_as=f"{file.request_id}.csv.gz",
        )


def named_integration(settings: Settings, name: str) -> IntegrationSettings:
    """Return an integration of the settings. Raises BadInput."""
    if name not in settings.integration:
        known = ", ".join(settings.integration) or "none"
        raise BadInput(
            f"There is no integration '{name}' (known: {known}). Name it in meterlake.toml, in a "
            f"section [integration.{name}] with url, sftp, user, a password_env or password_file, "
            "and host_key"
        )
    return settings.integration[name]
