"""The numbers that a page shows are those that the API gives; what it adds up is added up here."""

from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import pytest
from playwright.sync_api import Page
from support.console import METER, facts, get, numeric, opened, sql, table
from support.served import CLOCK, NOT_IN_GRID, OUT

from meterlake.schema import known_tables

PRICE, CURRENCY = 0.23, "USD"  # the settings' defaults
MORE = pytest.mark.proof  # more pages, and the same asked otherwise


def said(value: float | None, digits: int = 0, unit: str = "") -> str:
    """A number as pages write it."""
    return "–" if value is None else f"{value:,.{digits}f}{unit}"


def clock(moment: str) -> str:
    """A moment of the API as the lake's clock shows it."""
    return f"{datetime.fromisoformat(moment).astimezone(CLOCK):%Y-%m-%d %H:%M}"


def of_days(page: Page) -> dict[str, str]:
    """The window that a page's form asks for, as the API wants local days."""
    return {name: page.input_value(f"form.ask [name={name}]") for name in ("from", "to")}


def bounds(window: dict[str, str]) -> dict[str, str]:
    """The same window as half-open moments, in the lake's zone."""
    end = date.fromisoformat(window["to"]) + timedelta(days=1)
    return {"from": f"{window['from']}T00:00:00", "to": f"{end}T00:00:00"}


def money(kwh: float) -> str:
    return said(kwh * PRICE, 2, f" {CURRENCY}")


def note(page: Page, name: str) -> str:
    """What stands below a number."""
    fact = page.locator("dl.facts > div").filter(has=page.get_by_text(name, exact=True))
    return fact.locator(".note").inner_text()


def test_the_overview_tells_what_the_catalog_and_the_readings_say(page: Page, server: str) -> None:
    opened(page, server)
    shown = facts(page)
    tables = {row["table"]: row for row in get(server, "/catalog")}
    (last, *_) = sql(
        server,
        "SELECT reading_date_time::DATE AS day, count(*) AS reads, "
        "max(reading_date_time) AS newest FROM readings GROUP BY 1 ORDER BY 1 DESC",
    )
    (complete,) = sql(
        server,
        "SELECT count(DISTINCT meter_id) AS meters, sum(intervals) / sum(intervals_expected) AS "
        "share FROM consumption_daily WHERE reading_type = 'kw' AND "
        "date = (SELECT max(date) FROM consumption_daily WHERE reading_type = 'kw')",
    )
    late = get(server, "/late-arrivals", limit=1000)
    assert late
    assert shown == {
        "Newest reading": clock(last["newest"]),
        "Readings of the last day": said(last["reads"]),
        "Meters": said(complete["meters"]),
        "Completeness": said(100 * complete["share"], 1, " %"),
        "Late readings": said(sum(row["late"] for row in late)),
        "Rows in quarantine": said(len(get(server, "/quarantine"))),
        "Lake": said(sum(row["bytes"] or 0 for row in tables.values()) / 1e6, 1, " MB"),
    }
    timeless = {t.name for t in known_tables().values() if t.time_column == "valid_from"}
    assert [tuple(row.values()) for row in table(page, "Tables with rows")] == [
        (name, said(row["rows"]), said(row["files"]),
         "–" if name in timeless else clock(row["newest"]))
        for name, row in tables.items() if row["rows"]
    ]  # fmt: skip
    first = table(page, "Readings per day")[0]["day"]
    assert note(page, "Late readings").startswith(f"of {first} to {last['day'][:10]} UTC")


def test_the_overviews_charts_are_the_days_of_the_readings(page: Page, server: str) -> None:
    opened(page, server)
    days = sql(
        server,
        "SELECT reading_date_time::DATE AS day, count(*) AS reads FROM readings GROUP BY ALL "
        "ORDER BY day DESC LIMIT 60",
    )
    assert [tuple(row.values()) for row in table(page, "Readings per day")] == [
        (row["day"][:10], said(row["reads"])) for row in reversed(days)
    ]
    complete = sql(
        server,
        "SELECT date, 100 * sum(intervals) / sum(intervals_expected) AS percent "
        "FROM consumption_daily WHERE reading_type = 'kw' GROUP BY date ORDER BY date DESC "
        "LIMIT 60",
    )
    assert [tuple(row.values()) for row in table(page, "Completeness")] == [
        (row["date"][:10], said(row["percent"], 2)) for row in reversed(complete)
    ]


