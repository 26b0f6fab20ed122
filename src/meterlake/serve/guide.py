"""The requests of the guide's implementation, as its users know them, rightly answered.

Paths, parameters and fields are the guide's; `reading_date_to` includes that whole local day, the
forecast is the median with its band beside it, anomalies are dips and spikes, and all is in the
order of time.
"""

from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Annotated, Literal

import polars as pl
from fastapi import APIRouter, Depends, Path, Query, Request, Response

from meterlake.periods import By
from meterlake.questions.question import Part, Value, ask, states_of, version_of
from meterlake.questions.registry import QUESTIONS
from meterlake.readings.layout import meets
from meterlake.schema import (
    ANOMALIES,
    CONSUMPTION_DAILY,
    FORECASTS,
    OUTAGES,
    READINGS,
    STAGING,
    Column,
)
from meterlake.serve.access import needs
from meterlake.serve.answers import LONGEST_CURSOR, Refused, is_known, rows_answer
from meterlake.serve.meters import (
    MeterId,
    ReadingsPage,
    forecast_of,
    known_or_refused,
    readings_answer,
)
from meterlake.serve.openapi import MOST_ROWS, problems, rows_told
from meterlake.serve.questions import LONGEST
from meterlake.serve.state import Here

HOURS_AHEAD = 72

Day = Annotated[
    str, Query(pattern=r"^\d{8}$", description="Local day, yyyyMMdd", examples=["20240131"])
]
Cursor = Annotated[
    str | None,
    Query(max_length=LONGEST_CURSOR, description="Where the page begins: see the header Link"),
]
Year = Annotated[
    str, Query(pattern=r"^[1-9]\d{3}$", description="Local year, yyyy", examples=["2024"])
]

router = APIRouter(tags=["guide"], dependencies=[Depends(needs("read"))])


def _columns(of: tuple[Column, ...], **names: str) -> tuple[Column, ...]:
    """Columns under other names: new name, old name."""
    by_name = {c.name: c for c in of}
    return tuple(
        Column(new, by_name[old].type, by_name[old].unit, by_name[old].meaning)
        for new, old in names.items()
    )


_READING = _columns(
    READINGS.columns,
    meter_id="meter_id",
    reading_value="reading_value",
    reading_date_time="reading_date_time",
    reading_type="reading_type",
)
_FORECAST = _columns(
    FORECASTS.columns, date_time="date_time", consumption="p50", p10="p10", p90="p90", mean="mean"
)
_ANOMALY = _columns(
    ANOMALIES.columns,
    anomaly_date="ds",
    meter_id="meter_id",
    consumption="consumption",
    anomaly_importance="importance",
    anomaly="anomaly",
)
_PERIOD = _columns(
    CONSUMPTION_DAILY.columns,
    meter_id="meter_id",
    date="date",
    consumption="energy_kwh",
    is_complete="is_complete",
)
_OUTAGE = (
    *_columns(OUTAGES.columns, meter_id="id", reading_date_time="start"),
    Column("lat", "double", "°", "Degrees north (WGS 84)"),
    Column("long", "double", "°", "Degrees east (WGS 84)"),
)


@router.get(
    "/consumption/{meter_id}",
    summary="A meter's power [kW] of each interval",
    responses={**rows_told(_READING), **problems(404)},
    response_class=Response,
)
def consumption(
    request: Request,
    meter_id: MeterId,
    reading_date_from: Day,
    reading_date_to: Day,
    here: Here,
    cursor: Cursor = None,
) -> Response:
    """Readings of type kw from the first day to the end of the last."""
    wanted = _days(here, "kw", reading_date_from, reading_date_to, cursor)
    return readings_answer(request, here, meter_id, wanted)


@router.get(
    "/voltage/{meter_id}",
    summary="A meter's voltage [V] of each interval",
    responses={**rows_told(_READING), **problems(404)},
    response_class=Response,
)
def voltage(
    request: Request,
    meter_id: MeterId,
    reading_date_from: Day,
    reading_date_to: Day,
    here: Here,
    cursor: Cursor = None,
) -> Response:
    """Readings of type vltg from the first day to the end of the last."""
    wanted = _days(here, "vltg", reading_date_from, reading_date_to, cursor)
    return readings_answer(request, here, meter_id, wanted)


@router.get(
    "/consumption/{by}/{year}/{meter_id}",
    summary="A meter's energy [kWh] per day, week or month of a year",
    responses={**rows_told(_PERIOD), **problems(404)},
    response_class=Response,
)
def energy(
    request: Request,
    by: Annotated[
        Literal["daily", "weekly", "monthly"], Path(description="Length of the local periods")
    ],
    year: Annotated[int, Path(ge=1900, le=9998, description="Local year, yyyy", examples=["2024"])],
    meter_id: MeterId,
    here: Here,
) -> Response:
    """Energy of the local periods that begin in the year; of weeks all that lie in it in part."""
    periods: dict[str, By] = {"daily": "day", "weekly": "week", "monthly": "month"}
    version = f"{here.version_of_readings()}-{here.settings.timezone}"
    if (known := is_known(request, version)) is not None:
        return known
    first, end = date(year, 1, 1), date(year + 1, 1, 1)
    rows = here.consumption(meter_id, by=periods[by], start=first, end=end)
    if rows.is_empty():
        known_or_refused(here, meter_id)
    told = rows.select("meter_id", "date", pl.col("energy_kwh").alias("consumption"), "is_complete")
    return rows_answer(request, told, etag=version)


