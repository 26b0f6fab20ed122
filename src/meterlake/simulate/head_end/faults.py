"""What goes wrong on request: each kind with its share of answers, transfers or rows.

| Kind | Share of | What happens |
|---|---|---|
| slow | answers and transfers | held up for some seconds |
| drop | answers and transfers | the connection is cut in the middle |
| truncate | transfers | the file is served as if it were half as long |
| error500 | answers | the API answers 500 |
| duplicate | rows of a file | the row comes twice |
| out-of-order | rows of a file | the row changes place with other such rows |

Answers and transfers are struck by their number since the start, each for itself, rows by their
request: another attempt may succeed, and the same seed strikes the same ones.
"""

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from meterlake.errors import BadInput

SLOW_SECONDS = 3.0


class Fault(StrEnum):
    """A kind of fault."""

    SLOW = "slow"
    DROP = "drop"
    TRUNCATE = "truncate"
    ERROR_500 = "error500"
    DUPLICATE = "duplicate"
    OUT_OF_ORDER = "out-of-order"


class Channel(StrEnum):
    """Where an answer or a transfer goes."""

    API = "api"
    SFTP = "sftp"


_CHANNELS = {channel: number for number, channel in enumerate(Channel)}
_KEYS = {kind: number for number, kind in enumerate(Fault, start=101)}


def read_faults(texts: Sequence[str]) -> dict[Fault, float]:
    """Read `slow:10` and the like as kind and share [%].

    Raises
    ------
    BadInput
        No such kind, no such share, or a kind twice.
    """
    found: dict[Fault, float] = {}
    for text in texts:
        name, _, share = text.partition(":")
        try:
            kind, percent = Fault(name), float(share)
        except ValueError:
            kind, percent = None, -1.0
        if kind is None or not 0 <= percent <= 100 or kind in found:
            kinds = ", ".join(Fault)
            raise BadInput(
                f"--fault needs KIND:PERCENT such as slow:10, each kind once (kinds: {kinds}); "
                f"found '{text}'"
            )
        found[kind] = percent
    return found


class Faults:
    """Says whom a fault strikes. Threads may share it."""

    def __init__(self, shares: Mapping[Fault, float], *, seed: int) -> None:
        self._shares, self._seed = dict(shares), seed
        self._counts = Counter[tuple[Fault, Channel]]()
        self._lock = threading.Lock()

    def strikes(self, kind: Fault, channel: Channel) -> bool:
        """Whether the next answer or transfer is struck."""
        share = self._shares.get(kind, 0.0)
        if share == 0:
            return False
        with self._lock:
            number = self._counts[kind, channel]
            self._counts[kind, channel] += 1
        return bool(self._luck(kind, _CHANNELS[channel], number).random() * 100 < share)

    def order_of(self, rows: int, *, request: int, part: int) -> NDArray[np.intp] | None:
        """In which order, and how often, the rows of a part of a file are written.

        Returns
        -------
        int array, at least as long as `rows`, or None
            Numbers of rows; None: as they are.
        """
        if not {Fault.DUPLICATE, Fault.OUT_OF_ORDER} & self._shares.keys():
            return None
        order = np.arange(rows)
        moved = self._struck(Fault.OUT_OF_ORDER, rows, request, part)
        chance = self._luck(Fault.OUT_OF_ORDER, request, part, 1)
        order[moved] = chance.permutation(moved)
        twice = self._struck(Fault.DUPLICATE, rows, request, part)
        times = np.ones(rows, dtype=np.intp)
        times[twice] = 2
        return np.repeat(order, times)

    def _struck(self, kind: Fault, rows: int, request: int, part: int) -> NDArray[np.intp]:
        luck = self._luck(kind, request, part).random(rows)
        return np.flatnonzero(luck * 100 < self._shares.get(kind, 0.0))

    def _luck(self, kind: Fault, *key: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, _KEYS[kind], *key])
