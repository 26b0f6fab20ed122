"""Rows that no parser can take as good: what links, memories and old firmware do to a line.

Every damage leaves one line with text in it, free of quotes and line breaks. None leaves a value
empty, which would be a legal 'not read', and none can be read as ten good fields.
"""

from collections.abc import Callable

TIME, DEVICE_ID, FIRST_VALUE, FIELDS = 0, 2, 4, 10

_TEXTS = ("ERROR", "1.2.3", "##.###", "0.1O5", "overflow")
_NOT_NUMBERS = ("NaN", "inf", "-inf")
# What replaces month, day and hour of `yyyy-MM-dd HH`.
_IMPOSSIBLE = ((5, 7, "13"), (8, 10, "32"), (11, 13, "25"))


def damage(line: str, dice: int) -> str:
    """Return a good line as a bad one.

    Parameters
    ----------
    line : str
        Ten fields, without the line break.
    dice : int
        0 or more; it decides the kind of damage, then the place.

    Returns
    -------
    str
        The same line with one damage.
    """
    place, kind = divmod(dice, len(_KINDS))
    return ",".join(_KINDS[kind](line.split(","), place))


def _put_text(fields: list[str], place: int) -> list[str]:
    return _put_value(fields, place, _TEXTS)


def _put_no_number(fields: list[str], place: int) -> list[str]:
    return _put_value(fields, place, _NOT_NUMBERS)


def _put_value(fields: list[str], place: int, values: tuple[str, ...]) -> list[str]:
    choice, index = divmod(place, FIELDS - FIRST_VALUE)
    fields[FIRST_VALUE + index] = values[choice % len(values)]
    return fields


def _break_time(fields: list[str], place: int) -> list[str]:
    start, end, text = _IMPOSSIBLE[place % len(_IMPOSSIBLE)]
    fields[TIME] = fields[TIME][:start] + text + fields[TIME][end:]
    return fields


def _cut(fields: list[str], place: int) -> list[str]:
    # Between fields, never within one: a shortened number could still be read.
    return fields[: 2 + place % (FIELDS - 2)]


def _repeat_field(fields: list[str], place: int) -> list[str]:
    index = place % FIELDS
    return fields[:index] + fields[index : index + 1] + fields[index:]


def _drop_device(fields: list[str], place: int) -> list[str]:
    fields[DEVICE_ID] = ""
    return fields


_KINDS: tuple[Callable[[list[str], int], list[str]], ...] = (
    _put_text,
    _break_time,
    _cut,
    _repeat_field,
    _drop_device,
    _put_no_number,
)
