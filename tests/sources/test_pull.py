"""A pull brings each arrival once, goes on where it was cut off, and never loses its place."""

import gzip
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from support.pulls import (
    ENGINE,
    HEADER,
    HOUR,
    NAME,
    START,
    Countdown,
    Cut,
    Puller,
    Read,
    StubHes,
    ingest_by_hand,
    ingested_files,
    is_away,
    keys,
    puller,
    reads,
    settings,
)

from meterlake.delta.commit import Change, commit, snapshot
from meterlake.delta.journal import entries
from meterlake.delta.lock import Taken, claimed
from meterlake.delta.store import Store, open_store
from meterlake.delta.table import consumed_version
from meterlake.errors import BadInput, Unavailable
from meterlake.ingest import intake
from meterlake.integrate import derivations
from meterlake.pipeline.derivation import Session
from meterlake.schema import INTEGRATIONS, STAGING
from meterlake.sources import fetcher, ledger, runner
from meterlake.sources.head_end import HeadEndSource
from meterlake.sources.head_end_api import OrderedFile
from meterlake.sources.ledger import arrivals_until, integration_key, statuses
from meterlake.sources.port import FileUnavailable

DAY = timedelta(days=1)
KEY = integration_key(NAME)


def cursor_of(store: Store, name: str) -> datetime | None:
    return arrivals_until(store, integration_key(name))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "lake"))


@pytest.fixture
def hes() -> StubHes:
    return StubHes(reads(24), until=START + 16 * HOUR)


@pytest.fixture
def north(store: Store, hes: StubHes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Puller:
    return puller(store, hes, monkeypatch, tmp_path / "cache")


def arrived(hes: StubHes, until: datetime) -> list[Read]:
    return [r for r in hes.reads if r.arrival < until]


def test_every_arrival_comes_once_however_the_windows_lie(north: Puller, hes: StubHes) -> None:
    done = north()
    # Arrivals fall on the windows' boundaries, hour by hour.
    assert hes.ordered == [(START + n * HOUR, START + (n + 4) * HOUR) for n in (0, 4, 8, 12)]
    assert north.staged() == keys(arrived(hes, hes.until))
    assert done.stored == done.rows == len(north.staged()) == 43
    assert done.cursor == cursor_of(north.store, NAME) == hes.until


def test_a_late_read_comes_with_the_window_of_its_arrival(north: Puller, hes: StubHes) -> None:
    north()
    hes.until = START + 2 * DAY
    north()
    assert north.staged() == keys(hes.reads)
    late = [r for r in hes.reads if r.time < START + 16 * HOUR <= r.arrival]
    assert late and set(keys(late)) <= set(north.staged())


def test_an_empty_window_advances(north: Puller, hes: StubHes) -> None:
    hes.reads = [r for r in hes.reads if not 4 <= (r.arrival - START) / HOUR < 12]
    done = north()
    assert (done.windows, done.empty) == (4, 2)
    assert cursor_of(north.store, NAME) == hes.until
    assert north.staged() == keys(arrived(hes, hes.until))


def test_nothing_new_is_no_order_and_no_commit(north: Puller, hes: StubHes) -> None:
    north()
    before = len(hes.ordered), len(ingested_files(north.store))
    assert north().windows == 0
    assert (len(hes.ordered), len(ingested_files(north.store))) == before


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        (None, START),
        (START + 2 * HOUR, START + 2 * HOUR),
        (
            datetime.fromisoformat("2024-01-01T03:00"),
            START + 13 * HOUR,
        ),  # -10 h
    ],
)
def test_the_first_window_begins_at_the_first_date(
    north: Puller, hes: StubHes, first: datetime | None, expected: datetime
) -> None:
    told = settings(first_date=first)
    north.settings = told.model_copy(update={"timezone": "Pacific/Honolulu"})
    north()
    assert hes.ordered[0][0] == expected
    assert north.staged() == keys([r for r in arrived(hes, hes.until) if r.arrival >= expected])


