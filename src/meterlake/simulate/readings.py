"""Inbound files of a fleet of meters, as a head-end delivers them.

Gzip CSV after Table 1 of the guide, one file per window of arrival: `[start + k * file_every,
start + (k + 1) * file_every)`, until the last row has arrived. A window in which nothing arrives
has no file. Rows lie by the step of their arrival. The same arguments give the same bytes.

Without a truth file the readings are clean: every meter has one row for every step. With one,
faults are injected and written to it; see `faults`.
"""

import io
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import polars as pl
from isal import isal_zlib
from numpy.typing import NDArray

from meterlake.errors import BadInput
from meterlake.simulate.arrivals import COLUMNS, Arrivals, arrivals, arrivals_end
from meterlake.simulate.damage import damage
from meterlake.simulate.faults import check_truth, no_faults, plan_faults, write_truth
from meterlake.simulate.fleet import Fleet, device_id, fleet_of
from meterlake.simulate.plan import ReadingsPlan, instant_of

__all__ = ["ReadingsPlan", "Simulated", "SimulatedFile", "device_id", "simulate_readings"]

# Rows made at once. Large enough that the work is in the arrays, small enough that a chunk with
# its text stays near 100 MB, whatever the window.
CHUNK_ROWS = 200_000

# Deflate looks for repetitions within what it is handed at once, so the pieces must not depend on
# the chunks, or the same rows would give other bytes.
_PIECE_BYTES = 1 << 20
# Level 2 takes as long as level 1 here and is never larger.
_GZIP_LEVEL = 2
# zlib: 15 bits of window, and 16 for the gzip frame.
_GZIP_WINDOW_BITS = 15 + 16
_LINE_BREAK = ord("\n")


@dataclass(frozen=True)
class SimulatedFile:
    """One file: where it is, its rows without the header, its size as compressed."""

    path: Path
    rows: int
    bytes: int


@dataclass(frozen=True)
class Simulated:
    """What was written.

    Attributes
    ----------
    files : list of SimulatedFile
        In the order of their windows.
    rows, readings : int
        Lines of all files without headers; six readings each.
    late_rows, bad_rows : int
        How many of the rows come from late meters; how many are damaged.
    injected : int
        Rows of the truth file: one per fault and meter.
    """

    files: list[SimulatedFile]
    rows: int
    readings: int
    late_rows: int
    bad_rows: int
    injected: int


def simulate_readings(
    plan: ReadingsPlan,
    out: Path,
    *,
    truth: Path | None = None,
    on_file: Callable[[SimulatedFile], None] | None = None,
) -> Simulated:
    """Write the files of a plan.

    Parameters
    ----------
    plan : ReadingsPlan
        What to simulate.
    out : Path
        The folder for the files, made if it is not there. Each file appears whole or not at all,
        and replaces one of its name; other files are left alone.
    truth : Path, optional
        Where to write the injected faults, as .csv or .parquet; without it there are none.
    on_file : callable, optional
        Called with each file as it is finished.

    Returns
    -------
    Simulated
        What was written.

    Raises
    ------
    BadInput
        `out` is a file, or the name of `truth` ends otherwise.
    """
    if out.exists() and not out.is_dir():
        raise BadInput(f"A simulation needs a folder to write to, found the file '{out}': move it")
    if truth is not None:
        check_truth(truth)
    fleet = fleet_of(plan)
    faults = no_faults() if truth is None else plan_faults(plan, fleet)
    if truth is not None:
        write_truth(faults, fleet, truth)
    out.mkdir(parents=True, exist_ok=True)

    files: list[SimulatedFile] = []
    late_rows = bad_rows = 0
    # One thread writes a chunk while this one makes the next.
    with ThreadPoolExecutor(max_workers=1) as thread:
        for first, last in _windows(plan, fleet):
            with _ArrivalFile(out / _file_name(first)) as file:
                written: Future[int] | None = None
                for chunk in _chunks(plan, fleet, faults, first=first, last=last):
                    late_rows += chunk.late_rows
                    bad_rows += 0 if written is None else written.result()
                    written = thread.submit(file.write, chunk)
                bad_rows += 0 if written is None else written.result()
            if file.rows:
                files.append(SimulatedFile(file.path, file.rows, file.path.stat().st_size))
                if on_file is not None:
                    on_file(files[-1])
    rows = sum(file.rows for file in files)
    return Simulated(
        files=files,
        rows=rows,
        readings=6 * rows,
        late_rows=late_rows,
        bad_rows=bad_rows,
        injected=faults.height,
    )


def _file_name(minute: int) -> str:
    return f"readings_{instant_of(minute):%Y%m%dT%H%M%SZ}.csv.gz"


def _windows(plan: ReadingsPlan, fleet: Fleet) -> Iterator[tuple[int, int]]:
    length = int(plan.file_every.total_seconds()) // 60
    end = arrivals_end(plan, fleet)
    for first in range(plan.start_minute, end, length):
        yield first, min(first + length, end)


def _chunks(
    plan: ReadingsPlan, fleet: Fleet, faults: pl.DataFrame, *, first: int, last: int
) -> Iterator[Arrivals]:
    stride = max(1, CHUNK_ROWS // plan.devices) * plan.interval_minutes
    for begin in range(first, last, stride):
        chunk = arrivals(plan, fleet, faults, first=begin, last=min(begin + stride, last))
        if chunk.rows.height:
            yield chunk


class _ArrivalFile:
    """A file in the making, under another name until it is whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = 0
        self._partial = path.with_name(f".{path.name}.partial")
        self._pending = ",".join(COLUMNS).encode() + b"\n"

    def __enter__(self) -> Self:
        # zlib writes a gzip header without name and time, which would differ from run to run.
        self._raw = self._partial.open("wb")
        self._gzip = isal_zlib.compressobj(_GZIP_LEVEL, wbits=_GZIP_WINDOW_BITS)
        return self

    def write(self, chunk: Arrivals) -> int:
        """Append a chunk; return how many of its rows were damaged on the way."""
        text = io.BytesIO()
        chunk.rows.write_csv(
            text, include_header=False, float_precision=3, quote_style="never", line_terminator="\n"
        )
        bad = np.flatnonzero(chunk.dice >= 0)
        lines = b"".join([self._pending, *_with_damage(text.getbuffer(), bad, chunk.dice[bad])])
        whole = len(lines) // _PIECE_BYTES * _PIECE_BYTES
        for start in range(0, whole, _PIECE_BYTES):
            self._raw.write(self._gzip.compress(lines[start : start + _PIECE_BYTES]))
        self._pending = lines[whole:]
        self.rows += chunk.rows.height
        return len(bad)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._raw.write(self._gzip.compress(self._pending) + self._gzip.flush())
        self._raw.close()
        if error is None and self.rows:
            os.replace(self._partial, self.path)
        else:
            self._partial.unlink()


def _with_damage(
    text: memoryview, bad: NDArray[np.intp], dice: NDArray[np.int64]
) -> list[memoryview | bytes]:
    # The text in parts, the lines of the bad rows among them as damaged.
    if not len(bad):
        return [text]
    breaks = np.flatnonzero(np.frombuffer(text, dtype=np.uint8) == _LINE_BREAK)
    starts = np.concatenate([[0], breaks[:-1] + 1])[bad].tolist()
    ends = breaks[bad].tolist()
    parts: list[memoryview | bytes] = []
    done = 0
    for start, end, one in zip(starts, ends, dice.tolist(), strict=True):
        parts += [text[done:start], damage(str(text[start:end], "ascii"), one).encode()]
        done = end
    return [*parts, text[done:]]
