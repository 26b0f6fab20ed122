"""Tables as delivered (CSV, compressed CSV, Parquet), read by a profile.

Text is read fast, as typed columns, line for line; only the lines in which something is
missing or odd are then read again, cell by cell, to say what. Where the fast reader and
the lines do not agree on how many rows there are, all lines are read the slow way.
"""

import csv
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from meterlake import storage
from meterlake.errors import NotReadable
from meterlake.formats.cells import type_rows, without_far_times
from meterlake.formats.clock import METER, is_near_change
from meterlake.formats.lengths import HES_SECONDS, Lengths, Stamps, fixed, inferred
from meterlake.formats.lines import RAW_BYTES, count_blank, ends_empty, scan_lines, text_lines
from meterlake.formats.port import REJECTED, Block, Format, Parsed
from meterlake.formats.profile import Profile
from meterlake.formats.source import (
    HEAD_BYTES,
    MAX_LINE_BYTES,
    PARQUET_MAGIC,
    PIECE_BYTES,
    DeliveredFile,
    Range,
    chunks,
    shorten_lines,
)
from meterlake.schema import LengthSource

BLOCK_BYTES = 16 * 1024 * 1024  # decompressed text of one unit of work
BLOCK_ROWS = 500_000  # rows of a Parquet file in one unit of work

_BOM = b"\xef\xbb\xbf"

# What Polars looks for at the beginning, to take it off or to decompress what follows; here it
# is the first row's: a byte order mark, the signs of gzip, zstd and zlib.
_POLARS_TAKES_OFF = (
    _BOM, b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"x\x01", b"x\x5e", b"x\x9c", b"x\xda"
)  # fmt: skip

_PARQUET_ERRORS = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)


