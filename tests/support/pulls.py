"""A head-end system without a network: reads with their arrivals, files of windows of them."""

import gzip
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from meterlake.delta.commit import snapshot
from meterlake.delta.store import Store
from meterlake.delta.table import fetched, scan
from meterlake.engine.local import LocalEngine
from meterlake.errors import Unavailable
from meterlake.ingest import intake
from meterlake.pipeline.derivation import Session
from meterlake.schema import DELIVERIES, INTEGRATIONS, STAGING
from meterlake.settings import Settings, load_settings
from meterlake.source_settings import IntegrationSettings
from meterlake.sources import head_end
from meterlake.sources.head_end import HeadEndSource
from meterlake.sources.head_end_api import Extent, Gone, OrderedFile
from meterlake.sources.ledger import states
from meterlake.sources.port import Means, SourceFile
from meterlake.sources.runner import Runner, SourceRun, pause_of

HEADER = "time,arrival_time,device_id,measure_name,load,crrnt,pf,kva,kw,vltg"
START = datetime(2024, 1, 1, tzinfo=UTC)
NAME = "north"
ENGINE = LocalEngine(1)
HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Read:
    """One row of a file."""

    device: str
    time: datetime
    arrival: datetime

    def line(self) -> str:
        value = 1 + (self.time - START) / timedelta(hours=1) / 100
        return (
            f"{self.time.isoformat()},{self.arrival.isoformat()},{self.device},readings,"
            f"10.0,{value:.3f},0.9,{value:.3f},{value * 0.9:.3f},220.0"
        )


def reads(hours: int, devices: int = 3, late: timedelta = 5 * HOUR) -> list[Read]:
    """A read an hour and device, an instant after its time; those of device 0 come late."""
    return [
        Read(f"m{d}", at, at + (late if d == 0 else timedelta(0)))
        for d in range(devices)
        for at in (START + n * HOUR for n in range(hours))
    ]


@dataclass
class StubHes:
    """Stands where `HeadEndClient` and the place of its files do."""

    reads: list[Read]
    until: datetime
    ordered: list[tuple[datetime, datetime]] = field(default_factory=list)
    files: dict[str, OrderedFile] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    polls: int = 1  # questions until a file is finished
    asked: dict[str, int] = field(default_factory=dict)
    fetched_bytes: int = 0
    servers: list[Any] = field(default_factory=list)
    on_fetch: Callable[[Path], None] = lambda path: None
    on_order: Callable[[], None] = lambda: None
    header: str = HEADER
    behind: timedelta = timedelta(0)
    damage: Callable[[bytes], bytes] = lambda content: content

    def __call__(self, url: str, *, pause: object) -> "StubHes":
        return self

    def close(self) -> None:
        pass

    def extent(self) -> Extent:
        oldest = min((r.arrival for r in self.reads), default=None)
        return Extent(now=self.until + self.behind, oldest=oldest, complete_until=self.until)

    def order(self, start: datetime, end: datetime) -> OrderedFile:
        self.on_order()
        end = min(end, self.until)
        self.ordered.append((start, end))
        rows = [r for r in self.reads if start <= r.arrival < end]
        name = f"r{len(self.files)}"
        text = "\n".join([self.header, *(r.line() for r in rows)]) + "\n"
        content = gzip.compress(text.encode(), mtime=0)
        common = {"request_id": name, "start_date": start, "end_date": end}
        if not rows:
            self.files[name] = OrderedFile(status="skipped", **common)
        else:
            self.contents[f"/outbox/{name}.csv.gz"] = content
            self.files[name] = OrderedFile(
                status="completed", sftp_location=f"/outbox/{name}.csv.gz",
                record_count=len(rows), size=len(content),
                sha256=hashlib.sha256(content).hexdigest(), **common,
            )  # fmt: skip
        return OrderedFile(status="queued", **common)

    def file(self, request_id: str) -> OrderedFile:
        if request_id not in self.files:
            raise Gone("no such file")
        self.asked[request_id] = self.asked.get(request_id, 0) + 1
        file = self.files[request_id]
        if self.asked[request_id] < self.polls:
            return file.model_copy(update={"status": "running"})
        return file

    @contextmanager
    def opened(self, address: Any, who: Any) -> Iterator["StubHes"]:
        self.servers.append(who)
        yield self

    def version(self, path: str) -> None:
        raise AssertionError("what was announced is not asked for again")

    def fetch(self, file: SourceFile, to: Path, *, seen: Callable[[int], object]) -> None:
        self.on_fetch(to)
        content = self.damage(self.contents[file.path])
        with to.open("ab") as out:
            done = out.tell()
            while done < min(file.version.size, len(content)):
                piece = content[done : done + 40]
                out.write(piece)
                out.flush()
                done += len(piece)
                self.fetched_bytes += len(piece)
                seen(done)


