"""Leases: one at a time, whichever is killed, slow or on another machine."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from meterlake.delta import commit as commits
from meterlake.delta.commit import Change, commit, snapshot
from meterlake.delta.lock import LASTS, WAITS, Claim, claimed, is_claimed, lease_of
from meterlake.delta.store import Store, open_store
from meterlake.delta.table import open_delta, recorded_under
from meterlake.errors import BadInput, Conflict, Unavailable
from meterlake.schema import WEATHER

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


@pytest.fixture
def lake(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "lake"))


def have(
    store: Store, name: str = "work", *, at: datetime = NOW, waits: list[float] | None = None
) -> AbstractContextManager[Claim]:
    """Have a claim of the table weather, of a clock that stands; `waits` gets what was waited."""
    waits = [] if waits is None else waits
    return claimed(store, name, tables=[WEATHER], clock=lambda: at, pause=waits.append)


def held(store: Store, name: str = "work") -> datetime | None:
    """Until when somebody has the lease; None: nobody has."""
    lease = lease_of(store, name)
    return None if lease is None else lease.until


def objects(store: Store) -> list[str]:
    return [found.path for found in store.list("locks")]


def test_a_claim_is_one_runs_until_it_is_given_back(lake: Store) -> None:
    waits: list[float] = []
    with have(lake) as mine, have(lake, "something else"):
        assert held(lake) == held(lake, "something else") == NOW + LASTS
        assert is_claimed(lake, "work", now=NOW)
        with pytest.raises(Unavailable) as said, have(lake, waits=waits):
            pass
        told = f"process {os.getpid()} on {socket.gethostname()} has it until 2024-06-01 12:15:00"
        assert "'work' is done by one process at a time" in str(said.value)
        assert told in str(said.value)
        mine.check()
    assert waits == list(WAITS)
    assert held(lake) is None
    assert not is_claimed(lake, "work", now=NOW)
    with have(lake):
        assert held(lake) == NOW + LASTS


def test_many_leases_cost_no_commit_and_one_file(store: Store) -> None:
    for _ in range(30):
        with claimed(store, "work", tables=[WEATHER]) as claim:
            claim.check()
    assert len(objects(store)) == 1
    assert objects(store) == [found.path for found in store.list("")]


def test_of_many_at_once_one_after_the_other_has_it(store: Store) -> None:
    at_work, most, lock = [0], [0], threading.Lock()

    def work(_: int) -> None:
        with claimed(store, "work", tables=[WEATHER]) as claim:
            with lock:
                at_work[0] += 1
                most[0] = max(most[0], at_work[0])
            time.sleep(0.2)
            claim.check()
            with lock:
                at_work[0] -= 1

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, range(6)))
    assert most == [1]
    assert held(store) is None


def test_a_claim_that_is_prolonged_lasts_and_one_that_is_not_runs_out(lake: Store) -> None:
    clock = [NOW]
    with claimed(lake, "work", tables=[WEATHER], clock=lambda: clock[0]) as slow:
        clock[0] += LASTS - SECOND
        slow.check()
        clock[0] += LASTS - SECOND
        with pytest.raises(Unavailable), have(lake, at=clock[0]):
            pass
        with have(lake, at=clock[0] + SECOND) as other:
            with pytest.raises(Unavailable, match=r"taken over .* Run the command again"):
                slow.check()
            other.check()
    assert held(lake) is None


def test_one_that_ran_out_is_prolonged_where_nobody_took_it(lake: Store) -> None:
    clock = [NOW]
    with claimed(lake, "work", tables=[WEATHER], clock=lambda: clock[0]) as slow:
        clock[0] += 2 * LASTS
        slow.check()
        assert held(lake) == NOW + 3 * LASTS


KILLED = """
import os, sys
from meterlake.delta.lock import claimed
from meterlake.delta.store import open_store
from meterlake.schema import WEATHER
with claimed(open_store(sys.argv[1]), "work", tables=[WEATHER]):
    os.kill(os.getpid(), 9)