STEPS = (
    (fetcher, "_verify"), (runner, "ingest"), (intake, "commit"), (ledger, "replace_rows"),
    (runner, "keep_parts"),
)  # fmt: skip
ORIGINALS = {step: getattr(module, step) for module, step in STEPS}


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.proof)])
def test_it_goes_on_from_wherever_it_is_cut_off(
    hes: StubHes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, every: int
) -> None:
    """The process ends at each of its steps in turn, or at every so many."""
    hes.until = START + 8 * HOUR
    n, cuts = 1, 0
    while True:
        lake = open_store(str(tmp_path / f"lake-{n}"))
        again = StubHes(hes.reads, hes.until, polls=3)
        north = puller(lake, again, monkeypatch, tmp_path / f"cache-{n}")
        countdown = Countdown(n)
        for module, step in STEPS:
            monkeypatch.setattr(module, step, _around(ORIGINALS[step], countdown))
        north.check = countdown
        try:
            north()
            ended = True
        except Cut:
            ended, cuts = False, cuts + 1
        countdown.left = 0
        north()
        assert north.staged() == keys(arrived(hes, hes.until)), n
        assert len(ingested_files(lake)) == len(set(ingested_files(lake))) == 2
        assert cursor_of(lake, NAME) == hes.until
        assert len(again.ordered) <= 2 + 1  # cut off before it was written down
        if ended:
            break
        n += every
    assert cuts > 30 // every
    assert not list((tmp_path / f"cache-{n}").rglob("*.gz*"))


def _around(call: Any, countdown: Countdown) -> Any:
    def called(*args: Any, **options: Any) -> Any:
        countdown()
        result = call(*args, **options)
        countdown()
        return result

    return called


def test_what_was_ordered_is_waited_for_and_not_ordered_again(north: Puller, hes: StubHes) -> None:
    hes.polls = 50
    north.check = Countdown(6)
    with pytest.raises(Cut):
        north()
    assert len(hes.ordered) == 1
    hes.polls = 1
    north.check = lambda: None
    north()
    assert [start for start, _ in hes.ordered] == [START + n * HOUR for n in (0, 4, 8, 12)]


def test_a_download_goes_on_where_it_broke_off(north: Puller, hes: StubHes) -> None:
    total = 0

    def broken(path: Path) -> None:
        hes.on_fetch = lambda path: None
        hes.damage = lambda content: content[: len(content) // 2]

    hes.until = START + 4 * HOUR
    hes.on_fetch = broken
    north.check = Countdown(5)
    with pytest.raises(Cut):
        north()
    hes.damage = lambda content: content
    north.check = lambda: None
    north()
    total = len(hes.contents["/outbox/r0.csv.gz"])
    assert hes.fetched_bytes == total and len(hes.ordered) == 1
    assert north.staged() == keys(arrived(hes, hes.until))


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-7],
        lambda content: content[:20] + bytes([content[20] ^ 1]) + content[21:],
        lambda content: b"",
        lambda content: gzip.compress(gzip.decompress(content).replace(b"m1", b"m9"), mtime=0),
    ],
    ids=["short", "flipped", "empty", "of other rows"],
)
def test_a_file_that_is_not_what_was_announced_is_not_taken_in(
    north: Puller, hes: StubHes, damage: Any, request: pytest.FixtureRequest
) -> None:
    hes.damage = damage
    hes.order(START, START + 4 * HOUR)
    same_size = len(damage(hes.contents["/outbox/r0.csv.gz"])) == hes.files["r0"].size
    assert same_size == ("f" in request.node.callspec.id)  # flipped, of other rows
    with pytest.raises(FileUnavailable, match="announced"):
        north()
    assert north.row()["failures"] == 1 and cursor_of(north.store, NAME) is None
    hes.damage = lambda content: content
    north()
    assert north.staged() == keys(arrived(hes, hes.until))


