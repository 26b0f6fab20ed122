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
from meterlake.schema import Table

_FILES_A_UNIT = 200
_STEPS = {"hour": "1h"}


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
    """Partitions of more than one file; of a table in ranges, those of which two overlap."""
    seen: dict[tuple[str, ...], list[DataFile]] = {}
    findings = []
    for file in state.files:
        others = seen.setdefault(tuple(file.partition.values()), [])
        for other in others:
            if state.table.ranged_by is None:
                problem = f"the partition needs to be one file; it has {other.path} too"
            elif _overlap(file, other):
                what = state.table.ranged_by
                problem = f"no {what} may be in two files of a partition; see {other.path} too"
            else:
                continue
            findings.append(Finding(state.table.name, file.path, problem))
            break
        others.append(file)
    return findings


def _overlap(one: DataFile, other: DataFile) -> bool:
    if one.range is None or other.range is None:
        return True
    return one.range[0] <= other.range[1] and other.range[0] <= one.range[1]


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
    by = table.ranged_by
    if by is not None and file.range != (rows[by].min(), rows[by].max()):
        yield f"the log says {by} {file.range}; the file has others"
    if any(rows[c].null_count() or not rows[c].is_finite().all() for c in table.finite):
        yield "it has values that are no finite numbers"
    if table.covers is not None:
        start, end = _time_of(table, file)
        if not times.is_between(start, end, closed="left").all():
            yield f"it has rows of another {table.covers.split()[-1]} than its partition's"
    step = table.ordered_by
    if step is not None and not times.dt.truncate(_STEPS[step]).is_sorted():
        yield f"its rows need to be ordered by {step}; they are not"


def _time_of(table: Table, file: DataFile) -> tuple[datetime, datetime]:
    """The time that the rows of a file's partition belong to."""
    year, month, day = (int(file.partition[name]) for name in ("year", "month", "day"))
    start = datetime(year, month, day, int(file.partition.get("hour", 0)), tzinfo=UTC)
    if table.covers == "rest of month":
        return start, (start.replace(day=28) + timedelta(days=4)).replace(day=1)
    return start, start + timedelta(hours=1 if table.covers == "hour" else 24)
