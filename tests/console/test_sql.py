"""The SQL page: an answer is the API's, a query can be sent to others, and runs for nobody else."""

from urllib.parse import parse_qs, quote, urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page
from support import console
from support.console import HOSTILE, opened, sql

QUERY = "SELECT reading_type, count(*) AS readings FROM readings GROUP BY ALL ORDER BY ALL"


def run(page: Page, query: str) -> None:
    page.get_by_label("Query").fill(query)
    page.get_by_role("button", name="Run").click()


def rows(page: Page) -> list[list[str]]:
    """What the answer's table says, once it is there."""
    page.locator("#sql-grid table").wait_for()
    lines = page.locator("#sql-grid tbody tr").all()
    return [line.locator("td").all_inner_texts() for line in lines]


def test_an_answer_is_that_of_the_api(page: Page, server: str) -> None:
    opened(page, f"{server}/console/sql")
    run(page, QUERY)
    assert rows(page) == [[str(v) for v in row.values()] for row in sql(server, QUERY)]
    assert page.inner_text("#sql-told").startswith(f"{len(rows(page))} rows")
    found = Axe().run(page).response["violations"]
    assert [v["id"] for v in found if v["impact"] in ("serious", "critical")] == []


def test_who_opens_the_address_of_a_query_sees_its_answer(
    page: Page, chromium: Browser, server: str, seen: console.Seen
) -> None:
    opened(page, f"{server}/console/sql")
    run(page, QUERY)
    here = rows(page)
    assert parse_qs(urlsplit(page.url).query) == {"sql": [QUERY]}
    context = chromium.new_context()
    seen.watch(context)
    elsewhere = opened(context.new_page(), page.url)
    assert rows(elsewhere) == here
    context.close()


def test_a_link_shows_its_query_and_does_not_run_it(page: Page, server: str) -> None:
    opened(page, server)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(urlsplit(request.url).path))
    with page.expect_navigation():
        page.evaluate(f"location.href = '/console/sql?sql={quote(QUERY)}'")
    page.wait_for_selector("html[data-ready=yes]", state="attached")
    assert page.get_by_label("Query").input_value() == QUERY
    assert "No query has been run" in page.inner_text("#sql-told")
    page.wait_for_load_state("networkidle")
    assert "/console/sql" in asked
    assert "/sql" not in asked


def test_every_example_has_an_answer_and_numbers_over_time_are_drawn(
    page: Page, server: str
) -> None:
    opened(page, f"{server}/console/sql")
    examples = page.locator("[data-example]")
    assert examples.count() > 4
    for number in range(examples.count()):
        with page.expect_response("**/sql") as answered:
            examples.nth(number).click()
        assert answered.value.ok, examples.nth(number).inner_text()
    opened(page, f"{server}/console/sql")
    examples.first.click()
    page.locator("#draw-time canvas").first.wait_for()
    assert page.evaluate(
        """() => Bokeh.documents.flatMap(document => document.roots())
            .flatMap(root => [...root.references()])
            .some(model => model.type === "LinearAxis" && /kWh/.test(model.axis_label))"""
    )


def test_what_an_answer_says_stays_text(page: Page, server: str) -> None:
    opened(page, f"{server}/console/sql")
    text = HOSTILE.replace("'", "''")
    run(page, f"""SELECT '{text}' AS "{HOSTILE.replace('"', '""')}", 1 AS n""")
    assert rows(page) == [[HOSTILE, "1"]]
    assert page.locator("[data-hostile]").count() == 0


def test_a_mistake_is_told_in_words(page: Page, server: str, seen: console.Seen) -> None:
    opened(page, f"{server}/console/sql")
    for wrong in ("SELEC 1", "DROP TABLE readings", 'SELECT * FROM "<img data-hostile>"'):
        run(page, wrong)
        page.locator("#sql-problem p").first.wait_for()
        assert page.locator("#sql-problem").inner_text().startswith("400")
        assert page.locator("[data-hostile]").count() == 0
    seen.faults = [fault for fault in seen.faults if "status of 400" not in fault]