def test_rows_that_were_not_announced_are_not_taken_in(north: Puller, hes: StubHes) -> None:
    order = hes.order

    def wrong(start: datetime, end: datetime) -> OrderedFile:
        told = order(start, end)
        file = hes.files[told.request_id]
        hes.files[told.request_id] = file.model_copy(update={"record_count": 1000})
        return told

    hes.order = wrong  # type: ignore[method-assign]
    with pytest.raises(FileUnavailable, match="1,000 rows as announced; found 8"):
        north()
    assert not ingested_files(north.store)


def test_a_failed_pull_is_tried_later_and_later_but_not_too_late(
    north: Puller, hes: StubHes, monkeypatch: pytest.MonkeyPatch
) -> None:
    north.settings = settings(retry_seconds=10, retry_seconds_at_most=60)
    hes.on_order = is_away
    pauses = []
    for failures in range(1, 6):
        began = north.now
        with pytest.raises(Unavailable, match="away"):
            north()
        row = north.row()
        assert (row["failures"], row["last_error"]) == (failures, "it is away")
        assert north.pause(now=row["next_eligible"]) == 0
        pauses.append((row["next_eligible"] - began).total_seconds())
    # By chance between half of the pause and all of it; the test's chance is a half.
    assert pauses == [7.5, 15, 30, 45, 45]
    [status] = statuses(north.store, north.settings, now=north.now)
    assert (status.state, status.failures, status.cursor) == ("failed", 5, None)

    hes.on_order = lambda: None
    north()
    [status] = statuses(north.store, north.settings, now=north.now)
    assert (status.state, status.failures, status.last_error) == ("idle", 0, "")
    assert status.cursor == hes.until and status.succeeded_at == north.now


def test_a_file_that_the_head_end_could_not_make_is_ordered_again(
    north: Puller, hes: StubHes
) -> None:
    order = hes.order

    def fails(start: datetime, end: datetime) -> OrderedFile:
        told = order(start, end)
        made = hes.files[told.request_id]
        hes.files[told.request_id] = made.model_copy(update={"status": "failed", "error": "disk"})
        return told

    hes.order = fails  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="could not make the file r0: disk"):
        north()
    hes.order = order  # type: ignore[method-assign]
    north()
    assert north.staged() == keys(arrived(hes, hes.until))


def test_a_file_that_is_gone_is_ordered_again(north: Puller, hes: StubHes) -> None:
    north.check = Countdown(4)
    with pytest.raises(Cut):
        north()
    north.check = lambda: None
    hes.files.clear()
    north()
    assert north.staged() == keys(arrived(hes, hes.until))


def test_a_file_that_is_never_finished_is_given_up_for_now(north: Puller, hes: StubHes) -> None:
    hes.polls = 10**9
    with pytest.raises(Unavailable, match="still running after 15 minutes"):
        north()
    assert 15 * 60 <= sum(north.pauses) < 16 * 60
    assert north.row()["request_id"] == "r0"  # the next pull asks for the same file


def test_a_file_that_is_not_finished_for_hours_is_ordered_again(
    north: Puller, hes: StubHes
) -> None:
    hes.polls = 10**9
    for _ in range(8):
        with pytest.raises(Unavailable, match="still running"):
            north()
    assert len(hes.ordered) == 1
    hes.polls = 1
    north()
    assert len(hes.ordered) == 1 + 4
    assert north.staged() == keys(arrived(hes, hes.until))


SPOILT: list[dict[str, Any]] = [
    {"end_date": START},
    {"end_date": START + 5 * HOUR},
    {"sha256": "0" * 64},
    {"record_count": 1000},
    {"size": None},
    {"sftp_location": None},
    {"status": "skipped", "end_date": START},
]


