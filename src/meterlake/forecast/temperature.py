"""Temperature of the lake's weather table, as series of local hours and days."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import numpy as np
import polars as pl

from meterlake.delta.commit import snapshot
from meterlake.delta.store import Store
from meterlake.delta.table import fetched, scan
from meterlake.forecast.features import HORIZON
from meterlake.forecast.statistics import Floats
from meterlake.periods import LocalHours, Period
from meterlake.readings.layout import HOUR
from meterlake.schema import WEATHER


def hourly_temperature(store: Store, hours: LocalHours) -> Floats | None:
    """Mean temperature [°C] of all stations of the hours and HORIZON more, NaN where unknown.

    None where the lake has no temperature of these hours at all.
    """
    rows = _temperatures(store, hours.start(), hours.end() + HORIZON * HOUR)
    found = np.full(hours.count + HORIZON, np.nan, np.float32)
    for time, temperature in rows.iter_rows():
        number = hours.number(time)
        if 0 <= number < len(found):
            found[number] = temperature
    return None if np.isnan(found).all() else found


def daily_temperature(store: Store, days: Sequence[Period]) -> Floats | None:
    """Mean temperature [°C] of days, NaN where unknown; None where it is of all of them."""
    rows = _temperatures(store, days[0].start, days[-1].end)
    if rows.is_empty():
        return None
    starts = pl.Series([day.start for day in days], dtype=pl.Datetime("us", "UTC"))
    number = starts.search_sorted(rows["time"], side="right").cast(pl.Int64) - 1
    means = rows.with_columns(number.alias("day")).group_by("day").agg(pl.col("temperature").mean())
    found = np.full(len(days), np.nan, np.float32)
    found[means["day"].to_numpy()] = means["temperature"].to_numpy()
    return found


def _temperatures(store: Store, start: datetime, end: datetime) -> pl.DataFrame:
    """Hours, and the mean temperature of all stations, in the order of time."""
    files = [
        file
        for file in snapshot(store, WEATHER).files
        if file.first is not None
        and file.last is not None
        and file.first < end
        and file.last >= start - timedelta(hours=1)
    ]
    return fetched(
        scan(store, WEATHER, files)
        .filter(
            pl.col("time").is_between(start, end, closed="left"),
            pl.col("temperature").is_not_null(),
        )
        .group_by("time")
        .agg(pl.col("temperature").mean())
        .sort("time")
    )
