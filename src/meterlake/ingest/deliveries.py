"""The table of deliveries: one row per delivered file, with all that reading it again takes.

It arrives in the commit of the file's reads. Rows are only ever added; of a delivery the row that
was recorded last counts. Each file of the table has its rows in the log as well, so that it can
be made again.
"""

import json
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Literal

import polars as pl

from meterlake import __version__
from meterlake.delta.commit import Change, commit, settle, snapshot
from meterlake.delta.journal import Provenance
from meterlake.delta.store import Store
from meterlake.delta.table import DataFile, fetched, open_delta, recorded_under, scan, write_file
from meterlake.errors import BadInput
from meterlake.formats.port import Format
from meterlake.formats.registry import recorded_format
from meterlake.readings.withdrawals import COUNT_KEY, PREFIX
from meterlake.schema import DELIVERIES, STAGING, LengthSource, polars_schema

KEY_PREFIX = "ingest/"  # staging's key of a delivery: this and the SHA-256 of its content


_ID_LETTERS = 16
_SHORTEST = 8  # digits of a hash that name a delivery


@dataclass(frozen=True)
class DeliveryRecord:
    """A row of the table; its columns say what each value is."""

    delivery_id: str
    source_file: str
    sha256: str | None
    source_sha256: str
    inbound: str
    format: str
    profile: str | None
    timezone: str
    interval_seconds: int | None
    length_source: LengthSource
    received_at: datetime
    rows: int
    stored: int
    quarantined: int
    readings: int
    recorded_at: datetime
    state: Literal["active", "withdrawn"] = "active"
    reason: str | None = None
    code_version: str = __version__

    def read_format(self) -> Format:
        """The format that the file was read by. Raises BadInput where its package is gone."""
        return recorded_format(self.format, self.profile, default_zone=self.timezone)

    @property
    def lake_seconds(self) -> int | None:
        """The lake's interval where the file was read with it."""
        return self.interval_seconds if self.length_source == "lake" else None


def delivery_id_of(source_sha256: str, number: int = 0) -> str:
    """Identifier of a delivery, from the SHA-256 of its bytes as delivered.

    `number` counts how often the same content was read before, each time in another way.
    """
    return source_sha256[:_ID_LETTERS] + (f"-{number}" if number else "")


def withdrawn(record: DeliveryRecord, reason: str | None, now: datetime) -> DeliveryRecord:
    """The row that says that a delivery does not count any more."""
    return replace(record, state="withdrawn", reason=reason, recorded_at=now)


def withdrawal_keys(store: Store, rows: Sequence[DeliveryRecord]) -> dict[str, int]:
    """Staging's keys of a commit that withdraws these."""
    if not rows:
        return {}
    before = max(recorded_under(open_delta(store, STAGING), COUNT_KEY), 0)
    keys = {f"{PREFIX}{row.delivery_id}": 0 for row in rows}
    return {COUNT_KEY: before + len(rows), **keys}


def withdraw(store: Store, name: str, *, reason: str | None, now: datetime) -> list[DeliveryRecord]:
    """Have deliveries count no more; their rows stay in staging.

    Parameters
    ----------
    name : the name of a delivered file, or how its SHA-256 begins (8 digits at least)

    Returns
    -------
    The rows of the deliveries that counted until now.

    Raises
    ------
    BadInput
        No delivery has that name or hash, or files of different content have it.
    Conflict
        Another one withdrew it at the same moment.
    """
    settle(store, STAGING, now=now)
    found = [r for r in read_records(store).values() if _is_of(r, name)]
    if not found:
        raise BadInput(
            f"Withdraw needs the name or the SHA-256 of a file that was taken in; found '{name}'. "
            "The table deliveries lists them"
        )
    if len({r.source_sha256 for r in found}) > 1:
        hashes = ", ".join(sorted({r.source_sha256[:_ID_LETTERS] for r in found}))
        raise BadInput(f"'{name}' is the name of several deliveries; say which, by hash: {hashes}")
    gone = [r for r in found if r.state == "active"]
    rows = [withdrawn(r, reason, now) for r in gone]
    if rows:
        change = Change(
            withdrawal_keys(store, rows),
            attached={DELIVERIES.name: write_records(store, rows)},
            provenance=Provenance("withdraw"),
        )
        commit(store, STAGING, change, now=now)
        settle(store, STAGING, now=now)
    return gone


def _is_of(record: DeliveryRecord, name: str) -> bool:
    is_hash = len(name) >= _SHORTEST and set(name.lower()) <= set("0123456789abcdef")
    hashes = (record.sha256 or "", record.source_sha256)
    return name == record.source_file or (
        is_hash and any(sha256.startswith(name.lower()) for sha256 in hashes)
    )


def write_records(store: Store, records: Iterable[DeliveryRecord]) -> list[DataFile]:
    """Write rows of deliveries, a file for each date on which they were received."""
    by_date: dict[str, list[DeliveryRecord]] = {}
    for record in records:
        by_date.setdefault(record.received_at.strftime("%Y-%m-%d"), []).append(record)
    names = [c.name for c in DELIVERIES.file_columns]
    schema = {n: t for n, t in polars_schema(DELIVERIES).items() if n in names}
    return [
        write_file(
            store,
            DELIVERIES,
            pl.DataFrame([vars(r) for r in some], schema=schema).select(names),
            partition={"ingest_date": day},
            name=f"part-{uuid.uuid4().hex}",
            made_from=json.dumps([vars(r) for r in some], default=datetime.isoformat),
        )
        for day, some in by_date.items()
    ]


def records_of(file: DataFile) -> list[DeliveryRecord]:
    """The rows of one of the table's files, from what the log says of it."""
    moments = [f.name for f in fields(DeliveryRecord) if f.type is datetime]
    return [
        DeliveryRecord(**{**row, **{n: datetime.fromisoformat(row[n]) for n in moments}})
        for row in json.loads(file.made_from)
    ]


def read_records(store: Store) -> dict[str, DeliveryRecord]:
    """The row of each delivery that counts, by its identifier. Raises Unavailable."""
    names = [f.name for f in fields(DeliveryRecord)]
    rows = fetched(scan(store, DELIVERIES, snapshot(store, DELIVERIES).files).select(names))
    ordered = rows.sort("recorded_at", "state", maintain_order=True)
    return {row["delivery_id"]: DeliveryRecord(**row) for row in ordered.iter_rows(named=True)}
