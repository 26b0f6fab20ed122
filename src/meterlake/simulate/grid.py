"""A grid for any number of meters: the seven files of a topology, around a place.

Meters stand a few to a service transformer, these around the distribution transformer that feeds
them, and those in pairs around a substation. Meter i has the id that simulated readings give it,
and hangs on the transformer that they say it shares.
"""

import json
import math
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from meterlake.errors import BadInput
from meterlake.simulate.chance import Purpose, keyed
from meterlake.simulate.fleet import METERS_PER_TRANSFORMER, device_id, transformer_name

# As in the topology that the guide's implementation ships: 1,669 service transformers on 6.
SERVICE_PER_DISTRIBUTION = 280
DISTRIBUTION_PER_SUBSTATION = 2

# The usual sizes on poles. Six homes draw some 15 kVA together on a winter evening, so the
# smallest is overloaded now and then and the largest never.
SERVICE_KVA = (15, 25, 50, 75, 100)
SERVICE_SHARES = (0.05, 0.25, 0.4, 0.2, 0.1)
DISTRIBUTION_MVA = 5

_SUBSTATIONS_APART_KM = 4.0
_SERVICE_WITHIN_KM = 1.8
_METERS_WITHIN_KM = 0.06
_KM_PER_DEGREE = 111.2

Node = dict[str, Any]


