"""What commands share that go on until they are stopped: stopping, integrating, telling."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import FrameType
from typing import Any

import typer

from meterlake import show
from meterlake.cli.options import JobContext
from meterlake.errors import plain

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


def integrated(context: JobContext, *, quiet: bool) -> dict[str, Any] | None:
    """Integrate what staging has, as meterlake integrate does; what it added.

    None: there was nothing, also of a turn before that was cut off or failed.
    """
    from meterlake.integrate.derivations import cluster, integrate, is_integrated

    with show.progress(quiet=quiet) as progress:
        session = context.session(progress, datetime.now(UTC))
        if is_integrated(session):
            return None
        done = integrate(session)
        if context.settings.cluster_after_integrate:
            cluster(session)
    for failure in done.hook_failures:
        say(failure)
    facts = {k: v for k, v in vars(done).items() if k in ("added", "replaced", "late")}
    return facts if any(facts.values()) else None


def say(text: str) -> None:
    """Tell people, on stderr."""
    print(f"meterlake: {plain(text, 4_000)}", file=sys.stderr, flush=True)


def moment() -> str:
    """The moment, as lines of a turn begin."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
