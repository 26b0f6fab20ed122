"""The upgrade from format 2: how long each reading's interval is, a row of staging for each value.

Every delivery is read again, with the format that it was read with then. Where that says no
length, it is the setting interval_minutes, or 15 minutes where all readings together have that
step; else it is inferred from each file. A delivery that inbound/ has no more keeps its values, and
the length of its intervals is not known.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace

import polars as pl

from meterlake.delta.commit import Change, commit, settle, snapshot
from meterlake.delta.journal import Provenance, logged, provenance
from meterlake.delta.lake_format import FORMAT_KEY
from meterlake.delta.table import DataFile, fetched, open_delta, recorded_under, table_at
from meterlake.errors import MeterlakeError
from meterlake.formats.lengths import HES_SECONDS, Stamps, inferred
from meterlake.ingest.deliveries import DeliveryRecord, read_records, write_records
from meterlake.ingest.restore import take_in_again
from meterlake.ingest.stage import write_reads
from meterlake.integrate.derivations import CLUSTERING, DAILY, INTEGRATION, MONTHLY, WEEKLY
from meterlake.pipeline.derivation import Session
from meterlake.pipeline.runner import bring_up
from meterlake.schema import (
    CONSUMPTION_DAILY,
    DELIVERIES,
    QUARANTINE,
    READING_TYPES,
    READINGS,
    STAGING,
    Table,
)

_log = logging.getLogger(__name__)

_BECOMES = 3  # the format that these steps lead to


def read_again(session: Session) -> None:
    """Read every delivery again; staging and the quarantine are then of what they say now."""
    store = session.store
    staging = table_at(store, STAGING)
    if staging.version < 0 or recorded_under(open_delta(store, STAGING), FORMAT_KEY) >= _BECOMES:
        return
    settle(store, STAGING, now=session.now)
    files = _by_delivery(session, STAGING)
    quarantined = _by_delivery(session, QUARANTINE)
    seconds = session.settings.interval_seconds
    if seconds is None and _usual_seconds(session, staging.files) == HES_SECONDS:
        seconds = HES_SECONDS
    records = read_records(store)
    written: dict[str, list[DataFile]] = {STAGING.name: [], QUARANTINE.name: []}
    known: list[DeliveryRecord] = []
    for done, record in enumerate(records.values(), start=1):
        if seconds is not None:
            record = replace(record, interval_seconds=seconds, length_source="lake")
        try:
            made, record = take_in_again(store, record, session.engine)
        except MeterlakeError as error:
            _log.warning("the lengths of %s are not known: %s", record.source_file, error)
            record = replace(record, interval_seconds=None, length_source="unknown")
            made = {
                STAGING.name: list(_as_it_was(session, record, files.get(record.delivery_id, ()))),
                QUARANTINE.name: quarantined.get(record.delivery_id, []),
            }
        for name, some in made.items():
            written[name] += some
        known.append(replace(record, recorded_at=session.now))
        session.progress("deliveries", len(records), done)
    for table, new in (
        (DELIVERIES, write_records(store, known)),
        (QUARANTINE, written[QUARANTINE.name]),
        (STAGING, written[STAGING.name]),  # last: until then nothing has happened
    ):
        _replace(session, table, new)


def derive_again(session: Session) -> None:
    """Derive the readings and the energies from what staging says now, as they were derived."""
    store = session.store
    if table_at(store, READINGS).version < 0:
        return
    daily = snapshot(store, CONSUMPTION_DAILY)
    zone = provenance(store, CONSUMPTION_DAILY, daily.version).settings.get("timezone")
    if zone is not None:
        settings = session.settings.model_copy(update={"timezone": zone})
        session = replace(session, settings=settings)
    for derivation in (INTEGRATION, CLUSTERING, DAILY):
        state = snapshot(store, derivation.table)
        if state.version >= 0 and not state.has_all_columns:
            bring_up(session, derivation, rebuild=True)
    daily = snapshot(store, CONSUMPTION_DAILY)
    for derivation in (WEEKLY, MONTHLY):
        state = snapshot(store, derivation.table)
        if state.version >= 0 and state.consumed("", daily) < daily.version:
            bring_up(session, derivation, rebuild=True)


def _by_delivery(session: Session, table: Table) -> dict[str, list[DataFile]]:
    found: dict[str, list[DataFile]] = {}
    for file in logged(session.store, table).files.values():
        found.setdefault(file.made_from, []).append(file)
    return found


def _usual_seconds(session: Session, files: Iterable[DataFile]) -> int | None:
    """The smallest regular step of all that staging has [s]."""
    stamps = Stamps()
    for file in files:
        stamps.add(_old_rows(session, file))
    found = inferred(stamps.all(), ends=False)
    return None if found is None else found.seconds


def _old_rows(session: Session, file: DataFile) -> pl.DataFrame:
    uri = session.store.uri(f"{STAGING.path}/{file.path}")
    options = session.store.polars_options
    return fetched(pl.scan_parquet(uri, glob=False, storage_options=options))


def _as_it_was(
    session: Session, record: DeliveryRecord, files: Iterable[DataFile]
) -> Iterator[DataFile]:
    """The rows of a delivery that cannot be read again, a row for each value."""
    same = {
        "source_file": record.source_file,
        "source_sha256": record.source_sha256,
        "delivery_id": record.delivery_id,
        "received_at": record.received_at,
        "status": "raw",
        "length_source": "unknown",
    }
    for file in files:
        rows = _old_rows(session, file)
        values = [name for name in READING_TYPES if name in rows.columns]
        kept = ("meter_id", "reading_date_time", "arrival_time", "quality", "source_row")
        for new in write_reads(session.store, rows.select(*kept, *values), same):
            yield replace(new, made_from=record.delivery_id)


def _replace(session: Session, table: Table, files: list[DataFile]) -> None:
    """Put files in the place of all that a table has."""
    state = table_at(session.store, table)
    if state.version < 0 or recorded_under(state.delta, FORMAT_KEY) >= _BECOMES:
        return  # there is none, or an upgrade that was stopped has done it
    change = Change(
        {FORMAT_KEY: _BECOMES},
        add=files,
        remove=state.files,
        read_version=state.version,
        provenance=Provenance("upgrade"),
        new_data=False,
        replaces_all=True,
    )
    commit(session.store, table, change, now=session.now)