def simulate_grid(
    meters: int, near: tuple[float, float], out: Path, *, seed: int = 1
) -> dict[str, int]:
    """Write the seven files.

    Parameters
    ----------
    meters : number of meters, one or more
    near : latitude and longitude of the middle [°]
    out : folder, made where it is not there
    seed : the same arguments give the same bytes

    Returns
    -------
    Number of nodes of each kind.

    Raises
    ------
    BadInput
        There are no meters, or `out` is a file.
    """
    if meters < 1:
        raise BadInput(
            f"A grid needs at least one meter, found {meters}: set --meters to 1 or more"
        )
    if out.exists() and not out.is_dir():
        raise BadInput(f"A grid needs a folder to write to, found the file '{out}': move it")
    chance = keyed(seed, Purpose.GRID)
    service = -(-meters // METERS_PER_TRANSFORMER)
    distribution = -(-service // SERVICE_PER_DISTRIBUTION)
    substations = -(-distribution // DISTRIBUTION_PER_SUBSTATION)
    locations: list[Node] = []
    grid = {"id": _id("power_grid", 0), "name": "Main Grid", "status": "online"}
    at_substation = [_spiral(near, number) for number in range(substations)]
    substation = [
        {
            "id": _id("substation", number),
            "name": f"Substation {number + 1}",
            "status": "online",
            "gridId": grid["id"],
            "locationId": _place(locations, "substation", at),
        }
        for number, at in enumerate(at_substation)
    ]
    zone = [
        {"id": _id("zone", number), "name": f"Zone {number + 1}"} for number in range(distribution)
    ]
    feeder = [
        _feeder(number, substation[number // DISTRIBUTION_PER_SUBSTATION], each)
        for number, each in enumerate(zone)
    ]
    at_feeder = [_beside(at_substation, number) for number in range(distribution)]
    pole, meter = _poles_and_meters(meters, feeder, at_feeder, locations, chance)
    files: dict[str, list[Node]] = {
        "power_grid": [grid],
        "substation": substation,
        "voltage_control_zone": zone,
        "distribution_transformer": feeder,
        "service_transformer": pole,
        "smart_meter": meter,
        "location": locations,
    }
    _write(files, out)
    return {kind: len(nodes) for kind, nodes in files.items()}


def meters_of(folder: Path, *, most: int | None = None) -> tuple[tuple[str, str], ...]:
    """Meter and service transformer of a topology's meters, in the order of the file.

    Parameters
    ----------
    most : only so many, the first ones

    Raises
    ------
    BadInput
        The file is not there or not a list of meters; or it has fewer.
    """
    path = folder / "smart_meter.json"
    try:
        nodes = json.loads(path.read_text(encoding="utf-8"))
        found = tuple((str(n["id"]), str(n["serviceTransformerId"])) for n in nodes)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"--topology needs a folder with smart_meter.json, a list of meters with id and "
            f"serviceTransformerId; '{path}' cannot be read: {error}"
        ) from error
    found = tuple(dict(found).items())
    if not found or (most is not None and len(found) < most):
        raise BadInput(f"'{path}' has {len(found):,} meters; --devices asks for {most or 1:,}")
    return found[:most]


def _feeder(number: int, substation: Node, zone: Node) -> Node:
    return {
        "id": _id("distribution_transformer", number),
        "substationId": substation["id"],
        "status": "online",
        "capacity": f"{DISTRIBUTION_MVA}MVA",
        "locationId": substation["locationId"],
        "voltageControlZoneId": zone["id"],
    }


def _beside(at_substation: Sequence[tuple[float, float]], number: int) -> tuple[float, float]:
    """The middle of what a distribution transformer feeds: a side of its substation."""
    side = 1 if number % DISTRIBUTION_PER_SUBSTATION else -1
    middle = at_substation[number // DISTRIBUTION_PER_SUBSTATION]
    return _moved(middle, 0, side * _SERVICE_WITHIN_KM / 2)


def _poles_and_meters(
    meters: int,
    feeder: Sequence[Node],
    at_feeder: Sequence[tuple[float, float]],
    locations: list[Node],
    chance: np.random.Generator,
) -> tuple[list[Node], list[Node]]:
    """The service transformers and the meters on them, scattered around what feeds them."""
    service = -(-meters // METERS_PER_TRANSFORMER)
    pole: list[Node] = []
    meter: list[Node] = []
    for number, size_kva in enumerate(chance.choice(SERVICE_KVA, service, p=SERVICE_SHARES)):
        home = number // SERVICE_PER_DISTRIBUTION
        at = _scattered(at_feeder[home], _SERVICE_WITHIN_KM, chance)
        pole.append(
            {
                "id": transformer_name(number),
                "distributionTransformerId": feeder[home]["id"],
                "locationId": _place(locations, "service_transformer", at),
                "capacity": f"{size_kva}kVA",
            }
        )
        first = number * METERS_PER_TRANSFORMER
        for index in range(first, min(first + METERS_PER_TRANSFORMER, meters)):
            here = _scattered(at, _METERS_WITHIN_KM, chance)
            address = f"{index + 1} Meter Lane"
            meter.append(
                {
                    "id": device_id(index),
                    "locationId": _place(locations, "smart_meter", here, address),
                    "serviceTransformerId": pole[number]["id"],
                }
            )
    return pole, meter


def _place(locations: list[Node], kind: str, at: tuple[float, float], address: str = "") -> str:
    """Add a location; its id."""
    identifier = _id("location", len(locations))
    locations.append(
        {
            "id": identifier,
            "latitude": round(at[0], 6),
            "longitude": round(at[1], 6),
            "address": address,
            "locationType": kind,
        }
    )
    return identifier


def _write(files: Mapping[str, Sequence[Node]], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for kind, nodes in files.items():
        partial = out / f".{kind}.partial"
        partial.write_text(json.dumps(nodes, indent=1), encoding="utf-8")
        partial.replace(out / f"{kind}.json")


def _id(kind: str, number: int) -> str:
    return str(uuid.uuid3(uuid.NAMESPACE_OID, f"{kind} {number}"))


def _spiral(middle: tuple[float, float], number: int) -> tuple[float, float]:
    """Places that fill a disc evenly: the sunflower's."""
    radius = _SUBSTATIONS_APART_KM * math.sqrt(number)
    angle = number * math.pi * (3 - math.sqrt(5))
    return _moved(middle, radius * math.cos(angle), radius * math.sin(angle))


def _scattered(
    middle: tuple[float, float], within_km: float, chance: np.random.Generator
) -> tuple[float, float]:
    radius, angle = within_km * math.sqrt(chance.random()), 2 * math.pi * chance.random()
    return _moved(middle, radius * math.cos(angle), radius * math.sin(angle))


def _moved(at: tuple[float, float], north_km: float, east_km: float) -> tuple[float, float]:
    latitude = max(-89.0, min(89.0, at[0] + north_km / _KM_PER_DEGREE))
    longitude = at[1] + east_km / (_KM_PER_DEGREE * math.cos(math.radians(latitude)))
    return latitude, (longitude + 180.0) % 360.0 - 180.0
