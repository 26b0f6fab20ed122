"""Staging's hours to the integrated table: one reading per meter, type and time.

An hour of the integrated table is a function of everything staging holds for it, so the
order of arrival cannot matter, and integrating again changes nothing. Of several reads of
one key a measured value stands before an estimate, whichever came later, and among equals the
latest arrival; where a file does not say when a read arrived, the moment it was taken in counts.
Among equal arrivals the later row of the later-named file stands.
"""

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise

import polars as pl

from meterlake.delta.store import Store
from meterlake.delta.table import DataFile, fetched, partition_path, scan, write_file
from meterlake.pipeline.derivation import Made
from meterlake.schema import (
    LATE_ARRIVALS,
    POLARS_TYPES,
    READINGS,
    STAGING,
)
from meterlake.schema.projection import KEY, VERSION, arrival, of_reads, rank

UNIT_ROWS = 900_000  # staging rows of one unit of work, about
HOUR = timedelta(hours=1)

# Among the reads of a key the last one in this order stands.
_ORDER = (*KEY, "_rank", "_arrival", "source_file", "source_row")

# Columns of few different texts: to compare and write them as such costs half of the time.
_FEW = ("reading_type", "channel", "length_source", "quality", "status", "source_file")

# Columns that a reading does not have.
_OF_A_READ = ("arrival_time", "received_at", "source_file", "source_row", "_hour", "_new")

LATE_SCHEMA = {
    c.name: POLARS_TYPES[c.type]
    for c in LATE_ARRIVALS.columns
    if c.name not in ("detected_at", "staging_version", "detection_date")
}


@dataclass(frozen=True)
class Hours:
    """A unit of work: the hours from `start` to before `end`, and staging's files of them.

    `arrived` came since the last integration, `known` before; `lost` count no more since then.
    """

    start: datetime
    end: datetime
    arrived: tuple[DataFile, ...]
    known: tuple[DataFile, ...]
    lost: tuple[DataFile, ...] = ()


@dataclass(frozen=True)
class Counts:
    """What became of arrived readings; the three add up to their number.

    A reading is `added` where its meter, type and time had none; `replaced` counts further
    versions of a key (another value, quality or arrival), of which the latest is kept;
    `duplicates` are the same as a version that is known.
    """

    added: int
    replaced: int
    duplicates: int

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.added + other.added,
            self.replaced + other.replaced,
            self.duplicates + other.duplicates,
        )


@dataclass(frozen=True)
class Integrated(Made):
    """What a unit became: one file per partition, counts, partitions without reads, late reads."""

    counts: Counts = Counts(0, 0, 0)
    emptied: tuple[str, ...] = ()
    late: pl.DataFrame = field(repr=False, default_factory=lambda: pl.DataFrame(schema=LATE_SCHEMA))


def plan_hours(
    arrived: Sequence[DataFile], staged: Sequence[DataFile], lost: Sequence[DataFile] = ()
) -> Iterator[Hours]:
    """Cut the hours that the arrived files span into units, in time order.

    Parameters
    ----------
    arrived : staging files added since the last integration
    staged : all of staging's files that count, the arrived ones included
    lost : files that count no more, of hours that are to be integrated without them
    """
    new, gone = {f.path for f in arrived}, {f.path for f in lost}
    days: dict[datetime, list[DataFile]] = {}
    for file in (*staged, *lost):
        days.setdefault(_hour(file.first).replace(hour=0), []).append(file)
    held: list[tuple[datetime, datetime, list[DataFile]]] = []
    rows = 0.0
    for day in sorted({_hour(f.first).replace(hour=0) for f in (*arrived, *lost)}):
        for start, end, weight in _runs(day, days[day], new | gone):
            if held and rows + weight > UNIT_ROWS:
                yield _unit(held, new, gone)
                held, rows = [], 0.0
            held.append((start, end, days[day]))
            rows += weight
    if held:
        yield _unit(held, new, gone)


