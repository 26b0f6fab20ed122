"""Damaged files of staging, of the quarantine and of the deliveries, made again.

The row of a delivery says how its file was read, and the log to which delivery each file of
staging and of the quarantine belongs. No commit of the past is needed.
"""

import logging
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import datetime

from meterlake.delta.commit import replace_files
from meterlake.delta.journal import added_since, logged
from meterlake.delta.store import Store
from meterlake.delta.table import DataFile, table_at
from meterlake.engine import Engine
from meterlake.errors import MeterlakeError
from meterlake.formats.tabular import stated_length, with_lengths
from meterlake.ingest.deliveries import DeliveryRecord, read_records, records_of, write_records
from meterlake.ingest.land import kept_source
from meterlake.ingest.stage import (
    Portion,
    RefusedPortion,
    Staged,
    by_own_steps,
    cut,
    files_of_delivery,
    stage,
)
from meterlake.schema import DELIVERIES, QUARANTINE, STAGING, Table

_log = logging.getLogger(__name__)


def restore_deliveries(store: Store, damaged: Collection[str], now: datetime) -> None:
    """Write damaged files of the table of deliveries again, from the rows that the log has."""
    for path in damaged:
        file = logged(store, DELIVERIES).files.get(path)
        if file is not None:
            written = write_records(store, records_of(file))
            replace_files(store, DELIVERIES, {path}, written, new_data=False, now=now)


def restore_staging(
    store: Store,
    damaged: Mapping[Table, Collection[str]],
    engine: Engine,
    *,
    consumed: int,
    now: datetime,
) -> None:
    """Take delivered files in again whose rows are damaged, in staging or the quarantine.

    Parameters
    ----------
    damaged : paths of damaged files, by table
    consumed : the version of staging that was integrated: what came later is new again
    """
    until = table_at(store, STAGING).version
    waiting = {f.made_from for f in added_since(store, STAGING, after=consumed, until=until)}
    files = {table: _by_delivery(store, table) for table in (STAGING, QUARANTINE)}
    records = read_records(store)
    for delivery_id, record in records.items():
        replaced = {
            table: paths
            for table, of in files.items()
            if not (paths := of.get(delivery_id, set())).isdisjoint(damaged[table])
        }
        if not replaced:
            continue
        try:
            written, _ = take_in_again(store, record, engine)
        except MeterlakeError as error:  # what was found of it stays a finding
            _log.warning("%s cannot be taken in again: %s", record.source_file, error)
            continue
        for table, paths in replaced.items():
            new = delivery_id in waiting
            replace_files(store, table, paths, written[table.name], new_data=new, now=now)


def _by_delivery(store: Store, table: Table) -> dict[str, set[str]]:
    paths: dict[str, set[str]] = {}
    for file in logged(store, table).files.values():
        paths.setdefault(file.made_from, set()).add(file.path)
    return paths


def take_in_again(
    store: Store, record: DeliveryRecord, engine: Engine
) -> tuple[dict[str, list[DataFile]], DeliveryRecord]:
    """The files that a delivery becomes, by table, and its row.

    Raises
    ------
    MeterlakeError
        It cannot be read any more.
    """
    source = kept_source(store, record.source_file, record.inbound, sha256=record.source_sha256)
    fmt, lengths = with_lengths(record.read_format(), source, record.lake_seconds)
    whole = Portion(0, record.source_sha256, record.delivery_id, fmt, source, lengths)
    parts = cut(fmt, source, by_reference=engine.sends_units)
    work, moment = stage(store, received_at=record.received_at), record.received_at
    first = engine.map(work, (replace(whole, part=part) for part in parts))
    results = [_staged(result) for result in first]
    results = by_own_steps(store, whole, source, results, received_at=moment)
    seconds, told = stated_length(fmt, lengths)
    record = replace(record, interval_seconds=seconds, length_source=told)
    return files_of_delivery(results, record.delivery_id), record


def _staged(result: Staged | RefusedPortion) -> Staged:
    if isinstance(result, RefusedPortion):
        raise result.error
    return result
