"""A profile: a few lines of TOML that say how a table's columns are readings.

Which column is the meter, which the time (in what zone, and whether it stamps the start
or the end of the interval), which columns are which reading type, in what unit, with
what multiplier. docs/howto/profiles.md shows one line by line.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self
from zoneinfo import ZoneInfo

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from meterlake.errors import BadInput
from meterlake.formats.lengths import Length, parsed_length
from meterlake.schema import READING_TYPES, TOTAL, LengthSource, Status

# Delivered unit: (the unit it is stored in, factor). Energy of an interval becomes the
# interval's mean power, which takes the interval's length: the factor is per hour.
_POWER_UNITS = {
    "1": ("1", 1.0), "%": ("1", 0.01),
    "A": ("A", 1.0), "mA": ("A", 1e-3), "kA": ("A", 1e3),
    "V": ("V", 1.0), "mV": ("V", 1e-3), "kV": ("V", 1e3),
    "kW": ("kW", 1.0), "W": ("kW", 1e-3), "MW": ("kW", 1e3),
    "kVA": ("kVA", 1.0), "VA": ("kVA", 1e-3), "MVA": ("kVA", 1e3),
    "kvar": ("kvar", 1.0), "var": ("kvar", 1e-3), "Mvar": ("kvar", 1e3),
}  # fmt: skip
_ENERGY_UNITS = {
    "kWh": ("kW", 1.0), "Wh": ("kW", 1e-3), "MWh": ("kW", 1e3),
    "kVAh": ("kVA", 1.0), "VAh": ("kVA", 1e-3),
    "kvarh": ("kvar", 1.0), "varh": ("kvar", 1e-3),
}  # fmt: skip

_ZONE_OFFSET = r"^[+-]\d{2}:\d{2}$"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Value(_Part):
    """A column of values, or in a long table a name in the type column."""

    type: str
    unit: str
    channel: str = Field(TOTAL, pattern=r"^[A-Za-z0-9_.:-]+$")
    multiplier: float = 1.0
    also: tuple[str, ...] = ()  # further spellings of the column's name
    combine: Literal["sum", "first"] | None = None  # columns of one type: added, or alternatives

    @property
    def series(self) -> str:
        """The column of values that it becomes: see formats.port.Parsed."""
        return self.type if self.channel == TOTAL else f"{self.type}/{self.channel}"

    @field_validator("type")
    @classmethod
    def _known_type(cls, value: str) -> str:
        if value not in READING_TYPES:
            raise ValueError(f"is no reading type (known: {', '.join(READING_TYPES)})")
        return value


class Time(_Part):
    """The column that says when, and how to read it."""

    column: str
    format: str | None = None  # strftime; none: ISO 8601 with blank or T
    zone: str | None = None  # IANA name or +HH:MM; none: the lake's zone
    stamps: Literal["start", "end"] = "start"
    end: str | None = None  # the column of the interval's end, written like its start
    order: str | None = None  # a column that gives the order of rows with the same stamp
    doubled_hour: str | None = None  # zone on whose summer-time days an hour is stamped twice

    @field_validator("zone", "doubled_hour")
    @classmethod
    def _known_zone(cls, value: str | None) -> str | None:
        if value is not None and not pl.Series([value]).str.contains(_ZONE_OFFSET)[0]:
            try:
                ZoneInfo(value)
            except (KeyError, ValueError, OSError) as error:
                raise ValueError("is no IANA zone and no offset such as +10:00") from error
        return value


class Long(_Part):
    """Where one row is one reading: the columns of its type and its value."""

    type_column: str
    value_column: str


class Profile(_Part):
    """How to read one kind of table."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    description: str = ""
    recognise: tuple[str, ...] = ()  # columns that tell the format; none: all that it needs
    delimiter: str = Field(",", min_length=1, max_length=1)
    quote: str = Field('"', max_length=1)  # empty: none
    interval_minutes: float | None = Field(None, gt=0)
    interval: str | None = None  # day, month, an ISO 8601 duration, or lake: what the lake says
    interval_column: str | None = None  # lengths such as PT15M, or in minutes
    meter: str
    time: Time
    arrival: Time | None = None
    quality: str | None = None
    status: Mapping[str, Status] = {}  # what quality flags mean; others, and none: raw
    require: Mapping[str, str] = {}  # columns that must have just this value
    values: Mapping[str, Value] = Field(min_length=1)
    not_read: tuple[str, ...] = ()  # texts and numbers that mean "not read"
    long: Long | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name, value in self.values.items():
            stored = READING_TYPES[value.type].unit
            unit, _ = (_POWER_UNITS | _ENERGY_UNITS).get(value.unit, ("", 0.0))
            if unit != stored:
                known = [u for u, (s, _) in (_POWER_UNITS | _ENERGY_UNITS).items() if s == stored]
                raise ValueError(
                    f"column '{name}': {value.type} is stored in {stored} and can be read from "
                    f"{', '.join(known)}, not from '{value.unit}'"
                )
        self._check_combined()
        given = [self.interval, self.interval_minutes, self.interval_column, self.time.end]
        if all(given[:2]) or all(given[2:]):
            raise ValueError(
                "needs at most one of interval and interval_minutes, and of interval_column and "
                "time.end"
            )
        if self.interval not in (None, "lake") and parsed_length(self.interval or "") is None:
            raise ValueError("interval needs day, month, lake or a duration such as PT15M")
        if self.time.end is not None and self.time.stamps == "end":
            raise ValueError("time.end needs stamps at the interval's start")
        if self.time.doubled_hour is not None and self.time.order is None:
            raise ValueError("doubled_hour needs order, the column that tells the two rows apart")
        return self

    def _check_combined(self) -> None:
        """Raise where columns of one type do not say alike how they are combined."""
        if self.long is not None:
            if any(value.combine for value in self.values.values()):
                raise ValueError("combine is for columns; in a long table each row is a reading")
            return
        for type_, names in self.by_series.items():
            ways = {self.values[name].combine for name in names}
            shown = ", ".join(f"'{name}'" for name in names)
            if len(names) == 1 and ways != {None}:
                raise ValueError(f"column {shown}: combine needs a second column of {type_}")
            if len(names) > 1 and (None in ways or len(ways) > 1):
                raise ValueError(
                    f'columns {shown} all give {type_}: say in each combine = "sum" where they '
                    'are added, or combine = "first" where one of them is filled'
                )

    @property
    def by_series(self) -> dict[str, list[str]]:
        """The names in `values` that give each type and channel, in the profile's order."""
        names: dict[str, list[str]] = {}
        for name, value in self.values.items():
            names.setdefault(value.series, []).append(name)
        return names

    @property
    def length(self) -> Length | None:
        """Length of the intervals; None: the file says it, or the lake, or nobody."""
        if self.interval_minutes is not None:
            return round(self.interval_minutes * 60)
        return None if self.interval in (None, "lake") else parsed_length(self.interval)

    @property
    def length_source(self) -> LengthSource:
        """What says how long the intervals are: the file, the profile, or neither of them."""
        if self.interval_column is not None or self.time.end is not None:
            return "file"
        return "unknown" if self.length is None else "profile"

    @property
    def has_energy(self) -> bool:
        """Whether a column is energy of intervals, which becomes mean power."""
        return any(value.unit in _ENERGY_UNITS for value in self.values.values())

    @property
    def needed(self) -> dict[str, tuple[str, ...]]:
        """Each column that a file must have, with its further spellings."""
        names: dict[str, tuple[str, ...]] = {self.time.column: ()}
        if self.arrival is not None:
            names[self.arrival.column] = ()
        names |= {n: () for n in (self.time.end, self.interval_column) if n is not None}
        names[self.meter] = ()
        names |= dict.fromkeys(self.require, ())
        if self.long is not None:
            names |= {self.long.type_column: (), self.long.value_column: ()}
        else:
            names |= {name: value.also for name, value in self.values.items()}
        return names

    @property
    def optional(self) -> tuple[str, ...]:
        """Columns that are used where a file has them."""
        return tuple(c for c in (self.quality, self.time.order) if c is not None)


