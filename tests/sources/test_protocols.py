"""Pulling over the real protocols: a head-end system that is another process, HTTP and SFTP."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from pydantic import SecretStr
from support.hes import Hes, serving
from support.outboxes import PASSWORD, USER, sftp_server
from typer.testing import CliRunner

from meterlake.cli import app
from meterlake.delta.store import open_store
from meterlake.errors import BadInput, Unavailable
from meterlake.questions.sql import query
from meterlake.source_settings import Address
from meterlake.sources.fetcher import Credentials, opened
from meterlake.sources.port import FileUnavailable, SourceFile, Version

FLEET = ("--devices", "20", "--backfill", "2d", "--seed", "7")
SECRET = "correct horse battery staple"


@dataclass(frozen=True)
class Server:
    """An SFTP server, and who we are there."""

    host: str
    port: int
    user: str
    password: SecretStr | None = None
    key_file: Path | None = None
    host_key: str | None = None
    known_hosts: Path | None = None


def fetch(
    server: Server, remote: str, to: Path, *, size: int, seen: Any = lambda done: None
) -> None:
    """Fetch a file from where `to` ends."""
    address = Address("sftp", server.host, server.port, server.user, remote)
    who = Credentials(
        server.user, server.password, server.key_file, server.host_key, server.known_hosts
    )
    with opened(address, who) as place:
        place.fetch(SourceFile(remote, Version(size)), to, seen=seen)


@pytest.fixture(scope="module")
def hes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hes]:
    folder = tmp_path_factory.mktemp("hes")
    with serving(folder, *FLEET, METERLAKE_HES_PASSWORD=SECRET) as running:
        running.wait_until(datetime.now(UTC) - timedelta(minutes=1))  # its backfill is there
        yield running


@pytest.fixture(scope="module")
def file(hes: Hes) -> dict[str, Any]:
    about = hes.about()
    made = hes.ask(about["oldest"], about["complete_until"])
    assert made["status"] == "completed"
    return made


@pytest.fixture(scope="module")
def server(hes: Hes) -> Server:
    return Server(hes.sftp_host, hes.sftp_port, hes.user, SecretStr(SECRET), host_key=hes.host_key)


@dataclass
class Shell:
    """The command line in a folder with settings of its own."""

    folder: Path
    hes: Hes

    def write(self, **told: object) -> None:
        usual = {
            "url": self.hes.api, "sftp": f"{self.hes.sftp_host}:{self.hes.sftp_port}",
            "user": self.hes.user, "password_env": "HES_PASSWORD", "host_key": self.hes.host_key,
            "window_hours": 12, "retry_seconds": 0.2, "attempts": 2,
        }  # fmt: skip
        lines = [f"{k} = {json.dumps(v)}" for k, v in (usual | told).items() if v is not None]
        text = "\n".join(['lake = "./lake"', "late_hooks = []", "[integration.north]", *lines])
        (self.folder / "meterlake.toml").write_text(text)

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """The command in a process of its own."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("METERLAKE_")}
        cache = str(self.folder / "cache")
        return subprocess.Popen(
            [sys.executable, "-m", "meterlake", "hes", *arguments], cwd=self.folder,
            env=kept | {"HES_PASSWORD": SECRET, "XDG_CACHE_HOME": cache} | variables,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, *arguments: str, **variables: str) -> tuple[int, str, str]:
        """The command in this process, to its end: exit code, what it prints, what it says."""
        told = {"HES_PASSWORD": SECRET, "XDG_CACHE_HOME": str(self.folder / "cache"), **variables}
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            for name in [name for name in os.environ if name.startswith("METERLAKE_")]:
                patch.delenv(name)
            for name, value in told.items():
                patch.setenv(name, value)
            done = CliRunner().invoke(app, ["hes", *arguments])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def shell(hes: Hes, tmp_path: Path) -> Shell:
    shell = Shell(tmp_path, hes)
    shell.write()
    return shell


