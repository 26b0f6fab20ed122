"""`ingest URL` fetches as sources do: by every protocol, whole, and with the lake's credentials."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import obstore
import pytest
from support.outboxes import KINDS, PASSWORD, Answers, Outbox, outbox, web_server
from support.seaweed import SeaweedFS

from meterlake.delta.store import open_store
from meterlake.engine.local import LocalEngine
from meterlake.errors import BadInput, Unavailable
from meterlake.ingest import intake
from meterlake.pipeline.derivation import Session
from meterlake.settings import Settings, load_settings
from meterlake.sources import fetcher, object_store
from meterlake.sources.fetcher import local_copies
from meterlake.storage import ENVIRONMENT, PATIENCE, objects_at

READS = (
    b"time,arrival_time,device_id,measure_name,load,crrnt,pf,kva,kw,vltg\n"
    b"2024-01-01 00:00:00,2024-01-01 00:00:09,m1,readings,1,1,1,1,1.5,220\n"
)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetcher, "_PAUSES", (0.0,))


@pytest.fixture(params=KINDS)
def box(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Outbox]:
    with outbox(request.param, tmp_path, request, monkeypatch) as made:
        yield made


def ingest(lake: Path, location: str, settings: Settings | None = None) -> intake.Ingested:
    settings = settings or load_settings(source=())
    session = Session(open_store(str(lake)), LocalEngine(1), settings, datetime.now(UTC))
    return intake.ingest(session, [location], fetch=local_copies(settings))


def test_a_url_of_any_kind_is_fetched_with_the_credentials_of_its_server(
    box: Outbox, tmp_path: Path
) -> None:
    settings = load_settings(source=[box.told])
    box.put("a b.csv", READS)
    url = box.told["url"].replace("*.csv", "a%20b.csv" if "://" in box.told["url"] else "a b.csv")
    done = ingest(tmp_path / "lake", url, settings)
    assert [(b.file, b.stored) for b in done.balance] == [("a b.csv", 1)], done.failures
    missing = ingest(tmp_path / "lake", url.replace(".csv", ".txt"), settings)
    assert [f.is_bad for f in missing.failures] == [True]
    assert "there is none" in missing.failures[0].reason


def test_a_bucket_is_reached_by_the_profile_that_reaches_a_lake(
    seaweed: SeaweedFS, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = seaweed.environment()
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "config").write_text(
        f"[profile meters]\nregion = us-east-1\nendpoint_url = {told['AWS_ENDPOINT_URL']}\n"
        f"aws_access_key_id = {told['AWS_ACCESS_KEY_ID']}\n"
        f"aws_secret_access_key = {told['AWS_SECRET_ACCESS_KEY']}\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_PROFILE", "meters")
    obstore.put(objects_at(f"s3://{bucket}"), "in/a.csv", READS)
    assert ingest(tmp_path / "lake", f"s3://{bucket}/in/a.csv").rows == 1


@pytest.mark.parametrize("kind", ["s3", "gs", "az"])
def test_a_bucket_is_tried_as_long_as_a_lake_is(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Any] = []

    def objects(url: str, *, patience: Any) -> Any:
        tried.append((url, patience))
        raise ValueError("no such store")

    monkeypatch.setattr(object_store, "objects_at", objects)
    with (
        pytest.raises(Unavailable, match="no such store"),
        local_copies(load_settings())(f"{kind}://b/k"),
    ):
        pass
    assert tried == [(f"{kind}://b", PATIENCE)]


def test_what_breaks_off_goes_on_where_it_was(tmp_path: Path) -> None:
    ranges: list[str | None] = []

    class Breaks(Answers):
        def do_HEAD(self) -> None:
            self.answer(200, READS, ETag='"1"')

        def do_GET(self) -> None:
            ranges.append(self.headers.get("Range"))
            start = 0 if len(ranges) == 1 else 40
            self.send_response(200 if start == 0 else 206)
            self.send_header("Content-Length", str(len(READS) - start))
            self.send_header("Content-Range", f"bytes {start}-{len(READS) - 1}/{len(READS)}")
            self.end_headers()
            self.wfile.write(READS[start : 40 if start == 0 else None])

    with web_server(tmp_path, Breaks) as port:
        done = ingest(tmp_path / "lake", f"http://127.0.0.1:{port}/a.csv")
    assert done.rows == 1, done.failures
    assert ranges == [None, "bytes=40-"]


def test_a_server_that_answers_no_head_and_leads_elsewhere_is_followed(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(READS)
    with web_server(tmp_path) as other:

        class Leads(Answers):
            def do_HEAD(self) -> None:
                self.answer(405)

            def do_GET(self) -> None:
                self.answer(302, Location=f"http://127.0.0.1:{other}/a.csv")

        with web_server(tmp_path, Leads) as port:
            url = f"http://127.0.0.1:{port}/a.csv"
            assert ingest(tmp_path / "lake", url).rows == 1
            told = {"url": url, "user": "mdm", "password_env": "OUTBOX_PASSWORD"}
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("OUTBOX_PASSWORD", PASSWORD)
                done = ingest(tmp_path / "lake", url, load_settings(source=[told]))
    assert "has moved" in done.failures[0].reason


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://mdm:horse@h/a.csv", "has a password in it"),
        ("https://h/a.csv?sig=horse", "without a query"),
        ("gopher://h/horse", "needs a path or one of file://"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_its_secrets(url: str, words: str) -> None:
    with pytest.raises(BadInput, match=words) as error, local_copies(load_settings())(url):
        pass
    assert "horse" not in str(error.value).replace("gopher://h/horse", "")


def test_a_full_disk_is_not_taken_for_a_server_that_broke_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.csv").write_bytes(READS)
    write = fetcher.write_pieces

    def full(pieces: Any, to: Path, **told: Any) -> None:
        write(pieces, Path("/dev/full"), **told)

    monkeypatch.setattr("meterlake.sources.http.write_pieces", full)
    with web_server(tmp_path) as port:
        done = ingest(tmp_path / "lake", f"http://127.0.0.1:{port}/a.csv")
    assert "cannot be kept in /dev: No space left on device" in done.failures[0].reason
