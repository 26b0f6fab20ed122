"""Cells to readings: a profile applied to a table, every untypable row with its reason.

The table's cells are text (a delimited file) or typed (Parquet). An empty cell and a null
are "not read"; everything else must be a finite number in a value column.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

import polars as pl

from meterlake.formats.clock import METER, ORDER, REGISTER, Reason, with_utc
from meterlake.formats.profile import Profile
from meterlake.schema import READING_TYPES

_TIME, _ARRIVAL = "~reading_date_time", "~arrival_time"

# C0, DEL and C1 (Unicode's Cc): terminals, logs and file names do other things with them.
_CONTROL = r"\p{Cc}"


def type_rows(
    cells: pl.DataFrame, profile: Profile, *, default_zone: str, may_have_control: bool = True
) -> pl.DataFrame:
    """Type a table's rows.

    Parameters
    ----------
    cells : the profile's columns by their names there, and source_row; any order
    default_zone : IANA zone of times for which the profile names none
    may_have_control : False where it is known that no cell has a control character

    Returns
    -------
    One row per row, in order: meter_id, reading_date_time [UTC, interval start], arrival_time,
    quality and reading types where the profile has them, source_row, and `reason`: null where
    the row is good, else why it is not.
    """
    reasons: list[Reason] = []
    cells = _as_cells(cells, reasons)
    frame = cells.with_columns(
        _meter_id(cells, profile).alias(METER),
        _order(cells, profile).alias(ORDER),
        _register(profile).alias(REGISTER),
    )
    reasons.append((pl.col(METER).is_null(), pl.lit(f"{profile.meter} is empty")))
    if may_have_control:
        reasons.append(
            (
                pl.col(METER).str.contains(_CONTROL),
                pl.lit(f"{profile.meter} has a control character, which no meter's id may have"),
            )
        )
    for column, wanted in profile.require.items():
        text = pl.col(column).cast(pl.String).str.strip_chars()
        reasons.append(
            (
                text.ne_missing(pl.lit(wanted)),
                pl.format(f"{column} needs to be '{wanted}', found '{{}}'", text.fill_null("")),
            )
        )
    frame = with_utc(
        frame, profile.time, _TIME, default_zone=default_zone, reasons=reasons, in_pairs=True
    )
    typed: list[str | pl.Expr] = [
        "source_row",
        pl.col(METER).alias("meter_id"),
        pl.col(_TIME).alias("reading_date_time"),
    ]
    if profile.time.stamps == "end":
        frame = frame.with_columns(pl.col(_TIME) - profile.interval)
    if profile.arrival is not None:
        frame = with_utc(
            frame,
            profile.arrival,
            _ARRIVAL,
            default_zone=default_zone,
            reasons=reasons,
            in_pairs=False,
        )
        typed.append(pl.col(_ARRIVAL).alias("arrival_time"))
    if profile.quality is not None and profile.quality in cells.columns:
        text = pl.col(profile.quality).cast(pl.String).str.strip_chars()
        typed.append(pl.when(text != "").then(text).alias("quality"))
    values = _values(cells, profile, reasons)
    return frame.select(*typed, *values, _reasons(frame, reasons))


def without_far_times(column: pl.Series) -> pl.Series:
    """A time column, null where Polars could not even show the time: outside years 1 to 9999."""
    first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    if column.dtype == pl.Date:
        ends = pl.Series([first.date(), last.date()])
    else:
        unit = column.dtype.time_unit if isinstance(column.dtype, pl.Datetime) else None
        seconds = pl.Series([first, last]).dt.epoch("s")
        # Nanoseconds in 64 bits reach from 1677 to 2262 only.
        ends = seconds * {"ms": 1_000, "us": 1_000_000}.get(unit or "", 0)
        if unit == "ns":
            return column
    low, high = ends.to_physical()
    number = column.to_physical()
    if column.null_count() == len(column) or (number.min() >= low and number.max() <= high):
        return column
    return column.set(~number.is_between(low, high).fill_null(True), None)


def _as_cells(cells: pl.DataFrame, reasons: list[Reason]) -> pl.DataFrame:
    """A table's columns as text, numbers and times; what is none of these becomes null."""
    columns = []
    for name, dtype in cells.schema.items():
        column = cells[name]
        if isinstance(dtype, pl.String) or dtype.is_numeric():
            continue
        if isinstance(dtype, pl.Categorical | pl.Enum | pl.Null | pl.Boolean | pl.Time):
            columns.append(column.cast(pl.String))
            continue
        words = f"{name} needs to be text, a number or a time, found {str(dtype)[:100]}"
        if isinstance(dtype, pl.Datetime | pl.Date):
            readable = without_far_times(column)
            words = f"{name} is outside 1970 to 2099"
        elif isinstance(dtype, pl.Binary):
            readable = pl.Series(name, [_decoded(cell) for cell in column], dtype=pl.String)
        else:
            readable = pl.repeat(None, len(column), dtype=pl.String, eager=True).alias(name)
        lost = f"~lost {name}"
        columns += [readable, (column.is_not_null() & readable.is_null()).alias(lost)]
        reasons.append((pl.col(lost), pl.lit(words)))
    return cells.with_columns(columns) if columns else cells


