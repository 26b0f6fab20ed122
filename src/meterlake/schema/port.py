"""What a table of the lake is: its columns, and how its rows lie in files."""

from dataclasses import dataclass
from typing import Literal

import polars as pl

ColumnType = Literal["string", "double", "long", "boolean", "date", "timestamp"]

POLARS_TYPES: dict[ColumnType, pl.DataType] = {
    "string": pl.String(),
    "double": pl.Float64(),
    "long": pl.Int64(),
    "boolean": pl.Boolean(),
    "date": pl.Date(),
    "timestamp": pl.Datetime("us", "UTC"),
}


@dataclass(frozen=True)
class Column:
    """One column: its name, storage type, unit ('' where it has none) and meaning."""

    name: str
    type: ColumnType
    unit: str
    meaning: str


@dataclass(frozen=True)
class Table:
    """One table of the lake.

    `path` is relative to the lake, `partitioned_by` names columns of `columns`, and
    `time_column` is the column whose newest value the catalog shows. The rows of the tables
    `attached` arrive in this table's commits: all are there, or none (delta/commit.py).
    The rows of a partition are in the order of `sorted_by`, no two with the same. With `ranged_by`
    they may lie in several files, each with a range of that column's values of its own.
    `covers` is the time that the rows of a partition belong to; `ordered_by`, the unit of time
    that they are ordered by if they are not sorted; `finite`, columns whose values are finite
    numbers; `folder_column`, the column that names a folder beside the table's files.
    """

    name: str
    path: str
    meaning: str
    columns: tuple[Column, ...]
    partitioned_by: tuple[str, ...]
    time_column: str
    attached: "tuple[Table, ...]" = ()
    sorted_by: tuple[str, ...] = ()
    ranged_by: str | None = None
    covers: Literal["hour", "day", "rest of month"] | None = None
    ordered_by: Literal["hour"] | None = None
    finite: tuple[str, ...] = ()
    folder_column: str | None = None

    @property
    def file_columns(self) -> tuple[Column, ...]:
        """The columns that stand inside the files: all but the partition columns."""
        return tuple(c for c in self.columns if c.name not in self.partitioned_by)


@dataclass(frozen=True)
class View:
    """What SQL can ask for that is no table: its columns, the tables it needs, and its SQL."""

    name: str
    meaning: str
    columns: tuple[Column, ...]
    tables: frozenset[str]
    sql: str


def polars_schema(table: Table) -> dict[str, pl.DataType]:
    """The table's columns, partition columns included, as Polars types."""
    return {c.name: POLARS_TYPES[c.type] for c in table.columns}
