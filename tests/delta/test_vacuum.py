"""Space comes back, and nothing that a version within the retention needs."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support import work

from meterlake.delta.commit import snapshot, snapshots
from meterlake.delta.store import Store
from meterlake.delta.table import fetched, log_files, scan, table_at
from meterlake.delta.vacuum import Vacuumed
from meterlake.engine.local import LocalEngine
from meterlake.errors import BadInput
from meterlake.ingest import intake
from meterlake.pipeline import upkeep
from meterlake.pipeline.derivation import Session
from meterlake.schema import QUARANTINE, READINGS, SERVING_READINGS, STAGING, TABLES, Table

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
Deliver = Callable[..., Path]


def vacuum(store: Store, *, now: datetime, **options: Any) -> Vacuumed:
    return upkeep.vacuum(Session(store, LocalEngine(2), work.CONF, now), **options)


def row(arrival: str, kw: float) -> str:
    return f"2024-01-01 00:00:00,2024-01-01 {arrival}:00,m1,readings,,,,,{kw},"


def corrected(store: Store, deliver: Deliver, times: int) -> None:
    """A reading that is corrected again and again: each time a file is superseded."""
    for number in range(times):
        path = deliver(f"{number}.csv", row(f"00:{number:02d}", number), "damaged")
        work.ingest(store.url, [str(path)], NOW)
        work.integrate(store.url, NOW)


def parquet(store: Store) -> set[str]:
    return {f.path for t in TABLES.values() for f in store.list(t.path) if ".parquet" in f.path}


def live(store: Store) -> set[str]:
    states = snapshots(store, TABLES.values()).values()
    return {f"{s.table.path}/{f.path}" for s in states for f in s.files}


def later(days: float = 30) -> datetime:
    return datetime.now(UTC) + days * DAY


def test_superseded_files_and_orphans_go_and_nothing_else(store: Store, deliver: Deliver) -> None:
    corrected(store, deliver, 3)
    store.put(f"{READINGS.path}/reading_type=kw/orphan.parquet", b"never committed")
    store.put("inbound/some file", b"not ours to remove")
    before, held = parquet(store), work.contents(store)
    assert before - live(store) != set()
    told = vacuum(store, retain=7 * DAY, now=later(), dry_run=True)
    assert parquet(store) == before
    assert vacuum(store, retain=7 * DAY, now=later()) == told
    assert (told.superseded, told.orphans, told.leftovers) == (2, 1, 0)
    assert told.bytes > 0
    assert parquet(store) == live(store)
    assert work.contents(store) == held
    assert store.read("inbound/some file") == b"not ours to remove"
    assert vacuum(store, retain=7 * DAY, now=later()) == Vacuumed(0, 0, 0, 0, 0)


def test_what_was_written_or_needed_within_the_retention_stays(
    store: Store, deliver: Deliver
) -> None:
    corrected(store, deliver, 3)
    store.put(f"{READINGS.path}/reading_type=kw/orphan.parquet", b"of a job that runs")
    before = parquet(store)
    assert vacuum(store, retain=7 * DAY, now=later(6.9)) == Vacuumed(0, 0, 0, 0, 0)
    assert parquet(store) == before


def test_a_version_that_was_current_at_the_retentions_start_can_still_be_read(
    store: Store, deliver: Deliver
) -> None:
    corrected(store, deliver, 3)
    time.sleep(1.1)  # an object store's clock shows seconds
    then, old = datetime.now(UTC), snapshot(store, READINGS)
    time.sleep(1.1)
    corrected_again = deliver("last.csv", row("01:00", 99))
    work.ingest(store.url, [str(corrected_again)], NOW)
    work.integrate(store.url, NOW)
    done = vacuum(store, retain=DAY, now=then + DAY)
    # Versions before `then` are given up; the one that was current at it is not.
    assert done.superseded == 2
    assert fetched(scan(store, READINGS, old.files))["reading_value"].to_list() == [2.0]
    assert vacuum(store, retain=DAY, now=then + 2 * DAY).superseded == 1


def test_files_that_a_commit_brings_to_the_attached_table_are_needed_before_it_has_them(
    store: Store, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = deliver("a.csv", row("00:05", 1), "damaged")
    with monkeypatch.context() as patch:
        patch.setattr(intake, "settle", lambda *args, **options: ())
        work.ingest(store.url, [str(path)], NOW)
    assert table_at(store, QUARANTINE).version == -1
    vacuum(store, retain=DAY, now=later())
    assert fetched(scan(store, QUARANTINE, snapshot(store, QUARANTINE).files)).height == 1


@pytest.mark.parametrize("store", ["file"], indirect=True)  # an object store has none
def test_what_a_killed_writer_left_goes_when_it_is_old(store: Store, deliver: Deliver) -> None:
    corrected(store, deliver, 1)
    for number, path in enumerate(
        (f"{READINGS.path}/reading_type=kw/part-1.parquet#1", "inbound/aa/b.csv.zst#12")
    ):
        left = Path(store.url, path)
        left.parent.mkdir(parents=True, exist_ok=True)
        left.write_bytes(b"half")
        if number == 0:
            os.utime(left, (0, 0))
    assert vacuum(store, retain=DAY, now=datetime.now(UTC)).leftovers == 1
    assert vacuum(store, retain=DAY, now=later()).leftovers == 1


def expired(store: Store, table: Table) -> list[int]:
    """The versions that a table's log no longer has a commit of."""
    return sorted(set(range(table_at(store, table).version)) - set(log_files(store, table).commits))


