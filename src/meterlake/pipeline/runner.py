"""The runner of derivations: all that is the same for each of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic

from meterlake.delta.commit import Change, commit, persistently, settle, snapshots
from meterlake.delta.journal import Provenance, provenance
from meterlake.delta.table import DataFile, Snapshot, key_of
from meterlake.errors import Unavailable
from meterlake.pipeline.derivation import Derivation, M, Plan, Run, Session
from meterlake.readings.layout import layout_of
from meterlake.schema import READINGS, SERVING_READINGS
from meterlake.settings import Settings, settings_values

NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Outcome(Generic[M]):
    """What came of a derivation: its plan, what each unit made, and what was settled.

    `settled` are files that came into the logs of attached tables, see delta/commit.py.
    """

    plan: Plan[M]
    made: Sequence[M]
    settled: Mapping[str, tuple[DataFile, ...]]


def bring_up(
    session: Session,
    derivation: Derivation[M],
    *,
    rebuild: bool = False,
    damaged: frozenset[str] = NOTHING,
) -> Outcome[M]:
    """Bring a derived table up to the tables that it is made from, in one commit.

    Parameters
    ----------
    rebuild : make everything again
    damaged : paths of the table's files or partitions to be rebuilt, with the settings that
        they were made with

    Raises
    ------
    BadInput
        The settings are not those that the table was made with, and cannot be followed.
    Conflict
        Other writers kept coming first.
    """
    return persistently(lambda: _bring_up(open_run(session, derivation, rebuild, damaged)))


def open_run(
    session: Session,
    derivation: Derivation[M],
    rebuild: bool = False,
    damaged: frozenset[str] = NOTHING,
    states: Mapping[str, Snapshot] | None = None,
) -> tuple[Derivation[M], Run]:
    """A derivation, and the tables that it is planned on.

    Derived tables are read before their inputs, so that none is ahead of what it is made from.

    Parameters
    ----------
    states : all tables as they were, to look at and not to change; None: as they are
    """
    is_to_change = states is None
    table = derivation.table
    is_laid_out = READINGS in derivation.made_from
    layout = None
    if states is None:
        wanted = {table, *derivation.also, *derivation.made_from}
        in_layout = {READINGS, SERVING_READINGS} if is_laid_out else set()
        states = snapshots(session.store, wanted - in_layout)
        if is_laid_out:
            layout = session.live.now()
            serving = Snapshot(SERVING_READINGS, session.live.serving_version, ())
            states = {**states, READINGS.name: session.live.integrated, serving.table.name: serving}
    elif is_laid_out:
        layout = layout_of(session.store, states[SERVING_READINGS.name], states[READINGS.name])
    state = states[table.name]
    inputs = {t.name: states[t.name] for t in derivation.made_from}
    if layout is not None and table == SERVING_READINGS:
        consumed = {READINGS.name: layout.clustered}
    else:
        consumed = {name: state.consumed("", at) for name, at in inputs.items()}
    for name, version in consumed.items():
        if is_to_change and inputs[name].version < version:
            raise Unavailable(
                f"Table '{table.name}' needs {name} at version {version}, which it has consumed, "
                f"or later; found {inputs[name].version}. Something of {name} is gone: see "
                "meterlake check"
            )
    last = provenance(session.store, table, state.version)
    if damaged:
        session = replace(session, settings=_as_made(session.settings, last))
    wanted_settings = settings_values(session.settings, derivation.settings)
    has_changed = any(last.settings.get(n, v) != v for n, v in wanted_settings.items())
    is_new = min(consumed.values()) < 0
    also = {t.name: states[t.name] for t in derivation.also}
    is_full = rebuild or is_new or has_changed
    run = Run(session, state, also, inputs, consumed, last, rebuild, is_full, damaged, layout)
    if is_to_change and not rebuild and not damaged:
        derivation.guard(run)
    return derivation, run


def _bring_up(opened: tuple[Derivation[M], Run]) -> Outcome[M]:
    derivation, run = opened
    plan = derivation.plan(run)
    if not plan.units and not plan.replaces:
        return Outcome(plan, (), {})
    made = []
    run.session.progress(derivation.name, len(plan.units), 0)
    for result in run.session.engine.map(plan.work, plan.units):
        made.append(result)
        run.session.progress(derivation.name, len(plan.units), len(made))
    finish = plan.finish(made)
    table = derivation.table
    add = [*(f for m in made for f in m.files), *finish.add.get(table.name, ())]
    remove = [*plan.replaces, *finish.remove.get(table.name, ())]
    attached = {t.name: finish.add.get(t.name, ()) for t in table.attached}
    settled = _commit(derivation, run, plan, run.state, (add, remove), attached)
    for other in derivation.also:
        if other not in table.attached:
            files = finish.add.get(other.name, ()), finish.remove.get(other.name, ())
            _commit(derivation, run, plan, run.also[other.name], files, {})
    return Outcome(plan, made, settled)


def _commit(
    derivation: Derivation[M],
    run: Run,
    plan: Plan[M],
    state: Snapshot,
    files: tuple[Sequence[DataFile], Sequence[DataFile]],
    attached: Mapping[str, Sequence[DataFile]],
) -> Mapping[str, tuple[DataFile, ...]]:
    """Put files in the place of others, and record what they were made from."""
    add, remove = files
    same = {f.path for f in add} & {f.path for f in remove}
    values = settings_values(run.settings, derivation.settings)
    versions = {n: s.version if plan.consumes else run.consumed[n] for n, s in run.inputs.items()}
    change = Change(
        {key_of(plan.scope, at): versions[name] for name, at in run.inputs.items()},
        add=[f for f in add if f.path not in same],
        remove=[f for f in remove if f.path not in same],
        attached=attached,
        read_version=state.version,
        provenance=Provenance(derivation.name, {**values, **plan.facts}, plan.changed),
        new_data=not derivation.rearranges,
        replaces_all=len(remove) == len(state.files),
    )
    commit(run.store, state.table, change, now=run.now)
    # Also where nothing came to them: their logs are to be brought up by work, not when idle.
    return settle(run.store, state.table, now=run.now)


def _as_made(settings: Settings, last: Provenance) -> Settings:
    """The settings, with those that a table was made with."""
    for name, value in last.settings.items():
        section, _, field = name.rpartition(".")
        if section and section in type(settings).model_fields:
            within = getattr(settings, section)
            checked = type(within).model_validate({**within.model_dump(), field: value})
            settings = settings.model_copy(update={section: checked})
        elif not section and name in type(settings).model_fields:
            settings = settings.model_copy(update={name: value})
    return settings
