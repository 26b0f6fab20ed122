"""The derivations of the grid: the days whose readings, topology or settings changed."""

from collections.abc import Mapping
from datetime import datetime
from functools import partial

from meterlake.delta.upsert import last_moment
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
from meterlake.pipeline.derivation import Derivation, Made, Plan, Run, Session
from meterlake.pipeline.runner import bring_up
from meterlake.readings.consumption import changed_hours
from meterlake.readings.layout import DAY, start_of_day
from meterlake.schema import METER_SUPPLY, OUTAGES, READINGS, TOPOLOGY
from meterlake.topology.upstream import changed_since, moments_of_topology


def update_grid(session: Session, derivation: Derivation[Made], *, rebuild: bool = False) -> int:
    """Bring one of the grid's tables up to readings and topology, in one commit.

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
    plan = bring_up(session, derivation, rebuild=rebuild).plan
    return len({day for unit in plan.units for day in unit.days} | set(map(date_of, plan.replaces)))


def _plan_days(analytic: Analytic, run: Run) -> Plan[Made]:
    """A table that is worked out day by day from the readings."""
    _check_topology(run)
    layout = run.layout
    days = {day for kind in analytic.reading_types for day in layout.days(kind)}
    replaced = run.state.files
    if not (run.is_full or run.damaged):
        hours = changed_hours(run.since(READINGS))
        mine = {h for kind in analytic.reading_types for h in hours.get(kind, ())}
        days &= {start_of_day(h) for h in mine} | _days_since_topology(run, days)
        replaced = tuple(f for f in replaced if date_of(f) in days)
    units = [
        GridDay(
            day,
            {kind: tuple(layout.pieces(kind, day, day + DAY)) for kind in analytic.reading_types},
        )
        for day in sorted(days)
    ]
    work = work_out(run.store, analytic, run.settings.grid)
    return Plan(units, work, replaced)


def _plan_outages(run: Run) -> Plan[Made]:
    """The outages, from the table meter_supply."""
    _check_topology(run)
    supply, settings = run.inputs[METER_SUPPLY.name].files, run.settings.grid
    there, had = ({date_of(f) for f in files} for files in (supply, run.state.files))
    days = there | had
    if not (run.is_full or run.damaged):
        changed = _days_since_topology(run, there)
        for entry in run.since(METER_SUPPLY):
            changed |= {date_of(f) for f in entry.added} | set(map(_date_in, entry.removed))
        reach = range(-settings.outage_max_days, settings.outage_max_days + 1)
        days &= {day + number * DAY for day in changed for number in reach}
    until = end_of_readings(run.store, supply)
    moments = moments_of_topology(run.store)
    return Plan(
        plan_outages(sorted(days & there), supply, until, moments, settings),
        find_outages(run.store, settings),
        [f for f in run.state.files if date_of(f) in days],
    )


def _check_topology(run: Run) -> None:
    if last_moment(run.store, run.inputs[TOPOLOGY.name]) is None:
        raise BadInput(
            f"{run.state.table.name} needs the grid's topology; the lake has none yet. Load it: "
            "meterlake dataflow run topology --source DIR"
        )


def _days_since_topology(run: Run, days: set[datetime]) -> set[datetime]:
    """The days that have a part after the topology became another than the table was made of."""
    name = TOPOLOGY.name
    since = changed_since(run.store, run.consumed[name], run.inputs[name].version)
    return set() if since is None else {day for day in days if day + DAY > since}


def _date_in(path: str) -> datetime:
    """Start of the UTC day of a file's path, `date=2024-01-31/…`."""
    return datetime.fromisoformat(f"{path.split('/')[0].removeprefix('date=')}T00:00:00+00:00")


def _derivation(analytic: Analytic) -> Derivation[Made]:
    return Derivation(
        analytic.table,
        made_from=(READINGS, TOPOLOGY),
        settings=tuple(f"grid.{name}" for name in analytic.settings),
        plan=partial(_plan_days, analytic),
    )


VOLT_VAR_DERIVATION = _derivation(VOLT_VAR_ANALYTIC)
TRANSFORMER_LOAD_DERIVATION = _derivation(TRANSFORMER_LOAD_ANALYTIC)
METER_SUPPLY_DERIVATION = _derivation(METER_SUPPLY_ANALYTIC)
OUTAGES_DERIVATION = Derivation(
    OUTAGES,
    made_from=(METER_SUPPLY, TOPOLOGY),
    settings=tuple(f"grid.{name}" for name in OUTAGE_SETTINGS),
    plan=_plan_outages,
)

GRID: Mapping[str, Derivation[Made]] = {  # in this order: the last is made from the one before
    "volt-var": VOLT_VAR_DERIVATION,
    "transformer-load": TRANSFORMER_LOAD_DERIVATION,
    "meter-supply": METER_SUPPLY_DERIVATION,
    "outages": OUTAGES_DERIVATION,
}