def in_logs(store: Store) -> int:
    """Number of files of all tables' logs."""
    return sum(len(store.list(f"{table.path}/_delta_log")) for table in TABLES.values())


@pytest.mark.proof
def test_commits_that_no_reader_and_no_derived_table_needs_go(
    store: Store, deliver: Deliver
) -> None:
    corrected(store, deliver, 38)  # the first checkpoints are those of version 19
    work.ingest(store.url, [str(deliver("more.csv", row("02:00", 7)))], NOW)
    held, version = work.contents(store), table_at(store, STAGING).version
    assert vacuum(store, retain=DAY, now=later(6)).log == 0  # a log keeps a week at least
    before = in_logs(store)
    told = vacuum(store, retain=7 * DAY, now=later(), dry_run=True)
    assert vacuum(store, retain=7 * DAY, now=later()) == told
    assert told.log == before - in_logs(store)
    assert expired(store, STAGING) == expired(store, READINGS) == list(range(19))
    assert (work.contents(store), table_at(store, STAGING).version) == (held, version)
    with pytest.raises(BadInput, match="needs a version from 19 on"):
        table_at(store, READINGS, 18)
    assert table_at(store, READINGS, 19).rows == 1
    work.integrate(store.url, NOW)
    work.cluster(store.url, NOW)  # for the first time: of all that there is
    assert fetched(scan(store, READINGS, snapshot(store, READINGS).files)).height == 1
    assert upkeep.check(Session(store, LocalEngine(2), work.CONF, NOW)).findings == ()


@pytest.mark.proof
def test_commits_that_are_not_consumed_yet_stay(store: Store, deliver: Deliver) -> None:
    corrected(store, deliver, 2)
    work.cluster(store.url, NOW)
    for number in range(45):
        work.ingest(store.url, [str(deliver(f"more {number}.csv", row("02:00", number)))], NOW)
    work.shorten_logs(store)
    assert table_at(store, SERVING_READINGS).version > 0
    assert expired(store, STAGING) == [0, 1]  # the third is the last that was integrated
    work.integrate(store.url, NOW)
    work.shorten_logs(store)
    consumed = snapshot(store, SERVING_READINGS).consumed("", snapshot(store, READINGS))
    assert expired(store, READINGS) == list(range(consumed))
    work.cluster(store.url, NOW)
    assert upkeep.check(Session(store, LocalEngine(2), work.CONF, NOW)).findings == ()


@pytest.mark.parametrize("store", ["file"], indirect=True)
def test_a_vacuum_that_is_killed_leaves_a_log_without_gaps(
    store: Store, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    corrected(store, deliver, 4)
    real, left = Store.delete, 0

    def delete(self: Store, path: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        real(self, path)

    for allowed in range(3, 40, 5):
        left = allowed
        monkeypatch.setattr(Store, "delete", delete)
        with suppress(KeyboardInterrupt):
            work.shorten_logs(store)
        monkeypatch.undo()
        assert upkeep.check(Session(store, LocalEngine(2), work.CONF, NOW)).findings == ()


def test_a_retention_that_could_take_a_running_jobs_files_is_refused(store: Store) -> None:
    with pytest.raises(BadInput, match="at least 1h"):
        vacuum(store, retain=timedelta(minutes=59), now=NOW)
    vacuum(store, retain=timedelta(0), now=NOW, nobody_else=True)
