"""Places that lie, refuse or are down; what their names and links may do; settings of sources."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from support.outboxes import KINDS, PASSWORD, USER, Answers, ftp_server, sftp_server, web_server

from meterlake.cli.options import to_duration
from meterlake.errors import BadInput, MeterlakeError, Unavailable
from meterlake.settings import load_settings, settings_table
from meterlake.source_settings import SourceSettings
from meterlake.sources.fetcher import fetch
from meterlake.sources.places import PlaceSource, listing, put_away
from meterlake.sources.port import FileUnavailable, Listed, SourceFile, TakenFile, Version

SECRET = {"user": USER, "password_env": "OUTBOX_PASSWORD"}


@pytest.fixture(autouse=True)
def password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTBOX_PASSWORD", PASSWORD)


def listed(url: str, **told: Any) -> list[str]:
    """Paths of the files that a source's url names."""
    source = SourceSettings.model_validate({"url": url, **told})
    with PlaceSource(source).opened() as place:
        return [file.path for file in listing(place, source.address.path).files]


def test_an_unknown_sftp_server_is_refused_and_learns_nothing(tmp_path: Path) -> None:
    with sftp_server(tmp_path) as (port, key):
        url = f"sftp://127.0.0.1:{port}/*"
        fingerprint = asyncssh.import_public_key(key).get_fingerprint()
        with pytest.raises(BadInput, match="not known yet") as error:
            listed(url, **SECRET)
        assert fingerprint in str(error.value)
        assert "set host_key" in str(error.value)
        other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
        with pytest.raises(BadInput, match="The connection may be intercepted"):
            listed(url, **SECRET, host_key=other)
        known = tmp_path / "known_hosts"
        known.write_text(f"[127.0.0.1]:{port} {other}")
        with pytest.raises(BadInput, match="a key of"):
            listed(url, **SECRET, known_hosts=known)
        known.write_text(f"[127.0.0.1]:{port} {key}")
        assert listed(url, **SECRET, known_hosts=known) == ["/known_hosts"]
        assert listed(url, **SECRET, host_key=fingerprint) == ["/known_hosts"]


