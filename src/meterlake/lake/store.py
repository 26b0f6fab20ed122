"""Where the lake's bytes lie: a local folder or an object store, behind one port.

Everything is written whole, under a name of its own, and never changed afterwards, so
an object store and a folder behave alike. Credentials come from the usual variables of
the store (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, …) and are never shown.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from meterlake.errors import BadInput, Unavailable

SCHEMES = ("s3", "gs", "az", "abfs", "abfss")


@dataclass(frozen=True)
class Store:
    """One lake's storage. `url` is an absolute path or an object-store URL, no final slash."""

    url: str

    @property
    def is_local(self) -> bool:
        """Whether the lake is a folder of this machine."""
        return "://" not in self.url

    def uri(self, path: str) -> str:
        """Full path or URL of `path`, as Polars, DuckDB and deltalake take it."""
        return f"{self.url}/{path}"

    def put(self, path: str, data: bytes | IO[bytes] | Path) -> None:
        """Write a whole object; it is there completely or not at all.

        Raises
        ------
        Unavailable
            The storage refuses or fails.
        """
        try:
            obstore.put(self._objects, path, data)
        except (BaseError, OSError) as error:
            raise self._unavailable("write", path, error) from error

    def delete(self, path: str) -> None:
        """Remove an object that no table knows. Raises Unavailable where that fails."""
        try:
            obstore.delete(self._objects, path)
        except (BaseError, OSError) as error:
            raise self._unavailable("remove", path, error) from error

    def read(self, path: str) -> bytes:
        """All bytes of a small object. Raises Unavailable where it cannot be read."""
        try:
            return bytes(obstore.get(self._objects, path).bytes())
        except (BaseError, OSError) as error:
            raise self._unavailable("read", path, error) from error

    def _unavailable(self, verb: str, path: str, error: Exception) -> Unavailable:
        cause = str(error).splitlines()[0][:300]
        return Unavailable(
            f"Cannot {verb} {self.uri(path)}: {cause}. Check that the lake's storage is there, "
            "has space and may be written, then run the command again"
        )

    @cached_property
    def _objects(self) -> ObjectStore:
        if self.is_local:
            return LocalStore(self.url, mkdir=True)
        return from_url(self.url)


def existing_store(location: str) -> Store:
    """The storage of a lake that is there already.

    Raises
    ------
    BadInput
        As `open_store`; and where there is no such folder.
    """
    store = open_store(location)
    if store.is_local and not Path(store.url).exists():
        raise BadInput(
            f"There is no lake at '{store.url}' yet: ingest a file into it, or name another one "
            "with --lake, METERLAKE_LAKE or meterlake.toml"
        )
    return store


def open_store(location: str) -> Store:
    """The storage at a folder path or an object-store URL.

    Raises
    ------
    BadInput
        The URL's scheme is not one that holds a lake, or the path is a file.
    """
    scheme, found, rest = location.partition("://")
    if found and scheme != "file":
        if scheme not in SCHEMES:
            raise BadInput(
                f"A lake needs a folder or a URL of {', '.join(SCHEMES)}; found '{location}'"
            )
        return Store(location.rstrip("/"))
    path = Path(rest if found else location).expanduser().absolute()
    if path.exists() and not path.is_dir():
        raise BadInput(f"A lake needs a folder; '{path}' is a file. Give another --lake")
    return Store(str(path))
