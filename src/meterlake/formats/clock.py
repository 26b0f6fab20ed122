"""Wall clocks to UTC: zones, stamps without one, and the hours that a clock skips or repeats.

A reading's time is not guessed: one that its zone does not have, or has twice without the file
saying which, is no time, and its row is rejected with that reason.
"""

from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day
from typing import Literal
from zoneinfo import ZoneInfo

import polars as pl

from meterlake.formats.profile import Time

EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(2100, 1, 1, tzinfo=UTC)

# Columns that are worked out lie beside the delivered ones, whose names may be the same.
METER, ORDER, REGISTER = "~meter_id", "~order", "~register"

Reason = tuple[pl.Expr, pl.Expr]
"""Which rows cannot be used, and the words that say why."""

_NAIVE = pl.Datetime("us")


def with_utc(
    frame: pl.DataFrame,
    time: Time,
    into: str,
    *,
    default_zone: str,
    reasons: list[Reason],
    in_pairs: bool,
) -> pl.DataFrame:
    """Add the time column in UTC under the name `into`, null where it is no time.

    Parameters
    ----------
    frame : with `time.column`, METER, ORDER and REGISTER
    in_pairs : whether an hour that the clock repeats has each stamp twice, in order, as the
        readings of a meter do; else the earlier of the two instants is meant, as for arrivals
    reasons : the reasons why a row's time cannot be used are added to it
    """
    dtype = frame.schema[time.column]
    zone = time.zone or default_zone
    shown = pl.col(time.column).cast(pl.String).fill_null("")
    if isinstance(dtype, pl.Datetime) and dtype.time_zone is not None:
        frame = frame.with_columns(
            pl.col(time.column).dt.convert_time_zone("UTC").dt.cast_time_unit("us").alias(into)
        )
    else:
        frame = _with_wall_clock(frame, time, into)
        frame = _untwin_doubled_hour(frame, time, into)
        frame = _from_wall_clock(frame, into, zone, in_pairs=in_pairs)
        if dtype == pl.String and frame[into].null_count() > 0:
            frame = frame.with_columns(pl.coalesce(into, _offset_time(time)).alias(into))
    wall = f"{into}_wall"
    if wall in frame.columns:
        reasons.append(
            (
                pl.col(into).is_null() & pl.col(wall).is_not_null(),
                pl.format(
                    f"{time.column} '{{}}' does not exist in {zone}, or twice and the file does "
                    "not say which",
                    shown,
                ),
            )
        )
    reasons.append((pl.col(into).is_null(), pl.format(f"{time.column} is no time: '{{}}'", shown)))
    reasons.append(
        (
            ~pl.col(into).is_between(EARLIEST, LATEST, closed="left"),
            pl.format(f"{time.column} is outside 1970 to 2099: '{{}}'", shown),
        )
    )
    return frame


def _with_wall_clock(frame: pl.DataFrame, time: Time, into: str) -> pl.DataFrame:
    column = pl.col(time.column)
    dtype = frame.schema[time.column]
    if dtype == pl.String:
        # As it stands first: Polars remembers the texts that it met, and times repeat.
        form = time.format or "%Y-%m-%d %H:%M:%S%.f"
        wall = column.str.to_datetime(form, strict=False, time_unit="us")
        frame = frame.with_columns(wall.alias(f"{into}_wall"))
        if frame[f"{into}_wall"].null_count() == 0:
            return frame
        text = column.str.strip_chars()
        if time.format is None:
            text = text.str.replace("T", " ", literal=True)
        wall = pl.coalesce(f"{into}_wall", text.str.to_datetime(form, strict=False, time_unit="us"))
    elif isinstance(dtype, pl.Datetime) or dtype == pl.Date:
        wall = column.cast(_NAIVE)
    else:
        wall = pl.lit(None, _NAIVE)
    return frame.with_columns(wall.alias(f"{into}_wall"))


