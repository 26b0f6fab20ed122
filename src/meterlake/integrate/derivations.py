"""The derivations of the readings: integrated, by meter for serving, and as energies."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial

import polars as pl

from meterlake.delta.check import Finding
from meterlake.delta.commit import settle, snapshot
from meterlake.delta.journal import Entry, logged
from meterlake.delta.table import DataFile, fetched, partition_path, scan
from meterlake.errors import MeterlakeError, Unavailable
from meterlake.integrate import cluster as spans
from meterlake.integrate import consumption, hours, verify, verify_serving
from meterlake.integrate.events import Hook, LateReads, late_hooks
from meterlake.integrate.late_arrivals import LateSearch, write_late_arrivals
from meterlake.periods import By
from meterlake.pipeline.derivation import (
    Derivation,
    Finish,
    Made,
    Plan,
    Run,
    Session,
    Verification,
)
from meterlake.pipeline.runner import bring_up
from meterlake.readings import withdrawals
from meterlake.readings.consumption import changed_hours, check_zone
from meterlake.schema import (
    CONSUMPTION_DAILY,
    LATE_ARRIVALS,
    READINGS,
    SERVING_READINGS,
    STAGING,
)
from meterlake.settings import Settings


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


def integrate(session: Session) -> IntegrationResult:
    """Bring the integrated table up to staging's version, in one commit.

    Raises
    ------
    Conflict
        Other integrations kept coming first.
    """
    hooks = late_hooks(session.settings.late_hooks)
    settled = settle(session.store, READINGS, now=session.now)[LATE_ARRIVALS.name]
    outcome = bring_up(session, INTEGRATION)
    found = [made.late for made in outcome.made]
    counts = sum((made.counts for made in outcome.made), hours.Counts(0, 0, 0))
    late = pl.concat([pl.DataFrame(schema=hours.LATE_SCHEMA), *found])
    result = IntegrationResult(
        partitions=sum(len(made.files) for made in outcome.made),
        added=counts.added,
        replaced=counts.replaced,
        duplicates=counts.duplicates,
        late=int(late["late"].sum()),
        late_partitions=_partitions(late),
    )
    files = [*settled, *outcome.settled.get(LATE_ARRIVALS.name, ())]
    recorded = fetched(scan(session.store, LATE_ARRIVALS, files).select(*hours.LATE_SCHEMA))
    if recorded.is_empty():
        return result
    event = LateReads(int(recorded["late"].sum()), _partitions(recorded), recorded.to_dicts())
    return replace(result, hook_failures=_announce(event, hooks, session.settings))


def is_integrated(session: Session) -> bool:
    """Whether everything in staging has been integrated."""
    staging = snapshot(session.store, STAGING)
    return snapshot(session.store, READINGS).consumed("", staging) >= staging.version


def cluster(session: Session, *, rebuild: bool = False) -> Clustered:
    """Bring serving and the energies up to what integrated has, each table in one commit.

    Parameters
    ----------
    rebuild : rewrite everything, from integrated alone

    Raises
    ------
    BadInput
        The energies are of another time zone than the settings'.
    Conflict
        Other clusterings kept coming first.
    """
    session.live.now()
    if session.live.integrated.version < 0:
        return Clustered()
    if not rebuild:
        daily = snapshot(session.store, CONSUMPTION_DAILY)
        check_zone(session.store, daily, session.settings.timezone)
    days = bring_up(session, CLUSTERING, rebuild=rebuild).plan.units
    merges = bring_up(session, MERGING).plan.units
    daily_units = bring_up(session, DAILY, rebuild=rebuild).plan.units
    return Clustered(
        days=sum(p.table == READINGS for u in days for p in u.pieces),
        merged=len(merges),
        consumption_days=sum(len(u.days) for u in daily_units),
        weeks=len(bring_up(session, WEEKLY, rebuild=rebuild).plan.units),
        months=len(bring_up(session, MONTHLY, rebuild=rebuild).plan.units),
    )


def _announce(event: LateReads, hooks: Sequence[Hook], settings: Settings) -> tuple[str, ...]:
    """Call every hook; one that fails does not keep the others from being called."""
    failures = []
    for hook in hooks:
        try:
            hook(event, settings)
        except MeterlakeError as error:
            failures.append(str(error))
    return tuple(failures)


def _partitions(late: pl.DataFrame) -> int:
    return late.select("reading_type", "reading_hour").n_unique() if len(late) else 0


def _plan_integration(run: Run) -> Plan[hours.Integrated]:
    staging = run.inputs[STAGING.name]
    if run.state.files and run.consumed[STAGING.name] < 0:
        raise Unavailable(
            "Integrate needs the staging that the readings were made from; found another one, "
            f"at version {staging.version}. Restore it: see meterlake check"
        )
    commits = list(run.since(STAGING))
    if run.damaged or (run.is_full and run.consumed[STAGING.name] >= 0):
        return _plan_rebuild(run, _consumed(run, commits))
    staged, lost = _counting(run, commits)
    live = {f.path for f in staged}
    arrived = [f for e in commits for f in e.new if f.path in live]
    made_from = {f.path: f.made_from for e in commits for f in e.added}
    deliveries = sorted({made_from[f.path] for f in arrived})
    search = LateSearch(staging.version, run.settings.late_after_minutes, deliveries)
    late_after = timedelta(minutes=run.settings.late_after_minutes)
    present = {partition_path(f.partition): f for f in run.state.files}

    def finish(made: Sequence[hours.Integrated]) -> Finish:
        written = [partition_path(f.partition) for m in made for f in m.files]
        written += [path for m in made for path in m.emptied]
        late = pl.concat([m.late for m in made])
        written_late = write_late_arrivals(run.store, late, search, now=run.now)
        replaced = [present[path] for path in written if path in present]
        return Finish({LATE_ARRIVALS.name: written_late}, {READINGS.name: replaced})

    return Plan(
        list(hours.plan_hours(arrived, staged, lost)) if arrived or lost else (),
        hours.integrate_hours(run.store, late_after=late_after),
        finish=finish,
    )


def _counting(run: Run, commits: Sequence[Entry]) -> tuple[list[DataFile], list[DataFile]]:
    """Staging's files that count, and those that count no more since the last integration."""
    files = run.inputs[STAGING.name].files
    gone = withdrawals.withdrawn_deliveries(run.store)
    if not gone:
        return list(files), []
    logs = logged(run.store, STAGING, until=run.inputs[STAGING.name].version).files
    delivery = {f.path: logs[f.path].made_from for f in files}
    lately = gone & _withdrawn_in(commits)
    counting = [f for f in files if delivery[f.path] not in gone]
    return counting, [f for f in files if delivery[f.path] in lately]


