"""Callers, and what they may do: keys, tokens of an issuer, or anybody on loopback.

On loopback the server is open unless `require_key` is set; on any other address it does not
start without a key or an issuer. Being open has two limits: a key that is shown is checked
anyway, so a wrong key never passes for none; and only requests that name loopback as their host
are answered, since a page of elsewhere can let its own name lead here (DNS rebinding).
"""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Annotated, Any, Literal

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.security import APIKeyHeader, HTTPBearer

from meterlake.delta.store import Store
from meterlake.errors import BadInput
from meterlake.serve.keys import PREFIX, Keys, Scope, granted
from meterlake.serve.oidc import Issuer, NotAccepted, is_loopback
from meterlake.settings import ServeSettings

KEY_HEADER = "X-API-Key"
COOKIE = "meterlake_key"  # what the console's sign-in leaves in a browser

_HOST = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([^\[\]:@/\s]+))(?::\d{1,5})?", re.ASCII)

_bearer = HTTPBearer(
    scheme_name="bearer",
    description="A key, or a token of the issuer that the server accepts.",
    auto_error=False,
)
_key_header = APIKeyHeader(
    name=KEY_HEADER,
    scheme_name="key",
    description="A key that `meterlake keys create` made.",
    auto_error=False,
)


class NotAuthenticated(BadInput):
    """The caller is not known; the message says what is needed. Becomes a 401."""


class NotAllowed(BadInput):
    """The caller is known, and is not allowed to. Becomes a 403."""


@dataclass(frozen=True)
class Caller:
    """The caller: a key's name or a token's subject, and all that they may do."""

    name: str
    scopes: frozenset[Scope]
    kind: Literal["open", "key", "token"]


class Access:
    """Identifies callers. Threads may share it.

    Raises
    ------
    BadInput
        The settings name an issuer without an audience, an audience without an issuer, or an
        issuer that cannot be trusted.
    """

    def __init__(self, store: Store, settings: ServeSettings, is_open: bool) -> None:
        if settings.oidc_audience is not None and settings.oidc_issuer is None:
            raise BadInput("Setting 'serve.oidc_audience' needs serve.oidc_issuer; set both")
        self._keys = Keys(store)
        self._issuer = (
            None
            if settings.oidc_issuer is None
            else Issuer(settings.oidc_issuer, settings.oidc_audience, settings.oidc_scope_claim)
        )
        # Whatever is asked for: nothing but loopback is ever open.
        self.is_open = is_open and opens(settings)

    def caller(self, authorization: str | None, api_key: str | None, now: datetime) -> Caller:
        """The caller, by the headers Authorization and X-API-Key.

        Raises
        ------
        NotAuthenticated
            Nothing is shown and the server is not open, or what is shown opens nothing.
        Unavailable
            The storage or the issuer cannot say.
        """
        if authorization is not None and api_key is not None:
            raise NotAuthenticated(f"Send one of the headers Authorization and {KEY_HEADER}")
        if api_key is not None:
            return self._of_key(api_key, now)
        if authorization is not None:
            scheme, _, credentials = authorization.partition(" ")
            if scheme.lower() != "bearer":
                raise NotAuthenticated(f"The header Authorization needs Bearer. {self._needed()}")
            shown = credentials.strip()
            if self._issuer is None or shown.startswith(PREFIX):
                return self._of_key(shown, now)
            return self._of_token(self._issuer, shown, now)
        if self.is_open:
            return Caller("anybody", granted(["admin"]), "open")
        raise NotAuthenticated(self._needed())

    def _of_key(self, text: str, now: datetime) -> Caller:
        key = self._keys.verify(text, now)
        if key is None:
            raise NotAuthenticated(
                "The key is unknown, revoked or expired: meterlake keys list shows the valid ones. "
                f"{self._needed()}"
            )
        return Caller(key.name, granted(key.scopes), "key")

    def _of_token(self, issuer: Issuer, token: str, now: datetime) -> Caller:
        try:
            bearer = issuer.verify(token, now)
        except NotAccepted as error:
            raise NotAuthenticated(f"{error}. {self._needed()}") from error
        return Caller(bearer.subject, granted(bearer.words), "token")

    def _needed(self) -> str:
        or_token = "" if self._issuer is None else f", or a token of {self._issuer.url}"
        return (
            f"This server needs a key, as '{KEY_HEADER}: {PREFIX}…' or 'Authorization: Bearer "
            f"{PREFIX}…'{or_token}; meterlake keys create makes one"
        )


def require(caller: Caller, scope: Scope) -> None:
    """Raise NotAllowed where the caller lacks a scope."""
    if scope not in caller.scopes:
        has = ", ".join(sorted(caller.scopes)) or "none"
        raise NotAllowed(
            f"This needs the scope '{scope}', and the key or token has {has}: use a key that "
            f"meterlake keys create --scope {scope} made"
        )


@cache
def needs(scope: Scope) -> Callable[..., Awaitable[Caller]]:
    """The FastAPI dependency of a route that needs a scope; its value is the caller.

    It asks `request.app.state.access`, and OpenAPI names both ways to show a key.
    """

    async def allowed(
        request: Request,
        bearer: Annotated[Any, Depends(_bearer)],  # for OpenAPI: Basic would be None here
        key: Annotated[str | None, Depends(_key_header)],
    ) -> Caller:
        access: Access = request.app.state.access
        authorization = request.headers.get("authorization")
        if authorization is None and key is None:
            key = request.cookies.get(COOKIE)
        shown = authorization, key
        if access.is_open and shown == (None, None):
            return access.caller(None, None, datetime.now(UTC))
        caller = await run_in_threadpool(access.caller, *shown, datetime.now(UTC))
        require(caller, scope)
        return caller

    return allowed


def opens(settings: ServeSettings) -> bool:
    """Whether a server with these settings answers anybody: on loopback, unless told not to."""
    return is_loopback(settings.host) and not settings.require_key


def check_address(host: str, keys_exist: bool, oidc: bool) -> None:
    """Refuse to listen where others can ask and nobody is known.

    Parameters
    ----------
    host
        Address or name to listen at.
    keys_exist
        Whether a key is valid, see `has_valid_key`.
    oidc
        Whether tokens of an issuer are accepted.

    Raises
    ------
    BadInput
        The address is not loopback's, and there is neither key nor issuer.
    """
    if not (is_loopback(host) or keys_exist or oidc):
        raise BadInput(
            f"To listen at '{host}', which others can reach, the server needs a valid key or "
            "serve.oidc_issuer; found neither. Make a key with meterlake keys create --name … "
            "--scope read, or listen at 127.0.0.1"
        )


def allowed_host(host_header: str | None, listen_host: str) -> bool:
    """Whether a request may be answered by the host that it names; to be asked while open.

    Elsewhere than on loopback any name may be the server's, and keys are needed anyway.

    >>> allowed_host("localhost:8080", "127.0.0.1"), allowed_host("evil.example", "127.0.0.1")
    (True, False)
    """
    if not is_loopback(listen_host):
        return True
    named = _HOST.fullmatch(host_header or "")
    return named is not None and is_loopback(named[1] or named[2])
