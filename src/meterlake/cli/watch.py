"""The command that takes in what arrives at sources of files, as it arrives."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from meterlake.cli.loop import Report, SourceLoop, stoppable
from meterlake.cli.options import (
    EngineOption,
    LakeOption,
    MasterOption,
    Output,
    OutputOption,
    to_duration,
    working_lake,
)
from meterlake.errors import BadInput

if TYPE_CHECKING:
    from meterlake.lake import Lake
    from meterlake.sources.port import Means
    from meterlake.sources.runner import Runner, SourceRun

commands = typer.Typer()


@commands.command("watch")
def watch_command(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME...]", help="Sources; default: all of meterlake.toml."),
    ] = None,
    every: Annotated[str, typer.Option(help="Pause between checks: 10s, 5m or 1h.")] = "10s",
    once: Annotated[
        bool, typer.Option("--once", help="Take in what is complete now, then exit: for cron.")
    ] = False,
    integrate: Annotated[bool, typer.Option(help="Integrate right away what came in.")] = True,
    lake: LakeOption = None,
    engine: EngineOption = None,
    spark_master: MasterOption = None,
    output: OutputOption = Output.table,
) -> None:
    r"""Take in what arrives in folders, on SFTP, FTP and web servers, and in S3: each file once.

    Sources are named in meterlake.toml, in sections \[\[source]]. Files that are still being
    written are waited for. It runs until it is stopped.

    Example: meterlake watch --every 30s
    """
    from meterlake.sources.port import Means

    with (
        stoppable("The next watch continues from here", is_asked=not once) as stop,
        working_lake(lake, engine, spark_master, may_be_new=True) as here,
    ):
        pause = to_duration(every, "--every").total_seconds()
        runners = _runners(here, names or [], Means(check=stop.check, pause=stop.pause), pause)
        loop = SourceLoop(here, runners, stop, REPORT, integrate, output is Output.json)
        if once:
            loop.once()
        else:
            loop.until_stopped(pause)


def _runners(here: "Lake", names: Sequence[str], means: "Means", every: float) -> "list[Runner]":
    from meterlake.sources.places import PlaceSource
    from meterlake.sources.runner import Runner

    known = {source.label: source for source in here.settings.source}
    if not known:
        raise BadInput(
            "There is no source to watch. Name one in meterlake.toml, in a section [[source]] "
            'with url, such as url = "./inbox/*.csv.gz"'
        )
    for name in names:
        if name not in known:
            raise BadInput(f"There is no source '{name}' (known: {', '.join(known)})")
    return [
        Runner(here.session, PlaceSource(known[name], means, every), means)
        for name in names or known
    ]


def _line(run: "SourceRun") -> str:
    figures = {name: getattr(run, name) for name in (*_FIGURES, "waiting")}
    return ", ".join(f"{v:,} {n.replace('_', ' ')}" for n, v in figures.items() if v)


_FIGURES = ("taken", "known", "failed", "rows", "stored", "quarantined", "put_away")
REPORT = Report("sources", ("name", "found", *_FIGURES[:2], "waiting", *_FIGURES[2:]), _line)
