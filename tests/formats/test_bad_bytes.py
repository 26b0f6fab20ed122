"""Damaged files, one damage a test: every row is stored or quarantined, or the file is refused.

The good rows around a damage are stored, a quarantined row is found again by file and line, and
a file that is refused leaves the lake as it was.
"""

import gzip
import io
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Literal
from unittest import mock

import numpy as np
import polars as pl
import pytest
import zstandard
from isal import igzip

from meterlake.delta.commit import snapshots
from meterlake.delta.store import Store, open_store
from meterlake.delta.table import fetched, scan
from meterlake.engine.local import LocalEngine
from meterlake.errors import NotReadable
from meterlake.formats import lines, probe, tabular
from meterlake.formats import source as sources
from meterlake.formats.port import REJECTED, Block, Format, Parsed
from meterlake.formats.source import MAX_LINE_BYTES, DeliveredFile, shorten_lines
from meterlake.ingest import intake, land
from meterlake.ingest.stage import Portion, RefusedPortion, Staged, stage
from meterlake.pipeline.derivation import Session
from meterlake.schema import QUARANTINE, STAGING
from meterlake.settings import load_settings

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
CONF = load_settings(late_hooks=())
HEADER = "time,arrival_time,device_id,measure_name,load,crrnt,pf,kva,kw,vltg"
# Without an empty cell: a row that has one is read again the slow way, which would hide the fast.
ROW = "2024-01-01 00:00:00,2024-01-01 00:00:09,{},readings,1,1,1,1,{},220"

Quarantined = list[tuple[int, str, str]]
Take = Callable[..., tuple[intake.Ingested, dict[int, tuple[str, float]], Quarantined]]


def row(meter: str, kw: object = 1) -> str:
    return ROW.format(meter, kw)


