"""Data quality: what came late, what could not be typed, what is missing, what failed."""

from datetime import date
from typing import Annotated, Any

import polars as pl
from fastapi import Query, Request, Response

from meterlake.console import charts
from meterlake.console.charts import Chart
from meterlake.console.pages import (
    a_day,
    link,
    page,
    router,
    shown_days,
    window,
)
from meterlake.console.sign_in import Looks
from meterlake.delta.commit import snapshot
from meterlake.schema import QUARANTINE
from meterlake.serve.state import Here, Served

DAYS = 30  # shown unless asked for others
MOST_DAYS = 400
MOST_ROWS = 25  # of a list
NEWEST_FILES = 30  # delivered files that are listed
RAW_LETTERS = 400  # of a row in quarantine

_DAY_MS = 86_400_000
_LATE_BY_DAY = """
    SELECT timezone($zone, reading_hour)::DATE AS day, sum(late)::BIGINT AS late,
        max(max_late_minutes) / 60 AS longest_hours
    FROM late_arrivals WHERE reading_hour >= $start AND reading_hour < $end
    GROUP BY day ORDER BY day
"""
_LATE_BY_DELAY = """
    SELECT CASE WHEN max_late_minutes <= 360 THEN 0 WHEN max_late_minutes <= 1440 THEN 1
            WHEN max_late_minutes <= 2880 THEN 2 WHEN max_late_minutes <= 10080 THEN 3
            ELSE 4 END AS delay,
        sum(late)::BIGINT AS late
    FROM late_arrivals WHERE reading_hour >= $start AND reading_hour < $end
    GROUP BY delay ORDER BY delay
"""
_DELAYS = ("≤ 6 h", "6 to 24 h", "1 to 2 d", "2 to 7 d", "> 7 d")
_LATE_BY_FILE = """
    SELECT source_file, sum(late)::BIGINT AS late, min(min_late_minutes) / 60 AS shortest_hours,
        max(max_late_minutes) / 60 AS longest_hours, min(reading_hour) AS first_hour,
        max(reading_hour) AS last_hour, max(detected_at) AS detected_at
    FROM late_arrivals WHERE reading_hour >= $start AND reading_hour < $end
    GROUP BY source_file ORDER BY late DESC, source_file LIMIT $limit
"""
_COMPLETE = """
    WITH known AS (
        SELECT meter_id, min(date) AS first_day FROM consumption_daily
        WHERE reading_type = 'kw' GROUP BY meter_id
    ), had AS (
        SELECT date, count(*) AS meters, count(*) FILTER (NOT is_complete) AS with_gaps,
            sum(intervals)::BIGINT AS intervals,
            sum(intervals_expected)::BIGINT AS intervals_expected
        FROM consumption_daily WHERE reading_type = 'kw' AND date >= $first AND date <= $last
        GROUP BY date
    ), begun AS (
        SELECT first_day, count(*) AS meters FROM known GROUP BY first_day
    )
    SELECT had.date AS day, 100 * had.intervals / had.intervals_expected AS complete_percent,
        had.intervals, had.intervals_expected, had.meters, had.with_gaps,
        (SELECT sum(begun.meters) FROM begun WHERE begun.first_day <= had.date)::BIGINT
            - had.meters AS without_readings
    FROM had ORDER BY day
"""
_GAPS = """
    WITH known AS (
        SELECT meter_id, min(date) AS first_day FROM consumption_daily
        WHERE reading_type = 'kw' GROUP BY meter_id
    ), there AS (
        SELECT DISTINCT date FROM consumption_daily
        WHERE reading_type = 'kw' AND date >= $first AND date <= $last
    ), had AS (
        SELECT meter_id, count(*) AS days, sum(intervals)::BIGINT AS intervals,
            sum(intervals_expected)::BIGINT AS expected,
            count(*) FILTER (NOT is_complete) AS days_with_gaps
        FROM consumption_daily WHERE reading_type = 'kw' AND date >= $first AND date <= $last
        GROUP BY meter_id
    ), due AS (
        SELECT first_day, (SELECT count(*) FROM there WHERE there.date >= days.first_day) AS days
        FROM (SELECT DISTINCT first_day FROM known) AS days
    ), usual AS (
        SELECT sum(expected) / sum(days) AS a_day FROM had
    )
    SELECT known.meter_id, coalesce(had.days_with_gaps, 0) AS days_with_gaps,
        due.days - coalesce(had.days, 0) AS days_without,
        coalesce(expected - intervals, 0) + round((due.days - coalesce(had.days, 0))
            * coalesce(expected / had.days, usual.a_day))::BIGINT AS missing,
        100 * (1 - missing / (coalesce(expected, 0) + round((due.days - coalesce(had.days, 0))
            * coalesce(expected / had.days, usual.a_day)))) AS read_percent
    FROM known JOIN due USING (first_day) LEFT JOIN had USING (meter_id) CROSS JOIN usual
    WHERE missing > 0 ORDER BY missing DESC, meter_id LIMIT $limit
"""
_REASON = "split_part(reason, ': ', 1)"  # what is behind it is the text of one row
_BY_REASON = f"""
    SELECT {_REASON} AS reason, count(*) AS rows, count(DISTINCT source_file) AS files,
        any_value(reason) AS example, max(received_at) AS newest
    FROM quarantine GROUP BY 1 ORDER BY rows DESC, 1 LIMIT $limit
"""  # noqa: S608
_BY_FILE = f"""
    SELECT source_file, count(*) AS rows, mode({_REASON}) AS most_often,
        max(received_at) AS received_at
    FROM quarantine GROUP BY source_file ORDER BY rows DESC, source_file LIMIT $limit
"""  # noqa: S608
_NEWEST_ROWS = """
    SELECT received_at, source_file, source_row, reason, left(raw, $letters) AS raw,
        length(raw) > $letters AS is_cut
    FROM quarantine ORDER BY received_at DESC, source_file, source_row LIMIT $limit
"""
_DELIVERED = """
    SELECT source_file AS file, format, rows, quarantined, readings, received_at
    FROM deliveries
    QUALIFY row_number() OVER (PARTITION BY delivery_id ORDER BY recorded_at DESC) = 1
    ORDER BY received_at DESC, source_file LIMIT $limit
"""
_RUNS = """
    SELECT dataflow, started_at, seconds, window_start, window_end, rows, added, changed, ended,
        attempts, outcome, message
    FROM dataflow_runs ORDER BY started_at DESC, run_id LIMIT $limit
"""
_FINDINGS = """
    SELECT finding, kind, count(*) AS nodes, any_value(id) AS example, any_value(detail) AS detail
    FROM topology_findings WHERE valid_to IS NULL
    GROUP BY finding, kind ORDER BY nodes DESC, finding, kind LIMIT $limit
"""


