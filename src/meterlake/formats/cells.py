"""Cells to readings: a profile applied to a table, every untypable row with its reason.

The table's cells are text (a delimited file) or typed (Parquet). In a value column an empty
cell, a null and what the profile lists in `not_read` are "not read", whether text or number;
everything else must be a finite number.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

import polars as pl

from meterlake.formats.clock import METER, ORDER, REGISTER, Reason, with_utc
from meterlake.formats.lengths import Lengths, lengths_at, own_steps, parsed_length
from meterlake.formats.profile import Profile, Value, factor_of
from meterlake.schema import LengthSource

_TIME, _ARRIVAL, _END = "~reading_date_time", "~arrival_time", "~end"
LENGTH, _SOURCE, _WANTED = "~interval_seconds", "~length_source", "~wanted_seconds"
CONTRADICTS = "~contradicts"
_DIFFERENT_LENGTHS = 64  # in a block of a file
_OVERLAPS = 0.75  # share of an interval after which the next begins, at most

# C0, DEL and C1 (Unicode's Cc): terminals, logs and file names do other things with them.
_CONTROL = r"\p{Cc}"


def type_rows(
    cells: pl.DataFrame,
    profile: Profile,
    *,
    default_zone: str,
    lengths: Lengths | None = None,
    shorter: Lengths | None = None,
    may_have_control: bool = True,
) -> pl.DataFrame:
    """Type a table's rows.

    Parameters
    ----------
    cells : the profile's columns by their names there, and source_row; any order
    default_zone : IANA zone of times for which the profile names none
    lengths : of the intervals, where neither file nor profile says them; None: not known
    shorter : lengths inferred from the file, that count where they are shorter
    may_have_control : False where it is known that no cell has a control character

    Returns
    -------
    One row per row, in order: meter_id, reading_date_time [UTC, interval start], interval_seconds,
    length_source, arrival_time, quality, status and values where the profile has them (see
    formats.port.Parsed), source_row, and `reason`: null where the row is good, else why it is not.
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
    frame = _with_lengths(
        frame, profile, lengths, shorter, default_zone=default_zone, reasons=reasons
    )
    typed += [pl.col(LENGTH).alias("interval_seconds"), pl.col(_SOURCE).alias("length_source")]
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
    typed += _quality(cells, profile)
    if CONTRADICTS in frame.columns:
        typed.append(CONTRADICTS)
    values = _values(cells, profile, reasons)
    return frame.select(*typed, *values, _reasons(frame, reasons))


def _quality(cells: pl.DataFrame, profile: Profile) -> list[pl.Expr]:
    """The quality flag as delivered, and what it means."""
    if profile.quality is None or profile.quality not in cells.columns:
        return []
    text = pl.col(profile.quality).cast(pl.String).str.strip_chars()
    found = [pl.when(text != "").then(text).alias("quality")]
    if profile.status:
        meanings = dict(profile.status)
        meaning = text.replace_strict(meanings, default="raw", return_dtype=pl.String)
        found.append(meaning.fill_null("raw").alias("status"))
    return found


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
    """The order column's number, which tells rows with equal stamps apart.

    Null where a meter has none or lacks some: the rows' order counts.
    """
    order = profile.time.order
    if order is None or order not in cells.columns:
        return pl.lit(None, pl.Float64)
    number = pl.col(order).cast(pl.Float64, strict=False)
    has_all = number.is_not_null().all().over(profile.meter)
    return pl.when(has_all).then(number)


def _register(profile: Profile) -> pl.Expr:
    """What a row of a long table measures; nothing where a row has all of a meter's values."""
    if profile.long is None:
        return pl.lit(None, pl.String)
    return pl.col(profile.long.type_column).cast(pl.String).str.strip_chars()


