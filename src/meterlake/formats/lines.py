"""The lines of a text: where they end, which are blank, and what each one says."""

import re

import numpy as np
import polars as pl
from numpy.typing import NDArray

from meterlake.formats.source import MAX_LINE_BYTES

RAW_BYTES = 64 * 1024  # of an overlong row, what the quarantine keeps

# Unicode's white space in UTF-8, as Polars strips it: a line of nothing else is blank.
_WHITE = (
    rb"[\t\x0b-\r ]|\xc2[\x85\xa0]|\xe1\x9a\x80|\xe2\x80[\x80-\x8a\xa8\xa9\xaf]"
    rb"|\xe2\x81\x9f|\xe3\x80\x80"
)
BLANK = re.compile(rb"(?:" + _WHITE + rb")*+(?:\n|\Z)")
_MAY_BE_BLANK = np.isin(np.arange(256), [*b"\t\n\x0b\x0c\r \xc2\xe1\xe2\xe3"])


def scan_lines(data: bytes, delimiter: str) -> tuple[NDArray[np.int64], bool]:
    """Where each line ends, and whether there is no control character but in line ends.

    One pass finds both: what is below a blank is nearly always a line end.
    """
    text = np.frombuffer(data, np.uint8)
    low = np.flatnonzero(text < ord(" "))
    kinds = text[low]
    is_end = kinds == ord("\n")
    ends = low[is_end]
    others = low[~is_end & (kinds != ord(delimiter) % 256)]
    # A carriage return belongs to the line end that it stands before.
    next_ = text[np.minimum(others + 1, len(text) - 1)]
    plain = data.isascii() and b"\x7f" not in data
    plain = plain and bool(((text[others] == ord("\r")) & (next_ == ord("\n"))).all())
    if data and not data.endswith(b"\n"):
        ends = np.append(ends, len(data))
    return ends, plain


def ends_empty(data: bytes, ends: NDArray[np.int64], delimiter: str) -> pl.Series | None:
    """Which lines end with a delimiter; None: none does."""
    text = np.frombuffer(data, np.uint8)
    last = text[np.maximum(ends - 1, 0)]
    if (last == ord("\r")).any():
        last = text[np.maximum(ends - 1 - (last == ord("\r")), 0)]
    empty = last == ord(delimiter)
    return pl.Series(empty) if empty.any() else None


def count_blank(data: bytes, ends: NDArray[np.int64]) -> int:
    """How many lines are white space only; an overlong one, whose end is not seen, is none."""
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    first = np.frombuffer(data, np.uint8)[np.minimum(starts, len(data) - 1)]
    sizes = ends - starts
    maybe = _MAY_BE_BLANK[first] & (sizes > 0) & (sizes <= MAX_LINE_BYTES)
    return int((sizes == 0).sum()) + sum(
        BLANK.match(data, int(start)) is not None for start in starts[maybe]
    )


def text_lines(data: bytes, first_row: int = 1) -> pl.DataFrame:
    """The lines of a text.

    source_row, line (undecodable bytes escaped, overlong ones cut), is_text, is_long, start [byte].
    """
    ends, _ = scan_lines(data, ",")
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    is_long = ends - starts > MAX_LINE_BYTES
    try:
        text = data.decode("utf-8").split("\n")[: len(starts)]
        is_text = [True] * len(text)
    except UnicodeDecodeError:
        raw = data.split(b"\n")[: len(starts)]
        text = [line.decode("utf-8", errors="backslashreplace") for line in raw]
        is_text = [line.decode("utf-8", errors="ignore").encode() == line for line in raw]
    for number in np.flatnonzero(is_long):
        start = starts[number]
        text[number] = data[start : start + RAW_BYTES].decode("utf-8", errors="backslashreplace")
    return pl.DataFrame(
        [
            pl.int_range(first_row, first_row + len(starts), eager=True).alias("source_row"),
            pl.Series("line", text, dtype=pl.String).str.strip_suffix("\r"),
            pl.Series("is_text", is_text, dtype=pl.Boolean),
            pl.Series("is_long", is_long, dtype=pl.Boolean),
            pl.Series("start", starts, dtype=pl.Int64),
        ]
    )
