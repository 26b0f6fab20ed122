"""The Delta log read: what each commit added and said of itself, and what a version holds.

Beside its files a commit of ours carries an `Account`, in the commit's own metadata, so that it
becomes part of the table in the same step.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import polars as pl

from meterlake import __version__
from meterlake.delta.store import Store
from meterlake.delta.table import DataFile, log_files
from meterlake.schema import Table

_METADATA_KEY = "meterlake"
_READ_AT_ONCE = 16


@dataclass(frozen=True)
class Provenance:
    """What a commit's rows were made from.

    `settings` are those that the rows depend on, by name. `changed` are the partitions, or parts
    of them, whose rows changed, where the files alone do not say that: local dates by reading
    type.
    """

    job: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    changed: Mapping[str, Sequence[str]] | None = None
    code_version: str = __version__


@dataclass(frozen=True)
class Account:
    """What a commit says of itself.

    `attempt` is this try's own name; `attached` are files that belong to attached tables from
    this commit on, by table.
    """

    attempt: str
    attached: Mapping[str, tuple[DataFile, ...]] = field(default_factory=dict)
    provenance: Provenance = field(default_factory=Provenance)


@dataclass(frozen=True)
class Entry:
    """One commit: its added files, those of them that are new data, paths it removed, keys."""

    version: int
    added: tuple[DataFile, ...]
    new: tuple[DataFile, ...]
    removed: tuple[str, ...]
    keys: Mapping[str, int]
    account: Account | None


@dataclass(frozen=True)
class Logged:
    """The log of a version, read whole: live files by path as committed, versions by key."""

    files: Mapping[str, DataFile]
    keys: Mapping[str, int]


def entries(store: Store, table: Table, *, after: int, until: int) -> Iterator[Entry]:
    """The commits `after` < version <= `until`, in order.

    Asked for all of them, a log whose beginning has expired gives that beginning as one entry.

    Raises
    ------
    Unavailable
        A commit is missing, or the storage fails.
    """
    if after < 0 <= until and not store.has(log_path(table, 0)):
        after = min(log_files(store, table).checkpoints, default=0)
        state = _checkpoint(store, table, after)
        files = tuple(state.files.values())
        yield Entry(after, files, files, (), state.keys, None)
    versions = range(after + 1, until + 1)
    if len(versions) < 2:
        yield from (_entry(store, table, version) for version in versions)
        return
    with ThreadPoolExecutor(min(_READ_AT_ONCE, len(versions))) as pool:
        yield from pool.map(lambda version: _entry(store, table, version), versions)


def added_since(store: Store, table: Table, *, after: int, until: int) -> list[DataFile]:
    """Files of new data that the commits `after` < version <= `until` added."""
    files: dict[str, DataFile] = {}
    for entry in entries(store, table, after=after, until=until):
        new = {f.path for f in entry.new}
        files.update((f.path, f) for f in entry.added if f.path in files or f.path in new)
    return list(files.values())


def attached_since(
    store: Store, table: Table, attached: Table, *, after: int, until: int
) -> list[DataFile]:
    """Files that those commits of a table brought to one that is attached to it."""
    return [
        f
        for e in entries(store, table, after=after, until=until)
        if e.account is not None
        for f in e.account.attached.get(attached.name, ())
    ]


def logged(store: Store, table: Table, *, until: int | None = None) -> Logged:
    """What the log says of a version, by default the newest. Raises Unavailable."""
    log = log_files(store, table)
    last = max(log.commits, default=-1) if until is None else until
    start = max((version for version in log.checkpoints if version <= last), default=-1)
    state = Logged({}, {}) if start < 0 else _checkpoint(store, table, start)
    files, keys = dict(state.files), dict(state.keys)
    for entry in entries(store, table, after=start, until=last):
        for path in entry.removed:
            files.pop(path, None)
        files.update((f.path, f) for f in entry.added)
        keys.update(entry.keys)
    return Logged(files, keys)


def provenance(store: Store, table: Table, version: int) -> Provenance:
    """What the rows of a version's commit were made from; empty where it is not one of ours."""
    if version < 0:
        return Provenance()
    (entry,) = entries(store, table, after=version - 1, until=version)
    return Provenance() if entry.account is None else entry.account.provenance


