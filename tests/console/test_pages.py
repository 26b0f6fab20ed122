"""What holds of every page: it is drawn, by keyboard, on a phone, in the dark, for everybody."""

import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from html.parser import HTMLParser
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from fastapi.routing import APIRoute
from playwright.sync_api import Browser, Page
from support import console
from support.console import ADDRESSES, HOSTILE, PATHS, opened
from typer.main import get_command

from meterlake.cli import app
from meterlake.console import router
from meterlake.schema import known_tables

LOOKS = {"by day": (1280, 900), "by night on a phone": (390, 844)}
COUNTED = {
    "readings",
    "reads",
    "meters",
    "files",
    "rows",
    "days",
    "hours",
    "intervals",
    "outages",
    "nodes",
}
UNITS = {c.unit for t in known_tables().values() for c in t.columns} - {"", "1", "see unit"}
UNITLESS = {"rank", "row", "importance", "attempts", "added", "changed", "ended"}
WINDOWED = set(PATHS) - {"/console/forecast", "/console/sql"}
MORE = pytest.mark.proof  # the same of more pages
SHOW_NO_NAMES = ("/", "/console/forecast", "/console/weather", "/console/sql")
ASKED = {
    route.path: {parameter.alias for parameter in route.dependant.query_params}
    for route in router.routes
    if isinstance(route, APIRoute)
}


@dataclass(frozen=True)
class Shown:
    """A page that is open, and what it did until then."""

    page: Page
    look: str
    seen: console.Seen


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((a, look), id=f"{a} {look}", marks=[MORE] * (n % 4 > 0 or look != "by day"))
        for n, a in enumerate(ADDRESSES)
        for look in LOOKS
    ],
)
def shown(request: pytest.FixtureRequest, chromium: Browser, server: str) -> Iterator[Shown]:
    """Each page as it looks by day, and by night on a phone; opened once for all laws."""
    address, look = request.param
    width, height = LOOKS[look]
    seen = console.Seen()
    context = chromium.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if "night" in look else "light",
        is_mobile="phone" in look,
    )
    seen.watch(context)
    yield Shown(opened(context.new_page(), server + address), look, seen)
    context.close()


def test_nothing_goes_wrong_and_nothing_is_asked_of_elsewhere(shown: Shown) -> None:
    assert not shown.seen.faults


def test_a_page_has_one_heading_and_says_where_it_is(shown: Shown) -> None:
    page = shown.page
    assert page.locator("h1").count() == 1
    assert page.inner_text("h1").strip()
    path = urlsplit(page.url).path
    assert page.get_attribute("nav a[aria-current=page]", "href") == path
    assert page.title().endswith(" – meterlake")


def test_every_chart_is_drawn_and_has_something_to_show(shown: Shown) -> None:
    page = shown.page
    charts = page.locator("[data-chart]")
    assert page.locator("[data-chart][data-drawn=yes]").count() == charts.count()
    for number in range(charts.count()):
        chart = charts.nth(number)
        painted = chart.locator("canvas").evaluate_all(
            """all => all.some(canvas => {
                const { width, height } = canvas;
                if (!width || !height) return false;
                const drawn = canvas.getContext("2d").getImageData(0, 0, width, height).data;
                return drawn.some((value, at) => at % 4 === 3 && value > 0);
            })"""
        )
        assert painted, chart.get_attribute("id")
    lengths = page.evaluate(
        """() => (globalThis.Bokeh?.documents ?? []).flatMap(document => document.roots()).map(
            root => [root.id, Math.max(0, ...[...root.references()]
                .filter(model => model.type === "GlyphRenderer")
                .map(glyphs => glyphs.data_source.length))])"""
    )
    assert len(lengths) == charts.count()
    assert [root for root, length in lengths if not length] == []


def test_every_axis_of_numbers_says_its_unit(shown: Shown) -> None:
    labels = shown.page.evaluate(
        """() => (globalThis.Bokeh?.documents ?? []).flatMap(document => document.roots())
            .flatMap(root => [...root.references()])
            .filter(model => ["LinearAxis", "LogAxis"].includes(model.type) && model.visible)
            .map(axis => String(axis.axis_label ?? ""))"""
    )
    for label in labels:
        words = set(re.split(r"[\s()\[\]]+", label))
        assert words & (UNITS | COUNTED | {"USD", "lb", "hour"}), f"axis {label!r}"


def test_every_column_of_numbers_says_its_unit_above_them(shown: Shown) -> None:
    heads = shown.page.evaluate(
        """() => [...document.querySelectorAll("main table")].flatMap(table =>
            [...(table.tBodies[0]?.rows[0]?.cells ?? [])].flatMap((cell, n) => {
                const head = table.tHead.rows[0].cells[n];
                const aligned = [head, cell].map(each => getComputedStyle(each).textAlign);
                return cell.matches(".number") ? [[head.textContent, ...aligned]] : [];
            }))"""
    )
    for head, of_head, of_numbers in heads:
        assert of_head == of_numbers == "right", head
        words = set(re.split(r"[\s()\[\],]+", head))
        assert words & (UNITS | COUNTED | UNITLESS | {"USD", "lb", "hour"}), f"column {head!r}"


