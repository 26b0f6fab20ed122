"""What the dashboards ask: questions of the API, and the columns that they show of the answers.

A query's columns keep their names all the way to the panel, since Infinity sorts them by name and
types those only whose name and selector are one; a panel's labels and their order are put on last.
"""

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

METER, PRICE = {"meter_id": "${meter_id}"}, {"price": "${price}"}
# The chosen year as a window: of local days, and of moments of the lake's zone.
DAYS = {"from": "${year}-01-01", "to": "${year}-12-31"}
MOMENTS = {"from": "${year}-01-01T00:00:00", "to": "${year}-12-31T23:59:59.999999"}

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
    type: Literal["number", "string", "timestamp", "boolean"] = "number"
    custom: tuple[tuple[str, Any], ...] = ()
    decimals: int | None = None
    steps: tuple[tuple[float, str], ...] = ()
    below_steps: str = "green"
    links_to: str = ""
    selector: str = ""  # its name in the answer, where another

    def with_custom(self, **custom: Any) -> "Col":
        """The same with more of the panel's own options."""
        return replace(self, custom=(*self.custom, *custom.items()))

    def properties(self) -> list[DynamicConfigValue]:
        """What Grafana gets to know of it."""
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
    url: str = ""
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
            "columns": [
                {"selector": c.selector or c.name, "text": c.name, "type": c.type}
                for c in self.columns
            ],
            "filters": [],
        }
        if self.inline:
            return told | {"data": self.inline}
        params = [{"key": key, "value": value} for key, value in self.parameters]
        return told | {"url": self.url, "url_options": {"method": "GET", "params": params}}


def get(question: str, *columns: Col, ref_id: str = "A", **parameters: str) -> Query:
    """A question of the API."""
    return Query(columns, f"/{question}", tuple(parameters.items()), ref_id=ref_id)


def thresholds(steps: Sequence[tuple[float, str]], base: str) -> dashboard.ThresholdsConfig:
    """From these values on, these colours."""
    return (
        dashboard.ThresholdsConfig()
        .mode(ThresholdsMode.ABSOLUTE)
        .steps([Threshold(None, base), *(Threshold(value, color) for value, color in steps)])
    )
