"""A delivered file as the formats see it: a name, a place, bytes without their compression."""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, cast

import obstore
import zstandard
from isal import igzip, igzip_lib
from obstore.exceptions import BaseError
from obstore.store import from_url

from meterlake.errors import NotReadable, Unavailable

Compression = Literal["none", "gzip", "zstd"]

HEAD_BYTES = 64 * 1024

# isal's error is typed as a variable, so it needs the cast.
_ISAL_ERROR = cast(type[Exception], igzip_lib.IsalError)
_DAMAGED = (gzip.BadGzipFile, _ISAL_ERROR, zlib.error, zstandard.ZstdError)

_MAGIC: dict[bytes, Compression] = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass(frozen=True)
class Range:
    """A run of whole lines: where they lie in the stored file, and the first line's number."""

    start: int
    end: int
    first_row: int


@dataclass(frozen=True)
class Source:
    """One delivered file.

    `url` is where its bytes lie (a path or an object-store URL), `compression` how they are
    packed there. `ranges` are runs of lines that can be read by themselves: known for text
    that came uncompressed, empty for a stream that must be read from its beginning.
    """

    name: str
    url: str
    compression: Compression
    ranges: tuple[Range, ...] = ()

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Yield the file's bytes, decompressed, from the beginning."""
        with self.open_stored() as raw:
            if self.compression == "gzip":
                with igzip.open(raw, "rb") as file:  # type: ignore[no-untyped-call]
                    yield cast(IO[bytes], file)
            elif self.compression == "zstd":
                with zstandard.ZstdDecompressor().stream_reader(
                    raw, read_across_frames=True
                ) as file:
                    yield file
            else:
                yield raw

    def open_stored(self) -> IO[bytes]:
        """The file's bytes as they are stored; seekable."""
        try:
            if "://" not in self.url:
                return Path(self.url).open("rb")
            folder, _, name = self.url.rpartition("/")
            return cast(IO[bytes], obstore.open_reader(from_url(folder), name))
        except (BaseError, OSError) as error:
            raise Unavailable(f"'{self.name}' cannot be read: {error}") from error

    def read_range(self, part: Range) -> bytes:
        """The decompressed lines of one range."""
        if "://" in self.url:
            folder, _, name = self.url.rpartition("/")
            stored = bytes(
                obstore.get_range(from_url(folder), name, start=part.start, end=part.end)
            )
        else:
            with Path(self.url).open("rb") as file:
                file.seek(part.start)
                stored = file.read(part.end - part.start)
        if self.compression == "zstd":
            with zstandard.ZstdDecompressor().stream_reader(stored) as reader:
                return reader.read()
        return stored

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
            piece = file.read(size if left is None else min(size, left))
        except EOFError as error:
            raise NotReadable(
                f"'{name}' needs to be a whole gzip file; it is cut off, or something that is no "
                "gzip follows it. Deliver it again"
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