def _values(cells: pl.DataFrame, profile: Profile, reasons: list[Reason]) -> list[pl.Expr]:
    if profile.long is None:
        numbers = {
            name: _stored(_number(cells, name, profile.not_read, reasons), value)
            for name, value in profile.values.items()
        }
        return [
            _combined([numbers[name] for name in names], profile.values[names[0]].combine).alias(
                type_
            )
            for type_, names in profile.by_series.items()
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
            part = pl.when(kind == spelling).then(_stored(number, value))
            by_type.setdefault(value.series, []).append(part)
    return [pl.coalesce(parts).alias(series) for series, parts in by_type.items()]


def _stored(number: pl.Expr, value: Value) -> pl.Expr:
    """A delivered number in the unit of its type; energy of an interval as its mean power."""
    factor, of_energy = factor_of(value)
    if of_energy:
        return number * (factor * 3600 / pl.col(LENGTH))
    return number if factor == 1.0 else number * factor


def _combined(numbers: list[pl.Expr], combine: str | None) -> pl.Expr:
    """The numbers of columns that are one series; there is no sum where one is not read."""
    if combine == "sum":
        return pl.sum_horizontal(numbers, ignore_nulls=False)
    return pl.coalesce(numbers)


def _with_lengths(
    frame: pl.DataFrame,
    profile: Profile,
    lengths: Lengths | None,
    shorter: Lengths | None,
    *,
    default_zone: str,
    reasons: list[Reason],
) -> pl.DataFrame:
    """Add each interval's length [s], its source, and whether the meter's next overlaps it far.

    Times become those of the start.
    """
    ends = profile.time.stamps == "end"
    zone = profile.time.zone or default_zone
    source: LengthSource = "file"
    if profile.time.end is not None:
        time = profile.time.model_copy(update={"column": profile.time.end, "end": None})
        frame = with_utc(
            frame, time, _END, default_zone=default_zone, reasons=reasons, in_pairs=False
        )
        length = (pl.col(_END) - pl.col(_TIME)).dt.total_seconds()
        later = f"{profile.time.end} needs to be later than {profile.time.column}"
        reasons.append((length <= 0, pl.lit(later)))
        found = frame.select(length).to_series()
    elif profile.interval_column is not None:
        frame = _with_said_lengths(frame, profile.interval_column, zone, ends, reasons)
        found = frame[LENGTH]
    elif profile.length is not None:
        source = "profile"
        found = lengths_at(frame[_TIME], profile.length, zone, ends=ends)
    elif lengths is not None:
        source = lengths.source
        found = lengths.at(frame[_TIME])
    else:
        source = "unknown"
        found = pl.repeat(None, frame.height, dtype=pl.Int64, eager=True)
    frame = frame.with_columns(found.alias(LENGTH), pl.lit(source).alias(_SOURCE))
    if shorter is not None:
        other = pl.Series("other", shorter.at(frame[_TIME]))
        is_shorter = other <= _OVERLAPS * frame[LENGTH]
        frame = frame.with_columns(
            other.zip_with(is_shorter, frame[LENGTH]).alias(LENGTH),
            pl.when(is_shorter).then(pl.lit("inferred")).otherwise(_SOURCE).alias(_SOURCE),
        )
    elif source in ("profile", "lake"):
        frame = frame.with_columns(_contradicts(frame, ends).alias(CONTRADICTS))
    if source == "file" and profile.length is not None:
        wanted = lengths_at(frame[_TIME], profile.length, zone, ends=ends)
        frame = frame.with_columns(wanted.alias(_WANTED))
        words = pl.format("lasts {} s, where the profile says {} s", LENGTH, _WANTED)
        reasons.append((pl.col(LENGTH) != pl.col(_WANTED), words))
    if ends:
        start = pl.col(_TIME) - pl.duration(seconds=pl.col(LENGTH))
        frame = frame.with_columns(pl.coalesce(start, _TIME).alias(_TIME))
    return frame


def _with_said_lengths(
    frame: pl.DataFrame, column: str, zone: str, ends: bool, reasons: list[Reason]
) -> pl.DataFrame:
    """Add the lengths that a column says."""
    texts = frame[column].cast(pl.String).str.strip_chars()
    found = pl.repeat(None, frame.height, dtype=pl.Int64, eager=True)
    for text in texts.drop_nulls().unique().sort().head(_DIFFERENT_LENGTHS):
        length = parsed_length(text)
        if length is not None:
            found = lengths_at(frame[_TIME], length, zone, ends=ends).zip_with(texts == text, found)
    words = pl.format(
        f"{column} needs to be a length such as PT15M, or in minutes: '{{}}'",
        pl.col(column).cast(pl.String).fill_null(""),
    )
    lost = f"~lost {column}"
    reasons.append((pl.col(lost), words))
    return frame.with_columns(found.alias(LENGTH), found.is_null().alias(lost))


def _contradicts(frame: pl.DataFrame, ends: bool) -> pl.Series:
    """Whether the meter's next interval begins long before the one of a row is over."""
    steps = frame[_TIME].unique().sort().diff().dt.total_seconds()
    near = steps.to_frame("step").filter(pl.col("step") > 0)
    if near.filter(pl.col("step") <= _OVERLAPS * pl.lit(frame[LENGTH].max())).is_empty():
        return pl.repeat(False, frame.height, eager=True)
    step = own_steps(frame.select(METER, REGISTER, _TIME), ends=ends)
    return (step <= _OVERLAPS * frame[LENGTH]).fill_null(False)


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
    listed = _listed_numbers(not_read, cells.schema[name])
    if listed:
        number = pl.when(~number.is_in(listed)).then(number)
    reasons.append(
        (
            ~number.is_finite(),
            pl.format(f"{name} is not a finite number: '{{}}'", column.cast(pl.String)),
        )
    )
    return number


def _listed_numbers(not_read: Sequence[str], dtype: pl.DataType) -> list[float]:
    """The listed texts that are numbers, as a column of this type holds them; NaN is one."""
    numbers = pl.Series(not_read, dtype=pl.String).cast(pl.Float64, strict=False).drop_nulls()
    # 4294967.295 is 4294967.5 in 32 bits.
    held = numbers.cast(dtype, strict=False) if dtype.is_float() else numbers
    return held.cast(pl.Float64).to_list()
