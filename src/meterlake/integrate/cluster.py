"""Integrated hours to serving days: the same readings once more, sorted by meter, then time.

The unit of work is a span of serving: one reading type, one UTC day, or the days of a month that
have been merged. Pieces of time, each sorted by meter, become one piece sorted by meter.
"""

import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import polars as pl

from meterlake.delta.store import Store
from meterlake.delta.table import DataFile, fetched, write_file
from meterlake.pipeline.derivation import Made
from meterlake.readings.layout import DAY, Day, Layout, Piece, Span, scan_pieces
from meterlake.readings.meter_ranges import RANGE_ROWS, MeterOrder, meter_ranges
from meterlake.schema import READINGS, SERVING_READINGS

COLUMNS = [c.name for c in SERVING_READINGS.file_columns]


@dataclass(frozen=True)
class Clustering:
    """A unit of work: pieces in the order of time become one span in the place of `replaces`."""

    reading_type: str
    first: datetime
    pieces: tuple[Piece, ...]
    replaces: tuple[DataFile, ...] = ()


def plan_days(
    layout: Layout, *, closed_until: datetime, rebuilt: Collection[Day] = ()
) -> list[Clustering]:
    """Stale days, and closed ones that serving does not have, in the order of time.

    Parameters
    ----------
    closed_until : days that end at or before are closed
    rebuilt : spans, by their first day, whose days are all to come from integrated
    """
    units: dict[tuple[datetime, str], Clustering] = {}
    for name in layout.reading_types:
        for day in layout.days(name):
            span = layout.span_of(name, day)
            if span is None:
                if day + DAY <= closed_until and layout.hours(name, day):
                    units[day, name] = Clustering(name, day, (_hours(layout, name, day),))
            elif (span.first, name) not in units:
                is_rebuilt = (name, span.first) in rebuilt
                if is_rebuilt or layout.is_stale(name, day):
                    units[span.first, name] = _renewed(layout, name, span, is_rebuilt)
    return [units[key] for key in sorted(units)]


def plan_merges(layout: Layout, *, merge_days: int, settled_until: datetime) -> list[Clustering]:
    """Runs of `merge_days` days of a month that serving has in several spans, where all are over.

    Parameters
    ----------
    merge_days : 31 for whole months; 1 for none
    settled_until : days that end at or before may be merged
    """
    units = []
    for name in layout.reading_types:
        runs: dict[datetime, list[Span]] = {}
        for span in layout.spans(name):
            number = (span.first.day - 1) // merge_days
            runs.setdefault(span.first.replace(day=1 + number * merge_days), []).append(span)
        for start, spans in runs.items():
            if len(spans) > 1 and _run_end(start, merge_days) <= settled_until:
                pieces = tuple(Piece(SERVING_READINGS, s.files, s.first, s.end) for s in spans)
                files = tuple(f for s in spans for f in s.files)
                units.append(Clustering(name, spans[0].first, pieces, files))
    return sorted(units, key=lambda unit: (unit.first, unit.reading_type))


def cluster_span(store: Store, file_rows: int = RANGE_ROWS) -> Callable[[Clustering], Made]:
    """The work on one unit: its files, each of a range of meters, of about so many rows."""
    order = MeterOrder()  # the types of a day mostly have the same meters in the same order

    def work(unit: Clustering) -> Made:
        partition = {
            "reading_type": unit.reading_type,
            "year": f"{unit.first.year:04d}",
            "month": f"{unit.first.month:02d}",
            "day": f"{unit.first.day:02d}",
        }
        return Made(
            tuple(
                write_file(
                    store,
                    SERVING_READINGS,
                    rows,
                    partition=partition,
                    name=f"part-{uuid.uuid4().hex}",
                )
                for rows in clustered(store, unit.pieces, order, file_rows)
            )
        )

    return work


def clustered(
    store: Store,
    pieces: Sequence[Piece],
    order: "MeterOrder | None" = None,
    range_rows: int = RANGE_ROWS,
) -> Iterator[pl.DataFrame]:
    """The readings in pieces, sorted by meter and time, in frames of ranges of meters."""
    order = order or MeterOrder()
    for keep in meter_ranges(store, pieces, range_rows):
        parts = [scan_pieces(store, [p], COLUMNS, keep=keep, channels=None) for p in pieces]
        # The pieces are in the order of time, and sorted by meter, then time, each.
        rows = order.by_meter(fetched(pl.concat(parts)))
        if not rows.is_empty():
            yield rows


def _renewed(layout: Layout, name: str, span: Span, is_rebuilt: bool) -> Clustering:
    """A span with its stale days from integrated, the others as they are."""
    pieces: list[Piece] = []
    for day in layout.days(name):
        if not span.first <= day < span.end:
            continue
        if is_rebuilt or layout.is_stale(name, day):
            pieces.append(_hours(layout, name, day))
        elif pieces and pieces[-1].table == SERVING_READINGS:
            pieces[-1] = Piece(SERVING_READINGS, span.files, pieces[-1].start, day + DAY)
        else:
            pieces.append(Piece(SERVING_READINGS, span.files, day, day + DAY))
    return Clustering(name, span.first, tuple(pieces), span.files)


def _hours(layout: Layout, name: str, day: datetime) -> Piece:
    return Piece(READINGS, layout.hours(name, day), day, day + DAY)


def _run_end(start: datetime, merge_days: int) -> datetime:
    """The end of a run of days of a month; it ends with the month at the latest."""
    next_month = (start.replace(day=28) + 4 * DAY).replace(day=1)
    return min(start + merge_days * DAY, next_month)
