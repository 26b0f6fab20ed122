"""How files come in: plain, packed, in pieces, by URL; and what is kept of them."""

import functools
import hashlib
import http.server
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import zstandard
from isal import igzip

from meterlake.delta.commit import snapshot
from meterlake.delta.store import Store, open_store
from meterlake.engine.local import LocalEngine
from meterlake.errors import BadInput, NotReadable
from meterlake.ingest import intake, land
from meterlake.integrate import derivations
from meterlake.integrate.events import LateReads, post_late_reads
from meterlake.pipeline.derivation import Session
from meterlake.questions.sql import query
from meterlake.schema import STAGING
from meterlake.settings import load_settings
from meterlake.sources.fetcher import local_copies

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
CONF = load_settings(late_hooks=())
HEADER = "time,arrival_time,device_id,measure_name,load,crrnt,pf,kva,kw,vltg"
TEXT = "\n".join(
    [
        HEADER,
        *(f"2024-01-01 00:00:00,2024-01-01 00:00:01,m{i},readings,,,,,{i}," for i in range(500)),
        "damaged",
        "",
    ]
).encode()


def ingest(store: Store, *locations: str) -> intake.Ingested:
    session = Session(store, LocalEngine(2), CONF, NOW)
    return intake.ingest(session, locations, fetch=local_copies(CONF))


def staged(store: Store) -> tuple[int, float, int]:
    sql = "select count(*), sum(reading_value), max(source_row) from staging"
    return query(store, sql).row(0)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.csv", TEXT),
        ("a.csv.gz", igzip.compress(TEXT)),
        ("members.csv.gz", igzip.compress(TEXT[:999]) + igzip.compress(TEXT[999:])),
        ("a.csv.zst", zstandard.compress(TEXT)),
        ("frames.csv.zst", zstandard.compress(TEXT[:999]) + zstandard.compress(TEXT[999:])),
        ("wrong_name.txt", igzip.compress(TEXT)),
    ],
)
def test_packed_or_not_a_file_says_the_same(
    store: Store, tmp_path: Path, name: str, data: bytes
) -> None:
    (tmp_path / name).write_bytes(data)
    done = ingest(store, str(tmp_path / name))
    assert (done.rows, done.quarantined, done.failures) == (501, 1, [])
    assert staged(store) == (500, sum(range(500)), 501)
    line, raw = query(store, "select source_row, raw from quarantine").row(0)
    assert (line, raw) == (502, "damaged")


