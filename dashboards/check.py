"""Ask a server every panel's and variable's query as Grafana would: `make grafana-check`.

What Grafana's front end does is done here in the same way: variables are filled from their own
queries, the first option of each, and put into the queries. What Infinity's back end does too:
the method and headers it sends, and the columns that it takes by their selectors. So a
panel that passes has rows, and each of its columns is in them and of its type.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

HERE = Path(__file__).parent
# As Infinity sends it (pkg/infinity/headers.go), and with it a key where there is one.
ACCEPT = "application/json;q=0.9,text/plain"
KEY_VARIABLE = "METERLAKE_GRAFANA_KEY"
STOP_SECONDS, ANSWER_SECONDS = 30.0, 60.0

_PLACE = re.compile(r"\$\{(\w+)(?::(\w+))?\}")


class Failed(Exception):
    """A query, or what came of it, is not as it has to be."""


@dataclass(frozen=True)
class Asked:
    """One panel or variable, and what came of it."""

    board: str
    name: str
    rows: int
    milliseconds: float
    problem: str = ""
    note: str = ""


def panel_problems(panel: Mapping[str, Any]) -> list[str]:
    """What a panel lacks to be read: title, description, unit, size, or a place in the grid."""
    found = [f"no {name}" for name in ("title", "description") if not panel.get(name)]
    if not panel["fieldConfig"]["defaults"].get("unit"):
        found.append("no unit")
    place = panel["gridPos"]
    if place["w"] < 4 or place["h"] < 4 or place["x"] + place["w"] > 24:
        found.append(f"does not fit the grid: {place}")
    return found


def filled(text: str, values: Mapping[str, str]) -> str:
    """A query's text with its variables, as Grafana's formats have them."""

    def of(match: re.Match[str]) -> str:
        name, form = match.groups()
        if name not in values:
            raise Failed(f"no variable {name}")
        value = values[name]
        if form is None:
            return value
        raise Failed(f"the format {form} of variable {name} is not known")

    return _PLACE.sub(of, text)


def request_of(
    query: Mapping[str, Any], values: Mapping[str, str], server: str, key: str | None
) -> urllib.request.Request:
    """The request that Infinity makes of a query."""
    options = query["url_options"]
    parameters = [(p["key"], filled(p["value"], values)) for p in options["params"]]
    url = server + filled(query["url"], values)
    if parameters:
        url += "?" + urlencode(parameters)
    headers = {"Accept": ACCEPT, "User-Agent": "Grafana"}
    if key:
        headers["X-API-Key"] = key
    return urllib.request.Request(url, headers=headers, method=options["method"])


def answer(
    query: Mapping[str, Any], values: Mapping[str, str], server: str, key: str | None
) -> list[dict[str, Any]]:
    """Rows of a query by its columns. Raises Failed."""
    if query["source"] == "inline":
        found = json.loads(filled(query["data"], values))
    else:
        try:
            with urllib.request.urlopen(
                request_of(query, values, server, key), timeout=ANSWER_SECONDS
            ) as response:
                if response.headers.get("Link") and not _has_limit(query):
                    raise Failed("the answer has more rows than a page")
                found = json.load(response)
        except urllib.error.HTTPError as error:
            raise Failed(f"{error.code}: {error.read().decode()[:500]}") from error
        except (OSError, ValueError) as error:
            raise Failed(str(error)) from error
    rows = found if isinstance(found, list) else [found]
    return [_selected(query["columns"], row) for row in rows]


def columns_problem(
    columns: Sequence[Mapping[str, str]], rows: Sequence[Mapping[str, Any]]
) -> tuple[str, str]:
    """What is wrong with the rows, and what is worth a note."""
    if not rows:
        return "empty", ""
    nulls = []
    for column in columns:
        name = column["text"]
        if not any(name in row for row in rows):
            return f"no row has '{name}'", ""
        values = [row[name] for row in rows if row.get(name) is not None]
        if not values:
            nulls.append(name)
        for value in values:
            if not _is_of(column["type"], value):
                return f"'{name}' is no {column['type']}: {value!r}", ""
    numbers = [c["text"] for c in columns if c["type"] == "number"]
    if len(nulls) == len(columns) or (numbers and set(numbers) <= set(nulls)):
        return "nothing but nulls", ""
    return "", f"only nulls: {', '.join(nulls)}" if nulls else ""


def check(
    boards: Mapping[str, Mapping[str, Any]], server: str, key: str | None = None
) -> Iterator[Asked]:
    """Every variable and every panel of the dashboards."""
    for board in boards.values():
        values: dict[str, str] = {}
        for variable in board["templating"]["list"]:
            yield _variable(board["title"], variable, values, server, key)
        for panel in board["panels"]:
            name = _titled(panel.get("title", ""), values)
            if problems := panel_problems(panel):
                yield Asked(board["title"], name, 0, 0.0, "; ".join(problems))
            for query in panel["targets"]:
                yield _asked(board["title"], name, query, values, server, key)


@contextmanager
def served(lake: str) -> Iterator[str]:
    """A server on a lake for as long as it is needed: its address."""
    child = subprocess.Popen(
        [sys.executable, "-m", "meterlake", "serve", "--port", "0", "--lake", lake],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"METERLAKE_SERVE__REQUIRE_KEY": "false"},
    )
    try:
        assert child.stdout is not None
        line = child.stdout.readline()  # written once it answers; empty where it ended
        found = re.search(r"http://\S+?(?=\.?\s|$)", line)
        if found is None:
            raise Failed(f"meterlake serve --lake {lake} did not start")
        yield found.group()
    finally:
        child.terminate()
        try:
            child.communicate(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()


def boards_of(folder: Path) -> dict[str, dict[str, Any]]:
    """The dashboards that Grafana is given, by file name."""
    return {
        p.name: json.loads(p.read_text(encoding="utf-8")) for p in sorted(folder.glob("*.json"))
    }


def main() -> int:
    """Check, with a line for each query; the number of problems, at most 1."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--lake", default="demo/lake", help="the lake to serve")
    parser.add_argument("--server", help=f"a server that runs already; its key in ${KEY_VARIABLE}")
    asked = parser.parse_args()
    boards = boards_of(HERE)
    if asked.server:
        found = _printed(check(boards, asked.server.rstrip("/"), os.environ.get(KEY_VARIABLE)))
    else:
        with served(asked.lake) as server:
            found = _printed(check(boards, server))
    bad = [each for each in found if each.problem]
    panels = sum(len(board["panels"]) for board in boards.values())
    print(f"{len(boards)} dashboards, {panels} panels, {len(found)} queries, {len(bad)} problems")
    return 1 if bad or not found else 0


