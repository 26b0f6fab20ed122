"""SQL of strangers, each query in a child process that can be killed at any moment.

What a query may ask is decided in questions/sql.py. Here is what holds even where that or DuckDB
has a hole: a child has no more memory than its limit, writes no file (RLIMIT_FSIZE), knows of
this process's environment only how to reach the lake, and is gone when its time is over, when
nobody waits for its answer any more and when this process ends, in whatever way. A child's
answer is JSON and Arrow, never pickle: what broke a child cannot go on to break this process.
"""

import asyncio
import ctypes
import io
import json
import os
import queue
import resource
import signal
import sys
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import IO, TYPE_CHECKING, Any

import polars as pl

from meterlake.errors import BadInput, Unavailable
from meterlake.questions.history import AsOf

if TYPE_CHECKING:
    from meterlake.settings import ServeSettings

MOST_WAITING = 32
MOST_CHARACTERS = 100_000  # of a query
ANSWER_MB = 64  # an answer stands in this process's memory, twice for a moment

_HEADROOM_MB = 384  # above DuckDB's limit: threads' stacks, and the answer on its way
_NO_LAKE = f"{os.devnull}/nothing"
_ENDING_SECONDS = 5.0
_LINE_BYTES = 1 << 20
_PIECE_BYTES = 1 << 20
_PR_SET_PDEATHSIG = 1
_CHILD = "from meterlake.serve.sandbox import answer_queries; answer_queries()"
_MACHINE = (
    "PATH", "HOME", "LANG", "LC_", "TZ", "TMPDIR", "PYTHON", "VIRTUAL_ENV", "LD_", "POLARS_",
    "OPENBLAS_", "COVERAGE_",
)  # fmt: skip
_CLOUD = ("AWS_", "GOOGLE_", "AZURE_", "SSL_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY")


@dataclass(frozen=True)
class Answer:
    """The first rows of a query's answer, and whether there are more."""

    frame: pl.DataFrame
    is_truncated: bool


