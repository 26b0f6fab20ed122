"""Folders and object stores by URL: one way to reach them, for every library that reads them.

The libraries find credentials each in its own way, so they are found here, once: from the
usual variables (AWS_ACCESS_KEY_ID, …), or a profile (AWS_PROFILE, ~/.aws), else by what the
machine itself offers (web identity, container, instance). They are never shown. Requests that
fail for a while are tried again with growing pauses, and then given up.
"""

import io
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import IO, Any, Literal, TypeVar, cast
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.fsspec import FsspecStore
from obstore.store import LocalStore, ObjectStore, from_url
from typing_extensions import Buffer

from meterlake.errors import BadInput, Unavailable

Result = TypeVar("Result")

ENVIRONMENT = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
)
"""The variables that hold the address of S3 and the credentials."""

_ALLOW_HTTP = "aws_allow_http"
_BUFFER_BYTES = 1024 * 1024
_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.05, 5.0


@dataclass(frozen=True)
class Patience:
    """How long an object store is tried: attempts and seconds of a request, of one attempt."""

    retries: int = 10
    retry_seconds: int = 120
    request_seconds: int = 30
    connect_seconds: int = 5


PATIENCE = Patience()


def objects_at(url: str, *, patience: Patience = PATIENCE) -> ObjectStore:
    """The objects below a folder's path or an object store's URL."""
    if "://" not in url:
        return LocalStore(url, mkdir=True)
    return from_url(url, **_obstore_options(url, patience))


@contextmanager
def opened(url: str) -> Iterator[IO[bytes]]:
    """The bytes of one file, seekable, while the context lasts."""
    if "://" not in url:
        with Path(url).open("rb") as file:
            yield file
        return
    folder, _, name = url.rpartition("/")
    with io.BufferedReader(_Object(objects_at(folder), name), _BUFFER_BYTES) as buffered:
        yield buffered


def fetched(location: str) -> bytes:
    """All bytes of a file of elsewhere, by path or URL. It is tried for some seconds only.

    Raises
    ------
    FileNotFoundError
        There is none.
    Unavailable
        It is not available at the moment.
    """
    scheme, found, rest = location.partition("://")
    try:
        if not found or scheme == "file":
            return Path(rest if found else location).read_bytes()
        folder, _, name = location.rpartition("/")
        options = _obstore_options(folder)
        options["client_options"]["allow_http"] = scheme != "https"
        options["retry_config"] = {"max_retries": 1, "retry_timeout": timedelta(seconds=10)}
        return bytes(obstore.get(from_url(folder, **options), unquote(name)).bytes())
    except FileNotFoundError:
        raise
    except (BaseError, OSError, ValueError) as error:
        raise Unavailable(
            f"'{without_secrets(location)}' cannot be fetched: {cause(error)}. Try again later"
        ) from error


def without_secrets(location: str) -> str:
    """A URL without what may be a password or a key in it."""
    if "://" not in location:
        return location
    parts = urlsplit(location)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def delta_options(url: str) -> dict[str, str] | None:
    """What deltalake needs to know to reach a store."""
    if "://" not in url:
        return None
    options = {name.upper(): value for name, value in _s3_options().items()} if _is_s3(url) else {}
    return {
        **options,
        "max_retries": str(PATIENCE.retries),
        "retry_timeout": f"{PATIENCE.retry_seconds}s",
        "timeout": f"{PATIENCE.request_seconds}s",
        "connect_timeout": f"{PATIENCE.connect_seconds}s",
    }


def polars_options(url: str) -> dict[str, Any] | None:
    """What Polars needs to know to reach a store."""
    if "://" not in url:
        return None
    return {
        **(_s3_options() if _is_s3(url) else {}),
        "max_retries": PATIENCE.retries,
        "retry_timeout_ms": PATIENCE.retry_seconds * 1000,
        "timeout": f"{PATIENCE.request_seconds}s",
        "connect_timeout": f"{PATIENCE.connect_seconds}s",
    }


def filesystem(url: str) -> FsspecStore:
    """A store as a file system for DuckDB, whose own one has to be downloaded."""
    protocol = cast(Literal["s3"], url.partition("://")[0])
    return FsspecStore(protocol, **_obstore_options(url))


def environment() -> dict[str, str]:
    """What this process's variables say of S3, for others that work for it. Holds secrets."""
    return {name: os.environ[name] for name in ENVIRONMENT if os.environ.get(name, "").strip()}


def adopt_environment(told: Mapping[str, str]) -> None:
    """Reach S3 as another process does; where it has keys of its own, none of ours are left."""
    if "AWS_ACCESS_KEY_ID" in told:
        for name in ENVIRONMENT[:3]:
            os.environ.pop(name, None)
    os.environ.update(told)


