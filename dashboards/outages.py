"""Outage map: what was out, when, where, and which meters it hit."""

from typing import Any

from dashboards.panels import bars, built, places, rows, stats, year_variable
from dashboards.queries import (
    COUNT,
    MINUTES,
    MOMENTS,
    ORANGE,
    PLAIN,
    RED,
    Col,
    get,
    text,
)

UID = "meterlake-outages"


def outages() -> dict[str, Any]:
    """The dashboard."""
    month = text("month")
    latitude, longitude = Col("latitude", unit=PLAIN), Col("longitude", unit=PLAIN)
    number, hit = Col("outages", "Outages", color=RED), Col("meters", "Meters hit", color=ORANGE)
    longest = Col("longest_minutes", "Longest", MINUTES)
    panels = [
        stats(
            "Outages, ${year}",
            "Outages that are not part of a larger one, the meters that were out in any, and how "
            "long the longest was.",
            get("outage-counts", number, hit, longest, **MOMENTS),
            unit=COUNT,
            width=12,
            decimals=0,
        ),
        stats(
            "Reliability, ${year}",
            "As IEEE 1366 has it: minutes without supply per customer (SAIDI), interruptions per "
            "customer (SAIFI), minutes per interruption (CAIDI).",
            get(
                "indices",
                Col("saidi", "SAIDI", MINUTES),
                Col("saifi", "SAIFI", PLAIN, decimals=3),
                Col("caidi", "CAIDI", MINUTES),
                **MOMENTS,
            ),
            unit=MINUTES,
            width=12,
        ),
        places(
            "Where",
            "All outages of the year where the node or meter stands, by the number of meters that "
            "were out, and the meters hit. Hover for when and how long.",
            (
                (
                    get(
                        "outages-with-places",
                        latitude,
                        longitude,
                        text("level", "What"),
                        text("id", "Id"),
                        text("local_start", "Began"),
                        Col("minutes", "Lasted", MINUTES),
                        Col("meters", "Meters out"),
                        limit="100000",
                        **MOMENTS,
                    ),
                    "Outages",
                    "meters",
                    RED,
                ),
                (
                    get(
                        "meters-hit",
                        latitude,
                        longitude,
                        text("meter_id", "Meter"),
                        Col("outages", "Outages"),
                        ref_id="B",
                        limit="100000",
                        **MOMENTS,
                    ),
                    "Meters hit",
                    "",
                    ORANGE,
                ),
            ),
            unit=COUNT,
            width=14,
            height=14,
        ),
        bars(
            "By month",
            "Outages that are not part of a larger one, and different meters that were hit.",
            get("outage-counts", month, number, hit, by="month", **MOMENTS),
            x=month,
            unit=COUNT,
            width=10,
            height=14,
            decimals=0,
        ),
        rows(
            "Outages",
            "Each with its meters and place, the last first. Times are the lake's wall clock.",
            get(
                "outages-with-places",
                text("local_start", "Began"),
                Col("minutes", "Lasted", MINUTES),
                Col("is_ongoing", "Goes on", type="boolean"),
                text("level", "What"),
                text("id", "Id"),
                Col("meters", "Meters", decimals=0),
                text("evidence", "Evidence"),
                text("address", "Address"),
                limit="2000",
                **MOMENTS,
            ),
            unit=COUNT,
            width=14,
        ),
        rows(
            "Meters hit",
            "Each meter that was out: how often, how long in all, and when last.",
            get(
                "meters-hit",
                text("meter_id", "Meter", links_to="meterlake-weather"),
                Col("outages", "Outages", decimals=0),
                Col("minutes", "Minutes", MINUTES),
                text("last_start", "Last began"),
                text("service_transformer_id", "Transformer"),
                limit="2000",
                **MOMENTS,
            ),
            unit=COUNT,
            width=10,
        ),
    ]
    return built(
        UID,
        "Outage map",
        "Times without supply: how many, where, and which meters they hit.",
        [year_variable()],
        panels,
    )
