"""Space back: files that no version within the retention needs.

A file is superseded when a commit removed it, an orphan when its job was cut off before its
commit, and a leftover when even its writing was. All of them go once they are older than the
retention. What is younger stays: it may be of a job that runs, or of a reader's version. The files
of a model are orphans where no version of the table of models needs it.

The log is shortened too. It keeps the commits of the retention, those that a derived table has not
consumed yet, and before them the newest checkpoint, from which every later version can be read.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from meterlake.delta.commit import SETTLED, snapshot
from meterlake.delta.journal import entries, logged
from meterlake.delta.store import Store, Stored
from meterlake.delta.table import DataFile, fetched, key_of, log_files, scan, table_at
from meterlake.errors import BadInput
from meterlake.schema import Table, known_tables

SHORTEST_RETENTION = timedelta(hours=1)
SHORTEST_LOG_RETENTION = timedelta(days=7)
FILES_A_UNIT = 200


@dataclass(frozen=True)
class Vacuumed:
    """What a vacuum removed, or would: numbers of files by kind, and their bytes."""

    superseded: int
    orphans: int
    leftovers: int
    log: int
    bytes: int


def cutoff_of(retain: timedelta, now: datetime, *, nobody_else: bool) -> datetime:
    """Before when a version must have been superseded. Raises BadInput where that is too late."""
    if retain < SHORTEST_RETENTION and not nobody_else:
        raise BadInput(
            "--retain needs to be at least 1h, since a job or query that runs may need files "
            f"which look unused; found {retain}. Where nothing runs on the lake, add --nobody-else"
        )
    return now - retain


def unneeded_files(store: Store, cutoff: datetime) -> Iterator[tuple[str, Stored]]:
    """The files that no version needs that was current at `cutoff` or later, and their kind."""
    for table in known_tables().values():
        # The files first: whatever is committed while we look is then known to be needed.
        there = [f for f in store.list(table.path) if f.modified < cutoff]
        if not there:
            continue
        needed, ever = _needed(store, table, cutoff)
        for file in there:
            path = file.path.removeprefix(f"{table.path}/")
            if path.startswith("_delta_log/"):
                if path.endswith(".tmp"):
                    yield "leftovers", file
            elif path.endswith(".parquet") and path not in needed:
                yield ("superseded" if path in ever else "orphans"), file
    for file in store.leftovers():
        if file.modified < cutoff:
            yield "leftovers", file


def unneeded_folders(store: Store, cutoff: datetime) -> Iterator[tuple[str, Stored]]:
    """The files in folders that no such version of a table names.

    Raises
    ------
    Unavailable
        The table cannot be read.
    """
    for table in known_tables().values():
        if table.folder_column is not None:
            yield from _unneeded_folders(store, table, table.folder_column, cutoff)


def _unneeded_folders(
    store: Store, table: Table, column: str, cutoff: datetime
) -> Iterator[tuple[str, Stored]]:
    prefix = f"{table.path}/"
    there = [
        (path.partition("/")[0], file)
        for file in store.list(table.path)
        if file.modified < cutoff
        and "/" in (path := file.path.removeprefix(prefix))
        and not path.startswith("_delta_log/")
    ]
    if there:
        needed, _ = _needed(store, table, cutoff)
        names = set(fetched(scan(store, table, list(needed.values())).select(column))[column])
        for name, file in there:
            if name not in names:
                yield "orphans", file


def expired_log(store: Store, cutoff: datetime) -> Iterator[tuple[str, Stored]]:
    """The commits and checkpoints that nobody needs, each table's in the order of their versions.

    Needed are those since `cutoff`, and those that a table made from it has not consumed.
    """
    consumed = consumed_versions(store)
    for table in known_tables().values():
        log = log_files(store, table)
        if not log.checkpoints:
            continue
        later = (v for v, file in log.commits.items() if file.modified >= cutoff)
        current = min(later, default=max(log.commits) + 1) - 1  # the version at the cutoff
        needed = min(current, consumed.get(table.name, current))
        start = max((v for v in log.checkpoints if v <= needed), default=0)
        old = [(v, f) for files in (log.commits, log.checkpoints) for v, f in files.items()]
        yield from (("log", f) for v, f in sorted(old, key=lambda each: each[0]) if v < start)


def consumed_versions(store: Store) -> dict[str, int]:
    """Of each table that others are made from, the oldest version that one of these has consumed.

    A table that has consumed nothing yet starts from all files of the newest version.
    """
    keys = {table.name: logged(store, table).keys for table in known_tables().values()}
    found: dict[str, int] = {}
    for table in known_tables().values():
        end = key_of("", table_at(store, table))
        versions = [v for of in keys.values() for key, v in of.items() if key.endswith(end)]
        versions += [keys[other.name].get(SETTLED, -1) for other in table.attached]
        if versions:
            found[table.name] = min(versions)
    return found


def remove_files(store: Store) -> Callable[[tuple[str, ...]], int]:
    """The work on one unit, some paths: remove them. Removing what is gone is no error."""

    def work(paths: tuple[str, ...]) -> int:
        for path in paths:
            store.delete(path)
        return len(paths)

    return work


def _needed(
    store: Store, table: Table, cutoff: datetime
) -> tuple[dict[str, DataFile], dict[str, DataFile]]:
    """The files that a version of the table needs which was current at `cutoff` or later.

    And those that the table ever had; both by path.
    """
    state = snapshot(store, table)  # what an attached table is about to get, too
    needed = {f.path: f for f in state.files}
    ever = dict(needed)
    # The storage's own clock: commits at or before the cutoff, each of them before a later one.
    commits = log_files(store, table).commits.items()
    since = min((v for v, file in commits if file.modified >= cutoff), default=state.version + 1)
    if 0 < since <= state.version:
        needed |= {f.path: f for f in table_at(store, table, since - 1).files}
    for entry in entries(store, table, after=-1, until=state.version):
        added = {f.path: f for f in entry.added}
        ever |= added
        if entry.version >= since:
            needed |= added
    return needed, ever
