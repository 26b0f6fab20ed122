"""Usage vs. weather: a meter's year against the year before, beside the temperature."""

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
    AT_NOON,
    BLUE,
    CELSIUS,
    COST,
    DAY,
    GREY,
    KWH,
    METER,
    ON_THE_RIGHT,
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

UID = "meterlake-weather"

# Days of the year, and the same days of the year before: like is compared with like, also while
# the year goes on. `is_now` says of which year a row is.
_BOTH = f"CAST(CAST({YEAR} AS INTEGER) - 1 AS VARCHAR)"
_USED = f"""
used AS (
  SELECT year = {YEAR} AS is_now, date, strftime(date, '%m-%d') AS day_of_year,
    sum(energy_kwh) AS kwh
  FROM consumption_daily
  WHERE meter_id = {METER} AND reading_type = 'kw' AND year IN ({YEAR}, {_BOTH})
  GROUP BY ALL),
same AS (
  SELECT * FROM used
  WHERE is_now OR day_of_year IN (SELECT day_of_year FROM used WHERE is_now))
"""
_AIR = f"""
{days(f"year IN ({YEAR}, {_BOTH})")},
air AS (
  SELECT CAST({wall_clock("time")} AS DATE) AS day, avg(temperature) AS temperature
  FROM (SELECT time, temperature FROM weather) ASOF JOIN days ON time >= begins
  WHERE time < (SELECT max(ends) FROM days) GROUP BY ALL),
known AS (
  SELECT year(day) = CAST({YEAR} AS INTEGER) AS is_now, day,
    strftime(day, '%m-%d') AS day_of_year, temperature FROM air),
same AS (
  SELECT * FROM known
  WHERE is_now OR day_of_year IN (SELECT day_of_year FROM known WHERE is_now))
"""
_SAME_DAYS = "Of the year before the same days: those that this year has so far."


def weather(price: float, currency: str) -> dict[str, Any]:
    """The dashboard."""
    month, day = text("month"), Col("day", unit=DAY)
    now, before = Col("now", "${year}", color=BLUE), Col("before", "Year before", color=GREY)
    change = Col("change", "Change", PERCENT)
    panels = [
        stats(
            "Cost, ${year}",
            f"Energy of the year times the price. {_SAME_DAYS}",
            sql(
                f"""
                WITH {_USED}
                SELECT sum(kwh) FILTER (is_now) * {PRICE} AS now,
                  sum(kwh) FILTER (NOT is_now) * {PRICE} AS before,
                  100 * (sum(kwh) FILTER (is_now) / nullif(sum(kwh) FILTER (NOT is_now), 0) - 1)
                    AS change
                FROM same
                """,
                now,
                before,
                change,
            ),
            unit=COST,
            width=8,
            decimals=2,
            costs="now|before",
        ),
        stats(
            "Consumption, ${year}",
            f"Energy of the year. {_SAME_DAYS}",
            sql(
                f"""
                WITH {_USED}
                SELECT sum(kwh) FILTER (is_now) AS now, sum(kwh) FILTER (NOT is_now) AS before,
                  100 * (sum(kwh) FILTER (is_now) / nullif(sum(kwh) FILTER (NOT is_now), 0) - 1)
                    AS change
                FROM same
                """,
                now,
                before,
                change,
            ),
            unit=KWH,
            width=8,
        ),
        stats(
            "Temperature, ${year}",
            f"Mean of the air's, over all stations. {_SAME_DAYS}",
            sql(
                f"""
                WITH {_AIR}
                SELECT avg(temperature) FILTER (is_now) AS now,
                  avg(temperature) FILTER (NOT is_now) AS before,
                  avg(temperature) FILTER (is_now) - avg(temperature) FILTER (NOT is_now)
                    AS change
                FROM same
                """,
                now,
                before,
                Col("change", "Warmer by", CELSIUS),
            ),
            unit=CELSIUS,
            width=8,
        ),
        bars(
            "Cost per month",
            f"Energy of each month times the price. {_SAME_DAYS}",
            sql(
                f"""
                WITH {_USED}
                SELECT strftime(date, '%m %b') AS month, sum(kwh) FILTER (is_now) * {PRICE} AS now,
                  sum(kwh) FILTER (NOT is_now) * {PRICE} AS before
                FROM same GROUP BY ALL ORDER BY ALL
                """,
                month,
                now,
                before,
            ),
            x=month,
            unit=COST,
            width=8,
            decimals=2,
            costs="now|before",
        ),
        bars(
            "Consumption per month",
            f"Energy of each month. {_SAME_DAYS}",
            sql(
                f"""
                WITH {_USED}
                SELECT strftime(date, '%m %b') AS month, sum(kwh) FILTER (is_now) AS now,
                  sum(kwh) FILTER (NOT is_now) AS before
                FROM same GROUP BY ALL ORDER BY ALL
                """,
                month,
                now,
                before,
            ),
            x=month,
            unit=KWH,
            width=8,
        ),
        bars(
            "Temperature per month",
            f"Mean of the air's, over all stations. {_SAME_DAYS}",
            sql(
                f"""
                WITH {_AIR}
                SELECT strftime(day, '%m %b') AS month, avg(temperature) FILTER (is_now) AS now,
                  avg(temperature) FILTER (NOT is_now) AS before
                FROM same GROUP BY ALL ORDER BY ALL
                """,
                month,
                now,
                before,
            ),
            x=month,
            unit=CELSIUS,
            width=8,
        ),
        lines(
            "Consumption and temperature per day",
            "Energy of each local day, and the mean temperature of the same day.",
            sql(
                f"""
                WITH {_USED.replace("same AS", "same_used AS")}, {_AIR}
                SELECT {AT_NOON} AS day, kwh, air.temperature
                FROM same_used LEFT JOIN air ON air.day = same_used.date
                WHERE is_now ORDER BY date
                """,
                day,
                Col("kwh", "Energy", KWH, BLUE).with_custom(
                    drawStyle="bars", fillOpacity=60, lineWidth=0
                ),
                Col("temperature", "Temperature", CELSIUS, ORANGE, custom=ON_THE_RIGHT),
            ),
            x=day,
            unit=KWH,
            decimals=1,
        ),
    ]
    meters = meter_variable(
        "SELECT DISTINCT meter_id AS __text, meter_id AS __value FROM consumption_daily "
        "ORDER BY meter_id LIMIT 20000"
    )
    return built(
        UID,
        "Usage vs. weather",
        "A meter's cost and consumption, this year and the year before, beside the temperature.",
        [meters, year_variable(), price_variable(price), currency_variable(currency)],
        panels,
    )
