"""The port: a source is polled for files, and a place is where their bytes are.

What a server says is not trusted: a name has one part and is printable, and a file never has more
bytes than announced.
"""

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from meterlake.delta.lock import utc_now
from meterlake.errors import Unavailable

Outcome = Literal["taken", "failed"]
Seen = Callable[[int], object]
Wanted = Callable[[str], bool]


class FileUnavailable(Unavailable):
    """One file cannot be fetched or moved; others of the same source may be."""


@dataclass(frozen=True)
class Means:
    """How a run tells the time, waits, and draws by chance.

    `tick` is a clock in seconds that only goes forward, `pause` waits so many seconds. `check` is
    called during long work; what it raises ends the run, which the next one resumes.
    """

    clock: Callable[[], datetime] = utc_now
    tick: Callable[[], float] = time.monotonic
    pause: Callable[[float], object] = time.sleep
    check: Callable[[], object] = lambda: None
    chance: Callable[[], float] = random.random


@dataclass(frozen=True)
class Version:
    """What tells one content of a file from another: size [B], modification time, entity tag."""

    size: int
    modified: datetime | None = None
    tag: str = ""

    def agrees_with(self, other: "Version | None") -> bool:
        """Whether both may be of the same content.

        A store may list times in milliseconds and answer for one object in seconds, so the time
        counts only where one of them has no entity tag, and where both say it.
        """
        if other is None or self.size != other.size:
            return False
        if self.tag and other.tag:
            return self.tag == other.tag
        return None in (self.modified, other.modified) or self.modified == other.modified


@dataclass(frozen=True)
class SourceFile:
    """A file of a source as it was announced, with its SHA-256 and rows where these are known.

    `delivered_as` is its name in the lake where `path` does not give one that is safe.
    """

    path: str
    version: Version
    sha256: str | None = None
    rows: int | None = None
    delivered_as: str = ""

    @property
    def name(self) -> str:
        """Its name without folders."""
        return self.delivered_as or self.path.rpartition("/")[2]


@dataclass(frozen=True)
class TakenFile:
    """A file that was dealt with, and how."""

    file: SourceFile
    outcome: Outcome
    at: datetime
    sha256: str = ""
    message: str = ""


@dataclass(frozen=True)
class Cursor:
    """How far the lake is with a source: arrivals before `until`, and single files by path."""

    until: datetime | None = None
    files: Mapping[str, TakenFile] = field(default_factory=dict)


@dataclass(frozen=True)
class Order:
    """A file that a source was asked to make, of arrivals in `start` <= arrival < `end`."""

    request_id: str
    ordered_at: datetime
    start: datetime
    end: datetime


@dataclass(frozen=True)
class Batch:
    """What a poll found.

    With a `next_cursor` there is one file at most, and the cursor moves in the commit that brings
    its reads. Without one the ledger records each file by itself, after its commit.
    """

    files: tuple[SourceFile, ...] = ()
    next_cursor: datetime | None = None
    is_last: bool = True
    wait_seconds: float | None = None  # nothing yet: poll again after so long
    keeps_order: bool = False  # the pending order is worth a commit of its own
    dealt_with: tuple[TakenFile, ...] = ()  # before, and not put away yet
    there: frozenset[str] = frozenset()  # paths of all files at the source
    waiting: int = 0  # of these, files that are not complete yet or are tried again later
    problems: tuple[str, ...] = ()
    progress: tuple[str, int, int] | None = None


@dataclass(frozen=True)
class Schedule:
    """When a source is run again: seconds between runs, after a first failure, and at most.

    A single run is tried `attempts` times; what it finds is complete after `settle_seconds`.
    """

    interval_seconds: float = 0.0
    retry_seconds: float = 20.0
    longest_seconds: float = 900.0
    attempts: int = 1
    settle_seconds: float = 0.0


class Source(Protocol):
    """Where files come from. Everything raises Unavailable, or BadInput where settings are wrong.

    `key` names its claim, and its cursor in staging's log. A poll of an `is_exclusive` source
    changes the source, so only the holder of the claim polls it; its failures are recorded in the
    lake. `pending` is the file that was ordered and has not come in; the ledger keeps it.
    """

    name: str
    key: str
    profile: str | None
    is_exclusive: bool
    puts_away: bool
    schedule: Schedule
    pending: Order | None

    def poll(self, cursor: Cursor) -> Batch:
        """Find what the source has beyond the cursor."""

    def opened(self) -> "AbstractContextManager[Place]":
        """Where its files are fetched from, while the context lasts."""

    def put_away(self, dealt: Sequence[TakenFile]) -> Iterable[bool | FileUnavailable]:
        """Mark or move files that were dealt with, where it `puts_away`; whether each was."""

    def postpone(self, file: SourceFile) -> None:
        """Do not offer a file that could not be fetched, read or put away in the next poll."""

    def close(self) -> None:
        """Close its connections, at the end of a run."""


@dataclass(frozen=True)
class Listed:
    """An entry of a folder; a folder has no `version`."""

    name: str
    version: Version | None


class Place(Protocol):
    """Where bytes of files are. Raises Unavailable, or BadInput where settings are wrong."""

    @property
    def is_atomic(self) -> bool:
        """Whether files appear whole."""

    def entries(self, folder: str, wanted: Wanted) -> Iterable[Listed]:
        """List a folder's entries whose names are wanted."""

    def version(self, path: str) -> Version | None:
        """Return a file's version now; None: there is no file."""

    def fetch(self, file: SourceFile, to: Path, *, seen: Seen) -> None:
        """Fetch a file from where `to` ends; `seen` gets the number of bytes so far."""

    def close(self) -> None:
        """Close its connections."""


@runtime_checkable
class Renames(Protocol):
    """A place whose files can be moved: all but HTTP."""

    def rename(self, path: str, to: str) -> None:
        """Give a file another path; its folder is made where it is missing."""


@runtime_checkable
class Leaves(Protocol):
    """A place where a mark is a file of its own: S3, which copies to rename."""

    def leave(self, path: str) -> None:
        """Put an empty file there."""
