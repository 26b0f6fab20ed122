"""Charts in one style, as Bokeh's JSON: time series, bars, bands, points, a map.

Colours are chosen for a light ground; on a dark one the page turns the light of all of them
around. A chart says its units on its axes, and its title stands in the page.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from bokeh.core.types import ID
from bokeh.embed import json_item
from bokeh.models import (
    BoxZoomTool,
    ColumnDataSource,
    FactorRange,
    HoverTool,
    MercatorTickFormatter,
    NoOverlap,
    NumeralTickFormatter,
    PanTool,
    ResetTool,
    WheelZoomTool,
    WMTSTileSource,
)
from bokeh.plotting import figure
from bokeh.transform import dodge

BLUE, ORANGE, GREEN, RED, GREY = "#2563a8", "#b45309", "#3f7d20", "#b3261e", "#6b7280"
PALETTE = (BLUE, ORANGE, GREEN, RED, "#7c3f98", GREY)
HEIGHT = 300  # px
_PLACES = ("x", "y", "top", "y1", "y2")  # a glyph's properties that say where it is
FEW_NAMES = 8  # of an axis that are told side by side on a small screen


@dataclass(frozen=True)
class Values:
    """Rows to draw, and their columns along both axes; a hover can tell the other columns."""

    rows: pl.DataFrame
    x: str
    y: str


@dataclass(frozen=True)
class Chart:
    """A figure of a page; `rows` are the same numbers as a table, for people who cannot see it.

    `told` is the sentence that says what is to be seen; `href` leads to all of the numbers where
    they are too many for a table.
    """

    name: str
    title: str
    figure: Any
    told: str = ""
    rows: pl.DataFrame | None = None
    href: str | None = None

    @property
    def item(self) -> dict[str, Any]:
        """What the page's script draws."""
        return dict(json_item(self.figure, ID(f"chart-{self.name}")))

    @property
    def height(self) -> int:
        """Height [px], kept free before the chart is drawn."""
        return int(self.figure.height)

    @property
    def is_empty(self) -> bool:
        """Whether it has nothing to draw: Bokeh finds no range for it then, and complains."""
        return not any(_has_values(each) for each in self.figure.renderers)


def over_time(
    y_label: str, *, x_label: str = "", height: int = HEIGHT, hover: Sequence[tuple[str, str]] = ()
) -> Any:
    """A figure over time, to draw on; drag to pan, wheel or box to zoom in time."""
    drawn = _figure(y_label, x_label, height, hover, x_axis_type="datetime", zoom="width")
    drawn.xaxis.major_label_policy = NoOverlap(min_distance=8)  # of small screens
    return drawn


def over_numbers(
    x_label: str, y_label: str, *, height: int = HEIGHT, hover: Sequence[tuple[str, str]] = ()
) -> Any:
    """A figure of one number over another."""
    return _figure(y_label, x_label, height, hover, zoom="both")


def over_names(
    names: Sequence[str],
    y_label: str,
    *,
    x_label: str = "",
    height: int = HEIGHT,
    hover: Sequence[tuple[str, str]] = (),
) -> Any:
    """A figure of a number for each name, such as weekdays; zero is in sight."""
    named = FactorRange(factors=list(names))
    return _figure(y_label, x_label, height, hover, x_range=named, zoom=None)


def over_map(*, tiles: str | None, height: int = 520) -> Any:
    """A map in the web's Mercator projection [m], on tiles where there are any."""
    drawn = _figure(
        "latitude [°]", "longitude [°]", height, (), zoom="both",
        x_axis_type="mercator", y_axis_type="mercator", match_aspect=True,
    )  # fmt: skip
    drawn.xaxis.formatter = MercatorTickFormatter(dimension="lon")
    drawn.yaxis.formatter = MercatorTickFormatter(dimension="lat")
    if tiles is not None:
        host = tiles.split("/")[2]
        whose = "OpenStreetMap contributors" if host.endswith("openstreetmap.org") else host
        drawn.add_tile(WMTSTileSource(url=tiles, attribution=f"© {whose}"))
    return drawn


def line(drawn: Any, values: Values, *, label: str, color: str = BLUE, width: int = 2) -> None:
    """A line; where a value is null it is interrupted."""
    x, y = values.x, values.y
    columns = source(values.rows, x, y)
    drawn.line(x, y, source=columns, legend_label=label, color=color, line_width=width)


