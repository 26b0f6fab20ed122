"""Energy from mean power: power times the length of its interval, never a sum of kW.

A reading is the mean power [kW] of the interval that begins at its time and lasts as long as is
stored with it. No moment counts twice. A gap is not a zero: it adds no energy and is counted as
missing. A day is complete where intervals of stated length cover all of it. Negative power is
export.
"""

from collections.abc import Callable, Sequence
from datetime import datetime

import polars as pl

from meterlake.periods import Period
from meterlake.schema import CONSUMPTION_DAILY, CONSUMPTION_MONTHLY, POLARS_TYPES
from meterlake.schema.projection import rank

CONSUMPTION_SCHEMA, DAILY_SCHEMA = (
    {c.name: POLARS_TYPES[c.type] for c in table.file_columns}
    for table in (CONSUMPTION_MONTHLY, CONSUMPTION_DAILY)
)

READ = (
    "meter_id",
    "reading_date_time",
    "reading_value",
    "interval_seconds",
    "length_source",
    "status",
)
"""The columns of readings that energy is worked out from."""

Arrivals = Callable[[list[str]], pl.DataFrame]
"""meter_id, reading_date_time and arrival_time of the readings of some meters."""

_SECONDS_AN_HOUR, _SECONDS_A_MINUTE = 3600, 60
_STATED = ("file", "profile", "lake")  # sources of lengths with which a day may be complete
_ROUNDING = 0.5  # [s]


def daily_energy(
    readings: pl.DataFrame, days: Sequence[Period], arrivals: Arrivals | None = None
) -> pl.DataFrame:
    """Energy of each meter and day.

    Parameters
    ----------
    readings : READ, with reading_value in kW; sorted by meter and time, one reading of a meter
        and time
    days : in order, not overlapping; readings that begin in no day are left out
    arrivals : of readings that overlap, tells which arrived later

    Returns
    -------
    DAILY_SCHEMA, sorted by meter and date: a row for each meter and day with a reading. Where the
    length of the intervals is not known, energy, expected intervals and hours are null. An
    interval that ends after its day is not of the day's energy, but in columns of its own.
    """
    if readings.is_empty() or not days:
        return pl.DataFrame(schema=DAILY_SCHEMA)
    reads = _amounts(readings, days, arrivals)
    # Of its day's own intervals none may reach into the one that ends after it.
    latest = pl.col("over_end").filter(~pl.col("over")).max()
    within, over = ~pl.col("over"), pl.col("over") & (pl.col("start") >= latest).fill_null(True)
    by_day = reads.group_by("meter_id", "period", maintain_order=True).agg(
        *(
            _sum(pl.col(c).filter(within)).alias(c)
            for c in ("import_kwh", "export_kwh", "hours", "stated_hours")
        ),
        within.sum().cast(pl.Int64).alias("intervals"),
        pl.col("interval_seconds").mode().min().alias("interval"),
        pl.col("kw").filter(within).min().alias("min_kw"),
        pl.col("kw").filter(within).max().alias("max_kw"),
        pl.col("kw").filter(within).mean().alias("plain_mean_kw"),
        pl.col("start").first().alias("first_start"),
        pl.col("over_end").filter(over).last(),
        *(
            pl.col(c).filter(over).last().alias(f"over_{c}")
            for c in ("import_kwh", "export_kwh", "hours", "stated_hours")
        ),
    )
    length = (pl.col("end") - pl.col("start")).dt.total_seconds()
    missing = length - pl.col("hours") * _SECONDS_AN_HOUR
    return (
        _with_bounds(by_day, days)
        .with_columns(
            (pl.col("intervals") + (missing / pl.col("interval")).round().cast(pl.Int64)).alias(
                "intervals_expected"
            ),
            _is_covered(length, pl.col("stated_hours")).alias("is_complete"),
            (pl.col("interval") / _SECONDS_A_MINUTE).alias("interval_minutes"),
            pl.coalesce(_mean_kw(), "plain_mean_kw").alias("mean_kw"),
        )
        .select(*_up_to_energy(), *list(DAILY_SCHEMA)[5:])
    )


def _amounts(
    readings: pl.DataFrame, days: Sequence[Period], arrivals: Arrivals | None
) -> pl.DataFrame:
    """Energy and time of each reading that counts; `over`: it ends after its day."""
    ends = pl.Series([day.end for day in days], dtype=POLARS_TYPES["timestamp"])
    reads = _in_periods(readings, "reading_date_time", days)
    is_over = reads.select((_end() > ends.gather(reads["period"])).fill_null(False)).to_series()
    reads = reads.with_columns(is_over.alias("over"))
    if is_over.any():
        some = without_overlap(reads.filter(~is_over), arrivals)
        reads = pl.concat([some, reads.filter(is_over)]).sort("meter_id", "reading_date_time")
    else:
        reads = without_overlap(reads, arrivals)
    hours = pl.col("interval_seconds") / _SECONDS_AN_HOUR
    is_stated = pl.col("length_source").is_in(_STATED)
    return reads.select(
        "meter_id",
        "period",
        "interval_seconds",
        pl.col("reading_date_time").alias("start"),
        pl.col("reading_value").alias("kw"),
        (pl.col("reading_value").clip(lower_bound=0) * hours).alias("import_kwh"),
        (pl.col("reading_value").clip(upper_bound=0).abs() * hours).alias("export_kwh"),
        hours.alias("hours"),
        pl.when(is_stated).then(hours).otherwise(0.0).alias("stated_hours"),
        "over",
        _end().alias("over_end"),
    )


