"""The table of late arrivals: what each integration found to be late, and finding it again."""

import json
import uuid
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

import polars as pl

from meterlake.delta.commit import replace_files
from meterlake.delta.journal import logged
from meterlake.delta.store import Store
from meterlake.delta.table import DataFile, write_file
from meterlake.engine import Engine
from meterlake.integrate import hours
from meterlake.schema import LATE_ARRIVALS, STAGING


@dataclass(frozen=True)
class LateSearch:
    """What late reads were searched in: staging's version, the deliveries that it brought.

    `deliveries` are identifiers, as staging's files have them.
    """

    staging_version: int
    late_after_minutes: float
    deliveries: Sequence[str]


def write_late_arrivals(
    store: Store, late: pl.DataFrame, search: LateSearch, *, now: datetime
) -> list[DataFile]:
    """Write late reads as files of their table: none, or one. `now`: when they were found."""
    if late.is_empty():
        return []
    rows = late.with_columns(
        pl.lit(now, pl.Datetime("us", "UTC")).alias("detected_at"),
        pl.lit(search.staging_version, pl.Int64).alias("staging_version"),
    ).select(c.name for c in LATE_ARRIVALS.file_columns)
    return [
        write_file(
            store,
            LATE_ARRIVALS,
            rows,
            partition={"detection_date": now.strftime("%Y-%m-%d")},
            name=f"part-{uuid.uuid4().hex}",
            made_from=json.dumps(asdict(search)),
        )
    ]


def restore_late_arrivals(store: Store, damaged: Collection[str], engine: Engine) -> None:
    """Find the late reads of damaged files again, in the deliveries that they were found in."""
    lost = [f for f in logged(store, LATE_ARRIVALS).files.values() if f.path in damaged]
    staged = list(logged(store, STAGING).files.values()) if lost else []
    for file in lost:
        search = LateSearch(**json.loads(file.made_from))
        deliveries = set(search.deliveries)
        arrived = [f for f in staged if f.made_from in deliveries]
        if not arrived or file.first is None:
            continue  # what was found of it stays a finding
        work = hours.find_late(store, late_after=timedelta(minutes=search.late_after_minutes))
        late = pl.concat(engine.map(work, hours.plan_hours(arrived, arrived)))
        written = write_late_arrivals(store, late, search, now=file.first)
        replace_files(store, LATE_ARRIVALS, {file.path}, written, new_data=False, now=file.first)
