"""A profile: a few lines of TOML that say how a table's columns are readings.

Which column is the meter, which the time (in what zone, and whether it stamps the start
or the end of the interval), which columns are which reading type, in what unit, with
what multiplier. docs/howto/profiles.md shows one line by line.
"""

import tomllib
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Literal, Self
from zoneinfo import ZoneInfo

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from meterlake.errors import BadInput
from meterlake.schema import READING_TYPES

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
    multiplier: float = 1.0
    also: tuple[str, ...] = ()  # further spellings of the column's name

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
    meter: str
    time: Time
    arrival: Time | None = None
    quality: str | None = None
    require: Mapping[str, str] = {}  # columns that must have just this value
    values: Mapping[str, Value] = Field(min_length=1)
    not_read: tuple[str, ...] = ()  # texts that mean "not read", besides the empty one
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
            if value.unit in _ENERGY_UNITS and self.interval_minutes is None:
                raise ValueError(f"column '{name}' is energy: interval_minutes is needed")
        types = [value.type for value in self.values.values()]
        if self.long is None and len(set(types)) < len(types):
            raise ValueError("two columns give the same reading type")
        if self.time.stamps == "end" and self.interval_minutes is None:
            raise ValueError("a stamp at the interval's end needs interval_minutes")
        if self.time.doubled_hour is not None and self.time.order is None:
            raise ValueError("doubled_hour needs order, the column that tells the two rows apart")
        return self

    @property
    def interval(self) -> timedelta:
        """Length of the interval that a stamp stands for; zero where it does not matter."""
        return timedelta(minutes=self.interval_minutes or 0)

    @property
    def needed(self) -> dict[str, tuple[str, ...]]:
        """Each column that a file must have, with its further spellings."""
        names: dict[str, tuple[str, ...]] = {self.time.column: ()}
        if self.arrival is not None:
            names[self.arrival.column] = ()
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

    def factor(self, value: Value) -> float:
        """What a delivered number is multiplied by to be stored in the type's unit."""
        if value.unit in _ENERGY_UNITS:
            hours = self.interval / timedelta(hours=1)
            return value.multiplier * _ENERGY_UNITS[value.unit][1] / hours
        return value.multiplier * _POWER_UNITS[value.unit][1]


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