def _decoded(cell: bytes | None) -> str | None:
    try:
        return None if cell is None else cell.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _reasons(frame: pl.DataFrame, reasons: Sequence[Reason]) -> pl.Series:
    """Each row's first reason, null for the good ones; the words are made for bad rows only."""
    wrong = frame.select(pl.any_horizontal(rows.fill_null(False) for rows, _ in reasons))
    bad = wrong.to_series().arg_true()
    none = pl.repeat(None, frame.height, dtype=pl.String, eager=True).alias("reason")
    if bad.is_empty():
        return none
    first = pl.coalesce(pl.when(rows).then(words) for rows, words in reasons)
    return none.scatter(bad, frame[bad].select(first).to_series())


def _meter_id(cells: pl.DataFrame, profile: Profile) -> pl.Expr:
    text = pl.col(profile.meter)
    if cells.schema[profile.meter] != pl.String:
        return text.cast(pl.String)
    text = text.str.strip_chars()
    return pl.when(text != "").then(text)


def _order(cells: pl.DataFrame, profile: Profile) -> pl.Expr:
    """What tells rows with equal stamps apart: the order column's number, else the row's."""
    row = pl.col("source_row").cast(pl.Float64)
    order = profile.time.order
    if order is None or order not in cells.columns:
        return row
    number = pl.col(order).cast(pl.Float64, strict=False)
    # Numbers of the column and of rows are not of one kind: a meter has one or the other.
    has_all = number.is_not_null().all().over(profile.meter)
    return pl.when(has_all).then(number).otherwise(row)


def _register(profile: Profile) -> pl.Expr:
    """What a row of a long table measures; nothing where a row has all of a meter's values."""
    if profile.long is None:
        return pl.lit(None, pl.String)
    return pl.col(profile.long.type_column).cast(pl.String).str.strip_chars()


def _values(cells: pl.DataFrame, profile: Profile, reasons: list[Reason]) -> list[pl.Expr]:
    if profile.long is None:
        return [
            _scaled(_number(cells, name, profile.not_read, reasons), profile.factor(value)).alias(
                value.type
            )
            for name, value in profile.values.items()
        ]
    kind = pl.col(REGISTER)
    spellings = {n for name, value in profile.values.items() for n in (name, *value.also)}
    number = _number(cells, profile.long.value_column, profile.not_read, reasons)
    reasons.append(
        (
            ~kind.is_in(sorted(spellings)) | kind.is_null(),
            pl.format(
                f"{profile.long.type_column} needs to be one of {', '.join(profile.values)}, "
                "found '{}'",
                kind.fill_null(""),
            ),
        )
    )
    by_type: dict[str, list[pl.Expr]] = {}
    for name, value in profile.values.items():
        for spelling in (name, *value.also):
            part = pl.when(kind == spelling).then(number * profile.factor(value))
            by_type.setdefault(value.type, []).append(part)
    return [pl.coalesce(parts).alias(kind_) for kind_, parts in by_type.items()]


def _scaled(number: pl.Expr, factor: float) -> pl.Expr:
    return number if factor == 1.0 else number * factor


def _number(
    cells: pl.DataFrame, name: str, not_read: Sequence[str], reasons: list[Reason]
) -> pl.Expr:
    column = pl.col(name)
    if cells.schema[name] == pl.String:
        text = column.str.strip_chars()
        number = text.cast(pl.Float64, strict=False)
        reasons.append(
            (
                ~text.is_in(["", *not_read]) & number.is_null(),
                pl.format(f"{name} is not a number: '{{}}'", text),
            )
        )
    elif cells.schema[name].is_numeric():
        number = column.cast(pl.Float64, strict=False)
    else:
        number = pl.lit(None, pl.Float64)
        reasons.append(
            (
                column.is_not_null(),
                pl.format(f"{name} is not a number: '{{}}'", column.cast(pl.String)),
            )
        )
    reasons.append(
        (
            ~number.is_finite(),
            pl.format(f"{name} is not a finite number: '{{}}'", column.cast(pl.String)),
        )
    )
    return number


def reading_type_columns(frame: pl.DataFrame) -> list[str]:
    """The columns of a table of reads that are reading types, in schema order."""
    return [name for name in READING_TYPES if name in frame.columns]
