"""The seven tables of version 0.1 become one, with what readers saw of them."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from support.grids import small_grid, write_grid

from meterlake.dataflows.run import Scope, run_dataflow
from meterlake.delta import commit as commits
from meterlake.delta.commit import Change, commit, snapshot
from meterlake.delta.store import Store
from meterlake.delta.table import write_file
from meterlake.delta.upsert import SINCE_EVER, append
from meterlake.engine.local import LocalEngine
from meterlake.errors import BadInput
from meterlake.pipeline import upkeep
from meterlake.pipeline.derivation import Session
from meterlake.questions.sql import query
from meterlake.schema import (
    DATAFLOW_RUNS,
    KINDS,
    TOPOLOGY,
    TOPOLOGY_FINDINGS,
    Table,
    polars_schema,
)
from meterlake.settings import load_settings
from meterlake.topology.upgrade import merge_kinds
from meterlake.topology.upstream import moment_of_topology, topology_at

FIRST, HALF, SECOND, UNFINISHED, NOW = (
    datetime(2024, month, 1, tzinfo=UTC) for month in range(1, 6)
)
CONF = load_settings(late_hooks=())
Rows = list[tuple[Any, ...]]


def old_table(store: Store, name: str, rows: Rows) -> None:
    """A table as version 0.1 left it."""
    view = {**KINDS, TOPOLOGY_FINDINGS.name: TOPOLOGY_FINDINGS}[name]
    path = f"integrated/topology/{name}" if name in KINDS else f"integrated/{name}"
    table = Table(name, path, view.meaning, view.columns, (), "valid_from")
    frame = pl.DataFrame(rows, schema=polars_schema(table), orient="row")
    file = write_file(store, table, frame, partition={}, name="part-1")
    commit(store, table, Change({"dataflow": 0}, add=[file]), now=NOW)


def old_run(store: Store, at: datetime, outcome: str) -> None:
    schema = polars_schema(DATAFLOW_RUNS)
    run = {"run_id": f"{at}", "dataflow": "topology", "started_at": NOW, "window_end": at}
    run |= {"outcome": outcome, "run_month": "2024-05"}
    rows = pl.DataFrame([dict.fromkeys(schema) | run], schema=schema, orient="row")
    append(store, DATAFLOW_RUNS, rows, key=f"run/{at}", now=NOW)


@pytest.fixture
def old(store: Store) -> Store:
    """Three loads: whole, cut off, whole; and a fourth that was cut off and never made whole."""
    old_table(store, "power_grid", [("g", "Grid", "on", SINCE_EVER, None)])
    meters: Rows = [
        ("stays", None, "t1", SINCE_EVER, None),
        ("flickers", None, "t1", SINCE_EVER, HALF),  # by a load that was cut off
        ("flickers", None, "t2", HALF, SECOND),
        ("flickers", None, "t1", SECOND, None),
        ("moves", None, "t1", SINCE_EVER, HALF),
        ("moves", None, "t2", HALF, None),
        ("moves again", None, "t1", SINCE_EVER, UNFINISHED),
        ("moves again", None, "t2", UNFINISHED, None),
    ]
    old_table(store, "smart_meter", meters)
    odd: Rows = [("smart_meter", "stays", "no reference", "location_id", FIRST, SECOND)]
    old_table(store, "topology_findings", odd)
    for at, outcome in [(FIRST, "succeeded"), (HALF, "failed"), (SECOND, "succeeded")]:
        old_run(store, at, outcome)
    return store


def meters(store: Store) -> Rows:
    return query(
        store,
        "select id, service_transformer_id, valid_from, valid_to from smart_meter order by all",
    ).rows()


MERGED: Rows = [
    ("flickers", "t1", SINCE_EVER, SECOND),
    ("flickers", "t1", SECOND, None),
    ("moves", "t1", SINCE_EVER, SECOND),
    ("moves", "t2", SECOND, None),
    ("moves again", "t1", SINCE_EVER, None),
    ("stays", "t1", SINCE_EVER, None),
]


def test_the_history_of_whole_snapshots_becomes_that_of_one_table(old: Store) -> None:
    merge_kinds(old, now=NOW)
    assert snapshot(old, TOPOLOGY).version == 1
    assert meters(old) == MERGED
    assert query(old, "select id, name, valid_to from power_grid").rows() == [("g", "Grid", None)]
    odd = "select kind, id, detail, valid_from, valid_to from topology_findings"
    assert query(old, odd).rows() == [("smart_meter", "stays", "location_id", SINCE_EVER, SECOND)]
    assert moment_of_topology(old) == SECOND
    assert topology_at(old, FIRST)["smart_meter"]["service_transformer_id"].to_list() == ["t1"] * 4
    assert upkeep.check(Session(old, LocalEngine(1), CONF, NOW)).findings == ()


def test_merging_again_or_after_it_was_cut_off_makes_one_history(
    old: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(commits, "_write", killed)
        merge_kinds(old, now=NOW)
    assert meters(old) == []
    for _ in range(2):
        merge_kinds(old, now=NOW)
        assert meters(old) == MERGED
    assert snapshot(old, TOPOLOGY).version == 1


def test_the_next_snapshot_follows_the_merged_ones(old: Store, tmp_path: Path) -> None:
    merge_kinds(old, now=NOW)
    folder = str(write_grid(tmp_path / "grid", small_grid(stays="t1")))
    with pytest.raises(BadInput, match="in the order of time"):
        run_dataflow(old, "topology", Scope(folder, at=SECOND), settings=CONF, now=NOW)
    run_dataflow(old, "topology", Scope(folder, at=NOW), settings=CONF, now=NOW)
    (last,) = [row for row in meters(old) if row[3] is None]
    assert last == ("stays", "t1", NOW, None)


def test_a_lake_without_a_topology_gets_none(store: Store) -> None:
    merge_kinds(store, now=NOW)
    assert snapshot(store, TOPOLOGY).version == -1
