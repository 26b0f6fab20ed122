"""How good a probabilistic forecast is."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meterlake.forecast.features import QUANTILES
from meterlake.forecast.statistics import Floats


@dataclass(frozen=True)
class Scores:
    """Of all values together, each weighing as much as its energy.

    `wql` is the quantile loss, twice the pinball loss of the quantiles 0.1, 0.5 and 0.9 on
    average, divided by the sum of what was; `nd` the absolute error of the median divided by
    that; `coverage` the share of values in the band from 0.1 to 0.9.
    """

    wql: float
    nd: float
    coverage: float
    values: int


def scores(actual: Floats, forecast: Mapping[str, Floats]) -> Scores:
    """Score a forecast where what it forecasts is known.

    Parameters
    ----------
    actual : [kWh], NaN where not known
    forecast : p10, p50 and p90 of the same shape, known everywhere
    """
    known = ~np.isnan(actual)
    was = actual[known].astype(np.float64)
    total = np.abs(was).sum()
    if total == 0:
        return Scores(float("nan"), float("nan"), float("nan"), int(known.sum()))
    losses = [
        2 * pinball(was, forecast[f"p{level * 100:.0f}"][known], level).sum() / total
        for level in QUANTILES
    ]
    inside = (was >= forecast["p10"][known]) & (was <= forecast["p90"][known])
    return Scores(
        float(np.mean(losses)),
        float(np.abs(was - forecast["p50"][known]).sum() / total),
        float(inside.mean()),
        int(known.sum()),
    )


def pinball(
    actual: NDArray[np.float64], quantile: NDArray[np.floating], level: float
) -> NDArray[np.float64]:
    """Pinball loss of each value: `level` times what is above, 1 - level times what is below."""
    error = actual - quantile
    return np.maximum(level * error, (level - 1) * error)
