"""The one way to change a table: all of a change in one atomic step of the Delta log, once.

Files are written first and belong to nothing. A commit then adds them, removes those they
replace and records an idempotency key.

A change of two tables at once (reads and the rows that could not be typed, an integration
and its late reads) is one commit as well: the main table's, which names the files that
the attached table gets. From then on every reader here sees them; `settle` writes them into
the attached table's own log, at the end of the job or, where it was killed before, with the
next job. Each table's log needs one commit for that, whatever the number of files.
"""

import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TypeVar

from deltalake import CommitProperties, DeltaTable, Field, PostCommitHookProperties, Transaction
from deltalake import Schema as DeltaSchema
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.schema import PrimitiveType
from deltalake.transaction import AddAction, RemoveAction

from meterlake import storage
from meterlake.delta.journal import (
    Account,
    Provenance,
    attached_since,
    entries,
    metadata,
    statistics,
)
from meterlake.delta.lake_format import state_format
from meterlake.delta.store import Store
from meterlake.delta.table import (
    DataFile,
    Snapshot,
    open_delta,
    recorded_under,
    state_of,
    table_at,
)
from meterlake.errors import Conflict, Unavailable
from meterlake.schema import TABLES, Table, known_tables

Result = TypeVar("Result")

ATTEMPTS = 10  # of a change that others keep coming before
_REQUEST_ATTEMPTS = 3  # of one that an object store does not take

SETTLED = "settled_to"  # an attached table's key: version of the main table that it is up to
_SETTLE_AFTER = 16  # versions of the main table, though none of them brings anything

_CONFIGURATION = {"delta.enableExpiredLogCleanup": "false", "delta.checkpointInterval": "20"}


@dataclass(frozen=True)
class Step:
    """A key's version before and after a commit that moves it; -1: there was none."""

    was: int
    becomes: int

    def may_follow(self, recorded: int) -> bool:
        """Whether the key is where it is expected to be."""
        return recorded == self.was


@dataclass(frozen=True)
class Fence:
    """The number of a lease (delta/lock.py), recorded by each commit that is made under it.

    A commit under an earlier number comes too late.
    """

    becomes: int

    def may_follow(self, recorded: int) -> bool:
        """Whether no later holder of the lease has committed to the table."""
        return recorded <= self.becomes


Mark = Step | Fence
"""How a key moves in a commit."""

Settled = Mapping[str, tuple[DataFile, ...]]
"""Files that came into the logs of attached tables, by table."""

_MAIN = {a.name: t for t in TABLES.values() for a in t.attached}


def snapshot(store: Store, table: Table) -> Snapshot:
    """The table as it is now."""
    return snapshots(store, [table])[table.name]


def snapshots(store: Store, tables: Iterable[Table]) -> dict[str, Snapshot]:
    """Some tables as they are now, by name; an attached one as of its main table's version.

    What is derived is read before what it is derived from, so no table is ahead of its source.
    """
    wanted = {t.name for t in tables}
    found = {}
    for main in reversed(known_tables().values()):
        if main.name in _MAIN:
            continue
        if main.name in wanted:
            found[main.name] = table_at(store, main)
        for attached in main.attached:
            if attached.name in wanted:
                until = found[main.name].version if main.name in found else _version(store, main)
                found[attached.name] = _attached_at(store, main, attached, until)
    return found


def persistently(attempted: Callable[[], Result]) -> Result:
    """Plan and do a change again while other writers come first; in the end Conflict."""
    for attempt in range(ATTEMPTS - 1):
        try:
            return attempted()
        except Conflict:
            storage.pause(attempt)
    return attempted()


