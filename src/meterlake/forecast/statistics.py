"""NaN-aware means, quantiles and extremes; empty input gives NaN.

numpy's own warn of empty slices, in a way that threads share, and its quantiles take a hundred
times as long.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def mean(values: Floats, axis: int | tuple[int, ...]) -> Floats:
    """Mean along axes."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        total = np.where(known, values, 0).sum(axis=axis, dtype=np.float64)
        found: Floats = (total / known.sum(axis=axis)).astype(np.float32)
    return found


def deviation(values: Floats, axis: int) -> Floats:
    """Standard deviation along an axis."""
    centre = np.expand_dims(mean(values, axis), axis)
    return np.sqrt(mean((values - centre) ** 2, axis))


def quantiles(sample: Floats, levels: Sequence[float], axis: int) -> list[Floats]:
    """Quantiles along an axis, between two values in proportion."""
    ordered = np.sort(sample, axis=axis)  # NaN come last
    last = np.maximum(count(ordered, axis) - 1, 0)
    found = []
    for level in levels:
        at = level * last
        low = np.floor(at).astype(np.int64)
        high = np.minimum(low + 1, last)
        a, b = (_taken(ordered, number, axis) for number in (low, high))
        found.append((a + (b - a) * (at - low)).astype(np.float32))
    return found


def median(windows: Floats, known: NDArray[Any]) -> Floats:
    """Median along the last axis, of which so many are known."""
    ordered = np.sort(windows, axis=-1)  # NaN come last
    last = np.maximum(known - 1, 0)
    a, b = (_taken(ordered, number, -1) for number in (last // 2, np.minimum(known // 2, last)))
    middle: Floats = ((a + b) / 2).astype(np.float32)
    return middle


def windows(values: Floats, width: int) -> tuple[Floats, NDArray[Any]]:
    """The values before each column from `width` on: [rows, columns, width], how many are known."""
    totals = np.cumsum(~np.isnan(values), axis=1, dtype=np.int32)
    totals = np.pad(totals, ((0, 0), (1, 0)))
    known = totals[:, width:-1] - totals[:, : -width - 1]
    return sliding_window_view(values, width, axis=1)[:, :-1], known


def smallest(values: Floats, axis: int) -> Floats:
    """Minimum along an axis."""
    least: Floats = np.fmin.reduce(values, axis=axis)
    return least


def count(values: Floats, axis: int) -> NDArray[Any]:
    """How many values along an axis are known."""
    return np.asarray(np.count_nonzero(~np.isnan(values), axis=axis))


def _taken(ordered: Floats, number: NDArray[Any], axis: int) -> Floats:
    taken: Floats = np.take_along_axis(ordered, np.expand_dims(number, axis), axis=axis)
    return taken.squeeze(axis)
