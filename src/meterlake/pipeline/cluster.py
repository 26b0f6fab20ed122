"""Serving brought up to date: days by meter, months merged, energy per day, week and month."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TypeVar

from meterlake.delta.commit import Change, commit, persistently, snapshot
from meterlake.delta.journal import Provenance
from meterlake.delta.store import Store
from meterlake.delta.table import DataFile, consumed_of, key_of
from meterlake.engine import Engine
from meterlake.engine.progress import Progress, silent
from meterlake.integrate import cluster as spans
from meterlake.integrate import consumption
from meterlake.periods import By, periods
from meterlake.readings.consumption import CONSUME, changed_hours, check_zone, zone_of
from meterlake.readings.layout import CLUSTER, HOUR, Day, LiveLayout
from meterlake.readings.meter_ranges import RANGE_ROWS
from meterlake.schema import CONSUMPTION_DAILY, READINGS, SERVING_READINGS, Table
from meterlake.settings import Settings

Result = TypeVar("Result")
Unit = TypeVar("Unit")


@dataclass(frozen=True)
class Clustered:
    """What a clustering wrote.

    `days` that were read from integrated and `merged` spans of several days; `consumption_days`,
    `weeks` and `months` of energy; all of one reading type each.
    """

    days: int = 0
    merged: int = 0
    consumption_days: int = 0
    weeks: int = 0
    months: int = 0


def cluster(
    store: Store,
    *,
    engine: Engine,
    settings: Settings,
    now: datetime,
    rebuild: bool = False,
    progress: Progress = silent,
) -> Clustered:
    """Bring serving and the energies up to what integrated has, each table in one commit.

    Parameters
    ----------
    rebuild : write everything anew, from integrated alone

    Raises
    ------
    BadInput
        The energies are of another time zone than the settings'.
    Conflict
        Other clusterings kept coming first.
    """
    job = _Job(
        store,
        LiveLayout(store),
        engine,
        now,
        settings.timezone,
        now - timedelta(hours=settings.cluster_after_hours),
        progress,
        settings.serving_file_rows,
    )
    layout = job.live.now()
    if job.live.integrated.version < 0:
        return Clustered()
    if not rebuild:
        check_zone(store, snapshot(store, CONSUMPTION_DAILY), settings.timezone)
    anew = frozenset((n, s.first) for n in layout.reading_types for s in layout.spans(n) if rebuild)
    settled_until = now - timedelta(days=settings.merge_after_days)
    return Clustered(
        days=persistently(lambda: job.days(anew=anew)),
        merged=persistently(lambda: job.merges(settings.merge_days, settled_until)),
        consumption_days=persistently(lambda: job.consumption_days(rebuild=rebuild)),
        weeks=persistently(lambda: job.consumption_periods("week", rebuild=rebuild)),
        months=persistently(lambda: job.consumption_periods("month", rebuild=rebuild)),
    )


def renew(
    store: Store,
    *,
    engine: Engine,
    now: datetime,
    spans_of: Collection[Day],
    tables: Collection[Table],
) -> None:
    """Write spans of serving, and tables of energy, once more: the days that they have, anew."""
    job = _Job(store, LiveLayout(store), engine, now, "UTC", datetime.min.replace(tzinfo=UTC))
    if spans_of:
        persistently(lambda: job.days(anew=spans_of))
    daily = snapshot(store, CONSUMPTION_DAILY)
    if not daily.files:
        return
    zone = zone_of(store, daily) or "UTC"
    last = max(f.last for f in daily.files if f.last is not None)
    (last_day,) = periods(zone, "day", last, last + HOUR)
    job = replace(job, zone=zone, closed_until=last_day.end)
    if CONSUMPTION_DAILY in tables:
        persistently(lambda: job.consumption_days(rebuild=True))
    for by, table in consumption.PERIOD_TABLES.items():
        if table in tables:
            persistently(partial(job.consumption_periods, by, rebuild=True))


@dataclass(frozen=True)
class _Job:
    """The steps, each planned on the lake as it is then and done in one commit."""

    store: Store
    live: LiveLayout
    engine: Engine
    now: datetime
    zone: str
    closed_until: datetime
    progress: Progress = silent
    file_rows: int = RANGE_ROWS

    def days(self, *, anew: Collection[Day]) -> int:
        layout = self.live.now()
        units = spans.plan_days(layout, closed_until=self.closed_until, anew=anew)
        self._cluster("cluster", units, version=self.live.integrated.version)
        return sum(p.table == READINGS for u in units for p in u.pieces)

    def merges(self, merge_days: int, settled_until: datetime) -> int:
        layout = self.live.now()
        units = spans.plan_merges(layout, merge_days=merge_days, settled_until=settled_until)
        self._cluster("merge", units, version=layout.clustered, new_data=False)
        return len(units)

    def consumption_days(self, *, rebuild: bool) -> int:
        layout, integrated = self.live.now(), self.live.integrated
        state = snapshot(self.store, CONSUMPTION_DAILY)
        consumed = consumed_of(self.store, state, CONSUME, integrated)
        rebuild = rebuild or consumed < 0
        known = () if rebuild else state.files
        units = consumption.plan_months(
            layout,
            known,
            changed_hours(self.store, consumed, integrated.version) if known else {},
            zone=self.zone,
            closed_until=self.closed_until,
        )
        files = self._work("consumption", consumption.consume_month(self.store), units)
        replaced = state.files if rebuild else [f for u in units for f in u.before]
        changed = None if rebuild else consumption.dates_of(units)
        self._commit(
            CONSUMPTION_DAILY,
            state.version,
            files,
            replaced,
            provenance=Provenance("consumption", {"timezone": self.zone}, changed),
            key=key_of(CONSUME, integrated),
            version=integrated.version,
        )
        return sum(len(u.days) for u in units)

    def consumption_periods(self, by: By, *, rebuild: bool) -> int:
        table = consumption.PERIOD_TABLES[by]
        state, daily = snapshot(self.store, table), snapshot(self.store, CONSUMPTION_DAILY)
        consumed = consumed_of(self.store, state, CONSUME, daily)
        rebuild = rebuild or consumed < 0 or zone_of(self.store, state) != self.zone
        if rebuild:
            changed = consumption.dates_in(daily.files, self.zone)
        else:
            changed = consumption.changed_dates(self.store, daily, consumed, self.zone)
        units = consumption.plan_periods(by, daily, state, changed, zone=self.zone)
        files = self._work(f"{by}s", consumption.consume_period(self.store), units)
        self._commit(
            table,
            state.version,
            files,
            state.files if rebuild else [f for u in units for f in u.replaces],
            provenance=Provenance("consumption", {"timezone": self.zone}),
            key=key_of(CONSUME, daily),
            version=daily.version,
        )
        return len(units)

    def _cluster(
        self,
        job: str,
        units: Sequence[spans.Clustering],
        *,
        version: int,
        new_data: bool = True,
    ) -> None:
        files = self._work(job, spans.cluster_span(self.store, self.file_rows), units)
        self._commit(
            SERVING_READINGS,
            self.live.serving_version,
            files,
            [f for u in units for f in u.replaces],
            provenance=Provenance(job),
            key=key_of(CLUSTER, self.live.integrated),
            version=version,
            new_data=new_data,
        )

    def _work(
        self,
        what: str,
        work: Callable[[Unit], tuple[DataFile, ...]],
        units: Sequence[Unit],
    ) -> list[DataFile]:
        files: list[DataFile] = []
        for done, written in enumerate(self.engine.map(work, units), start=1):
            files += written
            self.progress(what, len(units), done)
        return files

    def _commit(
        self,
        table: Table,
        read_version: int,
        files: Sequence[DataFile],
        replaced: Sequence[DataFile],
        *,
        provenance: Provenance,
        key: str,
        version: int,
        new_data: bool = True,
    ) -> None:
        if not files and not replaced:
            return
        change = Change(
            {key: version},
            add=files,
            remove=replaced,
            read_version=read_version,
            provenance=provenance,
            new_data=new_data,
        )
        commit(self.store, table, change, now=self.now)
