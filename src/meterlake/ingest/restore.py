"""Damaged files of staging, of the quarantine and of the deliveries, made again.

The row of a delivery says how its file was read, and the log to which delivery each file of
staging and of the quarantine belongs. No commit of the past is needed.
"""

import logging
from collections.abc import Collection, Mapping
from datetime import datetime

from meterlake.delta.commit import replace_files
from meterlake.delta.journal import added_since, logged
from meterlake.delta.store import Store
from meterlake.delta.table import DataFile, table_at
from meterlake.engine import Engine
from meterlake.errors import MeterlakeError
from meterlake.ingest.deliveries import DeliveryRecord, read_records, records_of, write_records
from meterlake.ingest.land import kept_source
from meterlake.ingest.stage import Portion, RefusedPortion, Staged, cut, files_of_delivery, stage
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
        written = _taken_in_again(store, record, engine)
        for table, paths in replaced.items() if written else ():
            new = delivery_id in waiting
            replace_files(store, table, paths, written[table.name], new_data=new, now=now)


def _by_delivery(store: Store, table: Table) -> dict[str, set[str]]:
    paths: dict[str, set[str]] = {}
    for file in logged(store, table).files.values():
        paths.setdefault(file.made_from, set()).add(file.path)
    return paths


def _taken_in_again(
    store: Store, record: DeliveryRecord, engine: Engine
) -> dict[str, list[DataFile]]:
    """The files that a delivery becomes, by table; none where it cannot be read any more."""
    try:
        fmt = record.read_format()
        source = kept_source(store, record.source_file, record.inbound, sha256=record.source_sha256)
        parts = cut(fmt, source, by_reference=engine.sends_units)
        portions = (Portion(0, record.source_sha256, fmt, part) for part in parts)
        work = stage(store, received_at=record.received_at)
        results = [_staged(result) for result in engine.map(work, portions)]
    except MeterlakeError as error:
        _log.warning("%s cannot be taken in again: %s", record.source_file, error)
        return {}  # what was found of it stays a finding
    return files_of_delivery(results, record.delivery_id)


def _staged(result: Staged | RefusedPortion) -> Staged:
    if isinstance(result, RefusedPortion):
        raise result.error
    return result
