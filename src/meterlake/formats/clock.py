"""Wall clocks to UTC: zones, stamps without one, and the hours that a clock skips or repeats.

A reading's time is not guessed: one that its zone does not have, or has twice without the file
saying which, is not a valid time, and its row is rejected with that reason. Which of two rows
with the same stamp is the earlier is told by an order column, else by whether the meter's stamps
rise or fall around that hour from row to row: exports list the oldest first, or the newest.
"""

from bisect import bisect_left
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache

import polars as pl

from meterlake.formats.profile import Time
from meterlake.periods import zone_rules

EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(2100, 1, 1, tzinfo=UTC)

# Columns that are worked out lie beside the delivered ones, whose names may be the same.
METER, ORDER, REGISTER = "~meter_id", "~order", "~register"
_RISES = "~rises"

Reason = tuple[pl.Expr, pl.Expr]
"""Which rows cannot be used, and the words that say why."""

_NAIVE = pl.Datetime("us")
_FIRST, _LAST = datetime(2, 1, 1, tzinfo=UTC), datetime(9998, 12, 31, tzinfo=UTC)
_ISO = "%Y-%m-%d %H:%M:%S%.f"
_SECOND = timedelta(seconds=1)
_SECOND_US, _MINUTE_US = 1_000_000, 60_000_000
_DAY = timedelta(days=1)
_STEP = timedelta(days=5)  # no zone has changed its offset twice within a week since 1970

_AmongEquals = tuple[pl.Expr, pl.Expr]
"""A row's place among the usable rows of its register and stamp, and their number."""

_Change = tuple[datetime, timedelta, timedelta]
"""When a zone's offset changes [UTC, without saying so], and the offsets before and after."""


def with_utc(
    frame: pl.DataFrame,
    time: Time,
    into: str,
    *,
    default_zone: str,
    reasons: list[Reason],
    in_pairs: bool,
) -> pl.DataFrame:
    """Add the time column in UTC under the name `into`, null where it is not a valid time.

    Parameters
    ----------
    frame : with `time.column`, METER, ORDER (null where the rows' order counts), REGISTER and
        source_row
    in_pairs : whether an hour that the clock repeats has each stamp twice, in order, as the
        readings of a meter do; else the earlier of the two instants is meant, as for arrivals
    reasons : the reasons why a row's time cannot be used are added to it; rows that have one
        already are no half of a pair
    """
    zone = time.zone or default_zone
    stamp, wall, untold = f"{into}_stamp", f"{into}_wall", f"{into}_untold"
    said = _said(frame, time)
    if said.dtype == _NAIVE:
        usable = ~pl.any_horizontal(pl.lit(False), *(rows.fill_null(False) for rows, _ in reasons))
        frame = frame.with_columns(said.alias(stamp), said.alias(wall))
        frame = _with_direction(frame, wall, usable, _hours_twice(zone, time.doubled_hour), untold)
        among_equals = _among_equals(wall, usable)
        frame = _untwin_doubled_hour(frame, time, wall, among_equals)
        frame = _from_wall_clock(frame, wall, into, zone, among_equals if in_pairs else None)
        if frame.schema[time.column] == pl.String and said.null_count() > 0:
            with_offset = _offset_time(frame[time.column])
            frame = frame.with_columns(pl.coalesce(into, with_offset).alias(into))
    else:
        frame = frame.with_columns(
            said.alias(into), pl.lit(None, _NAIVE).alias(stamp), pl.lit(False).alias(untold)
        )
    name = pl.lit(time.column)
    shown = _bounded(frame, time.column).cast(pl.String).fill_null("")
    undecided = pl.format(
        "{} '{}' does not exist in {}, or twice and the file does not say which",
        *(name, shown, pl.lit(zone)),
    )
    neither = pl.format(
        "{} '{}' appears twice, and the meter's stamps neither rise nor fall around it: which of "
        "the two rows is the earlier cannot be told",
        *(name, shown),
    )
    reasons.append((pl.col(into).is_null() & pl.col(untold), neither))
    reasons.append((pl.col(into).is_null() & pl.col(stamp).is_not_null(), undecided))
    reasons.append((pl.col(into).is_null(), pl.format("{} is not a valid time: '{}'", name, shown)))
    reasons.append(
        (
            ~pl.col(into).is_between(EARLIEST, LATEST, closed="left"),
            pl.format("{} is outside 1970 to 2099: '{}'", name, shown),
        )
    )
    return frame


