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
    BLUE,
    CELSIUS,
    COST,
    DAY,
    DAYS,
    GREY,
    KWH,
    METER,
    ON_THE_RIGHT,
    ORANGE,
    PERCENT,
    PRICE,
    Col,
    get,
    text,
)

UID = "meterlake-weather"

_YEAR, _MONTHS = {"year": "${year}"}, {"year": "${year}", "by": "month"}
_SAME_DAYS = "Of the year before the same days: those that this year has so far."


def _both(now: str, before: str) -> tuple[Col, Col]:
    """Columns of the year and of the year before."""
    return Col(now, "${year}", color=BLUE), Col(before, "Year before", color=GREY)


def weather(price: float, currency: str) -> dict[str, Any]:
    """The dashboard."""
    month, day = text("month"), Col("noon_ms", "day", unit=DAY)
    costs, energies, degrees = (
        _both("now_cost", "before_cost"),
        _both("now_kwh", "before_kwh"),
        _both("now", "before"),
    )
    change = Col("change_percent", "Change", PERCENT)
    panels = [
        stats(
            "Cost, ${year}",
            f"Energy of the year times the price. {_SAME_DAYS}",
            get("consumption-change", *costs, change, **METER, **PRICE, **_YEAR),
            unit=COST,
            width=8,
            decimals=2,
            costs="now_cost|before_cost",
        ),
        stats(
            "Consumption, ${year}",
            f"Energy of the year. {_SAME_DAYS}",
            get("consumption-change", *energies, change, **METER, **_YEAR),
            unit=KWH,
            width=8,
        ),
        stats(
            "Temperature, ${year}",
            f"Mean of the air's, over all stations. {_SAME_DAYS}",
            get("temperature-change", *degrees, Col("change", "Warmer by", CELSIUS), **_YEAR),
            unit=CELSIUS,
            width=8,
        ),
        bars(
            "Cost per month",
            f"Energy of each month times the price. {_SAME_DAYS}",
            get("consumption-change", month, *costs, **METER, **PRICE, **_MONTHS),
            x=month,
            unit=COST,
            width=8,
            decimals=2,
            costs="now_cost|before_cost",
        ),
        bars(
            "Consumption per month",
            f"Energy of each month. {_SAME_DAYS}",
            get("consumption-change", month, *energies, **METER, **_MONTHS),
            x=month,
            unit=KWH,
            width=8,
        ),
        bars(
            "Temperature per month",
            f"Mean of the air's, over all stations. {_SAME_DAYS}",
            get("temperature-change", month, *degrees, **_MONTHS),
            x=month,
            unit=CELSIUS,
            width=8,
        ),
        lines(
            "Consumption and temperature per day",
            "Energy of each local day, and the mean temperature of the same day.",
            get(
                "consumption-and-temperature",
                day,
                Col("energy_kwh", "Energy", KWH, BLUE).with_custom(
                    drawStyle="bars", fillOpacity=60, lineWidth=0
                ),
                Col("temperature", "Temperature", CELSIUS, ORANGE, custom=ON_THE_RIGHT),
                **METER,
                **DAYS,
            ),
            x=day,
            unit=KWH,
            decimals=1,
        ),
    ]
    return built(
        UID,
        "Usage vs. weather",
        "A meter's cost and consumption, this year and the year before, beside the temperature.",
        [
            meter_variable("consumption-by-meter"),
            year_variable(),
            price_variable(price),
            currency_variable(currency),
        ],
        panels,
    )