class ProfileFormat:
    """A profile as a format."""

    def __init__(
        self,
        profile: Profile,
        *,
        default_zone: str,
        lengths: Lengths | None = None,
        shorter: Lengths | None = None,
    ) -> None:
        self.profile = profile
        self._default_zone = default_zone
        self._lengths, self._shorter = lengths, shorter

    def with_lengths(
        self, lengths: Lengths | None = None, shorter: Lengths | None = None
    ) -> "ProfileFormat":
        """The format with lengths of intervals: see `type_rows`."""
        return ProfileFormat(
            self.profile,
            default_zone=self._default_zone,
            lengths=lengths or self._lengths,
            shorter=shorter,
        )

    def inferred_lengths(self, source: DeliveredFile) -> Lengths | None:
        """The lengths that all of a file's stamps tell."""
        ends = self.profile.time.stamps == "end"
        time, length = pl.col("reading_date_time"), pl.duration(seconds="interval_seconds")
        stamps = Stamps()
        for block in self.split(source):
            reads = self.parse(block).reads
            stamps.add(reads.with_columns(pl.coalesce(time + length, time)) if ends else reads)
        return inferred(stamps.all(), ends=ends)

    @property
    def name(self) -> str:
        """The profile's name."""
        return self.profile.name

    def recognises(self, source: DeliveredFile, head: bytes) -> bool:
        """Whether the file has the columns that tell this profile.

        Raises
        ------
        NotReadable
            It is a Parquet file, and damaged.
        """
        if _is_endless(head):
            return False
        wanted = self.profile.recognise or tuple(self.profile.needed)
        return set(wanted) <= set(self._columns(source, head))

    def split(self, source: DeliveredFile) -> Iterator[Block]:
        """Cut the file into blocks of whole rows.

        Raises
        ------
        NotReadable
            A column is missing or appears twice, the header is endless, or the bytes are damaged.
        """
        head = source.head()
        if _is_endless(head):
            raise NotReadable(
                f"'{source.name}' needs a line with the columns' names; found no line end in its "
                f"first {HEAD_BYTES:,} bytes. Deliver it as lines of text"
            )
        columns = self._columns(source, head)
        self._require_columns(source, columns)
        if head.startswith(PARQUET_MAGIC):
            yield from self._split_parquet(source, columns)
        elif source.ranges and not self._needs_whole_meters:
            for part in source.ranges:
                yield Block(source, part.first_row, columns, part=part)
        else:
            yield from self._split_text(source, columns)

    def parse(self, block: Block) -> Parsed:
        """Read one block. Raises NotReadable where a Parquet file is damaged."""
        if block.data is None and block.part is not None and block.source.ranges == ():
            return self._parse_parquet(block, block.part)
        return self._parse_text(block)

    def _type_rows(self, cells: pl.DataFrame, *, may_have_control: bool = True) -> pl.DataFrame:
        return type_rows(
            cells,
            self.profile,
            default_zone=self._default_zone,
            lengths=self._lengths,
            shorter=self._shorter,
            may_have_control=may_have_control,
        )

    # --- columns

    def _columns(self, source: DeliveredFile, head: bytes) -> tuple[str, ...]:
        if head.startswith(PARQUET_MAGIC):
            try:
                return tuple(scan_parquet(source).collect_schema())
            except _PARQUET_ERRORS as error:
                raise _damaged_parquet(source, error) from error
        line = head.removeprefix(_BOM).split(b"\n", 1)[0].rstrip(b"\r")
        text = line.decode("utf-8", errors="replace")
        return tuple(cell.strip() for cell in self._cells(text))

    def _require_columns(self, source: DeliveredFile, columns: tuple[str, ...]) -> None:
        needed = self.profile.needed
        missing = [n for n, also in needed.items() if not {n, *also} & set(columns)]
        if missing:
            raise NotReadable(
                f"'{source.name}' needs the columns {', '.join(needed)} to be read as {self.name}; "
                f"it lacks {', '.join(missing)} (found {_shown(columns)}). Correct its header, "
                "or name another --profile"
            )
        double = sorted(c for c, times in Counter(columns).items() if times > 1)
        if double:
            raise NotReadable(
                f"'{source.name}' needs each column once; {_shown(double)} appears twice in its "
                "header. Correct the header"
            )

    def _names(self, columns: tuple[str, ...]) -> dict[str, str]:
        """The file's names of the columns that are used: as found, to the profile's."""
        names = {}
        for name, also in self.profile.needed.items():
            names[next(n for n in (name, *also) if n in columns)] = name
        return names | {name: name for name in self.profile.optional if name in columns}

    # --- Parquet

    def _split_parquet(self, source: DeliveredFile, columns: tuple[str, ...]) -> Iterator[Block]:
        try:
            scan = scan_parquet(source)
            rows = scan.select(pl.len()).collect().item()
            cuts = list(range(0, rows, BLOCK_ROWS))
            if self._needs_whole_meters and len(cuts) > 1:
                starts = (
                    scan.select(pl.col(self.profile.meter) != pl.col(self.profile.meter).shift())
                    .collect()
                    .to_series()
                    .arg_true()
                    .to_numpy()
                )
                after = np.searchsorted(starts, cuts[1:])
                cuts = [0, *sorted({int(starts[i]) for i in after if i < len(starts)})]
        except _PARQUET_ERRORS as error:
            raise _damaged_parquet(source, error) from error
        for start, end in zip(cuts, [*cuts[1:], rows], strict=True):
            yield Block(source, start + 1, columns, part=Range(start, end, start + 1))

    def _parse_parquet(self, block: Block, part: Range) -> Parsed:
        names = self._names(block.columns)
        wanted = part.end - part.start
        try:
            rows = scan_parquet(block.source).slice(part.start, wanted).collect()
        except _PARQUET_ERRORS as error:
            raise _damaged_parquet(block.source, error) from error
        if rows.height != wanted:
            raise _damaged_parquet(block.source, f"{rows.height} rows where {wanted} should be")
        cells = rows.select(
            pl.int_range(block.first_row, block.first_row + pl.len()).alias("source_row"),
            *(pl.col(n).alias(as_) for n, as_ in names.items()),
        )
        typed = self._type_rows(cells)
        bad = typed["reason"].is_not_null()
        raw = _as_json(rows.filter(bad))
        rejected = _rejected(typed.filter(bad), raw)
        return Parsed(_good(typed), rejected, wanted)

    # --- text

    def _split_text(self, source: DeliveredFile, columns: tuple[str, ...]) -> Iterator[Block]:
        held: list[bytes] = []
        size, row = 0, 1
        with source.open() as file:
            for piece in shorten_lines(chunks(file, source.name, size=PIECE_BYTES)):
                held.append(piece)
                size += len(piece)
                if size < BLOCK_BYTES:
                    continue
                text = b"".join(held)
                cut = self._cut(text, columns)
                if cut == 0:
                    held = [text]
                    continue
                held, size = [text[cut:]], size - cut
                data = text[:cut]
                del text
                yield Block(source, row, columns, data=data)
                row += data.count(b"\n")
        if size:
            yield Block(source, row, columns, data=b"".join(held))

    def _cut(self, held: bytes, columns: tuple[str, ...]) -> int:
        """Where a block ends: after a line, and after a meter where meters stay together."""
        end = held.rfind(b"\n") + 1
        if not self._needs_whole_meters or end == 0:
            return end
        text = held[:end]
        lines = text_lines(text)
        meter = (
            lines["line"]
            .str.split(self.profile.delimiter)
            .list.get(list(columns).index(self.profile.meter), null_on_oob=True)
        )
        changes = (meter != meter.shift()).arg_true()
        last = changes[-1] if len(changes) else 0
        return int(lines["start"][last]) if last > 1 else end

    def _parse_text(self, block: Block) -> Parsed:
        data = block.bytes()
        first_row = block.first_row
        if first_row == 1:
            data = data[data.find(b"\n") + 1 :] if b"\n" in data else b""
            first_row = 2
        ends, plain = scan_lines(data, self.profile.delimiter)
        rows = len(ends) - count_blank(data, ends)
        cells = self._read_fast(data, block.columns, first_row)
        longest = np.diff(ends, prepend=-1).max(initial=0) - 1
        if cells is None or cells.height != len(ends) or longest > MAX_LINE_BYTES:
            return self._parse_lines(text_lines(data, first_row), block.columns, rows)
        typed = self._type_rows(cells, may_have_control=not plain)
        # A null may be an empty cell or one that is no number: the line itself tells. A number
        # that is listed in not_read is none: type_rows makes it a null of its own.
        odd = cells["_beyond"].is_not_null() | typed["reason"].is_not_null()
        for name in self._value_columns:
            odd |= cells[name].is_null()
        # So may an empty cell too many, in the end: Polars knows of it nothing but null.
        if (empty := ends_empty(data, ends, self.profile.delimiter)) is not None:
            odd |= empty
        if not odd.any():
            return Parsed(_good(typed), pl.DataFrame(schema=REJECTED), rows)
        suspect = odd
        if self._needs_whole_meters:
            suspect = self._with_companions(odd, cells, typed["reading_date_time"])
        lines = text_lines(data, first_row).filter(suspect)
        again = self._parse_lines(lines, block.columns, rows)
        reads = pl.concat([_good(typed.filter(~suspect)), again.reads], how="diagonal")
        return replace(again, reads=reads)

    def _with_companions(
        self, suspect: pl.Series, cells: pl.DataFrame, times: pl.Series
    ) -> pl.Series:
        """Also the rows that tell of a suspect row's time which of two it is: see clock.py."""
        time = self.profile.time
        companion = pl.lit(True)
        if time.doubled_hour is None:
            companion = pl.lit(is_near_change(times, time.zone or self._default_zone))
        meter = pl.col(self.profile.meter).str.strip_chars()
        told = cells.select(meter.alias(METER), suspect.alias("~suspect"))
        is_meters = pl.col("~suspect").any().over(METER)
        return told.select(pl.col("~suspect") | (companion & is_meters)).to_series()

    def _read_fast(
        self, data: bytes, columns: tuple[str, ...], first_row: int
    ) -> pl.DataFrame | None:
        names = self._names(columns)
        schema = {
            f"{i}": pl.Float64() if names.get(name) in self._value_columns else pl.String()
            for i, name in enumerate(columns)
        }
        if data.startswith(_POLARS_TAKES_OFF):
            return None
        try:
            frame = pl.read_csv(
                data,
                has_header=False,
                schema={**schema, "_beyond": pl.String()},
                separator=self.profile.delimiter,
                quote_char=self.profile.quote or None,
                ignore_errors=True,
                missing_columns="insert",
            )
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError):
            return None
        used = [pl.col(f"{i}").alias(names[n]) for i, n in enumerate(columns) if n in names]
        return frame.select(
            *used, "_beyond", pl.int_range(first_row, first_row + pl.len()).alias("source_row")
        )

    def _parse_lines(self, lines: pl.DataFrame, columns: tuple[str, ...], rows: int) -> Parsed:
        """Read lines cell by cell, all as text; blank lines are no rows."""
        names = self._names(columns)
        lines = lines.filter((pl.col("line").str.strip_chars() != "") | pl.col("is_long"))
        lines = lines.with_columns(self._fields(lines["line"]).alias("fields"))
        width = pl.col("fields").list.len()
        reason = (
            pl.when("is_long")
            .then(pl.lit(f"is longer than {MAX_LINE_BYTES:,} bytes"))
            .when(~pl.col("is_text"))
            .then(pl.lit("needs to be UTF-8 text"))
            .when(width != len(columns))
            .then(pl.format(f"needs {len(columns)} fields, found {{}}", width))
        )
        lines = lines.with_columns(reason.alias("reason"))
        misshapen = lines.filter(pl.col("reason").is_not_null())
        shaped = lines.filter(pl.col("reason").is_null())
        cells = shaped.select(
            "source_row",
            *(
                pl.col("fields").list.get(i, null_on_oob=True).alias(names[name])
                for i, name in enumerate(columns)
                if name in names
            ),
        )
        typed = self._type_rows(cells)
        bad = typed["reason"].is_not_null()
        return Parsed(
            _good(typed),
            pl.concat(
                [
                    _rejected(typed.filter(bad), shaped.filter(bad)["line"]),
                    _rejected(misshapen, misshapen["line"]),
                ]
            ),
            rows,
        )

    def _fields(self, lines: pl.Series) -> pl.Series:
        quote = self.profile.quote
        if not quote or not lines.str.contains(quote, literal=True).any():
            return lines.str.split(self.profile.delimiter)
        # A quote that is never closed ends with its line; it does not swallow the next one.
        return pl.Series([self._cells(line) for line in lines], dtype=pl.List(pl.String))

    def _cells(self, line: str) -> list[str]:
        quote, delimiter = self.profile.quote, self.profile.delimiter
        if not quote or quote not in line:
            return line.split(delimiter)
        try:
            return next(csv.reader([line], delimiter=delimiter, quotechar=quote), [])
        except csv.Error:  # a carriage return in the middle, or a cell of over 128 KiB
            return line.split(delimiter)

    @property
    def _value_columns(self) -> tuple[str, ...]:
        long = self.profile.long
        return tuple(self.profile.values) if long is None else (long.value_column,)

    @property
    def _needs_whole_meters(self) -> bool:
        """Whether rows with equal stamps must be seen together to be told apart."""
        zone = self.profile.time.zone or self._default_zone
        return self.profile.time.order is not None or not (zone == "UTC" or zone[0] in "+-")


