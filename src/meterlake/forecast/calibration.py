"""Calibration: quantiles in order, and as far apart as held-out weeks ask for."""

import numpy as np

from meterlake.forecast.statistics import Floats

_OUTER = 0.1  # share of values below the band, and above it
_MOST_STRETCH = 4.0

Forecast = dict[str, Floats]
"""The QUANTITIES [kWh], each [series, HORIZON]."""


def in_order(found: Forecast, stretch: tuple[float, float]) -> Forecast:
    """Quantiles that never cross, their distances from the median stretched."""
    ordered = np.sort(np.stack([found["p10"], found["p50"], found["p90"]]), axis=0)
    low, median, high = ordered
    return {
        "mean": found["mean"],
        "p10": (median - stretch[0] * (median - low)).astype(np.float32),
        "p50": median,
        "p90": (median + stretch[1] * (high - median)).astype(np.float32),
    }


def stretch_for(actual: Floats, found: Forecast) -> tuple[float, float]:
    """How far each side of the band has to be drawn out for one value in ten to lie beyond it.

    Parameters
    ----------
    actual : [kWh], NaN where not known
    found : the forecast of it, not calibrated
    """
    known = ~np.isnan(actual)
    was, median = actual[known], found["p50"][known]
    sides = []
    for beyond, width in (
        (median - was, median - found["p10"][known]),
        (was - median, found["p90"][known] - median),
    ):
        ratio = beyond / np.maximum(width, 1e-9)
        sides.append(float(np.quantile(ratio, 1 - _OUTER)) if len(ratio) else 1.0)
    return min(max(sides[0], 0.0), _MOST_STRETCH), min(max(sides[1], 0.0), _MOST_STRETCH)
