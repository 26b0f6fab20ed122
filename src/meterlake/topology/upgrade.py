"""The topology of a lake of version 0.1: a table for each kind of node, and one of findings."""

from datetime import datetime

import polars as pl

from meterlake.delta.commit import snapshot
from meterlake.delta.store import Store
from meterlake.delta.table import fetched, scan, table_at
from meterlake.delta.upsert import SINCE_EVER, VALIDITY, last_moment, set_history
from meterlake.schema import (
    DATAFLOW_RUNS,
    FINDING,
    KINDS,
    TOPOLOGY,
    TOPOLOGY_FINDINGS,
    Table,
    View,
)

_JOB = "upgrade"


def merge_kinds(store: Store, *, now: datetime) -> None:
    """Write the history of these tables into the table `topology`, in one commit.

    Where that is done, or there was no topology, nothing happens. The old tables stay as they are;
    their files belong to no table any more, so `meterlake vacuum` removes them in the end.

    Raises
    ------
    Conflict
        Other writers kept coming first.
    """
    if last_moment(store, snapshot(store, TOPOLOGY)) is not None:
        return
    whole = _whole_moments(store)
    if not whole:
        return
    nodes = [_rows(store, f"{TOPOLOGY.path}/{name}", view) for name, view in KINDS.items()]
    odd = _rows(store, "integrated/topology_findings", TOPOLOGY_FINDINGS)
    nothing = (pl.lit("").alias(name) for name in ("node_kind", "finding", "detail"))
    rows = pl.concat(
        [
            pl.concat(nodes, how="diagonal").with_columns(*nothing),
            odd.rename({"kind": "node_kind"}).with_columns(pl.lit(FINDING).alias("kind")),
        ],
        how="diagonal",
    )
    history = _of_whole_snapshots(rows, whole).select(c.name for c in TOPOLOGY.columns)
    set_history(store, TOPOLOGY, history, whole[-1], job=_JOB, now=now)


def _whole_moments(store: Store) -> list[datetime]:
    """The moments of the snapshots that were loaded into all tables, in order."""
    files = snapshot(store, DATAFLOW_RUNS).files
    mine = pl.col("dataflow") == "topology", pl.col("outcome") == "succeeded"
    runs = fetched(scan(store, DATAFLOW_RUNS, files).filter(*mine).select("window_end"))
    return runs["window_end"].unique().sort().to_list()


def _rows(store: Store, path: str, view: View) -> pl.DataFrame:
    """The rows of an old table, which had the view's columns."""
    table = Table(view.name, path, view.meaning, view.columns, (), "valid_from")
    rows = fetched(scan(store, table, table_at(store, table).files))
    return rows if "kind" in rows.columns else rows.with_columns(pl.lit(view.name).alias("kind"))


def _of_whole_snapshots(rows: pl.DataFrame, whole: list[datetime]) -> pl.DataFrame:
    """The rows with the validity that readers saw: what a run loaded that was cut off never held.

    A row begins and ends with the first whole snapshot from its own moment on, and what the first
    one had holds from 1970 on.
    """
    moments = {*rows["valid_from"], *rows["valid_to"]} - {None}
    seen = {moment: next((at for at in whole if at >= moment), None) for moment in moments}
    begins, ends = (pl.col(name) for name in VALIDITY)
    return (
        rows.with_columns(
            pl.col(VALIDITY).replace_strict(
                list(seen), list(seen.values()), return_dtype=pl.Datetime("us", "UTC"), default=None
            )
        )
        .filter(begins.is_not_null(), ends.is_null() | (begins < ends))
        .with_columns(pl.when(begins > whole[0]).then(begins).otherwise(SINCE_EVER))
    )
