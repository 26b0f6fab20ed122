"""A web server that has a folder's files, and goes wrong on demand."""

import threading
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit


class Mood(Enum):
    """How the server answers."""

    GOOD = "with the file, or 404"
    BUSY = "503 Service Unavailable"
    NONSENSE = "with bytes that are no file of the folder, whatever it is asked"
    DOWN = "not at all: the connection closes"


class FilesServer:
    """A server on a free port of 127.0.0.1, in a thread, as long as the ``with`` block.

    Attributes
    ----------
    mood
        How it answers from now on.
    nonsense
        The bytes that it answers while it talks nonsense.
    requests
        The paths that were asked for, in order.
    """

    def __init__(self, folder: Path) -> None:
        self.mood = Mood.GOOD
        self.nonsense = b"\x00\xff nonsense"
        self.requests: list[str] = []
        self._folder = folder
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), name="files-server", daemon=True
        )
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        ours = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = unquote(urlsplit(self.path).path).lstrip("/")
                ours.requests.append(path)
                file = ours._folder / path
                match ours.mood:
                    case Mood.DOWN:
                        self.close_connection = True
                    case Mood.BUSY:
                        self._answer(503, b"")
                    case Mood.NONSENSE:
                        self._answer(200, ours.nonsense)
                    case Mood.GOOD if file.is_file():
                        self._answer(200, file.read_bytes())
                    case _:
                        self._answer(404, b"")

            def _answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        return Handler
