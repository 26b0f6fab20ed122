"""What the pages share: how one is made of a template, its numbers in words, its security."""

import json
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

import polars as pl
from bokeh.settings import settings as bokeh_settings
from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse, HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup

from meterlake import __version__
from meterlake.console.charts import Chart
from meterlake.serve.answers import Refused
from meterlake.serve.state import Served


@dataclass(frozen=True)
class PageView:
    """A page of the navigation."""

    path: str
    title: str
    question: str


VIEWS = (
    PageView("/", "Overview", "Is everything there?"),
    PageView("/console/meter", "Meter", "What does one meter do?"),
    PageView("/console/anomalies", "Anomalies", "Which days are anomalous?"),
    PageView("/console/forecast", "Forecast", "What will next week take?"),
    PageView("/console/outages", "Outages", "Which meters are without supply?"),
    PageView("/console/weather", "Usage and weather", "How does usage follow the weather?"),
    PageView("/console/volt-var", "Volt/var", "What does lower voltage save?"),
    PageView("/console/quality", "Data quality", "What came late or damaged?"),
    PageView("/console/sql", "SQL", "Ask anything"),
)

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; "
    "img-src 'self' data:{tiles}; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_STATIC = files("meterlake.console") / "static"
_FIRST_YEAR, _LAST_YEAR = 1900, 2200
MOST_PRICE = 1_000_000  # a kWh
_LONGEST_ID = 200  # letters that a page takes
_OF_PROGRAMS = "GET /"  # in a hint that names a path of the API
_SHORT = 13  # letters of a long identifier that are shown


@dataclass(frozen=True)
class Days:
    """The local days that a page shows; `usual` says which ones, where it chose them itself.

    `every` leads to `every_day`, first to last, of all that there is something of.
    """

    first: date
    last: date
    usual: str | None = None
    every: str | None = None
    every_day: tuple[date, date] | None = None
    every_told: str = ""


def page(
    request: Request, here: Served, template: str, *, status: int = 200, **numbers: Any
) -> Response:
    """A page made of a template of templates/ and what it shows.

    `charts` among the numbers are drawn; every template has `here`, `path`, `views`, `zone`.
    """
    zone = ZoneInfo(here.settings.timezone)
    text = _templates.get_template(template).render(
        request=request,
        path=request.url.path,
        views=VIEWS,
        view=next((v for v in VIEWS if v.path == request.url.path), None),
        zone=zone,
        zone_name=here.settings.timezone,
        lake=here.store.url,
        currency=here.settings.serve.currency,
        version=__version__,
        **numbers,
    )
    tiles = here.settings.serve.map_tiles
    host = " " + "/".join(tiles.split("/")[:3]) if tiles else ""
    headers = {
        "Content-Security-Policy": _POLICY.format(tiles=host),
        "Cache-Control": "no-store",
    }
    return HTMLResponse(text, status, headers)


def is_page(request: Request) -> bool:
    """Whether a request is for a page, so that people read the answer."""
    path = request.url.path
    return path == "/" or (path.startswith("/console/") and "/static/" not in path)


def problem_page(request: Request, answer: Response) -> Response:
    """A problem as a page, with its status."""
    told = json.loads(bytes(answer.body))
    here: Served = request.app.state.served
    hint, way_on = told.get("hint"), _way_on(request, answer.status_code)
    if way_on is not None and answer.status_code == 422:
        told["title"] = "Wrong entry"
    return page(
        request,
        here,
        "problem.html",
        status=answer.status_code,
        problem=told,
        hint=None if hint is None or _OF_PROGRAMS in hint else hint,
        way_on=way_on,
        charts=[],
    )


