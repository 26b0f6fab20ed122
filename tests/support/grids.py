"""Grids made by hand: the seven files of a topology from dicts, and readings below them."""

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from meterlake.simulate.weather import simulate_weather

Grid = dict[str, list[dict[str, Any]]]


def small_grid(**meters: str) -> Grid:
    """A sound grid, two transformers `t1` and `t2` on one feeder; each meter by its transformer."""
    places = ("at-s", "at-t1", "at-t2", *(f"at-{name}" for name in meters))
    return {
        "power_grid": [{"id": "g", "name": "Grid", "status": "online"}],
        "substation": [
            {"id": "s", "name": "North", "status": "online", "gridId": "g", "locationId": "at-s"}
        ],
        "voltage_control_zone": [{"id": "z", "name": "Zone 1"}],
        "distribution_transformer": [
            {
                "id": "d",
                "substationId": "s",
                "status": "online",
                "capacity": "1MVA",
                "locationId": "at-s",
                "voltageControlZoneId": "z",
            }
        ],
        "service_transformer": [
            {
                "id": name,
                "distributionTransformerId": "d",
                "locationId": f"at-{name}",
                "capacity": size,
            }
            for name, size in (("t1", "25kva"), ("t2", "50 kVA"))
        ],
        "smart_meter": [
            {"id": name, "locationId": f"at-{name}", "serviceTransformerId": transformer}
            for name, transformer in meters.items()
        ],
        "location": [
            {
                "id": name,
                "latitude": 45.0 + number / 1000,
                "longitude": 7.0,
                "address": f"{number} Main St",
                "locationType": "place",
            }
            for number, name in enumerate(places)
        ],
    }


def write_grid(folder: Path, grid: Mapping[str, object]) -> Path:
    """Write one JSON file for each kind."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind, nodes in grid.items():
        (folder / f"{kind}.json").write_text(json.dumps(nodes), encoding="utf-8")
    return folder


def read_grid(folder: Path) -> Grid:
    """Read what was written."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in folder.iterdir()}


def after_works(grid: Grid) -> Grid:
    """The grid later: the first meter where the last one hangs, the second gone, and renamings."""
    later = deepcopy(grid)
    first, _, *_, last = later["smart_meter"]
    first["serviceTransformerId"] = last["serviceTransformerId"]
    del later["smart_meter"][1]
    later["substation"][0]["name"] += ", rebuilt"
    later["service_transformer"][0]["capacity"] = "unknown"  # a finding
    return later


START = datetime(2024, 1, 1, tzinfo=UTC)
WORKS = START + timedelta(days=1)


@dataclass(frozen=True)
class Life:
    """What a lake with a grid gets: two deliveries, the grid twice, and the weather twice."""

    deliveries: tuple[str, str]
    grids: tuple[str, str]
    weather: tuple[str, str]


def life_of_a_grid(folder: Path) -> Life:
    """Hours around a midnight. The meters of `t1` are silent for two, then two are read late."""
    meters = {f"{t}-{n}": t for t in ("t1", "t2") for n in range(3)}
    read = [(h, m) for h in range(18, 26) for m in meters]
    silent = {(h, m) for h, m in read if meters[m] == "t1" and 21 <= h < 23}
    late = {(h, m) for h, m in silent if m != "t1-0"}
    folder.mkdir(parents=True, exist_ok=True)
    deliveries = []
    for number, rows in enumerate((sorted(set(read) - silent), sorted(late))):
        lines = ["time,arrival_time,device_id,measure_name,load,crrnt,pf,kva,kw,vltg"]
        for hour, meter in rows:
            time, arrival = START + timedelta(hours=hour), START + timedelta(days=3 + number)
            lines.append(
                f"{time:%F %T},{arrival:%F %T},{meter},readings,,,,,1.{hour},22{hour % 10}"
            )
        path = folder / f"delivery {number}.csv"
        path.write_text("\n".join([*lines, ""]))
        deliveries.append(str(path))
    grid = small_grid(**meters)
    grids = [
        str(write_grid(folder / f"grid {n}", g)) for n, g in enumerate((grid, after_works(grid)))
    ]
    weather = []
    for number in range(2):  # the second is corrected, and goes on
        out = folder / f"weather {number}"
        end = WORKS + timedelta(hours=6 * number)
        simulate_weather((45.0, 7.0), START, end, out, seed=number)
        weather.append(str(out))
    return Life((deliveries[0], deliveries[1]), (grids[0], grids[1]), (weather[0], weather[1]))
