"""Derive again what was damaged: each table from what it came from, as its commits tell.

Every commit of a job keeps in its note what the job was given. A repair does the work of that
job once more and puts the result in the place of what came of it then.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from meterlake.delta.check import Finding
from meterlake.delta.commit import Change, commit, snapshots
from meterlake.delta.journal import Provenance, entries
from meterlake.delta.store import Store
from meterlake.delta.table import DataFile
from meterlake.engine import Engine
from meterlake.errors import MeterlakeError
from meterlake.formats.registry import format_of_note
from meterlake.ingest.land import kept_source
from meterlake.ingest.stage import Portion, Refused, Staged, cut, stage
from meterlake.integrate import hours
from meterlake.schema import LATE_ARRIVALS, QUARANTINE, READINGS, STAGING, Table

_RESTORES = "restores_version"  # in a repair's note: the version of the commit that it is about

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Origin:
    """A commit of a job, and the files that hold what came of it, today or before."""

    version: int
    note: Mapping[str, Any]
    files: set[str] = field(default_factory=set)
    attached: set[str] = field(default_factory=set)


def restore_staging(
    store: Store, findings: Iterable[Finding], engine: Engine, now: datetime
) -> bool:
    """Take delivered files in again whose rows are damaged; whether there were any."""
    damaged = {table: _damaged(findings, table) for table in (STAGING, QUARANTINE)}
    if not any(damaged.values()):
        return False
    for origin in _origins(store, STAGING, QUARANTINE):
        replaced = [
            (table, paths)
            for table, paths in ((STAGING, origin.files), (QUARANTINE, origin.attached))
            if paths & damaged[table]
        ]
        if replaced:
            _take_in_again(store, origin, dict(replaced), engine, now)
    return True


def restore_late_arrivals(store: Store, findings: Iterable[Finding], engine: Engine) -> None:
    """Find the late reads again of integrations whose record of them is damaged."""
    damaged = _damaged(findings, LATE_ARRIVALS)
    if not damaged:
        return
    state = snapshots(store, [STAGING])[STAGING.name]
    deliveries = _origins(store, STAGING, QUARANTINE)
    for origin in _origins(store, READINGS, LATE_ARRIVALS):
        if not origin.attached & damaged:
            continue
        note = origin.note
        arrived = set().union(
            *(
                o.files
                for o in deliveries
                if note["consumed_version"] < o.version <= note["staging_version"]
            )
        )
        files = [f for f in state.files if f.path in arrived]
        work = hours.find_late(store, late_after=timedelta(minutes=note["late_after_minutes"]))
        late = pl.concat(engine.map(work, hours.plan_hours(files, files)))
        detected_at = datetime.fromisoformat(note["detected_at"])
        written = hours.write_late_arrivals(
            store, late, staging_version=note["staging_version"], now=detected_at
        )
        _replace(store, LATE_ARRIVALS, origin, written, new_data=False, now=detected_at)


def _take_in_again(
    store: Store, origin: _Origin, damaged: Mapping[Table, set[str]], engine: Engine, now: datetime
) -> None:
    note = origin.note
    try:
        fmt = format_of_note(note)
        source = kept_source(store, note["file"], note["inbound"], sha256=note["sha256"])
        received_at = datetime.fromisoformat(note["received_at"])
        parts = cut(fmt, source, by_reference=engine.sends_units)
        portions = (Portion(0, note["sha256"], fmt, part) for part in parts)
        results = [
            _staged(result)
            for result in engine.map(stage(store, received_at=received_at), portions)
        ]
    except MeterlakeError as error:
        _log.warning("%s cannot be taken in again: %s", note["file"], error)
        return  # what was found of it stays a finding
    states = snapshots(store, [READINGS, STAGING])
    is_new = origin.version > states[READINGS.name].consumed("", states[STAGING.name])
    written = {
        STAGING: [f for r in results for f in r.files],
        QUARANTINE: [f for r in results for f in r.quarantine],
    }
    for table in damaged:
        _replace(store, table, origin, written[table], new_data=is_new, now=now)


def _staged(result: Staged | Refused) -> Staged:
    if isinstance(result, Refused):
        raise result.error
    return result


def _replace(
    store: Store,
    table: Table,
    origin: _Origin,
    written: Iterable[DataFile],
    *,
    new_data: bool,
    now: datetime,
) -> None:
    """Put files in the place of those of an origin."""
    state = snapshots(store, [table])[table.name]
    before = origin.attached if table in (QUARANTINE, LATE_ARRIVALS) else origin.files
    details = {**origin.note, _RESTORES: origin.version}
    change = Change(
        {f"repair/{state.version}": 0},
        add=tuple(written),
        remove=[f for f in state.files if f.path in before],
        read_version=state.version,
        provenance=Provenance(str(origin.note.get("job", "")), details=details),
        new_data=new_data,
    )
    commit(store, table, change, now=now)


def _damaged(findings: Iterable[Finding], table: Table) -> set[str]:
    return {f.path for f in findings if f.table == table.name}


def _origins(store: Store, main: Table, attached: Table) -> list[_Origin]:
    """The commits of jobs to a table, with what earlier repairs put in the place of theirs."""
    states = snapshots(store, [main, attached])
    origins: dict[int, _Origin] = {}
    for table in (main, attached):
        for entry in entries(store, table, after=-1, until=states[table.name].version):
            if entry.account is None or not entry.account.provenance.details:
                continue
            note = entry.account.provenance.details
            version = int(note.get(_RESTORES, entry.version))
            origin = origins.setdefault(version, _Origin(version, note))
            (origin.files if table == main else origin.attached).update(f.path for f in entry.added)
            origin.attached.update(f.path for f in entry.account.attached.get(attached.name, ()))
    return list(origins.values())
