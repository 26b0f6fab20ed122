"""Volt/var: the voltage below each distribution transformer, and what lowering it saves."""

from typing import Any

from dashboards.panels import (
    bars,
    built,
    currency_variable,
    lines,
    rows,
    stats,
    transformer_variable,
    year_variable,
)
from dashboards.queries import (
    BLUE,
    COST,
    COUNT,
    DAY,
    GREEN,
    KWH,
    MOMENTS,
    ORANGE,
    PERCENT,
    PURPLE,
    RED,
    VOLT,
    Col,
    get,
    text,
)

UID = "meterlake-volt-var"

POUNDS = "masslb"


def volt_var(currency: str) -> dict[str, Any]:
    """The dashboard."""
    number = Col("number", unit=DAY)
    hour, month, id_ = Col("number", "hour"), text("period"), text("id")
    mean = Col("mean_v", "Mean", VOLT, BLUE)
    smallest, largest = Col("min_v", "Smallest", VOLT, ORANGE), Col("max_v", "Largest", VOLT, RED)
    out = Col(
        "out_of_band_percent",
        "Out of band",
        PERCENT,
        steps=((1.0, "orange"), (5.0, "red")),
        decimals=2,
    )
    mine = {"distribution_transformer_id": "${transformer}", **MOMENTS}
    panels = [
        stats(
            "Voltage, ${year}",
            "Below the transformer: the mean over all reads, the extremes, and the share of reads "
            "outside the band.",
            get("volt-var-by-transformer", mean, smallest, largest, out, **mine),
            unit=VOLT,
            width=12,
        ),
        stats(
            "Saved, ${year}",
            "What the voltage below the set point saved: energy, what it would have cost the "
            "utility, and carbon dioxide.",
            get(
                "volt-var-by-transformer",
                Col("saving_kwh", "Energy", KWH, GREEN),
                Col("cost", "Cost avoided", color=GREEN, decimals=2),
                Col("carbon_lb", "Carbon dioxide", POUNDS, GREEN),
                **mine,
            ),
            unit=COST,
            width=12,
            costs="cost",
        ),
        lines(
            "Voltage per day",
            "Below the transformer, per local day: mean, extremes, and the voltage that 95 % of "
            "reads do not exceed in the highest hour.",
            get(
                "volt-var-by-period",
                number,
                smallest,
                largest,
                mean,
                Col("p95_v", "95 %, highest hour", VOLT, PURPLE),
                by="day",
                **mine,
            ),
            x=number,
            unit=VOLT,
            decimals=1,
        ),
        lines(
            "Voltage by hour of the day",
            "Mean and extremes of each hour of the lake's wall clock, over the year.",
            get("volt-var-by-period", hour, smallest, largest, mean, by="hour", **mine),
            x=hour,
            unit=VOLT,
            width=12,
            decimals=1,
        ),
        bars(
            "Saved per month",
            "Energy that the voltage below the set point saved.",
            get(
                "volt-var-by-period",
                month,
                Col("saving_kwh", "Energy saved", KWH, GREEN),
                by="month",
                **mine,
            ),
            x=month,
            unit=KWH,
        ),
        rows(
            "All distribution transformers, ${year}",
            "Those with the most reads outside the band first.",
            get(
                "volt-var-by-transformer",
                text("distribution_transformer_id", "Transformer"),
                Col("meters", "Meters", COUNT, decimals=0),
                mean,
                out,
                Col("saving_kwh", "Energy saved", KWH),
                Col("cost", "Cost avoided", decimals=2),
                limit="2000",
                **MOMENTS,
            ),
            unit=COUNT,
            width=12,
            costs="cost",
        ),
        bars(
            "Loaded most, ${year}",
            "The ten transformers that were beyond their rating for the most hours, or nearest to "
            "it: their highest hourly apparent power against the rating.",
            get(
                "transformer-load-ranking",
                id_,
                Col(
                    "highest_percent",
                    "Highest hour",
                    PERCENT,
                    steps=((80.0, "orange"), (100.0, "red")),
                ),
                limit="10",
                **MOMENTS,
            ),
            x=id_,
            unit=PERCENT,
        ),
    ]
    return built(
        UID,
        "Volt/var",
        "Voltage below each distribution transformer, and what lowering it saves.",
        [transformer_variable(), year_variable(), currency_variable(currency)],
        panels,
    )
