"""The console as a browser sees it: a server process, what a page shows, what it did wrong."""

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, urlencode, urlsplit

from playwright.sync_api import BrowserContext, ConsoleMessage, Page, Request, Response
from support import ml, served
from support.grids import small_grid, write_grid

from meterlake.console.pages import VIEWS
from meterlake.dataflows.run import Scope, run_dataflow
from meterlake.delta.store import Store
from meterlake.engine.local import LocalEngine
from meterlake.forecast.forecasts import forecast_all
from meterlake.grid.derivations import GRID, update_grid
from meterlake.ingest import intake
from meterlake.integrate import derivations
from meterlake.integrate.derivations import cluster
from meterlake.pipeline.derivation import Session

# The one without windows takes half the time for a page.
CHROMIUM = shutil.which("chromium-headless-shell") or shutil.which("chromium")
LOOPBACK = "127.0.0.1"
PATHS = tuple(view.path for view in VIEWS)
METER = "b2"
ADDRESSES = (*PATHS, f"/console/meter?meter_id={METER}")
"""Each page, as it is without asking and where what it shows depends on that."""

HOSTILE_FILE = "<img data-hostile src=x onerror=hostile()>'\"$$x$$&lt;b>"
HOSTILE = f"'\"></script></title>{HOSTILE_FILE}"
"""Marks a page if it becomes part of it: an element, a script, a formula that loads a renderer."""


@dataclass
class Seen:
    """What a browser did that no page may do, in words; a test that provokes it clears it."""

    faults: list[str] = field(default_factory=list)

    def watch(self, context: BrowserContext) -> None:
        """Take down what the pages of a context do from now on."""
        context.on("console", self._said)
        context.on("weberror", lambda error: self.faults.append(f"error: {error.error}"))
        context.on("request", self._asked)
        context.on("response", self._answered)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning", "assert"):
            self.faults.append(f"console: {message.text}")

    def _asked(self, request: Request) -> None:
        address = urlsplit(request.url)
        if address.scheme not in ("data", "blob") and address.hostname != LOOPBACK:
            self.faults.append(f"left loopback: {request.url}")

    def _answered(self, response: Response) -> None:
        if response.status >= 500:
            self.faults.append(f"answered {response.status}: {response.url}")


@contextmanager
def serving(lake: Store, folder: Path, **settings: str) -> Iterator[str]:
    """A server process of a lake, on a free port; its address."""
    folder.mkdir(parents=True, exist_ok=True)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("METERLAKE_")}
    named = {f"METERLAKE_{name.upper()}": value for name, value in settings.items()}
    ours = {"METERLAKE_TIMEZONE": served.ZONE, "METERLAKE_SERVE__SQL_PROCESSES": "1"}
    with (folder / "told").open("w") as told:
        process = subprocess.Popen(
            [sys.executable, "-m", "meterlake", "serve", "--port", "0", "--lake", lake.url],
            stdout=subprocess.PIPE,
            stderr=told,
            text=True,
            cwd=folder,
            env={**inherited, **ours, **named},
        )
    assert process.stdout is not None
    try:
        first = process.stdout.readline()
        assert " at http://" in first, (folder / "told").read_text()
        yield first.split(" at ")[1].split()[0].rstrip(".")
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()
    assert process.returncode in (0, -signal.SIGTERM), (folder / "told").read_text()


def opened(page: Page, address: str, *, status: int = 200) -> Page:
    """A page once all of its charts are drawn."""
    answer = page.goto(address)
    assert answer is not None
    assert answer.status == status, page.inner_text("main")
    page.wait_for_selector("html[data-ready=yes]", state="attached")
    return page


def get(server: str, path: str, **asked: object) -> Any:
    """What the API answers."""
    asking = urllib.request.Request(f"{server}{quote(path)}?{urlencode(asked)}")
    asking.add_header("Accept", "application/json")
    with urllib.request.urlopen(asking, timeout=60) as answer:
        return json.load(answer)


