"""An SFTP server whose key is known: one connection, by which files are fetched on and moved."""

import asyncio
import stat
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from meterlake.errors import BadInput, Unavailable, plain
from meterlake.source_settings import Address
from meterlake.sources.fetcher import PIECE_BYTES, Credentials, write_pieces
from meterlake.sources.port import FileUnavailable, Listed, Seen, SourceFile, Version, Wanted
from meterlake.storage import cause

try:
    import asyncssh
except ImportError as error:
    raise BadInput("SFTP needs asyncssh: pip install 'meterlake[hes]'") from error

Result = TypeVar("Result")

_KINDS = (  # of host keys, those first that are liked most
    ("ssh-ed25519",),
    ("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"),
    ("rsa-sha2-512", "rsa-sha2-256"),
)
_SILENCE_SECONDS = 60.0  # without a piece of the file
_SIGN_IN_SECONDS = 20.0
_TRIES = 3  # of a kind of host key, where the server hangs up without having shown one


class SftpPlace:
    """The files of an SFTP server; nothing is sent to one whose key is not the known one."""

    is_atomic = False

    def __init__(self, address: Address, who: Credentials) -> None:
        self._at = f"The SFTP server {address.host}:{address.port}"
        self._runner = asyncio.Runner()
        self._connection = _Connection(self._at, address, who)

    def entries(self, folder: str, wanted: Wanted) -> Iterator[Listed]:
        """Files and folders in a folder, of the wanted names."""

        async def listed(sftp: asyncssh.SFTPClient) -> list[tuple[str, asyncssh.SFTPAttrs]]:
            return [(str(one.filename), one.attrs) async for one in sftp.scandir(folder or ".")]

        try:
            found = self._run(listed)
        except asyncssh.SFTPError as error:
            raise Unavailable(f"{self._at} does not list '{folder}': {error.reason}") from error
        for name, attrs in sorted(found, key=lambda one: one[0]):
            if name in (".", "..") or not wanted(name):
                continue
            mode = attrs.permissions
            if mode is None or attrs.size is None or stat.S_ISLNK(mode):
                looked = self._stat(folder + name)
                if looked is None:
                    continue
                attrs, mode = looked, looked.permissions
            if mode is not None and (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                yield Listed(name, _version(attrs))

    def version(self, path: str) -> Version | None:
        """A file as it is now; None: there is none."""
        attrs = self._stat(path)
        return None if attrs is None else _version(attrs)

    def fetch(self, file: SourceFile, to: Path, *, seen: Seen) -> None:
        """Fetch a file, from where `to` ends."""
        try:
            opened = self._run(partial(_open, file.path), _SILENCE_SECONDS)
            pieces = self._pieces(
                opened, to.stat().st_size if to.exists() else 0, file.version.size
            )
            write_pieces(pieces, to, size=file.version.size, seen=seen)
            self._run(lambda _: opened.close())
        except asyncssh.SFTPError as error:
            raise FileUnavailable(
                f"{self._at} has no file '{file.path}' for us: {plain(error.reason)}"
            ) from error

    def rename(self, path: str, to: str) -> None:
        """Give a file another path, whose folder is made where there is none."""

        async def renamed(sftp: asyncssh.SFTPClient) -> None:
            if folder := to.rpartition("/")[0]:
                await sftp.makedirs(folder, exist_ok=True)
            await sftp.rename(path, to)

        try:
            self._run(renamed)
        except asyncssh.SFTPError as error:
            raise FileUnavailable(
                f"{self._at} does not let '{path}' become '{to}': {error.reason}. It was "
                "taken in; allow renaming there, or set after to keep"
            ) from error

    def close(self) -> None:
        """Let go of the connection."""
        self._runner.run(self._connection.close())
        self._runner.close()

    def _pieces(self, opened: asyncssh.SFTPClientFile, start: int, end: int) -> Iterator[bytes]:
        while start < end:
            size = min(PIECE_BYTES, end - start)
            piece = self._run(partial(_read, opened, size, start), _SILENCE_SECONDS)
            if not piece:
                return
            start += len(piece)
            yield piece

    def _stat(self, path: str) -> asyncssh.SFTPAttrs | None:
        try:
            return self._run(lambda sftp: sftp.stat(path))
        except asyncssh.SFTPError:
            return None

    def _run(
        self,
        asked: Callable[[asyncssh.SFTPClient], Coroutine[Any, Any, Result]],
        seconds: float | None = None,
    ) -> Result:
        async def answered() -> Result:
            sftp = await self._connection.made()
            async with asyncio.timeout(seconds):
                return await asked(sftp)

        try:
            return self._runner.run(answered())
        except (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection) as error:
            raise Unavailable(self._broke_off(error)) from error
        except asyncssh.SFTPError:
            raise
        except (asyncssh.Error, TimeoutError, EOFError, OSError) as error:
            raise Unavailable(self._broke_off(error)) from error

    def _broke_off(self, error: Exception) -> str:
        return (
            f"{self._at} cannot be reached, or broke off: {plain(cause(error))}. The part "
            "received so far is kept; the next pull resumes it"
        )


async def _open(path: str, sftp: asyncssh.SFTPClient) -> asyncssh.SFTPClientFile:
    return await sftp.open(path, "rb")


async def _read(
    opened: asyncssh.SFTPClientFile, size: int, offset: int, _: asyncssh.SFTPClient
) -> bytes:
    return await opened.read(size, offset)


def _version(attrs: asyncssh.SFTPAttrs) -> Version | None:
    """A file's version, to the second; None of what is no plain file."""
    if attrs.permissions is None or attrs.size is None or not stat.S_ISREG(attrs.permissions):
        return None
    return Version(attrs.size, datetime.fromtimestamp(attrs.mtime or 0, UTC))


class _Connection:
    """SFTP, made when it is first needed; with a server only whose key is the known one."""

    def __init__(self, at: str, address: Address, who: Credentials) -> None:
        self._at = at
        self._host, self._port = address.host, address.port or 22
        self._who = who
        self._connection: asyncssh.SSHClientConnection | None = None
        self._sftp: asyncssh.SFTPClient | None = None

    async def made(self) -> asyncssh.SFTPClient:
        self._sftp = self._sftp or await self._signed_in()
        return self._sftp

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.abort()

    async def _signed_in(self) -> asyncssh.SFTPClient:
        who, found = self._who, list[str]()
        if who.key_file is not None and not who.key_file.is_file():
            raise BadInput(f"key_file needs to be a file; there is none at {who.key_file}")
        known = _known(who)
        # A server has keys of several kinds and shows the one that is asked for first. Of what is
        # pinned by its fingerprint the kind is not known: each is asked for in turn.
        is_fingerprint = who.host_key is not None and known is None
        kinds = _KINDS if is_fingerprint else (sum(_KINDS, ()),)
        refused: Exception | None = None
        for kind in kinds:
            for left in reversed(range(_TRIES)):
                shown = len(found)
                try:
                    self._connection = await self._connect(kind, known, found)
                    async with asyncio.timeout(_SIGN_IN_SECONDS):
                        return await self._connection.start_sftp_client()
                except (asyncssh.HostKeyNotVerifiable, asyncssh.KeyExchangeFailed) as error:
                    refused = error
                    break
                except asyncssh.ConnectionLost:
                    # A server without a key of this kind hangs up, and what it says of that may
                    # be lost. One that has shown another key, and none in several tries, has none.
                    if refused is None or len(found) > shown:
                        raise
                    if not left:
                        break
        raise BadInput(self._unknown(found)) from refused

    async def _connect(
        self, kind: tuple[str, ...], known: asyncssh.SSHKnownHosts | None, found: list[str]
    ) -> asyncssh.SSHClientConnection:
        who = self._who
        try:
            return await asyncssh.connect(
                self._host,
                self._port,
                username=who.user or "",
                password=None if who.secret is None else who.secret.get_secret_value(),
                client_keys=None if who.key_file is None else [str(who.key_file)],
                known_hosts=b"" if known is None else known,
                server_host_key_algs=kind if known is None else (),
                client_factory=lambda: _Client(who.host_key, found),
                agent_path=None,
                config=None,
                preferred_auth="publickey,password",
                connect_timeout=_SIGN_IN_SECONDS,
                login_timeout=_SIGN_IN_SECONDS,
                keepalive_interval=15,
            )
        except asyncssh.PermissionDenied as error:
            means = "password" if who.key_file is None else f"key {who.key_file}"
            raise BadInput(
                f"{self._at} does not let '{who.user}' in with this {means}. Check user, and "
                "password_env, password_file or key_file"
            ) from error
        except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
            raise BadInput(f"key_file {who.key_file} cannot be used: {cause(error)}") from error

    def _unknown(self, found: list[str]) -> str:
        who = self._who
        shown = f"it shows {' and '.join(found)}" if found else "it shows none that can be used"
        known = who.host_key or who.known_hosts
        if known is None:
            return (
                f"{self._at} is not known yet: {shown}. Ask its operator whether that is its "
                "key; if so, set host_key to it in meterlake.toml"
            )
        named = "the key of host_key" if who.host_key else f"a key of {who.known_hosts}"
        return (
            f"{self._at} needs to show {named}; {shown}. The connection may be intercepted, so "
            "nothing was sent. Ask its operator whether its key was changed; if so, set "
            "host_key to the new one in meterlake.toml"
        )


class _Client(asyncssh.SSHClient):
    """Asked about a key that no known_hosts vouches for."""

    def __init__(self, pinned: str | None, found: list[str]) -> None:
        self._pinned = pinned
        self._found = found

    def validate_host_public_key(
        self, host: str, addr: str, port: int, key: asyncssh.SSHKey
    ) -> bool:
        fingerprint = key.get_fingerprint()
        self._found.append(fingerprint)
        return self._pinned is not None and self._pinned.rstrip("=") == fingerprint


def _known(who: Credentials) -> asyncssh.SSHKnownHosts | None:
    """The keys that are known, of which kind too; None: none is, or by its fingerprint alone."""
    pinned = who.host_key
    try:
        if pinned is not None:
            if pinned.startswith("SHA256:"):
                return None
            key = asyncssh.import_public_key(pinned).export_public_key().decode()
            return asyncssh.import_known_hosts(f"* {key}")
        if who.known_hosts is None:
            return None
        return asyncssh.read_known_hosts(str(who.known_hosts))
    except FileNotFoundError as error:
        raise BadInput(
            f"known_hosts needs to be a file; there is none at {who.known_hosts}"
        ) from error
    except (asyncssh.KeyImportError, ValueError, OSError) as error:
        if pinned is not None:
            raise BadInput(
                "host_key needs to be a public key such as 'ssh-ed25519 AAAA…' or a fingerprint "
                "such as 'SHA256:…'; found neither"
            ) from error
        raise BadInput(
            f"known_hosts needs to be as OpenSSH keeps it; {who.known_hosts} cannot be read: "
            f"{cause(error)}"
        ) from error
