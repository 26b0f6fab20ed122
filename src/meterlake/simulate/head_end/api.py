"""The API: ask for a file, ask what has become of it, or page through the reads themselves."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import FastAPI, Query, Response
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from meterlake import __version__
from meterlake.errors import BadInput, Unavailable
from meterlake.simulate.head_end.answers import (
    END,
    START,
    About,
    File,
    HeadEndProblem,
    Moment,
    Queued,
    ReadsPage,
    Window,
)
from meterlake.simulate.head_end.faults import SLOW_SECONDS, Channel, Fault, Faults
from meterlake.simulate.head_end.requests import FileRequest, RequestStatus
from meterlake.simulate.head_end.system import OUTBOX, HeadEnd

MOST_ROWS = 100_000  # of a page
PROBLEM = "application/problem+json"


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    schema = {"$ref": "#/components/schemas/HeadEndProblem"}
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {PROBLEM: {"schema": schema}},
        }
        for status in statuses
    }


def create_app(head_end: HeadEnd, faults: Faults) -> FastAPI:
    """The API of a head-end."""
    app = FastAPI(
        title="meterlake hes",
        version=__version__,
        description="A simulated head-end system. Windows go by arrival and are half-open.",
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        exception_handlers={
            BadInput: _of_words(400),
            Unavailable: _of_words(503),
            RequestValidationError: _of_validation,
            HTTPException: _of_http,
        },
    )

    @app.get("/", summary="About the head-end", responses=_problems(503))
    def about() -> About:
        return About(
            name="meterlake hes",
            version=__version__,
            devices=head_end.plan.devices,
            interval_minutes=head_end.plan.interval_minutes,
            complete_until=head_end.complete_until,
            now=head_end.now(),
            oldest=head_end.oldest(),
        )

    _add_files(app, head_end)

    @app.get(
        "/readings",
        summary="Page through reads",
        response_model=ReadsPage,
        responses=_problems(400, 422, 503),
    )
    def readings(
        start_date: Annotated[Moment, _query(START)],
        end_date: Annotated[Moment | None, _query(END)] = None,
        offset: Annotated[int, Query(ge=0, le=2**62, description="Reads to leave out")] = 0,
        page_size: Annotated[
            int, Query(ge=1, le=MOST_ROWS, description="Most reads of the answer")
        ] = 1000,
    ) -> Response:
        total, rows = head_end.page(start_date, end_date, offset=offset, size=page_size)
        told = f'"total":{total},"offset":{offset},"page_size":{page_size}'
        body = f'{{{told},"readings":{rows.write_json()}}}'
        return Response(body, media_type="application/json")

    _describe_problem(app)
    app.add_middleware(Faulty, faults=faults)
    return app


def _add_files(app: FastAPI, head_end: HeadEnd) -> None:
    """Add the routes that ask for a file, and what has become of it."""

    @app.post(
        "/readings-file",
        status_code=202,
        summary="Ask for a file",
        responses=_problems(400, 422, 503),
    )
    def ask(window: Window) -> Queued:
        return Queued(**_facts(head_end.ask(window.start_date, window.end_date)))

    @app.get(
        "/readings-file",
        summary="What has become of a file",
        responses=_problems(404, 422, 503),
    )
    def status(
        request_id: Annotated[str, Query(description="As the answer to asking for it said")],
    ) -> File:
        found = head_end.request(request_id)
        if found is None:
            raise HTTPException(404, f"No file was asked for with request_id '{request_id}'")
        is_there = found.status is RequestStatus.COMPLETED
        return File(
            **_facts(found),
            sftp_location=f"/{OUTBOX}/{found.request_id}.csv.gz" if is_there else None,
            record_count=found.record_count,
            size=found.size,
            sha256=found.sha256,
            error=found.error,
        )


def _query(of: Any) -> Any:
    return Query(description=of.description, examples=of.examples)


def _facts(request: FileRequest) -> dict[str, Any]:
    names = ("request_id", "status", "start_date", "end_date")
    return {name: getattr(request, name) for name in names}


def _describe_problem(app: FastAPI) -> None:
    """Add the schema of problems to the description, which no route returns by itself."""
    described = app.openapi()
    described["components"]["schemas"]["HeadEndProblem"] = HeadEndProblem.model_json_schema()
    app.openapi_schema = described


def _problem(status: int, detail: str) -> Response:
    title = HTTPStatus(status).phrase
    body = HeadEndProblem(type="about:blank", title=title, status=status, detail=detail)
    return JSONResponse(body.model_dump(), status, media_type=PROBLEM)


def _of_words(status: int) -> Callable[[HttpRequest, Exception], Coroutine[Any, Any, Response]]:
    async def handled(request: HttpRequest, error: Exception) -> Response:
        return _problem(status, str(error))

    return handled


async def _of_http(request: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    answer = _problem(error.status_code, str(error.detail))
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:  # starlette names those of one route
        path, routes = request.url.path, request.app.routes
        methods = {m for each in routes if each.path == path for m in each.methods}
        answer.headers["Allow"] = ", ".join(sorted(methods))
    return answer


async def _of_validation(request: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    wrong: Sequence[Any] = error.errors()
    words = (
        f"{'.'.join(map(str, each['loc']))}: {each['msg'].removeprefix('Value error, ')}"
        for each in wrong
    )
    return _problem(422, "; ".join(words))


class Faulty:
    """Around everything: holds answers up, refuses them or cuts them off."""

    def __init__(self, app: ASGIApp, faults: Faults) -> None:
        self._inner, self._faults = app, faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and its answer back, or half of it."""
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        if self._faults.strikes(Fault.SLOW, Channel.API):
            await asyncio.sleep(SLOW_SECONDS)
        answering = self._inner
        if self._faults.strikes(Fault.ERROR_500, Channel.API):
            answering = _problem(500, "A fault that was asked for: --fault error500")
        is_dropped = self._faults.strikes(Fault.DROP, Channel.API)

        async def sent(message: Message) -> None:
            if not is_dropped or message["type"] == "http.response.start":
                await send(message)
            elif message.get("body"):
                half = message["body"][: len(message["body"]) // 2]
                await send({**message, "body": half, "more_body": True})

        await answering(scope, receive, sent)  # of half an answer the server cuts the connection
