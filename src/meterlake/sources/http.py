"""A web server that lists a folder's files on a page of links."""

import base64
import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit

from meterlake.errors import BadInput, Unavailable
from meterlake.source_settings import Address
from meterlake.sources.fetcher import PIECE_BYTES, Credentials, write_pieces
from meterlake.sources.port import FileUnavailable, Listed, Seen, SourceFile, Version, Wanted
from meterlake.storage import cause

_TIMEOUT_SECONDS = 30.0
_LONGEST_PAGE_BYTES = 64 * 1024 * 1024


class HttpPlace:
    """The files of a web server, which is followed elsewhere only where no password goes along."""

    is_atomic = False

    def __init__(self, address: Address, who: Credentials) -> None:
        host = f"[{address.host}]" if ":" in address.host else address.host
        port = "" if address.port is None else f":{address.port}"
        self._url = f"{address.kind}://{host}{port}"
        self._opener = urllib.request.build_opener(*(() if who.follows else (_Nowhere,)))
        self._headers = {"Accept-Encoding": "identity", "User-Agent": "meterlake"}
        if who.user is not None and who.secret is not None:
            told = f"{who.user}:{who.secret.get_secret_value()}".encode()
            self._headers["Authorization"] = f"Basic {base64.b64encode(told).decode()}"

    def entries(self, folder: str, wanted: Wanted) -> Iterator[Listed]:
        """What the page of a folder links to, below it, of the names that are wanted."""
        with self._asked("GET", folder) as answer:
            page = answer.read(_LONGEST_PAGE_BYTES + 1)
        if len(page) > _LONGEST_PAGE_BYTES:
            raise BadInput(f"{self._url}{folder} needs a page of {_LONGEST_PAGE_BYTES:,} bytes")
        links = _Links()
        links.feed(page.decode("utf-8", "replace"))
        for name in sorted(_names(links.found, self._url, folder)):
            is_folder = name.endswith("/")
            if wanted(name.removesuffix("/")):
                version = None if is_folder else self.version(folder + name)
                if is_folder or version is not None:
                    yield Listed(name.removesuffix("/"), version)

    def version(self, path: str) -> Version | None:
        """A file as it is now; None: there is none."""
        for method in ("HEAD", "GET"):  # which some refuse, and some answer without a size
            with (
                suppress(FileUnavailable),
                self._asked(method, path) as answer,
            ):
                if (found := _version(answer.headers)) is not None:
                    return found
        return None

    def fetch(self, file: SourceFile, to: Path, *, seen: Seen) -> None:
        """Fetch a file, from where `to` ends where the server can do that."""
        offset = to.stat().st_size if to.exists() else 0
        tag = file.version.tag if not file.version.tag.startswith("W/") else ""
        headers = {"Range": f"bytes={offset}-", "If-Range": tag} if offset and tag else {}
        with self._asked("GET", file.path, headers) as answer:
            goes_on = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(
                f"bytes {offset}-"
            )
            pieces = iter(lambda: answer.read(PIECE_BYTES), b"")
            write_pieces(pieces, to, size=file.version.size, seen=seen, restart=not goes_on)

    def close(self) -> None:
        """Nothing is held."""

    @contextmanager
    def _asked(
        self, method: str, path: str, headers: dict[str, str] | None = None
    ) -> Iterator[Any]:
        url = f"{self._url}{quote(path)}"
        request = urllib.request.Request(
            url, method=method, headers={**self._headers, **(headers or {})}
        )
        try:
            with self._opener.open(request, timeout=_TIMEOUT_SECONDS) as answer:
                yield answer
        except urllib.error.HTTPError as error:
            with error:
                self._refused(url, error.code, error)
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(
                f"{url} cannot be reached, or broke off: {cause(error)}. "
                "The part received so far is kept"
            ) from error

    def _refused(self, url: str, code: int, error: Exception) -> None:
        words = f"{url} answers {code}"
        if code in (401, 407) or (code == 403 and "Authorization" in self._headers):
            raise BadInput(
                f"{words}. Check the source's user and password_env or password_file"
            ) from error
        if 300 <= code < 400:
            raise BadInput(
                f"{words}: it has moved. Set the source's url to the new address"
            ) from error
        if code < 500 and code not in (408, 425, 429):
            raise FileUnavailable(words) from error
        raise Unavailable(f"{words}. It will be retried later") from error


class _Nowhere(urllib.request.HTTPRedirectHandler):
    """Follows no answer to elsewhere."""

    def redirect_request(self, *_: Any) -> None:
        return None


class _Links(HTMLParser):
    """The links of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found += [value for name, value in attrs if name == "href" and value]


def _names(links: list[str], host: str, folder: str) -> set[str]:
    """Names of what is right below a folder; a folder's ends in a slash."""
    names = set()
    base = urlsplit(f"{host}{quote(folder)}")
    for link in links:
        try:
            to = urlsplit(urljoin(base.geturl(), link))
        except ValueError:
            continue
        path = unquote(to.path)
        name = path.removeprefix(folder)
        is_here = (to.scheme, to.netloc) == (base.scheme, base.netloc) and path.startswith(folder)
        if is_here and not to.query and name and "/" not in name[:-1] and name != "/":
            names.add(name)
    return names


def _version(headers: Any) -> Version | None:
    size = headers.get("Content-Length") or ""
    if not (size.isascii() and size.isdecimal()):
        return None
    return Version(int(size), _moment(headers.get("Last-Modified")), headers.get("ETag") or "")


def _moment(text: str | None) -> datetime | None:
    try:
        found = parsedate_to_datetime(text or "")
    except ValueError:
        return None
    return found if found.tzinfo else None
