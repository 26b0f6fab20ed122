"""A lake, as a Python user has it: one object, whose answers are Polars frames.

Each method imports what it needs when it is called, since a command that asks for one meter's
readings is not to wait for what training needs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

from meterlake.delta.lake_format import require_format
from meterlake.delta.store import Store, existing_store, open_store
from meterlake.engine import Engine
from meterlake.engine.progress import Progress, silent
from meterlake.periods import check_days, to_utc, utc_window
from meterlake.settings import Settings, load_settings

if TYPE_CHECKING:
    import polars as pl

    from meterlake.dataflows.run import DataflowRun
    from meterlake.delta.vacuum import Vacuumed
    from meterlake.forecast.detection import Detected
    from meterlake.forecast.forecasts import Forecasted
    from meterlake.forecast.training import Backtest, TrainResult
    from meterlake.ingest.deliveries import DeliveryRecord
    from meterlake.ingest.intake import Ingested
    from meterlake.integrate.derivations import Clustered, IntegrationResult
    from meterlake.periods import By
    from meterlake.pipeline.derivation import Session
    from meterlake.pipeline.lineage import Lineage
    from meterlake.pipeline.upkeep import Checked
    from meterlake.questions.history import AsOf
    from meterlake.questions.question import Value
    from meterlake.readings.reader import Reader


def utc_now() -> datetime:
    """The machine's clock."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Lake:
    """A meter-data lake.

    What changes the lake may be done again: it continues where it was stopped, and does nothing
    if there is nothing to do. A time without an offset is in the lake's zone; windows are
    half-open; answers are Polars frames, and `.to_pandas()` of a frame works with the extra
    `pandas`.

    Parameters
    ----------
    store : the lake's storage
    settings : see docs/settings.md
    engine : who runs units of work
    clock : tells the time
    progress : called with what is being done, units in all, units done
    keep_mb : memory for decoded readings that are often asked for [MB]
    """

    store: Store
    settings: Settings
    engine: Engine
    clock: Callable[[], datetime] = utc_now
    progress: Progress = silent
    keep_mb: int = 0

    @property
    def session(self) -> "Session":
        """What derivations work with, at this moment."""
        from meterlake.pipeline.derivation import Session

        return Session(self.store, self.engine, self.settings, self.clock(), self.progress)

    @cached_property
    def reader(self) -> "Reader":
        """A reader that keeps in memory which files there are."""
        from meterlake.readings.reader import Reader

        return Reader(self.store, keep_mb=self.keep_mb)

    def aware(self, moment: datetime) -> datetime:
        """In UTC; a moment without an offset is in the lake's zone. Raises BadInput."""
        return to_utc(moment, self.settings.timezone)

    def window(
        self, start: datetime | None, end: datetime | None
    ) -> tuple[datetime | None, datetime | None]:
        """A half-open window in UTC. Raises BadInput where nothing can be in it."""
        return utc_window(start, end, self.settings.timezone)

    def ingest(
        self,
        *locations: str,
        profile: str | None = None,
        strict: bool = False,
        again: bool = False,
    ) -> "Ingested":
        """Take delivered files, folders or URLs into staging, each once.

        Files that cannot be read are listed in `failures`, and the others are taken in. `strict`:
        also those whose times contradict the length of their intervals. `again`: read files that
        were taken in before once more, in the place of what they were read as.
        """
        from meterlake.ingest.intake import IngestOptions, ingest
        from meterlake.sources.fetcher import local_copies

        fetch = local_copies(self.settings)
        options = IngestOptions(strict, again)
        return ingest(self.session, locations, profile=profile, options=options, fetch=fetch)

    def withdraw(self, file: str, *, reason: str | None = None) -> "list[DeliveryRecord]":
        """Have a delivered file count no more: its name, or how its SHA-256 begins.

        Its rows stay in staging; the next integration answers without them.
        """
        from meterlake.ingest.deliveries import withdraw

        return withdraw(self.store, file, reason=reason, now=self.clock())

    def integrate(self) -> "IntegrationResult":
        """Bring the readings up to what staging has received."""
        from meterlake.integrate.derivations import integrate

        return integrate(self.session)

    def cluster(self, *, rebuild: bool = False) -> "Clustered":
        """Bring what serves questions up to date: readings by meter, and energies."""
        from meterlake.integrate.derivations import cluster

        return cluster(self.session, rebuild=rebuild)

    def derive(self, *tables: str, rebuild: bool = False) -> dict[str, int]:
        """Bring derived tables up to date, by default all; units of work done, by table."""
        from meterlake.pipeline.registry import named_derivation
        from meterlake.pipeline.runner import bring_up

        session = self.session
        wanted = tables or [t.table for t in self.lineage() if t.state != "unavailable"]
        return {
            name: len(bring_up(session, named_derivation(name), rebuild=rebuild).plan.units)
            for name in wanted
        }

    def lineage(self, table: str | None = None) -> "list[Lineage]":
        """What each derived table is made from, and whether work is due."""
        from meterlake.pipeline.lineage import lineage

        return lineage(self.session, table)

    def run_dataflow(
        self,
        name: str,
        source: str | None = None,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        at: datetime | None = None,
    ) -> "DataflowRun":
        """Load what a dataflow's source has; what fails leaves the last good data in place."""
        from meterlake.dataflows.run import Scope, run_dataflow

        moments = (None if moment is None else self.aware(moment) for moment in (start, end, at))
        return run_dataflow(
            self.store,
            name,
            Scope(source, *moments),
            settings=self.settings,
            now=self.clock(),
            progress=self.progress,
        )

    def update_grid(self, *, rebuild: bool = False) -> dict[str, int]:
        """Bring the grid's tables up to readings and topology; days worked out, by table."""
        from meterlake.grid.derivations import GRID, update_grid

        session = self.session
        return {
            derivation.table.name: update_grid(session, derivation, rebuild=rebuild)
            for derivation in GRID.values()
        }

    def readings(
        self,
        meters: str | Sequence[str],
        reading_type: str = "kw",
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        as_of: "AsOf | None" = None,
        with_arrival: bool = False,
    ) -> "pl.DataFrame":
        """Readings of one or more meters in a window, by meter and time.

        Raises
        ------
        BadInput
            There is no such reading type, or nothing can be in the window.
        """
        start, end = self.window(start, end)
        if as_of is None:
            return self.reader.readings(
                meters,
                reading_types=reading_type,
                start=start,
                end=end,
                with_arrival=with_arrival,
            )
        from meterlake.questions.readings import readings_as_of

        rows = readings_as_of(
            self.store, meters, as_of, reading_type=reading_type, start=start, end=end
        )
        return rows if with_arrival else rows.drop("arrival_time")

    def consumption(
        self,
        meters: str | Sequence[str],
        *,
        by: "By" = "day",
        reading_type: str = "kw",
        start: date | None = None,
        end: date | None = None,
    ) -> "pl.DataFrame":
        """Energy of one or more meters per local day, week or month, with completeness.

        Weeks and months that the window touches are whole.

        Raises
        ------
        BadInput
            There is no such register of power, or nothing can be in the window.
        """
        from meterlake.readings.consumption import read_consumption

        check_days(start, end)
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
    ) -> "pl.DataFrame":
        """The next 168 hours of one or more meters, as the current model or `use` expects them."""
        from meterlake.forecast.forecasts import forecast_meters

        wanted = [meters] if isinstance(meters, str) else list(meters)
        start = None if start is None else self.aware(start)
        return forecast_meters(self.store, wanted, settings=self.settings, start=start, use=use)

    def forecast_all(
        self, *, start: datetime | None = None, use: str | None = None, rebuild: bool = False
    ) -> "Forecasted":
        """Forecast all meters, and the nodes above them, into the lake."""
        from meterlake.forecast.forecasts import forecast_all

        start = None if start is None else self.aware(start)
        return forecast_all(self.session, start=start, use=use, rebuild=rebuild)

    def train(self, *, force: bool = False) -> "TrainResult":
        """Train a model on the last days of readings; it becomes current where it is not worse."""
        from meterlake.forecast.training import train

        return train(
            self.store,
            engine=self.engine,
            settings=self.settings,
            now=self.clock(),
            force=force,
            progress=self.progress,
        )

    def backtest(self, origins: int = 4) -> "Backtest":
        """How good forecasts of the last weeks would have been, each made without it."""
        from meterlake.forecast.training import backtest

        return backtest(
            self.store,
            engine=self.engine,
            settings=self.settings,
            origins=origins,
            progress=self.progress,
        )

    def detect(self, *, use: str | None = None, rebuild: bool = False) -> "Detected":
        """Judge the days whose energy is new or has changed."""
        from meterlake.forecast.detection import detect

        return detect(self.session, use=use, rebuild=rebuild)

    def query(self, sql: str, *, as_of: "AsOf | None" = None) -> "pl.DataFrame":
        """Answer one SELECT over the lake's tables, by name."""
        from meterlake.questions.sql import query

        return query(self.store, sql, as_of=as_of)

    @overload  # two, since the type of `limit` is not that of filters given as **filters
    def ask(self, question: str, **filters: "Value | None") -> "pl.DataFrame": ...

    @overload
    def ask(
        self, question: str, limit: int | None, **filters: "Value | None"
    ) -> "pl.DataFrame": ...

    def ask(self, question: str, limit: Any = None, **filters: "Value | None") -> "pl.DataFrame":
        """The rows that answer a question by its name: see docs/questions.md.

        `from` is a word of Python: give it as `**{"from": …}`.
        """
        from meterlake.questions.question import Part, ask
        from meterlake.questions.registry import question_of

        found, part = question_of(question), Part(limit)
        return ask(self.store, found, filters, settings=self.settings, part=part).rows

    def tables(self) -> "pl.DataFrame":
        """The lake's tables: rows, files, bytes, newest time, meaning."""
        import polars as pl

        from meterlake.questions.catalog import tables

        return pl.DataFrame(tables(self.store))

    def check(self, *, repair: bool = False) -> "Checked":
        """Verify the whole lake; with `repair`, derive again what is damaged."""
        from meterlake.pipeline.upkeep import check

        return check(self.session, repair=repair)

    def vacuum(
        self,
        retain: timedelta = timedelta(days=7),
        *,
        dry_run: bool = False,
        nobody_else: bool = False,
    ) -> "Vacuumed":
        """Remove files that no version of the last days needs."""
        from meterlake.pipeline.upkeep import vacuum

        return vacuum(self.session, retain=retain, dry_run=dry_run, nobody_else=nobody_else)


def open(
    location: str | None = None,
    *,
    settings: Settings | None = None,
    engine: Engine | None = None,
    may_be_new: bool = True,
) -> Lake:
    """A lake at a folder or object-store URL.

    Parameters
    ----------
    location : such as ./lake or s3://bucket/prefix; None: as the settings say
    settings : None: those of meterlake.toml and the environment
    engine : None: threads of this process
    may_be_new : whether the folder need not be there yet

    Raises
    ------
    BadInput
        The location or a setting cannot be used, or the lake is of another format.
    """
    from meterlake.engine.local import LocalEngine

    found = settings or load_settings(lake=location)
    store = (open_store if may_be_new else existing_store)(location or found.lake)
    require_format(store)
    return Lake(store, found, engine or LocalEngine(found.workers))
