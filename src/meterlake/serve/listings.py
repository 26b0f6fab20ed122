"""Endpoints made of the lake's listings: each listing is a path, each filter a parameter."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, create_model

from meterlake.questions.listings import LISTINGS, Listing, listed, states_of, version_of
from meterlake.serve.access import needs
from meterlake.serve.answers import LONGEST_CURSOR, from_cursor, is_known, rows_answer
from meterlake.serve.openapi import MOST_ROWS, PAGE_ROWS, LocalDate, Moment, rows_told
from meterlake.serve.state import Here, check_days

_TYPES: dict[str, Any] = {
    "string": str,
    "timestamp": Moment,
    "date": LocalDate,
    "double": float,
    "long": int,
    "boolean": bool,
}

LONGEST = 200  # letters of an identifier that is asked for

router = APIRouter(tags=["tables"], dependencies=[Depends(needs("read"))])


def _asked_model(listing: Listing) -> type[BaseModel]:
    fields: dict[str, Any] = {}
    for each in listing.filters:
        type_ = Literal[each.choices] if each.choices else _TYPES[each.type]
        length = LONGEST if type_ is str else None
        fields[each.name] = (
            type_ | None,
            Field(None, description=each.meaning, max_length=length),
        )
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
    name = f"{listing.name.title().replace('-', '')}Asked"
    return create_model(name, __config__=ConfigDict(extra="forbid"), **fields)


def _add(listing: Listing) -> None:
    def answer(request: Request, asked: Any, here: Here) -> Response:
        values = asked.model_dump(exclude_none=True)
        limit, cursor = values.pop("limit"), values.pop("cursor", None)
        start, end = values.get("from"), values.get("to")
        if isinstance(start, datetime) or isinstance(end, datetime):
            window = zip(("from", "to"), here.window(start, end), strict=True)
            values |= {name: value for name, value in window if value is not None}
        else:
            check_days(start, end)
        states = states_of(here.store, listing)
        version = version_of(states)
        if (known := is_known(request, version)) is not None:
            return known
        after = None if cursor is None else from_cursor(request, cursor, len(listing.order))
        page = listed(here.store, listing, values, limit=limit, after=after, states=states)
        return rows_answer(request, page.rows, etag=version, after=page.after)

    answer.__annotations__["asked"] = Annotated[_asked_model(listing), Query()]
    router.get(
        f"/{listing.name}",
        name=listing.name,
        summary=listing.meaning,
        responses=rows_told(listing.columns),
        response_class=Response,
    )(answer)


for _listing in LISTINGS.values():
    _add(_listing)
