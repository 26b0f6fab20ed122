"""Claims: what one process at a time does alone, though it takes several commits.

A claim is a row of the table `claims`, set by a commit that fails where another came first. It
runs out some time after it was last prolonged, so that who is killed blocks nobody for ever; a
process of this machine that is gone blocks nobody at all.

Clocks and processes only tell when to take over. That whoever was too slow changes nothing any
more follows from the order: a holder looks at its claim after it has read a table and right
before it commits on what it read, and who takes over commits nothing to each table first, a
fence, so that what was planned before comes too late.

Notes of each run in the logs of all its tables would do without a clock. But a run could still
change a table between another's last look at the notes and the commit that makes its state hold,
and readers would see that.
"""

import os
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import polars as pl

from meterlake.delta.commit import Change, commit, persistently, snapshot
from meterlake.delta.store import Store
from meterlake.delta.table import Snapshot, fetched, scan, write_file
from meterlake.errors import BadInput, Unavailable
from meterlake.schema import CLAIMS, Table, polars_schema

Clock = Callable[[], datetime]

LASTS = timedelta(minutes=15)  # a claim, since it was last prolonged
WAITS = (0.1, 0.2, 0.5, *[1.0] * 60)  # for another to give it back [s]

_KEY = "claims"

_held_here: set[str] = set()  # holders that this process has


def utc_now() -> datetime:
    """The machine's clock."""
    return datetime.now(UTC)


class Taken(Unavailable):
    """Another process does it."""


def is_claimed(store: Store, name: str, *, now: datetime) -> bool:
    """Whether a process does what the claim is of, and goes on doing it."""
    _, rows = _claims(store)
    mine = rows.filter(pl.col("name") == name).iter_rows(named=True)
    return any(row["until"] > now and not _is_gone(**row) for row in mine)


@dataclass(frozen=True)
class Claim:
    """A claim that was taken: what it is of, and who has it."""

    store: Store
    name: str
    holder: str
    clock: Clock

    def check(self) -> None:
        """Look whether it is still ours, and prolong it where half of its time is over.

        To be called between reading a table and the commit that is planned on what was read.

        Raises
        ------
        Unavailable
            Another has taken it over.
        """

        def checked() -> None:
            state, rows = _claims(self.store)
            mine = rows.filter(pl.col("holder") == self.holder)
            if mine.is_empty():
                raise Unavailable(
                    f"'{self.name}' was taken over by another process, since this one had not gone "
                    f"on for {LASTS}; it stops here. Run the command again"
                )
            if mine["until"].item() - self.clock() < LASTS / 2:
                self._put(state, rows, self.clock() + LASTS)

        persistently(checked)

    def take(self) -> bool | None:
        """Take it where nobody has it; whether somebody had left it. None: another has it."""
        state, rows = _claims(self.store)
        for row in rows.filter(pl.col("name") == self.name).iter_rows(named=True):
            if row["until"] > self.clock() and not _is_gone(**row):
                return None
        self._put(state, rows, self.clock() + LASTS)
        return not rows.filter(pl.col("name") == self.name).is_empty()

    def give_back(self, *, is_done: bool) -> None:
        """End it. Where its work was cut off the row stays, run out, for the next one to fence."""
        state, rows = _claims(self.store)
        if self.holder in rows["holder"]:
            self._put(state, rows, None if is_done else self.clock())

    def _put(self, state: Snapshot, rows: pl.DataFrame, until: datetime | None) -> None:
        others = rows.filter(pl.col("name") != self.name)
        mine = [(self.name, self.holder, socket.gethostname(), os.getpid(), until)]
        now = pl.DataFrame(mine if until else [], schema=polars_schema(CLAIMS), orient="row")
        rows = pl.concat([others, now]).sort(CLAIMS.sorted_by)
        file = f"part-{uuid.uuid4().hex}"
        files = [write_file(self.store, CLAIMS, rows, partition={}, name=file)] if len(rows) else []
        key = {_KEY: state.version + 1}
        change = Change(key, add=files, remove=state.files, read_version=state.version)
        commit(self.store, CLAIMS, change, now=self.clock())


@contextmanager
def claimed(
    store: Store,
    name: str,
    *,
    tables: Iterable[Table],
    clock: Clock = utc_now,
    pause: Callable[[float], object] = time.sleep,
    waits: Sequence[float] = WAITS,
) -> Iterator[Claim]:
    """Have a claim while something is done, and give it back.

    Parameters
    ----------
    name : of what only one process at a time may do
    tables : those that are changed under the claim, and only under it
    clock : tells the time, again and again
    pause : waits so many seconds
    waits : how often, and how long, for another to give it back [s]

    Raises
    ------
    Taken
        Another has it, and did not give it back while this one waited.
    """
    claim = Claim(store, name, uuid.uuid4().hex, clock)
    _held_here.add(claim.holder)
    is_done = False  # and no commit of it can be under way any more
    try:
        if _was_left(claim, pause, waits):
            for table in tables:
                _fence(store, table, clock)
        yield claim
        is_done = True
    except BadInput:
        is_done = True
        raise
    finally:
        _held_here.discard(claim.holder)
        with suppress(Unavailable):  # then it runs out
            persistently(lambda: claim.give_back(is_done=is_done))


def _was_left(claim: Claim, pause: Callable[[float], object], waits: Sequence[float]) -> bool:
    """Take a claim, sooner or later; whether its last holder had left it."""
    for seconds in (*waits, None):
        was_left = persistently(claim.take)
        if was_left is not None:
            return was_left
        if seconds is not None:
            pause(seconds)
    _, rows = _claims(claim.store)
    found = "another one has it"
    for row in rows.filter(pl.col("name") == claim.name).iter_rows(named=True):
        until = f"{row['until']:%Y-%m-%d %H:%M:%S}"
        found = f"process {row['process']} on {row['host']} has it until {until} UTC, or longer"
    raise Taken(
        f"'{claim.name}' is done by one process at a time; {found}. Run the command again when "
        "that has ended"
    )


def _fence(store: Store, table: Table, clock: Clock) -> None:
    """Commit nothing, so that a commit that was planned before is refused."""

    def fenced() -> None:
        version = snapshot(store, table).version
        commit(store, table, Change({_KEY: version + 1}, read_version=version), now=clock())

    persistently(fenced)


def _claims(store: Store) -> tuple[Snapshot, pl.DataFrame]:
    state = snapshot(store, CLAIMS)
    return state, fetched(scan(store, CLAIMS, state.files))


def _is_gone(*, holder: str, host: str, process: int, **_: object) -> bool:
    """Whether the holder is a process of this machine that has ended."""
    if host != socket.gethostname() or os.name != "posix":
        return False
    if process == os.getpid():
        return holder not in _held_here
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False  # it is there, and somebody else's
    return False
