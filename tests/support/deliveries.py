"""A profile and a file, read: what the tests of profiles ask."""

from pathlib import Path

import polars as pl

from meterlake.formats.port import Parsed, value_columns
from meterlake.formats.profile import read_profile
from meterlake.formats.source import DeliveredFile, compression_of
from meterlake.formats.tabular import ProfileFormat

Readings = dict[tuple[str, str, str], float]
"""Value by meter_id, reading_type and reading_date_time as text."""


def read(profile: str, path: Path, *, default_zone: str = "UTC") -> Parsed:
    """A file read by a profile's TOML, all of its blocks."""
    fmt = ProfileFormat(read_profile(profile, origin="test"), default_zone=default_zone)
    source = DeliveredFile(path.name, str(path), compression_of(path.read_bytes()[:4]))
    parts = [fmt.parse(block) for block in fmt.split(source)]
    parsed = Parsed(
        pl.concat([p.reads for p in parts], how="diagonal"),
        pl.concat([p.rejected for p in parts]),
        sum(p.rows for p in parts),
    )
    assert parsed.rows == parsed.reads["source_row"].n_unique() + parsed.rejected.height
    return parsed


def readings(parsed: Parsed) -> Readings:
    """The readings that are stored; fails where two have the same key."""
    rows = (
        parsed.reads.unpivot(
            value_columns(parsed.reads),
            index=["meter_id", "reading_date_time"],
            variable_name="reading_type",
            value_name="reading_value",
        )
        .drop_nulls("reading_value")
        .select(
            "meter_id",
            "reading_type",
            pl.col("reading_date_time").dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "reading_value",
        )
        .rows()
    )
    found = {(meter, kind, time): value for meter, kind, time, value in rows}
    assert len(found) == len(rows)
    return found


def expected(path: Path) -> Readings:
    """The readings that a case's expected.csv names."""
    rows = pl.read_csv(path, schema_overrides={"reading_value": pl.Float64}).rows()
    return {(meter, kind, time): value for meter, kind, time, value in rows}


def reasons(parsed: Parsed) -> dict[int, str]:
    """Why a row is rejected, by its number."""
    return dict(parsed.rejected.select("source_row", "reason").rows())
