"""The jobs that keep a lake: is it whole, what to repair, which files can go."""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from typing import Any

from meterlake.delta import check as whole
from meterlake.delta.check import Finding
from meterlake.delta.commit import settle, snapshots
from meterlake.delta.journal import logged
from meterlake.delta.table import fetched, scan
from meterlake.delta.vacuum import (
    FILES_A_UNIT,
    SHORTEST_LOG_RETENTION,
    Vacuumed,
    consumed_versions,
    cutoff_of,
    expired_log,
    remove_files,
    unneeded_files,
    unneeded_folders,
)
from meterlake.errors import Unavailable
from meterlake.forecast.models import check_model
from meterlake.ingest.restore import restore_deliveries, restore_staging
from meterlake.integrate.late_arrivals import restore_late_arrivals
from meterlake.pipeline.derivation import Session
from meterlake.pipeline.registry import derivations
from meterlake.pipeline.runner import bring_up, open_run
from meterlake.schema import (
    DELIVERIES,
    LATE_ARRIVALS,
    MODELS,
    QUARANTINE,
    READINGS,
    STAGING,
    Table,
    known_tables,
)


@dataclass(frozen=True)
class Checked:
    """What a check found; after a repair, what it repaired and what it could not."""

    files: int
    rows: int
    findings: tuple[Finding, ...]
    repaired: tuple[Finding, ...] = ()


def check(session: Session, *, repair: bool = False) -> Checked:
    """Verify the whole lake; with `repair`, derive again what is wrong and can be derived.

    Staging and quarantine are derived from `inbound/`, the other tables from staging.
    Jobs may run meanwhile: the lake is judged as it was when the check began.
    """
    found = _check(session)
    if not repair or not found.findings:
        return found
    store, engine, now = session.store, session.engine, session.now
    settle(store, STAGING, now=now)
    settle(store, READINGS, now=now)
    findings = found.findings
    if _restore_deliveries(session, findings):
        findings = _check(session).findings  # staging can be compared with now
    restore_late_arrivals(store, _damaged(findings, LATE_ARRIVALS), engine)
    for derivation in derivations():
        damaged = frozenset(_damaged(findings, derivation.table))
        is_source_whole = not {f.table for f in findings} & {t.name for t in derivation.made_from}
        if damaged and is_source_whole:
            bring_up(session, derivation, damaged=damaged)
            findings = _check(session).findings  # what is made from it may be whole, or not, now
    left = _check(session)
    remaining = {(f.table, f.path) for f in left.findings}
    repaired = (f for f in found.findings if (f.table, f.path) not in remaining)
    return replace(left, repaired=tuple(repaired))


def vacuum(
    session: Session, *, retain: timedelta, dry_run: bool = False, nobody_else: bool = False
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
    store, engine = session.store, session.engine
    cutoff = cutoff_of(retain, session.now, nobody_else=nobody_else)
    log_cutoff = cutoff if nobody_else else min(cutoff, session.now - SHORTEST_LOG_RETENTION)
    counts = dict.fromkeys((field.name for field in fields(Vacuumed)), 0)
    # Models right before they go: a training that makes the same one again writes the same files.
    for unneeded, before, at_once in (
        (unneeded_files, cutoff, FILES_A_UNIT),
        (unneeded_folders, cutoff, FILES_A_UNIT),
        (expired_log, log_cutoff, sys.maxsize),  # in one unit: the rest of a log has no gap
    ):
        paths = []
        for kind, file in unneeded(store, before):
            counts[kind] += 1
            counts["bytes"] += file.size
            paths.append(file.path)
        if not dry_run:
            units = [tuple(paths[i : i + at_once]) for i in range(0, len(paths), at_once)]
            removed = 0
            for count in engine.map(remove_files(store), units):
                removed += count
                session.progress("vacuum", len(paths), removed)
    return Vacuumed(**counts)


def _restore_deliveries(session: Session, findings: Iterable[Finding]) -> bool:
    """Take delivered files in again whose rows are damaged; whether there were any."""
    restore_deliveries(session.store, _damaged(findings, DELIVERIES), session.now)
    damaged = {table: _damaged(findings, table) for table in (STAGING, QUARANTINE)}
    if not any(damaged.values()):
        return False
    states = snapshots(session.store, [READINGS, STAGING])
    consumed = states[READINGS.name].consumed("", states[STAGING.name])
    restore_staging(session.store, damaged, session.engine, consumed=consumed, now=session.now)
    return True


def _damaged(findings: Iterable[Finding], table: Table) -> set[str]:
    return {f.path for f in findings if f.table == table.name}


def _check(session: Session) -> Checked:
    store = session.store
    tables = known_tables()
    findings = [f for table in tables.values() for f in whole.missing_commits(store, table)]
    try:
        states = snapshots(store, tables.values())
        runs = [open_run(session, d, states=states) for d in derivations()]
        for name, version in consumed_versions(store).items():
            findings += whole.unread_commits(store, tables[name], version)
    except Unavailable:
        if findings:  # that is why
            return Checked(files=0, rows=0, findings=tuple(findings))
        raise
    there = {name: whole.sizes(store, state) for name, state in states.items()}
    for name, state in states.items():
        findings += whole.missing_files(state, there[name])
    for table in tables.values():
        if table.sorted_by:
            findings += whole.crowded_partitions(states[table.name])
    units = [
        unit
        for name, state in states.items()
        for unit in whole.plan_files(
            state, there[name], logged(store, state.table, until=state.version).files
        )
    ]
    findings += _found(session, "files", whole.check_files(store), units)
    for derivation, run in runs:
        if derivation.verify is not None:
            comparison = derivation.verify(run, findings)
            findings += comparison.findings
            findings += _found(session, derivation.name, comparison.work, comparison.units)
    if not any(f.table == MODELS.name for f in findings):
        rows = fetched(scan(store, MODELS, states[MODELS.name].files)).sort("name")
        models = rows.select("name", "card_sha256").rows()
        findings += _found(session, MODELS.name, check_model(store), models)
    return Checked(
        files=sum(len(s.files) for s in states.values()),
        rows=sum(s.rows for s in states.values()),
        findings=tuple(sorted(findings, key=lambda f: (f.table, f.path, f.problem))),
    )


def _found(
    session: Session, what: str, work: Callable[[Any], list[Finding]], units: Sequence[Any]
) -> list[Finding]:
    findings = []
    for done, found in enumerate(session.engine.map(work, units), start=1):
        findings += found
        session.progress(what, len(units), done)
    return findings
