"""Energy from mean power: power times the length of its interval, never a sum of kW.

A reading is the mean power [kW] of the interval that begins at its time. How long a meter's
intervals are is what lies most often between its readings of a day, where at least three times
agree or the day is covered so; of fewer readings it is not known. An interval ends at the latest
where the next reading begins. A gap is not a zero: it adds no energy and is counted as missing.
Negative power is export.
"""

from collections.abc import Sequence

import polars as pl

from meterlake.periods import Period
from meterlake.schema import CONSUMPTION_DAILY, POLARS_TYPES

CONSUMPTION_SCHEMA = {
    c.name: POLARS_TYPES[c.type]
    for c in CONSUMPTION_DAILY.columns
    if c.name not in CONSUMPTION_DAILY.partitioned_by
}

_MICROSECONDS_AN_HOUR = 3_600_000_000
_MICROSECONDS_A_MINUTE = 60_000_000
_TIMES_THAT_AGREE = 3


def daily_energy(readings: pl.DataFrame, days: Sequence[Period]) -> pl.DataFrame:
    """Energy of each meter and day.

    Parameters
    ----------
    readings : meter_id, reading_date_time, reading_value [kW]; sorted by meter and time, one
        reading of a meter and time
    days : in order, not overlapping; readings of no day are left out

    Returns
    -------
    The columns of schema.CONSUMPTION_DAILY without the partition columns, sorted by meter and
    date: a row for each meter and day with a reading. Where the length of the intervals is not
    known, energy, expected intervals and hours are null.
    """
    if readings.is_empty() or not days:
        return pl.DataFrame(schema=CONSUMPTION_SCHEMA)
    reads = _in_periods(readings, "reading_date_time", days).select(
        "meter_id",
        "period",
        pl.col("reading_date_time").dt.timestamp("us").alias("at"),
        pl.col("reading_value").alias("kw"),
    )
    meter_day = pl.struct("meter_id", "period").rle_id().alias("meter_day")
    if len(days) == 1:
        meter_day = pl.col("meter_id").rle_id().alias("meter_day")
    reads = reads.with_columns(meter_day).with_columns(
        pl.when(pl.col("meter_day") == pl.col("meter_day").shift(-1))
        .then(pl.col("at").shift(-1) - pl.col("at"))
        .alias("to_next")
    )
    by_day = reads.group_by("meter_day", maintain_order=True).agg(
        pl.col("meter_id").first(),
        pl.col("period").first(),
        pl.col("at").first().alias("first"),
        pl.col("at").last().alias("last"),
        pl.len().cast(pl.Int64).alias("intervals"),
        pl.col("to_next").max().alias("longest"),
        pl.col("kw").min().alias("min_kw"),
        pl.col("kw").max().alias("max_kw"),
        pl.col("kw").mean().alias("plain_mean_kw"),
    )
    by_day = _with_bounds(by_day, days).join(
        most_frequent_interval(reads), on="meter_day", how="left", maintain_order="left"
    )
    start, end = (pl.col(c).dt.timestamp("us") for c in ("start", "end"))
    before = (pl.col("first") - start) // pl.col("interval")
    covers_day = (
        (before == 0)
        & (pl.col("longest") <= pl.col("interval"))
        & (pl.col("last") + pl.col("interval") >= end)
    ).fill_null(False)
    is_known = covers_day | (pl.col("times") >= _TIMES_THAT_AGREE)
    by_day = by_day.with_columns(
        covers_day.alias("is_complete"), pl.when(is_known).then("interval").alias("interval")
    )
    hours = pl.min_horizontal(pl.col("to_next").fill_null(pl.col("interval")), "interval")
    energies = (
        reads.join(
            by_day.select("meter_day", "interval"),
            on="meter_day",
            how="left",
            maintain_order="left",
        )
        .with_columns((hours / _MICROSECONDS_AN_HOUR).alias("hours"))
        .group_by("meter_day", maintain_order=True)
        .agg(
            (pl.col("kw").clip(lower_bound=0) * pl.col("hours")).sum().alias("import_kwh"),
            (-pl.col("kw").clip(upper_bound=0) * pl.col("hours")).sum().alias("export_kwh"),
            pl.col("hours").sum(),
        )
    )
    # How many times of the meter's own grid the day has: before its first reading, and from it.
    since = -((pl.col("first") - end) // pl.col("interval"))
    known = pl.col("interval").is_not_null()
    return (
        by_day.join(energies, on="meter_day", maintain_order="left")
        .with_columns(
            *(pl.when(known).then(c).alias(c) for c in ("import_kwh", "export_kwh", "hours")),
            (before + since).alias("intervals_expected"),
            (pl.col("interval") / _MICROSECONDS_A_MINUTE).alias("interval_minutes"),
        )
        .select(
            *_up_to_energy(),
            "import_kwh",
            "export_kwh",
            "intervals",
            "intervals_expected",
            "is_complete",
            "interval_minutes",
            "hours",
            "min_kw",
            "max_kw",
            pl.coalesce(_mean_kw(), "plain_mean_kw").alias("mean_kw"),
        )
    )


def period_energy(daily: pl.DataFrame, periods: Sequence[Period]) -> pl.DataFrame:
    """Energy of each meter and week or month, from its days.

    Parameters
    ----------
    daily : as `daily_energy` returns it, sorted by meter and date
    periods : in order, not overlapping; days of no period are left out

    Returns
    -------
    The same columns, a row for each meter and period with a reading; a day without one is
    expected to have as many intervals as its length has room for.
    """
    if daily.is_empty() or not periods:
        return pl.DataFrame(schema=CONSUMPTION_SCHEMA)
    length = pl.col("end") - pl.col("start")
    by_period = (
        _in_periods(daily, "start", periods)
        .with_columns(
            pl.when(pl.col("interval_minutes").is_not_null()).then(length).alias("length")
        )
        .group_by("meter_id", "period", maintain_order=True)
        .agg(
            *(_sum(c) for c in ("import_kwh", "export_kwh", "hours", "intervals_expected")),
            pl.col("intervals").sum(),
            pl.col("is_complete").all(),
            pl.col("interval_minutes").mode().min(),
            pl.col("min_kw").min(),
            pl.col("max_kw").max(),
            pl.col("mean_kw").mean().alias("plain_mean_kw"),
            pl.col("length").sum().alias("there"),
        )
    )
    missing = length - pl.col("there")
    minutes = missing.dt.total_microseconds() / _MICROSECONDS_A_MINUTE
    return (
        _with_bounds(by_period, periods)
        .with_columns(
            (
                pl.col("intervals_expected")
                + (minutes / pl.col("interval_minutes")).round().cast(pl.Int64)
            ).alias("intervals_expected"),
            (pl.col("is_complete") & (missing == pl.duration())).alias("is_complete"),
            pl.coalesce(_mean_kw(), "plain_mean_kw").alias("mean_kw"),
        )
        .select(*_up_to_energy(), *list(CONSUMPTION_SCHEMA)[5:])
    )


def most_frequent_interval(reads: pl.DataFrame) -> pl.DataFrame:
    """Of each `meter_day` the most frequent time to the next reading [us], and how many there are.

    Of two as frequent the shorter.
    """
    return (
        reads.drop_nulls("to_next")
        .group_by("meter_day", "to_next")
        .agg(pl.len().alias("times"))
        .sort("meter_day", "times", "to_next", descending=[False, True, False])
        .unique("meter_day", keep="first", maintain_order=True)
        .select("meter_day", "times", pl.col("to_next").alias("interval"))
    )


def _in_periods(rows: pl.DataFrame, time: str, periods: Sequence[Period]) -> pl.DataFrame:
    """The rows whose time is in a period, with its number as `period`."""
    starts = pl.Series([p.start for p in periods], dtype=POLARS_TYPES["timestamp"])
    ends = pl.Series([p.end for p in periods], dtype=POLARS_TYPES["timestamp"])
    number = starts.search_sorted(rows[time], side="right").cast(pl.Int64) - 1
    rows = rows.with_columns(number.alias("period"))
    is_in = (number >= 0) & (rows[time] < ends.gather(number.clip(0)))
    return rows if is_in.all() else rows.filter(is_in)


def _with_bounds(rows: pl.DataFrame, periods: Sequence[Period]) -> pl.DataFrame:
    """The rows with date, start and end of their `period`."""
    bounds = pl.DataFrame(
        {
            "date": [p.date for p in periods],
            "start": [p.start for p in periods],
            "end": [p.end for p in periods],
        },
        schema={name: CONSUMPTION_SCHEMA[name] for name in ("date", "start", "end")},
    )
    return pl.concat([rows, bounds[rows["period"].to_list()]], how="horizontal")


def _up_to_energy() -> tuple[str | pl.Expr, ...]:
    energy = (pl.col("import_kwh") - pl.col("export_kwh")).alias("energy_kwh")
    return ("meter_id", "date", "start", "end", energy)


def _mean_kw() -> pl.Expr:
    return (pl.col("import_kwh") - pl.col("export_kwh")) / pl.col("hours")


def _sum(column: str) -> pl.Expr:
    """The sum, null where there is nothing to add up."""
    return pl.when(pl.col(column).count() > 0).then(pl.col(column).sum()).alias(column)
