"""The process: what it tells, OpenSSH's client, restarts, kills, faults on the wire, full disks."""

import asyncio
import gzip
import hashlib
import http.client
import json
import os
import random
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import asyncssh
import httpx2
import polars as pl
import pytest
from guarantees.test_disk import ALONE, needs_mounts
from support import hes
from support.hes import Hes, moment
from typer.testing import CliRunner

from meterlake.cli import app
from meterlake.cli.head_end import _integration, _to_minutes
from meterlake.errors import BadInput, Unavailable
from meterlake.simulate.head_end.faults import Faults
from meterlake.simulate.head_end.options import Wanted
from meterlake.simulate.head_end.run import Listening, Serving, _api_socket
from meterlake.simulate.head_end.store import ReadStore
from meterlake.simulate.head_end.system import HeadEnd

START = datetime(2024, 3, 1, tzinfo=UTC)
# An hour in a second; six chunks to begin with.
FAST = ("--devices", "2000", "--start", "2024-03-01", "--backfill", "6d", "--speed", "3600x",
        "--late", "20", "--late-minutes", "200")  # fmt: skip
SMALL = ("--devices", "50", "--start", "2024-03-01", "--backfill", "1d", "--speed", "60x")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hes]:
    with hes.serving(tmp_path_factory.mktemp("hes") / "hes", *SMALL) as found:
        found.wait_until(START + timedelta(days=1))
        yield found


def reads_of(store: ReadStore, before: datetime) -> pl.DataFrame:
    return store.reads(datetime(1970, 1, 1, tzinfo=UTC), before)


def uninterrupted(folder: Path, until: datetime) -> pl.DataFrame:
    """The reads of a head-end like FAST that never stopped."""
    wanted = Wanted(devices=2000, start=START, late_percent=20, late_minutes=200)
    head_end = HeadEnd(folder, wanted, Faults({}, seed=1), machine=lambda: until)
    while head_end.complete_until < until:
        head_end.advance()
    head_end.close()
    return stored(folder, until)


def stored(folder: Path, before: datetime) -> pl.DataFrame:
    store = ReadStore(folder / "hes.duckdb")
    try:
        return reads_of(store, before)
    finally:
        store.close()


# --- what it tells


def test_it_tells_where_it_is_and_how_to_get_in_but_no_secret(running: Hes) -> None:
    assert set(running.told) == {
        "api", "sftp", "fingerprint", "host_key", "known_hosts", "password_file",
        "integration",
    }  # fmt: skip
    file = Path(running.told["password_file"])
    assert file == running.folder / "password"
    for secret in (file, running.folder / "host_key"):
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert len(running.password) >= 24
    assert running.password not in json.dumps(running.told)
    line = f"[127.0.0.1]:{running.sftp_port} {running.host_key}"
    assert running.known_hosts == line and running.host_key.startswith("ssh-ed25519 ")


