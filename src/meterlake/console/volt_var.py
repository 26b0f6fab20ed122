"""Volt/var: voltage below each distribution transformer, what it saves, and transformers' loads."""

from datetime import date, datetime, timedelta
from typing import Annotated, Any, Literal

import polars as pl
from fastapi import Query, Request, Response

from meterlake.console import charts
from meterlake.console.charts import Chart, Values
from meterlake.console.pages import (
    a_day,
    link,
    local,
    page,
    router,
    shown_days,
    window,
)
from meterlake.console.sign_in import Looks
from meterlake.delta.commit import snapshots
from meterlake.questions.question import Value
from meterlake.schema import TRANSFORMER_LOAD, VOLT_VAR
from meterlake.serve.state import Here, Served

DAYS = 7  # shown unless asked for others
MOST_DAYS = 400
MOST_RANKED = 50  # transformers of a list

RANKS = {  # what transformers are ranked by: its title, its column, whether the largest is first
    "saving": ("energy saving", "saving_kwh", True),
    "voltage": ("mean voltage", "mean_v", True),
    "out_of_band": ("share out of band", "out_of_band_percent", True),
    "lowest": ("lowest voltage", "min_v", False),
}

_KG_OF_LB = 0.45359237
_DAY_MS = 86_400_000


@router.get("/console/volt-var")
def volt_var(
    request: Request,
    here: Here,
    _: Looks,
    first: Annotated[str, Query(alias="from")] = "",
    last: Annotated[str, Query(alias="to")] = "",
    transformer: Annotated[str, Query(max_length=200)] = "",
    rank: Literal["saving", "voltage", "out_of_band", "lowest"] = "saving",
    load: Annotated[str, Query(max_length=200)] = "",
    kind: Literal["service_transformer", "distribution_transformer"] = "service_transformer",
) -> Response:
    """Voltages and savings of a window, one distribution transformer's hours, and loads."""
    there = _there(here)
    if there is None:
        return page(request, here, "volt_var.html", is_empty=True, charts=[])
    days = window(
        a_day(first, "from"), a_day(last, "to"), newest=there[1], days=DAYS, most=MOST_DAYS
    )
    start, end = here.start_of(days[0]), here.end_of(days[1])
    asked: dict[str, Value] = {"from": start, "to": end}
    title, column, descending = RANKS[rank]
    ranking = _ranking(here.ask("volt-var-by-transformer", **asked), column, descending)
    if not transformer and ranking.height:
        transformer = ranking["id"][0]
    hours = here.ask("volt-var", distribution_transformer_id=transformer, **asked)
    loads = here.ask_first("transformer-load-ranking", MOST_RANKED, **asked)
    if not load and loads.rows.height:
        kind, load = loads.rows["kind"][0], loads.rows["id"][0]
    loaded = here.ask("transformer-load", kind=kind, id=load, **asked)
    usual = f"the {DAYS} days up to the newest voltage or load"
    return page(
        request,
        here,
        "volt_var.html",
        is_empty=False,
        first=days[0],
        last=days[1],
        days=shown_days(request, days, usual=usual, there=there, most=MOST_DAYS),
        rank=rank,
        ranks=RANKS,
        ranked_by=title,
        transformer=transformer,
        load=load,
        kind=kind,
        totals=_totals(ranking),
        ranking=ranking.head(MOST_RANKED),
        ranking_more=max(0, ranking.height - MOST_RANKED),
        loads=loads.rows,
        loads_more=loads.after is not None,
        grid=here.settings.grid,
        of_window={"from": days[0].isoformat(), "to": days[1].isoformat()},
        kg_of_lb=_KG_OF_LB,
        has_hours=bool(hours.height),
        has_load=bool(loaded.height),
        charts=[
            *(_of_voltage(here, hours, transformer, start, end) if hours.height else ()),
            *([_load(here, loaded, kind, load, start, end)] if loaded.height else []),
        ],
    )


