"""What the commands share: options, the context of a command, and texts to values."""

import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meterlake.engine.progress import Progress
from meterlake.errors import BadInput, MeterlakeError
from meterlake.settings import Settings, load_settings

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


class EngineName(StrEnum):
    """Who runs the units of work."""

    local = "local"
    spark = "spark"


EngineOption = Annotated[
    EngineName | None,
    typer.Option("--engine", help="Who runs the work: this process, or a Spark cluster."),
]


MasterOption = Annotated[
    str | None,
    typer.Option(
        "--spark-master",
        metavar="URL",
        help="local[2], spark://host:7077, yarn, …; default: what spark-submit set.",
    ),
]


OutputOption = Annotated[Output, typer.Option("--output", help="For people, or one JSON object.")]


RowsOption = Annotated[TableOutput, typer.Option("--output", help="How to print the rows.")]


AsOfOption = Annotated[
    str | None,
    typer.Option("--as-of", help="Only what had arrived by this moment, whatever came since."),
]


ClockOption = Annotated[
    Clock,
    typer.Option(help="As-of clock: arrival at the source system, or receipt by this lake."),
]


@dataclass(frozen=True)
class Context:
    """What a command works with: settings, the lake's storage, the moment."""

    settings: Settings
    store: Any
    now: datetime

    def ask(
        self, name: str, asked: Mapping[str, Any] | None = None, limit: int | None = None
    ) -> Any:
        """The rows that answer a question."""
        from meterlake.questions.question import Part, ask
        from meterlake.questions.registry import QUESTIONS

        part = Part(limit)
        return ask(self.store, QUESTIONS[name], asked or {}, settings=self.settings, part=part).rows


@dataclass(frozen=True)
class JobContext(Context):
    """What a command that changes the lake works with: an engine besides."""

    engine: Any

    def lake(self, progress: Progress) -> "Lake":
        """The lake, at the moment of the command."""
        from meterlake.lake import Lake

        return Lake(self.store, self.settings, self.engine, lambda: self.now, progress)

    def session(self, progress: Progress, now: datetime | None = None) -> Any:
        """What derivations work with; `now`: another moment than the command's."""
        from meterlake.pipeline.derivation import Session

        return Session(self.store, self.engine, self.settings, now or self.now, progress)


@contextmanager
def lake_context(lake: str | None) -> Iterator[Context]:
    """The context of a command that asks a lake that is there."""
    from meterlake.delta.lake_format import require_format
    from meterlake.delta.store import existing_store

    found = load_settings(lake=lake)
    store = existing_store(found.lake)
    require_format(store)
    yield Context(found, store, datetime.now(UTC))


@contextmanager
def job_context(
    lake: str | None,
    engine: EngineName | None,
    master: str | None,
    *,
    may_be_new: bool = False,
) -> Iterator[JobContext]:
    """The context of a job on a lake; but for `may_be_new` on one that is there."""
    from meterlake.delta.lake_format import require_format
    from meterlake.delta.store import existing_store, open_store

    name = None if engine is None else engine.value
    found = load_settings(lake=lake, engine=name, spark_master=master)
    store = (open_store if may_be_new else existing_store)(found.lake)
    require_format(store)
    with _engine(found, master) as running:
        yield JobContext(found, store, datetime.now(UTC), running)


@contextmanager
def _engine(settings: Settings, master: str | None) -> Iterator[Any]:
    if settings.engine == "spark":
        from meterlake.engine.spark import spark_engine

        with spark_engine(settings.spark_master) as engine:
            yield engine
    elif master is not None:
        raise BadInput(f"--spark-master needs --engine spark; found the engine '{settings.engine}'")
    else:
        from meterlake.engine.local import LocalEngine

        yield LocalEngine(settings.workers)


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
    """An aware moment; text without an offset is in `zone`."""
    from zoneinfo import ZoneInfo

    try:
        if text[10:11] in ("+", "-"):  # 2024-01-31+05:30 has an offset and no time
            raise ValueError(text)
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadInput(
            f"{flag} needs a date or time such as 2024-01-31 or 2024-01-31T05:00Z; found '{text}'"
        ) from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=ZoneInfo(zone))
    return moment.astimezone(UTC)


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
