"""Forecast: what next week takes and costs, beside an average week of those before it."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Annotated, Any, Literal

import polars as pl
from bokeh.models import DatetimeTickFormatter, DaysTicker
from fastapi import Query, Request, Response

from meterlake.console import charts
from meterlake.console.charts import Chart, Values
from meterlake.console.pages import a_price, local, page, router
from meterlake.console.sign_in import Looks
from meterlake.errors import BadInput
from meterlake.forecast import models
from meterlake.forecast.series import read_series
from meterlake.periods import LocalHours, local_date, local_midnight
from meterlake.questions.question import Value
from meterlake.serve.meters import forecast_of, known_or_refused
from meterlake.serve.state import Here, Served

WEEKS = (4, 8)  # before, that are averaged
_DAY, _WEEK_DAYS, _WEEK_HOURS = timedelta(days=1), 7, 168
_ENOUGH = 0.9  # share of the meters that an hour of all of them needs to have


@dataclass(frozen=True)
class Ahead:
    """A forecast week: `hours` are its date_time and mean [kWh], p10 and p90 null if not known.

    `grid` is the part of it that is below the grid's transformers, where all meters are asked
    for, for what the grid carried before is known by the hour.
    """

    model: dict[str, Any]
    start: datetime
    hours: pl.DataFrame
    meters: int
    grid: pl.DataFrame | None = None


@dataclass(frozen=True)
class Compared:
    """An average week of some weeks, and the forecast one, of the same meters; None: no such."""

    weeks: int
    meters: int
    before_kwh: float | None
    ahead_kwh: float | None

    @property
    def change(self) -> float | None:
        """By which share the forecast week is more than the average one."""
        if self.before_kwh is None or self.ahead_kwh is None or self.before_kwh <= 0:
            return None
        return self.ahead_kwh / self.before_kwh - 1


@router.get("/console/forecast")
def forecast(
    request: Request,
    here: Here,
    _: Looks,
    meter_id: Annotated[str, Query(max_length=200)] = "",
    weeks: Literal["4", "8"] = "4",
    price: str = "",
) -> Response:
    """The forecast week of all meters or of one, and the weeks before it."""
    meter_id, per_kwh = meter_id.strip(), a_price(here, price)
    asked: dict[str, Any] = {"meter_id": meter_id, "weeks": int(weeks), "price": per_kwh}
    if meter_id:
        known_or_refused(here, meter_id)
    try:
        ahead = _ahead(here, meter_id)
        problem = None
    except BadInput as error:
        ahead, problem = None, str(error)
    if ahead is None:
        return page(
            request, here, "forecast.html", **asked, ahead=None, problem=problem,
            has_model=not models.listed(here.store).is_empty(), charts=[],
        )  # fmt: skip
    zone = here.settings.timezone
    first_day = local_date(zone, ahead.start)
    compared = [_compared(here, meter_id, ahead, first_day, count) for count in WEEKS]
    before_it: dict[str, Value] = {
        "from": first_day - int(weeks) * _WEEK_DAYS * _DAY, "to": first_day - _DAY,
    }  # fmt: skip
    days = here.ask("consumption-by-day", meter_id=meter_id or None, **before_it)
    before = _hours_before(here, meter_id, ahead, int(weeks))
    newest = here.reader.newest("kw")
    return page(
        request,
        here,
        "forecast.html",
        **asked,
        ahead=ahead,
        problem=None,
        kwh=ahead.hours["mean"].sum(),
        until=ahead.hours["date_time"].max() + timedelta(hours=1),  # type: ignore[operator]
        compared=compared,
        is_old=newest is not None and newest >= ahead.start,
        newest=newest,
        has_hours=before is not None,
        charts=[
            _daily(here, ahead, days, per_kwh, meter_id),
            *_hourly(here, ahead, before, meter_id, int(weeks)),
        ],
    )


def _ahead(here: Served, meter_id: str) -> Ahead | None:
    """The newest forecast of the current model; of one meter it is made where none is stored."""
    if models.listed(here.store).is_empty():
        return None
    model = models.model_row(here.store)
    starts = here.ask_first("forecast-starts", 1, model_name=model["name"]).rows
    newest: datetime | None = starts["forecast_start"][0] if starts.height else None
    if meter_id:
        rows = forecast_of(here, meter_id, newest, model["name"]).sort("date_time")
        return Ahead(model, rows["forecast_start"][0], rows, 1)
    if newest is None:
        return None
    stored: dict[str, Value] = {"model_name": model["name"], "forecast_start": newest}
    rows = here.ask("forecast-by-hour", **stored)
    nodes = here.ask("node-forecast-by-hour", **stored)
    meters = int(rows["meters"].max())  # type: ignore[arg-type]
    unknown = [pl.lit(None, pl.Float64).alias(name) for name in ("p10", "p90")]
    hours = rows.select("date_time", "mean", *unknown)
    grid = nodes.filter(pl.col("kind") == "distribution_transformer")
    if grid.is_empty():
        return Ahead(model, newest, hours, meters)
    top = nodes.filter((pl.col("kind") == "substation") & (pl.col("nodes") == 1))
    of_grid = grid.select("date_time", "mean", "meters", *unknown)
    if top.height == grid.height and top["meters"][0] == grid["meters"][0]:
        # One node has all of them: its band is that of the sum.
        of_grid = top.select("date_time", "mean", "meters", "p10", "p90")
        if top["meters"][0] == meters:
            hours = of_grid.drop("meters")
    return Ahead(model, newest, hours, meters, of_grid)


def _compared(here: Served, meter_id: str, ahead: Ahead, until: date, weeks: int) -> Compared:
    """An average week of the complete days of some weeks: each weekday's mean, added up.

    Of meters that were there in the first of the weeks and have half of their days.
    """
    if ahead.hours.height < _WEEK_HOURS:
        return Compared(weeks, 0, None, None)
    found = here.ask(
        "forecast-against-weeks", until=until, weeks=weeks, meter_id=meter_id or None,
        model_name=ahead.model["name"], forecast_start=ahead.start,
    ).row(0, named=True)  # fmt: skip
    # A meter's own may be of now, not stored.
    kwh = float(ahead.hours["mean"].sum()) if meter_id else found["ahead_kwh"]
    return Compared(weeks, found["meters"], found["before_kwh"], kwh)


def _hours_before(here: Served, meter_id: str, ahead: Ahead, weeks: int) -> pl.DataFrame | None:
    """Energy of the hours of the weeks before: date_time, kwh; None where there are none."""
    zone = here.settings.timezone
    last = local_date(zone, ahead.start)
    first = last - weeks * _WEEK_DAYS * _DAY
    start, until = local_midnight(zone, first), local_midnight(zone, last)
    if not meter_id:
        if ahead.grid is None:
            return None
        meters = int(ahead.grid["meters"].max())  # type: ignore[arg-type]
        window: dict[str, Value] = {"from": start, "to": until}
        found = (
            here.ask("load-by-hour", kind="distribution_transformer", **window)
            .filter(pl.col("meters_read") >= _ENOUGH * meters)
            .select(
                pl.col("hour").alias("date_time"),
                (pl.col("load_kw") * meters / pl.col("meters_read")).alias("kwh"),
            )
        )
        return None if found.is_empty() else found
    hours = LocalHours(
        zone, datetime(first.year, first.month, first.day), weeks * _WEEK_HOURS  # noqa: DTZ001
    )  # fmt: skip
    with here.reader.layout() as layout:
        pieces = layout.pieces("kw", start, until)
    series = read_series(here.store, pieces, hours, keep=pl.col("meter_id") == meter_id)
    if not series.meters:
        return None
    shown = pl.Series([hours.wall(n) for n in range(hours.count)], dtype=pl.Datetime("us"))
    return pl.DataFrame({"date_time": shown, "kwh": series.energy[0]}).with_columns(
        pl.col("kwh").cast(pl.Float64).fill_nan(None)
    )


def _daily(here: Served, ahead: Ahead, days: pl.DataFrame, price: float, meter_id: str) -> Chart:
    """Cost per day: of past days the mean of the complete meters, times the forecast's meters."""
    drawn = charts.over_time(
        f"{here.settings.serve.currency} per day",
        hover=[("day", "@date{%F}"), ("cost", "@cost{0,0.00}"), ("energy", "@kwh{0,0.0} kWh")],
    )
    past = days.filter(pl.col("complete") > 0).select(
        "date", (pl.col("mean_kwh") * ahead.meters).alias("kwh"), "complete", "meters"
    )
    is_enough = pl.col("complete") >= 0.5 * pl.col("meters")
    hours = local(ahead.hours, here.settings.timezone)
    coming = (
        hours.group_by(pl.col("date_time").dt.date().alias("date"))
        .agg(pl.col("mean").sum().alias("kwh"), pl.len().alias("hours"))
        .sort("date")
    )
    whole = [day for day in coming["date"] if _has_all_hours(here, ahead, day)]
    coming = coming.filter(pl.col("date").is_in(whole)).select("date", "kwh")
    for rows, label, color in (
        (past.filter(is_enough), "past", charts.BLUE),
        (past.filter(~is_enough), "past, few meters complete", charts.GREY),
        (coming, "forecast", charts.ORANGE),
    ):
        if rows.height:
            at = rows.with_columns(
                pl.col("date").cast(pl.Datetime("ms")).dt.offset_by("12h").alias("at"),
                (pl.col("kwh") * price).alias("cost"),
            )
            charts.bars(
                drawn, Values(at, "at", "cost"), label=label, color=color, width=0.8 * 86_400_000
            )
    told = "Net energy times the price, of complete local days."
    if not meter_id:
        told = (
            f"Past days: the mean of the meters whose day is complete, times the {ahead.meters:,} "
            "meters of the forecast, so that a gap does not look like saving."
        )
    table = pl.concat(
        [
            past.select("date", pl.lit("past").alias("what"), "kwh"),
            coming.select("date", pl.lit("forecast").alias("what"), "kwh"),
        ]
    ).with_columns((pl.col("kwh") * price).alias(f"cost [{here.settings.serve.currency}]"))
    table = table.rename({"kwh": "energy [kWh]"})
    return Chart("daily", "Cost per day", charts.finished(drawn), told, table)


