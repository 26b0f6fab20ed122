"""An HTTP proxy that goes wrong on demand, to stand between a client and its S3 server.

It forwards every byte as it came, the ``Host`` header too: a client signs for the host and port
that it speaks to, which are the proxy's, and the server verifies against the header it gets.
"""

import asyncio
import random
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import urlsplit

PIECE = 1 << 16
HEAD_LIMIT = 1 << 20


class Fault(Enum):
    """What happens to a request instead of an answer."""

    DROP_BEFORE = "the request is lost: the server never sees it, the connection closes"
    DROP_AFTER = "the answer is lost: the server does as asked, the connection closes"
    ERROR_500 = "500 InternalError, the server never sees the request"
    ERROR_503 = "503 SlowDown, the server never sees the request"
    DELAY = "the request waits, then goes on as usual"
    CUT = "half of the answer's body comes, then the connection closes; only a GET has it"


class Request(NamedTuple):
    """A request the proxy saw; the path has its query string."""

    number: int
    method: str
    path: str
    fault: Fault | None


Policy = Callable[[int, str, str], Fault | None]
"""The number of a request (the first is 1), its method and its path: what goes wrong with it."""


def no_faults(number: int, method: str, path: str) -> Fault | None:
    """Forward everything."""
    return None


def share(percent: float, seed: int, faults: Sequence[Fault], at_most: int | None = None) -> Policy:
    """This share of the requests goes wrong at random, each with one of the faults.

    The same request (method and path) doesn't go wrong more than ``at_most`` times in a row, so
    that a client with more attempts than that gets through in the end.
    """
    chance = random.Random(seed)
    in_a_row: Counter[tuple[str, str]] = Counter()

    def policy(number: int, method: str, path: str) -> Fault | None:
        hit, fault = chance.random() * 100 < percent, chance.choice(faults)
        if hit and (at_most is None or in_a_row[method, path] < at_most):
            in_a_row[method, path] += 1
            return fault
        in_a_row.pop((method, path), None)
        return None

    return policy


def nth(n: int, fault: Fault) -> Policy:
    """Only the n-th request goes wrong."""
    return lambda number, method, path: fault if number == n else None


def from_nth(n: int, fault: Fault = Fault.DROP_BEFORE) -> Policy:
    """Every request from the n-th on goes wrong: the store is gone."""
    return lambda number, method, path: fault if number >= n else None


