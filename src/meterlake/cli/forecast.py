"""Commands of forecasts and anomalies."""

import time
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meterlake import terminal
from meterlake.cli.options import (
    EngineOption,
    LakeOption,
    MasterOption,
    Output,
    OutputOption,
    RowsOption,
    TableOutput,
    existing_lake,
    show_progress,
    to_date,
    to_time,
    working_lake,
)
from meterlake.errors import BadInput
from meterlake.periods import check_days
from meterlake.schema import ANOMALIES

if TYPE_CHECKING:
    from meterlake.forecast.training import TrainResult

commands = typer.Typer()

UseOption = Annotated[
    str | None, typer.Option("--use", metavar="NAME", help="The model; default: the current one.")
]


@commands.command()
def train(
    window_days: Annotated[
        int | None,
        typer.Option(
            "--window-days",
            min=21,
            help="Days of readings to learn from; default: the setting ml.window_days.",
        ),
    ] = None,
    forecaster: Annotated[
        str | None,
        typer.Option("--forecaster", help="What to train; default: the setting ml.forecaster."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Make it current even if it is worse.")
    ] = False,
    lake: LakeOption = None,
    engine: EngineOption = None,
    spark_master: MasterOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Train a model on the last days of readings; it becomes current unless it is worse.

    Example: meterlake train --window-days 395
    """
    with working_lake(lake, engine, spark_master) as here:
        began = time.perf_counter()
        given = {"window_days": window_days, "forecaster": forecaster}
        ml = here.settings.ml.model_copy(
            update={name: value for name, value in given.items() if value is not None}
        )
        here = replace(here, settings=here.settings.model_copy(update={"ml": ml}))
        with show_progress(here, output) as here:
            done = here.train(force=force)
        facts = {**_training_facts(done), "seconds": round(time.perf_counter() - began, 3)}
        terminal.result(facts, output is Output.json)


def _training_facts(done: "TrainResult") -> dict[str, Any]:
    return {
        "model": done.name,
        "is_current": done.is_current,
        "trained_from": _moment(done.trained_from),
        "trained_until": _moment(done.trained_until),
        "meters": done.meters,
        "rows_learnt_from": done.rows,
        "held_out_weeks": done.held_out_weeks,
        "wql": round(done.scores.wql, 4),
        "nd": round(done.scores.nd, 4),
        "coverage": round(done.scores.coverage, 4),
        "model_before": done.before or "none",
        "compared_on": done.compared_by,
        **{
            name: round(loss, 4)
            for name, loss in (
                ("wql_compared", done.wql_compared),
                ("wql_before", done.wql_before),
            )
            if loss is not None
        },
        "anomaly_band": done.no_band or "yes",
    }


@commands.command()
def models(
    use: Annotated[
        str | None, typer.Option("--use", metavar="NAME", help="Make this model current.")
    ] = None,
    forgotten: Annotated[
        str | None,
        typer.Option("--forget", metavar="NAME", help="Remove this model; vacuum frees its space."),
    ] = None,
    lake: LakeOption = None,
    output: RowsOption = TableOutput.table,
) -> None:
    """List the models, the newest first, make one current, or forget one.

    Example: meterlake models --lake ./lake
    """
    import polars as pl

    from meterlake.forecast.models import choose, forget, listed

    with existing_lake(lake) as here:
        if use is not None:
            choose(here.store, use, now=here.clock())
        if forgotten is not None:
            forget(here.store, forgotten, now=here.clock())
        rows = listed(here.store)
        if rows.is_empty():
            raise BadInput("The lake has no model yet. Train one: meterlake train")
        chosen = pl.col("chosen_at")
        shown = rows.select(
            "name",
            is_current=(chosen == chosen.max()).fill_null(False),
            trained_from="trained_from",
            trained_until="trained_until",
            meters="meters",
            wql=rows["wql"].round(4),
            nd=rows["nd"].round(4),
            coverage=rows["coverage"].round(4),
            created_at="created_at",
        )
        terminal.frame(shown, output)


@commands.command()
def backtest(
    origins: Annotated[
        int,
        typer.Option("--origins", min=1, max=26, help="Number of past weeks to forecast."),
    ] = 4,
    horizon: Annotated[
        int, typer.Option("--horizon", help="Hours ahead; models are made for 168 only.")
    ] = 168,
    lake: LakeOption = None,
    engine: EngineOption = None,
    spark_master: MasterOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Test forecasts on the past: train without the last weeks, then forecast them.

    Example: meterlake backtest --origins 4 --horizon 168
    """
    from meterlake.forecast.features import HORIZON

    with working_lake(lake, engine, spark_master) as here:
        if horizon != HORIZON:
            raise BadInput(f"--horizon needs to be {HORIZON}; found {horizon}")
        began = time.perf_counter()
        with show_progress(here, output) as here:
            done = here.backtest(origins)
        facts: dict[str, Any] = {
            "meters": done.meters,
            "rows_learnt_from": done.rows,
            "wql_by_origin": {
                f"{start:%Y-%m-%dT%H:%M}": round(found.wql, 4) for start, found in done.by_origin
            },
            **{name: _rounded(value) for name, value in asdict(done.all).items()},
            "wql_of_last_week_again": round(done.naive.wql, 4),
            "nd_of_last_week_again": round(done.naive.nd, 4),
            "seconds": round(time.perf_counter() - began, 3),
        }
        terminal.result(facts, output is Output.json)


@commands.command()
def forecast(
    meter: Annotated[str | None, typer.Argument(help="Meter id; none with --all.")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Forecast all meters and nodes into the lake's tables.")
    ] = False,
    start: Annotated[
        str | None, typer.Option("--start", help="First hour; default: after the last reading.")
    ] = None,
    use: UseOption = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="With --all: replace a forecast that is stored.")
    ] = False,
    lake: LakeOption = None,
    engine: EngineOption = None,
    spark_master: MasterOption = None,
    output: RowsOption = TableOutput.table,
) -> None:
    """Forecast a meter's energy for the next 168 hours, or store forecasts of all meters.

    Example: meterlake forecast --all --start 2024-02-01
    """
    with working_lake(lake, engine, spark_master) as here:
        if (meter is None) is not everything:
            found = "both" if everything else "neither"
            raise BadInput(f"meterlake forecast needs a meter id, or --all; found {found}")
        begin = to_time(start, "--start")
        if meter is not None:
            terminal.frame(here.forecast(meter, start=begin, use=use), output)
            return
        if output not in (TableOutput.table, TableOutput.json):
            raise BadInput(f"--all prints a summary: --output table or json; found {output.value}")
        began = time.perf_counter()
        with show_progress(here, output) as here:
            done = here.forecast_all(start=begin, use=use, rebuild=rebuild)
        facts = {**asdict(done), "start": _moment(done.start)}
        facts["seconds"] = round(time.perf_counter() - began, 3)
        terminal.result(facts, output is TableOutput.json)


