"""Each question is a path, each of its filters a parameter."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, create_model

from meterlake.questions.question import Part, Question, ask, states_of, version_of
from meterlake.questions.registry import QUESTIONS
from meterlake.serve.access import needs
from meterlake.serve.answers import LONGEST_CURSOR, from_cursor, is_known, rows_answer
from meterlake.serve.openapi import MOST_ROWS, PAGE_ROWS, LocalDate, Moment, rows_told
from meterlake.serve.state import Here

_TYPES: dict[str, Any] = {
    "string": str,
    "timestamp": Moment,
    "date": LocalDate,
    "double": Annotated[float, Field(allow_inf_nan=False)],
    "long": Annotated[int, Field(ge=-(2**31), lt=2**31)],
    "boolean": bool,
}

LONGEST = 200  # letters of an identifier that is asked for

router = APIRouter(tags=["questions"], dependencies=[Depends(needs("read"))])


def _asked_model(question: Question) -> type[BaseModel]:
    fields: dict[str, Any] = {}
    for each in question.filters:
        type_ = Literal[each.choices] if each.choices else _TYPES[each.type]
        length = LONGEST if type_ is str else None
        fields[each.name] = (
            type_ | None,
            Field(None, description=each.meaning, max_length=length),
        )
    if question.order:
        fields["limit"] = (
            int,
            Field(PAGE_ROWS, ge=1, le=MOST_ROWS, description="Most rows of a page"),
        )
        fields["cursor"] = (
            str | None,
            Field(
                None,
                max_length=LONGEST_CURSOR,
                description="Where the page begins: see the header Link",
            ),
        )
    name = f"{question.name.title().replace('-', '')}Asked"
    return create_model(name, __config__=ConfigDict(extra="forbid"), **fields)


def _add(question: Question) -> None:
    def answer(request: Request, asked: Any, here: Here) -> Response:
        values = asked.model_dump(exclude_none=True)
        limit, cursor = values.pop("limit", None), values.pop("cursor", None)
        states = states_of(here.store, question)
        version = f"{version_of(states)}-{here.settings.timezone}"
        if (known := is_known(request, version)) is not None:
            return known
        after = None if cursor is None else from_cursor(request, cursor, len(question.order))
        page = ask(
            here.store, question, values,
            settings=here.settings, part=Part(limit, after), states=states,
        )  # fmt: skip
        return rows_answer(
            request, page.rows, etag=version, after=page.after, is_single=not question.order
        )

    answer.__annotations__["asked"] = Annotated[_asked_model(question), Query()]
    router.get(
        f"/{question.name}",
        name=question.name,
        summary=question.meaning,
        responses=rows_told(question.columns, is_single=not question.order),
        response_class=Response,
    )(answer)


for _question in QUESTIONS.values():
    _add(_question)