def _consumed(run: Run, commits: Sequence[Entry]) -> list[DataFile]:
    """Staging's files that the last integration had."""
    waiting = {f.path for e in commits for f in e.new}
    counting, lost = _counting(run, commits)
    return [f for f in (*counting, *lost) if f.path not in waiting]


def _withdrawn_in(commits: Sequence[Entry]) -> set[str]:
    keys = {key for e in commits for key in e.keys if key.startswith(withdrawals.PREFIX)}
    return {key.removeprefix(withdrawals.PREFIX) for key in keys}


def _plan_rebuild(run: Run, staged: Sequence[DataFile]) -> Plan[hours.Integrated]:
    """The damaged partitions once more, or all of them, from what was integrated already."""
    partitions = None
    replaced = list(run.state.files)
    if run.damaged:
        depth = len(READINGS.partitioned_by)
        paths = [p for p in run.damaged if p.startswith("reading_type=")]
        partitions = frozenset("/".join(path.split("/")[:depth]) for path in paths)
        replaced = [f for f in replaced if partition_path(f.partition) in partitions]
    units = verify.plan_rebuild(staged, partitions)
    work = verify.rebuild_hours(run.store, partitions=partitions)
    return Plan(list(units), work, replaced, consumes=False)


def _verify_integration(run: Run, findings: Sequence[Finding]) -> Verification:
    """Every hour recomputed, unless staging itself is damaged."""
    staging, consumed = run.inputs[STAGING.name], run.consumed[STAGING.name]
    if consumed > staging.version or (run.state.files and consumed < 0):
        problem = f"readings were made from it, and its log ends at {staging.version}"
        return Verification(findings=[Finding(STAGING.name, "_delta_log", problem)])
    if any(f.table == STAGING.name for f in findings):
        return Verification()
    staged = _consumed(run, list(run.since(STAGING)))
    units, found = verify.plan_comparison(staged, run.state.files)
    unreadable = frozenset(f.path for f in findings)
    return Verification(units, verify.compare_hours(run.store, unreadable=unreadable), found)


def _plan_clustering(run: Run) -> Plan[Made]:
    layout = run.layout
    rebuilt = {
        (name, span.first)
        for name in layout.reading_types
        for span in layout.spans(name)
        if run.is_full or any(f.path in run.damaged for f in span.files)
    }
    closed_until = run.now - timedelta(hours=run.settings.cluster_after_hours)
    units = spans.plan_days(layout, closed_until=closed_until, rebuilt=rebuilt)
    return _clustering(run, units)


