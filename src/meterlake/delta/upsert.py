"""Rows of a source into a table that has some of them already: by key, each once.

The key of a row is what its table is sorted by. Only partitions in which something changes are
written anew, each as one file, all in one commit; where nothing does, there is none.
"""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import polars as pl

from meterlake.delta.commit import Change as TableChange
from meterlake.delta.commit import commit, persistently, snapshot
from meterlake.delta.journal import Provenance
from meterlake.delta.lock import Claim
from meterlake.delta.store import Store
from meterlake.delta.table import DataFile, Snapshot, fetched, scan, write_file
from meterlake.errors import BadInput
from meterlake.schema import Table

SINCE_EVER = datetime(1970, 1, 1, tzinfo=UTC)  # from when on a first snapshot holds

_FOLDER = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"

VALIDITY = ("valid_from", "valid_to")


@dataclass(frozen=True)
class Change:
    """What became of rows: `added` new ones, `changed` ones, those that `ended`."""

    added: int = 0
    changed: int = 0
    ended: int = 0

    def __add__(self, other: "Change") -> "Change":
        return Change(
            self.added + other.added, self.changed + other.changed, self.ended + other.ended
        )


_Partition = tuple[Any, ...]
_Merged = tuple[dict[_Partition, pl.DataFrame], Change]
"""The partitions that change, as they are to be, and what became of rows."""


def replace_rows(
    store: Store, table: Table, rows: pl.DataFrame, *, job: str, now: datetime
) -> Change:
    """Add rows, and put them in the place of those with the same key; others stay.

    Parameters
    ----------
    rows : the table's columns; a key at most once
    job : what the log calls the job

    Raises
    ------
    BadInput
        A key stands twice.
    Conflict
        Other writers kept coming first.
    """
    key = list(table.sorted_by)
    _check_keys(table, rows, key)

    def merged(state: Snapshot) -> _Merged:
        touched = {_partition(table, part) for part in _parts(table, rows)}
        files = [f for f in state.files if tuple(f.partition.values()) in touched]
        before = fetched(scan(store, table, files)).select(rows.columns)
        same = before.join(rows, on=rows.columns, how="semi", nulls_equal=True).height
        known = before.join(rows, on=key, how="semi", nulls_equal=True).height
        change = Change(added=rows.height - known, changed=known - same)
        after = pl.concat([before.join(rows, on=key, how="anti", nulls_equal=True), rows])
        return _changed(table, before, after), change

    return persistently(lambda: _merge(store, table, merged, job=job, now=now))


def change_rows(
    store: Store,
    table: Table,
    change: Callable[[pl.DataFrame], pl.DataFrame],
    *,
    job: str,
    now: datetime,
) -> None:
    """Make rows what `change` makes of all there are; it is asked again where others come first.

    Raises
    ------
    Conflict
        Other writers kept coming first.
    """

    def merged(state: Snapshot) -> _Merged:
        before = fetched(scan(store, table, state.files))
        return _changed(table, before, change(before)), Change()

    persistently(lambda: _merge(store, table, merged, job=job, now=now))


def drop_rows(store: Store, table: Table, keys: pl.DataFrame, *, job: str, now: datetime) -> Change:
    """Remove the rows with some keys, in whichever partitions they are; others stay.

    Parameters
    ----------
    keys : the columns that the table is sorted by

    Raises
    ------
    Conflict
        Other writers kept coming first.
    """

    def merged(state: Snapshot) -> _Merged:
        before = fetched(scan(store, table, state.files))
        after = before.join(keys, on=list(table.sorted_by), how="anti", nulls_equal=True)
        return _changed(table, before, after), Change(ended=before.height - after.height)

    return persistently(lambda: _merge(store, table, merged, job=job, now=now))


def keep_history(
    store: Store,
    table: Table,
    rows: pl.DataFrame,
    *,
    at: datetime,
    since: datetime | None = None,
    claim: Claim | None = None,
    job: str,
    now: datetime,
) -> Change:
    """Take over a state as it is `at` a moment: what differs ends then, what is new begins.

    Parameters
    ----------
    rows : the table's columns without valid_from and valid_to: all that holds at the moment
    since : since when what is new in it holds; None: the moment. With a first state SINCE_EVER
    claim : of the run that this is part of; None: it is done by itself

    Raises
    ------
    BadInput
        A key stands twice, or the table has a later state than of that moment.
    Conflict
        Other writers kept coming first.
    Unavailable
        The claim is another's by now.
    """
    key = [name for name in table.sorted_by if name not in VALIDITY]
    _check_keys(table, rows, key)
    begin = pl.lit(since or at).cast(pl.Datetime("us", "UTC")).alias("valid_from")
    end = pl.lit(at).cast(pl.Datetime("us", "UTC")).alias("valid_to")

    def merged(state: Snapshot) -> _Merged:
        before = fetched(scan(store, table, state.files))
        last = before.select(pl.max_horizontal(pl.col(name).max() for name in VALIDITY)).item()
        if last is not None and last > at:
            raise BadInput(
                f"Table '{table.name}' needs states in the order of time: it has one of {last}; "
                f"found one of {at}. Give a later moment"
            )
        holding = before.filter(pl.col("valid_to").is_null())
        same = holding.join(rows, on=rows.columns, how="semi", nulls_equal=True)
        ends = holding.join(same, on=key, how="anti", nulls_equal=True)
        begins = rows.join(same, on=key, how="anti", nulls_equal=True)
        changed = begins.join(ends, on=key, how="semi", nulls_equal=True).height
        after = pl.concat(
            [
                before.filter(pl.col("valid_to").is_not_null()),
                same,
                # What began since then has held for no time: of a load that was cut off.
                ends.with_columns(end).filter(pl.col("valid_from") < (since or at)),
                begins.with_columns(
                    begin,
                    pl.lit(None, pl.Datetime("us", "UTC")).alias("valid_to"),
                ),
            ]
        )
        change = Change(begins.height - changed, changed, ends.height - changed)
        return _changed(table, before, after), change

    return persistently(lambda: _merge(store, table, merged, claim=claim, job=job, now=now))


