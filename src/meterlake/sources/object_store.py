"""A bucket of S3, or of another object store. Objects appear whole."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import BaseError, PreconditionError

from meterlake.errors import Unavailable
from meterlake.source_settings import Address
from meterlake.sources.fetcher import PIECE_BYTES, Credentials, write_pieces
from meterlake.sources.port import FileUnavailable, Listed, Seen, SourceFile, Version, Wanted
from meterlake.storage import cause, objects_at


class ObjectPlace:
    """The objects of a bucket; the usual variables say who we are there."""

    is_atomic = True

    def __init__(self, address: Address, who: Credentials) -> None:
        self._bucket = f"{address.kind}://{address.host}"
        with self._reached():
            self._objects = objects_at(self._bucket, patience=who.patience)

    def entries(self, folder: str, wanted: Wanted) -> Iterator[Listed]:
        """Files and folders in a folder, of the wanted names."""
        folder = folder.removeprefix("/")
        with self._reached():
            found = obstore.list_with_delimiter(self._objects, folder.removesuffix("/") or None)
        for prefix in found["common_prefixes"]:
            name = prefix.rstrip("/").rpartition("/")[2]
            if wanted(name):
                yield Listed(name, None)
        for meta in found["objects"]:
            name = meta["path"].rpartition("/")[2]
            if wanted(name):
                yield Listed(name, _version(meta))

    def version(self, path: str) -> Version | None:
        """An object as it is now; None: there is none."""
        try:
            with self._reached():
                return _version(obstore.head(self._objects, path.removeprefix("/")))
        except FileNotFoundError:
            return None

    def fetch(self, file: SourceFile, to: Path, *, seen: Seen) -> None:
        """Fetch an object, from where `to` ends, as long as it is the same."""
        offset = to.stat().st_size if to.exists() else 0
        options: Any = {"if_match": file.version.tag} if file.version.tag else {}
        if offset:
            options["range"] = {"offset": offset}
        try:
            with self._reached():
                got = obstore.get(self._objects, file.path.removeprefix("/"), options=options)
                pieces = (bytes(piece) for piece in got.stream(min_chunk_size=PIECE_BYTES))
                write_pieces(pieces, to, size=file.version.size, seen=seen)
        except FileNotFoundError as error:
            raise FileUnavailable(f"'{file.name}' is gone") from error
        except PreconditionError as error:
            raise FileUnavailable(
                f"'{file.name}' was replaced; it will be checked again"
            ) from error

    def rename(self, path: str, to: str) -> None:
        """Copy an object there, and delete it here."""
        path, to = path.removeprefix("/"), to.removeprefix("/")
        try:
            with self._reached():
                obstore.copy(self._objects, path, to)
                obstore.delete(self._objects, path)
        except FileNotFoundError:
            return  # somebody else took it away

    def leave(self, path: str) -> None:
        """Put an empty object there."""
        with self._reached():
            obstore.put(self._objects, path.removeprefix("/"), b"")

    def close(self) -> None:
        """Nothing is held."""

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, PreconditionError):
            raise
        except (BaseError, OSError, ValueError) as error:
            raise Unavailable(
                f"The bucket {self._bucket} cannot be used: {cause(error)}"
            ) from error


def _version(meta: Any) -> Version:
    return Version(meta["size"], meta["last_modified"], meta["e_tag"] or "")
