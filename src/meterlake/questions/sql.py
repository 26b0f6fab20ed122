"""SQL for people: DuckDB over the lake's tables, by name, reading only.

Each table is a view over the files of one version of it, so that a query sees one state
of the lake whatever is written meanwhile. Only SELECT is run, and two things keep it to the
tables, each by itself: what DuckDB's own parser understood names nothing else (a SELECT of
DuckDB 2 may hold a COPY … TO), and DuckDB opens no files but those of these versions.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

import duckdb
import polars as pl
from arro3.core import RecordBatch, RecordBatchReader
from arro3.core import Table as ArrowTable

from meterlake.delta.commit import snapshots
from meterlake.delta.store import Store
from meterlake.delta.table import DataFile, Snapshot
from meterlake.errors import BadInput, Unavailable
from meterlake.questions.history import AsOf, views_as_of
from meterlake.questions.sql_guard import CLOSED, cause, check, parser_of_ours, table_names
from meterlake.readings.layout import EARLIEST, LATEST, Layout, layout_of
from meterlake.readings.withdrawals import withdrawn_deliveries
from meterlake.schema import (
    DELIVERIES,
    QUARANTINE,
    READINGS,
    SERVING_READINGS,
    STAGING,
    Table,
    known_tables,
)
from meterlake.schema.projection import serving_sql
from meterlake.topology.upstream import VIEWS

Connection = duckdb.DuckDBPyConnection

_SQL_TYPES = {
    "string": "VARCHAR",
    "double": "DOUBLE",
    "long": "BIGINT",
    "boolean": "BOOLEAN",
    "date": "DATE",
    "timestamp": "TIMESTAMPTZ",
}

_IN_THE_MIDDLE = "C Data interface error: "


class TooMuchMemory(BadInput):
    """A query needs more memory than it may have."""


@dataclass(frozen=True)
class Limits:
    """What one query may cost; its answer ends after so many rows. Nothing spills to disk."""

    memory_mb: int
    rows: int
    answer_mb: int
    threads: int = 2


def query(store: Store, sql: str, *, as_of: AsOf | None = None) -> pl.DataFrame:
    """Answer a SELECT over the catalog's tables, as they are or as they were.

    Raises
    ------
    BadInput
        It is no single SELECT, is wrong SQL, or asks for something outside the lake.
    """
    return _answered_from_outside(store, sql, as_of=as_of)[0]


def query_within(
    store: Store, sql: str, limits: Limits, *, as_of: AsOf | None = None
) -> tuple[pl.DataFrame, bool]:
    """Answer a SELECT as `query` does, within limits: the first rows, and whether there are more.

    Raises
    ------
    BadInput
        As `query`; and where the rows are more than `answer_mb`.
    TooMuchMemory
        DuckDB would need more than `memory_mb`.
    """
    return _answered_from_outside(store, sql, as_of=as_of, limits=limits)


def _needed(
    store: Store, sql: str, as_of: AsOf | None
) -> tuple[dict[str, Snapshot], Layout | None]:
    """The states of tables that a query from outside is answered from; BadInput if not at all."""
    check(sql)
    named = _named(sql)
    if as_of is not None:
        # As of a moment the readings come from staging.
        wanted = {STAGING if t == READINGS else t for t in named} | {STAGING, DELIVERIES}
        return snapshots(store, wanted), None
    if READINGS not in named or _asks_for_arrival(sql, named):
        return snapshots(store, named), None
    states = snapshots(store, {*named, SERVING_READINGS})
    return states, layout_of(store, states[SERVING_READINGS.name], states[READINGS.name])


def _named(sql: str) -> list[Table]:
    """The tables that a query names, by itself or by a view; all, where it names none."""
    known = known_tables()
    names = {name for name in known if name in sql.lower()}
    for name, view in VIEWS.items():
        names |= view.tables if name in sql.lower() else set()
    return [known[name] for name in known if name in names] or list(known.values())


def _asks_for_arrival(sql: str, named: Sequence[Table]) -> bool:
    """Whether a query needs the readings' arrival_time, which serving does not have."""
    with parser_of_ours().cursor() as connection:
        for table in named:
            columns = ", ".join(f'"{c.name}" {_SQL_TYPES[c.type]}' for c in table.columns)
            connection.execute(f'CREATE TEMP TABLE "{table.name}" ({columns})')
        _create_own_views(connection, {table.name for table in named}, kind="TEMP VIEW")
        try:
            plan = connection.execute(f"EXPLAIN {sql}").fetchall()
        except duckdb.Error:
            return True  # the answer will say what is wrong with it
        return any("arrival_time" in text for _, text in plan)


