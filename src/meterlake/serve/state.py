"""What every request is answered with: the lake, its settings, a clock."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated

import polars as pl
from fastapi import Depends, Request

from meterlake.delta.store import Store
from meterlake.errors import Unavailable
from meterlake.periods import local_midnight, zone_rules
from meterlake.questions.question import Page, Part, Value, ask
from meterlake.questions.registry import QUESTIONS
from meterlake.readings.reader import Reader
from meterlake.serve.answers import Refused
from meterlake.serve.sandbox import Sandbox
from meterlake.settings import Settings


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Served:
    """One lake as it is served."""

    store: Store
    settings: Settings
    reader: Reader
    sandbox: Sandbox
    now: Callable[[], datetime] = field(default=_now)

    def aware(self, moment: datetime) -> datetime:
        """In UTC; a moment without an offset is in the lake's zone."""
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=zone_rules(self.settings.timezone))
        try:
            return moment.astimezone(UTC)
        except OverflowError:
            raise Refused(
                400, f"A time needs to be of the years 1 to 9999 in UTC; found {moment}"
            ) from None

    def window(
        self, start: datetime | None, end: datetime | None
    ) -> tuple[datetime | None, datetime | None]:
        """A half-open window in UTC. Raises Refused where nothing can be in it."""
        first = None if start is None else self.aware(start)
        last = None if end is None else self.aware(end)
        if first is not None and last is not None and first >= last:
            raise Refused(400, f"to needs to be after from; found from {start} to {end}")
        return first, last

    def start_of(self, day: date) -> datetime:
        """When a local day begins."""
        return local_midnight(self.settings.timezone, day)

    def end_of(self, day: date) -> datetime:
        """When a local day is over."""
        return self.start_of(day + timedelta(days=1))

    def local_day(self, moment: datetime) -> date:
        """The local day that a moment is in."""
        return moment.astimezone(zone_rules(self.settings.timezone)).date()

    def ask(self, name: str, **asked: Value | None) -> pl.DataFrame:
        """All rows that answer a question; moments aware."""
        return self.ask_first(name, None, **asked).rows

    def ask_first(self, name: str, limit: int | None, **asked: Value | None) -> Page:
        """The first rows that answer a question; moments aware."""
        part = Part(limit)
        return ask(self.store, QUESTIONS[name], asked, settings=self.settings, part=part)

    def version_of_readings(self) -> str:
        """What changes whenever the readings do."""
        with self.reader.layout():
            now = self.reader.integrated
            return f"{now.id[:8]}{now.version}"


def check_days(first: date | None, last: date | None) -> None:
    """Raise Refused where a window of whole days has none."""
    if first is not None and last is not None and first > last:
        raise Refused(400, f"to needs to be from or later; found from {first} to {last}")


async def served(request: Request) -> Served:
    """The lake that the request is about."""
    found: Served = request.app.state.served
    if found.store.is_local and not Path(found.store.url).is_dir():
        raise Unavailable(f"The lake's folder {found.store.url} is not there; bring it back")
    return found


Here = Annotated[Served, Depends(served)]
