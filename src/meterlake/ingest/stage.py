"""One block of a delivered file to staging and quarantine files.

Staging keeps the delivered shape, one wide row of several values, partitioned by the day
of the reading and ordered by hour within a file: a file of one day stays one file, and a
history of years, one meter after the other, does not fall into a file an hour. The hours
are found again by the row groups' statistics (docs/adr/0004).
"""

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import polars as pl

from meterlake.delta.store import Store
from meterlake.delta.table import DataFile, write_file
from meterlake.errors import MeterlakeError, NotReadable
from meterlake.formats.cells import reading_type_columns
from meterlake.formats.port import Block, Format, Parsed
from meterlake.formats.source import DeliveredFile
from meterlake.schema import POLARS_TYPES, QUARANTINE, STAGING


@dataclass(frozen=True)
class Portion:
    """A unit of work: a block of a delivered file, or all of a stream that is yet to be cut.

    `number` is the file's among those that are taken in together.
    """

    number: int
    sha256: str
    format: Format
    part: Block | DeliveredFile


@dataclass(frozen=True)
class Staged:
    """What a portion became: files, and its balance of rows and readings.

    `sha256` is of the uncompressed content, of a stream that was cut in the work.
    """

    number: int
    files: tuple[DataFile, ...] = ()
    quarantine: tuple[DataFile, ...] = ()
    rows: int = 0
    readings: int = 0
    quarantined: int = 0
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
                one = _stage_block(store, portion, block, received_at)
                done = Staged(
                    portion.number,
                    done.files + one.files,
                    done.quarantine + one.quarantine,
                    done.rows + one.rows,
                    done.readings + one.readings,
                    done.quarantined + one.quarantined,
                )
        except MeterlakeError as error:
            return RefusedPortion(portion.number, error)
        return (
            replace(done, sha256=part.content_sha256()) if isinstance(part, DeliveredFile) else done
        )

    return work


def _stage_block(store: Store, portion: Portion, block: Block, received_at: datetime) -> Staged:
    fmt = portion.format
    parsed = fmt.parse(block)
    quarantined = _check_balance(parsed, block, fmt.name)
    constants = [
        pl.lit(block.source.name).alias("source_file"),
        pl.lit(portion.sha256).alias("source_sha256"),
        pl.lit(received_at, POLARS_TYPES["timestamp"]).alias("received_at"),
    ]
    return Staged(
        portion.number,
        files=_write_staging(store, parsed.reads, constants),
        quarantine=_write_quarantine(store, parsed, constants, fmt.name, received_at),
        rows=parsed.rows,
        readings=_count_readings(parsed.reads),
        quarantined=quarantined,
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


def _write_staging(
    store: Store, reads: pl.DataFrame, constants: list[pl.Expr]
) -> tuple[DataFile, ...]:
    if reads.is_empty():
        return ()
    frame = reads.with_columns(constants)
    frame = frame.select(
        pl.col(c.name)
        if c.name in frame.columns
        else pl.lit(None, POLARS_TYPES[c.type]).alias(c.name)
        for c in STAGING.file_columns
    )
    time = pl.col("reading_date_time")
    frame = frame.with_columns(time.dt.truncate("1h").alias("_hour"))
    if not frame["_hour"].is_sorted():
        frame = frame.sort("_hour", maintain_order=True)
    name = f"part-{uuid.uuid4().hex}"
    days = frame.with_columns(pl.col("_hour").dt.truncate("1d").alias("_day")).drop("_hour")
    return tuple(
        write_file(
            store, STAGING, day.drop("_day"), partition=day_partition(day["_day"][0]), name=name
        )
        for day in days.partition_by("_day", maintain_order=True)
    )


def _write_quarantine(
    store: Store,
    parsed: Parsed,
    constants: list[pl.Expr],
    format_name: str,
    received_at: datetime,
) -> tuple[DataFile, ...]:
    if parsed.rejected.is_empty():
        return ()
    frame = parsed.rejected.with_columns(*constants, pl.lit(format_name).alias("format"))
    return (
        write_file(
            store,
            QUARANTINE,
            frame.select(c.name for c in QUARANTINE.file_columns),
            partition={"ingest_date": received_at.strftime("%Y-%m-%d")},
            name=f"part-{uuid.uuid4().hex}",
        ),
    )


def day_partition(day: datetime) -> dict[str, str]:
    """Partition values of a UTC day."""
    return {"year": f"{day.year:04d}", "month": f"{day.month:02d}", "day": f"{day.day:02d}"}


def _count_readings(reads: pl.DataFrame) -> int:
    values = reading_type_columns(reads)
    return sum(reads[name].len() - reads[name].null_count() for name in values)
