"""The API, row by row of its contract, and what the windows hold."""

import csv
import gzip
import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
import schemathesis
from head_end.conftest import LATE, START, STEP, Hand, Open, Room
from schemathesis.engine import events, from_schema

from meterlake import __version__
from meterlake.errors import BadInput
from meterlake.simulate.fleet import device_id
from meterlake.simulate.head_end.options import Wanted, plan_of

HEADER = "time,arrival_time,device_id,measure_name,load,crrnt,pf,kva,kw,vltg"
HOUR = timedelta(hours=1)


def moment(text: str) -> datetime:
    assert text.endswith("Z"), text
    return datetime.fromisoformat(text)


def z(time: datetime) -> str:
    return time.isoformat().replace("+00:00", "Z")


def rows_of(room: Room, file: dict[str, Any]) -> list[dict[str, str]]:
    data = room.path(file).read_bytes()
    assert hashlib.sha256(data).hexdigest() == file["sha256"]
    assert len(data) == file["size"]
    text = gzip.decompress(data).decode()
    assert text.startswith(HEADER + "\n")
    rows = list(csv.DictReader(text.splitlines()))
    assert len(rows) == file["record_count"]
    return rows


def pages(room: Room, size: int, **window: str) -> Iterator[dict[str, Any]]:
    offset, total = 0, 1
    while offset < total:
        asked: dict[str, str | int] = {**window, "offset": offset, "page_size": size}
        answer = room.api.get("/readings", params=asked)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        assert (page["offset"], page["page_size"]) == (offset, size)
        total = page["total"]
        assert len(page["readings"]) == min(size, total - offset)
        yield from page["readings"]
        offset += size


# --- about


def test_it_says_who_it_is_and_how_far_it_has_read(open_room: Open) -> None:
    room = open_room()
    told = room.api.get("/").json()
    assert told == {
        "name": "meterlake hes",
        "version": __version__,
        "devices": 60,
        "interval_minutes": 15,
        "now": z(room.clock.time),
        "complete_until": z(START),
        "oldest": None,
    }
    room.read()
    told = room.api.get("/").json()
    assert told["complete_until"] == told["now"] == z(room.clock.time)
    assert START < moment(told["oldest"]) < START + STEP


# --- files


def test_a_file_is_asked_for_written_and_holds_its_window(room: Room) -> None:
    window = {"start_date": z(START + HOUR), "end_date": z(START + 5 * HOUR)}
    answer = room.api.post("/readings-file", json=window)
    assert answer.status_code == 202
    queued = answer.json()
    assert set(queued) == {"request_id", "status", "start_date", "end_date"}
    assert queued == {**queued, "status": "queued", **window}
    unknown = dict.fromkeys(("sftp_location", "record_count", "size", "sha256", "error"))
    assert room.status(queued["request_id"]) == {**queued, **unknown}
    room.head_end.write_next()
    file = room.status(queued["request_id"])
    location = f"/outbox/{queued['request_id']}.csv.gz"
    assert file == {
        **file, **window, "status": "completed", "sftp_location": location, "error": None,
    }  # fmt: skip
    rows = rows_of(room, file)
    arrivals = [moment(row["arrival_time"]) for row in rows]
    assert arrivals == sorted(arrivals)
    assert arrivals[0] >= START + HOUR and arrivals[-1] < START + 5 * HOUR
    assert {row["measure_name"] for row in rows} == {"readings"}
    assert {row["device_id"] for row in rows} == {device_id(n) for n in range(60)}


def test_a_window_ends_where_the_reads_are_complete(room: Room) -> None:
    for end in (None, room.clock.time + HOUR):
        file = room.ask(START, end)
        assert file["end_date"] == z(room.clock.time)
    assert file["status"] == "completed"


@pytest.mark.parametrize("back", [timedelta(0), HOUR])
def test_a_window_after_what_is_complete_is_skipped(room: Room, back: timedelta) -> None:
    start = room.clock.time + back
    for end in (None, start, start + HOUR):
        file = room.ask(start, end)
        assert (file["status"], file["start_date"], file["end_date"]) == (
            "skipped", z(start), z(start),
        )  # fmt: skip
        assert file["sftp_location"] is None and file["record_count"] is None


