"""One function per job: plan, map, commit. The moment is passed in, never looked up."""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial

import polars as pl

from meterlake import __version__, storage
from meterlake.engine import Engine
from meterlake.errors import BadInput, Conflict, MeterlakeError, NotReadable, Unavailable
from meterlake.formats.probe import probe
from meterlake.formats.registry import format_note, named_format, recognise
from meterlake.ingest.land import Delivery, expand, fetched, land, set_aside
from meterlake.ingest.stage import KEY_PREFIX, Staged, stage_block
from meterlake.integrate import hours
from meterlake.integrate.events import Hook, LateReads, late_hooks
from meterlake.lake.commit import ATTEMPTS, commit, settle, snapshots
from meterlake.lake.journal import added_since
from meterlake.lake.store import Store
from meterlake.lake.table import DataFile, consumed_version, scan, write_file
from meterlake.lake.table import fetched as fetched_rows
from meterlake.schema import LATE_ARRIVALS, READINGS, STAGING
from meterlake.settings import Settings

Progress = Callable[[str, int | None, int], None]
"""Told of (what, units in all or None, units done)."""


def silent(what: str, total: int | None, done: int) -> None:
    """Progress for callers that want none."""


@dataclass(frozen=True)
class Failure:
    """A delivered file that was not taken in, and why: it is bad, or was not to be had."""

    file: str
    reason: str
    is_bad: bool


@dataclass(frozen=True)
class FileBalance:
    """What became of a delivered file's rows: `rows` = `stored` + `quarantined`.

    `readings` are the values in the stored rows. A file that was taken in before has no row
    counted: all of them are there already.
    """

    file: str
    sha256: str
    rows: int = 0
    quarantined: int = 0
    readings: int = 0
    already_ingested: bool = False

    @property
    def stored(self) -> int:
        """Rows that staging has of the file."""
        return self.rows - self.quarantined


@dataclass
class Ingested:
    """What an ingest did, over all its files: `rows` = `stored` + `quarantined`."""

    balance: list[FileBalance] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    @property
    def files(self) -> int:
        """Number of files that were taken in."""
        return sum(not b.already_ingested for b in self.balance)

    @property
    def already_ingested(self) -> int:
        """Number of files that had been taken in before."""
        return len(self.balance) - self.files

    @property
    def rows(self) -> int:
        """Rows of the files that were taken in."""
        return sum(b.rows for b in self.balance)

    @property
    def stored(self) -> int:
        """Rows that staging has got."""
        return sum(b.stored for b in self.balance)

    @property
    def quarantined(self) -> int:
        """Rows that the quarantine has got."""
        return sum(b.quarantined for b in self.balance)

    @property
    def readings(self) -> int:
        """Values in the stored rows."""
        return sum(b.readings for b in self.balance)


@dataclass(frozen=True)
class IntegrationResult:
    """What an integration did; see integrate.hours.Counts for the meaning of the counts."""

    partitions: int = 0
    added: int = 0
    replaced: int = 0
    duplicates: int = 0
    late: int = 0
    late_partitions: int = 0
    hook_failures: tuple[str, ...] = ()


def ingest(
    store: Store,
    locations: Sequence[str],
    *,
    engine: Engine,
    settings: Settings,
    now: datetime,
    profile: str | None = None,
    progress: Progress = silent,
) -> Ingested:
    """Take delivered files into staging, each in one commit, each once.

    A file that cannot be read is listed in `failures` and changes nothing; the others are
    taken in all the same.
    """
    if profile is not None:
        named_format(profile, default_zone=settings.timezone)
    done = Ingested()
    files = expand(list(locations))
    if not files:
        raise BadInput(f"Ingest needs files; found none in {', '.join(locations)}. Check the path")
    settle(store, STAGING, now=now)
    for number, location in enumerate(files):
        progress("ingest", len(files), number)
        try:
            with fetched(location) as delivery:
                balance = _ingest_one(
                    store,
                    delivery,
                    engine=engine,
                    settings=settings,
                    now=now,
                    profile=profile,
                    progress=partial(_add_rows, progress, done.rows),
                )
                done.balance.append(balance)
        except MeterlakeError as error:
            done.failures.append(Failure(location, str(error), isinstance(error, BadInput)))
    progress("ingest", len(files), len(files))
    return done


def _add_rows(progress: Progress, before: int, rows: int) -> None:
    progress("rows", None, before + rows)


def _ingest_one(
    store: Store,
    delivery: Delivery,
    *,
    engine: Engine,
    settings: Settings,
    now: datetime,
    profile: str | None,
    progress: Callable[[int], None],
) -> FileBalance:
    key = KEY_PREFIX + delivery.sha256
    known = FileBalance(delivery.name, delivery.sha256, already_ingested=True)
    if consumed_version(store, STAGING, key) >= 0:
        return known
    source = None
    try:
        source = land(store, delivery)
        probe(source)
        if profile is None:
            fmt = recognise(source, default_zone=settings.timezone)
        else:
            fmt = named_format(profile, default_zone=settings.timezone)
        work = stage_block(store, fmt, sha256=delivery.sha256, received_at=now)
        results: list[Staged] = []
        for result in engine.map(work, fmt.split(source)):
            results.append(result)
            progress(sum(r.rows for r in results))
    except NotReadable as error:
        if consumed_version(store, STAGING, key) >= 0:
            return known  # another process could read it meanwhile, by another profile
        set_aside(store, delivery, source, str(error))
        raise
    balance = FileBalance(
        delivery.name,
        delivery.sha256,
        rows=sum(r.rows for r in results),
        quarantined=sum(r.quarantined for r in results),
        readings=sum(r.readings for r in results),
    )
    try:
        commit(
            store,
            STAGING,
            add=[f for r in results for f in r.files],
            attached=[f for r in results for f in r.quarantine],
            note={
                "job": "ingest",
                **vars(balance),
                "inbound": source.url.removeprefix(f"{store.url}/"),
                **format_note(fmt, default_zone=settings.timezone),
                "received_at": now.isoformat(),
                "code_version": __version__,
            },
            key=key,
            version=0,
            now=now,
        )
    except Conflict:
        if consumed_version(store, STAGING, key) < 0:
            raise
        return known  # another process took the same file in meanwhile
    return balance


