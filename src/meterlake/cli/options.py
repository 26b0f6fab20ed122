"""What the commands share: options, the lake of a command, and texts to values."""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, assert_never

import typer

from meterlake import terminal
from meterlake.errors import BadInput, MeterlakeError
from meterlake.periods import to_utc
from meterlake.settings import EngineName, load_settings

if TYPE_CHECKING:
    from meterlake.lake import Lake


class Output(StrEnum):
    """How a command prints its result."""

    table = "table"
    json = "json"


class TableOutput(StrEnum):
    """How a command prints rows."""

    table = "table"
    csv = "csv"
    json = "json"
    parquet = "parquet"


class By(StrEnum):
    """Length of a local period."""

    day = "day"
    week = "week"
    month = "month"


class Clock(StrEnum):
    """What a read had to do by the moment of --as-of."""

    arrival = "arrival"
    receipt = "receipt"


LakeOption = Annotated[
    str | None,
    typer.Option("--lake", metavar="URL", help="The lake: a folder or s3://bucket/prefix."),
]


EngineOption = Annotated[
    EngineName | None,
    typer.Option("--engine", help="Where the work runs: this process, or a Spark cluster."),
]


MasterOption = Annotated[
    str | None,
    typer.Option(
        "--spark-master",
        metavar="URL",
        help="local[2], spark://host:7077, yarn, …; default: what spark-submit set.",
    ),
]


OutputOption = Annotated[Output, typer.Option("--output", help="A table, or one JSON object.")]


RowsOption = Annotated[TableOutput, typer.Option("--output", help="How to print the rows.")]


AsOfOption = Annotated[
    str | None,
    typer.Option("--as-of", help="Only what had arrived by this moment."),
]


ClockOption = Annotated[
    Clock,
    typer.Option(help="As-of clock: arrival at the source system, or receipt by this lake."),
]


@contextmanager
def plain_errors() -> Iterator[None]:
    """Our errors become one sentence and an exit code; others are bugs and stay whole."""
    try:
        yield
    except MeterlakeError as error:
        print(f"meterlake: {error}", file=sys.stderr)
        raise typer.Exit(1 if isinstance(error, BadInput) else 3) from error
    except KeyboardInterrupt as stop:
        print(
            "meterlake: stopped. What was committed stays; run the command again to do the rest",
            file=sys.stderr,
        )
        raise typer.Exit(130) from stop


@contextmanager
def existing_lake(url: str | None) -> "Iterator[Lake]":
    """A lake that is there, to be asked; its errors are plain."""
    from meterlake.lake import open as open_lake

    with plain_errors():
        yield open_lake(url, may_be_new=False)


@contextmanager
def working_lake(
    url: str | None,
    engine: EngineName | None,
    master: str | None,
    *,
    may_be_new: bool = False,
) -> "Iterator[Lake]":
    """A lake and the engine of a job; but for `may_be_new` one that is there. Errors are plain."""
    from meterlake.lake import open as open_lake

    with plain_errors():
        settings = load_settings(lake=url, engine=engine, spark_master=master)
        here = open_lake(settings=settings, may_be_new=may_be_new)
        if settings.engine is EngineName.spark:
            from meterlake.engine.spark import spark_engine

            with spark_engine(settings.spark_master) as running:
                yield replace(here, engine=running)
        elif settings.engine is EngineName.local:
            if master is not None:
                raise BadInput("--spark-master needs --engine spark; found the engine 'local'")
            yield here
        else:
            assert_never(settings.engine)


@contextmanager
def show_progress(here: "Lake", output: Output | TableOutput) -> "Iterator[Lake]":
    """The lake, whose work is shown as a bar where people read the output."""
    with terminal.progress(quiet=output.value == "json") as progress:
        yield replace(here, progress=progress)


def as_of_moment(text: str | None, clock: Clock, zone: str) -> Any:
    """What --as-of and --clock mean; None without them."""
    from meterlake.questions.history import AsOf

    return None if text is None else AsOf(to_moment(text, "--as-of", zone), clock.value)


def told(value: object) -> object:
    """A moment as the commands print it; anything else as it is."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return value


def to_moment(text: str, flag: str, zone: str = "UTC") -> datetime:
    """A moment in UTC; text without an offset is in `zone`. Raises BadInput."""
    return to_utc(_time(text, flag), zone)


def to_time(text: str | None, flag: str) -> datetime | None:
    """A time as it is written, with an offset or without. Raises BadInput."""
    return None if text is None else _time(text, flag)


def to_date(text: str | None, flag: str) -> date | None:
    """A date. Raises BadInput."""
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError as error:
        raise BadInput(f"{flag} needs a date such as 2024-01-31; found '{text}'") from error


def to_place(text: str, flag: str) -> tuple[float, float]:
    """Latitude and longitude, in degrees. Raises BadInput."""
    try:
        latitude, longitude = (float(part) for part in text.split(","))
    except ValueError:
        latitude = longitude = math.nan
    if not (-90 <= latitude <= 90 and -180 <= longitude <= 180):
        raise BadInput(f"{flag} needs degrees north and east such as 47.61,-122.33; found '{text}'")
    return latitude, longitude


def to_duration(text: str, flag: str, *, may_be_zero: bool = False) -> timedelta:
    """A length of time such as 7d, 12h, 30m or 10s. Raises BadInput."""
    units = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
    number, unit = text[:-1], text[-1:]
    usable = number.isascii() and number.isdigit() and len(number) < 7 and unit in units
    if not usable or (int(number) == 0 and not may_be_zero):
        raise BadInput(f"{flag} needs a length such as 1d, 6h, 15m or 10s; found '{text}'")
    return timedelta(**{units[unit]: int(number)})


def _time(text: str, flag: str) -> datetime:
    try:
        if text[10:11] in ("+", "-"):  # 2024-01-31+05:30 has an offset and no time
            raise ValueError(text)
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise BadInput(
            f"{flag} needs a date or time such as 2024-01-31 or 2024-01-31T05:00Z; found '{text}'"
        ) from error
