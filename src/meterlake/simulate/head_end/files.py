"""Files of reads: gzip CSV after Table 1 of the guide, written for a request.

A file is written under another name until it is whole. Times are ISO 8601 in UTC and say so.
"""

import hashlib
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import polars as pl
from isal import isal_zlib

from meterlake.simulate.arrivals import COLUMNS
from meterlake.simulate.registers import READING_TYPES

_GZIP_LEVEL = 2  # takes as long as level 1 here and is never larger
_GZIP_WINDOW_BITS = 15 + 16  # zlib: 15 bits of window, and 16 for the gzip frame


@dataclass(frozen=True)
class Written:
    """A file: its rows without the header, its bytes, and their hash as hex."""

    record_count: int
    size: int
    sha256: str


def shown(reads: pl.DataFrame, device_ids: Sequence[str]) -> pl.DataFrame:
    """Reads of the store as they are given away, with the columns of the file."""
    ids = pl.Series(device_ids, dtype=pl.String)
    return reads.select(
        pl.col("time").dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
        pl.col("arrival_time").dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ"),
        ids.gather(reads["device"]).alias("device_id"),
        pl.lit("readings").alias("measure_name"),
        *((pl.col(name) / 1000).round(3) for name in READING_TYPES),  # the nearest, to a digit
    ).select(COLUMNS)


def write_file(tables: Iterable[pl.DataFrame], path: Path, *, partial: Path) -> Written:
    """Write a file of reads, one table after the other, under the name `partial` until it is whole.

    Raises
    ------
    OSError
        The disk is full, say. Nothing is left of the file, nor after any error of `tables`.
    """
    try:
        with partial.open("wb") as raw:
            file = _GzipFile(raw)
            file.write(",".join(COLUMNS).encode() + b"\n")
            rows = 0
            for table in tables:
                file.write(_csv(table))
                rows += table.height
            file.end()
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return Written(rows, file.size, file.sha256.hexdigest())


class _GzipFile:
    """Compresses what it is given, and hashes what it writes."""

    def __init__(self, raw: BinaryIO) -> None:
        # zlib writes a gzip header without name and time, which would differ from run to run.
        self._raw, self.size, self.sha256 = raw, 0, hashlib.sha256()
        self._gzip = isal_zlib.compressobj(_GZIP_LEVEL, wbits=_GZIP_WINDOW_BITS)

    def write(self, text: bytes | memoryview) -> None:
        self._put(self._gzip.compress(text))

    def end(self) -> None:
        self._put(self._gzip.flush())

    def _put(self, data: bytes) -> None:
        self._raw.write(data)
        self.sha256.update(data)
        self.size += len(data)


def _csv(table: pl.DataFrame) -> memoryview:
    text = io.BytesIO()
    table.write_csv(
        text, include_header=False, float_precision=3, quote_style="never", line_terminator="\n"
    )
    return text.getbuffer()
