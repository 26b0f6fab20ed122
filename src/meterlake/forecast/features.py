"""What a forecast is made from: each meter's last eight weeks as they stand at the origin.

Series are of local wall-clock hours, so that the same hour of the day is always 24 columns away,
whatever the clock did in between (series.py). All that has the unit of energy is divided by
the meter's scale, its mean absolute energy of an hour over the last four weeks; a model then learns
from all meters what holds for each. A gap is NaN and is left out of every mean and quantile; an
hour without any value looks as the first guess does.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meterlake.forecast.statistics import Floats, deviation, mean, quantiles

HORIZON = 168  # hours
CONTEXT_DAYS = 56
CONTEXT = CONTEXT_DAYS * 24  # hours
LEAST_HISTORY = 168  # hours of the last four weeks that have to be known
QUANTILES = (0.1, 0.5, 0.9)

_WEEKS = CONTEXT_DAYS // 7
_DAYS_AHEAD = HORIZON // 24
_SCALE_DAYS = 28
_WAVES = (1, 2, 3)  # a day
_NEAR = (12, 36)  # hours in which what is known of the last ones fades
LEAST_SCALE = 1e-3  # kWh; below it a meter has no load to speak of
_FEW = 8  # hours of eight weeks; what no more of them have is no habit
_FARTHEST = 10.0  # times what the others have at most; beyond it the few are damaged readings
_CARRIED = 20.0  # kWh that the line to a home carries in an hour; up to it no reading is damaged


QUANTITIES = ("mean", "p10", "p50", "p90")


@dataclass(frozen=True)
class Rows:
    """Rows of features, HORIZON for each meter: meter by meter, hour by hour.

    `scale` [kWh] is of each meter, NaN where it has too little history. `base` are first guesses
    of the QUANTITIES in units of the scale, which a model corrects. `hour` of the day and
    `is_day_off` are of the hours ahead.
    """

    names: tuple[str, ...]
    values: Floats  # [meters x HORIZON, features]
    scale: Floats  # [meters]
    base: Floats  # [meters x HORIZON, QUANTITIES]
    hour: NDArray[np.int64]  # [HORIZON]
    is_day_off: NDArray[np.bool_]  # [HORIZON]


def features(
    context: Floats,
    origin: datetime,
    day_off: Callable[[date], bool],
    temperature: Floats | None = None,
) -> Rows:
    """The features of some meters at one origin.

    Parameters
    ----------
    context : energy [kWh] of the CONTEXT hours before the origin, [meters, CONTEXT]
    origin : wall-clock hour at which the forecast begins
    day_off : whether a date is a weekend or a holiday
    temperature : [°C] of the CONTEXT hours before the origin and the HORIZON hours from it on,
        NaN where it is not known
    """
    meters = len(context)
    scale = scale_of(context)
    scaled = context / scale[:, None]
    hours = [origin + timedelta(hours=h) for h in range(-CONTEXT, HORIZON)]
    off = np.array([day_off(hour.date()) for hour in hours])
    usual = _usual(scaled, off)
    by_hour = _by_hour(scaled, usual)
    by_meter = _by_meter(scaled)
    level = mean(scaled, axis=1)[:, None]
    base = [
        _first_known((of_kind + of_all) / 2, of_all, level)
        for of_kind, of_all in zip(usual.kind, usual.month, strict=True)
    ]
    by_hour = {name: _drawn_in(_first_known(v, base[0])) for name, v in by_hour.items()}
    by_meter = {name: _drawn_in(v) for name, v in by_meter.items()}
    by_meter["log_scale"] = np.log(scale)
    ahead, off = hours[CONTEXT:], off[CONTEXT:]
    by_time = _by_time(ahead, off)
    if temperature is not None:
        by_time |= _by_temperature(temperature)
    columns = (
        list(by_hour.values())
        + [np.broadcast_to(v[:, None], (meters, HORIZON)) for v in by_meter.values()]
        + [np.broadcast_to(v, (meters, HORIZON)) for v in by_time.values()]
    )
    values = np.stack(columns, axis=-1).astype(np.float32).reshape(meters * HORIZON, -1)
    guesses = np.stack(base, axis=-1).reshape(meters * HORIZON, -1)
    hour = np.array([h.hour for h in ahead])
    return Rows((*by_hour, *by_meter, *by_time), values, scale, guesses, hour, off)


@dataclass(frozen=True)
class _Usual:
    """What the hour of the day usually was, the QUANTITIES of it, each [meters, HORIZON].

    `month`: in the last four weeks; `kind`: on days of the same kind, working days of the last four
    weeks and days off of the last eight.
    """

    month: tuple[Floats, ...]
    kind: tuple[Floats, ...]
    deviation: Floats


def _usual(scaled: Floats, off: NDArray[np.bool_]) -> _Usual:
    wide = _wide(scaled).reshape(3, len(scaled), CONTEXT_DAYS, 24)
    was_off = off[:CONTEXT].reshape(CONTEXT_DAYS, 24)
    of_on, of_off = (
        _each_day_of(np.concatenate(np.where(mask, wide, np.nan)[:, :, start:], axis=1))
        for mask, start in ((~was_off, -_SCALE_DAYS), (was_off, 0))
    )
    last_month = np.concatenate(wide[:, :, -_SCALE_DAYS:], axis=1)
    kind = (np.where(off[CONTEXT:], b, a) for a, b in zip(of_on, of_off, strict=True))
    return _Usual(_each_day_of(last_month), tuple(kind), _each_day(deviation(last_month, axis=1)))


def _by_hour(scaled: Floats, usual: _Usual) -> dict[str, Floats]:
    days = scaled.reshape(len(scaled), CONTEXT_DAYS, 24)
    weeks = scaled.reshape(len(scaled), _WEEKS, HORIZON)
    wide_weeks = _wide(scaled).reshape(3, len(scaled), _WEEKS, HORIZON)
    return {
        "week_1": weeks[:, -1],
        "week_1_wide": mean(wide_weeks[:, :, -1], axis=0),
        "weeks_mean": mean(weeks, axis=1),
        "weeks_wide_mean": mean(np.concatenate(wide_weeks, axis=1), axis=1),
        "day_1": _each_day(days[:, -1]),
        "days_3": _each_day(mean(days[:, -3:], axis=1)),
        "days_7": _each_day(mean(days[:, -7:], axis=1)),
        "days_14": _each_day(mean(days[:, -14:], axis=1)),
        "days_28": usual.month[0],
        "days_56": _each_day(mean(days, axis=1)),
        "days_28_deviation": usual.deviation,
        **dict(zip(("days_28_q10", "days_28_q50", "days_28_q90"), usual.month[1:], strict=True)),
        **dict(zip(("kind_mean", "kind_q10", "kind_q50", "kind_q90"), usual.kind, strict=True)),
    }


def _by_meter(scaled: Floats) -> dict[str, Floats]:
    day_means = mean(scaled.reshape(len(scaled), CONTEXT_DAYS, 24), axis=2)
    return {
        "level_1": day_means[:, -1],
        "level_3": mean(day_means[:, -3:], axis=1),
        "level_7": mean(day_means[:, -7:], axis=1),
        "level_56": mean(day_means, axis=1),
        "hours_6": mean(scaled[:, -6:], axis=1),
        "deviation": deviation(scaled[:, -_SCALE_DAYS * 24 :], axis=1),
        "deviation_of_days": deviation(day_means[:, -_SCALE_DAYS:], axis=1),
    }


def _by_time(hours: Sequence[datetime], off: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    weekday = np.array([h.weekday() for h in hours])
    turn = 2 * np.pi * np.array([h.hour for h in hours]) / 24
    step = np.arange(HORIZON)
    return {
        **{f"sin_{n}": np.sin(n * turn) for n in _WAVES},
        **{f"cos_{n}": np.cos(n * turn) for n in _WAVES},
        **{f"is_weekday_{n}": weekday == n for n in range(7)},
        "is_day_off": off,
        "step": step / HORIZON,
        **{f"nearness_{n}": np.exp(-step / n) for n in _NEAR},
    }


def _by_temperature(temperature: Floats) -> dict[str, NDArray[Any]]:
    ahead = temperature[CONTEXT:]
    before = temperature[:CONTEXT].reshape(CONTEXT_DAYS, 24)
    usual = np.tile(mean(before[-_SCALE_DAYS:], axis=0), _DAYS_AHEAD)
    return {
        "is_temperature_known": ~np.isnan(ahead),
        "temperature": ahead,
        "temperature_of_day": np.repeat(mean(ahead.reshape(_DAYS_AHEAD, 24), axis=1), 24),
        "warmer_than_usual": ahead - usual,
        "usual_temperature": usual,
        "temperature_day_1": np.tile(before[-1], _DAYS_AHEAD),
    }


def names_of(*, with_temperature: bool) -> tuple[str, ...]:
    """The names of the features, in their order."""
    nothing = np.full((1, CONTEXT + HORIZON), np.nan, np.float32)
    temperature = nothing[0] if with_temperature else None
    some_day = datetime.fromisoformat("2024-01-01")
    return features(nothing[:, :CONTEXT], some_day, lambda _: False, temperature).names


def sound(context: Floats) -> Floats:
    """The energies without damaged readings, which are gaps then.

    A few that are many times as much as all others are; one would raise the forecast for weeks.
    """
    size = np.abs(context)
    known = np.where(np.isnan(size), 0, size)
    usual = np.partition(known, -_FEW - 1, axis=1)[:, -_FEW - 1]
    most = np.maximum(_FARTHEST * usual, _CARRIED)
    return np.where(size > most[:, None], np.float32(np.nan), context).astype(np.float32)


def scale_of(context: Floats) -> Floats:
    """Each meter's mean absolute energy of an hour [kWh]; NaN with less than a week of hours.

    NaN as well where it is nothing to speak of: see `is_idle`.
    """
    scale = mean(np.abs(context[:, -_SCALE_DAYS * 24 :]), axis=1)
    return np.where(_is_known(context) & (scale > LEAST_SCALE), scale, np.nan).astype(np.float32)


def is_idle(context: Floats) -> NDArray[np.bool_]:
    """Which meters have had next to no load for weeks, such as an empty home's."""
    scale = mean(np.abs(context[:, -_SCALE_DAYS * 24 :]), axis=1)
    return np.asarray(_is_known(context) & (scale <= LEAST_SCALE))


