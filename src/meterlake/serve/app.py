"""The application: every route, what guards them, how errors become answers."""

import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from meterlake import __version__, console
from meterlake.console.pages import is_page, problem_page
from meterlake.console.sign_in import SignInFirst, to_sign_in
from meterlake.delta.store import Store
from meterlake.engine.local import LocalEngine
from meterlake.errors import MeterlakeError
from meterlake.serve import about, guide, health, meters, questions
from meterlake.serve import sql as ask_sql
from meterlake.serve.access import Access, NotAllowed, NotAuthenticated, allowed_host, opens
from meterlake.serve.answers import (
    Refused,
    of_http,
    of_meterlake,
    of_refused,
    of_validation,
    problem,
)
from meterlake.serve.sandbox import Sandbox
from meterlake.serve.state import Served
from meterlake.settings import Settings

MOST_BYTES = 1_000_000  # of a request's body

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Strict-Transport-Security": "max-age=31536000",
}

_FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host")

_DESCRIPTION = """\
Interval reads of electricity meters, what is derived from them, and SQL over all of it.

Rows are a JSON list; `Accept: text/csv` or `application/vnd.apache.arrow.stream` give a table.
A listing of more rows than `limit` has a header `Link` to its next page. Times are UTC; a time
that is asked for without an offset is in the lake's zone, and a local day is one of that zone.
Energy is kWh, power kW. Mistakes are answered as problems (RFC 9457) with what was needed.
"""


def create_app(store: Store, settings: Settings) -> FastAPI:
    """The application that serves one lake.

    Raises
    ------
    BadInput
        The settings of access contradict one another.
    """
    access = Access(store, settings.serve, opens(settings.serve))
    sandbox = Sandbox(store.url, settings.serve)
    app = FastAPI(
        title="meterlake",
        version=__version__,
        description=_DESCRIPTION,
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        lifespan=_while_running,
        exception_handlers={
            SignInFirst: to_sign_in,
            **{kind: _for_people_too(handler) for kind, handler in _HANDLERS.items()},
        },
    )
    app.state.served = Served(
        store,
        settings,
        LocalEngine(settings.workers),
        keep_mb=settings.serve.keep_mb,
        sandbox=sandbox,
    )
    app.state.access = access
    app.state.metrics = health.Metrics()
    for room in (guide, meters, questions, about, ask_sql, health, console):
        app.include_router(room.router)
    app.add_middleware(GZipMiddleware, minimum_size=2_000, compresslevel=1)
    app.add_middleware(Guard, app=app, listen_host=settings.serve.host)
    return app


@asynccontextmanager
async def _while_running(app: FastAPI) -> AsyncIterator[None]:
    yield
    await app.state.served.sandbox.close()


def _not_authenticated(request: Request, error: Exception) -> Response:
    return problem(401, str(error), headers={"WWW-Authenticate": "Bearer"})


def _not_allowed(request: Request, error: Exception) -> Response:
    return problem(403, str(error))


def _fault(request: Request, error: Exception) -> Response:
    """Return a generic 500 for what we did not foresee; uvicorn logs the details."""
    headers = {**_HEADERS, "Cache-Control": "no-store"}  # this answer does not pass the Guard
    return problem(500, "The server failed to answer: its log says why", headers=headers)


_Handler = Callable[[Request, Exception], Response]
_AsyncHandler = Callable[[Request, Exception], Coroutine[Any, Any, Response]]
_HANDLERS: dict[type[Exception], _Handler] = {
    Refused: of_refused,
    NotAuthenticated: _not_authenticated,
    NotAllowed: _not_allowed,
    MeterlakeError: of_meterlake,
    RequestValidationError: of_validation,
    HTTPException: of_http,
    Exception: _fault,
}


def _for_people_too(handler: _Handler) -> _AsyncHandler:
    """What a handler answers; as a page where a page was asked for."""

    async def handled(request: Request, error: Exception) -> Response:
        found = handler(request, error)
        return problem_page(request, found) if is_page(request) else found

    return handled


class Guard:
    """Around everything: refuses strangers' hosts and large bodies, adds headers, counts."""

    def __init__(self, inner: ASGIApp, app: FastAPI, listen_host: str) -> None:
        self._inner, self._app, self._listen_host = inner, app, listen_host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and its answer back."""
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        began = time.perf_counter()
        status = 500
        headers = Headers(scope=scope)

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                out = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    out.setdefault(name, value)
                out.setdefault("Cache-Control", "no-store")
            await send(message)

        refusal = self._refusal(scope["method"], headers)
        try:
            if refusal is not None:
                await refusal(scope, receive, sent)
            else:
                await self._inner(scope, receive, sent)
        finally:
            route: Any = scope.get("route")
            name = getattr(route, "path", "unknown")
            self._app.state.metrics.answered(
                scope["method"] if route else "other", name, status, time.perf_counter() - began
            )

    def _refusal(self, method: str, headers: Headers) -> Response | None:
        if self._app.state.access.is_open and any(name in headers for name in _FORWARDED):
            return problem(
                421,
                "This server is open to this machine, and another passed the request on",
                "Behind a proxy set serve.require_key, and use a key",
            )
        if self._app.state.access.is_open and not allowed_host(
            headers.get("host"), self._listen_host
        ):
            return problem(
                421,
                "This server is open on loopback and answers only to names of it, such as "
                "localhost",
                "Ask at http://127.0.0.1, or set serve.require_key and use a key",
            )
        if method not in ("GET", "HEAD") and headers.get("sec-fetch-site", "none") not in (
            "none",
            "same-origin",
        ):
            return problem(403, "A page of another site cannot ask this")
        length = headers.get("content-length", "0")
        has_length = "transfer-encoding" not in headers
        if not has_length or not length.isdecimal() or int(length) > MOST_BYTES:
            return problem(
                413, f"A request's body needs a Content-Length of at most {MOST_BYTES} bytes"
            )
        return None
