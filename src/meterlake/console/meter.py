"""Meter: load, forecast, anomalous days, voltage, energy, outages and what is upstream of it."""

from datetime import date, datetime, timedelta
from typing import Annotated, Any, Literal
from urllib.parse import quote

import polars as pl
from fastapi import Query, Request, Response

from meterlake.console import charts
from meterlake.console.charts import Chart, Values
from meterlake.console.pages import (
    a_day,
    in_order,
    link,
    local,
    page,
    router,
    shown_days,
)
from meterlake.console.sign_in import Looks
from meterlake.errors import BadInput
from meterlake.questions.question import Value
from meterlake.readings.consumption import read_consumption
from meterlake.serve.meters import forecast_of, known_or_refused
from meterlake.serve.state import Here, Served

DAYS = 14  # shown unless asked for others
MOST_DAYS = 400
FOUND = 25  # meters that a search shows

_KINDS = (
    ("power_grid", "Grid"),
    ("substation", "Substation"),
    ("distribution_transformer", "Distribution transformer"),
    ("service_transformer", "Service transformer"),
)
_MILLIS_OF = {"day": 86_400_000, "week": 7 * 86_400_000, "month": 28 * 86_400_000}


@router.get("/console/meter")
def meter(
    request: Request,
    here: Here,
    _: Looks,
    meter_id: Annotated[str, Query(max_length=200)] = "",
    search: Annotated[str, Query(max_length=200)] = "",
    first: Annotated[str, Query(alias="from")] = "",
    last: Annotated[str, Query(alias="to")] = "",
    by: Literal["day", "week", "month"] = "day",
) -> Response:
    """One meter, or those that a search finds."""
    if not meter_id:
        return _searched(request, here, search)
    known_or_refused(here, meter_id)
    window = _window(here, meter_id, a_day(first, "from"), a_day(last, "to"))
    start, end = here.start_of(window[0]), here.end_of(window[1])
    places = here.ask("meters", meter_id=meter_id)
    read = here.reader.readings([meter_id], reading_types=["kw", "vltg"], start=start, end=end)
    energy = read_consumption(
        here.reader, [meter_id], by=by, zone=here.settings.timezone,
        start=window[0], end=window[1] + timedelta(days=1),
    )  # fmt: skip
    days: dict[str, Value] = {"from": window[0], "to": window[1]}
    odd = here.ask("anomalies", meter_id=meter_id, include_normal=True, **days)
    ahead, no_forecast = _ahead(here, meter_id, end)
    place = places.row(0, named=True) if places.height else None
    kw = read.filter(pl.col("reading_type") == "kw")
    return page(
        request,
        here,
        "meter.html",
        meter_id=meter_id,
        first=window[0],
        last=window[1],
        by=by,
        days=shown_days(
            request,
            window,
            usual=f"the {DAYS} days up to the newest reading of any meter",
            there=_there(here, place),
            most=MOST_DAYS,
        ),
        place=place,
        way=[(kind, title) for kind, title in _KINDS],
        energy=energy,
        energy_kwh=energy["energy_kwh"].sum() if energy.height else None,
        highest=kw["reading_value"].max(),
        readings=kw.height,
        odd=_odd_days(odd),
        outages=_outages(here, meter_id, start, end),
        no_forecast=no_forecast,
        price=here.settings.serve.price_per_kwh,
        charts=[
            _load(here, meter_id, kw, ahead, odd, window),
            _energy(energy, by, odd),
            _voltage(here, meter_id, read.filter(pl.col("reading_type") == "vltg"), window),
        ],
    )


def _searched(request: Request, here: Served, search: str) -> Response:
    """The meters that a search finds."""
    found = here.ask_first("meters", FOUND, search=search.strip() or None)
    return page(
        request, here, "meters.html",
        found=found.rows, more=found.after is not None, search=search, charts=[],
    )  # fmt: skip


def _window(
    here: Served, meter_id: str, first: date | None, last: date | None
) -> tuple[date, date]:
    """The local days to show: as asked, else the last ones that have readings."""
    if last is None:
        last = _newest_day(here)
        if first is not None:
            last = max(last, first)
    if first is None:
        first = last - timedelta(days=DAYS - 1)
    in_order(first, last, most=MOST_DAYS)
    return first, last


def _newest_day(here: Served) -> date:
    newest = here.reader.newest("kw")
    return here.local_day(here.now() if newest is None else newest)


def _ahead(here: Served, meter_id: str, end: datetime) -> tuple[pl.DataFrame | None, str | None]:
    """The forecast after the window, where the window ends with the readings; or why not."""
    newest = here.reader.newest("kw")
    if newest is None or end <= newest:
        return None, None
    try:
        return forecast_of(here, meter_id, None, None), None
    except BadInput as error:
        return None, str(error)


def _there(here: Served, place: dict[str, Any] | None) -> tuple[date, date] | None:
    """First and last day of which there is something to show."""
    if place is None or place["first_day"] is None:
        return None
    return place["first_day"], max(place["last_day"], _newest_day(here))


def _odd_days(odd: pl.DataFrame) -> pl.DataFrame:
    """The days out of the ordinary, with their energy and what was expected."""
    return odd.filter(pl.col("anomaly") != 0).select(
        pl.col("ds").alias("day"),
        "kind",
        pl.col("consumption").alias("consumption [kWh]"),
        pl.col("yhat").alias("expected [kWh]"),
        pl.col("yhat_lower").alias("from [kWh]"),
        pl.col("yhat_upper").alias("to [kWh]"),
        "importance",
    )


