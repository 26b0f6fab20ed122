"""Leases: what one process at a time does alone, though it takes several commits.

A lease is a small object `locks/<name>/<number>.json`. A process takes it by creating the next
number, which only one of many can; the highest number holds it. It expires some time after it was
last prolonged, so a killed process blocks nobody forever; one of this machine that is gone
blocks nobody at all.

Clocks and processes only tell when to take over. What keeps an expired holder from committing is
the number: each commit under the lease records it (`Claim.marks`), and is refused where a higher
one is recorded. A process that takes over what was not given back
first records its number in each table.
"""

import json
import os
import re
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256

from meterlake.delta.commit import Change, Fence, commit, persistently
from meterlake.delta.store import Store
from meterlake.errors import BadInput, Unavailable
from meterlake.schema import Table

Clock = Callable[[], datetime]

LASTS = timedelta(minutes=15)  # a lease, since it was last prolonged
WAITS = (0.1, 0.2, 0.5, *[1.0] * 60)  # for another to give it back [s]

_held_here: set[str] = set()  # holders that this process has


def utc_now() -> datetime:
    """The machine's clock."""
    return datetime.now(UTC)


class Taken(Unavailable):
    """Another process does it."""


@dataclass(frozen=True)
class Lease:
    """What the object says: who has it, and until when. `until` is None once it is given back."""

    number: int
    holder: str
    until: datetime | None
    host: str
    process: int

    def is_held(self, now: datetime) -> bool:
        """Whether its holder goes on having it."""
        return self.until is not None and self.until > now and not self._is_gone()

    def _is_gone(self) -> bool:
        """Whether the holder is a process of this machine that has ended."""
        if self.host != socket.gethostname() or os.name != "posix":
            return False
        if self.process == os.getpid():
            return self.holder not in _held_here
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False  # it is there, and somebody else's
        return False


def lease_of(store: Store, name: str) -> Lease | None:
    """The lease of a name as it is now; None where nobody ever had it."""
    while paths := sorted(found.path for found in store.list(_folder(name))):
        data = store.read_if_there(paths[-1])
        if data is not None:  # else another one came, and this one went
            told = json.loads(data)
            until = told["until"]
            told["until"] = None if until is None else datetime.fromisoformat(until)
            return Lease(**told)
    return None


def is_claimed(store: Store, name: str, *, now: datetime) -> bool:
    """Whether a process does what the claim is of, and goes on doing it."""
    lease = lease_of(store, name)
    return lease is not None and lease.is_held(now)


@dataclass(frozen=True)
class Claim:
    """A lease that was taken: of what, and by which holder; `number` is its fence."""

    store: Store
    name: str
    number: int
    holder: str
    clock: Clock

    @property
    def marks(self) -> Mapping[str, Fence]:
        """What each commit under the lease records: no such commit follows a later holder's."""
        return {f"lease/{self.name}": Fence(self.number)}

    def check(self) -> None:
        """Look whether it is still ours, and prolong it where half of its time is over.

        Raises
        ------
        Unavailable
            Another has taken it over.
        """
        lease = lease_of(self.store, self.name)
        if lease is None or lease.holder != self.holder:
            raise Unavailable(
                f"'{self.name}' was taken over by another process, since this one made no "
                f"progress for {LASTS}; it stops here. Run the command again"
            )
        now = self.clock()
        if lease.until is None or lease.until - now < LASTS / 2:
            _write(self.store, self.name, replace(lease, until=now + LASTS))

    def give_back(self, *, is_done: bool) -> None:
        """End it. Where its work was cut off it has run out, and the next one fences the tables."""
        lease = lease_of(self.store, self.name)
        if lease is not None and lease.holder == self.holder:
            until = None if is_done else self.clock()
            _write(self.store, self.name, replace(lease, until=until))


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
    """Have a lease while something is done, and give it back.

    Parameters
    ----------
    name : of what only one process at a time may do
    tables : those that are changed under it, by commits with its `marks`
    clock : tells the time, again and again
    pause : waits so many seconds
    waits : how often, and how long, for another to give it back [s]

    Raises
    ------
    Taken
        Another has it, and did not give it back while this one waited.
    """
    holder = uuid.uuid4().hex
    _held_here.add(holder)
    claim = None
    is_done = False  # and no commit of it can be under way any more
    try:
        claim, was_left = _taken(store, name, holder, clock, pause, waits)
        if was_left:
            fence = Change({}, marks=claim.marks)
            for table in tables:
                persistently(partial(commit, store, table, fence, now=clock()))
        yield claim
        is_done = True
    except BadInput:
        is_done = True
        raise
    finally:
        _held_here.discard(holder)
        if claim is not None:
            with suppress(Unavailable):  # then it runs out
                claim.give_back(is_done=is_done)


def _taken(
    store: Store,
    name: str,
    holder: str,
    clock: Clock,
    pause: Callable[[float], object],
    waits: Sequence[float],
) -> tuple[Claim, bool]:
    """Take a lease, sooner or later; and whether its last holder had not given it back."""
    for seconds in (*waits, None):
        before = lease_of(store, name)
        if before is None or not before.is_held(clock()):
            number = 1 if before is None else before.number + 1
            if _has_created(store, name, number, holder, clock() + LASTS):
                was_left = before is not None and before.until is not None
                return Claim(store, name, number, holder, clock), was_left
        if seconds is not None:
            pause(seconds)
    lease = lease_of(store, name)
    found = "another one has it"
    if lease is not None and lease.until is not None:
        until = f"{lease.until:%Y-%m-%d %H:%M:%S}"
        found = f"process {lease.process} on {lease.host} has it until {until} UTC, or longer"
    raise Taken(
        f"'{name}' is done by one process at a time; {found}. Run the command again when "
        "that has ended"
    )


def _has_created(store: Store, name: str, number: int, holder: str, until: datetime) -> bool:
    """Create the next number, and whether it is ours and the highest; lower ones are removed."""
    mine = Lease(number, holder, until, socket.gethostname(), os.getpid())
    store.create(_path(name, number), _text(mine))
    newest = lease_of(store, name)  # one who slept since it looked creates a number of long ago
    if newest is None or newest.holder != holder:
        return False
    for found in store.list(_folder(name)):
        if found.path < _path(name, number):
            store.delete(found.path)
    return True


def _write(store: Store, name: str, lease: Lease) -> None:
    store.put(_path(name, lease.number), _text(lease))


def _text(lease: Lease) -> bytes:
    return json.dumps(asdict(lease), default=datetime.isoformat).encode()


def _path(name: str, number: int) -> str:
    return f"{_folder(name)}/{number:020d}.json"


def _folder(name: str) -> str:
    """Where a lease is: its name as far as a folder may have it, and a hash of the whole."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:60]
    return f"locks/{plain}-{sha256(name.encode()).hexdigest()[:8]}"