def _offset_time(time: Time) -> pl.Expr:
    """ISO 8601 with T, or with Z or an offset, which then says the zone."""
    text = pl.col(time.column).str.strip_chars().str.replace("T", " ", literal=True)
    return text.str.to_datetime("%Y-%m-%d %H:%M:%S%.f%#z", strict=False, time_unit="us")


def _from_wall_clock(frame: pl.DataFrame, into: str, zone: str, *, in_pairs: bool) -> pl.DataFrame:
    wall = pl.col(f"{into}_wall")
    if zone == "UTC":
        return frame.with_columns(wall.dt.replace_time_zone("UTC").alias(into))
    if zone[0] in "+-":
        sign = -1 if zone[0] == "-" else 1
        offset = sign * timedelta(hours=int(zone[1:3]), minutes=int(zone[4:6]))
        return frame.with_columns((wall - offset).dt.replace_time_zone("UTC").alias(into))

    def in_utc(ambiguous: Literal["earliest", "latest", "null"]) -> pl.Expr:
        local = wall.dt.replace_time_zone(zone, ambiguous=ambiguous, non_existent="null")
        return local.dt.convert_time_zone("UTC")

    if not in_pairs:
        return frame.with_columns(in_utc("earliest").alias(into))
    # An hour that the clock shows twice: of a register's two rows the first is the earlier.
    key = [METER, REGISTER, f"{into}_wall"]
    frame = frame.with_columns(
        in_utc("null").alias(into),
        in_utc("earliest").alias("_earliest"),
        in_utc("latest").alias("_latest"),
    )
    twice = pl.col(into).is_null() & pl.col("_earliest").is_not_null()
    if not frame.select(twice.any()).item():
        return frame.drop("_earliest", "_latest")
    rank = pl.col(ORDER).rank("ordinal").over(key)
    pair = twice & (pl.len().over(key) == 2)
    return frame.with_columns(
        pl.when(pair & (rank == 1))
        .then("_earliest")
        .when(pair & (rank == 2))
        .then("_latest")
        .otherwise(pl.col(into))
        .alias(into)
    ).drop("_earliest", "_latest")


def _untwin_doubled_hour(frame: pl.DataFrame, time: Time, into: str) -> pl.DataFrame:
    """Move the second of two equal stamps out of the hour that summer time skips."""
    if time.doubled_hour is None or frame.is_empty():
        return frame
    wall = pl.col(f"{into}_wall")
    first, last = frame.select(wall.min().alias("first"), wall.max().alias("last")).row(0)
    if first is None:
        return frame
    key = [METER, REGISTER, f"{into}_wall"]
    rank = pl.col(ORDER).rank("ordinal").over(key)
    for start, shift in _skipped_hours(ZoneInfo(time.doubled_hour), first, last):
        doubled = wall.is_between(start, start + shift, closed="left") & (pl.len().over(key) == 2)
        frame = frame.with_columns(
            pl.when(doubled & (rank == 2)).then(wall + shift).otherwise(wall).alias(f"{into}_wall")
        )
    return frame


def _skipped_hours(
    zone: ZoneInfo, first: datetime, last: datetime
) -> list[tuple[datetime, timedelta]]:
    """Wall-clock starts and lengths of the hours that a zone skips in a span of days."""
    skipped = []
    day = max(first.date(), date(1970, 1, 1))
    final = min(last.date(), date(2099, 12, 31))
    while day <= final:
        midnight = datetime.combine(day, time_of_day.min)
        before, after = (
            (midnight + timedelta(days=d)).replace(tzinfo=zone).utcoffset() for d in (0, 1)
        )
        if before is not None and after is not None and after > before:
            minute = timedelta(minutes=1)
            skip = midnight
            while (
                skip.replace(tzinfo=zone).utcoffset() == before and skip < midnight + 1440 * minute
            ):
                skip += 15 * minute
            # `skip` is the first stamp after the gap began; fold 0 in a gap still counts the
            # old offset, so it lies at the gap's end.
            shift = after - before
            skipped.append((skip - shift, shift))
        day += timedelta(days=1)
    return skipped
