"""Chromium, and servers of the lake of support.served: what no page may do fails a test."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from support import console, served

from meterlake.delta.store import Store, open_store


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Not to be changed: all tests and their processes share it."""
    base = tmp_path_factory.getbasetemp()
    return served.made_once(
        (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "served"
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("console")


@pytest.fixture(scope="module")
def server(lake: Store, folder: Path) -> Iterator[str]:
    """The address of a server of the small lake."""
    with console.serving(lake, folder / "server") as address:
        yield address


@pytest.fixture(scope="module")
def empty_server(folder: Path) -> Iterator[str]:
    """The address of a server of a lake in which nothing is yet."""
    (folder / "empty").mkdir()
    with console.serving(open_store(str(folder / "empty")), folder / "empty server") as address:
        yield address


@pytest.fixture(scope="module")
def hostile_server(lake: Store, folder: Path) -> Iterator[str]:
    """The address of a server of a lake whose meters, places and files have hostile names."""
    with console.serving(
        console.make_hostile(lake, folder / "hostile"), folder / "server of it"
    ) as address:
        yield address


# Of this folder alone: while Playwright's loop runs, no other test of the process could run one.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Debian's Chromium without a window; it finds no host but loopback."""
    if console.CHROMIUM is None:
        pytest.skip("Chromium is not installed: apt-get install chromium-headless-shell")
    arguments = [f"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE {console.LOOPBACK}"]
    if os.geteuid() == 0:
        arguments.append("--no-sandbox")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=console.CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def seen() -> console.Seen:
    """What the pages of a test did that none may do."""
    return console.Seen()


@pytest.fixture
def page(chromium: Browser, seen: console.Seen) -> Iterator[Page]:
    """A page of a new browser session; what it does wrong fails the test."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(60_000)
    seen.watch(context)
    yield context.new_page()
    context.close()
    assert not seen.faults