def _there(here: Served) -> tuple[date, date] | None:
    """First and last day with a voltage or load; None where there is none."""
    states = snapshots(here.store, [VOLT_VAR, TRANSFORMER_LOAD])
    moments = [state.newest for state in states.values() if state.newest is not None]
    if not moments:
        return None
    oldest = min(f.first for state in states.values() for f in state.files if f.first is not None)
    return here.local_day(oldest), here.local_day(max(moments))


def _ranking(transformers: pl.DataFrame, column: str, descending: bool) -> pl.DataFrame:
    return transformers.rename({"distribution_transformer_id": "id"}).sort(
        column, "id", descending=[descending, False], nulls_last=True
    )


def _totals(ranking: pl.DataFrame) -> dict[str, Any]:
    """Of all transformers: sums, and means that are weighted by their reads."""
    reads = pl.col("reads")
    return ranking.select(
        pl.len().alias("transformers"),
        pl.col("hours", "energy_kwh", "saving_kwh", "cost", "carbon_lb").sum(),
        *(
            ((pl.col(name) * reads).sum() / reads.sum()).alias(name)
            for name in ("mean_v", "out_of_band_percent", "reduction_percent")
        ),
        pl.col("min_v").min(),
        pl.col("max_v").max(),
    ).row(0, named=True)


def _of_voltage(
    here: Served, hours: pl.DataFrame, transformer: str, start: datetime, end: datetime
) -> list[Chart]:
    """The charts of a transformer's hours, and of its days."""
    zone, currency = here.settings.timezone, here.settings.serve.currency
    rows = local(_with_gaps(hours), zone)
    days = (
        local(hours, zone)
        .group_by(pl.col("hour").dt.date().alias("day"))
        .agg(pl.col("energy_saving_kwh", "cost_avoided", "carbon_reduction_lb").sum())
        .sort("day")
    )
    all_of_them = link(
        "/volt-var",
        distribution_transformer_id=transformer,
        **{"from": start.isoformat(), "to": end.isoformat()},
    )
    saving = charts.over_time(
        "kWh",
        hover=[("hour", "@hour{%F %H:%M}"), ("saving", "@energy_saving_kwh{0,0.00} kWh")],
    )
    _of_hours(saving, rows, "energy_saving_kwh", charts.GREEN)
    if float(hours["energy_saving_kwh"].min() or 0.0) >= 0:  # type: ignore[arg-type]
        saving.y_range.start = 0
    share = charts.over_time(
        "% of voltages",
        hover=[("hour", "@hour{%F %H:%M}"), ("out of band", "@out_of_band_percent{0.00} %")],
    )
    _of_hours(share, rows, "out_of_band_percent", charts.RED)
    share.y_range.start = 0
    if (hours["out_of_band_percent"].max() or 0) == 0:
        share.y_range.end = 1
    cost = _of_days(days, "cost_avoided", currency)
    carbon = _of_days(days, "carbon_reduction_lb", "lb CO₂")
    return [
        _voltage(here, rows, all_of_them),
        Chart(
            "saving", "Energy saving per hour", saving,
            "Negative above the set point: a loss.", href=all_of_them,
        ),
        Chart(
            "band", "Share of voltages out of band per hour", share,
            "Outside the limits above.", href=all_of_them,
        ),
        Chart(
            "cost", "Cost avoided per local day", cost,
            f"At {here.settings.grid.energy_price_per_kwh:g} {currency} per kWh to the utility.",
            days.select("day", pl.col("cost_avoided").alias(f"cost avoided [{currency}]")),
        ),
        Chart(
            "carbon", "Carbon dioxide not emitted per local day", carbon,
            f"At {here.settings.grid.carbon_lb_per_mwh:g} lb per MWh.",
            days.select("day", pl.col("carbon_reduction_lb").alias("CO₂ [lb]")),
        ),
    ]  # fmt: skip


