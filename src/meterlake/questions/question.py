"""What a question is, and how it is asked: as a whole, or page by page.

A page begins after the last row of the page before, by the values that rows are ordered by, so
that rows that come or go meanwhile neither shift nor repeat any.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime

import polars as pl

from meterlake.delta.commit import snapshots
from meterlake.delta.store import Store
from meterlake.delta.table import Snapshot
from meterlake.errors import BadInput
from meterlake.periods import check_days, to_utc, utc_window
from meterlake.questions.sql import answer
from meterlake.readings.layout import layout_of
from meterlake.schema import (
    POLARS_TYPES,
    READINGS,
    SERVING_READINGS,
    Column,
    ColumnType,
    Table,
    View,
    known_tables,
)
from meterlake.settings import Settings
from meterlake.topology.upstream import VIEWS

Value = str | int | float | bool | date | datetime

_FROM_SETTINGS: dict[str, Callable[[Settings], Value]] = {
    "zone": lambda settings: settings.timezone,
    "price": lambda settings: settings.serve.price_per_kwh,
    "momentary_minutes": lambda settings: settings.grid.momentary_minutes,
}
"""What any question's SQL may name; a filter of the same name takes precedence."""


@dataclass(frozen=True)
class Filter:
    """What rows may be asked for by: `condition` is SQL of $name.

    A condition without $name holds unless the filter is given as true. Without a condition the
    question's own SQL names $name, which is null where it is not given.
    """

    name: str
    type: ColumnType
    meaning: str
    condition: str = ""
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Question:
    """Rows that can be asked for by name.

    `tables` are the tables and views that it reads; `sql` has {where} for the filters'
    conditions; `order` are SQL expressions of its columns that together name a row and are never
    null. Without an order the answer is one row.
    """

    name: str
    meaning: str
    columns: tuple[Column, ...]
    tables: tuple[str, ...]
    sql: str
    order: tuple[str, ...] = ()
    filters: tuple[Filter, ...] = ()


@dataclass(frozen=True)
class Part:
    """At most `limit` rows, after the row that has these values of the order."""

    limit: int | None = None
    after: Sequence[Value] | None = None


@dataclass(frozen=True)
class Page:
    """Rows in order; `after` are the order's values of the last, None where no more follow."""

    rows: pl.DataFrame
    after: tuple[Value, ...] | None


def ask(
    store: Store,
    question: Question,
    asked: Mapping[str, Value | None],
    *,
    settings: Settings,
    part: Part | None = None,
    states: Mapping[str, Snapshot] | None = None,
) -> Page:
    """The answer to a question, with its columns as they are declared.

    Parameters
    ----------
    asked : values of filters by their names; a moment without an offset is in the lake's zone;
        None: not asked
    part : which rows; None: all
    states : of the question's tables; None: as they are now

    Raises
    ------
    BadInput
        There is no such filter, a value does not fit, or nothing can be in the window.
    """
    zone = settings.timezone
    given = {
        name: to_utc(value, zone) if isinstance(value, datetime) else value
        for name, value in asked.items()
        if value is not None
    }
    if unknown := given.keys() - {each.name for each in question.filters}:
        names = ", ".join(each.name for each in question.filters) or "none"
        raise BadInput(f"The filters of '{question.name}' are {names}; found '{min(unknown)}'")
    start, end = asked.get("from"), asked.get("to")
    if isinstance(start, datetime) and isinstance(end, datetime):
        utc_window(start, end, zone)
    elif isinstance(start, date) and isinstance(end, date):
        check_days(start, end, includes_end=True)
    part = part or Part()
    sql, marks = _sql_of(question, given, part)
    usual = {name: of(settings) for name, of in _FROM_SETTINGS.items()}
    known = {**usual, **given, **marks}
    values = {name: known.get(name) for name in re.findall(r"\$(\w+)", sql)}
    states = states_of(store, question) if states is None else states
    layout = None
    if SERVING_READINGS.name in states:
        layout = layout_of(store, states[SERVING_READINGS.name], states[READINGS.name])
    rows, after = answer(store, sql, states, values, layout=layout), None
    if part.limit is not None and rows.height > part.limit:
        rows = rows.head(part.limit)
        if part.limit:
            after = rows.select(f"_key{n}" for n in range(len(question.order))).row(-1)
    columns = [pl.col(c.name).cast(POLARS_TYPES[c.type]) for c in question.columns]
    return Page(rows.select(columns), after)


