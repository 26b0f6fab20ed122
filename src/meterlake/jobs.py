"""One function per job: plan, map, commit. The moment is passed in, never looked up."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import polars as pl

from meterlake.engine import Engine
from meterlake.errors import BadInput, Conflict, MeterlakeError, NotReadable
from meterlake.formats.registry import named_format, recognise
from meterlake.ingest.land import Delivery, expand, fetched, land, set_aside
from meterlake.ingest.stage import KEY_PREFIX, Staged, stage_block
from meterlake.integrate import hours
from meterlake.integrate.events import Hook, LateReads, late_hooks
from meterlake.lake.store import Store
from meterlake.lake.table import (
    DataFile,
    added_since,
    commit,
    consumed_version,
    scan,
    snapshot,
    write_file,
)
from meterlake.schema import LATE_ARRIVALS, QUARANTINE, READINGS, STAGING
from meterlake.settings import Settings

CONFLICT_RETRIES = 5

Progress = Callable[[str, int | None, int], None]
"""Told of (what, units in all or None, units done)."""


def _silent(what: str, total: int | None, done: int) -> None:
    """Progress for callers that want none."""


@dataclass(frozen=True)
class Failure:
    """A delivered file that was not taken in, and why: it is bad, or was not to be had."""

    file: str
    reason: str
    is_bad: bool


@dataclass
class Ingested:
    """What an ingest did, over all its files.

    `rows` = rows staged + `quarantined`; `readings` are the values in the staged rows.
    """

    files: int = 0
    rows: int = 0
    readings: int = 0
    quarantined: int = 0
    already_ingested: int = 0
    failures: list[Failure] = field(default_factory=list)


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
    progress: Progress = _silent,
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
    for number, location in enumerate(files):
        progress("ingest", len(files), number)
        try:
            with fetched(location) as delivery:
                _ingest_one(
                    store, delivery, done,
                    engine=engine, settings=settings, now=now, profile=profile, progress=progress,
                )  # fmt: skip
        except MeterlakeError as error:
            done.failures.append(Failure(location, str(error), isinstance(error, BadInput)))
    progress("ingest", len(files), len(files))
    return done


def _ingest_one(
    store: Store,
    delivery: Delivery,
    done: Ingested,
    *,
    engine: Engine,
    settings: Settings,
    now: datetime,
    profile: str | None,
    progress: Progress,
) -> None:
    key = KEY_PREFIX + delivery.sha256
    if consumed_version(store, STAGING, key) >= 0:
        done.already_ingested += 1
        return
    source = None
    try:
        source = land(store, delivery)
        if profile is None:
            fmt = recognise(source, default_zone=settings.timezone)
        else:
            fmt = named_format(profile, default_zone=settings.timezone)
        work = stage_block(store, fmt, sha256=delivery.sha256, received_at=now)
        results: list[Staged] = []
        for result in engine.map(work, fmt.split(source)):
            results.append(result)
            progress("rows", None, done.rows + sum(r.rows for r in results))
    except NotReadable as error:
        set_aside(store, delivery, source, str(error))
        raise
    rejected = [f for r in results for f in r.quarantine]
    # Quarantine first: a file counts as taken in only when its staging commit is there.
    if rejected and consumed_version(store, QUARANTINE, key) < 0:
        commit(store, QUARANTINE, add=rejected, key=key, version=0, now=now)
    try:
        commit(
            store, STAGING, add=[f for r in results for f in r.files], key=key, version=0, now=now
        )
    except Conflict:
        if consumed_version(store, STAGING, key) < 0:
            raise
        done.already_ingested += 1  # another process took the same file in meanwhile
        return
    done.files += 1
    done.rows += sum(r.rows for r in results)
    done.readings += sum(r.readings for r in results)
    done.quarantined += sum(r.quarantined for r in results)


def integrate(
    store: Store,
    *,
    engine: Engine,
    settings: Settings,
    now: datetime,
    progress: Progress = _silent,
) -> IntegrationResult:
    """Bring the integrated table up to staging's version, in one commit.

    Raises
    ------
    Conflict
        Other integrations kept coming first.
    """
    hooks = late_hooks(settings.late_hooks)
    for attempt in range(CONFLICT_RETRIES):
        try:
            result, late = _integrate_once(
                store, engine=engine, settings=settings, now=now, progress=progress
            )
        except Conflict:
            if attempt == CONFLICT_RETRIES - 1:
                raise
            continue
        if not late.is_empty():
            event = LateReads(result.late, result.late_partitions, late.to_dicts())
            result = replace(result, hook_failures=_announce(event, hooks, settings))
        return result
    raise AssertionError("the last attempt returns or raises")


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
) -> tuple[IntegrationResult, pl.DataFrame]:
    staging = snapshot(store, STAGING)
    integrated = snapshot(store, READINGS)
    consumed = consumed_version(store, READINGS, hours.KEY)
    arrived = added_since(store, STAGING, after=consumed, until=staging.version)
    if staging.version <= consumed or not arrived:
        return IntegrationResult(), pl.DataFrame()
    # A job cut off between its two commits has recorded its late reads already.
    recorded = consumed_version(store, LATE_ARRIVALS, hours.KEY)
    late_counted = frozenset(
        f.path
        for f in added_since(store, STAGING, after=consumed, until=min(recorded, staging.version))
    )
    units = list(hours.plan_hours(arrived, staging.files, late_counted=late_counted))
    work = hours.integrate_hours(store, late_after=timedelta(minutes=settings.late_after_minutes))
    results = []
    progress("integrate", len(units), 0)
    for result in engine.map(work, units):
        results.append(result)
        progress("integrate", len(units), len(results))
    files = [f for r in results for f in r.files]
    late = pl.concat([r.late for r in results])
    if not late.is_empty():
        _record_late(store, late, staging_version=staging.version, now=now)
    if recorded > consumed:
        late = pl.concat([_late_recorded(store, after=consumed, until=recorded), late])
    live = {tuple(f.partition.values()): f for f in integrated.files}
    replaced = [live[p] for f in files if (p := tuple(f.partition.values())) in live]
    commit(
        store,
        READINGS,
        add=files,
        remove=replaced,
        key=hours.KEY,
        version=staging.version,
        read_version=integrated.version,
        now=now,
    )
    counts = sum((r.counts for r in results), hours.Counts(0, 0, 0))
    partitions = late.select("reading_type", "reading_hour").n_unique() if len(late) else 0
    return IntegrationResult(
        partitions=len(files),
        added=counts.added,
        replaced=counts.replaced,
        duplicates=counts.duplicates,
        late=int(late["late"].sum()),
        late_partitions=partitions,
    ), late


def _late_recorded(store: Store, *, after: int, until: int) -> pl.DataFrame:
    """Late reads that jobs recorded which were then cut off, or overtaken."""
    rows = scan(store, LATE_ARRIVALS, snapshot(store, LATE_ARRIVALS).files)
    consumed = pl.col("staging_version")
    return (
        rows.filter((consumed > after) & (consumed <= until)).select(*hours.LATE_SCHEMA).collect()
    )


def _record_late(store: Store, late: pl.DataFrame, *, staging_version: int, now: datetime) -> None:
    rows = late.with_columns(
        pl.lit(now, pl.Datetime("us", "UTC")).alias("detected_at"),
        pl.lit(staging_version, pl.Int64).alias("staging_version"),
    ).select(c.name for c in LATE_ARRIVALS.file_columns)
    file: DataFile = write_file(
        store,
        LATE_ARRIVALS,
        rows,
        partition={"detection_date": now.strftime("%Y-%m-%d")},
        name=f"part-{staging_version:010d}-{now.strftime('%H%M%S%f')}",
    )
    commit(store, LATE_ARRIVALS, add=[file], key=hours.KEY, version=staging_version, now=now)
