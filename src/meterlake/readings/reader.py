"""Readings of some meters in a window: the one door for everything that asks for them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from threading import Lock

import polars as pl

from meterlake.delta.store import Store
from meterlake.delta.table import DataFile, Snapshot, fetched
from meterlake.errors import BadInput
from meterlake.readings.file_cache import KeptFiles
from meterlake.readings.layout import (
    EARLIEST,
    LATEST,
    Layout,
    LiveLayout,
    Piece,
    scan_pieces,
)
from meterlake.schema import READING_TYPES, READINGS, SERVING_READINGS, TOTAL
from meterlake.schema.projection import of_meter

COLUMNS = [c.name for c in READINGS.columns if c.name not in READINGS.partitioned_by[1:]]
_WITHOUT_ARRIVAL = [name for name in COLUMNS if name != "arrival_time"]


@dataclass(frozen=True)
class Found:
    """The files of readings; `version` changes whenever the lake's readings do."""

    store: Store
    meters: tuple[str, ...]
    pieces: tuple[Piece, ...]
    version: str
    kept: KeptFiles | None = None

    def rows(self, columns: Sequence[str]) -> pl.DataFrame:
        """Columns of the readings, by type, meter and time. Raises Unavailable."""
        wanted = pl.col("meter_id").is_in(list(self.meters))
        order = ["reading_type", "meter_id", "reading_date_time"]
        if len(self.meters) == 1:
            wanted = pl.col("meter_id") == self.meters[0]
            order.remove("meter_id")
        if len({file.partition["reading_type"] for p in self.pieces for file in p.files}) < 2:
            order.remove("reading_type")
        needed = list(dict.fromkeys([*columns, *order]))
        kept, pieces = self._kept(needed)
        if pieces or not kept:
            kept.append(fetched(scan_pieces(self.store, pieces, needed, keep=wanted)))
        rows = kept[0] if len(kept) == 1 else pl.concat(kept)
        if len(order) > 1 or not rows[order[0]].is_sorted():
            rows = rows.sort(order)
        return rows.select(columns)

    def _kept(self, columns: Sequence[str]) -> tuple[list[pl.DataFrame], list[Piece]]:
        """Rows of files that are kept in memory, and the pieces without these files."""
        if self.kept is None or len(self.meters) != 1:
            return [], list(self.pieces)
        by_type: dict[str, list[pl.DataFrame]] = {}
        left = []
        for piece in self.pieces:
            others = []
            for file in piece.files:
                rows = None
                if piece.table == SERVING_READINGS:
                    rows = self.kept.rows(file, self.meters[0])
                if rows is None:
                    others.append(file)
                    continue
                if (rows["channel"] != TOTAL).any():
                    rows = rows.filter(pl.col("channel") == TOTAL)
                if not piece.has_all_of(file):
                    rows = rows.filter(
                        pl.col("reading_date_time").is_between(
                            piece.start, piece.end, closed="left"
                        )
                    )
                by_type.setdefault(file.partition["reading_type"], []).append(rows)
            if others:
                left.append(replace(piece, files=tuple(others)))
        return [
            pl.concat(parts).select(of_meter(self.meters[0], name, columns))
            for name, parts in by_type.items()
        ], left


class Reader:
    """Reads a lake's readings again and again: it keeps in memory which files there are.

    Each question is answered from the lake as it is then. May be used by several threads.
    """

    def __init__(self, store: Store, *, keep_mb: int = 0) -> None:
        """A reader of a lake that keeps up to `keep_mb` of what is often asked for decoded."""
        self.store = store
        self._kept = KeptFiles(store, keep_mb) if keep_mb else None
        self._lock = Lock()
        self._live = LiveLayout(store)

    def readings(
        self,
        meters: str | Sequence[str],
        *,
        reading_types: str | Sequence[str] = ("kw",),
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
        found = self.find(
            meters, reading_types=reading_types, start=start, end=end, with_arrival=with_arrival
        )
        return found.rows(COLUMNS if with_arrival else _WITHOUT_ARRIVAL)

    def find(
        self,
        meters: str | Sequence[str],
        *,
        reading_types: str | Sequence[str] = ("kw",),
        start: datetime | None = None,
        end: datetime | None = None,
        with_arrival: bool = False,
    ) -> "Found":
        """The files of readings now, and their version; nothing is read yet. As `readings`."""
        meters, types = several(meters), several(reading_types)
        check_types(types)
        window = max(start or EARLIEST, EARLIEST), end or LATEST
        with self.layout() as layout:
            pieces = [
                _of_meters(piece, meters)
                for name in sorted(set(types))
                for piece in layout.pieces(name, *window, by_meter=not with_arrival)
            ]
            now = self.integrated
        found = tuple(p for p in pieces if p.files)
        version = f"{now.id[:8]}{now.version}"
        return Found(self.store, meters, found, version, self._kept)

    def newest(self, reading_type: str) -> datetime | None:
        """The moment of the newest reading of a type; None where there is none."""
        with self.layout() as layout:
            for day in reversed(layout.days(reading_type)):
                moments = [f.last for f in layout.hours(reading_type, day) if f.last is not None]
                if moments:
                    return max(moments)
        return None

    @contextmanager
    def layout(self) -> Iterator[Layout]:
        """Which files there are now; it stays so for as long as the context lasts."""
        with self._lock:
            yield self._live.now()

    @property
    def integrated(self) -> Snapshot:
        """The version of integrated that the layout is of, without its files."""
        return self._live.integrated


def several(names: str | Sequence[str]) -> tuple[str, ...]:
    """Names, of which one may be given as it is."""
    return (names,) if isinstance(names, str) else tuple(names)


def check_types(reading_types: Sequence[str], known: Sequence[str] = tuple(READING_TYPES)) -> None:
    """Raise BadInput where a reading type is not one of those that there are."""
    for name in reading_types:
        if name not in known:
            raise BadInput(f"A reading type needs to be one of {', '.join(known)}; found '{name}'")


def _of_meters(piece: Piece, meters: Sequence[str]) -> Piece:
    """The piece without files that have no reading of these meters."""
    files = tuple(f for f in piece.files if _may_have(f, meters))
    return piece if len(files) == len(piece.files) else replace(piece, files=files)


def _may_have(file: DataFile, meters: Sequence[str]) -> bool:
    if file.range is None:
        return True
    first, last = file.range
    return any(first <= meter <= last for meter in meters)
