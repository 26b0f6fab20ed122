"""Readings of some meters in a window: the one door for everything that asks for them."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import polars as pl

from meterlake.lake.commit import snapshot
from meterlake.lake.history import AsOf
from meterlake.lake.sql import answer
from meterlake.lake.store import Store
from meterlake.lake.table import DataFile, fetched, scan
from meterlake.schema import READINGS, STAGING

EARLIEST = datetime.min.replace(tzinfo=UTC)
LATEST = datetime.max.replace(tzinfo=UTC)

_COLUMNS = [c.name for c in READINGS.columns if c.name not in READINGS.partitioned_by[1:]]


def read_readings(
    store: Store,
    meters: Sequence[str],
    *,
    reading_type: str,
    start: datetime | None = None,
    end: datetime | None = None,
    as_of: AsOf | None = None,
) -> pl.DataFrame:
    """Readings of some meters in a half-open window, sorted by meter and time.

    Parameters
    ----------
    start, end : aware; None: from the first, to the last reading
    as_of : what had arrived by a moment, worked out from staging; None: the integrated table

    Returns
    -------
    The columns of schema.READINGS without year, month, day and hour. No row where the meter
    is not known or has no reading in the window.
    """
    start, end = start or EARLIEST, end or LATEST
    if as_of is not None:
        return _read_as_of(store, meters, reading_type, start, end, as_of)
    files = [
        f
        for f in snapshot(store, READINGS).files
        if f.partition["reading_type"] == reading_type and _overlaps(f, start, end)
    ]
    return fetched(
        scan(store, READINGS, files)
        .filter(
            pl.col("meter_id").is_in(list(meters)),
            pl.col("reading_date_time").is_between(start, end, closed="left"),
        )
        .select(_COLUMNS)
        .sort("meter_id", "reading_date_time")
    )


def _read_as_of(
    store: Store,
    meters: Sequence[str],
    reading_type: str,
    start: datetime,
    end: datetime,
    as_of: AsOf,
) -> pl.DataFrame:
    staging = snapshot(store, STAGING)
    files = tuple(f for f in staging.files if _overlaps(f, start, end))
    sql = f"""
        SELECT {", ".join(_COLUMNS)} FROM readings
        WHERE meter_id IN (SELECT unnest($meters)) AND reading_type = $reading_type
            AND reading_date_time >= $start AND reading_date_time < $end
        ORDER BY meter_id, reading_date_time
    """  # noqa: S608
    asked = {"meters": list(meters), "reading_type": reading_type, "start": start, "end": end}
    return answer(store, sql, {STAGING.name: replace(staging, files=files)}, asked, as_of=as_of)


def _overlaps(file: DataFile, start: datetime, end: datetime) -> bool:
    return file.first is None or file.last is None or (file.first < end and file.last >= start)
