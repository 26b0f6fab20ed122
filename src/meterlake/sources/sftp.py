"""Files of an SFTP server whose key is known, fetched on from where it broke off."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

from meterlake.errors import BadInput, Unavailable, plain
from meterlake.sources.received import FileUnavailable
from meterlake.storage import cause

try:
    import asyncssh
except ImportError as error:
    raise BadInput("SFTP needs asyncssh: pip install 'meterlake[hes]'") from error

_KINDS = (  # of host keys, those first that are liked most
    ("ssh-ed25519",),
    ("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"),
    ("rsa-sha2-512", "rsa-sha2-256"),
)
PIECE_BYTES = 1024 * 1024
_SILENCE_SECONDS = 60.0  # without a piece of the file
_SIGN_IN_SECONDS = 20.0
_TRIES = 3  # of a kind of host key, where the server hangs up without having shown one


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
    except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPPermissionDenied) as error:
        raise FileUnavailable(
            f"{at(server)} has no file '{remote}' for us: {plain(error.reason)}. The next pull "
            "orders it again"
        ) from error
    except (asyncssh.Error, TimeoutError, EOFError, ConnectionError) as error:
        raise Unavailable(broke_off(server, error)) from error
    except OSError as error:
        raise Unavailable(
            f"'{path.name}' cannot be kept in {path.parent}: {error.strerror or error}. Check that "
            "it has space and may be written"
        ) from error


async def _download(
    server: Server, remote: str, path: Path, size: int, seen: Callable[[int], object]
) -> None:
    async with Connected(server) as sftp:
        await fetch(sftp, remote, path, size, seen)


async def fetch(
    sftp: asyncssh.SFTPClient, remote: str, path: Path, size: int, seen: Callable[[int], object]
) -> None:
    """Fetch a file by a connection that there is, from where `path` ends."""
    async with asyncio.timeout(_SILENCE_SECONDS):
        file = await sftp.open(remote, "rb")
    async with file:
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
    """SFTP while a context lasts; with a server only whose key is the known one."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._connection: asyncssh.SSHClientConnection | None = None

    async def __aenter__(self) -> asyncssh.SFTPClient:
        server, found = self._server, list[str]()
        if server.key_file is not None and not server.key_file.is_file():
            raise BadInput(f"key_file needs to be a file; there is none at {server.key_file}")
        known = _known(server)
        # A server has keys of several kinds and shows the one that is asked for first. Of what is
        # pinned by its fingerprint the kind is not known: each is asked for in turn.
        is_fingerprint = server.host_key is not None and known is None
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
        raise BadInput(_unknown(server, found)) from refused

    async def _connect(
        self, kind: tuple[str, ...], known: asyncssh.SSHKnownHosts | None, found: list[str]
    ) -> asyncssh.SSHClientConnection:
        server = self._server
        try:
            return await asyncssh.connect(
                server.host,
                server.port,
                username=server.user,
                password=None if server.password is None else server.password.get_secret_value(),
                client_keys=None if server.key_file is None else [str(server.key_file)],
                known_hosts=b"" if known is None else known,
                server_host_key_algs=kind if known is None else (),
                client_factory=lambda: _Client(server.host_key, found),
                agent_path=None,
                config=None,
                preferred_auth="publickey,password",
                connect_timeout=_SIGN_IN_SECONDS,
                login_timeout=_SIGN_IN_SECONDS,
                keepalive_interval=15,
            )
        except asyncssh.PermissionDenied as error:
            means = "password" if server.key_file is None else f"key {server.key_file}"
            raise BadInput(
                f"{at(server)} does not let '{server.user}' in with this {means}. Check user, and "
                "password_env, password_file or key_file"
            ) from error
        except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
            raise BadInput(f"key_file {server.key_file} cannot be used: {cause(error)}") from error
        except OSError as error:  # and not one of this machine's disk
            raise Unavailable(broke_off(server, error)) from error

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
        return self._pinned is not None and self._pinned.rstrip("=") == fingerprint


def _known(server: Server) -> asyncssh.SSHKnownHosts | None:
    """The keys that are known, of which kind too; None: none is, or by its fingerprint alone."""
    pinned = server.host_key
    try:
        if pinned is not None:
            if pinned.startswith("SHA256:"):
                return None
            key = asyncssh.import_public_key(pinned).export_public_key().decode()
            return asyncssh.import_known_hosts(f"* {key}")
        if server.known_hosts is None:
            return None
        return asyncssh.read_known_hosts(str(server.known_hosts))
    except FileNotFoundError as error:
        raise BadInput(
            f"known_hosts needs to be a file; there is none at {server.known_hosts}"
        ) from error
    except (asyncssh.KeyImportError, ValueError, OSError) as error:
        if pinned is not None:
            raise BadInput(
                "host_key needs to be a public key such as 'ssh-ed25519 AAAA…' or a fingerprint "
                "such as 'SHA256:…'; found neither"
            ) from error
        raise BadInput(
            f"known_hosts needs to be as OpenSSH keeps it; {server.known_hosts} cannot be read: "
            f"{cause(error)}"
        ) from error


def _unknown(server: Server, found: list[str]) -> str:
    shown = f"it shows {' and '.join(found)}" if found else "it shows none that can be used"
    known = server.host_key or server.known_hosts
    if known is None:
        return (
            f"{at(server)} is not known yet: {shown}. Ask whoever runs it whether that is its "
            "key; if so, set host_key to it in meterlake.toml"
        )
    named = "the key of host_key" if server.host_key else f"a key of {server.known_hosts}"
    return (
        f"{at(server)} needs to show {named}; {shown}. Somebody may stand in between, so "
        "nothing was sent. Ask whoever runs it whether its key was changed; if so, set host_key "
        "to the new one in meterlake.toml"
    )


def broke_off(server: Server, error: Exception) -> str:
    """Words for a connection that there is not, or no longer."""
    return (
        f"{at(server)} cannot be reached, or broke off: {plain(cause(error))}. What is here is "
        "kept; the next pull goes on from there"
    )


def at(server: Server) -> str:
    """What messages call a server."""
    return f"The SFTP server {server.host}:{server.port}"