def _outages(here: Served, meter_id: str, start: datetime, end: datetime) -> pl.DataFrame:
    moments: dict[str, Value] = {"from": start, "to": end}
    found = here.ask("outages", level="meter", id=meter_id, include_parts=True, **moments)
    length = pl.col("minutes").alias("length [min]")
    return found.select("start", "end", length, "evidence", "part_of")


def _load(
    here: Served,
    meter_id: str,
    kw: pl.DataFrame,
    ahead: pl.DataFrame | None,
    odd: pl.DataFrame,
    window: tuple[date, date],
) -> Chart:
    zone = here.settings.timezone
    drawn = charts.over_time("kW", height=340)
    rows = local(_with_gaps(kw), zone)
    charts.line(drawn, Values(rows, "reading_date_time", "reading_value"), label="power")
    if ahead is not None:
        band = local(ahead, zone)
        charts.band(drawn, band, "date_time", ("p10", "p90"), label="forecast, p10 to p90",
                    color=charts.ORANGE)  # fmt: skip
        charts.line(
            drawn, Values(band, "date_time", "p50"), label="forecast, median", color=charts.ORANGE
        )
    marked = odd.filter(pl.col("anomaly") != 0)
    if marked.height:
        top = float(kw["reading_value"].max() or 0.0)  # type: ignore[arg-type]
        at = marked.select(
            (pl.col("day_start") + pl.duration(hours=12)).alias("at"),
            pl.lit(top).alias("top"),
            "kind",
        )
        charts.points(
            drawn, Values(local(at, zone), "at", "top"), label="anomaly", marker="inverted_triangle"
        )
    told = "Mean power of each interval; negative is export."
    more = _readings(here, meter_id, "kw", window)
    return Chart("load", "Load", charts.finished(drawn), told, href=more)


def _energy(energy: pl.DataFrame, by: str, odd: pl.DataFrame) -> Chart:
    drawn = charts.over_time("kWh", hover=[("from", "@date{%F}"), ("energy", "@energy_kwh{0.0}")])
    rows = energy.select("date", "energy_kwh", "is_complete")
    for is_complete, label, color in (
        (True, "complete", charts.BLUE),
        (False, "not complete", charts.GREY),
    ):
        some = rows.filter(pl.col("is_complete") == is_complete)
        if some.height:
            middle = some.with_columns(
                pl.col("date").cast(pl.Datetime("ms")).dt.offset_by("12h" if by == "day" else "0h")
            )
            charts.bars(drawn, Values(middle, "date", "energy_kwh"), label=label, color=color,
                        width=0.8 * _MILLIS_OF[by])  # fmt: skip
    if by == "day" and odd.height:
        band = odd.with_columns(pl.col("ds").cast(pl.Datetime("ms")).dt.offset_by("12h"))
        charts.band(
            drawn, band, "ds", ("yhat_lower", "yhat_upper"), label="expected", color=charts.GREEN
        )
    table = rows.rename({"date": "from", "energy_kwh": "energy [kWh]", "is_complete": "complete"})
    return Chart(
        "energy", f"Energy per {by}", charts.finished(drawn),
        "Bars that are not complete lack readings.", table,
    )  # fmt: skip


def _voltage(
    here: Served, meter_id: str, voltage: pl.DataFrame, window: tuple[date, date]
) -> Chart:
    of = here.settings.grid
    drawn = charts.over_time("V")
    rows = local(_with_gaps(voltage), here.settings.timezone)
    charts.line(
        drawn,
        Values(rows, "reading_date_time", "reading_value"),
        label="voltage",
        color=charts.GREEN,
    )
    for label, level in (
        ("lower limit", of.nominal_voltage_v * (1 - of.voltage_low_percent / 100)),
        ("upper limit", of.nominal_voltage_v * (1 + of.voltage_high_percent / 100)),
    ):
        ends = rows.select(
            pl.concat(
                [pl.col("reading_date_time").min().alias("t"), pl.col("reading_date_time").max()]
            ),
        ).with_columns(pl.lit(level).alias("v"))
        charts.line(drawn, Values(ends, "t", "v"), label=label, color=charts.RED, width=1)
    told = "With the limits of the settings."
    more = _readings(here, meter_id, "vltg", window)
    return Chart("voltage", "Voltage", charts.finished(drawn), told, href=more)


def _readings(here: Served, meter_id: str, reading_type: str, window: tuple[date, date]) -> str:
    bounds = {"from": here.start_of(window[0]), "to": here.end_of(window[1])}
    asked = {name: moment.isoformat() for name, moment in bounds.items()}
    path = f"/meters/{quote(meter_id, safe='')}/readings"
    return link(path, reading_type=reading_type, **asked)


def _with_gaps(readings: pl.DataFrame) -> pl.DataFrame:
    """Readings with a null in each gap, so that a line is interrupted there."""
    rows = readings.select("reading_date_time", "reading_value").sort("reading_date_time")
    step = rows["reading_date_time"].diff().median()
    if not isinstance(step, timedelta):
        return rows
    gaps = rows.filter(pl.col("reading_date_time").diff().shift(-1) > 1.5 * step).select(
        (pl.col("reading_date_time") + step).alias("reading_date_time"),
        pl.lit(None, pl.Float64).alias("reading_value"),
    )
    return pl.concat([rows, gaps]).sort("reading_date_time")
