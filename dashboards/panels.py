"""What the dashboards are built of: variables, panels of each kind, and the dashboard itself.

Nothing is bound to Grafana's time picker: the variable `year` says what is shown, so that a lake
of last year's readings shows as well as a live one. Wall clocks are the lake's: they are handed
over as if they were UTC, and the dashboards show UTC.
"""

import json
from collections.abc import Sequence
from typing import Any, TypeAlias

from grafana_foundation_sdk.builders import (
    barchart,
    common,
    dashboard,
    geomap,
    stat,
    table,
    trend,
)
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    DataSourceRef,
    FrameGeometrySourceMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardLinkType,
    DataTransformerConfig,
    FieldColorModeId,
    VariableHide,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.geomap import TooltipMode

from dashboards.queries import PLUGIN, SOURCE_UID, Col, Query, get, thresholds

TAG = "meterlake"
WIDTH = 24  # of Grafana's grid

AnyPanel: TypeAlias = stat.Panel | trend.Panel | barchart.Panel | table.Panel | geomap.Panel


# --- variables


def year_variable() -> Builder[Any]:
    """The local years that the lake has, the latest first."""
    return _query_variable("year", "Year", "Local year", "years", "year")


def meter_variable(question: str) -> Builder[Any]:
    """Meters, in the order of a question; any other can be typed in."""
    about = "A meter; another one can be typed in"
    return _query_variable("meter_id", "Meter", about, question, "meter_id")


def transformer_variable() -> Builder[Any]:
    """Distribution transformers, those with the most voltages out of band first."""
    return _query_variable(
        "transformer",
        "Transformer",
        "A distribution transformer",
        "volt-var-by-transformer",
        "distribution_transformer_id",
    )


def price_variable(price: float) -> Builder[Any]:
    """What a kWh costs."""
    return _text_variable("price", "Cost per kWh", "Price of a kWh", f"{price:g}")


def currency_variable(currency: str) -> Builder[Any]:
    """The currency of costs."""
    return _text_variable("currency", "Currency", "Of the price and of all costs", currency)


def _query_variable(
    name: str, label: str, description: str, question: str, column: str
) -> Builder[Any]:
    columns = [Col(text, type="string", selector=column) for text in ("__text", "__value")]
    told = get(question, *columns, ref_id="variable", limit="20000").to_json()
    variable = (
        dashboard.QueryVariable(name)
        .label(label)
        .description(description)
        .datasource(DataSourceRef(PLUGIN, SOURCE_UID))
        .query({"queryType": "infinity", "refId": "variable", "infinityQuery": told})
        .refresh(VariableRefresh.ON_DASHBOARD_LOAD)
        .sort(VariableSort.DISABLED)
        .allow_custom_value(True)
    )
    return variable


def _text_variable(name: str, label: str, description: str, value: str) -> Builder[Any]:
    option = VariableOption(selected=True, text=value, value=value)
    return (
        dashboard.TextBoxVariable(name)
        .label(label)
        .description(description)
        .hide(VariableHide.DONT_HIDE)
        .default_value(value)
        .current(option)
        .options([option])
    )


# --- panels


def stats(
    title: str,
    description: str,
    query: Query,
    *,
    unit: str,
    width: int,
    decimals: int = 1,
    costs: str = "",
) -> AnyPanel:
    """Figures, one beside the other."""
    panel = (
        stat.Panel()
        .color_mode(BigValueColorMode.VALUE)
        .graph_mode(BigValueGraphMode.NONE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False).fields(""))
        .thresholds(thresholds((), base="text"))
        .no_value("none")
    )
    return _put(panel, title, description, query, unit, width, 5, decimals, costs)


def lines(
    title: str,
    description: str,
    query: Query,
    *,
    x: Col,
    unit: str,
    width: int = WIDTH,
    height: int = 9,
    decimals: int = 2,
) -> AnyPanel:
    """Lines over an axis of days, hours or the like; not bound to the time picker."""
    panel = (
        trend.Panel()
        .x_field(x.name)
        .line_width(1)
        .show_points(VisibilityMode.NEVER)
        .span_nulls(False)
        .legend(_legend())
        .tooltip(_tooltip())
        .color_scheme(dashboard.FieldColor().mode(FieldColorModeId.PALETTE_CLASSIC))
    )
    return _put(panel, title, description, query, unit, width, height, decimals, "")


def bars(
    title: str,
    description: str,
    query: Query,
    *,
    x: Col,
    unit: str,
    width: int = WIDTH // 2,
    height: int = 9,
    decimals: int = 1,
    costs: str = "",
    is_stacked: bool = False,
) -> AnyPanel:
    """Bars, a group of them for each word of `x`."""
    panel = (
        barchart.Panel()
        .x_field(x.name)
        .show_value(VisibilityMode.NEVER)
        .x_tick_label_spacing(100)
        .group_width(0.75)
        .bar_width(0.95)
        .fill_opacity(75)
        .stacking(StackingMode.NORMAL if is_stacked else StackingMode.NONE)
        .legend(_legend())
        .tooltip(_tooltip())
        .color_scheme(dashboard.FieldColor().mode(FieldColorModeId.PALETTE_CLASSIC))
    )
    return _put(panel, title, description, query, unit, width, height, decimals, costs)


