"""Delta tables: what a table holds at a version, and its files. Changing it is delta/commit.py."""

import hashlib
import io
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar, cast

import polars as pl
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from meterlake import storage
from meterlake.delta.lake_format import require_format
from meterlake.delta.store import Store, Stored
from meterlake.errors import BadInput, Unavailable
from meterlake.schema import Table, polars_schema

Result = TypeVar("Result")

COMPRESSION_LEVEL = 1  # zstd; 3 costs 10 % of the time for 4 % of the bytes (docs/performance.md)
ROW_GROUP = 262_144
_COMMIT = re.compile(r"_delta_log/(\d{20})\.json$")
_CHECKPOINT = re.compile(r"_delta_log/(\d{20})\.checkpoint\.parquet$")

RANGE_ROW_GROUP = 16_384  # rows; a query for one meter reads one or two of them in a file


@dataclass(frozen=True, slots=True)
class DataFile:
    """One immutable Parquet file of a table.

    `path` is relative to the table; `first` and `last` are the smallest and largest value
    of the table's time column, None where the file has none; `sha256` is of its bytes, known
    where the file was written or comes from the journal, else empty; `range` is the smallest
    and largest value of the column that a table is `ranged_by`. `made_from` is what its writer
    needs to make it again, in the writer's own form; it is kept with the hash, in the log.
    """

    path: str
    size: int
    rows: int
    partition: Mapping[str, str]
    first: datetime | None
    last: datetime | None
    sha256: str = ""
    range: tuple[str, str] | None = None
    made_from: str = ""


@dataclass(frozen=True)
class LogFiles:
    """The files of a table's log, by version: its commits and its checkpoints."""

    commits: Mapping[int, Stored]
    checkpoints: Mapping[int, Stored]


@dataclass(frozen=True)
class Snapshot:
    """A table's live files at one version; version -1 is a table that does not exist yet.

    `id` differs if a table was lost and made again. `delta` is the table as it was opened.
    """

    table: Table
    version: int
    files: tuple[DataFile, ...]
    id: str = ""
    delta: DeltaTable | None = field(default=None, repr=False, compare=False)

    def consumed(self, scope: str, source: "Snapshot") -> int:
        """The version of `source` that this state of a table is up to; -1: none."""
        return recorded_under(self.delta, key_of(scope, source))

    @property
    def has_all_columns(self) -> bool:
        """Whether the log has all columns that the table's schema declares."""
        there = set() if self.delta is None else {f.name for f in self.delta.schema().fields}
        return {c.name for c in self.table.columns} <= there

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
    store: Store,
    table: Table,
    frame: pl.DataFrame,
    *,
    partition: Mapping[str, str],
    name: str,
    made_from: str = "",
) -> DataFile:
    """Write a frame as one Parquet file of a partition; nobody sees it before a commit.

    Parameters
    ----------
    frame : the table's columns without the partition columns, at least one row
    name : unique in the partition, without extension
    made_from : what the file can be made from again; see DataFile
    """
    path = "/".join(filter(None, [partition_path(partition), f"{name}.parquet"]))
    buffer = io.BytesIO()
    frame.write_parquet(
        buffer,
        compression="zstd",
        compression_level=COMPRESSION_LEVEL,
        row_group_size=RANGE_ROW_GROUP if table.ranged_by else ROW_GROUP,
    )
    size = buffer.tell()
    sha256 = hashlib.sha256(buffer.getbuffer()).hexdigest()
    buffer.seek(0)
    store.put(f"{table.path}/{path}", buffer)
    times = frame[table.time_column]
    first, last = cast(datetime | None, times.min()), cast(datetime | None, times.max())
    by = table.ranged_by
    span = None if by is None else (frame[by][0], frame[by][-1])
    rows = frame.height
    return DataFile(path, size, rows, dict(partition), first, last, sha256, span, made_from)


def table_at(store: Store, table: Table, version: int | None = None) -> Snapshot:
    """The table's files at a version, by default now; an attached table's without those to come.

    `snapshot` and `snapshots` of delta/commit.py are what readers use.
    """
    return state_of(table, open_delta(store, table, version))


def state_of(table: Table, delta: DeltaTable | None) -> Snapshot:
    """The files of a table that was opened."""
    if delta is None:
        return Snapshot(table, -1, ())
    files = _live_files(table, delta)
    return Snapshot(table, delta.version(), files, str(delta.metadata().id), delta)


def consumed_version(store: Store, table: Table, key: str) -> int:
    """The version recorded under an idempotency key of the table; -1 where there is none."""
    return recorded_under(open_delta(store, table), key)


