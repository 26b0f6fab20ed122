"""Questions about anomalous days: how many, the worst, and whose."""

from meterlake.questions.question import (
    NOON,
    PRICE,
    Filter,
    Question,
    columns_of,
    days,
    equal,
    noon,
)
from meterlake.schema import ANOMALIES, Column
from meterlake.topology.upstream import METER_TOPOLOGY, VIEWS

_METER = equal("meter_id", "Only of this meter")
_SEARCH = Filter(
    "search",
    "string",
    "Part of the meter's id or address",
    "contains(lower(meter_id), lower($search)) OR meter_id IN "
    "(SELECT meter_id FROM meter_topology WHERE contains(lower(address), lower($search)))",
)
_KINDS = ("spike", "dip", "zero", "stuck", "step change")
_ABOVE, _BELOW = (
    f"FILTER (anomaly = {sign} AND ($kind IS NULL OR kind = $kind))" for sign in (1, -1)
)
_WAY = {c.name: c for c in VIEWS[METER_TOPOLOGY].columns}

QUESTIONS = (
    Question(
        "anomalies-span",
        "The first and the last local day that was judged",
        (
            Column("first", "date", "", "First judged local day"),
            Column("last", "date", "", "Last judged local day"),
        ),
        (ANOMALIES.name,),
        "SELECT min(ds) AS first, max(ds) AS last FROM anomalies",
    ),
    Question(
        "anomaly-counts",
        "How many judged days are above or below what was expected, and by how much energy",
        (
            Column("period", "string", "", "Month or weekday; null: in all"),
            Column("judged", "long", "d", "Judged days of meters"),
            Column("above", "long", "d", "Days above what was expected"),
            Column("below", "long", "d", "Days below what was expected"),
            Column("above_kwh", "double", "kWh", "Energy above what was expected"),
            Column("below_kwh", "double", "kWh", "Energy below what was expected, negative"),
            Column("above_cost", "double", "currency", "What the energy above costs"),
            Column("below_cost", "double", "currency", "What the energy below saves"),
            Column("mean_above_kwh", "double", "kWh", "Energy of a day above, on average"),
            Column("mean_below_kwh", "double", "kWh", "Energy of a day below, on average"),
            Column("mean_usual_kwh", "double", "kWh", "Energy of any other day, on average"),
        ),
        (ANOMALIES.name, METER_TOPOLOGY),
        f"""
        SELECT CASE $by WHEN 'month' THEN strftime(ds, '%Y-%m')
                WHEN 'weekday' THEN strftime(ds, '%a') END AS period,
            CASE $by WHEN 'weekday' THEN isodow(ds) ELSE 0 END AS number,
            count(*) AS judged, count(*) {_ABOVE} AS above, count(*) {_BELOW} AS below,
            coalesce(sum(consumption - yhat) {_ABOVE}, 0) AS above_kwh,
            coalesce(sum(consumption - yhat) {_BELOW}, 0) AS below_kwh,
            above_kwh * $price AS above_cost, -below_kwh * $price AS below_cost,
            avg(consumption) {_ABOVE} AS mean_above_kwh,
            avg(consumption) {_BELOW} AS mean_below_kwh,
            avg(consumption) FILTER (anomaly = 0) AS mean_usual_kwh
        FROM anomalies WHERE {{where}} GROUP BY period, number
        """,
        ("number", "coalesce(period, '')"),
        (
            *days("ds"),
            _METER,
            _SEARCH,
            Filter("kind", "string", "Count anomalous days of this kind alone", choices=_KINDS),
            Filter(
                "by",
                "string",
                "Apart for each month or weekday; left out: in all",
                choices=("month", "weekday"),
            ),
            PRICE,
        ),
    ),
    Question(
        "anomalies-per-month",
        "Anomalous days per month in which days were judged: of one meter, and on average",
        (
            Column("dips", "double", "d", "Days of the meter below what was expected, per month"),
            Column("spikes", "double", "d", "Days of the meter above what was expected, per month"),
            Column("all_dips", "double", "d", "Those below of a meter on average, per month"),
            Column("all_spikes", "double", "d", "Those above of a meter on average, per month"),
        ),
        (ANOMALIES.name,),
        """
        SELECT
            count(*) FILTER (anomaly = -1 AND is_it) / nullif(count(DISTINCT month)
                FILTER (is_it), 0) AS dips,
            count(*) FILTER (anomaly = 1 AND is_it) / nullif(count(DISTINCT month)
                FILTER (is_it), 0) AS spikes,
            count(*) FILTER (anomaly = -1) / nullif(count(DISTINCT (meter_id, month)), 0)
                AS all_dips,
            count(*) FILTER (anomaly = 1) / nullif(count(DISTINCT (meter_id, month)), 0)
                AS all_spikes
        FROM (SELECT meter_id, anomaly, date_trunc('month', ds) AS month,
            meter_id = $meter_id AS is_it FROM anomalies WHERE {where})
        """,
        filters=(*days("ds"), Filter("meter_id", "string", "The meter")),
    ),
    Question(
        "worst-anomalies",
        "Anomalous days, the most important first",
        (
            *columns_of(
                ANOMALIES,
                "meter_id",
                "ds",
                "kind",
                "anomaly",
                "consumption",
                "yhat",
                "yhat_lower",
                "yhat_upper",
                "importance",
                "model",
            ),
            Column("beyond_kwh", "double", "kWh", "Energy beyond what was expected"),
            Column("cost", "double", "currency", "What that energy costs"),
            _WAY["service_transformer_id"],
            _WAY["distribution_transformer_id"],
            _WAY["address"],
        ),
        (ANOMALIES.name, METER_TOPOLOGY),
        """
        SELECT odd.*, consumption - yhat AS beyond_kwh, (consumption - yhat) * $price AS cost,
            service_transformer_id, distribution_transformer_id, address
        FROM (SELECT * FROM anomalies WHERE anomaly <> 0 AND {where}) AS odd
            LEFT JOIN meter_topology USING (meter_id)
        """,
        (
            "-coalesce(importance, '-infinity')",
            "-coalesce(abs(beyond_kwh), 0)",
            "DATE '2000-01-01' - ds",
            "meter_id",
        ),
        (
            *days("ds"),
            _METER,
            _SEARCH,
            equal("kind", "Only this kind", None, *_KINDS),
            PRICE,
        ),
    ),
    Question(
        "anomaly-band",
        "Energy of each judged day, the band that was expected, and the anomalous days apart",
        (
            *columns_of(ANOMALIES, "meter_id", "ds"),
            NOON,
            *columns_of(ANOMALIES, "consumption", "yhat_lower", "yhat_upper"),
            Column("dip", "double", "kWh", "Energy where it is below the band"),
            Column("spike", "double", "kWh", "Energy where it is above the band"),
        ),
        (ANOMALIES.name,),
        f"""
        SELECT meter_id, ds, {noon("ds")} AS noon_ms, consumption, yhat_lower, yhat_upper,
            CASE WHEN anomaly = -1 THEN consumption END AS dip,
            CASE WHEN anomaly = 1 THEN consumption END AS spike
        FROM anomalies WHERE {{where}}
        """,
        ("ds", "meter_id"),
        (*days("ds"), _METER),
    ),
    Question(
        "anomalies-by-meter",
        "Meters whose days were judged: those with dips and spikes first, then those with most",
        (
            Column("meter_id", "string", "", "Identifier of the meter"),
            Column("judged", "long", "d", "Judged days"),
            Column("above", "long", "d", "Days above what was expected"),
            Column("below", "long", "d", "Days below what was expected"),
        ),
        (ANOMALIES.name,),
        """
        SELECT meter_id, count(*) AS judged, count(*) FILTER (anomaly = 1) AS above,
            count(*) FILTER (anomaly = -1) AS below
        FROM anomalies WHERE {where} GROUP BY meter_id
        """,
        ("-(above > 0)::INT - (below > 0)::INT", "-(above + below)", "meter_id"),
        days("ds"),
    ),
)
