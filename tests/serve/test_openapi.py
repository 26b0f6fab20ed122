"""The description of the API: complete, with examples, and true of every answer."""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
import schemathesis
from fastapi.testclient import TestClient
from schemathesis.engine import events, from_schema
from schemathesis.schemas import BaseSchema
from serve.conftest import app_of
from serve.test_access_table import MAY

from meterlake.delta.store import Store
from meterlake.questions.registry import QUESTIONS
from meterlake.serve.keys import create_key

_METHODS = {"get", "post", "put", "delete", "patch"}


def operations(description: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            if method in _METHODS:
                yield f"{method.upper()} {path}", operation


def test_every_operation_parameter_and_field_says_what_it_is(client: TestClient) -> None:
    description = client.get("/openapi.json").json()
    missing = []
    for name, operation in operations(description):
        missing += [] if operation.get("summary") else [name]
        for each in operation.get("parameters", []):
            missing += [] if each.get("description") else [f"{name}: {each['name']}"]
        for status, answer in operation["responses"].items():
            missing += [] if answer.get("description") else [f"{name}: {status}"]
            for kind in answer.get("content", {}).values():
                items = kind.get("schema", {}).get("items", {}).get("properties", {})
                missing += [f"{name}: {f}" for f, told in items.items() if not told["description"]]
    for name, model in description["components"]["schemas"].items():
        for field, told in model.get("properties", {}).items():
            missing += [] if told.get("description") else [f"{name}.{field}"]
    assert missing == []


def test_every_answer_of_rows_has_an_example_that_fits_its_fields(client: TestClient) -> None:
    description = client.get("/openapi.json").json()
    missing = []
    for name, operation in operations(description):
        content = operation["responses"].get("200", {}).get("content", {})
        told = content.get("application/json", {})
        fields = told.get("schema", {}).get("items", {}).get("properties")
        if fields is None:
            continue
        if [set(row) for row in told.get("example", [])] != [set(fields)]:
            missing.append(name)
    assert missing == []


# --- what schemathesis finds: answers that the description does not have, faults, wrong leniency

CHECKS = {
    # Meters that are not known, windows that are none, days that no calendar has, wrong SQL.
    "positive_data_acceptance": {"expected-statuses": ["2xx", 400, 404, 422]},
}


SOME = {"meters", "anomalies", "outages", "weather"}
OTHERS = [f"/{name}" for name in QUESTIONS if name not in SOME]  # which are made as these are


def findings(
    lake: Store,
    phases: set[str],
    *,
    examples: int,
    meter: str,
    only: Sequence[str] = (),
    without: Sequence[str] = (),
) -> tuple[Counter[str], int]:
    """What is wrong with the answers of a server that needs a key, and how many there were.

    Of meters that are asked for one is what the parameter's example says, the others made up.
    """
    now = datetime.now(UTC)
    _, key = create_key(lake, name="schemathesis", scopes=["admin"], now=now)
    of_all: dict[str, Any] = {
        "headers": {"X-API-Key": key},
        "seed": 1,
        "continue-on-failure": True,
        "checks": CHECKS,
        "generation": {
            "max-examples": examples,
            "deterministic": True,
            "database": "none",
            "with-security-parameters": False,
        },
        "phases": {
            name: {"enabled": name in phases}
            for name in ("examples", "coverage", "fuzzing", "stateful")
        },
    }
    app = app_of(lake, require_key=True)
    for _, operation in operations(app.openapi()):
        for each in operation.get("parameters", []):
            if each["name"] == "meter_id" and each["in"] == "path":
                each["schema"]["examples"] = [meter]
    schema: BaseSchema = schemathesis.openapi.from_asgi(
        "/openapi.json", app, config=schemathesis.Config.from_dict(of_all)
    )
    if only:
        schema = schema.include(path=list(only))
    if without:
        schema = schema.exclude(path=list(without))
    found, answers = Counter[str](), 0
    for event in from_schema(schema).execute():
        if isinstance(event, events.NonFatalError | events.FatalError):
            pytest.fail(str(event))
        if not isinstance(event, events.ScenarioFinished):
            continue
        answers += len(event.recorder.interactions)
        for case, checks in event.recorder.checks.items():
            for check in checks:
                if check.failure_info is not None:
                    asked = event.recorder.interactions[case].request
                    found[
                        f"{event.recorder.label}: {check.name}: {asked.method} {asked.uri}: "
                        f"{check.failure_info.failure.message}"
                    ] += 1
    return found, answers


@pytest.mark.proof
def test_every_answer_is_as_described_whatever_is_asked(own_lake: Store) -> None:
    phases = {"examples", "coverage"}
    found, answers = findings(own_lake, phases, examples=1, meter="b2", without=OTHERS)
    made_up = [*OTHERS, *(path for path in MAY if "{meter_id}" in path)]
    more, others = findings(own_lake, {"fuzzing"}, examples=3, meter="b2", only=made_up)
    assert dict(found | more) == {}
    assert answers > 400 and others >= len(made_up)


@pytest.mark.soak
@pytest.mark.parametrize("meter", ["b2", "x9", "no"])
def test_every_answer_is_as_described_whatever_is_asked_for_long(
    own_lake: Store, meter: str
) -> None:
    phases = {"examples", "coverage", "fuzzing", "stateful"}
    found, answers = findings(own_lake, phases, examples=200, meter=meter)
    assert dict(found) == {}
    assert answers > 2000
