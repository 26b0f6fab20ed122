"""One block of a delivered file to staging and quarantine files.

Staging has a row for each value, partitioned by the day of the reading and ordered by hour
within a file: a file of one day stays one file, and a history of years, one meter after the
other, does not fall into a file an hour. The hours are found again by the row groups' statistics
(docs/adr/0004).
"""

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import polars as pl

from meterlake.delta.store import Store
from meterlake.delta.table import DataFile, write_file
from meterlake.errors import MeterlakeError, NotReadable
from meterlake.formats.cells import CONTRADICTS
from meterlake.formats.lengths import Lengths
from meterlake.formats.port import Block, Format, Parsed, value_columns
from meterlake.formats.source import DeliveredFile
from meterlake.formats.tabular import ProfileFormat
from meterlake.schema import POLARS_TYPES, QUARANTINE, STAGING, TOTAL, Column

_STAGED = STAGING.file_columns
_FEW = {
    "reading_type",
    "channel",
    "length_source",
    "quality",
    "status",
    "source_file",
    "source_sha256",
    "delivery_id",
}


_SEVERAL = 3


@dataclass(frozen=True)
class Portion:
    """A unit of work: a block of a delivered file, or all of a stream that is yet to be cut.

    `number` is the file's among those that are taken in together; `lengths` are those of intervals
    of which the format says none, `received_at` is when its content came first, if before.
    """

    number: int
    sha256: str
    delivery_id: str
    format: Format
    part: Block | DeliveredFile
    lengths: Lengths | None = None
    received_at: datetime | None = None


@dataclass(frozen=True)
class Staged:
    """What a portion became: files, and its balance of rows and readings.

    `contradicting` are rows that come sooner than a length that is not the file's own allows;
    `apart` is the smallest time between two stamps [s], None where there are few of them;
    `reason` is the commonest reason of its rejected rows;
    `sha256` is of the uncompressed content, of a stream that was cut in the work.
    """

    number: int
    files: tuple[DataFile, ...] = ()
    quarantine: tuple[DataFile, ...] = ()
    rows: int = 0
    readings: int = 0
    quarantined: int = 0
    contradicting: int = 0
    apart: int | None = None
    reason: str = ""
    sha256: str = ""


@dataclass(frozen=True)
class RefusedPortion:
    """Why a portion could not be taken in: its file cannot be, but others may."""

    number: int
    error: MeterlakeError


def files_of_delivery(results: Sequence[Staged], delivery_id: str) -> dict[str, list[DataFile]]:
    """What the portions of a delivery became, by table; each file names its delivery."""
    return {
        STAGING.name: [replace(f, made_from=delivery_id) for r in results for f in r.files],
        QUARANTINE.name: [replace(f, made_from=delivery_id) for r in results for f in r.quarantine],
    }


def cut(
    fmt: Format, source: DeliveredFile, *, by_reference: bool
) -> Iterator[Block | DeliveredFile]:
    """The parts of a file that are worked on one by one.

    Parameters
    ----------
    by_reference : blocks that hold bytes, cut from a stream, are not wanted: such a stream is
        one part

    Raises
    ------
    NotReadable
        The file cannot be cut.
    """
    blocks = fmt.split(source)
    first = next(blocks, None)
    if first is None:
        return
    if by_reference and first.data is not None:
        yield source
        return
    yield first
    del first
    yield from blocks


def stage(store: Store, *, received_at: datetime) -> Callable[[Portion], Staged | RefusedPortion]:
    """The work on one portion: parse it and write what it holds.

    Parameters
    ----------
    received_at : the moment of this ingest, aware
    """

    def work(portion: Portion) -> Staged | RefusedPortion:
        part = portion.part
        blocks = portion.format.split(part) if isinstance(part, DeliveredFile) else [part]
        done = Staged(portion.number)
        try:
            for block in blocks:
                moment = portion.received_at or received_at
                one = _stage_block(store, portion, block, moment)
                done = Staged(
                    portion.number,
                    done.files + one.files,
                    done.quarantine + one.quarantine,
                    done.rows + one.rows,
                    done.readings + one.readings,
                    done.quarantined + one.quarantined,
                    done.contradicting + one.contradicting,
                    min((a for a in (done.apart, one.apart) if a is not None), default=None),
                    done.reason or one.reason,
                )
        except MeterlakeError as error:
            return RefusedPortion(portion.number, error)
        return (
            replace(done, sha256=part.content_sha256()) if isinstance(part, DeliveredFile) else done
        )

    return work


