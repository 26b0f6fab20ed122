"""SQL: an editor, whose query the page's script asks by POST /sql, and the tables to ask.

The page itself never runs a query: it only puts `?sql=` into the editor. A query is run by a
request of the page's own script, which a page of another site cannot send (see Guard in app.py),
and at once only where the browser says that people typed or pasted the address themselves. A
link of another site shows its query, and it waits there for Run.
"""

import math
from typing import Annotated, Any

import polars as pl
from bokeh.embed import json_item
from fastapi import Depends, Query, Request, Response

from meterlake.console import charts
from meterlake.console.charts import Values
from meterlake.console.pages import page, router
from meterlake.console.sign_in import looks
from meterlake.questions import catalog
from meterlake.schema import known_tables
from meterlake.serve.access import needs
from meterlake.serve.sandbox import MOST_CHARACTERS
from meterlake.serve.state import Here

ROWS = (100, 1_000, 10_000)  # of an answer, to choose from; and the setting's most

EXAMPLES = {
    "Energy per day": (
        "SELECT date, sum(energy_kwh) AS energy_kwh\nFROM consumption_daily\n"
        "WHERE reading_type = 'kw'\nGROUP BY date\nORDER BY date"
    ),
    "Who takes most": (
        "SELECT meter_id, round(sum(energy_kwh), 1) AS energy_kwh\nFROM consumption_daily\n"
        "WHERE reading_type = 'kw'\nGROUP BY meter_id\nORDER BY energy_kwh DESC\nLIMIT 20"
    ),
    "Power of the last day": (
        "SELECT reading_date_time, sum(reading_value) AS power_kw, count(*) AS meters\n"
        "FROM readings\nWHERE reading_type = 'kw'\n"
        "    AND reading_date_time >= (SELECT max(start) FROM consumption_daily)\n"
        "GROUP BY reading_date_time\nORDER BY reading_date_time"
    ),
    "Anomalous days": (
        "SELECT ds, count(*) FILTER (anomaly <> 0) AS anomalies, count(*) AS judged\n"
        "FROM anomalies\nGROUP BY ds\nORDER BY ds"
    ),
    "Outages and their places": (
        'SELECT o.level, o.id, o.start, o."end", o.minutes, o.meters,\n'
        "    round(avg(m.latitude), 4) AS latitude, round(avg(m.longitude), 4) AS longitude\n"
        "FROM outages AS o\nJOIN meter_topology AS m ON o.id IN (m.service_transformer_id,\n"
        "    m.distribution_transformer_id, m.substation_id)\n"
        "WHERE o.level <> 'meter'\nGROUP BY ALL\nORDER BY o.start DESC\nLIMIT 100"
    ),
    "Voltages": (
        "SELECT hour, avg(mean_v) AS mean_v, min(min_v) AS min_v, max(max_v) AS max_v\n"
        "FROM volt_var\nGROUP BY hour\nORDER BY hour"
    ),
    "Reasons of the quarantine": (
        "SELECT split_part(reason, ':', 1) AS reason, count(*) AS rows\nFROM quarantine\n"
        "GROUP BY ALL\nORDER BY rows DESC\nLIMIT 20"
    ),
    "Readings by type": "SELECT reading_type, count(*) AS readings\nFROM readings\nGROUP BY ALL",
}


@router.get("/console/sql", dependencies=[Depends(looks), Depends(needs("sql"))])
def sql(
    request: Request,
    here: Here,
    sql: Annotated[str, Query(max_length=MOST_CHARACTERS)] = "",
) -> Response:
    """The editor with a query, and what can be asked."""
    tables = [
        {**table, "columns": catalog.describe(table["table"])}
        for table in catalog.tables(here.store)
    ]
    drawings = {"time": _over_time(), "names": _over_names()}
    return page(
        request,
        here,
        "sql.html",
        sql=sql,
        runs=bool(sql.strip()) and request.headers.get("sec-fetch-site") == "none",
        examples=EXAMPLES,
        tables=tables,
        has_rows=any(table["rows"] for table in tables),
        choices=[n for n in ROWS if n < here.settings.serve.sql_rows],
        most_rows=here.settings.serve.sql_rows,
        seconds=here.settings.serve.sql_seconds,
        units=_units(),
        drawings={name: dict(json_item(drawn)) for name, drawn in drawings.items()},
        charts=list(drawings),
    )


def _units() -> dict[str, str]:
    """The unit of each column's name, where all tables that have such a column agree on it."""
    found: dict[str, set[str]] = {}
    for table in known_tables().values():
        for column in table.columns:
            found.setdefault(column.name, set()).add(column.unit)
    return {
        name: unit
        for name, units in found.items()
        for unit in units
        if len(units) == 1 and unit not in ("", "UTC")
    }


def _over_time() -> Any:
    """A figure with lines that the script fills."""
    drawn = charts.over_time(" ", x_label="UTC")
    some = pl.DataFrame({"x": [0.0, 1.0], "y": [0.0, 1.0]})  # a figure needs a range to begin with
    for number, color in enumerate(charts.PALETTE):
        charts.line(drawn, Values(some, "x", "y"), label=str(number), color=color)
        renderer = drawn.renderers[-1]
        renderer.name, renderer.data_source.name = f"time-line-{number}", f"time-{number}"
    charts.finished(drawn)
    drawn.legend[0].name, drawn.yaxis[0].name = "time-legend", "time-axis"
    drawn.x_range.only_visible = drawn.y_range.only_visible = True
    return drawn


def _over_names() -> Any:
    """A figure with bars that the script fills."""
    drawn = charts.over_names((" ",), " ")
    charts.bars(drawn, Values(pl.DataFrame({"x": [" "], "y": [1.0]}), "x", "y"))
    drawn.y_range.start = math.nan  # what comes may be below zero
    drawn.renderers[-1].data_source.name = "names"
    drawn.x_range.name, drawn.yaxis[0].name, drawn.xaxis[0].name = (
        "names-range", "names-axis", "names-labels",
    )  # fmt: skip
    return drawn
