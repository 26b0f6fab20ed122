"""Fuzzing guided by coverage, for a bounded time: no bytes break the law of rows."""

import gzip
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

CASES = Path(__file__).resolve().parents[1] / "cases"
TARGET = Path(__file__).with_name("fuzz_formats.py")
HEADER = b"time,arrival_time,device_id,measure_name,load,crrnt,pf,kva,kw,vltg\n"
ROW = b"2024-01-01 00:00:00,2024-01-01 00:00:09,m1,readings,1,,1,1,%s,220\n"
SGSC = (
    b"customer_id,reading_datetime,general_supply_kwh,controlled_load_kwh,gross_generation_kwh,"
    b"net_generation_kwh,other_kwh\nc1,2012-10-07 02:00:00,1,0,0,0,0\n"
    b"c1,2012-10-07 02:00:00,2,0,0,0,0\n"
)
ODD = [b"1", b"NaN", b"-inf", b'"1"', b'"1', b"1e309", b"\xff", b"\0", b"\x85", b"x" * 600]


def seeds() -> list[bytes]:
    texts = [path.read_bytes() for path in sorted(CASES.rglob("input.*"))]
    texts += [SGSC, HEADER + b"".join(ROW % value for value in ODD), HEADER + b"\n \r\n\xc2\xa0\n"]
    packed = [pack(text) for text in texts for pack in (bytes, gzip.compress, zstandard.compress)]
    return [mark + data for data in packed for mark in (b" ", b"!")]


@pytest.mark.soak
def test_no_bytes_make_a_format_lose_a_row_or_break(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    pytest.importorskip("atheris", reason="atheris is not installed")
    seconds = int(os.environ.get("METERLAKE_FUZZ_SECONDS", "120"))
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(seeds()):
        (corpus / f"seed_{number:03d}").write_bytes(seed)
    done = subprocess.run(
        [sys.executable, str(TARGET), str(corpus), f"-max_total_time={seconds}",
         "-max_len=8192", "-timeout=60", f"-artifact_prefix={tmp_path}/"],
        capture_output=True, text=True, errors="replace", check=False, timeout=seconds + 300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    runs = re.search(r"Done (\d+) runs", done.stderr)
    assert runs is not None, done.stderr[-2000:]
    assert int(runs[1]) > 100
    record_property("fuzzed inputs", int(runs[1]))