@commands.command()
def detect(
    use: UseOption = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Judge every day again.")] = False,
    lake: LakeOption = None,
    engine: EngineOption = None,
    spark_master: MasterOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Judge each day whose energy is new or has changed by the days before it.

    Example: meterlake detect --lake ./lake
    """
    with working_lake(lake, engine, spark_master) as here:
        began = time.perf_counter()
        with show_progress(here, output) as here:
            done = here.detect(use=use, rebuild=rebuild)
        facts = {**asdict(done), "seconds": round(time.perf_counter() - began, 3)}
        terminal.result(facts, output is Output.json)


@commands.command()
def anomalies(
    meter: Annotated[str | None, typer.Argument(help="Meter id; default: all.")] = None,
    start: Annotated[
        str | None, typer.Option("--from", help="First local day; default: the first.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", help="End, not included.")] = None,
    limit: Annotated[int, typer.Option(help="Most anomalies to list.")] = 50,
    lake: LakeOption = None,
    output: RowsOption = TableOutput.table,
) -> None:
    """List anomalies that meterlake detect has found, the most important first.

    Example: meterlake anomalies --from 2024-01-01 --to 2024-02-01
    """
    from meterlake.delta.commit import snapshot

    with existing_lake(lake) as here:
        if snapshot(here.store, ANOMALIES).version < 0:
            raise BadInput("The lake has no anomalies yet. Detect them: meterlake detect")
        first, after = to_date(start, "--from"), to_date(end, "--to")
        check_days(first, after)
        last = None if after is None else after - timedelta(days=1)
        found = here.ask("anomalies", meter_id=meter, **{"from": first, "to": last})
        order = ["importance", "meter_id", "ds"]
        found = found.drop("day_start").sort(order, descending=[True, False, False])
        terminal.frame(found.head(max(0, limit)), output)


def _rounded(value: float) -> float:
    return round(value, 4) if isinstance(value, float) else value


def _moment(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
