"""An SFTP server as a place of files; how it is reached stands in pull/sftp.py."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from meterlake.pull.places import Entry, File, Seen, Version, Wanted
from meterlake.pull.sftp import Found, Server, Session


class SftpPlace:
    """The files of an SFTP server, by one connection."""

    is_atomic = False
    renames = True

    def __init__(self, server: Server) -> None:
        self._session = Session(server)

    def entries(self, folder: str, wanted: Wanted) -> Iterator[Entry]:
        """What lies in a folder, of the names that are wanted."""
        for name, found in self._session.listed(folder or "."):
            if name not in (".", "..") and wanted(name):
                if found is not None and found.is_link:
                    found = self._session.found(folder + name)
                    if found is None:
                        continue
                yield Entry(name, _version(found))

    def version(self, path: str) -> Version | None:
        """A file as it is now; None: there is none."""
        return _version(self._session.found(path))

    def fetch(self, file: File, to: Path, *, seen: Seen) -> None:
        """Fetch a file, from where `to` ends."""
        self._session.fetch(file.path, to, size=file.version.size, seen=seen)

    def rename(self, path: str, to: str) -> None:
        """Give a file another path, whose folder is made where there is none."""
        self._session.rename(path, to)

    def leave(self, path: str) -> None:
        """Not needed: files can be renamed."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the connection."""
        self._session.close()


def _version(found: Found | None) -> Version | None:
    if found is None or not found.is_file:
        return None
    return Version(found.size, datetime.fromtimestamp(found.modified, UTC))
