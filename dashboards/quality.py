"""Data quality: what is missing, what came late, what was refused, how fresh each table is."""

from dataclasses import replace
from typing import Any

from dashboards.panels import bars, built, lines, rows, stats, year_variable
from dashboards.queries import (
    BLUE,
    COUNT,
    DAY,
    DAYS,
    GREEN,
    MOMENTS,
    ORANGE,
    PERCENT,
    PLAIN,
    RED,
    Col,
    get,
    text,
)

UID = "meterlake-quality"


def quality() -> dict[str, Any]:
    """The dashboard."""
    day, reason = Col("noon_ms", "day", unit=DAY), text("reason")
    share = Col(
        "complete_percent",
        "Complete",
        PERCENT,
        decimals=2,
        steps=((95.0, "orange"), (99.0, "green")),
        below_steps="red",
    )
    panels = [
        stats(
            "Completeness, ${year}",
            "Intervals that have a reading of power, of those that the days have; days on which a "
            "meter has gaps; and whole days without a reading between a meter's first and last.",
            get(
                "completeness-in-all",
                share,
                Col("days_with_gaps", "Days with gaps", color=ORANGE),
                Col("days_without", "Days absent", color=RED),
                Col("meters", "Meters", color=BLUE),
                **DAYS,
            ),
            unit=COUNT,
            width=12,
            decimals=0,
        ),
        stats(
            "Refused and late",
            "Rows in quarantine, whenever they came; readings of ${year}, of "
            "all types, that arrived late; and "
            "the longest delay.",
            get(
                "refused-and-late",
                Col("refused", "Rows refused", color=RED),
                Col("late", "Late readings", color=ORANGE),
                Col("longest_hours", "Longest delay", "h"),
                **MOMENTS,
            ),
            unit=COUNT,
            width=12,
            decimals=0,
        ),
        lines(
            "Completeness per day",
            "Intervals that have a reading, of those that the day has, over all meters.",
            get(
                "completeness",
                day,
                Col("complete_percent", "Complete", PERCENT, GREEN),
                **DAYS,
            ),
            x=day,
            unit=PERCENT,
            width=12,
        ),
        lines(
            "Late readings per day",
            "By the local day that they are of.",
            get("late-by-day", day, Col("late", "Late readings", color=ORANGE), **MOMENTS),
            x=day,
            unit=COUNT,
            width=12,
            decimals=0,
        ),
        bars(
            "Why rows were refused",
            "Rows in quarantine by reason: the ten most frequent, whenever they came.",
            get(
                "quarantine-by-reason",
                reason,
                Col("rows", "Rows refused", color=RED),
                limit="10",
            ),
            x=reason,
            unit=COUNT,
            decimals=0,
        ),
        rows(
            "Meters with the most missing, ${year}",
            "The hundred meters that lack the most readings of power.",
            get(
                "gaps",
                text("meter_id", "Meter", links_to="meterlake-weather"),
                Col("missing", "Missing", COUNT, decimals=0),
                replace(share, name="read_percent", label="Read"),
                Col("days_with_gaps", "Days with gaps", decimals=0),
                Col("days_without", "Days absent", decimals=0),
                text("last_day", "Last day"),
                limit="100",
                **DAYS,
            ),
            unit=COUNT,
            width=12,
        ),
        rows(
            "How fresh each table is",
            "From the tables' logs: rows, size, and the newest time in each (UTC).",
            get(
                "catalog",
                text("table", "Table"),
                Col("rows", "Rows", COUNT, decimals=0),
                Col("bytes", "Size", "decbytes"),
                Col("newest", "Newest", "time:YYYY-MM-DD HH:mm", type="timestamp"),
                text("meaning", "Meaning"),
            ),
            unit=PLAIN,
            width=14,
        ),
        rows(
            "Runs of dataflows",
            "The last hundred: weather, topology and your own.",
            get(
                "newest-dataflow-runs",
                text("dataflow", "Dataflow"),
                Col("started_at", "Began", "time:YYYY-MM-DD HH:mm", type="timestamp"),
                text("outcome", "Outcome"),
                Col("rows", "Rows", COUNT, decimals=0),
                Col("seconds", "Took", "s"),
                limit="100",
            ),
            unit=PLAIN,
            width=10,
        ),
    ]
    return built(
        UID,
        "Data quality",
        "What is missing, what came late, what was refused, and how fresh each table is.",
        [year_variable()],
        panels,
    )