def integrate_hours(store: Store, *, late_after: timedelta) -> Callable[[Hours], Integrated]:
    """The work on one unit: every partition of its hours that received reads, rewritten."""

    def work(unit: Hours) -> Integrated:
        within = pl.col("reading_date_time").is_between(unit.start, unit.end, closed="left")
        arrived = _read(store, unit.arrived, within, new=True)
        known = _read(store, unit.known, within, new=False)
        lost = _read(store, unit.lost, within, new=False).select("_hour", "reading_type").unique()
        if not known.is_empty():
            touched = pl.concat([arrived.select("_hour"), lost.select("_hour")]).unique()
            known = known.join(touched, on="_hour", how="semi")
        left, order = set(lost.iter_rows()), KeyOrder()
        files: list[DataFile] = []
        counts = Counts(0, 0, 0)
        for hour, name, reads in _by_partition(pl.concat([arrived, known])):
            if not reads["_new"].any() and (hour, name) not in left:
                continue
            left.discard((hour, name))
            standing, became = order.latest(reads)
            counts += became
            files.append(_write(store, standing, hour, name))
        emptied = tuple(sorted(partition_path(_partition(hour, name)) for hour, name in left))
        return Integrated(tuple(files), counts, emptied, late_reads(arrived, late_after))

    return work


def find_late(store: Store, *, late_after: timedelta) -> Callable[[Hours], pl.DataFrame]:
    """The late reads of a unit's arrived files: the part of the work that records them."""

    def work(unit: Hours) -> pl.DataFrame:
        within = pl.col("reading_date_time").is_between(unit.start, unit.end, closed="left")
        return late_reads(_read(store, unit.arrived, within, new=True), late_after)

    return work


def standing_reads(store: Store, unit: Hours) -> Iterator[tuple[datetime, str, pl.DataFrame]]:
    """Each hour and reading type of a unit, with the reads that stand there, sorted."""
    within = pl.col("reading_date_time").is_between(unit.start, unit.end, closed="left")
    reads = _read(store, (*unit.arrived, *unit.known), within, new=True)
    order = KeyOrder()
    for hour, name, some in _by_partition(reads):
        yield hour, name, order.latest(some)[0]


class KeyOrder:
    """Sorts the reads of one type after the other by their keys, which mostly are the same."""

    def __init__(self) -> None:
        self._last: tuple[pl.DataFrame, pl.Series, bool] | None = None

    def latest(self, reads: pl.DataFrame) -> tuple[pl.DataFrame, Counts]:
        """The reads of one type that stand, by key, and what became of the arrived ones."""
        keys = reads.select(KEY)
        if self._last is None or not self._last[0].equals(keys):
            order = keys.select(pl.arg_sort_by(KEY)).to_series()
            self._last = keys, order, bool(_loses(keys[order]).any())
        _, order, several = self._last
        if several:
            return latest(reads.with_columns(rank().alias("_rank")).sort(*_ORDER))
        return reads.drop(_OF_A_READ)[order], Counts(int(reads["_new"].sum()), 0, 0)


def latest(reads: pl.DataFrame) -> tuple[pl.DataFrame, Counts]:
    """Of each key the last row, and what became of the arrived ones.

    Parameters
    ----------
    reads : of one type, in the order in which the last of a key stands
    """
    key = list(KEY)
    loses = _loses(reads)
    arrived = int(reads["_new"].sum())
    if not loses.any():
        return reads, Counts(added=arrived, replaced=0, duplicates=0)
    several = reads.filter(loses | loses.shift(1, fill_value=False))
    # A version of a key is a distinct content; one that was known before is not new again.
    versions = several.group_by(*key, *VERSION, "_arrival").agg(pl.col("_new").all())
    keys = versions.group_by(key).agg(pl.col("_new").all())
    new_versions, new_keys = int(versions["_new"].sum()), int(keys["_new"].sum())
    arrived_several = int(several["_new"].sum())
    return reads.filter(~loses), Counts(
        added=arrived - arrived_several + new_keys,
        replaced=new_versions - new_keys,
        duplicates=arrived_several - new_versions,
    )


def late_reads(arrived: pl.DataFrame, late_after: timedelta) -> pl.DataFrame:
    """Late reads by reading type, hour and file; those without an arrival time are none.

    Returns
    -------
    reading_type, reading_hour, source_file, late, min_late_minutes, max_late_minutes
    """
    delay = pl.col("arrival_time") - pl.col("reading_date_time")
    late = arrived.filter(delay > late_after)
    minutes = delay.dt.total_microseconds() / 60e6
    return (
        late.group_by("reading_type", pl.col("_hour").alias("reading_hour"), "source_file")
        .agg(
            pl.len().cast(pl.Int64).alias("late"),
            minutes.min().alias("min_late_minutes"),
            minutes.max().alias("max_late_minutes"),
        )
        .select(pl.col(name).cast(dtype) for name, dtype in LATE_SCHEMA.items())
        .sort("reading_type", "reading_hour", "source_file")
    )


