"""From the lake to a model: what meters did at many origins, learnt from and held out.

A unit of work is a range of meters: it reads their hours, takes rows of the origins to learn from,
and keeps the last weeks whole, for which the model is calibrated and scored.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from math import gcd

import numpy as np
import polars as pl

from meterlake.delta.store import Store
from meterlake.errors import BadInput
from meterlake.forecast.calendar import days_off, holidays_of
from meterlake.forecast.calibration import Forecast, in_order, stretch_for
from meterlake.forecast.features import CONTEXT, HORIZON, QUANTITIES, features, sound
from meterlake.forecast.fleet import KINDS, DayOff, FleetForecaster, fit
from meterlake.forecast.port import Forecaster
from meterlake.forecast.sample import METERS_OF_A_GROUP, Sample, groups_of, take_sample
from meterlake.forecast.scores import Scores, scores
from meterlake.forecast.series import Series, read_series
from meterlake.forecast.statistics import Floats
from meterlake.periods import LocalHours
from meterlake.readings.layout import Piece
from meterlake.settings import MlSettings

_LEAST_STEP = 13  # hours from origin to origin
_SHARE = 0.5  # of the hours of an origin that are learnt from, at most
_MOST_HELD_OUT = 4  # weeks
# Share of the stretch that held-out weeks ask for: half of what a few weeks ask for is those weeks'
# own. Of sums there are few to learn from.
_BELIEF = {"meter": 0.5, "sum": 1.0}


@dataclass(frozen=True)
class Origins:
    """Numbers of hours at which forecasts begin: to learn from, and to hold out at first."""

    learn: tuple[int, ...]
    held_out: tuple[int, ...]


def plan_origins(hours: int, step: int, offset: int = 0) -> Origins:
    """Origins in a window of so many hours; the last weeks, a quarter at most, are held out.

    Parameters
    ----------
    step : hours from one origin to learn from to the next
    offset : hours by which those of these meters lie before those of others
    """
    weeks = min(max(hours // HORIZON // 4, 1), _MOST_HELD_OUT)
    held_out = tuple(hours - HORIZON * number for number in range(weeks, 0, -1))
    first, last = HORIZON, hours - HORIZON
    # The first too: of three weeks it alone is over before the one that is held out.
    return Origins(tuple(sorted({first, *range(last - offset, first, -step)})), held_out)


def step_of(hours: int, meters: int, rows: int) -> int:
    """Hours from origin to origin for about so many rows of so many meters.

    They are as dense in the first month as in the last: a season is known from a year ago. All
    hours of the week occur.
    """
    step = max(_LEAST_STEP, int(_series(meters) * hours * HORIZON * _SHARE / rows))
    while gcd(step, HORIZON) > 1:
        step += 1
    return step


def _series(meters: int) -> int:
    """So many meters, with the sums of some of them."""
    return meters + meters // METERS_OF_A_GROUP


@dataclass(frozen=True)
class Learning:
    """A unit of work: some meters' readings, and what to take of them.

    `temperature` [°C] is of the hours and the HORIZON beyond them, where there is weather.
    """

    pieces: tuple[Piece, ...]
    keep: pl.Expr | None
    hours: LocalHours
    origins: Origins
    share: float
    temperature: Floats | None
    seed: int


@dataclass(frozen=True)
class HeldOut:
    """What was before and after an origin, [series, CONTEXT] and [series, HORIZON]."""

    kind: str
    origin: int
    context: Floats
    actual: Floats


@dataclass(frozen=True)
class Learnt:
    """What a unit has to learn from, and what it has held out."""

    meters: int
    sample: Sample | None
    held_out: tuple[HeldOut, ...]


def learn(store: Store, settings: MlSettings) -> Callable[[Learning], Learnt]:
    """The work on one unit."""

    def work(unit: Learning) -> Learnt:
        series = read_series(store, unit.pieces, unit.hours, keep=unit.keep)
        return learnt(series, unit, day_off_of(settings))

    return work


def learnt(series: Series, unit: Learning, day_off: DayOff) -> Learnt:
    """What there is to learn from series, and from some of them added up."""
    random = np.random.default_rng(unit.seed)
    groups = list(groups_of(len(series.meters), random))
    kinds = [("meter", series.energy, np.ones(len(series.meters), np.int64))]
    if groups:
        sums = np.stack([series.energy[group].sum(axis=0) for group in groups])
        kinds.append(("sum", sums, np.array([len(group) for group in groups])))
    samples = []
    for number, origin in enumerate(unit.origins.learn):
        temperature = temperature_at(unit.temperature, origin, hide_ahead=number % 2 == 0)
        for _, energy, sizes in kinds:
            context = sound(context_of(energy, origin))
            rows = features(context, unit.hours.wall(origin), day_off, temperature)
            actual = energy[:, origin : origin + HORIZON]
            samples.append(take_sample(rows, actual, origin, sizes, unit.share, random))
    held_out = tuple(
        HeldOut(kind, origin, context_of(energy, origin), energy[:, origin : origin + HORIZON])
        for origin in unit.origins.held_out
        for kind, energy, _ in kinds
    )
    return Learnt(len(series.meters), Sample.joined(samples) if samples else None, held_out)


def share_of_rows(meters: int, origins: int, settings: MlSettings) -> float:
    """The share of all rows that gives about as many as training is to learn from."""
    there = _series(meters) * origins * HORIZON
    return min(_SHARE, settings.train_rows / max(there, 1))


@dataclass(frozen=True)
class Hindcast:
    """A forecast, not calibrated, of what was held out."""

    kind: str
    origin: int
    actual: Floats
    found: Forecast


@dataclass(frozen=True)
class Trained:
    """A model, how it did on the weeks held out, and of how many rows it learnt.

    What did was fitted without those weeks; the model is then fitted once more, to all.
    """

    model: FleetForecaster
    scores: Scores
    rows: int
    hindcasts: tuple[Hindcast, ...]


def trained(
    parts: Sequence[Learnt],
    unit: Learning,
    day_off: DayOff,
    forecaster: type[Forecaster],
    threads: int,
) -> Trained:
    """A model of all that units have learnt, its bands calibrated on what they held out.

    Raises
    ------
    BadInput
        There is too little to learn from.
    """
    samples = [p.sample for p in parts if p.sample is not None]
    if not samples:
        raise BadInput("Training needs meters; found none")
    sample = Sample.joined(samples)
    is_before = sample.origin + HORIZON <= unit.origins.held_out[0]
    found = hindcasts(fit(sample.where(is_before), forecaster, threads), parts, unit, day_off)
    model = replace(fit(sample, forecaster, threads), stretch=stretches(found))
    return Trained(model, scored(found), len(sample.actual), tuple(found))


def hindcasts(
    model: FleetForecaster,
    parts: Iterable[Learnt],
    unit: Learning,
    day_off: DayOff,
) -> list[Hindcast]:
    """Forecasts of all that was held out, made without knowing the weather ahead."""
    return [
        Hindcast(
            held.kind,
            held.origin,
            held.actual,
            model.forecast(
                held.context,
                unit.hours.wall(held.origin),
                day_off,
                temperature_at(unit.temperature, held.origin, hide_ahead=True),
                kind=held.kind,
                calibrated=False,
            ),
        )
        for part in parts
        for held in part.held_out
        if len(held.actual)
    ]


def stretches(found: Sequence[Hindcast]) -> dict[str, tuple[float, float]]:
    """By kind, how far bands have to be stretched to hold eight of ten values of hindcasts."""
    by_kind = {kind: [h for h in found if h.kind == kind] for kind in KINDS}
    return {kind: _stretch(some) if some else (1.0, 1.0) for kind, some in by_kind.items()}


def _stretch(found: Sequence[Hindcast]) -> tuple[float, float]:
    """How far hindcasts of one kind say that its bands have to be stretched, as far as believed."""
    below, above = stretch_for(*_together(found))
    belief = _BELIEF[found[0].kind]
    return 1 + belief * (below - 1), 1 + belief * (above - 1)


def _together(found: Sequence[Hindcast]) -> tuple[Floats, Forecast]:
    return (
        np.concatenate([h.actual for h in found]),
        {name: np.concatenate([h.found[name] for h in found]) for name in QUANTITIES},
    )


def scored(
    found: Sequence[Hindcast],
    kind: str = "meter",
    stretch: tuple[float, float] | None = None,
    origins: Collection[int] | None = None,
) -> Scores:
    """Scores of hindcasts of a kind, each origin's band stretched as the others ask for.

    Parameters
    ----------
    stretch : how far all of them are; None: leave one origin out at a time, where there are more
    origins : those that count; None: all
    """
    of_kind = [h for h in found if h.kind == kind]
    parts = []
    for origin in sorted({h.origin for h in of_kind if origins is None or h.origin in origins}):
        here = [h for h in of_kind if h.origin == origin]
        others = [h for h in of_kind if h.origin != origin] or here
        by = _stretch(others) if stretch is None else stretch
        parts += [Hindcast(h.kind, h.origin, h.actual, in_order(h.found, by)) for h in here]
    return scores(*_together(parts))


def context_of(energy: Floats, origin: int) -> Floats:
    """The CONTEXT hours before an origin; NaN before the first."""
    there = energy[:, max(0, origin - CONTEXT) : origin]
    missing = CONTEXT - there.shape[1]
    return np.pad(there, ((0, 0), (missing, 0)), constant_values=np.nan)


def temperature_at(temperature: Floats | None, origin: int, *, hide_ahead: bool) -> Floats | None:
    """The temperature of the CONTEXT hours before an origin and the HORIZON hours from it on."""
    if temperature is None:
        return None
    before = context_of(temperature[None, :], origin)[0]
    ahead = temperature[origin : origin + HORIZON]
    ahead = np.pad(ahead, (0, HORIZON - len(ahead)), constant_values=np.nan)
    if hide_ahead:
        ahead = np.full(HORIZON, np.nan, np.float32)
    return np.concatenate([before, ahead]).astype(np.float32)


def day_off_of(settings: MlSettings) -> DayOff:
    """Whether a date is a weekend or a holiday of the settings' country."""
    return days_off(holidays_of(settings.country, settings.subdivision))