def text(*rows: str, header: str = HEADER, end: str = "\n") -> bytes:
    return (end.join([header, *rows]) + end).encode()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A lake in a folder: where it is is not what these tests are about, so no server runs."""
    return open_store(str(tmp_path / "lake"))


@pytest.fixture
def take(store: Store, tmp_path: Path) -> Take:
    """Ingest bytes as a file. What it did; stored meter and kW by line; line, raw, reason."""

    def ingest(
        data: bytes, name: str = "a.csv", profile: str | None = None
    ) -> tuple[intake.Ingested, dict[int, tuple[str, float]], Quarantined]:
        (tmp_path / name).write_bytes(data)
        done = intake.ingest(
            Session(store, LocalEngine(2), CONF, NOW), [str(tmp_path / name)], profile=profile
        )
        states = snapshots(store, [STAGING, QUARANTINE])
        by_file = pl.col("source_file") == name
        staging, quarantine = (
            fetched(scan(store, table, states[table.name].files).filter(by_file))
            for table in (STAGING, QUARANTINE)
        )
        is_kw = pl.col("reading_type") == "kw"
        values = pl.when(is_kw).then("reading_value").drop_nulls().first().alias("kw")
        stored = staging.group_by("source_row", "meter_id").agg(values).sort("source_row").rows()
        bad = quarantine.select("source_row", "raw", "reason").sort("source_row").rows()
        lines = {line for line, *_ in stored} | {line for line, *_ in bad}
        assert done.rows == len(stored) + len(bad) == len(lines)
        assert done.quarantined == len(bad)
        if done.failures:
            assert done.failures[0].is_bad
            assert not lines
        return done, {line: (meter, kw) for line, meter, kw in stored}, bad

    return ingest


# --- compression

LINES = text(*(row(f"m{i}", i) for i in range(3000)))
GZIP = igzip.compress(LINES)
ZSTD = zstandard.ZstdCompressor(write_checksum=True).compress(LINES)
ZSTD_PLAIN = zstandard.compress(LINES)  # no checksum


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]


@pytest.mark.parametrize(
    "data",
    [
        *(pytest.param(GZIP[:cut], id=f"gzip cut at {cut}")
          for cut in (2, 9, 10, 50, len(GZIP) // 2, len(GZIP) - 9, len(GZIP) - 8, len(GZIP) - 1)),
        *(pytest.param(flipped(GZIP, at), id=f"gzip flipped at {at}")
          for at in (2, 60, len(GZIP) // 2, len(GZIP) - 20)),
        pytest.param(flipped(GZIP, len(GZIP) - 8), id="gzip checksum"),
        pytest.param(flipped(GZIP, len(GZIP) - 2), id="gzip length"),
        pytest.param(GZIP + b"trailing garbage", id="gzip garbage behind"),
        pytest.param(GZIP + GZIP[:100], id="gzip second member cut"),
        *(pytest.param(ZSTD[:cut], id=f"zstd cut at {cut}")
          for cut in (4, 5, 50, len(ZSTD) // 2, len(ZSTD) - 5, len(ZSTD) - 4, len(ZSTD) - 1)),
        *(pytest.param(ZSTD_PLAIN[:cut], id=f"zstd without checksum cut at {cut}")
          for cut in (50, len(ZSTD_PLAIN) // 2, len(ZSTD_PLAIN) - 1)),
        *(pytest.param(flipped(ZSTD, at), id=f"zstd flipped at {at}")
          for at in (5, len(ZSTD) // 2, len(ZSTD) - 2)),
        pytest.param(ZSTD + b"trailing garbage", id="zstd garbage behind"),
        pytest.param(ZSTD + ZSTD[:100], id="zstd second frame cut"),
    ],
)  # fmt: skip
def test_damaged_compression_refuses_the_file_and_stores_nothing(take: Take, data: bytes) -> None:
    done, stored, _ = take(data, "a.csv.packed")
    assert stored == {}
    assert "'a.csv.packed' needs to be a" in done.failures[0].reason
    assert "Deliver it again" in done.failures[0].reason


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(GZIP + bytes(512), id="padded gzip"),
        pytest.param(igzip.compress(LINES[:777]) + igzip.compress(LINES[777:]), id="two members"),
        pytest.param(igzip.compress(b"") + GZIP, id="an empty member first"),
        pytest.param(zstandard.compress(b"") + ZSTD, id="an empty frame first"),
    ],
)
def test_packed_in_parts_is_whole(take: Take, data: bytes) -> None:
    done, stored, bad = take(data)
    assert (done.rows, len(stored), bad) == (3000, 3000, [])


# --- bombs


@pytest.mark.parametrize("pack", [igzip.compress, zstandard.compress])
def test_a_compressed_bomb_is_refused_by_its_ratio(
    take: Take, pack: Callable[[bytes], bytes]
) -> None:
    bomb = pack(text(row("m1")) + b" " * (80 << 20))
    done, _, _ = take(bomb, "bomb.csv.packed")
    reason = done.failures[0].reason
    assert "'bomb.csv.packed' needs to hold at most 200 times its stored size" in reason
    assert f"{len(bomb):,} bytes become" in reason


def test_zeros_all_day_are_no_bomb(take: Take) -> None:
    lines = "".join(row(f"meter-{i}", "0.000") + "\n" for i in range(100))
    data = zstandard.ZstdCompressor(level=19).compress((f"{HEADER}\n" + lines * 100).encode())
    assert take(data)[0].rows == 10_000


def test_text_that_came_uncompressed_may_be_as_dull_as_it_likes(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "EXPANSION_IS_FREE_BYTES", 1000)
    (tmp_path / "a.csv").write_bytes(text(row("m1")) + b"\n" * 1_000_000)
    source = land.land(store, land.delivery_of(tmp_path / "a.csv"))
    with source.open() as file:
        assert len(file.read()) > 1_000_000


def test_a_parquet_bomb_is_refused_by_its_rows(take: Take) -> None:
    rows = 4_000_000
    columns = {name: pl.repeat(None, rows, dtype=pl.Int8, eager=True) for name in "abc"}
    columns |= {n: pl.repeat(0, rows, dtype=pl.Int8, eager=True) for n in HEADER.split(",")}
    buffer = io.BytesIO()
    pl.DataFrame(columns).write_parquet(buffer, row_group_size=rows)
    done, _, _ = take(buffer.getvalue(), "bomb.parquet")
    assert "needs to hold at most 5,000 times its stored size" in done.failures[0].reason


# --- lines


@pytest.mark.parametrize("pack", [bytes, igzip.compress])
@pytest.mark.parametrize("size", [100 << 20])
def test_a_line_of_any_length_is_one_quarantined_row(
    take: Take, size: int, pack: Callable[[bytes], bytes]
) -> None:
    # Words that do not repeat much: such a line is no bomb.
    noise = np.random.default_rng(1).integers(97, 123, 1 << 20, np.uint8).tobytes()
    line = noise * (size >> 20)
    data = text(row("m1", 1)) + line + b"\n" + text(row("m2", 2)).partition(b"\n")[2]
    done, stored, bad = take(pack(data))
    assert stored == {2: ("m1", 1.0), 4: ("m2", 2.0)}
    assert bad == [(3, line[:65_536].decode(), "is longer than 1,048,576 bytes")]
    assert done.failures == []


@pytest.mark.parametrize("pack", [bytes, igzip.compress, zstandard.compress])
@pytest.mark.parametrize("end", ["", "\n"])
def test_a_line_just_at_the_limit_is_read_and_one_byte_more_is_not(
    take: Take, pack: Callable[[bytes], bytes], end: str
) -> None:
    start, tail = row("m1", "@").split("@")
    fits = start + "1".zfill(MAX_LINE_BYTES - len(start) - len(tail)) + tail
    beyond = fits.replace("readings,", "readings,0")
    assert len(fits) == MAX_LINE_BYTES
    blanks = " " * MAX_LINE_BYTES
    data = text(row("m0"), fits, beyond, row("m2"), blanks, blanks + " ", "").rstrip(b"\n")
    _, stored, bad = take(pack(data + end.encode()))
    assert sorted(stored) == [2, 3, 5]
    assert [(line, reason) for line, _, reason in bad] == [
        (4, "is longer than 1,048,576 bytes"),
        (7, "is longer than 1,048,576 bytes"),
    ]


def test_lines_are_shortened_the_same_however_the_pieces_are_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sources, "MAX_LINE_BYTES", 5)
    data = b"12345\n123456\n1234567\n\n1\n12345678901234567890\nab\n123456789"
    wanted = b"12345\n123456\n123456\n\n1\n123456\nab\n123456"
    for size in range(1, len(data) + 1):
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        assert b"".join(shorten_lines(pieces)) == wanted


def test_an_endless_line_does_not_fill_the_memory() -> None:
    endless = (b"x" * (1 << 20) for _ in range(2000))
    assert sum(map(len, shorten_lines(endless))) == MAX_LINE_BYTES + 1


@pytest.mark.parametrize("frame_bytes", [100, 1000, 100_000])
def test_a_range_ends_with_a_line_and_a_frame_need_not(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frame_bytes: int
) -> None:
    monkeypatch.setattr(land, "FRAME_BYTES", frame_bytes)
    data = text(row("m1"), "x" * 5000, row("m2"), "", "y" * 3000)
    (tmp_path / "a.csv").write_bytes(data.rstrip(b"\n"))
    source = land.land(store, land.delivery_of(tmp_path / "a.csv"))
    parts = [source.read_range(part) for part in source.ranges]
    assert b"".join(parts) == data.rstrip(b"\n")
    assert all(part.endswith(b"\n") for part in parts[:-1])
    lines_before = [b"".join(parts[:i]).count(b"\n") + 1 for i in range(len(parts))]
    assert [part.first_row for part in source.ranges] == lines_before


def test_a_header_without_end_is_no_header(take: Take) -> None:
    columns = ",".join([HEADER, *(f"x{i}" for i in range(20_000))])
    done, _, _ = take(text("1", header=columns))
    assert "has no known format" in done.failures[0].reason
    done, _, _ = take(text("1", header=columns), "b.csv", profile="hes_csv")
    assert "found no line end in its first 65,536 bytes" in done.failures[0].reason


BLANK = ["", " ", "\t", "\r", "\r\r", " \r", "\x0b", "\x0c", "\x85", "\xa0", "\u1680", "\u2003",
         "\u2028", "\u2029", "\u202f", "\u205f", "\u3000", " \u3000\t\r"]  # fmt: skip
NOT_BLANK = [
    "\0",
    "\x1c",
    "\x1f",
    "\x7f",
    "\u200b",
    "\ufeff",
    "\u2060",
    ".",
    '"',
    '""',
    ",",
    "\x80",
]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("around", [row("m1"), row("m1", "x")])
def test_what_is_blank_is_the_same_on_every_path(take: Take, around: str, end: str) -> None:
    lines = [line for word in (*BLANK, *NOT_BLANK) for line in (around, word)]
    done, stored, bad = take(text(*lines, around, end=end))
    wanted = {i for i, line in enumerate([*lines, around], 2) if line not in BLANK}
    assert {*stored, *(line for line, *_ in bad)} == wanted
    assert done.rows == len(wanted)


def test_blank_is_what_polars_strips() -> None:
    characters = pl.Series([chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000])
    white = set(characters.filter(characters.str.strip_chars() == ""))
    data = "\n".join(characters.to_list()).encode()
    ends, _ = lines.scan_lines(data, ",")
    # U+000A is itself a line end: it makes two blank lines of one.
    assert lines.count_blank(data, ends) == len(white - {"\n"}) + 2
    for character in white - {"\n"}:
        assert lines.BLANK.fullmatch(character.encode())


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_byte_order_marks_and_line_ends_change_nothing(take: Take, mark: str, end: str) -> None:
    _, stored, bad = take(mark.encode() + text(row("m1", 1), row("m2", 2), end=end))
    assert (stored, bad) == ({2: ("m1", 1.0), 3: ("m2", 2.0)}, [])


def test_a_byte_order_mark_inside_belongs_to_its_row_wherever_the_file_is_cut(
    take: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = text(*("\ufeff" + row(f"m{i}") for i in range(50)), row("good"))
    whole = take(igzip.compress(lines), "whole.csv.gz")[2]
    monkeypatch.setattr(tabular, "BLOCK_BYTES", 300)
    monkeypatch.setattr(tabular, "PIECE_BYTES", 100)
    lines += f"\n{row('another content')}".encode()
    cut = take(igzip.compress(lines, 1) + igzip.compress(b""), "cut.csv.gz")[2]
    assert cut == whole
    assert [line for line, *_ in whole] == list(range(2, 52))


@pytest.mark.parametrize(
    "pack",
    [partial(gzip.compress, mtime=0), zstandard.compress, zlib.compress],  # a time may have a \n
    ids=["gzip", "zstd", "zlib"],
)
@pytest.mark.parametrize("others", [b"", b"\n" + row("m1").encode()])
def test_a_row_that_is_a_compressed_row_is_not_unpacked(
    take: Take, pack: Callable[[bytes], bytes], others: bytes
) -> None:
    packed = (pack(row(f"m{number}").encode()) for number in range(1000))
    line = next(data for data in packed if b"\n" not in data)
    _, stored, bad = take(HEADER.encode() + b"\n" + line + others)
    assert sorted(stored) == ([3] if others else [])
    assert [line for line, *_ in bad] == [2]


@pytest.mark.parametrize("first", ["x\x01", "x^", "x^,,,,,,,,,"])
def test_a_row_that_begins_like_a_compressed_file_is_a_row(take: Take, first: str) -> None:
    _, stored, bad = take(text(first, row("m1")))
    assert (sorted(stored), [line for line, *_ in bad]) == ([3], [2])


def test_a_lone_carriage_return_does_not_end_a_line(take: Take) -> None:
    both = row("m2", 2) + "\r" + row("m3", 3)
    _, stored, bad = take(text(row("m1", 1), both, row("m4", 4)))
    assert stored == {2: ("m1", 1.0), 4: ("m4", 4.0)}
    assert bad == [(3, both, "needs 10 fields, found 19")]


def test_quotes_end_with_their_line(take: Take) -> None:
    _, stored, bad = take(
        text(
            row('"m,1"', 1),
            row('"m2', 2),
            row('"m""3"', 3),
            row('"m4"', '"4"'),
            row("m5", '"5'),
            row('m"6', 6),
            row("m7", 7),
        )
    )
    assert stored == {
        2: ("m,1", 1.0),
        4: ('m"3', 3.0),
        5: ("m4", 4.0),
        7: ('m"6', 6.0),
        8: ("m7", 7.0),
    }
    assert [line for line, *_ in bad] == [3, 6]
    assert bad[0][1] == row('"m2', 2)


@pytest.mark.parametrize("damage", ["", '"', "\udcff"])
def test_widths_that_differ(take: Take, damage: str) -> None:
    rows = [row("m1"), row("m2") + ",", row("m3").rpartition(",")[0], "x", row("m4"), ",,,,,,,,,"]
    data = text(*rows) + damage.encode("utf-8", "surrogateescape")
    _, stored, bad = take(data)
    assert sorted(stored) == [2, 6]
    assert [reason for _, _, reason in bad][:3] == [
        f"needs 10 fields, found {n}" for n in (11, 9, 1)
    ]
    assert [line for line, *_ in bad] == [3, 4, 5, 7] + ([8] if damage else [])


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    "beyond", [",", ",,", ",x", ",,x", ",,,,x,,", ", ", ',""', ',,""', "," * 50]
)
def test_a_cell_too_many_is_seen_even_where_it_is_empty(take: Take, beyond: str, end: str) -> None:
    _, stored, bad = take(text(row("m1"), row("m2") + beyond, row("m3"), end=end))
    assert sorted(stored) == [2, 4]
    assert [(line, raw) for line, raw, _ in bad] == [(3, row("m2") + beyond)]


def test_bytes_that_are_no_text_are_quarantined_in_every_column(take: Take) -> None:
    good = row("m1").encode()
    latin = "2024-01-01 00:00:00,2024-01-01 00:00:09,Zähler,readings,,,,,1,".encode("latin-1")
    unused = good.replace(b"readings,1,", b"readings,\xff,", 1)
    data = b"\n".join([HEADER.encode() + b",note", *(line + b",\xc3\xa4" for line in [good] * 9),
                       latin + b",", unused + b",", good + b",\xff\xfe", good + b","])  # fmt: skip
    _, stored, bad = take(data)
    assert sorted(stored) == [*range(2, 11), 14]
    assert [(line, reason) for line, _, reason in bad] == [
        (line, "needs to be UTF-8 text") for line in (11, 12, 13)
    ]
    assert "Z\\xe4hler" in bad[0][1]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("profile", [None, "hes_csv"])
def test_other_encodings_are_refused_in_printable_words(
    take: Take, encoding: str, profile: str | None
) -> None:
    done, _, _ = take(text(row("m1")).decode().encode(encoding), profile=profile)
    reason = done.failures[0].reason
    assert "no known format" in reason or "lacks" in reason
    assert reason.isprintable()


# --- cells


@pytest.mark.parametrize(
    ("number", "kw"),
    [("-0", 0.0), ("-1.5", -1.5), ("1e3", 1000.0), ("+1", 1.0), (" 1 ", 1.0), (".5", 0.5),
     ("1e-400", 0.0), ("007", 7.0)],
)  # fmt: skip
def test_odd_numbers_that_are_numbers(take: Take, number: str, kw: float) -> None:
    _, stored, bad = take(text(row("m0", 1), row("m1", number), row("m2", 2)))
    assert (stored[3], sorted(stored), bad) == (("m1", kw), [2, 3, 4], [])


def test_a_row_without_a_value_is_stored_without_one(take: Take) -> None:
    done, stored, bad = take(text(row("m0", 1), row("m1", ""), row("m2", " ")))
    assert (done.readings, sorted(stored), bad) == (16, [2, 3, 4], [])


@pytest.mark.parametrize(
    "number",
    ["NaN", "nan", "inf", "-inf", "Infinity", "1e309", "-1e309", "0x10", "1_000", "1;5", "٣", "1 5",
     "--1", "-", "null", "true", "1e", "１", '"1,5"', "1\x00", "\x001"],
)  # fmt: skip
def test_what_is_no_finite_number_is_quarantined_with_its_line(take: Take, number: str) -> None:
    bad_row = row("m1", number)
    _, stored, bad = take(text(row("m0", 1), bad_row, row("m2", 2)))
    assert sorted(stored) == [2, 4]
    assert [(line, raw) for line, raw, _ in bad] == [(3, bad_row)]
    assert "kw is not a " in bad[0][2]


@pytest.mark.parametrize(
    "time",
    ["0001-01-01 00:00:00", "9999-12-31 23:59:59", "0000-00-00 00:00:00", "0000-01-01 00:00:00",
     "-0001-01-01 00:00:00", "99999-01-01 00:00:00", "2024-02-30 00:00:00", "2024-01-01 25:00:00",
     "2024-01-01", "1704067200", "", "never", "2100-01-01 00:00:00", "1969-12-31 23:59:59.999999",
     "292278-01-01 00:00:00", "2024-01-01 00:00:00+99:99"],
)  # fmt: skip
def test_what_is_no_time_of_a_reading_is_quarantined_with_its_line(take: Take, time: str) -> None:
    bad_row = time + row("m1")[19:]
    _, stored, bad = take(text(row("m0"), bad_row, row("m2")))
    assert sorted(stored) == [2, 4]
    assert [(line, raw) for line, raw, _ in bad] == [(3, bad_row)]
    assert bad[0][2].startswith("time is ")


@pytest.mark.parametrize("delivered", ["fast", "quoted"])
@pytest.mark.parametrize(
    "meter",
    ["a/b", "a=b", "a%20b", "it's", "Zähler 3", "عداد", "⚡🔌", "../../etc", "a b", "..", "é", "𝟙"],
)
def test_a_meters_id_is_any_text(take: Take, meter: str, delivered: str) -> None:
    cell = f'"{meter}"' if delivered == "quoted" else meter
    _, stored, bad = take(text(row("m0"), row(cell), row("m2")))
    assert (stored[3], bad) == ((meter, 1.0), [])


@pytest.mark.parametrize("others", ["m0", "Zähler"])
@pytest.mark.parametrize("character", [*map(chr, range(1, 10)), "\0", "\x1b", "\x1f", "\x7f",
                                       "\x80", "\x85", "\x9f", "\r", "\x0b"])  # fmt: skip
def test_a_meters_id_has_no_control_characters(take: Take, character: str, others: str) -> None:
    bad_row = row(f"m{character}1")
    _, stored, bad = take(text(row(others), bad_row, row("m2")))
    assert sorted(stored) == [2, 4]
    # `raw` is as it was delivered, through Parquet and DuckDB.
    words = "device_id has a control character, which no meter's id may have"
    assert bad == [(3, bad_row, words)]


def test_control_characters_elsewhere_are_no_harm(take: Take) -> None:
    rows = [row("m1") + ",a\0b\x1b", row("m2") + ",\x7f"]
    _, stored, bad = take(text(*rows, header=HEADER + ",note"))
    assert (sorted(stored), bad) == ([2, 3], [])


@pytest.mark.parametrize("double", ["kw,kw", "note,note"])
def test_a_header_that_names_a_column_twice_is_refused(take: Take, double: str) -> None:
    header = HEADER.replace(",kw,", f",{double},") if "kw" in double else f"{HEADER},{double}"
    done, _, _ = take(text(row("m1"), header=header))
    assert "appears twice" in done.failures[0].reason


# --- Parquet

TABLE = {
    "time": [datetime(2024, 1, 1, hour) for hour in range(3)],  # noqa: DTZ001
    "arrival_time": [datetime(2024, 1, 1, 5)] * 3,  # noqa: DTZ001
    "device_id": ["m1", "m2", "m3"],
    "measure_name": ["readings"] * 3,
    **{name: [None, 1.0, 2.0] for name in ("load", "crrnt", "pf", "kva", "vltg")},
    "kw": [0.0, 1.5, None],
}


@pytest.fixture
def probed_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the process of its own does with a sound file is done in this one, which is quicker."""

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[:3] == [sys.executable, "-m", probe.__name__]
        probe._main(*command[3:])
        return subprocess.CompletedProcess(command, 0, stdout="", stderr="")

    monkeypatch.setattr(probe, "subprocess", mock.Mock(subprocess, run=run))


