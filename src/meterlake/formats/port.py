"""What a format is: it recognises a file, cuts it into blocks and reads each block.

Cutting is cheap and sequential; reading is a pure function of one block, so blocks can
be read anywhere, in any order. A package registers a format of its own under the entry
point group `meterlake.formats`; the entry point names an object of the form `Format`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import polars as pl

from meterlake.formats.source import DeliveredFile, Range
from meterlake.schema import READING_TYPES

REJECTED = {"source_row": pl.Int64(), "raw": pl.String(), "reason": pl.String()}


@dataclass(frozen=True)
class Block:
    """Some whole rows of a source: in hand (`data`), or where to read them (`part`).

    `first_row` is the number of the first row in the file, from 1; `columns` are the names
    that the file's header gives, for formats that have one.
    """

    source: DeliveredFile
    first_row: int
    columns: tuple[str, ...] = ()
    data: bytes | None = None
    part: Range | None = None

    def bytes(self) -> bytes:
        """The block's bytes."""
        if self.data is not None:
            return self.data
        if self.part is None:
            raise ValueError("a block needs its bytes or the range that they lie in")
        return self.source.read_range(self.part)


@dataclass(frozen=True)
class Parsed:
    """A block as tables.

    `reads` has meter_id, reading_date_time, source_row and any of arrival_time, quality, status,
    interval_seconds and length_source, with the types of `schema.STAGING`; and a column of values
    for each reading type, named `kw`, or `kw/L1` where they are of a channel L1 of it. A null
    value means not read. Without interval_seconds it is the lake's interval that counts.
    `rejected` has the rows that could not be typed: source_row, raw, reason.

    `rows` is how many rows the block holds, counted in its bytes before any is typed (lines
    that are not blank, rows of a table). Each must be in `reads` or in `rejected`, by its
    source_row, and in one of them only: a block for which that is not so is not taken in.
    """

    reads: pl.DataFrame
    rejected: pl.DataFrame
    rows: int


def value_columns(reads: pl.DataFrame) -> list[str]:
    """The columns of a table of reads that are values, by reading type, then as they stand."""
    known = list(READING_TYPES)
    found = [name for name in reads.columns if name.partition("/")[0] in READING_TYPES]
    return sorted(found, key=lambda name: known.index(name.partition("/")[0]))


class Format(Protocol):
    """One kind of delivered file."""

    @property
    def name(self) -> str:
        """The name that `--profile` takes."""
        ...

    def recognises(self, source: DeliveredFile, head: bytes) -> bool:
        """Whether a file that begins with `head` (decompressed) is of this format."""
        ...

    def split(self, source: DeliveredFile) -> Iterator[Block]:
        """Cut the file into blocks of whole rows. Raises NotReadable where that fails."""
        ...

    def parse(self, block: Block) -> Parsed:
        """Read one block; a row that cannot be typed is returned with the reason."""
        ...
