"""What is asked of one meter: its place, readings, energy, forecast."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any

import polars as pl
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

from meterlake.delta.commit import snapshot
from meterlake.delta.table import fetched, scan
from meterlake.errors import BadInput
from meterlake.forecast import models
from meterlake.periods import By, check_days
from meterlake.questions.question import Value
from meterlake.questions.registry import QUESTIONS
from meterlake.schema import (
    CONSUMPTION_MONTHLY,
    FORECASTS,
    POWER_TYPES,
    READING_TYPES,
    READINGS,
)
from meterlake.serve.access import needs
from meterlake.serve.answers import LONGEST_CURSOR, Refused, from_cursor, is_known, rows_answer
from meterlake.serve.openapi import EXAMPLE_METER, MOST_ROWS, LocalDate, Moment, problems, rows_told
from meterlake.serve.questions import LONGEST
from meterlake.serve.state import Here, Served

MeterId = Annotated[
    str,
    Path(
        min_length=1,
        max_length=LONGEST,
        description="Identifier of the meter",
        examples=[EXAMPLE_METER],
    ),
]


def _one_of(names: Collection[str]) -> tuple[AfterValidator, WithJsonSchema]:
    """What a parameter that is one of some names is annotated with."""

    def known(name: str) -> str:
        if name not in names:
            raise ValueError(f"Input should be one of {', '.join(names)}")
        return name

    return AfterValidator(known), WithJsonSchema({"type": "string", "enum": list(names)})


ReadingTypeName = Annotated[str, *_one_of(tuple(READING_TYPES))]
PowerTypeName = Annotated[str, *_one_of(POWER_TYPES)]

_READ = tuple(
    c
    for name in (
        "meter_id",
        "reading_type",
        "reading_date_time",
        "reading_value",
        "unit",
        "quality",
    )
    for c in READINGS.columns
    if c.name == name
)
_ENERGY = CONSUMPTION_MONTHLY.file_columns
_FORECAST = tuple(c for c in FORECASTS.columns if c.name != "start")

_DAY = timedelta(days=1)

router = APIRouter(tags=["meters"], dependencies=[Depends(needs("read"))])


class ReadingsAsked(BaseModel):
    """A type and a half-open window."""

    model_config = ConfigDict(extra="forbid")

    reading_type: ReadingTypeName = Field("kw", description="Kind of reading")
    start: Moment | None = Field(None, alias="from", description="First moment, included")
    end: Moment | None = Field(None, alias="to", description="End, not included")
    limit: int = Field(10_000, ge=1, le=MOST_ROWS, description="Most rows of a page")
    cursor: str | None = Field(
        None, max_length=LONGEST_CURSOR, description="Where the page begins: see the header Link"
    )


class ConsumptionAsked(BaseModel):
    """Local periods of energy."""

    model_config = ConfigDict(extra="forbid")

    by: By = Field("day", description="Length of the local periods; weeks are ISO weeks")
    reading_type: PowerTypeName = Field("kw", description="A register of power")
    start: LocalDate | None = Field(None, alias="from", description="First local day")
    end: LocalDate | None = Field(None, alias="to", description="Last local day, included")


class ForecastAsked(BaseModel):
    """When a forecast begins, and whose it is."""

    model_config = ConfigDict(extra="forbid")

    start: Moment | None = Field(
        None, description="First hour; left out: the hour after the last reading"
    )
    model: str | None = Field(
        None, max_length=LONGEST, description="Name of the model; left out: the current one"
    )


@router.get(
    "/meters/{meter_id}",
    summary="One meter's place in the grid, and since when it has energy",
    responses={
        200: {"description": "As a row of /meters", "content": {"application/json": {}}},
        **problems(404),
    },
)
def meter(meter_id: MeterId, here: Here) -> dict[str, Any]:
    """One row of /meters; 404 where neither the topology nor the readings know the meter."""
    rows = _known(here, meter_id)
    if rows.is_empty():
        known_or_refused(here, meter_id)
        columns = QUESTIONS["meters"].columns
        return {**dict.fromkeys(c.name for c in columns), "meter_id": meter_id, "days": 0}
    return rows.row(0, named=True)


@router.get(
    "/meters/{meter_id}/readings",
    summary="One meter's readings of a type, by time",
    responses={**rows_told(_READ), **problems(404)},
    response_class=Response,
)
def readings(
    request: Request, meter_id: MeterId, asked: Annotated[ReadingsAsked, Query()], here: Here
) -> Response:
    """Readings in a half-open window; times without an offset are in the lake's zone."""
    window = here.window(asked.start, asked.end)
    wanted = ReadingsPage(
        asked.reading_type, *window, [c.name for c in _READ], asked.limit, asked.cursor
    )
    return readings_answer(request, here, meter_id, wanted)


