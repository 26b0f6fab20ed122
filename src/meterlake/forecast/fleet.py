"""Forecasts of a fleet: one forecaster for all meters, and what every forecaster needs around it.

The forecaster learns energies in units of each meter's scale, each row weighing as much as that
scale, so that what is minimised is energy. Around it, the same for all kinds: features, the
weights of rows, profiles for meters with little history, and calibration, by which of held-out
weeks one value in ten lies below the band and one in ten above.

A sum of meters, such as a feeder's, is a series too: the forecaster learns from the sums of random
groups of meters as well, and bands of sums are stretched by what held-out sums ask for.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from meterlake.errors import BadInput
from meterlake.forecast.calibration import Forecast, in_order
from meterlake.forecast.features import (
    CONTEXT,
    HORIZON,
    QUANTILES,
    QUANTITIES,
    features,
    is_idle,
    names_of,
    sound,
)
from meterlake.forecast.port import Forecaster, TrainingRows
from meterlake.forecast.registry import named_forecaster
from meterlake.forecast.sample import Sample
from meterlake.forecast.statistics import Floats

KINDS = ("meter", "sum")
"""What a series may be of: one meter, or several added up."""

_MODEL = "model.json"
_SEED = 0
_SIZES = (1 / 3, 2 / 3)  # quantiles of the scale that part small, middling and large meters
_FARTHEST = 20.0  # scales that count in a profile; beyond it more is a damaged reading
_HEAVIEST = 30.0  # weight of a row, where the mean is 1

DayOff = Callable[[date], bool]


@dataclass(frozen=True)
class FleetForecaster:
    """A fitted model. `stretch`: by kind, how far each side of the band is drawn out.

    `profile`: what the others of each size, and last all others, do in an hour of a working day and
    of a day off, in units of the scale, [sizes and all, 2, 24] of each quantity. `sizes` [kWh] are
    the scales that part the sizes; `usual_scale` [kWh] is the median of all.
    """

    names: tuple[str, ...]
    forecaster: Forecaster
    profile: Mapping[str, NDArray[np.float64]]
    sizes: tuple[float, ...]
    usual_scale: float
    stretch: Mapping[str, tuple[float, float]] = field(
        default_factory=lambda: dict.fromkeys(KINDS, (1.0, 1.0))
    )

    @property
    def kind(self) -> str:
        """The kind of its forecaster."""
        return self.forecaster.kind

    @property
    def uses_temperature(self) -> bool:
        """Whether temperature is among its features."""
        return "temperature" in self.names

    def to_files(self) -> dict[str, bytes]:
        """The contents of its files by name."""
        model = {
            "features": list(self.names),
            "profile": {name: values.tolist() for name, values in self.profile.items()},
            "sizes": self.sizes,
            "usual_scale": self.usual_scale,
            "stretch": {kind: list(both) for kind, both in self.stretch.items()},
        }
        return {**self.forecaster.save(), _MODEL: json.dumps(model, indent=1).encode()}

    @staticmethod
    def from_files(kind: str, files: Mapping[str, bytes]) -> "FleetForecaster":
        """Read what `to_files` of a forecaster of that kind gave.

        Raises
        ------
        BadInput
            There is no forecaster of that kind, or its package is missing.
        KeyError, TypeError, ValueError
            A file is missing or damaged.
        """
        model = json.loads(files[_MODEL])
        names = tuple(model["features"])
        if names != names_of(with_temperature="temperature" in names):
            raise ValueError("it was trained on other features")
        return FleetForecaster(
            names,
            named_forecaster(kind).load(files),
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
        shape = len(context), HORIZON, -1
        values, base = (part.reshape(shape)[known] for part in (rows.values, rows.base))
        scaled = self.forecaster.predict(values, base)
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


def fit(sample: Sample, forecaster: type[Forecaster], threads: int) -> FleetForecaster:
    """Fit a forecaster to a sample, without calibration.

    Raises
    ------
    BadInput
        There are no rows of meters.
    """
    is_meter = sample.size == 1
    if not is_meter.any():
        raise BadInput(
            "Training needs a meter with complete hours for a week, and known hours in the week "
            "after it; found none"
        )
    fitted = forecaster.fit(training_rows(sample), seed=_SEED, threads=threads)
    one = sample.where(is_meter)
    sizes = tuple(map(float, np.quantile(one.scale, _SIZES)))
    usual = float(np.median(one.scale))
    return FleetForecaster(sample.names, fitted, _profile(one, sizes), sizes, usual)


def training_rows(sample: Sample) -> TrainingRows:
    """A sample in units of the scale; a sum weighs as much as one of its meters does."""
    weight = (sample.scale / sample.size).astype(np.float32)
    weight = np.minimum(weight / weight.mean(), _HEAVIEST).astype(np.float32)
    return TrainingRows(sample.values, sample.base, sample.actual / sample.scale, weight)


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
