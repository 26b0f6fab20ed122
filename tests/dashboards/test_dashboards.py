"""The Grafana dashboards: what is generated is what is there, and every query has an answer."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from support import served

from dashboards import check, generate
from dashboards.queries import PLUGIN, SOURCE_UID
from meterlake.questions.registry import QUESTIONS
from meterlake.settings import ServeSettings

FOLDER = Path(generate.__file__).parent
BOARDS = check.boards_of(FOLDER)
PANELS = [
    pytest.param(panel, id=f"{name}: {panel['title']}")
    for name, board in BOARDS.items()
    for panel in board["panels"]
]


def queries() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every query of a panel or a variable, with where it stands."""
    for name, board in BOARDS.items():
        for panel in board["panels"]:
            yield from ((f"{name}: {panel['title']}", query) for query in panel["targets"])
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                yield f"{name}: ${variable['name']}", variable["query"]["infinityQuery"]


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


@pytest.mark.parametrize("where_and_query", list(queries()), ids=lambda each: each[0])
def test_a_query_asks_a_question_for_columns_and_filters_that_it_has(
    where_and_query: tuple[str, dict[str, Any]],
) -> None:
    _, query = where_and_query
    if query["source"] == "inline" or query["url"] == "/catalog":
        return
    question = QUESTIONS[query["url"].removeprefix("/")]
    names = {p["key"] for p in query["url_options"]["params"]}
    assert names <= {each.name for each in question.filters} | {"limit"}
    types = {c.name: c.type for c in question.columns}
    of_grafana = {"double": "number", "long": "number", "date": "string"}
    for column in query["columns"]:
        type_ = types[column["selector"]]
        assert column["type"] == of_grafana.get(type_, type_)


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
        "source": "url", "url": "/meters", "columns": [],
        "url_options": {"method": "GET", "params": []},
    }  # fmt: skip
    with pytest.raises(check.Failed):
        check.answer(query, {}, "http://127.0.0.1:9", None)
    with pytest.raises(check.Failed, match="no variable year"):
        check.filled("${year}", {})


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
