"""What is asked of the lake as a whole: its tables and its settings."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Path
from pydantic import BaseModel, Field

from meterlake import __version__
from meterlake.errors import BadInput
from meterlake.questions import catalog
from meterlake.serve.access import needs
from meterlake.serve.answers import Refused
from meterlake.serve.openapi import problems
from meterlake.serve.questions import LONGEST
from meterlake.serve.state import Here
from meterlake.settings import settings_table

router = APIRouter(tags=["lake"], dependencies=[Depends(needs("read"))])


class LakeTold(BaseModel):
    """What holds for the whole lake."""

    version: str = Field(description="Version of meterlake")
    timezone: str = Field(description="IANA zone of local days")
    price_per_kwh: float = Field(description="Price of energy [currency/kWh]")
    currency: str = Field(description="ISO 4217 code of the currency")


TableName = Annotated[
    str, Path(description="Name of a table or view", examples=["consumption_daily"])
]


class TableTold(BaseModel):
    """One table or view of the catalog."""

    table: str = Field(description="Its name in SQL")
    rows: int | None = Field(description="Number of rows; null: a view")
    files: int | None = Field(description="Number of Parquet files")
    bytes: int | None = Field(description="Their size [B]")
    newest: datetime | None = Field(description="Largest value of its time column [UTC]")
    version: int | None = Field(description="Version of the Delta table; null: not there yet")
    path: str | None = Field(description="Its path below the lake")
    made_from: str | None = Field(description="Names of the tables that it is derived from")
    meaning: str = Field(description="What it holds")


class ColumnTold(BaseModel):
    """One column of a table."""

    column: str = Field(description="Its name")
    type: str = Field(description="Its type")
    unit: str = Field(description="Its unit")
    partition: bool = Field(description="Whether files are laid out by it")
    meaning: str = Field(description="What it says")


@router.get("/about", summary="The lake's zone, and the price that costs are shown with")
def about(here: Here) -> LakeTold:
    """What a dashboard needs to know besides the rows."""
    of = here.settings.serve
    return LakeTold(
        version=__version__,
        timezone=here.settings.timezone,
        price_per_kwh=of.price_per_kwh,
        currency=of.currency,
    )


@router.get("/catalog", summary="The lake's tables and views", responses=problems())
def tables(here: Here) -> list[TableTold]:
    """Rows, files, bytes, newest time and version of each, from the logs alone."""
    return [TableTold.model_validate(row) for row in catalog.tables(here.store)]


@router.get("/catalog/{table}", summary="A table's columns", responses=problems(404))
def columns(table: TableName, here: Here) -> list[ColumnTold]:
    """Each column's type, unit and meaning."""
    try:
        return [ColumnTold.model_validate(row) for row in catalog.describe(table[:LONGEST])]
    except BadInput as error:
        raise Refused(404, str(error)) from error


@router.get(
    "/settings",
    summary="The server's settings, secrets hidden",
    dependencies=[Depends(needs("admin"))],
    responses=problems(),
)
def settings(here: Here) -> list[dict[str, str]]:
    """Each setting's value, default and meaning."""
    return settings_table(here.settings)
