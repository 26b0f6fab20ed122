"""A lake brought from an older format to ours, in steps.

Doing a step twice changes nothing, so an upgrade that was stopped anywhere is run again. The lake
has its old format until the last step is done; files that are no longer needed stay until a vacuum.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from meterlake.delta.commit import persistently
from meterlake.delta.lake_format import FORMAT, format_of, switch_format, upgrading
from meterlake.delta.store import Store
from meterlake.engine import Engine
from meterlake.engine.local import LocalEngine
from meterlake.engine.progress import Progress, silent
from meterlake.errors import BadInput
from meterlake.pipeline.derivation import Session
from meterlake.pipeline.first_format import (
    name_deliveries,
    record_consumed,
    record_deliveries,
    settle_first_format,
)
from meterlake.pipeline.second_format import derive_again, read_again
from meterlake.settings import Settings
from meterlake.topology.upgrade import merge_kinds


@dataclass(frozen=True)
class UpgradeStep:
    """One step, and the format that it is a part of."""

    format: int
    run: Callable[[Session], None]


def _merge_kinds(session: Session) -> None:
    merge_kinds(session.store, now=session.now)


STEPS = (
    UpgradeStep(2, settle_first_format),
    UpgradeStep(2, record_deliveries),
    UpgradeStep(2, name_deliveries),
    UpgradeStep(2, _merge_kinds),
    UpgradeStep(2, record_consumed),
    UpgradeStep(3, read_again),
    UpgradeStep(3, derive_again),
)


@dataclass(frozen=True)
class Upgraded:
    """The lake's format before and now, and how many steps lay between."""

    was: int
    format: int
    steps: int


def upgrade(
    store: Store,
    *,
    now: datetime,
    settings: Settings | None = None,
    engine: Engine | None = None,
    progress: Progress = silent,
) -> Upgraded:
    """Give a lake the format of this version.

    Raises
    ------
    BadInput
        It has a newer one.
    Conflict
        Other writers kept coming first.
    Unavailable
        The storage refuses or fails. Run it again: it continues where it stopped.
    """
    was = format_of(store)
    if was > FORMAT:
        raise BadInput(
            f"An upgrade needs a lake of format {FORMAT} or older; '{store.url}' has format {was}. "
            "Install a newer meterlake"
        )
    steps = [step for step in STEPS if step.format > was]
    used = Settings() if settings is None else settings
    session = Session(store, engine or LocalEngine(used.workers), used, now, progress)
    with upgrading(store):
        for done, step in enumerate(steps, start=1):
            persistently(partial(step.run, session))
            progress("upgrade", len(steps), done)
    if steps:
        switch_format(store)
    return Upgraded(was, FORMAT, len(steps))
