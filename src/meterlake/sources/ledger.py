"""The ledger: what the lake has of each source, and how the last runs went.

How far an integration is (its cursor) is a key of staging's log, moved by the commit that brings
the reads, so the two cannot disagree. The tables `taken_files` and `integrations` hold what may be
lost: a file that they do not know is fetched again, and found to be known by its content.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import polars as pl

from meterlake.delta.commit import Change, Fence, Mark, Step, commit, snapshot
from meterlake.delta.journal import Provenance
from meterlake.delta.lock import is_claimed
from meterlake.delta.store import Store
from meterlake.delta.table import consumed_version, fetched, scan
from meterlake.delta.upsert import drop_rows, replace_rows
from meterlake.schema import INTEGRATIONS, STAGING, TAKEN_FILES, polars_schema
from meterlake.settings import Settings
from meterlake.sources.port import Order, SourceFile, TakenFile, Version

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FORGET_AFTER = 1000  # files that have disappeared from the source, once they are the majority

_LOOKED_UP = ("path", "size", "modified_at", "entity_tag", "outcome", "taken_at")
_ORDER = ("request_id", "ordered_at", "asked_from", "asked_to")  # columns of an Order


@dataclass(frozen=True)
class RunState:
    """How the runs of a source went: when the next is due, and what was ordered for it."""

    tried_at: datetime
    succeeded_at: datetime | None = None
    next_eligible: datetime | None = None
    failures: int = 0
    last_error: str = ""
    order: Order | None = None


@dataclass(frozen=True)
class IntegrationStatus:
    """An integration at a glance. `state` is idle, running or failed."""

    name: str
    state: str
    cursor: datetime | None
    next_eligible: datetime | None
    failures: int
    last_error: str
    tried_at: datetime | None
    succeeded_at: datetime | None


class Ledger:
    """What the lake has of one source, by its name and the key of its claim and cursor.

    `marks` are of the claim under which the ledger is written; each of its commits records them.
    """

    def __init__(self, store: Store, name: str, key: str) -> None:
        self.store = store
        self._name = name
        self._key = key
        self.marks: Mapping[str, Fence] = {}
        self._version = -2
        self._files: Mapping[str, TakenFile] = {}

    def until(self) -> datetime | None:
        """Up to which arrival the lake has what the source brings; None: nothing yet."""
        return arrivals_until(self.store, self._key)

    def files(self) -> Mapping[str, TakenFile]:
        """Files that were dealt with, by path; the same object while nothing has changed."""
        state = snapshot(self.store, TAKEN_FILES)
        if state.version != self._version:
            mine = [f for f in state.files if f.partition["source"] == self._name]
            rows = fetched(scan(self.store, TAKEN_FILES, mine).select(_LOOKED_UP)).sort("taken_at")
            self._files = {
                row["path"]: TakenFile(
                    SourceFile(
                        row["path"], Version(row["size"], row["modified_at"], row["entity_tag"])
                    ),
                    row["outcome"],
                    row["taken_at"],
                )
                for row in rows.iter_rows(named=True)
            }
            self._version = state.version
        return self._files

    def step(self, until: datetime | None, to: datetime) -> dict[str, Mark]:
        """Return the move of the cursor, for the commit that brings the reads."""
        before = -1 if until is None else _micros(until)
        return {self._key: Step(before, _micros(to)), **self.marks}

    def move(self, step: Mapping[str, Mark], *, now: datetime) -> None:
        """Move the cursor alone, where there are no reads to bring."""
        change = Change({}, marks=step, provenance=Provenance("pull"))
        commit(self.store, STAGING, change, now=now)

    def record(self, files: Sequence[TakenFile], *, now: datetime) -> None:
        """Write down what became of files, in one commit."""
        rows = [
            {
                "source": self._name,
                "path": taken.file.path,
                "size": taken.file.version.size,
                "modified_at": taken.file.version.modified,
                "entity_tag": taken.file.version.tag,
                "source_sha256": taken.sha256,
                "outcome": taken.outcome,
                "message": taken.message[:2000],
                "taken_at": taken.at,
                "year": f"{taken.at:%Y}",
                "month": f"{taken.at:%m}",
            }
            for taken in files
        ]
        frame = pl.DataFrame(rows, schema=polars_schema(TAKEN_FILES))
        replace_rows(self.store, TAKEN_FILES, frame, job="watch", now=now, marks=self.marks)

    def forget(self, there: Iterable[str], *, now: datetime) -> None:
        """Let go of files that have disappeared from the source, once they are most and many.

        So the table does not grow forever. If one comes back, its content is known.
        """
        known = self.files()
        gone = set(known) - set(there)
        if len(gone) >= FORGET_AFTER and len(gone) > len(known) // 2:
            rows = pl.DataFrame({"source": self._name, "path": sorted(gone)})
            drop_rows(self.store, TAKEN_FILES, rows, job="watch", now=now, marks=self.marks)

    def state(self) -> RunState | None:
        """Read how the last run went; None: none was recorded."""
        return states(self.store).get(self._name)

    def record_state(self, state: RunState, *, now: datetime) -> None:
        """Write down how the last run went."""
        row = {"name": self._name, **vars(state)}
        order = row.pop("order")
        values = (None,) * len(_ORDER) if order is None else vars(order).values()
        row |= dict(zip(_ORDER, values, strict=True))
        frame = pl.DataFrame([row], schema=polars_schema(INTEGRATIONS))
        replace_rows(self.store, INTEGRATIONS, frame, job="pull", now=now, marks=self.marks)


def integration_key(name: str) -> str:
    """Return the name of an integration's claim, and of its cursor in staging's log."""
    return f"pull/{name}"


def arrivals_until(store: Store, key: str) -> datetime | None:
    """Up to which arrival the lake has what a source brings; None: nothing yet."""
    found = consumed_version(store, STAGING, key)
    return None if found < 0 else EPOCH + timedelta(microseconds=found)


def states(store: Store) -> dict[str, RunState]:
    """Read how the last run of each integration went, by name."""
    rows = fetched(scan(store, INTEGRATIONS, snapshot(store, INTEGRATIONS).files))
    found = {}
    for row in rows.iter_rows(named=True):
        order = [row.pop(name) for name in _ORDER]
        name = row.pop("name")
        found[name] = RunState(**row, order=None if order[0] is None else Order(*order))
    return found


def statuses(store: Store, settings: Settings, *, now: datetime) -> list[IntegrationStatus]:
    """Each integration of the settings, at a glance."""
    recorded = states(store)
    listed = []
    for name in settings.integration:
        state = recorded.get(name) or RunState(now)
        key = integration_key(name)
        word = "failed" if state.failures else "idle"
        listed.append(
            IntegrationStatus(
                name=name,
                state="running" if is_claimed(store, key, now=now) else word,
                cursor=arrivals_until(store, key),
                next_eligible=state.next_eligible,
                failures=state.failures,
                last_error=state.last_error,
                tried_at=state.tried_at if name in recorded else None,
                succeeded_at=state.succeeded_at,
            )
        )
    return listed


def _micros(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)
