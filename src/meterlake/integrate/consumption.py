"""Serving's days to energy: per meter and local day, and from these per week and month.

A unit of work is one month of days, or one week or month, of one reading type. Days that changed
are recomputed from the readings, the others of the month are taken over.
"""

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime

import polars as pl

from meterlake.delta.journal import Entry
from meterlake.delta.store import Store
from meterlake.delta.table import DataFile, Snapshot, fetched, scan, write_file
from meterlake.periods import By, Period, first_date, local_date, local_midnight, next_date
from meterlake.pipeline.derivation import Made
from meterlake.readings.consumption import arrivals_in, month_of, pending_days, runs_of
from meterlake.readings.energy import DAILY_SCHEMA, READ, daily_energy, period_energy
from meterlake.readings.layout import DAY, Layout, Piece, scan_pieces
from meterlake.readings.meter_ranges import RANGE_ROWS, MeterOrder, meter_ranges
from meterlake.schema import (
    CONSUMPTION_DAILY,
    CONSUMPTION_MONTHLY,
    CONSUMPTION_WEEKLY,
    POWER_TYPES,
    Table,
)

PERIOD_TABLES: Mapping[By, Table] = {"week": CONSUMPTION_WEEKLY, "month": CONSUMPTION_MONTHLY}

Dates = dict[str, set[date]]
"""Local dates by reading type."""


@dataclass(frozen=True)
class Month:
    """A unit of work: `days` of a local month from their readings, its other days as they are.

    `hours` are integrated's files of the same readings, which know when each arrived.
    """

    reading_type: str
    first: date
    days: tuple[Period, ...]
    pieces: tuple[Piece, ...]
    hours: tuple[Piece, ...]
    before: tuple[DataFile, ...]


@dataclass(frozen=True)
class Summed:
    """A unit of work: a week or month of a reading type, from `daily` files."""

    table: Table
    reading_type: str
    period: Period
    daily: tuple[DataFile, ...]
    replaces: tuple[DataFile, ...]


def plan_months(
    layout: Layout,
    daily: Sequence[DataFile],
    changed: Mapping[str, Iterable[datetime]],
    *,
    zone: str,
    closed_until: datetime,
) -> list[Month]:
    """The months with days that changed, or that closed since the table was last brought up.

    Parameters
    ----------
    daily : the table's files; none, to have all days worked out
    changed : hours of integrated, by reading type, that the table has not consumed
    """
    units = []
    for name in layout.reading_types:
        if name not in POWER_TYPES:
            continue
        before = [f for f in daily if f.partition["reading_type"] == name]
        wanted = pending_days(
            layout, name, before, changed.get(name, ()), zone, closed_until=closed_until
        )
        by_month: dict[date, list[Period]] = {}
        for day in wanted:
            by_month.setdefault(first_date(day.date, "month"), []).append(day)
        for first, days in by_month.items():
            pieces = [p for run in runs_of(days) for p in layout.pieces(name, *run)]
            in_month = tuple(f for f in before if month_of(f) == first)
            hours = [p for r in runs_of(days) for p in layout.pieces(name, *r, by_meter=False)]
            if pieces or in_month:
                units.append(Month(name, first, tuple(days), tuple(pieces), tuple(hours), in_month))
    return units


def consume_month(store: Store) -> Callable[[Month], Made]:
    """The work on one unit of days: its files, each of a range of meters."""

    def work(unit: Month) -> Made:
        files = [
            _write(store, CONSUMPTION_DAILY, rows, unit.reading_type, unit.first)
            for rows in consumed_month(store, unit)
        ]
        return Made(tuple(files))

    return work


def consumed_month(store: Store, unit: Month) -> Iterator[pl.DataFrame]:
    """The daily table's rows of one unit, in frames of ranges of meters."""
    order = MeterOrder()
    for keep in meter_ranges(store, unit.pieces, RANGE_ROWS):
        read = [scan_pieces(store, [p], READ, keep=keep) for p in unit.pieces]
        nothing = scan_pieces(store, (), READ)
        readings = order.by_meter(fetched(pl.concat(read or [nothing])))
        rows = daily_energy(readings, unit.days, arrivals_in(store, unit.hours))
        if unit.before:
            others = scan(store, CONSUMPTION_DAILY, unit.before).filter(
                ~pl.col("date").is_in([day.date for day in unit.days])
            )
            others = others if keep is None else others.filter(keep)
            rows = pl.concat([fetched(others.select(rows.columns)), rows])
            rows = rows.sort("meter_id", "date")
        if not rows.is_empty():
            yield rows


