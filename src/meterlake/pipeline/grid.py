"""The grid's tables brought up to date: the days whose readings, topology or settings changed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from meterlake.delta.commit import Change, commit, persistently, snapshot
from meterlake.delta.journal import Provenance, provenance
from meterlake.delta.store import Store
from meterlake.delta.table import DataFile, Snapshot, consumed_of, key_of, table_at
from meterlake.engine import Engine
from meterlake.engine.progress import Progress, silent
from meterlake.errors import BadInput
from meterlake.grid.load import TRANSFORMER_LOAD_ANALYTIC
from meterlake.grid.outages import (
    OUTAGE_SETTINGS,
    date_of,
    end_of_readings,
    find_outages,
    plan_outages,
)
from meterlake.grid.port import Analytic, GridDay, work_out
from meterlake.grid.supply import METER_SUPPLY_ANALYTIC
from meterlake.grid.volt_var import VOLT_VAR_ANALYTIC
from meterlake.readings.consumption import changed_hours
from meterlake.readings.layout import DAY, LiveLayout, start_of_day
from meterlake.schema import METER_SUPPLY, OUTAGES
from meterlake.settings import GridSettings
from meterlake.topology.upstream import changed_since, moment_of_topology, moments_of_topology

ANALYTICS: dict[str, Analytic] = {
    "volt-var": VOLT_VAR_ANALYTIC,
    "transformer-load": TRANSFORMER_LOAD_ANALYTIC,
    "meter-supply": METER_SUPPLY_ANALYTIC,
}
OUTAGES_NAME = "outages"
JOBS = (*ANALYTICS, OUTAGES_NAME)  # in this order: the last is made of the one before

Unit = TypeVar("Unit")

_KEY = "grid"  # the version of integrated that a table is up to


def update_grid(
    store: Store,
    name: str,
    *,
    engine: Engine,
    settings: GridSettings,
    now: datetime,
    rebuild: bool = False,
    progress: Progress = silent,
) -> int:
    """Bring one of the grid's tables up to integrated and topology, in one commit.

    Parameters
    ----------
    name : of JOBS
    rebuild : work out every day anew

    Returns
    -------
    Number of days that were worked out.

    Raises
    ------
    BadInput
        There is no topology yet.
    Conflict
        Other writers kept coming first.
    """
    job = _Job(store, engine, settings, now, rebuild, progress)
    if name == OUTAGES_NAME:
        return persistently(job.outages)
    return persistently(lambda: job.days(name, ANALYTICS[name]))


@dataclass(frozen=True)
class _Due:
    """What a table is made of, and which of its source's days it has not seen: None is all."""

    state: Snapshot
    made_of: Mapping[str, Any]
    source: Snapshot
    days: set[datetime] | None
    changed_since: datetime | None


@dataclass(frozen=True)
class _Job:
    """The grid's jobs: each plans what is due, does it, and commits it in one step."""

    store: Store
    engine: Engine
    settings: GridSettings
    now: datetime
    rebuild: bool
    progress: Progress

    def days(self, name: str, analytic: Analytic) -> int:
        """A table that is worked out day by day from the readings."""
        live = LiveLayout(self.store)
        state = snapshot(self.store, analytic.table)
        layout = live.now()
        due = self._due(name, state, live.integrated, analytic.settings)
        days = {day for kind in analytic.reading_types for day in layout.days(kind)}
        if due.days is not None:
            hours = changed_hours(self.store, self._consumed(due), live.integrated.version)
            mine = {h for kind in analytic.reading_types for h in hours.get(kind, ())}
            days &= {start_of_day(h) for h in mine} | _since(days, due.changed_since)
        units = [
            GridDay(
                day,
                {
                    kind: tuple(layout.pieces(kind, day, day + DAY))
                    for kind in analytic.reading_types
                },
            )
            for day in sorted(days)
        ]
        work = work_out(self.store, analytic, self.settings)
        self._do(name, due, work, units, None if due.days is None else days)
        return len(units)

    def outages(self) -> int:
        """The outages, from the table meter_supply, which is brought up to date before."""
        state = snapshot(self.store, OUTAGES)
        supply = snapshot(self.store, METER_SUPPLY)
        due = self._due(OUTAGES_NAME, state, supply, OUTAGE_SETTINGS)
        there = {date_of(f) for f in supply.files}
        had = {date_of(f) for f in state.files}
        days = there
        if due.days is not None:
            consumed = table_at(self.store, METER_SUPPLY, self._consumed(due))
            changed = _other_days(consumed, supply) | _since(there, due.changed_since)
            reach = range(-self.settings.outage_max_days, self.settings.outage_max_days + 1)
            days = {day + number * DAY for day in changed for number in reach}
            days &= there | had
        until = end_of_readings(self.store, supply.files)
        moments = moments_of_topology(self.store)
        units = plan_outages(sorted(days & there), supply.files, until, moments, self.settings)
        work = find_outages(self.store, self.settings)
        self._do(OUTAGES_NAME, due, work, units, None if due.days is None else days)
        return len(days)

    def _due(self, name: str, state: Snapshot, source: Snapshot, settings: Sequence[str]) -> _Due:
        moment = moment_of_topology(self.store)
        if moment is None:
            raise BadInput(
                f"{name} needs the grid's topology; the lake has none yet. Load it: meterlake "
                "dataflow run topology --source DIR"
            )
        told = self.settings.model_dump(mode="json")
        made_of = {
            **{setting: told[setting] for setting in settings},
            "topology": moment.isoformat(),
        }
        last = provenance(self.store, state.table, state.version).settings
        is_new = consumed_of(self.store, state, _KEY, source) < 0
        if self.rebuild or is_new or any(last.get(s) != made_of[s] for s in settings):
            return _Due(state, made_of, source, None, None)
        before = datetime.fromisoformat(last["topology"])
        since = None if before == moment else changed_since(self.store, before)
        return _Due(state, made_of, source, set(), since)

    def _consumed(self, due: _Due) -> int:
        return consumed_of(self.store, due.state, _KEY, due.source)

    def _do(
        self,
        name: str,
        due: _Due,
        work: Callable[[Unit], tuple[DataFile, ...]],
        units: Sequence[Unit],
        days: set[datetime] | None,
    ) -> None:
        """Work on the units, and put what they wrote in the place of these days; None: of all."""
        files: list[DataFile] = []
        for done, written in enumerate(self.engine.map(work, units), start=1):
            files += written
            self.progress(name, len(units), done)
        replaced = [f for f in due.state.files if days is None or date_of(f) in days]
        if not files and not replaced and self._consumed(due) == due.source.version:
            return
        change = Change(
            {key_of(_KEY, due.source): due.source.version},
            add=files,
            remove=replaced,
            read_version=due.state.version,
            provenance=Provenance(name, due.made_of),
        )
        commit(self.store, due.state.table, change, now=self.now)


def _other_days(before: Snapshot, now: Snapshot) -> set[datetime]:
    """The days that have another file in a table by date than they had, or none any more."""
    was, is_now = ({f.path: date_of(f) for f in state.files} for state in (before, now))
    return {day for path, day in (was | is_now).items() if (path in was) != (path in is_now)}


def _since(days: set[datetime], moment: datetime | None) -> set[datetime]:
    """The days that have a part after a moment; none, where there is no moment."""
    return set() if moment is None else {day for day in days if day + DAY > moment}
