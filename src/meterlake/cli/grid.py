"""Commands of the grid: its tables brought up to date, and asked."""

import time
from datetime import datetime, timedelta
from typing import Annotated, Any

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
    to_moment,
    to_time,
    working_lake,
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
        raise BadInput(f"The lake has no {table.name} yet. Compute it: meterlake grid update")
    return state


def _window(start: str | None, end: str | None) -> dict[str, datetime | None]:
    """What is asked by --from and --to."""
    return {"from": to_time(start, "--from"), "to": to_time(end, "--to")}


grid_app = typer.Typer(
    help="Voltage and load of the grid, by the topology and the readings.", no_args_is_help=True
)
commands.add_typer(grid_app, name="grid")

FromOption = Annotated[
    str | None, typer.Option("--from", help="First hour; default: the first one.")
]
ToOption = Annotated[str | None, typer.Option("--to", help="End, not included.")]


@grid_app.command()
def update(
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Recompute every day.")] = False,
    lake: LakeOption = None,
    engine: EngineOption = None,
    spark_master: MasterOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Recompute the days whose readings, topology or settings have changed.

    Example: meterlake grid update --lake ./lake
    """
    with working_lake(lake, engine, spark_master) as here:
        began = time.perf_counter()
        with show_progress(here, output) as here:
            done = here.update_grid(rebuild=rebuild)
        facts: dict[str, Any] = {f"{name}_days": days for name, days in done.items()}
        facts["seconds"] = round(time.perf_counter() - began, 3)
        terminal.result(facts, output is Output.json)


@grid_app.command("volt-var")
def volt_var(
    hour: Annotated[
        str | None, typer.Option("--hour", help="The hour; default: the newest one.")
    ] = None,
    lake: LakeOption = None,
    output: RowsOption = TableOutput.table,
) -> None:
    """Show each distribution transformer's voltage in an hour, and the energy it saves.

    Example: meterlake grid volt-var --hour 2024-01-01T18:00Z
    """
    import polars as pl

    with existing_lake(lake) as here:
        newest = _must_be_there(here.store, VOLT_VAR).newest
        if hour is not None:
            newest = to_moment(hour, "--hour", here.settings.timezone)
        start = (newest or here.clock()).replace(minute=0, second=0, microsecond=0)
        found = here.ask("volt-var", **{"from": start, "to": start + timedelta(hours=1)})
        shown = [
            pl.col(name).round(digits, mode="half_away_from_zero")
            for name, digits in _VOLT_VAR_DIGITS.items()
        ]
        terminal.frame(found.select(*_VOLT_VAR_SHOWN, *shown), output)


@grid_app.command("transformer-load")
def transformer_load(
    start: FromOption = None,
    end: ToOption = None,
    limit: Annotated[int, typer.Option(help="Most transformers to list.")] = 20,
    lake: LakeOption = None,
    output: RowsOption = TableOutput.table,
) -> None:
    """Rank transformers by hours loaded beyond their rating, then by highest load.

    Example: meterlake grid transformer-load --from 2024-01-01 --to 2024-01-08
    """
    import polars as pl

    with existing_lake(lake) as here:
        _must_be_there(here.store, TRANSFORMER_LOAD)
        found = here.ask("transformer-load-ranking", max(0, limit), **_window(start, end))
        rounded = [pl.col(name).round(1) for name in ("highest_percent", "mean_percent")]
        terminal.frame(found.with_columns(rounded), output)


@grid_app.command()
def outages(
    start: FromOption = None,
    end: ToOption = None,
    meters: Annotated[
        bool, typer.Option("--meters", help="Include outages of single meters.")
    ] = False,
    lake: LakeOption = None,
    output: RowsOption = TableOutput.table,
) -> None:
    """List outages of transformers and substations, by start.

    Example: meterlake grid outages --from 2024-01-01 --to 2024-01-08
    """
    import polars as pl

    with existing_lake(lake) as here:
        _must_be_there(here.store, OUTAGES)
        found = here.ask("outages", include_parts=True, **_window(start, end))
        terminal.frame(found.filter(pl.lit(meters) | (pl.col("level") != "meter")), output)


@grid_app.command("indices")
def indices_command(
    start: FromOption = None,
    end: ToOption = None,
    lake: LakeOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Show how reliable supply was: SAIDI, SAIFI, CAIDI and MAIFI as IEEE 1366 defines them.

    Example: meterlake grid indices --from 2024-01-01 --to 2025-01-01
    """
    with existing_lake(lake) as here:
        _must_be_there(here.store, OUTAGES)
        found = here.ask("indices", **_window(start, end)).row(0, named=True)
        rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in found.items()}
        terminal.result(rounded, output is Output.json)