@pytest.mark.parametrize(
    "by", [pytest.param("day", marks=MORE), "week", pytest.param("month", marks=MORE)]
)
def test_a_meter_shows_its_readings_and_its_energy(page: Page, server: str, by: str) -> None:
    opened(page, f"{server}/console/meter?meter_id={METER}&by={by}")
    window = of_days(page)
    energy = get(server, f"/meters/{METER}/consumption", by=by, **window)
    power = get(server, f"/meters/{METER}/readings", reading_type="kw", **bounds(window))
    outages = get(
        server, "/outages", level="meter", id=METER, include_parts="true", **bounds(window)
    )
    odd = get(server, "/anomalies", meter_id=METER, **window)
    kwh = sum(row["energy_kwh"] for row in energy if row["energy_kwh"] is not None)
    assert power
    known = get(server, f"/meters/{METER}")
    days = page.locator(".days")
    assert days.inner_text().startswith(f"Local days {window['from']} to {window['to']}: the 14 ")
    (every,) = [urlsplit(a.get_attribute("href") or "").query for a in days.locator("a").all()]
    asked = {"meter_id": METER, "by": by, "from": known["first_day"], "to": window["to"]}
    assert dict(parse_qsl(every)) == asked
    assert facts(page) == {
        "Energy": said(kwh, 1, " kWh"),
        "Its price": money(kwh),
        "Highest power": said(max(row["reading_value"] for row in power), 2, " kW"),
        "Anomalous days": said(len(odd)),
        "Outages": said(len(outages)),
    }
    assert [tuple(row.values()) for row in table(page, f"Energy per {by}")] == [
        (row["date"], said(row["energy_kwh"], 2), "yes" if row["is_complete"] else "no")
        for row in energy
    ]


@MORE
def test_a_meter_stands_where_the_grid_has_it(page: Page, server: str) -> None:
    opened(page, f"{server}/console/meter?meter_id=a1")
    place = get(server, "/meters/a1")
    told = " ".join(page.locator("ol.way").inner_text().split())
    for name in (
        "service_transformer_id",
        "distribution_transformer_id",
        "substation",
        "power_grid",
    ):
        assert place[name] in told
    assert f"({said(place['service_transformer_kva'])} kVA)" in told
    assert place["address"] in page.inner_text(".question")
    links = page.locator("ol.way a")
    assert links.all_inner_texts() == [
        place["service_transformer_id"], place["distribution_transformer_id"],
    ]  # fmt: skip
    with page.expect_navigation():
        links.first.click()
    assert place["service_transformer_id"] in page.inner_text("#load")


def test_a_meters_odd_days_are_those_that_were_judged(page: Page, server: str) -> None:
    window = {"from": "2023-12-25", "to": "2024-01-05"}
    opened(page, f"{server}/console/meter?{urlencode({'meter_id': 'a1', **window})}")
    odd = get(server, "/anomalies", meter_id="a1", **window)
    assert len(odd) == 2
    assert facts(page)["Anomalous days"] == "2"
    rows = table(page, "Days beyond the expected band")
    assert [(row["day"], row["kind"], row["consumption [kWh]"]) for row in rows] == [
        (row["ds"], row["kind"], said(row["consumption"], 2)) for row in odd
    ]


def test_a_meters_outages_are_those_of_the_api(page: Page, server: str) -> None:
    opened(page, f"{server}/console/meter?meter_id=a1")
    found = get(
        server, "/outages", level="meter", id="a1", include_parts="true", **bounds(of_days(page))
    )
    assert [datetime.fromisoformat(row["start"]).astimezone(UTC) for row in found] == [OUT[0]]
    rows = table(page, "Without supply")
    assert [(row["start"], row["end"], row["length [min]"]) for row in rows] == [
        (clock(row["start"]), clock(row["end"]), said(row["minutes"], 2)) for row in found
    ]


