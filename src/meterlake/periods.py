"""Local days, weeks and months: where they begin and end in UTC.

What the zones' clocks do is read from the package tzdata, so that it is the same on every
machine and as new as that package; Polars has a list of its own, which is as old as Polars.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from importlib import resources
from typing import Literal
from zoneinfo import ZoneInfo

from meterlake.errors import BadInput

By = Literal["day", "week", "month"]

_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Period:
    """A local day, week (from Monday, ISO 8601) or month, named by its first date.

    `start` and `end` are in UTC; the end is not included. A day lasts 23, 24 or 25 hours, where
    clocks change by half an hour also 23.5 or 24.5.
    """

    date: date
    start: datetime
    end: datetime


@cache
def zone_rules(zone: str) -> ZoneInfo:
    """What a zone's clock does. Raises BadInput where there is no such zone."""
    try:
        with resources.files("tzdata").joinpath("zoneinfo", *zone.split("/")).open("rb") as file:
            return ZoneInfo.from_file(file, key=zone)
    except (OSError, ValueError) as error:
        raise BadInput(
            f"A time zone needs to be one of the package tzdata, such as Europe/London; found "
            f"'{zone}'. Correct it, or update tzdata"
        ) from error


def to_utc(moment: datetime, zone: str) -> datetime:
    """A moment in UTC; one without an offset is as the zone's clock shows it. Raises BadInput."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=zone_rules(zone))
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise BadInput(
            f"A time needs to be of the years 1 to 9999 in UTC; found {moment}"
        ) from error


def utc_window(
    start: datetime | None, end: datetime | None, zone: str
) -> tuple[datetime | None, datetime | None]:
    """A half-open window in UTC. Raises BadInput where nothing can be in it."""
    first = None if start is None else to_utc(start, zone)
    last = None if end is None else to_utc(end, zone)
    if first is not None and last is not None and first >= last:
        raise _empty_window(start, end)
    return first, last


def check_days(first: date | None, end: date | None, *, includes_end: bool = False) -> None:
    """Raise BadInput where a window of whole days has none."""
    if first is None or end is None or first < end or (includes_end and first == end):
        return
    raise _empty_window(first, end)


def local_date(zone: str, moment: datetime) -> date:
    """The date that the zone's clock shows at an aware moment."""
    return moment.astimezone(zone_rules(zone)).date()


def periods(zone: str, by: By, start: datetime, end: datetime) -> list[Period]:
    """The local periods that have a part in a half-open window of aware moments, in order.

    Examples
    --------
    >>> moment = datetime(2024, 3, 31, 12, tzinfo=UTC)
    >>> [day] = periods("Europe/London", "day", moment, moment + timedelta(minutes=1))
    >>> day.end - day.start
    datetime.timedelta(seconds=82800)
    """
    found = []
    first = first_date(local_date(zone, start), by)
    while (begins := local_midnight(zone, first)) < end:
        following = next_date(first, by)
        ends = local_midnight(zone, following)
        if max(begins, start) < ends:  # a date that a zone skipped has no time at all
            found.append(Period(first, begins, ends))
        first = following
    return found


def local_midnight(zone: str, day: date) -> datetime:
    """When a local date begins: its first moment, whatever the clock shows then."""
    return datetime.combine(day, time(), zone_rules(zone)).astimezone(UTC)


def first_date(day: date, by: By) -> date:
    """The first date of the period that a date is in."""
    if by == "month":
        return day.replace(day=1)
    return day - day.weekday() * _DAY if by == "week" else day


def next_date(first: date, by: By) -> date:
    """The first date of the following period."""
    if by == "month":
        return (first.replace(day=28) + 4 * _DAY).replace(day=1)
    return first + (7 * _DAY if by == "week" else _DAY)


@dataclass(frozen=True)
class LocalHours:
    """Hours as a zone's clock shows them, numbered from `first`, without a gap or a double.

    Where the clock is put forward an hour has no time, where it is put back one has two hours;
    so the same hour of the next day is always 24 further.

    Parameters
    ----------
    first : what the clock shows at the start of hour 0, naive
    count : number of hours
    """

    zone: str
    first: datetime
    count: int

    def start(self) -> datetime:
        """The moment at which hour 0 begins."""
        return self.first.replace(tzinfo=zone_rules(self.zone)).astimezone(UTC)

    def end(self) -> datetime:
        """The moment at which the last hour is over."""
        end = self.first + timedelta(hours=self.count)
        return end.replace(tzinfo=zone_rules(self.zone)).astimezone(UTC)

    def number(self, moment: datetime) -> int:
        """The number of the hour that a moment is in; negative or beyond `count` outside."""
        shown = moment.astimezone(zone_rules(self.zone)).replace(tzinfo=None)
        return (shown - self.first) // timedelta(hours=1)

    def wall(self, number: int) -> datetime:
        """What the clock shows at the start of an hour."""
        return self.first + timedelta(hours=number)


def local_hour(zone: str, moment: datetime) -> datetime:
    """The start of the local hour that a moment is in, as the clock shows it."""
    shown = moment.astimezone(zone_rules(zone)).replace(tzinfo=None)
    return shown.replace(minute=0, second=0, microsecond=0)


def _empty_window(start: date | None, end: date | None) -> BadInput:
    return BadInput(f"A window needs to end after it starts; found from {start} to {end}")
