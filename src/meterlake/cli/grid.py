"""Commands of the grid: its tables brought up to date, and asked."""

import time
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


def _must_be_there(store: Any, table: Table) -> None:
    """Raise BadInput where the grid's table has not been worked out yet."""
    from meterlake.delta.commit import snapshot

    if snapshot(store, table).version < 0:
        raise BadInput(f"The lake has no {table.name} yet: meterlake grid update works it out")


def _window(after: str, start: str | None, before: str, end: str | None, zone: str) -> list[str]:
    """SQL conditions of what is asked by --from and --to."""
    return [
        f"{condition} TIMESTAMPTZ '{to_moment(text, flag, zone).isoformat()}'"
        for condition, text, flag in ((after, start, "--from"), (before, end, "--to"))
        if text is not None
    ]


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
    from meterlake.questions.sql import query

    with plain_errors(), lake_context(lake) as context:
        _must_be_there(context.store, VOLT_VAR)
        wanted = "(SELECT max(hour) FROM volt_var)"
        if hour is not None:
            moment = to_moment(hour, "--hour", context.settings.timezone)
            wanted = f"date_trunc('hour', TIMESTAMPTZ '{moment.isoformat()}')"
        show.frame(
            query(
                context.store,
                "SELECT distribution_transformer_id, hour, meters, reads, "
                "round(mean_v, 2) AS mean_v, round(min_v, 1) AS min_v, round(max_v, 1) AS max_v, "
                "round(p95_v, 1) AS p95_v, round(out_of_band_percent, 2) AS out_of_band_percent, "
                "round(load_kw, 1) AS load_kw, "
                "round(voltage_reduction_percent, 3) AS voltage_reduction_percent, "
                "round(energy_saving_kwh, 2) AS energy_saving_kwh, "
                "round(cost_avoided, 2) AS cost_avoided, "
                "round(carbon_reduction_lb, 2) AS carbon_reduction_lb "
                f"FROM volt_var WHERE hour = {wanted} ORDER BY distribution_transformer_id",
            ),
            output,
        )


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

    from meterlake.questions.listings import LISTINGS, listed

    with plain_errors(), lake_context(lake) as context:
        _must_be_there(context.store, TRANSFORMER_LOAD)
        zone = context.settings.timezone
        asked = {
            name: to_moment(text, f"--{name}", zone)
            for name, text in (("from", start), ("to", end))
            if text is not None
        }
        listing = LISTINGS["transformer-load-ranking"]
        found = listed(context.store, listing, asked, limit=max(0, limit)).rows
        rounded = [pl.col(name).round(1) for name in ("highest_percent", "mean_percent")]
        show.frame(found.select(c.name for c in listing.columns).with_columns(rounded), output)


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
    from meterlake.questions.sql import query

    with plain_errors(), lake_context(lake) as context:
        _must_be_there(context.store, OUTAGES)
        zone = context.settings.timezone
        window = _window('"end" >', start, "start <", end, zone)
        window += ["true"] if meters else ["level <> 'meter'"]
        show.frame(
            query(
                context.store,
                'SELECT level, id, start, "end", minutes, is_ongoing, evidence, meters, '
                "customer_minutes, part_of "
                f"FROM outages WHERE {' AND '.join(window)} ORDER BY start, level, id",
            ),
            output,
        )


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
    from meterlake.grid.indices import indices
    from meterlake.questions.sql import query

    with plain_errors(), lake_context(lake) as context:
        _must_be_there(context.store, OUTAGES)
        zone = context.settings.timezone
        window = ["true", *_window("start >=", start, "start <", end, zone)]
        found = query(context.store, f"SELECT * FROM outages WHERE {' AND '.join(window)}")
        customers = query(context.store, "SELECT count(*) FROM meter_topology").item()
        worked_out = indices(
            found, customers, momentary_minutes=context.settings.grid.momentary_minutes
        )
        rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in worked_out.items()}
        show.result(rounded, output is Output.json)
