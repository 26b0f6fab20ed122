"""The jobs that keep a lake: is it whole, what is to be mended, which files can go."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from meterlake.delta import check as whole
from meterlake.delta.check import Finding
from meterlake.delta.commit import settle, snapshot, snapshots
from meterlake.delta.journal import written
from meterlake.delta.store import Store
from meterlake.delta.table import (
    DataFile,
    Snapshot,
    consumed_of,
    consumed_version,
    fetched,
    scan,
)
from meterlake.delta.vacuum import (
    FILES_A_UNIT,
    Vacuumed,
    cutoff_of,
    remove_files,
    unneeded_files,
    unneeded_models,
)
from meterlake.engine import Engine
from meterlake.engine.progress import Progress, silent
from meterlake.errors import Unavailable
from meterlake.forecast.models import check_model
from meterlake.integrate import hours, verify, verify_serving
from meterlake.integrate.consumption import PERIOD_TABLES, changed_dates
from meterlake.pipeline.cluster import renew
from meterlake.pipeline.repair import (
    consumed_files,
    rebuild_integrated,
    restore_late_arrivals,
    restore_staging,
)
from meterlake.readings.consumption import CONSUME, changed_hours, zone_of
from meterlake.readings.layout import day_of, layout_of
from meterlake.schema import (
    CONSUMPTION_DAILY,
    MODELS,
    READINGS,
    SERVING_READINGS,
    STAGING,
    known_tables,
)


@dataclass(frozen=True)
class Checked:
    """What a check found; after a repair, what it mended and what it could not."""

    files: int
    rows: int
    findings: tuple[Finding, ...]
    repaired: tuple[Finding, ...] = ()


def check(
    store: Store,
    *,
    engine: Engine,
    now: datetime,
    repair: bool = False,
    progress: Progress = silent,
) -> Checked:
    """Verify the whole lake; with `repair`, derive again what is wrong and can be derived.

    Staging and quarantine are derived from `inbound/`, the other tables from staging.
    Jobs may run meanwhile: the lake is judged as it was when the check began.
    """
    found = _check(store, engine, progress)
    if not repair or not found.findings:
        return found
    settle(store, STAGING, now=now)
    settle(store, READINGS, now=now)
    findings = found.findings
    if restore_staging(store, findings, engine, now):
        findings = _check(store, engine, progress).findings  # staging can be compared with now
    restore_late_arrivals(store, findings, engine)
    if not any(f.table == STAGING.name for f in findings):  # else it is no source to derive from
        rebuild_integrated(store, findings, engine, now)
    _renew(store, _check(store, engine, progress).findings, engine, now)
    left = _check(store, engine, progress)
    remaining = {(f.table, f.path) for f in left.findings}
    mended = (f for f in found.findings if (f.table, f.path) not in remaining)
    return replace(left, repaired=tuple(mended))


def vacuum(
    store: Store,
    *,
    engine: Engine,
    retain: timedelta,
    now: datetime,
    dry_run: bool = False,
    nobody_else: bool = False,
    progress: Progress = silent,
) -> Vacuumed:
    """Remove what no version needs that was current within `retain` before `now`.

    Parameters
    ----------
    nobody_else : the caller knows that no job and no query runs, so that `retain` may be
        shorter than SHORTEST_RETENTION

    Raises
    ------
    BadInput
        `retain` is shorter than that.
    Unavailable
        The storage refuses or fails; what was removed until then was not needed either.
    """
    cutoff = cutoff_of(retain, now, nobody_else=nobody_else)
    kinds = {"superseded": 0, "orphans": 0, "leftovers": 0}
    size = 0
    # Models right before they go: a training that makes the same one again writes the same files.
    for unneeded in (unneeded_files, unneeded_models):
        paths = []
        for kind, file in unneeded(store, cutoff):
            kinds[kind] += 1
            size += file.size
            paths.append(file.path)
        if not dry_run:
            units = [tuple(paths[i : i + FILES_A_UNIT]) for i in range(0, len(paths), FILES_A_UNIT)]
            removed = 0
            for count in engine.map(remove_files(store), units):
                removed += count
                progress("vacuum", len(paths), removed)
    return Vacuumed(**kinds, bytes=size)


def _check(store: Store, engine: Engine, progress: Progress) -> Checked:
    findings = [f for table in known_tables().values() for f in whole.missing_commits(store, table)]
    try:
        consumed, states = _one_state(store)
    except Unavailable:
        if findings:  # that is why
            return Checked(files=0, rows=0, findings=tuple(findings))
        raise
    there = {name: whole.sizes(store, state) for name, state in states.items()}
    for name, state in states.items():
        findings += whole.missing_files(state, there[name])
    for table in known_tables().values():
        if table.sorted_by:
            findings += whole.crowded_partitions(states[table.name])
    units = [
        unit
        for name, state in states.items()
        for unit in whole.plan_files(
            state, there[name], written(store, state.table, until=state.version)
        )
    ]
    for done, found in enumerate(engine.map(whole.check_files(store), units), start=1):
        findings += found
        progress("files", len(units), done)
    staging = states[STAGING.name]
    if staging.version < consumed:
        problem = f"version {consumed} of it was integrated, and its log ends at {staging.version}"
        findings.append(Finding(STAGING.name, "_delta_log", problem))
    if not any(f.table == STAGING.name for f in findings):
        staged = consumed_files(store, states[STAGING.name], consumed)
        findings += _compare(store, staged, states[READINGS.name], findings, engine, progress)
    findings += _compare_serving(store, states, findings, engine, progress)
    if not any(f.table == MODELS.name for f in findings):
        findings += _check_models(store, states[MODELS.name], engine, progress)
    return Checked(
        files=sum(len(s.files) for s in states.values()),
        rows=sum(s.rows for s in states.values()),
        findings=tuple(sorted(findings, key=lambda f: (f.table, f.path, f.problem))),
    )


def _compare_serving(
    store: Store,
    states: Mapping[str, Snapshot],
    known: Iterable[Finding],
    engine: Engine,
    progress: Progress,
) -> list[Finding]:
    unreadable = frozenset(f.path for f in known)
    layout = layout_of(store, states[SERVING_READINGS.name], states[READINGS.name])
    spans, findings = verify_serving.plan_spans(layout, unreadable=unreadable)
    for done, found in enumerate(engine.map(verify_serving.compare_spans(store), spans), start=1):
        findings += found
        progress("serving", len(spans), done)
    daily = states[CONSUMPTION_DAILY.name]
    if not daily.files:
        return findings
    zone = zone_of(store, daily)
    if zone is None:
        problem = "no commit says of which time zone its days are"
        return [*findings, Finding(CONSUMPTION_DAILY.name, "_delta_log", problem)]
    consumed = consumed_of(store, daily, CONSUME, states[READINGS.name])
    months = verify_serving.plan_energy(
        layout,
        daily,
        changed_hours(store, consumed, states[READINGS.name].version),
        zone,
        unreadable=unreadable,
    )
    for found in engine.map(verify_serving.compare_energy(store), months):
        findings += found
    if unreadable & {f.path for f in daily.files}:
        return findings
    changed = {
        table.name: changed_dates(
            store, daily, consumed_of(store, states[table.name], CONSUME, daily), zone
        )
        for table in PERIOD_TABLES.values()
    }
    sums = [
        unit
        for unit in verify_serving.plan_sums(daily, states, changed, zone)
        if not unreadable & {f.path for f in unit.replaces}
    ]
    for found in engine.map(verify_serving.compare_sums(store), sums):
        findings += found
    return findings


def _check_models(
    store: Store, state: Snapshot, engine: Engine, progress: Progress
) -> list[Finding]:
    models = fetched(scan(store, MODELS, state.files)).sort("name").select("name", "card_sha256")
    findings = []
    for done, found in enumerate(engine.map(check_model(store), models.rows()), start=1):
        findings += found
        progress("models", models.height, done)
    return findings


def _renew(store: Store, findings: Sequence[Finding], engine: Engine, now: datetime) -> None:
    """Work out again what serving and the energies have wrong, where their source is whole."""
    if any(f.table == READINGS.name for f in findings):
        return
    files = {f.path: f for f in snapshot(store, SERVING_READINGS).files}
    spans_of = {
        (files[f.path].partition["reading_type"], day_of(files[f.path]))
        for f in findings
        if f.table == SERVING_READINGS.name and f.path in files
    }
    tables = [known_tables()[name] for name in {f.table for f in findings}]
    renew(store, engine=engine, now=now, spans_of=spans_of, tables=tables)


def _one_state(store: Store) -> tuple[int, dict[str, Snapshot]]:
    """The tables, and the version of staging that the integrated one has consumed."""
    while True:
        consumed = consumed_version(store, READINGS, hours.KEY)
        states = snapshots(store, known_tables().values())
        if consumed_version(store, READINGS, hours.KEY) == consumed:
            return consumed, states


def _compare(
    store: Store,
    staged: Sequence[DataFile],
    integrated: Snapshot,
    known: Iterable[Finding],
    engine: Engine,
    progress: Progress,
) -> list[Finding]:
    units, findings = verify.plan_comparison(staged, integrated.files)
    work = verify.compare_hours(store, unreadable=frozenset(f.path for f in known))
    for done, found in enumerate(engine.map(work, units), start=1):
        findings += found
        progress("compare", len(units), done)
    return findings
