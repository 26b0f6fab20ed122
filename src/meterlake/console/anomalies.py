"""Anomalies: the days that are odd, the worst first, what they cost, when they come."""

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Annotated, Any, Literal

import polars as pl
from fastapi import Query, Request, Response

from meterlake.console import charts
from meterlake.console.charts import Chart
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
from meterlake.serve.state import Here

KINDS = ("spike", "dip", "zero", "stuck", "step change")
DAYS = 365  # up to the newest judged day, unless asked for others
SHOWN = 50  # rows of the list
MOST_SHOWN = 1000
_BEFORE, _AFTER = timedelta(days=10), timedelta(days=3)  # shown of a meter around an odd day
_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")

_CHOSEN = """
    ds >= $first AND ds <= $last
    AND ($kind = '' OR kind = $kind)
    AND ($search = '' OR contains(lower(meter_id), lower($search)) OR meter_id IN
        (SELECT meter_id FROM meter_topology WHERE contains(lower(address), lower($search))))
"""

_SUMS_SQL = f"""
SELECT date_trunc('month', ds)::DATE AS month, isodow(ds) AS weekday, anomaly,
    count(*) AS days, sum(consumption - yhat) AS beyond_kwh
FROM anomalies WHERE anomaly <> 0 AND {_CHOSEN} GROUP BY ALL
"""  # noqa: S608  (of our own conditions)

_JUDGED_SQL = f"""
SELECT date_trunc('month', ds)::DATE AS month, isodow(ds) AS weekday,
    count(*) AS judged
FROM anomalies WHERE {_CHOSEN} GROUP BY ALL
"""  # noqa: S608

_WORST_SQL = f"""
WITH worst AS (
    SELECT * FROM anomalies WHERE anomaly <> 0 AND {_CHOSEN}
    ORDER BY importance DESC NULLS LAST, abs(consumption - yhat) DESC, ds DESC, meter_id
    LIMIT $shown
)
SELECT worst.meter_id, ds, kind, anomaly, consumption, yhat, yhat_lower, yhat_upper, importance,
    consumption - yhat AS beyond_kwh, service_transformer_id, distribution_transformer_id, address
FROM worst LEFT JOIN meter_topology AS way ON way.meter_id = worst.meter_id
ORDER BY importance DESC NULLS LAST, abs(consumption - yhat) DESC, ds DESC, worst.meter_id
"""  # noqa: S608


@dataclass(frozen=True)
class Side:
    """The odd days on one side of what was expected: `beyond_kwh` in all, `days` of meters."""

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
    """The odd days of a window, ranked and summed up."""
    known = here.ask("SELECT min(ds) AS first, max(ds) AS last FROM anomalies", "anomalies")
    oldest, newest = known.row(0)
    if newest is None:
        return page(request, here, "anomalies.html", judged=None, charts=[])
    asked = _window(a_day(first, "from"), a_day(last, "to"), oldest, newest)
    values: dict[str, object] = {
        "first": asked[0], "last": asked[1], "kind": kind, "search": search.strip(),
    }  # fmt: skip
    needed = "anomalies", "meter_topology"
    sums = here.ask(_SUMS_SQL, *needed, **values)
    judged = here.ask(_JUDGED_SQL, *needed, **{**values, "kind": ""})
    worst = here.ask(_WORST_SQL, *needed, **values, shown=show)
    new_year = asked[1].replace(month=1, day=1)
    of_year = here.ask(_SUMS_SQL, *needed, **{**values, "first": new_year})
    per_kwh = a_price(here, price)
    found = int(sums["days"].sum())
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
        judged=int(judged["judged"].sum()),
        found=found,
        worst=[_told(row) for row in worst.iter_rows(named=True)],
        more=_more(request, show) if worst.height < min(found, MOST_SHOWN) else None,
        above=_side(sums, 1),
        below=_side(sums, -1),
        year_from=max(oldest, new_year),
        year_above=_side(of_year, 1),
        year_below=_side(of_year, -1),
        as_data=link("/anomalies", **{"from": asked[0], "to": asked[1], "kind": kind or None}),
        charts=[_by_month(sums, judged), _by_weekday(sums, judged)] if found else [],
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


def _side(sums: pl.DataFrame, sign: int) -> Side:
    of = sums.filter(pl.col("anomaly") == sign)
    return Side(int(of["days"].sum()), float(of["beyond_kwh"].sum()))


def _shares(sums: pl.DataFrame, judged: pl.DataFrame, by: str) -> pl.DataFrame:
    """Odd days by month or weekday, on each side, and of 1,000 that were judged."""
    of = judged.group_by(by).agg(pl.col("judged").sum())
    for name, sign in (("above", 1), ("below", -1)):
        side = sums.filter(pl.col("anomaly") == sign).group_by(by).agg(pl.col("days").sum())
        of = of.join(side.rename({"days": name}), on=by, how="left", maintain_order="left")
    counts = [pl.col(name).fill_null(0) for name in ("above", "below")]
    return (
        of.with_columns(counts)
        .with_columns(
            (1000 * pl.col(name) / pl.col("judged")).alias(f"{name}_per_1000")
            for name in ("above", "below")
        )
        .sort(by)
    )


def _by_month(sums: pl.DataFrame, judged: pl.DataFrame) -> Chart:
    rows = _shares(sums, judged, "month").with_columns(pl.col("month").dt.strftime("%Y-%m"))
    told = "Months that are partly judged compare by this too."
    return _shared(rows, "month", "Trend: odd days per month, of 1,000 judged", told)


def _by_weekday(sums: pl.DataFrame, judged: pl.DataFrame) -> Chart:
    rows = _shares(sums, judged, "weekday").with_columns(
        pl.col("weekday").replace_strict(dict(enumerate(_WEEKDAYS, 1)), return_dtype=pl.String)
    )
    told = "A day of one meter is one; 20 lie beyond the band by chance alone."
    return _shared(rows, "weekday", "Odd days by weekday, of 1,000 judged", told)


def _shared(rows: pl.DataFrame, by: str, title: str, told: str) -> Chart:
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
            drawn, rows, by, f"{name}_per_1000", label=f"{name} expected",
            color=color, width=0.38, shift=shift,
        )  # fmt: skip
    sides = ("above", "below")
    table = rows.rename(
        {"judged": "judged days", **{side: f"{side} expected [days]" for side in sides}}
        | {f"{side}_per_1000": f"{side} [per 1,000 days]" for side in sides}
    )
    return Chart(by, title, charts.finished(drawn), told, table)