class Sandbox:
    """Children that answer SQL over one lake, at most `sql_processes` queries at a time.

    There is always one child more than queries, up to that number, so that none waits for
    Python to start. Belongs to one event loop; `close` ends the children.
    """

    def __init__(self, store_url: str, settings: "ServeSettings") -> None:
        self._url = store_url
        self._settings = settings
        # One for each place; None: its child is not started yet. The last is taken first.
        self._children: list[asyncio.Task[_Child] | None] = [None] * settings.sql_processes
        self._places = asyncio.Semaphore(settings.sql_processes)
        self._waiting = 0
        self._alive: set[_Child] = set()
        self._is_closed = False

    async def start(self) -> None:
        """Start the first child and wait for it. Raises Unavailable where it does not start."""
        self._start_ahead()
        if (child := self._children[-1]) is not None:
            await asyncio.shield(child)

    async def query(
        self, sql: str, *, as_of: AsOf | None = None, rows: int | None = None
    ) -> Answer:
        """Answer one SELECT; where the caller is cancelled, the query is killed.

        Parameters
        ----------
        rows : most rows of the answer; never more than serve.sql_rows

        Raises
        ------
        BadInput
            It is no query, asks for what is not of the lake, or needs more time or memory
            than it may have.
        Unavailable
            The lake's storage is away, or too many queries wait.
        """
        if len(sql) > MOST_CHARACTERS:
            raise BadInput(
                f"A query needs to have at most {MOST_CHARACTERS:,} characters; "
                f"found {len(sql):,}. Split it"
            )
        if self._places.locked() and self._waiting >= MOST_WAITING:
            raise Unavailable(
                f"{self._waiting} SQL queries wait already, and serve.sql_processes = "
                f"{self._settings.sql_processes} are answered at a time. Try again later"
            )
        request = {
            "sql": sql,
            "rows": min(rows or self._settings.sql_rows, self._settings.sql_rows),
            "moment": None if as_of is None else as_of.moment.isoformat(),
            "clock": None if as_of is None else as_of.clock,
        }
        self._waiting += 1
        try:
            await self._places.acquire()
        finally:
            self._waiting -= 1
        try:
            return await self._in_a_place(request)
        finally:
            self._places.release()

    async def close(self) -> None:
        """End the children; queries that run are cut off."""
        self._is_closed = True
        starting = [task for task in self._children if task is not None]
        for task in starting:
            task.cancel()
        await asyncio.gather(*starting, return_exceptions=True)
        await asyncio.gather(*(self._end(child) for child in set(self._alive)))

    async def _in_a_place(self, request: dict[str, Any]) -> Answer:
        starting = self._children.pop() or self._start()
        place: asyncio.Task[_Child] | None = starting
        try:
            self._start_ahead()
            child = await asyncio.shield(starting)
            while child.process.returncode is not None:  # it ended while it had nothing to do
                self._alive.discard(child)
                place = starting = self._start()
                child = await asyncio.shield(starting)
            place = None  # its child is lost, if not for an answer
            try:
                answer = await self._asked(child, request)
                place = starting
                return answer
            except _Refused as refused:
                place = starting
                raise refused.error from None
            finally:
                if place is None:
                    await self._end(child)
        finally:
            if starting.done() and (starting.cancelled() or starting.exception() is not None):
                place = None  # the next query tries to start one
            elif place is None and not self._is_closed:
                place = self._start()
            self._children.append(place)

    async def _asked(self, child: "_Child", request: dict[str, Any]) -> Answer:
        """A child's answer; it can be asked again after this or _Refused, and only then."""
        seconds = self._settings.sql_seconds
        try:
            async with asyncio.timeout(seconds):
                head, body = await child.answer(request)
        except TimeoutError:
            raise BadInput(
                f"The query takes longer than serve.sql_seconds = {seconds:g} allows. Aggregate, "
                "narrow the window, or raise the setting"
            ) from None
        except (EOFError, ConnectionError):
            await child.ended()
            if self._is_closed:
                raise Unavailable("The server is being stopped. Try again later") from None
            raise BadInput(
                f"The query ended the process that answered it ({_end_of(child)}). Most often it "
                f"needs more memory than serve.sql_memory_mb = {self._settings.sql_memory_mb} "
                "allows, or is nested too deeply: aggregate, or narrow the window"
            ) from None
        if head["error"] == "memory":
            raise BadInput(
                f"The query needs more memory than serve.sql_memory_mb = "
                f"{self._settings.sql_memory_mb} allows. Aggregate, narrow the window, or raise "
                "the setting"
            )
        if head["error"] is not None:
            kind = Unavailable if head["error"] == "unavailable" else BadInput
            raise _Refused(kind(head["message"]))
        frame = await asyncio.to_thread(pl.read_ipc_stream, io.BytesIO(body))
        return Answer(frame, head["is_truncated"])

    def _start_ahead(self) -> None:
        if self._children and self._children[-1] is None and not self._is_closed:
            self._children[-1] = self._start()

    def _start(self) -> "asyncio.Task[_Child]":
        return asyncio.create_task(self._started())

    async def _started(self) -> "_Child":
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-c", _CHILD,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=_environment("://" in self._url),
            limit=_LINE_BYTES,
            start_new_session=True,  # Ctrl-C is for this process, which then ends its children
        )  # fmt: skip
        child = _Child(process)
        self._alive.add(child)
        try:
            told = _Told(os.getpid(), self._url, self._settings.sql_memory_mb)
            await child.answer(asdict(told))
        except (EOFError, ConnectionError):
            await child.ended()
            self._alive.discard(child)
            raise Unavailable(
                f"The process for SQL queries does not start ({_end_of(child)}): see its "
                "standard error. Try again later"
            ) from None
        except BaseException:
            await self._end(child)
            raise
        return child

    async def _end(self, child: "_Child") -> None:
        await child.end()
        self._alive.discard(child)


@dataclass(frozen=True)
class _Told:
    """What a child is told first: whose it is, and of which lake."""

    parent: int
    url: str
    memory_mb: int


class _Refused(Exception):
    """A query got an error for an answer; its child is well."""

    def __init__(self, error: BadInput | Unavailable) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True, eq=False)
