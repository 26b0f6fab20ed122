"""docs/api.md says what there is: every path and scope, and requests that work."""

import re
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from serve.test_access_table import FREE, MAY

from meterlake.serve.keys import SCOPES
from meterlake.serve.openapi import _PROBLEMS, EXAMPLE_METER

DOCS = Path(__file__).parents[2] / "docs"
PAGE, NAMED = ((DOCS / name).read_text(encoding="utf-8") for name in ("api.md", "questions.md"))
ASKED = re.findall(r"localhost:8080(/[^\s']*)", PAGE)


def test_the_page_names_every_path_and_no_other(client: TestClient) -> None:
    paths: Any = client.get("/openapi.json").json()["paths"]
    described = {f"{m.upper()} {path}" for path, methods in paths.items() for m in methods}
    named = set(re.findall(r"^\| `((?:GET|POST) [^`]*)` \|", PAGE, re.MULTILINE))
    named |= {f"GET /{name}" for name in re.findall(r"^\| `([\w-]+)` \|", NAMED, re.MULTILINE)}
    assert named == described


def test_the_page_names_every_scope_status_and_what_is_free() -> None:
    for name in (*SCOPES, *(path for path in FREE if path in MAY)):
        assert f"`{name}`" in PAGE, name
    for status in _PROBLEMS:
        assert f"\n| {status} |" in PAGE, status


@pytest.mark.parametrize("path", ASKED)
def test_what_the_page_asks_is_answered(client: TestClient, path: str) -> None:
    path = path.replace(EXAMPLE_METER, "b2")
    if path == "/sql":
        (body,) = re.findall(r"-d '([^']*)'", PAGE)
        answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
    else:
        answer = client.get(path)
    assert answer.status_code == 200, answer.text
    assert answer.json(), path
