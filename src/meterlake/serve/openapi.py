"""What the OpenAPI description says of answers: rows in three forms, and problems."""

from datetime import date, datetime
from typing import Annotated, Any

from pydantic import BeforeValidator

from meterlake.schema import Column
from meterlake.serve.answers import ARROW, CSV, JSON, PROBLEM, Problem

PAGE_ROWS = 1_000
MOST_ROWS = 100_000


def _no_number(told: Any) -> Any:
    """As what it is; a number would be taken for seconds or milliseconds since 1970."""
    try:
        float(told)
    except (TypeError, ValueError):
        return told
    raise ValueError("a number is not a valid time: write it as 2024-04-01 or 2024-04-01T00:00:00Z")


Moment = Annotated[datetime, BeforeValidator(_no_number)]
LocalDate = Annotated[date, BeforeValidator(_no_number)]

_FORMATS = {"timestamp": "date-time", "date": "date"}
ROWS: dict[str, Any] = {
    JSON: {"schema": {"type": "array", "items": {"type": "object"}}},
    CSV: {"schema": {"type": "string"}},
    ARROW: {"schema": {"type": "string", "format": "binary"}},
}
"""Rows in each form, of whatever columns."""

_PROBLEMS = {
    400: "The request cannot be answered: `detail` says why",
    401: "A key or token is needed, or the one given is not valid",
    403: "The key or token does not allow this",
    404: "There is no such thing",
    406: "None of the forms of the answer is accepted",
    413: "The request is too large",
    415: "The body is not said to be JSON",
    422: "A parameter is not what it has to be",
    503: "The lake's storage is away, or too many ask: try again later",
}
_HEADERS = {
    "ETag": (
        "Version of the tables that the answer is made of; give it as If-None-Match",
        "string",
    ),
    "Link": ('The next page, rel="next"; absent on the last', "string"),
}


EXAMPLE_METER = "503d4c60-3ff0-3d2b-9ea0-6fb5b0078031"
_OF_TYPES: dict[str, Any] = {
    "string": "d-17",
    "timestamp": "2024-01-31T05:00:00Z",
    "date": "2024-01-31",
    "double": 1.25,
    "long": 4,
    "boolean": True,
}
_EXAMPLES: dict[str, Any] = {
    "meter_id": EXAMPLE_METER,
    "reading_type": "kw",
    "unit": "kW",
    "quality": "E",
    "anomaly": 1,
    "kind": "spike",
    "importance": 0.8,
    "anomaly_importance": 0.8,
    "level": "meter",
    "evidence": "missing",
    "part_of": "t-4",
    "source_file": "readings_20240131T000000Z.csv.gz",
    "outcome": "succeeded",
    "dataflow": "weather",
    "latitude": 45.07,
    "lat": 45.07,
    "longitude": 7.68,
    "long": 7.68,
    "p10": 0.9,
    "p90": 1.9,
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problems that a path may answer with."""
    return {
        status: {
            "description": _PROBLEMS[status],
            "model": Problem,
            "content": {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in (*statuses, 401, 403, 422, 503)
    }


def rows_told(
    columns: tuple[Column, ...], *, is_single: bool = False
) -> dict[int | str, dict[str, Any]]:
    """What a path answers: a list, or one object, in JSON, or a table in CSV or Arrow."""
    row = {
        "type": "object",
        "required": [c.name for c in columns],
        "properties": {c.name: _property(c) for c in columns},
    }
    shown = {c.name: _EXAMPLES.get(c.name, _OF_TYPES[c.type]) for c in columns}
    told = {"schema": {"type": "array", "items": row}, "example": [shown]}
    if is_single:
        told = {"schema": row, "example": shown}
    headers = {
        name: {"description": meaning, "schema": {"type": kind}}
        for name, (meaning, kind) in _HEADERS.items()
    }
    return {
        200: {
            "description": "Rows in their order",
            "headers": headers,
            "content": {**ROWS, JSON: told},
        },
        304: {"description": "Not changed since the version that If-None-Match names"},
        **problems(400, 406),
    }


def _property(column: Column) -> dict[str, Any]:
    kinds = {"double": "number", "long": "integer", "boolean": "boolean"}
    told: dict[str, Any] = {
        "type": [kinds.get(column.type, "string"), "null"],
        "description": f"{column.meaning} [{column.unit}]" if column.unit else column.meaning,
    }
    if column.type in _FORMATS:
        told["format"] = _FORMATS[column.type]
    return told