def test_a_window_before_the_first_read_is_skipped(room: Room) -> None:
    file = room.ask(START - HOUR, START)
    assert (file["status"], file["end_date"]) == ("skipped", z(START))
    assert list(room.head_end.files.iterdir()) == []


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"start_date": "2024-03-02T00:00:00Z", "end_date": "2024-03-01T00:00Z"}, 400, "not after"),
        ({"start_date": "yesterday"}, 422, "a time with an offset"),
        ({"start_date": "2024-03-01T00:00:00"}, 422, "a time with an offset"),
        ({"start_date": 1709251200}, 422, "a time with an offset"),
        ({"start_date": "0001-01-01T00:00:00+14:00"}, 422, "a time with an offset"),
        ({"start_date": None}, 422, "start_date"),
        ({}, 422, "start_date"),
        ({"start_date": "2024-03-01T00:00:00Z", "stop": ""}, 422, "stop"),
    ],
)
def test_a_wrong_request_is_refused_with_words(
    room: Room, body: dict[str, Any], status: int, words: str
) -> None:
    answers = [room.api.post("/readings-file", json=body)]
    if "stop" not in body:
        answers.append(room.api.get("/readings", params={k: v for k, v in body.items() if v}))
    for answer in answers:
        assert answer.headers["content-type"] == "application/problem+json"
        told = answer.json()
        assert (answer.status_code, told["status"], told["type"]) == (status, status, "about:blank")
        assert words in told["detail"]
    assert room.head_end.now() == room.clock.time


def test_what_there_is_not_is_a_problem(room: Room) -> None:
    for path, status in (
        ("/readings-file?request_id=none", 404), ("/nowhere", 404), ("/readings-file", 422),
        ("/readings?start_date=2024-03-01T00:00Z&page_size=0", 422),
        ("/readings?start_date=2024-03-01T00:00Z&offset=-1", 422),
    ):  # fmt: skip
        answer = room.api.get(path)
        assert (answer.status_code, answer.json()["status"]) == (status, status)
        assert answer.headers["content-type"] == "application/problem+json"
    assert room.api.delete("/readings").status_code == 405


def test_old_files_are_removed_and_have_to_be_asked_for_again(open_room: Open) -> None:
    room = open_room(keep=timedelta(hours=2))
    room.read()
    file = room.ask(START)
    room.pass_time(hours=1, minutes=59)
    room.head_end.remove_old_files()
    assert room.status(file["request_id"]) == file and room.path(file).exists()
    room.pass_time(minutes=2)
    room.head_end.remove_old_files()
    told = room.status(file["request_id"])
    assert told["status"] == "failed" and "ask for it again" in told["error"]
    assert told["sftp_location"] is None
    assert list(room.head_end.files.iterdir()) == []


def test_files_are_kept_for_as_long_as_one_likes(open_room: Open) -> None:
    room = open_room(keep=timedelta(days=999_999))
    room.read()
    file = room.ask(START)
    room.head_end.remove_old_files()
    assert room.path(file).exists()


# --- windows


