"""How long a reading's interval is: from the file, the profile or the lake; else inferred.

A length is a number of seconds, or a local day or month, which a clock change makes shorter or
longer. It is inferred from all stamps of a file, never from one meter's: a meter of which every
second reading is missing would have intervals of twice the length.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Literal

import polars as pl

from meterlake.periods import zone_rules
from meterlake.schema import LengthSource

Length = int | Literal["day", "month"]
"""Seconds, or a local day or month."""

HES_SECONDS = 900  # of head-end systems' reads, where the lake does not say: the guide's interval

DAY_SECONDS = 86_400
_ISO = re.compile(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?")
_REGULAR, _REGULAR_SHARE = 3, 0.01  # times that a step has to occur, and of all steps
_STAMPS = 2_000_000  # that are kept in memory
_LIKELY_A_GAP = timedelta(days=1)  # steps that stay longer than this are a length of their own
_STEPS = 8  # different lengths in a file, at most
_UTC_TIME = pl.Datetime("us", "UTC")


@dataclass(frozen=True)
class Lengths:
    """The length of the intervals of stamps from each moment on [s], and what says so."""

    source: LengthSource
    pieces: tuple[tuple[datetime, int], ...]

    @property
    def seconds(self) -> int:
        """The shortest of them."""
        return min(seconds for _, seconds in self.pieces)

    def at(self, stamps: pl.Series) -> pl.Series:
        """The length at each stamp."""
        if len(self.pieces) == 1:
            return pl.repeat(self.seconds, len(stamps), dtype=pl.Int64, eager=True)
        since = pl.Series([moment for moment, _ in self.pieces], dtype=_UTC_TIME)
        seconds = pl.Series([seconds for _, seconds in self.pieces], dtype=pl.Int64)
        number = since.search_sorted(stamps, side="right").cast(pl.Int64) - 1
        return seconds.gather(number.clip(0)).set(stamps.is_null(), None)


def fixed(seconds: int, source: LengthSource) -> Lengths:
    """One length for all times."""
    return Lengths(source, ((datetime(1, 1, 1, tzinfo=UTC), seconds),))


def parsed_length(text: str) -> Length | None:
    """A length as people and files write it; None: it is none.

    >>> [parsed_length(text) for text in ("PT15M", "15", "P1D", "day", "P1M", "soon")]
    [900, 900, 'day', 'day', 'month', None]
    """
    bare = text.strip()
    if bare in ("day", "P1D"):
        return "day"
    if bare in ("month", "P1M"):
        return "month"
    if re.fullmatch(r"\d+(\.\d+)?", bare):
        return int(float(bare) * 60) or None
    found = _ISO.fullmatch(bare)
    if not found:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return (((days * 24 + hours) * 60 + minutes) * 60 + seconds) or None


def lengths_at(stamps: pl.Series, length: Length, zone: str, *, ends: bool) -> pl.Series:
    """The length of each stamp's interval [s].

    A day is a local one, of 23 hours when the clocks go forward. 24 hours that begin at local
    midnight are one too.

    Parameters
    ----------
    stamps : in UTC
    zone : IANA zone or offset, of local days and months
    ends : whether a stamp is the interval's end
    """
    if length not in ("day", "month", DAY_SECONDS):
        return pl.repeat(length, len(stamps), dtype=pl.Int64, eager=True)
    rules = _rules(zone)
    found: dict[datetime, int] = {}
    for stamp in stamps.drop_nulls().unique():
        local = stamp.astimezone(rules)
        if length == DAY_SECONDS and local.time() != datetime.min.time():
            found[stamp] = DAY_SECONDS
        else:
            other = _moved(local.replace(tzinfo=None), length, -1 if ends else 1)
            away = other.replace(tzinfo=rules).astimezone(UTC) - stamp
            found[stamp] = abs(int(away.total_seconds()))
    keys = pl.Series(list(found), dtype=_UTC_TIME)
    return stamps.replace_strict(keys, pl.Series(list(found.values()), dtype=pl.Int64))


def inferred(stamps: pl.DataFrame, *, ends: bool) -> Lengths | None:
    """The lengths of a file's intervals, from all of its stamps; None: they do not tell.

    It is the smallest step from a meter's stamp to its next that occurs regularly. Where a file
    changes to another step once and for all, each part has its own.

    Parameters
    ----------
    stamps : meter_id, reading_date_time [UTC]
    ends : whether a stamp is the interval's end, whose length is then the step before it
    """
    spans = (
        stamps.with_columns(own_steps(stamps, ends=ends).alias("seconds"))
        .drop_nulls("seconds")
        .group_by("seconds")
        .agg(
            pl.len().alias("times"),
            pl.col("reading_date_time").min().alias("first"),
            pl.col("reading_date_time").max().alias("last"),
        )
        .sort("seconds")
    )
    often = pl.max_horizontal(_REGULAR, pl.col("times").sum() * _REGULAR_SHARE)
    regular = spans if spans.height == 1 else spans.filter(pl.col("times") >= often)
    kept: list[tuple[datetime, datetime, int]] = []
    for seconds, _, first, last in regular.head(_STEPS).rows():
        lasts = last - first + timedelta(seconds=seconds) >= _LIKELY_A_GAP
        if not kept or (lasts and all(last < f or first > e for f, e, _ in kept)):
            kept.append((first, last, seconds))
    pieces = [(first, seconds) for first, _, seconds in sorted(kept)]
    return Lengths("inferred", tuple(pieces)) if pieces else None


def own_steps(stamps: pl.DataFrame, *, ends: bool) -> pl.Series:
    """How far the next stamp of the same meter is, or the one before where stamps are ends [s].

    Of a meter's last stamp it is the step before it, and of its first end the one after it.

    Parameters
    ----------
    stamps : a stamp in the last column, and before it what tells meters apart
    """
    *key, at = stamps.columns
    step = pl.col(at).diff().over(key).dt.total_seconds()
    before, after = step, step.shift(-1).over(key)
    own = pl.coalesce(before, after) if ends else pl.coalesce(after, before)
    numbered = stamps.with_row_index("~row")
    first = numbered.unique([*key, at], keep="first").sort(*key, at)
    steps = first.select("~row", own.alias("~step"))
    return numbered.join(steps, on="~row", how="left", maintain_order="left")["~step"]


class Stamps:
    """The stamps of a file, of as many meters as memory is meant for."""

    def __init__(self) -> None:
        self._parts: list[pl.DataFrame] = []
        self._one_in = 1

    def add(self, reads: pl.DataFrame) -> None:
        """Take over those of a block: meter_id, reading_date_time."""
        self._parts.append(self._some(reads.select("meter_id", "reading_date_time").unique()))
        while sum(part.height for part in self._parts) > _STAMPS and self._one_in < _STAMPS:
            self._one_in *= 2
            self._parts = [self._some(part) for part in self._parts]

    def all(self) -> pl.DataFrame:
        """meter_id, reading_date_time."""
        schema = {"meter_id": pl.String(), "reading_date_time": _UTC_TIME}
        return pl.concat([pl.DataFrame(schema=schema), *self._parts]).unique()

    def _some(self, part: pl.DataFrame) -> pl.DataFrame:
        return part.filter(pl.col("meter_id").hash(0) % self._one_in == 0)


def _rules(zone: str) -> tzinfo:
    if zone[0] not in "+-":
        return zone_rules(zone)
    offset = timedelta(hours=int(zone[1:3]), minutes=int(zone[4:6]))
    return timezone(-offset if zone[0] == "-" else offset)


def _moved(local: datetime, length: Length, by: int) -> datetime:
    """The same time of another day, or the same day of another month, by the wall clock."""
    if length != "month":
        return local + by * timedelta(days=1)
    month = local.month - 1 + by
    return local.replace(year=local.year + month // 12, month=month % 12 + 1)
