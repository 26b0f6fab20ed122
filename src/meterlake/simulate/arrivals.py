"""Which rows reach the head-end in a stretch of time, in the order in which it writes them.

A concentrator sends the readings of a step together, 2 seconds to 4 minutes after it, and always
before the next step: a reading that is on time arrives within the step that it was taken in. A
late meter's readings arrive `late_minutes` after that. So a stretch of arrivals is the readings of
the same stretch from the punctual meters, and those of an earlier one from the late ones, which
are made again here rather than kept.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from meterlake.simulate.chance import Minutes, Purpose, keyed
from meterlake.simulate.fleet import METERS_PER_CONCENTRATOR, Fleet
from meterlake.simulate.plan import ReadingsPlan, instant_of
from meterlake.simulate.registers import READING_TYPES, Registers, registers

COLUMNS = ("time", "arrival_time", "device_id", "measure_name", *READING_TYPES)

# Radio rounds: most concentrators are done in half a minute, a few take minutes.
_LATENCY_LEAST_S = 2.0
_LATENCY_MOST_S = 240.0
_LATENCY_MEAN_S = 35.0
_DICE = 2**31


@dataclass(frozen=True)
class Arrivals:
    """Rows that arrive in a stretch of time.

    Attributes
    ----------
    rows : DataFrame
        The columns of the file, times as its text.
    dice : int array, as long as `rows`
        What decides the damage of a row; -1 where it stays good.
    late_rows : int
        How many come from late meters.
    """

    rows: pl.DataFrame
    dice: NDArray[np.int64]
    late_rows: int


def arrivals(
    plan: ReadingsPlan, fleet: Fleet, faults: pl.DataFrame, *, first: int, last: int
) -> Arrivals:
    """Make the rows that arrive in a stretch of whole steps.

    Parameters
    ----------
    plan, fleet, faults : ReadingsPlan, Fleet, DataFrame
        What is simulated; the faults as `plan_faults` returns them.
    first, last : int
        The stretch, half-open, in minutes since 1970.

    Returns
    -------
    Arrivals
        By the step of arrival; within it the late rows first, then by time and meter.
    """
    interval = plan.interval_minutes
    punctual = _rows(plan, fleet, faults, minutes=_steps(plan, first, last), late=False)
    if not fleet.late.any():
        return Arrivals(punctual.drop("arrival_step", "dice"), punctual["dice"].to_numpy(), 0)
    # The delay need not be whole steps: then the rows of a step arrive in either of two, and those
    # of the outermost steps in part.
    earliest = (first - plan.late_minutes) // interval * interval
    minutes = _steps(plan, earliest, last - plan.late_minutes)
    late = _rows(plan, fleet, faults, minutes=minutes, late=True).filter(
        pl.col("arrival_step").is_between(first // interval, last // interval, closed="left")
    )
    rows = pl.concat([late, punctual]).sort("arrival_step", maintain_order=True)
    return Arrivals(rows.drop("arrival_step", "dice"), rows["dice"].to_numpy(), late.height)


def arrivals_end(plan: ReadingsPlan, fleet: Fleet) -> int:
    """Return the minute before which the last row of a plan arrives, on a whole step."""
    if not fleet.late.any():
        return plan.end_minute
    steps = -(-plan.late_minutes // plan.interval_minutes)
    return plan.end_minute + steps * plan.interval_minutes


def latency_us(plan: ReadingsPlan, fleet: Fleet, minutes: Minutes) -> NDArray[np.int64]:
    """Return how long each concentrator's message of a step is on its way.

    Returns
    -------
    int array, shape (steps, concentrators)
        From the reading to its arrival [µs]: an exponential distribution cut off at its top, which
        is less than the interval.
    """
    most_s = min(_LATENCY_MOST_S, plan.interval_minutes * 60 - 1.0)
    luck = np.empty((len(minutes), fleet.concentrators))
    for index, minute in enumerate(minutes.tolist()):
        luck[index] = keyed(plan.seed, Purpose.LATENCY, minute=minute).random(fleet.concentrators)
    span = -np.expm1((_LATENCY_LEAST_S - most_s) / _LATENCY_MEAN_S)
    seconds: NDArray[np.float64] = _LATENCY_LEAST_S - _LATENCY_MEAN_S * np.log1p(-luck * span)
    return (seconds * 1e6).astype(np.int64)


def _steps(plan: ReadingsPlan, first: int, last: int) -> Minutes:
    start, end = max(first, plan.start_minute), min(last, plan.end_minute)
    return np.arange(start, end, plan.interval_minutes, dtype=np.int64)


def _rows(
    plan: ReadingsPlan, fleet: Fleet, faults: pl.DataFrame, *, minutes: Minutes, late: bool
) -> pl.DataFrame:
    # The rows of some reading steps from the late meters, or from the others, by time and meter;
    # with two columns more: the number of the step of arrival, and the dice.
    senders = fleet.late if late else ~fleet.late
    if not len(minutes) or not senders.any():
        minutes = np.zeros(0, dtype=np.int64)
        shown = Registers(minutes, {n: np.zeros(0) for n in READING_TYPES}, np.zeros((0, 0)) > 0)
        wanted = np.zeros(0, dtype=np.int64)
    else:
        shown = registers(plan, fleet, faults, minutes=minutes)
        wanted = np.flatnonzero(shown.taken & senders)
    step, device = np.divmod(wanted, fleet.devices)
    delay_us = plan.late_minutes * 60_000_000 if late else 0
    arrival_us = minutes[:, None] * 60_000_000 + delay_us + latency_us(plan, fleet, minutes)
    message = step * fleet.concentrators + device // METERS_PER_CONCENTRATOR
    times = [f"{instant_of(minute):%Y-%m-%d %H:%M:%S}.0000000" for minute in minutes.tolist()]
    sent = pl.Series(arrival_us.ravel()).cast(pl.Datetime("us"))
    # Microseconds in seven digits.
    texts = sent.dt.strftime("%Y-%m-%d %H:%M:%S%.6f0")
    arrival_step = pl.Series(arrival_us.ravel() // (plan.interval_minutes * 60_000_000))
    return pl.DataFrame(
        {
            "time": pl.Series(times, dtype=pl.String).gather(step),
            "arrival_time": texts.gather(message),
            "device_id": pl.Series(fleet.device_ids).gather(device),
            "measure_name": pl.repeat("readings", len(wanted), eager=True),
            **{name: value.ravel()[wanted] for name, value in shown.values.items()},
            "arrival_step": arrival_step.gather(message),
            "dice": _dice(plan, minutes).ravel()[wanted],
        }
    )


def _dice(plan: ReadingsPlan, minutes: Minutes) -> NDArray[np.int64]:
    # By step and device: -1 for a row that stays good, else what decides its damage.
    if plan.bad_percent == 0:
        return np.full((len(minutes), plan.devices), -1)
    share = plan.bad_percent / 100
    luck = np.empty((len(minutes), plan.devices))
    for index, minute in enumerate(minutes.tolist()):
        luck[index] = keyed(plan.seed, Purpose.DAMAGE, minute=minute).random(plan.devices)
    # A number below the share is even within it, so one draw decides both.
    return np.where(luck < share, (luck / share * _DICE).astype(np.int64), -1)