@router.get("/console/quality")
def quality(
    request: Request,
    here: Here,
    _: Looks,
    first: Annotated[str, Query(alias="from")] = "",
    last: Annotated[str, Query(alias="to")] = "",
) -> Response:
    """Lateness and gaps of the days of a window; quarantine, files and runs of the whole lake."""
    newest = here.reader.newest("kw")
    days = window(
        a_day(first, "from"),
        a_day(last, "to"),
        newest=here.local_day(newest or here.now()),
        days=DAYS,
        most=MOST_DAYS,
    )
    moments = {"start": here.start_of(days[0]), "end": here.end_of(days[1])}
    late = here.ask(_LATE_BY_DAY, "late_arrivals", zone=here.settings.timezone, **moments)
    delays = here.ask(_LATE_BY_DELAY, "late_arrivals", **moments)
    complete = here.ask(_COMPLETE, "consumption_daily", first=days[0], last=days[1])
    by_reason = here.ask(_BY_REASON, "quarantine", limit=MOST_ROWS)
    quarantined = snapshot_rows(here)
    delivered = here.ask(_DELIVERED, "deliveries", limit=NEWEST_FILES)
    runs = here.ask(_RUNS, "dataflow_runs", limit=MOST_ROWS)
    of_window = {"from": moments["start"].isoformat(), "to": moments["end"].isoformat()}
    return page(
        request,
        here,
        "quality.html",
        is_empty=newest is None and delivered.is_empty() and not quarantined,
        first=days[0],
        last=days[1],
        days=shown_days(
            request,
            days,
            usual=f"the {DAYS} days up to the newest reading",
            there=_there(here),
            most=MOST_DAYS,
        ),
        late=late,
        late_reads=int(late["late"].sum()),
        late_minutes=here.settings.late_after_minutes,
        late_files=here.ask(_LATE_BY_FILE, "late_arrivals", limit=MOST_ROWS, **moments),
        all_late=link("/late-arrivals", **of_window),
        complete=complete,
        complete_percent=_share(complete),
        gaps=here.ask(_GAPS, "consumption_daily", first=days[0], last=days[1], limit=MOST_ROWS),
        quarantined=quarantined,
        by_reason=by_reason,
        by_file=here.ask(_BY_FILE, "quarantine", limit=MOST_ROWS),
        newest_rows=here.ask(_NEWEST_ROWS, "quarantine", limit=MOST_ROWS, letters=RAW_LETTERS),
        delivered=delivered.rows(named=True),
        refused=_refused(here),
        runs=runs,
        failed=runs.filter(pl.col("outcome") == "failed").height,
        findings=here.ask(_FINDINGS, "topology_findings", limit=MOST_ROWS),
        charts=[
            *([_late(late), _delay(delays)] if late.height else []),
            *([_completeness(complete), _gaps(complete)] if complete.height else []),
        ],
    )


