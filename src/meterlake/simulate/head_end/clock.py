"""The head-end's own time, which may run faster than the machine's."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeAlias

Clock: TypeAlias = Callable[[], datetime]
"""Says what time it is, in UTC."""


def machine_clock() -> datetime:
    """The machine's time."""
    return datetime.now(UTC)


def running_from(start: datetime, *, speed: float, machine: Clock) -> Clock:
    """A clock that shows `start` now, and runs `speed` times as fast as the machine's."""
    began = machine()

    def now() -> datetime:
        return start + (machine() - began) * speed

    return now
