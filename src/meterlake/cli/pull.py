"""Commands that pull from head-end systems; they stand in the group `hes`."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meterlake import show
from meterlake.cli.loop import Stop, integrated, moment, say, stoppable
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
from meterlake.errors import BadInput, MeterlakeError, Unavailable
from meterlake.settings import config_file, load_settings

if TYPE_CHECKING:
    from meterlake.sources.pull import Pulled

commands = typer.Typer()

_SHORTEST_PAUSE = 0.2  # between turns [s]
_BEHIND = timedelta(hours=1)  # a head-end system that is further is told of


@commands.command("pull")
def pull_command(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME...]", help="Integrations; default: all of meterlake.toml."),
    ] = None,
    every: Annotated[
        str | None,
        typer.Option(help="Go on until stopped, with a turn every 30s, 15m or 1h."),
    ] = None,
    integrate: Annotated[
        bool, typer.Option(help="Whether what came in is integrated right away.")
    ] = True,
    lake: LakeOption = None,
    engine: EngineOption = None,
    spark_master: MasterOption = None,
    output: OutputOption = Output.table,
) -> None:
    r"""Take in what has arrived at head-end systems since the last time: each read once.

    Windows follow the time of arrival, so late reads come too. What is cut off goes on with the
    next pull. Integrations are named in meterlake.toml, in sections \[integration.NAME].

    Example: meterlake hes pull --every 15m
    """
    with (
        plain_errors(),
        stoppable("The next pull goes on from here", is_asked=every is not None) as stop,
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
    from meterlake.delta.store import open_store
    from meterlake.sources.integrations import statuses

    with plain_errors():
        settings = load_settings(lake=lake)
        store, now = open_store(settings.lake), datetime.now(UTC)
        listed = statuses(store, settings, now=now)
        if output is Output.json:
            show.rows("integrations", [_facts(status) for status in listed], as_json=True)
            return
        if not listed:
            raise BadInput(_NONE.format(config_file()))
        names = ("name", "state", "cursor", "next_eligible", "failures")
        rows = [{name: _short(getattr(status, name)) for name in names} for status in listed]
        show.rows("integrations", rows, as_json=False)
        for status in listed:
            if status.last_error:
                print(f"{status.name}: {status.last_error}")


def _wanted(context: JobContext, names: Sequence[str]) -> list[str]:
    from meterlake.sources.integrations import named_integration

    for name in names:
        named_integration(context.settings, name)
    found = list(names) or list(context.settings.integration)
    if not found:
        raise BadInput(_NONE.format(config_file()))
    return found


_NONE = (
    "There is no integration in {} to pull from. Name one there, in a section [integration.NAME] "
    "with url, sftp, user, a password_env or password_file, and host_key; meterlake hes serve "
    "writes one for the head-end system that it simulates"
)


@dataclass
class _Job:
    """Pulls from some integrations, and what follows them."""

    context: JobContext
    names: Sequence[str]
    stop: Stop
    integrates: bool
    as_json: bool
    brought: "list[Pulled]" = field(default_factory=list)

    def once(self) -> None:
        """Pull from each, trying again what fails for a while; the last error ends it."""
        from meterlake.delta.lock import Taken
        from meterlake.sources.integrations import pause_of

        began = time.perf_counter()
        failures: list[MeterlakeError] = []
        for name in self.names:
            attempts = self.context.settings.integration[name].attempts
            for attempt in range(1, attempts + 1):
                try:
                    self._pull(name)
                    break
                except MeterlakeError as error:
                    is_final = isinstance(error, BadInput | Taken) or attempt == attempts
                    if is_final:
                        failures.append(type(error)(f"{name}: {error}"))
                        break
                    seconds = pause_of(self.context.store, name, now=datetime.now(UTC))
                    words = str(error).rstrip(".")
                    say(f"{name}: {words}. Try {attempt + 1} of {attempts} in {seconds:.0f} s")
                    self.stop.pause(seconds)
        facts: dict[str, Any] = {"pulled": [_facts(done) for done in self._sums()]}
        integrated = self._integrate()
        if integrated is not None:
            facts["integrated"] = integrated
        facts["seconds"] = round(time.perf_counter() - began, 3)
        self._show(facts)
        for failure in failures[:-1]:
            say(str(failure))
        if failures:
            raise failures[-1]

    def until_stopped(self, turn: float) -> None:
        """Pull from each that is due, turn by turn; failures are told, and tried again in time."""
        from meterlake.delta.lock import Taken

        last: dict[str, float] = {}
        while True:
            self.brought.clear()
            for name in self.names:
                if self._seconds_until_due(name, last, turn) > 0:
                    continue
                last[name] = time.monotonic()
                try:
                    self._pull(name)
                except Taken:
                    say(f"{moment()} {name}: another process pulls from it")
                except MeterlakeError as error:
                    words, seconds = str(error).rstrip("."), self._seconds_until_due(name, last, 0)
                    say(f"{moment()} {name}: {words}. Next try in {seconds:.0f} s")
            try:
                integrated = self._integrate()
                self._tell(integrated)
            except MeterlakeError as error:
                self._tell(None)
                say(f"{moment()} {error}")
            pause = min(self._seconds_until_due(name, last, turn) for name in self.names)
            self.stop.pause(max(pause, _SHORTEST_PAUSE))

    def _seconds_until_due(self, name: str, last: dict[str, float], turn: float) -> float:
        """When a failed one may be tried again; of others, when both turn and interval say so."""
        from meterlake.sources.integrations import has_failed, pause_of

        try:
            seconds = pause_of(self.context.store, name, now=datetime.now(UTC))
            if has_failed(self.context.store, name):
                return seconds
        except Unavailable:  # the lake is away; the pull will say so
            seconds = 0.0
        if name not in last:
            return seconds
        return max(seconds, last[name] + turn - time.monotonic())

    def _pull(self, name: str) -> None:
        from meterlake.sources.pull import Means, pull

        with show.progress(quiet=self.as_json) as progress:
            done = pull(
                self.context.store,
                name,
                engine=self.context.engine,
                settings=self.context.settings,
                means=Means(
                    pause=self.stop.pause, check=self.stop.check, brought=self.brought.append
                ),
                progress=progress,
            )
        if not done.windows:
            self.brought.append(done)
        if done.head_end_now and done.cursor and done.head_end_now - done.cursor > _BEHIND:
            say(
                f"{name}: its reads are complete up to {_short(done.cursor)} only, and there it is "
                f"{_short(done.head_end_now)}: it still reads. Pull again for the rest"
            )

    def _sums(self) -> "list[Pulled]":
        """What was brought, by integration, also by pulls that failed then."""
        sums: dict[str, Pulled] = {}
        for done in self.brought:
            sums[done.name] = sums[done.name].plus(done) if done.name in sums else done
        return list(sums.values())

    def _integrate(self) -> dict[str, Any] | None:
        return integrated(self.context, quiet=self.as_json) if self.integrates else None

    def _show(self, facts: dict[str, Any]) -> None:
        if self.as_json:
            show.result(facts, as_json=True)
            return
        if facts["pulled"]:
            show.rows("integrations", facts["pulled"], as_json=False)
        if "integrated" in facts:
            show.result(facts["integrated"] | {"seconds": facts["seconds"]}, as_json=False)

    def _tell(self, integrated: dict[str, Any] | None) -> None:
        brought = [done for done in self._sums() if done.windows]
        if not brought:
            return
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
    return {k: told(v) for k, v in vars(done).items() if k != "head_end_now"}


def _short(value: object) -> object:
    """A moment to the second."""
    return told(value.replace(microsecond=0)) if isinstance(value, datetime) else value