@pytest.mark.parametrize("spoilt", SPOILT, ids=[" ".join(s) for s in SPOILT])
def test_whatever_is_wrong_with_a_file_the_next_one_is_ordered_again(
    north: Puller, hes: StubHes, spoilt: dict[str, Any]
) -> None:
    """An answer that is wrong once holds the integration up once."""
    order = hes.order

    def wrong(start: datetime, end: datetime) -> OrderedFile:
        told = order(start, end)
        hes.files[told.request_id] = hes.files[told.request_id].model_copy(update=spoilt)
        hes.order = order  # type: ignore[method-assign]
        return told

    hes.order = wrong  # type: ignore[method-assign]
    with pytest.raises((BadInput, Unavailable)):
        north()
    assert north.row()["failures"] == 1 and cursor_of(north.store, NAME) is None
    north()
    assert north.staged() == keys(arrived(hes, hes.until))


def test_a_head_end_that_was_set_up_again_is_not_taken_for_the_old_one(
    north: Puller, hes: StubHes
) -> None:
    north()
    hes.until -= 2 * HOUR
    with pytest.raises(BadInput, match="is it another one, or was it set up again"):
        north()
    assert north.row()["failures"] == 1


def test_a_head_end_that_is_down_for_an_hour_is_tried_now_and_then(
    north: Puller, hes: StubHes
) -> None:
    north()
    until, tries = north.now + HOUR, 0
    hes.until += HOUR
    hes.on_order = is_away
    while north.now < until:
        if north.pause(now=north.now) == 0:
            tries += 1
            with pytest.raises(Unavailable):
                north()
        north.now += timedelta(seconds=60)
    assert 5 < tries < 15
    hes.on_order = lambda: None
    north.now += timedelta(seconds=north.pause(now=north.now))
    assert north.now < until + HOUR
    north()
    assert north.staged() == keys(arrived(hes, hes.until))


def test_a_clock_that_was_set_back_holds_nothing_up(north: Puller, hes: StubHes) -> None:
    north.settings = settings(interval_minutes=60)
    north()
    began = north.now
    assert 0 < north.pause(now=began) <= 3600
    assert north.pause(now=began - timedelta(days=365)) == 0


def test_the_interval_is_from_begin_to_begin(north: Puller, hes: StubHes) -> None:
    north.settings = settings(interval_minutes=15)
    began, hes.polls = north.now, 4
    north()
    assert north.now > began  # it took a while
    assert north.pause(now=began + timedelta(minutes=15)) == 0
    assert north.pause(now=began + timedelta(minutes=14, seconds=59)) == 1


def test_an_empty_window_costs_few_commits_and_no_key_of_its_own(
    north: Puller, hes: StubHes
) -> None:
    north()
    before = versions(north.store)
    hes.reads.clear()
    for _ in range(3):
        hes.until += HOUR
        north()
    assert {t: v - before[t] for t, v in versions(north.store).items()} == {
        "staging": 3, "integrations": 3
    }  # fmt: skip
    [*_, last] = entries(north.store, STAGING, after=-1, until=versions(north.store)["staging"])
    assert set(last.keys) == {KEY, f"lease/{KEY}"}


def versions(store: Store) -> dict[str, int]:
    return {t.name: snapshot(store, t).version for t in (STAGING, INTEGRATIONS)}


def test_what_a_head_end_says_does_nothing_to_a_terminal(north: Puller, hes: StubHes) -> None:
    order = hes.order

    def fails(start: datetime, end: datetime) -> OrderedFile:
        told = order(start, end)
        common = hes.files[told.request_id].model_dump() | {"status": "failed"}
        common |= {"error": "\x1b]0;owned\x07\x1b[2J" + "x" * 100_000}
        hes.files[told.request_id] = OrderedFile.model_validate(common)
        return told

    hes.order = fails  # type: ignore[method-assign]
    with pytest.raises(Unavailable) as raised:
        north()
    for text in (str(raised.value), north.row()["last_error"]):
        assert text.isprintable() and len(text) < 600


