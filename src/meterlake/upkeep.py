"""The jobs that keep a lake whole: check, repair, vacuum."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from meterlake.engine import Engine
from meterlake.errors import MeterlakeError, Unavailable
from meterlake.formats.registry import named_format
from meterlake.ingest.land import kept_source
from meterlake.ingest.stage import stage_block
from meterlake.integrate import hours, verify
from meterlake.jobs import Progress, silent
from meterlake.lake import check as whole
from meterlake.lake.check import Finding
from meterlake.lake.commit import commit, settle, snapshots
from meterlake.lake.journal import added_since, entries
from meterlake.lake.store import Store
from meterlake.lake.table import DataFile, Snapshot, consumed_version, partition_path
from meterlake.schema import QUARANTINE, READINGS, STAGING, TABLES

_RESTORES = "restores_version"  # in a repair's note: the commit that took the file in

_log = logging.getLogger(__name__)


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

    Staging and quarantine are derived from `inbound/`, the integrated table from staging.
    Jobs may run meanwhile: the lake is judged as it was when the check began.
    """
    found = _check(store, engine, progress)
    if not repair or not found.findings:
        return found
    settle(store, STAGING, now=now)
    settle(store, READINGS, now=now)
    findings = found.findings
    if _restore_staging(store, findings, engine, now):
        findings = _check(store, engine, progress).findings  # staging can be compared with now
    _rebuild_integrated(store, findings, engine, now)
    left = _check(store, engine, progress)
    remaining = {(f.table, f.path) for f in left.findings}
    mended = (f for f in found.findings if (f.table, f.path) not in remaining)
    return replace(left, repaired=tuple(mended))


def _check(store: Store, engine: Engine, progress: Progress) -> Checked:
    findings = [f for table in TABLES.values() for f in whole.missing_commits(store, table)]
    try:
        states = snapshots(store, TABLES.values())
        consumed = consumed_version(store, READINGS, hours.KEY)
    except Unavailable:
        if findings:  # that is why
            return Checked(files=0, rows=0, findings=tuple(findings))
        raise
    there = {name: whole.sizes(store, state) for name, state in states.items()}
    for name, state in states.items():
        findings += whole.missing_files(state, there[name])
    findings += whole.crowded_partitions(states[READINGS.name])
    units = [u for n, state in states.items() for u in whole.plan_files(state, there[n])]
    for done, found in enumerate(engine.map(whole.check_files(store), units), start=1):
        findings += found
        progress("files", len(units), done)
    if not any(f.table == STAGING.name for f in findings):
        staged = _consumed_files(store, states[STAGING.name], consumed)
        findings += _compare(store, staged, states[READINGS.name], findings, engine, progress)
    return Checked(
        files=sum(len(s.files) for s in states.values()),
        rows=sum(s.rows for s in states.values()),
        findings=tuple(sorted(findings, key=lambda f: (f.table, f.path, f.problem))),
    )


def _consumed_files(store: Store, staging: Snapshot, consumed: int) -> list[DataFile]:
    """Staging's files of the version that was integrated last."""
    waiting = {f.path for f in added_since(store, STAGING, after=consumed, until=staging.version)}
    return [f for f in staging.files if f.path not in waiting]


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


def _rebuild_integrated(
    store: Store, findings: Iterable[Finding], engine: Engine, now: datetime
) -> None:
    partitions = frozenset(
        "/".join(f.path.split("/")[: len(READINGS.partitioned_by)])
        for f in findings
        if f.table == READINGS.name and f.path.startswith("reading_type=")
    )
    if not partitions:
        return
    states = snapshots(store, [READINGS, STAGING])
    consumed = consumed_version(store, READINGS, hours.KEY)
    staged = _consumed_files(store, states[STAGING.name], consumed)
    integrated = states[READINGS.name]
    work = verify.rebuild_hours(store, partitions=partitions)
    units = verify.plan_rebuild(staged, partitions)
    files = [f for result in engine.map(work, units) for f in result]
    commit(
        store,
        READINGS,
        add=files,
        remove=[f for f in integrated.files if partition_path(f.partition) in partitions],
        note={"job": "repair", "partitions": len(partitions)},
        key=f"repair/{integrated.version}",
        version=0,
        read_version=integrated.version,
        now=now,
    )


def _restore_staging(
    store: Store, findings: Iterable[Finding], engine: Engine, now: datetime
) -> bool:
    """Take in again what is damaged; whether anything was."""
    bad = {(f.table, f.path) for f in findings if f.table in (STAGING.name, QUARANTINE.name)}
    if bad:
        for origin in _origins(store):
            if origin.paths & bad:
                _restore_file(store, origin, bad, engine, now)
    return bool(bad)


@dataclass(frozen=True)
class _Origin:
    """A commit that took a delivered file in, and the files that hold its rows today or did."""

    version: int
    note: Mapping[str, Any]
    staging: set[str] = field(default_factory=set)
    quarantine: set[str] = field(default_factory=set)

    @property
    def paths(self) -> set[tuple[str, str]]:
        return {(STAGING.name, p) for p in self.staging} | {
            (QUARANTINE.name, p) for p in self.quarantine
        }


def _origins(store: Store) -> list[_Origin]:
    states = snapshots(store, [STAGING, QUARANTINE])
    origins: dict[int, _Origin] = {}
    for table in (STAGING, QUARANTINE):
        for entry in entries(store, table, after=-1, until=states[table.name].version):
            if entry.account is None or "sha256" not in entry.account.note:
                continue
            note = entry.account.note
            version = int(note.get(_RESTORES, entry.version))
            origin = origins.setdefault(version, _Origin(version, note))
            if table == STAGING:
                origin.staging.update(f.path for f in entry.added)
                origin.quarantine.update(f.path for f in entry.account.attached)
            else:
                origin.quarantine.update(f.path for f in entry.added)
    return list(origins.values())


def _restore_file(
    store: Store, origin: _Origin, bad: set[tuple[str, str]], engine: Engine, now: datetime
) -> None:
    """Take a delivered file in again from `inbound/`, in place of what came of it then."""
    note = origin.note
    try:
        fmt = named_format(note["format"], default_zone=note["timezone"])
        source = kept_source(store, note["file"], note["inbound"], sha256=note["sha256"])
        work = stage_block(
            store,
            fmt,
            sha256=note["sha256"],
            received_at=datetime.fromisoformat(note["received_at"]),
        )
        results = list(engine.map(work, fmt.split(source)))
    except MeterlakeError as error:
        _log.warning("%s cannot be taken in again: %s", note["file"], error)
        return  # what was found of it stays a finding
    states = snapshots(store, [STAGING, QUARANTINE])
    consumed = consumed_version(store, READINGS, hours.KEY)
    for table, before, after in (
        (STAGING, origin.staging, [f for r in results for f in r.files]),
        (QUARANTINE, origin.quarantine, [f for r in results for f in r.quarantine]),
    ):
        state = states[table.name]
        if not {(table.name, path) for path in before} & bad:
            continue
        commit(
            store,
            table,
            add=after,
            remove=[f for f in state.files if f.path in before],
            note={**note, _RESTORES: origin.version},
            key=f"repair/{state.version}",
            version=0,
            read_version=state.version,
            new_data=origin.version > consumed,
            now=now,
        )
