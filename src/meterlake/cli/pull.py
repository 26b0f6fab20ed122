"""Commands that pull from head-end systems; they stand in the group `hes`."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from meterlake import terminal
from meterlake.cli.loop import Report, SourceLoop, stoppable
from meterlake.cli.options import (
    EngineOption,
    LakeOption,
    MasterOption,
    Output,
    OutputOption,
    plain_errors,
    to_duration,
    told,
    working_lake,
)
from meterlake.errors import BadInput
from meterlake.settings import config_file, load_settings

if TYPE_CHECKING:
    from meterlake.lake import Lake
    from meterlake.sources.port import Means
    from meterlake.sources.runner import Runner, SourceRun

commands = typer.Typer()


@commands.command("pull")
def pull_command(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME...]", help="Integrations; default: all of meterlake.toml."),
    ] = None,
    every: Annotated[
        str | None,
        typer.Option(help="Keep pulling until stopped, every 30s, 15m or 1h."),
    ] = None,
    integrate: Annotated[bool, typer.Option(help="Integrate right away what came in.")] = True,
    lake: LakeOption = None,
    engine: EngineOption = None,
    spark_master: MasterOption = None,
    output: OutputOption = Output.table,
) -> None:
    r"""Pull what has arrived at head-end systems since the last pull: each read once.

    Windows follow the time of arrival, so late reads come too. The next pull resumes what was
    cut off. Integrations are named in meterlake.toml, in sections \[integration.NAME].

    Example: meterlake hes pull --every 15m
    """
    from meterlake.sources.port import Means

    with (
        stoppable("The next pull continues from here", is_asked=every is not None) as stop,
        working_lake(lake, engine, spark_master, may_be_new=True) as here,
    ):
        turn = None if every is None else to_duration(every, "--every").total_seconds()
        means = Means(check=stop.check, pause=stop.pause)
        runners = _runners(here, names or [], means)
        loop = SourceLoop(here, runners, stop, REPORT, integrate, output is Output.json)
        if turn is None:
            loop.once()
        else:
            loop.until_stopped(turn)


@commands.command("status")
def status_command(lake: LakeOption = None, output: OutputOption = Output.table) -> None:
    """Show each integration: idle, running or failed, how far it is, and when it is due.

    Example: meterlake hes status
    """
    from meterlake.delta.store import open_store
    from meterlake.sources.ledger import statuses

    with plain_errors():
        settings = load_settings(lake=lake)
        store, now = open_store(settings.lake), datetime.now(UTC)
        listed = statuses(store, settings, now=now)
        if output is Output.json:
            terminal.rows(
                "integrations",
                [{k: told(v) for k, v in vars(s).items()} for s in listed],
                as_json=True,
            )
            return
        if not listed:
            raise BadInput(_NONE.format(config_file()))
        names = ("name", "state", "cursor", "next_eligible", "failures")
        rows = [{name: _short(getattr(status, name)) for name in names} for status in listed]
        terminal.rows("integrations", rows, as_json=False)
        for status in listed:
            if status.last_error:
                print(f"{status.name}: {status.last_error}")


def _runners(here: "Lake", names: Sequence[str], means: "Means") -> "list[Runner]":
    from meterlake.sources.head_end import HeadEndSource
    from meterlake.sources.runner import Runner

    settings = here.settings
    if not (names or settings.integration):
        raise BadInput(_NONE.format(config_file()))
    return [
        Runner(here.session, HeadEndSource(name, settings, means), means)
        for name in names or settings.integration
    ]


_NONE = (
    "There is no integration in {} to pull from. Name one there, in a section [integration.NAME] "
    "with url, sftp, user, a password_env or password_file, and host_key; meterlake hes serve "
    "writes one for the head-end system that it simulates"
)


def _line(run: "SourceRun") -> str:
    also = f", {run.quarantined:,} quarantined" if run.quarantined else ""
    return f"{run.stored:,} rows{also}, arrivals up to {told(run.cursor)}"


REPORT = Report(
    "pulled", ("name", "windows", "empty", "rows", "stored", "quarantined", "cursor"), _line
)


def _short(value: object) -> object:
    """A moment to the second."""
    return told(value.replace(microsecond=0)) if isinstance(value, datetime) else value