def _way_on(request: Request, status: int) -> tuple[str, str] | None:
    """Where to go from a problem besides the overview, and what is there."""
    view = next((v for v in VIEWS if v.path == request.url.path), None)
    if view is None or status not in (400, 404, 422):
        return None
    if status == 404:  # of the parameters only a meter can be one that is not there
        return "/console/meter", "Find the meter by a part of its id or address"
    meter = request.query_params.get("meter_id", "")
    kept = {"meter_id": meter} if 0 < len(meter) <= _LONGEST_ID else {}
    return link(view.path, **kept), f"{view.title} without these entries"


def number(value: float | int | None, digits: int = 0) -> str:
    """A number for people; a dash where it is not known."""
    if value is None or value != value:
        return "–"
    return f"{value:,.{digits}f}"


def signed(value: float | None, digits: int = 0) -> str:
    """A difference for people."""
    return ("+" if value is not None and value > 0 else "") + number(value, digits)


def counted(count: int, name: str, names: str | None = None) -> str:
    """So many of something, one or several."""
    return f"{number(count)} {name if count == 1 else names or name + 's'}"


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1000
    raise AssertionError


def ago(hours: float) -> str:
    """How long ago, for people."""
    return f"{hours:,.0f} h ago" if hours < 48 else f"{hours / 24:,.0f} days ago"


def percent(value: float | None, digits: int = 1) -> str:
    """A share of 0 to 1 in percent."""
    return "–" if value is None or value != value else f"{100 * value:,.{digits}f} %"


@pass_context
def moment(context: Context, value: datetime | date | None) -> Markup:
    """A moment on the lake's clock, or a day; its date stays on one line."""
    if value is None:
        return Markup("–")
    clock = ""
    if isinstance(value, datetime):
        value = value.astimezone(context["zone"])
        clock = f" {value:%H:%M}"
    return Markup("<time>{:%Y-%m-%d}</time>{}").format(value, clock)


def short(identifier: str | None) -> Markup:
    """A long identifier cut, with all of it in reach of pointer and screen reader."""
    if identifier is None:
        return Markup("–")
    if len(identifier) <= _SHORT + 1:
        return Markup("{}").format(identifier)
    return Markup('<abbr title="{}">{}…</abbr>').format(identifier, identifier[:_SHORT])


def link(path: str, **asked: Any) -> str:
    """A path with what is asked for, without what is None."""
    told = {k: v for k, v in asked.items() if v is not None}
    return f"{path}?{urlencode(told)}" if told else path


def to_transformer(kind: str, identifier: str, **days: Any) -> str:
    """Where the voltages below a distribution transformer, or another's load, are shown."""
    if kind == "distribution_transformer":
        return link("/console/volt-var", transformer=identifier, **days) + "#hours"
    return link("/console/volt-var", load=identifier, kind=kind, **days) + "#load"


def numeric(rows: pl.DataFrame) -> list[bool]:
    """Whether each column has numbers."""
    return [type_.is_numeric() for type_ in rows.dtypes]


