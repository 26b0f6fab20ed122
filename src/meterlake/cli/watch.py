"""The command that takes in what arrives at sources of files, as it arrives."""

import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
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
)
from meterlake.errors import BadInput, MeterlakeError, plain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meterlake.sources.ledger import Looked
    from meterlake.sources.watch import Watched

commands = typer.Typer()

_FIGURES = ("taken", "known", "failed", "rows", "stored", "quarantined", "put_away")


@commands.command("watch")
def watch_command(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME...]", help="Sources; default: all of meterlake.toml."),
    ] = None,
    every: Annotated[str, typer.Option(help="Pause between looks: 10s, 5m or 1h.")] = "10s",
    once: Annotated[
        bool, typer.Option("--once", help="Take in what is complete now, and end: for cron.")
    ] = False,
    integrate: Annotated[
        bool, typer.Option(help="Whether what came in is integrated right away.")
    ] = True,
    lake: LakeOption = None,
    engine: EngineOption = None,
    spark_master: MasterOption = None,
    output: OutputOption = Output.table,
) -> None:
    r"""Take in what arrives in folders, on SFTP, FTP and web servers, and in S3: each file once.

    Sources are named in meterlake.toml, in sections \[\[source]]. Files that are still being
    written are waited for. It goes on until it is stopped.

    Example: meterlake watch --every 30s
    """
    with (
        plain_errors(),
        stoppable("The next watch goes on from here", is_asked=not once) as stop,
        job_context(lake, engine, spark_master, may_be_new=True) as context,
    ):
        pause = to_duration(every, "--every").total_seconds()
        job = _Job(context, _wanted(context, names or [], stop), stop, integrate)
        job.as_json = output is Output.json
        if once:
            job.once()
        else:
            job.until_stopped(pause)


def _wanted(context: JobContext, names: Sequence[str], stop: Stop) -> "list[Watched]":
    from meterlake.sources.ledger import Means
    from meterlake.sources.watch import Watched

    known = {source.label: source for source in context.settings.source}
    if not known:
        raise BadInput(
            "There is no source to watch. Name one in meterlake.toml, in a section [[source]] "
            'with url, such as url = "./inbox/*.csv.gz"'
        )
    for name in names:
        if name not in known:
            raise BadInput(f"There is no source '{name}' (known: {', '.join(known)})")
    means = Means(check=stop.check)
    return [
        Watched(context.store, known[name], context.engine, context.settings, means)
        for name in names or known
    ]


@dataclass
class _Job:
    """Looks at some sources, and what follows them."""

    context: JobContext
    sources: "Sequence[Watched]"
    stop: Stop
    integrates: bool
    as_json: bool = False
    said: dict[str, set[str]] = field(default_factory=dict)

    def once(self) -> None:
        """Look at each, and again where files may be complete by then; the last error ends it."""
        began = time.perf_counter()
        done: dict[str, Looked] = {}
        errors: list[MeterlakeError] = []
        for source in self.sources:
            self._look_once(source, done, errors)
        waits = [s for s in self.sources if (d := done.get(s.told.label)) and d.waiting > d.stuck]
        if waits:
            self.stop.pause(max(source.told.settle_seconds for source in waits))
            for source in waits:
                self._look_once(source, done, errors)
        facts: dict[str, Any] = {"sources": [_facts(looked) for looked in done.values()]}
        facts |= self._integrate()
        facts["seconds"] = round(time.perf_counter() - began, 3)
        if self.as_json:
            show.result(facts, as_json=True)
        else:
            show.rows("sources", facts.pop("sources"), as_json=False)
            show.result(facts, as_json=False)
        for error in errors[:-1]:
            say(str(error))
        if errors:
            raise errors[-1]
        if any(looked.stuck for looked in done.values()):
            raise typer.Exit(3)
        if any(looked.failed for looked in done.values()):
            raise typer.Exit(1)

    def until_stopped(self, pause: float) -> None:
        """Look at each that is due, turn by turn; failures are told and tried again."""
        from meterlake.delta.lock import Taken

        is_behind = True
        while True:
            began = time.monotonic()
            done = []
            for source in self.sources:
                self.stop.check()
                if not source.is_due:
                    continue
                name = source.told.label
                try:
                    with self._progress(source):
                        done.append(source.look())
                    self._say_new(name, done[-1].problems)
                except Taken:
                    continue  # another process takes its files in
                except MeterlakeError as error:
                    is_behind = True  # some may have come in before
                    seconds = source.failed(pause)
                    if self._say_new(name, [str(error)]):
                        say(f"{moment()} {name} is looked at again in {seconds:.0f} s")
            try:
                is_behind = is_behind or any(looked.stored for looked in done)
                facts = self._integrate() if is_behind else {}
                is_behind = False
                self._tell([looked for looked in done if looked.did_something], facts)
            except MeterlakeError as error:
                self._tell([looked for looked in done if looked.did_something], {})
                self._say_new("", [str(error)])
            self.stop.pause(max(0.0, pause - (time.monotonic() - began)))

    def _look_once(
        self, source: "Watched", done: "dict[str, Looked]", errors: list[MeterlakeError]
    ) -> None:
        name = source.told.label
        try:
            with self._progress(source):
                looked = source.look()
        except MeterlakeError as error:
            errors.append(type(error)(plain(f"{name}: {error}", 4_000)))
            return
        self._say_new(name, looked.problems)
        if name in done:
            before = done[name]
            sums = {n: getattr(before, n) + getattr(looked, n) for n in (*_FIGURES, "stuck")}
            looked = replace(looked, **sums)
        done[name] = looked

    @contextmanager
    def _progress(self, source: "Watched") -> "Iterator[None]":
        with show.progress(quiet=self.as_json) as progress:
            source.progress = progress
            yield

    def _integrate(self) -> dict[str, Any]:
        """Integrate what came in now, or with a watch that was cut off before it did."""
        if not self.integrates:
            return {}
        facts = integrated(self.context, quiet=self.as_json)
        return {} if facts is None else {"integrated": facts}

    def _say_new(self, name: str, problems: Sequence[str]) -> bool:
        """Say what was not said of the look before."""
        new = [problem for problem in problems if problem not in self.said.get(name, ())]
        self.said[name] = set(problems)
        for problem in new:
            say(f"{moment()} {name}: {problem}" if name else f"{moment()} {problem}")
        return bool(new)

    def _tell(self, done: "Sequence[Looked]", also: dict[str, Any]) -> None:
        if not done:
            return
        if self.as_json:
            facts = {"at": moment(), "sources": [_facts(looked) for looked in done]}
            print(end="", flush=True)
            show.result(facts | also, as_json=True)
            return
        for looked in done:
            figures = {name: getattr(looked, name) for name in (*_FIGURES, "waiting")}
            words = [f"{v:,} {n.replace('_', ' ')}" for n, v in figures.items() if v]
            print(f"{moment()} {looked.name}: {', '.join(words)}", flush=True)


def _facts(looked: "Looked") -> dict[str, Any]:
    names = ("name", "found", *_FIGURES[:2], "waiting", *_FIGURES[2:])
    return {name: getattr(looked, name) for name in names}
