"""The command line: parses, calls the lake, prints.

With `--output json` a command prints one JSON object on stdout and nothing else there.
Exit codes: 0 done, 1 bad input, 2 usage, 3 unavailable.
"""

import logging
import sys
from typing import Annotated

import typer

from meterlake import __version__
from meterlake.cli import about, ask, change, derive, grid, keys, make, pull, serve, watch
from meterlake.cli import dataflow as flow
from meterlake.cli import forecast as ml
from meterlake.cli import head_end as hes

app = typer.Typer(
    name="meterlake",
    help="An open meter-data lake: files in, one trustworthy table out, questions answered.",
    no_args_is_help=True,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
hes.hes_app.add_typer(pull.commands)
for commands in (
    make.commands,
    change.commands,
    derive.commands,
    watch.commands,
    flow.commands,
    grid.commands,
    ml.commands,
    ask.commands,
    serve.commands,
    hes.commands,
    keys.commands,
    about.commands,
):
    app.add_typer(commands)


@app.callback()
def main(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Set up logging for people: warnings, on stderr."""
    if version:
        print(f"meterlake {__version__}")
        raise typer.Exit
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)


def run() -> None:
    """Entry point of the `meterlake` command."""
    app()