@pytest.mark.parametrize("kind", ["sftp", "ftp", "ftps", "http"])
def test_a_wrong_password_is_bad_input_and_is_not_told(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUTBOX_PASSWORD", "never tell this")
    told: dict[str, Any] = dict(SECRET)
    with served(kind, tmp_path, monkeypatch, told) as url, pytest.raises(BadInput) as error:
        listed(url, **told)
    assert "password_env" in str(error.value)
    assert "never tell" not in f"{error.value!r} {error.value.__cause__!r}"
    monkeypatch.delenv("OUTBOX_PASSWORD")
    with pytest.raises(BadInput, match="OUTBOX_PASSWORD, which is not set"):
        listed(url, **told)


class served:  # noqa: N801
    """A server of a kind that asks for a password."""

    def __init__(
        self, kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch, told: dict[str, Any]
    ) -> None:
        self.kind, self.folder, self.told = kind, folder, told
        self.monkeypatch = monkeypatch

    def __enter__(self) -> str:
        self.server: Any
        if self.kind == "sftp":
            self.server = sftp_server(self.folder)
            port, self.told["host_key"] = self.server.__enter__()
        elif self.kind == "http":
            self.server = web_server(self.folder, Guarded)
            port = self.server.__enter__()
        else:
            self.server = ftp_server(self.folder, is_safe=self.kind == "ftps")
            port = self.server.__enter__()
            self.monkeypatch.setenv("SSL_CERT_FILE", str(self.folder / "certificate.pem"))
        return f"{self.kind}://127.0.0.1:{port}/*"

    def __exit__(self, *error: Any) -> None:
        self.server.__exit__(*error)


class Guarded(Answers):
    """Lets nobody in."""

    def do_GET(self) -> None:
        self.answer(401)


def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    with (
        ftp_server(tmp_path, is_safe=True) as port,
        pytest.raises(BadInput, match=r"not trusted.*Nothing was sent"),
    ):
        listed(f"ftps://127.0.0.1:{port}/*", **SECRET)


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_that_is_down_is_unavailable(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    url = {"folder": f"{tmp_path}/none/*", "s3": "s3://bucket/*"}.get(
        kind, f"{kind}://127.0.0.1:1/*"
    )
    told = SECRET if kind not in ("folder", "s3") else {}
    host_key = {"host_key": "SHA256:x"} if kind == "sftp" else {}
    with pytest.raises(Unavailable):
        listed(url, **told, **host_key)


def test_an_ftp_server_without_sizes_in_its_lists_serves_too(tmp_path: Path) -> None:
    (tmp_path / "out" / "below").mkdir(parents=True)
    (tmp_path / "out" / "a.csv").write_bytes(b"12345")
    with ftp_server(tmp_path, lists=False) as port:
        source = SourceSettings(url=f"ftp://127.0.0.1:{port}/out/*", **SECRET)
        with PlaceSource(source).opened() as place:
            (file,) = listing(place, "/out/*").files
            assert (file.path, file.version.size) == ("/out/a.csv", 5)
            assert file.version.modified is not None
            fetch(place, file, tmp_path / "here", seen=lambda done: None)
    assert (tmp_path / "here").read_bytes() == b"12345"


class Lying:
    """A place whose server says what a test says."""

    is_atomic = False

    def __init__(self, names: dict[str, list[str]]) -> None:
        self.names = names
        self.moved: list[tuple[str, str]] = []
        self.there: dict[str, Version] = {}

    def entries(self, folder: str, wanted: Any) -> Iterator[Listed]:
        for name in self.names.get(folder, []):
            if wanted(name.removesuffix("/")):
                is_folder = name.endswith("/")
                yield Listed(name.removesuffix("/"), None if is_folder else Version(1))

    def version(self, path: str) -> Version | None:
        return self.there.get(path)

    def fetch(self, file: SourceFile, to: Path, *, seen: Any) -> None:
        raise NotImplementedError

    def rename(self, path: str, to: str) -> None:
        self.moved.append((path, to))

    def close(self) -> None:
        pass


def test_names_that_a_server_makes_up_lead_nowhere() -> None:
    bad = ["a/../../x.csv", "a/b.csv", "\x1b[31m.csv", "c\\d.csv", "x" * 300 + ".csv", "nul\0.csv"]
    odd = [
        ".hidden.csv",
        "../x.csv",
        "b.csv.part",
        "t.tmp",
        "u.filepart",
        "v.crdownload",
        "a.csv.taken",
    ]
    found = listing(Lying({"/out/": [*bad, *odd, "good.csv"]}), "/out/*")
    assert [file.path for file in found.files] == ["/out/good.csv"]
    assert found.unusable == set(bad)
    assert found.marks == {"/out/a.csv.taken"}


def test_a_pattern_may_have_several_parts_and_a_folder_means_its_files() -> None:
    place = Lying(
        {
            "out/": ["a/", "b/", "taken/", "x.csv"],
            "out/a/": ["1.csv"],
            "out/b/": ["2.csv", "2.txt"],
            "out/taken/": ["0.csv"],
            "": ["out/"],
        }
    )
    assert [f.path for f in listing(place, "out/*/*.csv").files] == ["out/a/1.csv", "out/b/2.csv"]
    assert [f.path for f in listing(place, "out").files] == ["out/x.csv"]
    assert [f.path for f in listing(place, "out/[ab]/?.txt").files] == ["out/b/2.txt"]


def test_a_file_that_was_replaced_is_not_put_away_and_an_earlier_one_is_not_lost() -> None:
    place, at = Lying({}), datetime(2024, 1, 1, tzinfo=UTC)
    taken = TakenFile(SourceFile("out/a.csv", Version(5)), "taken", at)
    place.there = {"out/a.csv": Version(6)}
    assert not put_away(place, taken, after="move")
    place.there = {"out/a.csv": Version(5), "out/taken/a.csv": Version(5)}
    assert put_away(place, taken, after="move")
    assert place.moved == [("out/a.csv", "out/taken/a.csv.2024-01-01T000000.000000Z")]


def test_a_pages_links_lead_to_its_own_folder_alone(tmp_path: Path) -> None:
    asked = []

    class Page(Answers):
        def do_GET(self) -> None:
            asked.append(self.path)
            links = [
                "a.csv", "/out/b%20c.csv", "?C=N;O=D", "../up.csv", "//elsewhere.example/x.csv",
                "http://127.0.0.1:1/out/y.csv", "below/z.csv", "%2e%2e%2fup.csv", "d.csv?x=1",
                "mailto:x", "http://[", "below/",
            ]  # fmt: skip
            self.answer(200, "".join(f'<a href="{link}">' for link in links).encode())

        def do_HEAD(self) -> None:
            asked.append(self.path)
            self.answer(200, b"12345", ETag='"1"')

    with web_server(tmp_path, Page) as port:
        assert listed(f"http://127.0.0.1:{port}/out/*") == ["/out/a.csv", "/out/b c.csv"]
    assert asked == ["/out/", "/out/a.csv", "/out/b%20c.csv"]


def test_a_web_server_leads_nobody_elsewhere_with_the_password(tmp_path: Path) -> None:
    asked: list[str | None] = []

    class Elsewhere(Answers):
        def do_GET(self) -> None:
            asked.append(self.headers.get("Authorization"))
            self.answer(200, b"")

    with web_server(tmp_path, Elsewhere) as other:

        class Leads(Answers):
            def do_GET(self) -> None:
                self.answer(302, Location=f"http://127.0.0.1:{other}/")

        with web_server(tmp_path, Leads) as port, pytest.raises(BadInput, match="has moved"):
            listed(f"http://127.0.0.1:{port}/*", **SECRET)
    assert asked == []


def test_a_server_that_sends_more_than_it_told_is_not_listened_to(tmp_path: Path) -> None:
    class Endless(Answers):
        def do_HEAD(self) -> None:
            self.answer(200, b"12345")

        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            try:
                while True:
                    self.wfile.write(b"x" * 65536)
            except OSError:
                pass

    sizes: list[int] = []
    source = SourceSettings(url="http://127.0.0.1/*")
    with web_server(tmp_path, Endless) as port:
        source = SourceSettings(url=f"http://127.0.0.1:{port}/*")
        with PlaceSource(source).opened() as place, pytest.raises(FileUnavailable, match="changed"):
            fetch(place, SourceFile("/a.csv", Version(5)), tmp_path / "here", seen=sizes.append)
    assert sizes == [6]
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize("code", [404, 410, 503])
def test_a_web_server_that_has_no_such_file_is_told_apart_from_one_that_is_busy(
    code: int, tmp_path: Path
) -> None:
    class Has(Answers):
        def do_GET(self) -> None:
            self.answer(code)

    with web_server(tmp_path, Has) as port:
        source = SourceSettings(url=f"http://127.0.0.1:{port}/*")
        with PlaceSource(source).opened() as place, pytest.raises(Unavailable) as error:
            fetch(
                place, SourceFile("/a.csv", Version(5)), tmp_path / "here", seen=lambda done: None
            )
    assert isinstance(error.value, FileUnavailable) == (code < 500)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"url": "sftp://mdm:horse@h/x"}, "has a password in it; set password_env"),
        ({"url": "ftp://:horse@h/x"}, "has a password in it"),
        ({"url": "https://h/x?sig=horse"}, "without a query"),
        ({"url": "gopher://h/horse"}, "needs a path or one of file://"),
        ({"url": "sftp://h/x"}, "SFTP needs user"),
        ({"url": "sftp://u@h/x"}, "SFTP needs user"),
        ({"url": "sftp://u@h/x", **SECRET}, "needs one user"),
        ({"url": "ftp://h/x", "user": "u"}, "go together"),
        ({"url": "s3://b/x", **SECRET}, "the usual variables"),
        ({"url": "x/**/y"}, "does not support"),
        ({"url": "http://h/x", "after": "move"}, "nothing can be changed by HTTP"),
        ({"url": "sftp://h:99999/x"}, "needs a host"),
        ({"url": "file://h/x"}, "three slashes"),
        ({"url": "a\nb"}, "control characters"),
        ({"url": "x", "name": "a/b"}, "needs letters"),
        ({"url": "ftp://u@h/x", "key_file": "k"}, "sftp:// alone"),
        ({"url": "ftp://h/x", **SECRET, "password_file": "horse"}, "needs one of"),
    ],
)
def test_a_source_that_cannot_be_is_refused_without_its_secrets(
    told: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadInput) as error:
        load_settings(source=[told])
    assert words in str(error.value)
    assert "horse" not in str(error.value)


