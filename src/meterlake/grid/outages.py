"""Outages: where the meters below a node are without supply together, the node is out.

A single meter that is silent may have lost its radio; when nine in ten below a transformer are,
it is the transformer. So the times in doubt of all meters below a node are counted up, and where
enough of them are out at a time, that is one outage of the node: of the highest node for which
it holds. When every meter of the lake is silent, it is the data that are missing.
"""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from meterlake.delta.store import Store
from meterlake.delta.table import DataFile, fetched, scan, write_file
from meterlake.grid.supply import joined
from meterlake.pipeline.derivation import Made
from meterlake.readings.layout import DAY, EARLIEST, start_of_day
from meterlake.schema import METER_SUPPLY, OUTAGES
from meterlake.settings import GridSettings
from meterlake.topology.upstream import topology_at, upstream_nodes

LEVELS = ("service_transformer", "distribution_transformer", "substation")  # from below

OUTAGE_SETTINGS = (
    "outage_share_percent",
    "outage_min_meters",
    "outage_meter_minutes",
    "outage_max_days",
)

_EVERYTHING = {"level": "all", "node": "all"}  # a node above all meters
_UNIT_DAYS = 7
_HALF = 0.5  # of an interval: what is shorter is no missing reading


@dataclass(frozen=True)
class OutageDays:
    """A unit of work: outages that start in [start, end).

    `supply` are the files of these days and of `outage_max_days` before and after them; `until`
    is where the readings end.
    """

    start: datetime
    end: datetime
    until: datetime
    supply: tuple[DataFile, ...]

    @property
    def days(self) -> tuple[datetime, ...]:
        """The days that it works out."""
        return tuple(self.start + number * DAY for number in range((self.end - self.start) // DAY))


def plan_outages(
    days: Sequence[datetime],
    supply: Sequence[DataFile],
    until: datetime,
    topologies: Sequence[datetime],
    settings: GridSettings,
) -> list[OutageDays]:
    """The days in runs of at most a week, each of one topology; `topologies`: when it changed."""
    others = {start_of_day(moment) for moment in topologies}
    around = timedelta(days=settings.outage_max_days)
    runs: list[tuple[datetime, datetime]] = []
    for day in sorted(days):
        goes_on = runs and runs[-1][1] == day and day not in others
        if goes_on and day - runs[-1][0] < _UNIT_DAYS * DAY:
            runs[-1] = runs[-1][0], day + DAY
        else:
            runs.append((day, day + DAY))
    return [
        OutageDays(
            start,
            end,
            until,
            tuple(f for f in supply if start - around <= date_of(f) < end + around),
        )
        for start, end in runs
    ]


def date_of(file: DataFile) -> datetime:
    """Start of the UTC day of a file that is partitioned by date."""
    return datetime.fromisoformat(f"{file.partition['date']}T00:00:00+00:00")


def end_of_readings(store: Store, supply: Sequence[DataFile]) -> datetime:
    """Up to when the readings reach: but for the last twentieth of meters, whose clocks may err."""
    last = max((date_of(f) for f in supply), default=EARLIEST)
    rows = scan(store, METER_SUPPLY, [f for f in supply if date_of(f) == last])
    spans = fetched(rows.filter(pl.col("evidence") == "span"))
    until: datetime | None = spans.select(pl.col("end").quantile(0.95, "lower")).item()
    return EARLIEST if until is None else until


def find_outages(store: Store, settings: GridSettings) -> Callable[[OutageDays], Made]:
    """The work on one unit: one file for each day on which an outage starts."""

    def work(unit: OutageDays) -> Made:
        ways = upstream_nodes(topology_at(store, unit.end - timedelta(microseconds=1)))
        supply = fetched(scan(store, METER_SUPPLY, unit.supply))
        rows = outage_rows(supply, ways, unit.until, settings)
        rows = rows.filter(pl.col("start").is_between(unit.start, unit.end, closed="left"))
        rows = rows.with_columns(pl.col("start").dt.strftime("%Y-%m-%d").alias("date"))
        columns = [c.name for c in OUTAGES.file_columns]
        files = [
            write_file(
                store,
                OUTAGES,
                part.sort(OUTAGES.sorted_by).select(columns),
                partition={"date": date},
                name=f"part-{uuid.uuid4().hex}",
            )
            for (date,), part in rows.partition_by("date", as_dict=True).items()
        ]
        return Made(tuple(files))

    return work


def outage_rows(
    supply: pl.DataFrame, ways: pl.DataFrame, until: datetime, settings: GridSettings
) -> pl.DataFrame:
    """The outages of some days.

    Parameters
    ----------
    supply : rows of the table meter_supply
    ways : the nodes upstream of each meter
    until : where the readings end

    Returns
    -------
    The columns of the table outages but for `date`.
    """
    ways = ways.with_row_index("meter")
    times = supply.join(ways.select("meter", "meter_id"), on="meter_id")
    out = _times_out(times, until, settings)
    below = _below(ways)
    live = times.select(pl.col("meter").unique())
    share = settings.outage_share_percent / 100
    need = (pl.len() * share).ceil().clip(settings.outage_min_meters).alias("need")
    needs = below.join(live, on="meter").group_by("level", "node").agg(need)
    outages = _together(out.join(below, on="meter"), needs)
    outages = _highest(outages, ways)
    everything = [pl.lit(name).alias(column) for column, name in _EVERYTHING.items()]
    gone = _together(
        out.filter(pl.col("evidence") == "missing").with_columns(everything),
        pl.DataFrame({**_EVERYTHING, "need": float(live.height)}),
    )
    outages = _apart_from(outages, gone)
    hit = (
        outages.join(below, on=["level", "node"])
        .join(out, on="meter", suffix="_meter")
        .filter(
            pl.col("start_meter") < pl.col("end"),
            pl.col("end_meter") > pl.col("start"),
        )
    )
    nodes = hit.group_by("level", "node", "start").agg(
        pl.col("end").first(),
        pl.col("customer_minutes").first(),
        pl.col("meter").n_unique().cast(pl.Int64).alias("meters"),
        _worst(),
        (pl.col("is_ongoing") & (pl.col("end") == until)).any(),
    )
    single = _of_meters(_apart_from(out, gone), hit, ways, settings)
    told = nodes.rename({"node": "id"}).with_columns(pl.lit(None, pl.String).alias("part_of"))
    return pl.concat([told.select(single.columns), single]).with_columns(
        _minutes().alias("minutes")
    )


def _of_meters(
    out: pl.DataFrame, hit: pl.DataFrame, ways: pl.DataFrame, settings: GridSettings
) -> pl.DataFrame:
    """The outages of single meters, and of which node's they are part.

    Parameters
    ----------
    out : the times in doubt of each meter
    hit : the nodes' outages, a row for each of these times in them
    """
    is_told = (
        pl.col("part_of").is_not_null()
        | (pl.col("evidence") != "missing")
        | (_minutes() >= settings.outage_meter_minutes)
    )
    part_of = hit.sort("start").group_by("meter", "start_meter", maintain_order=True)
    return (
        out.join(
            part_of.agg(pl.col("node").first().alias("part_of")),
            left_on=["meter", "start"],
            right_on=["meter", "start_meter"],
            how="left",
        )
        .filter(is_told)
        .join(ways.select("meter", "meter_id"), on="meter")
        .select(
            pl.lit("meter").alias("level"),
            pl.col("meter_id").alias("id"),
            "start",
            "end",
            _minutes().alias("customer_minutes"),
            pl.lit(1, pl.Int64).alias("meters"),
            "evidence",
            "is_ongoing",
            "part_of",
        )
    )


def _minutes() -> pl.Expr:
    return (pl.col("end") - pl.col("start")).dt.total_microseconds() / 60e6


def _worst() -> pl.Expr:
    """The evidence of several: what was measured counts before what is missing."""
    evidence = pl.col("evidence")
    return (
        pl.when((evidence == "error").any())
        .then(pl.lit("error"))
        .when((evidence == "voltage").any())
        .then(pl.lit("voltage"))
        .otherwise(pl.lit("missing"))
        .alias("evidence")
    )


def _times_out(times: pl.DataFrame, until: datetime, settings: GridSettings) -> pl.DataFrame:
    """The times in doubt of each meter, none of which touch: start, end, evidence, is_ongoing.

    What lies between the spans of two days, or after the last one, is missing too.
    """
    spans = times.filter(pl.col("evidence") == "span").sort("meter", "start")
    end = pl.lit(until).cast(pl.Datetime("us", "UTC"))
    between = spans.select(
        "meter",
        pl.col("end").alias("start"),
        pl.col("start").shift(-1).over("meter").alias("end"),
        pl.lit("missing").alias("evidence"),
        "interval_minutes",
    ).with_columns(pl.col("end").is_null().alias("is_ongoing"), pl.col("end").fill_null(end))
    between = between.filter(
        _minutes() > _HALF * pl.col("interval_minutes"),
        _minutes() <= settings.outage_max_days * 1440,
    )
    seen = times.filter(pl.col("evidence") != "span").with_columns(
        pl.lit(False).alias("is_ongoing")
    )
    doubts = pl.concat([seen.select(between.columns), between])
    return joined(doubts, ["meter"], _worst(), pl.col("is_ongoing").any())


def _below(ways: pl.DataFrame) -> pl.DataFrame:
    """The meters below each node: `level`, `node`, `meter`."""
    return pl.concat(
        ways.select(pl.lit(level).alias("level"), pl.col(f"{level}_id").alias("node"), "meter")
        for level in LEVELS
    ).drop_nulls("node")


def _together(out: pl.DataFrame, needs: pl.DataFrame) -> pl.DataFrame:
    """When so many meters of a node as it `need`s are out at a time.

    Returns
    -------
    `level`, `node`, `start`, `end`, and `customer_minutes`, the time of all its meters in it
    """
    key = ["level", "node"]
    steps = pl.concat(
        out.select(*key, pl.col(at).alias("start"), pl.lit(step, pl.Int64).alias("step"))
        for at, step in (("start", 1), ("end", -1))
    )
    pieces = (
        steps.group_by(*key, "start")
        .agg(pl.col("step").sum())
        .sort(*key, "start")
        .with_columns(
            pl.col("step").cum_sum().over(key).alias("out"),
            pl.col("start").shift(-1).over(key).alias("end"),
        )
        .join(needs, on=key, maintain_order="left")
        .filter(pl.col("out") >= pl.col("need"))
    )
    customer_minutes = (pl.col("out") * _minutes()).sum().alias("customer_minutes")
    return joined(pieces, key, customer_minutes)


def _highest(outages: pl.DataFrame, ways: pl.DataFrame) -> pl.DataFrame:
    """Without those that are part of one of a node above, at the same time."""
    for number, level in enumerate(LEVELS):
        for above in LEVELS[number + 1 :]:
            feeds = ways.select(
                pl.col(f"{level}_id").alias("node"), pl.col(f"{above}_id").alias("above")
            )
            theirs = outages.filter(pl.col("level") == above).select(
                pl.col("node").alias("above"),
                pl.col("start").alias("above_start"),
                pl.col("end").alias("above_end"),
            )
            part = (
                outages.filter(pl.col("level") == level)
                .join(feeds.unique().drop_nulls(), on="node")
                .join(theirs, on="above")
                .filter(
                    pl.col("start") < pl.col("above_end"), pl.col("end") > pl.col("above_start")
                )
            )
            outages = outages.join(part, on=["level", "node", "start"], how="anti")
    return outages


def _apart_from(outages: pl.DataFrame, gone: pl.DataFrame) -> pl.DataFrame:
    """Without those that lie, for half of their time or more, where there are no readings."""
    shared = [
        pl.min_horizontal("end", pl.lit(end)) - pl.max_horizontal("start", pl.lit(start))
        for start, end in gone.select("start", "end").rows()
    ]
    half = (pl.col("end") - pl.col("start")) / 2
    return outages.filter(~pl.any_horizontal(pl.lit(False), *(time >= half for time in shared)))
