"""Commands of derived tables: bring them up to date, and say what they are made from."""

import time
from dataclasses import asdict
from typing import Annotated

import typer

from meterlake import terminal
from meterlake.cli.options import (
    EngineOption,
    LakeOption,
    MasterOption,
    Output,
    OutputOption,
    existing_lake,
    show_progress,
    working_lake,
)

commands = typer.Typer()


@commands.command()
def derive(
    tables: Annotated[
        list[str] | None, typer.Argument(metavar="[TABLE...]", help="Default: all that are stale.")
    ] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Rebuild all of their rows.")] = False,
    lake: LakeOption = None,
    engine: EngineOption = None,
    spark_master: MasterOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Update derived tables from the tables that they are made from, one commit each.

    meterlake integrate, cluster, grid update, forecast and detect do the same for the tables
    that come with meterlake; this command also knows those of installed packages.

    Example: meterlake derive consumption_daily
    """
    with working_lake(lake, engine, spark_master) as here:
        began = time.perf_counter()
        with show_progress(here, output) as here:
            units = here.derive(*(tables or ()), rebuild=rebuild)
        facts = {"units": units, "seconds": round(time.perf_counter() - began, 3)}
        terminal.result(facts, output is Output.json)


@commands.command()
def lineage(
    table: Annotated[str | None, typer.Argument(help="A derived table; default: all.")] = None,
    lake: LakeOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Show what each derived table is made from, up to which version, and what is due.

    Example: meterlake lineage consumption_daily
    """
    with existing_lake(lake) as here:
        found = here.lineage(table)
        if output is Output.json:
            terminal.rows("lineage", [asdict(each) for each in found], as_json=True)
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
        terminal.rows("lineage", listed, as_json=False)
