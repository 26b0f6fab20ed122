"""`meterlake watch`: what it prints, its exit codes, and that it can be stopped and killed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from meterlake.cli import app
from meterlake.cli.loop import Stop, say
from meterlake.delta.store import open_store
from meterlake.questions.sql import query
from meterlake.sources.runner import Runner

HEADER = "time,arrival_time,device_id,measure_name,load,crrnt,pf,kva,kw,vltg"
ROW = "2024-01-01 00:00:00,2024-01-01 00:00:09,{},readings,1,1,1,1,1.5,220"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("METERLAKE_LAKE", raising=False)

    def invoke(*arguments: str) -> tuple[int, str, str]:
        result = CliRunner().invoke(app, arguments)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    return invoke


def configure(folder: Path, *sources: str) -> None:
    text = "".join(f"[[source]]\n{source}\n" for source in sources)
    (folder / "meterlake.toml").write_text(f"late_hooks = []\n{text}")
    for name in ("in", "other"):
        (folder / name).mkdir(exist_ok=True)


def arrive(path: Path, *meters: str) -> None:
    path.write_text("\n".join([HEADER, *map(ROW.format, meters), ""]))


FOLDER = 'name = "in"\nurl = "./in/*.csv"\nsettle_seconds = 0'
OTHER = 'name = "other"\nurl = "./other/*.csv"\nsettle_seconds = 0'
DOWN = 'name = "down"\nurl = "ftp://127.0.0.1:1/*.csv"\nsettle_seconds = 0'


def test_what_is_complete_is_taken_in_and_integrated_in_one_go(run: Run, tmp_path: Path) -> None:
    configure(tmp_path, FOLDER.replace("= 0", "= 0.2"))
    arrive(tmp_path / "in" / "a.csv", "m1", "m2")
    code, out, err = run("watch", "--once", "--output", "json")
    facts = json.loads(out)
    assert (code, err) == (0, "")
    assert facts.pop("seconds") > 0
    assert facts == {
        "sources": [
            {
                "name": "in", "found": 1, "taken": 1, "known": 0, "waiting": 0, "failed": 0,
                "rows": 2, "stored": 2, "quarantined": 0, "put_away": 0,
            }
        ],
        "integrated": {"added": 12, "replaced": 0, "late": 0},
    }  # fmt: skip
    code, out, _ = run("watch", "--once", "--output", "json")
    assert (code, json.loads(out)["sources"][0]["taken"]) == (0, 0)
    assert "integrated" not in json.loads(out)


def test_a_damaged_file_is_told_once_and_ends_with_1(run: Run, tmp_path: Path) -> None:
    configure(tmp_path, FOLDER)
    arrive(tmp_path / "in" / "a.csv", "m1")
    (tmp_path / "in" / "b.csv").write_text("\x1b[31mjunk")
    code, out, err = run("watch", "--once")
    assert (code, out.split()[-1] > "0") == (1, True)
    assert "'b.csv' is not taken in" in err
    assert "\x1b" not in err + out
    assert run("watch", "--once")[0] == 0
    assert run("watch", "--once")[2] == ""


def test_what_a_server_says_does_nothing_to_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    say("it answers \x1b[2J\r550")
    assert capsys.readouterr().err == "meterlake: it answers \ufffd[2J 550\n"


def test_a_source_that_is_down_leaves_the_others_alone_and_ends_with_3(
    run: Run, tmp_path: Path
) -> None:
    configure(tmp_path, DOWN, FOLDER)
    arrive(tmp_path / "in" / "a.csv", "m1")
    code, out, err = run("watch", "--once", "--output", "json")
    assert code == 3
    assert [s["taken"] for s in json.loads(out)["sources"]] == [1]
    assert "down: The FTP server 127.0.0.1:1 cannot be reached" in err
    assert run("watch", "in", "--once")[0] == 0


def test_what_a_cut_off_watch_had_not_integrated_is_integrated(run: Run, tmp_path: Path) -> None:
    configure(tmp_path, FOLDER)
    arrive(tmp_path / "in" / "a.csv", "m1")
    code, out, _ = run("watch", "--once", "--no-integrate", "--output", "json")
    assert (code, "integrated" in json.loads(out)) == (0, False)
    code, out, _ = run("watch", "--once", "--output", "json")
    assert json.loads(out)["integrated"]["added"] == 6


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "There is no source to watch"),
        (["none"], "There is no source 'none' (known: in)"),
        (["--every", "5"], "--every needs a length"),
    ],
)
def test_what_cannot_be_watched_is_told(
    arguments: list[str], words: str, run: Run, tmp_path: Path
) -> None:
    configure(tmp_path, *([FOLDER] if arguments else []))
    code, _, err = run("watch", "--once", *arguments)
    assert (code, words in err) == (1, True)


def test_a_source_that_fails_is_told_once_and_tried_later_and_others_go_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(tmp_path, DOWN, FOLDER, OTHER)
    turns: list[float] = []

    def pause(self: Any, seconds: float) -> None:
        turns.append(seconds)
        arrive(tmp_path / "in" / f"{len(turns)}.csv", f"m{len(turns)}")
        if len(turns) == 4:
            self.number = signal.SIGTERM
        self.check()

    due = Runner.seconds_until_due
    monkeypatch.setattr(Stop, "pause", pause)
    monkeypatch.setattr(Runner, "seconds_until_due", lambda self, every: due(self, 0))
    code, out, err = run("watch", "--every", "1s")
    lines = out.splitlines()
    assert code == 0
    assert [re.sub(r"^\S+ \S+ ", "", line) for line in lines] == [
        "in: 1 taken, 1 rows, 1 stored"
    ] * 3
    assert err.count("cannot be reached") == 1
    assert re.search(
        r"down: The FTP server .* broke off: .*\. Next try in 2 s|Next try in 1 s", err
    )
    assert "stopped. The next watch continues from here" in err


@contextmanager
def watching(folder: Path, *arguments: str, before: str = "") -> Iterator[subprocess.Popen[str]]:
    """A watch in a process of its own."""
    script = f"{before}\nfrom meterlake.cli import run\nrun()"
    process = subprocess.Popen(
        [sys.executable, "-c", script, "watch", "--output", "json", *arguments],
        cwd=folder,
        env=os.environ
        | {"XDG_CACHE_HOME": str(folder / "cache"), "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_two_watchers_take_each_file_once_and_end_cleanly_when_told_to(tmp_path: Path) -> None:
    configure(tmp_path, FOLDER + '\nafter = "move"')
    with watching(tmp_path, "--every", "1s") as one, watching(tmp_path, "--every", "1s") as two:
        expected = 0
        for number in range(3):
            for also in range(4):
                arrive(tmp_path / "in" / f".{also}", f"m{number}-{also}")
                (tmp_path / "in" / f".{also}").rename(tmp_path / "in" / f"{number}-{also}.csv")
                expected += 1
            until = time.monotonic() + 120
            while len(list((tmp_path / "in" / "taken").glob("*"))) < expected:
                assert time.monotonic() < until, "the files were not taken"
                assert one.poll() is None
                assert two.poll() is None
                time.sleep(0.02)
        ends = []
        for process, number in ((one, signal.SIGTERM), (two, signal.SIGINT)):
            process.send_signal(number)
            _, err = process.communicate(timeout=60)
            ends.append((process.returncode, "stopped." in err, "Traceback" in err))
    assert ends == [(0, True, False)] * 2
    meters = query(open_store(str(tmp_path / "lake")), "SELECT DISTINCT meter_id FROM staging")
    assert sorted(meters["meter_id"]) == [f"m{n}-{k}" for n in range(3) for k in range(4)]


def test_a_watch_that_is_killed_goes_on_with_the_next_one(run: Run, tmp_path: Path) -> None:
    configure(tmp_path, FOLDER + '\nafter = "move"')
    for number in range(6):
        arrive(tmp_path / "in" / f"{number}.csv", f"m{number}")
    batches = "from meterlake.sources import runner\nrunner._PORTION_FILES = 1"
    with watching(tmp_path, "--once", before=batches) as process:
        until = time.monotonic() + 120
        while not list((tmp_path / "in").glob("taken/*")):
            assert time.monotonic() < until
            time.sleep(0.001)
        process.kill()
        process.wait()
    assert list((tmp_path / "in").glob("*.csv")), "it was done before it was killed"
    assert run("watch", "--once")[0] == 0
    assert len(list((tmp_path / "in" / "taken").glob("*.csv"))) == 6
    store = open_store(str(tmp_path / "lake"))
    assert sorted(query(store, "SELECT DISTINCT meter_id FROM staging")["meter_id"]) == [
        f"m{n}" for n in range(6)
    ]
    kw = query(store, "SELECT count(*) n FROM readings WHERE reading_type = 'kw'")
    assert kw["n"].item() == 6
    assert run("check")[0] == 0
