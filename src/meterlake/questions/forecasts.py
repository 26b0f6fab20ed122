"""Questions of forecasts: what comes, beside what was."""

from meterlake.questions.question import PRICE, Filter, Question, columns_of, days, equal, moments
from meterlake.schema import (
    CONSUMPTION_DAILY,
    CONSUMPTION_WEEKLY,
    FORECASTS,
    NODE_FORECASTS,
    READINGS,
    Column,
)

_ONE = Filter("meter_id", "string", "The meter")
_OF_ONE = "meter_id = $meter_id"
_STORED = (
    equal("model_name", "Name of the model"),
    Filter(
        "forecast_start",
        "timestamp",
        "First hour of the forecast",
        "start = strftime($forecast_start::TIMESTAMPTZ, '%Y%m%d%H%M%S')",
    ),
)
# Of several models that begin at once the last made.
_LATEST = f"""
latest AS (
    SELECT date_time, mean, p10, p90 FROM forecasts
    WHERE {_OF_ONE} AND forecast_start = (SELECT max(forecast_start) FROM forecasts
        WHERE {_OF_ONE})
    QUALIFY model_name = max(model_name) OVER ()
)
"""
_HOURLY = f"""
    SELECT time_bucket(INTERVAL 1 HOUR, reading_date_time) AS moment, avg(reading_value) AS kwh
    FROM readings WHERE {_OF_ONE} AND reading_type = 'kw' AND channel = 'total' AND {{where}}
    GROUP BY moment
"""
_BEFORE = Column("before_kwh", "double", "kWh", "Energy of an average week before")
_MEAN = Column("mean", "double", "kWh", "Expected energy of the hour")