def parquet(**columns: pl.Series) -> bytes:
    buffer = io.BytesIO()
    pl.DataFrame(TABLE, strict=False).with_columns(
        series.alias(name) for name, series in columns.items()
    ).write_parquet(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("kw", pl.Series([Decimal("0.00"), Decimal("1.50"), None], dtype=pl.Decimal(10, 2))),
        ("kw", pl.Series([0, 1.5, None], dtype=pl.Float32)),
        ("kw", pl.Series(["0", "1.5", None])),
        ("device_id", pl.Series(["m1", "m2", "m3"], dtype=pl.Categorical)),
        ("device_id", pl.Series(["m1", "m2", "m3"], dtype=pl.Enum(["m1", "m2", "m3"]))),
        ("device_id", pl.Series([b"m1", b"m2", b"m3"])),
        ("measure_name", pl.Series(["readings"] * 3, dtype=pl.Categorical)),
        ("time", pl.Series(["2024-01-01 00:00:00"] * 3, dtype=pl.Categorical)),
        ("time", pl.Series([date(2024, 1, 1)] * 3)),
        ("vltg", pl.Series([None, None, None])),
        ("pf", pl.Series([[1.0]] * 3).list.first()),
    ],
)
@pytest.mark.usefixtures("probed_here")
def test_parquet_columns_of_other_types_mean_the_same(
    take: Take, column: str, values: pl.Series
) -> None:
    _, stored, bad = take(parquet(**{column: values}), "a.parquet")
    assert (stored, bad) == ({1: ("m1", 0.0), 2: ("m2", 1.5), 3: ("m3", None)}, [])


