"""Write docs/img/console-*.png: each page of the console on the demo lake, as Chromium shows it.

Run by `make screenshots`; needs the lake of `make demo` and Debian's Chromium.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from urllib.parse import urlencode

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from meterlake.console.pages import VIEWS
from meterlake.simulate.readings import device_id

ROOT = Path(__file__).resolve().parents[1]
LAKE, IMAGES = ROOT / "demo" / "lake", ROOT / "docs" / "img"
WIDTH, HEIGHT = 1280, 1300  # px
MOST_BYTES = 100_000
COLORS = (256, 128, 64)  # of a palette, where all colours take too much
ASKED = {  # what a page is asked for, to have something to show
    "/console/meter": {"meter_id": device_id(0)},
    "/console/sql": {
        "sql": "SELECT date, sum(energy_kwh) AS energy_kwh\nFROM consumption_daily\n"
        "WHERE reading_type = 'kw'\nGROUP BY date\nORDER BY date"
    },
}


def main() -> None:
    """Serve the demo lake, look at every page, keep what is seen."""
    chromium = shutil.which("chromium-headless-shell") or shutil.which("chromium")
    if chromium is None or not LAKE.exists():
        sys.exit("Screenshots need chromium-headless-shell (apt-get install it) and make demo")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with _serving() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        for view in VIEWS:
            query = urlencode(ASKED.get(view.path, {}))
            page.goto(f"{address}{view.path}?{query}")
            name = view.path.rpartition("/")[2] or "overview"
            path = IMAGES / f"console-{name}.png"
            path.write_bytes(_compressed(_seen(page)))
            print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")
        browser.close()


def _seen(page: Page) -> bytes:
    """The top of a page, once its charts and answers are there."""
    page.wait_for_selector("html[data-ready=yes]", state="attached")
    if page.locator("#sql-draw").count():
        page.locator("#sql-grid table").wait_for()
        page.locator(".plot canvas").first.wait_for()
    page.wait_for_load_state("networkidle")
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done, 300)))")
    return page.screenshot()


def _compressed(png: bytes) -> bytes:
    """The picture, with fewer colours where it would be too large."""
    picture = Image.open(BytesIO(png)).convert("RGB")
    out = BytesIO()
    picture.save(out, "PNG", optimize=True)
    for colors in COLORS:
        if out.tell() <= MOST_BYTES:
            break
        out = BytesIO()
        fewer = picture.quantize(colors, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        fewer.save(out, "PNG", optimize=True)
    return out.getvalue()


@contextmanager
def _serving() -> Iterator[str]:
    command = [sys.executable, "-m", "meterlake", "serve", "--port", "0", "--lake", str(LAKE)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().split(" at ")[1].split()[0].rstrip(".")
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
