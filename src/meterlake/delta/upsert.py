"""Rows of a source into a table that has some of them already: by key, each once.

The key of a row is what its table is sorted by. Only partitions in which something changes are
rewritten, each as one file, all in one commit; where nothing does, there is none.
"""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from meterlake.delta.commit import Change, Mark, commit, persistently, snapshot
from meterlake.delta.journal import Provenance
from meterlake.delta.store import Store
from meterlake.delta.table import (
    DataFile,
    Snapshot,
    fetched,
    open_delta,
    recorded_under,
    scan,
    write_file,
)
from meterlake.errors import BadInput, Conflict
from meterlake.schema import Table

SINCE_EVER = datetime(1970, 1, 1, tzinfo=UTC)  # from when on a first state holds
VALIDITY = ("valid_from", "valid_to")

_FOLDER = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
_MOMENT = "moment"  # key of a table of states: the moment of the last one [µs since 1970]
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class RowCounts:
    """What became of rows: `added` new ones, `changed` ones, those that `ended`."""

    added: int = 0
    changed: int = 0
    ended: int = 0

    def __add__(self, other: "RowCounts") -> "RowCounts":
        return RowCounts(
            self.added + other.added, self.changed + other.changed, self.ended + other.ended
        )


@dataclass(frozen=True)
class State:
    """All rows of a table that hold from a moment on, until the next state.

    Parameters
    ----------
    rows : the table's columns without valid_from and valid_to
    at : the moment
    delivered : which rows are the source's alone: two states of one moment agree in them
    """

    rows: pl.DataFrame
    at: datetime
    delivered: pl.Expr = field(default_factory=lambda: pl.lit(True))


_Partition = tuple[Any, ...]
_Merged = tuple[dict[_Partition, pl.DataFrame], RowCounts]
"""The partitions that change, as they are to be, and what became of rows."""


