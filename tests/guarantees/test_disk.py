"""A full disk and a read-only one: a clear error, the lake intact, and on again with space."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support import work

from meterlake.delta.store import open_store
from meterlake.questions.sql import query
from meterlake.schema import TABLES
from meterlake.simulate.readings import ReadingsPlan, simulate_readings

START = datetime(2024, 1, 1, tzinfo=UTC)

# A file system of a few MB, seen by this process and its children only.
ALONE = ["unshare", "--mount", "--map-root-user"]


def can_mount() -> bool:
    script = 'mount -t tmpfs -o size=1m tmpfs "$1"'
    done = subprocess.run(
        [*ALONE, "sh", "-c", script, "sh", "/mnt"], check=False, capture_output=True
    )
    return done.returncode == 0


needs_mounts = pytest.mark.skipif(
    shutil.which("unshare") is None or not can_mount(), reason="needs leave to mount a tmpfs"
)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    plan = ReadingsPlan(
        devices=100, interval_minutes=15, start=START, end=START + timedelta(days=2), bad_percent=2
    )
    return [str(f.path) for f in simulate_readings(plan, tmp_path / "inbox").files]


def on_a_small_disk(tmp_path: Path, size: str, script: str, *args: str) -> str:
    """Run a shell script with $DISK as such a file system; what it printed, errors too."""
    disk = tmp_path / "disk"
    disk.mkdir(exist_ok=True)
    done = subprocess.run(
        [
            *ALONE, "sh", "-c",
            f'mount -t tmpfs -o size={size} tmpfs "$DISK" && {{ {script} }}', "sh", *args,
        ],
        check=False, capture_output=True, text=True, timeout=120,
        env={**os.environ, "DISK": str(disk), "METERLAKE_LATE_HOOKS": "",
             "METERLAKE": f"{sys.executable} -m meterlake", "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    return done.stdout + done.stderr


@needs_mounts
@pytest.mark.parametrize(
    "free",
    [
        pytest.param(1000, marks=pytest.mark.proof),
        *(pytest.param(n, marks=pytest.mark.soak) for n in range(100, 1500, 100)),
    ],
)
def test_a_disk_that_is_full_is_said_so_and_loses_nothing(
    tmp_path: Path, files: list[str], free: int, record_property: Callable[[str, object], None]
) -> None:
    """`free` KB are left for the second file and its integration; then all."""
    script = f"""
        lake="$DISK/lake"
        $METERLAKE ingest "$1" --lake $lake || exit
        $METERLAKE integrate --lake $lake || exit
        cp -r $lake "$2/before"
        used=$(df -k --output=avail "$DISK" | tail -1)
        head -c $(( (used - {free}) * 1024 )) /dev/zero > "$DISK/ballast"
        $METERLAKE ingest "$3" --lake $lake; echo "ingest ended with $?"
        $METERLAKE integrate --lake $lake; echo "integrate ended with $?"
        cp -r $lake "$2/full"
        rm "$DISK/ballast"
        $METERLAKE check --lake $lake --output json; echo "check ended with $?"
        $METERLAKE ingest "$3" --lake $lake && $METERLAKE integrate --lake $lake
        cp -r $lake "$2/after"
    """
    said = on_a_small_disk(tmp_path, "12m", script, files[0], str(tmp_path), files[1])
    if free < 1500:
        assert "ended with 3" in said, said
        assert "No space left" in said or "no space" in said.lower(), said
    assert "Traceback" not in said, said
    assert "check ended with 0" in said, said
    # Before, or after the job that was refused; and in the end what a large disk has.
    clean = str(tmp_path / "clean")
    now = datetime.now(UTC)
    states = []
    for step in range(4):
        if step % 2 == 0:
            work.ingest(clean, [files[step // 2]], now)
        else:
            work.integrate(clean, now)
            work.cluster(clean, now)
        states.append(facts(clean))
    assert facts(str(tmp_path / "before")) == states[1]
    for table, rows in facts(str(tmp_path / "full")).items():
        assert rows in [state[table] for state in states[1:]], table
    assert facts(str(tmp_path / "after")) == states[3]
    record_property("full disks", 1)


@pytest.mark.proof
@needs_mounts
def test_a_read_only_disk_is_said_so_and_can_still_be_asked(
    tmp_path: Path, files: list[str]
) -> None:
    script = """
        lake="$DISK/lake"
        $METERLAKE ingest "$1" --lake $lake || exit
        $METERLAKE integrate --lake $lake || exit
        mount -o remount,ro "$DISK"
        $METERLAKE ingest "$2" --lake $lake; echo "ingest ended with $?"
        $METERLAKE query "select count(*) from readings" --lake $lake; echo "query ended with $?"
        $METERLAKE check --lake $lake; echo "check ended with $?"
        $METERLAKE vacuum --retain 0m --nobody-else --lake $lake; echo "vacuum ended with $?"
        $METERLAKE integrate --lake $lake; echo "integrate ended with $?"
        $METERLAKE ingest "$2" --lake $DISK/new; echo "new ended with $?"
    """
    said = on_a_small_disk(tmp_path, "20m", script, files[0], files[1])
    assert "Traceback" not in said, said
    assert "Read-only file system" in said, said
    for job, code in {
        "ingest": 3, "query": 0, "check": 0, "vacuum": 0, "integrate": 0, "new": 3,
    }.items():  # fmt: skip
        assert f"{job} ended with {code}" in said, said


def facts(lake: str) -> dict[str, str]:
    """Contents without the moments of the jobs."""
    store = open_store(lake)
    return {
        name: work.fingerprint(
            query(store, f"SELECT * FROM {name}").drop(
                "received_at", "recorded_at", "ingest_date", strict=False
            )
        )
        for name in TABLES
    }
