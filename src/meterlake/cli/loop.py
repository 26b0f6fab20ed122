"""Commands that run sources, once or until they are stopped: stopping, integrating, reporting."""

import itertools
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import FrameType
from typing import TYPE_CHECKING, Any

import typer

from meterlake import terminal
from meterlake.cli.options import told
from meterlake.errors import BadInput, MeterlakeError, plain

if TYPE_CHECKING:
    from meterlake.lake import Lake
    from meterlake.sources.runner import Runner, SourceRun

_SHORTEST_PAUSE = 0.2  # between turns [s]
_LONGEST_PAUSE = 0.5  # between looks whether to stop [s]


class Stopped(BaseException):
    """The command is to end: nothing is wrong."""


class Stop:
    """Ends the command at once when SIGTERM or Ctrl-C asks it to.

    Whatever it does can be cut off at any moment. Where an exception is lost on its way out, the
    next look here raises it again.
    """

    def __init__(self) -> None:
        self.number: int | None = None

    def set(self, number: int, frame: FrameType | None) -> None:
        """Take a signal."""
        self.number = number
        raise Stopped

    def check(self) -> None:
        """End where the command is to end."""
        if self.number is not None:
            raise Stopped

    def pause(self, seconds: float) -> None:
        """Wait; end where the command is to end."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, _LONGEST_PAUSE))
        self.check()


@contextmanager
def stoppable(then: str, *, is_asked: bool) -> Iterator[Stop]:
    """Be stopped by SIGTERM or Ctrl-C; `then` says what is next.

    Parameters
    ----------
    is_asked : whether that is how the command ends, and no error
    """
    stop = Stop()
    before = {n: signal.signal(n, stop.set) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    except Stopped:
        print(f"meterlake: stopped. {then}", file=sys.stderr)
        if not is_asked:
            raise typer.Exit(128 + (stop.number or signal.SIGINT)) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def integrated(here: "Lake", *, quiet: bool) -> dict[str, Any] | None:
    """Integrate what staging has, as meterlake integrate does; what it added.

    None: there was nothing, also of a turn before that was cut off or failed.
    """
    from meterlake.integrate.derivations import cluster, integrate, is_integrated

    with terminal.progress(quiet=quiet) as progress:
        session = replace(here, progress=progress).session
        if is_integrated(session):
            return None
        done = integrate(session)
        if here.settings.cluster_after_integrate:
            cluster(session)
    for failure in done.hook_failures:
        say(failure)
    facts = {k: v for k, v in vars(done).items() if k in ("added", "replaced", "late")}
    return facts if any(facts.values()) else None


@dataclass(frozen=True)
class Report:
    """How a command shows runs: the name of its results, their figures, a line of one run."""

    name: str
    figures: tuple[str, ...]
    line: "Callable[[SourceRun], str]"

    def facts(self, runs: "Iterable[SourceRun]") -> list[dict[str, Any]]:
        """Return the figures of runs, as JSON has them."""
        return [{name: told(getattr(run, name)) for name in self.figures} for run in runs]


@dataclass
class SourceLoop:
    """Runs of some sources, once or turn by turn, and the integration that follows."""

    lake: "Lake"
    runners: "Sequence[Runner]"
    stop: Stop
    report: Report
    integrates: bool
    as_json: bool

    def __post_init__(self) -> None:
        self._said: dict[str, set[str]] = {}

    def once(self) -> None:
        """Run each, again after a failure or where files may be complete then; raise at the end."""
        began = time.perf_counter()
        done: dict[str, SourceRun] = {}
        errors = [error for runner in self.runners if (error := self._run_once(runner, done))]
        waiting = [
            runner
            for runner in self.runners
            if (run := done.get(runner.source.name)) and run.waiting > run.stuck
        ]
        if waiting:
            self.stop.pause(max(runner.source.schedule.settle_seconds for runner in waiting))
            errors += [error for runner in waiting if (error := self._run_once(runner, done))]
        facts = {self.report.name: self.report.facts(done.values())} | self._integrate()
        facts["seconds"] = round(time.perf_counter() - began, 3)
        if not self.as_json:
            terminal.rows(self.report.name, facts.pop(self.report.name), as_json=False)
        terminal.result(facts, as_json=self.as_json)
        for error in errors[:-1]:
            say(str(error))
        if errors:
            raise errors[-1]
        if any(run.stuck for run in done.values()):
            raise typer.Exit(3)
        if any(run.failed for run in done.values()):
            raise typer.Exit(1)

    def until_stopped(self, every: float) -> None:
        """Run each that is due, turn by turn; what fails is said, and tried again in time."""
        is_behind = True  # as a run may be that was cut off before
        while True:
            due = [r for r in self.runners if r.seconds_until_due(every) <= 0]
            failed = [runner for runner in due if not self._run(runner, every)]
            runs = [runner.done for runner in due if runner.done.did_something]
            is_behind = is_behind or bool(failed) or any(run.stored for run in runs)
            facts: dict[str, Any] = {}
            try:
                facts = self._integrate() if is_behind else {}
                is_behind = False
            except MeterlakeError as error:
                self._say_new("", [str(error)])
            self._tell(runs, facts)
            pause = min(runner.seconds_until_due(every) for runner in self.runners)
            self.stop.pause(max(pause, _SHORTEST_PAUSE))

    def _run_once(self, runner: "Runner", done: "dict[str, SourceRun]") -> MeterlakeError | None:
        """Run a source, again where that may help; add up what came in."""
        from meterlake.delta.lock import Taken

        name, attempts = runner.source.name, runner.source.schedule.attempts
        for attempt in itertools.count(1):
            error = self._attempt(runner)
            if error is None or runner.done.did_something:
                done[name] = runner.done.after(done[name]) if name in done else runner.done
            if error is None:
                break
            if isinstance(error, BadInput | Taken) or attempt == attempts:
                return type(error)(plain(f"{name}: {error}", 4_000))
            seconds = runner.seconds_until_due(0)
            words = str(error).rstrip(".")
            say(f"{name}: {words}. Try {attempt + 1} of {attempts} in {seconds:.0f} s")
            self.stop.pause(seconds)
        return None

    def _run(self, runner: "Runner", every: float) -> bool:
        """Run a source in a turn; whether it went well."""
        from meterlake.delta.lock import Taken

        name, error = runner.source.name, self._attempt(runner)
        if isinstance(error, Taken):
            self._say_new(name, ["another process takes its files in"])
        elif error is not None:
            if runner.source.is_exclusive:
                self._said.pop(name, None)  # each failure is said
            seconds, words = runner.seconds_until_due(every), str(error).rstrip(".")
            self._say_new(name, [words], f". Next try in {seconds:.0f} s")
        return error is None

    def _attempt(self, runner: "Runner") -> MeterlakeError | None:
        self.stop.check()
        try:
            with terminal.progress(quiet=self.as_json) as progress:
                runner.session = replace(self.lake, progress=progress).session
                run = runner.run()
        except MeterlakeError as error:
            return error
        self._say_new(run.name, run.problems)
        return None

    def _integrate(self) -> dict[str, Any]:
        """Integrate what came in now, or with a run that was cut off before it did."""
        facts = integrated(self.lake, quiet=self.as_json) if self.integrates else None
        return {} if facts is None else {"integrated": facts}

    def _say_new(self, name: str, problems: "Sequence[str]", then: str = "") -> None:
        """Say what was not said of the run before."""
        new = [problem for problem in problems if problem not in self._said.get(name, ())]
        self._said[name] = set(problems)
        for problem in new:
            say(f"{moment()} {name}: {problem}{then}" if name else f"{moment()} {problem}")

    def _tell(self, runs: "Sequence[SourceRun]", also: dict[str, Any]) -> None:
        if runs and self.as_json:
            facts = {"at": moment(), self.report.name: self.report.facts(runs)}
            print(end="", flush=True)
            terminal.result(facts | also, as_json=True)
        elif runs:
            for run in runs:
                print(f"{moment()} {run.name}: {self.report.line(run)}", flush=True)


def say(text: str) -> None:
    """Tell people, on stderr."""
    print(f"meterlake: {plain(text, 4_000)}", file=sys.stderr, flush=True)


def moment() -> str:
    """The moment, as lines of a turn begin."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
