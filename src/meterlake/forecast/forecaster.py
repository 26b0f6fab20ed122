"""One model over all meters: small networks that correct what each meter did of late.

They are fitted to energies in units of the meter's scale, each row weighing as much as that scale,
so that what is minimised is energy. The quantiles are put in order, and their distance from the
median is stretched by what held-out weeks ask for, so that of those one value in ten lies below the
band and one in ten above.

A sum of meters, such as a feeder's, is a series too: the model learns from the sums of random
groups of meters as well, and its bands of sums are stretched by what held-out sums ask for.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from meterlake.errors import BadInput
from meterlake.forecast.features import (
    CONTEXT,
    HORIZON,
    QUANTILES,
    QUANTITIES,
    Rows,
    features,
    is_idle,
    names_of,
    sound,
)
from meterlake.forecast.nets import Net, Nets, fit_nets
from meterlake.forecast.statistics import Floats

KINDS = ("meter", "sum")
"""What a series may be of: one meter, or several added up."""

METERS_OF_A_GROUP = 5
"""For so many meters there is one group of them, to learn sums from."""

_SIZES = (1 / 3, 2 / 3)  # quantiles of the scale that part small, middling and large meters
_OUTER = 0.1  # share of values below the band, and above it
_MOST_STRETCH = 4.0
_FARTHEST = 20.0  # scales that count in a profile; beyond it more is a damaged reading

DayOff = Callable[[date], bool]
Forecast = dict[str, Floats]
"""The QUANTITIES [kWh], each [series, HORIZON]."""


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


@dataclass(frozen=True)
class Forecaster:
    """A fitted model. `stretch`: by kind, how far each side of the band is drawn out.

    `profile`: what the others of each size, and last all others, do in an hour of a working day and
    of a day off, in units of the scale, [sizes and all, 2, 24] of each quantity. `sizes` [kWh] are
    the scales that part the sizes; `usual_scale` [kWh] is the median of all.
    """

    names: tuple[str, ...]
    nets: Nets
    profile: Mapping[str, NDArray[np.float64]]
    sizes: tuple[float, ...]
    usual_scale: float
    stretch: Mapping[str, tuple[float, float]] = field(
        default_factory=lambda: dict.fromkeys(KINDS, (1.0, 1.0))
    )

    @property
    def uses_temperature(self) -> bool:
        """Whether temperature is among its features."""
        return "temperature" in self.names

    def to_texts(self) -> dict[str, str]:
        """Names of files, and what they hold."""
        model = {
            "features": list(self.names),
            "centre": self.nets.centre.tolist(),
            "spread": self.nets.spread.tolist(),
            "profile": {name: values.tolist() for name, values in self.profile.items()},
            "sizes": self.sizes,
            "usual_scale": self.usual_scale,
            "stretch": {kind: list(both) for kind, both in self.stretch.items()},
        }
        nets = {
            f"net_{number}.json": json.dumps(net.to_json())
            for number, net in enumerate(self.nets.nets, start=1)
        }
        return {"model.json": json.dumps(model, indent=1), **nets}

    @staticmethod
    def from_texts(texts: Mapping[str, str]) -> "Forecaster":
        """What `to_texts` gave. Raises KeyError, ValueError or TypeError where it did not."""
        model = json.loads(texts["model.json"])
        names = tuple(model["features"])
        if names != names_of(with_temperature="temperature" in names):
            raise ValueError("it was trained on other features")
        nets = Nets(
            np.array(model["centre"], np.float32),
            np.array(model["spread"], np.float32),
            tuple(
                Net.from_json(json.loads(text))
                for name, text in sorted(texts.items())
                if name != "model.json"
            ),
        )
        return Forecaster(
            names,
            nets,
            {name: np.array(model["profile"][name], np.float64) for name in QUANTITIES},
            tuple(map(float, model["sizes"])),
            float(model["usual_scale"]),
            {kind: (float(low), float(high)) for kind, (low, high) in model["stretch"].items()},
        )

    def forecast(
        self,
        context: Floats,
        origin: datetime,
        day_off: DayOff,
        temperature: Floats | None = None,
        *,
        kind: str = "meter",
        calibrated: bool = True,
    ) -> Forecast:
        """Forecast the HORIZON hours from an origin on; parameters as of `features`."""
        if self.uses_temperature and temperature is None:
            temperature = np.full(CONTEXT + HORIZON, np.nan, np.float32)
        context = sound(context)
        rows = features(context, origin, day_off, temperature if self.uses_temperature else None)
        known, idle = ~np.isnan(rows.scale), is_idle(context)
        found = {name: self._of_the_others(name, context, origin, day_off) for name in QUANTITIES}
        # Each meter apart: what others are forecast beside it does not change a digit.
        shape = len(context), HORIZON, -1
        scaled = self.nets(rows.values.reshape(shape)[known], rows.base.reshape(shape)[known])
        for number, name in enumerate(QUANTITIES):
            found[name][known] = scaled[:, :, number] * rows.scale[known, None]
            found[name][idle] = 0.0
        return in_order(found, self.stretch[kind] if calibrated else (1.0, 1.0))

    def _of_the_others(
        self, name: str, context: Floats, origin: datetime, day_off: DayOff
    ) -> Floats:
        """What others of its size do at each hour, at the level of the little that is known."""
        hours = [origin + timedelta(hours=h) for h in range(HORIZON)]
        count = np.count_nonzero(~np.isnan(context), axis=1)
        level = np.nansum(np.abs(context), axis=1) / np.maximum(count, 1)
        is_known = count >= 24
        size = np.where(is_known, np.searchsorted(self.sizes, level), len(self.sizes) + 1)
        level = np.where(is_known, level, self.usual_scale)[:, None]
        shape = self.profile[name][
            size[:, None],
            [int(day_off(hour.date())) for hour in hours],
            [hour.hour for hour in hours],
        ]
        return (level * shape).astype(np.float32)


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


def fit(sample: Sample, threads: int) -> Forecaster:
    """Fit the networks to a sample, without calibration.

    Raises
    ------
    BadInput
        There are no rows of meters, or a package is not installed.
    """
    is_meter = sample.size == 1
    if not is_meter.any():
        raise BadInput(
            "Training needs a meter with complete hours for a week, and known hours in the week "
            "after it; found none"
        )
    scaled = sample.actual / sample.scale
    # A sum counts as much as one of its meters does.
    weight = (sample.scale / sample.size).astype(np.float32)
    nets = fit_nets(sample.values, sample.base, scaled, weight, threads=threads)
    one = sample.where(is_meter)
    sizes = tuple(map(float, np.quantile(one.scale, _SIZES)))
    return Forecaster(sample.names, nets, _profile(one, sizes), sizes, float(np.median(one.scale)))


def _profile(sample: Sample, sizes: Sequence[float]) -> dict[str, NDArray[np.float64]]:
    shape = len(sizes) + 2, 2, 24
    found = {name: np.zeros(shape) for name in QUANTITIES}
    scaled, size = sample.actual / sample.scale, np.searchsorted(sizes, sample.scale)
    everyone = np.full(len(scaled), True)
    for number, off, hour in np.ndindex(shape):
        own = size == number if number <= len(sizes) else everyone
        then = sample.hour == hour
        # Where nothing is known of an hour of a day off, that of any day, or all hours.
        for here in (own & then & (sample.is_day_off == bool(off)), own & then, own, everyone):
            if here.any():
                break
        values = scaled[here]
        found["mean"][number, off, hour] = np.clip(values, -_FARTHEST, _FARTHEST).mean()
        for name, level in zip(QUANTITIES[1:], QUANTILES, strict=True):
            found[name][number, off, hour] = np.quantile(values, level)
    return found


def checksum(texts: Mapping[str, str]) -> dict[str, str]:
    """SHA-256 of each text."""
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}


def groups_of(meters: int, random: np.random.Generator) -> Iterable[NDArray[np.int64]]:
    """Random groups of meters to add up, of two to all of them."""
    for _ in range(meters // METERS_OF_A_GROUP):
        size = int(np.exp(random.uniform(np.log(2), np.log(meters))))
        yield random.choice(meters, size=size, replace=False)
