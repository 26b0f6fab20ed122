"""A head-end within this process, whose time passes as a test says."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from meterlake.simulate.head_end.api import create_app
from meterlake.simulate.head_end.faults import Faults, read_faults
from meterlake.simulate.head_end.options import Wanted
from meterlake.simulate.head_end.system import HeadEnd

START = datetime(2024, 3, 1, tzinfo=UTC)
LATE = 200  # minutes: no whole steps
STEP = timedelta(minutes=15)


@dataclass
class Hand:
    """A clock that is set by hand."""

    time: datetime = START + timedelta(hours=6)

    def __call__(self) -> datetime:
        return self.time


@dataclass
class Room:
    """A head-end with its API and its clock."""

    head_end: HeadEnd
    api: TestClient
    clock: Hand
    faults: Faults = field(repr=False)

    def pass_time(self, **length: float) -> None:
        """Let time pass, and read what is due."""
        self.clock.time += timedelta(**length)
        self.read()

    def read(self) -> None:
        """Read all that is due."""
        before = None
        while before != self.head_end.complete_until:
            before = self.head_end.complete_until
            self.head_end.advance()

    def ask(self, start: datetime, end: datetime | None = None) -> dict[str, Any]:
        """Ask for a file, and write it."""
        asked = {"start_date": start.isoformat()}
        asked |= {} if end is None else {"end_date": end.isoformat()}
        answer = self.api.post("/readings-file", json=asked)
        assert answer.status_code == 202, answer.text
        self.head_end.write_next()
        return self.status(answer.json()["request_id"])

    def status(self, request_id: str) -> dict[str, Any]:
        """What has become of a file."""
        return dict(self.api.get("/readings-file", params={"request_id": request_id}).json())

    def path(self, file: dict[str, Any]) -> Path:
        """Where a file lies."""
        return self.head_end.files.parent / str(file["sftp_location"]).lstrip("/")


Open = Callable[..., Room]


@pytest.fixture
def open_room(tmp_path: Path) -> Iterator[Open]:
    """Opens a head-end of 60 meters, every fifth late, whose first read is START."""
    with ExitStack() as stack:

        def opened(
            *faults: str, folder: str = "hes", clock: Hand | None = None, **wanted: Any
        ) -> Room:
            clock = clock or Hand()
            usual = {"devices": 60, "late_percent": 20, "late_minutes": LATE, "start": START}
            struck = Faults(read_faults(faults), seed=1)
            head_end = HeadEnd(
                tmp_path / folder, Wanted(**{**usual, **wanted}), struck, machine=clock
            )
            stack.callback(head_end.close)
            api = TestClient(create_app(head_end, struck), raise_server_exceptions=False)
            return Room(head_end, stack.enter_context(api), clock, struck)

        yield opened


@pytest.fixture
def room(open_room: Open) -> Room:
    """Such a head-end, after six hours."""
    found = open_room()
    found.read()
    return found