def without_overlap(reads: pl.DataFrame, arrivals: Arrivals | None = None) -> pl.DataFrame:
    """The reads of which no two of a meter cover the same moment.

    Of two that do, a measured value stands before an estimate, then the later arrival, then the
    shorter interval.

    Parameters
    ----------
    reads : READ, sorted by meter and time
    """
    same = pl.col("meter_id") == pl.col("meter_id").shift()
    within = same & (pl.col("reading_date_time") < _end().shift())
    if not reads.select(within.any()).item():
        return reads
    within = same & (pl.col("reading_date_time") < _end().cum_max().over("meter_id").shift())
    numbered = reads.with_row_index("row").with_columns(
        (~within.fill_null(False)).cum_sum().alias("group"), _end().alias("end")
    )
    some = numbered.filter(pl.len().over("group") > 1).with_columns(rank().alias("rank"))
    order, key = ["rank"], ["meter_id", "reading_date_time"]
    if arrivals is not None:
        arrived = arrivals(some["meter_id"].unique().to_list()).select(*key, "arrival_time")
        some = some.join(arrived, on=key, how="left")
        order.append("arrival_time")
    some = some.sort("group", *(-pl.col(c).to_physical() for c in order), "interval_seconds", "row")
    beaten: list[int] = []
    covered: dict[int, list[tuple[datetime, datetime]]] = {}
    for row, group, start, end in some.select("row", "group", key[1], "end").iter_rows():
        spans = covered.setdefault(group, [])
        if any(start < last and end > first for first, last in spans):
            beaten.append(row)
        else:
            spans.append((start, end))
    return reads.filter(~numbered["row"].is_in(beaten))


def period_energy(daily: pl.DataFrame, periods: Sequence[Period]) -> pl.DataFrame:
    """Energy of each meter and week or month, from its days.

    An interval across the end of a day counts if the period holds it whole, and nothing of a later
    day begins before its end.

    Parameters
    ----------
    daily : as `daily_energy` returns it, sorted by meter and date
    periods : in order, not overlapping; days of no period are left out

    Returns
    -------
    CONSUMPTION_SCHEMA, a row for each meter and period with a reading; a day without one is
    expected to have as many intervals as its length has room for.
    """
    if daily.is_empty() or not periods:
        return pl.DataFrame(schema=CONSUMPTION_SCHEMA)
    days = _in_periods(daily, "start", periods)
    ends = pl.Series([p.end for p in periods], dtype=POLARS_TYPES["timestamp"])
    following = pl.col("first_start").shift(-1).over("meter_id", "period")
    counts = (pl.col("over_end") <= ends.gather(days["period"])) & (
        following.is_null() | (following >= pl.col("over_end"))
    )
    counts = counts.fill_null(False)
    days = days.with_columns(
        *(
            pl.when(counts).then(pl.sum_horizontal(c, f"over_{c}")).otherwise(c).alias(c)
            for c in ("import_kwh", "export_kwh", "hours", "stated_hours")
        ),
        (pl.col("intervals") + counts).alias("intervals"),
    )
    by_period = (
        days.filter(pl.col("intervals") > 0)
        .group_by("meter_id", "period", maintain_order=True)
        .agg(
            *(
                _sum(pl.col(c)).alias(c)
                for c in ("import_kwh", "export_kwh", "hours", "stated_hours")
            ),
            pl.col("intervals").sum(),
            pl.col("interval_minutes").mode().min(),
            pl.col("min_kw").min(),
            pl.col("max_kw").max(),
            pl.col("mean_kw").mean().alias("plain_mean_kw"),
        )
    )
    length = (pl.col("end") - pl.col("start")).dt.total_seconds()
    missing = length - pl.col("hours") * _SECONDS_AN_HOUR
    seconds = pl.col("interval_minutes") * _SECONDS_A_MINUTE
    return (
        _with_bounds(by_period, periods)
        .with_columns(
            (pl.col("intervals") + (missing / seconds).round().cast(pl.Int64)).alias(
                "intervals_expected"
            ),
            _is_covered(length, pl.col("stated_hours")).alias("is_complete"),
            pl.coalesce(_mean_kw(), "plain_mean_kw").alias("mean_kw"),
        )
        .select(*_up_to_energy(), *list(CONSUMPTION_SCHEMA)[5:])
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


def _is_covered(seconds: pl.Expr, hours: pl.Expr) -> pl.Expr:
    """Whether hours make up a length of time [s]."""
    return ((seconds - hours * _SECONDS_AN_HOUR).abs() < _ROUNDING).fill_null(False)


def _end() -> pl.Expr:
    return pl.col("reading_date_time") + pl.duration(seconds=pl.col("interval_seconds"))


def _sum(values: pl.Expr) -> pl.Expr:
    """The sum, null where there is nothing to add up."""
    return pl.when(values.count() > 0).then(values.sum())
