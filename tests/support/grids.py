"""Grids made by hand: the seven files of a topology from dicts."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
