"""Delivered files into the lake's inbound folder: kept as they came, known by content.

Text that comes uncompressed is packed on the way (zstd, in runs of whole lines, so that
each can be read by itself); everything else is copied byte for byte. The name under
`inbound/` begins with the content's SHA-256, so the same file lands in the same place.
"""

import hashlib
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import zstandard

from meterlake.delta.store import Store
from meterlake.errors import BadInput, NotReadable
from meterlake.formats.source import DeliveredFile, Range, chunks, compression_of

FRAME_BYTES = 16 * 1024 * 1024
_READ_BYTES = 1024 * 1024
_PARQUET_MAGIC = b"PAR1"

Fetch = Callable[[str], AbstractContextManager[Path]]
"""Brings a location within reach, as a file on this machine, while the context lasts."""


@dataclass(frozen=True)
class Delivery:
    """A delivered file within reach: its name as delivered, a local path, its content."""

    name: str
    path: Path
    sha256: str
    size: int


def expand(locations: list[str]) -> list[str]:
    """Folders become the files in them, by name; files and URLs stay as they are.

    Hidden files and those still being written (`.part`, `.tmp`) are left alone.
    """
    files: list[str] = []
    for location in locations:
        path = Path(location)
        if "://" in location or not path.is_dir():
            files.append(location)
        else:
            files += sorted(str(p) for p in path.rglob("*") if p.is_file() and _is_complete(p))
    return files


def local(location: str) -> AbstractContextManager[Path]:
    """Take a location as a path of this machine; `sources.fetcher` knows URLs too."""
    return nullcontext(Path(location))


def delivery_of(path: Path) -> Delivery:
    """Return a file of this machine as a delivery, known by its content.

    Raises
    ------
    BadInput
        There is no such file, or it cannot be read.
    NotReadable
        It is empty.
    """
    digest = hashlib.sha256()
    size = 0
    try:
        with path.open("rb") as file:
            while piece := file.read(_READ_BYTES):
                digest.update(piece)
                size += len(piece)
    except FileNotFoundError as error:
        raise BadInput(
            f"'{path}' needs to be a file or folder; there is none. Check the path"
        ) from error
    except OSError as error:
        raise BadInput(f"'{path}' cannot be read: {error.strerror}") from error
    if size == 0:
        raise NotReadable(f"'{path.name}' needs a header and rows; it is empty. Deliver it again")
    return Delivery(path.name, path, digest.hexdigest(), size)


def land(store: Store, delivery: Delivery) -> DeliveredFile:
    """Keep a delivered file under `inbound/` and say where its bytes lie.

    Raises
    ------
    NotReadable
        The file is empty.
    """
    with delivery.path.open("rb") as file:
        magic = file.read(4)
    kept = f"inbound/{delivery.sha256[:16]}/{_safe(delivery.name)}"
    compression = compression_of(magic)
    if compression != "none" or magic.startswith(_PARQUET_MAGIC):
        store.put(kept, delivery.path)
        return DeliveredFile(delivery.name, store.uri(kept), compression)
    with tempfile.TemporaryDirectory(prefix="meterlake-") as folder:
        packed = Path(folder) / "packed"
        ranges = _pack(delivery.path, packed)
        store.put(f"{kept}.zst", packed)
    return DeliveredFile(delivery.name, store.uri(f"{kept}.zst"), "zstd", tuple(ranges))


def set_aside(store: Store, delivery: Delivery, source: DeliveredFile | None, reason: str) -> None:
    """Move a file that could not be read at all to `inbound/failed/`, the reason beside it."""
    path = f"inbound/failed/{delivery.sha256[:16]}/{_safe(delivery.name)}"
    store.put(path, delivery.path)
    store.put(f"{path}.reason.txt", f"{reason}\n".encode())
    if source is not None:
        store.delete(source.url.removeprefix(f"{store.url}/"))


def kept_source(store: Store, name: str, inbound: str, *, sha256: str) -> DeliveredFile:
    """A file that was delivered before, from `inbound/`, where it is still what it was.

    Raises
    ------
    NotReadable
        It is another file now, or damaged.
    Unavailable
        It is not there, or cannot be read at the moment.
    """
    bare, kept = _kept(store, name, inbound)
    delivered = kept if _was_packed(name, inbound) else bare
    digest = hashlib.sha256()
    with delivered.open() as file:
        for piece in chunks(file, name, size=_READ_BYTES):
            digest.update(piece)
    if digest.hexdigest() != sha256:
        raise NotReadable(f"'{inbound}' needs to be the file that was delivered; it has changed")
    return kept


def kept_content_sha256(store: Store, name: str, inbound: str, *, sha256: str) -> str:
    """SHA-256 of the uncompressed content of a file that was delivered with this `sha256`.

    Raises
    ------
    NotReadable
        It is damaged.
    Unavailable
        It is not there, or cannot be read at the moment.
    """
    _, kept = _kept(store, name, inbound)
    came_plain = _was_packed(name, inbound) or kept.compression == "none"
    return sha256 if came_plain else kept.content_sha256()


def _kept(store: Store, name: str, inbound: str) -> tuple[DeliveredFile, DeliveredFile]:
    """A file under `inbound/`: the bytes that lie there, and what they are of."""
    bare = DeliveredFile(name, store.uri(inbound), "none")
    with bare.open() as file:
        compression = compression_of(next(chunks(file, name, size=4, limit=4), b""))
    return bare, replace(bare, compression=compression)


def _was_packed(name: str, inbound: str) -> bool:
    """Whether a file came uncompressed and was packed on its way in; its name alone tells."""
    return inbound.endswith(f"/{_safe(name)}.zst")


def _pack(path: Path, packed: Path) -> list[Range]:
    """Compress a text in frames; the runs of whole lines, where they lie, their first line.

    A frame is of so many bytes at most, a line may be of any number: a range whose last line is
    long spans several frames.
    """
    ranges = []
    compressor = zstandard.ZstdCompressor(level=1)
    start, row, lines = 0, 1, 0
    held = b""
    with path.open("rb") as text, packed.open("wb") as out:
        while True:
            piece = text.read(FRAME_BYTES)
            held += piece
            line_end = held.rfind(b"\n") + 1
            frame = held[: line_end if line_end and piece else len(held)]
            held = held[len(frame) :]
            if frame:
                out.write(compressor.compress(frame))
                lines += frame.count(b"\n")
            if (line_end or not piece) and out.tell() > start:
                ranges.append(Range(start, out.tell(), row))
                start, row, lines = out.tell(), row + lines, 0
            if not piece:
                return ranges


def _is_complete(path: Path) -> bool:
    return not path.name.startswith(".") and path.suffix not in (".part", ".tmp")


def _safe(name: str) -> str:
    """A file name that every store takes: other characters than these become `_`."""
    return "".join(c if (c.isalnum() and c.isascii()) or c in "._-" else "_" for c in name)[-200:]
