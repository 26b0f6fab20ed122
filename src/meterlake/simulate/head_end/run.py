"""The process: both servers and both threads, until SIGTERM or SIGINT."""

import asyncio
import logging
import os
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import uvicorn

from meterlake.errors import BadInput, Unavailable
from meterlake.simulate.head_end.api import create_app
from meterlake.simulate.head_end.clock import Clock
from meterlake.simulate.head_end.faults import Fault, Faults
from meterlake.simulate.head_end.options import Wanted
from meterlake.simulate.head_end.sftp import Login, host_key, serving, write_secret
from meterlake.simulate.head_end.system import HeadEnd

PASSWORD_VARIABLE = "METERLAKE_HES_PASSWORD"
GRACE_SECONDS = 1  # for answers under way when it is told to stop

_KNOWN = ("without completing response", "timeout graceful shutdown exceeded")
_LOOPBACK = {"127.0.0.1": socket.AF_INET, "localhost": socket.AF_INET, "::1": socket.AF_INET6}


@dataclass(frozen=True, kw_only=True)
class Listening:
    """Where it listens, 0 being a free port, and who may log in to the SFTP server."""

    host: str = "127.0.0.1"
    port: int = 8081
    sftp_port: int = 2222
    user: str = "meterlake"
    authorized_keys: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Serving:
    """What who pulls needs to know.

    Attributes
    ----------
    host, port, sftp_port
        Where the API and the SFTP server listen.
    user : str
        Who may log in to the SFTP server.
    fingerprint, host_key : str
        Of the SFTP server: the hash of its key, and the key.
    password_file : Path or None
        File of the password; None: it was given in the environment.
    """

    host: str
    port: int
    sftp_port: int
    user: str
    fingerprint: str
    host_key: str
    password_file: Path | None

    @property
    def api(self) -> str:
        """The URL of the API."""
        return f"http://{self._shown_host}:{self.port}"

    @property
    def sftp(self) -> str:
        """The URL of the SFTP server, with the user as a URL has it."""
        return f"sftp://{quote(self.user, safe='')}@{self.sftp_address}"

    @property
    def sftp_address(self) -> str:
        """HOST:PORT of the SFTP server."""
        return f"{self._shown_host}:{self.sftp_port}"

    @property
    def known_hosts(self) -> str:
        """The line for a file known_hosts."""
        known_as = self.host if self.sftp_port == 22 else f"[{self.host}]:{self.sftp_port}"
        return f"{known_as} {self.host_key}"

    @property
    def _shown_host(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host


def serve(
    folder: Path,
    wanted: Wanted,
    listening: Listening,
    *,
    faults: dict[Fault, float],
    machine: Clock,
    ready: Callable[[Serving], None],
) -> None:
    """Serve a head-end until SIGTERM or SIGINT; `ready` is told once it answers.

    Raises
    ------
    BadInput
        The address is not of this machine alone, or as `HeadEnd` has it.
    Unavailable
        An address cannot be listened at, or the folder not be used.
    """
    if listening.host not in _LOOPBACK:
        raise BadInput(
            "--host needs to be 127.0.0.1, ::1 or localhost: this is a simulator, for this "
            f"machine alone; found '{listening.host}'"
        )
    struck = Faults(faults, seed=wanted.seed)
    with _api_socket(listening) as api:
        head_end = HeadEnd(folder, wanted, struck, machine=machine)
        try:
            key = host_key(folder / "host_key")
            password, password_file = _password(folder / "password")
            login = Login(listening.user, password, listening.authorized_keys)
            at, root = listening, head_end.files.parent
            sftp = serving(root, key, login, struck, host=at.host, port=at.sftp_port)

            def told(sftp_port: int) -> None:
                ready(
                    Serving(
                        host=at.host,
                        port=api.getsockname()[1],
                        sftp_port=sftp_port,
                        user=at.user,
                        fingerprint=key.fingerprint,
                        host_key=key.public,
                        password_file=password_file,
                    )
                )

            asyncio.run(_serve(head_end, struck, api=api, sftp=sftp, ready=told))
        finally:
            head_end.close()


async def _serve(
    head_end: HeadEnd,
    faults: Faults,
    *,
    api: socket.socket,
    sftp: AbstractAsyncContextManager[int],
    ready: Callable[[int], None],
) -> None:
    """Serve until a signal; `ready` is told the port of the SFTP server."""
    server = _Server(_config(head_end, faults))
    loop = asyncio.get_running_loop()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, server.end)
    async with sftp as sftp_port, _working(head_end, server):
        server.ready = lambda: ready(sftp_port)
        await server.serve(sockets=[api])


class _Server(uvicorn.Server):
    """uvicorn's server; signals are ours, and it tells when it answers."""

    ready: Callable[[], None] = staticmethod(lambda: None)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready()

    def end(self) -> None:
        self.should_exit = True


def _config(head_end: HeadEnd, faults: Faults) -> uvicorn.Config:
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    return uvicorn.Config(
        create_app(head_end, faults),
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a warning of the server's is one: not of answers that were cut off on purpose."""
    cause = record.exc_info[1] if record.exc_info else None
    told = record.getMessage()
    return not (isinstance(cause, asyncio.CancelledError) or any(part in told for part in _KNOWN))


@asynccontextmanager
async def _working(head_end: HeadEnd, server: _Server) -> AsyncIterator[None]:
    """Both threads while inside; what ends one of them by mistake ends everything."""
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(max_workers=2) as threads:
        works = [threads.submit(work) for work in (head_end.read_meters, head_end.write_files)]
        for each in works:
            each.add_done_callback(lambda _: loop.call_soon_threadsafe(server.end))
        try:
            yield
        finally:
            head_end.stop()
    for each in works:
        each.result()


def _api_socket(listening: Listening) -> socket.socket:
    api = socket.socket(_LOOPBACK[listening.host])
    api.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        api.bind((listening.host, listening.port))
        api.listen()  # from here on nobody else can, although it is bound by SO_REUSEADDR
    except OSError as error:
        api.close()
        raise Unavailable(
            f"The API cannot listen at {listening.host}:{listening.port}: {error.strerror}. Stop "
            "the process that does, or give another --port"
        ) from error
    return api


def _password(path: Path) -> tuple[str, Path | None]:
    """The password of the environment, or that of a file, which is made where there is none."""
    given = os.environ.get(PASSWORD_VARIABLE)
    if given:
        return given, None
    try:
        if not path.exists():
            write_secret(path, f"{secrets.token_urlsafe(24)}\n".encode())
        return path.read_text().strip(), path
    except (OSError, UnicodeDecodeError) as error:
        raise Unavailable(f"The password {path} cannot be read or made: {error}") from error