def test_meter_numbers_become_text(take: Take) -> None:
    _, stored, _ = take(parquet(device_id=pl.Series([1, 2**63, 3], dtype=pl.UInt64)), "a.parquet")
    assert [meter for meter, _ in stored.values()] == ["1", str(2**63), "3"]


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("kw", pl.Series([[1.0], [2.0], [3.0]]), "kw needs to be text, a number or a time"),
        ("kw", pl.Series([{"a": 1}] * 3), "found Struct"),
        ("kw", pl.Series([True, False, True]), "kw is not a number: '"),
        ("kw", pl.Series([date(2024, 1, 1)] * 3), "kw is not a number: '2024-01-01'"),
        ("kw", pl.Series([1, 2, 3]).cast(pl.Duration("us")), "kw needs to be text"),
        ("kw", pl.Series([float("nan"), float("inf"), -float("inf")]), "not a finite number"),
        ("device_id", pl.Series([["m1"]] * 3), "device_id needs to be text"),
        ("device_id", pl.Series([b"\xff", b"\xfe", b"\xc3"]), "found Binary"),
        ("device_id", pl.Series([None] * 3), "device_id is empty"),
        ("device_id", pl.Series(["a\0b", "\x1b[2J", "a\nb"]), "control character"),
        ("time", pl.Series([None] * 3), "time is not a valid time"),
        ("time", pl.Series([1704067200] * 3), "time is not a valid time"),
        ("time", pl.Series([date(1, 1, 1)] * 3), "outside 1970 to 2099"),
        ("time", pl.Series([date(9999, 12, 31)] * 3), "outside 1970 to 2099"),
        ("measure_name", pl.Series([1, 2, 3]), "measure_name needs to be 'readings'"),
        ("measure_name", pl.Series([{"a": 1}] * 3), "measure_name needs to be"),
    ],
)
@pytest.mark.usefixtures("probed_here")
def test_parquet_cells_that_cannot_be_meant_are_quarantined_with_their_row(
    take: Take, column: str, values: pl.Series, words: str
) -> None:
    _, stored, bad = take(parquet(**{column: values}), "a.parquet")
    assert stored == {}
    assert [line for line, *_ in bad] == [1, 2, 3]
    assert all(words in reason for *_, reason in bad)
    assert '"measure_name"' in bad[0][1]


