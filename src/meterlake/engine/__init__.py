"""Engines: what runs the units of work, threads here (local) or a cluster (spark).

An engine is one method. A job hands it a pure function and a stream of units and takes
the results; it never knows which engine it is.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

Unit = TypeVar("Unit")
Result = TypeVar("Result")


class Engine(Protocol):
    """Runs units of work, in any order, perhaps twice; yields results in the units' order."""

    @property
    def sends_units(self) -> bool:
        """Whether units go to other processes, so that they had better name data than hold it."""
        ...

    def map(self, work: Callable[[Unit], Result], units: Iterable[Unit]) -> Iterator[Result]:
        """Apply `work` to each unit; an error of a unit is raised and ends the job."""
        ...