class _Child:
    """A process that answers what it is asked, one after the other."""

    process: asyncio.subprocess.Process

    async def answer(self, request: dict[str, Any]) -> tuple[dict[str, Any], bytes | bytearray]:
        """One answer: what it says of itself, and its Arrow bytes. Raises EOFError if it ends."""
        asked, answers = self.process.stdin, self.process.stdout
        assert asked is not None and answers is not None
        asked.write(json.dumps(request).encode() + b"\n")
        await asked.drain()
        line = await answers.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        head = json.loads(line)
        body, have = bytearray(head["bytes"]), 0
        while have < len(body):  # into its place: readexactly would have it three times
            piece = await answers.read(min(_PIECE_BYTES, len(body) - have))
            if not piece:
                raise EOFError
            body[have : have + len(piece)] = piece
            have += len(piece)
        return head, body

    async def ended(self) -> None:
        """Wait for what is ending by itself: killed now, it could not tell any more of what."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_ENDING_SECONDS):
                await self.process.wait()
        await self.end()

    async def end(self) -> None:
        """Kill it, and wait until it is gone."""
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.kill()
        await self.process.wait()


def answer_queries() -> None:
    """The child: learn which lake it is, then answer each line until there are no more."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    if not (line := sys.stdin.buffer.readline()):
        return  # its parent has ended meanwhile
    told = _Told(**json.loads(line))
    _end_with(told.parent)
    # Not before: the parent has no use for them.
    from meterlake.delta.store import Store
    from meterlake.questions.sql import Limits, TooMuchMemory, query_within
    from meterlake.schema import READINGS

    store = Store(told.url)
    # What is done for the first time takes longest, and most of a library's reserved memory.
    first = Limits(told.memory_mb, 1, ANSWER_MB)
    frame, _ = query_within(Store(_NO_LAKE), f"SELECT count(*) FROM {READINGS.name}", first)  # noqa: S608
    frame.write_ipc_stream(io.BytesIO())
    _limit_to(told.memory_mb)
    requests = _requests()
    _send(answers, None)
    while True:
        request = requests.get()
        limits = Limits(told.memory_mb, request["rows"], ANSWER_MB)
        as_of = None
        if request["moment"] is not None:
            as_of = AsOf(datetime.fromisoformat(request["moment"]), request["clock"])
        try:
            if store.is_local and not os.path.isdir(store.url):
                raise Unavailable(
                    f"The lake's folder '{store.url}' is not there: check that its storage is"
                )
            frame, is_truncated = query_within(store, request["sql"], limits, as_of=as_of)
            body = io.BytesIO()
            frame.write_ipc_stream(body)
            _send(answers, None, body=body.getbuffer(), is_truncated=is_truncated)
        except (TooMuchMemory, MemoryError) as error:
            _send(answers, "memory", message=str(error))
        except BadInput as error:
            _send(answers, "bad_input", message=str(error))
        except Unavailable as error:
            _send(answers, "unavailable", message=str(error))


def _send(
    answers: IO[bytes],
    error: str | None,
    *,
    message: str = "",
    body: bytes | memoryview = b"",
    is_truncated: bool = False,
) -> None:
    head = {
        "error": error,
        "message": message,
        "bytes": len(body),
        "is_truncated": is_truncated,
    }
    answers.write(json.dumps(head).encode() + b"\n")
    answers.write(body)
    answers.flush()


def _end_with(parent: int) -> None:
    """Let this process end when its parent does: at once where that is Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def _requests() -> "queue.SimpleQueue[dict[str, Any]]":
    """What is asked. When nobody can ask any more this process ends, whatever it does."""
    requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin.buffer:
            requests.put(json.loads(line))
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    return requests


def _limit_to(memory_mb: int) -> None:
    """No more memory than so much above what the process has now, no files, no dumps."""
    limit = (_data_kb() << 10) + ((memory_mb + _HEADROOM_MB) << 20)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _data_kb() -> int:
    if sys.platform != "linux":  # where the limit does not count what is mapped
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmData"))


def _environment(is_cloud: bool) -> dict[str, str]:
    """The variables that a child needs: no keys of others."""
    needed = _MACHINE + (_CLOUD if is_cloud else ())
    return {name: value for name, value in os.environ.items() if name.upper().startswith(needed)}


def _end_of(child: _Child) -> str:
    code = child.process.returncode
    if code is None or code >= 0:
        return f"exit code {code}"
    return signal.Signals(-code).name
