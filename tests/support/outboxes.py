"""Places where files arrive, over their real protocols on loopback: what a test puts is there."""

import asyncio
import functools
import http.server
import os
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import asyncssh
import obstore
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from meterlake.storage import objects_at

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # it stands on asyncore
    from pyftpdlib.authorizers import DummyAuthorizer
    from pyftpdlib.handlers import FTPHandler, TLS_FTPHandler
    from pyftpdlib.ioloop import IOLoop
    from pyftpdlib.servers import FTPServer

KINDS = ("folder", "sftp", "ftp", "ftps", "http", "s3")
USER, PASSWORD = "mdm", "correct horse battery"


@dataclass
class Outbox:
    """A place with files; `told` is what a [[source]] says of it."""

    kind: str
    told: dict[str, Any]
    root: Path
    objects: Any = None
    prefix: str = ""
    held: ExitStack = field(default_factory=ExitStack)

    def put(self, name: str, content: bytes) -> None:
        """Put a file there, or other content in its place."""
        if self.objects is not None:
            obstore.put(self.objects, f"{self.prefix}/{name}", content)
            return
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def names(self) -> set[str]:
        """What lies there, with folders."""
        if self.objects is not None:
            found = [m for batch in obstore.list(self.objects, self.prefix) for m in batch]
            return {m["path"].removeprefix(f"{self.prefix}/") for m in found}
        return {str(p.relative_to(self.root)) for p in self.root.rglob("*") if p.is_file()}


@contextmanager
def outbox(
    kind: str, folder: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Outbox]:
    """An empty place of a kind."""
    root = folder / "outbox"
    root.mkdir()
    monkeypatch.setenv("OUTBOX_PASSWORD", PASSWORD)
    secret = {"user": USER, "password_env": "OUTBOX_PASSWORD"}
    with ExitStack() as held:
        if kind == "folder":
            yield Outbox(kind, {"url": f"{root}/*.csv"}, root)
        elif kind == "sftp":
            port, key = held.enter_context(sftp_server(folder))
            url = f"sftp://127.0.0.1:{port}/outbox/*.csv"
            yield Outbox(kind, {"url": url, "host_key": key, **secret}, root)
        elif kind in ("ftp", "ftps"):
            port = held.enter_context(ftp_server(folder, is_safe=kind == "ftps"))
            if kind == "ftps":
                monkeypatch.setenv("SSL_CERT_FILE", str(folder / "certificate.pem"))
            yield Outbox(kind, {"url": f"{kind}://127.0.0.1:{port}/outbox/*.csv", **secret}, root)
        elif kind == "http":
            port = held.enter_context(web_server(folder))
            yield Outbox(kind, {"url": f"http://127.0.0.1:{port}/outbox/*.csv"}, root)
        else:
            seaweed = request.getfixturevalue("seaweed")
            bucket = request.getfixturevalue("bucket")
            for name, value in seaweed.environment().items():
                monkeypatch.setenv(name, value)
            prefix = uuid.uuid4().hex
            told = {"url": f"s3://{bucket}/{prefix}/*.csv"}
            yield Outbox(kind, told, root, objects_at(f"s3://{bucket}"), prefix)


@contextmanager
def sftp_server(
    folder: Path,
    password: str = PASSWORD,
    *,
    keys: Sequence[asyncssh.SSHKey] = (),
    hangs: bool = False,
) -> Iterator[tuple[int, str]]:
    """Port and public key of an SFTP server that has a folder, to read and to write.

    `keys` are its own; one that `hangs` never opens a file.
    """
    keys = keys or [asyncssh.generate_private_key("ssh-ed25519")]
    loop = asyncio.new_event_loop()

    class Server(asyncssh.SSHServer):
        def validate_password(self, username: str, given: str) -> bool:
            return (username, given) == (USER, password)

        def password_auth_supported(self) -> bool:
            return True

    class Files(asyncssh.SFTPServer):
        def __init__(self, channel: Any) -> None:
            super().__init__(channel, chroot=os.fsencode(folder))

        async def open(self, path: bytes, pflags: int, attrs: Any) -> Any:
            while hangs:
                await asyncio.sleep(0.1)
            return super().open(path, pflags, attrs)

    async def listen() -> Any:
        return await asyncssh.listen(
            "127.0.0.1", 0, server_host_keys=keys, server_factory=Server, sftp_factory=Files
        )

    listening = loop.run_until_complete(listen())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def stop() -> None:
        listening.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    try:
        yield listening.get_port(), keys[0].export_public_key().decode().strip()
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


@contextmanager
def ftp_server(
    folder: Path, *, is_safe: bool = False, password: str = PASSWORD, lists: bool = True
) -> Iterator[int]:
    """Port of an FTP server that has a folder; by TLS its certificate is certificate.pem there."""
    people = DummyAuthorizer()
    people.add_user(USER, password, str(folder), perm="elradfmwMT")
    kind = TLS_FTPHandler if is_safe else FTPHandler
    facts: dict[str, Any] = {"authorizer": people, "auth_failed_timeout": 0, "banner": "ready"}
    if is_safe:
        facts |= {
            "certfile": str(certificate(folder / "certificate.pem")),
            "tls_control_required": True, "tls_data_required": True, "ssl_context": None,
        }  # fmt: skip
    if not lists:
        facts["proto_cmds"] = {k: v for k, v in kind.proto_cmds.items() if k != "MLSD"}
    loop = IOLoop()
    server = FTPServer(("127.0.0.1", 0), type("Handler", (kind,), facts), ioloop=loop)
    is_over = threading.Event()

    def serve() -> None:
        while not is_over.is_set():
            loop.loop(timeout=0.02, blocking=False)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield server.socket.getsockname()[1]
    finally:
        is_over.set()
        thread.join(10)
        server.close_all()


def certificate(path: Path) -> Path:
    """A key and a certificate of 127.0.0.1 that it signed itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    return path


@contextmanager
def web_server(
    folder: Path, handler: Callable[..., SimpleHTTPRequestHandler] | None = None
) -> Iterator[int]:
    """Port of a web server that lists a folder."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    made: Any = handler or functools.partial(Quiet, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), made)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


class Answers(SimpleHTTPRequestHandler):
    """Answers what a test says."""

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
