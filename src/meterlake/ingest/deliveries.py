"""The table of deliveries: one row per delivered file, with all that reading it again takes.

It arrives in the commit of the file's reads. Rows are only ever added; of a delivery the row that
was recorded last counts. Each file of the table has its rows in the log as well, so that it can
be made again.
"""

import json
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import datetime

import polars as pl

from meterlake import __version__
from meterlake.delta.commit import snapshot
from meterlake.delta.store import Store
from meterlake.delta.table import DataFile, fetched, scan, write_file
from meterlake.formats.port import Format
from meterlake.formats.registry import recorded_format
from meterlake.schema import DELIVERIES, LengthSource, polars_schema

KEY_PREFIX = "ingest/"  # staging's key of a delivery: this and the SHA-256 of its content

_ID_LETTERS = 16


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
    state: str = "active"
    code_version: str = __version__

    def read_format(self) -> Format:
        """The format that the file was read by. Raises BadInput where its package is gone."""
        return recorded_format(self.format, self.profile, default_zone=self.timezone)

    @property
    def lake_seconds(self) -> int | None:
        """The lake's interval where the file was read with it."""
        return self.interval_seconds if self.length_source == "lake" else None


def delivery_id_of(source_sha256: str) -> str:
    """Identifier of a delivery, from the SHA-256 of its bytes as delivered."""
    return source_sha256[:_ID_LETTERS]


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
    ordered = rows.sort("recorded_at", maintain_order=True)
    return {row["delivery_id"]: DeliveryRecord(**row) for row in ordered.iter_rows(named=True)}
