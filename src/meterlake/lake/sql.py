"""SQL for people: DuckDB over the lake's tables, by name, reading only.

Each table is a view over the files of one version of it, so that a query sees one state
of the lake whatever is written meanwhile. Only SELECT is run, and only the lake's files
can be read.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime

import duckdb
import polars as pl
from arro3.core import Table as ArrowTable

from meterlake.errors import BadInput, Unavailable
from meterlake.lake.commit import snapshots
from meterlake.lake.history import AsOf, balance_sql, views_as_of
from meterlake.lake.layout import EARLIEST, LATEST, Layout, layout_of
from meterlake.lake.store import Store
from meterlake.lake.table import DataFile, Snapshot
from meterlake.lake.topology import VIEWS
from meterlake.schema import (
    BATCH_SOURCE,
    QUARANTINE,
    READING_TYPES,
    READINGS,
    SERVING_READINGS,
    STAGING,
    Table,
    known_tables,
)

_SQL_TYPES = {
    "string": "VARCHAR",
    "double": "DOUBLE",
    "long": "BIGINT",
    "boolean": "BOOLEAN",
    "date": "DATE",
    "timestamp": "TIMESTAMPTZ",
}


def query(store: Store, sql: str, *, as_of: AsOf | None = None) -> pl.DataFrame:
    """Answer a SELECT over the catalog's tables, as they are or as they were.

    Raises
    ------
    BadInput
        It is no single SELECT, is wrong SQL, or asks for something outside the lake.
    """
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise BadInput(f"The query is not SQL that DuckDB knows: {_cause(error)}") from error
    kinds = {statement.type for statement in statements}
    if len(statements) != 1 or kinds != {duckdb.StatementType.SELECT}:
        raise BadInput(
            "A query needs to be one SELECT (the lake is only read here); found "
            + (", ".join(sorted(str(k).split(".")[-1] for k in kinds)) or "nothing")
        )
    named = _named(sql)
    if as_of is not None:
        # As of a moment the readings come from staging.
        wanted = {STAGING if t == READINGS else t for t in named} | {STAGING}
        return answer(store, sql, snapshots(store, wanted), as_of=as_of)
    if READINGS not in named or _asks_for_arrival(sql, named):
        return answer(store, sql, snapshots(store, named))
    states = snapshots(store, {*named, SERVING_READINGS})
    return answer(
        store,
        sql,
        states,
        layout=layout_of(store, states[SERVING_READINGS.name], states[READINGS.name]),
    )


def _named(sql: str) -> list[Table]:
    """The tables that a query names, by itself or by a view; all, where it names none."""
    known = known_tables()
    names = {name for name in known if name in sql.lower()}
    for name, view in VIEWS.items():
        names |= view.tables if name in sql.lower() else set()
    return [known[name] for name in known if name in names] or list(known.values())


def _asks_for_arrival(sql: str, named: Sequence[Table]) -> bool:
    """Whether a query needs the readings' arrival_time, which serving does not have."""
    with duckdb.connect() as connection:
        for table in named:
            columns = ", ".join(f'"{c.name}" {_SQL_TYPES[c.type]}' for c in table.columns)
            connection.execute(f'CREATE TABLE "{table.name}" ({columns})')
        _create_own_views(connection, {table.name for table in named})
        connection.execute("SET enable_external_access = false")
        # An empty table's plan is no plan, where this one may see that it is empty.
        connection.execute("SET disabled_optimizers = 'statistics_propagation'")
        try:
            plan = connection.execute(f"EXPLAIN {sql}").fetchall()
        except duckdb.Error:
            return True  # the answer will say what is wrong with it
        return any("arrival_time" in text for _, text in plan)


def balance(store: Store) -> pl.DataFrame:
    """What became of each delivered file's rows and readings: see history.balance_sql."""
    return answer(store, balance_sql(), snapshots(store, [STAGING, QUARANTINE]))