def test_a_search_finds_the_meters_that_the_api_finds(page: Page, server: str) -> None:
    for text in ("", "B", "main st", "ü &1", "nobody"):
        opened(page, f"{server}/console/meter?{urlencode({'search': text})}")
        found = get(server, "/meters", **({"search": text} if text else {}))
        links = page.locator("main td:first-child a")
        assert links.all_inner_texts() == [row["meter_id"] for row in found]
    opened(page, f"{server}/console/meter?{urlencode({'search': NOT_IN_GRID})}")
    page.locator("main td:first-child a").click()
    page.wait_for_selector("html[data-ready=yes]", state="attached")
    assert page.inner_text(".question code") == NOT_IN_GRID
    href = page.locator("main .more a").first.get_attribute("href")
    assert href is not None
    assert f"/meters/{quote(NOT_IN_GRID)}/" in href


def test_anomalies_are_counted_and_ranked_as_the_api_has_them(page: Page, server: str) -> None:
    window = {"from": "2023-12-01", "to": "2024-12-31"}
    opened(page, f"{server}/console/anomalies?{urlencode(window)}")
    odd = get(server, "/anomalies", **window)
    judged = get(server, "/anomalies", include_normal="true", **window)
    assert len(judged) > len(odd) > 3
    shown = facts(page)
    for name, sign in (("above", 1), ("below", -1)):
        days = [row for row in odd if row["anomaly"] == sign]
        beyond = sum(row["consumption"] - row["yhat"] for row in days)
        assert shown[f"{name.title()} expected"] == said(len(days))
        assert shown[f"Mean one {name}"] == said(abs(beyond) / len(days), 1, " kWh")
        assert shown[f"Cost {name} expected"] == ("+" if sign > 0 else "") + money(beyond)
        of_year = [row for row in days if row["ds"] >= "2024"]
        assert shown[f"{name.title()}, year to date"] == said(len(of_year))
    assert f"of {len(judged)} judged" in note(page, "Above expected")
    rows = page.locator("main .table table").first.locator("tbody tr").all()
    told = [[cell.inner_text() for cell in row.locator("td").all()] for row in rows]
    assert sorted((row[1], row[2], row[3], row[6]) for row in told) == sorted(
        (row["ds"], row["kind"] or "–", row["meter_id"], said(row["consumption"], 1)) for row in odd
    )


def test_a_filter_of_anomalies_is_that_of_the_api(page: Page, server: str) -> None:
    window = {"from": "2023-12-01", "to": "2024-12-31"}
    for kind in ("spike", "zero", "stuck"):
        opened(page, f"{server}/console/anomalies?{urlencode({**window, 'kind': kind})}")
        found = get(server, "/anomalies", kind=kind, **window)
        shown = facts(page)
        counts = [shown.get(f"{name} expected", "0") for name in ("Above", "Below")]
        assert sum(map(int, counts)) == len(found)


@pytest.mark.parametrize("meter", ["", METER])
def test_a_forecast_week_is_the_sum_of_its_hours(page: Page, server: str, meter: str) -> None:
    opened(page, f"{server}/console/forecast?{urlencode({'meter_id': meter})}")
    (start,) = sql(server, "SELECT max(forecast_start) AS start FROM forecasts")
    if meter:
        hours = get(server, f"/meters/{meter}/forecast", start=start["start"])
    else:
        hours = sql(
            server,
            f"SELECT date_time, sum(mean) AS mean FROM forecasts WHERE forecast_start = "
            f"'{start['start']}' GROUP BY ALL",
        )
    assert len(hours) == 168
    kwh = sum(row["mean"] for row in hours)
    assert facts(page)["Forecast week"] == money(kwh)
    assert note(page, "Forecast week").startswith(said(kwh, 1, " kWh"))
    by_hour = table(page, "The week by hour")
    assert len(by_hour) == 168
    assert by_hour[0]["hour"] == clock(start["start"])