def integrate(
    store: Store,
    *,
    engine: Engine,
    settings: Settings,
    now: datetime,
    progress: Progress = silent,
) -> IntegrationResult:
    """Bring the integrated table up to staging's version, in one commit.

    Raises
    ------
    Conflict
        Other integrations kept coming first.
    """
    hooks = late_hooks(settings.late_hooks)
    settled = settle(store, READINGS, now=now)
    for attempt in range(ATTEMPTS):
        try:
            result, more = _integrate_once(
                store, engine=engine, settings=settings, now=now, progress=progress
            )
            break
        except Conflict:
            if attempt == ATTEMPTS - 1:
                raise
            storage.pause(attempt)
    late = fetched_rows(scan(store, LATE_ARRIVALS, [*settled, *more]).select(*hours.LATE_SCHEMA))
    if late.is_empty():
        return result
    event = LateReads(int(late["late"].sum()), _partitions(late), late.to_dicts())
    return replace(result, hook_failures=_announce(event, hooks, settings))


def _announce(event: LateReads, hooks: Sequence[Hook], settings: Settings) -> tuple[str, ...]:
    """Tell every hook; what kept one from listening does not keep the others."""
    failures = []
    for hook in hooks:
        try:
            hook(event, settings)
        except MeterlakeError as error:
            failures.append(str(error))
    return tuple(failures)


def _integrate_once(
    store: Store, *, engine: Engine, settings: Settings, now: datetime, progress: Progress
) -> tuple[IntegrationResult, tuple[DataFile, ...]]:
    state = snapshots(store, [READINGS, STAGING])
    # Read after the tables: where it is ahead of them, the commit below is refused.
    consumed = consumed_version(store, READINGS, hours.KEY)
    staging, integrated = state[STAGING.name], state[READINGS.name]
    if staging.version < consumed:
        raise Unavailable(
            f"Integrate needs staging at version {consumed}, which it has consumed, or later; "
            f"found {staging.version}. Something of staging is gone: see meterlake check"
        )
    live = {f.path for f in staging.files}
    arrived = [
        f
        for f in added_since(store, STAGING, after=consumed, until=staging.version)
        if f.path in live
    ]
    if not arrived:
        return IntegrationResult(), ()
    units = list(hours.plan_hours(arrived, staging.files))
    work = hours.integrate_hours(store, late_after=timedelta(minutes=settings.late_after_minutes))
    results = []
    progress("integrate", len(units), 0)
    for result in engine.map(work, units):
        results.append(result)
        progress("integrate", len(units), len(results))
    files = [f for r in results for f in r.files]
    late = pl.concat([r.late for r in results])
    present = {tuple(f.partition.values()): f for f in integrated.files}
    counts = sum((r.counts for r in results), hours.Counts(0, 0, 0))
    done = IntegrationResult(
        partitions=len(files),
        added=counts.added,
        replaced=counts.replaced,
        duplicates=counts.duplicates,
        late=int(late["late"].sum()),
        late_partitions=_partitions(late),
    )
    settled = commit(
        store,
        READINGS,
        add=files,
        remove=[present[p] for f in files if (p := tuple(f.partition.values())) in present],
        attached=write_late_arrivals(store, late, staging_version=staging.version, now=now),
        note={
            "job": "integrate",
            **vars(done),
            "consumed_version": consumed,
            "staging_version": staging.version,
            "detected_at": now.isoformat(),
            "late_after_minutes": settings.late_after_minutes,
            "code_version": __version__,
        },
        key=hours.KEY,
        version=staging.version,
        read_version=integrated.version,
        now=now,
    )
    return done, settled


def _partitions(late: pl.DataFrame) -> int:
    return late.select("reading_type", "reading_hour").n_unique() if len(late) else 0


def write_late_arrivals(
    store: Store, late: pl.DataFrame, *, staging_version: int, now: datetime
) -> list[DataFile]:
    """Write late reads as files of their table: none, or one. `now`: when they were found."""
    if late.is_empty():
        return []
    rows = late.with_columns(
        pl.lit(now, pl.Datetime("us", "UTC")).alias("detected_at"),
        pl.lit(staging_version, pl.Int64).alias("staging_version"),
    ).select(c.name for c in LATE_ARRIVALS.file_columns)
    return [
        write_file(
            store,
            LATE_ARRIVALS,
            rows,
            partition={"detection_date": now.strftime("%Y-%m-%d")},
            name=f"part-{uuid.uuid4().hex}",
        )
    ]
