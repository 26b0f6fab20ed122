"""SQL for people: DuckDB over the lake's tables, by name, reading only.

Each table is a view over the files of one version of it, so that a query sees one state
of the lake whatever is written meanwhile. Only SELECT is run, and only the lake's files
can be read.
"""

import duckdb
import polars as pl
from arro3.core import Table

from meterlake.errors import BadInput
from meterlake.lake.store import Store
from meterlake.lake.table import Snapshot, snapshot
from meterlake.schema import TABLES

_SQL_TYPES = {
    "string": "VARCHAR",
    "double": "DOUBLE",
    "long": "BIGINT",
    "timestamp": "TIMESTAMPTZ",
}


def query(store: Store, sql: str) -> pl.DataFrame:
    """Answer a SELECT over the catalog's tables.

    Raises
    ------
    BadInput
        It is no single SELECT, is wrong SQL, or asks for something outside the lake.
    """
    with duckdb.connect() as connection:
        try:
            statements = connection.extract_statements(sql)
        except duckdb.Error as error:
            raise BadInput(f"The query is not SQL that DuckDB knows: {_cause(error)}") from error
        kinds = {statement.type for statement in statements}
        if len(statements) != 1 or kinds != {duckdb.StatementType.SELECT}:
            raise BadInput(
                "A query needs to be one SELECT (the lake is only read here); found "
                + (", ".join(sorted(str(k).split(".")[-1] for k in kinds)) or "nothing")
            )
        connection.execute("SET TimeZone = 'UTC'")
        named = [table for table in TABLES.values() if table.name in sql.lower()]
        for table in named or TABLES.values():
            _create_view(connection, store, snapshot(store, table))
        connection.execute(f"SET allowed_directories = [{_quoted(store.url + '/')}]")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        try:
            # By way of arro3: Polars keeps a DuckDB result that it reads itself for ever, and
            # DuckDB then complains of it on the terminal when the process ends.
            return pl.DataFrame(Table.from_arrow(connection.sql(statements[0])))
        except duckdb.Error as error:
            raise BadInput(
                f"The query cannot be answered: {_cause(error)}. Tables: {', '.join(TABLES)} "
                "(their columns: meterlake catalog TABLE)"
            ) from error


def _create_view(connection: duckdb.DuckDBPyConnection, store: Store, state: Snapshot) -> None:
    table = state.table
    if not state.files:
        columns = ", ".join(f'NULL::{_SQL_TYPES[c.type]} AS "{c.name}"' for c in table.columns)
        connection.execute(f'CREATE VIEW "{table.name}" AS SELECT {columns} WHERE false')
        return
    files = ", ".join(_quoted(store.uri(f"{table.path}/{f.path}")) for f in state.files)
    view = (  # names of our own schema, and paths, quoted
        f'CREATE VIEW "{table.name}" AS SELECT * FROM read_parquet([{files}], '  # noqa: S608
        "hive_partitioning = true, hive_types_autocast = false)"
    )
    connection.execute(view)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _cause(error: duckdb.Error) -> str:
    return " ".join(str(error).split())[:500]
