"""What households draw and what their roofs yield, from the clock and the calendar.

Shapes are of a northern region on 45 degrees north whose clock is the sun's: winter evenings are
high, the sun is highest at 12:00. A household's draw is its own peak, times the shape of its kind
and shift, times noise that is partly the day's, partly the hour's and partly the moment's.
"""

import numpy as np
from numpy.typing import NDArray

from meterlake.simulate.chance import (
    MINUTES_PER_DAY,
    Floats,
    Minutes,
    Purpose,
    normals_of_periods,
    wander,
)
from meterlake.simulate.fleet import SHIFTS_MINUTES, Fleet

LATITUDE_DEGREES = 45.0
DAYS_PER_YEAR = 365.2425

# Shares of the peak at each full hour, 0 to 23; straight lines in between. By archetype, as in
# `fleet.ARCHETYPE_SHARES`, then by kind of day: Monday to Friday, Saturday, Sunday. Round numbers
# after the shape of the standard load profiles for homes (H0), night storage and shops (G).
_FAMILY = (
    16, 13, 12, 11, 12, 17, 36, 50, 38, 22, 18, 18,
    20, 18, 18, 22, 33, 52, 72, 76, 69, 56, 38, 24,
)  # fmt: skip
_FAMILY_AT_HOME = (
    22, 17, 14, 12, 12, 14, 18, 27, 40, 50, 52, 52,
    56, 50, 44, 42, 44, 52, 66, 72, 66, 56, 44, 31,
)  # fmt: skip
_RETIRED = (
    12, 10, 9, 9, 10, 13, 22, 36, 44, 42, 40, 46,
    54, 42, 34, 34, 36, 44, 56, 58, 50, 38, 25, 16,
)  # fmt: skip
_NIGHT = (
    88, 92, 92, 88, 80, 60, 32, 28, 22, 18, 16, 16,
    18, 16, 16, 18, 24, 34, 44, 46, 42, 36, 44, 72,
)  # fmt: skip
_SHOP = (
    10, 10, 10, 10, 10, 12, 18, 34, 60, 74, 78, 80,
    72, 74, 78, 78, 76, 72, 58, 30, 16, 12, 11, 10,
)  # fmt: skip
_SHOP_HALF_DAY = (
    10, 10, 10, 10, 10, 12, 18, 34, 58, 70, 74, 74,
    66, 50, 26, 16, 13, 12, 11, 11, 10, 10, 10, 10,
)  # fmt: skip
_CLOSED = (10,) * 24

WEEK: NDArray[np.float32] = np.array(
    [
        [_FAMILY, _FAMILY_AT_HOME, _FAMILY_AT_HOME],
        [_RETIRED, _RETIRED, _RETIRED],
        [_NIGHT, _NIGHT, _NIGHT],
        [_SHOP, _SHOP_HALF_DAY, _CLOSED],
    ],
    dtype=np.float32,
) / np.float32(100)
# How much higher than the year's mean the coldest day is, by archetype: heating and light.
WINTER = np.array([0.20, 0.25, 0.45, 0.10], dtype=np.float32)

# Spread of the logarithm of the draw: whole days that are fuller than others, hours, and moments.
_DAY_SPREAD = 0.12
_HOUR_SPREAD = 0.30
_STEP_SPREAD = 0.22

_KIND_OF_DAY = np.array([0, 0, 0, 0, 0, 1, 2])
# 1970-01-01 was a Thursday.
_WEEKDAY_OF_1970 = 3
_COLDEST_DAY_OF_YEAR = 20
# Losses of cells and inverter against the plant's peak.
_PERFORMANCE = 0.85


