"""Commands that pull from head-end systems; they stand in the group `hes`."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from meterlake import show
from meterlake.cli.options import (
    EngineOption,
    JobContext,
    LakeOption,
    MasterOption,
    Output,
    OutputOption,
    job_context,
    plain_errors,
    to_duration,
    told,
)
from meterlake.cli.turns import Stop, integrated, moment, say, stoppable
from meterlake.errors import BadInput, MeterlakeError, Unavailable
from meterlake.settings import load_settings

commands = typer.Typer()


@commands.command("pull")
def pull_command(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME...]", help="Integrations; default: all of meterlake.toml."),
    ] = None,
    every: Annotated[
        str | None,
        typer.Option(help="Go on until stopped, with a turn every 1m, 15m or 1h."),
    ] = None,
    integrate: Annotated[
        bool, typer.Option(help="Whether what came in is integrated right away.")
    ] = True,
    lake: LakeOption = None,
    engine: EngineOption = None,
    spark_master: MasterOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Take in what has arrived at head-end systems since the last time: each read once.

    Windows follow the time of arrival, so late reads come too. What is cut off goes on with the
    next pull. Integrations are named in meterlake.toml, in sections [integration.NAME].

    Example: meterlake hes pull --every 15m
    """
    with (
        plain_errors(),
        stoppable("The next pull goes on from here") as stop,
        job_context(lake, engine, spark_master, may_be_new=True) as context,
    ):
        turn = None if every is None else to_duration(every, "--every").total_seconds()
        wanted = _wanted(context, names or [])
        job = _Job(context, wanted, stop, integrate, output is Output.json)
        if turn is None:
            job.once()
        else:
            job.until_stopped(turn)


@commands.command("status")
def status_command(lake: LakeOption = None, output: OutputOption = Output.table) -> None:
    """Show each integration: idle, running or failed, how far it is, and when it is due.

    Example: meterlake hes status
    """
    from meterlake.jobs.integrations import statuses
    from meterlake.lake.store import open_store

    with plain_errors():
        settings = load_settings(lake=lake)
        store, now = open_store(settings.lake), datetime.now(UTC)
        listed = [
            {k: told(v) for k, v in vars(status).items()}
            for status in statuses(store, settings, now=now)
        ]
        show.rows("integrations", listed, output is Output.json)


def _wanted(context: JobContext, names: Sequence[str]) -> list[str]:
    from meterlake.jobs.integrations import named_integration

    for name in names:
        named_integration(context.settings, name)
    found = list(names) or list(context.settings.integration)
    if not found:
        raise BadInput(
            "There is no integration to pull from. Name one in meterlake.toml, in a section "
            "[integration.NAME] with url, sftp, user, a password_env or password_file, and "
            "host_key; meterlake hes serve prints one for the head-end system that it simulates"
        )
    return found


@dataclass
class _Job:
    """Pulls from some integrations, and what follows them."""

    context: JobContext
    names: Sequence[str]
    stop: Stop
    integrates: bool
    as_json: bool

    def once(self) -> None:
        """Pull from each, trying again what fails for a while; the last error ends it."""
        from meterlake.jobs.integrations import pause_of

        began, done = time.perf_counter(), []
        failures: list[MeterlakeError] = []
        for name in self.names:
            attempts = self.context.settings.integration[name].attempts
            for attempt in range(1, attempts + 1):
                try:
                    done.append(self._pull(name))
                    break
                except Unavailable as error:
                    if attempt == attempts or _is_elsewhere(error):
                        failures.append(type(error)(f"{name}: {error}"))
                        break
                    seconds = pause_of(self.context.store, name, now=datetime.now(UTC))
                    say(f"{name}: {error} Try {attempt + 1} of {attempts} in {seconds:.0f} s")
                    self.stop.pause(seconds)
                except MeterlakeError as error:
                    failures.append(type(error)(f"{name}: {error}"))
                    break
        facts: dict[str, Any] = {"pulled": [_facts(pulled) for pulled in done]}
        integrated = self._integrate(any(pulled.stored for pulled in done))
        if integrated is not None:
            facts["integrated"] = integrated
        facts["seconds"] = round(time.perf_counter() - began, 3)
        self._show(facts)
        for failure in failures[:-1]:
            say(str(failure))
        if failures:
            raise failures[-1]

    def until_stopped(self, turn: float) -> None:
        """Pull from each that is due, turn by turn; failures are told and tried again."""
        from meterlake.jobs.integrations import is_due

        while True:
            began = time.monotonic()
            pulled = []
            for name in self.names:
                self.stop.check()
                try:
                    if is_due(self.context.store, name, now=datetime.now(UTC)):
                        pulled.append(self._pull(name))
                except MeterlakeError as error:
                    say(f"{moment()} {name}: {error}")
            brought = [done for done in pulled if done.windows]
            try:
                integrated = self._integrate(any(done.stored for done in brought))
                if brought:
                    self._tell(brought, integrated)
            except MeterlakeError as error:
                say(f"{moment()} {error}")
            self.stop.pause(max(0.0, turn - (time.monotonic() - began)))

    def _pull(self, name: str) -> Any:
        from meterlake.jobs.pull import Means, pull

        with show.progress(quiet=self.as_json) as progress:
            return pull(
                self.context.store,
                name,
                engine=self.context.engine,
                settings=self.context.settings,
                means=Means(pause=self.stop.pause, check=self.stop.check),
                progress=progress,
            )

    def _integrate(self, is_wanted: bool) -> dict[str, Any] | None:
        if not (is_wanted and self.integrates):
            return None
        return integrated(self.context, quiet=self.as_json)

    def _show(self, facts: dict[str, Any]) -> None:
        if self.as_json:
            show.result(facts, as_json=True)
            return
        show.rows("integrations", facts["pulled"], as_json=False)
        if "integrated" in facts:
            show.result(facts["integrated"] | {"seconds": facts["seconds"]}, as_json=False)

    def _tell(self, brought: Sequence[Any], integrated: dict[str, Any] | None) -> None:
        if self.as_json:
            facts = {"at": moment(), "pulled": [_facts(done) for done in brought]}
            show.result(facts | ({"integrated": integrated} if integrated else {}), as_json=True)
            return
        for done in brought:
            also = f", {done.quarantined:,} quarantined" if done.quarantined else ""
            print(
                f"{moment()} {done.name}: {done.stored:,} rows{also}, arrivals up to "
                f"{told(done.cursor)}",
                flush=True,
            )


def _facts(done: Any) -> dict[str, Any]:
    return {k: told(v) for k, v in vars(done).items()}


def _is_elsewhere(error: Unavailable) -> bool:
    from meterlake.lake.claims import Taken

    return isinstance(error, Taken)