QUESTIONS = (
    Question(
        "forecast-starts",
        "When the stored forecasts begin, the newest first",
        columns_of(FORECASTS, "model_name", "forecast_start"),
        (FORECASTS.name,),
        """
        SELECT DISTINCT model_name,
            timezone('UTC', strptime(start, '%Y%m%d%H%M%S')) AS forecast_start
        FROM forecasts WHERE {where}
        """,
        ("-epoch_us(forecast_start)", "model_name"),
        _STORED[:1],
    ),
    Question(
        "forecasts-by-meter",
        "Meters that the newest forecast is of, and what they will take",
        (
            Column("meter_id", "string", "", "Identifier of the meter"),
            Column("hours", "long", "h", "Hours of the forecast"),
            Column("energy_kwh", "double", "kWh", "Expected energy of all hours"),
        ),
        (FORECASTS.name,),
        """
        SELECT meter_id, count(*) AS hours, sum(mean) AS energy_kwh
        FROM (SELECT * FROM forecasts
            WHERE forecast_start = (SELECT max(forecast_start) FROM forecasts)
            QUALIFY model_name = max(model_name) OVER (PARTITION BY meter_id))
        GROUP BY meter_id
        """,
        ("meter_id",),
    ),
    Question(
        "forecast-by-hour",
        "Expected energy of each hour, of all meters",
        (
            *columns_of(FORECASTS, "date_time"),
            Column("meters", "long", "", "Meters with a forecast of the hour"),
            _MEAN,
        ),
        (FORECASTS.name,),
        """
        SELECT date_time, count(*) AS meters, sum(mean) AS mean
        FROM forecasts WHERE {where} GROUP BY date_time
        """,
        ("date_time",),
        _STORED,
    ),
    Question(
        "node-forecast-by-hour",
        "Expected energy of each hour, of all nodes of a kind",
        (
            *columns_of(NODE_FORECASTS, "kind", "date_time"),
            Column("nodes", "long", "", "Nodes with a forecast of the hour"),
            Column("meters", "long", "", "Meters below them"),
            _MEAN,
            Column("p10", "double", "kWh", "10 % of outcomes are below it, of one of the nodes"),
            Column("p90", "double", "kWh", "90 % of outcomes are below it, of one of the nodes"),
        ),
        (NODE_FORECASTS.name,),
        """
        SELECT kind, date_time, count(*) AS nodes, sum(meters) AS meters, sum(mean) AS mean,
            any_value(p10) AS p10, any_value(p90) AS p90
        FROM node_forecasts WHERE {where} GROUP BY kind, date_time
        """,
        ("date_time", "kind"),
        _STORED,
    ),
    Question(
        "forecast-against-weeks",
        "A stored forecast and an average week of those before: each weekday's mean, added up",
        (
            Column("meters", "long", "", "Meters that both are of"),
            _BEFORE,
            Column("ahead_kwh", "double", "kWh", "Expected energy of the forecast"),
        ),
        (CONSUMPTION_DAILY.name, FORECASTS.name),
        """
        WITH of_weekday AS (
            SELECT meter_id, isodow(date) AS weekday, avg(energy_kwh) AS kwh, count(*) AS days,
                min(date) AS oldest
            FROM consumption_daily
            WHERE reading_type = 'kw' AND is_complete AND energy_kwh IS NOT NULL
                AND date >= $until::DATE - 7 * $weeks::INT AND date < $until::DATE
                AND ($meter_id IS NULL OR meter_id = $meter_id)
            GROUP BY ALL
        ), before AS (
            SELECT meter_id, sum(kwh) AS kwh FROM of_weekday GROUP BY meter_id
            HAVING count(*) = 7 AND sum(days) >= 7 * $weeks::INT // 2
                AND min(oldest) < $until::DATE - 7 * ($weeks::INT - 1)
        ), ahead AS (
            SELECT meter_id, sum(mean) AS kwh FROM forecasts
            WHERE {where} AND ($meter_id IS NULL OR meter_id = $meter_id) GROUP BY meter_id
        )
        SELECT count(*) AS meters, sum(before.kwh) AS before_kwh, sum(ahead.kwh) AS ahead_kwh
        FROM before LEFT JOIN ahead USING (meter_id)
        WHERE $meter_id IS NOT NULL OR ahead.kwh IS NOT NULL
        """,
        filters=(
            Filter("until", "date", "Local day that the weeks before end with, not included"),
            Filter("weeks", "long", "How many weeks before"),
            Filter("meter_id", "string", "Only of this meter, which may have no stored forecast"),
            *_STORED,
        ),
    ),
    Question(
        "forecast-against-mean-week",
        "A meter's newest forecast as a week of 168 hours, and the mean of its complete weeks",
        (
            _BEFORE,
            Column("before_cost", "double", "currency", "What that energy costs"),
            Column("ahead_kwh", "double", "kWh", "Expected energy of 168 hours"),
            Column("ahead_cost", "double", "currency", "What that energy costs"),
            Column("change_percent", "double", "%", "How much more the forecast is"),
        ),
        (CONSUMPTION_WEEKLY.name, FORECASTS.name),
        f"""
        WITH {_LATEST}
        SELECT before_kwh, before_kwh * $price AS before_cost, ahead_kwh,
            ahead_kwh * $price AS ahead_cost,
            100 * (ahead_kwh / nullif(before_kwh, 0) - 1) AS change_percent
        FROM (SELECT avg(energy_kwh) AS before_kwh FROM consumption_weekly
                WHERE {_OF_ONE} AND reading_type = 'kw' AND is_complete AND {{where}}),
            (SELECT avg(mean) * 168 AS ahead_kwh FROM latest)
        """,
        filters=(_ONE, *days("date"), PRICE),
    ),
    Question(
        "forecast-by-day",
        "A meter's last 14 complete local days, and the days that its newest forecast has whole",
        (
            Column("date", "date", "", "Local day"),
            Column("label", "string", "", "The day, such as 'Mon 01 Jan'"),
            Column("actual_kwh", "double", "kWh", "Energy of the day"),
            Column("actual_cost", "double", "currency", "What it costs"),
            Column("forecast_kwh", "double", "kWh", "Expected energy of the day"),
            Column("forecast_cost", "double", "currency", "What it will cost"),
        ),
        (CONSUMPTION_DAILY.name, FORECASTS.name),
        f"""
        WITH {_LATEST}, past AS (
            SELECT date, energy_kwh AS kwh FROM consumption_daily
            WHERE {_OF_ONE} AND reading_type = 'kw' AND is_complete ORDER BY date DESC LIMIT 14
        ), next AS (
            SELECT timezone($zone, date_time)::DATE AS date, sum(mean) AS kwh
            FROM latest GROUP BY ALL HAVING count(*) >= 23
        )
        SELECT date, strftime(date, '%a %d %b') AS label, past.kwh AS actual_kwh,
            past.kwh * $price AS actual_cost, next.kwh AS forecast_kwh,
            next.kwh * $price AS forecast_cost
        FROM past FULL JOIN next USING (date)
        """,
        ("date",),
        (_ONE, PRICE),
    ),
    Question(
        "forecast-by-hour-of-day",
        "A meter's energy of an hour of the local clock: on average, and in its newest forecast",
        (
            Column("hour", "string", "", "Hour of the day, such as '07'"),
            Column("average_kwh", "double", "kWh", "Energy of such an hour, on average"),
            Column("forecast_kwh", "double", "kWh", "Expected energy of such an hour"),
        ),
        (READINGS.name, FORECASTS.name),
        f"""
        WITH {_LATEST}, past AS (
            SELECT hour(timezone($zone, moment)) AS h, avg(kwh) AS kwh FROM ({_HOURLY}) GROUP BY ALL
        ), next AS (
            SELECT hour(timezone($zone, date_time)) AS h, avg(mean) AS kwh FROM latest GROUP BY ALL
        )
        SELECT printf('%02d', h) AS hour, past.kwh AS average_kwh, next.kwh AS forecast_kwh
        FROM past FULL JOIN next USING (h)
        """,
        ("hour",),
        (_ONE, *moments("reading_date_time")),
    ),
    Question(
        "forecast-against-week-before",
        "A meter's newest forecast by the hour, and the same hours a week before",
        (
            *columns_of(FORECASTS, "date_time"),
            Column("clock_ms", "long", "ms", "The local clock, as if it were UTC, for charts"),
            *columns_of(FORECASTS, "p10", "p90", "mean"),
            Column("before_kwh", "double", "kWh", "Energy of the same hour a week before"),
        ),
        (READINGS.name, FORECASTS.name),
        f"""
        WITH {_LATEST}
        SELECT date_time, epoch_ms(timezone($zone, date_time)) AS clock_ms, p10, p90, mean,
            kwh AS before_kwh
        FROM latest LEFT JOIN ({
            _HOURLY.format(
                where=("reading_date_time >= (SELECT min(date_time) FROM latest) - INTERVAL 7 DAY")
            )
        }) ON date_time = moment + INTERVAL 7 DAY
        """,
        ("date_time",),
        (_ONE,),
    ),
)