def answer(
    store: Store,
    sql: str,
    states: Mapping[str, Snapshot],
    parameters: Mapping[str, object] | None = None,
    *,
    as_of: AsOf | None = None,
    layout: Layout | None = None,
) -> pl.DataFrame:
    """Answer one SELECT of ours over these states of tables. Raises BadInput as `query` does.

    With a `layout` the readings are those of serving, where it is up to date, and their
    arrival_time is not known.
    """
    with _opened(store) as connection:
        _create_views(connection, store, states, as_of, layout, kind="TEMP VIEW")
        return _answered(connection, sql, parameters)[0]


@cache
def _instance() -> duckdb.DuckDBPyConnection:
    """DuckDB for SQL of ours: making one takes 15 ms, most of what a small answer does."""
    return duckdb.connect(config=CLOSED | {"enable_external_file_cache": False})


@contextmanager
def _opened(store: Store, config: Mapping[str, Any] | None = None) -> Iterator[Connection]:
    """A connection that nothing of others is in, on the clock of the lake.

    `config`: in an instance of its own, with these settings.
    """
    shared = config is None and store.is_local  # a store is registered with an instance for good
    with _instance().cursor() if shared else duckdb.connect(config=dict(config or CLOSED)) as own:
        own.execute("SET TimeZone = 'UTC'")
        store.register(own)
        yield own


def _answered_from_outside(
    store: Store, sql: str, *, as_of: AsOf | None, limits: Limits | None = None
) -> tuple[pl.DataFrame, bool]:
    """The answer to SQL that is not ours, with nothing but the tables in reach."""
    states, layout = _needed(store, sql, as_of)
    config = dict(CLOSED)
    if limits is not None:
        config |= {"memory_limit": f"{limits.memory_mb}MB", "threads": limits.threads}
        config |= {"temp_directory": ""}
    with _opened(store, config) as connection:
        _create_views(connection, store, states, as_of, layout, kind="VIEW")
        # A layout is of these states: its files are theirs.
        paths = [store.uri(f"{s.table.path}/{f.path}") for s in states.values() for f in s.files]
        # As it is, and as the views write it: DuckDB compares the letters.
        files = ", ".join({_quoted(form) for path in paths for form in (path, _exactly(path))})
        connection.execute(f"SET allowed_paths = [{files}]")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        return _answered(connection, sql, limits=limits)


def _answered(
    connection: Connection,
    sql: str,
    parameters: Mapping[str, object] | None = None,
    *,
    limits: Limits | None = None,
) -> tuple[pl.DataFrame, bool]:
    """The answer, and whether it would have more rows than the limit."""
    try:
        relation = connection.sql(sql, params=parameters)
        doubled = [name for name, count in Counter(relation.columns).items() if count > 1]
        if doubled:
            raise BadInput(f"The query has several columns named '{doubled[0]}': name each with AS")
        for column, kind in zip(relation.columns, relation.types, strict=True):
            if "INTERVAL" in str(kind):
                raise BadInput(
                    f"The query's column '{column}' is a length of time, which cannot be "
                    "output; convert it to a number, such as epoch(…) in seconds"
                )
        with _told_by_duckdb():
            return _fetched(relation, limits)
    except duckdb.OutOfMemoryException as error:
        raise TooMuchMemory(
            f"The query needs too much memory: {cause(error)}. Aggregate, or narrow the window"
        ) from error
    except duckdb.IOException as error:
        raise _unreadable(error) from error
    except duckdb.Error as error:
        raise BadInput(
            f"The query cannot be answered: {cause(error)}. Tables: {table_names()} "
            "(their columns: meterlake catalog TABLE)"
        ) from error


def _fetched(relation: duckdb.DuckDBPyRelation, limits: Limits | None) -> tuple[pl.DataFrame, bool]:
    # By way of arro3: Polars keeps a DuckDB result that it reads itself for ever, and
    # DuckDB then complains of it on the terminal when the process ends.
    if limits is None:
        return pl.DataFrame(ArrowTable.from_arrow(relation)), False
    # What is beyond the limit is not even worked out.
    reader = RecordBatchReader.from_arrow(relation.limit(limits.rows + 1))
    batches: list[RecordBatch] = []
    rows = size = 0
    for batch in reader:
        batches.append(batch)
        rows += batch.num_rows
        size += batch.nbytes
        if size > limits.answer_mb * 1_000_000:
            raise BadInput(
                f"The query's answer has more than {limits.answer_mb} MB in its first {rows} rows: "
                "ask for fewer columns or rows, or aggregate"
            )
    frame = pl.DataFrame(ArrowTable.from_batches(batches, schema=reader.schema))
    return frame.head(limits.rows), rows > limits.rows