@pytest.mark.parametrize("meter", [pytest.param("", marks=MORE), METER])
def test_the_weeks_before_are_the_means_of_their_weekdays(
    page: Page, server: str, meter: str
) -> None:
    opened(page, f"{server}/console/forecast?{urlencode({'meter_id': meter})}")
    (start,) = sql(server, "SELECT max(forecast_start) AS start FROM forecasts")
    until = datetime.fromisoformat(start["start"]).astimezone(CLOCK).date()
    meters = [meter] if meter else [row["meter_id"] for row in get(server, "/meters")]
    window = {"from": until - timedelta(weeks=4), "to": until - timedelta(days=1)}
    total = 0.0
    for each in meters:
        days: dict[int, list[float]] = {}
        for row in get(server, f"/meters/{each}/consumption", **window) if each != "x9" else []:
            if row["is_complete"]:
                days.setdefault(date.fromisoformat(row["date"]).weekday(), []).append(
                    row["energy_kwh"]
                )
        if len(days) == 7:
            total += sum(sum(kwh) / len(kwh) for kwh in days.values())
    assert total > 0
    assert facts(page)["Average of the last 4 weeks"] == money(total)


def test_outages_and_their_indices_are_those_of_the_api(page: Page, server: str) -> None:
    opened(page, f"{server}/console/outages")
    assert page.inner_text(".days").endswith(": the 14 days up to the last outage.")
    window = bounds(of_days(page))
    found = get(server, "/outages", **window)
    parts = get(server, "/outages", include_parts="true", **window)
    indices = get(server, "/indices", **window)
    single = [row for row in found if row["level"] == "meter"]
    assert len(found) > len(single)
    assert facts(page) == {
        "Outages of nodes": said(len(found) - len(single)),
        "Single meters out": said(len(single)),
        "Meters without supply": said(len({row["id"] for row in parts if row["level"] == "meter"})),
        "SAIDI": said(indices["saidi"], 2, " min"),
        "SAIFI": said(indices["saifi"], 3),
        "CAIDI": said(indices["caidi"], 1, " min"),
        "MAIFI": said(indices["maifi"], 3),
    }
    assert indices["saidi"] > 0
    rows = page.get_by_role("region", name="Outages").locator("tbody tr")
    told = [[cell.inner_text() for cell in row.locator("td").all()] for row in rows.all()]
    assert sorted((row[0], row[3], row[5]) for row in told) == sorted(
        (row["level"].replace("_", " "), clock(row["start"]), said(row["minutes"])) for row in found
    )


def test_the_map_tells_who_is_without_supply_at_its_moment(page: Page, server: str) -> None:
    opened(page, f"{server}/console/outages?{urlencode({'at': OUT[0].isoformat()})}")
    told = page.inner_text("#moment-told")
    assert told.startswith(clock(OUT[0].isoformat()))
    assert f"· 3 of {len(get(server, '/meters', substation_id='s'))} meters" in told


@pytest.mark.parametrize("meter", ["", pytest.param(METER, marks=MORE)])
def test_usage_is_that_of_complete_days_and_its_temperature_that_of_their_hours(
    page: Page, server: str, meter: str
) -> None:
    opened(page, f"{server}/console/weather?{urlencode({'meter_id': meter})}")
    window = of_days(page)
    days = sql(
        server,
        "SELECT energy_kwh FROM consumption_daily WHERE reading_type = 'kw' AND is_complete "
        f"AND date BETWEEN '{window['from']}' AND '{window['to']}' "
        f"AND ('{meter}' = '' OR meter_id = '{meter}')",
    )
    kwh = sum(row["energy_kwh"] for row in days)
    hours: dict[date, dict[str, list[float]]] = {}
    for row in get(server, "/weather", limit=10_000, **bounds(window)):
        day = datetime.fromisoformat(row["time"]).astimezone(CLOCK).date()
        hours.setdefault(day, {}).setdefault(row["time"], []).append(row["temperature"])
    means = [
        sum(sum(of) / len(of) for of in each.values()) / len(each)
        for each in hours.values()
        if len(each) >= 18
    ]
    assert len(means) > 2
    shown = facts(page)
    assert shown["Energy of complete days"] == said(kwh, 0, " kWh")
    assert shown["Cost of complete days"] == money(kwh)
    assert shown["Mean complete day"] == said(kwh / len(days), 2, " kWh")
    assert shown["Mean temperature"] == said(sum(means) / len(means), 1, " °C")
    months = page.locator("#months ~ .table tbody tr").all()
    assert sum(numeric(row.locator("td").nth(1).inner_text()) for row in months) > 0