"""


def test_a_process_of_this_machine_that_was_killed_blocks_nobody(lake: Store) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, lake.url], check=False)
    assert done.returncode == -9
    assert held(lake) is not None
    assert not is_claimed(lake, "work", now=datetime.now(UTC))
    with claimed(lake, "work", tables=[WEATHER], pause=lambda seconds: pytest.fail("it waits")):
        pass
    assert held(lake) is None


def test_one_of_another_machine_blocks_until_it_has_run_out(
    lake: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, lake.url], check=False)
    assert done.returncode == -9
    until = held(lake)
    assert until is not None
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    with pytest.raises(Unavailable, match="one process at a time"), have(lake, at=until - SECOND):
        pass
    with have(lake, at=until):
        pass


@pytest.mark.parametrize("is_append", [True, False], ids=["an append", "a change"])
def test_what_was_planned_before_a_claim_was_taken_over_comes_too_late(
    store: Store, is_append: bool
) -> None:
    """The first one pauses right before its commit; the other one does not change the table."""

    def planned(claim: Claim) -> Iterator[None]:
        version = None if is_append else snapshot(store, WEATHER).version
        claim.check()
        yield
        change = Change({"x": 1}, marks=claim.marks, read_version=version)
        commit(store, WEATHER, change, now=NOW)

    with pytest.raises(Conflict), have(store) as slow:
        change = planned(slow)
        next(change)
        with have(store, at=NOW + LASTS):
            pass
        next(change)


def test_a_commit_that_is_being_written_when_its_claim_is_taken_over_comes_too_late(
    lake: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = commits._write

    def slowly(*arguments: Any) -> None:
        monkeypatch.setattr(commits, "_write", write)
        with have(lake, at=NOW + LASTS):
            pass
        write(*arguments)

    with pytest.raises(Conflict), have(lake) as slow:
        commit(lake, WEATHER, Change({"x": 1}, marks=slow.marks), now=NOW)
        monkeypatch.setattr(commits, "_write", slowly)
        commit(lake, WEATHER, Change({"y": 1}, marks=slow.marks), now=NOW)
    delta = open_delta(lake, WEATHER)
    assert (recorded_under(delta, "x"), recorded_under(delta, "y")) == (1, -1)


def test_who_sleeps_between_looking_and_taking_has_nothing(
    lake: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others take it and give it back meanwhile, so that its number is of long ago."""
    create = Store.create

    def slowly(store: Store, path: str, data: bytes) -> None:
        monkeypatch.setattr(Store, "create", create)
        for _ in range(2):
            with have(lake):
                pass
        first.append(have(lake))
        first[0].__enter__()
        create(store, path, data)

    first: list[AbstractContextManager[Claim]] = []
    monkeypatch.setattr(Store, "create", slowly)
    with pytest.raises(Unavailable, match="one process at a time"), have(lake):
        pass
    first[0].__exit__(None, None, None)
    with have(lake):
        assert len(objects(lake)) == 1


def test_one_that_was_refused_leaves_nothing(lake: Store) -> None:
    with pytest.raises(BadInput), have(lake):
        raise BadInput("found something else")
    assert held(lake) is None


def test_what_failed_is_left_for_the_next_one_to_take_over(lake: Store) -> None:
    with pytest.raises(ZeroDivisionError), have(lake):
        1 / 0  # noqa: B018
    assert held(lake) == NOW
    before = snapshot(lake, WEATHER).version
    with have(lake):
        assert snapshot(lake, WEATHER).version > before  # a fence
    assert held(lake) is None
    before = snapshot(lake, WEATHER).version
    with have(lake):
        assert snapshot(lake, WEATHER).version == before


def test_one_that_cannot_be_given_back_does_no_harm(
    lake: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*args: Any, **options: Any) -> Any:
        raise Unavailable("the storage is gone")

    with monkeypatch.context() as patch, have(lake):
        patch.setattr(Store, "put", refused)
    assert held(lake) == NOW + LASTS
    waits: list[float] = []
    with have(lake, waits=waits):
        pass
    assert waits == []
    assert held(lake) is None