def _there(here: Served) -> tuple[date, date] | None:
    """The first and the last local day of power readings."""
    with here.reader.layout() as layout:
        days = layout.days("kw")
        first = [f.first for d in days[:1] for f in layout.hours("kw", d) if f.first is not None]
    newest = here.reader.newest("kw")
    return (here.local_day(min(first)), here.local_day(newest)) if first and newest else None


def snapshot_rows(here: Served) -> int:
    """Rows of the quarantine, from its log."""
    return snapshot(here.store, QUARANTINE).rows


def _refused(here: Served) -> list[dict[str, Any]]:
    """Delivered files that could not be read at all, newest first, with the reason beside them."""
    end = ".reason.txt"
    there = [o for o in here.store.list("inbound/failed/") if o.path.endswith(end)]
    there = sorted(there, key=lambda each: (each.modified, each.path), reverse=True)[:MOST_ROWS]
    return [
        {
            "file": each.path.removesuffix(end).rsplit("/", 1)[-1],
            "received_at": each.modified,
            "reason": here.store.read(each.path).decode(errors="replace").strip()[:RAW_LETTERS],
        }
        for each in there
    ]


def _share(complete: pl.DataFrame) -> float | None:
    expected = int(complete["intervals_expected"].sum())
    return int(complete["intervals"].sum()) / expected if expected else None


def _late(late: pl.DataFrame) -> Chart:
    drawn = charts.over_time(
        "late readings", hover=[("day", "@day{%F}"), ("late readings", "@late{0,0}")]
    )
    charts.bars(drawn, _at_noon(late), "day", "late", width=0.8 * _DAY_MS)
    table = late.rename({"late": "late readings", "longest_hours": "longest delay [h]"})
    return Chart("late", "Late readings per day", drawn, "By local day of the reading.", table)


def _delay(delays: pl.DataFrame) -> Chart:
    every = pl.DataFrame({"delay": range(len(_DELAYS)), "name": _DELAYS})
    rows = every.join(
        delays.with_columns(pl.col("delay").cast(pl.Int64)),
        on="delay",
        how="left",
        maintain_order="left",
    ).select("name", pl.col("late").fill_null(0))
    drawn = charts.over_names(
        _DELAYS, "late readings", hover=[("how late", "@name"), ("late readings", "@late{0,0}")]
    )
    charts.bars(drawn, rows, "name", "late", color=charts.ORANGE)
    table = rows.rename({"name": "how late", "late": "late readings"})
    told = "Arrival less time of the reading; by the latest of each hour and file."
    return Chart("delay", "How late they came", drawn, told, table)


def _completeness(complete: pl.DataFrame) -> Chart:
    drawn = charts.over_time(
        "% of intervals", hover=[("day", "@day{%F}"), ("read", "@complete_percent{0.00} %")]
    )
    rows = _at_noon(complete)
    source = charts.source(rows, "day", "complete_percent")
    drawn.line("day", "complete_percent", source=source, color=charts.BLUE, line_width=2)
    drawn.scatter("day", "complete_percent", source=source, color=charts.BLUE, size=5)
    table = complete.rename(
        {"complete_percent": "complete [%]", "with_gaps": "meters with gaps",
         "without_readings": "meters without readings"}
    )  # fmt: skip
    told = "Intervals read, of those expected of the meters that have readings in the local day."
    return Chart("complete", "Completeness per day", drawn, told, table)


def _gaps(complete: pl.DataFrame) -> Chart:
    drawn = charts.over_time("meters", hover=[("day", "@day{%F}"), ("meters", "@meters{0,0}")])
    for name, label, color, shift in (
        ("with_gaps", "some intervals missing", charts.ORANGE, "7h"),
        ("without_readings", "no readings at all", charts.RED, "17h"),
    ):
        rows = complete.select(
            pl.col("day").cast(pl.Datetime("ms")).dt.offset_by(shift),
            pl.col(name).alias("meters"),
        )
        charts.bars(drawn, rows, "day", "meters", label=label, color=color, width=0.38 * _DAY_MS)
    told = "Of meters that had readings before."
    table = complete.select(
        "day", pl.col("with_gaps").alias("meters with gaps"),
        pl.col("without_readings").alias("meters without readings"),
    )  # fmt: skip
    return Chart("gaps", "Meters with gaps per day", charts.finished(drawn), told, table)


def _at_noon(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(pl.col("day").cast(pl.Datetime("ms")).dt.offset_by("12h"))
