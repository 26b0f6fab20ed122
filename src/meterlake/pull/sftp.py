"""Files of an SFTP server whose key is known, fetched on from where it broke off."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

from meterlake.errors import BadInput, Unavailable
from meterlake.storage import cause

try:
    import asyncssh
except ImportError as error:
    raise BadInput("SFTP needs asyncssh: pip install 'meterlake[hes]'") from error

PIECE_BYTES = 1024 * 1024
_SILENCE_SECONDS = 60.0  # without a piece of the file
_SIGN_IN_SECONDS = 20.0


@dataclass(frozen=True)
class Server:
    """An SFTP server, who we are there, and how its key is known.

    `host_key` is a public key (`ssh-ed25519 AAAA…`) or its fingerprint (`SHA256:…`); without it
    `known_hosts` is a file as OpenSSH keeps it.
    """

    host: str
    port: int
    user: str
    password: SecretStr | None = field(default=None, repr=False)
    key_file: Path | None = None
    host_key: str | None = None
    known_hosts: Path | None = None


def download(
    server: Server,
    remote: str,
    path: Path,
    *,
    size: int,
    seen: Callable[[int], object] = lambda done: None,
) -> None:
    """Fetch a file, from where `path` ends; it is never more than `size` bytes.

    Parameters
    ----------
    seen : is told how many bytes are here, again and again; what it raises ends it

    Raises
    ------
    BadInput
        The server's key is not the known one, or it does not let us in, or has no such file.
    Unavailable
        It cannot be reached, broke off, or there is no space here.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        asyncio.run(_download(server, remote, path, size, seen))
    except asyncssh.SFTPNoSuchFile as error:
        raise Unavailable(f"The SFTP server has no file '{remote}': {error.reason}") from error
    except (asyncssh.Error, TimeoutError, EOFError) as error:
        raise Unavailable(broke_off(server, error)) from error
    except ConnectionError as error:
        raise Unavailable(broke_off(server, error)) from error
    except OSError as error:
        raise Unavailable(
            f"'{remote}' cannot be fetched from {server.host}:{server.port}, or kept in "
            f"{path.parent}: {error.strerror or error}. Check that the one is there and the other "
            "has space"
        ) from error


async def _download(
    server: Server, remote: str, path: Path, size: int, seen: Callable[[int], object]
) -> None:
    async with (
        Connected(server) as connection,
        connection.start_sftp_client() as sftp,
    ):
        await fetch(sftp, remote, path, size, seen)


async def fetch(
    sftp: asyncssh.SFTPClient, remote: str, path: Path, size: int, seen: Callable[[int], object]
) -> None:
    """Fetch a file by a connection that there is, from where `path` ends."""
    async with sftp.open(remote, "rb") as file:
        with path.open("ab") as out:
            done = out.tell()
            while done < size:
                wanted = min(PIECE_BYTES, size - done)
                piece = await asyncio.wait_for(file.read(wanted, done), _SILENCE_SECONDS)
                if not piece:
                    return
                out.write(bytes(piece))  # type: ignore[arg-type]  # of a file opened as bytes
                out.flush()
                done += len(piece)
                seen(done)


class Connected:
    """A connection while a context lasts; made only where the server's key is the known one."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._connection: asyncssh.SSHClientConnection | None = None

    async def __aenter__(self) -> asyncssh.SSHClientConnection:
        server = self._server
        found: list[str] = []
        try:
            self._connection = await asyncssh.connect(
                server.host,
                server.port,
                username=server.user,
                password=None if server.password is None else server.password.get_secret_value(),
                client_keys=None if server.key_file is None else [str(server.key_file)],
                known_hosts=_known(server),
                client_factory=lambda: _Client(server.host_key, found),
                agent_path=None,
                config=None,
                preferred_auth="publickey,password",
                connect_timeout=_SIGN_IN_SECONDS,
                login_timeout=_SIGN_IN_SECONDS,
                keepalive_interval=15,
            )
        except asyncssh.HostKeyNotVerifiable as error:
            raise BadInput(_unknown(server, found)) from error
        except asyncssh.PermissionDenied as error:
            means = "password" if server.key_file is None else f"key {server.key_file}"
            raise BadInput(
                f"{at(server)} does not let '{server.user}' in with this {means}. Check the "
                "integration's user and password_env, password_file or key_file"
            ) from error
        except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
            raise BadInput(f"key_file {server.key_file} cannot be used: {cause(error)}") from error
        return self._connection

    async def __aexit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.abort()


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
        return self._pinned is not None and _fingerprint(self._pinned) == fingerprint


def _known(server: Server) -> bytes | str:
    """Known hosts as asyncssh reads them; with a pinned key there are none."""
    if server.host_key is not None or server.known_hosts is None:
        return b""
    if not server.known_hosts.is_file():
        raise BadInput(f"known_hosts needs to be a file; there is none at {server.known_hosts}")
    return str(server.known_hosts)


def _fingerprint(pinned: str) -> str:
    if pinned.startswith("SHA256:"):
        return pinned.rstrip("=")
    try:
        return asyncssh.import_public_key(pinned).get_fingerprint()
    except asyncssh.KeyImportError as error:
        raise BadInput(
            "host_key needs to be a public key such as 'ssh-ed25519 AAAA…' or a fingerprint such "
            "as 'SHA256:…'; found neither"
        ) from error


def _unknown(server: Server, found: list[str]) -> str:
    shown = f"it shows {found[0]}" if found else "it shows one that cannot be used"
    known = server.host_key or server.known_hosts
    if known is None:
        return (
            f"{at(server)} is not known yet: {shown}. Ask whoever runs it whether that is its "
            "key; if so, set host_key to it in meterlake.toml"
        )
    named = "host_key" if server.host_key else f"a key of {server.known_hosts}"
    return (
        f"{at(server)} needs to show {named}; {shown}. Somebody may stand in between, so "
        "nothing was sent. Ask whoever runs it whether its key was changed; if so, set host_key "
        "to the new one in meterlake.toml"
    )


def broke_off(server: Server, error: Exception) -> str:
    """Words for a connection that there is not, or no longer."""
    return (
        f"{at(server)} cannot be reached, or broke off: {cause(error)}. What is here is kept; "
        "the next pull goes on from there"
    )


def at(server: Server) -> str:
    """What messages call a server."""
    return f"The SFTP server {server.host}:{server.port}"