def test_sources_have_different_names_the_same_each_time() -> None:
    urls = ["./inbox/*.csv", "sftp://u@h:2222/out/*.gz", "s3://bucket/prefix/*.gz"]
    secret = {"password_env": "X"}
    told = [{"url": url, **(secret if "sftp" in url else {})} for url in urls]
    names = [source.label for source in load_settings(source=told).source]
    assert names == [source.label for source in load_settings(source=told).source]
    assert [name.rpartition("-")[0] for name in names] == [
        "inbox-csv", "h-out-gz", "bucket-prefix-gz"
    ]  # fmt: skip
    with pytest.raises(BadInput, match="needs sources of different names"):
        load_settings(source=[told[0], told[0]])
    (row,) = [r for r in settings_table(load_settings(source=told)) if r["setting"] == "source"]
    assert "h-out-gz" in row["value"]


def test_an_address_is_what_the_place_calls_it() -> None:
    def path(url: str) -> str:
        user = {"user": "u", "password_env": "X"} if url.startswith("sftp") else {}
        return SourceSettings.model_validate({"url": url, **user}).address.path

    assert path("sftp://h/out%20box/*.gz") == "/out box/*.gz"
    assert path("sftp://h/~/out/*.gz") == "out/*.gz"
    assert path("s3://b/p/*") == "p/*"
    assert path("file:///in/") == "/in/*"
    assert path("in%20box/*") == "in%20box/*"


def test_a_length_of_time_may_be_of_seconds() -> None:
    assert to_duration("10s", "--every").total_seconds() == 10
    with pytest.raises(MeterlakeError, match="10s"):
        to_duration("10x", "--every")
