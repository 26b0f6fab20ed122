"""Every table's columns and every reading type, declared once, as data.

The data dictionary, the catalog, the API's field texts and axis labels come from here.
Times are UTC with microseconds; partition columns are zero-padded strings in UTC.
"""

from functools import cache
from importlib.metadata import entry_points

from meterlake.errors import BadInput
from meterlake.schema.dataflows import (
    CLAIMS,
    DATAFLOW_RUNS,
    DISTRIBUTION_TRANSFORMER,
    LOCATION,
    POWER_GRID,
    SERVICE_TRANSFORMER,
    SMART_METER,
    SUBSTATION,
    TOPOLOGY,
    TOPOLOGY_FINDINGS,
    VOLTAGE_CONTROL_ZONE,
    WEATHER,
)
from meterlake.schema.grid import METER_SUPPLY, OUTAGES, TRANSFORMER_LOAD, VOLT_VAR
from meterlake.schema.ml import ANOMALIES, FORECASTS, MODELS, NODE_FORECASTS
from meterlake.schema.port import POLARS_TYPES, Column, ColumnType, Table, polars_schema
from meterlake.schema.pull import INTEGRATIONS, TAKEN_FILES
from meterlake.schema.readings import (
    BATCH_SOURCE,
    CONSUMPTION_DAILY,
    CONSUMPTION_MONTHLY,
    CONSUMPTION_WEEKLY,
    LATE_ARRIVALS,
    POWER_TYPES,
    QUARANTINE,
    READING_TYPES,
    READINGS,
    SERVING_READINGS,
    STAGING,
    ReadingType,
)

__all__ = [
    "ANOMALIES",
    "BATCH_SOURCE",
    "CLAIMS",
    "CONSUMPTION_DAILY",
    "CONSUMPTION_MONTHLY",
    "CONSUMPTION_WEEKLY",
    "DATAFLOWS",
    "DATAFLOW_RUNS",
    "DISTRIBUTION_TRANSFORMER",
    "FORECASTS",
    "INTEGRATIONS",
    "LATE_ARRIVALS",
    "LOCATION",
    "METER_SUPPLY",
    "MODELS",
    "NODE_FORECASTS",
    "OUTAGES",
    "POLARS_TYPES",
    "POWER_GRID",
    "POWER_TYPES",
    "QUARANTINE",
    "READINGS",
    "READING_TYPES",
    "SERVICE_TRANSFORMER",
    "SERVING_READINGS",
    "SMART_METER",
    "STAGING",
    "SUBSTATION",
    "TABLES",
    "TAKEN_FILES",
    "TOPOLOGY",
    "TOPOLOGY_FINDINGS",
    "TRANSFORMER_LOAD",
    "VOLTAGE_CONTROL_ZONE",
    "VOLT_VAR",
    "WEATHER",
    "Column",
    "ColumnType",
    "ReadingType",
    "Table",
    "known_tables",
    "polars_schema",
]

DATAFLOWS = "meterlake.dataflows"  # entry points of dataflows, which bring tables of their own

TABLES: dict[str, Table] = {
    t.name: t
    for t in (  # each after what it is derived from
        STAGING,
        QUARANTINE,
        READINGS,
        LATE_ARRIVALS,
        SERVING_READINGS,
        CONSUMPTION_DAILY,
        CONSUMPTION_WEEKLY,
        CONSUMPTION_MONTHLY,
        WEATHER,
        *TOPOLOGY.values(),
        TOPOLOGY_FINDINGS,
        DATAFLOW_RUNS,
        CLAIMS,
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
    """Our tables, and those of the dataflows of installed packages, by name.

    Raises
    ------
    BadInput
        A package cannot be imported, or its table takes a name or a path that there is already.
    """
    known = dict(TABLES)
    for point in entry_points(group=DATAFLOWS):
        try:
            tables = point.load().tables
        except Exception as error:
            raise BadInput(
                f"Dataflow '{point.name}' ({point.value}) needs to be an object with tables; it "
                f"cannot be loaded: {error}. Mend or uninstall its package"
            ) from error
        for table in tables:
            taken = {t.name for t in known.values()} | {t.path for t in known.values()}
            if {table.name, table.path} & taken or not table.path.startswith("integrated/"):
                raise BadInput(
                    f"Table '{table.name}' of dataflow '{point.name}' needs a name of its own and "
                    f"a path of its own below integrated/; found '{table.path}'"
                )
            known[table.name] = table
    return known
