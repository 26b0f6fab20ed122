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
    BLUE,
    COST,
    COUNT,
    DAY,
    DAYS,
    GREY,
    KWH,
    METER,
    ORANGE,
    PLAIN,
    PRICE,
    RED,
    Col,
    get,
    text,
)

UID = "meterlake-anomalies"


def anomalies(price: float, currency: str) -> dict[str, Any]:
    """The dashboard."""
    day, period = Col("noon_ms", "Day", unit=DAY), text("period")
    dips, spikes = Col("below", "Dips", color=ORANGE), Col("above", "Spikes", color=RED)
    panels = [
        stats(
            "Dips and spikes, ${year} to date",
            "Days below and above the band that 98 % of days lie in, of all that were judged.",
            get("anomaly-counts", dips, spikes, Col("judged", "Days judged"), **METER, **DAYS),
            unit=COUNT,
            width=6,
            decimals=0,
        ),
        stats(
            "Average per month",
            "Dips and spikes per month in which days were judged: of this meter, and of a meter "
            "on average.",
            get(
                "anomalies-per-month",
                Col("dips", "Dips", color=ORANGE),
                Col("spikes", "Spikes", color=RED),
                Col("all_dips", "Dips, all meters"),
                Col("all_spikes", "Spikes, all meters"),
                **METER,
                **DAYS,
            ),
            unit=COUNT,
            width=7,
            decimals=2,
        ),
        stats(
            "Energy of a day on average",
            "Of days with a dip, days with a spike, and the days between.",
            get(
                "anomaly-counts",
                Col("mean_below_kwh", "Dip", color=ORANGE),
                Col("mean_above_kwh", "Spike", color=RED),
                Col("mean_usual_kwh", "Ordinary", color=BLUE),
                **METER,
                **DAYS,
            ),
            unit=KWH,
            width=6,
        ),
        stats(
            "Cost beside the expected",
            "What the spikes cost more than was expected, and the dips less.",
            get(
                "anomaly-counts",
                Col("above_cost", "Spikes: more", color=RED),
                Col("below_cost", "Dips: less", color=ORANGE),
                **METER,
                **DAYS,
                **PRICE,
            ),
            unit=COST,
            width=5,
            decimals=2,
            costs="above_cost|below_cost",
        ),
        lines(
            "Energy per day, and the band expected",
            "The band of each day is of the days before it. Dips and spikes are points.",
            get(
                "anomaly-band",
                day,
                Col("yhat_lower", "lower", color=GREY).with_custom(lineWidth=0),
                Col("yhat_upper", "upper", color=GREY).with_custom(
                    lineWidth=0, fillBelowTo="yhat_lower", fillOpacity=20
                ),
                Col("consumption", "Energy", color=BLUE),
                Col("dip", "Dip", color=ORANGE).with_custom(
                    drawStyle="points", pointSize=9, showPoints="always"
                ),
                Col("spike", "Spike", color=RED).with_custom(
                    drawStyle="points", pointSize=9, showPoints="always"
                ),
                **METER,
                **DAYS,
            ),
            x=day,
            unit=KWH,
        ),
        bars(
            "By weekday",
            "Dips and spikes of the year, by weekday of the lake's zone.",
            get("anomaly-counts", period, dips, spikes, by="weekday", **METER, **DAYS),
            x=period,
            unit=COUNT,
            width=8,
            decimals=0,
        ),
        bars(
            "By month",
            "Dips and spikes of each month in which days were judged.",
            get("anomaly-counts", period, dips, spikes, by="month", **METER, **DAYS),
            x=period,
            unit=COUNT,
            width=8,
            decimals=0,
        ),
        rows(
            "The days",
            "Each dip and spike, the most important first: what kind it is, what was expected and "
            "what the difference cost.",
            get(
                "worst-anomalies",
                text("ds", "Day"),
                text("kind", "Kind"),
                Col("consumption", "Energy", KWH, decimals=1),
                Col("yhat", "Expected", KWH, decimals=1),
                Col("cost", "Cost, more", decimals=2),
                Col("importance", "Importance", PLAIN, decimals=2),
                **METER,
                **DAYS,
                **PRICE,
            ),
            unit=PLAIN,
            width=8,
            costs="cost",
        ),
    ]
    return built(
        UID,
        "Anomaly dip and spike",
        "Days of a meter with much less or much more energy than the preceding days suggest. "
        "Meters that have both come first, then those with the most.",
        [
            meter_variable("anomalies-by-meter"),
            year_variable(),
            price_variable(price),
            currency_variable(currency),
        ],
        panels,
    )
