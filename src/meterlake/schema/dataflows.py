"""The tables that dataflows bring: weather, and the record of their runs."""

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
        Column("message", "string", "", "Why it failed; warnings"),
        Column("run_month", "string", "", "UTC month of started_at, YYYY-MM"),
    ),
    partitioned_by=("run_month",),
    time_column="started_at",
)
