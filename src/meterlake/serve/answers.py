"""How answers look: rows as JSON, CSV or Arrow, pages, entity tags, and problems (RFC 9457)."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

import polars as pl
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from meterlake import __version__
from meterlake.errors import BadInput, MeterlakeError, Unavailable
from meterlake.questions.question import Value

JSON, CSV = "application/json", "text/csv"
ARROW = "application/vnd.apache.arrow.stream"
PROBLEM = "application/problem+json"

LONGEST_CURSOR = 16_000  # letters

_HINTS = {
    404: "The paths that there are: GET /openapi.json",
    405: "The methods that a path takes: GET /openapi.json",
}


class Problem(BaseModel):
    """What went wrong, as RFC 9457 has it; `hint` says what to do."""

    type: str = Field("about:blank", description="Kind of the problem, a URI")
    title: str = Field(description="The status in words")
    status: int = Field(description="HTTP status")
    detail: str = Field(description="What was needed and what was found")
    hint: str | None = Field(None, description="What to do")


class Refused(Exception):
    """The answer is a problem, by the client's doing."""

    def __init__(
        self,
        status: int,
        detail: str,
        hint: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.hint = status, detail, hint
        self.headers = headers


def rows_answer(
    request: Request,
    rows: pl.DataFrame,
    *,
    etag: str | None = None,
    after: Sequence[Value] | None = None,
    headers: Mapping[str, str] | None = None,
    is_single: bool = False,
) -> Response:
    """Rows in the form that the request accepts; `after` makes a link to the next page.

    With `is_single` JSON has the one row without a list around it.
    """
    kind = accepted(request)
    sent = {**(headers or {}), "Vary": _VARY}
    if etag is not None:
        sent["ETag"] = entity_tag(etag, kind)
        sent["Cache-Control"] = "private, no-cache"
    if after is not None:
        asked = [(k, v) for k, v in request.query_params.multi_items() if k != "cursor"]
        following = urlencode([*asked, ("cursor", to_cursor(request, after))])
        sent["Link"] = f'<{request.url.path}?{following}>; rel="next"'
    body = _encoded(rows, kind)
    if is_single and kind == JSON:
        body = body.removeprefix(b"[").removesuffix(b"]")
    return Response(body, media_type=_MEDIA[kind], headers=sent)


_VARY = "Accept, Accept-Encoding, Authorization, X-API-Key"
_MEDIA = {JSON: JSON, CSV: f"{CSV}; charset=utf-8", ARROW: ARROW}


def accepted(request: Request) -> str:
    """The media type that the request accepts best: JSON, CSV or Arrow. Raises Refused: 406."""
    found: dict[str, tuple[int, float, int]] = {}
    for number, part in enumerate(request.headers.get("accept", "*/*").split(",")):
        name, _, rest = part.strip().partition(";")
        name, quality = name.strip().lower(), 1.0
        for parameter in rest.split(";"):
            key, _, value = parameter.strip().partition("=")
            if key == "q":
                try:
                    quality = float(value)
                except ValueError:
                    quality = 0.0
        for kind in (JSON, CSV, ARROW):  # what is said of a form itself counts most
            group = kind.partition("/")[0] + "/*"
            ranks = {kind: 2, group: 1, "*/*": 0, "": 0}
            if name in ranks and ranks[name] >= found.get(kind, (0,))[0]:
                found[kind] = ranks[name], quality, number
    wanted = [(-q, -rank, number, kind) for kind, (rank, q, number) in found.items() if q > 0]
    if not wanted:
        raise Refused(
            406,
            f"Answers are {JSON}, {CSV} or {ARROW}; "
            f"found Accept: {request.headers['accept'][:200]}",
            "Name one of them, or leave the header Accept out",
        )
    return min(wanted, key=lambda each: each[:3])[3]


def entity_tag(version: str, kind: str) -> str:
    """The entity tag of one form of what has this version; weak, for it may be compressed."""
    form = {JSON: "j", CSV: "c", ARROW: "a"}[kind]
    return f'W/"{version}-{form}-{__version__}"'


def is_known(request: Request, version: str) -> Response | None:
    """The answer 304 where the client has this version already."""
    tag = entity_tag(version, accepted(request))
    given = [t.strip() for t in request.headers.get("if-none-match", "").split(",")]
    if tag not in given and "*" not in given:
        return None
    headers = {"ETag": tag, "Cache-Control": "private, no-cache", "Vary": _VARY}
    return Response(status_code=304, headers=headers)


def _encoded(rows: pl.DataFrame, kind: str) -> bytes:
    if kind == ARROW:
        buffer = io.BytesIO()
        rows.write_ipc_stream(buffer, compat_level=pl.CompatLevel.oldest())
        return buffer.getvalue()
    told = rows.with_columns(_plain(rows[name]) for name in rows.columns)
    if kind == CSV:
        return told.write_csv().encode()
    return (
        told.with_columns(
            pl.when(pl.col(name).is_finite()).then(pl.col(name))
            for name, type_ in told.schema.items()
            if type_.is_float() and not told[name].is_finite().all()
        )
        .write_json()
        .encode()
    )


def _plain(values: pl.Series) -> pl.Series:
    """Values as text formats have them; a sum of whole numbers is one, however wide its type."""
    if isinstance(values.dtype, pl.Datetime):
        return _moment_text(values)
    if isinstance(values.dtype, pl.Decimal):
        return values.cast(pl.Float64)
    if values.dtype in (pl.Int128, pl.UInt128):
        narrow = values.cast(pl.Int64, strict=False)
        return narrow if narrow.null_count() == values.null_count() else values.cast(pl.Float64)
    return values


def _moment_text(moments: pl.Series) -> pl.Series:
    """ISO 8601 in UTC, with fractions where one of them has any."""
    has_fraction = (moments.dt.microsecond() != 0).any()
    return moments.dt.strftime(f"%Y-%m-%dT%H:%M:%S{'%.6f' if has_fraction else ''}Z")


# --- pages


def to_cursor(request: Request, after: Sequence[Value]) -> str:
    """Where a page of what is asked begins, as a word for URLs."""
    told: list[Any] = [request.url.path]
    for value in after:
        if isinstance(value, datetime):
            told.append({"moment": value.isoformat()})
        elif isinstance(value, date):
            told.append({"date": value.isoformat()})
        else:
            told.append(value)
    packed = json.dumps(told, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(packed).decode().rstrip("=")


def from_cursor(request: Request, cursor: str, count: int) -> list[Value]:
    """What `to_cursor` packed for the same path. Raises Refused: 400."""
    try:
        told = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if not isinstance(told, list) or told[:1] != [request.url.path]:
            raise ValueError("of another path")
        found = [_value(item) for item in told[1:]]
        if len(found) != count:
            raise ValueError("another number of values")
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise Refused(
            400,
            "cursor needs to be that of the Link header of the page before",
            "Leave cursor out to begin with the first page",
        ) from error
    return found


def _value(told: Any) -> Value:
    if isinstance(told, dict):
        if "moment" in told:
            moment = datetime.fromisoformat(told["moment"])
            if moment.tzinfo is None:
                raise ValueError("a moment needs an offset")
            return moment.astimezone(UTC)
        return date.fromisoformat(told["date"])
    if isinstance(told, str | bool | int | float):
        return told
    raise TypeError("no value of an order")


# --- problems


def problem(
    status: int,
    detail: str,
    hint: str | None = None,
    headers: Mapping[str, str] | None = None,
    **more: Any,
) -> Response:
    """An answer that says what went wrong."""
    told = Problem(
        type="about:blank",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        hint=hint,
    )
    body = {**told.model_dump(exclude_none=True), **more}
    return JSONResponse(body, status, headers=dict(headers or {}), media_type=PROBLEM)


def of_refused(request: Request, error: Exception) -> Response:
    """What the client did wrong."""
    assert isinstance(error, Refused)
    return problem(error.status, error.detail, error.hint, error.headers)


def of_validation(request: Request, error: Exception) -> Response:
    """Parameters that are not what they have to be: each by its place and name."""
    assert isinstance(error, RequestValidationError)
    found = [
        {"in": str(e["loc"][0]), "name": ".".join(map(str, e["loc"][1:])), "problem": _wrong(e)}
        for e in error.errors()
    ]
    first = found[0]
    return problem(
        422,
        f"{first['in']} parameter {first['name']}: {first['problem']}",
        "What each parameter has to be: GET /openapi.json",
        errors=found,
    )


def _wrong(error: Mapping[str, Any]) -> str:
    """What is wrong with a parameter, in our words where the validator's are of its inside."""
    if error["type"] == "extra_forbidden":
        return "there is no such parameter"
    return str(error["msg"]).removeprefix("Value error, ")


def of_http(request: Request, error: Exception) -> Response:
    """No such path, or not with that method."""
    assert isinstance(error, HTTPException)
    hint = _HINTS.get(error.status_code)
    return problem(error.status_code, str(error.detail), hint, error.headers)


def of_meterlake(request: Request, error: Exception) -> Response:
    """Our own errors: wrong input is the client's, what is away may come back."""
    assert isinstance(error, MeterlakeError)
    if isinstance(error, BadInput):
        return problem(400, str(error))
    assert isinstance(error, Unavailable)
    return problem(503, str(error), "Try again later", {"Retry-After": "5"})