@dataclass
class Puller:
    """Pulls from a stub into a lake, at moments that the test sets."""

    store: Store
    hes: StubHes
    settings: Settings
    now: datetime = datetime(2024, 6, 1, 12, tzinfo=UTC)
    pauses: list[float] = field(default_factory=list)
    check: Callable[[], object] = lambda: None

    def __call__(self, name: str = NAME) -> SourceRun:
        return self.runner(name).run()

    def runner(self, name: str = NAME) -> Runner:
        means = Means(
            lambda: self.now, pause=self.wait, check=lambda: self.check(), chance=lambda: 0.5
        )
        source = HeadEndSource(name, self.settings, means)
        session = Session(self.store, ENGINE, self.settings, self.now)
        return Runner(session, source, means)

    def pause(self, now: datetime) -> float:
        """Seconds until it may pull again."""
        return pause_of(states(self.store).get(NAME), now=now)

    def wait(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += timedelta(seconds=seconds)

    def row(self) -> dict[str, Any]:
        rows = fetched(scan(self.store, INTEGRATIONS, snapshot(self.store, INTEGRATIONS).files))
        return rows.row(by_predicate=pl.col("name") == NAME, named=True)

    def staged(self) -> list[tuple[str, datetime, datetime]]:
        """Every delivered row in staging: device, time, arrival."""
        rows = fetched(scan(self.store, STAGING, snapshot(self.store, STAGING).files))
        columns = ("meter_id", "reading_date_time", "arrival_time")
        delivered = rows.unique(["source_sha256", "source_row"])
        return sorted(delivered.select(columns).iter_rows())


def puller(
    store: Store, hes: StubHes, monkeypatch: pytest.MonkeyPatch, folder: Path, **told: Any
) -> Puller:
    """A puller from a stub; parts of files lie in a folder."""
    monkeypatch.setattr(head_end, "HeadEndClient", hes)
    monkeypatch.setattr(head_end, "opened", hes.opened)
    monkeypatch.setattr(head_end, "_UNKEPT_BYTES", 0)  # small files' orders are kept too
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    monkeypatch.setenv("NORTH_PASSWORD", "correct horse")
    return Puller(store, hes, settings(**told))


def settings(**told: Any) -> Settings:
    """Settings with one integration."""
    usual = {
        "url": "http://127.0.0.1:1", "sftp": "127.0.0.1:1", "user": "meterlake",
        "password_env": "NORTH_PASSWORD", "host_key": "SHA256:x", "window_hours": 4,
    }  # fmt: skip
    integration = IntegrationSettings.model_validate(usual | told)
    return load_settings(integration={NAME: integration}, late_hooks=(), workers=1)


def keys(of: list[Read]) -> list[tuple[str, datetime, datetime]]:
    """Reads as `Puller.staged` shows them."""
    return sorted((r.device, r.time, r.arrival) for r in of)


def ingested_files(store: Store) -> list[str]:
    """The content, as delivered, of each file that was taken in."""
    rows = scan(store, DELIVERIES, snapshot(store, DELIVERIES).files)
    return fetched(rows)["source_sha256"].to_list()


def ingest_by_hand(puller: Puller, content: bytes, folder: Path) -> None:
    """Take a file's content in, as somebody else might."""
    path = folder / "by-hand.csv.gz"
    path.write_bytes(content)
    done = intake.ingest(Session(puller.store, ENGINE, puller.settings, puller.now), [str(path)])
    assert not done.failures


class Cut(BaseException):
    """The process ends here."""


class Countdown:
    """Ends the process at the n-th call; never where n is 0."""

    def __init__(self, n: int) -> None:
        self.left = n
        self.calls = 0

    def __call__(self, *_: object, **__: object) -> None:
        self.calls += 1
        self.left -= 1
        if self.left == 0:
            raise Cut


def is_away(*_: object) -> None:
    """Something that is not available."""
    raise Unavailable("it is away")