def test_a_page_says_which_days_it_shows(shown: Shown) -> None:
    path, _, asked = shown.page.url.partition("?")
    is_windowed = urlsplit(path).path in WINDOWED
    is_search = path.endswith("/console/meter") and not asked
    told = shown.page.locator("p.days").all_inner_texts()
    assert len(told) == (is_windowed and not is_search)
    assert all(re.search(r"days [\d-]{10} to [\d-]{10}: ", each) for each in told)


def test_what_a_chart_shows_is_said_in_words_and_numbers_too(shown: Shown) -> None:
    figures = shown.page.locator("figure")
    for number in range(figures.count()):
        figure = figures.nth(number)
        name = figure.get_attribute("id")
        assert figure.locator("figcaption").inner_text().strip(), name
        is_empty = figure.locator(".nothing").count()
        told = figure.locator("table tbody tr, a[href]").count()
        assert is_empty or told, f"{name} has no numbers"


def test_a_page_scrolls_only_up_and_down(shown: Shown) -> None:
    wide, room = shown.page.evaluate(
        "() => [document.scrollingElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert wide <= room
    assert room == LOOKS[shown.look][0] or "phone" not in shown.look
    menu, here = (
        shown.page.locator(f"nav {each}").bounding_box() for each in ("ul", "[aria-current]")
    )
    assert menu is not None
    assert here is not None
    assert menu["height"] < 1.5 * here["height"]
    assert menu["x"] <= here["x"] <= menu["x"] + menu["width"] - here["width"] + 1


def test_axe_finds_no_serious_fault(shown: Shown) -> None:
    found = Axe().run(shown.page).response["violations"]
    serious = [
        (each["id"], each["help"], [node["html"][:200] for node in each["nodes"]][:5])
        for each in found
        if each["impact"] in ("serious", "critical")
    ]
    assert serious == []


@pytest.fixture(scope="module")
def followed() -> set[tuple[str, ...]]:
    """Links that were followed, by path and names of what is asked."""
    return set()


@pytest.mark.parametrize("address", ADDRESSES)
def test_every_link_leads_somewhere(
    server: str, address: str, followed: set[tuple[str, ...]]
) -> None:
    found = _of(server + address)
    assert found.links
    for link in sorted(found.links):
        leads = urlsplit(urljoin(server + address, link))
        kind = (leads.path, *sorted(parse_qs(leads.query)), leads.fragment)
        if kind in followed:  # there are as many more as there are rows, and pages
            continue
        followed.add(kind)
        assert f"{leads.scheme}://{leads.netloc}" == server, link
        if leads.fragment and not leads.query:
            there = _of(leads._replace(fragment="").geturl())
            assert leads.fragment in there.ids, link
        else:
            assert _status(leads.geturl()) < 400, link


@pytest.mark.parametrize(
    "address",
    [*ADDRESSES[1:3], *(pytest.param(a, marks=pytest.mark.soak) for a in ADDRESSES[3:])],
)
def test_what_a_form_asked_for_stands_in_the_address(
    page: Page, chromium: Browser, server: str, address: str
) -> None:
    for number in range(_of(server + address).forms):
        opened(page, server + address)
        form = page.locator("main form.ask").nth(number)
        for field in form.locator("select").all():
            options = field.locator("option").count()
            field.select_option(index=options - 1)
        for field in form.locator("input[type=search]").all():
            field.fill(console.METER)
        with page.expect_navigation():
            form.locator("button").first.click()
        page.wait_for_selector("html[data-ready=yes]", state="attached")
        here = page.inner_text("main")
        elsewhere = chromium.new_context(viewport=page.viewport_size)
        there = opened(elsewhere.new_page(), page.url).inner_text("main")
        elsewhere.close()
        assert there == here
        assert urlsplit(page.url).query


@pytest.mark.parametrize(
    "address", [*ADDRESSES[:3], *(pytest.param(a, marks=MORE) for a in ADDRESSES[3:])]
)
def test_all_of_a_page_is_reached_by_keyboard(page: Page, server: str, address: str) -> None:
    opened(page, server + address)
    wanted = page.evaluate(
        """() => [...document.querySelectorAll(
                "a[href], button, input, select, textarea, summary, [tabindex='0']")]
            .filter(each => each.type !== "hidden" && !each.disabled && each.checkVisibility())
            .map((each, n) => (each.dataset.number = n))"""
    )
    reached: list[str] = []
    for _ in range(3 * len(wanted) + 50):
        page.keyboard.press("Tab")
        number, is_marked = page.evaluate(
            """() => {
                const at = document.activeElement, style = getComputedStyle(at);
                const is_marked = style.outlineStyle !== "none" && style.outlineWidth !== "0px"
                    || !at.matches(":focus");  // a part of the browser's own that marks itself
                return [at.dataset.number ?? null, is_marked || at.outerHTML.slice(0, 200)];
            }"""
        )
        if number is None:
            continue
        if reached and number == reached[0]:
            break
        if not reached or number != reached[-1]:  # a field of a day is several stops
            reached.append(number)
        assert is_marked is True
    assert sorted(map(int, reached)) == wanted
    assert page.locator(f"[data-number='{reached[0]}']").get_attribute("class") == "skip"
    page.locator(".skip").focus()
    page.keyboard.press("Enter")
    assert page.url.endswith("#main")


@pytest.mark.parametrize("path", [*PATHS[:3], *(pytest.param(p, marks=MORE) for p in PATHS[3:])])
def test_an_empty_lake_says_what_to_do_next(page: Page, empty_server: str, path: str) -> None:
    opened(page, empty_server + path)
    command = page.locator(".nothing code").first.inner_text().split()
    assert command[0] == "meterlake"
    assert command[1] in get_command(app).commands  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "address",
    [pytest.param(a, marks=[MORE] * (n % 3 < 2)) for n, a in enumerate(ADDRESSES)],
)
def test_what_is_asked_for_stays_text(server: str, address: str) -> None:
    path, _, usual = address.partition("?")
    asked = {name: value for name, value in (pair.split("=") for pair in usual.split("&") if pair)}
    text = f"</textarea>{HOSTILE}"
    for name in sorted(ASKED[path]):
        found = _of(f"{server}{path}?{urlencode({**asked, name: text})}")
        assert found.status < 500, name
        assert not found.is_marked, name


