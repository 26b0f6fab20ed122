"""A commit happens once, whole, and on what it was planned on."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake.exceptions import CommitFailedError, DeltaError
from support import work

from meterlake.delta import commit as commits
from meterlake.delta.commit import Change, commit, snapshot, snapshots
from meterlake.delta.journal import attached_since
from meterlake.delta.store import Store
from meterlake.delta.table import DataFile, Snapshot, consumed_version, scan, table_at, write_file
from meterlake.engine.local import LocalEngine
from meterlake.errors import Conflict
from meterlake.ingest import intake
from meterlake.integrate import derivations
from meterlake.pipeline.derivation import Session
from meterlake.schema import (
    CONSUMPTION_DAILY,
    CONSUMPTION_MONTHLY,
    CONSUMPTION_WEEKLY,
    DELIVERIES,
    LATE_ARRIVALS,
    POLARS_TYPES,
    QUARANTINE,
    READINGS,
    SERVING_READINGS,
    STAGING,
    TABLES,
    Table,
)

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)


def a_file(store: Store, name: str) -> DataFile:
    frame = pl.DataFrame(
        {c.name: [None] for c in QUARANTINE.file_columns},
        schema={c.name: POLARS_TYPES[c.type] for c in QUARANTINE.file_columns},
    ).with_columns(pl.lit(name).alias("raw"))
    return write_file(store, QUARANTINE, frame, partition={"ingest_date": "2024-06-01"}, name=name)


def raws(store: Store) -> list[str]:
    rows = scan(store, QUARANTINE, snapshot(store, QUARANTINE).files).collect()
    return sorted(rows["raw"].to_list())


def test_a_file_is_not_there_before_its_commit(store: Store) -> None:
    a_file(store, "orphan")
    assert raws(store) == []


def test_what_is_removed_and_what_replaces_it_change_places_in_one_step(store: Store) -> None:
    commit(store, QUARANTINE, Change({"k": 1}, add=[a_file(store, "old")]), now=NOW)
    before = snapshot(store, QUARANTINE)
    commit(
        store,
        QUARANTINE,
        Change(
            {"k": 2}, add=[a_file(store, "new")], remove=before.files, read_version=before.version
        ),
        now=NOW,
    )
    assert raws(store) == ["new"]
    assert snapshot(store, QUARANTINE).version == before.version + 1
    assert consumed_version(store, QUARANTINE, "k") == 2
    # Whoever reads the earlier version still finds all of it.
    assert scan(store, QUARANTINE, before.files).collect()["raw"].to_list() == ["old"]


def test_a_change_planned_on_an_older_version_is_refused_whole(store: Store) -> None:
    commit(store, QUARANTINE, Change({"k": 1}, add=[a_file(store, "a")]), now=NOW)
    planned = snapshot(store, QUARANTINE)
    commit(store, QUARANTINE, Change({"other": 1}, add=[a_file(store, "b")]), now=NOW)
    with pytest.raises(Conflict, match="another writer"):
        commit(
            store,
            QUARANTINE,
            Change(
                {"k": 2},
                add=[a_file(store, "c")],
                remove=planned.files,
                read_version=planned.version,
            ),
            now=NOW,
        )
    assert raws(store) == ["a", "b"]
    assert consumed_version(store, QUARANTINE, "k") == 1


def test_a_key_is_used_once(store: Store) -> None:
    commit(store, QUARANTINE, Change({"k": 1}, add=[a_file(store, "a")]), now=NOW)
    with pytest.raises(Conflict):
        commit(store, QUARANTINE, Change({"k": 1}, add=[a_file(store, "b")]), now=NOW)
    assert raws(store) == ["a"]


def test_appends_with_different_keys_do_not_disturb_each_other(store: Store) -> None:
    for name in "abc":
        commit(store, QUARANTINE, Change({name: 0}, add=[a_file(store, name)]), now=NOW)
    assert raws(store) == ["a", "b", "c"]


OF_READINGS = (
    STAGING, QUARANTINE, DELIVERIES, READINGS, LATE_ARRIVALS, SERVING_READINGS,
    CONSUMPTION_DAILY, CONSUMPTION_WEEKLY, CONSUMPTION_MONTHLY,
)  # fmt: skip


def test_tables_that_are_read_while_jobs_run_are_of_one_state_of_the_lake(
    store: Store, deliver: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def take(name: str, minute: int) -> None:
        row = f"2024-01-01 00:{minute}:00,2024-01-01 01:00:00,m1,readings,,,,,1,"
        work.ingest(store.url, [str(deliver(name, row, "damaged"))], NOW)
        work.integrate(store.url, NOW)

    take("before.csv", 15)
    real, read = table_at, list[str]()

    def read_and_overtaken(store: Store, table: Table, version: int | None = None) -> Snapshot:
        state = real(store, table, version)
        read.append(table.name)
        monkeypatch.setattr(commits, "table_at", real)
        take(f"after {table.name}.csv", 30 + len(read))
        monkeypatch.setattr(commits, "table_at", read_and_overtaken)
        return state

    monkeypatch.setattr(commits, "table_at", read_and_overtaken)
    states = snapshots(store, OF_READINGS)
    monkeypatch.setattr(commits, "table_at", real)
    # What is derived is not ahead of its source, and a file's damaged rows come with the others.
    derived = ["consumption_monthly", "consumption_weekly", "consumption_daily"]
    assert read == [*derived, "serving_readings", "readings", "staging"]
    assert (states["readings"].rows, states["staging"].rows) == (5, 6)
    assert states["quarantine"].rows == states["staging"].rows
    assert snapshots(store, TABLES.values())["quarantine"].rows == 7


@pytest.mark.parametrize("error", [CommitFailedError("lost"), DeltaError("lost"), OSError("lost")])
def test_a_commit_whose_answer_is_lost_is_known_to_have_happened(
    store: Store, deliver: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    real: Any = commits._write
    written = []

    def lost(*args: Any) -> None:
        real(*args)
        written.append(args)
        raise error

    monkeypatch.setattr(commits, "_write", lost)
    row = "2024-01-01 00:00:00,2024-01-01 01:00:00,m1,readings,,,,,1,"
    paths = [str(deliver("a.csv", row, "damaged"))]
    done = intake.ingest(Session(store, LocalEngine(1), work.CONF, NOW), paths)
    assert (done.files, done.rows, done.already_ingested, done.failures) == (1, 2, 0, [])
    result = derivations.integrate(Session(store, LocalEngine(1), work.CONF, NOW))
    assert result.added == 1
    assert len(written) == 4  # staging, quarantine, deliveries, readings


def test_what_another_process_settles_meanwhile_is_settled_once(
    store: Store, deliver: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(intake, "settle", lambda *args, **options: {})
        paths = [str(deliver(f"{name}.csv", f"damaged {name}")) for name in "ab"]
        work.ingest(store.url, paths, NOW)
    real: Any = commits.commit

    def overtaken(store: Store, table: Table, change: Change, *, now: datetime) -> Any:
        monkeypatch.setattr(commits, "commit", real)
        first = attached_since(store, STAGING, QUARANTINE, after=-1, until=1)
        (key,) = change.keys
        real(store, table, Change({key: 1}, add=first, read_version=-1), now=NOW)
        return real(store, table, change, now=now)

    monkeypatch.setattr(commits, "commit", overtaken)
    settled = commits.settle(store, STAGING, now=NOW)[QUARANTINE.name]
    assert [f.rows for f in settled] == [1]
    assert raws(store) == ["damaged a", "damaged b"]
    assert [f.rows for f in table_at(store, QUARANTINE).files] == [1, 1]
