"""A derivation: one table of the lake, as a function of others.

A derivation is data: the table that it makes, the tables that it is made from, the settings that
its rows depend on, and a plan. The plan lists small independent units of work from what changed,
and names the pure function that turns one unit into immutable files. Everything else is done
once, by the runner (pipeline/runner.py): consistent versions, what changed since, progress,
provenance, retry after a conflict, the one commit, rebuild and repair.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, Generic, TypeVar

from meterlake.delta.check import Finding
from meterlake.delta.journal import Entry, Provenance, entries
from meterlake.delta.store import Store
from meterlake.delta.table import DataFile, Snapshot
from meterlake.engine import Engine
from meterlake.engine.progress import Progress, silent
from meterlake.readings.layout import Layout, LiveLayout
from meterlake.schema import Table
from meterlake.settings import Settings


@dataclass(frozen=True)
class Session:
    """What a job works with: the lake, an engine, the settings, the moment, the progress."""

    store: Store
    engine: Engine
    settings: Settings
    now: datetime
    progress: Progress = silent

    @cached_property
    def live(self) -> LiveLayout:
        """The layout of the readings, followed from one derivation to the next."""
        return LiveLayout(self.store)


@dataclass(frozen=True)
class Made:
    """What a unit of work wrote."""

    files: tuple[DataFile, ...] = ()


M = TypeVar("M", bound=Made, covariant=True)


@dataclass(frozen=True)
class Finish:
    """What is written or replaced when all units are done, by table."""

    add: Mapping[str, Sequence[DataFile]] = field(default_factory=dict)
    remove: Mapping[str, Sequence[DataFile]] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan(Generic[M]):
    """Units of work, and what to do with them.

    Parameters
    ----------
    units : values that `work` takes, each independent of the others
    work : a pure function of one unit; it may run anywhere, in any order, twice
    replaces : files of the derived table that the units' files take the place of
    finish : what follows from the results of all units
    changed : what readers of the table's log are to take as changed, see Provenance
    facts : what the rows depend on besides the settings, for the record
    scope : the part of the table that is made, if other plans make other parts
    consumes : False if the table is no nearer to its sources afterwards
    """

    units: Sequence[Any]
    work: Callable[[Any], M]
    replaces: Sequence[DataFile] = ()
    finish: Callable[[Sequence[Any]], Finish] = lambda made: Finish()
    changed: Mapping[str, Sequence[str]] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    scope: str = ""
    consumes: bool = True


@dataclass(frozen=True)
class Verification:
    """How a derived table is compared with its sources: units, and the work that finds faults."""

    units: Sequence[Any] = ()
    work: Callable[[Any], list[Finding]] = lambda unit: []
    findings: Sequence[Finding] = ()


@dataclass(frozen=True)
class Derivation(Generic[M]):
    """A derived table.

    Parameters
    ----------
    table : the table that it makes
    made_from : the tables that it is made from
    plan : from a run to units of work
    settings : names of the settings that its rows depend on, such as `grid.cvr_factor`; if one
        changes, everything is rebuilt
    guard : raises BadInput if a change of settings is not to be followed
    also : further tables that the same work fills
    verify : how the table is compared with its sources; None: only file by file
    rearranges : whether it puts the same rows into other files
    """

    table: Table
    made_from: tuple[Table, ...]
    plan: "Callable[[Run], Plan[M]]"
    settings: tuple[str, ...] = ()
    guard: "Callable[[Run], object]" = lambda run: None
    also: tuple[Table, ...] = ()
    verify: "Callable[[Run, Sequence[Finding]], Verification] | None" = None
    rearranges: bool = False

    @property
    def name(self) -> str:
        """The name of its table."""
        return self.table.name


@dataclass(frozen=True)
class Run:
    """What a plan is made on: the tables as they are, and what has been consumed of them.

    Parameters
    ----------
    state : the derived table, and `also` the further ones, by name
    inputs : the tables that it is made from, by name; the readings without their files, which
        `layout` has
    consumed : version of each input that the table is up to, by name; -1: none
    last : what the table's rows were made from
    is_rebuild : whether a rebuild of everything was asked for
    is_full : whether everything is to be made: a rebuild was asked for, settings have changed,
        or nothing has been made from these inputs yet
    damaged : paths of files or partitions that are to be rebuilt; empty: no repair
    """

    session: Session
    state: Snapshot
    also: Mapping[str, Snapshot]
    inputs: Mapping[str, Snapshot]
    consumed: Mapping[str, int]
    last: Provenance
    is_rebuild: bool
    is_full: bool
    damaged: frozenset[str]
    known_layout: Layout | None

    @property
    def store(self) -> Store:
        """The lake's storage."""
        return self.session.store

    @property
    def settings(self) -> Settings:
        """The settings."""
        return self.session.settings

    @property
    def now(self) -> datetime:
        """The moment of the job."""
        return self.session.now

    @property
    def layout(self) -> Layout:
        """Which files hold the readings; of a derivation that is made from them."""
        if self.known_layout is None:
            raise ValueError(f"table {self.state.table.name} is not made from readings")
        return self.known_layout

    def since(self, table: Table) -> Iterator[Entry]:
        """The commits of an input that the derived table has not consumed."""
        until = self.inputs[table.name].version
        return entries(self.store, table, after=self.consumed[table.name], until=until)
