"""Random numbers that belong to an instant, not to the order of drawing.

Every draw has a key: the seed, what the draw is for, and the minute it is about. So any stretch of
time can be made again, by itself, with the same values: late rows are made twice instead of being
kept, and neither the size of a chunk nor the number of threads can change a digit. Within a key
the devices are drawn in order, so a larger fleet begins with the smaller one.

Minutes are whole minutes since 1970-01-01 00:00 UTC; before that they are negative.
"""

from enum import IntEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Minutes: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float32]

MINUTES_PER_DAY = 1440

# NumPy's seed sequence takes no negative number; this reaches back to the year 1.
_KEY_OF_1970 = 2**31


class Purpose(IntEnum):
    """What a draw is for. A number once given is never reused: it would change every old seed."""

    FLEET = 1
    HABITS = 2
    TAPS = 3
    DAY = 4
    HOUR = 5
    STEP = 6
    SKY = 7
    CLOUDS = 8
    LATENCY = 9
    DAMAGE = 10
    FAULTS = 11
    GRID = 12
    WEATHER = 13


def keyed(seed: int, purpose: Purpose, *, minute: int = 0) -> np.random.Generator:
    """Return the generator of one key."""
    return np.random.default_rng([seed, purpose, minute + _KEY_OF_1970])


def normals_of_steps(seed: int, minutes: Minutes, *, devices: int, kinds: int) -> list[Floats]:
    """Draw independent standard normal numbers for every step and device.

    Parameters
    ----------
    seed : int
        The plan's seed.
    minutes : int array, shape (steps,)
        The steps.
    devices, kinds : int
        Size of the fleet; how many unrelated numbers each device needs at each step.

    Returns
    -------
    list of float32 arrays, each of shape (steps, devices), one per kind
    """
    drawn = np.empty((kinds, len(minutes), devices), dtype=np.float32)
    for step, minute in enumerate(minutes.tolist()):
        rng = keyed(seed, Purpose.STEP, minute=minute)
        drawn[:, step] = rng.standard_normal((devices, kinds), dtype=np.float32).T
    return list(drawn)


def normals_of_periods(
    seed: int, purpose: Purpose, periods: Minutes, *, width: int
) -> tuple[Floats, NDArray[np.intp]]:
    """Draw standard normal numbers for each distinct period once.

    Parameters
    ----------
    seed, purpose : int, Purpose
        The key.
    periods : int array, any shape
        The number of the period (hour, day) that each element lies in.
    width : int
        How many numbers a period has.

    Returns
    -------
    float32 array of shape (distinct periods, width), int array of the shape of `periods`
        The numbers, and which of their rows each element takes.
    """
    distinct, row = np.unique(periods, return_inverse=True)
    drawn = np.empty((len(distinct), width), dtype=np.float32)
    for index, period in enumerate(distinct.tolist()):
        drawn[index] = keyed(seed, purpose, minute=period).standard_normal(width, dtype=np.float32)
    return drawn, row


def wander(seed: int, purpose: Purpose, minutes: Minutes, *, width: int) -> Floats:
    """Draw noise that wanders: normal at each full hour, on a straight line in between.

    Returns
    -------
    float32 array, shape (steps, width)
        Correlated within the hour and with its neighbours; standard deviation 1 on the hour,
        down to 0.7 half-way.
    """
    hours, past = np.divmod(minutes, 60)
    drawn, row = normals_of_periods(seed, purpose, np.stack([hours, hours + 1]), width=width)
    share = (past / 60).astype(np.float32)[:, None]
    wandering: Floats = drawn[row[0]] * (1 - share) + drawn[row[1]] * share
    return wandering
