"""Delta tables: what a table holds at a version, and the one way to change it.

Files are written first and belong to nothing. A commit then adds them, removes those
they replace and records an idempotency key, in one atomic step of the Delta log.
"""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

import polars as pl
from deltalake import CommitProperties, DeltaTable, Field, PostCommitHookProperties, Transaction
from deltalake import Schema as DeltaSchema
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.schema import PrimitiveType
from deltalake.transaction import AddAction, RemoveAction

from meterlake.errors import Conflict, Unavailable
from meterlake.lake.store import Store
from meterlake.schema import POLARS_TYPES, Table, polars_schema

COMPRESSION_LEVEL = 1  # zstd; 3 costs 10 % of the time for 4 % of the bytes (docs/performance.md)

# Staging's log is the journal of what arrived, read forward by `added_since`: it is kept whole.
_CONFIGURATION = {"delta.enableExpiredLogCleanup": "false", "delta.checkpointInterval": "20"}


@dataclass(frozen=True)
class DataFile:
    """One immutable Parquet file of a table.

    `path` is relative to the table; `first` and `last` are the smallest and largest value
    of the table's time column, None where the file has none.
    """

    path: str
    size: int
    rows: int
    partition: Mapping[str, str]
    first: datetime | None
    last: datetime | None


@dataclass(frozen=True)
class Snapshot:
    """A table's live files at one version; version -1 is a table that does not exist yet."""

    table: Table
    version: int
    files: tuple[DataFile, ...]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(f.rows for f in self.files)

    @property
    def bytes(self) -> int:
        """Size of the files [B]."""
        return sum(f.size for f in self.files)

    @property
    def newest(self) -> datetime | None:
        """Largest value of the table's time column."""
        return max((f.last for f in self.files if f.last is not None), default=None)


def partition_path(partition: Mapping[str, str]) -> str:
    """Hive form of a partition: `reading_type=kw/year=2024/…`."""
    return "/".join(f"{name}={value}" for name, value in partition.items())


def write_file(
    store: Store, table: Table, frame: pl.DataFrame, *, partition: Mapping[str, str], name: str
) -> DataFile:
    """Write a frame as one Parquet file of a partition; nobody sees it before a commit.

    Parameters
    ----------
    frame : the table's columns without the partition columns, at least one row
    name : unique in the partition, without extension
    """
    path = f"{partition_path(partition)}/{name}.parquet"
    buffer = io.BytesIO()
    frame.write_parquet(
        buffer, compression="zstd", compression_level=COMPRESSION_LEVEL, row_group_size=65_536
    )
    size = buffer.tell()
    buffer.seek(0)
    store.put(f"{table.path}/{path}", buffer)
    times = frame[table.time_column]
    first, last = cast(datetime | None, times.min()), cast(datetime | None, times.max())
    return DataFile(path, size, frame.height, dict(partition), first, last)


def snapshot(store: Store, table: Table) -> Snapshot:
    """The table as it is now."""
    delta = _open(store, table)
    if delta is None:
        return Snapshot(table, -1, ())
    return Snapshot(table, delta.version(), _live_files(table, delta))


def consumed_version(store: Store, table: Table, key: str) -> int:
    """The version recorded under an idempotency key of the table; -1 where there is none."""
    delta = _open(store, table)
    found = None if delta is None else delta.transaction_version(key)
    return -1 if found is None else found


def added_since(store: Store, table: Table, *, after: int, until: int) -> list[DataFile]:
    """Files that the commits `after` < version <= `until` added, from the log itself."""
    added = []
    for version in range(after + 1, until + 1):
        log = store.read(f"{table.path}/_delta_log/{version:020d}.json")
        for line in log.splitlines():
            action = json.loads(line).get("add")
            if action is not None:
                added.append(_from_log(table, action))
    return added


def commit(
    store: Store,
    table: Table,
    *,
    add: Iterable[DataFile] = (),
    remove: Sequence[DataFile] = (),
    key: str,
    version: int,
    read_version: int | None = None,
    now: datetime,
) -> None:
    """Add and remove files and record `key` = `version`, all in one atomic step.

    Parameters
    ----------
    version : must be higher than what the table has under the key
    read_version : version of the table (-1: none yet) that the change was planned on. Where
        another commit has changed the table since, nothing happens but Conflict. None: an
        append, which conflicts only with another commit of the same key.

    Raises
    ------
    Conflict
        Another writer came first: plan again.
    Unavailable
        The storage refuses or fails.
    """
    if remove and read_version is None:
        raise ValueError("removing files needs the version that they were planned on")
    delta = _open(store, table) or _create(store, table)
    recorded = delta.transaction_version(key)
    changed = read_version is not None and delta.version() != max(read_version, 0)
    if changed or (recorded is not None and recorded >= version):
        raise Conflict(
            f"Table '{table.name}' is at version {delta.version()}, where another writer came "
            "first. Run the command again"
        )
    actions: list[AddAction | RemoveAction] = [_add_action(table, f, now) for f in add]
    actions += [
        RemoveAction(
            path=f.path,
            data_change=True,
            deletion_timestamp=_millis(now),
            size=f.size,
            partition_values=dict(f.partition),
        )
        for f in remove
    ]
    try:
        delta.create_write_transaction(
            actions,
            mode="append",
            schema=_delta_schema(table),
            partition_by=list(table.partitioned_by),
            commit_properties=CommitProperties(
                max_commit_retries=20 if read_version is None else 0,
                app_transactions=[Transaction(key, version)],
            ),
            post_commithook_properties=PostCommitHookProperties(cleanup_expired_logs=False),
        )
    except CommitFailedError as error:
        raise Conflict(f"Table '{table.name}': another writer came first ({error})") from error
    except (DeltaError, OSError) as error:
        raise Unavailable(f"Table '{table.name}' could not be committed: {error}") from error


