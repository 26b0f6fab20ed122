"""The fetcher: one way to get a file here, whole and verified, from wherever it is.

A file's part on disk is resumed where the place can do that, never grows beyond the announced
size, and is compared with what was announced, or with what the place says of it afterwards.
"""

import gzip
import hashlib
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path

from pydantic import SecretStr

from meterlake.errors import BadInput, Unavailable
from meterlake.settings import Settings
from meterlake.source_settings import (
    PLACES,
    Address,
    IntegrationSettings,
    SourceSettings,
    address_of,
)
from meterlake.sources.port import FileUnavailable, Place, Seen, SourceFile
from meterlake.sources.secrets import password
from meterlake.storage import PATIENCE, Patience, without_secrets

PIECE_BYTES = 1024 * 1024
_RUN_PATIENCE = Patience(retries=2, retry_seconds=20)  # a run that fails is tried again
_LONGEST_NAME_BYTES = 255
_PAUSES = (0.2, 1.0, 3.0)  # before a URL is fetched again [s]


@dataclass(frozen=True)
class Credentials:
    """Who we are at a place, how its key is known, and how patient we are with it.

    `host_key` is a public key (`ssh-ed25519 AAAA…`) or its fingerprint (`SHA256:…`); without it
    `known_hosts` is a file as OpenSSH keeps it. With `follows` a web server may redirect.
    """

    user: str | None = None
    secret: SecretStr | None = field(default=None, repr=False)
    key_file: Path | None = None
    host_key: str | None = None
    known_hosts: Path | None = None
    patience: Patience = _RUN_PATIENCE
    follows: bool = False


def credentials(
    settings: SourceSettings | IntegrationSettings, user: str | None, whose: str
) -> Credentials:
    """Read the credentials that settings name; `whose` is such as "Source 'outbox'"."""
    key_file, known_hosts = settings.key_file, settings.known_hosts
    return Credentials(
        user,
        password(settings, whose),
        None if key_file is None else key_file.expanduser(),
        settings.host_key,
        None if known_hosts is None else known_hosts.expanduser(),
    )


@contextmanager
def opened(address: Address, who: Credentials) -> Iterator[Place]:
    """Open the place of an address, while the context lasts."""
    module, _, name = PLACES[address.kind].rpartition(".")
    made = getattr(import_module(f"meterlake.sources.{module}"), name)
    with closing(made(address, who)) as place:
        yield place


def fetch(place: Place, file: SourceFile, to: Path, *, seen: Seen) -> None:
    """Fetch a file, resuming its part; it is what was announced when this returns.

    Raises
    ------
    FileUnavailable
        It is not what was announced, changed meanwhile, is gone or may not be read.
    Unavailable
        The place cannot be reached, or broke off, or there is no space here; the part is kept.
    """
    with _on_disk(to):
        to.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        have = _size(to)
        if have > file.version.size:
            to.unlink()
        if have != file.version.size or have == 0:
            place.fetch(file, to, seen=seen)
        if file.sha256 is None and file.rows is None:
            _compare(place, file, to)
        else:
            _verify(file, to)


def write_pieces(
    pieces: Iterable[bytes], to: Path, *, size: int, seen: Seen, restart: bool = False
) -> None:
    """Add pieces to a file, up to `size` bytes and one more, so that too many are noticed."""
    with _on_disk(to):
        out = to.open("wb" if restart else "ab", buffering=0)  # so that to close it cannot fail
    with out:
        for piece in pieces:
            left = memoryview(piece)[: max(0, size + 1 - out.tell())]
            with _on_disk(to):
                while left:
                    left = left[out.write(left) :]
            seen(out.tell())
            if out.tell() > size:
                return


def parts_folder(*names: str) -> Path:
    """Return where parts of files are kept, by what they are for; names may be anything."""
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:24]
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    except RuntimeError as error:
        raise BadInput(
            "Files that are fetched need a folder for their parts, and this user has no home. Set "
            "XDG_CACHE_HOME to a folder"
        ) from error
    return base / "meterlake" / "pull" / digest


def part_of(parts: Path, file: SourceFile) -> Path:
    """Return where a file is fetched to: another content goes elsewhere."""
    key = f"{file.path}\n{file.version}\n{file.sha256}\n{file.name}"
    return parts / hashlib.sha256(key.encode()).hexdigest()[:24] / file.name


def keep_parts(parts: Path, files: Iterable[SourceFile]) -> None:
    """Remove the parts of all files but these."""
    kept = {part_of(parts, file).parent for file in files}
    with suppress(OSError):  # what cannot be removed now goes with the next batch
        for folder in parts.iterdir():
            if folder not in kept:
                shutil.rmtree(folder, ignore_errors=True)
        if not kept:
            parts.rmdir()