def _plan_merging(run: Run) -> Plan[Made]:
    settled_until = run.now - timedelta(days=run.settings.merge_after_days)
    units = spans.plan_merges(
        run.layout, merge_days=run.settings.merge_days, settled_until=settled_until
    )
    return replace(_clustering(run, units), consumes=False)


def _clustering(run: Run, units: Sequence[spans.Clustering]) -> Plan[Made]:
    work = spans.cluster_span(run.store, run.settings.serving_file_rows)
    return Plan(units, work, [f for u in units for f in u.replaces])


def _verify_clustering(run: Run, findings: Sequence[Finding]) -> Verification:
    unreadable = frozenset(f.path for f in findings)
    units, found = verify_serving.plan_spans(run.layout, unreadable=unreadable)
    return Verification(units, verify_serving.compare_spans(run.store), found)


def _plan_daily(run: Run) -> Plan[Made]:
    is_full = run.is_full or bool(run.damaged)
    known = () if is_full else run.state.files
    units = consumption.plan_months(
        run.layout,
        known,
        changed_hours(run.since(READINGS)) if known else {},
        zone=run.settings.timezone,
        closed_until=run.now - timedelta(hours=run.settings.cluster_after_hours),
    )
    return Plan(
        units,
        consumption.consume_month(run.store),
        run.state.files if is_full else [f for u in units for f in u.before],
        changed=None if is_full else consumption.dates_of(units),
    )


def _verify_daily(run: Run, findings: Sequence[Finding]) -> Verification:
    daily = run.state
    if not daily.files:
        return Verification()
    zone = run.last.settings.get("timezone")
    if zone is None:
        problem = "its last commit does not say which time zone its days are of"
        return Verification(findings=[Finding(CONSUMPTION_DAILY.name, "_delta_log", problem)])
    changed = changed_hours(run.since(READINGS))
    unreadable = frozenset(f.path for f in findings)
    units = verify_serving.plan_energy(run.layout, daily, changed, zone, unreadable=unreadable)
    return Verification(units, verify_serving.compare_energy(run.store))


def _plan_periods(by: By, run: Run) -> Plan[Made]:
    daily, zone = run.inputs[CONSUMPTION_DAILY.name], run.settings.timezone
    is_full = run.is_full or bool(run.damaged)
    if is_full:
        changed = consumption.dates_in(daily.files, zone)
    else:
        changed = consumption.changed_dates(run.since(CONSUMPTION_DAILY), zone)
    units = consumption.plan_periods(by, daily, run.state, changed, zone=zone)
    replaced = run.state.files if is_full else [f for u in units for f in u.replaces]
    return Plan(units, consumption.consume_period(run.store), replaced)


def _verify_periods(by: By, run: Run, findings: Sequence[Finding]) -> Verification:
    """The weeks or months whose days have not changed since they were summed up."""
    daily, zone = run.inputs[CONSUMPTION_DAILY.name], run.last.settings.get("timezone")
    unreadable = {f.path for f in findings}
    if zone is None or not run.state.files or unreadable & {f.path for f in daily.files}:
        return Verification()
    changed = consumption.changed_dates(run.since(CONSUMPTION_DAILY), zone)
    waiting = {
        (u.reading_type, u.period.date)
        for u in consumption.plan_periods(by, daily, run.state, changed, zone=zone)
    }
    everything = consumption.dates_in(daily.files, zone)
    units = [
        unit
        for unit in consumption.plan_periods(by, daily, run.state, everything, zone=zone)
        if (unit.reading_type, unit.period.date) not in waiting
        and not unreadable & {f.path for f in unit.replaces}
    ]
    return Verification(units, verify_serving.compare_sums(run.store))


def _guard_zone(run: Run) -> None:
    check_zone(run.store, run.state, run.settings.timezone)


INTEGRATION = Derivation(
    READINGS,
    made_from=(STAGING,),
    plan=_plan_integration,
    also=(LATE_ARRIVALS,),
    verify=_verify_integration,
)
CLUSTERING = Derivation(
    SERVING_READINGS, made_from=(READINGS,), plan=_plan_clustering, verify=_verify_clustering
)
MERGING = Derivation(SERVING_READINGS, made_from=(READINGS,), plan=_plan_merging, rearranges=True)
DAILY = Derivation(
    CONSUMPTION_DAILY,
    made_from=(READINGS,),
    settings=("timezone",),
    guard=_guard_zone,
    plan=_plan_daily,
    verify=_verify_daily,
)
WEEKLY, MONTHLY = (
    Derivation(
        table,
        made_from=(CONSUMPTION_DAILY,),
        settings=("timezone",),
        plan=partial(_plan_periods, by),
        verify=partial(_verify_periods, by),
    )
    for by, table in consumption.PERIOD_TABLES.items()
)