def _said(frame: pl.DataFrame, time: Time) -> pl.Series:
    """The times as they stand: by a wall clock, or in UTC where they say their offset."""
    dtype = frame.schema[time.column]
    if dtype == pl.String:
        return _parsed(frame[time.column], time.format)
    if isinstance(dtype, pl.Datetime) or dtype == pl.Date:
        aware = isinstance(dtype, pl.Datetime) and dtype.time_zone is not None
        us = pl.Datetime("us", "UTC") if aware else _NAIVE
        return frame.select(_bounded(frame, time.column).cast(us)).to_series()
    return pl.repeat(None, frame.height, dtype=_NAIVE, eager=True)


def _bounded(frame: pl.DataFrame, name: str) -> pl.Expr:
    """A column; its times within what Python can hold; at some beyond Polars stops."""
    column, dtype = pl.col(name), frame.schema[name]
    if isinstance(dtype, pl.Datetime) and dtype.time_zone is not None:
        dtype = pl.Datetime(dtype.time_unit, "UTC")
        column = column.dt.convert_time_zone("UTC")
    if dtype == pl.Date or (isinstance(dtype, pl.Datetime) and dtype.time_unit != "ns"):
        zone = UTC if isinstance(dtype, pl.Datetime) and dtype.time_zone else None
        first, last = (pl.lit(t.replace(tzinfo=zone)).cast(dtype) for t in (_FIRST, _LAST))
        column = column.clip(first, last)
    return column


def _parsed(texts: pl.Series, form: str | None) -> pl.Series:
    """Texts to times by a strftime format; without one by ISO 8601 with blank or T, no offset."""
    # `.%f` are the digits after the point in strftime, but a count of nanoseconds in Polars.
    given = _ISO if form is None else form.replace(".%f", "%.f")
    # As it stands first: Polars remembers the texts that it met, and times repeat.
    times = _to_time(texts, given)
    if times.null_count() > texts.null_count():
        bare = texts.str.strip_chars()
        if form is None:
            bare = bare.str.replace("T", " ", literal=True)
        times = times.zip_with(times.is_not_null(), _to_time(bare, given))
    return times.dt.replace_time_zone("UTC") if "%s" in given else times


def _offset_time(texts: pl.Series) -> pl.Series:
    """ISO 8601 with Z or an offset, which then says the zone."""
    bare = texts.str.strip_chars().str.replace("T", " ", literal=True)
    return _to_time(bare, _ISO + "%#z")


def _to_time(texts: pl.Series, form: str) -> pl.Series:
    """Texts to times, null where they are none. A second 60 is none.

    Polars takes 23:59:60 for the next day's midnight. It is told by the text with 59 for 60,
    which is then a second earlier; a 60 of a year or of 06:00 is not.
    """
    times = texts.str.to_datetime(form, strict=False, time_unit="us")
    zone = None if times.dtype == _NAIVE else UTC
    first, last = _FIRST.replace(tzinfo=zone), _LAST.replace(tzinfo=zone)
    if not (times.is_empty() or times.is_between(first, last).all()):
        times = times.clip(first, last)
    if "%s" in form:
        return times
    # It stands at the start of a minute then, as few times do that are no multiple of one.
    odd = (times.to_physical() % _MINUTE_US < _SECOND_US).fill_null(False).arg_true()
    if len(odd) < len(texts):
        odd = odd.filter(texts.gather(odd).str.contains("60", literal=True))
    else:
        odd = texts.str.contains("60", literal=True).arg_true()
    if odd.is_empty():
        return times
    some, late = texts.gather(odd), times.gather(odd)
    for before in range(max(some.str.count_matches("60"))):
        other = some.str.replace(f"^((?:.*?60){{{before}}}.*?)60", "${1}59")
        second = late - other.str.to_datetime(form, strict=False, time_unit="us")
        leap = second == _SECOND
        times = times.scatter(odd.filter(leap.fill_null(False)), None)
    return times


