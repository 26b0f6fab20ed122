"""Places where files arrive: what lies there, fetched whole, and put away when it was taken in.

One small port for folders, SFTP, FTP, HTTP and S3. What a server says is not to be trusted: a
name is of one part and printable, a file is never more bytes than was told.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from pydantic import SecretStr

from meterlake.source_settings import Address, SourceSettings
from meterlake.sources.received import FileUnavailable
from meterlake.sources.secrets import password

Outcome = Literal["taken", "failed"]
Seen = Callable[[int], object]
Wanted = Callable[[str], bool]

OUTCOMES: tuple[Outcome, ...] = ("taken", "failed")
PIECE_BYTES = 1024 * 1024
_UNFINISHED = (".part", ".tmp", ".filepart", ".crdownload", ".partial")
_MARKS = tuple(f".{outcome}" for outcome in OUTCOMES)
_LONGEST_NAME_BYTES = 255


@dataclass(frozen=True)
class Version:
    """What tells one content of a file from another: size [B], time of change, entity tag."""

    size: int
    modified: datetime | None = None
    tag: str = ""


@dataclass(frozen=True)
class Entry:
    """What lies in a folder; `version` is None of a folder."""

    name: str
    version: Version | None


@dataclass(frozen=True)
class File:
    """A file of a place, as it was when it was listed."""

    path: str
    version: Version

    @property
    def name(self) -> str:
        """Its name without folders."""
        return self.path.rpartition("/")[2]


class Place(Protocol):
    """Where files arrive. Everything raises Unavailable, or BadInput where settings are wrong."""

    @property
    def is_atomic(self) -> bool:
        """Whether files appear whole."""

    def entries(self, folder: str, wanted: Wanted) -> Iterable[Entry]:
        """What lies in a folder, of the names that are wanted."""

    def version(self, path: str) -> Version | None:
        """A file as it is now; None: there is none."""

    def fetch(self, file: File, to: Path, *, seen: Seen) -> None:
        """Fetch a file from where `to` ends; `seen` is told how many bytes are here."""

    def close(self) -> None:
        """Let go of its connections."""


@runtime_checkable
class Renames(Protocol):
    """What a place does besides, whose files can be moved: all but HTTP."""

    def rename(self, path: str, to: str) -> None:
        """Give a file another path, whose folder is made where there is none."""


@runtime_checkable
class Leaves(Protocol):
    """What a place does besides, where a mark is a file of its own: S3, which copies to rename."""

    def leave(self, path: str) -> None:
        """Put an empty file there."""


def stays(place: Place, after: str) -> bool:
    """Whether a file that was dealt with stays where it is, under its name."""
    return after == "keep" or (after == "mark" and isinstance(place, Leaves))


@dataclass(frozen=True)
class Listing:
    """The files that are wanted, marks that lie beside them, and names that cannot be used."""

    files: list[File] = field(default_factory=list)
    marks: set[str] = field(default_factory=set)
    unusable: set[str] = field(default_factory=set)


@contextmanager
def opened(told: SourceSettings) -> Iterator[Place]:
    """The place of a source, while the context lasts."""
    address = told.address
    user = told.user or address.user
    with closing(_place(told, address, user, password(told, f"Source '{told.label}'"))) as place:
        yield place


def listing(place: Place, pattern: str) -> Listing:
    """The files of a place whose paths are as the pattern says; those in the making left alone."""
    found = Listing()
    root = "/" if pattern.startswith("/") else ""
    _walk(place, root, pattern.removeprefix("/").split("/"), found)
    return found


def fetch(place: Place, file: File, to: Path, *, seen: Seen) -> None:
    """Fetch a file, going on with what is there; it is what was listed when this returns.

    Raises
    ------
    FileUnavailable
        It changed meanwhile, is gone or may not be read.
    Unavailable
        The place cannot be reached, or broke off; what is there of the file is kept.
    """
    to.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    have = to.stat().st_size if to.is_file() else 0
    if have > file.version.size:
        to.unlink()
    if have != file.version.size or have == 0:
        place.fetch(file, to, seen=seen)
    have = to.stat().st_size if to.is_file() else 0
    if have != file.version.size or place.version(file.path) != file.version:
        to.unlink(missing_ok=True)
        raise FileUnavailable(f"'{file.name}' changed while it was fetched; it is looked at again")


def put_away(
    place: Place, file: File, outcome: Outcome, *, after: Literal["mark", "move"], at: datetime
) -> bool:
    """Mark a file that was dealt with, or move it; False where it is gone or another by now."""
    if place.version(file.path) != file.version:
        return False
    if after == "mark" and isinstance(place, Leaves):
        place.leave(f"{file.path}.{outcome}")
        return True
    if not isinstance(place, Renames):
        raise TypeError(f"nothing can be put away in {type(place).__name__}")
    folder, slash, name = file.path.rpartition("/")
    for also in ("", f".{at:%Y-%m-%dT%H%M%S.%fZ}"):  # an earlier file may have had its name
        if after == "mark":
            to = f"{file.path}{also}.{outcome}"
        else:
            to = f"{folder}{slash}{outcome}/{name}{also}"
        if place.version(to) is None:
            break
    place.rename(file.path, to)
    return True


def is_usable(name: str) -> bool:
    """Whether a name that a server told is of one part, printable and not too long."""
    plain = name.isprintable() and not set(name) & {"/", "\\", "\0"} and name not in (".", "..")
    try:
        return plain and 0 < len(name.encode()) <= _LONGEST_NAME_BYTES
    except UnicodeEncodeError:
        return False


def write_pieces(
    pieces: Iterable[bytes], to: Path, *, size: int, seen: Seen, anew: bool = False
) -> None:
    """Add pieces to a file, up to `size` bytes and one more, so that too many are noticed."""
    with to.open("wb" if anew else "ab") as out:
        for piece in pieces:
            out.write(piece[: max(0, size + 1 - out.tell())])
            seen(out.tell())
            if out.tell() > size:
                return


def _walk(place: Place, folder: str, parts: list[str], found: Listing) -> None:
    part, rest = parts[0], parts[1:]
    is_pattern = any(c in part for c in "*?[")
    if rest and not is_pattern:
        _walk(place, f"{folder}{part}/", rest, found)
        return

    def wanted(name: str) -> bool:
        if not (fnmatchcase(name, part) if is_pattern else name == part):
            stem = next((name.removesuffix(m) for m in _MARKS if name.endswith(m)), "")
            if stem and fnmatchcase(stem, part):
                found.marks.add(f"{folder}{name}")
            return False
        if not name or name.startswith("."):
            return False
        if not is_usable(name):
            found.unusable.add(name)
            return False
        return bool(rest) or not name.endswith(_UNFINISHED)

    for entry in sorted(place.entries(folder, wanted), key=lambda entry: entry.name):
        path = f"{folder}{entry.name}"
        if entry.name.endswith(_MARKS):
            found.marks.add(path)
        elif entry.version is not None and not rest:
            found.files.append(File(path, entry.version))
        elif entry.version is None and rest and entry.name not in OUTCOMES:
            _walk(place, f"{path}/", rest, found)
        elif entry.version is None and not rest and not is_pattern:
            _walk(place, f"{path}/", ["*"], found)


def _place(
    told: SourceSettings, address: Address, user: str | None, secret: SecretStr | None
) -> Place:
    if address.kind == "sftp":
        from meterlake.sources.sftp import Server
        from meterlake.sources.sftp_place import SftpPlace

        server = Server(
            address.host,
            address.port or 22,
            user or "",
            secret,
            None if told.key_file is None else told.key_file.expanduser(),
            told.host_key,
            None if told.known_hosts is None else told.known_hosts.expanduser(),
        )
        return SftpPlace(server)
    if address.kind in ("ftp", "ftps"):
        from meterlake.sources.ftp import FtpPlace

        return FtpPlace(address, user or "anonymous", secret)
    if address.kind in ("http", "https"):
        from meterlake.sources.http import HttpPlace

        return HttpPlace(address, user, secret)
    if address.kind == "s3":
        from meterlake.sources.s3 import S3Place

        return S3Place(address.host)
    from meterlake.sources.folder import FolderPlace

    return FolderPlace()
