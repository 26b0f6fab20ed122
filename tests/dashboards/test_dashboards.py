"""The Grafana dashboards: what is generated is what is there, and every query has an answer."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import pytest
from support import served

from dashboards import check, generate
from dashboards.queries import PLUGIN, SOURCE_UID, wall_clock
from meterlake.settings import ServeSettings

FOLDER = Path(generate.__file__).parent
BOARDS = check.boards_of(FOLDER)
PANELS = [
    pytest.param(panel, id=f"{name}: {panel['title']}")
    for name, board in BOARDS.items()
    for panel in board["panels"]
]
VALUES = {"meter_id": "a'1", "year": "2024", "price": "0.23", "currency": "EUR", "transformer": "t"}


def queries() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every query of a panel or a variable, with where it stands."""
    for name, board in BOARDS.items():
        for panel in board["panels"]:
            yield from ((f"{name}: {panel['title']}", query) for query in panel["targets"])
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                yield f"{name}: ${variable['name']}", variable["query"]["infinityQuery"]


def selects() -> dict[str, str]:
    """Every query in SQL, with its variables filled."""
    return {
        f"{where} {query['refId']}": json.loads(check.filled(query["url_options"]["data"], VALUES))[
            "sql"
        ]
        for where, query in queries()
        if query["source"] == "url" and query["url"] == "/sql"
    }


def test_the_json_is_what_the_code_generates() -> None:
    made = generate.boards()
    assert sorted(made) == sorted(BOARDS)
    for name, board in made.items():
        there = (FOLDER / name).read_text(encoding="utf-8")
        assert there == generate.as_text(board), f"{name}: run make dashboards"


def test_the_four_dashboards_of_the_guide_are_there_and_two_more() -> None:
    assert {board["title"] for board in BOARDS.values()} == {
        "Anomaly dip and spike", "Forecast", "Outage map", "Usage vs. weather",
        "Volt/var", "Data quality",
    }  # fmt: skip


def test_each_dashboard_has_a_uid_of_its_own_and_few_panels() -> None:
    assert max(Counter(board["uid"] for board in BOARDS.values()).values()) == 1
    for board in BOARDS.values():
        assert len(board["panels"]) <= 8
        ids = [panel["id"] for panel in board["panels"]]
        assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_says_what_it_shows_and_in_which_unit(panel: Mapping[str, Any]) -> None:
    assert check.panel_problems(panel) == []
    assert panel["description"].endswith(".")


def test_no_panel_covers_another() -> None:
    for name, board in BOARDS.items():
        taken: set[tuple[int, int]] = set()
        for panel in board["panels"]:
            at = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(at["x"], at["x"] + at["w"])
                for y in range(at["y"], at["y"] + at["h"])
            }
            assert not cells & taken, f"{name}: {panel['title']}"
            taken |= cells


def test_the_price_and_currency_are_those_of_the_settings() -> None:
    defaults = ServeSettings()
    for board in BOARDS.values():
        texts = {v["name"]: v["query"] for v in board["templating"]["list"] if "options" in v}
        assert texts.get("price", f"{defaults.price_per_kwh:g}") == f"{defaults.price_per_kwh:g}"
        assert texts.get("currency", defaults.currency) == defaults.currency


def test_costs_have_the_currency_that_is_chosen_as_their_unit() -> None:
    """No cost without the query that brings the unit, and no unit for what is not there."""
    for board in BOARDS.values():
        for panel in board["panels"]:
            brought = [q for q in panel["targets"] if q["refId"] == "currency"]
            has_price = any("${price" in json.dumps(q) for q in panel["targets"])
            has_cost = any(c["text"] == "cost" for q in panel["targets"] for c in q["columns"])
            is_share = panel["title"] == "Change"
            assert bool(brought) == ((has_price or has_cost) and not is_share), panel["title"]
            for change in panel.get("transformations", []):
                if change["id"] == "configFromData":
                    names = {c["text"] for c in panel["targets"][0]["columns"]}
                    pattern = change["options"]["applyTo"]["options"].strip("/")
                    assert any(re.match(pattern, name) for name in names)


@pytest.mark.parametrize(("where", "query"), selects().items(), ids=lambda v: v[:60])
def test_a_query_is_one_select_and_never_sums_power(where: str, query: str) -> None:
    statements = duckdb.extract_statements(query)
    assert [s.type for s in statements] == [duckdb.StatementType.SELECT]
    assert not re.search(r"sum\([^()]*(reading_value|kw\b|load)", query), "power is no energy"
    assert not re.search(r"\b0\.25\b|/ 4\b|\b15\b|900", query), "no interval is taken for granted"
    assert "$" not in query and "[[" not in query, "Grafana would take it for a variable"