class FaultProxy:
    """A proxy on a free port of 127.0.0.1, in a thread of its own, as long as the ``with`` block.

    Parameters
    ----------
    upstream
        The server's endpoint, such as ``http://127.0.0.1:8333``.
    policy
        Which requests go wrong, and how.
    delay
        Seconds that ``Fault.DELAY`` takes.
    """

    def __init__(self, upstream: str, policy: Policy = no_faults, *, delay: float = 0.5) -> None:
        parts = urlsplit(upstream)
        assert parts.scheme == "http" and parts.hostname and parts.port, upstream
        self._upstream = (parts.hostname, parts.port)
        self._policy = policy
        self.delay = delay
        self.endpoint = ""
        self._lock = threading.Lock()
        self._requests: list[Request] = []
        self._started = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: asyncio.Event | None = None
        self._problem: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="fault-proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.wait()
        if self._problem is not None:
            raise self._problem
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._loop is not None and self._ending is not None
        with suppress(RuntimeError):  # it ended by itself, with a problem
            self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join()
        if self._problem is not None and error is None:
            raise self._problem

    def reset(self, policy: Policy = no_faults) -> None:
        """Change the policy, forget the requests so far and number the next ones from 1."""
        with self._lock:
            self._policy = policy
            self._requests = []

    @property
    def requests(self) -> list[Request]:
        """The requests since the last reset, in order."""
        with self._lock:
            return list(self._requests)

    @property
    def seen(self) -> int:
        """How many requests came since the last reset."""
        with self._lock:
            return len(self._requests)

    @property
    def injected(self) -> Counter[Fault]:
        """How many requests went wrong since the last reset, by fault."""
        return Counter(request.fault for request in self.requests if request.fault is not None)

    def _note(self, method: str, path: str) -> Fault | None:
        with self._lock:
            number = len(self._requests) + 1
            fault = self._policy(number, method, path)
            if fault is Fault.CUT and method != "GET":
                fault = None
            self._requests.append(Request(number, method, path, fault))
            return fault

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as problem:  # noqa: BLE001  # raised again where the proxy is used
            self._problem = problem
        finally:
            self._started.set()

    async def _serve(self) -> None:
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(self._connection(reader, writer))
            connections[task] = writer
            task.add_done_callback(finish)

        def finish(task: asyncio.Task[None]) -> None:
            del connections[task]
            if not task.cancelled() and (problem := task.exception()) is not None:
                self._problem = problem  # such as a policy's own; not a lost connection
                assert self._ending is not None
                self._ending.set()

        server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=HEAD_LIMIT)
        self.endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._started.set()
        await self._ending.wait()
        server.close()
        await asyncio.sleep(0.01)  # what was accepted already becomes a task
        open_still = dict(connections)
        for task in open_still:
            task.cancel()
        await asyncio.gather(*open_still, return_exceptions=True)
        for writer in open_still.values():  # a task that had not begun has closed nothing
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client's connection, request after request, with one to the server."""
        client, server = _Peer(reader, writer), _Peer()
        try:
            while await self._exchange(client, server):
                pass
        except (OSError, EOFError):  # somebody hung up
            pass
        finally:
            await server.close()
            await client.close()

    async def _exchange(self, client: "_Peer", server: "_Peer") -> bool:
        """One request and its answer; True when the client's connection can go on."""
        request = await client.head()
        if request is None:
            return False
        method, path, _ = request.first.split(" ", 2)
        fault = self._note(method, path)
        if fault in (Fault.DROP_BEFORE, Fault.ERROR_500, Fault.ERROR_503):
            if not request.waits:
                async for _ in client.body(request.framing()):
                    pass
            if fault is Fault.DROP_BEFORE:
                return False
            await client.send(_error(fault, method))
            return not request.waits and not request.closes
        if fault is Fault.DELAY:
            await asyncio.sleep(self.delay)

        await server.connect(*self._upstream)
        await server.send(request.raw)
        # The body goes beside the answer, for a server may answer before it has all of it.
        upload = asyncio.ensure_future(_upload(client, server, request.framing()))
        try:
            answer = await server.head()
            while answer is not None and answer.status < 200:  # 100 Continue
                await client.send(answer.raw)
                request.waits = False
                answer = await server.head()
            if answer is None:
                return False
            framing = answer.framing(method)
            body = server.body(framing)
            if fault is Fault.DROP_AFTER:
                async for _ in body:
                    pass
                return False
            if fault is Fault.CUT:
                whole = b"".join([piece async for piece in body])
                await client.send(answer.raw + whole[: len(whole) // 2])
                return False
            await client.send(answer.raw)
            async for piece in body:
                await client.send(piece)
            if request.waits:  # the server refused without asking for the body
                return False
            whole_sent = await upload
        finally:
            upload.cancel()
            with suppress(asyncio.CancelledError, OSError, EOFError):
                await upload
        last = answer.closes or framing is _Framing.UNTIL_CLOSE
        if last or not whole_sent:
            await server.close()
        return not last and not request.closes


async def _upload(client: "_Peer", server: "_Peer", framing: "int | _Framing") -> bool:
    """Pass a request's body on; False if the server stopped listening before its end."""
    listening = True
    try:
        async for piece in client.body(framing):
            if listening:
                try:
                    await server.send(piece)
                except OSError:
                    listening = False
    except (OSError, EOFError):  # the client hung up, so the server must not wait for the rest
        await server.close()
        raise
    return listening


class _Framing(Enum):
    CHUNKED = "chunked"
    UNTIL_CLOSE = "until close"


@dataclass
class _Head:
    """The first line and the headers of a request or an answer."""

    raw: bytes
    first: str
    headers: dict[str, str]
    waits: bool  # for 100 Continue before it sends its body

    @classmethod
    def of(cls, raw: bytes) -> "_Head":
        first, *lines = raw.decode("latin-1").split("\r\n")
        fields = (line.partition(":") for line in lines if line)
        headers = {name.strip().lower(): value.strip() for name, _, value in fields}
        return cls(raw, first, headers, headers.get("expect", "").lower() == "100-continue")

    @property
    def status(self) -> int:
        return int(self.first.split(" ")[1])

    @property
    def closes(self) -> bool:
        return self.headers.get("connection", "").lower() == "close" or "HTTP/1.0" in self.first

    def framing(self, answers: str | None = None) -> int | _Framing:
        """How long the body is, of a request or of the answer to this method."""
        if answers == "HEAD" or (answers is not None and self.status in (204, 304)):
            return 0
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            return _Framing.CHUNKED
        if "content-length" in self.headers:
            return int(self.headers["content-length"])
        return 0 if answers is None else _Framing.UNTIL_CLOSE


class _Peer:
    """One end of a connection."""

    def __init__(
        self,
        reader: asyncio.StreamReader | None = None,
        writer: asyncio.StreamWriter | None = None,
    ) -> None:
        self._reader, self._writer = reader, writer

    async def connect(self, host: str, port: int) -> None:
        """Connect, unless the connection of the request before is still there."""
        if self._reader is not None and self._reader.at_eof():
            await self.close()
        if self._reader is None:
            self._reader, self._writer = await asyncio.open_connection(host, port, limit=HEAD_LIMIT)

    async def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            with suppress(OSError):
                await self._writer.wait_closed()
        self._reader = self._writer = None

    async def send(self, data: bytes) -> None:
        assert self._writer is not None
        self._writer.write(data)
        await self._writer.drain()

    async def head(self) -> _Head | None:
        """The next head, or None if the other side closed the connection instead."""
        assert self._reader is not None
        try:
            return _Head.of(await self._reader.readuntil(b"\r\n\r\n"))
        except asyncio.IncompleteReadError as end:
            if end.partial:
                raise
            return None

    async def body(self, framing: int | _Framing) -> AsyncIterator[bytes]:
        """The body as it is on the wire, chunk sizes and all."""
        assert self._reader is not None
        reader = self._reader
        if framing is _Framing.UNTIL_CLOSE:
            while piece := await reader.read(PIECE):
                yield piece
        elif framing is _Framing.CHUNKED:
            size = -1
            while size:
                line = await reader.readuntil(b"\r\n")
                yield line
                size = int(line.split(b";")[0], 16)
                if size:
                    async for piece in self.body(size + 2):
                        yield piece
            while (line := await reader.readuntil(b"\r\n")) != b"\r\n":  # trailers
                yield line
            yield line
        else:
            assert isinstance(framing, int)
            left = framing
            while left:
                piece = await reader.read(min(left, PIECE))
                if not piece:
                    raise EOFError
                left -= len(piece)
                yield piece


def _error(fault: Fault, method: str) -> bytes:
    """The answer of an S3 server that fails."""
    status, code, message = {
        Fault.ERROR_500: (
            "500 Internal Server Error",
            "InternalError",
            "We encountered an internal error. Please try again.",
        ),
        Fault.ERROR_503: ("503 Slow Down", "SlowDown", "Please reduce your request rate."),
    }[fault]
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{message}</Message>"
        "<RequestId>FAULTPROXY</RequestId></Error>"
    ).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n"
    return f"{head}\r\n".encode() + (b"" if method == "HEAD" else body)
