"""Signing in with a key, where the server is not open: a cookie that scripts cannot read."""

from datetime import UTC, datetime
from typing import Annotated
from urllib.parse import quote

from fastapi import Depends, Form, Request, Response
from fastapi.responses import RedirectResponse

from meterlake.console.pages import page, router
from meterlake.serve.access import COOKIE, Access, NotAllowed, NotAuthenticated, require
from meterlake.serve.state import Here


class SignInFirst(Exception):
    """The browser has to show a key before it sees the page."""


def looks(request: Request) -> None:
    """The dependency of every page: who looks may read. Raises SignInFirst."""
    access: Access = request.app.state.access
    shown = request.cookies.get(COOKIE)
    try:
        authorization = request.headers.get("authorization")
        caller = access.caller(authorization, None if authorization else shown, datetime.now(UTC))
        require(caller, "read")
    except (NotAuthenticated, NotAllowed) as error:
        raise SignInFirst from error


Looks = Annotated[None, Depends(looks)]
"""The parameter of a page that only who may read sees."""


async def to_sign_in(request: Request, error: Exception) -> Response:
    """Where a page leads that needs a key first."""
    wanted = quote(request.url.path + (f"?{request.url.query}" if request.url.query else ""))
    return RedirectResponse(f"/console/sign-in?wanted={wanted}", 303)


@router.get("/console/sign-in")
def ask(request: Request, here: Here, wanted: str = "/") -> Response:
    """Ask for a key."""
    return page(request, here, "sign_in.html", wanted=_own(wanted), problem=None)


@router.post("/console/sign-in")
def sign_in(
    request: Request,
    here: Here,
    key: Annotated[str, Form(max_length=200)],
    wanted: Annotated[str, Form(max_length=2000)] = "/",
) -> Response:
    """Take a key that is right, and go where the browser wanted to."""
    access: Access = request.app.state.access
    try:
        require(access.caller(None, key.strip(), datetime.now(UTC)), "read")
    except (NotAuthenticated, NotAllowed) as error:
        return page(
            request, here, "sign_in.html", status=401, wanted=_own(wanted), problem=str(error)
        )
    answer = RedirectResponse(_own(wanted), 303)
    answer.set_cookie(
        COOKIE, key.strip(), httponly=True, samesite="strict",
        secure=request.url.scheme == "https",
    )  # fmt: skip
    return answer


@router.post("/console/sign-out")
def sign_out() -> Response:
    """Forget the key."""
    answer = RedirectResponse("/console/sign-in", 303)
    answer.delete_cookie(COOKIE)
    return answer


def _own(wanted: str) -> str:
    """A path of this server, whatever was asked for."""
    is_own = wanted.startswith("/") and not wanted.startswith(("//", "/\\"))
    return wanted if is_own else "/"