def states_of(store: Store, question: Question) -> dict[str, Snapshot]:
    """The tables that a question is answered from, as they are now."""
    names = {n for t in question.tables for n in (VIEWS[t].tables if t in VIEWS else {t})}
    if READINGS.name in names:
        names.add(SERVING_READINGS.name)
    known = known_tables()
    return snapshots(store, [known[name] for name in sorted(names)])


def version_of(states: Mapping[str, Snapshot]) -> str:
    """A short word that changes whenever one of these tables does."""
    told = ",".join(f"{name}:{s.id}:{s.version}" for name, s in sorted(states.items()))
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _sql_of(
    question: Question, given: Mapping[str, Value], part: Part
) -> tuple[str, dict[str, Value]]:
    """SQL of a part of the answer, and the values that it begins after."""
    conditions = []
    for each in question.filters:
        takes_value = f"${each.name}" in each.condition
        if each.condition and (each.name in given if takes_value else not given.get(each.name)):
            conditions.append(f"({each.condition})")
    inner = question.sql.format(where=" AND ".join(conditions) or "true")
    keys = [f"_key{n}" for n in range(len(question.order))]
    if not keys:
        return inner, {}
    named = ", ".join(f"{e} AS {key}" for e, key in zip(question.order, keys, strict=True))
    sql, names, marks = f"SELECT *, {named} FROM ({inner})", ", ".join(keys), dict[str, Value]()
    if part.after is not None:
        marks = {f"_after{n}": value for n, value in enumerate(part.after)}
        after = ", ".join(f"${name}" for name in marks)
        sql = f"SELECT * FROM ({sql}) WHERE ({names}) > ({after})"
    limit = "" if part.limit is None else f" LIMIT {part.limit + 1}"
    return f"{sql} ORDER BY {names}{limit}", marks


# --- what questions are declared with

NOON = Column("noon_ms", "long", "ms", "Noon of the day, counted from 1970, for axes of charts")
PRICE = Filter("price", "double", "Price of a kWh; left out: the setting's [currency/kWh]")


def noon(day: str) -> str:
    """SQL of the column NOON: a date as a number, the same date in any zone."""
    return f"epoch_ms({day} + INTERVAL 12 HOUR)"


def of_table(
    table: Table | View, order: tuple[str, ...], *filters: Filter, name: str | None = None
) -> Question:
    """The columns of a table or view, but for those that only say where a row lies."""
    inside = table.file_columns if isinstance(table, Table) else table.columns
    columns = tuple(c for c in table.columns if c in inside or c.name == "model_name")
    chosen = ", ".join(f'"{c.name}"' for c in columns)
    return Question(
        name or table.name.replace("_", "-"),
        table.meaning,
        columns,
        (table.name,),
        f"SELECT {chosen} FROM {table.name} WHERE {{where}}",
        order,
        filters,
    )


def columns_of(table: Table | View, *names: str) -> tuple[Column, ...]:
    """Some columns of a table, in this order."""
    by_name = {c.name: c for c in table.columns}
    return tuple(by_name[name] for name in names)


def equal(name: str, meaning: str, column: str | None = None, *choices: str) -> Filter:
    """Only rows whose column is what is asked for."""
    return Filter(name, "string", meaning, f"{column or name} = ${name}", choices)


def days(column: str) -> tuple[Filter, Filter]:
    """A window of local days."""
    return (
        Filter("from", "date", "First local day", f"{column} >= $from"),
        Filter("to", "date", "Last local day, included", f"{column} <= $to"),
    )


def moments(column: str, *, date_of: str | None = None) -> tuple[Filter, Filter]:
    """A half-open window; `date_of`: a partition column that is the moment's date in UTC."""
    start, end = f"{column} >= $from", f"{column} < $to"
    if date_of is not None:
        start += f" AND {date_of} >= strftime($from::TIMESTAMPTZ, '%Y-%m-%d')"
        end += f" AND {date_of} <= strftime($to::TIMESTAMPTZ, '%Y-%m-%d')"
    return (
        Filter("from", "timestamp", "First moment, included", start),
        Filter("to", "timestamp", "End, not included", end),
    )
