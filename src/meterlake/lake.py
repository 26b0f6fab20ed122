"""A lake, as a Python user has it: one object, whose answers are Polars frames."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property

import polars as pl

from meterlake.delta.store import Store, open_store
from meterlake.delta.vacuum import Vacuumed
from meterlake.engine import Engine
from meterlake.engine.local import LocalEngine
from meterlake.engine.progress import Progress, silent
from meterlake.forecast.detection import Detected, detect
from meterlake.forecast.forecasts import Forecasted, forecast_all, forecast_meters
from meterlake.ingest.intake import Ingested, ingest
from meterlake.integrate.derivations import Clustered, IntegrationResult, cluster, integrate
from meterlake.periods import By
from meterlake.pipeline.derivation import Session
from meterlake.pipeline.lineage import Lineage, lineage
from meterlake.pipeline.registry import derivations, named_derivation
from meterlake.pipeline.runner import bring_up
from meterlake.pipeline.upkeep import Checked, check, vacuum
from meterlake.questions.catalog import tables
from meterlake.questions.sql import query
from meterlake.readings.consumption import read_consumption
from meterlake.readings.history import AsOf
from meterlake.readings.reader import Reader, read_readings
from meterlake.settings import Settings, load_settings
from meterlake.sources.fetcher import local_copies


def utc_now() -> datetime:
    """The machine's clock."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Lake:
    """A meter-data lake.

    What changes the lake may be done again: it continues where it was stopped, and does nothing
    if there is nothing to do. Times are aware; windows are half-open; answers are Polars frames,
    and `.to_pandas()` of a frame works with the extra `pandas`.

    Parameters
    ----------
    store : the lake's storage
    settings : see docs/settings.md
    engine : who runs units of work; by default threads of this process
    clock : tells the time
    progress : called with what is being done, units in all, units done
    """

    store: Store
    settings: Settings
    engine: Engine
    clock: Callable[[], datetime] = utc_now
    progress: Progress = silent

    @property
    def session(self) -> Session:
        """What derivations work with, at this moment."""
        return Session(self.store, self.engine, self.settings, self.clock(), self.progress)

    @cached_property
    def reader(self) -> Reader:
        """A reader that keeps in memory which files there are."""
        return Reader(self.store)

    def ingest(self, *locations: str, profile: str | None = None) -> Ingested:
        """Take delivered files, folders or URLs into staging, each once.

        Files that cannot be read are listed in `failures`, and the others are taken in.
        """
        fetch = local_copies(self.settings)
        return ingest(self.session, locations, profile=profile, fetch=fetch)

    def integrate(self) -> IntegrationResult:
        """Bring the readings up to what staging has received."""
        return integrate(self.session)

    def cluster(self, *, rebuild: bool = False) -> Clustered:
        """Bring what serves questions up to date: readings by meter, and energies."""
        return cluster(self.session, rebuild=rebuild)

    def derive(self, *tables: str, rebuild: bool = False) -> dict[str, int]:
        """Bring derived tables up to date, by default all; units of work done, by table."""
        session = self.session
        wanted = [named_derivation(t) for t in tables] or [
            d for d in derivations() if lineage(session, d.name)[0].state != "unavailable"
        ]
        return {d.name: len(bring_up(session, d, rebuild=rebuild).plan.units) for d in wanted}

    def readings(
        self,
        meters: str | Sequence[str],
        reading_type: str = "kw",
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        as_of: AsOf | None = None,
    ) -> pl.DataFrame:
        """Readings of one or more meters in a window, by meter and time.

        Raises
        ------
        BadInput
            There is no such reading type.
        """
        if as_of is None:
            types = [reading_type]
            return self.reader.readings(meters, reading_types=types, start=start, end=end)
        return read_readings(
            self.store, meters, reading_type=reading_type, start=start, end=end, as_of=as_of
        )

    def consumption(
        self,
        meters: str | Sequence[str],
        *,
        by: By = "day",
        reading_type: str = "kw",
        start: date | None = None,
        end: date | None = None,
    ) -> pl.DataFrame:
        """Energy of one or more meters per local day, week or month, with completeness."""
        return read_consumption(
            self.reader,
            meters,
            by=by,
            zone=self.settings.timezone,
            reading_type=reading_type,
            start=start,
            end=end,
        )

    def forecast(
        self, meters: str | Sequence[str], *, start: datetime | None = None, use: str | None = None
    ) -> pl.DataFrame:
        """The next 168 hours of one or more meters, as the current model or `use` expects them."""
        wanted = [meters] if isinstance(meters, str) else list(meters)
        return forecast_meters(self.store, wanted, settings=self.settings, start=start, use=use)

    def forecast_all(
        self, *, start: datetime | None = None, use: str | None = None, rebuild: bool = False
    ) -> Forecasted:
        """Forecast all meters, and the nodes above them, into the lake."""
        return forecast_all(self.session, start=start, use=use, rebuild=rebuild)

    def detect(self, *, use: str | None = None, rebuild: bool = False) -> Detected:
        """Judge the days whose energy is new or has changed."""
        return detect(self.session, use=use, rebuild=rebuild)

    def query(self, sql: str, *, as_of: AsOf | None = None) -> pl.DataFrame:
        """Answer one SELECT over the lake's tables, by name."""
        return query(self.store, sql, as_of=as_of)

    def tables(self) -> pl.DataFrame:
        """The lake's tables: rows, files, bytes, newest time, meaning."""
        return pl.DataFrame(tables(self.store))

    def lineage(self, table: str | None = None) -> list[Lineage]:
        """What each derived table is made from, and whether work is due."""
        return lineage(self.session, table)

    def check(self, *, repair: bool = False) -> Checked:
        """Verify the whole lake; with `repair`, derive again what is damaged."""
        return check(self.session, repair=repair)

    def vacuum(self, retain: timedelta = timedelta(days=7), *, dry_run: bool = False) -> Vacuumed:
        """Remove files that no version of the last days needs."""
        return vacuum(self.session, retain=retain, dry_run=dry_run)


def open(
    location: str | None = None, *, settings: Settings | None = None, engine: Engine | None = None
) -> Lake:
    """A lake at a folder or object-store URL; it may be new.

    Parameters
    ----------
    location : such as ./lake or s3://bucket/prefix; None: as the settings say
    settings : None: those of meterlake.toml and the environment
    engine : None: threads of this process

    Raises
    ------
    BadInput
        The location or a setting cannot be used.
    """
    found = settings or load_settings(lake=location)
    store = open_store(location or found.lake)
    return Lake(store, found, engine or LocalEngine(found.workers))
