"""A folder of this machine, or one that is mounted."""

import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from meterlake.errors import Unavailable
from meterlake.source_settings import Address
from meterlake.sources.fetcher import PIECE_BYTES, Credentials, write_pieces
from meterlake.sources.port import FileUnavailable, Listed, Seen, SourceFile, Version, Wanted

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class FolderPlace:
    """Folders of this machine."""

    is_atomic = False

    def __init__(self, address: Address, who: Credentials) -> None:
        """Folders of this machine are at no address."""

    def entries(self, folder: str, wanted: Wanted) -> Iterator[Listed]:
        """Files and folders in a folder, of the wanted names."""
        at = Path(folder or ".").expanduser()
        try:
            names = sorted(os.listdir(at))
        except OSError as error:
            raise Unavailable(f"The folder {at} cannot be read: {error.strerror}") from error
        for name in filter(wanted, names):
            try:
                yield Listed(name, _version(at / name))
            except OSError:
                continue  # it is gone, or a link to nothing

    def version(self, path: str) -> Version | None:
        """A file as it is now; None: there is none."""
        try:
            return _version(Path(path).expanduser())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise Unavailable(f"'{path}' cannot be inspected: {error.strerror}") from error

    def fetch(self, file: SourceFile, to: Path, *, seen: Seen) -> None:
        """Copy a file, so that it can no longer change."""
        try:
            with Path(file.path).expanduser().open("rb") as found:
                pieces = iter(lambda: found.read(PIECE_BYTES), b"")
                write_pieces(pieces, to, size=file.version.size, seen=seen, restart=True)
        except OSError as error:
            words = f"'{file.path}' cannot be read, or copied to {to.parent}: {error.strerror}"
            raise FileUnavailable(words) from error

    def rename(self, path: str, to: str) -> None:
        """Give a file another path, whose folder is made where there is none."""
        target = Path(to).expanduser()
        try:
            target.parent.mkdir(exist_ok=True)
            Path(path).expanduser().rename(target)
        except OSError as error:
            raise FileUnavailable(
                f"'{path}' was taken in, but cannot become '{to}': {error.strerror}. Allow "
                "renaming there, or set after to keep"
            ) from error

    def close(self) -> None:
        """Nothing is held."""


def _version(path: Path) -> Version | None:
    """A file's version; None of what is no plain file, such as a folder."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        return None
    return Version(found.st_size, _EPOCH + timedelta(microseconds=found.st_mtime_ns // 1000))
