"""What every request is answered with: the lake, and processes for SQL of strangers."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request

from meterlake.errors import Unavailable
from meterlake.lake import Lake
from meterlake.periods import local_date, local_midnight
from meterlake.questions.question import Page, Part, Value, ask
from meterlake.questions.registry import QUESTIONS
from meterlake.serve.sandbox import Sandbox


@dataclass(frozen=True, kw_only=True)
class Served(Lake):
    """One lake as it is served; SQL of strangers is for the sandbox, never for `query`."""

    sandbox: Sandbox

    def now(self) -> datetime:
        """The moment."""
        return self.clock()

    def start_of(self, day: date) -> datetime:
        """When a local day begins."""
        return local_midnight(self.settings.timezone, day)

    def end_of(self, day: date) -> datetime:
        """When a local day is over."""
        return self.start_of(day + timedelta(days=1))

    def local_day(self, moment: datetime) -> date:
        """The local day that a moment is in."""
        return local_date(self.settings.timezone, moment)

    def ask_first(self, name: str, limit: int | None, **asked: Value | None) -> Page:
        """The first rows that answer a question, and whether there are more."""
        part = Part(limit)
        return ask(self.store, QUESTIONS[name], asked, settings=self.settings, part=part)

    def version_of_readings(self) -> str:
        """What changes whenever the readings do."""
        with self.reader.layout():
            now = self.reader.integrated
            return f"{now.id[:8]}{now.version}"


async def served(request: Request) -> Served:
    """The lake that the request is about."""
    found: Served = request.app.state.served
    if found.store.is_local and not Path(found.store.url).is_dir():
        raise Unavailable(f"The lake's folder {found.store.url} is not there; bring it back")
    return found


Here = Annotated[Served, Depends(served)]
