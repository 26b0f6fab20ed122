"""What can go wrong, as one tree.

    MeterlakeError
    ├── BadInput      trying again will not help: the input or a setting must change
    │   └── NotReadable   a delivered file that cannot be read at all
    └── Unavailable   trying again may help: storage, network, a busy lake
        └── Conflict      another writer committed first

A message says what was needed, what was found and what to do. Rows that cannot be
typed are no errors: they become rows of the quarantine, with the reason.
"""


class MeterlakeError(Exception):
    """Base of all errors that meterlake raises on purpose."""


class BadInput(MeterlakeError):
    """The input is wrong; the same call will fail again."""


class NotReadable(BadInput):
    """A delivered file cannot be read at all: damaged, empty or of unknown format."""


class Unavailable(MeterlakeError):
    """Something needed is not there at the moment; the same call may succeed later."""


class Conflict(Unavailable):
    """Another writer changed the table between our reading and our commit."""


def plain(text: object, most: int = 300) -> str:
    """What another machine says, in one line without control characters, and not too long."""
    words = " ".join(str(text).split())
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in words)[:most]
