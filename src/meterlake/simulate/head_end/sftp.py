"""The SFTP server: finished files to one user, for reading alone, and nothing beside them."""

import asyncio
import hmac
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, NoReturn

import asyncssh

from meterlake.errors import BadInput, Unavailable
from meterlake.simulate.head_end.faults import SLOW_SECONDS, Channel, Fault, Faults

_WRITING = (
    asyncssh.FXF_WRITE
    | asyncssh.FXF_APPEND
    | asyncssh.FXF_CREAT
    | asyncssh.FXF_TRUNC
    | asyncssh.FXF_EXCL
)
_LOGIN_SECONDS = 30


@dataclass(frozen=True)
class HostKey:
    """The key that the server shows who it is by."""

    key: asyncssh.SSHKey

    @property
    def public(self) -> str:
        """The public key, as it stands after the host in known_hosts."""
        return self.key.export_public_key().decode().strip()

    @property
    def fingerprint(self) -> str:
        """The hash that `ssh` shows, SHA256:…."""
        return self.key.get_fingerprint()


@dataclass(frozen=True)
class Login:
    """Who may log in: a user by a password, or by a public key of a file as OpenSSH has it."""

    user: str
    password: str
    authorized_keys: Path | None = None


def host_key(path: Path) -> HostKey:
    """The host key of a file, which is made where there is none.

    Raises
    ------
    BadInput
        The file holds no private key.
    Unavailable
        It cannot be read or written.
    """
    try:
        if not path.exists():
            write_secret(path, asyncssh.generate_private_key("ssh-ed25519").export_private_key())
        return HostKey(asyncssh.read_private_key(path))
    except asyncssh.KeyImportError as error:
        raise BadInput(
            f"The host key {path} needs to be a private key of OpenSSH: {error}. Remove it "
            "to have a new one made"
        ) from error
    except OSError as error:
        raise Unavailable(
            f"The host key {path} cannot be read or made: {error.strerror}"
        ) from error


def write_secret(path: Path, secret: bytes) -> None:
    """Write what nobody else may read; whole or not at all."""
    unfinished = path.with_name(f".{path.name}.partial")
    unfinished.unlink(missing_ok=True)
    with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secret)
    unfinished.replace(path)


@asynccontextmanager
async def serving(
    root: Path, key: HostKey, login: Login, faults: Faults, *, host: str, port: int
) -> AsyncIterator[int]:
    """Serve a folder while inside; the port.

    Raises
    ------
    BadInput
        The file of authorized keys cannot be used.
    Unavailable
        The address cannot be listened at.
    """
    keys = _authorized(login.authorized_keys)
    try:
        listening = await asyncssh.listen(
            host,
            port,
            server_host_keys=[key.key],
            server_factory=partial(_Server, login, keys),
            sftp_factory=partial(_Files, root=root, faults=faults),
            allow_scp=False,
            agent_forwarding=False,
            x11_forwarding=False,
            login_timeout=_LOGIN_SECONDS,
        )
    except OSError as error:
        raise Unavailable(
            f"The SFTP server cannot listen at {host}:{port}: {_reason(error)}. Stop the process "
            "that does, or give another --sftp-port"
        ) from error
    try:
        yield listening.get_port()
    finally:
        listening.close()


def _reason(error: OSError) -> str:
    """In the machine's words: asyncio puts the address into its own once more."""
    return os.strerror(error.errno) if error.errno else str(error)


def _authorized(path: Path | None) -> asyncssh.SSHAuthorizedKeys | None:
    if path is None:
        return None
    try:
        return asyncssh.read_authorized_keys(str(path))
    except (OSError, ValueError) as error:
        raise BadInput(
            f"--authorized-keys needs a file of public keys as OpenSSH has it: {path}: {error}"
        ) from error


class _Server(asyncssh.SSHServer):
    """Lets one user in. Shells, commands and tunnels are refused: that is the default."""

    def __init__(self, login: Login, keys: asyncssh.SSHAuthorizedKeys | None) -> None:
        self._login, self._keys = login, keys

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn

    def begin_auth(self, username: str) -> bool:
        if username == self._login.user and self._keys is not None:
            self._connection.set_authorized_keys(self._keys)
        return True

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        given = f"{username}\0{password}".encode()
        return hmac.compare_digest(given, f"{self._login.user}\0{self._login.password}".encode())


