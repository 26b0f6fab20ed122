"""A simulated head-end system as its own process, and as parts within this one."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2

SECONDS = 60.0  # for anything to happen

Process = subprocess.Popen[str]


@dataclass(frozen=True)
class Hes:
    """A head-end that answers: where it is, and how to get in."""

    process: Process
    api: str
    sftp_host: str
    sftp_port: int
    user: str
    password: str
    host_key: str
    known_hosts: str
    folder: Path
    told: dict[str, Any]

    def about(self) -> dict[str, Any]:
        """What it says of itself."""
        answer = httpx2.get(f"{self.api}/")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def complete_until(self) -> datetime:
        """Up to when its reads are complete."""
        return moment(self.about()["complete_until"])

    def wait_until(self, complete: datetime) -> None:
        """Wait until its reads are complete up to a moment."""
        wait(lambda: self.complete_until() >= complete)

    def ask(self, start: str, end: str | None = None) -> dict[str, Any]:
        """Ask for a file, and wait for what becomes of it."""
        asked = {"start_date": start, **({} if end is None else {"end_date": end})}
        answer = httpx2.post(f"{self.api}/readings-file", json=asked)
        assert answer.status_code == 202, answer.text
        return self.outcome(answer.json()["request_id"])

    def status(self, request_id: str) -> dict[str, Any]:
        """What has become of a file."""
        answer = httpx2.get(f"{self.api}/readings-file", params={"request_id": request_id})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def outcome(self, request_id: str) -> dict[str, Any]:
        """What becomes of a file in the end."""
        under_way = ("queued", "submitted", "running")
        wait(lambda: self.status(request_id)["status"] not in under_way)
        return self.status(request_id)

    def end(self) -> int:
        """Stop it by SIGTERM; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(SECONDS)

    def kill(self) -> None:
        """Stop it by SIGKILL."""
        self.process.kill()
        self.process.wait(SECONDS)


def moment(text: str) -> datetime:
    """A time as the API tells it."""
    return datetime.fromisoformat(text)


def wait(until: Callable[[], bool]) -> None:
    """Ask again and again until it is so."""
    end = time.monotonic() + SECONDS
    while not until():
        assert time.monotonic() < end, "it never was so"
        time.sleep(0.02)


@contextmanager
def starting(
    folder: Path, *options: str, before: Sequence[str] = (), **variables: str
) -> Iterator[Process]:
    """The command, on free ports, ended at last; `before` is what it is started by."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("METERLAKE_")}
    process = subprocess.Popen(
        [
            *before, sys.executable, "-m", "meterlake", "hes", "serve", "--folder", str(folder),
            "--port", "0", "--sftp-port", "0", "--output", "json", *options,
        ],
        env=kept | variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def serving(
    folder: Path, *options: str, before: Sequence[str] = (), **variables: str
) -> Iterator[Hes]:
    """A head-end in a folder, once it answers; killed at last where it was not ended."""
    with starting(folder, *options, before=before, **variables) as process:
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline()
        assert line, process.stderr.read()
        told = json.loads(line)
        sftp = urlsplit(told["sftp"])
        file = told["password_file"]
        password = variables.get("METERLAKE_HES_PASSWORD") if file is None else None
        if file is not None and not before:
            password = Path(file).read_text().strip()
        assert sftp.hostname is not None and sftp.port is not None and sftp.username is not None
        yield Hes(
            process=process,
            api=told["api"],
            sftp_host=sftp.hostname,
            sftp_port=sftp.port,
            user=sftp.username,
            password=password or "",
            host_key=told["host_key"],
            known_hosts=told["known_hosts"],
            folder=folder,
            told=told,
        )
