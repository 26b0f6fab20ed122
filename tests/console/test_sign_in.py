"""Signing in: who has no key sees no page, and a key leads nowhere but back to this server."""

import http.client
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote, urlencode, urlsplit

import pytest
from playwright.sync_api import Cookie, Page
from support import console, ml
from support.console import ADDRESSES, METER, opened

from meterlake.delta.store import Store
from meterlake.serve.access import COOKIE
from meterlake.serve.keys import create_key, revoke_key

ELSEWHERE = (
    "//evil.example/",
    "/\\evil.example/",
    "\\\\evil.example/",
    "https://evil.example/",
    "HTTPS:evil.example",
    "javascript:alert(1)",
    "///evil.example/",
    "/\t/evil.example/",
    "\t//evil.example/",
    "/\n/evil.example/",
    "/.//evil.example/",
    "evil.example",
    "@evil.example",
    "",
)
Answer = tuple[int, dict[str, str], str]
Asking = Callable[..., Answer]


@pytest.fixture(scope="module")
def closed_lake(lake: Store, folder: Path) -> Store:
    """A copy of the small lake, to which keys are added."""
    return ml.copied(Path(lake.url), folder / "closed")


@pytest.fixture(scope="module")
def closed(closed_lake: Store, folder: Path) -> Iterator[str]:
    """The address of a server that answers only to keys."""
    key = {"serve__require_key": "true"}
    with console.serving(closed_lake, folder / "closed server", **key) as address:
        yield address


@pytest.fixture(scope="module")
def key(closed_lake: Store) -> str:
    """A key that may read."""
    return create_key(closed_lake, name="a reader", scopes=["read"], now=_now())[1]


@pytest.fixture
def ask(closed: str) -> Asking:
    """Ask without a browser, and follow nothing: status, headers, text."""

    def asking(path: str, form: dict[str, str] | None = None, **headers: str) -> Answer:
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        body = None if form is None else urlencode(form)
        if form is not None:
            told["Content-Type"] = "application/x-www-form-urlencoded"
        connection = http.client.HTTPConnection(urlsplit(closed).netloc, timeout=60)
        try:
            connection.request("GET" if form is None else "POST", path, body, told)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, found, answer.read().decode()
        finally:
            connection.close()

    return asking


def _now() -> datetime:
    return datetime.now(UTC)


