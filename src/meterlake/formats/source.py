"""A delivered file as the formats see it: a name, a place, bytes without their compression."""

import gzip
import hashlib
import io
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import IO, Any, Literal, cast

import zstandard
from isal import igzip, igzip_lib
from obstore.exceptions import BaseError

from meterlake import storage
from meterlake.errors import NotReadable, Unavailable

Compression = Literal["none", "gzip", "zstd"]

HEAD_BYTES = 64 * 1024
PIECE_BYTES = 1024 * 1024

MAX_LINE_BYTES = 1024 * 1024
"""A longer line is no row of readings: it is cut short as it streams by, and quarantined."""

EXPANSION_IS_FREE_BYTES = 64 * 1024 * 1024
MAX_EXPANSION = 200
MAX_PARQUET_EXPANSION = 5_000
"""What a file of over 64 MiB may become, as a multiple of its stored bytes.

Measured on 100 MB of reads whose values are all zero: gzip reaches 42 (deflate itself ends at
1,032), zstd at level 19 131. Of Parquet, 8 bytes are counted for each cell, and runs of equal
cells cost next to nothing there: the same reads reach 537. A bomb has 10,000 and more.
"""

# zstd makes at most 128 KiB of a block of 4 bytes: this many become 32 MiB at the worst.
_FED_BYTES = 1024

# isal's error is typed as a variable, so it needs the cast.
_ISAL_ERROR = cast(type[Exception], igzip_lib.IsalError)
_DAMAGED = (gzip.BadGzipFile, _ISAL_ERROR, zlib.error, zstandard.ZstdError)

PARQUET_MAGIC = b"PAR1"
_MAGIC: dict[bytes, Compression] = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass(frozen=True)
class Range:
    """A run of whole lines: where they lie in the stored file, and the first line's number.

    Of a Parquet file: of which row to which, from 0.
    """

    start: int
    end: int
    first_row: int