def steadily(call: Callable[[], Result], *, failures: tuple[type[Exception], ...]) -> Result:
    """Call again what failed and may succeed, a few times: an answer can be cut off."""
    attempts = 4
    for attempt in range(attempts - 1):
        try:
            return call()
        except failures:
            pause(attempt)
    return call()


def pause(attempt: int) -> None:
    """Wait before the next attempt: longer each time, by chance, so that rivals part."""
    longest = min(_LONGEST_PAUSE_SECONDS, _PAUSE_SECONDS * 2**attempt)
    time.sleep(random.uniform(0, longest))


def cause(error: BaseException) -> str:
    """A storage library's error in one line, without the secrets that a server might quote."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    line = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID"):
        if secret := os.environ.get(name, "").strip():
            line = line.replace(secret, "********")
    if re.search(r"latest/api/token|privileges|Forbidden|\b40[13]\b", line):
        return (
            f"{line[:200]} (is it allowed? The store asks for the right credentials: "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE)"
        )
    return line[:300]


def _is_s3(url: str) -> bool:
    return url.startswith("s3://")


def _s3_options() -> dict[str, str]:
    """Address and credentials of S3, by the names that all libraries know."""
    found = {
        "aws_access_key_id": os.environ.get("AWS_ACCESS_KEY_ID", "").strip(),
        "aws_secret_access_key": os.environ.get("AWS_SECRET_ACCESS_KEY", "").strip(),
        "aws_session_token": os.environ.get("AWS_SESSION_TOKEN", "").strip(),
        "aws_region": os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "",
        "aws_endpoint_url": os.environ.get("AWS_ENDPOINT_URL_S3")
        or os.environ.get("AWS_ENDPOINT_URL")
        or "",
    }
    if bool(found["aws_access_key_id"]) != bool(found["aws_secret_access_key"]):
        raise BadInput(
            "S3 needs both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; found one of them. "
            "Set the other, or neither and AWS_PROFILE"
        )
    if not found["aws_access_key_id"] and _has_profile():
        found = _profile() | {name: value for name, value in found.items() if value}
    options = {name: value for name, value in found.items() if value}
    options.setdefault("aws_region", "us-east-1")
    if options.get("aws_endpoint_url", "").startswith("http://"):
        options[_ALLOW_HTTP] = "true"
    return options


def _has_profile() -> bool:
    files = (
        os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
        os.environ.get("AWS_CONFIG_FILE", "~/.aws/config"),
    )
    return "AWS_PROFILE" in os.environ or any(Path(f).expanduser().is_file() for f in files)


def _profile() -> dict[str, str]:
    """What a profile says, keys that it has to ask for (SSO, a role) included."""
    try:
        from botocore.exceptions import BotoCoreError
        from botocore.session import Session
    except ImportError as error:
        raise BadInput(
            "S3 by a profile of ~/.aws needs the package botocore: pip install 'meterlake[aws]', "
            "or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from error
    try:
        session = Session()
        settings = session.get_scoped_config()
        credentials = session.get_credentials()
        keys = None if credentials is None else credentials.get_frozen_credentials()
    except BotoCoreError as error:
        raise BadInput(f"The AWS profile cannot be used: {error}. Correct AWS_PROFILE") from error
    return {
        "aws_access_key_id": "" if keys is None else keys.access_key,
        "aws_secret_access_key": "" if keys is None else keys.secret_key,
        "aws_session_token": "" if keys is None else keys.token or "",
        "aws_region": settings.get("region", ""),
        "aws_endpoint_url": settings.get("endpoint_url", ""),
    }


def _obstore_options(url: str, patience: Patience = PATIENCE) -> dict[str, Any]:
    options: dict[str, Any] = {
        "retry_config": {
            "max_retries": patience.retries,
            "retry_timeout": timedelta(seconds=patience.retry_seconds),
        },
        "client_options": {
            "timeout": timedelta(seconds=patience.request_seconds),
            "connect_timeout": timedelta(seconds=patience.connect_seconds),
        },
    }
    if _is_s3(url):
        s3 = _s3_options()
        options["client_options"]["allow_http"] = s3.pop(_ALLOW_HTTP, None) is not None
        options["config"] = s3
    return options


class _Object(io.RawIOBase):
    """One object as a raw file."""

    def __init__(self, objects: ObjectStore, name: str) -> None:
        self._reader = obstore.open_reader(objects, name)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._reader.seek(offset, whence)

    def tell(self) -> int:
        return self._reader.tell()

    def readinto(self, into: Buffer) -> int:
        view = memoryview(into).cast("B")
        piece = self._reader.read(len(view))
        view[: len(piece)] = piece
        return len(piece)
