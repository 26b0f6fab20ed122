"""What can be asked of the lake page by page: each listing's SQL, filters and order, as data.

The REST API and the command line ask the same listings. A page begins after the last row of the
page before, by the values that rows are ordered by, so that rows that come or go meanwhile
neither shift nor repeat any.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal

import polars as pl

from meterlake.delta.commit import snapshots
from meterlake.delta.store import Store
from meterlake.delta.table import Snapshot
from meterlake.questions.sql import answer
from meterlake.schema import (
    ANOMALIES,
    CONSUMPTION_DAILY,
    DATAFLOW_RUNS,
    LATE_ARRIVALS,
    MODELS,
    NODE_FORECASTS,
    OUTAGES,
    QUARANTINE,
    TOPOLOGY_FINDINGS,
    TRANSFORMER_LOAD,
    VOLT_VAR,
    WEATHER,
    Column,
    Table,
    View,
    known_tables,
)
from meterlake.topology.upstream import METER_TOPOLOGY, VIEWS

Value = str | int | float | bool | date | datetime
FilterType = Literal["string", "timestamp", "date", "double", "long", "boolean"]


@dataclass(frozen=True)
class Filter:
    """What rows may be asked for by: `condition` is SQL of $name.

    A condition without $name holds unless the filter is given as true.
    """

    name: str
    type: FilterType
    condition: str
    meaning: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Listing:
    """Rows that can be asked for page by page.

    `sql` has {where} for the filters' conditions; `order` are SQL expressions of its columns that
    together name a row and are never null.
    """

    name: str
    meaning: str
    columns: tuple[Column, ...]
    tables: frozenset[str]
    sql: str
    order: tuple[str, ...]
    filters: tuple[Filter, ...] = ()


@dataclass(frozen=True)
class Page:
    """Rows in order; `after` are the order's values of the last, None where no more follow."""

    rows: pl.DataFrame
    after: tuple[Value, ...] | None


def listed(
    store: Store,
    listing: Listing,
    asked: Mapping[str, Value],
    *,
    limit: int,
    after: Sequence[Value] | None = None,
    states: Mapping[str, Snapshot] | None = None,
) -> Page:
    """A page of a listing.

    Parameters
    ----------
    asked : values of filters by their names; moments aware
    after : where the page begins: `after` of the page before
    states : of the listing's tables; None: as they are now

    Raises
    ------
    BadInput
        A value does not fit the order's type.
    """
    conditions, values = [], dict[str, object]()
    for each in listing.filters:
        takes_value = f"${each.name}" in each.condition
        if takes_value and each.name in asked:
            conditions.append(each.condition)
            values[each.name] = asked[each.name]
        elif not takes_value and not asked.get(each.name, False):
            conditions.append(each.condition)
    where = " AND ".join(f"({c})" for c in conditions) or "true"
    keys = ", ".join(f"{e} AS _key{n}" for n, e in enumerate(listing.order))
    names = ", ".join(f"_key{n}" for n in range(len(listing.order)))
    begin = "true"
    if after is not None:
        marks = ", ".join(f"$_after{n}" for n in range(len(after)))
        begin = f"({names}) > ({marks})"
        values |= {f"_after{n}": value for n, value in enumerate(after)}
    inner = listing.sql.format(where=where)
    sql = (
        f"SELECT * FROM (SELECT *, {keys} FROM ({inner})) "  # noqa: S608  (of our own listings)
        f"WHERE {begin} ORDER BY {names} LIMIT {int(limit) + 1}"
    )
    found = answer(store, sql, states_of(store, listing) if states is None else states, values)
    rows = found.head(limit)
    keys_of_last = [f"_key{n}" for n in range(len(listing.order))]
    last = rows.select(keys_of_last).row(-1) if found.height > limit else None
    return Page(rows.drop(keys_of_last), last)


def states_of(store: Store, listing: Listing) -> dict[str, Snapshot]:
    """The tables that a listing is made of, as they are now."""
    known = known_tables()
    return snapshots(store, [known[name] for name in sorted(listing.tables)])


