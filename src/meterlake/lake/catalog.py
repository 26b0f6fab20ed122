"""What tables there are, what their columns mean, and how much is in them."""

from typing import Any

from meterlake.errors import BadInput
from meterlake.lake.commit import snapshots
from meterlake.lake.store import Store
from meterlake.schema import TABLES


def tables(store: Store) -> list[dict[str, Any]]:
    """Each table's rows, files, bytes and newest time, from the log alone."""
    listed = []
    states = snapshots(store, TABLES.values())
    for table in TABLES.values():
        state = states[table.name]
        newest = state.newest
        listed.append(
            {
                "table": table.name,
                "rows": state.rows,
                "files": len(state.files),
                "bytes": state.bytes,
                "newest": None if newest is None else newest.isoformat().replace("+00:00", "Z"),
                "version": None if state.version < 0 else state.version,
                "path": table.path,
                "meaning": table.meaning,
            }
        )
    return listed


def describe(name: str) -> list[dict[str, Any]]:
    """A table's columns: type, unit, meaning. Raises BadInput where there is no such table."""
    if name not in TABLES:
        raise BadInput(f"The catalog has {', '.join(TABLES)}; found '{name}'")
    table = TABLES[name]
    return [
        {
            "column": c.name,
            "type": c.type,
            "unit": c.unit,
            "partition": c.name in table.partitioned_by,
            "meaning": c.meaning,
        }
        for c in table.columns
    ]
