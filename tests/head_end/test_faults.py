"""Faults on request: whom they strike, how often, and that the same seed strikes the same."""

import errno
import gzip
import hashlib
import threading
import uuid
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from head_end.conftest import START, Open, Room
from support.hes import wait

from meterlake.errors import BadInput, Unavailable
from meterlake.simulate.fleet import fleet_of
from meterlake.simulate.head_end import files
from meterlake.simulate.head_end.faults import Channel, Fault, Faults, read_faults
from meterlake.simulate.head_end.generate import reads_of
from meterlake.simulate.head_end.requests import RequestOutcome, RequestStatus

FAR = START + timedelta(days=30)


def lines_of(room: Room, file: dict[str, Any]) -> list[str]:
    data = room.path(file).read_bytes()
    assert (len(data), hashlib.sha256(data).hexdigest()) == (file["size"], file["sha256"])
    lines = gzip.decompress(data).decode().splitlines()[1:]
    assert len(lines) == file["record_count"]
    return lines


@pytest.fixture
def clean(open_room: Open) -> list[str]:
    room = open_room(folder="clean")
    room.read()
    return lines_of(room, room.ask(START))


def faulty(open_room: Open, *faults: str, folder: str = "hes") -> Room:
    room = open_room(*faults, folder=folder)
    room.read()
    return room


@pytest.mark.parametrize("percent", [0, 20, 100])
def test_rows_come_twice(open_room: Open, clean: list[str], percent: int) -> None:
    room = faulty(open_room, f"duplicate:{percent}")
    counts = Counter(lines_of(room, room.ask(START)))
    assert sorted(counts) == sorted(clean)
    twice = sum(count == 2 for count in counts.values())
    assert set(counts.values()) <= {1, 2}
    assert percent - 10 < 100 * twice / len(clean) < percent + 10


@pytest.mark.parametrize("percent", [0, 20, 100])
def test_rows_change_places(open_room: Open, clean: list[str], percent: int) -> None:
    room = faulty(open_room, f"out-of-order:{percent}")
    lines = lines_of(room, room.ask(START))
    assert sorted(lines) == sorted(clean)
    moved = sum(a != b for a, b in zip(lines, clean, strict=True))
    assert percent - 10 < 100 * moved / len(clean) < percent + 10


def test_the_same_seed_and_request_give_the_same_file_another_request_another(
    open_room: Open,
) -> None:
    kinds = ("duplicate:30", "out-of-order:30")
    rooms = [faulty(open_room, *kinds, folder=name) for name in ("a", "b")]
    one, two = ([room.ask(START) for _ in range(2)] for room in rooms)
    assert [file["sha256"] for file in one] == [file["sha256"] for file in two]
    assert one[0]["sha256"] != one[1]["sha256"]


def test_both_kinds_at_once_lose_no_row(open_room: Open, clean: list[str]) -> None:
    room = faulty(open_room, "duplicate:50", "out-of-order:100")
    assert set(lines_of(room, room.ask(START))) == set(clean)


def test_the_api_answers_500_and_at_another_attempt_does_not(open_room: Open) -> None:
    room = faulty(open_room, "error500:50")
    answers = [room.api.get("/") for _ in range(40)]
    counts = Counter(answer.status_code for answer in answers)
    assert set(counts) == {200, 500} and 10 < counts[500] < 30
    problem = next(answer for answer in answers if answer.status_code == 500)
    assert problem.headers["content-type"] == "application/problem+json"
    assert problem.json()["status"] == 500
    again = faulty(open_room, "error500:50", folder="again")
    assert [again.api.get("/").status_code for _ in answers] == [a.status_code for a in answers]


def test_a_request_that_was_answered_500_was_not_taken(open_room: Open) -> None:
    room = faulty(open_room, "error500:100")
    told = room.api.post("/readings-file", json={"start_date": "2024-03-01T00:00:00Z"})
    assert told.status_code == 500
    room.head_end.write_next()
    assert list(room.head_end.files.iterdir()) == []


