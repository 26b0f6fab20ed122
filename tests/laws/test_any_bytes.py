"""The law of bytes: of any file whatever, every row is stored or quarantined, or it is refused.

The oracle counts lines with the standard library and imports nothing of meterlake.
"""

import gzip
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meterlake.delta.store import open_store
from meterlake.engine.local import LocalEngine
from meterlake.formats import source as sources
from meterlake.formats import tabular
from meterlake.ingest import intake, land
from meterlake.pipeline.derivation import Session
from meterlake.questions.sql import query
from meterlake.settings import load_settings

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
CONF = load_settings(late_hooks=())
MAX_LINE = 400  # instead of 1 MiB, so that lines get there
WHITE = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)

HES = (
    "time,arrival_time,device_id,measure_name,load,crrnt,pf,kva,kw,vltg",
    "2024-01-01 0{}:00:00,2024-01-01 09:00:00,{},readings,1,,1,1,{},220",
)
LCL = (
    "LCLid,stdorToU,DateTime,KWH/hh (per half hour) ",
    "{1},Std,2012-10-12 0{0}:30:00.0000000, {2} ",
)
SGSC = (
    "customer_id,reading_datetime,general_supply_kwh,controlled_load_kwh,gross_generation_kwh,"
    "net_generation_kwh,other_kwh",
    "{1},2012-10-07 0{0}:00:00,{2},0,0,0,0",
)


def rows_of(text: bytes) -> int:
    """The oracle: lines after the first that are not white space only."""
    rows = 0
    for line in text.split(b"\n")[1:]:
        is_long = len(line) > MAX_LINE
        rows += is_long or line.decode("utf-8", "replace").strip(WHITE) != ""
    return rows


def unpacked(data: bytes) -> bytes:
    if data.startswith(b"\x1f\x8b"):
        return gzip.decompress(data)
    if data.startswith(b"\x28\xb5\x2f\xfd"):
        text = b""
        while data:
            frame = zstandard.ZstdDecompressor().decompressobj()
            text += frame.decompress(data)
            if not frame.eof:
                raise EOFError
            data = frame.unused_data
        return text
    return data


def check(data: bytes, *, is_whole: bool, block_bytes: int, profile: str | None = None) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        for module in (sources, tabular):
            patch.setattr(module, "MAX_LINE_BYTES", MAX_LINE)
            patch.setattr(module, "PIECE_BYTES", max(1, block_bytes // 3))
        patch.setattr(tabular, "BLOCK_BYTES", block_bytes)
        patch.setattr(land, "FRAME_BYTES", block_bytes)
        path = Path(folder) / "a.csv"
        path.write_bytes(data)
        store = open_store(str(Path(folder) / "lake"))
        done = intake.ingest(
            Session(store, LocalEngine(1), CONF, NOW), [str(path)], profile=profile
        )
        if done.failures:
            assert not is_whole, done.failures
            assert done.rows == 0
            assert not list(Path(store.url).rglob("*.parquet"))
            return
        lines = [
            line
            for table in ("staging", "quarantine")
            for (line,) in query(store, f"select distinct source_row from {table}").rows()
        ]
        assert len(lines) == len(set(lines)) == done.rows == rows_of(unpacked(data))


good = st.tuples(st.integers(0, 9), st.sampled_from(["m1", "m2", "Zähler"]), st.integers(0, 9))
cell = st.one_of(
    st.sampled_from(
        ["", " ", '"', '""', '"a"', '"a', "NaN", "inf", "-1", "1e309", "0x1", "\0", "\x1b", "\r",
         "\x85", "\u2028", "\ufeff", "x" * 350, "x" * 420, "é", "2024-01-01 00:00:00", "readings"]
    ),
    st.text(max_size=5),
)  # fmt: skip
damaged = st.one_of(
    st.lists(cell, max_size=12).map(",".join),
    st.text(st.sampled_from(WHITE + '",\0x'), max_size=6),
).map(lambda line: line.encode("utf-8", "surrogatepass"))
raw = st.binary(max_size=20)
ends = st.sampled_from([b"\n", b"\n", b"\n", b"\r\n", b"\n\n", b"\r\r\n", b" \n"])
packings: st.SearchStrategy[Callable[[bytes], bytes]] = st.sampled_from(
    [bytes, gzip.compress, zstandard.compress,
     lambda text: gzip.compress(text[:99]) + gzip.compress(text[99:]),
     lambda text: zstandard.compress(text[:99]) + zstandard.compress(text[99:])]
)  # fmt: skip


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """A delivered file's text: a known header, good rows and damaged ones, any line ends."""
    header, row = draw(st.sampled_from([HES, HES, LCL, SGSC]))
    text = draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + header.encode()
    text += draw(st.sampled_from([b"\n", b"\r\n"]))
    line = st.one_of(good.map(lambda v: row.format(*v).encode()), damaged, raw)
    lines = draw(st.lists(st.tuples(line, ends), max_size=20))
    text += b"".join(line + end for line, end in lines)
    return text if draw(st.booleans()) else text.rstrip(b"\n")


@st.composite
def edited(draw: st.DrawFn) -> bytes:
    """Bytes of a file that something happened to."""
    data = draw(packings)(draw(files()))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        to = draw(st.integers(at, min(len(data), at + 40)))
        data = draw(
            st.sampled_from(
                [data[:at], data[at:], data[:at] + data[to:], data[:to] + data[at:],
                 data[:at] + draw(raw) + data[to:]]
            )
        )  # fmt: skip
    return data


blocks = st.sampled_from([450, 1000, 1_000_000])


def whole_files(examples: int) -> int:
    runs = 0

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
    @given(text=files(), pack=packings, block_bytes=blocks)
    def law(text: bytes, pack: Callable[[bytes], bytes], block_bytes: int) -> None:
        nonlocal runs
        runs += 1
        check(pack(text), is_whole=True, block_bytes=block_bytes)

    law()
    return runs


def any_bytes(examples: int) -> int:
    runs = 0

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
    @given(
        data=st.one_of(edited(), edited(), edited(), st.binary(min_size=1, max_size=300)),
        block_bytes=blocks,
        profile=st.sampled_from([None, "hes_csv"]),
    )
    def law(data: bytes, block_bytes: int, profile: str | None) -> None:
        nonlocal runs
        runs += 1
        check(data, is_whole=False, block_bytes=block_bytes, profile=profile)

    law()
    return runs


def test_rows_are_stored_or_quarantined_and_never_neither(
    record_property: Callable[[str, object], None],
) -> None:
    record_property("fuzzed files", whole_files(30))


def test_any_bytes_balance_or_are_refused(
    record_property: Callable[[str, object], None],
) -> None:
    record_property("fuzzed files", any_bytes(60))


@pytest.mark.soak
def test_rows_are_stored_or_quarantined_in_very_many_files(
    record_property: Callable[[str, object], None],
) -> None:
    record_property("fuzzed files", whole_files(2000))


@pytest.mark.soak
def test_very_many_bytes_balance_or_are_refused(
    record_property: Callable[[str, object], None],
) -> None:
    record_property("fuzzed files", any_bytes(4000))