def _voltage(here: Served, rows: pl.DataFrame, href: str) -> Chart:
    grid = here.settings.grid
    drawn = charts.over_time("V", height=360)
    charts.band(drawn, rows, "hour", ("min_v", "max_v"), label="min to max")
    charts.line(drawn, Values(rows, "hour", "p95_v"), label="p95", color="#7c3f98", width=1)
    charts.line(drawn, Values(rows, "hour", "mean_v"), label="mean")
    low = grid.nominal_voltage_v * (1 - grid.voltage_low_percent / 100)
    high = grid.nominal_voltage_v * (1 + grid.voltage_high_percent / 100)
    for label, level, color, dash in (
        ("limits", low, charts.RED, "solid"),
        ("limits", high, charts.RED, "solid"),
        ("set point", grid.cvr_set_point_v, charts.GREEN, "dashed"),
    ):
        _level(drawn, rows, level, label, color, dash)
    told = (
        "Voltages of the meters below it, per hour. p95: 95 % do not exceed it. Limits: "
        f"{grid.voltage_low_percent:g} % below and {grid.voltage_high_percent:g} % above the "
        f"nominal {grid.nominal_voltage_v:g} V, {low:g} and {high:g} V. Set point: "
        f"{grid.cvr_set_point_v:g} V."
    )
    return Chart("voltage", "Voltage", charts.finished(drawn), told, href=href)


def _load(
    here: Served, loaded: pl.DataFrame, kind: str, name: str, start: datetime, end: datetime
) -> Chart:
    rows = local(_with_gaps(loaded), here.settings.timezone)
    drawn = charts.over_time("kVA", height=320)
    charts.line(drawn, Values(rows, "hour", "load_kva"), label="load")
    rating = loaded["rating_kva"].drop_nulls()
    if rating.len():
        rated = rows.with_columns(pl.col("rating_kva").backward_fill().forward_fill())
        charts.line(drawn, Values(rated, "hour", "rating_kva"), label="rating", color=charts.RED)
    over = rows.filter(pl.col("utilisation_percent") > 100)
    if over.height:
        charts.points(drawn, Values(over, "hour", "load_kva"), label="over the rating", size=7)
    drawn.y_range.start = min(0.0, float(loaded["load_kva"].min() or 0.0))  # type: ignore[arg-type]
    told = "Mean apparent power of each hour, of the meters that have readings."
    href = link(
        "/transformer-load", kind=kind, id=name,
        **{"from": start.isoformat(), "to": end.isoformat()},
    )  # fmt: skip
    return Chart("load", "Load of the transformer", charts.finished(drawn), told, href=href)


def _of_hours(drawn: Any, rows: pl.DataFrame, name: str, color: str) -> None:
    drawn.line("hour", name, source=charts.source(rows, "hour", name), color=color, line_width=2)


def _of_days(days: pl.DataFrame, name: str, unit: str) -> Any:
    drawn = charts.over_time(
        unit, height=240, hover=[("day", "@day{%F}"), (unit, f"@{name}{{0,0.00}}")]
    )
    middle = days.with_columns(pl.col("day").cast(pl.Datetime("ms")).dt.offset_by("12h"))
    charts.bars(drawn, Values(middle, "day", name), width=0.8 * _DAY_MS)
    return drawn


def _level(drawn: Any, rows: pl.DataFrame, level: float, label: str, color: str, dash: str) -> None:
    ends = pl.DataFrame({"t": [rows["hour"].min(), rows["hour"].max()], "v": [level, level]})
    drawn.line(
        "t", "v", source=charts.source(ends), legend_label=label, color=color, line_dash=dash,
        line_width=1.5,
    )  # fmt: skip


def _with_gaps(hours: pl.DataFrame) -> pl.DataFrame:
    """Hours without a row as rows of nulls, so that lines are interrupted there."""
    step = timedelta(hours=1)
    every = pl.select(
        pl.datetime_range(pl.lit(hours["hour"].min()), pl.lit(hours["hour"].max()), step)
    ).to_series()
    return pl.DataFrame({"hour": every.cast(hours.schema["hour"])}).join(
        hours, on="hour", how="left", maintain_order="left"
    )
