"""Integrated against staging: each hour recomputed and compared, row for row."""

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import polars as pl

from meterlake.delta.check import Finding
from meterlake.delta.store import Store
from meterlake.delta.table import DataFile, fetched, partition_path, scan, write_file
from meterlake.integrate.hours import (
    HOUR,
    Hours,
    Integrated,
    hour_partition,
    plan_hours,
    standing_reads,
)
from meterlake.schema import READINGS
from meterlake.schema.projection import of_reads

_HOUR_COLUMNS = ("year", "month", "day", "hour")


@dataclass(frozen=True)
class HoursComparison:
    """A unit of work: hours of staging, and the integrated files of them."""

    hours: Hours
    integrated: tuple[DataFile, ...]


def plan_comparison(
    staged: Sequence[DataFile], integrated: Sequence[DataFile]
) -> tuple[list[HoursComparison], list[Finding]]:
    """Units over all of staging's hours; and what is integrated but of none of them."""
    by_hour: dict[tuple[str, ...], list[DataFile]] = {}
    for file in integrated:
        by_hour.setdefault(tuple(file.partition[n] for n in _HOUR_COLUMNS), []).append(file)
    units = []
    for hours in plan_hours(staged, staged):
        files: list[DataFile] = []
        hour = hours.start
        while hour < hours.end:
            files += by_hour.pop(tuple(hour_partition(hour).values()), [])
            hour += HOUR
        units.append(HoursComparison(hours, tuple(files)))
    unknown = [
        Finding(READINGS.name, f.path, "staging has no read of its hour")
        for files in by_hour.values()
        for f in files
    ]
    return units, unknown


def compare_hours(
    store: Store, *, unreadable: frozenset[str]
) -> Callable[[HoursComparison], list[Finding]]:
    """The work on one unit. `unreadable` are paths of integrated files not to be looked at."""

    def work(unit: HoursComparison) -> list[Finding]:
        there = {tuple(f.partition.values()): f for f in unit.integrated}
        findings = []
        for partition, wanted in _wanted(store, unit.hours):
            file = there.pop(tuple(partition.values()), None)
            if file is None:
                problem = f"{wanted.height:,} readings of staging are not integrated"
                findings.append(Finding(READINGS.name, partition_path(partition), problem))
            elif file.path not in unreadable:
                found = fetched(scan(store, READINGS, [file]).select(wanted.columns))
                if not found.equals(wanted):
                    problem = "its rows are not those that staging has"
                    findings.append(Finding(READINGS.name, file.path, problem))
        findings += [
            Finding(READINGS.name, f.path, "staging has no read of its type and hour")
            for f in there.values()
        ]
        return findings

    return work


def plan_rebuild(staged: Sequence[DataFile], partitions: frozenset[str] | None) -> Iterator[Hours]:
    """The hours of partitions (paths such as `reading_type=kw/year=2024/…`); None: all hours."""
    if partitions is None:
        yield from plan_hours(staged, staged)
        return
    starts = set()
    for path in partitions:
        values = dict(part.split("=") for part in path.split("/"))
        starts.add(datetime(*(int(values[n]) for n in _HOUR_COLUMNS), tzinfo=UTC))  # type: ignore[misc,arg-type]
    for start in sorted(starts):
        files = [f for f in staged if f.first and f.last and _holds(f.first, f.last, start)]
        if files:
            yield Hours(start, start + HOUR, arrived=tuple(files), known=())


def _holds(first: datetime, last: datetime, hour: datetime) -> bool:
    return first < hour + HOUR and last >= hour


def rebuild_hours(
    store: Store, *, partitions: frozenset[str] | None
) -> Callable[[Hours], Integrated]:
    """The work on one unit of a repair: its partitions, or those of them, written from staging.

    `partitions` are paths such as `reading_type=kw/year=2024/…`.
    """

    def work(unit: Hours) -> Integrated:
        return Integrated(
            tuple(
                write_file(
                    store, READINGS, rows, partition=partition, name=f"part-{uuid.uuid4().hex}"
                )
                for partition, rows in _wanted(store, unit)
                if partitions is None or partition_path(partition) in partitions
            )
        )

    return work


def _wanted(store: Store, hours: Hours) -> Iterator[tuple[Mapping[str, str], pl.DataFrame]]:
    for hour, name, winners in standing_reads(store, hours):
        partition = {"reading_type": name, **hour_partition(hour)}
        yield partition, winners.select(of_reads(name))