def test_a_parquet_table_with_a_column_named_like_ours(take: Take) -> None:
    data = parquet(source_row=pl.Series([7, 7, 7]), reason=pl.Series(["x"] * 3))
    _, stored, bad = take(data, "a.parquet")
    assert (sorted(stored), bad) == ([1, 2, 3], [])


def test_damaged_parquet_is_refused_or_read_whole(store: Store, take: Take) -> None:
    data = parquet(note=pl.Series([f"{i}" * 99 for i in range(3)]))
    cuts = [data[:cut] for cut in (4, 8, len(data) // 2, len(data) - 8, len(data) - 1)]
    for number, damaged in enumerate([*cuts, data + b"x"]):
        done, stored, _ = take(damaged, f"{number}.parquet")
        assert stored == {}
        assert "sound Parquet file" in done.failures[0].reason


@pytest.mark.parametrize("step", [1600, pytest.param(10, marks=pytest.mark.soak)])
def test_a_parquet_file_with_a_flipped_bit_is_refused_or_accounted_for(
    take: Take, step: int, record_property: Callable[[str, object], None]
) -> None:
    data = parquet(note=pl.Series([f"{i}" * 99 for i in range(3)]))
    # In the first page's header a bit ends the process that reads it: it is never this one.
    positions = [*range(56, 60), *range(4, len(data) - 8, step)]
    refused = 0
    for number, position in enumerate(positions):
        damaged = bytearray(data)
        damaged[position] ^= 1
        done, _, _ = take(bytes(damaged), f"{number}.parquet")
        refused += len(done.failures)
        assert all(f.is_bad for f in done.failures)
        assert done.rows == done.stored + done.quarantined
    assert refused > 0
    record_property("fuzzed files", len(positions))


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("device_id", pl.Series([b"m1", b"\xff", b"m3"])),
        ("kw", pl.Series([None, [1.0], None], dtype=pl.List(pl.Float64))),
        ("time", pl.Series([0, 2**62, 1], dtype=pl.Int64).cast(pl.Datetime("us"))),
    ],
)
@pytest.mark.usefixtures("probed_here")
def test_one_bad_cell_in_a_parquet_column_is_one_quarantined_row(
    take: Take, column: str, values: pl.Series
) -> None:
    _, stored, bad = take(parquet(**{column: values}), "a.parquet")
    assert (sorted(stored), [line for line, *_ in bad]) == ([1, 3], [2])


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
@pytest.mark.parametrize("number", [2**63 - 1, -(2**63) + 1, 2**62])
@pytest.mark.usefixtures("probed_here")
def test_times_beyond_every_calendar_are_quarantined_and_shown(
    take: Take, number: int, unit: Literal["ms", "us", "ns"]
) -> None:
    time = pl.Series([number, None, number], dtype=pl.Int64).cast(pl.Datetime(unit))
    _, stored, bad = take(parquet(time=time), "a.parquet")
    assert stored == {}
    assert [reason.split(":")[0] for *_, reason in bad] == [
        "time is outside 1970 to 2099",
        "time is not a valid time",
        "time is outside 1970 to 2099",
    ]
    assert unit == "ns" or str(number) in bad[0][1]


