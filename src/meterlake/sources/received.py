"""A file on its way here: its part on disk, grown until it is whole, then verified."""

import gzip
import hashlib
import os
import shutil
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from meterlake.errors import BadInput, Unavailable

_PIECE_BYTES = 1024 * 1024


class Damaged(Unavailable):
    """What was fetched is not what was announced: it has to be fetched, or ordered, anew."""


class FileUnavailable(Unavailable):
    """One file is not to be had, or cannot be moved; others of the same place may be."""


@dataclass(frozen=True)
class Announced:
    """What a file has to be: bytes, their SHA-256, rows below its header; None: not said."""

    size: int
    sha256: str | None = None
    rows: int | None = None


def parts_folder(*names: str) -> Path:
    """Where parts of files lie, by what they are for; names may be anything."""
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:24]
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    except RuntimeError as error:
        raise BadInput(
            "Files that are fetched need a folder for their parts, and this user has no home. Set "
            "XDG_CACHE_HOME to a folder"
        ) from error
    return base / "meterlake" / "pull" / digest


def forget(folder: Path, *, but: str | None = None) -> None:
    """Remove what lies in a folder of parts, `but` one file's folder."""
    with suppress(OSError):  # it goes with the next one
        for entry in folder.iterdir():
            if entry.name != but:
                shutil.rmtree(entry, ignore_errors=True)
        if but is None:
            folder.rmdir()


def verify(path: Path, announced: Announced) -> None:
    """Look whether a file is what was announced; if not it is removed, and Damaged raised."""
    try:
        _verify(path, announced)
    except Damaged:
        path.unlink(missing_ok=True)
        raise


def _verify(path: Path, announced: Announced) -> None:
    size = path.stat().st_size
    if size != announced.size:
        raise _damaged(path, f"{announced.size:,} bytes", f"{size:,}")
    if announced.sha256 is not None:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != announced.sha256:
            raise _damaged(path, f"the SHA-256 {announced.sha256[:16]}…", f"{found[:16]}…")
    if announced.rows is not None:
        rows = _rows(path)
        if rows != announced.rows:
            raise _damaged(path, f"{announced.rows:,} rows", f"{rows:,}")


def _rows(path: Path) -> int:
    """Lines of a gzip file below its header."""
    lines, last = 0, b"\n"
    try:
        with gzip.open(path, "rb") as file:
            while piece := file.read(_PIECE_BYTES):
                lines += piece.count(b"\n")
                last = piece[-1:]
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, "whole gzip data", str(error)) from error
    return max(lines + (last != b"\n") - 1, 0)


def _damaged(path: Path, needed: str, found: str) -> Damaged:
    return Damaged(
        f"'{path.name}' needs {needed} as announced; found {found}. It is not taken in, and "
        "fetched again with the next pull"
    )
