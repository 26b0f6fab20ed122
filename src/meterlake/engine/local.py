"""The local engine: units run in threads of this process.

Threads suffice because the work is Polars, zlib and storage, which release the
interpreter's lock. Units are drawn only as fast as they are worked off, so a stream of
units of any length needs memory for `workers` + 1 of them.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Unit = TypeVar("Unit")
Result = TypeVar("Result")


class LocalEngine:
    """Runs at most `workers` units at a time."""

    sends_units = False

    def __init__(self, workers: int) -> None:
        self._workers = workers

    def map(self, work: Callable[[Unit], Result], units: Iterable[Unit]) -> Iterator[Result]:
        """Yield results in the units' order; the first error cancels what has not begun."""
        with ThreadPoolExecutor(self._workers, thread_name_prefix="unit") as pool:
            pending: deque[Future[Result]] = deque()
            try:
                for unit in units:
                    pending.append(pool.submit(work, unit))
                    del unit
                    if len(pending) > self._workers:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                for future in pending:
                    future.cancel()
