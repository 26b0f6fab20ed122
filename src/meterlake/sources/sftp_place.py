"""An SFTP server as a place of files: one connection, made where its key is the known one."""

import asyncio
import stat
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import asyncssh

from meterlake.errors import Unavailable
from meterlake.sources.places import Entry, File, Seen, Version, Wanted
from meterlake.sources.received import FileUnavailable
from meterlake.sources.sftp import Connected, Server, at, broke_off, fetch

Result = TypeVar("Result")


class SftpPlace:
    """The files of an SFTP server."""

    is_atomic = False

    def __init__(self, server: Server) -> None:
        self._server = server
        self._runner = asyncio.Runner()
        self._connected = Connected(server)
        self._sftp: asyncssh.SFTPClient | None = None

    def entries(self, folder: str, wanted: Wanted) -> Iterator[Entry]:
        """What lies in a folder, of the names that are wanted."""

        async def listed(sftp: asyncssh.SFTPClient) -> list[tuple[str, asyncssh.SFTPAttrs]]:
            return [(str(one.filename), one.attrs) async for one in sftp.scandir(folder or ".")]

        try:
            found = self._run(listed)
        except asyncssh.SFTPError as error:
            raise Unavailable(f"{at(self._server)} does not list '{folder}': {error.reason}") from (
                error
            )
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
                yield Entry(name, _version(attrs))

    def version(self, path: str) -> Version | None:
        """A file as it is now; None: there is none."""
        attrs = self._stat(path)
        return None if attrs is None else _version(attrs)

    def fetch(self, file: File, to: Path, *, seen: Seen) -> None:
        """Fetch a file, from where `to` ends."""
        try:
            self._run(lambda sftp: fetch(sftp, file.path, to, file.version.size, seen))
        except asyncssh.SFTPError as error:
            raise FileUnavailable(f"'{file.name}' is not to be had: {error.reason}") from error

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
                f"{at(self._server)} does not let '{path}' become '{to}': {error.reason}. It was "
                "taken in; allow it there, or set after to keep"
            ) from error

    def close(self) -> None:
        """Let go of the connection."""
        self._runner.run(self._connected.__aexit__())
        self._runner.close()

    def _stat(self, path: str) -> asyncssh.SFTPAttrs | None:
        async def found(sftp: asyncssh.SFTPClient) -> asyncssh.SFTPAttrs:
            return await sftp.stat(path)

        try:
            return self._run(found)
        except asyncssh.SFTPError:
            return None

    def _run(self, asked: Callable[[asyncssh.SFTPClient], Coroutine[Any, Any, Result]]) -> Result:
        async def answered() -> Result:
            if self._sftp is None:
                self._sftp = await self._connected.__aenter__()
            return await asked(self._sftp)

        try:
            return self._runner.run(answered())
        except (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection) as error:
            raise Unavailable(broke_off(self._server, error)) from error
        except asyncssh.SFTPError:
            raise
        except (asyncssh.Error, TimeoutError, EOFError, OSError) as error:
            raise Unavailable(broke_off(self._server, error)) from error


def _version(attrs: asyncssh.SFTPAttrs) -> Version | None:
    """A file's version, to the second; None of what is no plain file."""
    if attrs.permissions is None or attrs.size is None or not stat.S_ISREG(attrs.permissions):
        return None
    return Version(attrs.size, datetime.fromtimestamp(attrs.mtime or 0, UTC))
