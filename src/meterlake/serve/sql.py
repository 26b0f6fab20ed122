"""`POST /sql`: one SELECT, answered in a process apart that is ended when the client goes."""

import asyncio
from typing import Annotated, Literal

from fastapi import APIRouter, Body, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from meterlake.questions.history import AsOf
from meterlake.serve.access import needs
from meterlake.serve.answers import JSON, Refused, accepted, rows_answer
from meterlake.serve.openapi import ROWS, Moment, problems
from meterlake.serve.sandbox import Answer
from meterlake.serve.state import Here


def _is_json(request: Request) -> None:
    """Raise Refused: 415 where the body is said to be something else."""
    kind = request.headers.get("content-type", "none").partition(";")[0].strip().lower()
    if kind != JSON:
        raise Refused(
            415,
            f"The body needs Content-Type: {JSON}; found {kind[:100]}",
            """With curl: -H 'Content-Type: application/json' -d '{"sql": "SELECT 1"}'""",
        )


router = APIRouter(tags=["sql"], dependencies=[Depends(needs("sql")), Depends(_is_json)])

TRUNCATED = "Meterlake-Truncated"


class SqlQuestion(BaseModel):
    """One SELECT over the lake's tables."""

    model_config = ConfigDict(extra="forbid")

    sql: str = Field(
        min_length=1,
        max_length=100_000,
        description="One SELECT in DuckDB's SQL",
        examples=["SELECT reading_type, count(*) AS n FROM readings GROUP BY ALL ORDER BY ALL"],
    )
    rows: int | None = Field(
        None, ge=1, description="Most rows of the answer; the setting serve.sql_rows bounds it"
    )
    as_of: Moment | None = Field(
        None, description="Only what had arrived by this moment, whatever came since"
    )
    clock: Literal["arrival", "receipt"] = Field(
        "arrival", description="As-of clock: arrival at the source system, or receipt by the lake"
    )


@router.post(
    "/sql",
    summary="Answer SQL over the lake's tables; nothing can be changed",
    responses={
        200: {
            "description": "Rows as the query orders them",
            "headers": {
                TRUNCATED: {
                    "description": "true: the query has more rows than these",
                    "schema": {"type": "boolean"},
                }
            },
            "content": ROWS,
        },
        **problems(400, 406, 413, 415),
    },
    response_class=Response,
)
async def sql(request: Request, asked: Annotated[SqlQuestion, Body()], here: Here) -> Response:
    """Tables and columns: GET /catalog. Memory, time and rows are bounded by the settings."""
    accepted(request)  # before the work
    as_of = None if asked.as_of is None else AsOf(here.aware(asked.as_of), asked.clock)
    answer = await _unless_gone(request, here, asked, as_of)
    if answer is None:
        return Response(status_code=499)  # nobody is there to read it
    return rows_answer(request, answer.frame, headers={TRUNCATED: str(answer.is_truncated).lower()})


async def _unless_gone(
    request: Request, here: Here, asked: SqlQuestion, as_of: AsOf | None
) -> Answer | None:
    working = asyncio.ensure_future(here.sandbox.query(asked.sql, as_of=as_of, rows=asked.rows))
    leaving = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        return None
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
