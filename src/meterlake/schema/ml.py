"""The tables of models, forecasts and anomalies."""

from meterlake.schema.port import Column, Table

_MODEL = Column("model_name", "string", "", "Name of the model")
_START = Column("start", "string", "", "forecast_start, repeated as yyyyMMddHHmmss in UTC")
_FORECAST_START = Column("forecast_start", "timestamp", "UTC", "Hour at which the forecast begins")
_DATE_TIME = Column("date_time", "timestamp", "UTC", "Start of the hour that is forecast")
_BAND = (
    Column("mean", "double", "kWh", "Expected energy of the hour; negative is export"),
    Column("p10", "double", "kWh", "Energy that one hour in ten stays below"),
    Column("p50", "double", "kWh", "Median of the energy"),
    Column("p90", "double", "kWh", "Energy that one hour in ten goes beyond"),
)

MODELS = Table(
    name="models",
    path="ml/models",
    meaning="Every model that was trained; the one chosen last is current",
    columns=(
        Column("name", "string", "", "Name of the model, and of its folder in ml/models/"),
        Column("created_at", "timestamp", "UTC", "When it was trained"),
        Column("chosen_at", "timestamp", "UTC", "When it became current; null: it never did"),
        Column("trained_from", "timestamp", "UTC", "Start of the readings that it saw"),
        Column("trained_until", "timestamp", "UTC", "End of them, not included"),
        Column("meters", "long", "", "Number of meters that it saw"),
        Column(
            "rows",
            "long",
            "",
            "Number of rows that it learnt from: hours, each as seen from an origin before it",
        ),
        Column("held_out_weeks", "long", "", "Last weeks, kept back to calibrate and score it"),
        Column("wql", "double", "1", "Weighted quantile loss on those weeks"),
        Column("nd", "double", "1", "Absolute error of the median by energy, on those weeks"),
        Column("coverage", "double", "1", "Share of those hours in the band from p10 to p90"),
        Column(
            "wql_before",
            "double",
            "1",
            "wql of the model then current, on the weeks that both were compared on",
        ),
        Column("readings_version", "long", "", "Version of the readings that it was trained on"),
        Column("code_version", "string", "", "Version of meterlake that trained it"),
        Column("card_sha256", "string", "", "SHA-256 of its card.json"),
    ),
    partitioned_by=(),
    time_column="created_at",
    sorted_by=("name",),
    folder_column="name",
)

FORECASTS = Table(
    name="forecasts",
    path="ml/forecasts",
    meaning="Energy of each meter and hour as a model expects it",
    columns=(
        Column("meter_id", "string", "", "Identifier of the meter, as delivered"),
        _FORECAST_START,
        _DATE_TIME,
        *_BAND,
        _MODEL,
        _START,
    ),
    partitioned_by=("model_name", "start"),
    time_column="date_time",
    sorted_by=("meter_id", "date_time"),
    ranged_by="meter_id",
)

NODE_FORECASTS = Table(
    name="node_forecasts",
    path="ml/node_forecasts",
    meaning="Energy of all meters below a transformer or substation as a model expects it",
    columns=(
        Column("kind", "string", "", "Kind of node: distribution_transformer or substation"),
        Column("id", "string", "", "Identifier of the node"),
        _FORECAST_START,
        _DATE_TIME,
        Column("meters", "long", "", "Number of meters below it that have a forecast"),
        *_BAND,
        _MODEL,
        _START,
    ),
    partitioned_by=("model_name", "start"),
    time_column="date_time",
    sorted_by=("kind", "id", "date_time"),
)

ANOMALIES = Table(
    name="anomalies",
    path="ml/anomalies",
    meaning="Energy of each meter and local day, judged by the days before it",
    columns=(
        Column("meter_id", "string", "", "Identifier of the meter, as delivered"),
        Column("ds", "date", "", "Local day"),
        Column("day_start", "timestamp", "UTC", "When the day begins in the lake's time zone"),
        Column("consumption", "double", "kWh", "Energy of the day; negative is export"),
        Column("yhat", "double", "kWh", "Energy expected from the preceding days"),
        Column("yhat_lower", "double", "kWh", "Lower end of the band that 98 % of days lie in"),
        Column("yhat_upper", "double", "kWh", "Upper end of that band"),
        Column("anomaly", "long", "", "-1: below the band, 1: above it, 0: in it"),
        Column("importance", "double", "1", "0 in the band, towards 1 the further beyond it"),
        Column("kind", "string", "", "spike, dip, zero, stuck or step change; null: no anomaly"),
        Column("model", "string", "", "Name of the band that judged it"),
        Column("year", "string", "", "Year of the day, 4 digits"),
        Column("month", "string", "", "Month of the day, 01 to 12"),
    ),
    partitioned_by=("year", "month"),
    time_column="day_start",
    sorted_by=("meter_id", "ds"),
)
