"""Data quality: what is missing, what came late, what was refused, how fresh each table is."""

from typing import Any

from dashboards.panels import bars, built, lines, rows, stats, year_variable
from dashboards.queries import (
    AT_NOON,
    BLUE,
    COUNT,
    DAY,
    GREEN,
    ORANGE,
    PERCENT,
    PLAIN,
    RED,
    YEAR,
    YEAR_SPAN,
    Col,
    get,
    sql,
    text,
)

UID = "meterlake-quality"

_DAILY = f"FROM consumption_daily WHERE reading_type = 'kw' AND year = {YEAR}"
_SHARE = "100 * sum(intervals) / nullif(sum(intervals_expected), 0)"
_LATE = "late_arrivals, span WHERE reading_hour >= year_begins AND reading_hour < year_ends"


def quality() -> dict[str, Any]:
    """The dashboard."""
    day, reason = Col("day", unit=DAY), text("reason")
    share = Col(
        "share",
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
            sql(
                f"""
                WITH meters AS (
                  SELECT sum(intervals) AS found, sum(intervals_expected) AS expected,
                    count(*) FILTER (NOT is_complete) AS gaps,
                    date_diff('day', min(date), max(date)) + 1 - count(*) AS absent
                  {_DAILY} GROUP BY meter_id)
                SELECT 100 * sum(found) / nullif(sum(expected), 0) AS share,
                  CAST(sum(gaps) AS BIGINT) AS gaps, CAST(sum(absent) AS BIGINT) AS absent,
                  count(*) AS meters FROM meters
                """,
                share,
                Col("gaps", "Days with gaps", color=ORANGE),
                Col("absent", "Days absent", color=RED),
                Col("meters", "Meters", color=BLUE),
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
            sql(
                f"""
                WITH {YEAR_SPAN},
                late AS (SELECT CAST(coalesce(sum(late), 0) AS BIGINT) AS late,
                  max(max_late_minutes) / 60 AS longest FROM {_LATE}),
                refused AS (SELECT count(*) AS refused FROM quarantine)
                SELECT refused, late, longest FROM refused, late
                """,
                Col("refused", "Rows refused", color=RED),
                Col("late", "Late readings", color=ORANGE),
                Col("longest", "Longest delay", "h"),
            ),
            unit=COUNT,
            width=12,
            decimals=0,
        ),
        lines(
            "Completeness per day",
            "Intervals that have a reading, of those that the day has, over all meters.",
            sql(
                f"SELECT {AT_NOON} AS day, {_SHARE} AS share {_DAILY} GROUP BY date ORDER BY date",
                day,
                Col("share", "Complete", PERCENT, GREEN),
            ),
            x=day,
            unit=PERCENT,
            width=12,
        ),
        lines(
            "Late readings per day",
            "By the local day that they are of.",
            sql(
                f"""
                WITH {YEAR_SPAN},
                days AS (SELECT date, any_value(start) AS begins {_DAILY} GROUP BY date),
                found AS (SELECT reading_hour, late FROM {_LATE})
                SELECT {AT_NOON} AS day, CAST(coalesce(sum(late), 0) AS BIGINT) AS late
                FROM found ASOF JOIN days ON reading_hour >= begins GROUP BY date ORDER BY date
                """,
                day,
                Col("late", "Late readings", color=ORANGE),
            ),
            x=day,
            unit=COUNT,
            width=12,
            decimals=0,
        ),
        bars(
            "Why rows were refused",
            "Rows in quarantine by reason: the ten most frequent, whenever they came.",
            sql(
                "SELECT reason, count(*) AS refused FROM quarantine GROUP BY ALL "
                "ORDER BY refused DESC, reason LIMIT 10",
                reason,
                Col("refused", "Rows refused", color=RED),
            ),
            x=reason,
            unit=COUNT,
            decimals=0,
        ),
        rows(
            "Meters with the most missing, ${year}",
            "The hundred meters with the smallest share of their intervals.",
            sql(
                f"""
                SELECT meter_id, {_SHARE} AS share, count(*) FILTER (NOT is_complete) AS gaps,
                  strftime(max(date), '%Y-%m-%d') AS last
                {_DAILY} GROUP BY meter_id ORDER BY share, meter_id LIMIT 100
                """,
                text("meter_id", "Meter", links_to="meterlake-weather"),
                share,
                Col("gaps", "Days with gaps", decimals=0),
                text("last", "Last day"),
            ),
            unit=COUNT,
            width=12,
        ),
        rows(
            "How fresh each table is",
            "From the tables' logs: rows, size, and the newest time in each (UTC).",
            get(
                "/catalog",
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
            sql(
                """
                SELECT dataflow, started_at, outcome, rows, seconds FROM dataflow_runs
                ORDER BY started_at DESC, dataflow LIMIT 100
                """,
                text("dataflow", "Dataflow"),
                Col("started_at", "Began", "time:YYYY-MM-DD HH:mm", type="timestamp"),
                text("outcome", "Outcome"),
                Col("rows", "Rows", COUNT, decimals=0),
                Col("seconds", "Took", "s"),
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
