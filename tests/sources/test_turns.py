"""The command goes from turn to turn: what is due, what was brought, what is yet to integrate."""

import json
from pathlib import Path

import pytest
from support.pulls import (
    ENGINE,
    HOUR,
    NAME,
    START,
    Puller,
    Read,
    StubHes,
    is_away,
    puller,
    reads,
    settings,
)

from meterlake.cli.loop import SourceLoop, Stop, Stopped
from meterlake.cli.pull import REPORT
from meterlake.delta.store import open_store
from meterlake.errors import Unavailable
from meterlake.lake import Lake
from meterlake.questions.sql import query
from meterlake.sources.head_end import HeadEndSource
from meterlake.sources.port import Means
from meterlake.sources.runner import Runner


@pytest.fixture
def hes() -> StubHes:
    return StubHes(reads(24), until=START + 16 * HOUR)


@pytest.fixture
def north(hes: StubHes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Puller:
    store = open_store(str(tmp_path / "lake"))
    return puller(store, hes, monkeypatch, tmp_path / "cache", retry_seconds=0, attempts=3)


def job(north: Puller) -> SourceLoop:
    lake = Lake(north.store, north.settings, ENGINE, lambda: north.now)
    stop = Stop()
    means = Means(pause=lambda seconds: stop.pause(seconds))
    source = HeadEndSource(NAME, north.settings, means)
    runner = Runner(lake.session, source, means)
    return SourceLoop(lake, [runner], stop, REPORT, True, True)


def arrived(hes: StubHes) -> list[Read]:
    return [r for r in hes.reads if r.arrival < hes.until]


def integrated(north: Puller) -> int:
    sql = "SELECT count(*) FROM readings WHERE reading_type = 'kw'"
    return int(query(north.store, sql).item())


def fail_at(hes: StubHes, *numbers: int) -> None:
    """Let some of the orders fail."""
    count = 0

    def order() -> None:
        nonlocal count
        count += 1
        if count in numbers:
            is_away()

    hes.on_order = order


def test_what_came_before_a_failure_is_told_and_integrated(
    north: Puller, hes: StubHes, capsys: pytest.CaptureFixture[str]
) -> None:
    hes.reads = [r for r in hes.reads if r.arrival < START + 12 * HOUR]
    fail_at(hes, 4)  # the window after the third is empty
    job(north).once()
    [pulled] = json.loads(capsys.readouterr().out)["pulled"]
    assert (pulled["windows"], pulled["stored"]) == (4, len(hes.reads))
    assert integrated(north) == len(hes.reads)


def test_it_is_tried_so_often_and_then_given_up(
    north: Puller, hes: StubHes, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_at(hes, 2, 3, 4)
    with pytest.raises(Unavailable, match="north: it is away"):
        job(north).once()
    out, err = capsys.readouterr()
    assert err.count("Try ") == 2 and "it is away. Try 3 of 3 in 0 s" in err
    assert json.loads(out)["pulled"][0]["windows"] == 1
    assert integrated(north) > 0  # of the window that came


def test_what_was_not_integrated_is_with_the_next_pull(north: Puller, hes: StubHes) -> None:
    north()
    job(north).once()  # brings nothing new
    assert integrated(north) == len(arrived(hes))


def test_turns_go_on_after_failures_and_retries_do_not_wait_for_a_turn(
    north: Puller,
    hes: StubHes,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fail_at(hes, 1, 3)
    turns, pauses = job(north), list[float]()

    def paused(seconds: float) -> None:
        if seconds < 0.15:
            return  # for a file to be made
        pauses.append(round(seconds, 1))
        if len(pauses) == 3:
            raise Stopped

    monkeypatch.setattr(turns.stop, "pause", paused)
    with pytest.raises(Stopped):
        turns.until_stopped(60)
    assert pauses[:2] == [0.2, 0.2] and 55 < pauses[2] <= 60
    assert capsys.readouterr().err.count("it is away") == 2
    assert integrated(north) == len(arrived(hes))


@pytest.mark.parametrize(("hours", "is_told"), [(0.5, False), (40, True)])
def test_a_head_end_that_is_behind_its_own_time_is_told_of(
    north: Puller, hes: StubHes, hours: float, is_told: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    hes.behind = hours * HOUR
    job(north).once()
    words = "its reads are complete up to 2024-01-01T16:00:00Z only, and there it is"
    assert (words in capsys.readouterr().err) == is_told


def test_a_pull_is_due_when_both_turn_and_interval_say_so(north: Puller) -> None:
    assert north.runner().seconds_until_due(60) == 0
    north.settings = settings(interval_minutes=60)
    turns = north.runner()
    turns.run()
    assert 3500 < turns.seconds_until_due(60) <= 3600
    assert 7100 < turns.seconds_until_due(7200) <= 7200
