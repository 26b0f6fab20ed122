"""The format of a lake: which version of the layout its tables have, stated at its root.

A lake without the statement was made by version 0.1 and has format 1. Every opening of a table
comes by here, once per process and lake.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from meterlake import __version__
from meterlake.delta.store import Store
from meterlake.errors import BadInput
from meterlake.schema import known_tables

FORMAT = 3
FORMAT_KEY = "format"  # a table's key, of a commit that brought it to a format
PATH = "meterlake.json"

_FIRST_FORMAT = 1

_admitted: set[str] = set()  # lakes that have this format, or are being brought to it


def format_of(store: Store) -> int:
    """The lake's format; one that has no tables yet will have ours.

    Raises
    ------
    Unavailable
        The storage fails.
    """
    if store.is_local and not Path(store.url).exists():
        return FORMAT
    stated = store.read_if_there(PATH)
    if stated is None:
        first_commit = "_delta_log/00000000000000000000.json"
        if not any(store.has(f"{t.path}/{first_commit}") for t in known_tables().values()):
            return FORMAT
        stated = store.read_if_there(PATH)  # another process may just have made the lake
    return _FIRST_FORMAT if stated is None else int(json.loads(stated)["format"])


def require_format(store: Store) -> None:
    """Refuse a lake whose format is not ours.

    Raises
    ------
    BadInput
        It has an older format, or a newer one.
    """
    if store.url in _admitted:
        return
    found = format_of(store)
    if found != FORMAT:
        advice = "Run: meterlake upgrade" if found < FORMAT else "Install a newer meterlake"
        raise BadInput(
            f"This meterlake needs a lake of format {FORMAT}; '{store.url}' has format {found}. "
            f"{advice}"
        )
    _admitted.add(store.url)


def state_format(store: Store) -> None:
    """State the format of a lake that gets its first table; one that is stated already stays.

    Raises
    ------
    BadInput
        The lake has another format.
    """
    require_format(store)
    if not store.has(PATH) and format_of(store) == FORMAT:
        store.create(PATH, _statement())


def switch_format(store: Store) -> None:
    """Give a lake our format, which its tables have by now."""
    store.put(PATH, _statement())


@contextmanager
def upgrading(store: Store) -> Iterator[None]:
    """Open the lake's tables though it has an older format yet."""
    _admitted.add(store.url)
    try:
        yield
    finally:
        _admitted.discard(store.url)


def _statement() -> bytes:
    return json.dumps({"format": FORMAT, "made_by": f"meterlake {__version__}"}).encode()
