"""Commands of the grid: its tables brought up to date, and asked."""

import time
from datetime import datetime, timedelta
from typing import Annotated, Any

import typer

from meterlake import show
from meterlake.cli.options import (
    EngineOption,
    LakeOption,
    MasterOption,
    Output,
    OutputOption,
    RowsOption,
    TableOutput,
    job_context,
    lake_context,
    plain_errors,
    to_moment,
)
from meterlake.errors import BadInput
from meterlake.schema import OUTAGES, TRANSFORMER_LOAD, VOLT_VAR, Table

commands = typer.Typer()

_VOLT_VAR_SHOWN = ("distribution_transformer_id", "hour", "meters", "reads")
_VOLT_VAR_DIGITS = {
    "mean_v": 2,
    "min_v": 1,
    "max_v": 1,
    "p95_v": 1,
    "out_of_band_percent": 2,
    "load_kw": 1,
    "voltage_reduction_percent": 3,
    "energy_saving_kwh": 2,
    "cost_avoided": 2,
    "carbon_reduction_lb": 2,
}


def _must_be_there(store: Any, table: Table) -> Any:
    """The grid's table as it is. Raises BadInput where it has not been worked out yet."""
    from meterlake.delta.commit import snapshot

    state = snapshot(store, table)
    if state.version < 0:
        raise BadInput(f"The lake has no {table.name} yet: meterlake grid update works it out")
    return state


def _window(start: str | None, end: str | None, zone: str) -> dict[str, datetime]:
    """What is asked by --from and --to."""
    return {
        name: to_moment(text, f"--{name}", zone)
        for name, text in (("from", start), ("to", end))
        if text is not None
    }


grid_app = typer.Typer(
    help="Voltage and load of the grid, by the topology and the readings.", no_args_is_help=True
)
commands.add_typer(grid_app, name="grid")

FromOption = Annotated[
    str | None, typer.Option("--from", help="First hour; default: the first that there is.")
]
ToOption = Annotated[str | None, typer.Option("--to", help="End, not included.")]


@grid_app.command()
def update(
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Work out every day anew.")] = False,
    lake: LakeOption = None,
    engine: EngineOption = None,
    spark_master: MasterOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Work out the days whose readings, topology or settings have changed.

    Example: meterlake grid update --lake ./lake
    """
    from meterlake.grid.derivations import GRID, update_grid

    with plain_errors(), job_context(lake, engine, spark_master) as context:
        began = time.perf_counter()
        facts: dict[str, Any] = {}
        with show.progress(quiet=output is Output.json) as progress:
            session = context.session(progress)
            for name, derivation in GRID.items():
                days = update_grid(session, derivation, rebuild=rebuild)
                facts[f"{name.replace('-', '_')}_days"] = days
        facts["seconds"] = round(time.perf_counter() - began, 3)
        show.result(facts, output is Output.json)


@grid_app.command("volt-var")
def volt_var(
    hour: Annotated[
        str | None, typer.Option("--hour", help="The hour; default: the newest that there is.")
    ] = None,
    lake: LakeOption = None,
    output: RowsOption = TableOutput.table,
) -> None:
    """Show each distribution transformer's voltage in an hour, and what it saves.

    Example: meterlake grid volt-var --hour 2024-01-01T18:00Z
    """
    import polars as pl

    with plain_errors(), lake_context(lake) as context:
        newest = _must_be_there(context.store, VOLT_VAR).newest
        if hour is not None:
            newest = to_moment(hour, "--hour", context.settings.timezone)
        start = (newest or context.now).replace(minute=0, second=0, microsecond=0)
        found = context.ask("volt-var", {"from": start, "to": start + timedelta(hours=1)})
        shown = [
            pl.col(name).round(digits, mode="half_away_from_zero")
            for name, digits in _VOLT_VAR_DIGITS.items()
        ]
        show.frame(found.select(*_VOLT_VAR_SHOWN, *shown), output)


@grid_app.command("transformer-load")
def transformer_load(
    start: FromOption = None,
    end: ToOption = None,
    limit: Annotated[int, typer.Option(help="So many, the most loaded ones.")] = 20,
    lake: LakeOption = None,
    output: RowsOption = TableOutput.table,
) -> None:
    """Rank transformers by the hours that they are loaded beyond their rating, and by the highest.

    Example: meterlake grid transformer-load --from 2024-01-01 --to 2024-01-08
    """
    import polars as pl

    with plain_errors(), lake_context(lake) as context:
        _must_be_there(context.store, TRANSFORMER_LOAD)
        window = _window(start, end, context.settings.timezone)
        found = context.ask("transformer-load-ranking", window, max(0, limit))
        rounded = [pl.col(name).round(1) for name in ("highest_percent", "mean_percent")]
        show.frame(found.with_columns(rounded), output)


@grid_app.command()
def outages(
    start: FromOption = None,
    end: ToOption = None,
    meters: Annotated[
        bool, typer.Option("--meters", help="Those of single meters too, not only of nodes.")
    ] = False,
    lake: LakeOption = None,
    output: RowsOption = TableOutput.table,
) -> None:
    """List outages: of transformers and substations, by their start.

    Example: meterlake grid outages --from 2024-01-01 --to 2024-01-08
    """
    import polars as pl

    with plain_errors(), lake_context(lake) as context:
        _must_be_there(context.store, OUTAGES)
        window = _window(start, end, context.settings.timezone)
        found = context.ask("outages", {"include_parts": True, **window})
        show.frame(found.filter(pl.lit(meters) | (pl.col("level") != "meter")), output)


@grid_app.command("indices")
def indices_command(
    start: FromOption = None,
    end: ToOption = None,
    lake: LakeOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Say how reliable supply was: SAIDI, SAIFI, CAIDI and MAIFI as IEEE 1366 defines them.

    Example: meterlake grid indices --from 2024-01-01 --to 2025-01-01
    """
    with plain_errors(), lake_context(lake) as context:
        _must_be_there(context.store, OUTAGES)
        window = _window(start, end, context.settings.timezone)
        found = context.ask("indices", window).row(0, named=True)
        rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in found.items()}
        show.result(rounded, output is Output.json)
