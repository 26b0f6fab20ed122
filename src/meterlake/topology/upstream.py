"""The grid as it was at a moment: the nodes upstream of each meter, to the grid.

Nodes are known by kind and id, since one id may stand for nodes of two kinds. A snapshot of the
grid is one commit of the table `topology`, so nobody sees half of one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

import polars as pl

from meterlake.delta.commit import snapshot
from meterlake.delta.store import Store
from meterlake.delta.table import Snapshot, fetched, scan, table_at
from meterlake.delta.upsert import SINCE_EVER, VALIDITY, holding_at, last_moment
from meterlake.schema import FINDING, KINDS, TOPOLOGY, TOPOLOGY_FINDINGS, Column, View

PARENTS: dict[str, dict[str, str]] = {
    "smart_meter": {"service_transformer_id": "service_transformer"},
    "service_transformer": {"distribution_transformer_id": "distribution_transformer"},
    "distribution_transformer": {
        "substation_id": "substation",
        "voltage_control_zone_id": "voltage_control_zone",
    },
    "substation": {"grid_id": "power_grid"},
}
"""What feeds a node or what it is part of, by kind: column, and the kind that it points to."""


@dataclass(frozen=True)
class _Up:
    """A column of the view: its name, the kind of node that has it, and the column there."""

    name: str
    kind: str
    column: str


_UPSTREAM = (
    _Up("meter_id", "smart_meter", "id"),
    _Up("service_transformer_id", "service_transformer", "id"),
    _Up("service_transformer_kva", "service_transformer", "capacity_kva"),
    _Up("distribution_transformer_id", "distribution_transformer", "id"),
    _Up("distribution_transformer_kva", "distribution_transformer", "capacity_kva"),
    _Up("voltage_control_zone_id", "voltage_control_zone", "id"),
    _Up("voltage_control_zone", "voltage_control_zone", "name"),
    _Up("substation_id", "substation", "id"),
    _Up("substation", "substation", "name"),
    _Up("power_grid_id", "power_grid", "id"),
    _Up("power_grid", "power_grid", "name"),
    _Up("latitude", "location", "latitude"),
    _Up("longitude", "location", "longitude"),
    _Up("address", "location", "address"),
)

METER_TOPOLOGY = "meter_topology"  # name of the view


def _upstream_sql() -> str:
    """SQL of the nodes upstream of each meter, from tables of the nodes at one moment.

    The tables are named by the kinds. DuckDB runs it as a view, Polars over frames.
    """
    columns = ", ".join(f"{up.kind}.{up.column} AS {up.name}" for up in _UPSTREAM)
    joins = " ".join(
        f"LEFT JOIN {parent} ON {child}.{column} = {parent}.id"
        for child, parents in PARENTS.items()
        for column, parent in parents.items()
    )
    place = "LEFT JOIN location ON smart_meter.location_id = location.id"
    return f"SELECT {columns} FROM smart_meter {joins} {place}"


def _upstream_columns() -> Iterator[Column]:
    for up in _UPSTREAM:
        there = next(c for c in KINDS[up.kind].columns if c.name == up.column)
        whose = f"{there.meaning}: that of its {up.kind.replace('_', ' ')}"
        yield Column(up.name, there.type, there.unit, whose)


_NOW = ", ".join(f"{name} AS ({view.sql} AND valid_to IS NULL)" for name, view in KINDS.items())

VIEWS: dict[str, View] = {
    **KINDS,
    TOPOLOGY_FINDINGS.name: TOPOLOGY_FINDINGS,
    METER_TOPOLOGY: View(
        METER_TOPOLOGY,
        "View: the nodes upstream of each meter now: its transformers, substation, zone and grid",
        tuple(_upstream_columns()),
        frozenset({TOPOLOGY.name}),
        f"WITH {_NOW} {_upstream_sql()}",
    ),
}


def moment_of_topology(store: Store) -> datetime | None:
    """The moment of the newest snapshot; None where there is none."""
    return last_moment(store, snapshot(store, TOPOLOGY))


def moments_of_topology(store: Store) -> list[datetime]:
    """The moments at which the grid became another one, in order."""
    return _moments(_nodes(store, snapshot(store, TOPOLOGY)))


def changed_since(store: Store, version_before: int, version_now: int) -> datetime | None:
    """From when on the grid is another one by a version of the table than by an earlier one.

    None where it is not. Version -1: there is no table yet.
    """
    before, now = (_nodes(store, _at_version(store, v)) for v in (version_before, version_now))
    gone = before.join(now, on=now.columns, how="anti", nulls_equal=True)
    new = now.join(before, on=now.columns, how="anti", nulls_equal=True)
    for moment in (SINCE_EVER, *_moments(pl.concat([gone, new]))):
        was, is_now = (_holding(nodes, moment).sort(pl.all()) for nodes in (gone, new))
        if not was.equals(is_now):
            return moment
    return None


def topology_at(store: Store, moment: datetime) -> dict[str, pl.DataFrame]:
    """The nodes of each kind that held at a moment, by kind, without their validity."""
    nodes = _holding(_nodes(store, snapshot(store, TOPOLOGY)), max(moment, SINCE_EVER))
    return {
        name: nodes.filter(pl.col("kind") == name).select(
            c.name for c in view.columns if c.name not in VALIDITY
        )
        for name, view in KINDS.items()
    }


def upstream_nodes(nodes: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """The nodes upstream of each meter at a moment: the columns of the view, by meter."""
    return pl.SQLContext(nodes).execute(_upstream_sql(), eager=True).sort("meter_id")


def _at_version(store: Store, version: int) -> Snapshot:
    return table_at(store, TOPOLOGY, version) if version >= 0 else Snapshot(TOPOLOGY, -1, ())


def _nodes(store: Store, there: Snapshot) -> pl.DataFrame:
    """The nodes of every moment."""
    files = [f for f in there.files if f.partition["kind"] != FINDING]
    return fetched(scan(store, TOPOLOGY, files))


def _holding(nodes: pl.DataFrame, moment: datetime) -> pl.DataFrame:
    return nodes.filter(holding_at(moment)).drop(VALIDITY)


def _moments(nodes: pl.DataFrame) -> list[datetime]:
    found = pl.concat([nodes["valid_from"], nodes["valid_to"]]).drop_nulls().unique().sort()
    return [moment for moment in found if moment > SINCE_EVER]