def test_answers_are_held_up(open_room: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("meterlake.simulate.head_end.api.asyncio.sleep", sleep)
    room = faulty(open_room, "slow:100")
    assert room.api.get("/").status_code == 200
    assert waits == [3.0]


def test_a_share_is_met_and_strikes_each_channel_for_itself() -> None:
    one, two = (Faults({Fault.DROP: 30.0}, seed=5) for _ in range(2))
    struck = [one.strikes(Fault.DROP, Channel.SFTP) for _ in range(300)]
    assert 60 < sum(struck) < 120
    assert not any(one.strikes(Fault.SLOW, Channel.SFTP) for _ in range(10))
    for _ in range(7):
        two.strikes(Fault.DROP, Channel.API)
    assert [two.strikes(Fault.DROP, Channel.SFTP) for _ in range(300)] == struck


def test_a_fault_is_a_kind_and_a_share() -> None:
    assert read_faults(["slow:10", "out-of-order:2.5"]) == {Fault.SLOW: 10, Fault.OUT_OF_ORDER: 2.5}
    for wrong in (["slow"], ["slow:x"], ["slow:-1"], ["slow:nan"], ["fast:1"], ["drop:1"] * 2):
        with pytest.raises(BadInput, match="--fault needs KIND:PERCENT"):
            read_faults(wrong)


# --- faults that nobody asked for


def test_a_file_that_the_disk_refuses_fails_with_the_reason(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files._GzipFile, "_put", full)
        file = room.ask(START)
    assert file["status"] == "failed" and "No space left on device" in file["error"]
    assert file["sftp_location"] is None
    assert list((room.head_end.files.parent.parent / "partial").iterdir()) == []
    assert room.ask(START)["status"] == "completed"


def test_a_failure_that_cannot_be_noted_is_told_all_the_same_and_noted_later(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def refused(*_: object, **__: object) -> None:
        raise Unavailable("the store is full")

    asked = room.api.post("/readings-file", json={"start_date": "2024-03-01T00:00:00Z"}).json()
    with monkeypatch.context() as patch:
        patch.setattr(files._GzipFile, "_put", full)
        patch.setattr(room.head_end._requests, "finish", refused)
        with pytest.raises(Unavailable):
            room.head_end.write_next()
        told = room.status(asked["request_id"])
        assert told["status"] == "failed" and "No space left" in told["error"]
    room.head_end.write_next()
    assert room.status(asked["request_id"]) == told


def test_reads_that_the_disk_refuses_are_stored_later_without_a_gap(
    room: Room, open_room: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    until = room.head_end.complete_until

    def refused(*_: object) -> None:
        raise Unavailable("the store is full")

    with monkeypatch.context() as patch:
        patch.setattr(room.head_end._store, "advance", refused)
        with pytest.raises(Unavailable):
            room.pass_time(hours=3)
    assert room.head_end.complete_until == until
    room.pass_time(hours=1)
    never = open_room(folder="never", clock=room.clock)
    never.read()
    assert lines_of(room, room.ask(START)) == lines_of(never, never.ask(START))


def test_reads_and_how_far_they_go_are_stored_together_or_not_at_all(room: Room) -> None:
    store, state = room.head_end._store, room.head_end._state
    plan, last = room.head_end.plan, state.next_minute + 60
    reads = reads_of(plan, fleet_of(plan), first=state.next_minute, last=last)
    before = store.parts(START, FAR, step_minutes=15)
    with pytest.raises(Unavailable):  # no number that the store could hold
        store.advance(replace(state, next_minute=2**70), reads)
    assert store.parts(START, FAR, step_minutes=15) == before
    store.advance(replace(state, next_minute=last), reads)
    assert store.parts(START, FAR, step_minutes=15) != before


def test_a_file_under_way_at_a_stop_is_written_after_the_next_start(
    room: Room, open_room: Open, clean: list[str]
) -> None:
    room.head_end.stop()
    file = room.ask(START)
    assert file["status"] == "running"
    partial = room.head_end.files.parent.parent / "partial"
    name = f"{file['request_id']}.csv.gz"
    for folder in (room.head_end.files, partial):
        (folder / name).write_bytes(b"left by a kill")
    room.head_end.close()
    again = open_room()
    again.head_end.write_next()
    done = again.status(file["request_id"])
    assert done["status"] == "completed" and lines_of(again, done) == clean
    assert [path.name for path in again.head_end.files.iterdir()] == [name]
    assert list(partial.iterdir()) == []


def test_only_files_of_its_own_are_removed_at_a_start(room: Room, open_room: Open) -> None:
    done, old = (room.ask(START) for _ in range(2))
    room.head_end._requests.expire(room.clock.time + timedelta(days=99), timedelta(days=1))
    room.head_end._requests.finish(
        done["request_id"], RequestOutcome(RequestStatus.COMPLETED), now=room.clock.time
    )
    half = room.ask(START)
    room.head_end._requests.tell(half["request_id"], RequestStatus.RUNNING)
    outbox = room.head_end.files
    partial = outbox.parent.parent / "partial"
    (partial / f"{half['request_id']}.csv.gz").write_bytes(b"half")
    foreign = [
        "precious.csv", "half.csv.gz", f"{uuid.uuid4()}.csv.gz", f"{old['request_id']}.csv",
        "a folder/with a file",
    ]  # fmt: skip
    for folder in (outbox, partial):
        for name in foreign:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(b"precious")
    (partial / f"{done['request_id']}.csv.gz").mkdir()
    room.head_end.close()
    open_room()
    kept = {Path(name).parts[0] for name in foreign}
    name = f"{done['request_id']}.csv.gz"
    assert {path.name for path in outbox.iterdir()} == kept | {name}
    assert {path.name for path in partial.iterdir()} == kept | {name}  # a folder of that name
    assert (outbox / "a folder" / "with a file").read_bytes() == b"precious"


def test_a_store_that_gave_up_is_opened_again(
    room: Room, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("meterlake.simulate.head_end.system.PAUSE_SECONDS", 0.01)
    room.head_end._store.close()  # as after an error that DuckDB does not recover from
    assert room.api.get("/readings", params={"start_date": "2024-03-01T00:00Z"}).status_code == 503
    room.clock.time += timedelta(hours=1)
    reading = threading.Thread(target=room.head_end.read_meters, daemon=True)
    reading.start()
    wait(lambda: room.head_end.complete_until == room.clock.time)
    assert room.ask(START)["status"] == "completed"
    room.head_end.stop()
    reading.join()
    assert "storing reads failed and is tried again" in caplog.text
