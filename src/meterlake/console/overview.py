"""Overview: how much came, how fresh and complete it is, how large the lake is."""

from datetime import UTC, datetime, time, timedelta
from typing import Any

import polars as pl
from fastapi import Request, Response

from meterlake.console import charts
from meterlake.console.charts import Chart, Values
from meterlake.console.pages import Days, page, router
from meterlake.console.sign_in import Looks
from meterlake.questions import catalog
from meterlake.schema import known_tables
from meterlake.serve.state import Here

DAYS = 60  # shown


@router.get("/")
def overview(request: Request, here: Here, _: Looks) -> Response:
    """The last days of the lake at a glance."""
    with here.reader.layout() as layout:
        reads = [
            (day, reading_type, sum(f.rows for f in layout.hours(reading_type, day)))
            for reading_type in layout.reading_types
            for day in layout.days(reading_type)[-DAYS:]
        ]
    if not reads:
        return page(request, here, "empty.html", charts=[])
    per_day = (
        pl.DataFrame(reads, ["day", "reading_type", "reads"], orient="row")
        .group_by(pl.col("day").dt.date())
        .agg(pl.col("reads").sum())
        .sort("day")
        .tail(DAYS)
    )
    tables = {t["table"]: t for t in catalog.tables(here.store)}
    newest = datetime.fromisoformat(tables["readings"]["newest"]).astimezone(UTC)
    complete = here.ask("completeness").tail(DAYS)
    first_day, last_day = per_day["day"][0], per_day["day"][-1]
    window = {
        "from": datetime.combine(first_day, time(), UTC),
        "to": datetime.combine(last_day, time(), UTC) + timedelta(days=1),
    }
    return page(
        request,
        here,
        "overview.html",
        newest=newest,
        age_hours=(here.now() - newest) / timedelta(hours=1),
        reads_of_day=per_day["reads"][-1],
        days=Days(
            first_day,
            last_day,
            f"the last {DAYS} with readings" if per_day.height == DAYS else "all with readings",
        ),
        meters=complete["meters"][-1] if complete.height else None,
        complete=complete["complete_percent"][-1] / 100 if complete.height else None,
        complete_day=complete["day"][-1] if complete.height else None,
        late=here.ask("refused-and-late", **window)["late"].item(),
        late_minutes=here.settings.late_after_minutes,
        quarantined=tables["quarantine"]["rows"],
        bytes=sum(t["bytes"] or 0 for t in tables.values()),
        files=sum(t["files"] or 0 for t in tables.values()),
        tables=pl.DataFrame(
            [
                {**{k: t[k] for k in ("table", "rows", "files")}, "newest": _newest(t)}
                for t in tables.values()
                if t["rows"]
            ],
            schema_overrides={"newest": pl.Datetime("us", "UTC")},
        ),
        charts=[
            _reads(per_day),
            _completeness(complete),
        ],
    )


def _newest(table: dict[str, Any]) -> datetime | None:
    """The newest time in a table; what is valid from a time on, such as the grid, has none."""
    is_valid_from = known_tables()[table["table"]].time_column == "valid_from"
    newest = table["newest"]
    return None if is_valid_from or newest is None else datetime.fromisoformat(newest)


def _reads(per_day: pl.DataFrame) -> Chart:
    drawn = charts.over_time("readings", hover=[("day", "@day{%F}"), ("readings", "@reads{0,0}")])
    charts.bars(drawn, Values(per_day, "day", "reads"), width=0.8 * 86_400_000)
    return Chart(
        "reads", "Readings per day", charts.finished(drawn), "By UTC day of the reading",
        per_day.rename({"reads": "readings"}),
    )  # fmt: skip


def _completeness(complete: pl.DataFrame) -> Chart:
    rows = complete.select("day", "complete_percent")
    drawn = charts.over_time("% of intervals")
    charts.line(drawn, Values(rows, "day", "complete_percent"), label="intervals read")
    return Chart(
        "completeness",
        "Completeness",
        charts.finished(drawn),
        "Share of the intervals of each local day that have a reading",
        rows.rename({"complete_percent": "complete [%]"}),
    )
