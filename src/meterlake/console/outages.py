"""Outages: a map of the meters without supply at a moment, what was out, how reliable it was."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any

import polars as pl
from bokeh.models.annotations import Span
from fastapi import Query, Request, Response

from meterlake.console import charts
from meterlake.console.charts import Chart
from meterlake.console.grid_map import Grid, drawn_map, grid_of
from meterlake.console.pages import (
    a_day,
    a_moment,
    link,
    local,
    page,
    router,
    shown_days,
    to_transformer,
    window,
)
from meterlake.console.sign_in import Looks
from meterlake.questions.question import Value
from meterlake.serve.state import Here, Served

DAYS = 14  # shown unless asked for others
MOST_DAYS = 400
MOST_ROWS = 200  # of the list
MOST_NAMED = 10  # meters of an outage that are named
MOST_SPANS = 200_000  # meters' outages that the slider moves through
LEVELS = ("substation", "distribution_transformer", "service_transformer", "meter")

_STEP_S, _LONG_STEP_S = 900, 3600  # of the slider
_LONG_DAYS = 31
_INSTANT = timedelta(microseconds=1)
_AROUND = timedelta(days=3)  # an outage, of its transformer's voltages or load


@router.get("/console/outages")
def outages(
    request: Request,
    here: Here,
    _: Looks,
    first: Annotated[str, Query(alias="from")] = "",
    last: Annotated[str, Query(alias="to")] = "",
    at: Annotated[str, Query(max_length=40)] = "",
) -> Response:
    """The grid at a moment of a window, and the outages of the window."""
    grid = grid_of(here)
    if grid is None:
        return page(request, here, "outages.html", is_missing="topology", charts=[])
    (oldest, newest), moment = here.ask("outages-span").row(0), a_moment(here, at, "at")
    there, up_to = None, "the moment asked for" if moment else "the last outage"
    if newest is not None:
        there = here.local_day(oldest), here.local_day(newest - _INSTANT)
    else:
        newest = here.reader.newest("kw") or here.now()
        up_to = "the moment asked for" if moment else "the newest reading"
    latest = here.local_day((moment or newest) - _INSTANT)
    days = window(a_day(first, "from"), a_day(last, "to"), newest=latest, days=DAYS, most=MOST_DAYS)
    start, end = here.start_of(days[0]), here.end_of(days[1])
    of_window: dict[str, Value] = {"from": start, "to": end}
    found = here.ask("outages", include_parts=True, **of_window)
    single = found.filter(pl.col("level") == "meter")
    counts = _counts(single, start, end)
    moment = min(max(moment or _worst_moment(counts) or start, start), end)
    customers = grid.meters.height
    shown = found.filter((pl.col("level") != "meter") | pl.col("part_of").is_null())
    answer = page(
        request,
        here,
        "outages.html",
        is_missing=None,
        first=days[0],
        last=days[1],
        days=shown_days(
            request, days, usual=f"the {DAYS} days up to {up_to}", there=there, most=MOST_DAYS
        ),
        count=(days[1] - days[0]).days + 1,
        customers=customers,
        nodes_out=shown.filter(pl.col("level") != "meter").height,
        meters_out=shown.filter(pl.col("level") == "meter").height,
        impacted=single["id"].n_unique(),
        unplaced=customers - grid.placed.height,
        indices=here.ask("indices", **of_window).row(0, named=True),
        momentary_minutes=here.settings.grid.momentary_minutes,
        listed=_listed(here, shown, single, grid, days),
        more=max(0, shown.height - MOST_ROWS),
        all_of_them=link("/outages", **{"from": start.isoformat(), "to": end.isoformat()}),
        supply=_supply(here, found, grid, days, moment),
        moment=moment,
        out_now=_out_at(single, moment),
        is_capped=found.height > MOST_SPANS,
        newest_known=there is not None,
        charts=[drawn_map(here, grid), _timeline(here, counts, start, end)],
    )
    if here.settings.serve.map_tiles is not None:
        # Servers of tiles want to know what site asks for them; of its pages they learn nothing.
        answer.headers["Referrer-Policy"] = "strict-origin"
    return answer


def _counts(single: pl.DataFrame, start: datetime, end: datetime) -> pl.DataFrame:
    """How many `meters` are without supply from each `time` of a change on."""
    changes = pl.concat(
        [
            single.select(pl.col("start").clip(start, end).alias("time"), pl.lit(1).alias("by")),
            single.select(pl.col("end").clip(start, end).alias("time"), pl.lit(-1).alias("by")),
        ]
    )
    by_time = changes.group_by("time").agg(pl.col("by").sum()).sort("time")
    return by_time.select("time", pl.col("by").cum_sum().alias("meters"))


def _worst_moment(counts: pl.DataFrame) -> datetime | None:
    """The first moment at which most meters are out; None where none is."""
    worst = counts.sort("meters", descending=True, maintain_order=True).head(1)
    found: list[datetime] = worst["time"].to_list()
    return found[0] if found else None


def _out_at(single: pl.DataFrame, moment: datetime) -> int:
    is_out = (pl.col("start") <= moment) & (pl.col("end") > moment)
    return single.filter(is_out)["id"].n_unique()


def _supply(
    here: Served, found: pl.DataFrame, grid: Grid, days: tuple[date, date], moment: datetime
) -> dict[str, Any]:
    """What the page's script moves through: spans [s after start] with rows of meters and nodes."""
    start, end = here.start_of(days[0]), here.end_of(days[1])
    numbered = pl.concat(
        [
            grid.placed.select(
                pl.lit("meter").alias("level"), pl.col("meter_id").alias("id")
            ).with_row_index("row"),
            grid.nodes.drop_nulls(["x", "y"])
            .select(pl.col("kind").alias("level"), "id")
            .with_row_index("row"),
        ]
    )
    length = int((end - start).total_seconds())
    seconds = (
        ((pl.col(name) - start).dt.total_seconds().clip(0, length)).alias(name)
        for name in ("start", "end")
    )
    spans = (
        found.tail(MOST_SPANS)
        .with_columns(seconds)
        .join(numbered, on=["level", "id"], how="left")
        .group_by("start", "end")
        .agg(
            pl.col("row").filter(pl.col("level") == "meter").drop_nulls().alias("meters"),
            pl.col("row").filter(pl.col("level") != "meter").drop_nulls().alias("nodes"),
            ((pl.col("level") == "meter") & pl.col("row").is_null()).sum().alias("elsewhere"),
        )
        .sort("start", "end")
    )
    is_long = days[1] - days[0] >= timedelta(days=_LONG_DAYS)
    return {
        "start": int(start.timestamp()),
        "length": length,
        "step": _LONG_STEP_S if is_long else _STEP_S,
        "at": int((moment - start).total_seconds()),
        "zone": here.settings.timezone,
        "meters": grid.meters.height,
        "spans": [list(row) for row in spans.iter_rows()],
    }