def _variable(
    board: str, variable: Mapping[str, Any], values: dict[str, str], server: str, key: str | None
) -> Asked:
    name = f"${variable['name']}"
    if variable["type"] == "textbox":
        values[variable["name"]] = variable["query"]
        return Asked(board, name, 1, 0.0, "" if variable["query"] else "empty")
    query = variable["query"]["infinityQuery"]
    began = time.perf_counter()
    try:
        rows = answer(query, values, server, key)
    except Failed as error:
        return Asked(board, name, 0, _since(began), str(error))
    problem, note = columns_problem(query["columns"], rows)
    if not problem:
        values[variable["name"]] = str(rows[0]["__value"])
        note = values[variable["name"]]
    return Asked(board, name, len(rows), _since(began), problem, note)


def _asked(
    board: str,
    name: str,
    query: Mapping[str, Any],
    values: Mapping[str, str],
    server: str,
    key: str | None,
) -> Asked:
    began = time.perf_counter()
    name = name if query["refId"] == "A" else f"{name} ({query['refId']})"
    try:
        rows = answer(query, values, server, key)
    except Failed as error:
        return Asked(board, name, 0, _since(began), str(error))
    took = _since(began)
    return Asked(board, name, len(rows), took, *columns_problem(query["columns"], rows))


def _selected(columns: Sequence[Mapping[str, str]], row: Mapping[str, Any]) -> dict[str, Any]:
    return {c["text"]: row[c["selector"]] for c in columns if c["selector"] in row}


def _has_limit(query: Mapping[str, Any]) -> bool:
    return any(p["key"] == "limit" for p in query["url_options"]["params"])


def _is_of(kind: str, value: Any) -> bool:
    if kind == "number":
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "boolean":
        return isinstance(value, bool)
    if kind == "timestamp":
        try:
            return datetime.fromisoformat(value).tzinfo is not None
        except (TypeError, ValueError):
            return False
    return isinstance(value, str)


def _titled(title: str, values: Mapping[str, str]) -> str:
    try:
        return filled(title, values)
    except Failed:
        return title


def _since(began: float) -> float:
    return (time.perf_counter() - began) * 1000


def _printed(found: Iterator[Asked]) -> list[Asked]:
    kept, board = [], ""
    for each in found:
        if each.board != board:
            board = each.board
            print(f"\n{board}")
        said = f"FAILED: {each.problem}" if each.problem else each.note
        print(f"  {each.name:<48} {each.rows:>6} rows {each.milliseconds:>7,.0f} ms  {said}")
        kept.append(each)
    return kept


if __name__ == "__main__":
    sys.exit(main())
