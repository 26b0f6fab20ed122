"""Commands of derived tables: bring them up to date, and say what they are made from."""

import time
from dataclasses import asdict
from typing import Annotated

import typer

from meterlake import show
from meterlake.cli.options import (
    EngineOption,
    LakeOption,
    MasterOption,
    Output,
    OutputOption,
    job_context,
    plain_errors,
)

commands = typer.Typer()


@commands.command()
def derive(
    tables: Annotated[
        list[str] | None, typer.Argument(metavar="[TABLE...]", help="Default: all that are stale.")
    ] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Make everything in them anew.")
    ] = False,
    lake: LakeOption = None,
    engine: EngineOption = None,
    spark_master: MasterOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Bring derived tables up to the tables that they are made from, one commit each.

    meterlake integrate, cluster, grid update, forecast and detect do the same for the tables
    that come with meterlake; this command also knows those of installed packages.

    Example: meterlake derive consumption_daily
    """
    from meterlake.pipeline.lineage import lineage
    from meterlake.pipeline.registry import named_derivation
    from meterlake.pipeline.runner import bring_up

    with plain_errors(), job_context(lake, engine, spark_master) as context:
        began = time.perf_counter()
        units: dict[str, int] = {}
        with show.progress(quiet=output is Output.json) as progress:
            session = context.session(progress)
            names = tables or [
                found.table for found in lineage(session) if found.state != "unavailable"
            ]
            for derivation in [named_derivation(name) for name in names]:
                plan = bring_up(session, derivation, rebuild=rebuild).plan
                units[derivation.name] = len(plan.units)
        facts = {"units": units, "seconds": round(time.perf_counter() - began, 3)}
        show.result(facts, output is Output.json)


@commands.command()
def lineage(
    table: Annotated[str | None, typer.Argument(help="A derived table; default: all.")] = None,
    lake: LakeOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Show what derived tables are made from, which versions they are up to, and what is due.

    Example: meterlake lineage consumption_daily
    """
    from meterlake.engine.progress import silent
    from meterlake.pipeline.lineage import lineage as found_of

    with plain_errors(), job_context(lake, None, None) as context:
        found = found_of(context.session(silent), table)
        if output is Output.json:
            show.rows("lineage", [asdict(each) for each in found], as_json=True)
            return
        listed = [
            {
                "table": each.table,
                "made from": source.table,
                "consumed": "" if source.consumed < 0 else source.consumed,
                "version": "" if source.version < 0 else source.version,
                "state": each.state,
                "due": each.due,
            }
            for each in found
            for source in each.sources
        ]
        show.rows("lineage", listed, as_json=False)