def _listed(
    here: Served, shown: pl.DataFrame, single: pl.DataFrame, grid: Grid, days: tuple[date, date]
) -> list[dict[str, Any]]:
    """The outages as rows of the page: nodes from the top down, then single meters."""
    order = pl.col("level").replace_strict(
        {level: number for number, level in enumerate(LEVELS)}, default=len(LEVELS)
    )
    rows = shown.sort(order, "start", "id").head(MOST_ROWS)
    parts = single.filter(pl.col("part_of").is_in(rows["id"].unique().to_list()))
    wanted = {(r["kind"], r["id"]): r for r in grid.nodes.iter_rows(named=True)}
    mine = grid.meters.filter(pl.col("meter_id").is_in(rows["id"].to_list()))
    wanted |= {("meter", r["meter_id"]): r for r in mine.iter_rows(named=True)}
    listed = []
    for row in rows.iter_rows(named=True):
        below: Sequence[str] = ()
        leads = None
        if row["level"] != "meter":
            is_part = (
                (pl.col("part_of") == row["id"])
                & (pl.col("start") < row["end"])
                & (pl.col("end") > row["start"])
            )
            below = parts.filter(is_part)["id"].unique().sort().to_list()
        if row["level"].endswith("_transformer"):
            leads = to_transformer(row["level"], row["id"], **_around(here, row))
        elif row["level"] == "meter":
            leads = link("/console/meter", meter_id=row["id"], **_around(here, row))
        listed.append(
            {
                **row,
                "name": _name(wanted.get((row["level"], row["id"])), row["id"]),
                "place": _place(wanted.get((row["level"], row["id"]))),
                "below": below[:MOST_NAMED],
                "below_more": max(0, len(below) - MOST_NAMED),
                "leads": leads,
                "seconds": int(row["start"].timestamp()),
                "href": link(
                    "/console/outages",
                    **{
                        "from": days[0],
                        "to": days[1],
                        "at": row["start"].astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                    },
                ),
            }
        )
    return listed


def _around(here: Served, row: dict[str, Any]) -> dict[str, date]:
    """The days around an outage."""
    first, last = here.local_day(row["start"]) - _AROUND, here.local_day(row["end"]) + _AROUND
    return {"from": first, "to": min(last, first + timedelta(days=MOST_DAYS - 1))}


def _name(there: dict[str, Any] | None, identifier: str) -> str:
    name = None if there is None else there.get("name")
    return name or identifier


def _place(there: dict[str, Any] | None) -> str:
    """Where something stands, in words."""
    if there is None:
        return "not in the topology"
    if there["address"]:
        return str(there["address"])
    if there["latitude"] is None or there["longitude"] is None:
        return "place not known"
    return f"{there['latitude']:.4f}°, {there['longitude']:.4f}°"


def _timeline(here: Served, counts: pl.DataFrame, start: datetime, end: datetime) -> Chart:
    drawn = charts.over_time("meters", height=190)
    ends = pl.DataFrame({"time": [start, end], "meters": [0, 0]}, schema=counts.schema)
    have = counts.filter(pl.col("time") < end)
    rows = pl.concat([have, ends]).unique("time", keep="first").sort("time")
    drawn.step(
        "time", "meters", mode="after", source=charts.source(local(rows, here.settings.timezone)),
        color=charts.RED, line_width=2,
    )  # fmt: skip
    drawn.y_range.start = 0
    drawn.add_layout(
        Span(name="moment", location=0, dimension="height", line_color=charts.BLUE, line_width=2,
             line_dash="dashed", visible=False, level="overlay")
    )  # fmt: skip
    return Chart(
        "timeline",
        "Meters without supply over time",
        charts.finished(drawn),
        "The dashed line is the moment of the map.",
        local(counts, here.settings.timezone).head(500),
    )
