"""Each folder under cases/<format>/ is a delivered file and the readings that it means.

`expected.csv` has the readings; `rejected.csv`, where it exists, the rows that go to
quarantine with the reason.
"""

from pathlib import Path

import polars as pl
import pytest

from meterlake.formats.port import Parsed, value_columns
from meterlake.formats.registry import recognise
from meterlake.formats.source import DeliveredFile, compression_of

CASES = Path(__file__).resolve().parents[1] / "cases"


def parse(path: Path) -> tuple[str, Parsed]:
    source = DeliveredFile(path.name, str(path), compression_of(path.read_bytes()[:4]))
    fmt = recognise(source, default_zone="UTC")
    parts = [fmt.parse(block) for block in fmt.split(source)]
    return fmt.name, Parsed(
        pl.concat([p.reads for p in parts], how="diagonal"),
        pl.concat([p.rejected for p in parts]),
        sum(p.rows for p in parts),
    )


def as_readings(reads: pl.DataFrame) -> pl.DataFrame:
    """The reads one value a row, with their quality where the format has it, times as text."""
    times = [c for c in ("reading_date_time", "arrival_time") if c in reads.columns]
    flags = [c for c in ("quality",) if c in reads.columns]
    return (
        reads.unpivot(
            value_columns(reads),
            index=["meter_id", *times, *flags],
            variable_name="reading_type",
            value_name="reading_value",
        )
        .drop_nulls("reading_value")
        .with_columns(pl.col(t).dt.strftime("%Y-%m-%dT%H:%M:%S.%6fZ") for t in times)
        .sort("meter_id", "reading_date_time", "reading_type")
    )


@pytest.mark.parametrize(
    "case", sorted(p.parent for p in CASES.rglob("expected.csv")), ids=lambda p: p.name
)
def test_a_delivered_file_becomes_just_these_readings(case: Path) -> None:
    (path,) = case.glob("input.*")
    name, parsed = parse(path)
    assert name == case.parent.name
    readings = as_readings(parsed.reads)
    expected = pl.read_csv(case / "expected.csv", schema=readings.schema)
    assert readings.rows() == expected.rows()
    rejected = case / "rejected.csv"
    wanted = pl.read_csv(rejected).rows() if rejected.exists() else []
    assert parsed.rejected.sort("source_row").select("source_row", "reason").rows() == wanted