@router.get(
    "/forecast/{meter_id}",
    summary="A meter's energy [kWh] of each of the next 72 hours",
    responses={**rows_told(_FORECAST), **problems(404)},
    response_class=Response,
)
def forecast(
    request: Request,
    meter_id: MeterId,
    here: Here,
    forecast_start: Annotated[
        str | None,
        Query(
            pattern=r"^\d{14}$",
            description="First hour, yyyyMMddHHmmss in UTC; left out: after the last reading",
        ),
    ] = None,
) -> Response:
    """`consumption` is the median."""
    start = None
    if forecast_start is not None:
        start = _moment("forecast_start", forecast_start).replace(tzinfo=UTC)
    rows = forecast_of(here, meter_id, start, None).sort("date_time").head(HOURS_AHEAD)
    told = rows.select("date_time", pl.col("p50").alias("consumption"), "p10", "p90", "mean")
    return rows_answer(request, told)


@router.get(
    "/anomaly/{meter_id}",
    summary="A meter's days of a year that are out of the ordinary",
    responses={**rows_told(_ANOMALY), **problems(404)},
    response_class=Response,
)
def anomaly(request: Request, meter_id: MeterId, year: Year, here: Here) -> Response:
    """Dips (anomaly -1) and spikes (1)."""
    question = QUESTIONS["anomalies"]
    states = states_of(here.store, question)
    version = version_of(states)
    if (known := is_known(request, version)) is not None:
        return known
    asked: dict[str, Value] = {
        "meter_id": meter_id,
        "from": date(int(year), 1, 1),
        "to": date(int(year), 12, 31),
    }
    rows = ask(here.store, question, asked, settings=here.settings, states=states).rows
    if rows.is_empty():
        known_or_refused(here, meter_id)
    told = rows.select(
        pl.col("ds").alias("anomaly_date"),
        "meter_id",
        "consumption",
        pl.col("importance").alias("anomaly_importance"),
        "anomaly",
    )
    return rows_answer(request, told, etag=version)


@router.get(
    "/outage",
    summary="Meters that were out, when and where",
    responses=rows_told(_OUTAGE),
    response_class=Response,
)
def outage(
    request: Request,
    start_date_time: Annotated[
        str, Query(pattern=r"^\d{14}$", description="First moment, local, yyyyMMddHHmmss")
    ],
    end_date_time: Annotated[
        str, Query(pattern=r"^\d{14}$", description="End, not included, local, yyyyMMddHHmmss")
    ],
    here: Here,
    error_code: Annotated[
        str | None,
        Query(max_length=LONGEST, description="Reads with this quality flag, in place of outages"),
    ] = None,
) -> Response:
    """Each meter's outages that start in the window, or its reads with a quality flag."""
    start = here.aware(_moment("start_date_time", start_date_time))
    end = here.aware(_moment("end_date_time", end_date_time))
    if start >= end:
        raise Refused(400, "end_date_time needs to be after start_date_time")
    question = QUESTIONS["flagged-reads" if error_code else "meter-outages"]
    states = states_of(here.store, question)
    version = version_of(states)
    if (known := is_known(request, version)) is not None:
        return known
    asked: dict[str, Value] = {"from": start, "to": end}
    if error_code:
        asked["quality"] = error_code
        staging = states[STAGING.name]
        files = tuple(f for f in staging.files if meets(f, start, end))
        states = {**states, STAGING.name: replace(staging, files=files)}
    part = Part(MOST_ROWS + 1)
    found = ask(here.store, question, asked, settings=here.settings, part=part, states=states).rows
    rows = found.select(
        "meter_id",
        pl.col("reading_date_time" if error_code else "start").alias("reading_date_time"),
        pl.col("latitude").alias("lat"),
        pl.col("longitude").alias("long"),
    )
    if rows.height > MOST_ROWS:
        raise Refused(400, f"The window has more than {MOST_ROWS:,} rows", "Ask for a shorter one")
    return rows_answer(request, rows, etag=version)


def _days(here: Here, reading_type: str, first: str, last: str, cursor: str | None) -> ReadingsPage:
    """The readings of a type from the first day to the end of the last."""
    days = [_day(*each) for each in (("reading_date_from", first), ("reading_date_to", last))]
    if days[0] > days[1]:
        raise Refused(400, f"reading_date_to needs to be {first} or later; found {last}")
    start, end = here.start_of(days[0]), here.end_of(days[1])
    columns = [c.name for c in _READING]
    return ReadingsPage(reading_type, start, end, columns, MOST_ROWS, cursor)


def _day(name: str, text: str) -> date:
    return _moment(name, f"{text}000000").date()


def _moment(name: str, text: str) -> datetime:
    try:
        moment = datetime.strptime(text, "%Y%m%d%H%M%S")  # noqa: DTZ007  (local)
        if not 1900 <= moment.year < 9999:
            raise ValueError
    except ValueError as error:
        raise Refused(422, f"{name} needs to be a date of the calendar; found {text}") from error
    return moment
