"""The meters, and what stays the same about each of them for as long as it stands.

Six meters in the order of their numbers share a service transformer, or those that a topology
says; sixty share a data concentrator, which sends their readings to the head-end in one go.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meterlake.simulate.chance import Floats, Purpose, keyed
from meterlake.simulate.plan import ReadingsPlan

METERS_PER_TRANSFORMER = 6
METERS_PER_CONCENTRATOR = 60

# One roof in seven: enough for export to show on a transformer, as in sunny European suburbs.
SOLAR_SHARE = 0.15
# Peak of a rooftop plant as a share of the contract load; below 1, so that export cannot exceed it.
SOLAR_SIZE = (0.25, 0.60)

# Archetypes in the order of `household.WEEK`: working family, retired, night storage or electric
# car, small shop.
ARCHETYPE_SHARES = (0.45, 0.25, 0.15, 0.15)
# People do not rise by one alarm clock: each archetype comes in four shifts [min].
SHIFTS_MINUTES = (-45, -15, 15, 45)

# What a meter draws at its archetype's peak, as a share of its contract load: the median, and the
# spread of its logarithm. Contracts are sized for the worst moment, not for the evening.
_PEAK_USE_MEDIAN = 0.18
_PEAK_USE_SPREAD = 0.40


def device_id(index: int) -> str:
    """Return the id of a meter by its number, as the shipped topology numbers its meters."""
    return str(uuid.uuid3(uuid.NAMESPACE_OID, str(index)))


def transformer_name(index: int) -> str:
    """Return the name of a service transformer by its number."""
    return f"st-{index:06d}"


@dataclass(frozen=True)
class Fleet:
    """The meters of a plan: arrays with one element per meter, in the order of their numbers.

    Attributes
    ----------
    device_ids : list of str
        What they are called.
    contract_kw, peak_kw : float32 arrays
        Contract load [kW]; mean power at the archetype's peak [kW].
    group : int array
        Archetype and shift: archetype * 4 + shift.
    power_factor : float32 array
        At full load.
    transformer : int array
        Number of the service transformer, 0 and up; the meters of one follow each other.
    transformer_ids : list of str, one for each transformer
        What they are called.
    late : bool array
        Whether its readings arrive late.
    solar : int array, shorter
        Numbers of the meters behind a rooftop plant.
    solar_kw : float32 array, as long as `solar`
        Peak of their plants [kW].
    """

    device_ids: list[str]
    contract_kw: Floats
    peak_kw: Floats
    group: NDArray[np.intp]
    power_factor: Floats
    transformer: NDArray[np.intp]
    transformer_ids: list[str]
    late: NDArray[np.bool_]
    solar: NDArray[np.intp]
    solar_kw: Floats

    @property
    def devices(self) -> int:
        """How many meters there are."""
        return len(self.device_ids)

    @property
    def first_of_transformer(self) -> NDArray[np.intp]:
        """The number of the first meter of each service transformer."""
        return self.transformer.searchsorted(np.arange(len(self.transformer_ids)))

    def meters_of(self, transformer: int) -> range:
        """The numbers of the meters of a service transformer."""
        first, end = self.transformer.searchsorted([transformer, transformer + 1])
        return range(int(first), int(end))

    @property
    def concentrators(self) -> int:
        """How many data concentrators there are."""
        return -(-self.devices // METERS_PER_CONCENTRATOR)


def fleet_of(plan: ReadingsPlan) -> Fleet:
    """Draw the meters of a plan.

    The share of late meters is met exactly, to the nearest meter; the other shares as they fall.
    """
    if plan.meters:
        device_ids, transformer_ids, transformer = _of_a_topology(plan.meters)
    else:
        device_ids = [device_id(index) for index in range(plan.devices)]
        transformer = np.arange(plan.devices) // METERS_PER_TRANSFORMER
        transformer_ids = [transformer_name(index) for index in range(int(transformer[-1]) + 1)]
    luck = keyed(plan.seed, Purpose.FLEET).random((plan.devices, 7))
    habit = keyed(plan.seed, Purpose.HABITS).standard_normal(plan.devices)

    contract_kw = plan.min_load_kw + luck[:, 0] * (plan.max_load_kw - plan.min_load_kw)
    archetype = np.searchsorted(np.cumsum(ARCHETYPE_SHARES)[:-1], luck[:, 1], side="right")
    shift = (luck[:, 2] * len(SHIFTS_MINUTES)).astype(np.intp)
    solar = np.flatnonzero(luck[:, 3] < SOLAR_SHARE)
    smallest, largest = SOLAR_SIZE
    size = smallest + luck[solar, 4] * (largest - smallest)
    late = np.zeros(plan.devices, dtype=np.bool_)
    late[np.argsort(luck[:, 6])[: round(plan.devices * plan.late_percent / 100)]] = True
    use = _PEAK_USE_MEDIAN * np.exp(_PEAK_USE_SPREAD * habit)
    return Fleet(
        device_ids=device_ids,
        contract_kw=contract_kw.astype(np.float32),
        peak_kw=(contract_kw * use).astype(np.float32),
        group=archetype * len(SHIFTS_MINUTES) + shift,
        power_factor=(0.92 + 0.07 * luck[:, 5]).astype(np.float32),
        transformer=transformer,
        transformer_ids=transformer_ids,
        late=late,
        solar=solar,
        solar_kw=(contract_kw[solar] * size).astype(np.float32),
    )


def _of_a_topology(
    meters: Sequence[tuple[str, str]],
) -> tuple[list[str], list[str], NDArray[np.intp]]:
    """Meters, transformers, and each meter's; the meters of a transformer follow each other."""
    numbers = {name: index for index, name in enumerate(dict.fromkeys(name for _, name in meters))}
    transformer = np.array([numbers[name] for _, name in meters], dtype=np.intp)
    order = np.argsort(transformer, kind="stable")
    return [meters[index][0] for index in order], list(numbers), transformer[order]