def version_of(states: Mapping[str, Snapshot]) -> str:
    """What changes whenever one of these tables does, a short word."""
    told = ",".join(f"{name}:{s.id}:{s.version}" for name, s in sorted(states.items()))
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _moments(column: str) -> tuple[Filter, Filter]:
    return (
        Filter("from", "timestamp", f"{column} >= $from", "First moment, included"),
        Filter("to", "timestamp", f"{column} < $to", "End, not included"),
    )


def _equal(name: str, meaning: str, column: str | None = None, *choices: str) -> Filter:
    return Filter(name, "string", f"{column or name} = ${name}", meaning, choices)


def _of_table(table: Table | View, order: tuple[str, ...], *filters: Filter) -> Listing:
    """A listing of a table's own columns, but for those that only say where a row lies."""
    inside = table.file_columns if isinstance(table, Table) else table.columns
    columns = tuple(c for c in table.columns if c in inside or c.name in _TOLD)
    chosen = ", ".join(f'"{c.name}"' for c in columns)
    return Listing(
        table.name.replace("_", "-"),
        table.meaning,
        columns,
        frozenset({table.name}) if isinstance(table, Table) else table.tables,
        f"SELECT {chosen} FROM {table.name} WHERE {{where}}",  # noqa: S608
        order,
        filters,
    )


_TOLD = ("model_name",)  # partition columns that no other column says
_WAY = VIEWS[METER_TOPOLOGY]
_READ_COLUMNS = (
    Column("first_day", "date", "", "First local day with energy in the lake"),
    Column("last_day", "date", "", "Last such day"),
    Column("days", "long", "d", "Number of local days with energy"),
)
_METERS = Listing(
    "meters",
    "Meters of the topology, and those with a day of readings that is over",
    (*_WAY.columns, *_READ_COLUMNS),
    frozenset({*_WAY.tables, CONSUMPTION_DAILY.name}),
    f"""
    WITH known AS (
        SELECT meter_id, min(date) AS first_day, max(date) AS last_day, count(DISTINCT date) AS days
        FROM consumption_daily WHERE reading_type = 'kw' GROUP BY meter_id
    ), met AS (
        SELECT meter_id FROM known UNION SELECT meter_id FROM {METER_TOPOLOGY}
    )
    SELECT met.meter_id, {", ".join(f"w.{c.name}" for c in _WAY.columns if c.name != "meter_id")},
        known.first_day, known.last_day, coalesce(known.days, 0) AS days
    FROM met LEFT JOIN {METER_TOPOLOGY} AS w ON w.meter_id = met.meter_id
        LEFT JOIN known ON known.meter_id = met.meter_id
    WHERE {{where}}
    """,  # noqa: S608
    ("meter_id",),
    (
        Filter(
            "search",
            "string",
            "contains(lower(met.meter_id), lower($search)) "
            "OR contains(lower(w.address), lower($search))",
            "Part of the meter's id or address",
        ),
        _equal("meter_id", "Identifier of the meter", "met.meter_id"),
        _equal("service_transformer_id", "Only meters below it", "w.service_transformer_id"),
        _equal(
            "distribution_transformer_id", "Only meters below it", "w.distribution_transformer_id"
        ),
        _equal("substation_id", "Only meters below it", "w.substation_id"),
    ),
)

