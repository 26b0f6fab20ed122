"""What every forecaster answers to: rows of features in, a mean and quantiles of each row out.

A forecaster knows nothing of meters, scales or weeks. What comes before it (features, weights) and
after it (the order of quantiles, calibration, meters without history) is in fleet.py, for all of
them alike. A package adds its own by an entry point of the group `meterlake.forecasters`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self

from meterlake.forecast.statistics import Floats


@dataclass(frozen=True)
class TrainingRows:
    """Rows to learn from, all energies in units of each meter's scale.

    `values` are features, NaN where not known, [rows, features]; `base` first guesses of the mean
    and of each quantile, [rows, QUANTITIES]; `target` what was, [rows]; `weight` how much each row
    counts, 1 on average, [rows].
    """

    values: Floats
    base: Floats
    target: Floats
    weight: Floats


class Forecaster(Protocol):
    """A fitted forecaster; its class has the entry point's name as its `kind`."""

    kind: ClassVar[str]

    @classmethod
    def fit(cls, rows: TrainingRows, *, seed: int, threads: int) -> Self:
        """Learn from rows: the same rows and seed give the same forecaster, whatever the threads.

        Features may be NaN or the same everywhere, rows may be few, and targets damaged.
        """

    def predict(self, values: Floats, base: Floats) -> Floats:
        """Forecast rows: mean, p10, p50 and p90 of each, finite; quantiles may cross.

        No digit of a series depends on the others. Threads of one process may ask at once.

        Parameters
        ----------
        values, base : as those of TrainingRows, [series, rows, features] and [series, rows, 4]
        """

    def save(self) -> dict[str, bytes]:
        """The contents of its files by name: data only, nothing that runs when it is loaded."""

    @classmethod
    def load(cls, files: Mapping[str, bytes]) -> Self:
        """A forecaster that predicts exactly as the saved one did.

        Parameters
        ----------
        files : those that `save` returned; there may be others, to be ignored

        Raises
        ------
        KeyError, TypeError, ValueError
            A file is missing or damaged.
        """
