"""What a dataflow is: a name, its tables, and a function that loads their rows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, field_validator

from meterlake.delta.store import Store
from meterlake.schema import Table


class Options(BaseModel):
    """What can be set for a dataflow, in `[dataflow.NAME]` of meterlake.toml.

    A dataflow with more options derives its own class from this one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str | None = Field(None, description="Where to load from: a folder, a file or a URL")


class HistoryOptions(Options):
    """The options of a dataflow that loads a window of time."""

    since: datetime = Field(
        datetime(2020, 1, 1, tzinfo=UTC), description="From when on the first run loads; UTC"
    )
    reload_days: float = Field(
        30.0, ge=0, description="Days before the newest row that a run loads again [d]"
    )

    @field_validator("since")
    @classmethod
    def _in_utc(cls, value: datetime) -> datetime:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


@dataclass(frozen=True)
class Request:
    """What a run is to load.

    `start` and `end` are a half-open window, of a dataflow that keeps rows; of one that keeps
    states both are the moment of the state. `zone` is the lake's, of times that say none.
    """

    source: str
    options: Options
    start: datetime
    end: datetime
    zone: str
    store: Store


@dataclass(frozen=True)
class Loaded:
    """What a source had: rows of tables, by the tables' names, and `odd`, warnings for people.

    The rows have the table's columns but for valid_from and valid_to; those that are missing
    become null.
    """

    tables: Mapping[str, pl.DataFrame]
    odd: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dataflow:
    """A source and its tables.

    Parameters
    ----------
    name : what it is called on the command line
    meaning : one line for people
    tables : what it fills; each in `sorted_by` order, its key
    load : gets what to load, returns it; it changes nothing, and may be called again. It raises
        BadInput where the source is wrong, and Unavailable where it may be right later.
    keeps : "rows": what is loaded is put in the place of rows with the same key, and others stay;
        "states": what is loaded is all that holds; there is one table, which has valid_from and
        valid_to
    options : what can be set; of one that keeps rows a HistoryOptions
    source : where to load from, where nothing else is set
    delivered : of one that keeps states: which rows depend on the source alone. Two states of one
        moment have to agree in them
    """

    name: str
    meaning: str
    tables: tuple[Table, ...]
    load: Callable[[Request], Loaded]
    keeps: Literal["rows", "states"] = "rows"
    options: type[Options] = HistoryOptions
    source: str | None = None
    delivered: pl.Expr = field(default_factory=lambda: pl.lit(True))

    def __post_init__(self) -> None:
        if self.keeps == "states" and len(self.tables) != 1:
            raise ValueError(f"dataflow {self.name} keeps states and needs one table for them")
