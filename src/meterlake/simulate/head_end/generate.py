"""Every read of a stretch of time, with the moment at which it arrives.

A read depends on the seed, the meter and its time alone, so a stretch can be cut anywhere. Reads
of late meters are made with the others and carry an arrival time that lies in the future: they
are stored at once, and not shown before.
"""

import numpy as np
from numpy.typing import NDArray

from meterlake.simulate.arrivals import latency_us
from meterlake.simulate.faults import no_faults
from meterlake.simulate.fleet import METERS_PER_CONCENTRATOR, Fleet
from meterlake.simulate.plan import ReadingsPlan
from meterlake.simulate.registers import READING_TYPES, registers

# Made and stored at once: some tenths of a second, and some 100 MB.
CHUNK_ROWS = 200_000

US_PER_MINUTE = 60_000_000


def reads_of(
    plan: ReadingsPlan, fleet: Fleet, *, first: int, last: int
) -> dict[str, NDArray[np.generic]]:
    """Make the reads that are taken in [first, last), in minutes since 1970, whole steps.

    Returns
    -------
    dict of arrays of one length, one element per read, by time and meter
        `arrival_time` and `time` (datetime64, UTC), `device` (number of the meter), and each
        reading type in thousandths of its unit (int32).
    """
    minutes = np.arange(first, last, plan.interval_minutes, dtype=np.int64)
    shown = registers(plan, fleet, no_faults(), minutes=minutes)
    device = np.arange(fleet.devices, dtype=np.int32)
    times_us = minutes[:, None] * US_PER_MINUTE
    sent_us = times_us + latency_us(plan, fleet, minutes)
    delay_us = np.where(fleet.late, plan.late_minutes * US_PER_MINUTE, 0)
    arrival_us = sent_us[:, device // METERS_PER_CONCENTRATOR] + delay_us
    return {
        "arrival_time": arrival_us.ravel().astype("datetime64[us]"),
        "time": np.repeat(times_us.ravel(), fleet.devices).astype("datetime64[us]"),
        "device": np.tile(device, len(minutes)),
        **{
            name: np.rint(shown.values[name] * 1000).astype(np.int32).ravel()
            for name in READING_TYPES
        },
    }


def steps_at_once(plan: ReadingsPlan) -> int:
    """How many steps are made at once."""
    return max(1, CHUNK_ROWS // plan.devices)