# --- the law itself


class _Loses:
    """A format that reads what it is told to, whatever there is."""

    name = "loses"

    def __init__(self, rows: int, read: list[int], rejected: list[int]) -> None:
        self._parsed = Parsed(
            pl.DataFrame(
                {
                    "source_row": read,
                    "meter_id": ["m"] * len(read),
                    "reading_date_time": [NOW] * len(read),
                    "kw": [1.0] * len(read),
                },
                schema_overrides={"source_row": pl.Int64},
            ),
            pl.DataFrame(
                [(line, "raw", "reason") for line in rejected], schema=REJECTED, orient="row"
            ),
            rows,
        )

    def recognises(self, source: DeliveredFile, head: bytes) -> bool:
        return True

    def split(self, source: DeliveredFile) -> Iterator[Block]:
        yield Block(source, 1, data=b"")

    def parse(self, block: Block) -> Parsed:
        return self._parsed


def staged(store: Store, fmt: Format) -> Staged | RefusedPortion:
    block = Block(DeliveredFile("x.csv", "x.csv", "none"), 1, data=b"")
    return stage(store, received_at=NOW)(Portion(0, "0", "0", fmt, block))


@pytest.mark.parametrize(
    ("rows", "read", "rejected"),
    [(3, [1, 2], []), (3, [1], [2]), (1, [1, 2], []), (3, [], []), (3, [1, 2], [2]),
     (2, [1, 2], [2]), (0, [], [1]), (4, [1, 2], [2, 3])],
)  # fmt: skip
def test_no_format_can_lose_a_row_or_take_one_twice(
    store: Store, rows: int, read: list[int], rejected: list[int]
) -> None:
    fmt = _Loses(rows, read, rejected)
    refused = staged(store, fmt)
    assert isinstance(refused, RefusedPortion) and isinstance(refused.error, NotReadable)
    assert f"format loses counts {rows} rows" in str(refused.error)


def test_several_readings_of_one_row_are_one_row(store: Store) -> None:
    fmt = _Loses(2, [1, 1], [2, 2])
    done = staged(store, fmt)
    assert isinstance(done, Staged)
    assert (done.rows, done.readings, done.quarantined) == (2, 2, 1)
