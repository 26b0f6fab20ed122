"""The upgrade from format 1: the table of deliveries, from the commits of that time.

There each commit of staging had a note of the file that it brought, and each commit of the
integrated table a note of the deliveries in which it looked for late reads.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

from meterlake.delta.commit import SETTLED, Change, commit, snapshot
from meterlake.delta.journal import attached_since, entries, log_path, logged, provenance
from meterlake.delta.lake_format import FORMAT_KEY
from meterlake.delta.store import Store
from meterlake.delta.table import DataFile, key_of, open_delta, recorded_under, table_at
from meterlake.errors import NotReadable
from meterlake.ingest.deliveries import (
    KEY_PREFIX,
    DeliveryRecord,
    delivery_id_of,
    read_records,
    write_records,
)
from meterlake.ingest.land import kept_content_sha256
from meterlake.integrate.consumption import PERIOD_TABLES
from meterlake.integrate.late_arrivals import LateSearch
from meterlake.pipeline.derivation import Session
from meterlake.pipeline.registry import derivations
from meterlake.schema import (
    ANOMALIES,
    CONSUMPTION_DAILY,
    DELIVERIES,
    LATE_ARRIVALS,
    METER_SUPPLY,
    OUTAGES,
    QUARANTINE,
    READINGS,
    SERVING_READINGS,
    STAGING,
    TRANSFORMER_LOAD,
    VOLT_VAR,
    Table,
)

_BECOMES = 2  # the format that these steps lead to
_FIRST_SETTLED = "settled"  # what format 1 calls the key SETTLED
_RESTORES = "restores_version"  # in a repair's note: the version of the commit that it is about

_FIRST_KEYS = {  # what format 1 recorded under these keys, with the identifier of the source
    READINGS.name: "integrate",
    SERVING_READINGS.name: "cluster/{}",
    **{t.name: "consume/{}" for t in (CONSUMPTION_DAILY, *PERIOD_TABLES.values())},
    **{t.name: "grid/{}" for t in (VOLT_VAR, TRANSFORMER_LOAD, METER_SUPPLY, OUTAGES)},
    ANOMALIES.name: "judge/{}",
}


@dataclass(frozen=True)
class _Origin:
    """A commit of a job, and the files that hold what came of it, then and after repairs."""

    version: int
    note: Mapping[str, Any]
    files: set[str] = field(default_factory=set)
    attached: set[str] = field(default_factory=set)

    @property
    def delivery_id(self) -> str:
        """Of a commit that brought a delivery."""
        return delivery_id_of(self.note["sha256"])


def settle_first_format(session: Session) -> None:
    """Continue where the attached tables of format 1 are up to date with their main tables."""
    store, now = session.store, session.now
    for main, attached in ((STAGING, QUARANTINE), (READINGS, LATE_ARRIVALS)):
        delta, until = open_delta(store, attached), table_at(store, main).version
        if delta is None or recorded_under(delta, SETTLED) >= 0:
            continue
        settled = recorded_under(delta, _FIRST_SETTLED)
        files = attached_since(store, main, attached, after=settled, until=until)
        keys = {SETTLED: until, _FIRST_SETTLED: until}
        change = Change(keys, add=files, read_version=delta.version())
        commit(store, attached, change, now=now)


def record_deliveries(session: Session) -> None:
    """Write the table of deliveries, and name in staging's log the delivery of each file.

    All of it is one commit of staging. Version 0.1 cannot read that commit, and takes nothing
    in from then on.
    """
    store, now, progress = session.store, session.now, session.progress
    staging = table_at(store, STAGING)
    if staging.version < 0:
        return
    known = {record.source_sha256 for record in read_records(store).values()}
    origins = _deliveries(store)
    notes = [o.note for o in origins if o.note["sha256"] not in known]
    records = []
    for done, note in enumerate(notes, start=1):
        records.append(_record(store, note, now))
        progress("deliveries", len(notes), done)
    named = _named(store, STAGING, {path: o.delivery_id for o in origins for path in o.files})
    if not records and not named and recorded_under(open_delta(store, STAGING), FORMAT_KEY) >= 0:
        return
    contents = {f"{KEY_PREFIX}{record.sha256}": 0 for record in records if record.sha256}
    change = Change(
        {FORMAT_KEY: _BECOMES, **contents},
        add=named,
        attached={DELIVERIES.name: write_records(store, records)},
        read_version=staging.version,
        new_data=False,
    )
    commit(store, STAGING, change, now=now)


def name_deliveries(session: Session) -> None:
    """Name in the logs of the quarantine and of late arrivals what each file was made from."""
    store, now = session.store, session.now
    origins = _deliveries(store)
    ids = {o.version: o.delivery_id for o in origins}
    quarantined = {path: o.delivery_id for o in origins for path in o.attached}
    searches = {
        path: json.dumps(asdict(_search(o.note, ids)))
        for o in _origins(store, READINGS, LATE_ARRIVALS, "integrate")
        for path in o.attached
    }
    for table, made_from in ((QUARANTINE, quarantined), (LATE_ARRIVALS, searches)):
        named = _named(store, table, made_from)
        if named:
            version = table_at(store, table).version
            change = Change({FORMAT_KEY: _BECOMES}, named, read_version=version, new_data=False)
            commit(store, table, change, now=now)


def record_consumed(session: Session) -> None:
    """Say in each derived table's log under our keys what it is up to.

    Version 0.1 cannot read these commits, and derives nothing from then on. Forecasts, of which
    each has keys of its own, are made again when they are asked for.
    """
    store, now = session.store, session.now
    for derivation in derivations():
        state = snapshot(store, derivation.table)
        old = logged(store, derivation.table).keys
        keys = {}
        for source in (snapshot(store, t) for t in derivation.made_from):
            first = old.get(_FIRST_KEYS.get(derivation.name, "").format(source.id), -1)
            if first >= 0 > state.consumed("", source):
                keys[key_of("", source)] = first
        if keys:
            last = replace(provenance(store, derivation.table, state.version), changed={})
            change = Change(keys, read_version=state.version, provenance=last)
            commit(store, derivation.table, change, now=now)


def _record(store: Store, note: Mapping[str, Any], now: datetime) -> DeliveryRecord:
    name, delivered, inbound = note["file"], note["sha256"], note["inbound"]
    content = None
    if store.has(inbound):
        with suppress(NotReadable):  # it was damaged since: as if it were gone
            content = kept_content_sha256(store, name, inbound, sha256=delivered)
    return DeliveryRecord(
        delivery_id_of(delivered),
        source_file=name,
        sha256=content,
        source_sha256=delivered,
        inbound=inbound,
        format=note["format"],
        profile=None if note["profile"] is None else json.dumps(note["profile"]),
        timezone=note["timezone"],
        interval_seconds=None,
        length_source="unknown",
        received_at=datetime.fromisoformat(note["received_at"]),
        rows=note["rows"],
        stored=note["rows"] - note["quarantined"],
        quarantined=note["quarantined"],
        readings=note["readings"],
        recorded_at=now,
    )


def _search(note: Mapping[str, Any], ids: Mapping[int, str]) -> LateSearch:
    after, until = note["consumed_version"], note["staging_version"]
    arrived = sorted({of for version, of in ids.items() if after < version <= until})
    return LateSearch(until, note["late_after_minutes"], arrived)


def _named(store: Store, table: Table, made_from: Mapping[str, str]) -> list[DataFile]:
    """The live files of a table that did not say yet what they were made from, and now do."""
    return [
        replace(file, made_from=made_from[file.path])
        for file in logged(store, table).files.values()
        if not file.made_from and file.path in made_from
    ]


def _deliveries(store: Store) -> list[_Origin]:
    return _origins(store, STAGING, QUARANTINE, "ingest")


def _origins(store: Store, main: Table, attached: Table, job: str) -> list[_Origin]:
    """The commits of a job to a table, with what repairs put in the place of their files."""
    origins: dict[int, _Origin] = {}
    for table in (main, attached):
        until = snapshot(store, table).version
        for entry in entries(store, table, after=-1, until=until):
            note = _note(store, table, entry.version)
            if note.get("job") != job:
                continue
            version = note.get(_RESTORES, entry.version)
            origin = origins.setdefault(version, _Origin(version, note))
            (origin.files if table == main else origin.attached).update(f.path for f in entry.added)
            if entry.account is not None:
                files = entry.account.attached.get(attached.name, ())
                origin.attached.update(f.path for f in files)
    return list(origins.values())


def _note(store: Store, table: Table, version: int) -> Mapping[str, Any]:
    """What a commit of format 1 noted; nothing for one of a later format."""
    for line in store.read(log_path(table, version)).splitlines():
        said = json.loads(line).get("commitInfo", {}).get("meterlake")
        if said is not None:
            note: Mapping[str, Any] = json.loads(said).get("note", {})
            return note
    return {}
