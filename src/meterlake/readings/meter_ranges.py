"""Readings of all meters in portions: ranges of meters that fit into memory, in their order."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import polars as pl

from meterlake.delta.store import Store
from meterlake.delta.table import fetched
from meterlake.readings.layout import Piece, scan_pieces
from meterlake.schema import READINGS

RANGE_ROWS = 2_000_000  # rows of a file, about: a larger span is cut into ranges of meters


class MeterOrder:
    """Sorts rows by meter, equal meters as they were; the meters of the last rows once only."""

    def __init__(self) -> None:
        self._last: tuple[pl.Series, pl.Series, pl.Series] | None = None

    def by_meter(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The rows in that order."""
        meters = rows["meter_id"]
        if meters.is_sorted():
            return rows
        last = self._last
        if last is None or not last[0].equals(meters):
            order = rows.select(pl.arg_sort_by("meter_id", maintain_order=True)).to_series()
            last = self._last = meters, meters.gather(order), order
        _, in_order, order = last
        return rows.select(in_order, pl.exclude("meter_id").gather(order))


def meter_ranges(
    store: Store, pieces: Sequence[Piece], range_rows: int
) -> Iterator[pl.Expr | None]:
    """Conditions that cut pieces into ranges of meters of about so many rows; None: no cut."""
    count = -(-sum(p.rows for p in pieces) // range_rows)
    if count <= 1:
        yield None
        return
    most = max(pieces, key=lambda p: p.rows)
    if most.table == READINGS:  # any hour has about the meters of all
        most = replace(most, files=(max(most.files, key=lambda f: f.rows),))
    meters = fetched(
        scan_pieces(store, [most], ["meter_id"], channels=None).unique().sort("meter_id")
    )["meter_id"]
    if meters.is_empty():
        yield None
        return
    cuts = [meters[number * len(meters) // count] for number in range(1, count)]
    meter = pl.col("meter_id")
    yield meter < cuts[0]
    for low, high in pairwise(cuts):
        yield (meter >= low) & (meter < high)
    yield meter >= cuts[-1]


def meters_in(store: Store, pieces: Sequence[Piece]) -> list[str]:
    """The meters with readings in pieces, sorted."""
    if not pieces:
        return []
    found = fetched(
        scan_pieces(store, pieces, ["meter_id"], channels=None).unique().sort("meter_id")
    )
    return found["meter_id"].to_list()