def _is_known(context: Floats) -> NDArray[np.bool_]:
    hours = np.count_nonzero(~np.isnan(context[:, -_SCALE_DAYS * 24 :]), axis=1)
    return np.asarray(hours >= LEAST_HISTORY)


def _first_known(*guesses: NDArray[np.floating]) -> Floats:
    best = guesses[0]
    for guess in guesses[1:]:
        best = np.where(np.isnan(best), guess, best)
    return best.astype(np.float32)


def _drawn_in(scaled: Floats) -> Floats:
    """About twice as much near zero, and ever less of what is far from it."""
    return np.arcsinh(2 * scaled)


def _each_day(of_hours: Floats) -> Floats:
    """Values of the 24 hours from the origin's on, for each day ahead."""
    return np.tile(of_hours, (1, _DAYS_AHEAD))


def _each_day_of(days: Floats) -> tuple[Floats, ...]:
    """The QUANTITIES of each hour of some days, [meters, days, 24], for each day ahead."""
    found = (mean(days, axis=1), *quantiles(days, QUANTILES, axis=1))
    return tuple(_each_day(values) for values in found)


def _wide(scaled: Floats) -> Floats:
    """An hour and those beside it: three times as many values to take quantiles of."""
    return np.stack([_shifted(scaled, -1), scaled, _shifted(scaled, 1)])


def _shifted(values: Floats, by: int) -> Floats:
    moved = np.full_like(values, np.nan)
    if by > 0:
        moved[:, by:] = values[:, :-by]
    else:
        moved[:, :by] = values[:, -by:]
    return moved