def in_html(value: Any) -> Markup:
    """JSON that can stand inside a page."""
    text = json.dumps(value, default=str, allow_nan=True, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def local(rows: pl.DataFrame, zone: str) -> pl.DataFrame:
    """Rows with their moments on the lake's clock, to draw."""
    return rows.with_columns(
        pl.col(name).dt.convert_time_zone(zone)
        for name, type_ in rows.schema.items()
        if isinstance(type_, pl.Datetime) and type_.time_zone is not None
    )


def a_day(text: str | None, name: str) -> date | None:
    """A local day of a form; an empty field asks for nothing. Raises Refused."""
    if not text:
        return None
    try:
        day = date.fromisoformat(text)
    except ValueError as error:
        raise Refused(
            422, f"'{name}' needs to be a day such as 2024-01-31; found '{text[:40]}'"
        ) from error
    if not _FIRST_YEAR <= day.year <= _LAST_YEAR:  # beside them there is room for weeks
        raise Refused(
            422, f"'{name}' needs to be of the years {_FIRST_YEAR} to {_LAST_YEAR}; found {day}"
        )
    return day


def a_moment(here: Served, text: str, name: str) -> datetime | None:
    """A moment of a form, in the lake's zone where it has no offset. Raises Refused."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
        if not _FIRST_YEAR <= moment.year <= _LAST_YEAR:
            raise ValueError("no moment of ours")
    except ValueError as error:
        raise Refused(
            422, f"'{name}' needs to be a moment such as 2024-01-31T18:00; found '{text[:40]}'"
        ) from error
    return here.aware(moment)


def window(
    first: date | None, last: date | None, *, newest: date, days: int, most: int
) -> tuple[date, date]:
    """The local days to show: as asked for, else so many up to the newest. Raises Refused."""
    if last is None:
        last = newest if first is None else max(newest, first)
        if first is not None and last - first >= timedelta(days=most):
            last = first + timedelta(days=days - 1)
    if first is None:
        first = last - timedelta(days=days - 1)
    in_order(first, last, most=most)
    return first, last


def in_order(first: date, last: date, *, most: int | None = None) -> None:
    """Raise Refused where a window's end is before its start, or it has more days than that."""
    if first > last:
        raise Refused(422, f"'to' needs to be 'from', {first}, or later; found {last}")
    count = (last - first).days + 1
    if most is not None and count > most:
        raise Refused(
            422,
            f"'from' to 'to' needs to be at most {most} days; found {count}, {first} to {last}",
        )


def shown_days(
    request: Request,
    days: tuple[date, date],
    *,
    usual: str,
    there: tuple[date, date] | None,
    most: int | None = None,
) -> Days:
    """The days of a page, in words.

    Parameters
    ----------
    days : what is shown
    usual : what that is, where neither `from` nor `to` was asked for
    there : first and last day of which there is something to show
    most : days that the page takes
    """
    asked = {k: v for k, v in request.query_params.items() if k not in ("from", "to")}
    is_asked = any(request.query_params.get(name) for name in ("from", "to"))
    told = Days(*days, None if is_asked else usual)
    if there is None or there[0] > there[1]:
        return told
    first, last = there
    name = "All days"
    if most is not None and (last - first).days >= most:
        first, name = last - timedelta(days=most - 1), f"The last {most} days"
    if days[0] <= first and last <= days[1]:
        return told
    every = link(request.url.path, **{**asked, "from": first, "to": last})
    return replace(told, every=every, every_day=(first, last), every_told=name)


def a_price(here: Served, text: str) -> float:
    """A price per kWh of a form; an empty field asks for the setting's. Raises Refused."""
    if not text.strip():
        return here.settings.serve.price_per_kwh
    try:
        price = float(text)
    except ValueError as error:
        raise Refused(
            422, f"'price' needs to be a number such as 0.23; found '{text[:40]}'"
        ) from error
    if not 0 <= price <= MOST_PRICE:  # neither is "nan"
        raise Refused(422, f"'price' needs to be 0 to {MOST_PRICE:,}; found '{text[:40]}'")
    return price


_templates = Environment(
    loader=PackageLoader("meterlake.console"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.filters |= {
    "number": number,
    "signed": signed,
    "counted": counted,
    "numeric": numeric,
    "ago": ago,
    "size": size,
    "percent": percent,
    "moment": moment,
    "short": short,
    "in_html": in_html,
}
_templates.globals |= {
    "link": link,
    "to_transformer": to_transformer,
    "most_price": MOST_PRICE,
    "Chart": Chart,
}

router = APIRouter(include_in_schema=False)


@router.get("/console/static/{name}")
def static(name: str) -> Response:
    """The console's own style and script, and Bokeh's, from the installed packages."""
    known = {
        "console.css": Path(str(_STATIC / "console.css")),
        "console.js": Path(str(_STATIC / "console.js")),
        "bokeh.min.js": Path(bokeh_settings.bokehjs_path()) / "js" / "bokeh.min.js",
    }
    if name not in known:
        raise Refused(404, "There is no such file")
    return FileResponse(known[name], headers={"Cache-Control": "no-cache"})
