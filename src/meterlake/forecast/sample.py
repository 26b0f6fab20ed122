"""Rows to learn from: some hours of some origins, of meters and of random groups of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meterlake.forecast.features import HORIZON, Rows
from meterlake.forecast.statistics import Floats

METERS_OF_A_GROUP = 5
"""For so many meters there is one group of them, to learn sums from."""


@dataclass(frozen=True)
class Sample:
    """Rows to learn from: features, first guesses, what was [kWh] and the scale [kWh].

    `size` is how many meters were added up. `origin` is the number of the hour at which each row's
    forecast would have begun; `hour` and `is_day_off` are of the hour that it is of.
    """

    names: tuple[str, ...]
    values: Floats
    base: Floats
    actual: Floats
    scale: Floats
    size: NDArray[np.int64]
    origin: NDArray[np.int64]
    hour: NDArray[np.int64]
    is_day_off: NDArray[np.bool_]

    @staticmethod
    def joined(samples: Sequence["Sample"]) -> "Sample":
        """One sample of several."""
        columns = (np.concatenate([getattr(s, c) for s in samples]) for c in _COLUMNS)
        return Sample(samples[0].names, *columns)

    def column(self, name: str) -> Floats:
        """A feature of all rows."""
        return self.values[:, self.names.index(name)]

    def where(self, chosen: NDArray[np.bool_]) -> "Sample":
        """Some of the rows."""
        return Sample(self.names, *(getattr(self, c)[chosen] for c in _COLUMNS))


_COLUMNS = ("values", "base", "actual", "scale", "size", "origin", "hour", "is_day_off")


def take_sample(
    rows: Rows,
    actual: Floats,
    origin: int,
    sizes: NDArray[np.int64],
    share: float,
    random: np.random.Generator,
) -> Sample:
    """A share of the rows whose series have a scale and whose outcome is known.

    Parameters
    ----------
    actual : energy [kWh] of the HORIZON hours, [series, HORIZON]
    sizes : how many meters were added up to each series
    """
    was = actual.reshape(-1)
    scale = np.repeat(rows.scale, HORIZON)
    there = Sample(
        rows.names,
        rows.values,
        rows.base,
        was,
        scale,
        np.repeat(sizes, HORIZON),
        np.full(len(was), origin),
        np.tile(rows.hour, len(actual)),
        np.tile(rows.is_day_off, len(actual)),
    )
    return there.where(~np.isnan(scale) & ~np.isnan(was) & (random.random(len(was)) < share))


def groups_of(meters: int, random: np.random.Generator) -> Iterable[NDArray[np.int64]]:
    """Random groups of meters to add up, of two to all of them."""
    for _ in range(meters // METERS_OF_A_GROUP):
        size = int(np.exp(random.uniform(np.log(2), np.log(meters))))
        yield random.choice(meters, size=size, replace=False)
