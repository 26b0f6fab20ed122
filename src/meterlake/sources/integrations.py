"""Integrations: head-end systems that are pulled from, how far each is and how it goes.

How far one is (its cursor) is a key of staging's log, moved by the commit that brings the reads.
The table of integrations has what else there is to know; nothing of it is needed to go on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import polars as pl

from meterlake.delta.commit import snapshot
from meterlake.delta.lock import Claim, is_claimed
from meterlake.delta.store import Store
from meterlake.delta.table import consumed_version, fetched, scan
from meterlake.delta.upsert import replace_rows
from meterlake.errors import BadInput
from meterlake.schema import INTEGRATIONS, STAGING, polars_schema
from meterlake.settings import Settings
from meterlake.source_settings import IntegrationSettings

CURSOR = "pull/"  # key of staging's log: this and the integration's name; microseconds since 1970
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Status:
    """An integration at a glance. `state` is idle, running or failed."""

    name: str
    state: str
    cursor: datetime | None
    next_eligible: datetime | None
    failures: int
    last_error: str
    tried_at: datetime | None
    succeeded_at: datetime | None


@dataclass(frozen=True)
class Row:
    """An integration's row of the table of integrations."""

    name: str
    tried_at: datetime
    succeeded_at: datetime | None = None
    next_eligible: datetime | None = None
    failures: int = 0
    last_error: str = ""
    request_id: str | None = None
    ordered_at: datetime | None = None
    asked_from: datetime | None = None
    asked_to: datetime | None = None


def pause_of(store: Store, name: str, *, now: datetime) -> float:
    """Seconds until an integration may be pulled from again; 0: it may."""
    row = rows_of(store).get(name)
    if row is None or row.next_eligible is None or row.tried_at > now:  # the clock was set back
        return 0.0
    return max(0.0, (row.next_eligible - now).total_seconds())


def has_failed(store: Store, name: str) -> bool:
    """Whether the last pull failed."""
    row = rows_of(store).get(name)
    return row is not None and row.failures > 0


def statuses(store: Store, settings: Settings, *, now: datetime) -> list[Status]:
    """Each integration of the settings, at a glance."""
    rows = rows_of(store)
    listed = []
    for name in settings.integration:
        row = rows.get(name)
        failures = 0 if row is None else row.failures
        state = "failed" if failures else "idle"
        if is_claimed(store, claim_of(name), now=now):
            state = "running"
        listed.append(
            Status(
                name=name,
                state=state,
                cursor=cursor_of(store, name),
                next_eligible=None if row is None else row.next_eligible,
                failures=failures,
                last_error="" if row is None else row.last_error,
                tried_at=None if row is None else row.tried_at,
                succeeded_at=None if row is None else row.succeeded_at,
            )
        )
    return listed


def cursor_of(store: Store, name: str) -> datetime | None:
    """Up to which arrival the lake has what an integration brings; None: nothing yet."""
    found = consumed_version(store, STAGING, CURSOR + name)
    return None if found < 0 else EPOCH + timedelta(microseconds=found)


def named_integration(settings: Settings, name: str) -> IntegrationSettings:
    """An integration of the settings. Raises BadInput."""
    if name not in settings.integration:
        known = ", ".join(settings.integration) or "none"
        raise BadInput(
            f"There is no integration '{name}' (known: {known}). Name it in meterlake.toml, in a "
            f"section [integration.{name}] with url, sftp, user, a password_env or password_file, "
            "and host_key"
        )
    return settings.integration[name]


def rows_of(store: Store) -> Mapping[str, Row]:
    """Each integration's row, by name."""
    rows = fetched(scan(store, INTEGRATIONS, snapshot(store, INTEGRATIONS).files))
    return {row["name"]: Row(**row) for row in rows.iter_rows(named=True)}


def claim_of(name: str) -> str:
    """The name of the claim of who pulls from an integration."""
    return f"pull/{name}"


def write_row(claim: Claim, row: Row, *, now: datetime) -> None:
    """Write an integration's row down, while the integration is ours."""
    claim.check()
    rows = pl.DataFrame([vars(row)], schema=polars_schema(INTEGRATIONS))
    replace_rows(claim.store, INTEGRATIONS, rows, job="pull", now=now, marks=claim.marks)
