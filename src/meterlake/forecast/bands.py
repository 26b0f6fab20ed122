"""What a meter's day can be expected to be, and how far off, from the days before it alone.

Energies are judged on a scale on which twice and half as much are as far apart, whatever the
meter's size. The expectation starts from the median of the last two weeks, and moves by what the
last days, weeks, the same weekday, the same kind of day and the temperature say; the days before
are drawn in to what is usual first, so that an anomaly does not hide the next. How all this is
mixed is learnt from all meters by least absolute error. The band is as wide as the meter's own
errors of the last four weeks ask for, by a factor that is counted on held-out days.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from meterlake.errors import BadInput
from meterlake.forecast.statistics import Floats, mean, median, smallest, windows

HISTORY = 84  # days that a day is judged by, at most
KINDS = ("spike", "dip", "zero", "stuck", "step change")

_KWH = 2.0  # a day; below it energies count by their difference, beyond it by their ratio
_LEVEL, _MONTH, _LONG = 14, 28, 56  # days
_LAGS = ((1, 1), (2, 2), (3, 3), (1, 7), (1, 14), (1, 28), (1, _LONG))  # days before, means of
_WEEKS = _LONG // 7
_LEAST_OF_LEVEL, _LEAST_ERRORS = 7, 14  # days that have to be known
_USUAL_REACH = 1.5 * 1.48  # median errors, that a day before counts for at most
_LEAST_ERROR = 0.05  # on the scale of judgement, about as many parts of one
_TAIL = 0.9  # quantile of the errors that the spread estimates
_OUTSIDE = 0.01  # share of days beyond each end of the band
_FITTED_SHARE = 0.6  # of the days; the later ones are held out
_LEAST_KNOWN = 100  # days of meters, to fit to and to calibrate with
_MOST_FITTED = 20_000  # days of meters: more do not change what is learnt
_RUN = 3  # days beyond the band on the same side that are a step
LOOK_BACK = HISTORY + _LEVEL + _MONTH + _RUN
"""Days to read before a day: with those that say what of its HISTORY is drawn in, those that a
step begins with, and one for a date that a zone skipped. With fewer it may be judged otherwise."""
_ZERO = 0.01  # of what is usual
_SELDOM = 0.1  # share of days

DayOff = Callable[[date], bool]


@dataclass(frozen=True)
class Band:
    """How the expectation and the spread are mixed, and how many spreads the band reaches."""

    blend: tuple[float, ...]
    spread: tuple[float, ...]
    below: float
    above: float

    def to_json(self) -> dict[str, Any]:
        """Plain numbers."""
        return asdict(self)

    @staticmethod
    def from_json(told: Mapping[str, Any]) -> "Band":
        """What `to_json` gave. Raises KeyError, TypeError or ValueError where it did not."""
        return Band(
            tuple(map(float, told["blend"])),
            tuple(map(float, told["spread"])),
            float(told["below"]),
            float(told["above"]),
        )


@dataclass(frozen=True)
class MeterDays:
    """Energy [kWh] of meters and days, NaN where a day is not complete: [meters, days].

    `flat`: whether all intervals of the day have the same value; `temperature` [°C] is each
    day's mean, NaN where not known.
    """

    energy: Floats
    flat: NDArray[np.bool_]
    dates: Sequence[date]
    temperature: Floats | None = None


@dataclass(frozen=True)
class Judged:
    """Of each meter and day judged, [meters, days]; NaN where the days before do not suffice."""

    expected: Floats
    lower: Floats
    upper: Floats
    anomaly: NDArray[np.int64]
    importance: Floats
    kind: NDArray[np.int64]  # number in KINDS, -1: none


def judge(days: MeterDays, band: Band, day_off: DayOff) -> Judged:
    """Judge the days after the first HISTORY, each by those before it."""
    found = _grounds(days, day_off)
    middle = found.level + found.parts @ np.array(band.blend, np.float32)
    error = found.energy - middle
    spread = _spread(_spreads(error), np.array(band.spread))
    middle = middle[:, _MONTH:]
    expected, lower, upper = (
        np.float32(_KWH) * np.sinh(middle + reach * spread)
        for reach in (0.0, -band.below, band.above)
    )
    actual = days.energy[:, HISTORY:]
    before = sliding_window_view(days.energy, _MONTH, axis=1)[:, HISTORY - _MONTH : -1]
    never_negative: NDArray[np.bool_] = np.ones(actual.shape, np.bool_)
    exports = np.flatnonzero((days.energy < 0).any(axis=1))
    never_negative[exports] = smallest(before[exports], axis=-1) >= 0
    lower = np.where(never_negative, np.maximum(lower, 0), lower)
    expected = np.where(never_negative, np.maximum(expected, 0), expected)

    sign = np.where(actual > upper, 1, np.where(actual < lower, -1, 0))
    nothing = np.abs(actual) <= _ZERO * np.abs(expected)
    is_zero = np.zeros_like(nothing)
    at = np.nonzero(nothing & never_negative)  # net of solar nothing is a value like others
    is_zero[at] = smallest(np.abs(before[at]), axis=-1) > _ZERO * np.abs(expected[at])
    sign = np.where(is_zero & (sign == 0), -1, sign)
    is_stuck = days.flat[:, HISTORY:] & ~nothing & np.isfinite(expected)
    if is_stuck.any():
        were_flat = sliding_window_view(days.flat, _MONTH, axis=1)[:, HISTORY - _MONTH : -1]
        is_stuck &= were_flat.mean(axis=-1) <= _SELDOM
    sign = np.where(is_stuck & (sign == 0), np.where(actual >= expected, 1, -1), sign)

    run = sign != 0
    for back in range(1, _RUN):
        run[:, back:] &= sign[:, back:] == sign[:, :-back]
        run[:, :back] = False
    kind = np.select(
        [sign == 0, is_zero, is_stuck, run, sign > 0],
        [-1, KINDS.index("zero"), KINDS.index("stuck"), KINDS.index("step change"), 0],
        default=KINDS.index("dip"),
    )
    beyond = np.maximum(np.maximum(actual - upper, lower - actual), 0)
    width = np.where(actual >= expected, upper - expected, expected - lower)
    importance = beyond / np.maximum(beyond + width, 1e-9)
    importance = np.where(is_zero | is_stuck, np.maximum(importance, 0.5), importance)
    return Judged(
        expected, lower, upper, sign, np.where(sign == 0, 0.0, importance).astype(np.float32), kind
    )


def fit_band(days: MeterDays, day_off: DayOff) -> Band:
    """Learn how to mix, and how wide a band is, from the days after the first HISTORY.

    Raises
    ------
    BadInput
        There are too few days.
    """
    found = _grounds(days, day_off)
    wanted = found.energy - found.level
    known = np.isfinite(wanted)
    cut = int(known.shape[1] * _FITTED_SHARE)
    if known[:, :cut].sum() < _LEAST_KNOWN or known[:, cut + _MONTH :].sum() < _LEAST_KNOWN:
        raise BadInput(
            f"A band needs {_LEAST_KNOWN} complete days of meters to learn from, and as many at "
            f"the end of the window to calibrate with; found {int(known[:, :cut].sum())} and "
            f"{int(known[:, cut + _MONTH :].sum())}. More days give them, or more meters"
        )
    here = known[:, :cut]
    blend = _quantile_mix(found.parts[:, :cut][here], wanted[:, :cut][here], 0.5)
    error = wanted - found.parts @ blend.astype(np.float32)
    spreads, error = _spreads(error), error[:, _MONTH:]
    known = np.isfinite(error) & np.isfinite(spreads).all(axis=-1)
    cut = int(known.shape[1] * _FITTED_SHARE)
    here = known[:, :cut]
    far = np.abs(error[:, :cut][here])
    spread = np.clip(_quantile_mix(spreads[:, :cut][here], far, _TAIL), 0, None)
    ratio = (error / _spread(spreads, spread))[:, cut:][known[:, cut:]]
    return Band(tuple(map(float, blend)), tuple(map(float, spread)), _reach(-ratio), _reach(ratio))


def _reach(ratio: Floats) -> float:
    """How many spreads one day in a hundred lies beyond.

    Some days are anomalous, and would widen the band that is to find them; how far the
    others reach follows from what lies further in, where errors fall off as an exponential does.
    """
    nine_in_ten, further = np.quantile(ratio, (0.9, 0.95))
    reach = further + (further - nine_in_ten) * np.log(0.05 / _OUTSIDE) / np.log(0.1 / 0.05)
    return float(max(reach, 0))


@dataclass(frozen=True)
class _Grounds:
    """What the days after the first _LONG are judged by, on the scale of judgement."""

    energy: Floats  # [meters, days]
    level: Floats
    parts: Floats  # [meters, days, parts]: how far each lies from the level


def _grounds(days: MeterDays, day_off: DayOff) -> _Grounds:
    energy = np.arcsinh(days.energy / np.float32(_KWH))
    count = energy.shape[1]
    before, of = windows(energy, _LEVEL)
    level = np.where(of >= _LEAST_OF_LEVEL, median(before, of), np.nan)  # of day _LEVEL + i
    off_by = energy[:, _LEVEL:] - level
    before, of = windows(np.abs(off_by), _MONTH)
    usual = np.maximum(median(before, of), _LEAST_ERROR)
    usual = np.where(of >= _LEAST_ERRORS, usual, np.nan)
    start = _LEVEL + _MONTH
    limit = _USUAL_REACH * usual
    drawn_in = energy.copy()
    drawn_in[:, start:] = level[:, _MONTH:] + np.clip(off_by[:, _MONTH:], -limit, limit)
    # Where too little is known to draw a day in, it counts as it is.
    drawn_in = np.where(np.isfinite(drawn_in), drawn_in, energy)

    level = level[:, _LONG - _LEVEL :]
    is_off = np.array([day_off(day) for day in days.dates])
    sums, counts = _sums(drawn_in)
    means = [_mean(sums, counts, first, last, count) for first, last in _LAGS]
    weekdays = np.stack([drawn_in[:, _LONG - 7 * k : count - 7 * k] for k in range(1, _WEEKS + 1)])
    means.append(mean(weekdays, axis=0))
    of_kinds = [
        _mean(*_sums(np.where(is_off == kind, drawn_in, np.nan)), 1, _MONTH, count)
        for kind in (False, True)
    ]
    means.append(np.where(is_off[_LONG:], of_kinds[1], of_kinds[0]))
    parts = [np.nan_to_num(each - level) for each in means]
    parts.append(_answer_to_temperature(days, drawn_in, level))
    return _Grounds(
        energy[:, _LONG:], level, np.stack(parts, axis=-1).astype(np.float32, copy=False)
    )


def _sums(energy: Floats) -> tuple[Floats, Floats]:
    """Of all days up to each: their sum, and how many are known."""
    known = np.isfinite(energy)
    pad = ((0, 0), (1, 0))
    return (
        np.pad(np.cumsum(np.where(known, energy, 0), axis=1, dtype=np.float64), pad),
        np.pad(np.cumsum(known, axis=1, dtype=np.float64), pad),
    )


def _mean(sums: Floats, counts: Floats, first: int, last: int, days: int) -> Floats:
    """Of each day after the first _LONG, the mean of the days `first` to `last` before it."""
    high, low = slice(_LONG + 1 - first, days + 1 - first), slice(_LONG - last, days - last)
    with np.errstate(invalid="ignore"):
        means: Floats = (sums[:, high] - sums[:, low]) / (counts[:, high] - counts[:, low])
    return means


def _answer_to_temperature(days: MeterDays, energy: Floats, level: Floats) -> Floats:
    """How far the day's temperature moves the meter, by its last eight weeks."""
    if days.temperature is None:
        return np.zeros_like(level)
    before = sliding_window_view(days.temperature, _LONG)[:-1]
    usual = mean(before, axis=1)
    deviation = np.nan_to_num(before - usual[:, None])
    energies = sliding_window_view(energy, _LONG, axis=1)[:, :-1]
    more = np.nan_to_num(energies - level[..., None])
    product = np.einsum("mdw,dw->md", more, deviation)
    slope = product / ((deviation**2).sum(axis=1) + 10.0)  # to zero where it hardly changed
    ahead = np.nan_to_num(days.temperature[_LONG:] - usual)
    answer: Floats = (slope * ahead).astype(np.float32)
    return answer


