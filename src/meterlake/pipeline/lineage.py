"""Lineage: what each derived table is made from, up to which version, and what is due."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from meterlake.delta.commit import snapshots
from meterlake.errors import BadInput
from meterlake.pipeline.derivation import Session
from meterlake.pipeline.registry import derivations, named_derivation
from meterlake.pipeline.runner import open_run
from meterlake.schema import known_tables


@dataclass(frozen=True)
class ConsumedInput:
    """A table that another is made from: the version consumed of it, and the version it has.

    -1: none.
    """

    table: str
    consumed: int
    version: int


@dataclass(frozen=True)
class Lineage:
    """What a derived table is made from.

    `state` is current, stale (units of work are due) or unavailable (`reason` says why nothing
    can be planned); `made_with` are the settings and facts that its rows depend on.
    """

    table: str
    version: int
    sources: tuple[ConsumedInput, ...]
    made_with: Mapping[str, Any]
    state: str
    due: int
    reason: str = ""


def lineage(session: Session, table: str | None = None) -> list[Lineage]:
    """The lineage of one derived table, or of all, each after those that it is made from.

    Planned on one state of the lake; nothing is worked out or changed.

    Raises
    ------
    BadInput
        No derivation makes that table.
    """
    states = snapshots(session.store, known_tables().values())
    wanted = derivations() if table is None else (named_derivation(table),)
    found = []
    for derivation in wanted:
        _, run = open_run(session, derivation, states=states)
        due, reason = 0, ""
        try:
            plan = derivation.plan(run)
            due = len(plan.units) or int(bool(plan.replaces))
        except BadInput as error:
            reason = str(error)
        sources = tuple(
            ConsumedInput(name, run.consumed[name], state.version)
            for name, state in run.inputs.items()
        )
        state = "unavailable" if reason else "stale" if due else "current"
        made_with = run.last.settings
        version = run.state.version
        found.append(Lineage(derivation.name, version, sources, made_with, state, due, reason))
    return found
