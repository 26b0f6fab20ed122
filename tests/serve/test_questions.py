"""Questions: pages that make up the table, filters that mean what they say, forms that agree."""

import ast
import base64
import json
import math
import re
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import polars as pl
import pytest
from fastapi.testclient import TestClient
from support import served
from typer.testing import CliRunner

import meterlake
from meterlake.cli import app
from meterlake.delta.commit import Change, commit, snapshot
from meterlake.delta.store import Store
from meterlake.delta.table import write_file
from meterlake.errors import BadInput
from meterlake.questions.question import Question
from meterlake.questions.registry import QUESTIONS
from meterlake.questions.sql import query
from meterlake.schema import POLARS_TYPES, WEATHER, known_tables, polars_schema
from meterlake.topology.upstream import VIEWS

Rows = list[dict[str, Any]]
ALL: dict[str, dict[str, Any]] = {
    "anomalies": {"include_normal": "true"},
    "outages": {"include_parts": "true"},
    "anomalies-per-month": {"meter_id": "a1"},
    "anomaly-counts": {"by": "weekday"},
    "consumption-change": {"year": 2024},
    "temperature-change": {"year": 2024, "by": "month"},
    "flagged-reads": {"quality": "E"},
    "forecast-against-mean-week": {"meter_id": "a1"},
    "forecast-against-week-before": {"meter_id": "a1"},
    "forecast-against-weeks": {"until": "2024-04-08", "weeks": 2},
    "forecast-by-day": {"meter_id": "a1"},
    "forecast-by-hour-of-day": {"meter_id": "a1"},
}
"""What has to be given for rows, or for all of them, to be there."""

FROM_MIDNIGHT = "epoch(hour) IN (1712498400, 1712502000)"  # in Sydney, on 8 April

each_question = pytest.mark.parametrize("question", QUESTIONS.values(), ids=lambda each: each.name)
PAGED = [each for each in QUESTIONS.values() if each.order]
each_of_pages = pytest.mark.parametrize("question", PAGED, ids=lambda each: each.name)


def page(client: TestClient, path: str, **parameters: Any) -> tuple[Rows, str | None]:
    answer = client.get(path, params=parameters or None)
    assert answer.status_code == 200, answer.text
    return answer.json(), answer.links.get("next", {}).get("url")


def pages(client: TestClient, name: str, limit: int, **more: Any) -> Iterator[Rows]:
    rows, following = page(client, f"/{name}", limit=limit, **more)
    yield rows
    while following is not None:
        assert len(rows) == limit
        rows, following = page(client, following)
        assert rows
        yield rows


def whole(client: TestClient, name: str, limit: int = 5000, **more: Any) -> Rows:
    return [row for rows in pages(client, name, limit, **more) for row in rows]


def as_json(value: object) -> object:
    """A value of a table as JSON has it."""
    if isinstance(value, datetime):
        shown = value.astimezone(UTC).replace(tzinfo=None)
        return f"{shown.isoformat()}Z"
    if isinstance(value, date):
        return value.isoformat()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(lake: Store, sql: str) -> Rows:
    return [{k: as_json(v) for k, v in row.items()} for row in query(lake, sql).to_dicts()]


def ordered(question: Question) -> str:
    """SQL of all rows of the question that lists a table, in its order."""
    columns = ", ".join(f'"{c.name}"' for c in question.columns)
    return f"SELECT {columns} FROM {table_of(question)} ORDER BY {', '.join(question.order)}"


def table_of(question: Question) -> str:
    return question.name.replace("-", "_")


def of_a_table() -> list[Question]:
    """The questions that list a table's or a view's own columns."""
    return [each for each in QUESTIONS.values() if table_of(each) in {**known_tables(), **VIEWS}]


def near(rows: Rows) -> Rows:
    """Rows as they compare: the last digits of a sum depend on who adds first."""
    return [
        {k: float(f"{v:.9g}") if isinstance(v, float) else v for k, v in row.items()}
        for row in rows
    ]


# --- one question, one answer


