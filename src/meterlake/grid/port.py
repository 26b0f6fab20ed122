"""What an analytic of the grid is: a table that is worked out day by day."""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from meterlake.delta.store import Store
from meterlake.delta.table import fetched, write_file
from meterlake.pipeline.derivation import Made
from meterlake.readings.layout import DAY, Piece, scan_pieces
from meterlake.schema import Table
from meterlake.settings import GridSettings
from meterlake.topology.upstream import topology_at, upstream_nodes

_DIGITS = 9


@dataclass(frozen=True)
class GridDay:
    """A unit of work: a UTC day, and the files of its readings, by reading type."""

    day: datetime
    pieces: Mapping[str, tuple[Piece, ...]]

    @property
    def days(self) -> tuple[datetime, ...]:
        """The days that it works out."""
        return (self.day,)


@dataclass(frozen=True)
class Analytic:
    """A table of the grid.

    Parameters
    ----------
    reading_types : those that it is worked out from
    settings : names of the settings that its rows depend on
    rows : the table's rows, from a day's readings by type, the nodes upstream of each meter and the
        settings
    """

    table: Table
    reading_types: tuple[str, ...]
    settings: tuple[str, ...]
    rows: Callable[[Mapping[str, pl.DataFrame], pl.DataFrame, GridSettings], pl.DataFrame]


def work_out(store: Store, analytic: Analytic, settings: GridSettings) -> Callable[[GridDay], Made]:
    """The work on one unit: read the day, work out its rows, write them as one file, or none."""

    def work(unit: GridDay) -> Made:
        ways = upstream_nodes(topology_at(store, unit.day + DAY - timedelta(microseconds=1)))
        number = ways.select("meter_id").with_row_index("meter")
        readings = {name: _readings(store, pieces, number) for name, pieces in unit.pieces.items()}
        table = analytic.table
        rows = analytic.rows(readings, ways.with_row_index("meter"), settings)
        if rows.is_empty():
            return Made()
        frame = rows.sort(table.sorted_by).select(c.name for c in table.file_columns)
        # Sums depend in their last digits on the order of adding, which is nobody's choice.
        frame = frame.with_columns(pl.selectors.float().round(_DIGITS))
        partition = {"date": unit.day.strftime("%Y-%m-%d")}
        name = f"part-{uuid.uuid4().hex}"
        return Made((write_file(store, table, frame, partition=partition, name=name),))

    return work


def _readings(store: Store, pieces: tuple[Piece, ...], number: pl.DataFrame) -> pl.DataFrame:
    """The readings of the meters of the topology: `meter`, their number; time, value, quality."""
    columns = ["meter_id", "reading_date_time", "reading_value", "quality"]
    return fetched(
        scan_pieces(store, pieces, columns)
        .join(number.lazy(), on="meter_id")
        .select(
            "meter",
            pl.col("reading_date_time").alias("time"),
            pl.col("reading_value").alias("value"),
            "quality",
        )
    )


def hourly_mean(readings: pl.DataFrame, name: str) -> pl.DataFrame:
    """Each meter's mean of each hour in which it has readings: `meter`, `hour`, and it."""
    hour = pl.col("time").dt.truncate("1h").alias("hour")
    return readings.group_by("meter", hour).agg(pl.col("value").mean().alias(name))
