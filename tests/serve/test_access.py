"""Who may ask: openness, keys and tokens, scopes, addresses, and what OpenAPI says of it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import pytest
from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient
from support.issuer import AUDIENCE, LocalIssuer, ec_key, public_jwk

from meterlake.delta.store import Store, open_store
from meterlake.errors import BadInput, Unavailable
from meterlake.serve.access import (
    Access,
    Caller,
    NotAllowed,
    NotAuthenticated,
    allowed_host,
    check_address,
    needs,
    opens,
    require,
)
from meterlake.serve.keys import SCOPES, Scope, create_key, has_valid_key, revoke_key
from meterlake.settings import ServeSettings

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
ALL = frozenset(SCOPES)
ANYBODY = Caller("anybody", ALL, "open")
OPEN, LOCKED = ServeSettings(), ServeSettings(require_key=True)
PUBLIC = ServeSettings(host="0.0.0.0")
LOOPBACK = ["127.0.0.1", "127.0.0.2", "127.255.255.254", "::1", "localhost", "LocalHost"]
ELSEWHERE = [
    *("0.0.0.0", "::", "", "192.168.1.4", "10.0.0.1", "fe80::1", "example.com", "*", "0", "127.1"),
    *("localhost.example.com", "127.0.0.1.example.com", "::ffff:10.0.0.1", "[::]", "128.0.0.1"),
    *("notlocalhost", "a.localhost"),
    *("2130706433", "0x7f.0.0.1", "localhost ", "１２７.0.0.1", "::2", "126.255.255.255"),
]


@pytest.fixture
def lake(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "lake"))


def key_text(lake: Store, *scopes: str, name: str = "ann", now: datetime = NOW) -> str:
    return create_key(lake, name=name, scopes=scopes, now=now)[1]


@pytest.fixture
def there() -> Iterator[LocalIssuer]:
    with LocalIssuer(public_jwk(ec_key(), kid="e")) as issuer:
        yield issuer


def with_issuer(there: LocalIssuer, claim: str = "scope") -> ServeSettings:
    return ServeSettings(
        require_key=True, oidc_issuer=there.url, oidc_audience=AUDIENCE, oidc_scope_claim=claim
    )


def test_only_loopback_is_open_and_only_unless_a_key_is_required(lake: Store) -> None:
    assert Access(lake, OPEN, is_open=True).caller(None, None, NOW) == ANYBODY
    assert opens(OPEN) and not opens(LOCKED) and not opens(PUBLIC)
    closed = [(OPEN, False), (LOCKED, True), (LOCKED, False), (PUBLIC, True), (PUBLIC, False)]
    for settings, is_open in closed:
        access = Access(lake, settings, is_open=is_open)
        assert not access.is_open
        with pytest.raises(NotAuthenticated, match=r"X-API-Key: mlk_….*keys create"):
            access.caller(None, None, NOW)


def test_a_key_is_taken_from_either_header_whatever_the_case_of_bearer(lake: Store) -> None:
    text = key_text(lake, "sql")
    expected = Caller("ann", frozenset({"read", "sql"}), "key")
    for settings in (OPEN, LOCKED, PUBLIC):
        access = Access(lake, settings, is_open=True)
        assert access.caller(None, text, NOW) == expected
        for authorization in (f"Bearer {text}", f"bearer {text}", f"BEARER   {text} "):
            assert access.caller(authorization, None, NOW) == expected


@pytest.mark.parametrize("settings", [OPEN, LOCKED, PUBLIC], ids=["open", "locked", "public"])
def test_what_is_shown_and_wrong_never_passes_for_nothing_shown(
    lake: Store, settings: ServeSettings
) -> None:
    text = key_text(lake, "admin")
    access = Access(lake, settings, is_open=True)
    wrong = [f"{text[:-1]}x", "", "mlk_", "mlk_x_y", "password", "ä" * 50, "../" * 30, text * 2]
    for shown in wrong:
        for authorization, api_key in ((None, shown), (f"Bearer {shown}", None)):
            with pytest.raises(NotAuthenticated) as told:
                access.caller(authorization, api_key, NOW)
            assert text not in str(told.value)
            assert len(shown) < 5 or shown not in str(told.value)
    for other in ("", "Bearer", text, f"Basic {text}", f"Bearer{text}", f"Key {text}"):
        with pytest.raises(NotAuthenticated):
            access.caller(other, None, NOW)


def test_two_things_shown_at_a_time_are_refused_also_where_both_are_right(lake: Store) -> None:
    text = key_text(lake, "read")
    with pytest.raises(NotAuthenticated, match="one of the headers"):
        Access(lake, LOCKED, is_open=False).caller(f"Bearer {text}", text, NOW)


def test_a_revoked_or_expired_key_and_one_that_never_was_are_told_alike(lake: Store) -> None:
    revoked, revoked_text = create_key(lake, name="a", scopes=["read"], now=NOW)
    revoke_key(lake, revoked.id, now=NOW)
    soon = NOW + timedelta(minutes=1)
    _, expired = create_key(lake, name="b", scopes=["read"], now=NOW, expires_at=soon)
    access = Access(lake, LOCKED, is_open=False)
    told = set()
    for text in (revoked_text, expired, f"mlk_{'0' * 16}_{'0' * 64}"):
        with pytest.raises(NotAuthenticated) as refused:
            access.caller(None, text, soon)
        told.add(str(refused.value))
    assert len(told) == 1


def test_a_token_opens_what_its_claim_says_beside_keys(lake: Store, there: LocalIssuer) -> None:
    access = Access(lake, with_issuer(there), is_open=False)
    token = there.token(ec_key(), "e", "ES256", scope="openid sql")
    expected = Caller("ann", frozenset({"read", "sql"}), "token")
    assert access.caller(f"Bearer {token}", None, NOW) == expected
    assert access.caller(None, key_text(lake, "admin"), NOW) == Caller("ann", ALL, "key")
    there.requests.clear()
    assert access.caller(f"Bearer {key_text(lake, 'read')}", None, NOW).kind == "key"
    assert there.requests == []  # a key is not shown to the issuer's rules
    nothing = access.caller(f"Bearer {there.token(ec_key(), 'e', 'ES256')}", None, NOW)
    assert nothing.scopes == frozenset()
    with pytest.raises(NotAuthenticated):
        access.caller(None, token, NOW)
    nested = Access(lake, with_issuer(there, "realm_access.roles"), is_open=False)
    told = {"roles": ["read", "offline_access"]}
    token = there.token(ec_key(), "e", "ES256", realm_access=told, scope="admin")
    assert nested.caller(f"Bearer {token}", None, NOW).scopes == {"read"}


def test_a_refused_token_says_why_and_an_issuer_that_is_away_is_unavailable(
    lake: Store, there: LocalIssuer
) -> None:
    access = Access(lake, with_issuer(there), is_open=False)
    token = there.token(ec_key(), "e", "ES256", exp=1)
    with pytest.raises(NotAuthenticated, match=rf"has expired\. .* token of {there.url}"):
        access.caller(f"Bearer {token}", None, NOW)
    there.answers["/keys"] = (0, b"")
    with pytest.raises(Unavailable):
        Access(lake, with_issuer(there), is_open=False).caller(f"Bearer {token}", None, NOW)


def test_a_token_without_an_issuer_in_the_settings_opens_nothing(
    lake: Store, there: LocalIssuer
) -> None:
    token = there.token(ec_key(), "e", "ES256", scope="admin")
    for settings in (OPEN, LOCKED):
        with pytest.raises(NotAuthenticated):
            Access(lake, settings, is_open=True).caller(f"Bearer {token}", None, NOW)
    assert there.requests == []


def test_issuer_and_audience_are_set_together_or_not_at_all(lake: Store) -> None:
    for settings in (
        ServeSettings(oidc_audience="meterlake"),
        ServeSettings(oidc_issuer="https://login.example.com"),
        ServeSettings(oidc_issuer="http://login.example.com", oidc_audience="meterlake"),
    ):
        with pytest.raises(BadInput, match=r"serve\.oidc_"):
            Access(lake, settings, is_open=False)


@pytest.mark.parametrize("scope", SCOPES)
def test_a_scope_opens_what_it_includes_and_no_more(scope: Scope) -> None:
    included: dict[str, list[Scope]] = {"read": ["read"], "sql": ["read", "sql"]}
    has = frozenset(included.get(scope, SCOPES))
    caller = Caller("ann", has, "key")
    for needed in SCOPES:
        if needed in has:
            require(caller, needed)
        else:
            with pytest.raises(NotAllowed, match=f"scope '{needed}'.*--scope {needed}"):
                require(caller, needed)
    with pytest.raises(NotAllowed, match="has none"):
        require(Caller("bob", frozenset(), "token"), scope)


def test_a_server_for_others_does_not_start_without_a_valid_key_or_an_issuer(lake: Store) -> None:
    with pytest.raises(BadInput, match=r"meterlake keys create --name … --scope read"):
        check_address("0.0.0.0", has_valid_key(lake, now=NOW), False)
    soon = NOW + timedelta(days=1)
    create_key(lake, name="ends", scopes=["read"], now=NOW, expires_at=soon)
    check_address("0.0.0.0", has_valid_key(lake, now=NOW), False)
    with pytest.raises(BadInput):
        check_address("0.0.0.0", has_valid_key(lake, now=soon), False)
    check_address("0.0.0.0", False, True)


def test_every_address_but_loopback_needs_them() -> None:
    for host in LOOPBACK:
        check_address(host, False, False)
        assert opens(ServeSettings(host=host))
    for host in ELSEWHERE:
        with pytest.raises(BadInput, match="which others can reach"):
            check_address(host, False, False)
        assert not opens(ServeSettings(host=host))


def test_on_loopback_only_requests_that_name_loopback_are_answered() -> None:
    for listens in LOOPBACK:
        for named in ("127.0.0.1", "127.9.9.9:1", "localhost", "LOCALHOST:65535", "[::1]:8080"):
            assert allowed_host(named, listens)
        for named in (
            *("", ":8080", "::1", "[::1", "evil.example", "evil.example:8080", "localhost:"),
            *("localhost.evil.example", "evil.example:80@localhost", "user@localhost"),
            *("localhost/evil.example", "localhost:80:80", "localhost:x", "localhost\n", "[::2]"),
            *("127.0.0.1.evil.example", "[localhost]", "[127.0.0.1", "0.0.0.0:8080", "10.0.0.1"),
            *("localhost:８０", "localhost evil.example", "x" * 100_000),
        ):
            assert not allowed_host(named, listens), named
        assert not allowed_host(None, listens)
    for listens in ELSEWHERE:
        assert allowed_host("lake.example.com", listens)


@pytest.fixture
def app(lake: Store) -> FastAPI:
    """A server with a route for each scope, and the answers that ours gives."""
    app = FastAPI()
    app.state.access = Access(lake, LOCKED, is_open=False)

    @app.exception_handler(NotAuthenticated)
    def unknown(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"hint": str(error)}, 401, {"WWW-Authenticate": "Bearer"})

    @app.exception_handler(NotAllowed)
    def forbidden(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"hint": str(error)}, 403)

    @app.get("/read")
    def read(caller: Annotated[Caller, Depends(needs("read"))]) -> str:
        return caller.name

    @app.get("/sql", dependencies=[Depends(needs("sql"))])
    def sql() -> str:
        return "sql"

    @app.get("/admin", dependencies=[Depends(needs("admin"))])
    def admin() -> str:
        return "admin"

    return app


def test_routes_answer_who_has_the_scope_and_nobody_else(app: FastAPI, lake: Store) -> None:
    texts = [key_text(lake, scope, name=scope) for scope in SCOPES]
    with TestClient(app) as client:
        for opened, text in enumerate(texts, 1):
            for headers in ({"X-API-Key": text}, {"Authorization": f"Bearer {text}"}):
                found = [client.get(f"/{s}", headers=headers).status_code for s in SCOPES]
                assert found == [200] * opened + [403] * (3 - opened)
        assert client.get("/read", headers={"x-api-key": texts[1]}).json() == "sql"
        basic = {"Authorization": f"Basic {texts[2]}"}
        both = {"X-API-Key": texts[2], "Authorization": f"Bearer {texts[2]}"}
        for wrong in ({}, {"X-API-Key": "x"}, {"Authorization": "Bearer x"}, basic, both):
            for scope in SCOPES:
                answer = client.get(f"/{scope}", headers=wrong)
                assert answer.status_code == 401
                assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_an_open_server_answers_anybody_but_not_a_wrong_key(app: FastAPI, lake: Store) -> None:
    app.state.access = Access(lake, OPEN, is_open=True)
    reader = key_text(lake, "read")
    with TestClient(app) as client:
        assert [client.get(f"/{scope}").status_code for scope in SCOPES] == [200] * 3
        assert client.get("/read", headers={"X-API-Key": "x"}).status_code == 401
        assert client.get("/read", headers={"Authorization": "Basic x"}).status_code == 401
        assert client.get("/sql", headers={"X-API-Key": reader}).status_code == 403


def test_openapi_names_both_ways_to_show_a_key(app: FastAPI) -> None:
    described = app.openapi()
    schemes = described["components"]["securitySchemes"]
    assert schemes["bearer"].items() >= {"type": "http", "scheme": "bearer"}.items()
    assert schemes["key"].items() >= {"type": "apiKey", "in": "header", "name": "X-API-Key"}.items()
    for scope in SCOPES:
        operation = described["paths"][f"/{scope}"]["get"]
        assert operation["security"] == [{"bearer": []}, {"key": []}]
        assert "parameters" not in operation and "requestBody" not in operation
    assert needs("read") is needs("read")


def test_keys_can_be_managed_where_the_web_framework_is_not_installed(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('fastapi', 'starlette', 'jwt', 'uvicorn'): sys.modules[name] = None\n"
        "from meterlake.cli import app\n"
        "app(['keys', 'create', '--name', 'x', '--scope', 'read'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "METERLAKE_LAKE": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "mlk_" in done.stdout