def with_lengths(
    fmt: Format, source: DeliveredFile, lake_seconds: int | None
) -> tuple[Format, Lengths | None]:
    """A format that knows the lengths of a file's intervals, and those that it was given.

    Parameters
    ----------
    lake_seconds : the lake's interval [s]; None: it has none

    Raises
    ------
    NotReadable
        Energy needs the length of its interval, and nothing says it.
    """
    profile = fmt.profile if isinstance(fmt, ProfileFormat) else None
    if profile is not None and profile.length_source != "unknown":
        return fmt, None
    if lake_seconds is None and profile is not None and profile.interval == "lake":
        lake_seconds = HES_SECONDS
    lengths = None if lake_seconds is None else fixed(lake_seconds, "lake")
    if not isinstance(fmt, ProfileFormat):
        return fmt, lengths
    if lengths is None:
        lengths = fmt.inferred_lengths(source)
        if lengths is None and fmt.profile.has_energy:
            raise NotReadable(
                f"'{source.name}' needs the length of its intervals, to make power of energy; its "
                "stamps do not tell. Set interval_minutes in its profile, or the setting "
                "interval_minutes"
            )
    return fmt.with_lengths(lengths), lengths


def stated_length(fmt: Format, lengths: Lengths | None) -> tuple[int | None, LengthSource]:
    """The shortest length that a file was read with [s], and what said so.

    Parameters
    ----------
    lengths : those that the format was given
    """
    if lengths is not None:
        return lengths.seconds, lengths.source
    if not isinstance(fmt, ProfileFormat):
        return None, "unknown"
    length = fmt.profile.length
    return length if isinstance(length, int) else None, fmt.profile.length_source


