"""Who may call what: each route asked by everybody. A route that is not in the table fails."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from serve.conftest import LOOPBACK, app_of
from support import ml

from meterlake.delta.store import Store
from meterlake.questions.registry import QUESTIONS
from meterlake.serve.keys import create_key, revoke_key

CALLERS = ("nobody", "made up", "expired", "revoked", "read", "sql", "admin")

FREE = {"/healthz", "/readyz", "/openapi.json"}
READ = {
    *(f"/{name}" for name in QUESTIONS),
    "/consumption/{meter_id}",
    "/voltage/{meter_id}",
    "/consumption/{by}/{year}/{meter_id}",
    "/forecast/{meter_id}",
    "/anomaly/{meter_id}",
    "/outage",
    "/meters/{meter_id}",
    "/meters/{meter_id}/readings",
    "/meters/{meter_id}/consumption",
    "/meters/{meter_id}/forecast",
    "/catalog",
    "/catalog/{table}",
    "/indices",
    "/metrics",
    "/about",
}
SQL, ADMIN = {"/sql"}, {"/settings"}
MAY = {
    **{path: set(CALLERS) for path in FREE},
    **{path: {"read", "sql", "admin"} for path in READ},
    **{path: {"sql", "admin"} for path in SQL},
    **{path: {"admin"} for path in ADMIN},
}
PAGES = {  # of the console, which leads those away who may not look
    "/",
    "/console/anomalies",
    "/console/forecast",
    "/console/meter",
    "/console/outages",
    "/console/quality",
    "/console/sql",
    "/console/volt-var",
    "/console/weather",
}
DOORS = {"/console/sign-in", "/console/sign-out", "/console/static/{name}"}
IN_PATHS = {"meter_id": "b2", "by": "daily", "year": "2024", "table": "readings"}
QUERIES = {
    "/consumption/{meter_id}": "reading_date_from=20240407&reading_date_to=20240407",
    "/voltage/{meter_id}": "reading_date_from=20240407&reading_date_to=20240407",
    "/anomaly/{meter_id}": "year=2024",
    "/outage": "start_date_time=20240401000000&end_date_time=20240501000000",
}


@dataclass(frozen=True)
class World:
    """A server that needs a key, one that is open on loopback, and what callers show."""

    guarded: TestClient
    open: TestClient
    shown: dict[str, str]


@pytest.fixture(scope="module")
def world(lake: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    store = ml.copied(Path(lake.url), tmp_path_factory.mktemp("keys") / "lake")
    now = datetime.now(UTC)
    shown = {"made up": f"mlk_{'0' * 16}_{'0' * 64}"}
    _, shown["expired"] = create_key(
        store,
        name="expired",
        scopes=["admin"],
        now=now - timedelta(days=2),
        expires_at=now - timedelta(days=1),
    )
    key, shown["revoked"] = create_key(store, name="revoked", scopes=["admin"], now=now)
    revoke_key(store, key.id, now=now)
    for scope in ("read", "sql", "admin"):
        _, shown[scope] = create_key(store, name=scope, scopes=[scope], now=now)
    guarded = TestClient(app_of(store, require_key=True), base_url="http://192.0.2.7")
    open_ = TestClient(app_of(store), base_url=LOOPBACK)
    with guarded, open_:
        yield World(guarded, open_, shown)


def asked(client: TestClient, path: str, headers: dict[str, str]) -> int:
    filled = path
    for name, value in IN_PATHS.items():
        filled = filled.replace(f"{{{name}}}", value)
    url = f"{filled}?{QUERIES.get(path, '')}"
    if path == "/sql":
        return client.post(url, json={"sql": "SELECT 1 AS one"}, headers=headers).status_code
    return client.get(url, headers=headers).status_code


@pytest.mark.parametrize("path", sorted(MAY))
def test_each_caller_may_what_the_table_says_and_nothing_else(world: World, path: str) -> None:
    for caller in CALLERS:
        known = caller in ("read", "sql", "admin")
        expected = 200 if caller in MAY[path] else 403 if known else 401
        key = world.shown.get(caller)
        for headers in ({"X-API-Key": key}, {"Authorization": f"Bearer {key}"}) if key else ({},):
            assert asked(world.guarded, path, headers) == expected, (caller, headers)


@pytest.mark.parametrize("path", sorted(MAY))
def test_on_loopback_nobody_needs_a_key_but_a_wrong_one_is_wrong(world: World, path: str) -> None:
    assert asked(world.open, path, {}) == 200
    for caller in ("made up", "expired", "revoked"):
        expected = 200 if path in FREE else 401
        assert asked(world.open, path, {"X-API-Key": world.shown[caller]}) == expected
    if path in SQL | ADMIN:
        assert asked(world.open, path, {"X-API-Key": world.shown["read"]}) == 403


@pytest.mark.parametrize("path", sorted(PAGES))
def test_pages_lead_to_the_sign_in(world: World, path: str) -> None:
    for caller in ("nobody", "made up", "expired", "revoked"):
        headers = {"X-API-Key": world.shown[caller]} if caller in world.shown else {}
        answer = world.guarded.get(path, headers=headers, follow_redirects=False)
        assert answer.status_code in (303, 401)
        assert answer.status_code == 401 or "/console/sign-in" in answer.headers["location"]


def test_every_route_is_in_a_table(world: World) -> None:
    app: Any = world.open.app
    found = {(path, method) for path, methods in routes(app.routes) for method in methods}
    assert {path for path, _ in found} == set(MAY) | PAGES | DOORS
    written = {path for path, method in found if method not in ("GET", "HEAD")}
    assert written <= SQL | {"/console/sign-in", "/console/sign-out"}


def routes(of: Iterable[Any]) -> Iterator[tuple[str, set[str]]]:
    """Paths and methods, those that the description leaves out too."""
    for route in of:
        if hasattr(route, "effective_route_contexts"):  # a router that was included
            yield from routes(route.effective_route_contexts())
        else:
            yield route.path, route.methods


def test_a_refusal_says_what_is_needed(world: World) -> None:
    nobody = world.guarded.get("/meters")
    assert nobody.headers["www-authenticate"] == "Bearer"
    assert "meterlake keys create" in nobody.json()["detail"]
    reader = world.guarded.get("/settings", headers={"X-API-Key": world.shown["read"]})
    assert "'admin'" in reader.json()["detail"]
    for answer in (nobody, reader):
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/access/keys", "/../etc/passwd", "/sql/"])
def test_there_is_nothing_else(world: World, path: str) -> None:
    key = {"X-API-Key": world.shown["admin"]}
    assert world.guarded.get(path, headers=key, follow_redirects=False).status_code in (
        404,
        405,
        307,
    )
