"""How a job tells how far it is."""

from collections.abc import Callable

Progress = Callable[[str, int | None, int], None]
"""Called with (what, units in all or None, units done)."""


def silent(what: str, total: int | None, done: int) -> None:
    """Progress for callers that want none."""
