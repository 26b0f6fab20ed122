"""When a meter had supply, as far as its readings tell: day by day, before any topology.

A meter that has no supply takes no readings, or ones of hardly any voltage, or flags them. So a
day of a meter is a span from its first reading to the end of its last, and in it what is in
doubt: missing readings, low voltages, flags. A reading stands for the interval that it begins.
"""

from collections.abc import Mapping, Sequence

import polars as pl

from meterlake.grid.port import Analytic
from meterlake.schema import METER_SUPPLY
from meterlake.settings import GridSettings

_MOST_JITTER = 1.5  # intervals between two readings, up to which none is missing
_ONLY_READING = pl.duration(minutes=60)  # the interval where a lone reading does not show one


def supply_rows(
    readings: Mapping[str, pl.DataFrame], ways: pl.DataFrame, settings: GridSettings
) -> pl.DataFrame:
    """The rows of a day.

    Parameters
    ----------
    readings : `vltg` [V], and `kw` for meters without voltages: meter, time, value, quality
    ways : `meter`, `meter_id`
    """
    volts = readings["vltg"].with_columns(pl.lit(True).alias("is_voltage"))
    others = readings["kw"].join(volts, on="meter", how="anti")
    read = pl.concat([volts, others.with_columns(pl.lit(False).alias("is_voltage"))])
    read = read.sort("meter", "time").with_columns(
        pl.col("time").shift().over("meter").alias("before")
    )
    read = read.with_columns((pl.col("time") - pl.col("before")).alias("step"))
    read = read.join(_intervals(read), on="meter", how="left").with_columns(
        pl.col("interval").fill_null(pl.col("interval").mode().min()).fill_null(_ONLY_READING)
    )
    start, end = pl.col("time"), pl.col("time") + pl.col("interval")
    spans = read.group_by("meter").agg(
        start.first().alias("start"), end.last().alias("end"), pl.col("interval").first()
    )
    missing = read.filter(pl.col("step") > _MOST_JITTER * pl.col("interval")).select(
        "meter", (pl.col("before") + pl.col("interval")).alias("start"), start.alias("end"),
        "interval",
    )  # fmt: skip
    interval = pl.col("interval").first()
    least = settings.nominal_voltage_v * settings.outage_voltage_percent / 100
    low = read.filter(pl.col("is_voltage") & (pl.col("value") < least))
    flagged = read.filter(pl.col("quality").is_in(settings.outage_qualities))
    rows = pl.concat(
        frame.select("meter", "start", "end", "interval", pl.lit(evidence).alias("evidence"))
        for evidence, frame in (
            ("span", spans),
            ("missing", missing),
            ("voltage", joined(low.with_columns(start=start, end=end), ["meter"], interval)),
            ("error", joined(flagged.with_columns(start=start, end=end), ["meter"], interval)),
        )
    )
    minutes = pl.col("interval").dt.total_microseconds() / 60e6
    return rows.join(ways.select("meter", "meter_id"), on="meter").with_columns(
        minutes.alias("interval_minutes")
    )


def joined(times: pl.DataFrame, of: Sequence[str], *more: pl.Expr) -> pl.DataFrame:
    """Times that touch or overlap made one, `of` a meter or node; `more` of those that are one.

    Returns
    -------
    The columns `of`, `start`, `end`, and `more`.
    """
    return (
        times.sort(*of, "start")
        .with_columns(pl.col("end").cum_max().shift().over(of).alias("until"))
        .with_columns(
            (pl.col("until").is_null() | (pl.col("start") > pl.col("until"))).cum_sum().alias("run")
        )
        .group_by("run")
        .agg(pl.col(of).first(), pl.col("start").min(), pl.col("end").max(), *more)
        .drop("run")
    )


def _intervals(read: pl.DataFrame) -> pl.DataFrame:
    """The length of each meter's intervals: its most frequent step, of several the shortest."""
    return (
        read.drop_nulls("step")
        .group_by("meter", "step")
        .len()
        .sort("meter", "len", "step", descending=[False, True, False])
        .group_by("meter", maintain_order=True)
        .agg(pl.col("step").first().alias("interval"))
    )


METER_SUPPLY_ANALYTIC = Analytic(
    table=METER_SUPPLY,
    reading_types=("vltg", "kw"),
    settings=("nominal_voltage_v", "outage_voltage_percent", "outage_qualities"),
    rows=supply_rows,
)
