"""Serving against integrated, and energies against readings: recomputed and compared."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import polars as pl

from meterlake.delta.check import Finding
from meterlake.delta.store import Store
from meterlake.delta.table import DataFile, Snapshot, fetched, scan
from meterlake.integrate.cluster import COLUMNS
from meterlake.integrate.consumption import (
    Month,
    Summed,
    consumed_month,
    consumed_period,
    plan_months,
)
from meterlake.periods import periods
from meterlake.readings.consumption import month_of, pending_days
from meterlake.readings.layout import DAY, HOUR, Layout, Piece, Span, scan_pieces
from meterlake.readings.meter_ranges import RANGE_ROWS, MeterOrder, meter_ranges
from meterlake.schema import CONSUMPTION_DAILY, POLARS_TYPES, READINGS, SERVING_READINGS, Table

TOLERANCE = 1e-6  # [kWh], [kW]: sums of the same numbers in another order


@dataclass(frozen=True)
class ServedSpan:
    """A unit of work: days of a span of serving, and integrated's hours of them."""

    span: Span
    serving: tuple[Piece, ...]
    integrated: tuple[Piece, ...]


def plan_spans(
    layout: Layout, *, unreadable: frozenset[str]
) -> tuple[list[ServedSpan], list[Finding]]:
    """Every span, but for its stale days; and spans that have a day of another span too."""
    units, findings = [], []
    for name in layout.reading_types:
        spans = layout.spans(name)
        for span, following in zip(spans, [*spans[1:], None], strict=False):
            if following is not None and following.first < span.end:
                problem = f"it has days of the span that begins on {following.first:%Y-%m-%d} too"
                findings.append(Finding(SERVING_READINGS.name, span.files[0].path, problem))
            days = [d for d in layout.days(name) if span.first <= d < span.end]
            stale = [d for d in days if layout.is_stale(name, d)]
            windows = list(_between(span, stale))
            fresh = [
                Piece(READINGS, layout.hours(name, d), d, d + DAY) for d in days if d not in stale
            ]
            files = [*span.files, *(f for p in fresh for f in p.files)]
            if not unreadable & {f.path for f in files}:
                serving = tuple(Piece(SERVING_READINGS, span.files, *w) for w in windows)
                units.append(ServedSpan(span, serving, tuple(fresh)))
    return units, findings


def compare_spans(store: Store) -> Callable[[ServedSpan], list[Finding]]:
    """The work on one unit."""

    def work(unit: ServedSpan) -> list[Finding]:
        for keep in meter_ranges(store, [*unit.integrated, *unit.serving], RANGE_ROWS):
            found, wanted = (
                MeterOrder().by_meter(
                    fetched(
                        pl.concat(
                            [
                                scan_pieces(store, [p], COLUMNS, keep=keep, channels=None)
                                for p in pieces
                            ]
                        )
                    )
                )
                if pieces
                else pl.DataFrame()
                for pieces in (unit.serving, unit.integrated)
            )
            if not found.equals(wanted) and (found.height or wanted.height):
                problem = "its rows are not those that integrated has"
                return [Finding(SERVING_READINGS.name, f.path, problem) for f in unit.span.files]
        return []

    return work


def plan_energy(
    layout: Layout,
    daily: Snapshot,
    changed: Mapping[str, Iterable[datetime]],
    zone: str,
    *,
    unreadable: frozenset[str],
) -> list[tuple[Month, tuple[DataFile, ...]]]:
    """The days of each month that the table has worked out, and its files of the month."""
    units = []
    for name in layout.reading_types:
        files = [f for f in daily.files if f.partition["reading_type"] == name]
        last = max((f.last for f in files if f.last is not None), default=None)
        if last is None:
            continue
        (last_day,) = periods(zone, "day", last, last + HOUR)
        pending = {d.date for d in pending_days(layout, name, files, changed.get(name, ()), zone)}
        for month in plan_months(layout, (), {}, zone=zone, closed_until=last_day.end):
            days = tuple(d for d in month.days if d.date not in pending)
            of_month = tuple(f for f in files if month_of(f) == month.first)
            pieces = tuple(
                p for d in days for p in layout.pieces(name, d.start, d.end, by_meter=False)
            )
            paths = {f.path for f in of_month} | {f.path for p in pieces for f in p.files}
            if month.reading_type == name and pieces and not unreadable & paths:
                units.append((Month(name, month.first, days, pieces, pieces, ()), of_month))
    return units


def compare_energy(
    store: Store,
) -> Callable[[tuple[Month, tuple[DataFile, ...]]], list[Finding]]:
    """The work on one month of days."""

    def work(unit: tuple[Month, tuple[DataFile, ...]]) -> list[Finding]:
        month, files = unit
        dates = pl.col("date").is_in([day.date for day in month.days])
        found = scan(store, CONSUMPTION_DAILY, files).filter(dates)
        problem = "its energies are not those of the readings"
        same = _same(CONSUMPTION_DAILY, found, consumed_month(store, month))
        return [] if same else _findings(CONSUMPTION_DAILY, files, month, problem)

    return work


def compare_sums(store: Store) -> Callable[[Summed], list[Finding]]:
    """The work on one week or month."""

    def work(unit: Summed) -> list[Finding]:
        found = scan(store, unit.table, unit.replaces)
        problem = "its energies are not those of its days"
        same = _same(unit.table, found, consumed_period(store, unit))
        return [] if same else _findings(unit.table, unit.replaces, unit, problem)

    return work


def _same(table: Table, found: pl.LazyFrame, wanted: Iterator[pl.DataFrame]) -> bool:
    schema = {c.name: POLARS_TYPES[c.type] for c in table.file_columns}
    rows = fetched(found.select(list(schema))).sort("meter_id", "date")
    other = pl.concat([pl.DataFrame(schema=schema), *wanted]).sort("meter_id", "date")
    numbers = [name for name, kind in schema.items() if kind == pl.Float64]
    if not rows.drop(numbers).equals(other.drop(numbers)):
        return False
    apart = pl.DataFrame(
        [
            ((rows[n] - other[n]).abs() > TOLERANCE) | (rows[n].is_null() != other[n].is_null())
            for n in numbers
        ]
    )
    return not apart.select(pl.any_horizontal(pl.all()).any()).item()


def _findings(
    table: Table, files: Sequence[DataFile], unit: Month | Summed, problem: str
) -> list[Finding]:
    if files:
        return [Finding(table.name, f.path, problem) for f in files]
    first = unit.first if isinstance(unit, Month) else unit.period.date
    return [Finding(table.name, f"reading_type={unit.reading_type}", f"{first} is missing")]


def _between(span: Span, without: Sequence[datetime]) -> Iterator[tuple[datetime, datetime]]:
    start = span.first
    for day in without:
        if start < day:
            yield start, day
        start = day + DAY
    if start < span.end:
        yield start, span.end
