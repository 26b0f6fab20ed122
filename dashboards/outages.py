"""Outage map: what was out, when, where, and which meters it hit."""

from typing import Any

from dashboards.panels import bars, built, places, rows, stats, year_variable
from dashboards.queries import (
    COUNT,
    MINUTES,
    ORANGE,
    PLAIN,
    RED,
    YEAR_SPAN,
    Col,
    days,
    get,
    sql,
    text,
    wall_clock,
)

UID = "meterlake-outages"

_OF_THE_YEAR = "o.start >= year_begins AND o.start < year_ends"
# Where each node and meter stands, as it is now.
_STANDS = """
stands AS (
  SELECT 'meter' AS level, meter_id AS id, latitude, longitude, address FROM meter_topology
  UNION ALL
  SELECT n.level, n.id, l.latitude, l.longitude, l.address FROM (
    SELECT 'service_transformer' AS level, id, location_id FROM service_transformer
      WHERE valid_to IS NULL
    UNION ALL
    SELECT 'distribution_transformer', id, location_id FROM distribution_transformer
      WHERE valid_to IS NULL
    UNION ALL
    SELECT 'substation', id, location_id FROM substation WHERE valid_to IS NULL) AS n
  LEFT JOIN location AS l ON l.id = n.location_id AND l.valid_to IS NULL)
"""
_LOCAL = "%Y-%m-%d %H:%M"


def outages() -> dict[str, Any]:
    """The dashboard."""
    month = text("month")
    latitude, longitude = Col("latitude", unit=PLAIN), Col("longitude", unit=PLAIN)
    panels = [
        stats(
            "Outages, ${year}",
            "Outages that are not part of a larger one, the meters that were out in any, and how "
            "long the longest was.",
            sql(
                f"""
                WITH {YEAR_SPAN}
                SELECT count(*) FILTER (part_of IS NULL) AS outages,
                  count(DISTINCT id) FILTER (level = 'meter') AS meters,
                  coalesce(max(minutes), 0) AS longest
                FROM outages AS o, span WHERE {_OF_THE_YEAR}
                """,
                Col("outages", "Outages", color=RED),
                Col("meters", "Meters hit", color=ORANGE),
                Col("longest", "Longest", MINUTES),
            ),
            unit=COUNT,
            width=12,
            decimals=0,
        ),
        stats(
            "Reliability, ${year}",
            "As IEEE 1366 has it: minutes without supply per customer (SAIDI), interruptions per "
            "customer (SAIFI), minutes per interruption (CAIDI).",
            get(
                "/indices",
                Col("saidi", "SAIDI", MINUTES),
                Col("saifi", "SAIFI", PLAIN, decimals=3),
                Col("caidi", "CAIDI", MINUTES),
                **{"from": "${year}-01-01T00:00:00", "to": "${year}-12-31T23:59:59.999999"},
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
                    sql(
                        f"""
                        WITH {YEAR_SPAN}, {_STANDS}
                        SELECT s.latitude, s.longitude, o.level, o.id, count(*) AS outages,
                          max(o.meters) AS meters, max(o.minutes) AS longest
                        FROM outages AS o CROSS JOIN span LEFT JOIN stands AS s
                          ON s.level = o.level AND s.id = o.id
                        WHERE {_OF_THE_YEAR} AND o.part_of IS NULL GROUP BY ALL ORDER BY ALL
                        """,
                        latitude,
                        longitude,
                        text("level", "What"),
                        text("id", "Id"),
                        Col("outages", "Outages"),
                        Col("meters", "Meters out"),
                        Col("longest", "Longest", MINUTES),
                    ),
                    "Outages",
                    "meters",
                    RED,
                ),
                (
                    sql(
                        f"""
                        WITH {YEAR_SPAN}
                        SELECT m.latitude, m.longitude, o.id AS meter_id, count(*) AS outages
                        FROM outages AS o CROSS JOIN span
                        LEFT JOIN meter_topology AS m ON m.meter_id = o.id
                        WHERE {_OF_THE_YEAR} AND o.level = 'meter' GROUP BY ALL ORDER BY ALL
                        """,
                        latitude,
                        longitude,
                        text("meter_id", "Meter"),
                        Col("outages", "Outages"),
                        ref_id="B",
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
            sql(
                f"""
                WITH {YEAR_SPAN}, {days()},
                found AS (SELECT id, level, part_of, start FROM outages AS o, span
                  WHERE {_OF_THE_YEAR})
                SELECT strftime({wall_clock("start")}, '%Y-%m') AS month,
                  count(*) FILTER (part_of IS NULL) AS outages,
                  count(DISTINCT id) FILTER (level = 'meter') AS meters
                FROM found ASOF JOIN days ON start >= begins GROUP BY ALL ORDER BY ALL
                """,
                month,
                Col("outages", "Outages", color=RED),
                Col("meters", "Meters hit", color=ORANGE),
            ),
            x=month,
            unit=COUNT,
            width=10,
            height=14,
            decimals=0,
        ),
        rows(
            "Outages",
            "Each with its meters and place, the last first. Times are the lake's wall clock.",
            sql(
                f"""
                WITH {YEAR_SPAN}, {days()}, {_STANDS},
                found AS (
                  SELECT o.level, id, start, minutes, is_ongoing, evidence, meters, address
                  FROM outages AS o CROSS JOIN span LEFT JOIN stands USING (level, id)
                  WHERE {_OF_THE_YEAR} AND part_of IS NULL)
                SELECT strftime({wall_clock("start")}, '{_LOCAL}') AS began, minutes,
                  CASE WHEN is_ongoing THEN 'yes' ELSE 'no' END AS ongoing,
                  replace(level, '_', ' ') AS what, id, meters, evidence, address
                FROM found ASOF JOIN days ON start >= begins
                ORDER BY start DESC, level, id LIMIT 2000
                """,
                text("began", "Began"),
                Col("minutes", "Lasted", MINUTES),
                text("ongoing", "Goes on"),
                text("what", "What"),
                text("id", "Id"),
                Col("meters", "Meters", decimals=0),
                text("evidence", "Evidence"),
                text("address", "Address"),
            ),
            unit=COUNT,
            width=14,
        ),
        rows(
            "Meters hit",
            "Each meter that was out: how often, how long in all, and when last.",
            sql(
                f"""
                WITH {YEAR_SPAN}, {days()},
                found AS (
                  SELECT o.id AS meter_id, count(*) AS outages, sum(minutes) AS minutes,
                    max(start) AS last
                  FROM outages AS o, span WHERE {_OF_THE_YEAR} AND o.level = 'meter' GROUP BY ALL)
                SELECT meter_id, outages, minutes,
                  strftime({wall_clock("last")}, '{_LOCAL}') AS last,
                  service_transformer_id AS transformer
                FROM found LEFT JOIN meter_topology USING (meter_id)
                ASOF JOIN days ON last >= begins ORDER BY minutes DESC, meter_id LIMIT 2000
                """,
                text("meter_id", "Meter", links_to="meterlake-weather"),
                Col("outages", "Outages", decimals=0),
                Col("minutes", "Minutes", MINUTES),
                text("last", "Last began"),
                text("transformer", "Transformer"),
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
