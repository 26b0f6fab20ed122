"""What to simulate: how many meters, how often, from when to when, and how much goes wrong.

Everything is counted in whole steps of `interval_minutes` on a grid that midnight UTC is part of:
the period, the file windows and the readings all begin on it.
"""

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from meterlake.errors import BadInput
from meterlake.simulate.chance import MINUTES_PER_DAY

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MINUTE = timedelta(minutes=1)


def minute_of(instant: datetime) -> int:
    """Return the whole minutes from 1970-01-01 00:00 UTC to an aware instant, rounded down."""
    return (instant - _EPOCH) // _MINUTE


def instant_of(minute: int) -> datetime:
    """Return the instant, in UTC, that is `minute` minutes after 1970-01-01 00:00 UTC."""
    return _EPOCH + minute * _MINUTE


@dataclass(frozen=True, kw_only=True)
class ReadingsPlan:
    """What to simulate.

    Parameters
    ----------
    devices : int
        Number of meters.
    interval_minutes : int
        From one reading of a meter to its next [min]; a divisor of a day.
    start, end : datetime, aware
        First reading; the instant before which the last one lies. Whole intervals since midnight
        UTC. The simulated region keeps UTC as its clock, all year.
    file_every : timedelta
        How much time of arrival one file covers; whole intervals.
    region_voltage_v : float
        Nominal voltage [V].
    min_load_kw, max_load_kw : float
        The range of the contract load that a meter's power stays within [kW].
    late_percent : float
        Share of the meters whose every reading arrives late [%].
    late_minutes : int
        How much later [min].
    bad_percent : float
        Share of the rows that are damaged [%].
    seed : int
        The same plan gives the same bytes; another seed, another fleet.
    meters : pairs of str
        Meter and service transformer of each device, of a topology; empty: meters of our own,
        six to a transformer.

    Raises
    ------
    BadInput
        A value that the above does not allow.
    """

    devices: int
    interval_minutes: int
    start: datetime
    end: datetime
    file_every: timedelta = timedelta(days=1)
    region_voltage_v: float = 220.0
    min_load_kw: float = 5.0
    max_load_kw: float = 20.0
    late_percent: float = 0.0
    late_minutes: int = 1440
    bad_percent: float = 0.0
    seed: int = 1
    meters: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot be simulated."""
        if self.devices < 1:
            raise BadInput(
                f"A simulation needs at least one meter, found devices={self.devices}: "
                "set devices to 1 or more"
            )
        if self.meters and len(self.meters) != self.devices:
            raise BadInput(
                "A simulation needs a topology of as many meters as it has devices, found "
                f"{len(self.meters):,} and devices={self.devices}: set devices to that number"
            )
        if self.interval_minutes < 1 or MINUTES_PER_DAY % self.interval_minutes:
            raise BadInput(
                "A simulation needs an interval that divides a day of 1440 minutes, found "
                f"interval_minutes={self.interval_minutes}: set one like 5, 15, 30 or 60"
            )
        self._check_times()
        self._check_numbers()

    def _check_times(self) -> None:
        for name, instant in (("start", self.start), ("end", self.end)):
            if instant.utcoffset() is None:
                raise BadInput(
                    f"A simulation needs {name} with a time zone, found '{instant}': "
                    "give it in UTC, like 2024-01-01T00:00:00Z"
                )
            if (instant - _EPOCH) % timedelta(minutes=self.interval_minutes):
                raise BadInput(
                    f"A simulation needs {name} on a whole interval of {self.interval_minutes} "
                    f"minutes counted from midnight UTC, found '{instant}': move it to one"
                )
        if self.end <= self.start:
            raise BadInput(
                f"A simulation needs an end after its start, found start '{self.start}' and end "
                f"'{self.end}': the end is the first instant that is not simulated, move it later"
            )
        interval = timedelta(minutes=self.interval_minutes)
        if self.file_every < interval or self.file_every % interval:
            raise BadInput(
                f"A simulation needs files of whole intervals of {self.interval_minutes} minutes, "
                f"found file_every={self.file_every}: set it to a multiple of the interval"
            )

    def _check_numbers(self) -> None:
        if not 0 < self.min_load_kw <= self.max_load_kw < math.inf:
            raise BadInput(
                "A simulation needs a range of contract load above 0 kW, found "
                f"min_load_kw={self.min_load_kw} and max_load_kw={self.max_load_kw}: "
                "set the smaller one first, both positive"
            )
        if not 0 < self.region_voltage_v < math.inf:
            raise BadInput(
                "A simulation needs a voltage above 0 V, found "
                f"region_voltage_v={self.region_voltage_v}: set the nominal one, like 220 or 230"
            )
        for name, percent in (
            ("late_percent", self.late_percent),
            ("bad_percent", self.bad_percent),
        ):
            if not 0 <= percent <= 100:
                raise BadInput(
                    f"A simulation needs a share from 0 to 100 %, found {name}={percent}: "
                    "10 means one in ten"
                )
        if self.late_minutes < 0:
            raise BadInput(
                "A simulation needs a delay of 0 minutes or more, found "
                f"late_minutes={self.late_minutes}: readings do not arrive before they are taken"
            )
        if self.seed < 0:
            raise BadInput(
                f"A simulation needs a seed of 0 or more, found seed={self.seed}: drop the sign"
            )

    @property
    def start_minute(self) -> int:
        """The start, in minutes since 1970-01-01 00:00 UTC."""
        return minute_of(self.start)

    @property
    def end_minute(self) -> int:
        """The end, in minutes since 1970-01-01 00:00 UTC."""
        return minute_of(self.end)

    @property
    def steps(self) -> int:
        """How many readings each meter takes."""
        return (self.end_minute - self.start_minute) // self.interval_minutes