def _from_wall_clock(
    frame: pl.DataFrame, wall: str, into: str, zone: str, among_equals: _AmongEquals | None
) -> pl.DataFrame:
    offsets = _offsets(zone)
    if offsets.height == 1:
        utc = (pl.col(wall) - offsets["earlier"][0]).dt.replace_time_zone("UTC")
        return frame.with_columns(utc.alias(into))
    at = (offsets["since"].search_sorted(frame[wall], side="right").cast(pl.Int64) - 1).clip(0)
    earlier, later = (
        (frame[wall] - offsets[offset].gather(at)).dt.replace_time_zone("UTC")
        for offset in ("earlier", "later")
    )
    twice = earlier != later
    if among_equals is None or not twice.any():
        return frame.with_columns(earlier.alias(into))
    # An hour that the clock shows twice: of a register's two rows the one that ranks first.
    frame = frame.with_columns(earlier.alias("_earlier"), later.alias("_later"))
    rank, rows = among_equals
    return frame.with_columns(
        pl.when((pl.col("_earlier") == pl.col("_later")) | ((rows == 2) & (rank == 1)))
        .then("_earlier")
        .when((rows == 2) & (rank == 2))
        .then("_later")
        .alias(into)
    ).drop("_earlier", "_later")


def _untwin_doubled_hour(
    frame: pl.DataFrame, time: Time, wall: str, among_equals: _AmongEquals
) -> pl.DataFrame:
    """Move the second of two equal stamps out of the hour that summer time skips.

    Where the meter's next hour is stamped as what it is, a stamp means what it says, and two of
    it cannot be told apart; where it is not, one that stands alone could be either. Both become
    null.
    """
    if time.doubled_hour is None:
        return frame
    first, last = frame.select(pl.col(wall).min().alias("first"), pl.col(wall).max()).row(0)
    _, changes = _clock(time.doubled_hour)
    for moment, before, after in changes:
        start, shift = moment + before, after - before
        if first is None or shift <= timedelta(0) or not first - shift < start <= last:
            continue
        rank, rows = among_equals
        at = pl.col(wall)
        hour_after = frame.filter(at.is_between(start + shift, start + 2 * shift, closed="left"))
        after_it = pl.struct(METER, REGISTER, at + shift).is_in(
            hour_after.select(pl.struct(METER, REGISTER, wall)).to_series().implode()
        )
        frame = frame.with_columns(
            pl.when(~at.is_between(start, start + shift, closed="left"))
            .then(at)
            .when(pl.when(after_it).then(rows == 1).otherwise((rows == 2) & (rank == 1)))
            .then(at)
            .when(~after_it & (rows == 2) & (rank == 2))
            .then(at + shift)
            .alias(wall)
        )
    return frame


def _among_equals(wall: str, usable: pl.Expr) -> _AmongEquals:
    key = [pl.col(METER), pl.col(REGISTER), pl.col(wall), usable]
    row = pl.col("source_row").cast(pl.Float64)
    in_time = pl.when(_RISES).then(row).when(~pl.col(_RISES)).then(-row)
    return pl.coalesce(ORDER, in_time).rank("ordinal").over(key), pl.len().over(key)


def _with_direction(
    frame: pl.DataFrame, wall: str, usable: pl.Expr, hours: pl.DataFrame, untold: str
) -> pl.DataFrame:
    """Add whether a register's stamps rise around an hour that appears twice: _RISES.

    It is false where they fall, and null where neither holds, where an order column tells the
    rows apart, and away from such hours. `untold` are the pairs that are lost by it.

    Of rows in the order of time each stamp is later than the last, but for one step back: from
    the hour's first pass to its second. Of the newest first it is the other way round. The rows
    within a day of the hour are asked, and of their steps those that begin or end in it.
    """
    rises = pl.repeat(None, frame.height, dtype=pl.Boolean, eager=True)
    is_untold = pl.repeat(False, frame.height, dtype=pl.Boolean, eager=True)
    if not hours.is_empty():
        at = (hours["start"] - _DAY).search_sorted(frame[wall], side="right").cast(pl.Int64) - 1
        start, end = (hours[name].gather(at.clip(0)) for name in ("start", "end"))
        near = frame.select(
            *(METER, REGISTER, wall, "source_row"),
            at.alias("hour"),
            frame[wall].is_between(start, end, closed="left").alias("in_hour"),
            pl.int_range(pl.len()).alias("place"),
            is_near=usable
            & pl.col(ORDER).is_null()
            & frame[wall].is_between(start - _DAY, end + _DAY, closed="left"),
        ).filter("is_near")
        near = _told_direction(near.sort("source_row"), wall)
        rises = rises.scatter(near["place"], near["rises"])
        is_untold = is_untold.scatter(near["place"], near["untold"])
    return frame.with_columns(rises.alias(_RISES), is_untold.alias(untold))