@dataclass(frozen=True)
class Change:
    """All of a change of one table: it happens in one atomic step, or not at all.

    Parameters
    ----------
    keys : idempotency keys and the version recorded under each. The version must be higher than
        what the table has under the key, except for a change planned on a `read_version`
    add, remove : files
    attached : files that become part of attached tables in the same step, by table
    read_version : version of the table (-1: none yet) that the change was planned on. If another
        commit has changed the table since, nothing happens but Conflict. None: an append under
        keys that are used once, retried until another commit has them
    marks : further keys that move in the same step, each only from where it may
    provenance : what the rows were made from
    new_data : False if the files hold again what the table has held before
    replaces_all : whether no other file stays; the table then gets the columns that its schema
        declares, where an older version gave it others
    """

    keys: Mapping[str, int]
    add: Sequence[DataFile] = ()
    remove: Sequence[DataFile] = ()
    attached: Mapping[str, Sequence[DataFile]] = field(default_factory=dict)
    read_version: int | None = None
    marks: Mapping[str, Mark] = field(default_factory=dict)
    provenance: Provenance = field(default_factory=Provenance)
    new_data: bool = True
    replaces_all: bool = False

    def __post_init__(self) -> None:
        if self.remove and self.read_version is None:
            raise ValueError("removing files needs the version that they were planned on")

    def actions(self, table: Table, now: datetime) -> list[AddAction | RemoveAction]:
        """What it does to the table's log."""
        actions: list[AddAction | RemoveAction] = []
        actions += [_add(table, f, now, self.new_data) for f in self.add]
        return actions + [_remove(f, now, self.new_data) for f in self.remove]

    def is_overtaken(self, delta: DeltaTable) -> bool:
        """Whether another writer came first."""
        if not all(mark.may_follow(recorded_under(delta, k)) for k, mark in self.marks.items()):
            return True
        if self.read_version is None:
            return any(recorded_under(delta, k) >= v for k, v in self.keys.items())
        return delta.version() != max(self.read_version, 0)


def commit(store: Store, table: Table, change: Change, *, now: datetime) -> None:
    """Change a table in one atomic step; what it brings to attached tables is for `settle`.

    Raises
    ------
    Conflict
        Another writer came first: plan again.
    Unavailable
        The storage refuses or fails. Run the job again: if the commit did happen although its
        answer was lost, the job finds its key.
    """
    if {*change.attached} - {t.name for t in table.attached}:
        raise ValueError(f"table {table.name} has no attached tables {', '.join(change.attached)}")
    recorded = {**change.keys, **{k: mark.becomes for k, mark in change.marks.items()}}
    attached = {name: tuple(files) for name, files in change.attached.items()}
    account = Account(uuid.uuid4().hex, attached, change.provenance)
    actions = change.actions(table, now)
    for attempt in range(ATTEMPTS):
        delta = open_delta(store, table) or _create(store, table)
        base = delta.version()
        if change.is_overtaken(delta):
            raise Conflict(_overtaken(table, base))
        try:
            _write(delta, table, change, actions, recorded, account)
            break
        except (DeltaError, OSError) as error:
            if _landed(store, table, base, account):
                break
            is_conflict = isinstance(error, CommitFailedError)
            if is_conflict and (change.read_version is not None or attempt == ATTEMPTS - 1):
                raise Conflict(f"{_overtaken(table, base)} ({storage.cause(error)})") from error
            if not is_conflict and (store.is_local or attempt == _REQUEST_ATTEMPTS - 1):
                raise _unavailable(table, "committed", error) from error
            storage.pause(attempt)


def replace_files(
    store: Store,
    table: Table,
    paths: Collection[str],
    written: Iterable[DataFile],
    *,
    new_data: bool,
    now: datetime,
) -> None:
    """Replace damaged files by rebuilt ones. Raises Conflict."""
    state = snapshot(store, table)
    change = Change(
        {f"repair/{state.version}": 0},
        add=tuple(written),
        remove=[f for f in state.files if f.path in paths],
        read_version=state.version,
        new_data=new_data,
    )
    commit(store, table, change, now=now)


def settle(store: Store, table: Table, *, now: datetime) -> Settled:
    """Write what the table's commits brought to its attached tables into the logs of these.

    Returns
    -------
    The files that this call wrote there, by table: none where another did, or nothing was due.
    """
    return {a.name: _settle(store, table, a, now) for a in table.attached}


def _settle(store: Store, table: Table, attached: Table, now: datetime) -> tuple[DataFile, ...]:
    for attempt in range(ATTEMPTS):
        until = _version(store, table)
        delta = open_delta(store, attached)
        settled = recorded_under(delta, SETTLED)
        files = tuple(attached_since(store, table, attached, after=settled, until=until))
        if not files and until - settled < _SETTLE_AFTER:
            return ()
        read_version = -1 if delta is None else delta.version()
        change = Change({SETTLED: until}, add=files, read_version=read_version)
        try:
            commit(store, attached, change, now=now)
        except Conflict:
            storage.pause(attempt)
            continue
        return files
    raise Conflict(
        f"Table '{attached.name}' is busy: other writers kept committing first. Try again"
    )


