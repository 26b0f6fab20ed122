"""Readings to series: each meter's energy of every local hour, one row of a matrix each.

An hour counts only where its intervals cover all of it; what is missing is NaN, never zero, and
never closed up. An interval is as long as is stored with its reading; one that runs over the end
of an hour is shared out between both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

from meterlake.delta.store import Store
from meterlake.delta.table import fetched
from meterlake.errors import BadInput
from meterlake.forecast.statistics import Floats
from meterlake.periods import LocalHours, local_hour, zone_rules
from meterlake.readings.energy import READ, without_overlap
from meterlake.readings.layout import Layout, Piece, scan_pieces
from meterlake.readings.meter_ranges import MeterOrder
from meterlake.schema import READINGS

READING_TYPE = "kw"  # of which energies are

_SECOND = 1_000_000  # times are in microseconds
_HOUR = 3600 * _SECOND
_STEP = _HOUR // 2  # as finely as clocks are changed


@dataclass(frozen=True)
class Series:
    """Energy [kWh] of each meter and local hour, NaN where it is not known: [meters, hours]."""

    meters: tuple[str, ...]
    hours: LocalHours
    energy: Floats


def end_of_readings(layout: Layout, zone: str) -> datetime:
    """The end of the local hour of the last reading, as the clock shows it.

    Raises BadInput where there are no readings.
    """
    days = layout.days(READING_TYPE)
    if not days:
        raise BadInput(f"Forecasts need readings of type {READING_TYPE}; the lake has none yet")
    last = max(f.last for f in layout.hours(READING_TYPE, days[-1]) if f.last is not None)
    return local_hour(zone, last) + timedelta(hours=1)


def read_series(
    store: Store, pieces: Sequence[Piece], hours: LocalHours, *, keep: pl.Expr | None = None
) -> Series:
    """The series of the meters that have readings in pieces, sorted by meter.

    Parameters
    ----------
    pieces : of one reading type in kW, in the order of time
    keep : which meters
    """
    read = [scan_pieces(store, [piece], READ, keep=keep) for piece in pieces]
    if not read:
        return Series((), hours, np.empty((0, hours.count), np.float32))
    readings = MeterOrder().by_meter(fetched(pl.concat(read)))
    # Of integrated's files the one that the window begins or ends in need not be in its place.
    if any(piece.table == READINGS for piece in pieces) and not _is_in_order(readings):
        readings = readings.sort("meter_id", "reading_date_time")
    return hourly(without_overlap(readings), hours)


def _is_in_order(readings: pl.DataFrame) -> bool:
    """Whether readings that are sorted by meter are in the order of time."""
    is_before = pl.col("reading_date_time") < pl.col("reading_date_time").shift()
    same = pl.col("meter_id") == pl.col("meter_id").shift()
    return not readings.select((is_before & same).any()).item()


def hourly(readings: pl.DataFrame, hours: LocalHours) -> Series:
    """Series of readings in kW, sorted by meter and time, which do not overlap.

    Parameters
    ----------
    readings : meter_id, reading_date_time, reading_value [kW], interval_seconds
    """
    ids = readings["meter_id"]
    meter = ids.rle_id().to_numpy().astype(np.int64)
    count = int(meter[-1]) + 1 if len(meter) else 0
    meters = tuple(ids.filter(pl.Series(np.diff(meter, prepend=-1) > 0)).to_list())
    if not count:
        return Series((), hours, np.empty((0, hours.count), np.float32))
    at = readings["reading_date_time"].dt.timestamp("us").to_numpy()
    kw = readings["reading_value"].to_numpy()
    length = readings["interval_seconds"].fill_null(0).to_numpy() * _SECOND
    number, left = _number(hours, at)
    within = np.minimum(length, left)
    sums = _HourSums(np.zeros(count * hours.count), np.zeros(count * hours.count), hours)
    known = (length > 0) & (length <= _HOUR)
    sums.add(meter, number, kw, within, known)
    over = np.flatnonzero(known & (length > within))
    start, rest = at[over] + within[over], (length - within)[over]
    while len(over):  # the rest is of the hours that really follow; a changed clock's are short
        number, left = _number(hours, start)
        within = np.minimum(rest, left)
        sums.add(meter[over], number, kw[over], within, rest > 0)
        more = rest > within
        over, start, rest = over[more], (start + within)[more], (rest - within)[more]
    real = _real_lengths(hours)
    with np.errstate(invalid="ignore", divide="ignore"):
        shape = count, hours.count
        whole = (sums.covered.reshape(shape) >= real - 1) & (real > 0)
        per_hour = sums.energy.reshape(shape) / real  # of an hour that comes twice the mean of both
    return Series(meters, hours, np.where(whole, per_hour, np.nan).astype(np.float32))


@dataclass(frozen=True)
class _HourSums:
    """Power times time, and time [us], of each hour of each meter, one after the other."""

    energy: NDArray[np.float64]
    covered: NDArray[np.float64]
    hours: LocalHours

    def add(
        self,
        meter: NDArray[np.int64],
        number: NDArray[np.int64],
        kw: NDArray[np.float64],
        length: NDArray[np.int64],
        used: NDArray[np.bool_],
    ) -> None:
        """Add intervals of these lengths [us] to their meters' hours."""
        used = used & (number >= 0) & (number < self.hours.count)
        if not used.all():
            meter, number, kw, length = meter[used], number[used], kw[used], length[used]
        cell = meter * self.hours.count + number
        self.energy[:] += np.bincount(cell, kw * length, minlength=len(self.energy))
        self.covered[:] += np.bincount(cell, length, minlength=len(self.covered))


def _number(
    hours: LocalHours, at: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The local hour of each time, and how long it is to its end [us]."""
    steps = _steps(int(at.min()), int(at.max()))
    ahead = _ahead(hours.zone, steps)
    changes = np.flatnonzero(np.diff(ahead, prepend=ahead[0] - 1))
    if len(changes) == 1:
        local = at + (ahead[0] - _local_start(hours))
    else:
        local = at + ahead[changes][np.searchsorted(steps[changes], at, side="right") - 1]
        local -= _local_start(hours)
    number = local // _HOUR
    return number, (number + 1) * _HOUR - local


def _real_lengths(hours: LocalHours) -> NDArray[np.int64]:
    """How long each local hour really is [us]: an hour, none, or two where the clock is changed."""
    start, end = (int(m.timestamp()) * _SECOND for m in (hours.start(), hours.end()))
    steps = _steps(start, end)
    number = (steps + _ahead(hours.zone, steps) - _local_start(hours)) // _HOUR
    inside = number[(number >= 0) & (number < hours.count)]
    return np.bincount(inside, minlength=hours.count) * _STEP


def _steps(start: int, end: int) -> NDArray[np.int64]:
    return np.arange(start // _STEP - 4, end // _STEP + 5, dtype=np.int64) * _STEP


def _ahead(zone: str, steps: NDArray[np.int64]) -> NDArray[np.int64]:
    rules = zone_rules(zone)
    found = []
    for second in (steps // _SECOND).tolist():
        offset = datetime.fromtimestamp(second, UTC).astimezone(rules).utcoffset()
        assert offset is not None
        found.append(int(offset.total_seconds()))
    return np.array(found, np.int64) * _SECOND


def _local_start(hours: LocalHours) -> int:
    return int(hours.first.replace(tzinfo=UTC).timestamp()) * _SECOND
