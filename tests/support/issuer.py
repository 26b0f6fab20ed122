"""An OpenID Connect issuer on loopback: publishes keys, signs tokens, goes wrong on demand."""

import json
import threading
import time
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

AUDIENCE = "meterlake"
DISCOVERY = "/.well-known/openid-configuration"

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@cache
def rsa_key(number: int = 0, bits: int = 2048) -> rsa.RSAPrivateKey:
    """The same one for the same number: making one takes a while."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


@cache
def ec_key(number: int = 0) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@cache
def ed_key(number: int = 0) -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.generate()


def public_jwk(key: PrivateKey, **members: Any) -> dict[str, Any]:
    """The public half as an issuer publishes it."""
    match key:
        case rsa.RSAPrivateKey():
            found = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        case ec.EllipticCurvePrivateKey():
            found = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
        case ed25519.Ed25519PrivateKey():
            found = OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return {name: v for name, v in found.items() if name != "key_ops"} | members


class LocalIssuer:
    """An issuer on a free port of 127.0.0.1, in a thread, as long as the ``with`` block.

    Attributes
    ----------
    keys
        What it publishes from now on, as JWKs.
    discovery
        What its discovery document says, besides the usual or instead of it.
    answers
        Status and body for a path, instead of the usual. With 0 the connection closes, 3xx leads
        to `/moved`.
    requests
        The paths that were asked for, in order.
    may_answer
        While it is cleared requests hang; `hangs` is set once one does.
    """

    def __init__(self, *keys: dict[str, Any]) -> None:
        self.keys = list(keys)
        self.discovery: dict[str, Any] = {}
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.requests: list[str] = []
        self.may_answer, self.hangs = threading.Event(), threading.Event()
        self.may_answer.set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), name="issuer", daemon=True
        )
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.may_answer.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def token(
        self,
        key: PrivateKey,
        key_id: str | None,
        algorithm: str,
        *,
        headers: dict[str, Any] | None = None,
        **claims: Any,
    ) -> str:
        """A token for an hour, for us; a claim that is None is left out."""
        now = int(time.time())
        told = {"iss": self.url, "aud": AUDIENCE, "sub": "ann", "iat": now, "exp": now + 3600}
        named = {} if key_id is None else {"kid": key_id}
        return jwt.encode(
            {name: value for name, value in {**told, **claims}.items() if value is not None},
            key,
            algorithm=algorithm,
            headers={**named, **(headers or {})},
        )

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        ours = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                ours.requests.append(self.path)
                if not ours.may_answer.is_set():
                    ours.hangs.set()
                    ours.may_answer.wait(60)
                usual: dict[str, Any] = {
                    DISCOVERY: {
                        "issuer": ours.url,
                        "jwks_uri": f"{ours.url}/keys",
                        **ours.discovery,
                    },
                    "/keys": {"keys": ours.keys},
                }
                status, body = ours.answers.get(
                    self.path,
                    (200, json.dumps(usual[self.path]).encode())
                    if self.path in usual
                    else (404, b""),
                )
                if status == 0:  # the connection closes
                    self.close_connection = True
                    return
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("Location", f"{ours.url}/moved")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        return Handler
