"""The grid as it was at a moment: each meter's way up, from its transformer to the grid.

Nodes are known by kind and id, since one id may stand for nodes of two kinds. Each kind is a
table of its own, and a snapshot changes all of them, one after the other, in one run at a time;
the run of the dataflow that is recorded last makes it hold. So nobody sees half a snapshot.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

import polars as pl

from meterlake.delta.commit import snapshots
from meterlake.delta.store import Store
from meterlake.delta.table import fetched, scan
from meterlake.schema import DATAFLOW_RUNS, SMART_METER, TOPOLOGY, Column

DATAFLOW = "topology"  # name of the dataflow whose runs say which snapshot holds

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
class View:
    """What SQL can ask for that is no table: its columns, the tables it needs, and its SQL."""

    name: str
    meaning: str
    columns: tuple[Column, ...]
    tables: frozenset[str]
    sql: str


@dataclass(frozen=True)
class _Up:
    """A column of the way up: its name, the table that has it, and the column there."""

    name: str
    table: str
    column: str


_WAY_UP = (
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


def _holding(table: str, moment: str) -> str:
    """SQL of the rows of a kind that hold at a moment."""
    return (
        f"(SELECT * FROM {table} WHERE valid_from <= {moment} "
        f"AND (valid_to IS NULL OR valid_to > {moment}))"
    )


_MOMENT = (
    f"(SELECT max(window_end) FROM {DATAFLOW_RUNS.name} "
    f"WHERE dataflow = '{DATAFLOW}' AND outcome = 'succeeded')"
)


def _way_up_sql(moment: str) -> str:
    columns = ", ".join(f"{up.table}.{up.column} AS {up.name}" for up in _WAY_UP)
    joins = " ".join(
        f"LEFT JOIN {_holding(parent, moment)} AS {parent} ON {child}.{column} = {parent}.id"
        for child, parents in PARENTS.items()
        for column, parent in parents.items()
    )
    return (
        f"SELECT {columns} FROM {_holding('smart_meter', moment)} AS smart_meter {joins} "
        f"LEFT JOIN {_holding('location', moment)} AS location "
        "ON smart_meter.location_id = location.id"
    )


def _way_up_columns() -> Iterator[Column]:
    for up in _WAY_UP:
        there = next(c for c in TOPOLOGY[up.table].columns if c.name == up.column)
        whose = f"{there.meaning}: that of its {up.table.replace('_', ' ')}"
        yield Column(up.name, there.type, there.unit, whose)


VIEWS: dict[str, View] = {
    v.name: v
    for v in (
        View(
            METER_TOPOLOGY,
            "View: each meter's way up, its transformers, substation, zone and grid, as it is now",
            tuple(_way_up_columns()),
            frozenset({*TOPOLOGY, DATAFLOW_RUNS.name}),
            _way_up_sql(_MOMENT),
        ),
    )
}


def moments_of_topology(store: Store) -> list[datetime]:
    """The moments of the snapshots that were loaded whole, in order."""
    runs = snapshots(store, [DATAFLOW_RUNS])[DATAFLOW_RUNS.name]
    found = fetched(
        scan(store, DATAFLOW_RUNS, runs.files)
        .filter(pl.col("dataflow") == DATAFLOW, pl.col("outcome") == "succeeded")
        .select("window_end")
    )
    return found["window_end"].sort().to_list()


def changed_since(store: Store, before: datetime) -> datetime | None:
    """From when on the topology is another than it was `before`; None where it is not."""
    states = snapshots(store, TOPOLOGY.values())
    moments = [
        fetched(
            scan(store, table, states[name].files)
            .select(pl.concat([pl.col("valid_from"), pl.col("valid_to")]).alias("moment"))
            .filter(pl.col("moment") > before)
            .min()
        ).item()
        for name, table in TOPOLOGY.items()
    ]
    return min((moment for moment in moments if moment is not None), default=None)


def moment_of_topology(store: Store) -> datetime | None:
    """The moment of the newest snapshot that was loaded whole; None where there is none."""
    return max(moments_of_topology(store), default=None)


def topology_at(store: Store, moment: datetime) -> dict[str, pl.DataFrame]:
    """The nodes of each kind that held at a moment, by kind, without their validity.

    What was loaded after the newest whole snapshot does not count yet; where there is none,
    there are no nodes.
    """
    whole = moments_of_topology(store)  # before the nodes: they are then of these, or later
    states = snapshots(store, TOPOLOGY.values())
    # Of no other moments: between them a snapshot may have been cut off.
    at = pl.lit(max((m for m in whole if m <= moment), default=min(whole, default=moment)))
    ended = pl.col("valid_to").is_not_null() & (pl.col("valid_to") <= at)
    return {
        name: fetched(
            scan(store, table, states[name].files if whole else ())
            .filter(pl.col("valid_from") <= at, ~ended)
            .drop("valid_from", "valid_to")
        )
        for name, table in TOPOLOGY.items()
    }


def ways_up(nodes: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Each meter's way up, of the nodes at a moment: the columns of the view, by meter."""
    way = _named(nodes, SMART_METER.name)
    for child, parents in PARENTS.items():
        for column, parent in parents.items():
            way = way.join(
                _named(nodes, parent),
                left_on=f"{child}.{column}",
                right_on=f"{parent}.id",
                how="left",
                coalesce=False,
            )
    way = way.join(
        _named(nodes, "location"),
        left_on="smart_meter.location_id",
        right_on="location.id",
        how="left",
        coalesce=False,
    )
    return way.select(pl.col(f"{up.table}.{up.column}").alias(up.name) for up in _WAY_UP).sort(
        "meter_id"
    )


def _named(nodes: Mapping[str, pl.DataFrame], kind: str) -> pl.DataFrame:
    return nodes[kind].rename(lambda column: f"{kind}.{column}")