def has_what_the_head_end_has(shell: Shell, until: str) -> bool:
    """By key and value, of all that had arrived by a moment."""
    import httpx2

    oldest, there, offset = shell.hes.about()["oldest"], set(), 0
    while True:
        asked: dict[str, str | int] = {"end_date": until, "offset": offset, "page_size": 1000}
        asked["start_date"] = oldest
        answer = httpx2.get(f"{shell.hes.api}/readings", params=asked).json()
        rows = answer["readings"]
        there |= {(r["device_id"], _second(r["time"]), round(r["kw"], 6)) for r in rows}
        offset += len(rows)
        if not rows:
            break
    found = query(
        open_store(str(shell.folder / "lake")),
        "SELECT meter_id, reading_date_time, reading_value FROM readings WHERE reading_type = 'kw'",
    )
    here = {(m, at.strftime("%Y-%m-%dT%H:%M:%S"), round(v, 6)) for m, at, v in found.iter_rows()}
    assert len(there) > 1000
    return here == there


def _second(text: str) -> str:
    return text[:19]


def test_a_lake_is_filled_with_what_the_head_end_has(shell: Shell) -> None:
    code, out, err = shell.run("pull", "--output", "json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    [pulled] = told["pulled"]
    assert pulled["windows"] >= 4 and pulled["quarantined"] == 0
    assert told["integrated"]["added"] == pulled["stored"] * 6
    assert has_what_the_head_end_has(shell, pulled["cursor"])
    code, out, _ = shell.run("status", "--output", "json")
    [status] = json.loads(out)["integrations"]
    assert (code, status["state"], status["cursor"]) == (0, "idle", pulled["cursor"])
    assert not list((shell.folder / "cache").rglob("*.gz"))


def test_before_the_first_pull_an_integration_is_idle(shell: Shell) -> None:
    code, out, _ = shell.run("status", "--output", "json")
    [status] = json.loads(out)["integrations"]
    assert (code, status["state"], status["cursor"], status["last_error"]) == (0, "idle", None, "")


def test_it_pulls_until_it_is_stopped(shell: Shell) -> None:
    with shell.start("pull", "--every", "1m") as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "north: " in line and "arrivals up to" in line
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert err.endswith("meterlake: stopped. The next pull continues from here\n")
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("told", "variables", "code", "words"),
    [
        ({"host_key": None}, {}, 1, "is not known yet: it shows SHA256:"),
        ({"host_key": "SHA256:" + "A" * 43}, {}, 1, "The connection may be intercepted"),
        ({}, {"HES_PASSWORD": "wrong"}, 1, "does not let 'meterlake' in with this password"),
        ({"user": "root"}, {}, 1, "does not let 'root' in"),
        ({"host_key": "ssh-ed25519"}, {}, 1, "host_key needs to be a public key"),
        ({"url": "http://127.0.0.1:1"}, {}, 3, "does not answer"),
        ({"sftp": "127.0.0.1:1"}, {}, 3, "cannot be reached"),
    ],
    ids=["unknown key", "other key", "password", "user", "no key", "no api", "no sftp"],
)
def test_what_is_wrong_is_said_with_what_to_do(
    shell: Shell, told: dict[str, Any], variables: dict[str, str], code: int, words: str
) -> None:
    shell.write(**told)
    found, out, err = shell.run("pull", **variables)
    assert found == code and words in err, err
    assert "Traceback" not in err and SECRET not in out + err and "wrong" not in out + err
    _, out, _ = shell.run("status", "--output", "json")
    [status] = json.loads(out)["integrations"]
    assert status["state"] == "failed" and words in status["last_error"]
    assert status["cursor"] is None


def test_known_hosts_vouch_for_the_server(shell: Shell) -> None:
    known = shell.folder / "known_hosts"
    known.write_text(shell.hes.known_hosts + "\n")
    shell.write(host_key=None, known_hosts=str(known), window_hours=1000)
    code, _, err = shell.run("pull", "--no-integrate")
    assert (code, err) == (0, "")
    other = shell.hes.known_hosts.rpartition(" ")[0] + " " + _another_key()
    known.write_text(other + "\n")
    shell.write(host_key=None, known_hosts=str(known))
    (shell.folder / "lake").rename(shell.folder / "before")
    code, _, err = shell.run("pull", "--no-integrate")
    assert code == 1 and "The connection may be intercepted" in err


def _another_key() -> str:
    key = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    return key.split()[1]