def by_own_steps(
    store: Store,
    portion: Portion,
    source: DeliveredFile,
    results: Sequence[Staged],
    *,
    received_at: datetime,
) -> list[Staged]:
    """A file's results; once more, with lengths that all of its stamps tell, if some contradict.

    Where a meter's next interval begins long before one is over, the length that the profile or
    the lake says is wrong: the step between them counts, where it is a regular one.

    Parameters
    ----------
    portion : one of the file's

    Raises
    ------
    MeterlakeError
        The file cannot be read any more.
    """
    fmt = portion.format
    if not any(r.contradicting for r in results) or not isinstance(fmt, ProfileFormat):
        return list(results)
    fmt = fmt.with_lengths(shorter=fmt.inferred_lengths(source))
    work = stage(store, received_at=received_at)
    again = [work(replace(portion, format=fmt, part=part)) for part in fmt.split(source)]
    refused = [r.error for r in again if isinstance(r, RefusedPortion)]
    if refused:
        raise refused[0]
    counted = sum(r.contradicting for r in results)
    done = [r for r in again if isinstance(r, Staged)]
    return [replace(r, contradicting=counted if n == 0 else 0) for n, r in enumerate(done)]


def _stage_block(store: Store, portion: Portion, block: Block, received_at: datetime) -> Staged:
    fmt = portion.format
    parsed = fmt.parse(block)
    quarantined = _check_balance(parsed, block, fmt.name)
    same = {
        "source_file": block.source.name,
        "source_sha256": portion.sha256,
        "delivery_id": portion.delivery_id,
        "received_at": received_at,
        "format": fmt.name,
        "status": "raw",
        "interval_seconds": None if portion.lengths is None else portion.lengths.seconds,
        "length_source": "unknown" if portion.lengths is None else portion.lengths.source,
    }
    return Staged(
        portion.number,
        files=write_reads(store, parsed.reads, same),
        quarantine=_write_quarantine(store, parsed.rejected, same, received_at),
        rows=parsed.rows,
        readings=_count_readings(parsed.reads),
        quarantined=quarantined,
        contradicting=_count_contradicting(parsed.reads),
        apart=_apart(parsed.reads),
        reason=_commonest(parsed.rejected),
    )


def _check_balance(parsed: Parsed, block: Block, format_name: str) -> int:
    """How many rows are rejected, where rows = rows read + rows rejected; else NotReadable."""
    read, rejected = (frame["source_row"].drop_nulls() for frame in (parsed.reads, parsed.rejected))
    bad = rejected.n_unique()
    accounted = pl.concat([read, rejected]).n_unique() if bad else read.n_unique()
    twice = read.n_unique() + bad - accounted if bad else 0
    if accounted != parsed.rows or twice:
        also = f", {twice:,} of them both as read and as rejected" if twice else ""
        raise NotReadable(
            f"'{block.source.name}' needs every row to be read or rejected; of the block from row "
            f"{block.first_row:,} on, format {format_name} counts {parsed.rows:,} rows and "
            f"accounts for {accounted:,}{also}. Nothing was taken in: report it to the format's "
            "author"
        )
    return bad