def answer(
    store: Store,
    sql: str,
    states: Mapping[str, Snapshot],
    parameters: Mapping[str, object] | None = None,
    *,
    as_of: AsOf | None = None,
    layout: Layout | None = None,
) -> pl.DataFrame:
    """Answer one SELECT over these states of tables. Raises BadInput as `query` does.

    With a `layout` the readings are those of serving, where it is up to date, and their
    arrival_time is not known.
    """
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        store.register(connection)
        try:
            _create_views(connection, store, states, as_of, layout)
        except duckdb.Error as error:
            raise Unavailable(
                f"The lake's files cannot be read: {_cause(error)}. meterlake check tells whether "
                "a file is missing or damaged"
            ) from error
        # As it is, and as the views write it: DuckDB compares the letters.
        folders = ", ".join({_quoted(f"{store.url}/"), _quoted(f"{_exactly(store.url)}/")})
        connection.execute(f"SET allowed_directories = [{folders}]")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        try:
            # By way of arro3: Polars keeps a DuckDB result that it reads itself for ever, and
            # DuckDB then complains of it on the terminal when the process ends.
            relation = connection.sql(sql, params=parameters)
            for column, kind in zip(relation.columns, relation.types, strict=True):
                if "INTERVAL" in str(kind):
                    raise BadInput(
                        f"The query's column '{column}' is a length of time, which no output has; "
                        "make a number of it, such as epoch(…) in seconds"
                    )
            return pl.DataFrame(ArrowTable.from_arrow(relation))
        except duckdb.Error as error:
            names = ", ".join([*known_tables(), *VIEWS])
            raise BadInput(
                f"The query cannot be answered: {_cause(error)}. Tables: {names} "
                "(their columns: meterlake catalog TABLE)"
            ) from error


def _create_views(
    connection: duckdb.DuckDBPyConnection,
    store: Store,
    states: Mapping[str, Snapshot],
    as_of: AsOf | None,
    layout: Layout | None,
) -> None:
    prefix = "" if as_of is None else "now_"
    for name, state in states.items():
        rows = _files(store, state.table, state.files)
        if name == READINGS.name and layout is not None:
            rows = _readings(store, layout)
        connection.execute(f'CREATE VIEW "{prefix}{name}" AS {rows}')
    if as_of is None:
        _create_own_views(connection, set(states))
    else:
        here = {name: f'"{prefix}{name}"' for name in states}
        for name, view in views_as_of(as_of).items():
            if (name if name != READINGS.name else STAGING.name) in states:
                connection.execute(f'CREATE VIEW "{name}" AS {view.format(**here)}')


def _create_own_views(connection: duckdb.DuckDBPyConnection, there: set[str]) -> None:
    for name, view in VIEWS.items():
        if view.tables <= there:
            connection.execute(f'CREATE VIEW "{name}" AS {view.sql}')


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
                rows = _by_meter(_files(store, SERVING_READINGS, [file]))
                parts.append(
                    f"SELECT * FROM ({rows}) WHERE reading_date_time >= "  # noqa: S608
                    f"{_moment(piece.start)} AND reading_date_time < {_moment(piece.end)}"
                )
    parts.append(_by_meter(_files(store, SERVING_READINGS, whole)))
    return " UNION ALL ".join(f"({part})" for part in parts)


def _by_meter(serving: str) -> str:
    """Serving's rows with the columns of the readings, but for arrival_time."""
    worked_out = {
        "unit": _by_type("unit"),
        "obis_code": _by_type("obis_code"),
        "phase": "NULL::VARCHAR",
        "reading_source": f"'{BATCH_SOURCE}'",
        "arrival_time": "NULL::TIMESTAMPTZ",
        "day": "strftime(reading_date_time, '%d')",
        "hour": "strftime(reading_date_time, '%H')",
    }
    columns = ", ".join(
        f"{worked_out[c.name]} AS {c.name}" if c.name in worked_out else c.name
        for c in READINGS.columns
    )
    return f"SELECT {columns} FROM ({serving})"  # noqa: S608


def _by_type(fact: str) -> str:
    whens = " ".join(f"WHEN '{t.name}' THEN '{getattr(t, fact)}'" for t in READING_TYPES.values())
    return f"CASE reading_type {whens} END"


def _moment(moment: datetime) -> str:
    return f"TIMESTAMPTZ '{moment.isoformat()}'"


def _files(store: Store, table: Table, of: Sequence[DataFile]) -> str:
    if not of:
        columns = ", ".join(f'NULL::{_SQL_TYPES[c.type]} AS "{c.name}"' for c in table.columns)
        return f"SELECT {columns} WHERE false"
    files = ", ".join(_quoted(_exactly(store.uri(f"{table.path}/{f.path}"))) for f in of)
    columns = ", ".join(f'"{c.name}"' for c in table.columns)
    return (  # names of our own schema, and paths, quoted
        f"SELECT {columns} FROM read_parquet([{files}], "  # noqa: S608
        "hive_partitioning = true, hive_types_autocast = false)"
    )


def _exactly(path: str) -> str:
    """A pattern of file names that only this path fits."""
    return re.sub(r"[\[*?]", r"[\g<0>]", path)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _cause(error: duckdb.Error) -> str:
    return " ".join(str(error).split())[:500]
