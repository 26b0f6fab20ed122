"""Anomaly dip and spike: a meter's days that are out of the ordinary."""

from typing import Any

from dashboards.panels import (
    bars,
    built,
    currency_variable,
    lines,
    meter_variable,
    price_variable,
    rows,
    stats,
    year_variable,
)
from dashboards.queries import (
    AT_NOON,
    BLUE,
    COST,
    COUNT,
    DAY,
    GREY,
    KWH,
    METER,
    ORANGE,
    PLAIN,
    PRICE,
    RED,
    YEAR,
    Col,
    sql,
    text,
)

UID = "meterlake-anomalies"

_MINE = f"FROM anomalies WHERE meter_id = {METER} AND year = {YEAR}"
_DIPS, _SPIKES = "FILTER (anomaly = -1)", "FILTER (anomaly = 1)"


def anomalies(price: float, currency: str) -> dict[str, Any]:
    """The dashboard."""
    day = Col("day", unit=DAY)
    weekday, month = text("weekday"), text("month")
    dips, spikes = Col("dips", "Dips", color=ORANGE), Col("spikes", "Spikes", color=RED)
    panels = [
        stats(
            "Dips and spikes, ${year} to date",
            "Days below and above the band that 98 % of days lie in, of all that were judged.",
            sql(
                f"SELECT count(*) {_DIPS} AS dips, count(*) {_SPIKES} AS spikes, "
                f"count(*) AS days {_MINE}",
                dips,
                spikes,
                Col("days", "Days judged"),
            ),
            unit=COUNT,
            width=6,
            decimals=0,
        ),
        stats(
            "Average per month",
            "Dips and spikes per month in which days were judged: of this meter, and of a meter "
            "on average.",
            sql(
                f"""
                SELECT count(*) FILTER (anomaly = -1 AND meter_id = {METER})
                    / nullif(count(DISTINCT month) FILTER (meter_id = {METER}), 0) AS dips,
                  count(*) FILTER (anomaly = 1 AND meter_id = {METER})
                    / nullif(count(DISTINCT month) FILTER (meter_id = {METER}), 0) AS spikes,
                  count(*) {_DIPS} / nullif(count(DISTINCT (meter_id, month)), 0) AS all_dips,
                  count(*) {_SPIKES} / nullif(count(DISTINCT (meter_id, month)), 0) AS all_spikes
                FROM anomalies WHERE year = {YEAR}
                """,
                dips,
                spikes,
                Col("all_dips", "Dips, all meters"),
                Col("all_spikes", "Spikes, all meters"),
            ),
            unit=COUNT,
            width=7,
            decimals=2,
        ),
        stats(
            "Energy of a day on average",
            "Of days with a dip, days with a spike, and the days between.",
            sql(
                f"""
                SELECT avg(consumption) {_DIPS} AS dip, avg(consumption) {_SPIKES} AS spike,
                  avg(consumption) FILTER (anomaly = 0) AS ordinary {_MINE}
                """,
                Col("dip", "Dip", color=ORANGE),
                Col("spike", "Spike", color=RED),
                Col("ordinary", "Ordinary", color=BLUE),
            ),
            unit=KWH,
            width=6,
        ),
        stats(
            "Cost beside the expected",
            "What the spikes cost more than was expected, and the dips less.",
            sql(
                f"""
                SELECT coalesce(sum(consumption - yhat) {_SPIKES}, 0) * {PRICE} AS spikes_cost,
                  coalesce(sum(yhat - consumption) {_DIPS}, 0) * {PRICE} AS dips_cost {_MINE}
                """,
                Col("spikes_cost", "Spikes: more", color=RED),
                Col("dips_cost", "Dips: less", color=ORANGE),
            ),
            unit=COST,
            width=5,
            decimals=2,
            costs="spikes_cost|dips_cost",
        ),
        lines(
            "Energy per day, and the band expected",
            "The band of each day is of the days before it. Dips and spikes are points.",
            sql(
                f"""
                SELECT {AT_NOON.replace("date", "ds")} AS day, yhat_lower AS lower,
                  yhat_upper AS upper, consumption,
                  CASE WHEN anomaly = -1 THEN consumption END AS dip,
                  CASE WHEN anomaly = 1 THEN consumption END AS spike
                {_MINE} ORDER BY ds
                """,
                day,
                Col("lower", color=GREY).with_custom(lineWidth=0),
                Col("upper", color=GREY).with_custom(
                    lineWidth=0, fillBelowTo="lower", fillOpacity=20
                ),
                Col("consumption", "Energy", color=BLUE),
                Col("dip", "Dip", color=ORANGE).with_custom(
                    drawStyle="points", pointSize=9, showPoints="always"
                ),
                Col("spike", "Spike", color=RED).with_custom(
                    drawStyle="points", pointSize=9, showPoints="always"
                ),
            ),
            x=day,
            unit=KWH,
        ),
        bars(
            "By weekday",
            "Dips and spikes of the year, by weekday of the lake's zone.",
            sql(
                f"""
                SELECT weekday, count(*) {_DIPS} AS dips, count(*) {_SPIKES} AS spikes
                FROM (VALUES (1, 'Mon'), (2, 'Tue'), (3, 'Wed'), (4, 'Thu'), (5, 'Fri'),
                  (6, 'Sat'), (7, 'Sun')) AS w(number, weekday)
                LEFT JOIN anomalies AS a ON isodow(a.ds) = w.number
                  AND a.meter_id = {METER} AND a.year = {YEAR}
                GROUP BY number, weekday ORDER BY number
                """,
                weekday,
                dips,
                spikes,
            ),
            x=weekday,
            unit=COUNT,
            width=8,
            decimals=0,
        ),
        bars(
            "By month",
            "Dips and spikes of each month in which days were judged.",
            sql(
                f"""
                SELECT strftime(ds, '%Y-%m') AS month, count(*) {_DIPS} AS dips,
                  count(*) {_SPIKES} AS spikes {_MINE} GROUP BY ALL ORDER BY ALL
                """,
                month,
                dips,
                spikes,
            ),
            x=month,
            unit=COUNT,
            width=8,
            decimals=0,
        ),
        rows(
            "The days",
            "Each dip and spike, what kind it is, what was expected and what the difference cost.",
            sql(
                f"""
                SELECT strftime(ds, '%Y-%m-%d') AS day, kind, consumption, yhat AS expected,
                  (consumption - yhat) * {PRICE} AS cost, importance
                {_MINE} AND anomaly <> 0 ORDER BY ds DESC
                """,
                text("day", "Day"),
                text("kind", "Kind"),
                Col("consumption", "Energy", KWH, decimals=1),
                Col("expected", "Expected", KWH, decimals=1),
                Col("cost", "Cost, more", decimals=2),
                Col("importance", "Importance", PLAIN, decimals=2),
            ),
            unit=PLAIN,
            width=8,
            costs="cost",
        ),
    ]
    meters = meter_variable(
        "SELECT meter_id AS __text, meter_id AS __value FROM anomalies GROUP BY meter_id "
        "ORDER BY count(DISTINCT nullif(anomaly, 0)) DESC, count(*) FILTER (anomaly <> 0) DESC, "
        "meter_id LIMIT 20000"
    )
    return built(
        UID,
        "Anomaly dip and spike",
        "Days of a meter with much less or much more energy than expected from the days before. "
        "Meters that have both come first, then those with the most.",
        [meters, year_variable(), price_variable(price), currency_variable(currency)],
        panels,
    )
