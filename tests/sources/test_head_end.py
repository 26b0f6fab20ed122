"""What a head-end system answers is typed, asked for again where that helps, and told where not."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from meterlake.errors import BadInput, Unavailable
from meterlake.sources.head_end_api import PAUSES, Gone, HeadEndClient

GOOD = (
    200,
    b'{"now": "2024-01-01T00:00:01Z", "oldest": null, "complete_until": "2024-01-01T00:00:00Z"}',
)
Answer = tuple[int, bytes] | None  # None: the connection is cut


class Server:
    """Answers one thing after the other, the last forever."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.asked: list[str] = []
        self.pauses: list[float] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                answer = outer.answers.pop(0) if len(outer.answers) > 1 else outer.answers[0]
                if answer is None:
                    self.close_connection = True
                    return
                self.send_response(answer[0])
                self.send_header("Content-Length", str(len(answer[1])))
                self.end_headers()
                self.wfile.write(answer[1])

            do_POST = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, daemon=True)
    thread.start()
    yield server
    server.http.shutdown()
    server.http.server_close()
    thread.join()


@pytest.fixture
def head_end(server: Server) -> Iterator[HeadEndClient]:
    head_end = HeadEndClient(server.url, pause=server.pauses.append)
    yield head_end
    head_end.close()


@pytest.mark.parametrize(
    "bad", [(500, b""), (503, b"busy"), (429, b""), None, (200, b"<html>"), (200, b"{}")]
)
def test_what_is_lost_is_asked_for_again(
    server: Server, head_end: HeadEndClient, bad: Answer
) -> None:
    server.answers = [bad, bad, GOOD]
    assert head_end.extent().complete_until == datetime(2024, 1, 1, tzinfo=UTC)
    assert server.pauses == list(PAUSES[:2])


@pytest.mark.parametrize("bad", [(500, b""), None, (200, b"<html>")])
def test_what_stays_away_is_unavailable(
    server: Server, head_end: HeadEndClient, bad: Answer
) -> None:
    server.answers = [bad]
    with pytest.raises(Unavailable) as raised:
        head_end.extent()
    assert len(server.asked) == 1 + len(PAUSES)
    assert f"http://127.0.0.1:{server.http.server_port}" in str(raised.value)


def test_an_answer_that_goes_on_and_on_is_given_up(
    server: Server, head_end: HeadEndClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers = [(200, b" " * 1_000_001)]
    with pytest.raises(Unavailable, match="it sends more"):
        head_end.extent()
    monkeypatch.setattr("meterlake.sources.head_end_api._TIMEOUT_SECONDS", 0.0)
    server.answers = [GOOD]
    with pytest.raises(Unavailable, match="it sends more"):
        head_end.extent()


def test_more_than_now_is_not_complete(server: Server, head_end: HeadEndClient) -> None:
    server.answers = [(200, GOOD[1].replace(b"T00:00:00Z", b"T00:00:02Z"))]
    with pytest.raises(Unavailable, match="no later than now"):
        head_end.extent()


def test_our_own_mistake_is_not_repeated(server: Server, head_end: HeadEndClient) -> None:
    server.answers = [(400, b'{"detail": "end_date is before\\n start_date"}')]
    with pytest.raises(BadInput, match="400: end_date is before start_date"):
        head_end.order(datetime(2024, 1, 2, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=UTC))
    assert len(server.asked) == 1


def test_a_file_that_it_does_not_know_is_gone(server: Server, head_end: HeadEndClient) -> None:
    server.answers = [(404, b"")]
    with pytest.raises(Gone):
        head_end.file("a/../b&c")
    assert server.asked == ["/readings-file?request_id=a%2F..%2Fb%26c"]


FILE = '{"request_id": "r1", "status": "completed", "start_date": "2024-01-01T00:00:00Z", '


@pytest.mark.parametrize(
    ("answer", "field"),
    [
        ('"end_date": "2024-01-02T00:00:00"}', "end_date"),
        ('"end_date": "2024-01-02T00:00:00Z", "size": -1}', "size"),
        ('"end_date": "2024-01-02T00:00:00Z", "sha256": "abc"}', "sha256"),
        ('"end_date": "2024-01-02T00:00:00Z", "record_count": "many"}', "record_count"),
        ('"end_date": "2024-01-02T00:00:00Z", "status": "ready"}', "status"),
        ('"end_date": "2024-01-02T00:00:00Z", "request_id": "../x"}', "request_id"),
    ],
)
def test_nothing_is_taken_as_it_is_said(
    server: Server, head_end: HeadEndClient, answer: str, field: str
) -> None:
    server.answers = [(200, (FILE + answer).encode())]
    with pytest.raises(Unavailable, match=f"needs to answer as a head-end system does; {field}"):
        head_end.file("r1")


def test_a_proxy_of_the_environment_is_not_told_of_it(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    server.answers = [GOOD]
    head_end = HeadEndClient(server.url, pause=server.pauses.append)
    head_end.extent()
    head_end.close()