def test_a_private_key_in_a_passwords_place(tmp_path: Path) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(str(tmp_path / "key"))
    key.write_public_key(str(tmp_path / "key.pub"))
    options = ("--authorized-keys", str(tmp_path / "key.pub"))
    with serving(tmp_path / "hes", *FLEET, *options) as hes:
        shell = Shell(tmp_path, hes)
        shell.write(password_env=None, key_file="key", window_hours=1000)
        code, _, err = shell.run("pull", "--no-integrate")
        assert (code, err) == (0, "")


def test_a_download_goes_on_from_where_the_part_ends(
    server: Server, file: dict[str, Any], hes: Hes, tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    fetch(server, file["sftp_location"], whole, size=file["size"])
    content = whole.read_bytes()
    assert len(content) == file["size"]
    part = tmp_path / "part"
    # What is there already is not asked for again: other bytes stay.
    part.write_bytes(b"x" * 1000)
    fetch(server, file["sftp_location"], part, size=file["size"])
    assert part.read_bytes() == b"x" * 1000 + content[1000:]


def test_no_more_is_fetched_than_was_announced(
    server: Server, file: dict[str, Any], tmp_path: Path
) -> None:
    fetch(server, file["sftp_location"], tmp_path / "file", size=100)
    assert (tmp_path / "file").stat().st_size == 100


def test_a_file_that_is_not_there_is_said_so(server: Server, tmp_path: Path) -> None:
    with pytest.raises(FileUnavailable, match="has no file '/outbox/none'"):
        fetch(server, "/outbox/none", tmp_path / "file", size=1)


def test_who_was_refused_the_key_was_told_nothing(
    server: Server, file: dict[str, Any], tmp_path: Path
) -> None:
    stranger = replace(server, host_key=None)
    with pytest.raises(BadInput, match="not known yet"):
        fetch(stranger, file["sftp_location"], tmp_path / "file", size=1)
    assert not (tmp_path / "file").exists()


def test_an_end_in_the_midst_of_a_download_leaves_its_part(
    server: Server, file: dict[str, Any], tmp_path: Path
) -> None:
    class Cut(BaseException):
        pass

    def cut(done: int) -> None:
        raise Cut

    with pytest.raises(Cut):
        fetch(server, file["sftp_location"], tmp_path / "file", size=file["size"], seen=cut)
    assert (tmp_path / "file").stat().st_size > 0


KINDS = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["key", "fingerprint", "known_hosts"])
def test_a_server_with_several_keys_is_known_by_any_of_them(
    tmp_path: Path, kind: str, how: str, several: dict[str, asyncssh.SSHKey]
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_bytes(b"content")
    with sftp_server(tmp_path / "there", keys=list(several.values())) as (port, _):
        public = several[kind].export_public_key().decode().strip()
        (tmp_path / "known").write_text(f"[127.0.0.1]:{port} {public}\n")
        ways: dict[str, dict[str, Any]] = {
            "key": {"host_key": public},
            "fingerprint": {"host_key": several[kind].get_fingerprint()},
            "known_hosts": {"known_hosts": tmp_path / "known"},
        }
        server = Server("127.0.0.1", port, USER, SecretStr(PASSWORD), **ways[how])
        fetch(server, "/file", tmp_path / "here", size=7)
        assert (tmp_path / "here").read_bytes() == b"content"
        other = asyncssh.generate_private_key(kind).get_fingerprint()
        with pytest.raises(BadInput, match="The connection may be intercepted") as raised:
            fetch(replace(server, host_key=other), "/file", tmp_path / "here", size=7)
        assert str(raised.value).count("SHA256:") == 3


@pytest.mark.parametrize(
    ("answers", "error", "words", "asked"),
    [(1, BadInput, "The connection may be intercepted", 7), (0, Unavailable, "broke off", 1)],
    ids=["it lacks a kind", "it breaks off"],
)
def test_a_server_that_hangs_up_is_known_from_one_that_lacks_a_kind_of_key(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    answers: int, error: type[Exception], words: str, asked: int,
) -> None:  # fmt: skip
    real, kinds = asyncssh.connect, list[Any]()

    async def connect(*arguments: Any, **options: Any) -> asyncssh.SSHClientConnection:
        kinds.append(options["server_host_key_algs"])
        if len(kinds) > answers:
            raise asyncssh.ConnectionLost("Connection lost")
        return await real(*arguments, **options)

    monkeypatch.setattr(asyncssh, "connect", connect)
    other = replace(server, host_key="SHA256:" + "A" * 43)
    with pytest.raises(error, match=words):
        fetch(other, "/file", tmp_path / "here", size=7)
    assert len(kinds) == asked


@pytest.fixture(scope="module")
def several() -> dict[str, asyncssh.SSHKey]:
    return {kind: asyncssh.generate_private_key(kind) for kind in KINDS}


def test_a_server_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meterlake.sources.sftp._SILENCE_SECONDS", 0.3)
    with sftp_server(tmp_path, hangs=True) as (port, key):
        server = Server("127.0.0.1", port, USER, SecretStr(PASSWORD), host_key=key)
        with pytest.raises(Unavailable, match="broke off"):
            fetch(server, "/file", tmp_path / "here", size=7)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"[127.0.0.1 nonsense\n", b""])
