"""The SFTP server: who gets in, what they get, and that there is no way out or in."""

import asyncio
import hashlib
import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from meterlake.errors import BadInput
from meterlake.simulate.head_end.faults import Faults, read_faults
from meterlake.simulate.head_end.sftp import Login, host_key, serving, write_secret

HOST = "127.0.0.1"
LOGIN = Login("meterlake", "right")
CONTENT = bytes(range(256)) * 4000  # several reads of a client

Work = Callable[[asyncssh.SFTPClient], Awaitable[Any]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A jail with a file, and a file beside it."""
    jail = tmp_path / "sftp"
    (jail / "outbox").mkdir(parents=True)
    (jail / "outbox" / "a.csv.gz").write_bytes(CONTENT)
    (tmp_path / "password").write_text("secret")
    (tmp_path / "sftp-not").mkdir()
    (tmp_path / "sftp-not" / "b").write_text("secret")
    return jail


def asked(
    root: Path,
    *works: Work,
    on_connection: Callable[[asyncssh.SSHClientConnection], Awaitable[Any]] | None = None,
    login: Login = LOGIN,
    faults: str = "",
    **given: Any,
) -> Any:
    """What the last work gives, each on a connection of its own."""
    key = host_key(root.parent / "host_key")
    struck = Faults(read_faults(faults.split()), seed=1)

    async def run() -> Any:
        async with serving(root, key, login, struck, host=HOST, port=0) as port:
            known = asyncssh.import_known_hosts(f"[{HOST}]:{port} {key.public}\n")
            usual = {
                "username": "meterlake", "password": "right", "known_hosts": known,
                "client_keys": None, "agent_path": None, "config": None,
            }  # fmt: skip
            found = None
            for work in works:
                async with (
                    asyncssh.connect(HOST, port, **{**usual, **given}) as connection,
                    connection.start_sftp_client() as client,
                ):
                    found = await work(client)
            if on_connection is not None:
                async with asyncssh.connect(HOST, port, **{**usual, **given}) as connection:
                    await on_connection(connection)
            return found

    return asyncio.run(run())


def reading(path: str) -> Work:
    async def read(client: asyncssh.SFTPClient) -> bytes:
        async with client.open(path, "rb", block_size=20_000) as file:
            content = await file.read()
            assert isinstance(content, bytes)
            return content

    return read


# --- who gets in


@pytest.mark.parametrize(
    "given",
    [
        {"password": "wrong"}, {"password": ""}, {"username": "root"}, {"username": ""},
        {"username": "meterlake2"}, {"password": None},
    ],
)  # fmt: skip
def test_who_is_not_the_user_or_has_another_password_is_refused(
    root: Path, given: dict[str, Any]
) -> None:
    with pytest.raises((asyncssh.PermissionDenied, asyncssh.ConnectionLost)):
        asked(root, reading("/outbox/a.csv.gz"), **given)


def test_a_public_key_of_the_file_lets_the_user_in_and_nobody_else(
    root: Path, tmp_path: Path
) -> None:
    known, other = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    file = tmp_path / "authorized_keys"
    file.write_bytes(b"# ours\n" + known.export_public_key())
    login = Login("meterlake", "right", file)
    work = reading("/outbox/a.csv.gz")
    none: dict[str, Any] = {"login": login, "password": None}
    assert asked(root, work, client_keys=[known], **none) == CONTENT
    assert asked(root, work, login=login) == CONTENT  # the password still does
    for refused in ({"client_keys": [other]}, {"client_keys": [known], "username": "root"}):
        with pytest.raises(asyncssh.PermissionDenied):
            asked(root, work, **none, **refused)


def test_a_file_without_public_keys_is_refused_with_words(root: Path, tmp_path: Path) -> None:
    (tmp_path / "bad").write_text("no key at all\n")
    for name in ("bad", "absent"):
        login = Login("meterlake", "right", tmp_path / name)
        with pytest.raises(BadInput, match="--authorized-keys"):
            asked(root, reading("/"), login=login)


def test_the_host_key_is_made_once_and_nobody_elses(tmp_path: Path) -> None:
    path = tmp_path / "host_key"
    key = host_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert key.public.startswith("ssh-ed25519 ") and key.fingerprint.startswith("SHA256:")
    assert host_key(path).public == key.public
    path.write_text("something else")
    with pytest.raises(BadInput, match="Remove it"):
        host_key(path)


def test_a_secret_is_never_readable_for_others(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_secret(tmp_path / "secret", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600


# --- what they get


def test_files_are_listed_and_read(root: Path) -> None:
    async def listed(client: asyncssh.SFTPClient) -> Any:
        size = (await client.stat("outbox/a.csv.gz")).size
        return sorted(await client.listdir("/outbox")), size, await client.realpath(".")

    assert asked(root, listed) == ([".", "..", "a.csv.gz"], len(CONTENT), "/")
    for path in ("/outbox/a.csv.gz", "outbox/a.csv.gz", "/../../outbox/./a.csv.gz"):
        assert asked(root, reading(path)) == CONTENT


def everything(jail: Path) -> dict[str, Any]:
    """Each path with all that could be changed about it, but for when it was read."""
    told = {}
    for path in sorted([jail, *jail.rglob("*")]):
        of = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        told[str(path)] = of.st_mode, of.st_uid, of.st_nlink, of.st_mtime_ns, content
    return told


FILE = "/outbox/a.csv.gz"


async def _written(client: asyncssh.SFTPClient) -> None:
    async with client.open(FILE, "rb") as file:
        await file.setstat(asyncssh.SFTPAttrs(permissions=0o777))


CHANGES: dict[str, Work] = {
    "write": lambda c: c.open(FILE, "wb"),
    "append": lambda c: c.open(FILE, "ab"),
    "write and read": lambda c: c.open(FILE, "r+b"),
    "create": lambda c: c.open("/outbox/new", "xb"),
    "truncate": lambda c: c.open(FILE, asyncssh.FXF_READ | asyncssh.FXF_TRUNC),
    "truncate alone": lambda c: c.truncate(FILE, 0),
    "remove": lambda c: c.remove(FILE),
    "rename": lambda c: c.rename(FILE, "/outbox/b"),
    "posix rename": lambda c: c.posix_rename(FILE, "/outbox/b"),
    "mkdir": lambda c: c.mkdir("/new"),
    "rmdir": lambda c: c.rmdir("/outbox"),
    "chmod": lambda c: c.chmod(FILE, 0o777),
    "chown": lambda c: c.chown(FILE, 1, 1),
    "utime": lambda c: c.utime(FILE, (1, 1)),
    "fsetstat": _written,
    "symlink": lambda c: c.symlink("/etc/passwd", "/outbox/l"),
    "link": lambda c: c.link(FILE, "/outbox/l"),
    "readlink": lambda c: c.readlink(FILE),
    "statvfs": lambda c: c.statvfs(FILE),
}


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_can_be_changed(root: Path, change: str) -> None:
    before = everything(root)
    with pytest.raises((asyncssh.SFTPPermissionDenied, asyncssh.SFTPOpUnsupported)):
        asked(root, CHANGES[change])
    assert everything(root) == before


def test_whatever_asyncssh_can_do_is_allowed_or_refused_on_purpose() -> None:
    from meterlake.simulate.head_end.sftp import _Files

    harmless = {
        "channel", "connection", "convert_attrs", "env", "exit", "format_group",
        "format_longname", "format_user", "logger", "lstat", "realpath", "reverse_map_path",
        "scandir", "stat",
    }  # fmt: skip
    known = {name for name in vars(asyncssh.SFTPServer) if not name.startswith("_")}
    assert known - set(vars(_Files)) <= harmless


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../password", "/outbox/../../password", "/outbox/out", "/outbox/up/password",
     "/outbox/beside/b", "/outbox/near"],
)  # fmt: skip
def test_no_path_leads_out_of_the_jail(root: Path, path: str) -> None:
    outbox = root / "outbox"
    (outbox / "out").symlink_to(root.parent / "password")
    (outbox / "up").symlink_to("../..")
    (outbox / "beside").symlink_to(root.parent / "sftp-not")
    (outbox / "near").symlink_to("../../password")
    works: list[Work] = [
        reading(path), lambda c: c.stat(path), lambda c: c.lstat(path), lambda c: c.realpath(path),
        lambda c: c.listdir(path),
    ]  # fmt: skip
    for number, work in enumerate(works):
        try:
            found = asked(root, work)
        except asyncssh.SFTPError:
            continue
        assert number == 3 and "outbox" not in found  # a path within, of nothing


def test_there_are_no_commands_no_shell_and_no_tunnels(root: Path) -> None:
    async def tried(connection: asyncssh.SSHClientConnection) -> None:
        for command in ("id", None, "scp -f /outbox/a.csv.gz"):
            with pytest.raises(asyncssh.ChannelOpenError):
                await connection.run(command, check=True)
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.open_connection("127.0.0.1", 22)
        with pytest.raises(asyncssh.ChannelListenError):
            await connection.forward_remote_port("127.0.0.1", 0, "127.0.0.1", 22)

    asked(root, on_connection=tried)


# --- faults


def test_a_truncated_file_is_cut_short_and_another_attempt_is_not(root: Path) -> None:
    async def sized(client: asyncssh.SFTPClient) -> Any:
        async with client.open(FILE, "rb") as file:
            return (await file.stat()).size, await file.read()

    assert asked(root, sized, faults="truncate:100") == (
        len(CONTENT) // 2, CONTENT[: len(CONTENT) // 2]
    )  # fmt: skip
    sizes = [len(asked(root, *[reading(FILE)] * n, faults="truncate:50")) for n in range(1, 7)]
    assert set(sizes) == {len(CONTENT) // 2, len(CONTENT)}


def test_a_dropped_transfer_ends_in_the_middle(root: Path) -> None:
    got: list[bytes] = []

    async def read(client: asyncssh.SFTPClient) -> None:
        async with client.open(FILE, "rb", block_size=0) as file:
            while piece := await file.read(50_000):
                assert isinstance(piece, bytes)
                got.append(piece)

    with pytest.raises((asyncssh.SFTPConnectionLost, asyncssh.ConnectionLost)):
        asked(root, read, faults="drop:100")
    assert b"".join(got) == CONTENT[: len(CONTENT) // 2]


def test_a_slow_transfer_is_held_up(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("meterlake.simulate.head_end.sftp.asyncio.sleep", sleep)
    assert asked(root, reading(FILE), faults="slow:100") == CONTENT
    assert waits == [3.0]
