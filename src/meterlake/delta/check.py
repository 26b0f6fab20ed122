"""Whether a table is whole: its log against its files, and each file against its partition."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import cast

import polars as pl

from meterlake import storage
from meterlake.delta.journal import log_path
from meterlake.delta.store import Store
from meterlake.delta.table import DataFile, Snapshot, log_files, scan
from meterlake.schema import READINGS, SERVING_READINGS, STAGING, Table

_FILES_A_UNIT = 200


@dataclass(frozen=True)
class Finding:
    """Something wrong: in which table and file (or partition), and what."""

    table: str
    path: str
    problem: str


@dataclass(frozen=True)
class Files:
    """A unit of work: some of a table's files."""

    table: Table
    files: tuple[DataFile, ...]
    sha256: tuple[str, ...]


def sizes(store: Store, state: Snapshot) -> dict[str, int]:
    """Size [B] of each file below the table's path, by its path there."""
    prefix = f"{state.table.path}/"
    return {f.path.removeprefix(prefix): f.size for f in store.list(state.table.path)}


def missing_files(state: Snapshot, there: Mapping[str, int]) -> list[Finding]:
    """Files that the log has and the storage has not, or of another size."""
    findings = []
    for file in state.files:
        size = there.get(file.path)
        if size is None:
            findings.append(Finding(state.table.name, file.path, "the file is missing"))
        elif size != file.size:
            problem = f"the file needs to have {file.size:,} bytes; it has {size:,}"
            findings.append(Finding(state.table.name, file.path, problem))
    return findings


def missing_commits(store: Store, table: Table) -> list[Finding]:
    """Commits that a table's log lacks: what arrived is read forward from it.

    Its beginning may have expired where a checkpoint stands for it.
    """
    log = log_files(store, table)
    first = min(log.commits, default=0)
    if max(log.checkpoints, default=-1) < first - 1:
        first = 0
    return [
        Finding(table.name, log_path(table, version), "the commit is missing from the log")
        for version in range(first, max(log.commits, default=0))
        if version not in log.commits
    ]


def unread_commits(store: Store, table: Table, consumed: int) -> list[Finding]:
    """What a log that begins too late lacks: versions after the one that was `consumed`."""
    first = min(log_files(store, table).commits, default=0)
    if consumed < 0 or first <= consumed + 1:
        return []
    problem = f"the log begins at version {first}; the versions from {consumed + 1} on are needed"
    return [Finding(table.name, "_delta_log", problem)]


def crowded_partitions(state: Snapshot) -> list[Finding]:
    """Partitions of more than one file, of a table by ranges of meters with a meter in two."""
    seen: dict[tuple[str, ...], list[DataFile]] = {}
    findings = []
    for file in state.files:
        others = seen.setdefault(tuple(file.partition.values()), [])
        for other in others:
            if not state.table.by_meter_range:
                problem = f"the partition needs to be one file; it has {other.path} too"
            elif _share_meters(file, other):
                problem = f"no meter may be in two files of a partition; see {other.path} too"
            else:
                continue
            findings.append(Finding(state.table.name, file.path, problem))
            break
        others.append(file)
    return findings


def _share_meters(one: DataFile, other: DataFile) -> bool:
    if one.meters is None or other.meters is None:
        return True
    return one.meters[0] <= other.meters[1] and other.meters[0] <= one.meters[1]


def plan_files(
    state: Snapshot, there: Mapping[str, int], logged: Mapping[str, DataFile]
) -> Iterator[Files]:
    """The table's files in units, but for those that are not there.

    `logged` are the files as they were committed, with their hashes, by path.
    """
    files = [f for f in state.files if f.path in there]
    for start in range(0, len(files), _FILES_A_UNIT):
        some = tuple(files[start : start + _FILES_A_UNIT])
        yield Files(state.table, some, tuple(logged.get(f.path, f).sha256 for f in some))


def check_files(store: Store) -> Callable[[Files], list[Finding]]:
    """The work on one unit: read every file and hold it against the log and its partition."""

    def work(unit: Files) -> list[Finding]:
        findings = []
        for file, sha256 in zip(unit.files, unit.sha256, strict=True):
            data = store.read(f"{unit.table.path}/{file.path}")
            if sha256 and hashlib.sha256(data).hexdigest() != sha256:
                problem = "its bytes are not those that were written"
                findings.append(Finding(unit.table.name, file.path, problem))
            try:
                rows = scan(store, unit.table, [file]).collect()
            except (pl.exceptions.PolarsError, OSError) as error:
                problem = f"the file cannot be read: {storage.cause(error)}"
                findings.append(Finding(unit.table.name, file.path, problem))
                continue
            findings += [
                Finding(unit.table.name, file.path, problem)
                for problem in _problems(unit.table, file, rows)
            ]
        return findings

    return work


def _problems(table: Table, file: DataFile, rows: pl.DataFrame) -> Iterator[str]:
    if rows.height != file.rows:
        yield f"the log says {file.rows:,} rows; the file has {rows.height:,}"
    if rows.is_empty():
        return
    times = rows[table.time_column]
    first, last = cast(datetime, times.min()), cast(datetime, times.max())
    if (first, last) != (file.first, file.last):
        yield f"the log says {file.first} to {file.last}; the file has {first} to {last}"
    key = list(table.sorted_by)
    if key:
        if not rows.select(key).equals(rows.select(key).sort(key)):
            yield f"its rows need to be sorted by {' and '.join(key)}; they are not"
        double = rows.height - rows.select(key).n_unique()
        if double:
            yield f"{double:,} of its rows have the {' and '.join(key)} of another"
    if table.by_meter_range and file.meters != (rows["meter_id"].min(), rows["meter_id"].max()):
        yield f"the log says meters {file.meters}; the file has others"
    if table == READINGS:
        start, end = _hours_of(file)
        if not times.is_between(start, end, closed="left").all():
            yield "it has readings of another hour than its partition's"
        if rows["reading_value"].null_count() or not rows["reading_value"].is_finite().all():
            yield "it has values that are no finite numbers"
    elif table == SERVING_READINGS:
        start, _ = _hours_of(file)
        month = (times.dt.year() == start.year) & (times.dt.month() == start.month)
        if not (month & (times >= start)).all():
            yield "it has readings of before its partition's day, or of another month"
    elif table == STAGING:
        start, end = _hours_of(file)
        if not times.is_between(start, end, closed="left").all():
            yield "it has reads of another day than its partition's"
        if not times.dt.truncate("1h").is_sorted():
            yield "its rows need to be ordered by hour; they are not"


def _hours_of(file: DataFile) -> tuple[datetime, datetime]:
    """The hour or day of a file's partition."""
    year, month, day = (int(file.partition[name]) for name in ("year", "month", "day"))
    start = datetime(year, month, day, int(file.partition.get("hour", 0)), tzinfo=UTC)
    return start, start + timedelta(hours=1 if "hour" in file.partition else 24)