def sql(server: str, text: str) -> list[dict[str, Any]]:
    """What the API answers to SQL."""
    body = json.dumps({"sql": text}).encode()
    asking = urllib.request.Request(f"{server}/sql", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(asking, timeout=60) as answer:
        rows: list[dict[str, Any]] = json.load(answer)
    return rows


def facts(page: Page) -> dict[str, str]:
    """The numbers that stand at the head of a page, by their names, without their notes."""
    found: dict[str, str] = page.evaluate(
        """() => Object.fromEntries([...document.querySelectorAll("dl.facts > div")].map(fact => {
            const value = fact.querySelector("dd").cloneNode(true);
            value.querySelectorAll(".note").forEach(note => note.remove());
            return [fact.querySelector("dt").textContent.trim(), value.textContent.trim()];
        }))"""
    )
    return found


def table(page: Page, caption: str) -> list[dict[str, str]]:
    """The rows of the table of that caption, by the columns' heads; long identifiers whole."""
    found: dict[str, list[dict[str, str]]] = page.evaluate(
        """() => Object.fromEntries([...document.querySelectorAll("main table")].map(table => {
            const whole = cell => (cell.querySelector("abbr")?.title ?? cell.textContent).trim();
            const heads = [...table.querySelectorAll("thead th")].map(whole);
            const rows = [...table.querySelectorAll("tbody tr")].map(row => Object.fromEntries(
                [...row.children].map((cell, n) => [heads[n], whole(cell)])));
            return [table.caption.textContent.trim(), rows];
        }))"""
    )
    assert caption in found, f"no table {caption!r}; there are {list(found)}"
    return found[caption]


def numeric(text: str) -> float:
    """The number that a text begins with."""
    return float(text.split()[0].replace(",", ""))


def make_hostile(lake: Store, folder: Path) -> Store:
    """A copy of the small lake in which every name that comes from outside is hostile."""
    store, settings, engine = (
        ml.copied(Path(lake.url), folder / "lake"),
        served.conf(),
        LocalEngine(1),
    )
    meters = {f"{HOSTILE}{name}": transformer for name, transformer in served.METERS.items()}
    grid: Any = json.loads(
        json.dumps(small_grid(**meters)), object_hook=lambda node: node | _named(node)
    )
    now = served.NOW + timedelta(days=1)
    at = served.DELIVERED
    source = str(write_grid(folder / "grid", grid))
    run_dataflow(store, "topology", Scope(source, at=at), settings=settings, now=now)
    path = folder / f"{HOSTILE_FILE}.csv"
    rows = ["time,arrival_time,device_id,measure_name,load,crrnt,pf,kva,kw,vltg"]
    quoted = HOSTILE.replace('"', '""')
    for time, meter in served.delivered():
        if meter in served.METERS:
            late = time + timedelta(days=3)
            name = f'"{quoted}{meter}"'
            rows.append(f"{time:%FT%TZ},{late:%FT%TZ},{name},readings,,,,2,1.5,{215 + time.hour}")
    rows.append(f'"{quoted}",,"{quoted}",readings,,,,,1.0,220')
    path.write_text("\n".join([*rows, ""]), encoding="utf-8")
    intake.ingest(Session(store, engine, settings, now), [str(path)])
    derivations.integrate(Session(store, engine, settings, now))
    cluster(Session(store, engine, settings, now))
    for name in GRID:
        update_grid(Session(store, engine, settings, now), GRID[name])
    forecast_all(Session(store, engine, settings, now))
    days = [(f"{HOSTILE}{meter}", *rest) for meter, *rest in served.JUDGED]
    served.judged(store, [cast(served.Judged, day) for day in days])
    return store


def _named(node: Mapping[str, Any]) -> dict[str, Any]:
    """What is hostile of a grid's node: its identifiers, names and addresses."""
    told = (
        "id", "name", "gridId", "substationId", "voltageControlZoneId", "address",
        "distributionTransformerId", "serviceTransformerId", "locationId",
    )  # fmt: skip
    return {
        key: value if str(value).startswith(HOSTILE) else f"{HOSTILE}{value}"
        for key, value in node.items()
        if key in told
    }