def metadata(table: Table, account: Account) -> dict[str, str]:
    """An account as a commit's metadata."""
    attached = [
        {
            "table": other.name,
            "path": f.path,
            "size": f.size,
            "partitionValues": dict(f.partition),
            "stats": statistics(other, f),
        }
        for other in table.attached
        for f in account.attached.get(other.name, ())
    ]
    told = {"attempt": account.attempt, "attached": attached}
    return {_METADATA_KEY: json.dumps(told | {"provenance": asdict(account.provenance)})}


def statistics(table: Table, file: DataFile) -> str:
    """A file's statistics as the log keeps them."""
    stats: dict[str, Any] = {"numRecords": file.rows, "minValues": {}, "maxValues": {}}
    if file.first is not None and file.last is not None:
        stats["minValues"][table.time_column] = _iso(file.first)
        stats["maxValues"][table.time_column] = _iso(file.last)
    if table.ranged_by and file.range is not None:
        stats["minValues"][table.ranged_by], stats["maxValues"][table.ranged_by] = file.range
    return json.dumps({**stats, "sha256": file.sha256, "made_from": file.made_from})


def log_path(table: Table, version: int) -> str:
    """Path of a commit below the lake."""
    return f"{table.path}/_delta_log/{version:020d}.json"


def _checkpoint(store: Store, table: Table, version: int) -> Logged:
    path = f"{table.path}/_delta_log/{version:020d}.checkpoint.parquet"
    rows = pl.read_parquet(store.read(path), columns=["add", "txn"])
    files = [_data_file(table, add) for add in rows["add"].drop_nulls()]
    keys = {txn["appId"]: txn["version"] for txn in rows["txn"].drop_nulls()}
    return Logged({f.path: f for f in files}, keys)


def _entry(store: Store, table: Table, version: int) -> Entry:
    added, new, removed, keys, account = [], [], [], {}, None
    for line in store.read(log_path(table, version)).splitlines():
        action = json.loads(line)
        if add := action.get("add"):
            file = _data_file(table, add)
            added.append(file)
            if add["dataChange"]:
                new.append(file)
        elif remove := action.get("remove"):
            removed.append(remove["path"])
        elif txn := action.get("txn"):
            keys[txn["appId"]] = txn["version"]
        elif said := action.get("commitInfo", {}).get(_METADATA_KEY):
            account = _account(table, json.loads(said))
    return Entry(version, tuple(added), tuple(new), tuple(removed), keys, account)


def _account(table: Table, said: dict[str, Any]) -> Account:
    attached = {
        other.name: tuple(
            _data_file(other, file)
            for file in said["attached"]
            if file.get("table", table.attached[0].name) == other.name
        )
        for other in table.attached
    }
    if "provenance" in said:
        return Account(said["attempt"], attached, Provenance(**said["provenance"]))
    return Account(said["attempt"], attached, _of_first_format(said["note"]))


def _of_first_format(note: dict[str, Any]) -> Provenance:
    """The provenance of a commit by version 0.1, which kept a note without a fixed form."""
    settings: dict[str, Any] = {n: note[n] for n in ("timezone", "topology") if n in note}
    settings |= note.get("settings", {})
    code_version = note.get("code_version", "0.1.0")
    return Provenance(note.get("job", ""), settings, note.get("changed"), code_version)


def _data_file(table: Table, action: dict[str, Any]) -> DataFile:
    stats = json.loads(action["stats"])
    smallest, largest = stats["minValues"], stats["maxValues"]
    first, last = smallest.get(table.time_column), largest.get(table.time_column)
    return DataFile(
        path=action["path"],
        size=action["size"],
        rows=stats["numRecords"],
        partition=action["partitionValues"],
        first=None if first is None else datetime.fromisoformat(first),
        last=None if last is None else datetime.fromisoformat(last),
        sha256=stats["sha256"],
        range=(smallest[by], largest[by]) if (by := table.ranged_by) in smallest else None,
        made_from=stats.get("made_from", ""),
    )


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