def state_at(store: Store, table: Table, at: datetime) -> pl.DataFrame:
    """The rows that held at a moment, without valid_from and valid_to."""
    return fetched(
        scan(store, table, snapshot(store, table).files)
        .filter(
            pl.col("valid_from") <= at, pl.col("valid_to").is_null() | (pl.col("valid_to") > at)
        )
        .drop(VALIDITY)
    )


def append(
    store: Store,
    table: Table,
    rows: pl.DataFrame,
    *,
    key: str,
    claim: Claim | None = None,
    now: datetime,
) -> None:
    """Add rows under a key that is used once; with a claim only while it is ours."""
    files = [_written(store, table, part) for part in _parts(table, rows)]

    def appended() -> None:
        version = None
        if claim is not None:
            version = snapshot(store, table).version
            claim.check()
        commit(store, table, TableChange({key: 0}, add=files, read_version=version), now=now)

    persistently(appended)


def _merge(
    store: Store,
    table: Table,
    merged: Callable[[Snapshot], _Merged],
    *,
    claim: Claim | None = None,
    job: str,
    now: datetime,
) -> Change:
    """Merge into the table as it is, in one commit; none where nothing changes."""
    state = snapshot(store, table)
    parts, change = merged(state)
    if parts:
        files = [_written(store, table, part) for part in parts.values() if part.height]
        if claim is not None:
            claim.check()
        change_of_table = TableChange(
            {"dataflow": state.version + 1},
            add=files,
            remove=[f for f in state.files if tuple(f.partition.values()) in parts],
            read_version=state.version,
            provenance=Provenance(job),
        )
        commit(store, table, change_of_table, now=now)
    return change


def _changed(
    table: Table, before: pl.DataFrame, after: pl.DataFrame
) -> dict[_Partition, pl.DataFrame]:
    key = list(table.sorted_by)
    was = {_partition(table, part): part.sort(key) for part in _parts(table, before)}
    will = {_partition(table, part): part.sort(key) for part in _parts(table, after)}
    nothing = after.clear()
    return {
        at: will.get(at, nothing)
        for at in {*was, *will}
        if not will.get(at, nothing).equals(was.get(at, nothing))
    }


def _parts(table: Table, rows: pl.DataFrame) -> list[pl.DataFrame]:
    if not table.partitioned_by:
        return [rows] if rows.height else []
    return rows.partition_by(table.partitioned_by, maintain_order=True)


def _partition(table: Table, part: pl.DataFrame) -> _Partition:
    return tuple(part[name][0] for name in table.partitioned_by)


def _written(store: Store, table: Table, part: pl.DataFrame) -> DataFile:
    return write_file(
        store,
        table,
        part.select(c.name for c in table.file_columns),
        partition={name: part[name][0] for name in table.partitioned_by},
        name=f"part-{uuid.uuid4().hex}",
    )


def _check_keys(table: Table, rows: pl.DataFrame, key: list[str]) -> None:
    for name in table.partitioned_by:
        values = rows[name].unique()
        odd = values.filter(~values.str.contains(_FOLDER).fill_null(False))
        if len(odd):
            raise BadInput(
                f"Table '{table.name}' needs plain names of folders in '{name}', of letters, "
                f"digits, dot, hyphen and underscore; found {odd[0]!r}"
            )
    if rows.select(pl.any_horizontal(pl.col(key).is_null()).any()).item():
        raise BadInput(f"Table '{table.name}' needs {' and '.join(key)} in every row; one has none")
    twice = rows.filter(rows.select(key).is_duplicated())
    if twice.height:
        found = ", ".join(f"{name} {twice[name][0]}" for name in key)
        raise BadInput(
            f"Table '{table.name}' needs each {' and '.join(key)} once; found several of {found}"
        )