def replace_rows(
    store: Store,
    table: Table,
    rows: pl.DataFrame,
    *,
    job: str,
    now: datetime,
    marks: Mapping[str, Mark] | None = None,
) -> RowCounts:
    """Add rows, and put them in the place of those with the same key; others stay.

    Parameters
    ----------
    rows : the table's columns; a key at most once
    job : what the log calls the job
    marks : keys of the table that move in the same step, such as a lease's

    Raises
    ------
    BadInput
        A key appears twice.
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
        counts = RowCounts(added=rows.height - known, changed=known - same)
        after = pl.concat([before.join(rows, on=key, how="anti", nulls_equal=True), rows])
        return _changed(table, before, after), counts

    return persistently(lambda: _merge(store, table, merged, job=job, now=now, marks=marks))


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
        return _changed(table, before, change(before)), RowCounts()

    persistently(lambda: _merge(store, table, merged, job=job, now=now))


def drop_rows(
    store: Store,
    table: Table,
    keys: pl.DataFrame,
    *,
    job: str,
    now: datetime,
    marks: Mapping[str, Mark] | None = None,
) -> RowCounts:
    """Remove the rows with some keys, in whichever partitions they are; others stay.

    Parameters
    ----------
    keys : the columns that the table is sorted by
    marks : keys of the table that move in the same step

    Raises
    ------
    Conflict
        Other writers kept coming first.
    """

    def merged(state: Snapshot) -> _Merged:
        before = fetched(scan(store, table, state.files))
        after = before.join(keys, on=list(table.sorted_by), how="anti", nulls_equal=True)
        return _changed(table, before, after), RowCounts(ended=before.height - after.height)

    return persistently(lambda: _merge(store, table, merged, job=job, now=now, marks=marks))


def keep_history(store: Store, table: Table, state: State, *, job: str, now: datetime) -> RowCounts:
    """Take over a state, in one commit: what differs ends at its moment, what is new begins.

    A table's first state holds from 1970 on. The state of a moment that the table knows already
    changes nothing.

    Raises
    ------
    BadInput
        A key appears twice; or the table has a later state, or another of that moment.
    Conflict
        Other writers kept coming first.
    """
    key = [name for name in table.sorted_by if name not in VALIDITY]
    _check_keys(table, state.rows, key)

    def kept() -> RowCounts:
        there = snapshot(store, table)
        before = fetched(scan(store, table, there.files))
        last = last_moment(store, there)
        if last is None:  # no state yet, or version 0.1 kept them, which recorded no moments
            last = before.select(pl.max_horizontal(pl.col(VALIDITY).max())).item()
        if last is not None and state.at <= last:
            _check_known(table, before, state, last)
            return RowCounts()
        after, counts = _followed(before, state, key, is_first=last is None)
        parts = _changed(table, before, after)
        change = Change(_moment_key(state.at), provenance=Provenance(job))
        _commit(store, there, parts, change, now=now)
        return counts

    return persistently(kept)


def set_history(
    store: Store, table: Table, rows: pl.DataFrame, last: datetime, *, job: str, now: datetime
) -> None:
    """Fill a table that has no state yet with the states of elsewhere up to a last moment.

    Raises Conflict where the table has a state.
    """
    there = snapshot(store, table)
    if last_moment(store, there) is not None:
        raise Conflict(f"Table '{table.name}' has a history by now. Run the command again")
    parts = _changed(table, rows.clear(), rows)
    _commit(store, there, parts, Change(_moment_key(last), provenance=Provenance(job)), now=now)


def last_moment(store: Store, there: Snapshot) -> datetime | None:
    """The moment of the last state that a table had at a version; None: it had none."""
    if there.version < 0:
        return None
    recorded = recorded_under(open_delta(store, there.table, there.version), _MOMENT)
    return None if recorded < 0 else SINCE_EVER + recorded * _MICROSECOND


def holding_at(moment: datetime) -> pl.Expr:
    """Which rows of a table of states hold at a moment."""
    ends = pl.col("valid_to")
    return (pl.col("valid_from") <= moment) & (ends.is_null() | (ends > moment))


def append(store: Store, table: Table, rows: pl.DataFrame, *, key: str, now: datetime) -> None:
    """Add rows under a key that is used once."""
    files = [_written(store, table, part) for part in _parts(table, rows)]
    persistently(lambda: commit(store, table, Change({key: 0}, add=files), now=now))


def _followed(
    before: pl.DataFrame, state: State, key: list[str], *, is_first: bool
) -> tuple[pl.DataFrame, RowCounts]:
    """The rows of a table after a state, and what became of them."""
    moment = pl.Datetime("us", "UTC")
    rows, holds = state.rows, pl.col("valid_to").is_null()
    holding = before.filter(holds)
    same = holding.join(rows, on=rows.columns, how="semi", nulls_equal=True)
    ends = holding.join(same, on=key, how="anti", nulls_equal=True)
    begins = rows.join(same, on=key, how="anti", nulls_equal=True)
    changed = begins.join(ends, on=key, how="semi", nulls_equal=True).height
    valid_from = pl.lit(SINCE_EVER if is_first else state.at, moment).alias("valid_from")
    after = [
        before.filter(~holds),
        same,
        ends.with_columns(pl.lit(state.at, moment).alias("valid_to")),
        begins.with_columns(valid_from, pl.lit(None, moment).alias("valid_to")),
    ]
    counts = RowCounts(begins.height - changed, changed, ends.height - changed)
    return pl.concat([rows.select(before.columns) for rows in after]), counts


def _moment_key(moment: datetime) -> dict[str, int]:
    return {_MOMENT: (moment - SINCE_EVER) // _MICROSECOND}


def _check_known(table: Table, before: pl.DataFrame, state: State, last: datetime) -> None:
    """Raise BadInput where another state held at the moment of this one."""
    held = before.filter(holding_at(state.at)).select(state.rows.columns)
    was, told = (rows.filter(state.delivered).sort(pl.all()) for rows in (held, state.rows))
    if not was.equals(told):
        raise BadInput(
            f"Table '{table.name}' needs states in the order of time, one of a moment: the last "
            f"one is of {last}, and the one of {state.at} has other rows in '{table.name}'. Give "
            "a later --at"
        )


def _merge(
    store: Store,
    table: Table,
    merged: Callable[[Snapshot], _Merged],
    *,
    job: str,
    now: datetime,
    marks: Mapping[str, Mark] | None = None,
) -> RowCounts:
    """Merge into the table as it is, in one commit; none where nothing changes."""
    there = snapshot(store, table)
    parts, counts = merged(there)
    if parts:
        keys = {"dataflow": there.version + 1}
        change = Change(keys, marks=marks or {}, provenance=Provenance(job))
        _commit(store, there, parts, change, now=now)
    return counts


def _commit(
    store: Store,
    there: Snapshot,
    parts: Mapping[_Partition, pl.DataFrame],
    change: Change,
    *,
    now: datetime,
) -> None:
    """Put partitions in the place of those that a table has at this version."""
    table = there.table
    files = [_written(store, table, part) for part in parts.values() if part.height]
    removed = [f for f in there.files if tuple(f.partition.values()) in parts]
    change = replace(change, add=files, remove=removed, read_version=there.version)
    commit(store, table, change, now=now)


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
