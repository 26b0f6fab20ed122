"""Commands that change the lake, or say whether it is whole."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meterlake import terminal
from meterlake.cli.options import (
    EngineOption,
    LakeOption,
    MasterOption,
    Output,
    OutputOption,
    existing_lake,
    plain_errors,
    show_progress,
    to_duration,
    working_lake,
)
from meterlake.errors import MeterlakeError, Unavailable

if TYPE_CHECKING:
    from meterlake.ingest.intake import Ingested

commands = typer.Typer()


@commands.command()
def ingest(
    locations: Annotated[
        list[str], typer.Argument(metavar="FILE|DIR|URL...", help="What was delivered.")
    ],
    profile: Annotated[
        str | None, typer.Option(help="Format's name or profile file; default: recognised.")
    ] = None,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Refuse files whose times contradict the interval's length."),
    ] = False,
    again: Annotated[
        bool,
        typer.Option("--again", help="Read known files once more, in place of what they were."),
    ] = False,
    lake: LakeOption = None,
    engine: EngineOption = None,
    spark_master: MasterOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Take delivered files into staging: each once, each completely or not at all.

    Example: meterlake ingest inbox/ --lake ./lake
    """
    import polars as pl

    with working_lake(lake, engine, spark_master, may_be_new=True) as here:
        began = time.perf_counter()
        with show_progress(here, output) as here:
            done = here.ingest(*locations, profile=profile, strict=strict, again=again)
        facts: dict[str, Any] = {
            "files": done.files,
            "rows": done.rows,
            "stored": done.stored,
            "quarantined": done.quarantined,
            "readings": done.readings,
            "already_ingested": done.already_ingested,
            "failed": [{"file": f.file, "reason": f.reason} for f in done.failures],
            "seconds": round(time.perf_counter() - began, 3),
        }
        accounts = _accounts(done)
        if output is Output.json:
            terminal.result({**facts, "balance": accounts}, as_json=True)
        else:
            terminal.result(facts, as_json=False)
            if len(accounts) > 1:
                shown = ("file", "rows", "stored", "quarantined", "readings")
                terminal.frame(pl.DataFrame(accounts).select(shown), "table")
            _say_lengths(done)
        if done.unread:
            _say_unread(done)
            raise typer.Exit(1)
        if done.failures:
            raise typer.Exit(1 if all(f.is_bad for f in done.failures) else 3)