@pytest.mark.parametrize(
    "address",
    [
        *PATHS[:2],
        f"/console/meter?{urlencode({'meter_id': HOSTILE + 'b2'})}",
        *(pytest.param(p, marks=MORE) for p in PATHS[2:]),
    ],
)
def test_what_came_from_outside_stays_text(page: Page, hostile_server: str, address: str) -> None:
    opened(page, hostile_server + address)
    assert page.locator("[data-hostile]").count() == 0
    assert page.evaluate("typeof hostile") == "undefined"
    assert address in SHOW_NO_NAMES or "data-hostile" in page.content()


def test_the_look_that_was_chosen_stays(page: Page, server: str) -> None:
    opened(page, server)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_role("button", name="Switch to dark").click()
    opened(page, f"{server}/console/meter")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != ground
    page.get_by_role("button", name="Switch to light").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == ground


def test_what_is_not_there_is_a_page_with_a_way_back(
    page: Page, server: str, seen: console.Seen
) -> None:
    for address in ("/console/nothing", "/console/meter?meter_id=nobody"):
        opened(page, server + address, status=404)
        assert page.locator("[role=alert]").inner_text().strip()
        assert page.locator("main a[href='/']").count() == 1
        assert "GET /" not in page.inner_text("main")
    page.get_by_role("link", name="Find the meter").click()
    assert page.get_by_label("Meter id or address").count() == 1
    for asked, told in {
        "from=tomorrow": "'from' needs to be a day such as 2024-01-31; found 'tomorrow'",
        "from=2024-04-02&to=2024-04-01": "'to' needs to be 'from', 2024-04-02, or later; found "
        "2024-04-01",
        "from=2022-01-01&to=2024-01-01": "'from' to 'to' needs to be at most 400 days; found 731, "
        "2022-01-01 to 2024-01-01",
    }.items():
        opened(page, f"{server}/console/meter?meter_id={console.METER}&{asked}", status=422)
        assert page.locator("[role=alert]").inner_text() == told
    page.get_by_role("link", name="Meter without").click()
    assert page.inner_text(".question code") == console.METER
    opened(page, f"{server}/console/weather?price=-1", status=422)
    assert page.inner_text("[role=alert]") == "'price' needs to be 0 to 1,000,000; found '-1'"
    seen.faults = [fault for fault in seen.faults if "status of 4" not in fault]


class _Read(HTMLParser):
    """What a page's text is made of."""

    def __init__(self, status: int) -> None:
        super().__init__()
        self.status = status
        self.links: set[str] = set()
        self.ids: set[str] = set()
        self.forms = 0
        self.is_marked = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        self.is_marked |= "data-hostile" in told
        self.ids.add(told.get("id") or "")
        self.forms += tag == "form" and told.get("class") == "ask"
        if tag == "a":
            self.links.add(told["href"] or "")


@cache
def _of(url: str) -> _Read:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            status, text = answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read().decode()
    found = _Read(status)
    found.feed(text)
    return found


@cache
def _status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