def test_plain_text_is_read_in_ranges_with_the_right_line_numbers(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(land, "FRAME_BYTES", 1000)
    (tmp_path / "a.csv").write_bytes(TEXT)
    source = land.land(store, land.delivery_of(tmp_path / "a.csv"))
    assert len(source.ranges) > 10
    assert b"".join(source.read_range(r) for r in source.ranges) == TEXT
    done = ingest(store, str(tmp_path / "a.csv"))
    assert (done.rows, done.quarantined) == (501, 1)
    assert query(store, "select source_row from quarantine").row(0) == (502,)
    assert query(store, "select count(*) from staging where reading_value != source_row - 2").row(
        0
    ) == (0,)


@pytest.mark.parametrize("store", ["file"], indirect=True)  # looks into the folder
def test_what_was_delivered_is_kept_and_nothing_uncompressed(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(TEXT)
    (tmp_path / "b.csv.gz").write_bytes(packed := igzip.compress(TEXT + b"more\n"))
    ingest(store, str(tmp_path / "a.csv"), str(tmp_path / "b.csv.gz"))
    kept = {p.name: p for p in (Path(store.url) / "inbound").rglob("*") if p.is_file()}
    assert sorted(kept) == ["a.csv.zst", "b.csv.gz"]
    assert kept["b.csv.gz"].read_bytes() == packed
    with zstandard.open(kept["a.csv.zst"], "rb") as file:
        assert file.read() == TEXT


def test_a_folder_is_taken_by_name_without_files_still_being_written(
    store: Store, tmp_path: Path
) -> None:
    inbox = tmp_path / "inbox"
    (inbox / "deep").mkdir(parents=True)
    for name in ("b.csv", "deep/a.csv", ".hidden.csv", "c.csv.part"):
        (inbox / name).write_bytes(TEXT + name.encode())
    assert [Path(f).name for f in land.expand([str(inbox)])] == ["b.csv", "a.csv"]
    assert ingest(store, str(inbox)).files == 2


@pytest.mark.parametrize("store", ["file"], indirect=True)  # looks into the folder
def test_a_file_name_cannot_leave_the_inbound_folder(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "..%2F..\\x=1 ü\n.csv"
    path.write_bytes(TEXT)
    assert ingest(store, str(path)).files == 1
    kept = [p for p in (Path(store.url) / "inbound").rglob("*") if p.is_file()]
    assert [p.parent.parent.name for p in kept] == ["inbound"]
    assert query(store, "select distinct source_file from staging").row(0) == (path.name,)


def test_parquet_is_a_table_too(store: Store, tmp_path: Path) -> None:
    profile = tmp_path / "p.toml"
    profile.write_text(
        'name="p"\nmeter="id"\n[time]\ncolumn="t"\nzone="UTC"\n[values]\nkw={type="kw",unit="kW"}\n'
    )
    pl.DataFrame(
        {"id": [7, 8, None], "t": [NOW, None, NOW], "kw": [1.5, 2.5, 3.5]},
        schema={"id": pl.Int64, "t": pl.Datetime("ns", "UTC"), "kw": pl.Float32},
    ).write_parquet(tmp_path / "a.parquet")
    done = intake.ingest(
        Session(store, LocalEngine(1), CONF, NOW),
        [str(tmp_path / "a.parquet")],
        profile=str(profile),
    )
    assert (done.rows, done.readings, done.quarantined) == (3, 1, 2)
    assert query(store, "select meter_id, reading_value from staging").row(0) == ("7", 1.5)
    rows = query(store, "select source_row, raw, reason from quarantine order by 1").rows()
    assert [r[0] for r in rows] == [2, 3]
    assert '"id": 8' in rows[0][1]


def test_staging_files_are_ordered_by_hour_so_that_statistics_find_one(
    store: Store, deliver: Callable[..., Path]
) -> None:
    rows = [
        f"2024-01-01 {hour:02d}:{minute:02d}:00,2024-01-02 00:00:00,m1,readings,,,,,1,"
        for minute in (45, 0)
        for hour in (23, 5, 11)
    ]
    ingest(store, str(deliver("a.csv.gz", *rows)))
    (file,) = snapshot(store, STAGING).files
    times = pl.read_parquet(store.uri(f"{STAGING.path}/{file.path}"))["reading_date_time"]
    assert times.dt.hour().to_list() == [5, 5, 11, 11, 23, 23]


def test_a_url_that_cannot_be_had_does_not_keep_the_others_out(
    store: Store, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_bytes(TEXT)
    done = ingest(store, "http://127.0.0.1:9/x.csv.gz", str(tmp_path / "a.csv"))
    assert (done.files, [f.is_bad for f in done.failures]) == (1, [False])
    assert "cannot be fetched" in done.failures[0].reason


class _Answers(http.server.SimpleHTTPRequestHandler):
    posted: list[bytes]

    def do_POST(self) -> None:
        self.posted.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(500 if b"refuse" in self.path.encode() else 204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Be silent."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, list[bytes]]]:
    _Answers.posted = []
    handler = functools.partial(_Answers, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}", _Answers.posted
        httpd.shutdown()
        thread.join()


def test_a_file_that_is_delivered_twice_at_once_is_taken_in_once_and_refused_twice(
    store: Store, tmp_path: Path
) -> None:
    for folder in ("monday", "tuesday"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "good.csv").write_bytes(TEXT)
        (tmp_path / folder / "bad.csv.gz").write_bytes(igzip.compress(TEXT)[:-9])
    done = ingest(store, str(tmp_path))
    assert (done.files, done.already_ingested, done.rows) == (1, 1, 501)
    assert [f.file for f in done.failures] == [
        str(tmp_path / folder / "bad.csv.gz") for folder in ("monday", "tuesday")
    ]
    assert all(f.is_bad for f in done.failures)
    kept = [f.path for f in store.list("inbound")]
    assert sum("failed" in path for path in kept) == 2  # the file, and why
    assert len(kept) == 3


def test_a_url_is_fetched(store: Store, tmp_path: Path, server: tuple[str, list[bytes]]) -> None:
    url, _ = server
    (tmp_path / "reads of today.csv.gz").write_bytes(igzip.compress(TEXT))
    done = ingest(store, f"{url}/reads%20of%20today.csv.gz")
    assert (done.rows, done.failures) == (501, [])
    assert query(store, "select distinct source_file from staging").row(0) == (
        "reads of today.csv.gz",
    )
    missing = ingest(store, f"{url}/nothing.csv.gz")
    assert "there is none" in missing.failures[0].reason


def test_the_webhook_is_told_of_late_reads(
    server: tuple[str, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, posted = server
    event = LateReads(3, 2, [{"reading_type": "kw", "late": 3}])
    post_late_reads(event, load_settings(late_webhook_url=f"{url}/hook"))
    assert b'"late": 3' in posted[0]
    with pytest.raises(BadInput, match="late_webhook_url"):
        post_late_reads(event, load_settings(late_webhook_url="ftp://x"))


def test_a_file_that_another_process_can_read_meanwhile_is_not_set_aside(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.csv").write_bytes(TEXT)
    real: Any = intake.__dict__["recognise"]

    def overtaken(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(intake, "recognise", real)
        ingest(store, str(tmp_path / "a.csv"))
        raise NotReadable("by this profile it cannot be read")

    monkeypatch.setattr(intake, "recognise", overtaken)
    done = ingest(store, str(tmp_path / "a.csv"))
    assert (done.already_ingested, done.failures) == (1, [])
    kept = [f.path for f in store.list("inbound")]
    assert len(kept) == 1
    assert "failed" not in kept[0]


def test_a_lake_below_a_folder_that_looks_like_a_partition_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="without '='"):
        open_store(str(tmp_path / "region=north" / "lake"))


@pytest.mark.parametrize(
    "name",
    [
        *("[a]b", "100%", "it's"),
        *(pytest.param(name, marks=pytest.mark.proof) for name in ("a*", "a?", "a b", "ä")),
    ],
)
def test_a_lakes_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    store = open_store(str(tmp_path / name / "lake"))
    (tmp_path / name).mkdir()
    pl.read_csv(TEXT).write_parquet(tmp_path / name / "a.parquet")
    (tmp_path / name / "a.csv").write_bytes(TEXT)
    conf = load_settings(late_hooks=())
    for file in ("a.parquet", "a.csv"):
        assert ingest(store, str(tmp_path / name / file)).files == 1
    done = derivations.integrate(Session(store, LocalEngine(2), conf, NOW))
    assert done.added > 0
    assert query(store, "SELECT count(*) FROM readings").item() == done.added


def test_a_content_is_taken_in_once_however_it_is_packed(store: Store, tmp_path: Path) -> None:
    packed = {
        "a.csv": TEXT,
        "a.csv.gz": igzip.compress(TEXT),
        "b.csv.gz": igzip.compress(TEXT, 0),
        "a.csv.zst": zstandard.compress(TEXT),
    }
    for first in packed:
        lake = open_store(f"{store.url}-{first}")
        taken_in = []
        for name in (first, *packed):
            (tmp_path / name).write_bytes(packed[name])
            path = [str(tmp_path / name)]
            done = intake.ingest(Session(lake, LocalEngine(1), CONF, NOW), path)
            taken_in.append(done.files)
        assert taken_in == [1, 0, 0, 0, 0]
        rows = query(lake, "SELECT source_file, sha256, stored, quarantined, state FROM deliveries")
        assert rows.rows() == [(first, hashlib.sha256(TEXT).hexdigest(), 500, 1, "active")]
        assert len([f for f in lake.list("inbound") if "failed" not in f.path]) == 1


def test_a_content_that_comes_twice_at_once_is_taken_in_once(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(TEXT)
    (tmp_path / "b.csv.gz").write_bytes(igzip.compress(TEXT))
    done = intake.ingest(Session(store, LocalEngine(2), CONF, NOW), [str(tmp_path)])
    assert (done.files, done.already_ingested, done.failures) == (1, 1, [])
    assert snapshot(store, STAGING).rows == 500