def rows(
    title: str,
    description: str,
    query: Query,
    *,
    unit: str,
    width: int = WIDTH,
    height: int = 9,
    decimals: int = 1,
    costs: str = "",
) -> AnyPanel:
    """A table."""
    panel = table.Panel().filterable(True)
    return _put(panel, title, description, query, unit, width, height, decimals, costs)


def places(
    title: str,
    description: str,
    layers: Sequence[tuple[Query, str, str, str]],
    *,
    unit: str,
    width: int,
    height: int,
) -> AnyPanel:
    """A map of `latitude` and `longitude`; a layer is its query, name, column of size, colour."""
    panel = (
        geomap.Panel()
        .view(geomap.MapViewConfig().id("fit").all_layers(True).padding(20).zoom(15))
        .basemap(common.MapLayerOptions().type("default").name("Base"))
        .layers([_layer(*layer) for layer in layers])
        .tooltip(geomap.TooltipOptions().mode(TooltipMode.DETAILS))
    )
    first, *others = (query for query, *_ in layers)
    told = _put(panel, title, description, first, unit, width, height, 0, "", order=False)
    for query in others:
        told.with_target(query)
    return told


def built(
    uid: str,
    title: str,
    description: str,
    variables: Sequence[Builder[Any]],
    panels: Sequence[AnyPanel],
) -> dict[str, Any]:
    """A dashboard as JSON."""
    board = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG])
        .timezone("utc")
        .timepicker(dashboard.TimePicker().hidden(True))
        .time("now-1y", "now")
        .readonly()
        .link(
            dashboard.DashboardLink("Dashboards")
            .type(DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .as_dropdown(True)
            .include_vars(True)
        )
    )
    for variable in variables:
        board.with_variable(variable)
    for number, panel in enumerate(panels, start=1):
        board.with_panel(panel.id(number))
    told: dict[str, Any] = json.loads(json.dumps(board.build(), default=lambda o: o.to_json()))
    told["annotations"] = {"list": []}
    for link in told["links"]:
        del link["placement"]  # the SDK's default hides it in a menu
    return told


def _put(
    panel: AnyPanel,
    title: str,
    description: str,
    query: Query,
    unit: str,
    width: int,
    height: int,
    decimals: int,
    costs: str,
    order: bool = True,
) -> AnyPanel:
    panel.title(title).description(description).datasource(DataSourceRef(PLUGIN, SOURCE_UID))
    panel.with_target(query).unit(unit).span(width).height(height)
    if not isinstance(panel, table.Panel):
        panel.decimals(decimals)
    if costs:
        panel.with_target(
            Query(
                (Col("unit", type="string"),),
                inline=json.dumps([{"unit": "currency:${currency} "}]),
                ref_id="currency",
            )
        )
        panel.with_transformation(
            DataTransformerConfig(
                "configFromData",
                options={
                    "configRefId": "currency",
                    "applyTo": {"id": "byRegexp", "options": f"/^({costs})$/"},
                    "mappings": [{"fieldName": "unit", "handlerKey": "unit"}],
                },
            )
        )
    if order:
        index = {column.name: number for number, column in enumerate(query.columns)}
        panel.with_transformation(
            DataTransformerConfig(
                "organize",
                options={"excludeByName": {}, "indexByName": index, "renameByName": {}},
            )
        )
    for column in query.columns:
        if properties := column.properties():
            panel.override_by_name(column.name, properties)
    return panel


def _layer(query: Query, name: str, size: str, color: str) -> common.MapLayerOptions:
    extent: dict[str, object] = {"fixed": 5, "min": 7, "max": 20}
    if size:
        extent["field"] = size
    style = {
        "color": {"fixed": color},
        "opacity": 0.6,
        "size": extent,
        "symbol": {"fixed": "img/icons/marker/circle.svg", "mode": "fixed"},
    }
    return (
        common.MapLayerOptions()
        .type("markers")
        .name(name)
        .config({"showLegend": True, "style": style})
        .location(
            common.FrameGeometrySource()
            .mode(FrameGeometrySourceMode.COORDS)
            .latitude("latitude")
            .longitude("longitude")
        )
        .filter_data({"id": "byRefId", "options": query.ref_id})
        .tooltip(True)
    )


def _legend() -> common.VizLegendOptions:
    return (
        common.VizLegendOptions()
        .show_legend(True)
        .display_mode(LegendDisplayMode.LIST)
        .placement(LegendPlacement.BOTTOM)
        .calcs([])
    )


def _tooltip() -> common.VizTooltipOptions:
    return common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.NONE)
