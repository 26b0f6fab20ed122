"""Forecast: what a meter's next week will take and cost, beside what a week takes on average."""

from typing import Any

from dashboards.panels import (
    bars,
    built,
    currency_variable,
    lines,
    meter_variable,
    price_variable,
    stats,
    year_variable,
)
from dashboards.queries import (
    BLUE,
    CLOCK,
    COST,
    GREY,
    KWH,
    METER,
    ORANGE,
    PERCENT,
    PRICE,
    YEAR,
    Col,
    days,
    sql,
    text,
    wall_clock,
)

UID = "meterlake-forecast"

# The latest forecast of the meter; of several models that begin at once the last made.
_LATEST = f"""
latest AS (
  SELECT date_time, mean, p10, p90 FROM forecasts
  WHERE meter_id = {METER}
    AND forecast_start = (SELECT max(forecast_start) FROM forecasts WHERE meter_id = {METER})
  QUALIFY model_name = max(model_name) OVER ())
"""
_DAYS = days(f"meter_id = {METER} AND reading_type = 'kw'")
# Both are energy of a week: the mean of whole weeks, and the mean hour that is forecast 168 times.
_WEEKS = f"""
WITH {_LATEST},
past AS (
  SELECT avg(energy_kwh) AS kwh FROM consumption_weekly
  WHERE meter_id = {METER} AND reading_type = 'kw' AND is_complete AND year = {YEAR}),
next AS (SELECT avg(mean) * 168 AS kwh FROM latest)
"""


def forecast(price: float, currency: str) -> dict[str, Any]:
    """The dashboard."""
    day, hour, clock = text("day"), text("hour"), Col("clock", unit=CLOCK)
    expected = Col("forecast", "Forecast", color=ORANGE)
    panels = [
        stats(
            "Average weekly cost, ${year}",
            "Mean of the year's ISO weeks that are complete.",
            sql(
                f"{_WEEKS} SELECT past.kwh * {PRICE} AS cost, past.kwh AS kwh FROM past",
                Col("cost", "Cost", color=BLUE, decimals=2),
                Col("kwh", "Energy", KWH),
            ),
            unit=COST,
            width=8,
            costs="cost",
        ),
        stats(
            "Forecast weekly cost",
            "The latest forecast's mean, as a week of 168 hours.",
            sql(
                f"{_WEEKS} SELECT next.kwh * {PRICE} AS cost, next.kwh AS kwh FROM next",
                Col("cost", "Cost", color=ORANGE, decimals=2),
                Col("kwh", "Energy", KWH),
            ),
            unit=COST,
            width=8,
            costs="cost",
        ),
        stats(
            "Change",
            "The forecast week against the average week.",
            sql(
                f"{_WEEKS} SELECT 100 * (next.kwh / nullif(past.kwh, 0) - 1) AS change "
                "FROM past, next",
                Col("change", "Change", steps=((0.0, "text"), (10.0, "orange"), (25.0, "red"))),
            ),
            unit=PERCENT,
            width=8,
        ),
        bars(
            "Cost per day",
            "The last 14 complete local days, and the local days that are forecast as a whole.",
            sql(
                f"""
                WITH {_LATEST}, {_DAYS},
                past AS (
                  SELECT date, energy_kwh * {PRICE} AS cost FROM consumption_daily
                  WHERE meter_id = {METER} AND reading_type = 'kw' AND is_complete
                  ORDER BY date DESC LIMIT 14),
                next AS (
                  SELECT CAST({wall_clock("date_time")} AS DATE) AS date,
                    sum(mean) * {PRICE} AS cost
                  FROM latest ASOF JOIN days ON date_time >= begins
                  GROUP BY ALL HAVING count(*) >= 23)
                SELECT strftime(coalesce(past.date, next.date), '%a %d %b') AS day,
                  past.cost AS actual, next.cost AS forecast
                FROM past FULL JOIN next USING (date) ORDER BY coalesce(past.date, next.date)
                """,
                day,
                Col("actual", "Actual", color=BLUE),
                expected,
            ),
            x=day,
            unit=COST,
            decimals=2,
            costs="actual|forecast",
        ),
        bars(
            "Hours of the day: forecast against average",
            "Energy of an hour of the lake's wall clock: on average in ${year}, and in the "
            "forecast. An hour's energy is its mean power times an hour.",
            sql(
                f"""
                WITH {_LATEST}, {_DAYS},
                hours AS (
                  SELECT time_bucket(INTERVAL 1 HOUR, reading_date_time) AS moment,
                    avg(reading_value) AS kwh FROM readings
                  WHERE meter_id = {METER} AND reading_type = 'kw'
                    AND reading_date_time >= CAST({YEAR} || '-01-01' AS DATE) - INTERVAL 1 DAY
                    AND reading_date_time < CAST({YEAR} || '-12-31' AS DATE) + INTERVAL 2 DAY
                  GROUP BY ALL),
                past AS (
                  SELECT hour({wall_clock("moment")}) AS h, avg(kwh) AS kwh
                  FROM hours ASOF JOIN days ON moment >= begins
                  WHERE year({wall_clock("moment")}) = CAST({YEAR} AS INTEGER) GROUP BY ALL),
                next AS (
                  SELECT hour({wall_clock("date_time")}) AS h, avg(mean) AS kwh
                  FROM latest ASOF JOIN days ON date_time >= begins GROUP BY ALL)
                SELECT printf('%02d', h) AS hour, past.kwh AS average, next.kwh AS forecast
                FROM past FULL JOIN next USING (h) ORDER BY h
                """,
                hour,
                Col("average", "Average of ${year}", color=BLUE),
                expected,
            ),
            x=hour,
            unit=KWH,
            decimals=2,
        ),
        lines(
            "Hour by hour",
            "The forecast of each hour, the band that 8 of 10 hours lie in, and the same hour a "
            "week before. Times are the lake's wall clock.",
            sql(
                f"""
                WITH {_LATEST}, {_DAYS},
                hours AS (
                  SELECT time_bucket(INTERVAL 1 HOUR, reading_date_time) + INTERVAL 7 DAY
                    AS date_time, avg(reading_value) AS kwh FROM readings
                  WHERE meter_id = {METER} AND reading_type = 'kw'
                    AND reading_date_time >= (SELECT min(date_time) FROM latest) - INTERVAL 7 DAY
                  GROUP BY ALL)
                SELECT epoch_ms({wall_clock("date_time")}) AS clock, p10, p90, mean AS forecast,
                  hours.kwh AS before
                FROM latest LEFT JOIN hours USING (date_time)
                ASOF JOIN days ON date_time >= begins ORDER BY date_time
                """,
                clock,
                Col("p10", color=GREY).with_custom(lineWidth=0),
                Col("p90", color=GREY).with_custom(lineWidth=0, fillBelowTo="p10", fillOpacity=20),
                expected,
                Col("before", "A week before", color=BLUE),
            ),
            x=clock,
            unit=KWH,
        ),
    ]
    meters = meter_variable(
        "SELECT DISTINCT meter_id AS __text, meter_id AS __value FROM forecasts "
        "WHERE forecast_start = (SELECT max(forecast_start) FROM forecasts) "
        "ORDER BY meter_id LIMIT 20000"
    )
    return built(
        UID,
        "Forecast",
        "A meter's next week: what it will take and cost, beside an average week.",
        [meters, year_variable(), price_variable(price), currency_variable(currency)],
        panels,
    )
