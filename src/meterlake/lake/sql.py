"""SQL for people: DuckDB over the lake's tables, by name, reading only.

Each table is a view over the files of one version of it, so that a query sees one state
of the lake whatever is written meanwhile. Only SELECT is run, and only the lake's files
can be read.
"""

import re
from collections.abc import Iterable, Mapping

import duckdb
import polars as pl
from arro3.core import Table as ArrowTable

from meterlake.errors import BadInput, Unavailable
from meterlake.lake.commit import snapshots
from meterlake.lake.history import AsOf, balance_sql, views_as_of
from meterlake.lake.store import Store
from meterlake.lake.table import Snapshot
from meterlake.schema import QUARANTINE, READINGS, STAGING, TABLES, Table

_SQL_TYPES = {
    "string": "VARCHAR",
    "double": "DOUBLE",
    "long": "BIGINT",
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
    named = [table for table in TABLES.values() if table.name in sql.lower()]
    return answer(store, sql, _states(store, named or TABLES.values(), as_of), as_of=as_of)


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
) -> pl.DataFrame:
    """Answer one SELECT over these states of tables. Raises BadInput as `query` does."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        store.register(connection)
        try:
            _create_views(connection, store, states, as_of)
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
            return pl.DataFrame(ArrowTable.from_arrow(relation))
        except duckdb.Error as error:
            raise BadInput(
                f"The query cannot be answered: {_cause(error)}. Tables: {', '.join(TABLES)} "
                "(their columns: meterlake catalog TABLE)"
            ) from error


def _states(store: Store, tables: Iterable[Table], as_of: AsOf | None) -> dict[str, Snapshot]:
    if as_of is None:
        return snapshots(store, tables)
    # As of a moment the readings come from staging.
    return snapshots(store, {STAGING if t == READINGS else t for t in tables} | {STAGING})


def _create_views(
    connection: duckdb.DuckDBPyConnection,
    store: Store,
    states: Mapping[str, Snapshot],
    as_of: AsOf | None,
) -> None:
    prefix = "" if as_of is None else "now_"
    for name, state in states.items():
        connection.execute(f'CREATE VIEW "{prefix}{name}" AS {_files(store, state)}')
    if as_of is not None:
        here = {name: f'"{prefix}{name}"' for name in states}
        for name, view in views_as_of(as_of).items():
            if (name if name != READINGS.name else STAGING.name) in states:
                connection.execute(f'CREATE VIEW "{name}" AS {view.format(**here)}')


def _files(store: Store, state: Snapshot) -> str:
    table = state.table
    if not state.files:
        columns = ", ".join(f'NULL::{_SQL_TYPES[c.type]} AS "{c.name}"' for c in table.columns)
        return f"SELECT {columns} WHERE false"
    files = ", ".join(_quoted(_exactly(store.uri(f"{table.path}/{f.path}"))) for f in state.files)
    return (  # names of our own schema, and paths, quoted
        f"SELECT {', '.join(c.name for c in table.columns)} FROM read_parquet([{files}], "  # noqa: S608
        "hive_partitioning = true, hive_types_autocast = false)"
    )


def _exactly(path: str) -> str:
    """A pattern of file names that only this path fits."""
    return re.sub(r"[\[*?]", r"[\g<0>]", path)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _cause(error: duckdb.Error) -> str:
    return " ".join(str(error).split())[:500]