def test_only_costs_and_energy_depend_on_the_price() -> None:
    for where, query in selects().items():
        assert ("0.23" in query) == ("AS DOUBLE" in query), where


def test_no_key_is_in_the_dashboards_and_each_asks_the_provisioned_source() -> None:
    source = (FOLDER / "provisioning/datasources/meterlake.yaml").read_text(encoding="utf-8")
    assert f"uid: {SOURCE_UID}\n" in source and f"type: {PLUGIN}\n" in source
    assert f"apiKeyValue: ${{{check.KEY_VARIABLE}}}" in source
    for where, query in queries():
        assert query["datasource"] == {"type": PLUGIN, "uid": SOURCE_UID}, where
        assert "headers" not in query.get("url_options", {}), where


def test_the_folder_that_is_provisioned_is_the_one_that_compose_mounts() -> None:
    provider = (FOLDER / "provisioning/dashboards/meterlake.yaml").read_text(encoding="utf-8")
    compose = (FOLDER / "compose.yaml").read_text(encoding="utf-8")
    found = re.search(r"path: (\S+)", provider)
    assert found is not None and f".:{found[1]}:ro" in compose
    home = re.search(rf"{re.escape(found[1])}/(\S+\.json)", compose)
    assert home is not None and home[1] in BOARDS
    assert re.search(r"image: grafana/grafana:\d+\.\d+\.\d+\n", compose)
    ports = re.findall(r'- "(.*:3000)"', compose)
    assert ports and all(port.startswith("127.0.0.1:") for port in ports)
    assert PLUGIN in compose


@pytest.mark.parametrize("zone", ["UTC", "Australia/Sydney", "Europe/Berlin", "America/New_York"])
def test_the_wall_clock_of_the_queries_is_that_of_the_zone(zone: str) -> None:
    """But for one hour of the day on which clocks change, as it says."""
    clock = ZoneInfo(zone)
    dates = [date(2024, 1, 1) + timedelta(days=n) for n in range(366)]
    starts = [
        datetime(d.year, d.month, d.day, tzinfo=clock).astimezone(UTC)
        for d in [*dates, date(2025, 1, 1)]
    ]
    rows = [
        f"(DATE '{d}', TIMESTAMPTZ '{begins}', TIMESTAMPTZ '{ends}')"
        for d, begins, ends in zip(dates, starts[:-1], starts[1:], strict=True)
    ]
    hours = (starts[-1] - starts[0]) // timedelta(hours=1)
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    told = connection.execute(
        f"WITH days(date, begins, ends) AS (VALUES {', '.join(rows)}), "
        f"moments AS (SELECT TIMESTAMPTZ '{starts[0]}' + n * INTERVAL 1 HOUR AS moment "
        f"FROM range({hours}) AS r(n)) "
        f"SELECT epoch_ms(moment), {wall_clock('moment')} "
        "FROM moments ASOF JOIN days ON moment >= begins ORDER BY moment"
    ).fetchall()
    shown = [(datetime.fromtimestamp(ms / 1000, clock), wall) for ms, wall in told]
    wrong = [moment for moment, wall in shown if moment.replace(tzinfo=None) != wall]
    assert len(told) == hours and len(wrong) <= 2
    assert len({moment.date() for moment in wrong}) == len(wrong)


def asked(connection: duckdb.DuckDBPyConnection, where: str, **values: str) -> list[Any]:
    """The rows of a panel's first query, over tables of one's own."""
    query = next(query for at, query in queries() if at == where)
    filled = check.filled(query["url_options"]["data"], VALUES | values)
    return connection.execute(json.loads(filled)["sql"]).fetchall()


def test_the_year_before_counts_with_the_days_that_this_year_has() -> None:
    connection = duckdb.connect()
    connection.execute(
        "CREATE TABLE consumption_daily AS SELECT 'm' AS meter_id, 'kw' AS reading_type, "
        "CAST(d AS DATE) AS date, strftime(d, '%Y') AS year, "
        "CASE WHEN year(d) = 2023 THEN 2.0 ELSE 3.0 END::DOUBLE AS energy_kwh "
        "FROM generate_series(DATE '2023-01-01', DATE '2024-03-01', INTERVAL 1 DAY) AS s(d)"
    )
    days, same = 31 + 29 + 1, 31 + 28 + 1  # there was no 29 February in 2023
    where = "weather.json: Consumption, ${year}"
    ((now, before, change),) = asked(connection, where, meter_id="m")
    assert (now, before) == (3.0 * days, 2.0 * same)
    assert change == pytest.approx(100 * (now / before - 1))
    assert asked(connection, where, meter_id="m", year="2023") == [(2.0 * 365, None, None)]