@dataclass
class _Transfer:
    """An open file, and how the transfer goes wrong."""

    file: BinaryIO
    size: int
    is_held_up: bool
    is_dropped: bool


def _refuse() -> NoReturn:
    raise asyncssh.SFTPPermissionDenied("This server is read-only")


class _Files(asyncssh.SFTPServer):
    """A folder, read-only: no path leads out of it, by no name and by no link."""

    def __init__(
        self, channel: asyncssh.SSHServerChannel[bytes], *, root: Path, faults: Faults
    ) -> None:
        super().__init__(channel, chroot=os.fsencode(root))
        self._root, self._faults = os.fsencode(os.path.realpath(root)), faults

    def map_path(self, path: bytes) -> bytes:
        mapped = super().map_path(path)
        real = os.path.realpath(mapped)
        if real != self._root and not real.startswith(self._root + b"/"):
            raise asyncssh.SFTPNoSuchFile("There is no such file")
        return mapped

    def open(self, path: bytes, pflags: int, attrs: asyncssh.SFTPAttrs) -> object:
        if pflags & _WRITING:
            _refuse()
        file = open(self.map_path(path), "rb", buffering=0)  # noqa: SIM115  # closed by close
        size = os.fstat(file.fileno()).st_size
        strikes = partial(self._faults.strikes, channel=Channel.SFTP)
        if strikes(Fault.TRUNCATE):
            size //= 2
        return _Transfer(file, size, strikes(Fault.SLOW), strikes(Fault.DROP))

    async def read(self, file_obj: object, offset: int, size: int) -> bytes:
        transfer = _transfer(file_obj)
        if transfer.is_held_up:
            transfer.is_held_up = False
            await asyncio.sleep(SLOW_SECONDS)
        end = min(offset + size, transfer.size)
        if transfer.is_dropped:
            if offset >= transfer.size // 2:
                self.connection.abort()
                raise asyncssh.SFTPConnectionLost("A fault that was asked for: --fault drop")
            end = min(end, transfer.size // 2)
        return os.pread(transfer.file.fileno(), max(0, end - offset), offset)

    def fstat(self, file_obj: object) -> asyncssh.SFTPAttrs:
        transfer = _transfer(file_obj)
        attrs = asyncssh.SFTPAttrs.from_local(os.fstat(transfer.file.fileno()))
        attrs.size = transfer.size
        return attrs

    def close(self, file_obj: object) -> None:
        _transfer(file_obj).file.close()

    def open56(
        self, path: bytes, desired_access: int, flags: int, attrs: asyncssh.SFTPAttrs
    ) -> object:
        _refuse()  # of versions of SFTP that are not spoken here

    def write(self, file_obj: object, offset: int, data: bytes) -> int:
        _refuse()

    def setstat(self, path: bytes, attrs: asyncssh.SFTPAttrs) -> None:
        _refuse()

    def lsetstat(self, path: bytes, attrs: asyncssh.SFTPAttrs) -> None:
        _refuse()

    def fsetstat(self, file_obj: object, attrs: asyncssh.SFTPAttrs) -> None:
        _refuse()

    def remove(self, path: bytes) -> None:
        _refuse()

    def mkdir(self, path: bytes, attrs: asyncssh.SFTPAttrs) -> None:
        _refuse()

    def rmdir(self, path: bytes) -> None:
        _refuse()

    def rename(self, oldpath: bytes, newpath: bytes, flags: int = 0) -> None:
        _refuse()

    def posix_rename(self, oldpath: bytes, newpath: bytes) -> None:
        _refuse()

    def readlink(self, path: bytes) -> bytes:
        _refuse()

    def symlink(self, oldpath: bytes, newpath: bytes) -> None:
        _refuse()

    def link(self, oldpath: bytes, newpath: bytes) -> None:
        _refuse()

    def lock(self, file_obj: object, offset: int, length: int, flags: int) -> None:
        _refuse()

    def unlock(self, file_obj: object, offset: int, length: int) -> None:
        _refuse()

    def fsync(self, file_obj: object) -> None:
        _refuse()

    def statvfs(self, path: bytes) -> NoReturn:
        _refuse()

    def fstatvfs(self, file_obj: object) -> NoReturn:
        _refuse()


def _transfer(file_obj: object) -> _Transfer:
    assert isinstance(file_obj, _Transfer)
    return file_obj
