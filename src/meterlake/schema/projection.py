"""How a reading's columns follow from a read, declared once and compiled to Polars and SQL.

A read of staging is a wide row: a column for each reading type, an arrival that may be missing. A
reading is one value. Some of its columns are the same for all readings of a type, so serving does
not store them.
"""

from collections.abc import Mapping, Sequence

import polars as pl

from meterlake.schema.readings import BATCH_SOURCE, READING_TYPES, READINGS

ARRIVAL_SQL = "coalesce(arrival_time, received_at)"

_OF_TYPE: Mapping[str, Mapping[str, str | None]] = {
    kind.name: {
        "unit": kind.unit,
        "obis_code": kind.obis_code,
        "phase": None,
        "reading_source": BATCH_SOURCE,
    }
    for kind in READING_TYPES.values()
}
_HOUR = {"year": "%Y", "month": "%m", "day": "%d", "hour": "%H"}


def arrival() -> pl.Expr:
    """When a read arrived; if the file does not say, when it was received."""
    return pl.coalesce("arrival_time", "received_at")


def of_reads(reading_type: str) -> list[pl.Expr]:
    """The columns of an integrated file, from reads of a type with their `_arrival`."""
    same = _OF_TYPE[reading_type]
    other = {"reading_value": reading_type, "arrival_time": "_arrival"}
    return [
        pl.lit(same[c.name], pl.String).alias(c.name)
        if c.name in same
        else pl.col(other.get(c.name, c.name)).alias(c.name)
        for c in READINGS.file_columns
    ]


def of_serving(columns: Sequence[str]) -> list[pl.Expr]:
    """Those of some columns that serving leaves out, by its column reading_type."""
    kind = pl.col("reading_type")
    found = []
    for name in columns:
        if name in next(iter(_OF_TYPE.values())):
            by_type = {of: same[name] for of, same in _OF_TYPE.items()}
            value = next(iter(by_type.values()))
            is_constant = set(by_type.values()) == {value}
            each = pl.lit(value, pl.String) if is_constant else kind.replace_strict(by_type)
            found.append(each.alias(name))
    return found


def of_meter(meter: str, reading_type: str, columns: Sequence[str]) -> list[pl.Expr]:
    """Columns of one meter's serving rows of a type, which have its times, values and qualities."""
    same = {**_OF_TYPE[reading_type], "meter_id": meter, "reading_type": reading_type}
    return [
        pl.lit(same[name], pl.String).alias(name) if name in same else pl.col(name)
        for name in columns
    ]


def long_sql(staging: str) -> str:
    """SQL of staging with a row for each reading: `reading_type`, `reading_value`, `arrival`."""
    return (
        f"UNPIVOT (SELECT *, {ARRIVAL_SQL} AS arrival FROM ({staging})) "
        f"ON {', '.join(READING_TYPES)} INTO NAME reading_type VALUE reading_value"
    )


def readings_sql(long: str) -> str:
    """SQL of the columns of READINGS, from rows as `long_sql` gives them."""
    names = list(next(iter(_OF_TYPE.values())))
    rows = ", ".join(
        f"('{kind}', {', '.join(_literal(same[name]) for name in names)})"
        for kind, same in _OF_TYPE.items()
    )
    other = {"arrival_time": "arrival"} | {
        name: f"strftime(reading_date_time, '{form}')" for name, form in _HOUR.items()
    }
    columns = ", ".join(
        f"{other[c.name]} AS {c.name}" if c.name in other else c.name for c in READINGS.columns
    )
    return (
        f"SELECT {columns} FROM ({long}) "
        f"JOIN (VALUES {rows}) kinds(reading_type, {', '.join(names)}) USING (reading_type)"
    )


def _literal(value: str | None) -> str:
    return "NULL::VARCHAR" if value is None else f"'{value}'"