def _runs(
    day: datetime, files: Sequence[DataFile], new: set[str]
) -> Iterator[tuple[datetime, datetime, float]]:
    """Runs of a day's hours that new files span, of about UNIT_ROWS rows; with their rows."""
    rows = [0.0] * 24
    touched = [False] * 24
    for file in files:
        first, last = _hour(file.first).hour, _hour(file.last).hour
        for hour in range(first, last + 1):
            rows[hour] += file.rows / (last - first + 1)
            touched[hour] |= file.path in new
    start, weight = None, 0.0
    for hour in range(25):
        full = hour < 24 and weight + rows[hour] > UNIT_ROWS
        if start is not None and (hour == 24 or not touched[hour] or full):
            yield day + start * HOUR, day + hour * HOUR, weight
            start, weight = None, 0.0
        if hour < 24 and touched[hour]:
            start = hour if start is None else start
            weight += rows[hour]


def _unit(
    parts: Sequence[tuple[datetime, datetime, Sequence[DataFile]]],
    new: set[str],
    gone: set[str],
) -> Hours:
    files = {
        file.path: file
        for start, end, candidates in parts
        for file in candidates
        if _hour(file.first) < end and _hour(file.last) >= start
    }
    return Hours(
        start=parts[0][0],
        end=parts[-1][1],
        arrived=tuple(f for path, f in files.items() if path in new),
        known=tuple(f for path, f in files.items() if path not in new | gone),
        lost=tuple(f for path, f in files.items() if path in gone),
    )


def _read(store: Store, files: Sequence[DataFile], within: pl.Expr, *, new: bool) -> pl.DataFrame:
    """Rows of staging files in a unit's hours, with `_arrival`, `_hour` and `_new`."""
    rows = scan(store, STAGING, files, categories=_FEW)
    rows = rows.filter(within, pl.col("reading_value").is_not_null())
    typed = rows.drop("source_sha256", "delivery_id", *STAGING.partitioned_by).with_columns(
        arrival().alias("_arrival"),
        pl.col("reading_date_time").dt.truncate("1h").alias("_hour"),
        pl.lit(new).alias("_new"),
    )
    return fetched(typed)


def _by_partition(reads: pl.DataFrame) -> Iterator[tuple[datetime, str, pl.DataFrame]]:
    """Reads by hour and reading type, both in order.

    Staging's files have the values of an hour and type one after the other: these are taken as they
    are, where looking for the rows of each would cost as much as all the rest.
    """
    key = ("_hour", "reading_type")
    begins = pl.any_horizontal((pl.col(c) != pl.col(c).shift()).fill_null(True) for c in key)
    starts = reads.select(begins.arg_true()).to_series().to_list()
    parts: dict[tuple[datetime, str], list[pl.DataFrame]] = {}
    for start, end in pairwise([*starts, reads.height]):
        run = reads.slice(start, end - start)
        parts.setdefault((run["_hour"][0], run["reading_type"][0]), []).append(run)
    for hour, name in sorted(parts):
        yield hour, name, pl.concat(parts[hour, name])


def _loses(reads: pl.DataFrame) -> pl.Series:
    """Whether a row's key is that of the next row too, which then stands."""
    same = [pl.col(c) == pl.col(c).shift(-1) for c in KEY]
    return reads.select(pl.all_horizontal(same).fill_null(False).alias("loses"))["loses"]


def _write(store: Store, standing: pl.DataFrame, hour: datetime, name: str) -> DataFile:
    """Write one partition: the reads of an hour and type that stand."""
    rows, file = standing.select(of_reads(name)), f"part-{uuid.uuid4().hex}"
    return write_file(store, READINGS, rows, partition=_partition(hour, name), name=file)


def _partition(hour: datetime, name: str) -> dict[str, str]:
    return {"reading_type": name, **hour_partition(hour)}


def hour_partition(hour: datetime) -> dict[str, str]:
    """Partition values of a UTC hour."""
    return {
        "year": f"{hour.year:04d}",
        "month": f"{hour.month:02d}",
        "day": f"{hour.day:02d}",
        "hour": f"{hour.hour:02d}",
    }


def _hour(moment: datetime | None) -> datetime:
    if moment is None:
        raise ValueError("a staging file needs the times of its reads in the log")
    return moment.replace(minute=0, second=0, microsecond=0)