def dates_of(units: Iterable[Month]) -> dict[str, list[str]]:
    """The dates that units recompute, by reading type, for the commit's note."""
    dates: dict[str, list[str]] = {}
    for unit in units:
        dates.setdefault(unit.reading_type, []).extend(d.date.isoformat() for d in unit.days)
    return dates


def changed_dates(commits: Iterable[Entry], zone: str) -> Dates:
    """The dates that commits to the daily table have changed."""
    changed: dict[str, set[date]] = {}
    for entry in commits:
        told = None if entry.account is None else entry.account.provenance.changed
        if told is not None:
            for name, dates in told.items():
                changed.setdefault(name, set()).update(map(date.fromisoformat, dates))
        else:
            for name, days in dates_in(entry.added, zone).items():
                changed.setdefault(name, set()).update(days)
    return changed


def plan_periods(
    by: By, daily: Snapshot, state: Snapshot, changed: Dates, *, zone: str
) -> list[Summed]:
    """The weeks or months that changed days are in."""
    table = PERIOD_TABLES[by]
    sources: dict[tuple[str, date], list[DataFile]] = {}
    for file in daily.files:
        sources.setdefault((file.partition["reading_type"], month_of(file)), []).append(file)
    present: dict[tuple[str, ...], list[DataFile]] = {}
    for file in state.files:
        present.setdefault(tuple(file.partition.values()), []).append(file)
    units = []
    for name, dates in changed.items():
        for first in sorted({first_date(day, by) for day in dates}):
            following = next_date(first, by)
            months = {first_date(day, "month") for day in (first, following - DAY)}
            period = Period(first, local_midnight(zone, first), local_midnight(zone, following))
            units.append(
                Summed(
                    table,
                    name,
                    period,
                    tuple(f for month in sorted(months) for f in sources.get((name, month), ())),
                    tuple(present.get(tuple(_partition(table, name, first).values()), ())),
                )
            )
    return [u for u in units if u.daily or u.replaces]


def consume_period(store: Store) -> Callable[[Summed], Made]:
    """The work on one week or month: its file, or files by ranges of meters."""

    def work(unit: Summed) -> Made:
        files = [
            _write(store, unit.table, rows, unit.reading_type, unit.period.date)
            for rows in consumed_period(store, unit)
        ]
        return Made(tuple(files))

    return work


def consumed_period(store: Store, unit: Summed) -> Iterator[pl.DataFrame]:
    """A week's or month's rows, in frames of ranges of meters."""
    piece = Piece(CONSUMPTION_DAILY, unit.daily, unit.period.start, unit.period.end)
    for keep in meter_ranges(store, [piece], RANGE_ROWS):
        days = scan(store, CONSUMPTION_DAILY, unit.daily).filter(
            pl.col("start").is_between(unit.period.start, unit.period.end, closed="left")
        )
        days = days if keep is None else days.filter(keep)
        rows = period_energy(
            fetched(days.select(list(DAILY_SCHEMA))).sort("meter_id", "date"), [unit.period]
        )
        if not rows.is_empty():
            yield rows


def dates_in(files: Iterable[DataFile], zone: str) -> Dates:
    """The dates that daily files can have, by reading type."""
    dates: dict[str, set[date]] = {}
    for file in files:
        if file.first is None or file.last is None:
            continue
        day, last = local_date(zone, file.first), local_date(zone, file.last)
        while day <= last:
            dates.setdefault(file.partition["reading_type"], set()).add(day)
            day += DAY
    return dates


def _partition(table: Table, reading_type: str, first: date) -> dict[str, str]:
    if table == CONSUMPTION_WEEKLY:
        year, week, _ = first.isocalendar()
        return {"reading_type": reading_type, "year": f"{year:04d}", "week": f"{week:02d}"}
    return {
        "reading_type": reading_type,
        "year": f"{first.year:04d}",
        "month": f"{first.month:02d}",
    }


def _write(
    store: Store, table: Table, rows: pl.DataFrame, reading_type: str, first: date
) -> DataFile:
    return write_file(
        store,
        table,
        rows,
        partition=_partition(table, reading_type, first),
        name=f"part-{uuid.uuid4().hex}",
    )
