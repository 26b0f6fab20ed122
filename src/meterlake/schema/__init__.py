"""The schema: every table, column and reading type, declared once as data.

The data dictionary, the catalog, the API's field texts and axis labels come from here.
Times are UTC with microseconds; partition columns are zero-padded strings in UTC.
"""

from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from meterlake.errors import BadInput
from meterlake.schema.dataflows import DATAFLOW_RUNS, WEATHER
from meterlake.schema.grid import METER_SUPPLY, OUTAGES, TRANSFORMER_LOAD, VOLT_VAR
from meterlake.schema.ml import ANOMALIES, FORECASTS, MODELS, NODE_FORECASTS
from meterlake.schema.port import POLARS_TYPES, Column, ColumnType, Table, View, polars_schema
from meterlake.schema.pull import INTEGRATIONS, TAKEN_FILES
from meterlake.schema.readings import (
    BATCH_SOURCE,
    CONSUMPTION_DAILY,
    CONSUMPTION_MONTHLY,
    CONSUMPTION_WEEKLY,
    DELIVERIES,
    LATE_ARRIVALS,
    POWER_TYPES,
    QUARANTINE,
    READING_TYPES,
    READINGS,
    SERVING_READINGS,
    STAGING,
    STATUSES,
    TOTAL,
    LengthSource,
    ReadingType,
    Status,
)
from meterlake.schema.topology import FINDING, KINDS, TOPOLOGY, TOPOLOGY_FINDINGS

__all__ = [
    "ANOMALIES",
    "BATCH_SOURCE",
    "CONSUMPTION_DAILY",
    "CONSUMPTION_MONTHLY",
    "CONSUMPTION_WEEKLY",
    "DATAFLOWS",
    "DATAFLOW_RUNS",
    "DELIVERIES",
    "DERIVATIONS",
    "FINDING",
    "FORECASTS",
    "INTEGRATIONS",
    "KINDS",
    "LATE_ARRIVALS",
    "METER_SUPPLY",
    "MODELS",
    "NODE_FORECASTS",
    "OUTAGES",
    "POLARS_TYPES",
    "POWER_TYPES",
    "QUARANTINE",
    "READINGS",
    "READING_TYPES",
    "SERVING_READINGS",
    "STAGING",
    "STATUSES",
    "TABLES",
    "TAKEN_FILES",
    "TOPOLOGY",
    "TOPOLOGY_FINDINGS",
    "TOTAL",
    "TRANSFORMER_LOAD",
    "VOLT_VAR",
    "WEATHER",
    "Column",
    "ColumnType",
    "LengthSource",
    "ReadingType",
    "Status",
    "Table",
    "View",
    "known_tables",
    "polars_schema",
]

DATAFLOWS = "meterlake.dataflows"  # entry points of dataflows, which bring tables of their own
DERIVATIONS = "meterlake.derivations"  # entry points of derivations, each with a table of its own

_BRING_TABLES: dict[str, tuple[str, Callable[[Any], tuple[Table, ...]], str]] = {
    DATAFLOWS: ("Dataflow", lambda found: tuple(found.tables), "integrated/"),
    DERIVATIONS: ("Derivation", lambda found: (found.table, *found.also), "derived/"),
}

TABLES: dict[str, Table] = {
    t.name: t
    for t in (  # each after what it is derived from
        STAGING,
        QUARANTINE,
        DELIVERIES,
        READINGS,
        LATE_ARRIVALS,
        SERVING_READINGS,
        CONSUMPTION_DAILY,
        CONSUMPTION_WEEKLY,
        CONSUMPTION_MONTHLY,
        WEATHER,
        TOPOLOGY,
        DATAFLOW_RUNS,
        INTEGRATIONS,
        TAKEN_FILES,
        VOLT_VAR,
        TRANSFORMER_LOAD,
        METER_SUPPLY,
        OUTAGES,
        MODELS,
        FORECASTS,
        NODE_FORECASTS,
        ANOMALIES,
    )
}


@cache
def known_tables() -> dict[str, Table]:
    """Our tables, and those of the dataflows and derivations of installed packages, by name.

    Raises
    ------
    BadInput
        A package cannot be imported, or its table takes a name or a path that there is already.
    """
    known = dict(TABLES)
    for group, (kind, tables_of, folder) in _BRING_TABLES.items():
        for point in entry_points(group=group):
            try:
                tables = tables_of(point.load())
            except Exception as error:
                raise BadInput(
                    f"{kind} '{point.name}' ({point.value}) needs to be an object with tables; it "
                    f"cannot be loaded: {error}. Correct or uninstall its package"
                ) from error
            for table in tables:
                taken = {t.name for t in known.values()} | {t.path for t in known.values()}
                taken |= {*KINDS, TOPOLOGY_FINDINGS.name}
                if {table.name, table.path} & taken or not table.path.startswith(folder):
                    raise BadInput(
                        f"Table '{table.name}' of {kind.lower()} '{point.name}' needs a name of "
                        f"its own and a path of its own below {folder}; found '{table.path}'"
                    )
                known[table.name] = table
    return known