def _has_all_hours(here: Served, ahead: Ahead, day: date) -> bool:
    zone = here.settings.timezone
    start, end = local_midnight(zone, day), local_midnight(zone, day + _DAY)
    last = ahead.hours["date_time"].max()
    return start >= ahead.start and end <= last + timedelta(hours=1)  # type: ignore[operator]


def _hourly(
    here: Served, ahead: Ahead, before: pl.DataFrame | None, meter_id: str, weeks: int
) -> list[Chart]:
    """The forecast by hour beside the average of the same hour of week, and by hour of day."""
    zone = here.settings.timezone
    chosen = ahead.hours if ahead.grid is None else ahead.grid
    hours = local(chosen, zone).with_columns(_hour_of_week(pl.col("date_time")))
    if before is not None:
        past = local(before, zone).with_columns(_hour_of_week(pl.col("date_time")))
        usual = past.group_by("hour_of_week").agg(pl.col("kwh").mean().alias("usual"))
        hours = hours.join(usual, on="hour_of_week", how="left", maintain_order="left")
    else:
        hours = hours.with_columns(pl.lit(None, pl.Float64).alias("usual"))
    drawn = charts.over_time("kWh per hour", height=340)
    if hours["p10"].is_not_null().any():
        charts.band(drawn, hours, "date_time", ("p10", "p90"), label="p10 to p90",
                    color=charts.ORANGE)  # fmt: skip
    charts.line(drawn, Values(hours, "date_time", "mean"), label="forecast", color=charts.ORANGE)
    average = f"{weeks} weeks before"
    if before is not None:
        charts.line(drawn, Values(hours, "date_time", "usual"), label=average)
    whose = "" if meter_id or ahead.grid is None else (
        f"The {int(ahead.grid['meters'].max()):,} meters below the grid's transformers. "  # type: ignore[arg-type]
    )  # fmt: skip
    of_day = (
        hours.group_by(pl.col("date_time").dt.hour().alias("hour"))
        .agg(pl.col("mean").mean().alias("forecast"), pl.col("usual").mean().alias("average"))
        .sort("hour")
    )
    by_day = charts.over_numbers(
        "hour of day", "kWh per hour",
        hover=[("hour", "@hour"), ("forecast", "@forecast{0,0.00} kWh"),
               ("average", "@average{0,0.00} kWh")],
    )  # fmt: skip
    by_day.xaxis.ticker = list(range(0, 24, 3))
    drawn.xaxis.ticker = DaysTicker(days=list(range(1, 32)))
    drawn.xaxis.formatter = DatetimeTickFormatter(days="%a\n%d", months="%a\n%d", years="%a\n%d")
    pairs = [("forecast", "forecast", charts.ORANGE, 0.2)]
    if before is not None:
        pairs.insert(0, ("average", average, charts.BLUE, -0.2))
    for name, label, color, shift in pairs:
        charts.bars(by_day, Values(of_day, "hour", name), label=label, color=color,
                    width=0.38, shift=shift)  # fmt: skip
    table = of_day.rename(
        {"forecast": "forecast [kWh]", "average": f"average of the {average} [kWh]"}
    )
    all_hours = hours.select(
        pl.col("date_time").alias("hour"), pl.col("mean").alias("forecast [kWh]"),
        pl.col("p10").alias("p10 [kWh]"), pl.col("p90").alias("p90 [kWh]"),
        pl.col("usual").alias(f"average of the {average} [kWh]"),
    )  # fmt: skip
    return [
        Chart("hours", "The week by hour", charts.finished(drawn),
              f"{whose}The average is of the same hour of the week.", all_hours),
        Chart("day", "The mean day by hour", charts.finished(by_day),
              f"{whose}Mean of the days of the week.", table),
    ]  # fmt: skip


def _hour_of_week(moment: pl.Expr) -> pl.Expr:
    return ((moment.dt.weekday().cast(pl.Int32) - 1) * 24 + moment.dt.hour()).alias("hour_of_week")
