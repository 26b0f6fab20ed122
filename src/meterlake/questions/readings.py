"""Readings as they were known at a moment, worked out from staging."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import polars as pl

from meterlake.delta.commit import snapshot, snapshots
from meterlake.delta.store import Store
from meterlake.questions.history import AsOf
from meterlake.questions.sql import answer
from meterlake.readings.layout import EARLIEST, LATEST, meets
from meterlake.readings.reader import COLUMNS, check_types, several
from meterlake.schema import DELIVERIES, STAGING, TOTAL


def readings_as_of(
    store: Store,
    meters: str | Sequence[str],
    as_of: AsOf,
    *,
    reading_type: str,
    start: datetime | None = None,
    end: datetime | None = None,
) -> pl.DataFrame:
    """Readings of some meters in a half-open window, as had arrived by a moment.

    Returns
    -------
    Rows as `Reader.readings` has them, with arrival_time.

    Raises
    ------
    BadInput
        There is no such reading type.
    """
    check_types([reading_type])
    start, end = start or EARLIEST, end or LATEST
    staging = snapshot(store, STAGING)
    files = tuple(f for f in staging.files if meets(f, start, end))
    sql = f"""
        SELECT {", ".join(COLUMNS)} FROM readings
        WHERE meter_id IN (SELECT unnest($meters)) AND reading_type = $reading_type
            AND channel = '{TOTAL}'
            AND reading_date_time >= $start AND reading_date_time < $end
        ORDER BY meter_id, reading_date_time
    """
    asked = {
        "meters": list(several(meters)),
        "reading_type": reading_type,
        "start": start,
        "end": end,
    }
    states = snapshots(store, [STAGING, DELIVERIES])
    states = {**states, STAGING.name: replace(staging, files=files)}
    return answer(store, sql, states, asked, as_of=as_of)
