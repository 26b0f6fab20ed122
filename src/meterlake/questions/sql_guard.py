"""What SQL from outside may ask for: one SELECT over the catalog's tables, and nothing else.

What DuckDB's own parser understood is looked through, since a SELECT of DuckDB 2 may hold a
COPY … TO. The settings of CLOSED close what a query could open, each by itself.
"""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import duckdb

from meterlake.errors import BadInput
from meterlake.schema import known_tables
from meterlake.topology.upstream import VIEWS

_QUERIES = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}
_SOURCES = {
    "BASE_TABLE", "CTE", "EMPTY", "EXPRESSION_LIST", "JOIN", "PIVOT", "SHOW_REF", "SUBQUERY",
    "TABLE_FUNCTION",
}  # fmt: skip
_TABLE_FUNCTIONS = {"generate_series", "json_each", "json_tree", "range", "repeat", "unnest"}
_NOT_A_NAME = re.compile(r"[./\\:*?\[\s]")  # a file's, a pattern's or a URL's: no table's of a WITH
_FUNCTIONS_OF_THE_PROCESS = re.compile(
    # What tells of settings, environment and views' SQL, logs, runs SQL in a text, or makes
    # values of raw bytes; some of it only the command line of DuckDB has.
    r"@@|current_setting|getenv|getvariable|write_log|query|json_(de)?serialize_sql"
    r"|json_serialize_plan|to_aggregate_state|finalize|combine|add_parquet_key|nextval|setval"
    r"|(obj|col|shobj)_description|read_.*|__internal.*|duckdb_.*|pg_(?!typeof).*|which_secret"
)
CLOSED: dict[str, str | bool | int | float | list[str]] = {
    "python_enable_replacements": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
    "allow_persistent_secrets": False,
    "allow_extension_repositories": "forbidden",
}


def check(sql: str) -> None:
    """Refuse what is not one SELECT over the catalog's tables. Raises BadInput."""
    parser = parser_of_ours().cursor()
    try:
        statements = parser.extract_statements(sql)
        kinds = {statement.type for statement in statements}
        if len(statements) != 1 or kinds != {duckdb.StatementType.SELECT}:
            raise BadInput(
                "A query needs to be one SELECT (the lake is only read here); found "
                + (", ".join(sorted(str(k).split(".")[-1] for k in kinds)) or "nothing")
            )
        found = parser.execute("SELECT json_serialize_sql(?::VARCHAR)", [sql]).fetchone()
        tree = json.loads(found[0]) if found else {}
    except duckdb.Error as error:
        raise BadInput(f"The query is not valid DuckDB SQL: {cause(error)}") from error
    except RecursionError as error:
        raise BadInput("The query is nested too deeply: split it with WITH") from error
    if tree.get("error", True):
        why = tree.get("error_message", "it cannot be looked through")
        raise BadInput(f"The query cannot be answered: {why}")
    nodes = list(_nodes(tree))
    aliases = {str(n["key"]).lower() for n in nodes if isinstance(n.get("value"), dict)}
    aliases |= {str(n["cte_name"]).lower() for n in nodes if "cte_name" in n}
    tables = {*known_tables(), *VIEWS, *(a for a in aliases if not _NOT_A_NAME.search(a))}
    for node in nodes:
        if outside := _outside(node, tables):
            raise BadInput(
                f"The query cannot be answered: it asks for {outside}, which is not in the lake. "
                f"Tables: {table_names()}"
            )


@cache
def parser_of_ours() -> duckdb.DuckDBPyConnection:
    """What takes a query apart and plans it, without running it; to be used by cursors."""
    connection = duckdb.connect(config=CLOSED | {"threads": 1})
    # An empty table's plan is no plan, where this one may see that it is empty.
    connection.execute("SET GLOBAL disabled_optimizers = 'statistics_propagation'")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def _nodes(tree: object) -> Iterator[dict[str, Any]]:
    """Each object of a tree, in no order."""
    left = [tree]
    while left:
        node = left.pop()
        if isinstance(node, dict):
            yield node
            left += node.values()
        elif isinstance(node, list):
            left += node


def _outside(node: Mapping[str, Any], tables: set[str]) -> str | None:
    """What a node of a parsed query asks for that no query may have; None: nothing."""
    kind = node.get("type")
    function = str(node.get("function_name", "")).lower()
    if _FUNCTIONS_OF_THE_PROCESS.fullmatch(function):
        return f"the function '{function}'"
    if not isinstance(kind, str) or "class" in node:
        return None
    if kind.endswith("_NODE") and kind not in _QUERIES:
        return kind.removesuffix("_NODE").removesuffix("_QUERY")
    if "sample" in node and "alias" in node and kind not in _SOURCES:
        return kind
    if kind == "TABLE_FUNCTION":
        name = str(node["function"].get("function_name", "")).lower()
        return None if name in _TABLE_FUNCTIONS else f"the table function '{name}'"
    if kind == "BASE_TABLE":
        path = [str(part) for part in node["qualified_name"]["path"]]
        of_the_lake = path[:-1] in ([], ["main"], ["memory", "main"])
        return None if of_the_lake and path[-1].lower() in tables else f"'{'.'.join(path)}'"
    if kind == "SHOW_REF" and node["show_type"] not in ("SUMMARY", "DESCRIBE"):
        return None if node["table_name"] == '"tables"' else f"SHOW {node['table_name']}"
    return None


def table_names() -> str:
    """The tables and views that a query may name."""
    return ", ".join([*known_tables(), *VIEWS])


def cause(error: duckdb.Error) -> str:
    """What DuckDB says of an error, on one line."""
    return " ".join(str(error).split())[:500]
