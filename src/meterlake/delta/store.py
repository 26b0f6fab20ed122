"""Where the lake's bytes lie: a local folder or an object store, behind one port.

Everything is written whole, under a name of its own, and never changed afterwards, so
an object store and a folder behave alike. Credentials come from the usual variables of
the store (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, …) and are never shown.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import ObjectStore

from meterlake import storage
from meterlake.errors import BadInput, Unavailable

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

SCHEMES = ("s3", "gs", "az", "abfs", "abfss")

_UNFINISHED = re.compile(r"#\d+$")  # what obstore writes to before it gives the file its name


@dataclass(frozen=True)
class Stored:
    """One object: its path below the lake, size [B], and when it was written (store's clock)."""

    path: str
    size: int
    modified: datetime


@dataclass(frozen=True)
class Store:
    """One lake's storage. `url` is an absolute path or an object-store URL, no final slash."""

    url: str

    def __getstate__(self) -> dict[str, str]:
        """Where it is: who gets a store sent opens it with credentials of their own."""
        return {"url": self.url}

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

    def create(self, path: str, data: bytes) -> None:
        """Write a whole object where there is none yet; of many at once one is written.

        Raises Unavailable where the storage refuses or fails.
        """
        try:
            obstore.put(self._objects, path, data, mode="create")
        except AlreadyExistsError:
            return
        except (BaseError, OSError) as error:
            raise self._unavailable("write", path, error) from error

    def delete(self, path: str) -> None:
        """Remove an object that no table knows. Raises Unavailable where that fails."""
        try:
            if self.is_local:  # also what obstore does not see: a leftover
                Path(self.url, path).unlink(missing_ok=True)
            else:
                obstore.delete(self._objects, path)
        except (BaseError, OSError) as error:
            raise self._unavailable("remove", path, error) from error

    def read(self, path: str) -> bytes:
        """All bytes of a small object. Raises Unavailable where it cannot be read."""
        data = self.read_if_there(path)
        if data is None:
            raise self._unavailable("read", path, FileNotFoundError("it is not there"))
        return data

    def read_if_there(self, path: str) -> bytes | None:
        """All bytes of a small object, None where there is none. Raises Unavailable."""
        try:
            return bytes(obstore.get(self._objects, path).bytes())
        except FileNotFoundError:
            return None
        except (BaseError, OSError) as error:
            raise self._unavailable("read", path, error) from error

    def has(self, path: str) -> bool:
        """Whether there is such an object. Raises Unavailable where that cannot be told."""
        try:
            storage.steadily(
                lambda: obstore.head(self._objects, path),
                failures=() if self.is_local else (OSError, BaseError),
            )
            return True
        except FileNotFoundError:
            return False
        except (BaseError, OSError) as error:
            raise self._unavailable("look for", path, error) from error

    def list(self, prefix: str) -> list[Stored]:
        """The objects below a prefix, whole ones only. Raises Unavailable."""
        try:
            found = storage.steadily(
                lambda: [o for page in obstore.list(self._objects, prefix) for o in page],
                failures=() if self.is_local else (BaseError, OSError),
            )
            return [Stored(o["path"], o["size"], o["last_modified"]) for o in found]
        except FileNotFoundError:
            return []
        except (BaseError, OSError) as error:
            raise self._unavailable("list", prefix, error) from error

    def leftovers(self) -> Iterator[Stored]:
        """Files of a folder whose writing was cut off; an object store shows none."""
        if not self.is_local:
            return
        for path in Path(self.url).rglob("*#*"):
            if _UNFINISHED.search(path.name) and path.is_file():
                there = path.stat()
                yield Stored(
                    str(path.relative_to(self.url)),
                    there.st_size,
                    datetime.fromtimestamp(there.st_mtime, UTC),
                )

    def _unavailable(self, verb: str, path: str, error: Exception) -> Unavailable:
        return Unavailable(
            f"Cannot {verb} {self.uri(path)}: {storage.cause(error)}. Check that the lake's "
            "storage is there, has space and may be written, then run the command again"
        )

    @property
    def delta_options(self) -> dict[str, str] | None:
        """What deltalake needs to know to reach the storage."""
        return storage.delta_options(self.url)

    @property
    def polars_options(self) -> dict[str, Any] | None:
        """What Polars needs to know to reach the storage."""
        return storage.polars_options(self.url)

    def register(self, connection: "DuckDBPyConnection") -> None:
        """Let a DuckDB connection read the storage, where it cannot by itself."""
        if not self.is_local:
            connection.register_filesystem(storage.filesystem(self.url))

    @cached_property
    def _objects(self) -> ObjectStore:
        return storage.objects_at(self.url)


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
    if "=" in location:
        raise BadInput(
            f"A lake needs a path without '=', which marks partitions; found '{location}'"
        )
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