@dataclass(frozen=True)
class ReadingsPage:
    """Which of a meter's readings a page has: a type, a half-open window, columns, at most so many.

    `cursor` says where the page begins; None: at the start of the window.
    """

    reading_type: str
    start: datetime | None
    end: datetime | None
    columns: Sequence[str]
    limit: int
    cursor: str | None


def readings_answer(
    request: Request, here: Served, meter_id: str, wanted: ReadingsPage
) -> Response:
    """A page of one meter's readings."""
    start = wanted.start
    if wanted.cursor is not None:
        (last,) = from_cursor(request, wanted.cursor, 1)
        if not isinstance(last, datetime):
            raise Refused(400, "cursor needs to be that of the Link header of the page before")
        start = last
    found = here.reader.find(
        [meter_id], reading_types=[wanted.reading_type], start=start, end=wanted.end
    )
    if (known := is_known(request, found.version)) is not None:
        return known
    rows = found.rows(wanted.columns)
    if rows.is_empty():
        known_or_refused(here, meter_id)
    after: tuple[Value, ...] | None = None
    if rows.height > wanted.limit:
        rows = rows.head(wanted.limit)
        after = (rows["reading_date_time"][-1] + timedelta(microseconds=1),)
    return rows_answer(request, rows, etag=found.version, after=after)


@router.get(
    "/meters/{meter_id}/consumption",
    summary="One meter's energy per local day, week or month",
    responses={**rows_told(_ENERGY), **problems(404)},
    response_class=Response,
)
def consumption(
    request: Request, meter_id: MeterId, asked: Annotated[ConsumptionAsked, Query()], here: Here
) -> Response:
    """Energy of local periods; weeks and months that the window touches are whole."""
    version = f"{here.version_of_readings()}-{here.settings.timezone}"
    if (known := is_known(request, version)) is not None:
        return known
    check_days(asked.start, asked.end, includes_end=True)
    rows = here.consumption(
        meter_id,
        by=asked.by,
        reading_type=asked.reading_type,
        start=asked.start,
        end=None if asked.end is None or asked.end.year == 9999 else asked.end + _DAY,
    )
    if rows.is_empty():
        known_or_refused(here, meter_id)
    return rows_answer(request, rows.select(c.name for c in _ENERGY), etag=version)


@router.get(
    "/meters/{meter_id}/forecast",
    summary="One meter's energy of the next 168 hours, as a model expects it",
    responses={**rows_told(_FORECAST), **problems(404)},
    response_class=Response,
)
def forecast(
    request: Request, meter_id: MeterId, asked: Annotated[ForecastAsked, Query()], here: Here
) -> Response:
    """The stored forecast of that start and model; where there is none, one made now."""
    start = None if asked.start is None else here.aware(asked.start)
    rows = forecast_of(here, meter_id, start, asked.model)
    return rows_answer(request, rows.select(c.name for c in _FORECAST))


def forecast_of(
    here: Served, meter_id: str, start: datetime | None, model: str | None
) -> pl.DataFrame:
    """A meter's forecast, stored or made now: rows as in the table forecasts."""
    try:
        if start is not None:
            stored = _stored(here, meter_id, start, model)
            if not stored.is_empty():
                return stored.sort("date_time")
        return here.forecast(meter_id, start=start, use=model)
    except BadInput:
        known_or_refused(here, meter_id)
        raise


def _stored(here: Served, meter_id: str, start: datetime, model: str | None) -> pl.DataFrame:
    name = models.model_row(here.store, model)["name"]
    partition = {"model_name": name, "start": f"{start:%Y%m%d%H%M%S}"}
    files = [f for f in snapshot(here.store, FORECASTS).files if f.partition == partition]
    mine = scan(here.store, FORECASTS, files).filter(pl.col("meter_id") == meter_id)
    return fetched(mine) if files else pl.DataFrame()


def _known(here: Served, meter_id: str) -> pl.DataFrame:
    return here.ask("meters", meter_id=meter_id)


def known_or_refused(here: Served, meter_id: str) -> None:
    """Raise Refused: 404 where the lake knows nothing of a meter."""
    if _known(here, meter_id).is_empty():
        any_readings = here.reader.readings([meter_id], reading_types=list(READING_TYPES))
        if any_readings.is_empty():
            raise Refused(
                404,
                f"The lake has no meter '{meter_id}'",
                "Find meters by part of their id or address: GET /meters?search=",
            )