def _spreads(error: Floats) -> Floats:
    """How far the days before were off, of the days after another _MONTH: [meters, days, 3].

    Their median, what nine in ten were off at most, and one for all meters.
    """
    before, known = windows(np.abs(error), _MONTH)
    ordered = np.sort(before, axis=-1)  # NaN come last
    last = known - 1
    found = [
        np.take_along_axis(
            ordered, np.clip(share * last, 0, None).astype(np.int64)[..., None], axis=-1
        )[..., 0]
        for share in (0.5, 0.9)
    ]
    is_enough = last + 1 >= _LEAST_ERRORS
    found.append(np.ones_like(found[0]))
    return np.where(is_enough[..., None], np.stack(found, axis=-1), np.nan).astype(np.float32)


def _spread(spreads: Floats, mix: NDArray[np.floating]) -> Floats:
    return np.maximum(spreads @ np.asarray(mix, np.float32), _LEAST_ERROR)


def _quantile_mix(parts: Floats, actual: Floats, level: float) -> NDArray[np.float64]:
    """The mix that estimates a quantile, by least squares weighted again and again."""
    step = max(1, len(actual) // _MOST_FITTED)
    parts, actual = parts[::step], actual[::step]
    weights = np.ones(len(actual))
    mix = np.zeros(parts.shape[1])
    for _ in range(20):
        mix = _least_squares(parts, actual, weights)
        error = actual - parts @ mix
        weights = np.where(error > 0, level, 1 - level) / np.maximum(np.abs(error), 0.02)
    return mix


def _least_squares(
    parts: Floats, actual: Floats, weights: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Least squares, drawn a little to nothing so that parts that say the same share the work."""
    weighted = parts if weights is None else parts * weights[:, None]
    square = weighted.T.astype(np.float64) @ parts.astype(np.float64)
    square += np.eye(len(square)) * 1e-3 * np.trace(square) / len(square)
    return np.asarray(np.linalg.solve(square, weighted.T.astype(np.float64) @ actual))