def lines_of(*words: str) -> Rows:
    """The rows that a command prints."""
    done = CliRunner().invoke(app, [*words, "--output", "json"], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    rows: Rows = told.get("rows", [told])
    return rows


@each_question
def test_a_question_has_one_answer_by_api_command_line_and_python(
    client: TestClient, lake: Store, question: Question, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METERLAKE_TIMEZONE", served.ZONE)
    more = ALL.get(question.name, {})
    answer = client.get(
        f"/{question.name}", params=more | ({"limit": 100} if question.order else {})
    )
    told = answer.json() if question.order else [answer.json()]
    given = [word for item in more.items() for word in ("--filter", "=".join(map(str, item)))]
    shown = lines_of("ask", question.name, *given, "--limit", "100", "--lake", lake.url)
    types = {each.name: each.type for each in question.filters}
    asked = {
        name: date.fromisoformat(value)
        if types[name] == "date"
        else (value == "true" if types[name] == "boolean" else value)
        for name, value in more.items()
    }
    rows = meterlake.open(lake.url, settings=served.conf()).ask(question.name, 100, **asked)
    assert told or question.name == "flagged-reads"  # the lake has no flag
    assert all(list(row) == [c.name for c in question.columns] for row in told)
    assert near(shown) == near(told)
    assert near([{k: as_json(v) for k, v in row.items()} for row in rows.to_dicts()]) == near(told)
    assert dict(rows.schema) == {c.name: POLARS_TYPES[c.type] for c in question.columns}


@pytest.mark.parametrize(
    ("command", "path"),
    [
        ("late", "late-reads"),
        ("balance", "balance"),
        ("grid outages --meters", "outages?include_parts=true"),
        ("grid indices", "indices"),
    ],
)
def test_a_command_tells_what_the_api_tells(
    client: TestClient, lake: Store, command: str, path: str
) -> None:
    told = client.get(f"/{path}").json()
    for row in (shown := lines_of(*command.split(), "--lake", lake.url)):
        assert row, command
    rows = told if isinstance(told, list) else [told]
    assert shown == [
        {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()} for row in rows
    ]


def test_an_unknown_question_or_filter_is_an_error_that_lists_the_known(lake: Store) -> None:
    opened = meterlake.open(lake.url, settings=served.conf())
    with pytest.raises(BadInput, match=r"consumption-by-day, .*; found 'weathr'"):
        opened.ask("weathr")
    with pytest.raises(BadInput, match="are from, to, station_id; found 'staton_id'"):
        opened.ask("weather", staton_id="A")
    words = ["ask", "weather", "--lake", lake.url, "--filter"]
    for wrong, why in (
        ("from=now", "needs a date or time"),
        ("station_id", "needs name=value"),
        ("limit=1", "found 'limit'"),
    ):
        done = CliRunner().invoke(app, [*words, wrong])
        assert done.exit_code == 1 and why in done.stderr


SQL_WORDS = re.compile(r"\bSELECT\b[\s\S]*\bFROM\b")
OF_PEOPLE = {  # SQL that people type: the editor's examples and the API's
    "src/meterlake/console/sql.py",
    "src/meterlake/serve/sql.py",
    "src/meterlake/serve/sandbox.py",
}


def test_no_way_to_ask_has_sql_of_its_own() -> None:
    root = Path(meterlake.__file__).parents[2]
    folders = ("src/meterlake/console", "src/meterlake/serve", "src/meterlake/cli", "dashboards")
    found = {
        str(path.relative_to(root))
        for folder in folders
        for path in (root / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and SQL_WORDS.search(node.value)
    }
    assert found <= OF_PEOPLE


# --- pages


@pytest.mark.parametrize("question", of_a_table(), ids=lambda each: each.name)
def test_a_question_of_a_table_is_the_whole_table_in_order(
    client: TestClient, lake: Store, question: Question
) -> None:
    told = table(lake, ordered(question))
    assert told, "the lake needs a row in every table"
    assert whole(client, question.name, 500, **ALL.get(question.name, {})) == told
    assert len({tuple(row[key] for key in question.order) for row in told}) == len(told)


@each_of_pages
@pytest.mark.parametrize("limit", [1, 7])
def test_small_pages_put_together_are_the_large_one(
    client: TestClient, question: Question, limit: int
) -> None:
    more = ALL.get(question.name, {})
    large, found = whole(client, question.name, **more), Rows()
    for number, rows in enumerate(pages(client, question.name, limit, **more)):
        found += rows
        if number == 2:
            break
    assert near(found) == near(large[: len(found)])
    assert len(found) == min(len(large), 3 * limit)


def more_weather(store: Store, times: list[datetime], version_after: int) -> None:
    """Hours of another station, without what a dataflow would say of them."""
    rows = pl.DataFrame(
        [{"station_id": "A", "time": time, "temperature": 1.0} for time in times],
        schema={n: t for n, t in polars_schema(WEATHER).items() if n != "date"},
    )
    (day,) = {f"{time:%Y-%m-%d}" for time in times}
    file = write_file(
        store, WEATHER, rows.sort("time"), partition={"date": day}, name=f"more{version_after}"
    )
    commit(
        store,
        WEATHER,
        Change({"test": version_after}, add=[file], read_version=version_after - 1),
        now=served.NOW,
    )


def test_rows_that_come_between_pages_neither_shift_nor_repeat_any(
    own_lake: Store, client_of: Callable[..., TestClient]
) -> None:
    client = client_of(own_lake)
    before = whole(client, "weather")
    rows, following = page(client, "/weather", limit=10)
    found = rows
    first = datetime.fromisoformat(before[0]["time"])
    more_weather(own_lake, [first], snapshot(own_lake, WEATHER).version + 1)  # behind the page
    late = first + timedelta(hours=12)
    more_weather(own_lake, [late], snapshot(own_lake, WEATHER).version + 1)  # ahead of it
    while following is not None:
        rows, following = page(client, following)
        found += rows
    assert [row for row in found if row["station_id"] != "A"] == before
    assert [row["time"] for row in found if row["station_id"] == "A"] == [as_json(late)]


# --- filters


@pytest.mark.parametrize(
    ("path", "where"),
    [
        ("anomalies?meter_id=a1", "meter_id = 'a1' AND anomaly <> 0"),
        ("anomalies?include_normal=true&meter_id=a1", "meter_id = 'a1'"),
        ("anomalies?include_normal=false", "anomaly <> 0"),
        ("anomalies?from=2024-01-01&to=2024-01-01", "ds = DATE '2024-01-01'"),
        ("anomalies?kind=step change", "kind = 'step change'"),
        ("anomalies?min_importance=0.9", "importance >= 0.9 AND anomaly <> 0"),
        ("outages", "part_of IS NULL"),
        ("outages?level=meter&include_parts=true", "level = 'meter'"),
        ("outages?id=a1&include_parts=true", "id = 'a1'"),
        # In Sydney at ten in the evening all of t1 is out, and has been since eight.
        ("outages?from=2024-04-08T22:00&to=2024-04-08T22:00:01", "id = 't1'"),
        ("outages?from=2024-04-08T23:00", "false"),
        ("outages?to=2024-04-08T20:00", "id = 'b1'"),
        ("volt-var?from=2024-04-07T14:00Z&to=2024-04-07T16:00Z", FROM_MIDNIGHT),
        ("volt-var?from=2024-04-08T00:00&to=2024-04-08T02:00", FROM_MIDNIGHT),
        ("volt-var?distribution_transformer_id=d", "true"),
        ("volt-var?distribution_transformer_id=t1", "false"),
        ("transformer-load?kind=service_transformer&limit=5000", "kind = 'service_transformer'"),
        ("transformer-load?id=t2&limit=5000", "id = 't2'"),
        ("transformer-load?from=2024-04-08T00:00&to=2024-04-08T02:00", FROM_MIDNIGHT),
        ("late-arrivals?reading_type=kw", "reading_type = 'kw'"),
        ("late-arrivals?source_file=delivery 1.csv", "source_file = 'delivery 1.csv'"),
        ("late-arrivals?to=2024-04-09T02:00", "epoch(reading_hour) < 1712592000"),
        ("late-arrivals?from=2024-04-09T02:00", "epoch(reading_hour) >= 1712592000"),
        ("quarantine?source_file=delivery 0.csv", "source_file = 'delivery 0.csv'"),
        ("quarantine?from=2024-04-12T00:00:01Z", "false"),
        ("quarantine?to=2024-04-12T00:00:01Z", "true"),
        ("weather?from=2024-04-09T02:00", "epoch(time) >= 1712592000"),
        ("weather?to=2024-04-08T16:00Z", "epoch(time) < 1712592000"),
        ("weather?station_id=no", "false"),
        ("node-forecasts?from=2024-04-09T02:00", "epoch(date_time) >= 1712592000"),
        ("node-forecasts?to=2024-04-09T02:00", "epoch(date_time) < 1712592000"),
        ("node-forecasts?kind=substation", "kind = 'substation'"),
        ("node-forecasts?id=d", "id = 'd'"),
        ("node-forecasts?model_name=no", "false"),
        ("models?name=no", "false"),
        ("dataflow-runs?dataflow=topology", "dataflow = 'topology'"),
        ("dataflow-runs?outcome=failed", "outcome = 'failed'"),
        ("dataflow-runs?from=2024-04-12T00:00Z", "true"),
        ("dataflow-runs?to=2024-04-12T00:00Z", "false"),
        ("topology-findings?kind=service_transformer", "kind = 'service_transformer'"),
        ("topology-findings?id=no", "false"),
    ],
)
def test_a_filter_means_what_it_says(
    client: TestClient, lake: Store, path: str, where: str
) -> None:
    name = path.partition("?")[0]
    expected = table(lake, f"SELECT * FROM ({ordered(QUESTIONS[name])}) WHERE {where}")
    assert expected or where == "false" or "failed" in where
    assert page(client, f"/{path}")[0] == expected


def test_every_filter_is_among_those_tested() -> None:
    marks = test_a_filter_means_what_it_says.pytestmark  # type: ignore[attr-defined]
    paths = [path for mark in marks for path, _ in mark.args[1]]
    untested = [
        f"{question.name}?{each.name}"
        for question in of_a_table()
        for each in question.filters
        if not any(p.startswith(f"{question.name}?") and f"{each.name}=" in p for p in paths)
    ]
    assert untested == []


def test_meters_are_those_of_the_grid_and_those_with_readings(
    client: TestClient, lake: Store
) -> None:
    rows = whole(client, "meters")
    known = [*served.METERS, served.NEVER_READ, served.NOT_IN_GRID]
    assert [row["meter_id"] for row in rows] == sorted(known)
    of = {row["meter_id"]: row for row in rows}
    assert of["a1"]["service_transformer_id"] == "t1"
    assert of["b3"]["first_day"] == "2023-09-30"
    assert of["b3"]["days"] == 3 + 26 + 5 and of["b3"]["last_day"] == "2024-04-10"
    assert (of["x9"]["days"], of["x9"]["first_day"]) == (0, None)
    assert of[served.NOT_IN_GRID]["substation_id"] is None


@pytest.mark.parametrize(
    ("path", "meters"),
    [
        ("meters?search=A1", ["a1"]),
        ("meters?search=5 Main", ["a3"]),
        ("meters?search=%25", []),
        ("meters?search=%26", [served.NOT_IN_GRID]),
        ("meters?meter_id=b1", ["b1"]),
        ("meters?service_transformer_id=t2", ["b1", "b2", "b3", "x9"]),
        ("meters?distribution_transformer_id=d&search=x", ["x9"]),
        ("meters?substation_id=s&service_transformer_id=t1", ["a1", "a2", "a3"]),
        ("meters?substation_id=d", []),
    ],
)
def test_meters_are_found_by_id_address_and_what_is_above_them(
    client: TestClient, path: str, meters: list[str]
) -> None:
    assert [row["meter_id"] for row in page(client, f"/{path}")[0]] == meters


def test_transformers_are_ranked_by_the_hours_beyond_their_rating(
    client: TestClient, lake: Store
) -> None:
    of: dict[str, list[tuple[datetime, float]]] = {}
    loads = query(
        lake,
        "SELECT id, hour, utilisation_percent FROM transformer_load WHERE utilisation_percent "
        "IS NOT NULL AND hour >= TIMESTAMPTZ '2024-04-07 00:00:00Z' ORDER BY hour",
    )
    for transformer, hour, percent in loads.rows():
        of.setdefault(transformer, []).append((hour, percent))
    expected = sorted(
        (-sum(p > 100 for _, p in hours), -max(p for _, p in hours), name, len(hours))
        for name, hours in of.items()
    )
    since: dict[str, Any] = {"from": "2024-04-07T00:00Z"}
    rows = whole(client, "transformer-load-ranking", 5000, **since)
    told = [(-r["hours_over"], -r["highest_percent"], r["id"], r["hours"]) for r in rows]
    assert told == expected and len(told) > 1
    for row in rows:
        hour, _ = max(of[row["id"]], key=lambda each: each[1])
        assert row["highest_at"] == as_json(hour)


# --- what is refused


@pytest.fixture(scope="module")
def cursors_of_all(client: TestClient) -> dict[str, str]:
    """Where the second row of each question begins."""
    names = [each.name for each in PAGED]
    urls = {name: page(client, f"/{name}", limit=1, **ALL.get(name, {}))[1] for name in names}
    return {name: url.partition("cursor=")[2] for name, url in urls.items() if url is not None}


@each_of_pages
def test_a_damaged_cursor_or_that_of_another_question_is_refused(
    client: TestClient, cursors_of_all: dict[str, str], question: Question
) -> None:
    def packed(told: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(told).encode()).decode().rstrip("=")

    cursors = [cursor for name, cursor in cursors_of_all.items() if name != question.name][:12]
    assert len(cursors) > 9
    path, keys = f"/{question.name}", len(question.order)
    cursors += ["", "x", "!!!", "AAAA", "e30", "W10", packed([path]), packed({path: 1}), "ÿ"]
    wrong: list[object] = [None, [], {}, {"moment": 3}]
    cursors += [packed([path, *[each] * keys]) for each in wrong]
    cursors += [packed([path, *[{"moment": "9999-12-31T23:59:59-14:00"}] * keys])]
    cursors += [
        packed([path, *[{"date": "2024-02-30"}] * keys]),
        packed([path, *["x"] * (keys + 1)]),
    ]
    cursors += [packed([f"/{question.name}x", *["x"] * keys]), "[" * 3000]
    for cursor in cursors:
        answer = client.get(path, params={"cursor": cursor})
        assert answer.status_code == 400, (cursor, answer.text)
        assert "cursor" in answer.json()["detail"]
    for value in ("\x00", 10**30, True):  # of no type that fits, or so
        answer = client.get(path, params={"cursor": packed([path, *[value] * keys])})
        assert answer.status_code in (200, 400), answer.text


@each_of_pages
def test_unknown_parameters_and_wrong_limits_are_refused(
    client: TestClient, question: Question
) -> None:
    for wrong in ("no=1", "limit=0", "limit=x", "limit=100001", "From=2024-01-01"):
        answer = client.get(f"/{question.name}?{wrong}")
        assert answer.status_code == 422
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["errors"][0]["name"] == wrong.partition("=")[0]
    assert "no such parameter" in client.get(f"/{question.name}?no=1").json()["detail"]


@pytest.mark.parametrize(
    ("path", "to"),
    [
        (f"/{name}", "2024-04-07")
        for name in QUESTIONS
        if any(f.name == "from" and f.type == "timestamp" for f in QUESTIONS[name].filters)
    ]
    + [
        (f"/{name}", "2024-04-06")
        for name in QUESTIONS
        if any(f.name == "from" and f.type == "date" for f in QUESTIONS[name].filters)
    ]
    + [
        ("/meters/b1/readings", "2024-04-07"),
        ("/meters/b1/consumption", "2024-04-06"),
    ],
)
def test_a_window_in_which_nothing_can_be_is_refused(
    client: TestClient, path: str, to: str
) -> None:
    answer = client.get(path, params={"from": "2024-04-07", "to": to})
    assert answer.status_code == 400
    assert "from" in answer.json()["detail"] and to in answer.json()["detail"]


@pytest.mark.parametrize(
    "path", ["anomalies?kind=odd", "anomalies?from=2024-01-32", "volt-var?from=yesterday"]
)
def test_wrong_values_of_filters_are_refused(client: TestClient, path: str) -> None:
    assert client.get(f"/{path}").status_code == 422


def test_times_beyond_the_calendar_are_refused_or_find_nothing(client: TestClient) -> None:
    for moment in ("0001-01-01T00:00:00", "9999-12-31T23:59:59-14:00"):
        answer = client.get("/weather", params={"to": moment})
        assert answer.status_code == 400 and "9999" in answer.json()["detail"]
    assert page(client, "/weather", to="0001-01-02T00:00:00Z")[0] == []


# --- forms


@each_of_pages
def test_json_csv_and_arrow_say_the_same(client: TestClient, question: Question) -> None:
    more = ALL.get(question.name, {})
    rows, _ = page(client, f"/{question.name}", limit=20, **more)

    def form(kind: str) -> bytes:
        answer = client.get(
            f"/{question.name}", params={"limit": 20, **more}, headers={"Accept": kind}
        )
        assert answer.status_code == 200
        assert answer.headers["content-type"].partition(";")[0] == kind
        assert "Accept" in answer.headers["vary"]
        return answer.content

    arrow = pl.read_ipc_stream(form("application/vnd.apache.arrow.stream"))
    assert arrow.columns == [c.name for c in question.columns]
    told = [{k: as_json(v) for k, v in row.items()} for row in arrow.to_dicts()]
    assert near(told) == near(rows)
    table_read = pl.read_csv(form("text/csv"), infer_schema=False).to_dicts()
    assert len(table_read) == len(rows)
    for in_csv, in_json in zip(table_read, rows, strict=True):
        for name, value in in_json.items():
            shown = in_csv[name]
            if isinstance(value, bool):
                assert shown == str(value).lower()
            elif isinstance(value, int | float):
                assert float(shown) == pytest.approx(value, rel=1e-9)
            elif value is None:
                assert shown in (None, "inf", "NaN", "-inf")
            else:
                assert shown == value


@pytest.mark.parametrize("number", ["5", "-1", "20240401", " 7 ", "1.4e-196", "-4.9E-52", "1e3"])
@pytest.mark.parametrize("path", ["/outages?from", "/anomalies?to", "/meters/b2/readings?from"])
def test_a_number_is_no_time(client: TestClient, path: str, number: str) -> None:
    answer = client.get(f"{path}={quote(number)}")
    assert answer.status_code == 422 and "a number is not a valid time" in answer.text


def test_what_is_no_number_is_null_in_json(client: TestClient) -> None:
    answer = client.get("/anomalies", params={"meter_id": "b2"})
    told = json.loads(answer.text, parse_constant=lambda word: pytest.fail(word))
    assert [row["importance"] for row in told] == [None, None]


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", "application/json"),
        ("text/*", "text/csv"),
        ("text/html, text/csv;q=0.5, */*;q=0.1", "text/csv"),
        ("application/json;q=0.2, text/csv;q=0.9", "text/csv"),
        ("TEXT/CSV", "text/csv"),
        ("image/png", None),
        ("application/json;q=0", None),
        ("application/json;q=0, */*", "text/csv"),
        ("*/*, application/json;q=0.1", "text/csv"),
        ("text/*;q=0, text/csv;q=0.2, application/json;q=0.1", "text/csv"),
    ],
)
def test_the_form_is_the_one_that_is_accepted_best(
    client: TestClient, accept: str, kind: str | None
) -> None:
    answer = client.get("/weather?limit=1", headers={"Accept": accept})
    if kind is None:
        assert answer.status_code == 406 and "text/csv" in answer.json()["detail"]
    else:
        assert answer.headers["content-type"].partition(";")[0] == kind


def test_large_answers_are_compressed_for_those_who_ask_for_it(client: TestClient) -> None:
    zipped = client.get("/transformer-load", headers={"Accept-Encoding": "gzip"})
    plain = client.get("/transformer-load", headers={"Accept-Encoding": "identity"})
    assert zipped.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert zipped.json() == plain.json()
    assert int(zipped.headers["content-length"]) < len(plain.content) / 5


# --- versions


def tags(client: TestClient) -> dict[str, str]:
    paths = [
        *(f"/{name}" for name in QUESTIONS),
        "/meters/b2/readings",
        "/meters/b2/consumption",
        "/consumption/daily/2024/b2",
        "/consumption/b2?reading_date_from=20240407&reading_date_to=20240407",
        "/anomaly/a1?year=2024",
        "/outage?start_date_time=20240401000000&end_date_time=20240501000000",
    ]
    found = {}
    for path in paths:
        answer = client.get(path)
        found[path] = answer.headers["etag"]
        known = client.get(path, headers={"If-None-Match": f'"x", {answer.headers["etag"]}'})
        assert (known.status_code, known.content) == (304, b"")
        for name in ("etag", "vary", "cache-control"):
            told, whole = (set(each.headers[name].split(", ")) for each in (known, answer))
            assert told == whole
    return found


def test_an_entity_tag_changes_when_and_only_when_a_table_does(
    own_lake: Store, client_of: Callable[..., TestClient]
) -> None:
    client = client_of(own_lake)
    before = tags(client)
    assert tags(client) == before
    more_weather(own_lake, [served.END], snapshot(own_lake, WEATHER).version + 1)
    after = tags(client)
    assert {path for path in before if after[path] != before[path]} == {
        f"/{each.name}" for each in QUESTIONS.values() if WEATHER.name in each.tables
    }
    known = client.get("/weather", headers={"If-None-Match": before["/weather"]})
    assert known.status_code == 200


def test_an_entity_tag_is_of_one_form(client: TestClient) -> None:
    tag = client.get("/weather").headers["etag"]
    other = client.get("/weather", headers={"If-None-Match": tag, "Accept": "text/csv"})
    assert other.status_code == 200 and other.headers["etag"] != tag
