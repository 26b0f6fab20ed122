"""The tables that dataflows bring: weather, the grid's topology, what ran when, what runs."""

from meterlake.schema.port import Column, Table

WEATHER = Table(
    name="weather",
    path="integrated/weather",
    meaning="Hourly observations, one row per station and hour",
    columns=(
        Column("station_id", "string", "", "Identifier of the weather station"),
        Column("time", "timestamp", "UTC", "Start of the hour"),
        Column("temperature", "double", "°C", "Air temperature"),
        Column("dew_point", "double", "°C", "Dew point"),
        Column("relative_humidity", "double", "%", "Relative humidity"),
        Column("precipitation", "double", "mm", "Precipitation of the hour"),
        Column("snow_depth", "double", "mm", "Depth of snow on the ground"),
        Column("wind_direction", "double", "°", "Direction that the wind comes from, from north"),
        Column("wind_speed", "double", "km/h", "Mean speed of the wind"),
        Column("wind_gust", "double", "km/h", "Strongest gust"),
        Column("sealevel_air_pressure", "double", "hPa", "Air pressure, reduced to sea level"),
        Column("sunshine_hours", "double", "h", "Sunshine of the hour, 0 to 1"),
        Column("weather_condition_code", "long", "", "Meteostat's code of the weather, 1 to 27"),
        Column("date", "string", "", "UTC date of the hour, YYYY-MM-DD"),
    ),
    partitioned_by=("date",),
    time_column="time",
    sorted_by=("station_id", "time"),
)

_ID = Column("id", "string", "", "Identifier of the node, unique within its kind")
_NAME = Column("name", "string", "", "Name of the node, for people")
_STATUS = Column("status", "string", "", "State of the node, as delivered")
_LOCATION_ID = Column("location_id", "string", "", "Where it stands: a location's id")
_CAPACITY = (
    Column("capacity", "string", "", "Rating as delivered, such as 100kva or 40MVA"),
    Column("capacity_kva", "double", "kVA", "Rating: apparent power that it may always carry"),
)
_VALIDITY = (
    Column("valid_from", "timestamp", "UTC", "Since when the row holds; 1970: since ever"),
    Column("valid_to", "timestamp", "UTC", "Until when, not included; null: it still holds"),
)


def _kind(name: str, meaning: str, *columns: Column) -> Table:
    """The table of a kind of node, as it was and is."""
    return Table(
        name=name,
        path=f"integrated/topology/{name}",
        meaning=meaning,
        columns=(_ID, *columns, *_VALIDITY),
        partitioned_by=(),
        time_column="valid_from",
        sorted_by=("id", "valid_from"),
    )


POWER_GRID = _kind("power_grid", "Grids", _NAME, _STATUS)
SUBSTATION = _kind(
    "substation",
    "Substations, which feed distribution transformers",
    _NAME,
    _STATUS,
    Column("grid_id", "string", "", "The grid that it belongs to"),
    _LOCATION_ID,
)
VOLTAGE_CONTROL_ZONE = _kind(
    "voltage_control_zone", "Zones whose voltage is controlled together", _NAME
)
DISTRIBUTION_TRANSFORMER = _kind(
    "distribution_transformer",
    "Transformers that feed service transformers",
    Column("substation_id", "string", "", "The substation that feeds it"),
    _STATUS,
    *_CAPACITY,
    _LOCATION_ID,
    Column("voltage_control_zone_id", "string", "", "The zone that it belongs to"),
)
SERVICE_TRANSFORMER = _kind(
    "service_transformer",
    "The last transformers before the customers",
    Column("distribution_transformer_id", "string", "", "The transformer that feeds it"),
    _LOCATION_ID,
    *_CAPACITY,
)
SMART_METER = _kind(
    "smart_meter",
    "Meters, and the transformer that each hangs on; id is the readings' meter_id",
    _LOCATION_ID,
    Column("service_transformer_id", "string", "", "The transformer that feeds it"),
)
LOCATION = _kind(
    "location",
    "Places",
    Column("latitude", "double", "°", "Degrees north (WGS 84)"),
    Column("longitude", "double", "°", "Degrees east (WGS 84)"),
    Column("address", "string", "", "Postal address"),
    Column("location_type", "string", "", "What stands there, as delivered"),
)

TOPOLOGY: dict[str, Table] = {  # from the top down, and where things are
    t.name: t
    for t in (
        POWER_GRID,
        SUBSTATION,
        VOLTAGE_CONTROL_ZONE,
        DISTRIBUTION_TRANSFORMER,
        SERVICE_TRANSFORMER,
        SMART_METER,
        LOCATION,
    )
}

TOPOLOGY_FINDINGS = Table(
    name="topology_findings",
    path="integrated/topology_findings",
    meaning="What is odd about the topology that was delivered; it was loaded all the same",
    columns=(
        Column("kind", "string", "", "Kind of node: the name of its table"),
        _ID,
        Column("finding", "string", "", "What is odd: one of a few words"),
        Column("detail", "string", "", "What was found"),
        *_VALIDITY,
    ),
    partitioned_by=(),
    time_column="valid_from",
    sorted_by=("kind", "id", "finding", "detail", "valid_from"),
)

DATAFLOW_RUNS = Table(
    name="dataflow_runs",
    path="integrated/dataflow_runs",
    meaning="Every run of a dataflow: when, what, and how it ended",
    columns=(
        Column("run_id", "string", "", "Identifier of the run"),
        Column("dataflow", "string", "", "Name of the dataflow"),
        Column("started_at", "timestamp", "UTC", "When the run began"),
        Column("seconds", "double", "s", "How long it took, pauses included"),
        Column("window_start", "timestamp", "UTC", "Start of what was to be loaded; null: a state"),
        Column("window_end", "timestamp", "UTC", "Its end, not included; the moment of a state"),
        Column("source", "string", "", "Where it was loaded from, without secrets"),
        Column("rows", "long", "", "Rows that the source had"),
        Column("added", "long", "", "Rows that are new in the tables"),
        Column("changed", "long", "", "Rows that replaced others"),
        Column("ended", "long", "", "Rows that no longer hold, of tables with validity"),
        Column("attempts", "long", "", "How often loading was tried"),
        Column("outcome", "string", "", "succeeded or failed"),
        Column("message", "string", "", "Why it failed; what was odd"),
        Column("run_month", "string", "", "UTC month of started_at, YYYY-MM"),
    ),
    partitioned_by=("run_month",),
    time_column="started_at",
)

CLAIMS = Table(
    name="claims",
    path="integrated/claims",
    meaning="What only one process at a time may do, while one does it",
    columns=(
        Column("name", "string", "", "What is done, such as dataflow/topology"),
        Column("holder", "string", "", "Identifier of the run that does it"),
        Column("host", "string", "", "Name of the machine that it runs on"),
        Column("process", "long", "", "Number of its process there"),
        Column("until", "timestamp", "UTC", "When others may take over; past: it was cut off"),
    ),
    partitioned_by=(),
    time_column="until",
    sorted_by=("name",),
)
