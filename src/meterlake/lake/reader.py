"""Readings of some meters in a window: the one door for everything that asks for them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from threading import Lock

import polars as pl

from meterlake.lake.commit import snapshot
from meterlake.lake.history import AsOf
from meterlake.lake.layout import EARLIEST, LATEST, Layout, LiveLayout, Piece, meets, scan_pieces
from meterlake.lake.sql import answer
from meterlake.lake.store import Store
from meterlake.lake.table import DataFile, Snapshot, fetched
from meterlake.schema import READINGS, STAGING

_COLUMNS = [c.name for c in READINGS.columns if c.name not in READINGS.partitioned_by[1:]]
_WITHOUT_ARRIVAL = [name for name in _COLUMNS if name != "arrival_time"]


class Reader:
    """Reads a lake's readings again and again: it keeps in memory which files there are.

    Each question is answered from the lake as it is then. May be used by several threads.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._lock = Lock()
        self._live = LiveLayout(store)

    def readings(
        self,
        meters: Sequence[str],
        *,
        reading_types: Sequence[str] = ("kw",),
        start: datetime | None = None,
        end: datetime | None = None,
        with_arrival: bool = False,
    ) -> pl.DataFrame:
        """Readings of some meters in a half-open window, by type, meter and time.

        Parameters
        ----------
        start, end : aware; None: from the first, to the last reading
        with_arrival : with the column arrival_time, which only the hours of the integrated table
            have: many times slower

        Returns
        -------
        The columns of schema.READINGS without year, month, day and hour, and but for
        `with_arrival` without arrival_time. No row where the meter is not known or has no
        reading in the window.
        """
        window = start or EARLIEST, end or LATEST
        with self.layout() as layout:
            pieces = [
                _of_meters(piece, meters)
                for name in sorted(set(reading_types))
                for piece in layout.pieces(name, *window, by_meter=not with_arrival)
            ]
        columns = _COLUMNS if with_arrival else _WITHOUT_ARRIVAL
        wanted = pl.col("meter_id").is_in(list(meters))
        if len(meters) == 1:
            wanted = pl.col("meter_id") == meters[0]
        rows = fetched(
            scan_pieces(self.store, [p for p in pieces if p.files], columns, keep=wanted)
        )
        return rows.sort("reading_type", "meter_id", "reading_date_time")

    @contextmanager
    def layout(self) -> Iterator[Layout]:
        """Which files there are now; it stays so for as long as the context lasts."""
        with self._lock:
            yield self._live.now()

    @property
    def integrated(self) -> Snapshot:
        """The version of integrated that the layout is of, without its files."""
        return self._live.integrated


def read_readings(
    store: Store,
    meters: Sequence[str],
    *,
    reading_type: str,
    start: datetime | None = None,
    end: datetime | None = None,
    as_of: AsOf | None = None,
    with_arrival: bool = False,
) -> pl.DataFrame:
    """Readings of some meters in a half-open window, once; a `Reader` does it again and again.

    Parameters
    ----------
    as_of : what had arrived by a moment, worked out from staging; None: the lake as it is
    """
    if as_of is None:
        return Reader(store).readings(
            meters, reading_types=[reading_type], start=start, end=end, with_arrival=with_arrival
        )
    columns = _COLUMNS if with_arrival else _WITHOUT_ARRIVAL
    return _read_as_of(
        store, meters, reading_type, start or EARLIEST, end or LATEST, as_of, columns
    )


def _of_meters(piece: Piece, meters: Sequence[str]) -> Piece:
    """The piece without files that have no reading of these meters."""
    files = tuple(f for f in piece.files if _may_have(f, meters))
    return piece if len(files) == len(piece.files) else replace(piece, files=files)


def _may_have(file: DataFile, meters: Sequence[str]) -> bool:
    if file.meters is None:
        return True
    first, last = file.meters
    return any(first <= meter <= last for meter in meters)


def _read_as_of(
    store: Store,
    meters: Sequence[str],
    reading_type: str,
    start: datetime,
    end: datetime,
    as_of: AsOf,
    columns: Sequence[str],
) -> pl.DataFrame:
    staging = snapshot(store, STAGING)
    files = tuple(f for f in staging.files if meets(f, start, end))
    sql = f"""
        SELECT {", ".join(columns)} FROM readings
        WHERE meter_id IN (SELECT unnest($meters)) AND reading_type = $reading_type
            AND reading_date_time >= $start AND reading_date_time < $end
        ORDER BY meter_id, reading_date_time
    """  # noqa: S608
    asked = {"meters": list(meters), "reading_type": reading_type, "start": start, "end": end}
    return answer(store, sql, {STAGING.name: replace(staging, files=files)}, asked, as_of=as_of)
