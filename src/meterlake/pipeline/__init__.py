"""One function per job: plan, map, commit. The moment is passed in, never looked up."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import polars as pl

from meterlake.delta.commit import Change, commit, persistently, settle, snapshots
from meterlake.delta.journal import Provenance, added_since
from meterlake.delta.store import Store
from meterlake.delta.table import DataFile, consumed_version, scan, table_at, write_file
from meterlake.delta.table import fetched as fetched_rows
from meterlake.engine import Engine
from meterlake.engine.progress import Progress, silent
from meterlake.errors import MeterlakeError, Unavailable
from meterlake.ingest.intake import Failure, FileBalance, Ingested, ingest
from meterlake.integrate import hours
from meterlake.integrate.events import Hook, LateReads, late_hooks
from meterlake.schema import LATE_ARRIVALS, READINGS, STAGING
from meterlake.settings import Settings

__all__ = [
    "Failure",
    "FileBalance",
    "Ingested",
    "IntegrationResult",
    "Progress",
    "ingest",
    "integrate",
    "is_integrated",
    "silent",
    "write_late_arrivals",
]


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
    settled = settle(store, READINGS, now=now)[LATE_ARRIVALS.name]
    result, more = persistently(
        lambda: _integrate_once(store, engine=engine, settings=settings, now=now, progress=progress)
    )
    late = fetched_rows(scan(store, LATE_ARRIVALS, [*settled, *more]).select(*hours.LATE_SCHEMA))
    if late.is_empty():
        return result
    event = LateReads(int(late["late"].sum()), _partitions(late), late.to_dicts())
    return replace(result, hook_failures=_announce(event, hooks, settings))


def is_integrated(store: Store) -> bool:
    """Whether all that staging has was integrated."""
    return consumed_version(store, READINGS, hours.KEY) >= table_at(store, STAGING).version


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
    details = {
        "consumed_version": consumed,
        "staging_version": staging.version,
        "detected_at": now.isoformat(),
        "late_after_minutes": settings.late_after_minutes,
    }
    written = write_late_arrivals(store, late, staging_version=staging.version, now=now)
    change = Change(
        {hours.KEY: staging.version},
        add=files,
        remove=[present[p] for f in files if (p := tuple(f.partition.values())) in present],
        attached={LATE_ARRIVALS.name: written},
        read_version=integrated.version,
        provenance=Provenance("integrate", details=details),
    )
    settled = commit(store, READINGS, change, now=now)
    return done, settled.get(LATE_ARRIVALS.name, ())


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
