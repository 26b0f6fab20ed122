"""A map of the grid: where meters and what feeds them stand, and marks for those that are out."""

from dataclasses import dataclass
from typing import Any

import polars as pl
from bokeh.models import ColumnDataSource, HoverTool, TapTool

from meterlake.console import charts
from meterlake.console.charts import Chart
from meterlake.serve.state import Served
from meterlake.topology.upstream import PARENTS, moment_of_topology, topology_at, upstream_nodes

MANY = 1_000  # meters: their marks are smaller then

_RADIUS_M = 6_378_137.0  # of the sphere of the web's Mercator projection
_MOST_LATITUDE = 85.05  # where its square ends
_MARKS = {  # of nodes, from the top down: marker, size [px], colour
    "substation": ("star", 28, charts.GREEN),
    "distribution_transformer": ("triangle", 13, "#7c3f98"),
    "service_transformer": ("square", 9, charts.ORANGE),
}
_FEEDS = {
    "substation": "distribution_transformer",
    "distribution_transformer": "service_transformer",
    "service_transformer": "",
}


@dataclass(frozen=True)
class Grid:
    """Where things stand, projected: `x`, `y` [m] are null where the topology does not say."""

    meters: pl.DataFrame
    nodes: pl.DataFrame

    @property
    def placed(self) -> pl.DataFrame:
        """The meters that the map has."""
        return self.meters.drop_nulls(["x", "y"])


def grid_of(here: Served) -> Grid | None:
    """The grid as it is now; None before there is a topology."""
    moment = moment_of_topology(here.store)
    if moment is None:
        return None
    tables = topology_at(here.store, moment)
    meters = _projected(upstream_nodes(tables))
    if meters.is_empty():
        return None
    places = tables["location"].select("id", "latitude", "longitude", "address")
    nodes = pl.concat(
        [
            tables[kind]
            .join(places, left_on="location_id", right_on="id", how="left")
            .select(
                pl.lit(kind).alias("kind"),
                "id",
                pl.col("name").cast(pl.String) if kind == "substation" else _no_name(),
                pl.lit(None, pl.Float64).alias("capacity_kva")
                if kind == "substation"
                else pl.col("capacity_kva"),
                pl.lit(None, pl.String).alias("up")
                if kind == "substation"
                else pl.col(next(iter(PARENTS[kind]))).alias("up"),
                "latitude",
                "longitude",
                "address",
            )
            for kind in _MARKS
        ]
    )
    return Grid(meters, _projected(nodes))


def _no_name() -> pl.Expr:
    return pl.lit(None, pl.String).alias("name")


