"""What the dashboards ask: columns, queries of the API, and the lake's wall clock in SQL.

A query's columns keep their names all the way to the panel, since Infinity sorts them by name and
types those only whose name and selector are one; a panel's labels and their order are put on last.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models.common import AxisPlacement
from grafana_foundation_sdk.models.dashboard import DynamicConfigValue, Threshold, ThresholdsMode

PLUGIN = "yesoreyeram-infinity-datasource"
SOURCE_UID = "meterlake"

METER = "${meter_id:sqlstring}"
YEAR = "${year:sqlstring}"
PRICE = "CAST(${price:sqlstring} AS DOUBLE)"

KWH, VOLT, CELSIUS, PERCENT, MINUTES, COUNT = (
    "kwatth",
    "volt",
    "celsius",
    "percent",
    "m",
    "short",
)
PLAIN = "none"
COST = "none"  # until the variable `currency` puts its unit on
DAY = "time:D MMM YYYY"
CLOCK = "time:ddd D MMM HH:mm"

BLUE, ORANGE, RED, GREEN, GREY, PURPLE = ("blue", "orange", "red", "green", "gray", "purple")


ON_THE_RIGHT = (("axisPlacement", AxisPlacement.RIGHT.value),)


@dataclass(frozen=True)
class Col:
    """A column of an answer: its label, unit and look in a panel."""

    name: str
    label: str = ""
    unit: str = ""
    color: str = ""
    type: Literal["number", "string", "timestamp"] = "number"
    custom: tuple[tuple[str, Any], ...] = ()
    decimals: int | None = None
    steps: tuple[tuple[float, str], ...] = ()
    below_steps: str = "green"
    links_to: str = ""

    def with_custom(self, **custom: Any) -> "Col":
        """The same with more of the panel's own options."""
        return replace(self, custom=(*self.custom, *custom.items()))

    def properties(self) -> list[DynamicConfigValue]:
        """What Grafana is told of it."""
        told: list[tuple[str, Any]] = []
        if self.label:
            told.append(("displayName", self.label))
        if self.unit:
            told.append(("unit", self.unit))
        if self.decimals is not None:
            told.append(("decimals", self.decimals))
        if self.color:
            told.append(("color", {"mode": "fixed", "fixedColor": self.color}))
        if self.steps:
            told.append(
                ("thresholds", thresholds(self.steps, base=self.below_steps).build().to_json())
            )
            told.append(("color", {"mode": "thresholds"}))
        if self.links_to:
            url = f"/d/{self.links_to}?var-meter_id=${{__value.raw}}&${{year:queryparam}}"
            told.append(("links", [{"title": "Show this meter", "url": url}]))
        told += [(f"custom.{name}", value) for name, value in self.custom]
        return [DynamicConfigValue(name, value) for name, value in told]


def text(name: str, label: str = "", links_to: str = "") -> Col:
    """A column of words."""
    return Col(name, label, type="string", links_to=links_to)


@dataclass(frozen=True)
class Query(Dataquery, Builder[Dataquery]):
    """One request that Infinity's back end makes, and the columns that it takes of the answer."""

    columns: tuple[Col, ...]
    url: str = "/sql"
    sql: str = ""
    parameters: tuple[tuple[str, str], ...] = ()
    inline: str = ""
    ref_id: str = "A"

    def build(self) -> Dataquery:
        """Itself: the SDK's panels take builders."""
        return self

    def to_json(self) -> dict[str, object]:
        """The query as it stands in a dashboard."""
        told: dict[str, object] = {
            "refId": self.ref_id,
            "datasource": {"type": PLUGIN, "uid": SOURCE_UID},
            "type": "json",
            "parser": "backend",
            "format": "table",
            "source": "inline" if self.inline else "url",
            "root_selector": "",
            "columns": [{"selector": c.name, "text": c.name, "type": c.type} for c in self.columns],
            "filters": [],
        }
        if self.inline:
            return told | {"data": self.inline}
        options: dict[str, object] = {"method": "POST" if self.sql else "GET"}
        if self.sql:
            options |= {
                "body_type": "raw",
                "body_content_type": "application/json",
                "data": json.dumps({"sql": self.sql}, ensure_ascii=False),
            }
        options["params"] = [{"key": key, "value": value} for key, value in self.parameters]
        return told | {"url": self.url, "url_options": options}


def sql(query: str, *columns: Col, ref_id: str = "A") -> Query:
    """A SELECT over the lake's tables."""
    return Query(columns, sql=" ".join(query.split()), ref_id=ref_id)


def get(url: str, *columns: Col, **parameters: str) -> Query:
    """A listing or figure that the API has."""
    return Query(columns, url=url, parameters=tuple(parameters.items()))


# --- local time, of the lake's zone and not of Grafana's


def days(where: str = "true") -> str:
    """A table `days` of local days for WITH: `date`, and when it begins and ends in UTC."""
    return (
        'days AS (SELECT date, any_value(start) AS begins, any_value("end") AS ends '
        f"FROM consumption_daily WHERE {where} GROUP BY date)"
    )


def wall_clock(moment: str) -> str:
    """The lake's wall clock at a moment, as a timestamp without a zone.

    Of a row that is joined `ASOF JOIN days ON moment >= begins`. It counts from the begin of the
    day, and after three hours to its end, so that a day with a change of the clock is right but
    for at most one hour.
    """
    return (
        f"(CASE WHEN {moment} < begins + INTERVAL 3 HOUR THEN date + ({moment} - begins) "
        f"ELSE date + INTERVAL 1 DAY - (ends - {moment}) END)"
    )


YEAR_SPAN = (
    'span AS (SELECT min(start) AS year_begins, max("end") AS year_ends FROM consumption_daily '
    f"WHERE year = {YEAR})"
)
AT_NOON = "epoch_ms(date + INTERVAL 12 HOUR)"  # a date as a number, the same date in any zone


def thresholds(steps: Sequence[tuple[float, str]], base: str) -> dashboard.ThresholdsConfig:
    """From these values on, these colours."""
    return (
        dashboard.ThresholdsConfig()
        .mode(ThresholdsMode.ABSOLUTE)
        .steps([Threshold(None, base), *(Threshold(value, color) for value, color in steps)])
    )