def band(
    drawn: Any, rows: pl.DataFrame, x: str, y: tuple[str, str], *, label: str, color: str = BLUE
) -> None:
    """The space between two lines: `y` is the column of the lower one and of the upper one."""
    known = rows.drop_nulls(y)
    drawn.varea(
        x, *y, source=source(known, x, *y),
        legend_label=label, fill_color=color, fill_alpha=0.2,
    )  # fmt: skip


def points(
    drawn: Any,
    values: Values,
    *,
    label: str,
    color: str = RED,
    size: int = 8,
    marker: str = "circle",
) -> None:
    """Single values."""
    drawn.scatter(
        values.x, values.y, source=source(values.rows), legend_label=label, color=color, size=size,
        marker=marker, fill_alpha=0.8,
    )  # fmt: skip


def bars(
    drawn: Any,
    values: Values,
    *,
    label: str | None = None,
    color: str = BLUE,
    width: float = 0.8,
    shift: float = 0.0,
) -> None:
    """Bars from zero, moved by `shift` aside others; over time both are in milliseconds."""
    rows, x, y = values.rows, values.x, values.y
    told: dict[str, Any] = {} if label is None else {"legend_label": label}
    names = drawn.x_range if isinstance(drawn.x_range, FactorRange) else None
    at = x if shift == 0 else dodge(x, shift, range=names)
    drawn.vbar(at, top=y, width=width, source=source(rows), color=color, fill_alpha=0.8, **told)
    if rows.height and not (rows[y] < 0).any():
        drawn.y_range.start = 0


def source(rows: pl.DataFrame, *columns: str) -> ColumnDataSource:
    """Columns as the browser gets them: moments as they stand on the clock."""
    chosen = rows.select(columns) if columns else rows
    data: dict[str, Any] = {}
    for name, type_ in chosen.schema.items():
        column = chosen[name]
        if isinstance(type_, pl.Datetime):
            data[name] = column.dt.replace_time_zone(None).dt.cast_time_unit("ms").to_numpy()
        elif type_ == pl.Date:
            data[name] = column.cast(pl.Datetime("ms")).to_numpy()
        elif type_.is_numeric():
            data[name] = column.cast(pl.Float64).fill_null(float("nan")).to_numpy()
        else:
            data[name] = column.cast(pl.String).fill_null("").to_list()
    return ColumnDataSource(data)


def finished(drawn: Any) -> Any:
    """The figure with its legend above the plot, where it covers nothing."""
    if drawn.legend:
        legend = drawn.legend[0]
        drawn.add_layout(legend, "above")
        legend.orientation = "horizontal"
        legend.border_line_color = None
        legend.background_fill_alpha = 0
        legend.label_text_font_size = "12px"
        legend.click_policy = "hide"
        legend.padding = 2
        legend.ncols = 3
    return drawn


def _has_values(renderer: Any) -> bool:
    if not hasattr(renderer, "glyph"):
        return False
    data = renderer.data_source.data
    named = [getattr(renderer.glyph, place, None) for place in _PLACES]
    columns = [np.asarray(data[n]) for n in named if isinstance(n, str) and n in data]
    return all(len(c) and not (c.dtype.kind in "fM" and np.isnan(c).all()) for c in columns)


def _figure(
    y_label: str,
    x_label: str,
    height: int,
    hover: Sequence[tuple[str, str]],
    *,
    zoom: Literal["width", "both"] | None,
    **more: Any,
) -> Any:
    tools: list[Any] = []
    if zoom is not None:
        pan = PanTool(dimensions=zoom)
        tools = [pan, BoxZoomTool(dimensions=zoom), WheelZoomTool(dimensions=zoom), ResetTool()]
    drawn = figure(
        height=height,
        sizing_mode="stretch_width",
        x_axis_label=x_label or None,
        y_axis_label=y_label,
        tools=tools,
        toolbar_location="right" if zoom else None,
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
        **more,
    )
    drawn.toolbar.logo = None
    if hover:
        formats: dict[str, Any] = dict.fromkeys(("@x", "@date_time", "@date", "@day"), "datetime")
        drawn.add_tools(HoverTool(tooltips=list(hover), formatters=formats))
    for axis in (*drawn.xaxis, *drawn.yaxis):
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_color = axis.major_label_text_color = "#374151"
        axis.major_label_text_font_size = axis.axis_label_text_font_size = "12px"
        axis.axis_line_color = axis.major_tick_line_color = "#9ca3af"
        axis.minor_tick_line_color = None
    drawn.yaxis.formatter = NumeralTickFormatter(format="0,0.[00]")
    drawn.grid.grid_line_color = "#e5e7eb"
    drawn.xgrid.visible = zoom is not None
    return drawn