def factor_of(value: Value) -> tuple[float, bool]:
    """What a delivered number is multiplied by, and whether it is the energy of its interval.

    Energy becomes mean power: it is to be divided by the interval's length [h] too.
    """
    of_energy = value.unit in _ENERGY_UNITS
    units = _ENERGY_UNITS if of_energy else _POWER_UNITS
    return value.multiplier * units[value.unit][1], of_energy


def read_profile(text: str, *, origin: str) -> Profile:
    """Read a profile's TOML.

    Raises
    ------
    BadInput
        It is not TOML, or says something that a profile cannot say.
    """
    try:
        return Profile.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"Profile {origin} needs to be TOML: {error}") from error
    except ValidationError as error:
        # A key that is not known comes first: it is often the misspelt one that is missing.
        first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
        where = "".join(f"{part}: " for part in first["loc"])
        words = first["msg"].removeprefix("Value error, ").replace("Extra inputs are", "is")
        raise BadInput(f"Profile {origin}: {where}{words} (see docs/howto/profiles.md)") from error


def read_profile_file(path: Path) -> Profile:
    """Read a profile from a file. Raises BadInput where there is none."""
    try:
        return read_profile(path.read_text(encoding="utf-8"), origin=f"'{path}'")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"Profile '{path}' cannot be read: {error}") from error
