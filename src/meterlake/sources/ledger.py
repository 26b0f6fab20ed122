"""What the lake remembers of the files of a source: which it took, and which cannot be read.

It is remembered after the file is in staging, so what is cut off between is forgotten: then the
file is fetched again, and found to be known by its content.
"""

import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import polars as pl

from meterlake.delta.commit import snapshot
from meterlake.delta.lock import Claim, utc_now
from meterlake.delta.store import Store
from meterlake.delta.table import fetched, scan
from meterlake.delta.upsert import drop_rows, replace_rows
from meterlake.schema import TAKEN_FILES, polars_schema
from meterlake.sources.places import File, Outcome, Version

_LOOKED_FOR = ("path", "size", "modified_at", "entity_tag", "outcome", "taken_at")

FORGET_AFTER = 1000  # files that are gone from the source, where they are the most


@dataclass(frozen=True)
class Means:
    """How a look tells the time, waits, and draws by chance.

    `tick` is a clock of seconds that only goes forward; `check` is called in the midst of long
    work, and what it raises ends the look, which the next one goes on with.
    """

    clock: Callable[[], datetime] = utc_now
    tick: Callable[[], float] = time.monotonic
    check: Callable[[], object] = lambda: None
    chance: Callable[[], float] = random.random


@dataclass(frozen=True)
class Looked:
    """What a look at a source found there, and what became of it.

    `found` are files that the source asks for, `taken` those that came in now, `known` those
    whose content the lake had, `waiting` those that are not complete yet or could not be fetched,
    `failed` those that cannot be read; `rows` = `stored` + `quarantined`. `put_away` were marked
    or moved at the source, `stuck` could not be fetched or put away.
    """

    name: str
    found: int = 0
    taken: int = 0
    known: int = 0
    waiting: int = 0
    failed: int = 0
    rows: int = 0
    stored: int = 0
    quarantined: int = 0
    put_away: int = 0
    stuck: int = 0
    problems: tuple[str, ...] = ()

    @property
    def did_something(self) -> bool:
        """Whether anything came of it."""
        return bool(self.taken or self.known or self.failed or self.put_away)


@dataclass(frozen=True)
class Taken:
    """A file that was dealt with, and how."""

    file: File
    outcome: Outcome
    at: datetime
    sha256: str = ""
    message: str = ""


class Memory:
    """What was taken of one source, as the lake has it."""

    def __init__(self, store: Store, source: str) -> None:
        self._store = store
        self._source = source
        self._version = -2
        self.known: dict[str, Taken] = {}  # the last of each path; no hash

    def refresh(self) -> None:
        """Read it, where it has changed since."""
        state = snapshot(self._store, TAKEN_FILES)
        if state.version != self._version:
            mine = [f for f in state.files if f.partition["source"] == self._source]
            rows = fetched(scan(self._store, TAKEN_FILES, mine).select(_LOOKED_FOR)).sort(
                "taken_at"
            )
            self.known = {
                row["path"]: Taken(
                    File(row["path"], Version(row["size"], row["modified_at"], row["entity_tag"])),
                    row["outcome"],
                    row["taken_at"],
                )
                for row in rows.iter_rows(named=True)
            }
            self._version = state.version

    def remember(self, files: Sequence[Taken], claim: Claim, *, now: datetime) -> None:
        """Write down what became of files, in one commit, while the source is ours."""
        rows = pl.DataFrame(
            [
                {
                    "source": self._source,
                    "path": taken.file.path,
                    "size": taken.file.version.size,
                    "modified_at": taken.file.version.modified,
                    "entity_tag": taken.file.version.tag,
                    "source_sha256": taken.sha256,
                    "outcome": taken.outcome,
                    "message": taken.message[:2000],
                    "taken_at": taken.at,
                    "year": f"{taken.at:%Y}",
                    "month": f"{taken.at:%m}",
                }
                for taken in files
            ],
            schema=polars_schema(TAKEN_FILES),
        )
        replace_rows(self._store, TAKEN_FILES, rows, job="watch", now=now, marks=claim.marks)

    def forget(self, there: Iterable[str], claim: Claim, *, now: datetime) -> None:
        """Let go of files that are gone from the source, once they are the most and many.

        So what is remembered does not grow for ever. Should one come back, its content is known.
        """
        self.refresh()
        gone = set(self.known) - set(there)
        if len(gone) >= FORGET_AFTER and len(gone) > len(self.known) // 2:
            rows = pl.DataFrame({"source": self._source, "path": sorted(gone)})
            marks = claim.marks
            drop_rows(self._store, TAKEN_FILES, rows, job="watch", now=now, marks=marks)
