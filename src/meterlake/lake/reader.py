"""Readings of some meters in a window: the one door for everything that asks for them."""

from collections.abc import Sequence
from datetime import UTC, datetime

import polars as pl

from meterlake.lake.store import Store
from meterlake.lake.table import DataFile, scan, snapshot
from meterlake.schema import READINGS

EARLIEST = datetime.min.replace(tzinfo=UTC)
LATEST = datetime.max.replace(tzinfo=UTC)


def read_readings(
    store: Store,
    meters: Sequence[str],
    *,
    reading_type: str,
    start: datetime | None = None,
    end: datetime | None = None,
) -> pl.DataFrame:
    """Readings of some meters in a half-open window, sorted by meter and time.

    Parameters
    ----------
    start, end : aware; None: from the first, to the last reading

    Returns
    -------
    The columns of schema.READINGS without year, month, day and hour. No row where the meter
    is not known or has no reading in the window.
    """
    start, end = start or EARLIEST, end or LATEST
    files = [
        f
        for f in snapshot(store, READINGS).files
        if f.partition["reading_type"] == reading_type and _overlaps(f, start, end)
    ]
    return (
        scan(store, READINGS, files)
        .filter(
            pl.col("meter_id").is_in(list(meters)),
            pl.col("reading_date_time").is_between(start, end, closed="left"),
        )
        .select(c.name for c in READINGS.columns if c.name not in READINGS.partitioned_by[1:])
        .sort("meter_id", "reading_date_time")
        .collect()
    )


def _overlaps(file: DataFile, start: datetime, end: datetime) -> bool:
    return file.first is None or file.last is None or (file.first < end and file.last >= start)
