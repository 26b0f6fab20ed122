"""Anomalies: anomalous days, the worst first, what they cost, when they come."""

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Annotated, Any, Literal

import polars as pl
from fastapi import Query, Request, Response

from meterlake.console import charts
from meterlake.console.charts import Chart, Values
from meterlake.console.pages import (
    a_day,
    a_price,
    in_order,
    link,
    page,
    router,
    shown_days,
)
from meterlake.console.sign_in import Looks
from meterlake.questions.question import Value
from meterlake.serve.state import Here

KINDS = ("spike", "dip", "zero", "stuck", "step change")
DAYS = 365  # up to the newest judged day, unless asked for others
SHOWN = 50  # rows of the list
MOST_SHOWN = 1000
_BEFORE, _AFTER = timedelta(days=10), timedelta(days=3)  # shown of a meter around an anomaly


@dataclass(frozen=True)
class Side:
    """Anomalous days on one side of what was expected: `beyond_kwh` in all, `days` of meters."""

    days: int
    beyond_kwh: float

    @property
    def mean_kwh(self) -> float | None:
        """Energy beyond what was expected of a mean one [kWh]."""
        return self.beyond_kwh / self.days if self.days else None


@router.get("/console/anomalies")
def anomalies(
    request: Request,
    here: Here,
    _: Looks,
    first: Annotated[str, Query(alias="from")] = "",
    last: Annotated[str, Query(alias="to")] = "",
    kind: Literal["", "spike", "dip", "zero", "stuck", "step change"] = "",
    search: Annotated[str, Query(max_length=200)] = "",
    price: str = "",
    show: Annotated[int, Query(ge=1, le=MOST_SHOWN)] = SHOWN,
) -> Response:
    """The anomalous days of a window, ranked and summed up."""
    oldest, newest = here.ask("anomalies-span").row(0)
    if newest is None:
        return page(request, here, "anomalies.html", judged=None, charts=[])
    asked = _window(a_day(first, "from"), a_day(last, "to"), oldest, newest)
    chosen: dict[str, Value | None] = {
        "from": asked[0], "to": asked[1], "kind": kind or None, "search": search.strip() or None,
    }  # fmt: skip
    by_month = here.ask("anomaly-counts", by="month", **chosen)
    by_weekday = here.ask("anomaly-counts", by="weekday", **chosen)
    worst = here.ask_first("worst-anomalies", show, **chosen)
    new_year = asked[1].replace(month=1, day=1)
    of_year = here.ask("anomaly-counts", **{**chosen, "from": new_year})
    per_kwh = a_price(here, price)
    above, below = _side(by_month, "above"), _side(by_month, "below")
    found = above.days + below.days
    return page(
        request,
        here,
        "anomalies.html",
        first=asked[0],
        last=asked[1],
        days=shown_days(
            request,
            asked,
            usual="all days that were judged"
            if asked[0] == oldest
            else f"the {DAYS} days up to the last that was judged",
            there=(oldest, newest),
        ),
        kind=kind,
        kinds=KINDS,
        search=search,
        price=per_kwh,
        judged=int(by_month["judged"].sum()),
        found=found,
        worst=[_told(row) for row in worst.rows.iter_rows(named=True)],
        more=_more(request, show) if worst.rows.height < min(found, MOST_SHOWN) else None,
        above=above,
        below=below,
        year_from=max(oldest, new_year),
        year_above=_side(of_year, "above"),
        year_below=_side(of_year, "below"),
        as_data=link("/anomalies", **{"from": asked[0], "to": asked[1], "kind": kind or None}),
        charts=[_by_month(by_month), _by_weekday(by_weekday)] if found else [],
    )


def _window(first: date | None, last: date | None, oldest: date, newest: date) -> tuple[date, date]:
    """The local days to show: as asked, else up to a year that ends with the newest."""
    if last is None:
        last = newest if first is None else max(newest, first)
    if first is None:
        first = max(min(oldest, last), last - timedelta(days=DAYS - 1))
    in_order(first, last)
    return first, last


def _told(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the list, with where its meter is shown around the day."""
    around = {"from": row["ds"] - _BEFORE, "to": row["ds"] + _AFTER}
    return {
        **row, "around": around,
        "href": link("/console/meter", meter_id=row["meter_id"], **around),
    }  # fmt: skip


def _more(request: Request, show: int) -> str:
    """The same page with more rows."""
    asked = {k: v for k, v in request.query_params.items() if k != "show"}
    return link("/console/anomalies", **asked, show=min(4 * show, MOST_SHOWN)) + "#list"


def _side(counts: pl.DataFrame, name: str) -> Side:
    return Side(int(counts[name].sum()), float(counts[f"{name}_kwh"].sum()))


def _by_month(counts: pl.DataFrame) -> Chart:
    told = "Per 1,000, so that partly judged months compare too."
    return _shared(counts, "month", "Trend: anomalous days per month, of 1,000 judged", told)


def _by_weekday(counts: pl.DataFrame) -> Chart:
    told = "Counted per meter and day; 20 are beyond the band by chance alone."
    return _shared(counts, "weekday", "Anomalous days by weekday, of 1,000 judged", told)


def _shared(counts: pl.DataFrame, by: str, title: str, told: str) -> Chart:
    sides = ("above", "below")
    rows = counts.select(
        pl.col("period").alias(by), "judged", *sides,
        *((1000 * pl.col(side) / pl.col("judged")).alias(f"{side}_per_1000") for side in sides),
    )  # fmt: skip
    drawn = charts.over_names(
        rows[by].to_list(), "per 1,000 judged days",
        hover=[
            (by, f"@{by}"), ("above expected", "@above_per_1000{0.0} per 1,000, @above days"),
            ("below expected", "@below_per_1000{0.0} per 1,000, @below days"),
        ],
    )  # fmt: skip
    if rows.height > charts.FEW_NAMES:
        drawn.xaxis.major_label_orientation = 0.9
    for name, color, shift in (("above", charts.RED, -0.2), ("below", charts.BLUE, 0.2)):
        charts.bars(
            drawn, Values(rows, by, f"{name}_per_1000"), label=f"{name} expected",
            color=color, width=0.38, shift=shift,
        )  # fmt: skip
    table = rows.rename(
        {"judged": "judged days", **{side: f"{side} expected [days]" for side in sides}}
        | {f"{side}_per_1000": f"{side} [per 1,000 days]" for side in sides}
    )
    return Chart(by, title, charts.finished(drawn), told, table)