def test_known_hosts_that_are_none_are_refused(
    server: Server, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "known").write_bytes(content)
    strange = replace(server, host_key=None, known_hosts=tmp_path / "known")
    with pytest.raises(BadInput, match="known"):
        fetch(strange, "/file", tmp_path / "here", size=7)


def test_a_private_key_that_is_not_there_is_said_so(server: Server, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="key_file needs to be a file; there is none at"):
        fetch(replace(server, key_file=tmp_path / "none"), "/f", tmp_path / "here", size=7)


@pytest.mark.parametrize(("arguments", "code"), [([], 143), (["--every", "1m"], 0)])
def test_it_ends_at_once_while_it_waits_for_an_answer(
    shell: Shell, arguments: list[str], code: int
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        shell.write(url=f"http://127.0.0.1:{silent.getsockname()[1]}")
        with shell.start("pull", *arguments) as process:
            asking, _ = silent.accept()
            with asking:
                asking.settimeout(60)
                assert asking.recv(1) == b"G"  # it asks, and waits
                process.terminate()
                _, err = process.communicate(timeout=20)  # of the 30 s that it would wait
    assert process.returncode == code
    assert err == "meterlake: stopped. The next pull continues from here\n"
    _, out, _ = shell.run("status", "--output", "json")
    assert json.loads(out)["integrations"][0]["state"] == "idle"


@pytest.mark.proof
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs leave to mount a tmpfs")
def test_a_full_disk_is_said_so_and_the_next_pull_goes_on(shell: Shell) -> None:
    """The parts of files lie on a disk of a few kB; then there is space."""
    disk = shell.folder / "cache"
    disk.mkdir()
    command = f"mount -t tmpfs -o size=16k tmpfs {disk} && {sys.executable} -m meterlake hes pull"
    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", command], cwd=shell.folder,
        env=os.environ | {"HES_PASSWORD": SECRET, "XDG_CACHE_HOME": str(disk)},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    if "mount" in done.stderr and "permitted" in done.stderr:
        pytest.skip("needs leave to mount a tmpfs")
    assert done.returncode == 3 and "No space left on device" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    code, out, _ = shell.run("pull", "--output", "json")
    assert code == 0
    assert has_what_the_head_end_has(shell, json.loads(out)["pulled"][0]["cursor"])


def test_two_pullers_bring_everything_once(shell: Shell) -> None:
    shell.write(window_hours=8)
    with shell.start("pull") as first, shell.start("pull") as second:
        ended = [(p.communicate(timeout=120)[1], p.returncode) for p in (first, second)]
    assert {code for _, code in ended} in ({0}, {0, 3}), ended
    assert all("one process at a time" in err for err, code in ended if code == 3), ended
    _, out, _ = shell.run("pull", "--output", "json")
    store = open_store(str(shell.folder / "lake"))
    counts = query(
        store,
        "SELECT count(DISTINCT (source_file, source_row)) AS n, "
        "count(DISTINCT (meter_id, reading_date_time)) AS d FROM staging",
    ).row(0)
    assert counts[0] == counts[1]
    assert has_what_the_head_end_has(shell, json.loads(out)["pulled"][0]["cursor"])