def _projected(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows with `x`, `y` [m] of the web's Mercator projection; null where there is none."""
    latitude, longitude = pl.col("latitude"), pl.col("longitude")
    is_known = latitude.is_between(-_MOST_LATITUDE, _MOST_LATITUDE) & longitude.is_between(
        -180, 180
    )
    up = (latitude.radians() / 2 + 0.7853981633974483).tan().log() * _RADIUS_M
    return rows.with_columns(
        pl.when(is_known).then(longitude.radians() * _RADIUS_M).alias("x"),
        pl.when(is_known).then(up).alias("y"),
    )


def drawn_map(here: Served, grid: Grid) -> Chart | None:
    """The grid, with empty sources `out-meters` and `out-nodes` that the page's script fills."""
    meters, nodes = grid.placed, grid.nodes.drop_nulls(["x", "y"])
    if meters.is_empty():
        return None
    drawn = charts.over_map(tiles=here.settings.serve.map_tiles)
    of_meters = _lines_up(drawn, meters, nodes)
    is_dense = meters.height > MANY
    marked = [_nodes(drawn, nodes, "service_transformer", is_dense)]
    dots = drawn.scatter(
        "x", "y", source=of_meters, legend_label="meter", marker="circle",
        size=3 if is_dense else 5, fill_color=charts.BLUE, line_color=None, fill_alpha=0.75,
        nonselection_fill_alpha=0.75, nonselection_line_color=None,
    )  # fmt: skip
    marked += [_nodes(drawn, nodes, kind) for kind in ("substation", "distribution_transformer")]
    _marks_of_out(drawn, nodes, is_dense)
    marked = [each for each in marked if each is not None]
    shown = [dots, *marked]
    drawn.x_range.renderers = drawn.y_range.renderers = shown
    drawn.add_tools(
        TapTool(renderers=[dots]),
        HoverTool(
            renderers=[dots],
            tooltips=[("meter", "@meter_id"), ("address", "@address"),
                      ("transformer", "@service_transformer_id")],
        ),
        HoverTool(
            renderers=marked,
            tooltips=[("node", "@kind"), ("id", "@id"), ("rating [kVA]", "@capacity_kva{0,0}"),
                      ("address", "@address")],
        ),
    )  # fmt: skip
    words = (
        "The grid as it is now. A meter without supply is a red cross, a node that is out has a "
        "red ring. Click a meter to open it."
    )
    charts.finished(drawn).legend[0].ncols = 2  # names are long on small screens
    return Chart("map", "Map", drawn, words, href="/meters")


def _lines_up(drawn: Any, meters: pl.DataFrame, nodes: pl.DataFrame) -> ColumnDataSource:
    """Draw lines from everything to what feeds it; the meters' source, for their marks."""
    ends = meters.join(
        nodes.filter(pl.col("kind") == "service_transformer").select(
            pl.col("id").alias("service_transformer_id"),
            pl.col("x").alias("to_x"),
            pl.col("y").alias("to_y"),
        ),
        on="service_transformer_id",
        how="left",
        maintain_order="left",
    )
    of_meters = charts.source(
        ends.select("x", "y", "to_x", "to_y", "meter_id", "address", "service_transformer_id")
    )
    of_meters.name = "meters"
    drawn.segment("x", "y", "to_x", "to_y", source=of_meters, color="#9ca3af", line_width=0.7)
    drawn.segment(
        "x",
        "y",
        "to_x",
        "to_y",
        source=charts.source(_ways_up(nodes)),
        color="#9ca3af",
        line_width=0.7,
        line_alpha=0.6,
    )
    return of_meters


def _marks_of_out(drawn: Any, nodes: pl.DataFrame, is_dense: bool) -> None:
    """Draw marks of meters and nodes that are out, of none yet: the page's script fills them."""
    of_nodes = charts.source(nodes.select("x", "y", "kind", "id"))
    of_nodes.name = "nodes"
    # In the level of overlays: to move the slider does not redraw the grid.
    drawn.scatter(
        "x", "y", source=ColumnDataSource({"x": [], "y": []}, name="out-nodes"), marker="circle",
        size=26, fill_color=None, line_color=charts.RED, line_width=3, level="overlay",
    )  # fmt: skip
    drawn.scatter(
        "x", "y", source=ColumnDataSource({"x": [], "y": []}, name="out-meters"),
        legend_label="no supply", marker="circle_x", size=7 if is_dense else 11,
        fill_color=charts.RED, fill_alpha=0.9, line_color="white", level="overlay",
    )  # fmt: skip
    # Not in any chart, for the script alone: where each node of a span stands.
    drawn.scatter("x", "y", source=of_nodes, alpha=0, size=1)


def _nodes(drawn: Any, nodes: pl.DataFrame, kind: str, is_dense: bool = False) -> Any:
    """The marks of a kind of node; None where there is none."""
    marker, size, color = _MARKS[kind]
    name = kind.replace("_", " ")
    some = nodes.filter(pl.col("kind") == kind).select(
        "x", "y", pl.lit(name).alias("kind"), "id", "capacity_kva", "address"
    )
    if some.is_empty():
        return None
    return drawn.scatter(
        "x", "y", source=charts.source(some), legend_label=name, marker=marker,
        size=size / 2 if is_dense else size, fill_color=color,
        line_color=None if is_dense else "white",
    )  # fmt: skip


def _ways_up(nodes: pl.DataFrame) -> pl.DataFrame:
    """The lines from each node to what feeds it."""
    above = nodes.select(
        pl.col("kind").replace(_FEEDS).alias("kind"),
        pl.col("id").alias("up"),
        pl.col("x").alias("to_x"),
        pl.col("y").alias("to_y"),
    )
    return nodes.join(above, on=["kind", "up"], how="inner").select("x", "y", "to_x", "to_y")
