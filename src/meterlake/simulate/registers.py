"""What the meters show: six values that agree with each other to the last digit shown.

kva is kw without its sign over pf; crrnt is kva over vltg; load is the same for the household
alone, as if it had no roof. Each is worked out from the rounded values before it, so that for a
reader of three decimals the laws hold within one unit of the last.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from meterlake.simulate.chance import Floats, Minutes, normals_of_steps
from meterlake.simulate.faults import faults_within
from meterlake.simulate.fleet import Fleet
from meterlake.simulate.household import consumption_kw, rooftop_kw
from meterlake.simulate.plan import ReadingsPlan
from meterlake.simulate.voltage import service_voltage_v

# In the order of the file.
READING_TYPES = ("load", "crrnt", "pf", "kva", "kw", "vltg")

# Small draws are electronics, with a poor power factor: this much less, halved at 0.3 kW.
_PF_LOSS = 0.06
_PF_HALF_KW = 0.3
_PF_NOISE = 0.008

Register: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Registers:
    """What the meters show at consecutive steps.

    Attributes
    ----------
    minutes : int array, shape (steps,)
        The steps.
    values : dict of float64 arrays, each of shape (steps, devices)
        By reading type, in its unit, with three decimals.
    taken : bool array, shape (steps, devices)
        False where the meter took no reading.
    """

    minutes: Minutes
    values: dict[str, Register]
    taken: NDArray[np.bool_]


def registers(
    plan: ReadingsPlan, fleet: Fleet, faults: pl.DataFrame, *, minutes: Minutes
) -> Registers:
    """Work out what the meters show.

    Parameters
    ----------
    plan, fleet, faults : ReadingsPlan, Fleet, DataFrame
        What is simulated; the faults as `plan_faults` returns them.
    minutes : int array, shape (steps,)
        Consecutive steps, at least one.

    Returns
    -------
    Registers
        The same at a step, whatever steps it is asked with.
    """
    noise = normals_of_steps(plan.seed, minutes, devices=plan.devices, kinds=3)
    gross_kw = consumption_kw(fleet, plan.seed, minutes=minutes, jitter=noise[0])
    for steps, fault in _spans(plan, faults, minutes, kinds=("spike", "dip")):
        gross_kw[steps, fault["device"]] *= fault["magnitude"]
    net_kw = gross_kw.copy()
    net_kw[:, fleet.solar] -= rooftop_kw(fleet, plan.seed, minutes=minutes)

    voltage_v = service_voltage_v(
        fleet,
        plan.seed,
        nominal_v=plan.region_voltage_v,
        minutes=minutes,
        net_kw=net_kw,
        jitter=noise[1],
    )
    # The displacement falls with a low draw, whatever the roof does.
    power_factor = fleet.power_factor + _PF_NOISE * noise[2]
    power_factor -= _PF_LOSS * _PF_HALF_KW / (_PF_HALF_KW + gross_kw)
    values = _agreeing(gross_kw, net_kw, power_factor, voltage_v, solar=fleet.solar)

    _repeat_stuck(plan, fleet, faults, minutes=minutes, values=values)
    taken = np.ones(gross_kw.shape, dtype=np.bool_)
    for steps, fault in _spans(plan, faults, minutes, kinds=("outage", "dead")):
        taken[steps, fault["device"]] = False
    return Registers(minutes, values, taken)


def _agreeing(
    gross_kw: Floats,
    net_kw: Floats,
    power_factor: Floats,
    voltage_v: Register,
    *,
    solar: NDArray[np.intp],
) -> dict[str, Register]:
    # In thousandths, which floating point holds exactly; adding 0 turns -0 into 0, which would
    # print its sign.
    pf = np.rint(np.clip(power_factor, 0.801, 1.0).astype(np.float64) * 1000)
    vltg = np.rint(voltage_v * 1000)
    kw = np.rint(net_kw.astype(np.float64) * 1000) + 0.0
    kva = np.rint(np.abs(kw) / pf * 1000)
    crrnt = np.rint(kva / vltg * 1e6)
    load = crrnt.copy()
    gross = np.rint(gross_kw[:, solar].astype(np.float64) * 1000)
    gross_kva = np.rint(gross / pf[:, solar] * 1000)
    load[:, solar] = np.rint(gross_kva / vltg[:, solar] * 1e6)
    thousandths = (load, crrnt, pf, kva, kw, vltg)
    return {name: one / 1000 for name, one in zip(READING_TYPES, thousandths, strict=True)}


def _repeat_stuck(
    plan: ReadingsPlan,
    fleet: Fleet,
    faults: pl.DataFrame,
    *,
    minutes: Minutes,
    values: dict[str, Register],
) -> None:
    sound = faults.filter(pl.col("kind") != "stuck")
    earlier: dict[int, dict[str, Register]] = {}
    for steps, fault in _spans(plan, faults, minutes, kinds=("stuck",)):
        start, device = fault["start_minute"], fault["device"]
        if start >= minutes[0]:
            shown, step = values, steps.start
        else:
            if start not in earlier:
                then = np.array([start], dtype=np.int64)
                earlier[start] = registers(plan, fleet, sound, minutes=then).values
            shown, step = earlier[start], 0
        for name in READING_TYPES:
            values[name][steps, device] = shown[name][step, device]


def _spans(
    plan: ReadingsPlan, faults: pl.DataFrame, minutes: Minutes, *, kinds: tuple[str, ...]
) -> list[tuple[slice, dict[str, int]]]:
    # Each fault with the steps of these minutes that it lasts.
    first = int(minutes[0])
    found = []
    for fault in faults_within(faults, minutes, kinds).iter_rows(named=True):
        start = max(0, (fault["start_minute"] - first) // plan.interval_minutes)
        end = min(len(minutes), (fault["end_minute"] - first) // plan.interval_minutes)
        found.append((slice(start, end), fault))
    return found