def test_savings_are_the_sums_of_the_hours_of_transformers(page: Page, server: str) -> None:
    opened(page, f"{server}/console/volt-var")
    hours = get(server, "/volt-var", limit=1000, **bounds(of_days(page)))
    assert hours
    reads = sum(row["reads"] for row in hours)
    mean = sum(row["mean_v"] * row["reads"] for row in hours) / reads
    shown = facts(page)
    assert shown["Energy saving"] == said(sum(h["energy_saving_kwh"] for h in hours), 1, " kWh")
    assert shown["Cost avoided"] == said(sum(h["cost_avoided"] for h in hours), 2, f" {CURRENCY}")
    assert shown["CO₂ not emitted"] == said(sum(h["carbon_reduction_lb"] for h in hours), 1, " lb")
    assert shown["Mean voltage"] == said(mean, 1, " V")
    assert numeric(shown["Distribution transformers"]) == len(
        {row["distribution_transformer_id"] for row in hours}
    )


@MORE
def test_transformers_stand_in_the_order_of_the_apis_ranking(page: Page, server: str) -> None:
    opened(page, f"{server}/console/volt-var")
    ranked: list[dict[str, Any]] = get(server, "/transformer-load-ranking", **bounds(of_days(page)))
    rows = page.locator("#loads ~ .table").first.locator("tbody tr").all()
    told = [[cell.inner_text() for cell in row.locator("td").all()] for row in rows]
    assert [(row[0], row[6]) for row in told] == [
        (row["id"], said(row["highest_percent"], 1)) for row in ranked
    ]


@MORE
def test_quality_counts_what_came_late_or_damaged(page: Page, server: str) -> None:
    opened(page, f"{server}/console/quality")
    window = of_days(page)
    late = sum(
        row["late"]
        for row in get(server, "/late-arrivals", limit=10_000)
        if window["from"] <= clock(row["reading_hour"])[:10] <= window["to"]
    )
    (complete,) = sql(
        server,
        "SELECT 100 * sum(intervals) / sum(intervals_expected) AS percent FROM consumption_daily "
        f"WHERE reading_type = 'kw' AND date BETWEEN '{window['from']}' AND '{window['to']}'",
    )
    runs = get(server, "/dataflow-runs")
    findings = [row for row in get(server, "/topology-findings") if row["valid_to"] is None]
    assert late > 0
    assert findings
    assert facts(page) == {
        "Late readings": said(late),
        "Completeness": said(complete["percent"], 2, " %"),
        "Rows in quarantine": said(len(get(server, "/quarantine"))),
        "Files refused": "0",
        "Failed dataflow runs": said(sum(row["outcome"] == "failed" for row in runs)),
        "Findings of the topology": said(len(findings)),
    }


def test_quality_lists_the_rows_of_the_quarantine_as_they_came(page: Page, server: str) -> None:
    opened(page, f"{server}/console/quality")
    rows = page.get_by_role("region", name="Newest rows in quarantine").locator("tbody tr").all()
    told = [[cell.inner_text() for cell in row.locator("td").all()] for row in rows]
    assert sorted((row[1], row[2], row[3], row[4]) for row in told) == sorted(
        (row["source_file"], said(row["source_row"]), row["reason"], row["raw"])
        for row in get(server, "/quarantine")
    )
