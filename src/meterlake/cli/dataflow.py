"""Commands of dataflows: data from elsewhere."""

import time
from typing import Annotated

import typer

from meterlake import terminal
from meterlake.cli.options import (
    LakeOption,
    Output,
    OutputOption,
    existing_lake,
    plain_errors,
    show_progress,
    to_time,
    told,
)
from meterlake.settings import load_settings

commands = typer.Typer()
dataflow_app = typer.Typer(
    help="Data from elsewhere: weather, the grid's topology, and your own.", no_args_is_help=True
)
commands.add_typer(dataflow_app, name="dataflow")


@dataflow_app.command("list")
def list_command(output: OutputOption = Output.table) -> None:
    """List the dataflows: what each is for, its tables, source and options.

    Example: meterlake dataflow list
    """
    from meterlake.dataflows.run import list_dataflows

    with plain_errors():
        terminal.rows("dataflows", list_dataflows(load_settings()), output is Output.json)


@dataflow_app.command("run")
def run_command(
    name: Annotated[str, typer.Argument(help="Name of the dataflow.")],
    source: Annotated[
        str | None, typer.Option(metavar="DIR|FILE|URL", help="Where to load from.")
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", help="Start of what to load; default: what is due.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", help="End of it, not included.")] = None,
    at: Annotated[
        str | None, typer.Option("--at", help="Moment from which the state is valid; default: now.")
    ] = None,
    lake: LakeOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Load a dataflow's source; if that fails, the last good data stays in place.

    Example: meterlake dataflow run topology --source ./topology
    """
    from meterlake.lake import open as open_lake

    with plain_errors():
        began = time.perf_counter()
        with show_progress(open_lake(lake), output) as here:
            done = here.run_dataflow(
                name,
                source,
                start=to_time(start, "--from"),
                end=to_time(end, "--to"),
                at=to_time(at, "--at"),
            )
        facts = {k: told(v) for k, v in vars(done).items() if v is not None}
        facts["odd"] = [{"reason": text} for text in done.odd]
        if not done.odd and output is Output.table:
            del facts["odd"]
        facts["seconds"] = round(time.perf_counter() - began, 3)
        terminal.result(facts, output is Output.json)


@dataflow_app.command("status")
def status_command(lake: LakeOption = None, output: OutputOption = Output.table) -> None:
    """Show each dataflow's last run, when it last succeeded, and what has failed since.

    Example: meterlake dataflow status
    """
    from meterlake.dataflows.run import dataflow_status

    with existing_lake(lake) as here:
        listed = [{k: told(v) for k, v in f.items()} for f in dataflow_status(here.store)]
        terminal.rows("dataflows", listed, output is Output.json)