@pytest.mark.parametrize("field", ["start_date", "end_date"])
def test_an_answer_for_another_window_is_refused(north: Puller, hes: StubHes, field: str) -> None:
    order = hes.order

    def other(start: datetime, end: datetime) -> OrderedFile:
        told = order(start, end)
        moved = {field: getattr(told, field) + HOUR}
        hes.files[told.request_id] = hes.files[told.request_id].model_copy(update=moved)
        return told

    hes.order = other  # type: ignore[method-assign]
    with pytest.raises(BadInput, match="the window that was ordered"):
        north()
    assert cursor_of(north.store, NAME) is None


def test_one_at_a_time(north: Puller) -> None:
    with claimed(north.store, KEY, tables=(), clock=lambda: north.now):
        [status] = statuses(north.store, north.settings, now=north.now)
        assert status.state == "running"
        with pytest.raises(Taken, match="one process at a time"):
            north()
    assert not north.pauses  # it does not wait for the other
    north()


def test_who_was_overtaken_commits_nothing_more(
    north: Puller, hes: StubHes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that stands still for so long that its claim runs out, while another does its work."""
    hes.until = START + 8 * HOUR
    is_first = True

    def overtaken(path: Path) -> None:
        nonlocal is_first
        if is_first:
            is_first = False
            north.now += DAY
            monkeypatch.setenv("XDG_CACHE_HOME", os.environ["XDG_CACHE_HOME"] + "-other")
            hes.files.pop("r0")  # so that the other has a file of its own
            hes.until += HOUR / 2
            north.settings = settings(window_hours=5)
            north()

    hes.on_fetch = overtaken
    with pytest.raises(Unavailable):
        north()
    assert cursor_of(north.store, NAME) == START + 8.5 * HOUR
    assert north.staged() == keys(arrived(hes, START + 8.5 * HOUR))
    row = north.row()
    assert (row["failures"], row["last_error"], row["request_id"]) == (0, "", None)


def test_the_cursor_moves_only_from_where_it_was(store: Store) -> None:
    from meterlake.delta.commit import Step
    from meterlake.errors import Conflict

    key, now = KEY, START
    commit(store, STAGING, Change({"a": 0}, marks={key: Step(-1, 10)}), now=now)
    for step in (Step(-1, 20), Step(9, 20), Step(20, 30)):
        with pytest.raises(Conflict):
            commit(store, STAGING, Change({"b": 0}, marks={key: step}), now=now)
    assert consumed_version(store, STAGING, key) == 10
    assert consumed_version(store, STAGING, "b") == -1


def test_content_that_was_taken_in_by_hand_is_not_taken_in_twice(
    north: Puller, hes: StubHes, tmp_path: Path
) -> None:
    hes.order(START, START + 4 * HOUR)
    ingest_by_hand(north, hes.contents["/outbox/r0.csv.gz"], tmp_path)
    hes.ordered.clear()
    north()
    assert cursor_of(north.store, NAME) == hes.until
    assert north.staged() == keys(arrived(hes, hes.until))


def test_a_file_that_cannot_be_read_holds_the_integration_up_and_is_kept(
    north: Puller, hes: StubHes
) -> None:
    hes.header = "an,unknown,header"
    with pytest.raises(BadInput, match="format"):
        north()
    assert cursor_of(north.store, NAME) is None and north.row()["failures"] == 1
    assert list(Path(north.store.url).glob("inbound/failed/*/r0.csv.gz.reason.txt"))
    hes.header = HEADER
    north()
    assert north.staged() == keys(arrived(hes, hes.until))


def test_what_came_is_kept_as_it_came(north: Puller, hes: StubHes) -> None:
    north()
    kept = {path.read_bytes() for path in Path(north.store.url).glob("inbound/*/*.csv.gz")}
    assert kept == set(hes.contents.values()) and len(kept) == 4


def test_integrated_it_is_what_the_head_end_has(north: Puller, hes: StubHes) -> None:
    north()
    hes.until = START + 2 * DAY
    north()
    derivations.integrate(Session(north.store, ENGINE, north.settings, north.now))
    from meterlake.questions.sql import query

    rows = query(
        north.store, "SELECT meter_id, reading_date_time FROM readings WHERE reading_type = 'kw'"
    )
    assert sorted(rows.iter_rows()) == sorted((r.device, r.time) for r in hes.reads)


def test_an_unknown_integration_is_told_with_what_to_write(store: Store) -> None:
    with pytest.raises(BadInput, match=r"\[integration.south\] with url, sftp, user"):
        HeadEndSource("south", settings())


def test_no_secret_is_written_or_shown(
    north: Puller, hes: StubHes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from meterlake.settings import settings_table

    north()
    [server, *_] = hes.servers
    assert server.secret.get_secret_value() == "correct horse"
    shown = f"{server!r} {server} {settings_table(north.settings)} {north.row()}"
    lake = b"".join(p.read_bytes() for p in Path(north.store.url).rglob("*") if p.is_file())
    assert "correct horse" not in shown and b"correct horse" not in lake
    hes.until += HOUR
    monkeypatch.delenv("NORTH_PASSWORD")
    with pytest.raises(BadInput, match="environment variable NORTH_PASSWORD, which is not set"):
        north()
    secret = tmp_path / "secret"
    north.settings = settings(password_env=None, password_file=str(secret))
    with pytest.raises(BadInput, match="cannot be read: No such file"):
        north()
    secret.write_text("battery staple\n")
    north()
    assert hes.servers[-1].secret.get_secret_value() == "battery staple"


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"password_env": None}, "needs one of password_env, password_file and key_file"),
        ({"password_file": "x"}, "needs one of password_env, password_file and key_file"),
        ({"url": "ftp://x"}, "url"),
        ({"url": "http://me:secret@x"}, "without user, password or query"),
        ({"url": "http://x/?key=secret"}, "without user, password or query"),
        ({"url": "http://[::1"}, "needs an address such as"),
        ({"sftp": "host:70000"}, "port of 1 to 65535"),
        ({"sftp": "user@host"}, "sftp"),
        ({"window_hours": 0}, "window_hours"),
        ({"password": "secret"}, "password"),
    ],
)
def test_settings_that_cannot_be_are_refused(told: dict[str, Any], words: str) -> None:
    from pydantic import ValidationError

    with pytest.raises(ValidationError, match=words):
        settings(**told)


def test_a_request_id_is_no_path() -> None:
    from pydantic import ValidationError

    with pytest.raises(ValidationError, match="request_id"):
        OrderedFile.model_validate(
            {"request_id": "../../x", "status": "queued", "start_date": START, "end_date": START}
        )


def test_on_s3_it_is_the_same(
    s3_lake: str, hes: StubHes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    north = puller(open_store(s3_lake), hes, monkeypatch, tmp_path / "cache")
    north.check = Countdown(20)
    with pytest.raises(Cut):
        north()
    north.check = lambda: None
    north()
    assert north.staged() == keys(arrived(hes, hes.until))
    assert cursor_of(north.store, NAME) == hes.until


def test_several_integrations_do_not_disturb_each_other(
    north: Puller, hes: StubHes, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = settings()
    south = both.integration[NAME].model_copy(update={"window_hours": 24.0})
    told = both.model_copy(update={"integration": both.integration | {"south": south}})
    north.settings = told
    north()
    done = north("south")
    assert done.windows == 1 and cursor_of(north.store, "south") == hes.until
    hes.on_order, hes.until = is_away, hes.until + HOUR
    with pytest.raises(Unavailable):
        north()
    states = {s.name: s.state for s in statuses(north.store, told, now=datetime.now(UTC))}
    assert states == {NAME: "failed", "south": "idle"}
    assert pl.DataFrame(north.staged(), orient="row").is_duplicated().all()  # both brought all