@dataclass(frozen=True)
class DeliveredFile:
    """One delivered file.

    `url` is where its bytes lie (a path or an object-store URL), `compression` how they are
    packed there. `ranges` are runs of lines that can be read by themselves: known for text
    that came uncompressed, empty for a stream that must be read from its beginning. `hashes`
    get the SHA-256 of such a stream's content whenever it was read to its end.
    """

    name: str
    url: str
    compression: Compression
    ranges: tuple[Range, ...] = ()
    hashes: list[str] = field(default_factory=list, compare=False, repr=False)

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Yield the file's bytes, decompressed, from the beginning.

        Reading raises NotReadable where far more comes out than readings can make of the
        stored bytes.
        """
        with self.open_stored() as raw:
            if self.compression == "gzip":
                with igzip.open(raw, "rb") as file:  # type: ignore[no-untyped-call]
                    pieces = _pieces(cast(IO[bytes], file))
                    yield _as_file(self._within_expansion(pieces))
            elif self.compression == "zstd":
                yield _as_file(self._within_expansion(_unpack_zstd(_pieces(raw))))
            else:
                yield raw

    @contextmanager
    def open_stored(self) -> Iterator[IO[bytes]]:
        """Yield the file's bytes as they are stored; seekable. Raises Unavailable."""
        with ExitStack() as opened:
            try:
                file = opened.enter_context(storage.opened(self.url))
            except (BaseError, OSError) as error:
                raise Unavailable(f"'{self.name}' cannot be read: {error}") from error
            yield file

    def read_range(self, part: Range) -> bytes:
        """The decompressed lines of one range, overlong ones cut short (`shorten_lines`)."""
        size = part.end - part.start
        with self.open_stored() as raw:
            raw.seek(part.start)
            pieces = chunks(raw, self.name, size=PIECE_BYTES, limit=size)
            if self.compression == "zstd":
                file = _as_file(_unpack_zstd(pieces))
                pieces = chunks(file, self.name, size=PIECE_BYTES)
            return b"".join(shorten_lines(pieces))

    def stored_bytes(self) -> int:
        """The size of the file as it is stored."""
        with self.open_stored() as raw:
            return raw.seek(0, io.SEEK_END)

    def check_expansion(self, size: int, *, at_most: int = MAX_EXPANSION) -> None:
        """Refuse a file of which `size` bytes come out, where that is out of all proportion.

        Raises
        ------
        NotReadable
            It is more than `at_most` times what is stored, and over 64 MiB.
        """
        if size <= EXPANSION_IS_FREE_BYTES:
            return
        stored = self.stored_bytes()
        if size > at_most * stored:
            raise NotReadable(
                f"'{self.name}' needs to hold at most {at_most:,} times its stored size; its "
                f"{stored:,} bytes become {size:,} or more, {size // max(stored, 1):,} times as "
                "many, which no readings do. Deliver it uncompressed, or in smaller files"
            )

    def _within_expansion(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        out, checked = 0, 0
        digest = hashlib.sha256()
        for piece in pieces:
            out += len(piece)
            # Text that came uncompressed was packed here: its size is its own.
            if not self.ranges and out - checked > EXPANSION_IS_FREE_BYTES // 4:
                self.check_expansion(out)
                checked = out
            digest.update(piece)
            yield piece
        self.hashes.append(digest.hexdigest())

    def content_sha256(self) -> str:
        """SHA-256 of the decompressed bytes; they are read now unless they were before.

        Raises
        ------
        NotReadable
            The compression is damaged.
        """
        if self.hashes:
            return self.hashes[-1]
        digest = hashlib.sha256()
        with self.open() as file:
            for piece in chunks(file, self.name, size=PIECE_BYTES):
                digest.update(piece)
        return digest.hexdigest()

    def head(self) -> bytes:
        """The first decompressed bytes, up to 64 KiB.

        Raises
        ------
        NotReadable
            The compression is damaged.
        """
        with self.open() as file:
            return b"".join(chunks(file, self.name, size=HEAD_BYTES, limit=HEAD_BYTES))


def compression_of(magic: bytes) -> Compression:
    """How a file is compressed, from its first bytes (its name may lie)."""
    return next((kind for sign, kind in _MAGIC.items() if magic.startswith(sign)), "none")


def chunks(file: IO[bytes], name: str, *, size: int, limit: int | None = None) -> Iterator[bytes]:
    """Read a decompressing file in pieces of `size` bytes, at most `limit` bytes in all.

    Raises
    ------
    NotReadable
        The compressed bytes are cut off or damaged.
    """
    left = limit
    while left is None or left > 0:
        try:
            piece = bytes(file.read(size if left is None else min(size, left)))
        except EOFError as error:
            raise NotReadable(
                f"'{name}' needs to be a whole gzip or zstd file; it is cut off, or something that "
                "is not compressed follows it. Deliver it again"
            ) from error
        except _DAMAGED as error:
            raise NotReadable(
                f"'{name}' needs to be a sound compressed file; it is damaged ({error}). "
                "Deliver it again"
            ) from error
        except (BaseError, OSError) as error:
            raise Unavailable(f"'{name}' cannot be read: {error}") from error
        if not piece:
            return
        if left is not None:
            left -= len(piece)
        yield piece


def shorten_lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Cut every line over MAX_LINE_BYTES short as it streams by, to one byte more than that.

    The numbers of the lines stay as they are, and memory is bounded however long a line is.
    """
    length = 0  # of the line in which the last piece ended, as far as it is kept
    for piece in pieces:
        kept = []
        at = 0
        while at < len(piece):
            room = at + MAX_LINE_BYTES + 1 - length
            end = piece.rfind(b"\n", at, room + 1) + 1
            if end == 0:
                kept.append(piece[at:room])
                length += len(kept[-1])
                line_end = piece.find(b"\n", room)
                at = len(piece) if line_end < 0 else line_end
            else:
                kept.append(piece[at:end])
                length, at = 0, end
        if kept:
            yield kept[0] if len(kept) == 1 else b"".join(kept)


class _Pieces(io.RawIOBase):
    """An iterator of bytes as a file."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


def _as_file(pieces: Iterator[bytes]) -> IO[bytes]:
    return io.BufferedReader(_Pieces(pieces), PIECE_BYTES)


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    while piece := bytes(file.read(PIECE_BYTES)):
        yield piece


def _unpack_zstd(stored: Iterable[bytes]) -> Iterator[bytes]:
    """Decompress frames that lie one behind the other.

    The library's own reader takes a frame that is cut off for its end. Raises EOFError there.
    """
    frame = None
    for piece in stored:
        view = memoryview(piece)
        for at in range(0, len(view), _FED_BYTES):
            fed = bytes(view[at : at + _FED_BYTES])
            while fed:
                if frame is None:
                    frame = zstandard.ZstdDecompressor().decompressobj()
                if text := frame.decompress(fed):
                    yield text
                fed = frame.unused_data if frame.eof else b""
                if frame.eof:
                    frame = None
    if frame is not None:
        raise EOFError("a zstd frame is cut off")
