"""What tables there are, what their columns mean, and how much is in them."""

from typing import Any

from meterlake.delta.commit import snapshots
from meterlake.delta.store import Store
from meterlake.errors import BadInput
from meterlake.pipeline.registry import made_from
from meterlake.schema import Table, View, known_tables
from meterlake.topology.upstream import VIEWS


def tables(store: Store) -> list[dict[str, Any]]:
    """Each table's rows, files, bytes and newest time, from the log alone; views have none."""
    listed = []
    sources = made_from()
    states = snapshots(store, known_tables().values())
    for table in known_tables().values():
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
                "made_from": ", ".join(sources.get(table.name, ())),
                "meaning": table.meaning,
            }
        )
    nothing = dict.fromkeys(("rows", "files", "bytes", "newest", "version", "path", "made_from"))
    listed += [{"table": view.name, **nothing, "meaning": view.meaning} for view in VIEWS.values()]
    return listed


def describe(name: str) -> list[dict[str, Any]]:
    """A table's columns: type, unit, meaning. Raises BadInput where there is no such table."""
    known: dict[str, Table | View] = {**known_tables(), **VIEWS}
    if name not in known:
        raise BadInput(f"The catalog has {', '.join(known)}; found '{name}'")
    table = known[name]
    partition = table.partitioned_by if isinstance(table, Table) else ()
    return [
        {
            "column": c.name,
            "type": c.type,
            "unit": c.unit,
            "partition": c.name in partition,
            "meaning": c.meaning,
        }
        for c in table.columns
    ]
