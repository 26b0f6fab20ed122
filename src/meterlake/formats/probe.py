"""A Parquet file read once in a process of its own, before this one touches it.

Some damage of a page's header makes the reader ask for memory without end, which ends its
process and cannot be caught. So a child goes first: where it does not come back, the file is
damaged.
"""

import subprocess
import sys

import polars as pl

from meterlake.errors import NotReadable
from meterlake.formats.source import MAX_PARQUET_EXPANSION, PARQUET_MAGIC, DeliveredFile, chunks
from meterlake.formats.tabular import scan_parquet

_CELL_BYTES = 8


def probe(source: DeliveredFile) -> None:
    """Read all of a Parquet file elsewhere; other files are left alone.

    Raises
    ------
    NotReadable
        That process was ended by what it read, or the file is a bomb. What it could say itself
        of other damage, or of a storage that fails, this process will find and say.
    Unavailable
        The file's beginning cannot be read.
    """
    with source.open_stored() as file:
        begins = next(chunks(file, source.name, size=len(PARQUET_MAGIC)), b"")
    if begins != PARQUET_MAGIC:
        return
    done = subprocess.run(
        [sys.executable, "-m", "meterlake.formats.probe", source.name, source.url],
        check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode < 0 or done.stdout:
        raise NotReadable(
            done.stdout.strip()
            or f"'{source.name}' needs to be a sound Parquet file; it is damaged. Deliver it again"
        )


def _main(name: str, url: str) -> None:
    source = DeliveredFile(name, url, "none")
    scan = scan_parquet(source)
    cells = scan.select(pl.len()).collect().item() * len(scan.collect_schema())
    try:
        source.check_expansion(cells * _CELL_BYTES, at_most=MAX_PARQUET_EXPANSION)
    except NotReadable as error:
        print(error)
        raise SystemExit(1) from error
    scan.select(pl.all().null_count()).collect(engine="streaming")


if __name__ == "__main__":
    _main(*sys.argv[1:])
