"""Files of serving that are asked for again and again, decoded in memory up to a budget.

To find one meter's rows in a Parquet file costs about half a millisecond, most of it for the file's
footer; in a decoded file it is a slice. Files never change, so what is kept stays right.
"""

from collections import Counter, OrderedDict
from dataclasses import dataclass
from itertools import accumulate
from threading import Lock

import polars as pl

from meterlake.delta.store import Store
from meterlake.delta.table import DataFile, fetched, scan
from meterlake.schema import SERVING_READINGS

ASKED = 8  # times that a file is asked for before it is kept: to decode it costs about as much

_COLUMNS = tuple(c.name for c in SERVING_READINGS.file_columns if c.name != "meter_id")


@dataclass(frozen=True)
class _Decoded:
    rows: pl.DataFrame  # by meter and time
    where: dict[str, tuple[int, int]]  # of each meter: first row, number of rows
    bytes: int


class KeptFiles:
    """Keeps decoded files, the last that were asked for. Threads may share it."""

    def __init__(self, store: Store, megabytes: int) -> None:
        self._store = store
        self._budget = megabytes * 1_000_000
        self._lock = Lock()
        self._asked: Counter[str] = Counter()
        self._files: OrderedDict[str, _Decoded] = OrderedDict()
        self.bytes = 0

    def rows(self, file: DataFile, meter: str) -> pl.DataFrame | None:
        """One meter's rows in a file, by time; None where it is not kept.

        Raises
        ------
        Unavailable
            The file cannot be read.
        """
        with self._lock:
            decoded = self._files.get(file.path)
            if decoded is not None:
                self._files.move_to_end(file.path)
            else:
                self._asked[file.path] += 1
                if self._asked[file.path] != ASKED:  # others meanwhile read the file itself
                    return None
        if decoded is None:
            decoded = self._keep(file)
        return decoded.rows.slice(*decoded.where.get(meter, (0, 0)))

    def _keep(self, file: DataFile) -> _Decoded:
        rows = fetched(scan(self._store, SERVING_READINGS, [file]).select("meter_id", *_COLUMNS))
        runs = rows["meter_id"].rle().struct.unnest()
        counts = runs["len"].to_list()
        starts = accumulate(counts, initial=0)
        where = dict(zip(runs["value"].to_list(), zip(starts, counts, strict=False), strict=True))
        rows = rows.drop("meter_id")
        decoded = _Decoded(rows, where, int(rows.estimated_size()) + 200 * len(where))
        with self._lock:
            if decoded.bytes <= self._budget:  # else it is never kept, nor decoded again
                del self._asked[file.path]
                self._files[file.path] = decoded
                self.bytes += decoded.bytes
            while self.bytes > self._budget:
                self.bytes -= self._files.popitem(last=False)[1].bytes
        return decoded
