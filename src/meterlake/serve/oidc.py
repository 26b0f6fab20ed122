"""Bearer tokens of an OpenID Connect issuer, beside our own keys.

The issuer's discovery document (OpenID Connect Discovery 1.0, section 4) says where its public
keys are; both are asked for by TLS, except of an issuer on loopback. PyJWT reads and checks the
tokens; it holds their times against the machine's clock. Only asymmetric algorithms are
accepted: with those that share a secret, the public key could pass for it (RFC 8725, 2.1).

Keys are asked for again after 5 minutes, or when a token names an unknown one, though not more
often than every 10 s. While the issuer is away its keys serve for an hour, then nobody gets in.
"""

import ipaddress
import json
import threading
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

import jwt

from meterlake import __version__
from meterlake.errors import BadInput, Unavailable

ALGORITHMS = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
LEEWAY = timedelta(seconds=30)  # between the issuer's clock and ours
KEYS_LAST = timedelta(minutes=5)
KEYS_LAST_ALONE = timedelta(hours=1)
ASKED_AGAIN_AFTER = timedelta(seconds=10)

_ANSWER_SECONDS = 5.0
_ANSWER_BYTES = 1_000_000
_LONGEST_TOKEN = 16_384
_LONGEST_SUBJECT = 200

_REASONS: tuple[tuple[type[Exception], str], ...] = (  # the first that fits
    (jwt.ExpiredSignatureError, "has expired"),
    (jwt.ImmatureSignatureError, "is not valid yet"),
    (jwt.InvalidAudienceError, "is for another audience"),
    (jwt.InvalidIssuerError, "is of another issuer"),
    (jwt.MissingRequiredClaimError, "lacks one of exp, iss and aud"),
    (jwt.InvalidSignatureError, "has a signature that is not the issuer's"),
    (jwt.InvalidAlgorithmError, "is signed by an algorithm that is not accepted"),
    (jwt.InvalidKeyError, "is signed with a key that is too weak"),
)


class NotAccepted(BadInput):
    """The token opens nothing; the message says why, and nothing of its content."""


@dataclass(frozen=True)
class Bearer:
    """Who a token speaks for, and the words of its scope claim."""

    subject: str
    words: frozenset[str]