def _told_direction(near: pl.DataFrame, wall: str) -> pl.DataFrame:
    """Add `rises` and `untold` to the rows around hours that appear twice, in the file's order."""
    key = [METER, REGISTER, "hour"]
    near = near.with_columns(
        pl.col(wall).diff().over(key).alias("step"),
        (pl.col("in_hour") & pl.col("in_hour").shift().over(key)).alias("within"),
        (pl.col("in_hour") ^ pl.col("in_hour").shift().over(key)).alias("across"),
    )
    up, down = pl.col("step") > timedelta(0), pl.col("step") < timedelta(0)
    can_rise, can_fall = (
        ((pl.col("across") & against).sum().over(key) == 0)
        & ((pl.col("within") & against).sum().over(key) <= 1)
        for against in (down, up)
    )
    near = near.with_columns(pl.when(can_rise ^ can_fall).then(can_rise).alias("rises"))
    is_pair = pl.len().over(*key, wall) == 2
    return near.with_columns(
        (pl.col("in_hour") & is_pair & pl.col("rises").is_null()).alias("untold")
    )


def is_near_change(times: pl.Series, zone: str) -> pl.Series:
    """Which UTC times lie within three days of a change of the zone's offset.

    They include all rows that tell the two passes of a repeated hour apart.
    """
    _, changes = _clock(zone)
    if not changes:
        return pl.repeat(False, len(times), dtype=pl.Boolean, eager=True)
    moments = pl.Series([moment for moment, _, _ in changes], dtype=_NAIVE)
    utc = times.dt.replace_time_zone(None).dt.cast_time_unit("us")
    at = moments.search_sorted(utc - 3 * _DAY).clip(0, len(moments) - 1)
    return (moments.gather(at) - utc).is_between(-3 * _DAY, 3 * _DAY).fill_null(False)


@cache
def _hours_twice(zone: str, doubled_hour: str | None) -> pl.DataFrame:
    """The spans in which a wall clock's stamps may appear twice: start, end."""
    offsets = _offsets(zone).with_columns(pl.col("since").shift(-1).alias("end"))
    spans = offsets.filter(pl.col("earlier") != pl.col("later")).select(
        pl.col("since").alias("start"), "end"
    )
    changes = _clock(doubled_hour)[1] if doubled_hour is not None else ()
    doubled = [
        (moment + before, moment + after) for moment, before, after in changes if after > before
    ]
    return pl.concat([spans, pl.DataFrame(doubled, schema=spans.schema, orient="row")]).sort(
        "start"
    )


@cache
def _offsets(zone: str) -> pl.DataFrame:
    """What to take off a wall clock's time, from a time `since` on.

    Returns
    -------
    since, earlier, later; the offsets differ where the clock shows a time twice, and are null
    where it skips it
    """
    first, changes = _clock(zone)
    rows: list[tuple[datetime, timedelta | None, timedelta | None]] = [
        (_FIRST.replace(tzinfo=None), first, first)
    ]
    for moment, before, after in changes:
        skips = after > before
        rows.append(
            (
                moment + min(before, after),
                None if skips else before,
                None if skips else after,
            )
        )
        rows.append((moment + max(before, after), after, after))
    length = pl.Duration("us")
    return pl.DataFrame(
        rows, schema={"since": _NAIVE, "earlier": length, "later": length}, orient="row"
    )


@cache
def _clock(zone: str) -> tuple[timedelta, tuple[_Change, ...]]:
    """A zone's offset before 1970, and its changes until 2100.

    Raises
    ------
    BadInput
        There is no such zone.
    """
    if zone[0] in "+-":
        offset = timedelta(hours=int(zone[1:3]), minutes=int(zone[4:6]))
        return -offset if zone[0] == "-" else offset, ()
    rules = zone_rules(zone)

    def offset_at(moment: datetime) -> timedelta:
        offset = rules.fromutc(moment.replace(tzinfo=rules)).utcoffset()
        return offset or timedelta(0)

    moment, end = (t.replace(tzinfo=None) for t in (EARLIEST - 2 * _STEP, LATEST + 2 * _STEP))
    first = before = offset_at(moment)
    changes = []
    while moment < end:
        after = offset_at(moment + _STEP)
        if after != before:
            changes.append((_first_other(offset_at, moment), before, after))
        moment, before = moment + _STEP, after
    return first, tuple(changes)


def _first_other(offset_at: Callable[[datetime], timedelta], moment: datetime) -> datetime:
    """The second at which an offset changes, in the step after a moment."""
    old = offset_at(moment)

    def is_other(seconds: int) -> bool:
        return offset_at(moment + seconds * _SECOND) != old

    return moment + bisect_left(range(_STEP // _SECOND), True, key=is_other) * _SECOND