def _version(store: Store, table: Table) -> int:
    delta = open_delta(store, table)
    return -1 if delta is None else delta.version()


def _attached_at(store: Store, main: Table, attached: Table, until: int) -> Snapshot:
    """The attached table as it is at a version of its main table, settled or not."""
    delta = open_delta(store, attached)
    state, settled = state_of(attached, delta), recorded_under(delta, SETTLED)
    if settled <= until:
        coming = attached_since(store, main, attached, after=settled, until=until)
        return replace(state, files=(*state.files, *coming))
    if until < 0:  # the main table is gone: meterlake check says so
        return state
    later = {f.path for f in attached_since(store, main, attached, after=until, until=settled)}
    return replace(state, files=tuple(f for f in state.files if f.path not in later))


def _landed(store: Store, table: Table, base: int, account: Account) -> bool:
    """Whether a commit that seemed to fail is there: a store's answer can get lost."""
    until = _version(store, table)
    return any(
        e.account is not None and e.account.attempt == account.attempt
        for e in entries(store, table, after=base, until=until)
    )


def _write(
    delta: DeltaTable,
    table: Table,
    change: Change,
    actions: list[AddAction | RemoveAction],
    recorded: Mapping[str, int],
    account: Account,
) -> None:
    gets_columns = change.replaces_all and _columns(delta.schema()) != _columns(
        _delta_schema(table)
    )
    if gets_columns:  # to overwrite is to remove all that is there
        actions = [action for action in actions if isinstance(action, AddAction)]
    delta.create_write_transaction(
        actions,
        mode="overwrite" if gets_columns else "append",
        schema=_delta_schema(table),
        partition_by=list(table.partitioned_by),
        commit_properties=CommitProperties(
            custom_metadata=metadata(table, account),
            max_commit_retries=20 if change.read_version is None else 0,
            app_transactions=[Transaction(key, version) for key, version in recorded.items()],
        ),
        post_commithook_properties=PostCommitHookProperties(cleanup_expired_logs=False),
    )


def _create(store: Store, table: Table) -> DeltaTable:
    state_format(store)

    def created() -> DeltaTable:
        return DeltaTable.create(
            store.uri(table.path),
            _delta_schema(table),
            mode="ignore",
            partition_by=list(table.partitioned_by),
            name=table.name,
            description=table.meaning,
            configuration=_CONFIGURATION,
            storage_options=store.delta_options,
        )

    failures = (DeltaError, OSError)
    try:
        return storage.steadily(created, failures=() if store.is_local else failures)
    except failures as error:
        delta = open_delta(store, table)  # another writer may have created it at that moment
        if delta is None:
            raise _unavailable(table, "created", error) from error
        return delta


def _delta_schema(table: Table) -> DeltaSchema:
    return DeltaSchema(
        [
            Field(c.name, PrimitiveType(c.type), metadata={"comment": c.meaning, "unit": c.unit})
            for c in table.columns
        ]
    )


def _columns(schema: DeltaSchema) -> set[str]:
    return {field.name for field in schema.fields}


def _add(table: Table, file: DataFile, now: datetime, new_data: bool) -> AddAction:
    return AddAction(
        path=file.path,
        size=file.size,
        partition_values=dict(file.partition),
        modification_time=_millis(now),
        data_change=new_data,
        stats=statistics(table, file),
    )


def _remove(file: DataFile, now: datetime, new_data: bool) -> RemoveAction:
    return RemoveAction(
        path=file.path,
        data_change=new_data,
        deletion_timestamp=_millis(now),
        size=file.size,
        partition_values=dict(file.partition),
    )


def _overtaken(table: Table, version: int) -> str:
    return (
        f"Table '{table.name}' is at version {version}, where another writer came first. "
        "Run the command again"
    )


def _unavailable(table: Table, done: str, error: Exception) -> Unavailable:
    return Unavailable(
        f"Table '{table.name}' could not be {done}: {storage.cause(error)}. Check that the lake's "
        "storage is there, has space and may be written, then run the command again"
    )


def _millis(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