@pytest.mark.parametrize("pieces", [3, 7])
def test_windows_that_follow_each_other_share_no_read_and_lose_none(
    room: Room, pieces: int
) -> None:
    arrivals = sorted({row["arrival_time"] for row in rows_of(room, room.ask(START))})
    # Cut right at arrivals: there a window that is not half-open would show.
    at = (n * len(arrivals) // pieces for n in range(1, pieces))
    cuts = [START, *(moment(arrivals[n]) for n in at), room.clock.time]
    files = [room.ask(a, b) for a, b in pairwise(cuts)]
    found = [row for file in files for row in rows_of(room, file)]
    assert found == rows_of(room, room.ask(START, room.clock.time))
    keys = {(row["device_id"], row["time"]) for row in found}
    assert len(keys) == len(found)


def test_every_read_arrives_once_and_the_late_ones_late(room: Room) -> None:
    room.pass_time(hours=4, minutes=7)
    found = rows_of(room, room.ask(START))
    delays: dict[str, list[timedelta]] = {}
    for row in found:
        delay = moment(row["arrival_time"]) - moment(row["time"])
        delays.setdefault(row["device_id"], []).append(delay)
    late = {meter for meter, told in delays.items() if max(told) > STEP}
    assert len(late) == 12
    for meter, told in delays.items():
        low = timedelta(minutes=LATE) if meter in late else timedelta(0)
        assert all(low < delay < low + STEP for delay in told)
    # Ten hours: each meter has a read for each step that can have arrived.
    times = {m: {r["time"] for r in found if r["device_id"] == m} for m in delays}
    for meter, told_times in times.items():
        span = room.clock.time - START - (timedelta(minutes=LATE) if meter in late else STEP * 0)
        assert span // STEP <= len(told_times) <= span // STEP + 1


def test_a_read_before_what_was_complete_never_comes_later(room: Room) -> None:
    before = rows_of(room, room.ask(START))
    until = room.clock.time
    for _ in range(20):
        room.pass_time(minutes=23)
    assert rows_of(room, room.ask(START, until)) == before


def test_pages_are_the_file(room: Room) -> None:
    window = {"start_date": z(START + HOUR), "end_date": z(START + 3 * HOUR)}
    file = rows_of(room, room.ask(START + HOUR, START + 3 * HOUR))
    for size in (97, 1000):
        found = list(pages(room, size, **window))
        told = [{k: v if isinstance(v, str) else f"{v:.3f}" for k, v in r.items()} for r in found]
        assert told == file
        values = [v for read in found for v in read.values() if not isinstance(v, str)]
        assert all(value == round(value, 3) for value in values)
    assert list(pages(room, 10, start_date=z(room.clock.time))) == []
    one = room.api.get("/readings", params={**window, "page_size": 1}).json()["readings"][0]
    assert list(one) == HEADER.split(",")


def test_a_usual_page_has_a_thousand_reads(room: Room) -> None:
    told = room.api.get("/readings", params={"start_date": z(START)}).json()
    assert (told["page_size"], len(told["readings"]), told["offset"]) == (1000, 1000, 0)


# --- time


def test_a_faster_clock_starts_where_it_is_told_and_goes_on_where_it_was(open_room: Open) -> None:
    clock = Hand(datetime(2026, 1, 1, tzinfo=UTC))
    room = open_room(clock=clock, speed=96, backfill=timedelta(hours=6))
    assert room.head_end.now() == START + timedelta(hours=6)
    room.pass_time(minutes=1)
    assert room.head_end.now() == START + timedelta(hours=7, minutes=36)
    room.head_end.close()
    clock.time += timedelta(days=3)  # it is off
    room = open_room(clock=clock, speed=96)
    assert room.head_end.now() == START + timedelta(hours=7, minutes=36)
    room.head_end.close()
    room = open_room(clock=clock)  # as fast as the machine's
    assert room.head_end.now() == clock.time


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"devices": 61}, "--devices 60; found 61"),
        ({"seed": 2}, "--seed 1; found 2"),
        ({"late_percent": 0}, "--late 20"),
        ({"interval_minutes": 30}, "--every"),
        ({"start": START - HOUR}, "--start"),
    ],
)
def test_a_folder_that_has_a_plan_refuses_another(
    room: Room, open_room: Open, other: dict[str, Any], words: str
) -> None:
    room.head_end.close()
    with pytest.raises(BadInput, match=words):
        open_room(**other)
    open_room(start=None, backfill=timedelta(days=9)).head_end.advance()  # which it has already


def test_what_is_complete_never_moves_back(room: Room, open_room: Open) -> None:
    until = room.head_end.complete_until
    room.pass_time(hours=-2)
    assert room.head_end.complete_until == until
    room.head_end.close()
    again = open_room(clock=Hand(START + HOUR))
    again.read()
    assert again.head_end.complete_until == until and again.head_end.now() >= until


def test_the_first_read_is_a_whole_step_before_now() -> None:
    odd = START + timedelta(minutes=7, seconds=3)
    assert plan_of(Wanted(), odd).start == START


# --- the description


@pytest.mark.proof
def test_every_answer_is_as_described_whatever_is_asked(room: Room) -> None:
    config = {
        "seed": 1,
        "continue-on-failure": True,
        "checks": {"positive_data_acceptance": {"expected-statuses": ["2xx", 400, 404, 422]}},
        "generation": {"max-examples": 6, "deterministic": True, "database": "none"},
        "phases": {"stateful": {"enabled": False}},
    }
    schema = schemathesis.openapi.from_asgi(
        "/openapi.json", room.api.app, config=schemathesis.Config.from_dict(config)
    )
    found, answers = [], 0
    for event in from_schema(schema).execute():
        if isinstance(event, events.NonFatalError | events.FatalError):
            pytest.fail(str(event))
        if isinstance(event, events.ScenarioFinished):
            answers += len(event.recorder.interactions)
            for checks in event.recorder.checks.values():
                found += [str(c.failure_info.failure) for c in checks if c.failure_info is not None]
    assert found == []
    assert answers > 50


def test_everything_described_says_what_it_is(room: Room) -> None:
    told = room.api.get("/openapi.json").json()
    missing = []
    for path, methods in told["paths"].items():
        for method, operation in methods.items():
            missing += [] if operation.get("summary") else [f"{method} {path}"]
            parameters = operation.get("parameters", [])
            missing += [f"{path}: {p['name']}" for p in parameters if not p.get("description")]
    for name, model in told["components"]["schemas"].items():
        missing += [
            f"{name}.{field}"
            for field, described in model.get("properties", {}).items()
            if not name.startswith(("HTTPValidation", "Validation"))
            and not described.get("description")
        ]
    assert missing == []
