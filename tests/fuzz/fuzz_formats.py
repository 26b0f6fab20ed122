"""A coverage-guided fuzzing target: any bytes through recognise, split and parse.

Run by test_fuzz_formats.py as a process of its own, since it never returns:

    python tests/fuzz/fuzz_formats.py CORPUS_FOLDER -max_total_time=60
"""

import math
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["meterlake.formats"]):
    from meterlake.formats import registry, source, tabular

from meterlake.errors import MeterlakeError
from meterlake.formats.port import Parsed, value_columns

EARLIEST, LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
FILE = Path(tempfile.mkdtemp(prefix="meterlake-fuzz-")) / "a"

# Small, so that short inputs reach what is made for large files.
tabular.BLOCK_BYTES = 1000
for module in (source, tabular):
    for name, size in {"MAX_LINE_BYTES": 500, "PIECE_BYTES": 300}.items():
        setattr(module, name, size)


def one_input(data: bytes) -> None:
    """Read a file; its first byte says whether the profile is forced."""
    forced, content = data[:1] == b"!", data[1:]
    if content.startswith(source.PARQUET_MAGIC):
        return  # Polars aborts the process on damaged page headers
    FILE.write_bytes(content)
    delivered = source.DeliveredFile("a", str(FILE), source.compression_of(content[:4]))
    try:
        if forced:
            fmt = registry.named_format("hes_csv", default_zone="UTC")
        else:
            fmt = registry.recognise(delivered, default_zone="UTC")
        for block in fmt.split(delivered):
            check(fmt.parse(block))
    except MeterlakeError as error:
        assert str(error)


def check(parsed: Parsed) -> None:
    """Every row once, and what is read is finite and of our times."""
    read, rejected = (set(frame["source_row"]) for frame in (parsed.reads, parsed.rejected))
    assert not read & rejected
    assert len(read | rejected) == parsed.rows == parsed.reads.height + parsed.rejected.height
    assert parsed.rejected["raw"].null_count() == parsed.rejected["reason"].null_count() == 0
    assert parsed.reads["meter_id"].null_count() == 0
    for name in value_columns(parsed.reads):
        assert all(math.isfinite(value) for value in parsed.reads[name].drop_nulls())
    assert all(EARLIEST <= time < LATEST for time in parsed.reads["reading_date_time"])


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