def _good(typed: pl.DataFrame) -> pl.DataFrame:
    return typed.filter(pl.col("reason").is_null()).drop("reason")


def _rejected(rows: pl.DataFrame, raw: pl.Series) -> pl.DataFrame:
    return rows.select(
        pl.col("source_row").cast(pl.Int64), raw.alias("raw"), pl.col("reason").cast(pl.String)
    )


def _as_json(rows: pl.DataFrame) -> pl.Series:
    """Each row of a table as text, to be shown."""
    times = [c for c in rows if isinstance(c.dtype, pl.Datetime | pl.Date)]
    rows = rows.with_columns(
        without_far_times(c).cast(pl.String).fill_null(c.to_physical().cast(pl.String))
        for c in times
    )
    texts = []
    for number in range(rows.height):
        try:
            row = rows.row(number, named=True)
        except (ValueError, OverflowError, pl.exceptions.PanicException):
            row = {"not shown": "a time in a nested column is out of all range"}
        texts.append(_short(json.dumps(row, default=str, ensure_ascii=False)))
    return pl.Series(texts, dtype=pl.String)


def _is_endless(head: bytes) -> bool:
    """Whether a text's first line is longer than what is looked at to know its columns."""
    return len(head) >= HEAD_BYTES and b"\n" not in head and not head.startswith(PARQUET_MAGIC)


def _shown(columns: Sequence[str]) -> str:
    text = _short(", ".join(columns), 500)
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _short(text: str, size: int = RAW_BYTES) -> str:
    return text[:size]


def scan_parquet(source: DeliveredFile) -> pl.LazyFrame:
    """A Parquet file as it lies, whatever its path looks like."""
    return pl.scan_parquet(
        source.url,
        glob=False,
        hive_partitioning=False,
        storage_options=storage.polars_options(source.url),
    )


def _damaged_parquet(source: DeliveredFile, error: Exception | str) -> NotReadable:
    cause = (str(error).splitlines() or [""])[0][:200]
    return NotReadable(
        f"'{source.name}' needs to be a sound Parquet file; it is damaged ({cause}). "
        "Deliver it again"
    )