def key_of(scope: str, source: Snapshot) -> str:
    """The key under which a derived table records which version of a source it is up to.

    `scope` is the part of the derived table that is meant; empty: all of it.
    """
    return "/".join(filter(None, (scope, source.table.name, source.id)))


def recorded_under(delta: DeltaTable | None, key: str) -> int:
    """The version recorded under a key of a table that was opened; -1 where there is none.

    Raises Unavailable: the log may be read only now.
    """
    if delta is None:
        return -1
    found = _read_log(lambda: delta.transaction_version(key), delta.table_uri)
    return -1 if found is None else found


def scan(
    store: Store, table: Table, files: Sequence[DataFile], *, categories: Collection[str] = ()
) -> pl.LazyFrame:
    """The rows of some of a table's files, every column of its schema present.

    `categories`: columns of text that the files have from dictionaries, and that stay so.
    """
    dtypes = polars_schema(table) | {name: pl.Categorical() for name in categories}
    if not files:
        return pl.LazyFrame(schema=dtypes)
    return pl.scan_parquet(
        [store.uri(f"{table.path}/{f.path}") for f in files],
        schema=dtypes,
        glob=False,  # a lake's folder may be named [a] or a*
        hive_partitioning=True,
        hive_schema={name: dtypes[name] for name in table.partitioned_by},
        missing_columns="insert",
        cast_options=pl.ScanCastOptions(
            datetime_cast="convert-timezone", categorical_to_string="allow"
        ),
        storage_options=store.polars_options,
    )


def fetched(rows: pl.LazyFrame) -> pl.DataFrame:
    """Collect what was scanned. Raises Unavailable where a file cannot be read."""
    try:
        return rows.collect()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise Unavailable(
            f"The lake's files cannot be read: {storage.cause(error)}. Run the command again; "
            "meterlake check tells whether a file is missing or damaged"
        ) from error


def log_files(store: Store, table: Table) -> LogFiles:
    """What the table's log consists of. Raises Unavailable."""
    there = store.list(f"{table.path}/_delta_log")
    return LogFiles(
        *(
            {int(found[1]): f for f in there if (found := pattern.search(f.path))}
            for pattern in (_COMMIT, _CHECKPOINT)
        )
    )


def open_delta(store: Store, table: Table, version: int | None = None) -> DeltaTable | None:
    """The table as deltalake has it, None where there is none yet.

    Raises
    ------
    BadInput
        The lake has another format, or the log no longer reaches back to the version.
    Unavailable
        The storage fails.
    """
    uri = store.uri(table.path)

    def opened() -> DeltaTable | None:
        try:
            return DeltaTable(uri, version=version, storage_options=store.delta_options)
        except TableNotFoundError:
            return None

    delta = _read_log(opened, uri)
    if delta is not None:
        require_format(store)
    elif version is not None and (log := log_files(store, table)).commits:
        raise BadInput(
            f"Table '{table.name}' needs a version from {min(log.commits)} on, at which its log "
            f"begins since a vacuum; found {version}. Ask for a later one"
        )
    return delta


def _read_log(read: Callable[[], Result], uri: str) -> Result:
    failures = (DeltaError, OSError)
    try:
        return storage.steadily(read, failures=failures if "://" in uri else ())
    except failures as error:
        raise Unavailable(
            f"The table at {uri} cannot be read: {storage.cause(error)}. Check that the lake's "
            "storage is there, then run the command again"
        ) from error


def _live_files(table: Table, delta: DeltaTable) -> tuple[DataFile, ...]:
    found = _read_log(lambda: delta.get_add_actions(flatten=True), delta.table_uri)
    actions = pl.DataFrame(found)
    if actions.is_empty():
        return ()
    time, names = table.time_column, table.partitioned_by
    columns = actions.select(
        "path",
        "size_bytes",
        "num_records",
        _or_null(actions, f"min.{time}"),
        _or_null(actions, f"max.{time}"),
        pl.concat_list(f"min.{by}", f"max.{by}") if (by := table.ranged_by) else pl.lit(None),
        *(f"partition.{name}" for name in names),
    )
    # Python's own UTC: Polars' way to an aware datetime takes ten times as long.
    rows = zip(*(column.to_list() for column in columns), strict=True)
    return tuple(
        DataFile(
            path,
            size,
            count,
            dict(zip(names, partition, strict=True)),
            None if first is None else first.replace(tzinfo=UTC),
            None if last is None else last.replace(tzinfo=UTC),
            "",
            None if span is None else (span[0], span[1]),
        )
        for path, size, count, first, last, span, *partition in rows
    )


def _or_null(actions: pl.DataFrame, name: str) -> pl.Expr:
    if name in actions.columns:
        return pl.col(name).dt.replace_time_zone(None)
    return pl.lit(None, pl.Datetime("us")).alias(name)