def write_reads(
    store: Store, reads: pl.DataFrame, same: Mapping[str, object]
) -> tuple[DataFile, ...]:
    """Write a block's reads as files of staging, one for each day.

    Parameters
    ----------
    reads : as formats.port.Parsed has them
    same : columns of staging that are the same for all, where the reads do not have them
    """
    if reads.is_empty():
        return ()
    hours = reads.with_columns(
        pl.col("meter_id").cast(pl.Categorical),
        pl.col("reading_date_time").dt.truncate("1h").alias("_hour"),
    )
    by_day: dict[datetime, list[pl.DataFrame]] = {}
    for hour in hours.sort("_hour", maintain_order=True).partition_by("_hour", maintain_order=True):
        day = hour["_hour"][0].replace(hour=0)
        by_day.setdefault(day, []).extend(_by_value(hour, same))
    name = f"part-{uuid.uuid4().hex}"
    return tuple(
        write_file(store, STAGING, pl.concat(parts), partition=day_partition(day), name=name)
        for day, parts in by_day.items()
    )


def _by_value(reads: pl.DataFrame, same: Mapping[str, object]) -> Iterator[pl.DataFrame]:
    """Rows of several values each as a row for each value; one without any stays a row."""
    values = value_columns(reads)
    nothing = pl.all_horizontal(pl.col(values).is_null())
    for name in (*values, None):
        reading_type, _, channel = (name or "").partition("/")
        if name is None:
            rows = reads.filter(nothing)
        else:
            rows = reads if reads[name].null_count() == 0 else reads.drop_nulls(name)
        if rows.is_empty():
            continue
        given = {**same, "reading_type": reading_type or None, "channel": channel or TOTAL}
        yield rows.select(_staged_column(c, name, given, rows.columns) for c in _STAGED)


def _staged_column(
    column: Column, value: str | None, given: Mapping[str, object], there: Sequence[str]
) -> pl.Expr:
    """A column of staging: the value, as the reads have it, or the same for all of them."""
    dtype = POLARS_TYPES[column.type]
    if column.name == "reading_value":
        found = pl.lit(None, dtype) if value is None else pl.col(value)
    elif column.name in there:
        found = pl.col(column.name)
    else:
        found = pl.lit(given.get(column.name), dtype)
    # Parquet writes a column of few different texts as a dictionary; Polars then makes it faster.
    if column.name in _FEW:
        found = found.cast(pl.Categorical)
    return found.alias(column.name)


def _write_quarantine(
    store: Store, rejected: pl.DataFrame, same: Mapping[str, object], received_at: datetime
) -> tuple[DataFile, ...]:
    if rejected.is_empty():
        return ()
    rows = rejected.select(
        pl.col(c.name)
        if c.name in rejected.columns
        else pl.lit(same[c.name], POLARS_TYPES[c.type]).alias(c.name)
        for c in QUARANTINE.file_columns
    )
    day = received_at.strftime("%Y-%m-%d")
    name = f"part-{uuid.uuid4().hex}"
    return (write_file(store, QUARANTINE, rows, partition={"ingest_date": day}, name=name),)


def day_partition(day: datetime) -> dict[str, str]:
    """Partition values of a UTC day."""
    return {"year": f"{day.year:04d}", "month": f"{day.month:02d}", "day": f"{day.day:02d}"}


def _count_contradicting(reads: pl.DataFrame) -> int:
    return int(reads[CONTRADICTS].sum()) if CONTRADICTS in reads.columns else 0


def _apart(reads: pl.DataFrame) -> int | None:
    """The smallest step between the stamps of a block, if several steps are as small [s]."""
    steps = reads["reading_date_time"].unique().sort().diff().drop_nulls().dt.total_seconds()
    smallest = steps.sort().head(_SEVERAL)
    return int(smallest[0]) if len(smallest) == _SEVERAL and smallest.n_unique() == 1 else None


def _commonest(rejected: pl.DataFrame) -> str:
    return "" if rejected.is_empty() else str(rejected["reason"].mode().sort()[0])


def _count_readings(reads: pl.DataFrame) -> int:
    values = value_columns(reads)
    return sum(reads[name].len() - reads[name].null_count() for name in values)