def _sign_in(page: Page, key: str) -> None:
    page.get_by_label("Key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_load_state()


def _cookies(page: Page) -> list[Cookie]:
    return [cookie for cookie in page.context.cookies() if cookie["name"] == COOKIE]


@pytest.mark.parametrize("address", ADDRESSES)
def test_without_a_key_every_page_leads_to_sign_in(ask: Asking, address: str) -> None:
    status, headers, text = ask(address)
    assert status == 303
    assert headers["location"] == f"/console/sign-in?wanted={quote(address)}"
    assert text == ""


def test_a_key_opens_the_page_that_was_wanted(page: Page, closed: str, key: str) -> None:
    wanted = f"{closed}/console/meter?meter_id={METER}&by=week"
    opened(page, wanted)
    assert urlsplit(page.url).path == "/console/sign-in"
    _sign_in(page, key)
    assert page.url == wanted
    page.wait_for_selector("html[data-ready=yes]", state="attached")
    assert METER in page.inner_text(".question")
    opened(page, closed)
    assert page.inner_text("h1") == "Overview"


def test_scripts_and_other_sites_do_not_get_the_key(page: Page, closed: str, key: str) -> None:
    opened(page, closed)
    _sign_in(page, key)
    (cookie,) = _cookies(page)
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Strict"
    assert cookie["expires"] == -1  # until the browser is closed
    assert page.evaluate("document.cookie") == ""
    assert key not in page.content()
    assert key not in page.url


@pytest.mark.parametrize(
    "wrong", ["wrong", "mlk_0123456789abcdef_" + 64 * "0", "<img data-hostile>", "ü"]
)
def test_a_wrong_key_is_refused_and_not_kept(
    page: Page, seen: console.Seen, closed: str, wrong: str
) -> None:
    opened(page, closed)
    _sign_in(page, wrong)
    assert page.inner_text("h1") == "Sign in"
    assert "unknown, revoked or expired" in page.get_by_role("alert").inner_text()
    assert page.locator("[data-hostile]").count() == 0
    assert wrong not in page.content()
    assert _cookies(page) == []
    assert seen.faults == ["console: Failed to load resource: the server responded with a status "
                           "of 401 (Unauthorized)"]  # fmt: skip
    seen.faults.clear()


def test_the_sign_in_page_is_fit_for_everybody(page: Page, closed: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    opened(page, closed)
    found = Axe().run(page).response["violations"]
    assert [v["id"] for v in found if v["impact"] in ("serious", "critical")] == []
    assert page.locator("h1").count() == 1


@pytest.mark.parametrize("wanted", [each for each in ELSEWHERE if "/" in each[1:4]][:6])
def test_signing_in_never_leads_to_another_site(
    page: Page, seen: console.Seen, closed: str, key: str, wanted: str
) -> None:
    opened(page, f"{closed}/console/sign-in?{urlencode({'wanted': wanted})}")
    _sign_in(page, key)
    assert page.url.startswith(f"{closed}/")
    seen.faults = [fault for fault in seen.faults if "status of 404" not in fault]


@pytest.mark.parametrize("wanted", ELSEWHERE)
def test_a_form_that_was_tampered_with_leads_to_no_other_site(
    ask: Asking, key: str, wanted: str
) -> None:
    status, headers, _ = ask("/console/sign-in", {"key": key, "wanted": wanted})
    location = headers["location"]
    assert status == 303
    assert location.startswith("/")
    assert location[1:2] not in ("/", "\\")
    assert not set(location) & set("\\\t\r\n")


def test_signing_out_forgets_the_key(page: Page, closed: str, key: str) -> None:
    opened(page, closed)
    _sign_in(page, key)
    opened(page, closed)
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/console/sign-in")
    assert _cookies(page) == []
    opened(page, closed)
    assert page.inner_text("h1") == "Sign in"


@pytest.mark.parametrize("state", ["revoked", "expired"])
def test_a_key_that_ended_opens_nothing(ask: Asking, closed_lake: Store, state: str) -> None:
    now = _now()
    if state == "revoked":
        made, text = create_key(closed_lake, name=state, scopes=["read"], now=now)
        revoke_key(closed_lake, made.id, now=now)
    else:
        then = now - timedelta(days=2)
        _, text = create_key(
            closed_lake, name=state, scopes=["read"], now=then, expires_at=now - timedelta(days=1)
        )
    status, headers, _ = ask("/console/sign-in", {"key": text})
    assert status == 401
    assert "set-cookie" not in headers
    status, headers, _ = ask("/", Cookie=f"{COOKIE}={text}")
    assert (status, headers["location"]) == (303, "/console/sign-in?wanted=/")


def test_the_cookie_opens_pages_and_nothing_that_another_page_could_ask(
    ask: Asking, key: str
) -> None:
    assert ask("/", Cookie=f"{COOKIE}={key}")[0] == 200
    for site in ("cross-site", "same-site"):
        status, headers, text = ask(
            "/console/sign-in", {"key": key}, Sec_Fetch_Site=site, Origin="https://evil.example"
        )
        assert status == 403
        assert "set-cookie" not in headers
        assert json.loads(text)["detail"] == "A page of another site cannot ask this"
        assert ask("/console/sign-out", {}, Sec_Fetch_Site=site)[0] == 403


def test_a_key_that_may_not_do_all_may_still_look(
    ask: Asking, closed_lake: Store, key: str
) -> None:
    _, more = create_key(closed_lake, name="an analyst", scopes=["sql"], now=_now())
    for text in (key, more):
        assert ask("/", Cookie=f"{COOKIE}={text}")[0] == 200