@commands.command()
def withdraw(
    file: Annotated[
        str, typer.Argument(metavar="FILE|SHA256", help="A delivered file's name, or its hash.")
    ],
    reason: Annotated[str | None, typer.Option(help="Why, for the record.")] = None,
    lake: LakeOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Take a delivered file back: its reads count no more, and integrate answers without them.

    Its rows stay in staging, and the file in inbound/. Ingest it again to have it back.

    Example: meterlake withdraw export.csv --reason "wrong unit"
    """
    with existing_lake(lake) as here:
        gone = here.withdraw(Path(file).name, reason=reason)
    told = [{"file": r.source_file, "sha256": r.source_sha256} for r in gone]
    facts = {"withdrawn": told, "readings": sum(r.readings for r in gone)}
    terminal.result(facts, output is Output.json)
    if gone:
        typer.echo("Now run: meterlake integrate", err=True)


def _accounts(done: "Ingested") -> list[dict[str, Any]]:
    """What became of each file that was not known before."""
    return [
        {
            "file": b.file,
            "rows": b.rows,
            "stored": b.stored,
            "quarantined": b.quarantined,
            "readings": b.readings,
            "interval_seconds": b.interval_seconds,
            "length_source": b.length_source,
            "contradiction": b.contradiction,
        }
        for b in done.balance
        if not b.already_ingested
    ]


def _say_unread(done: "Ingested") -> None:
    for balance in done.unread:
        typer.echo(
            f"meterlake: {balance.file}: not one row could be read. The commonest reason: "
            f"{balance.rejected_because}. Correct the profile and ingest it again",
            err=True,
        )


def _say_lengths(done: "Ingested") -> None:
    """Say of files with inferred or contradicting lengths what that means."""
    for balance in done.balance:
        if balance.contradiction:
            typer.echo(
                f"meterlake: {balance.file}: {balance.contradiction}. Correct interval_minutes in "
                "its profile or in the settings",
                err=True,
            )
        elif balance.length_source == "inferred" and balance.interval_seconds is not None:
            typer.echo(
                f"meterlake: {balance.file}: intervals of {balance.interval_seconds / 60:g} min, "
                "inferred from its times: no day of it is called complete. If that is right, set "
                "interval_minutes in its profile or in the settings",
                err=True,
            )


@commands.command()
def integrate(
    lake: LakeOption = None,
    engine: EngineOption = None,
    spark_master: MasterOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Integrate what staging has received, then update the tables that are derived from it.

    The second step is what meterlake cluster does; it is skipped where the setting
    cluster_after_integrate is false.

    Example: meterlake integrate --lake ./lake
    """
    with working_lake(lake, engine, spark_master) as here:
        began = time.perf_counter()
        failures: list[MeterlakeError] = []
        with show_progress(here, output) as here:
            done = here.integrate()
            facts = {name: value for name, value in vars(done).items() if name != "hook_failures"}
            if done.hook_failures:
                facts["hook_failures"] = done.hook_failures
                failures.append(Unavailable(" ".join(done.hook_failures)))
            if here.settings.cluster_after_integrate:
                try:
                    facts["clustered"] = vars(here.cluster())
                except MeterlakeError as error:  # what is integrated stays so, and is told first
                    failures.append(error)
        facts["seconds"] = round(time.perf_counter() - began, 3)
        terminal.result(facts, output is Output.json)
        if failures:
            raise failures[-1]


@commands.command()
def cluster(
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Rebuild all of it from the integrated table.")
    ] = False,
    lake: LakeOption = None,
    engine: EngineOption = None,
    spark_master: MasterOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Update the tables that serve questions: readings by meter, energy per day, week and month.

    It takes closed days, and days that have received late reads since.
    meterlake integrate does the same at its end.

    Example: meterlake cluster --lake ./lake
    """
    with working_lake(lake, engine, spark_master) as here:
        began = time.perf_counter()
        with show_progress(here, output) as here:
            done = here.cluster(rebuild=rebuild)
        terminal.result(
            {**vars(done), "seconds": round(time.perf_counter() - began, 3)},
            output is Output.json,
        )


@commands.command()
def check(
    repair: Annotated[
        bool, typer.Option("--repair", help="Rebuild what is damaged from its sources.")
    ] = False,
    lake: LakeOption = None,
    engine: EngineOption = None,
    spark_master: MasterOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Verify the whole lake: logs, files, rows, order, keys, and integrated against staging.

    The exit code is 1 if a finding is not repaired.

    Example: meterlake check --repair
    """
    with working_lake(lake, engine, spark_master) as here:
        began = time.perf_counter()
        with show_progress(here, output) as here:
            done = here.check(repair=repair)
        terminal.result(
            {
                "files": done.files,
                "rows": done.rows,
                "repaired": [vars(f) for f in done.repaired],
                "findings": [vars(f) for f in done.findings],
                "seconds": round(time.perf_counter() - began, 3),
            },
            output is Output.json,
        )
        if done.findings:
            raise typer.Exit(1)


@commands.command()
def upgrade(lake: LakeOption = None, output: OutputOption = Output.table) -> None:
    """Upgrade a lake of an older version to the format of this one.

    It can be stopped at any time and run again. Replaced files stay until a vacuum.

    Example: meterlake upgrade --lake ./lake
    """
    from meterlake.delta.store import existing_store
    from meterlake.pipeline.upgrade import upgrade as run
    from meterlake.settings import load_settings

    with plain_errors():
        began = time.perf_counter()
        settings = load_settings(lake=lake)
        store = existing_store(settings.lake)
        with terminal.progress(quiet=output is Output.json) as progress:
            done = run(store, now=datetime.now(UTC), settings=settings, progress=progress)
        facts = {**vars(done), "seconds": round(time.perf_counter() - began, 3)}
        terminal.result(facts, output is Output.json)


@commands.command()
def vacuum(
    retain: Annotated[
        str, typer.Option(help="Keep files needed within the last 7d, 12h or 30m.")
    ] = "7d",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would go.")] = False,
    nobody_else: Annotated[
        bool,
        typer.Option("--nobody-else", help="Allow less than 1h; nothing else may be running."),
    ] = False,
    lake: LakeOption = None,
    engine: EngineOption = None,
    spark_master: MasterOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Remove files that no version within the retention needs: superseded ones and orphans.

    Example: meterlake vacuum --retain 7d --dry-run
    """
    with working_lake(lake, engine, spark_master) as here:
        began = time.perf_counter()
        with show_progress(here, output) as here:
            done = here.vacuum(
                retain=to_duration(retain, "--retain", may_be_zero=True),
                dry_run=dry_run,
                nobody_else=nobody_else,
            )
        facts = {**vars(done), "dry_run": dry_run}
        terminal.result(
            {**facts, "seconds": round(time.perf_counter() - began, 3)}, output is Output.json
        )
