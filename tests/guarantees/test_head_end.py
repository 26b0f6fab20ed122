"""Days of a head-end system at high speed, with faults and kills: the lake has what it has."""

import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import polars as pl
import pytest
from support.hes import Hes, moment, serving

from meterlake.delta.store import open_store
from meterlake.questions.sql import query

START = datetime(2024, 1, 1, tzinfo=UTC)
TYPES = ("crrnt", "kva", "kw", "load", "pf", "vltg")
SECRET = "correct horse battery staple"
FAULTS = [
    part
    for kind in ("slow", "drop", "truncate", "error500", "duplicate", "out-of-order")
    for part in ("--fault", f"{kind}:10")
]


@dataclass
class World:
    """A head-end system that can be killed, and a puller that can."""

    folder: Path
    devices: int
    speed: int
    ports: tuple[int, int]
    stack: ExitStack = field(default_factory=ExitStack)

    def serve(self, *faults: str) -> Hes:
        """The head-end, at the same ports each time."""
        options = [
            "--devices", str(self.devices), "--late", "10", "--start", START.isoformat(),
            "--backfill", "0d", "--speed", f"{self.speed}x", "--seed", "3",
            "--port", str(self.ports[0]), "--sftp-port", str(self.ports[1]), *faults,
        ]  # fmt: skip
        return self.stack.enter_context(
            serving(self.folder / "hes", *options, METERLAKE_HES_PASSWORD=SECRET)
        )

    def configure(self, hes: Hes) -> None:
        told = {
            "url": hes.api, "sftp": f"{hes.sftp_host}:{hes.sftp_port}", "user": hes.user,
            "password_env": "HES_PASSWORD", "host_key": hes.host_key, "window_hours": 6,
            "retry_seconds": 0.1, "retry_seconds_at_most": 2, "wait_minutes": 0.5, "attempts": 50,
        }  # fmt: skip
        lines = [f"{name} = {json.dumps(value)}" for name, value in told.items()]
        text = "\n".join(['lake = "./lake"', "late_hooks = []", "[integration.north]", *lines])
        (self.folder / "meterlake.toml").write_text(text)

    def pull(self, *options: str) -> subprocess.Popen[bytes]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("METERLAKE_")}
        kept |= {"HES_PASSWORD": SECRET, "XDG_CACHE_HOME": str(self.folder / "cache")}
        with (self.folder / "pull.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "meterlake", "hes", "pull", *options],
                cwd=self.folder, env=kept, stdout=subprocess.DEVNULL, stderr=log,
            )  # fmt: skip
        self.stack.callback(process.wait)
        self.stack.callback(process.kill)
        return process


@pytest.fixture
def free_ports() -> Iterator[tuple[int, int]]:
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        ports = one.getsockname()[1], two.getsockname()[1]
    yield ports


@pytest.mark.parametrize(
    ("devices", "days", "speed", "kills", "hes_kills"),
    [
        pytest.param(40, 1.5, 8640, 3, 1, marks=pytest.mark.proof),
        pytest.param(2000, 8, 1440, 20, 5, marks=pytest.mark.soak),
    ],
    ids=["a day", "a week"],
)
def test_the_lake_has_what_the_head_end_has_whatever_happens_between_them(
    devices: int,
    days: float,
    speed: int,
    kills: int,
    hes_kills: int,
    tmp_path: Path,
    free_ports: tuple[int, int],
    record_property: Callable[[str, object], None],
) -> None:
    world = World(tmp_path, devices, speed, free_ports)
    chance = random.Random(5)
    seconds = days * 86400 / speed
    plan = [(chance.uniform(0.05, 0.95) * seconds, "puller") for _ in range(kills)]
    plan += [(chance.uniform(0.05, 0.95) * seconds, "hes") for _ in range(hes_kills)]
    with world.stack:
        hes = world.serve(*FAULTS)
        world.configure(hes)
        puller, began = world.pull("--every", "1s"), time.monotonic()
        for at, who in sorted(plan):
            time.sleep(max(0.0, at - (time.monotonic() - began)))
            if who == "hes":
                hes.kill()
                hes = world.serve(*FAULTS)
            else:
                assert puller.poll() is None, "the puller ended by itself"
                puller.kill()
                puller.wait()
                puller = world.pull("--every", "1s")
        while patiently(hes)["complete_until"] < (START + timedelta(days=days)).isoformat():
            time.sleep(0.2)
        puller.terminate()
        assert puller.wait(60) == 0

        assert hes.end() == 0
        hes = world.serve()
        assert world.pull("--no-integrate").wait(600) == 0, (tmp_path / "pull.log").read_text()
        assert world.pull().wait(600) == 0
        status = subprocess.run(
            [sys.executable, "-m", "meterlake", "hes", "status", "--output", "json"],
            cwd=tmp_path, capture_output=True, check=True,
        )  # fmt: skip
        cursor = moment(json.loads(status.stdout)["integrations"][0]["cursor"])
        there = reads_of(hes, until=cursor)
    log = (tmp_path / "pull.log").read_text()
    assert "Traceback" not in log and SECRET not in log
    here = readings_of(tmp_path / "lake")
    assert cursor >= START + timedelta(days=days)
    assert there.height > devices * 90 * (days - 1)
    assert there.equals(here)
    record_property("pullers killed", kills)
    record_property("head-end systems killed", hes_kills)
    record_property("reads pulled from them, each once", there.height)


def patiently(hes: Hes) -> dict[str, str]:
    """What it says of itself, though it fails at times."""
    for _ in range(50):
        try:
            answer = httpx2.get(f"{hes.api}/")
            if answer.status_code == 200:
                return dict(answer.json())
        except httpx2.HTTPError:
            pass
        time.sleep(0.1)
    raise AssertionError("it does not answer")


def reads_of(hes: Hes, *, until: datetime) -> pl.DataFrame:
    """Every read with an arrival before a moment, by its API."""
    pages, offset = [], 0
    while True:
        asked: dict[str, str | int] = {
            "start_date": START.isoformat(), "end_date": until.isoformat(),
            "offset": offset, "page_size": 10_000,
        }  # fmt: skip
        answer = httpx2.get(f"{hes.api}/readings", params=asked, timeout=60)
        rows = answer.json()["readings"]
        if not rows:
            break
        pages.append(pl.DataFrame(rows))
        offset += len(rows)
    reads = pl.concat(pages)
    return reads.select(
        pl.col("device_id").alias("meter_id"),
        pl.col("time").str.to_datetime(time_unit="us", time_zone="UTC"),
        *(pl.col(name).cast(pl.Float64) for name in TYPES),
    ).sort("meter_id", "time")


def readings_of(lake: Path) -> pl.DataFrame:
    """The integrated readings, a column for each type."""
    rows = query(
        open_store(str(lake)),
        "SELECT meter_id, reading_date_time AS time, reading_type, reading_value FROM readings",
    )
    assert not rows.select("meter_id", "time", "reading_type").is_duplicated().any()
    wide = rows.pivot("reading_type", index=("meter_id", "time"), values="reading_value")
    return wide.select("meter_id", "time", *TYPES).sort("meter_id", "time")