def scan(
    store: Store, table: Table, files: Sequence[DataFile], *, path_column: str | None = None
) -> pl.LazyFrame:
    """The rows of some of a table's files, every column of its schema present.

    `path_column` names a further column that holds each row's file, as `store.uri` gives it.
    """
    dtypes = polars_schema(table)
    if not files:
        if path_column is not None:
            dtypes[path_column] = pl.String()
        return pl.LazyFrame(schema=dtypes)
    return pl.scan_parquet(
        [store.uri(f"{table.path}/{f.path}") for f in files],
        schema=dtypes,
        hive_partitioning=True,
        hive_schema={name: dtypes[name] for name in table.partitioned_by},
        missing_columns="insert",
        include_file_paths=path_column,
        cast_options=pl.ScanCastOptions(datetime_cast="convert-timezone"),
    )


def _open(store: Store, table: Table) -> DeltaTable | None:
    try:
        return DeltaTable(store.uri(table.path))
    except TableNotFoundError:
        return None
    except (DeltaError, OSError) as error:
        raise Unavailable(f"Table '{table.name}' could not be opened: {error}") from error


def _create(store: Store, table: Table) -> DeltaTable:
    try:
        return DeltaTable.create(
            store.uri(table.path),
            _delta_schema(table),
            mode="ignore",
            partition_by=list(table.partitioned_by),
            name=table.name,
            description=table.meaning,
            configuration=_CONFIGURATION,
        )
    except CommitFailedError:  # another writer created it at the same moment
        return DeltaTable(store.uri(table.path))
    except (DeltaError, OSError) as error:
        raise Unavailable(f"Table '{table.name}' could not be created: {error}") from error


def _delta_schema(table: Table) -> DeltaSchema:
    return DeltaSchema(
        [
            Field(c.name, PrimitiveType(c.type), metadata={"comment": c.meaning, "unit": c.unit})
            for c in table.columns
        ]
    )


def _live_files(table: Table, delta: DeltaTable) -> tuple[DataFile, ...]:
    actions = pl.DataFrame(delta.get_add_actions(flatten=True))
    if actions.is_empty():
        return ()
    time = table.time_column
    frame = actions.select(
        "path",
        "size_bytes",
        "num_records",
        pl.struct([f"partition.{name}" for name in table.partitioned_by]).alias("partition"),
        _or_null(actions, f"min.{time}"),
        _or_null(actions, f"max.{time}"),
    )
    prefix = len("partition.")
    return tuple(
        DataFile(path, size, rows, {k[prefix:]: v for k, v in partition.items()}, first, last)
        for path, size, rows, partition, first, last in frame.iter_rows()
    )


def _or_null(actions: pl.DataFrame, name: str) -> pl.Expr:
    if name in actions.columns:
        return pl.col(name).dt.replace_time_zone("UTC")
    return pl.lit(None, POLARS_TYPES["timestamp"]).alias(name)


def _add_action(table: Table, file: DataFile, now: datetime) -> AddAction:
    stats: dict[str, Any] = {"numRecords": file.rows, "minValues": {}, "maxValues": {}}
    if file.first is not None and file.last is not None:
        stats["minValues"][table.time_column] = _iso(file.first)
        stats["maxValues"][table.time_column] = _iso(file.last)
    return AddAction(
        path=file.path,
        size=file.size,
        partition_values=dict(file.partition),
        modification_time=_millis(now),
        data_change=True,
        stats=json.dumps(stats),
    )


def _from_log(table: Table, action: dict[str, Any]) -> DataFile:
    stats = json.loads(action["stats"])
    first, last = (stats[side].get(table.time_column) for side in ("minValues", "maxValues"))
    return DataFile(
        path=action["path"],
        size=action["size"],
        rows=stats["numRecords"],
        partition=action["partitionValues"],
        first=None if first is None else datetime.fromisoformat(first),
        last=None if last is None else datetime.fromisoformat(last),
    )


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _millis(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