_RANKING = Listing(
    "transformer-load-ranking",
    "Transformers by the hours that they are loaded beyond their rating, and by the highest load",
    (
        *(
            column
            for name in ("kind", "id", "rating_kva", "meters")
            for column in TRANSFORMER_LOAD.columns
            if column.name == name
        ),
        Column("hours", "long", "h", "Hours with a known load"),
        Column("hours_over", "long", "h", "Hours loaded beyond the rating"),
        Column("highest_percent", "double", "%", "Highest load of an hour, of the rating"),
        Column("highest_at", "timestamp", "UTC", "Start of that hour"),
        Column("mean_percent", "double", "%", "Mean load, of the rating"),
    ),
    frozenset({TRANSFORMER_LOAD.name}),
    "SELECT kind, id, arg_max(rating_kva, hour) AS rating_kva, max(meters) AS meters, "
    "count(*) AS hours, count(*) FILTER (utilisation_percent > 100) AS hours_over, "
    "max(utilisation_percent) AS highest_percent, "
    "first(hour ORDER BY utilisation_percent DESC, hour) AS highest_at, "
    # In whole parts of a million: the sum of doubles depends on who adds first.
    "sum((utilisation_percent * 1e6)::BIGINT) / 1e6 / count(*) AS mean_percent "
    "FROM transformer_load "
    "WHERE utilisation_percent IS NOT NULL AND {where} GROUP BY kind, id",
    ("-hours_over", "-highest_percent", "kind", "id"),
    _moments("hour"),
)

LISTINGS: dict[str, Listing] = {
    listing.name: listing
    for listing in (
        _METERS,
        _of_table(
            ANOMALIES,
            ("ds", "meter_id"),
            _equal("meter_id", "Identifier of the meter"),
            Filter("from", "date", "ds >= $from", "First local day"),
            Filter("to", "date", "ds <= $to", "Last local day, included"),
            _equal("kind", "Only this kind", None, "spike", "dip", "zero", "stuck", "step change"),
            Filter("min_importance", "double", "importance >= $min_importance", "At least, 0 to 1"),
            Filter("include_normal", "boolean", "anomaly <> 0", "Also the days that are usual"),
        ),
        _of_table(
            OUTAGES,
            ("start", "level", "id"),
            Filter("from", "timestamp", '"end" > $from', "Only those that end after it"),
            Filter("to", "timestamp", "start < $to", "Only those that start before it"),
            _equal("level", "Kind of what is out: a kind of node, or meter"),
            _equal("id", "Identifier of what is out"),
            Filter(
                "include_parts",
                "boolean",
                "part_of IS NULL",
                "Also what is out because something above it is",
            ),
        ),
        _of_table(
            VOLT_VAR,
            ("hour", "distribution_transformer_id"),
            *_moments("hour"),
            _equal("distribution_transformer_id", "Identifier of the transformer"),
        ),
        _of_table(
            TRANSFORMER_LOAD,
            ("hour", "kind", "id"),
            *_moments("hour"),
            _equal("kind", "Kind of transformer"),
            _equal("id", "Identifier of the transformer"),
        ),
        _RANKING,
        _of_table(
            LATE_ARRIVALS,
            ("detected_at", "reading_type", "reading_hour", "source_file", "staging_version"),
            *_moments("reading_hour"),
            _equal("reading_type", "Only readings of this type"),
            _equal("source_file", "Only of this delivered file"),
        ),
        _of_table(
            QUARANTINE,
            ("received_at", "source_sha256", "source_row", "reason"),
            *_moments("received_at"),
            _equal("source_file", "Only of this delivered file"),
        ),
        _of_table(
            WEATHER,
            ("time", "station_id"),
            *_moments("time"),
            _equal("station_id", "Identifier of the station"),
        ),
        _of_table(
            NODE_FORECASTS,
            ("forecast_start", "kind", "id", "date_time"),
            *_moments("date_time"),
            _equal("kind", "Kind of node"),
            _equal("id", "Identifier of the node"),
            _equal("model_name", "Name of the model"),
        ),
        _of_table(MODELS, ("created_at", "name"), _equal("name", "Name of the model")),
        _of_table(
            DATAFLOW_RUNS,
            ("started_at", "run_id"),
            *_moments("started_at"),
            _equal("dataflow", "Name of the dataflow"),
            _equal("outcome", "How it ended", None, "succeeded", "failed"),
        ),
        _of_table(
            TOPOLOGY_FINDINGS,
            ("kind", "id", "finding", "valid_from", "detail"),
            _equal("kind", "Kind of node"),
            _equal("id", "Identifier of the node"),
        ),
    )
}
