"""Energy of some meters per local day, week or month, up to the last reading.

The table consumption_daily has the days that were closed when it was brought up to date. The
others, and those that got readings since, are worked out from the readings when they are asked
for, by the same rule.
"""

from collections.abc import Iterable, Sequence
from datetime import date, datetime

import polars as pl

from meterlake.delta.commit import snapshot
from meterlake.delta.journal import Entry, entries, provenance
from meterlake.delta.store import Store
from meterlake.delta.table import DataFile, Snapshot, fetched, scan
from meterlake.errors import BadInput
from meterlake.periods import By, Period, first_date, next_date, periods
from meterlake.readings.energy import (
    CONSUMPTION_SCHEMA,
    DAILY_SCHEMA,
    READ,
    Arrivals,
    daily_energy,
    period_energy,
)
from meterlake.readings.layout import DAY, HOUR, Layout, Piece, hours_of, meets, scan_pieces
from meterlake.readings.reader import Reader, check_types, several
from meterlake.schema import CONSUMPTION_DAILY, POWER_TYPES, READINGS


def read_consumption(  # noqa: PLR0913
    reader: Reader,
    meters: str | Sequence[str],
    *,
    by: By,
    zone: str,
    reading_type: str = "kw",
    start: date | None = None,
    end: date | None = None,
) -> pl.DataFrame:
    """Energy of some meters per local period, sorted by meter and date.

    Parameters
    ----------
    reading_type : one in kW
    start, end : local dates; the periods that have a part in [start, end). None: from the first,
        to the last reading

    Returns
    -------
    The columns of schema.CONSUMPTION_DAILY without the partition columns. A period that is not
    over, or lacks readings, is not complete; one without any has no row.

    Raises
    ------
    BadInput
        The table is of another zone's days.
    """
    check_types([reading_type], POWER_TYPES)
    store = reader.store
    first = None if start is None else first_date(start, by)
    last = None if end is None else _end_date(end, by)
    table = snapshot(store, CONSUMPTION_DAILY)
    check_zone(store, table, zone)
    known = [f for f in table.files if f.partition["reading_type"] == reading_type]
    with reader.layout() as layout:
        consumed = table.consumed("", reader.integrated)
        until = reader.integrated.version
        since = entries(store, READINGS, after=consumed, until=until) if known else ()
        changed = changed_hours(since)
        days = [
            day
            for day in pending_days(
                layout, reading_type, known, changed.get(reading_type, ()), zone
            )
            if (first is None or day.date >= first) and (last is None or day.date < last)
        ]
        runs, hours = (
            [p for r in runs_of(days) for p in layout.pieces(reading_type, *r, by_meter=by_meter)]
            for by_meter in (True, False)
        )
    wanted = pl.col("meter_id").is_in(list(several(meters)))
    rows = scan(store, CONSUMPTION_DAILY, [f for f in known if _is_near(f, first, last)]).filter(
        wanted, ~pl.col("date").is_in([day.date for day in days])
    )
    if first is not None:
        rows = rows.filter(pl.col("date") >= first)
    if last is not None:
        rows = rows.filter(pl.col("date") < last)
    read = fetched(scan_pieces(store, runs, READ, keep=wanted))
    read = read.sort("meter_id", "reading_date_time")
    fresh = daily_energy(read, days, arrivals_in(store, hours))
    daily = pl.concat([fetched(rows.select(list(DAILY_SCHEMA))), fresh])
    daily = daily.sort("meter_id", "date")
    if by == "day" or daily.is_empty():
        return daily.filter(pl.col("intervals") > 0).select(list(CONSUMPTION_SCHEMA))
    bounds = daily.select(pl.col("start").min(), pl.col("end").max()).row(0)
    return period_energy(daily, periods(zone, by, *bounds))


def arrivals_in(store: Store, hours: Sequence[Piece]) -> Arrivals:
    """When readings in integrated's hours arrived; read only where somebody asks."""

    def arrivals(meters: list[str]) -> pl.DataFrame:
        columns = ("meter_id", "reading_date_time", "arrival_time")
        return fetched(scan_pieces(store, hours, columns, keep=pl.col("meter_id").is_in(meters)))

    return arrivals


def check_zone(store: Store, table: Snapshot, zone: str) -> None:
    """Raise BadInput where a table's energies are of another zone's days."""
    found = zone_of(store, table)
    if found is not None and found != zone:
        raise BadInput(
            f"The lake's energy per day is of days in {found}; the setting timezone is {zone}. "
            "Correct the setting, or have all of it recomputed: meterlake cluster --rebuild"
        )


def zone_of(store: Store, table: Snapshot) -> str | None:
    """The time zone of a table's days; None: it has none yet."""
    return provenance(store, table.table, table.version).settings.get("timezone")


def changed_hours(commits: Iterable[Entry]) -> dict[str, set[datetime]]:
    """The UTC hours, by reading type, that commits to the readings have written."""
    hours: dict[str, set[datetime]] = {}
    for entry in commits:
        for reading_type, hour in hours_of(entry):
            hours.setdefault(reading_type, set()).add(hour)
    return hours


def pending_days(
    layout: Layout,
    reading_type: str,
    known: Sequence[DataFile],
    changed: Iterable[datetime],
    zone: str,
    *,
    closed_until: datetime | None = None,
) -> list[Period]:
    """The local days whose energy is not that of the table, in order.

    A new day needs a reading: the UTC day of the last one may have a part of a local day without.

    Parameters
    ----------
    known : the daily table's files of the type
    changed : hours that were integrated again since
    closed_until : without days that end later, but for those that the table has already
    """
    last = max((f.last for f in known if f.last is not None), default=None)
    found: dict[date, Period] = {}
    for hour in changed:
        for day in periods(zone, "day", hour, hour + HOUR):
            is_known = last is not None and day.start <= last
            if is_known or closed_until is None or day.end <= closed_until:
                found[day.date] = day
    for start in layout.days(reading_type):
        if last is not None and start + 2 * DAY < last:
            continue
        hours = layout.hours(reading_type, start)
        for day in periods(zone, "day", start, start + DAY):
            is_new = last is None or day.start > last
            is_wanted = is_new and (closed_until is None or day.end <= closed_until)
            if is_wanted and any(meets(file, day.start, day.end) for file in hours):
                found[day.date] = day
    return [found[date] for date in sorted(found)]


def runs_of(days: Sequence[Period]) -> list[tuple[datetime, datetime]]:
    """The windows of days that follow one another."""
    runs: list[tuple[datetime, datetime]] = []
    for day in days:
        if runs and runs[-1][1] == day.start:
            runs[-1] = runs[-1][0], day.end
        else:
            runs.append((day.start, day.end))
    return runs


def month_of(file: DataFile) -> date:
    """The first day of a daily file's month."""
    return date(int(file.partition["year"]), int(file.partition["month"]), 1)


def _is_near(file: DataFile, first: date | None, last: date | None) -> bool:
    month = month_of(file)
    is_over = first is not None and next_date(month, "month") <= first
    return not is_over and (last is None or month < last)


def _end_date(end: date, by: By) -> date:
    first = first_date(end, by)
    return end if first == end else next_date(first, by)
