"""Where nothing is new, no job writes: in any zone, wherever the readings end."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support import ml
from support.grids import small_grid, write_grid

from meterlake.dataflows.run import Scope, run_dataflow
from meterlake.delta import commit as commits
from meterlake.delta.commit import snapshots
from meterlake.delta.store import Store, open_store
from meterlake.engine.local import LocalEngine
from meterlake.forecast.detection import detect
from meterlake.forecast.forecasts import forecast_all
from meterlake.forecast.training import train
from meterlake.grid.derivations import GRID, update_grid
from meterlake.ingest import intake
from meterlake.integrate.derivations import cluster, integrate
from meterlake.pipeline.derivation import Session
from meterlake.schema import LATE_ARRIVALS, READINGS, known_tables
from meterlake.settings import Settings, load_settings

NOW = datetime(2025, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
Deliver = Callable[..., Path]

# Noon of a UTC day before the one on which the zone's clock changes; Apia skipped a whole day.
CHANGES = {
    "UTC": datetime(2024, 3, 29, 12, tzinfo=UTC),
    "Europe/Berlin": datetime(2024, 3, 29, 12, tzinfo=UTC),
    "Australia/Sydney": datetime(2024, 4, 5, 12, tzinfo=UTC),
    "America/St_Johns": datetime(2024, 3, 8, 12, tzinfo=UTC),
    "Pacific/Apia": datetime(2011, 12, 28, 12, tzinfo=UTC),
}
ALONE = ["unshare", "--mount", "--map-root-user"]
READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0"'


def row(at: datetime) -> str:
    return f"{at:%F %T},{at:%F %T},m1,readings,,,,,1.5,"


def session(store: Store, conf: Settings) -> Session:
    return Session(store, LocalEngine(2), conf, NOW)


def take(store: Store, conf: Settings, path: Path) -> None:
    assert not intake.ingest(session(store, conf), [str(path)]).failures
    assert integrate(session(store, conf)).added
    cluster(session(store, conf))


def touched(store: Store) -> dict[str, int]:
    """When each file and folder of a lake was last written."""
    return {folder: os.stat(folder).st_mtime_ns for folder, _, _ in os.walk(store.url)} | {
        os.path.join(folder, name): os.stat(os.path.join(folder, name)).st_mtime_ns
        for folder, _, names in os.walk(store.url)
        for name in names
    }


def versions(store: Store) -> dict[str, int]:
    return {name: s.version for name, s in snapshots(store, known_tables().values()).items()}


def writes_nothing(store: Store, job: Callable[[], object]) -> None:
    before, there = versions(store), touched(store)
    job()
    assert versions(store) == before
    assert touched(store) == there


@pytest.mark.parametrize("zone", CHANGES)
def test_a_second_run_writes_nothing_wherever_the_readings_end(
    zone: str, tmp_path: Path, deliver: Deliver
) -> None:
    store = open_store(str(tmp_path / "lake"))
    conf = load_settings(late_hooks=(), timezone=zone)
    start, step = CHANGES[zone], timedelta(hours=7, minutes=30)
    for number in range(9):
        path = deliver(
            f"{number}.csv", *(row(start + number * step + n * HOUR / 2) for n in range(15))
        )
        take(store, conf, path)
        writes_nothing(store, lambda: integrate(session(store, conf)))
        writes_nothing(store, lambda: cluster(session(store, conf)))


def test_a_second_run_of_grid_forecast_and_detection_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ml.small_networks(monkeypatch)
    store, conf = open_store(str(tmp_path / "lake")), ml.settings("Europe/Berlin")
    names = ml.names(4)
    energy = ml.fleet(4, 150)[:, :-4]  # the last readings end before the local midnight
    ml.fill(store, ml.readings(ml.by_meter(names, energy)))
    grid = small_grid(**{name: "t1" for name in names})
    scope = Scope(str(write_grid(tmp_path / "topology", grid)))
    run_dataflow(store, "topology", scope, settings=conf, now=NOW)

    def everything() -> None:
        cluster(session(store, conf))
        for derivation in GRID.values():
            update_grid(session(store, conf), derivation)
        forecast_all(session(store, conf))
        detect(session(store, conf))

    cluster(session(store, conf))
    train(store, engine=LocalEngine(1), settings=conf, now=NOW)
    everything()
    assert versions(store)["anomalies"] == versions(store)["node_forecasts"] == 1
    writes_nothing(store, everything)


def test_work_brings_the_log_of_late_arrivals_up_and_idling_does_not(
    tmp_path: Path, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commits, "_SETTLE_AFTER", 3)
    store, conf = open_store(str(tmp_path / "lake")), load_settings(late_hooks=())
    for number in range(5):
        path = deliver(f"{number}.csv", row(ml.START + number * HOUR))
        take(store, conf, path)
        writes_nothing(store, lambda: integrate(session(store, conf)))
    assert versions(store)[READINGS.name] == 5 and versions(store)[LATE_ARRIVALS.name] > 0


@pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run([*ALONE, "true"], check=False, capture_output=True).returncode != 0,
    reason="needs leave to mount a folder read-only",
)
@pytest.mark.parametrize("zone", ["Europe/Berlin", "Pacific/Apia"])
def test_an_idle_integration_works_on_a_lake_that_is_read_only(
    zone: str, tmp_path: Path, deliver: Deliver
) -> None:
    store, conf = open_store(str(tmp_path / "lake")), load_settings(late_hooks=(), timezone=zone)
    times = [CHANGES[zone] + n * HOUR for n in range(46)]  # to 9:00 UTC
    path = deliver("a.csv", *map(row, times))
    take(store, conf, path)
    script = f"{READ_ONLY} && {{ touch $0/new; exec {sys.executable} -m meterlake integrate; }}"
    done = subprocess.run(
        [*ALONE, "sh", "-c", script, store.url],
        check=False, capture_output=True, text=True, timeout=120,
        env={**os.environ, "METERLAKE_LAKE": store.url, "METERLAKE_TIMEZONE": zone},
    )  # fmt: skip
    assert "Read-only file system" in done.stderr  # touch says so
    assert done.returncode == 0, done.stderr