def is_usable(name: str) -> bool:
    """Whether a name that a server gives has one part, is printable and not too long."""
    plain = name.isprintable() and not set(name) & {"/", "\\", "\0"} and name not in (".", "..")
    try:
        return plain and 0 < len(name.encode()) <= _LONGEST_NAME_BYTES
    except UnicodeEncodeError:
        return False


def local_copies(settings: Settings) -> Callable[[str], AbstractContextManager[Path]]:
    """Return how a path or URL becomes a file on this machine, while a context lasts.

    Credentials are those of the [[source]] on the same server, where there is one.

    Raises
    ------
    BadInput
        There is no such file, or the URL cannot be used.
    Unavailable
        It cannot be fetched at the moment.
    """

    @contextmanager
    def local(location: str) -> Iterator[Path]:
        scheme, found, rest = location.partition("://")
        if not found or scheme == "file":
            yield Path(rest if found else location)
            return
        address, who = _address(location, settings)
        name = address.path.rpartition("/")[2]
        with tempfile.TemporaryDirectory(prefix="meterlake-") as folder:
            to = Path(folder) / (name if is_usable(name) else "download")
            _fetch_patiently(location, address, who, to)
            yield to

    return local


def _address(location: str, settings: Settings) -> tuple[Address, Credentials]:
    try:
        address = address_of(location, is_pattern=False)
    except ValueError as error:
        shown = without_secrets(location)
        raise BadInput(f"'{shown}' cannot be fetched: it {error}") from error
    who = Credentials(address.user)
    for source in settings.source:
        there = source.address
        is_same = (there.kind, there.host, there.port) == (address.kind, address.host, address.port)
        user = source.user or there.user
        if is_same and address.user in (None, user):
            who = credentials(source, user, f"Source '{source.label}'")
            break
    follows = who.secret is None  # so that no password is sent elsewhere
    return address, replace(who, patience=PATIENCE, follows=follows)


def _fetch_patiently(location: str, address: Address, who: Credentials, to: Path) -> None:
    shown = without_secrets(location)
    is_tried = PLACES[address.kind].startswith("object_store.")  # again and again, by itself
    for seconds in (*_PAUSES, None):
        try:
            with opened(address, who) as place:
                version = place.version(address.path)
                if version is None:
                    raise BadInput(f"'{shown}' needs to be a file; there is none. Check the URL")
                fetch(place, SourceFile(address.path, version), to, seen=lambda done: None)
                return
        except Unavailable as error:
            if seconds is None or is_tried:
                raise Unavailable(
                    f"'{shown}' cannot be fetched: {error}. Try again later"
                ) from error
            time.sleep(seconds)


def _compare(place: Place, file: SourceFile, to: Path) -> None:
    """Compare a file that was listed with what its place says of it now."""
    have, is_same = _size(to), file.version.agrees_with(place.version(file.path))
    if is_same and have < file.version.size:
        raise FileUnavailable(
            f"'{file.name}' broke off after {have:,} of {file.version.size:,} bytes; the part "
            "received so far is kept"
        )
    if not is_same or have != file.version.size:
        raise _refused(file, to, "changed while it was fetched; it will be checked again")


def _verify(file: SourceFile, to: Path) -> None:
    """Compare a file with what was announced of its content."""
    have = _size(to)
    if have != file.version.size:
        raise _damaged(file, to, f"{file.version.size:,} bytes", f"{have:,}")
    if file.sha256 is not None:
        with to.open("rb") as whole:
            found = hashlib.file_digest(whole, "sha256").hexdigest()
        if found != file.sha256:
            raise _damaged(file, to, f"the SHA-256 {file.sha256[:16]}…", f"{found[:16]}…")
    if file.rows is not None:
        rows = _rows(file, to)
        if rows != file.rows:
            raise _damaged(file, to, f"{file.rows:,} rows", f"{rows:,}")


def _rows(file: SourceFile, to: Path) -> int:
    """Lines of a gzip file below its header."""
    lines, last = 0, b"\n"
    try:
        with gzip.open(to, "rb") as text:
            while piece := text.read(PIECE_BYTES):
                lines += piece.count(b"\n")
                last = piece[-1:]
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(file, to, "whole gzip data", str(error)) from error
    return max(lines + (last != b"\n") - 1, 0)


def _damaged(file: SourceFile, to: Path, needed: str, found: str) -> FileUnavailable:
    return _refused(
        file,
        to,
        f"needs {needed} as announced; found {found}. It is not taken in, and fetched again with "
        "the next pull",
    )


def _refused(file: SourceFile, to: Path, why: str) -> FileUnavailable:
    """Remove what cannot become the file; the error to raise."""
    to.unlink(missing_ok=True)
    return FileUnavailable(f"'{file.name}' {why}")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


@contextmanager
def _on_disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(
            f"'{path.name}' cannot be kept in {path.parent}: {error.strerror or error}. Check that "
            "it has space and may be written"
        ) from error
