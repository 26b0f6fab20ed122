"""Tables page by page: the questions that list one table, by its columns."""

from meterlake.questions.question import Filter, days, equal, moments, of_table
from meterlake.schema import (
    ANOMALIES,
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
)

_SOURCE_FILE = equal("source_file", "Only of this delivered file")
_RUNS = (
    *moments("started_at"),
    equal("dataflow", "Name of the dataflow"),
    equal("outcome", "How it ended", None, "succeeded", "failed"),
)
_QUARANTINED = (*moments("received_at"), _SOURCE_FILE)

QUESTIONS = (
    of_table(
        ANOMALIES,
        ("ds", "meter_id"),
        equal("meter_id", "Identifier of the meter"),
        *days("ds"),
        equal("kind", "Only this kind", None, "spike", "dip", "zero", "stuck", "step change"),
        Filter("min_importance", "double", "At least, 0 to 1", "importance >= $min_importance"),
        Filter("include_normal", "boolean", "Also the days that are usual", "anomaly <> 0"),
    ),
    of_table(
        OUTAGES,
        ("start", "level", "id"),
        Filter("from", "timestamp", "Only those that end after it", '"end" > $from'),
        Filter("to", "timestamp", "Only those that start before it", "start < $to"),
        equal("level", "Kind of what is out: a kind of node, or meter"),
        equal("id", "Identifier of what is out"),
        Filter(
            "include_parts",
            "boolean",
            "Also what is out because something above it is",
            "part_of IS NULL",
        ),
    ),
    of_table(
        VOLT_VAR,
        ("hour", "distribution_transformer_id"),
        *moments("hour", date_of="date"),
        equal("distribution_transformer_id", "Identifier of the transformer"),
    ),
    of_table(
        TRANSFORMER_LOAD,
        ("hour", "kind", "id"),
        *moments("hour", date_of="date"),
        equal("kind", "Kind of transformer"),
        equal("id", "Identifier of the transformer"),
    ),
    of_table(
        LATE_ARRIVALS,
        ("detected_at", "reading_type", "reading_hour", "source_file", "staging_version"),
        *moments("reading_hour"),
        equal("reading_type", "Only readings of this type"),
        _SOURCE_FILE,
    ),
    of_table(QUARANTINE, ("received_at", "source_sha256", "source_row", "reason"), *_QUARANTINED),
    of_table(
        QUARANTINE,
        ("-epoch_us(received_at)", "source_file", "source_row", "source_sha256", "reason"),
        *_QUARANTINED,
        name="newest-quarantine",
    ),
    of_table(
        WEATHER,
        ("time", "station_id"),
        *moments("time"),
        equal("station_id", "Identifier of the station"),
    ),
    of_table(
        NODE_FORECASTS,
        ("forecast_start", "kind", "id", "date_time"),
        *moments("date_time"),
        equal("kind", "Kind of node"),
        equal("id", "Identifier of the node"),
        equal("model_name", "Name of the model"),
    ),
    of_table(MODELS, ("created_at", "name"), equal("name", "Name of the model")),
    of_table(DATAFLOW_RUNS, ("started_at", "run_id"), *_RUNS),
    of_table(
        DATAFLOW_RUNS, ("-epoch_us(started_at)", "run_id"), *_RUNS, name="newest-dataflow-runs"
    ),
    of_table(
        TOPOLOGY_FINDINGS,
        ("kind", "id", "finding", "valid_from", "detail"),
        equal("kind", "Kind of node"),
        equal("id", "Identifier of the node"),
    ),
)
