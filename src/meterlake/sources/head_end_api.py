"""The API of a head-end system, asked: a file of arrivals is ordered, waited for, described.

What it answers is typed before it is used. Answers that are lost, and its own faults, are asked
for again a few times.
"""

import json
import time
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    Field,
    ValidationError,
    model_validator,
)

from meterlake.errors import BadInput, Unavailable, plain
from meterlake.storage import cause, without_secrets

try:
    import httpx2
except ImportError as error:
    raise BadInput(
        "Pulling from a head-end system needs httpx2 and asyncssh: pip install 'meterlake[hes]'"
    ) from error

Answer = TypeVar("Answer", bound=BaseModel)

PAUSES = (0.25, 1.0, 2.0)  # before a question is put again [s]
_TIMEOUT_SECONDS = 30.0
_MOST_BYTES = 1_000_000


class Extent(BaseModel):
    """What a head-end system has: first arrival, and the moment before which all are there."""

    now: AwareDatetime
    oldest: AwareDatetime | None
    complete_until: AwareDatetime

    @model_validator(mode="after")
    def _not_of_the_future(self) -> "Extent":
        if self.complete_until > self.now:
            raise ValueError("complete_until needs to be no later than now")
        return self


class OrderedFile(BaseModel):
    """A file that was ordered: arrivals in `start_date` <= arrival < `end_date`.

    `size` [B] and `sha256` are of the compressed file, `record_count` are its rows.
    """

    request_id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$")
    status: Literal["queued", "submitted", "running", "completed", "skipped", "failed"]
    start_date: AwareDatetime
    end_date: AwareDatetime
    sftp_location: str | None = Field(None, max_length=1000, pattern=r"^[^\x00-\x1f\x7f]+$")
    record_count: int | None = Field(None, ge=0)
    size: int | None = Field(None, ge=0)
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    error: Annotated[str, AfterValidator(plain)] | None = None


class Gone(Unavailable):
    """The head-end system knows nothing of that file (any more)."""


class HeadEndClient:
    """The API of a head-end system at a URL; to be closed."""

    def __init__(self, url: str, *, pause: Callable[[float], object]) -> None:
        self._shown = without_secrets(url)
        self._pause = pause
        is_here = urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")
        # Proxies and authorities of the environment hold for other machines.
        self._client = httpx2.Client(base_url=url, timeout=_TIMEOUT_SECONDS, trust_env=not is_here)

    def close(self) -> None:
        """Let go of its connections."""
        self._client.close()

    def extent(self) -> Extent:
        """What it has now. Raises Unavailable, BadInput."""
        return self._asked(Extent, "GET", "/")

    def order(self, start: Any, end: Any) -> OrderedFile:
        """Have a file made of what arrived in [start, end). Raises Unavailable, BadInput."""
        window = {"start_date": start.isoformat(), "end_date": end.isoformat()}
        return self._asked(OrderedFile, "POST", "/readings-file", json=window)

    def file(self, request_id: str) -> OrderedFile:
        """How far a file is. Raises Gone, Unavailable, BadInput."""
        return self._asked(OrderedFile, "GET", "/readings-file", params={"request_id": request_id})

    def _asked(self, kind: type[Answer], method: str, path: str, **told: Any) -> Answer:
        for seconds in PAUSES:
            try:
                return self._once(kind, method, path, told)
            except Gone:
                raise
            except Unavailable:
                self._pause(seconds)
        return self._once(kind, method, path, told)

    def _once(self, kind: type[Answer], method: str, path: str, told: dict[str, Any]) -> Answer:
        try:
            with self._client.stream(method, path, **told) as answer:
                content = self._read(answer)
        except httpx2.HTTPError as error:
            raise Unavailable(
                f"The head-end system at {self._shown} does not answer: {plain(cause(error))}. "
                "Check that it runs and that its url is right."
            ) from error
        if answer.status_code == 404 and "params" in told:
            raise Gone(f"The head-end system at {self._shown} has no such file any more")
        if not answer.is_success:
            found = f"{method} {path} at {self._shown} answers {answer.status_code}"
            detail = _detail(content)
            if answer.is_client_error and answer.status_code not in (408, 425, 429):
                raise BadInput(f"{found}{detail}. Check the integration's url and first_date")
            raise Unavailable(f"{found}{detail}. Try again later")
        try:
            return kind.model_validate_json(content)
        except ValidationError as error:
            first = error.errors(include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the answer"
            raise Unavailable(
                f"{method} {path} at {self._shown} needs to answer as a head-end system does; "
                f"{where}: {first['msg']}"
            ) from error

    def _read(self, answer: httpx2.Response) -> bytes:
        """All of an answer, where it is small and comes in time."""
        content, until = b"", time.monotonic() + _TIMEOUT_SECONDS
        for piece in answer.iter_bytes():
            content += piece
            if len(content) > _MOST_BYTES or time.monotonic() > until:
                raise Unavailable(
                    f"The head-end system at {self._shown} needs to answer within "
                    f"{_TIMEOUT_SECONDS:g} s and {_MOST_BYTES:,} bytes; it sends more"
                )
        return content


def _detail(content: bytes) -> str:
    """What a problem document says, in a line."""
    try:
        detail = json.loads(content)["detail"]
    except (ValueError, KeyError, TypeError):
        return ""
    return f": {plain(detail)}" if isinstance(detail, str) else ""
