"""How a reading's columns follow from a read, declared once and compiled to Polars and SQL.

A read of staging says what was measured, when, for how long and how well. A reading says beside it
what follows from its type and channel, which serving does not store.
"""

from collections.abc import Mapping, Sequence

import polars as pl

from meterlake.schema.readings import BATCH_SOURCE, READING_TYPES, READINGS

ARRIVAL_SQL = "coalesce(arrival_time, received_at)"
KEY = ("meter_id", "reading_date_time", "channel")  # of a reading, within its type
VERSION = ("reading_value", "interval_seconds", "quality", "status")  # and the arrival

# A measured value stands before an estimate, whichever came later; what is missing, last.
_RANKS: Mapping[str, int] = {"missing": 0, "estimated": 1, "final_estimate": 1}
_MEASURED = 2
_WHENS = " ".join(f"WHEN '{status}' THEN {rank}" for status, rank in _RANKS.items())
RANK_SQL = f"CASE status {_WHENS} ELSE {_MEASURED} END"

_OF_TYPE: Mapping[str, Mapping[str, str]] = {
    kind.name: {
        "unit": kind.unit,
        "obis_code": kind.obis_code,
        "reading_source": BATCH_SOURCE,
    }
    for kind in READING_TYPES.values()
}
_PHASES = ("L1", "L2", "L3")
_HOUR = {"year": "%Y", "month": "%m", "day": "%d", "hour": "%H"}


def arrival() -> pl.Expr:
    """When a read arrived; if the file does not say, when it was received."""
    return pl.coalesce("arrival_time", "received_at")


def rank() -> pl.Expr:
    """How a read stands to others of its key, by its status: the highest stands."""
    return pl.col("status").replace_strict(_RANKS, default=_MEASURED, return_dtype=pl.Int8)


def of_reads(reading_type: str) -> list[pl.Expr]:
    """The columns of an integrated file, from reads of a type with their `_arrival`.

    What is the same for all is a category, which is written from a dictionary.
    """
    worked_out = {
        **{n: pl.lit(v).cast(pl.Categorical) for n, v in _OF_TYPE[reading_type].items()},
        "arrival_time": pl.col("_arrival"),
        "phase": _phase(),
    }
    return [worked_out.get(c.name, pl.col(c.name)).alias(c.name) for c in READINGS.file_columns]


def of_serving(columns: Sequence[str]) -> list[pl.Expr]:
    """Those of some columns that serving leaves out, by its columns reading_type and channel."""
    kind = pl.col("reading_type")
    found = [_phase().alias("phase")] if "phase" in columns else []
    for name in columns:
        if name in next(iter(_OF_TYPE.values())):
            by_type = {of: same[name] for of, same in _OF_TYPE.items()}
            value = next(iter(by_type.values()))
            is_constant = set(by_type.values()) == {value}
            each = pl.lit(value, pl.String) if is_constant else kind.replace_strict(by_type)
            found.append(each.alias(name))
    return found


def of_meter(meter: str, reading_type: str, columns: Sequence[str]) -> list[pl.Expr]:
    """Columns of one meter's serving rows of a type, which have all that serving stores."""
    same = {**_OF_TYPE[reading_type], "meter_id": meter, "reading_type": reading_type}
    return [
        pl.lit(same[name], pl.String).alias(name)
        if name in same
        else (_phase() if name == "phase" else pl.col(name)).alias(name)
        for name in columns
    ]


def readings_sql(staging: str) -> str:
    """SQL of the columns of READINGS, from rows of staging."""
    names = list(next(iter(_OF_TYPE.values())))
    rows = ", ".join(
        f"('{kind}', {', '.join(_literal(same[name]) for name in names)})"
        for kind, same in _OF_TYPE.items()
    )
    other = {"arrival_time": ARRIVAL_SQL, "phase": _PHASE_SQL} | {
        name: f"strftime(reading_date_time, '{form}')" for name, form in _HOUR.items()
    }
    columns = ", ".join(
        f"{other[c.name]} AS {c.name}" if c.name in other else c.name for c in READINGS.columns
    )
    return (
        f"SELECT {columns} FROM ({staging}) "
        f"JOIN (VALUES {rows}) kinds(reading_type, {', '.join(names)}) USING (reading_type)"
    )


def serving_sql(serving: str) -> str:
    """SQL of the columns of READINGS, but for arrival_time, from rows of serving."""
    same = {
        name: f"CASE reading_type {' '.join(_when(k, v[name]) for k, v in _OF_TYPE.items())} END"
        for name in next(iter(_OF_TYPE.values()))
    }
    other = same | {
        "phase": _PHASE_SQL,
        "arrival_time": "NULL::TIMESTAMPTZ",
        "day": f"strftime(reading_date_time, '{_HOUR['day']}')",
        "hour": f"strftime(reading_date_time, '{_HOUR['hour']}')",
    }
    columns = ", ".join(
        f"{other[c.name]} AS {c.name}" if c.name in other else c.name for c in READINGS.columns
    )
    return f"SELECT {columns} FROM ({serving})"


def _phase() -> pl.Expr:
    """The phase that a channel is of; null: all of them."""
    return pl.when(pl.col("channel").is_in(_PHASES)).then("channel")


_PHASE_SQL = f"CASE WHEN channel IN {_PHASES} THEN channel END"


def _when(kind: str, value: str) -> str:
    return f"WHEN {_literal(kind)} THEN {_literal(value)}"


def _literal(value: str) -> str:
    return f"'{value}'"
