"""Data quality: what came late, what could not be typed, what is missing, what failed."""

from datetime import date
from typing import Annotated, Any

import polars as pl
from fastapi import Query, Request, Response

from meterlake.console import charts
from meterlake.console.charts import Chart, Values
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
_DELAYS = ("≤ 6 h", "6 to 24 h", "1 to 2 d", "2 to 7 d", "> 7 d")


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
    moments = {"from": here.start_of(days[0]), "to": here.end_of(days[1])}
    of_days = {"from": days[0], "to": days[1]}
    late = here.ask("late-by-day", **moments).drop("noon_ms")
    delays = here.ask("late-by-delay", **moments)
    complete = here.ask("completeness", **of_days).drop("noon_ms")
    quarantined = snapshot_rows(here)
    delivered = here.ask_first("newest-deliveries", NEWEST_FILES).rows
    runs = here.ask_first("newest-dataflow-runs", MOST_ROWS).rows
    of_window = {name: moment.isoformat() for name, moment in moments.items()}
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
        late_files=here.ask_first("late-by-file", MOST_ROWS, **moments).rows,
        all_late=link("/late-arrivals", **of_window),
        complete=complete,
        complete_percent=_share(complete),
        gaps=here.ask_first("gaps", MOST_ROWS, **of_days).rows,
        quarantined=quarantined,
        by_reason=here.ask_first("quarantine-by-reason", MOST_ROWS).rows,
        by_file=here.ask_first("quarantine-by-file", MOST_ROWS).rows,
        newest_rows=_cut(here.ask_first("newest-quarantine", MOST_ROWS).rows),
        delivered=delivered.rows(named=True),
        refused=_refused(here),
        runs=runs,
        failed=runs.filter(pl.col("outcome") == "failed").height,
        findings=here.ask_first("findings-by-kind", MOST_ROWS).rows,
        charts=[
            *([_late(late), _delay(delays)] if late.height else []),
            *([_completeness(complete), _gaps(complete)] if complete.height else []),
        ],
    )


def _cut(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows in quarantine with the first letters of what was delivered."""
    return rows.with_columns(
        pl.col("raw").str.head(RAW_LETTERS),
        (pl.col("raw").str.len_chars() > RAW_LETTERS).alias("is_cut"),
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
    charts.bars(drawn, Values(_at_noon(late), "day", "late"), width=0.8 * _DAY_MS)
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
    charts.bars(drawn, Values(rows, "name", "late"), color=charts.ORANGE)
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
        charts.bars(
            drawn, Values(rows, "day", "meters"), label=label, color=color, width=0.38 * _DAY_MS
        )
    told = "Of meters that had readings before."
    table = complete.select(
        "day", pl.col("with_gaps").alias("meters with gaps"),
        pl.col("without_readings").alias("meters without readings"),
    )  # fmt: skip
    return Chart("gaps", "Meters with gaps per day", charts.finished(drawn), told, table)


def _at_noon(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(pl.col("day").cast(pl.Datetime("ms")).dt.offset_by("12h"))