def test_people_are_told_too(tmp_path: Path) -> None:
    variables = {"METERLAKE_HES_PASSWORD": "of my own"}
    with hes.starting(tmp_path / "hes", *SMALL, "--output", "table", **variables) as process:
        assert process.stdout is not None
        told = [process.stdout.readline().rstrip() for _ in range(8)]
        assert told[0].startswith("api            http://127.0.0.1:")
        assert told[5] == "password file  none: METERLAKE_HES_PASSWORD"
        assert told[6] == f"integration    {tmp_path / 'hes' / 'integration.toml'}"
        assert told[7] == "Ctrl-C stops it"
        section = tomllib.loads((tmp_path / "hes" / "integration.toml").read_text())
        assert section["integration"]["hes"]["password_env"] == "METERLAKE_HES_PASSWORD"
        assert "of my own" not in str(section)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert process.stderr is not None and process.stderr.read() == ""
    assert not (tmp_path / "hes" / "password").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--host", "0.0.0.0"], "--host needs"),
        (["--fault", "slow"], "--fault needs"),
        (["--fault", "slow:101"], "--fault needs"),
        (["--fault", "slow:1", "--fault", "slow:2"], "--fault needs"),
        (["--fault", "quick:1"], "slow, drop, truncate, error500, duplicate, out-of-order"),
        (["--speed", "0.5x"], "--speed needs"),
        (["--every", "7m"], "interval"),
        (["--every", "30s"], "--every needs whole minutes"),
        (["--backfill", "999999d"], "--backfill needs"),
        (["--user", "\udcff"], "--folder and --user need"),
        (["--start", "2999-01-01", "--speed", "1x"], "--start needs"),
        (["--authorized-keys", "absent"], "--authorized-keys needs"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(
    options: list[str], words: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, said = refused(tmp_path / "hes", *options)
    assert code == 1 and words in said


def test_a_length_of_whole_minutes_is_taken_and_no_other() -> None:
    assert [_to_minutes(text) for text in ("15m", "1h", "120s")] == [15, 60, 2]
    for text in ("90s", "30s", "61s"):
        with pytest.raises(BadInput, match=f"--every needs whole minutes.*'{text}'"):
            _to_minutes(text)


def refused(folder: Path, *options: str) -> tuple[int, str]:
    """The exit code of the command in this process, and the one sentence that it says."""
    free = ["--port", "0", "--sftp-port", "0", "--devices", "5", "--folder", str(folder)]
    before = signal.getsignal(signal.SIGTERM)
    try:
        done = CliRunner().invoke(app, ["hes", "serve", *free, *options])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert isinstance(done.exception, SystemExit), done.exception
    assert done.stdout == "" and done.stderr.count("\n") == 1, done.stderr
    return done.exit_code, done.stderr


@pytest.mark.parametrize("flag", ["--port", "--sftp-port"])
def test_a_port_that_is_taken_is_told_once(flag: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, said = refused(tmp_path / "hes", flag, str(port))
    assert code == 3 and said.startswith("meterlake: The ")
    assert said.endswith(
        f" cannot listen at 127.0.0.1:{port}: Address already in use. Stop the process that "
        f"does, or give another {flag}\n"
    )


def test_a_port_is_taken_before_the_server_runs() -> None:
    with (
        _api_socket(Listening(port=0)) as taken,
        pytest.raises(Unavailable, match="another --port"),
    ):
        _api_socket(Listening(port=taken.getsockname()[1]))


def test_two_at_once_in_a_folder_are_one_and_a_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "hes"
    with hes.starting(folder, *SMALL) as one, hes.starting(folder, *SMALL) as two:
        hes.wait(lambda: one.poll() is not None or two.poll() is not None)
        ended, runs = (one, two) if one.poll() is not None else (two, one)
        assert ended.stderr is not None and runs.stdout is not None
        assert ended.stderr.read() == (
            f"meterlake: --folder {folder} is in use by process {runs.pid}. Stop it, or give "
            "another --folder\n"
        )
        assert ended.returncode == 3
        assert json.loads(runs.stdout.readline())["api"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "hes.duckdb").write_text("no store")
    code, said = refused(tmp_path / "other")
    assert code == 3 and "cannot be opened" in said and "in use" not in said


@pytest.mark.parametrize(
    ("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("localhost", "localhost"), ("::1", "[::1]")]
)
@pytest.mark.parametrize("name", ["hes", "⚡ 𝄞", 'a"b\\c', "\x7f\t"])
def test_the_section_says_what_was_meant_wherever_it_is_appended(
    name: str, host: str, shown: str, tmp_path: Path
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    at = Serving(
        host=host, port=8081, sftp_port=2222, user=f"ops@corp:{name}%40", fingerprint="SHA256:x",
        host_key="ssh-ed25519 AAAA", password_file=folder / "password",
    )  # fmt: skip
    section = _integration(folder, at).read_bytes().decode()
    settings = tomllib.loads('lake = "./lake"\nlate_hooks = []' + section)
    assert settings["integration"]["hes"] == {
        "url": f"http://{shown}:8081",
        "sftp": f"{shown}:2222",
        "user": f"ops@corp:{name}%40",
        "password_file": str(folder / "password"),
        "host_key": "ssh-ed25519 AAAA",
    }
    assert at.known_hosts == f"[{host}]:2222 ssh-ed25519 AAAA"
    assert urlsplit(at.sftp).hostname == host and urlsplit(at.sftp).port == 2222


def test_a_section_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "hes" / "integration.toml").mkdir(parents=True)
    code, said = refused(tmp_path / "hes")
    assert code == 3 and "integration.toml cannot be written: Is a directory" in said


def test_secrets_are_its_users_alone_whatever_the_umask(tmp_path: Path) -> None:
    folder = tmp_path / "⚡"
    careless = ("sh", "-c", 'umask 0; exec "$@"', "sh")
    with hes.serving(folder, *SMALL, "--user", "ops@corp", before=careless) as found:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        for name in ("password", "host_key"):
            assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
        section = tomllib.loads((folder / "integration.toml").read_text("utf-8"))
        assert section["integration"]["hes"]["user"] == "ops@corp"
        password = Path(section["integration"]["hes"]["password_file"]).read_text().strip()

        async def who() -> str:
            async with asyncssh.connect(
                found.sftp_host, found.sftp_port, username="ops@corp", password=password,
                known_hosts=asyncssh.import_known_hosts(found.known_hosts), client_keys=None,
                agent_path=None, config=None,
            ) as connection:  # fmt: skip
                return str(connection.get_extra_info("username"))

        assert asyncio.run(who()) == "ops@corp"
        assert found.end() == 0


def test_without_its_packages_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("run", "sftp"):
        monkeypatch.delitem(sys.modules, f"meterlake.simulate.head_end.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "asyncssh", None)
    before = signal.getsignal(signal.SIGTERM)
    try:
        done = CliRunner().invoke(app, ["hes", "serve", "--folder", str(tmp_path / "hes")])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert done.exit_code == 1 and "pip install 'meterlake[hes]'" in done.stderr


def test_a_folder_has_one_process(running: Hes) -> None:
    with pytest.raises(Unavailable, match="another --folder"):
        HeadEnd(running.folder, Wanted(), Faults({}, seed=1), machine=lambda: START)


def test_openssh_lists_and_fetches_a_file(running: Hes, tmp_path: Path) -> None:
    sftp, askpass = shutil.which("sftp"), tmp_path / "askpass"
    if sftp is None:
        pytest.skip("needs OpenSSH's sftp: apt-get install openssh-client")
    file = running.ask("2024-03-01T00:00:00Z", "2024-03-01T06:00:00Z")
    (tmp_path / "known_hosts").write_text(running.known_hosts + "\n")
    askpass.write_text('#!/bin/sh\necho "$PASSWORD"\n')
    askpass.chmod(0o700)

    def run(script: str, known: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                "setsid", "-w", sftp, "-F", "none", "-P", str(running.sftp_port),
                "-o", "StrictHostKeyChecking=yes", "-o", f"UserKnownHostsFile={known}",
                "-o", "GlobalKnownHostsFile=/dev/null", "-o", "IdentityAgent=none",
                "-o", "PubkeyAuthentication=no", "-o", "NumberOfPasswordPrompts=1",
                f"{running.user}@{running.sftp_host}",
            ],
            input=script, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path,
            env={**os.environ, "PASSWORD": running.password, "SSH_ASKPASS": str(askpass),
                 "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": ":0"},
        )  # fmt: skip

    done = run(f"ls -l /outbox\nget {file['sftp_location']} got.gz\nput known_hosts /outbox/x\n",
               tmp_path / "known_hosts")  # fmt: skip
    assert f"{file['request_id']}.csv.gz" in done.stdout, done.stderr
    data = (tmp_path / "got.gz").read_bytes()
    assert hashlib.sha256(data).hexdigest() == file["sha256"] and len(data) == file["size"]
    assert len(gzip.decompress(data).splitlines()) == 1 + file["record_count"]
    assert "denied" in done.stderr.lower()
    other = tmp_path / "others"
    other.write_text("")
    refused = run("ls\n", other)
    assert refused.returncode != 0 and "verification failed" in refused.stderr.lower()


# --- stopped and started again


@pytest.mark.parametrize(
    "times",
    [pytest.param(2, marks=pytest.mark.proof), pytest.param(40, marks=pytest.mark.soak)],
)
def test_neither_a_stop_nor_a_kill_leaves_a_gap_or_a_double(
    tmp_path: Path, times: int, record_property: Callable[[str, object], None]
) -> None:
    folder, chance = tmp_path / "hes", random.Random(7)
    told, ask = START, "2024-03-06T12:00:00Z"
    asked: list[str] = []
    for number in range(times):
        with hes.serving(folder, *FAST) as found:
            assert found.complete_until() >= told
            for _ in range(2):
                time.sleep(chance.random() / 3)
                answer = httpx2.post(f"{found.api}/readings-file", json={"start_date": ask})
                asked.append(answer.json()["request_id"])
                told = found.complete_until()
            if number % 4 != 1:
                found.kill()
            else:
                assert found.end() == 0
                assert found.process.stderr is not None and found.process.stderr.read() == ""
    with hes.serving(folder, *FAST) as found:
        assert found.complete_until() >= told
        found.wait_until(START + timedelta(days=6, hours=1))
        outcomes = [found.outcome(each) for each in asked]
        until = found.complete_until()
        assert found.end() == 0
    want = uninterrupted(tmp_path / "other", until)
    assert stored(folder, until).equals(want)
    for file in outcomes:
        first, last = (moment(file[f"{n}_date"]).replace(tzinfo=None) for n in ("start", "end"))
        wanted = want.filter(pl.col("arrival_time").is_between(first, last, "left")).height
        assert file["status"] == ("completed" if wanted else "skipped"), file
        if wanted:
            data = (folder / "sftp" / file["sftp_location"].lstrip("/")).read_bytes()
            assert hashlib.sha256(data).hexdigest() == file["sha256"]
            assert len(gzip.decompress(data).splitlines()) == 1 + wanted
    assert list((folder / "partial").iterdir()) == []
    record_property("stops and kills of a head-end", times)


def test_it_ends_within_two_seconds_whatever_it_does(tmp_path: Path) -> None:
    large = ("--devices", "20000", "--backfill", "30d", "--fault", "slow:100")
    with hes.serving(tmp_path / "hes", *large) as found:
        at = urlsplit(found.api)
        waiting = http.client.HTTPConnection(at.hostname or "", at.port or 0)
        waiting.request("GET", "/")  # its answer is held up
        time.sleep(0.3)
        began = time.monotonic()
        assert found.end() == 0
        assert time.monotonic() - began < 5  # on a busy machine
        assert found.process.stderr is not None
        assert found.process.stderr.read() == ""
        waiting.close()


# --- faults on the wire


def test_an_answer_is_cut_in_the_middle(tmp_path: Path) -> None:
    with hes.serving(tmp_path / "hes", *SMALL, "--fault", "drop:100") as found:
        at = urlsplit(found.api)
        asking = http.client.HTTPConnection(at.hostname or "", at.port or 0)
        for _ in range(2):
            asking.request("GET", "/")
            answer = asking.getresponse()
            with pytest.raises(http.client.IncompleteRead) as cut:
                answer.read()
            assert cut.value.partial and cut.value.expected
            asking.close()
        assert found.end() == 0
        assert found.process.stderr is not None and found.process.stderr.read() == ""


# --- a full disk


@pytest.mark.proof
@needs_mounts
def test_a_full_disk_is_said_so_and_leaves_no_gap(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f'mount -t tmpfs -o size=64m tmpfs {disk} && exec "$@"'
    before = [*ALONE, "sh", "-c", mount, "sh"]
    options = [text.replace("6d", "1d") for text in FAST]
    with hes.serving(disk / "hes", *options, before=before) as found:
        start = START + timedelta(days=1)
        found.wait_until(start)
        inside = Path(f"/proc/{found.process.pid}/root{disk}")
        ballast = inside / "ballast"
        fill(ballast)
        stuck = stuck_at(found)
        answer = httpx2.post(f"{found.api}/readings-file", json={"start_date": "2024-03-01T00:00Z"})
        told = answer.json()
        if answer.status_code == 202:
            file = found.outcome(told["request_id"])
            assert file["status"] == "failed" and "space" in file["error"].lower(), file
        else:
            assert answer.status_code == 503 and "space" in told["detail"].lower(), told
        ballast.unlink()
        found.wait_until(stuck + timedelta(hours=1))
        file = found.ask("2024-03-01T00:00:00Z")
        assert file["status"] == "completed"
        assert found.end() == 0
        assert found.process.stderr is not None
        said = found.process.stderr.read()
        assert "storing reads failed" in said and "Traceback" not in said, said
    wanted = uninterrupted(tmp_path / "other", moment(file["end_date"]))
    assert file["record_count"] == wanted.height


def fill(ballast: Path) -> None:
    """Leave no room at all."""
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def stuck_at(found: Hes) -> datetime:
    """Up to when the reads are complete, once that moves no more."""
    while True:
        before = found.complete_until()
        time.sleep(1.2)
        if found.complete_until() == before:
            return before