def consumption_kw(fleet: Fleet, seed: int, *, minutes: Minutes, jitter: Floats) -> Floats:
    """Return what each household draws, before its roof.

    Parameters
    ----------
    fleet, seed : Fleet, int
        Who draws.
    minutes : int array, shape (steps,)
        When.
    jitter : float32 array, shape (steps, devices)
        Standard normal numbers: the moment's part of the noise.

    Returns
    -------
    float32 array, shape (steps, devices)
        Power [kW], above 0 and never above the contract load.
    """
    days, day_row = normals_of_periods(
        seed, Purpose.DAY, minutes // MINUTES_PER_DAY, width=fleet.devices
    )
    noise = wander(seed, Purpose.HOUR, minutes, width=fleet.devices)
    noise *= np.float32(_HOUR_SPREAD)
    noise += (days * np.float32(_DAY_SPREAD))[day_row]
    noise += jitter * np.float32(_STEP_SPREAD)
    np.exp(noise, out=noise)
    noise *= level(minutes)[:, fleet.group]
    noise *= fleet.peak_kw
    # The contract load to its last whole watt, which the rounding of a register cannot exceed.
    whole_watts_kw = np.floor(fleet.contract_kw * 1000) / np.float32(1000)
    return np.minimum(noise, whole_watts_kw, out=noise)


def level(minutes: Minutes) -> Floats:
    """Return the share of its peak that each archetype and shift draws on average.

    Parameters
    ----------
    minutes : int array, shape (steps,)
        When.

    Returns
    -------
    float32 array, shape (steps, archetypes * shifts)
        In the order of `Fleet.group`.
    """
    shifted = minutes[:, None] - np.array(SHIFTS_MINUTES)
    day, minute = np.divmod(shifted, MINUTES_PER_DAY)
    kind = _KIND_OF_DAY[(day + _WEEKDAY_OF_1970) % 7]
    hour, past = np.divmod(minute, 60)
    share = (past / 60).astype(np.float32)
    shape = WEEK[:, kind, hour] * (1 - share) + WEEK[:, kind, (hour + 1) % 24] * share
    turn = 2 * np.pi * (_day_of_year(minutes) - _COLDEST_DAY_OF_YEAR) / DAYS_PER_YEAR
    season = 1 + WINTER[:, None] * np.cos(turn).astype(np.float32)
    levels: Floats = (shape * season[:, :, None]).transpose(1, 0, 2).reshape(len(minutes), -1)
    return levels


def rooftop_kw(fleet: Fleet, seed: int, *, minutes: Minutes) -> Floats:
    """Return what each rooftop plant yields.

    The sky is one for all: a clearness for the day, and clouds that wander through its hours.

    Returns
    -------
    float32 array, shape (steps, len(fleet.solar))
        Power [kW]: 0 while the sun is down, never above the contract load.
    """
    days, day_row = normals_of_periods(seed, Purpose.SKY, minutes // MINUTES_PER_DAY, width=1)
    # A logistic curve of a normal number: most days are bright or dull, few are black.
    clearness = 0.15 + 0.85 / (1 + np.exp(-0.6 - 1.4 * days[day_row, 0]))
    clouds = np.clip(1 - 0.15 * np.abs(wander(seed, Purpose.CLOUDS, minutes, width=1)[:, 0]), 0, 1)
    sunshine = _PERFORMANCE * sine_of_sun_height(minutes) * clearness * clouds
    return np.outer(sunshine, fleet.solar_kw).astype(np.float32)


def sine_of_sun_height(minutes: Minutes) -> NDArray[np.float64]:
    """Return the sine of the sun's height above the horizon, 0 while it is below.

    Declination by Cooper's formula (Solar Energy 12, 1969), hour angle from the clock.
    """
    turn = 2 * np.pi * (_day_of_year(minutes) + 284) / DAYS_PER_YEAR
    declination = np.radians(23.45) * np.sin(turn)
    hour_angle = 2 * np.pi * (minutes % MINUTES_PER_DAY / MINUTES_PER_DAY - 0.5)
    latitude = np.radians(LATITUDE_DEGREES)
    sine: NDArray[np.float64] = np.sin(latitude) * np.sin(declination)
    sine += np.cos(latitude) * np.cos(declination) * np.cos(hour_angle)
    return np.maximum(sine, 0.0)


def _day_of_year(minutes: Minutes) -> NDArray[np.float64]:
    # Counted on mean years from 1970: off the calendar by a day at most, and free of leap days.
    return (minutes / MINUTES_PER_DAY) % DAYS_PER_YEAR + 1
