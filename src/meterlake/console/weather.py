"""Usage and weather: months beside those of the year before, days by their temperature.

Weather is of UTC hours, energy of local days: an hour counts to the local day that it begins in.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any

import numpy as np
import polars as pl
from bokeh.models import DatetimeTickFormatter, LinearAxis, MonthsTicker, Range1d
from fastapi import Query, Request, Response
from numpy.typing import NDArray

from meterlake.console import charts
from meterlake.console.charts import Chart, Values
from meterlake.console.pages import a_day, a_price, in_order, page, router, shown_days
from meterlake.console.sign_in import Looks
from meterlake.questions.question import Value
from meterlake.serve.meters import known_or_refused
from meterlake.serve.state import Here

YEARS = 3  # of the calendar, up to the newest day with energy, unless asked for others
LEAST_HOURS = 18  # of a day whose temperature counts
LEAST_DAYS, LEAST_SPAN = 30, 5.0  # days, and degrees between them, for a slope to be told
_FEW_LABELS = 4  # months that are told side by side on a small screen
_BAR_MILLIS = 24 * 86_400_000  # of a month
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class UsageAnswer:
    """What the temperature does to a day's energy: `base_kwh`, and more for each degree beyond.

    `heating` is below `heating_from` [°C], `cooling` above `cooling_from`, both in kWh per
    degree; None where it is not seen. Where the line `is_straight` one of them begins where the
    temperatures end. `explained` is the share of the variance, R².
    """

    base_kwh: float
    heating: float | None
    heating_from: float | None
    cooling: float | None
    cooling_from: float | None
    is_straight: bool
    explained: float

    def at(self, temperature: Floats) -> Floats:
        """Energy at temperatures [kWh]."""
        energy = np.full_like(temperature, self.base_kwh)
        if self.heating is not None and self.heating_from is not None:
            energy += self.heating * np.maximum(self.heating_from - temperature, 0)
        if self.cooling is not None and self.cooling_from is not None:
            energy += self.cooling * np.maximum(temperature - self.cooling_from, 0)
        return energy


@router.get("/console/weather")
def weather(
    request: Request,
    here: Here,
    _: Looks,
    first: Annotated[str, Query(alias="from")] = "",
    last: Annotated[str, Query(alias="to")] = "",
    meter_id: Annotated[str, Query(max_length=200)] = "",
    price: str = "",
) -> Response:
    """Energy and temperature of the whole lake or of one meter."""
    meter_id, per_kwh = meter_id.strip(), a_price(here, price)
    if meter_id:
        known_or_refused(here, meter_id)
    oldest, newest = here.ask("consumption-span", meter_id=meter_id or None).row(0)
    asked: dict[str, Any] = {"meter_id": meter_id, "price": per_kwh}
    if newest is None:
        return page(request, here, "weather.html", **asked, days=None, charts=[])
    window = _window(a_day(first, "from"), a_day(last, "to"), oldest, newest)
    of_window: dict[str, Value] = {"from": window[0], "to": window[1]}
    is_enough = pl.col("hours") >= LEAST_HOURS
    temperature = here.ask("temperature-by-day", **of_window).filter(is_enough).drop("hours")
    energy = here.ask("consumption-by-day", meter_id=meter_id or None, **of_window)
    days = _complete_days(energy, temperature)
    paired = days.drop_nulls("temperature")
    months = by_month(days, temperature, per_kwh)
    slope = fitted(paired["temperature"].to_numpy(), paired["mean_kwh"].to_numpy())
    what = "kWh per day" if meter_id else "kWh per meter and day"
    return page(
        request,
        here,
        "weather.html",
        **asked,
        first=window[0],
        last=window[1],
        days=days.height,
        shown=shown_days(
            request,
            window,
            usual="from the first to the last complete one"
            if window[0] == oldest
            else f"the {YEARS} calendar years up to the last complete day",
            there=(oldest, newest),
        ),
        what=what,
        energy_kwh=days["energy_kwh"].sum(),
        meter_days=days["meters"].sum(),
        mean_kwh=float(days["energy_kwh"].sum()) / max(int(days["meters"].sum()), 1),
        mean_temperature=temperature["temperature"].mean() if temperature.height else None,
        days_with_temperature=paired.height,
        years=sorted({month.year for month in months["month"]}),
        months=months,
        slope=slope,
        least=(LEAST_DAYS, LEAST_SPAN),
        charts=list(_charts(months, paired, slope, what)) if days.height else [],
    )


def _window(first: date | None, last: date | None, oldest: date, newest: date) -> tuple[date, date]:
    """The local days to show: as asked, else whole years up to the newest with energy."""
    if last is None:
        last = newest if first is None else max(newest, first)
    if first is None:
        start = date(last.year - YEARS + 1, 1, 1)
        first = max(start, min(oldest, last))
    in_order(first, last)
    return first, last


def _complete_days(energy: pl.DataFrame, temperature: pl.DataFrame) -> pl.DataFrame:
    """The days that are complete of a meter or more, with their temperature where it is known."""
    return (
        energy.filter(pl.col("complete") > 0)
        .select(
            "date",
            pl.col("complete").alias("meters"),
            pl.col("complete_kwh").alias("energy_kwh"),
            "mean_kwh",
        )
        .join(temperature, on="date", how="left", maintain_order="left")
    )


def by_month(days: pl.DataFrame, temperature: pl.DataFrame, price: float) -> pl.DataFrame:
    """Months of the days that have energy, and how they differ from a year before.

    Parameters
    ----------
    days : date, meters (whose day is complete), energy_kwh (theirs)
    temperature : date, temperature [°C]
    price : currency per kWh

    Returns
    -------
    month, days, is_whole, meters (mean of the days), energy_kwh, cost, mean_kwh (per meter and
    day), temperature [°C]; and, where that month and the year before's have all of their days,
    change (share, of mean_kwh) and warmer [K].
    """
    month = pl.col("date").dt.month_start().alias("month")
    of = (
        days.group_by(month)
        .agg(
            pl.len().cast(pl.Int64).alias("days"),
            pl.col("meters").mean(),
            pl.col("energy_kwh").sum(),
            pl.col("meters").sum().alias("meter_days"),
        )
        .join(
            temperature.group_by(month).agg(
                pl.col("temperature").mean(), pl.len().cast(pl.Int64).alias("warm_days")
            ),
            on="month",
            how="left",
        )
        .with_columns(
            (pl.col("days") == pl.col("month").dt.days_in_month()).alias("is_whole"),
            (pl.col("warm_days") == pl.col("month").dt.days_in_month()).alias("is_warm_whole"),
            (pl.col("energy_kwh") * price).alias("cost"),
            (pl.col("energy_kwh") / pl.col("meter_days")).alias("mean_kwh"),
        )
    )
    before = of.select(
        pl.col("month").dt.offset_by("1y"),
        pl.col("is_whole").alias("was_whole"),
        pl.col("is_warm_whole").alias("was_warm_whole"),
        pl.col("mean_kwh").alias("before_kwh"),
        pl.col("temperature").alias("before_temperature"),
    )
    both = pl.col("is_whole") & pl.col("was_whole") & (pl.col("before_kwh") > 0)
    both_warm = pl.col("is_warm_whole") & pl.col("was_warm_whole")
    return (
        of.join(before, on="month", how="left")
        .with_columns(
            pl.when(both).then(pl.col("mean_kwh") / pl.col("before_kwh") - 1).alias("change"),
            pl.when(both_warm)
            .then(pl.col("temperature") - pl.col("before_temperature"))
            .alias("warmer"),
        )
        .sort("month")
    )


def fitted(temperature: Floats, energy: Floats) -> UsageAnswer | None:
    """The answer of days to their temperature: straight lines below and above where it is mild.

    Of no answer, a straight line, heating, cooling, and both, that with the least BIC; where each
    begins is tried degree by degree, and an unknown like its slope. As the change-point models of
    ASHRAE Guideline 14. None: too few days.
    """
    if len(temperature) < LEAST_DAYS or np.ptp(temperature) < LEAST_SPAN:
        return None
    low, high = (int(np.round(q)) for q in np.quantile(temperature, (0.1, 0.9)))
    coldest, warmest = float(temperature.min()), float(temperature.max())
    starts = [float(t) for t in range(low, high + 1)]
    straight = [(warmest, None), (None, coldest)]
    tried: list[tuple[float | None, float | None]] = [(None, None), *straight]
    tried += [(heat, None) for heat in starts]
    tried += [(None, cool) for cool in starts]
    tried += [(heat, cool) for heat in starts for cool in starts if heat < cool]
    count, spread = len(energy), float(np.square(energy - energy.mean()).sum())
    best: tuple[float, UsageAnswer] | None = None
    for heat, cool in tried:
        columns = [np.ones(count)]
        if heat is not None:
            columns.append(np.maximum(heat - temperature, 0))
        if cool is not None:
            columns.append(np.maximum(temperature - cool, 0))
        matrix = np.stack(columns, axis=1)
        found, *_ = np.linalg.lstsq(matrix, energy, rcond=None)
        if (found[1:] <= 0).any():
            continue
        left = float(np.square(energy - matrix @ found).sum())
        is_straight = (heat, cool) in straight
        unknowns = 2 if is_straight else 2 * len(columns) - 1
        bic = count * np.log(max(left, 1e-9) / count) + unknowns * np.log(count)
        if best is None or bic < best[0]:
            slopes = iter(float(each) for each in found[1:])
            answer = UsageAnswer(
                base_kwh=float(found[0]),
                heating=None if heat is None else next(slopes),
                heating_from=heat,
                cooling=None if cool is None else next(slopes),
                cooling_from=cool,
                is_straight=is_straight,
                explained=1 - left / spread if spread > 0 else 0.0,
            )
            best = float(bic), answer
    return None if best is None else best[1]


def _charts(
    months: pl.DataFrame, days: pl.DataFrame, slope: UsageAnswer | None, what: str
) -> Iterator[Chart]:
    yield _years(months, what)
    yield _trend(months, what)
    if days.height:
        yield _scatter(days, slope, what)


def _years(months: pl.DataFrame, what: str) -> Chart:
    """Months side by side, a bar for each year."""
    years = sorted({month.year for month in months["month"]})
    drawn = charts.over_names(
        _MONTHS, what,
        hover=[("month", "@told"), ("energy", "@mean_kwh{0,0.00} " + what),
               ("temperature", "@temperature{0.0} °C"), ("days", "@days")],
    )  # fmt: skip
    width = 0.8 / len(years)
    colors = [*charts.PALETTE[1:], charts.BLUE]
    for number, year in enumerate(years):
        age = years[-1] - year
        color = charts.BLUE if age == 0 else colors[(age - 1) % len(colors)]
        rows = months.filter(pl.col("month").dt.year() == year).select(
            pl.Series([_MONTHS[m.month - 1] for m in months["month"] if m.year == year]).alias(
                "name"
            ),
            pl.col("month").dt.strftime("%Y-%m").alias("told"),
            "mean_kwh", "temperature", "days",
        )  # fmt: skip
        shift = (number - (len(years) - 1) / 2) * width
        charts.bars(drawn, Values(rows, "name", "mean_kwh"), label=str(year), color=color,
                    width=0.95 * width, shift=shift)  # fmt: skip
    drawn.xaxis.major_label_orientation = 0.9
    drawn.y_range.start = min(0.0, float(months["mean_kwh"].min()) * 1.1)  # type: ignore[arg-type]
    told = "Of complete days, so that months and years with other meters or gaps compare."
    return Chart("years", "Months, year over year", charts.finished(drawn), told, href="#months")


def _trend(months: pl.DataFrame, what: str) -> Chart:
    """Months in a row, with their temperature on an axis of its own."""
    drawn = charts.over_time(
        what,
        hover=[("month", "@date{%Y-%m}"), ("energy", "@mean_kwh{0,0.00} " + what),
               ("temperature", "@temperature{0.0} °C")],
    )  # fmt: skip
    rows = months.select(pl.col("month").alias("date"), "mean_kwh", "temperature")
    charts.bars(drawn, Values(rows, "date", "mean_kwh"), label="energy", width=_BAR_MILLIS)
    known = rows.drop_nulls("temperature")
    if known.height:
        _second_axis(drawn, known["temperature"].to_list())
        more: dict[str, Any] = {
            "source": charts.source(known), "y_range_name": "temperature",
            "color": charts.ORANGE, "legend_label": "temperature",
        }  # fmt: skip
        drawn.line("date", "temperature", line_width=2, **more)
        drawn.scatter("date", "temperature", size=7, **more)
    step = next((n for n in (1, 3, 6) if rows.height <= _FEW_LABELS * n), 12)
    drawn.xaxis.ticker = MonthsTicker(months=list(range(0, 12, step)))
    drawn.xaxis.formatter = DatetimeTickFormatter(months="%Y-%m", years="%Y-%m", days="%Y-%m")
    told = "Mean temperature of the month's days, on the axis at the right."
    return Chart(
        "trend", "Trend per month" + (", with the temperature" if known.height else ""),
        charts.finished(drawn), told if known.height else "", href="#months",
    )  # fmt: skip


def _second_axis(drawn: Any, values: Sequence[float]) -> None:
    low, high = min(*values, 0.0), max(*values, 0.0)
    room = 0.15 * max(high - low, 1.0)
    drawn.extra_y_ranges = {
        "temperature": Range1d(start=low if low == 0 else low - room, end=high + room)
    }
    axis = LinearAxis(y_range_name="temperature", axis_label="°C")
    axis.axis_label_text_font_style = "normal"
    axis.axis_label_text_color = axis.major_label_text_color = charts.ORANGE
    axis.major_label_text_font_size = axis.axis_label_text_font_size = "12px"
    axis.axis_line_color = axis.major_tick_line_color = "#9ca3af"
    axis.minor_tick_line_color = None
    drawn.add_layout(axis, "right")


def _scatter(days: pl.DataFrame, slope: UsageAnswer | None, what: str) -> Chart:
    drawn = charts.over_numbers(
        "mean temperature of the local day [°C]", what, height=380,
        hover=[("day", "@told"), ("temperature", "@temperature{0.0} °C"),
               ("energy", "@mean_kwh{0,0.00} " + what)],
    )  # fmt: skip
    is_off = pl.col("date").dt.weekday() >= 6  # from Saturday
    for chosen, label, color in (
        (~is_off, "Monday to Friday", charts.BLUE), (is_off, "weekend", charts.GREEN),
    ):  # fmt: skip
        some = days.filter(chosen).with_columns(
            pl.col("date").dt.strftime("%Y-%m-%d").alias("told")
        )
        if some.height:
            rows = some.select("told", "temperature", "mean_kwh")
            charts.points(
                drawn, Values(rows, "temperature", "mean_kwh"), label=label, color=color, size=6
            )
    if slope is not None:
        known = days["temperature"].to_numpy()
        at = np.linspace(known.min(), known.max(), 200)
        fit = pl.DataFrame({"temperature": at, "fit": slope.at(at)})
        charts.line(drawn, Values(fit, "temperature", "fit"), label="fitted", color=charts.RED)
    table = days.select(
        "date", pl.col("temperature").alias("temperature [°C]"), pl.col("mean_kwh").alias(what)
    )
    return Chart(
        "days", "Days by their temperature", charts.finished(drawn), "A point is a day.", table
    )