@contextmanager
def _told_by_duckdb() -> Iterator[None]:
    """Errors in the middle of an answer as DuckDB's own: arro3 has no class for them."""
    try:
        yield
    except Exception as error:
        words = str(error)
        if type(error) is not Exception or not words.startswith(_IN_THE_MIDDLE):
            raise
        words = words.removeprefix(_IN_THE_MIDDLE)
        out_of_memory = words.startswith("Out of Memory")
        raise (duckdb.OutOfMemoryException if out_of_memory else duckdb.Error)(words) from error


def _unreadable(error: duckdb.Error) -> Unavailable:
    return Unavailable(
        f"The lake's files cannot be read: {cause(error)}. meterlake check tells whether "
        "a file is missing or damaged"
    )


def _create_views(
    connection: Connection,
    store: Store,
    states: Mapping[str, Snapshot],
    as_of: AsOf | None,
    layout: Layout | None,
    *,
    kind: str,
) -> None:
    prefix = "" if as_of is None else "now_"
    try:
        for name, state in states.items():
            rows = _files(store, state.table, state.files)
            if name == READINGS.name and layout is not None:
                rows = _readings(store, layout)
            if name == QUARANTINE.name and as_of is None:
                rows = _of_counting(store, rows)
            connection.execute(f'CREATE {kind} "{prefix}{name}" AS {rows}')
        if as_of is None:
            _create_own_views(connection, set(states), kind=kind)
        else:
            here = {name: f'"{prefix}{name}"' for name in states}
            for name, view in views_as_of(as_of).items():
                if (name if name != READINGS.name else STAGING.name) in states:
                    connection.execute(f'CREATE {kind} "{name}" AS {view.format(**here)}')
    except duckdb.Error as error:
        raise _unreadable(error) from error


def _of_counting(store: Store, rows: str) -> str:
    """SQL of the rows whose delivery counts."""
    gone = ", ".join(_quoted(name) for name in sorted(withdrawn_deliveries(store)))
    return f"SELECT * FROM ({rows}) WHERE delivery_id NOT IN ({gone})" if gone else rows


def _create_own_views(connection: Connection, there: set[str], *, kind: str) -> None:
    for name, view in VIEWS.items():
        if view.tables <= there:
            connection.execute(f'CREATE {kind} "{name}" AS {view.sql}')


def _readings(store: Store, layout: Layout) -> str:
    """SQL of the readings by a layout: what serving has, and the rest of integrated."""
    pieces = [
        piece for name in layout.reading_types for piece in layout.pieces(name, EARLIEST, LATEST)
    ]
    rest = [f for p in pieces if p.table == READINGS for f in p.files]
    whole: list[DataFile] = []
    parts = [_files(store, READINGS, rest)]
    for piece in pieces:
        if piece.table == READINGS:
            continue
        for file in piece.files:
            if piece.has_all_of(file):
                whole.append(file)
            else:
                rows = serving_sql(_files(store, SERVING_READINGS, [file]))
                parts.append(
                    f"SELECT * FROM ({rows}) WHERE reading_date_time >= "
                    f"{_moment(piece.start)} AND reading_date_time < {_moment(piece.end)}"
                )
    parts.append(serving_sql(_files(store, SERVING_READINGS, whole)))
    return " UNION ALL ".join(f"({part})" for part in parts)


def _moment(moment: datetime) -> str:
    return f"TIMESTAMPTZ '{moment.isoformat()}'"


def _files(store: Store, table: Table, of: Sequence[DataFile]) -> str:
    if not of:
        columns = ", ".join(f'NULL::{_SQL_TYPES[c.type]} AS "{c.name}"' for c in table.columns)
        return f"SELECT {columns} WHERE false"
    files = ", ".join(_quoted(_exactly(store.uri(f"{table.path}/{f.path}"))) for f in of)
    columns = ", ".join(f'"{c.name}"' for c in table.columns)
    return (  # names of our own schema, and paths, quoted
        f"SELECT {columns} FROM read_parquet([{files}], "
        "hive_partitioning = true, hive_types_autocast = false)"
    )


def _exactly(path: str) -> str:
    """A pattern of file names that only this path fits."""
    return re.sub(r"[\[*?]", r"[\g<0>]", path)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
