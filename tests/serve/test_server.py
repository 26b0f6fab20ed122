"""The server as a whole: its process, what it refuses before any route, how well it is."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from serve.conftest import LOOPBACK, app_of
from support import served
from typer.testing import CliRunner

from meterlake.cli import app
from meterlake.delta.store import Store
from meterlake.serve.app import MOST_BYTES
from meterlake.serve.keys import create_key

Process = subprocess.Popen[str]


@contextmanager
def serving(store: Store, *options: str, **settings: str) -> Iterator[Process]:
    """The command `meterlake serve`, ended at last."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("METERLAKE_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "meterlake", "serve", "--lake", store.url, *options],
        env=kept | {"METERLAKE_TIMEZONE": served.ZONE} | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def address(process: Process) -> str:
    """Where it says that it listens."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("Serving ") and "Ctrl-C stops it" in line, line
    return line.split(" at ")[1].split()[0]


@pytest.fixture(scope="module")
def running(lake: Store) -> Iterator[str]:
    with serving(lake, "--port", "0") as process:
        yield address(process)


def refused(store: Store, *options: str) -> tuple[int, str]:
    """The exit code of the command, in this process, and what it says."""
    done = CliRunner().invoke(app, ["serve", "--lake", store.url, *options])
    assert isinstance(done.exception, SystemExit), done.exception
    assert done.stdout == ""
    return done.exit_code, done.stderr


# --- the process


def test_the_address_that_it_tells_answers(running: str) -> None:
    health = httpx2.get(f"{running}/healthz")
    assert (health.status_code, health.json()["status"]) == (200, "ok")
    assert "server" not in health.headers
    meters = httpx2.get(f"{running}/meters").json()
    assert len(meters) == len(served.METERS) + 2


def test_what_is_under_way_is_answered_before_it_stops(lake: Store) -> None:
    with serving(lake, "--port", "0") as process:
        to = urlsplit(address(process))
        body = json.dumps({"sql": "SELECT count(*) AS n FROM models"}).encode()
        with socket.create_connection((to.hostname, to.port), timeout=60) as asking:
            asking.sendall(
                b"POST /sql HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body)
            )
            assert asking.recv(1000).startswith(b"HTTP/1.1 100")  # now the route waits for us
            process.send_signal(signal.SIGTERM)
            while can_connect(to.hostname, to.port):
                assert process.poll() is None
            asking.sendall(body)
            answer = b"".join(iter(lambda: asking.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(b'[{"n":1}]')
        assert process.wait(timeout=60) in (0, -signal.SIGTERM)
        assert process.stderr is not None and "Traceback" not in process.stderr.read()


def test_a_query_ends_when_its_client_hangs_up(lake: Store) -> None:
    limits = {"METERLAKE_SERVE__SQL_PROCESSES": "1", "METERLAKE_SERVE__SQL_SECONDS": "600"}
    with serving(lake, "--port", "0", **limits) as process:
        to = urlsplit(address(process))

        def asked(sql: str) -> socket.socket:
            body = json.dumps({"sql": sql}).encode()
            asking = socket.create_connection((to.hostname, to.port), timeout=60)
            asking.sendall(
                b"POST /sql HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
            )
            return asking

        endless = asked("SELECT count(*) FROM range(1000000000000000000) a, readings")
        time.sleep(0.5)
        with asked("SELECT 1 AS claims") as waiting:
            waiting.settimeout(2)
            with pytest.raises(TimeoutError):  # the one place is taken
                waiting.recv(1)
            endless.close()
            waiting.settimeout(60)
            assert waiting.recv(15) == b"HTTP/1.1 200 OK"


def can_connect(host: str | None, port: int | None) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


def test_it_does_not_listen_where_others_can_ask_without_a_key(empty_lake: Store) -> None:
    code, told = refused(empty_lake, "--host", "0.0.0.0", "--port", "0")
    assert code == 1
    assert "meterlake keys create" in " ".join(told.split())


def test_a_port_that_is_taken_is_named(running: str, lake: Store) -> None:
    port = str(urlsplit(running).port)
    code, told = refused(lake, "--port", port)
    assert code == 3
    assert f"127.0.0.1:{port}" in told and "--port" in told


def test_a_lake_that_is_not_there_is_not_served(tmp_path: Path) -> None:
    code, told = refused(Store(str(tmp_path / "no")), "--port", "0")
    assert code == 1 and "no lake" in told


# --- before any route


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/healthz", {}, 200),
        ("GET", "/meters", {}, 200),
        ("GET", "/nothing", {}, 404),
        ("DELETE", "/meters", {}, 405),
        ("GET", "/meters?limit=x", {}, 422),
        ("GET", "/meters", {"X-API-Key": "mlk_no"}, 401),
        ("GET", "/meters", {"Accept": "image/png"}, 406),
        ("GET", "/meters", {"Host": "evil.example"}, 421),
        ("POST", "/sql", {"Content-Length": str(MOST_BYTES + 1)}, 413),
    ],
)
def test_every_answer_has_the_headers_that_browsers_heed(
    client: TestClient, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    answer = client.request(method, path, headers=headers)
    assert answer.status_code == status
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] in ("no-store", "private, no-cache")
    if status >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == status and answer.json()["detail"]


def test_a_fault_of_ours_is_a_problem_too_and_says_nothing_of_the_inside(
    lake: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr("meterlake.serve.about.catalog.tables", broken)
    with TestClient(app_of(lake), base_url=LOOPBACK, raise_server_exceptions=False) as asking:
        answer = asking.get("/catalog")
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert "secret" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("127.0.0.1:8080", 200),
        ("[::1]:8080", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.nip.io", 421),
        ("", 421),
    ],
)
def test_a_name_of_elsewhere_that_leads_here_is_refused_while_the_server_is_open(
    client: TestClient, lake: Store, host: str, status: int
) -> None:
    assert client.get("/healthz", headers={"Host": host}).status_code == status
    with TestClient(app_of(lake, require_key=True), base_url=LOOPBACK) as guarded:
        assert guarded.get("/healthz", headers={"Host": host}).status_code == 200


def test_a_body_that_is_large_or_of_unknown_length_is_refused(client: TestClient) -> None:
    large = client.post("/sql", content=b" " * (MOST_BYTES + 1))
    unknown = client.post("/sql", content=iter([b'{"sql": ', b'"SELECT 1"}']))
    assert (large.status_code, unknown.status_code) == (413, 413)
    assert str(MOST_BYTES) in large.json()["detail"]


# --- how well it is


def test_it_is_ready_while_the_storage_is_there(
    own_lake: Store, client_of: Callable[..., TestClient]
) -> None:
    client = client_of(own_lake)
    assert client.get("/readyz").status_code == 200
    away = shutil.move(own_lake.url, f"{own_lake.url}-away")
    answer = client.get("/readyz")
    assert (answer.status_code, client.get("/healthz").status_code) == (503, 200)
    assert answer.headers["retry-after"] == "5"
    assert (client.get("/meters").status_code, client.get("/").status_code) == (503, 503)
    shutil.move(away, own_lake.url)
    assert client.get("/readyz").status_code == 200


def samples(client: TestClient) -> dict[tuple[str, ...], float]:
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_metrics_count_requests_by_route_and_rows_by_table(
    lake: Store, client_of: Callable[..., TestClient]
) -> None:
    client = client_of(lake)
    for path in ("/meters/a1", "/meters/a2", "/meters/no", "/nothing", "/nothing/else"):
        client.get(path)
    found = samples(client)
    of = "meterlake_requests_total"
    assert found[of, "GET", "/meters/{meter_id}", "200"] == 2
    assert found[of, "GET", "/meters/{meter_id}", "404"] == 1
    assert found[of, "other", "unknown", "404"] == 2  # made-up paths make no new series
    assert found["meterlake_request_seconds_count", "GET", "/meters/{meter_id}"] == 3
    assert found["meterlake_rows", "models"] == 1
    assert found["meterlake_newest_timestamp_seconds", "readings"] == pytest.approx(
        (served.END - served.HOUR).timestamp()
    )
    assert samples(client)[of, "GET", "/metrics", "200"] == 1


def test_a_key_that_is_made_while_it_runs_works_at_once(
    own_lake: Store, client_of: Callable[..., TestClient]
) -> None:
    client = client_of(own_lake, require_key=True)
    assert client.get("/meters").status_code == 401
    _, text = create_key(own_lake, name="new", scopes=["read"], now=datetime.now(UTC))
    assert client.get("/meters", headers={"X-API-Key": text}).status_code == 200