@dataclass(frozen=True)
class _Published:
    """The issuer's signing keys, each by its name and by algorithm, and when they were had."""

    keys: tuple[tuple[object, dict[str, jwt.PyJWK]], ...]
    at: datetime

    def find(self, key_id: str | None, algorithm: str) -> jwt.PyJWK | None:
        """The key that a token names. It may only be silent where there is just one."""
        named = [by for name, by in self.keys if key_id is not None and name == key_id]
        if key_id is None and len(self.keys) == 1:
            named = [self.keys[0][1]]
        return next((by[algorithm] for by in named if algorithm in by), None)


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine's own: localhost, 127.0.0.0/8 or ::1.

    >>> [is_loopback(host) for host in ("localhost", "127.0.0.9", "::1", "0.0.0.0", "")]
    [True, True, True, False, False]
    """
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Issuer:
    """Checks tokens of one issuer for one audience. Threads may share it.

    Raises
    ------
    BadInput
        The URL is not one of https (or of http on loopback), or there is no audience.
    """

    def __init__(self, url: str, audience: str | None, scope_claim: str = "scope") -> None:
        if not _is_safe(url) or "?" in url or "#" in url:
            raise BadInput(
                "Setting 'serve.oidc_issuer' needs the issuer's URL, https and without a query, "
                f"such as https://login.example.com/realms/grid; found '{url}'"
            )
        if not audience:
            raise BadInput(
                "Setting 'serve.oidc_audience' is needed with serve.oidc_issuer: without it a "
                "token that was made for another service would open this one"
            )
        self.url = url
        self._audience = audience
        self._scope_claim = scope_claim
        self._lock = threading.Lock()
        self._published: _Published | None = None
        self._asked_at: datetime | None = None
        self._failure: str | None = None

    def verify(self, token: str, now: datetime) -> Bearer:
        """Whom a token speaks for. `now` ages the keys; the token's times are PyJWT's to check.

        Raises
        ------
        NotAccepted
            It is no token, not the issuer's, not for us, or not of now.
        Unavailable
            The issuer cannot be asked for the key that it needs.
        """
        if len(token) > _LONGEST_TOKEN or not token.isascii():
            raise NotAccepted("The token cannot be read")
        try:
            header = jwt.get_unverified_header(token)
            algorithm, key_id = header.get("alg"), header.get("kid")
            if algorithm not in ALGORITHMS:
                raise jwt.InvalidAlgorithmError
            claims = jwt.decode(
                token,
                self._key(key_id, algorithm, now),
                algorithms=ALGORITHMS,
                audience=self._audience,
                issuer=self.url,
                leeway=LEEWAY,
                options={"require": ["exp", "iss", "aud"], "enforce_minimum_key_length": True},
            )
        except jwt.PyJWTError as error:
            fitting = (reason for kind, reason in _REASONS if isinstance(error, kind))
            raise NotAccepted(f"The token {next(fitting, 'cannot be read')}") from error
        return Bearer(_subject(claims), _words(claims, self._scope_claim))

    def _key(self, key_id: str | None, algorithm: str, now: datetime) -> jwt.PyJWK:
        known = self._published
        found = known.find(key_id, algorithm) if known else None
        if known and found and now - known.at < KEYS_LAST:
            return found
        serves = known is not None and found is not None and now - known.at < KEYS_LAST_ALONE
        # Only one asks; who has a key that serves does not wait for the answer.
        if self._lock.acquire(blocking=not serves):
            try:
                self._ask(now)
            finally:
                self._lock.release()
        known, failure = self._published, self._failure
        if known is not None and now - known.at < KEYS_LAST_ALONE:
            if found := known.find(key_id, algorithm):
                return found
            if failure is None:
                raise NotAccepted("The token is signed with a key that the issuer does not publish")
        raise Unavailable(failure or f"The issuer '{self.url}' has not answered yet; try again")

    def _ask(self, now: datetime) -> None:
        if self._asked_at is not None and abs(now - self._asked_at) < ASKED_AGAIN_AFTER:
            return
        self._asked_at = now
        try:
            self._published, self._failure = self._fetched(now), None
        except Unavailable as error:
            self._failure = str(error)

    def _fetched(self, now: datetime) -> _Published:
        found = _document(f"{self.url.rstrip('/')}/.well-known/openid-configuration")
        if found.get("issuer") != self.url:
            raise Unavailable(
                f"The issuer at '{self.url}' says that it is another one: set serve.oidc_issuer "
                "to exactly what its discovery document says"
            )
        place = found.get("jwks_uri")
        if not isinstance(place, str) or not _is_safe(place):
            raise Unavailable(f"The issuer '{self.url}' needs to name its keys by an https URL")
        listed = _document(place).get("keys")
        read = [(key.get("kid"), _by_algorithm(key)) for key in _signing(listed)]
        usable = tuple((name, by) for name, by in read if by)
        if not usable:
            raise Unavailable(f"The issuer '{self.url}' publishes no key that can be used")
        return _Published(usable, now)


class _NoRedirect(HTTPRedirectHandler):
    """A redirect might lead to where there is no TLS."""

    def redirect_request(self, *_: Any) -> None:
        """None: the answer is the redirect, an error."""


def _is_safe(url: str) -> bool:
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    if not host or parts.username is not None or not (url.isascii() and url.isprintable()):
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))


def _signing(listed: object) -> list[dict[str, Any]]:
    keys = listed if isinstance(listed, list) else []
    return [key for key in keys if isinstance(key, dict) and key.get("use", "sig") == "sig"]


def _by_algorithm(key: dict[str, Any]) -> dict[str, jwt.PyJWK]:
    """The key for its algorithm, or, where it names none (RFC 7517, 4.4), all of its kind."""
    found = {}
    for algorithm in ALGORITHMS:
        if key.get("alg", algorithm) == algorithm:
            try:
                found[algorithm] = jwt.PyJWK(key, algorithm)
            except jwt.PyJWTError:  # of another kind, or damaged: the others may do
                continue
    return found


def _document(url: str) -> dict[str, Any]:
    """A JSON object by URL. Raises Unavailable, in words that callers may see."""
    request = Request(url, headers={"User-Agent": f"meterlake/{__version__}"})
    try:
        with build_opener(_NoRedirect).open(request, timeout=_ANSWER_SECONDS) as answer:
            document = json.loads(_body(answer))
    except HTTPError as error:
        error.close()
        reason = f"answers {error.code}"
    except (ValueError, RecursionError):
        reason = "does not answer with JSON"
    except (OSError, HTTPException):
        reason = "does not answer"
    else:
        if isinstance(document, dict):
            return document
        reason = "does not answer with a JSON object"
    raise Unavailable(f"The issuer of tokens cannot be asked: {url} {reason}; try again later")


def _body(answer: HTTPResponse) -> bytes:
    deadline, body = time.monotonic() + _ANSWER_SECONDS, b""
    while piece := answer.read1(65_536):
        body += piece
        if len(body) > _ANSWER_BYTES or time.monotonic() > deadline:
            raise TimeoutError
    return body


def _subject(claims: dict[str, Any]) -> str:
    """Who it is for, fit for a line of a log."""
    told = str(claims.get("sub") or claims.get("client_id") or "unnamed")[:_LONGEST_SUBJECT]
    return "".join(c if c.isprintable() else "?" for c in told)


def _words(claims: dict[str, Any], name: str) -> frozenset[str]:
    """The words of a claim: `realm_access.roles` is one within another, if not a name as such."""
    value: object = claims.get(name)
    if value is None:
        value = claims
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
    if isinstance(value, str):
        return frozenset(value.split())
    listed = value if isinstance(value, list) else []
    return frozenset(word for word in listed if isinstance(word, str))
