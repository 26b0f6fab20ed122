"""What a head-end is to be, and how that becomes its plan and its clock."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from meterlake.errors import BadInput
from meterlake.simulate.head_end.clock import Clock, running_from
from meterlake.simulate.head_end.store import ReadingState, ReadStore
from meterlake.simulate.plan import ReadingsPlan, instant_of, minute_of

_OPTIONS = {
    "devices": "devices",
    "every (minutes)": "interval_minutes",
    "late": "late_percent",
    "late-minutes": "late_minutes",
    "seed": "seed",
    "start": "start",
}


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a head-end is to be.

    Parameters
    ----------
    devices, interval_minutes, late_percent, late_minutes, seed
        As a `ReadingsPlan` has them.
    start : datetime or None
        The first read; None: `backfill` before the clock's first moment.
    backfill : timedelta
        How much time is read at once at the first start.
    speed : float
        How much faster than the machine's clock the head-end's runs.
    keep : timedelta
        How long finished files are kept, by the head-end's clock.
    """

    devices: int = 10_000
    interval_minutes: int = 15
    late_percent: float = 10.0
    late_minutes: int = 1440
    seed: int = 1
    start: datetime | None = None
    backfill: timedelta = timedelta(days=30)
    speed: float = 1.0
    keep: timedelta = timedelta(days=7)


def take_up(
    store: ReadStore, wanted: Wanted, machine: Clock
) -> tuple[ReadingsPlan, ReadingState, Clock]:
    """The plan, how far it is done, and the clock; started where there is none."""
    stored = store.plan()
    now = machine()
    if stored is not None:
        plan, state = stored
        _check_same(plan, plan_of(wanted, plan.start), start_given=wanted.start is not None)
        at = max(now, state.clock) if wanted.speed == 1 else state.clock
        return plan, state, running_from(at, speed=wanted.speed, machine=machine)
    try:
        at = now if wanted.start is None or wanted.speed == 1 else wanted.start + wanted.backfill
        plan = plan_of(wanted, at - wanted.backfill)
    except OverflowError as error:
        raise BadInput("--backfill needs to stay within the years 1 to 9999") from error
    if plan.start > at:
        raise BadInput(f"--start needs to lie before now, {at.isoformat()}; found {plan.start}")
    return plan, store.begin(plan, at), running_from(at, speed=wanted.speed, machine=machine)


def plan_of(wanted: Wanted, usual_start: datetime) -> ReadingsPlan:
    """The plan of what is wanted; its start is brought down to a whole step."""
    step = wanted.interval_minutes
    if step < 1:
        raise BadInput(f"--every needs a minute at least; found {step} minutes")
    minute = minute_of(usual_start if wanted.start is None else wanted.start) // step * step
    return ReadingsPlan(
        devices=wanted.devices,
        interval_minutes=step,
        start=instant_of(minute),
        end=instant_of(minute + step),
        late_percent=wanted.late_percent,
        late_minutes=wanted.late_minutes,
        seed=wanted.seed,
    )


def _check_same(stored: ReadingsPlan, wanted: ReadingsPlan, *, start_given: bool) -> None:
    """Refuse to continue with a plan other than the one that was taken on. Raises BadInput."""
    for name, field in _OPTIONS.items():
        was, now = getattr(stored, field), getattr(wanted, field)
        if was != now and (name != "start" or start_given):
            raise BadInput(
                f"The folder holds reads that were made with --{name} {was}; found {now}. Give "
                "the same, or another --folder"
            )
