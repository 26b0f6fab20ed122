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
    DAYS,
    GREY,
    KWH,
    METER,
    MOMENTS,
    ORANGE,
    PERCENT,
    PRICE,
    Col,
    get,
    text,
)

UID = "meterlake-forecast"


def forecast(price: float, currency: str) -> dict[str, Any]:
    """The dashboard."""
    day, hour, clock = text("label"), text("hour"), Col("clock_ms", "clock", unit=CLOCK)
    of_year = {**METER, **DAYS, **PRICE}
    panels = [
        stats(
            "Average weekly cost, ${year}",
            "Mean of the year's ISO weeks that are complete.",
            get(
                "forecast-against-mean-week",
                Col("before_cost", "Cost", color=BLUE, decimals=2),
                Col("before_kwh", "Energy", KWH),
                **of_year,
            ),
            unit=COST,
            width=8,
            costs="before_cost",
        ),
        stats(
            "Forecast weekly cost",
            "The latest forecast's mean, as a week of 168 hours.",
            get(
                "forecast-against-mean-week",
                Col("ahead_cost", "Cost", color=ORANGE, decimals=2),
                Col("ahead_kwh", "Energy", KWH),
                **of_year,
            ),
            unit=COST,
            width=8,
            costs="ahead_cost",
        ),
        stats(
            "Change",
            "The forecast week against the average week.",
            get(
                "forecast-against-mean-week",
                Col(
                    "change_percent",
                    "Change",
                    steps=((0.0, "text"), (10.0, "orange"), (25.0, "red")),
                ),
                **METER,
                **DAYS,
            ),
            unit=PERCENT,
            width=8,
        ),
        bars(
            "Cost per day",
            "The last 14 complete local days, and the local days that are forecast as a whole.",
            get(
                "forecast-by-day",
                day,
                Col("actual_cost", "Actual", color=BLUE),
                Col("forecast_cost", "Forecast", color=ORANGE),
                **METER,
                **PRICE,
            ),
            x=day,
            unit=COST,
            decimals=2,
            costs="actual_cost|forecast_cost",
        ),
        bars(
            "Hours of the day: forecast against average",
            "Energy of an hour of the lake's wall clock: on average in ${year}, and in the "
            "forecast. An hour's energy is its mean power times an hour.",
            get(
                "forecast-by-hour-of-day",
                hour,
                Col("average_kwh", "Average of ${year}", color=BLUE),
                Col("forecast_kwh", "Forecast", color=ORANGE),
                **METER,
                **MOMENTS,
            ),
            x=hour,
            unit=KWH,
            decimals=2,
        ),
        lines(
            "Hour by hour",
            "The forecast of each hour, the band that 8 of 10 hours lie in, and the same hour a "
            "week before. Times are the lake's wall clock.",
            get(
                "forecast-against-week-before",
                clock,
                Col("p10", color=GREY).with_custom(lineWidth=0),
                Col("p90", color=GREY).with_custom(lineWidth=0, fillBelowTo="p10", fillOpacity=20),
                Col("mean", "Forecast", color=ORANGE),
                Col("before_kwh", "A week before", color=BLUE),
                **METER,
            ),
            x=clock,
            unit=KWH,
        ),
    ]
    return built(
        UID,
        "Forecast",
        "A meter's next week: what it will take and cost, beside an average week.",
        [
            meter_variable("forecasts-by-meter"),
            year_variable(),
            price_variable(price),
            currency_variable(currency),
        ],
        panels,
    )