@pytest.mark.parametrize("minutes", [5, 15, 30, 60])
def test_an_hours_average_energy_is_the_same_whatever_the_interval(minutes: int) -> None:
    """Hour h takes h kW, in Berlin's zone of 2024 and over both changes of its clock."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    clock = ZoneInfo("Europe/Berlin")
    starts = [
        datetime(d.year, d.month, d.day, tzinfo=clock).astimezone(UTC)
        for d in (date(2024, 1, 1) + timedelta(days=n) for n in range(367))
    ]
    rows = ", ".join(
        f"('m', 'kw', DATE '{begins.astimezone(clock).date()}', TIMESTAMPTZ '{begins}', "
        f"TIMESTAMPTZ '{ends}')"
        for begins, ends in pairwise(starts)
    )
    connection.execute(
        "CREATE TABLE consumption_daily AS SELECT * FROM "
        f'(VALUES {rows}) AS v(meter_id, reading_type, date, start, "end")'
    )
    connection.execute(
        "CREATE TABLE readings AS SELECT 'm' AS meter_id, 'kw' AS reading_type, "
        "moment AS reading_date_time, "
        "CAST(hour(moment AT TIME ZONE 'Europe/Berlin') AS DOUBLE) AS reading_value "
        f"FROM generate_series(TIMESTAMPTZ '{starts[0]}', "
        f"TIMESTAMPTZ '{starts[366]}' - INTERVAL {minutes} MINUTE, "
        f"INTERVAL {minutes} MINUTE) AS s(moment)"
    )
    connection.execute(
        "CREATE TABLE forecasts AS SELECT 'm' AS meter_id, 'one' AS model_name, "
        f"TIMESTAMPTZ '{starts[366]}' AS forecast_start, "
        f"TIMESTAMPTZ '{starts[366]}' + h * INTERVAL 1 HOUR AS date_time, "
        "CAST(h % 24 AS DOUBLE) AS mean, 0.0 AS p10, 0.0 AS p90 FROM range(168) AS r(h)"
    )
    found = asked(
        connection, "forecast.json: Hours of the day: forecast against average", meter_id="m"
    )
    assert [int(hour) for hour, _, _ in found] == list(range(24))
    for hour, average, forecast in found:
        assert average == pytest.approx(float(hour), abs=0.02)  # one hour of the year is misnamed
        assert forecast == float(hour)


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([], "empty"),
        ([{"day": "2024-01-01"}], "no row has 'kwh'"),
        ([{"day": "2024-01-01", "kwh": None}], "nothing but nulls"),
        ([{"day": "2024-01-01", "kwh": "1.5"}], "'kwh' is no number: '1.5'"),
        ([{"day": 1, "kwh": 1.5}], "'day' is no string: 1"),
        ([{"day": "2024-01-01", "kwh": 0.0}], ""),
        ([{"day": "2024-01-01", "kwh": None}, {"day": "2024-01-02", "kwh": 0}], ""),
    ],
)
def test_the_check_finds_what_a_panel_would_not_show(
    rows: list[dict[str, Any]], problem: str
) -> None:
    columns = [{"text": "day", "type": "string"}, {"text": "kwh", "type": "number"}]
    assert check.columns_problem(columns, rows)[0] == problem


def test_the_check_fails_on_an_answer_that_is_an_error() -> None:
    query = {
        "source": "url", "url": "/sql", "columns": [],
        "url_options": {"method": "GET", "params": []},
    }  # fmt: skip
    with pytest.raises(check.Failed):
        check.answer(query, {}, "http://127.0.0.1:9", None)
    with pytest.raises(check.Failed, match="no variable year"):
        check.filled("${year:sqlstring}", {})


@pytest.mark.proof
def test_every_query_has_an_answer_on_a_small_lake(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lake in Sydney with two years, a change of the clock, and outages."""
    lake = served.made_once(tmp_path_factory.getbasetemp().parent / "served")
    monkeypatch.setenv("METERLAKE_TIMEZONE", served.ZONE)
    with check.served(lake.url) as server:
        found = list(check.check(BOARDS, server))
    bad = [f"{each.board}: {each.name}: {each.problem}" for each in found if each.problem]
    assert bad == []
    assert len(found) == sum(1 for _ in queries()) + sum(
        v["type"] == "textbox" for b in BOARDS.values() for v in b["templating"]["list"]
    )
