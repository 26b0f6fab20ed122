"""A small lake that has a row in every table, to be served: in Sydney, over a change of clocks.

Meters `a1` to `a3` hang on transformer `t1`, `b1` to `b3` on `t2`; `x9` is in the grid and never
read, `ü &1` is read and in no grid. There are hourly readings of power since March, of more types
and from delivered files since 6 April; 7 April has 25 hours. `b3` was read in spring too, around
1 October, which has 23.
"""

import fcntl
import math
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest
from support import ml
from support.grids import small_grid, write_grid

from meterlake.dataflows.run import Scope, run_dataflow
from meterlake.delta.commit import Change, commit, snapshot
from meterlake.delta.store import Store, open_store
from meterlake.delta.table import write_file
from meterlake.engine.local import LocalEngine
from meterlake.forecast.forecasts import forecast_all
from meterlake.forecast.training import train
from meterlake.grid.derivations import GRID, update_grid
from meterlake.ingest import intake
from meterlake.integrate import derivations
from meterlake.integrate.derivations import cluster
from meterlake.pipeline.derivation import Session
from meterlake.schema import ANOMALIES, polars_schema
from meterlake.settings import MlSettings, Settings, load_settings
from meterlake.simulate.weather import simulate_weather

ZONE = "Australia/Sydney"
CLOCK = ZoneInfo(ZONE)
NOW = datetime(2024, 4, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
METERS = {f"{t}{n}": f"t{1 + (t == 'b')}" for t in "ab" for n in range(1, 4)}
NEVER_READ, NOT_IN_GRID = "x9", "ü &1"


def local(year: int, month: int, day: int, hour: int = 0) -> datetime:
    """What Sydney's clock shows, in UTC."""
    return datetime(year, month, day, hour, tzinfo=CLOCK).astimezone(UTC)


HISTORY_START, DELIVERED, END = local(2024, 3, 11), local(2024, 4, 6), local(2024, 4, 10, 6)
SPRING = local(2023, 9, 30), local(2023, 10, 3)
FORECAST_START = local(2024, 4, 8)
OUT = local(2024, 4, 8, 20), local(2024, 4, 8, 23)  # all of t1, read never
GAP = local(2024, 4, 6, 3)  # an hour of b1
Judged = tuple[str, date, float, int, float | None, str | None]
"""Meter, day, energy, anomaly, importance, kind."""

JUDGED: list[Judged] = [
    ("a1", date(2023, 12, 31), 250.5, 1, 0.9, "spike"),
    ("a1", date(2024, 1, 1), 1.25, -1, 0.75, "dip"),
    ("a1", date(2024, 1, 2), 20.0, 0, 0.0, None),
    ("a1", date(2024, 12, 31), 0.0, -1, 1.0, "zero"),
    ("b2", date(2024, 1, 1), -3.5, -1, math.inf, "step change"),
    ("b2", date(2024, 1, 3), 7.0, 1, None, "spike"),
]


def conf(**more: object) -> Settings:
    """Settings of this lake."""
    small = MlSettings(train_rows=3000, use_weather=False, window_days=30)
    usual = {"late_hooks": (), "timezone": ZONE, "workers": 1, "interval_minutes": 60}
    return load_settings(**(usual | {"ml": small} | more))


def kw(meter: str, moment: datetime) -> float:
    """What a meter delivers: never twice the same in its days, with zero and with export."""
    number = (moment - DELIVERED) // HOUR
    if (meter, number) in (("a2", 4), ("a2", 5)):
        return 0.0 if number == 4 else -1.5
    size = 1 + sorted([*METERS, NOT_IN_GRID]).index(meter)
    return size + number / 1000


def volts(meter: str, moment: datetime) -> float:
    """Within the band, and a little out of it in the evening."""
    return 220.0 + sorted([*METERS, NOT_IN_GRID]).index(meter) + (12.5 if moment.hour == 9 else 0)


def delivered() -> list[tuple[datetime, str]]:
    """Times and meters that are delivered."""
    hours = [DELIVERED + n * HOUR for n in range((END - DELIVERED) // HOUR)]
    return [
        (hour, meter)
        for hour in hours
        for meter in [*METERS, NOT_IN_GRID]
        if not (METERS.get(meter) == "t1" and OUT[0] <= hour < OUT[1])
        and (hour, meter) != (GAP, "b1")
        and (meter != NOT_IN_GRID or hour < DELIVERED + 5 * HOUR)
    ]


def make(folder: Path) -> Store:
    """Make the lake, in some seconds."""
    store, settings, engine = open_store(str(folder / "lake")), conf(), LocalEngine(1)
    grid = small_grid(**METERS, **{NEVER_READ: "t2"})
    grid["service_transformer"][1]["capacity"] = "unknown"  # a finding
    source = str(write_grid(folder / "grid", grid))
    run_dataflow(store, "topology", Scope(source, at=HISTORY_START), settings=settings, now=NOW)
    simulate_weather((45.0, 7.0), DELIVERED, END, folder / "weather")
    run_dataflow(
        store,
        "weather",
        Scope(str(folder / "weather"), start=DELIVERED),
        settings=settings,
        now=NOW,
    )
    files = _deliveries(folder)
    intake.ingest(Session(store, engine, settings, NOW), files)
    derivations.integrate(Session(store, engine, settings, NOW))
    _history(store)
    cluster(Session(store, engine, settings, NOW))
    for name in GRID:
        update_grid(Session(store, engine, settings, NOW), GRID[name])
    with pytest.MonkeyPatch.context() as patch:
        ml.small_networks(patch)
        train(store, engine=engine, settings=settings, now=NOW)
    for start in (FORECAST_START, None):
        forecast_all(Session(store, engine, settings, NOW), start=start)
    judged(store, JUDGED)
    return store


def made_once(folder: Path) -> Store:
    """The lake in a folder of several test processes, made by the first of them."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            make(folder / "made")
            (folder / "done").touch()
    return open_store(str(folder / "made" / "lake"))


def _history(store: Store) -> None:
    hours = (DELIVERED - HISTORY_START) // HOUR
    energy = ml.fleet(len(METERS), hours // 24 + 1)[:, :hours].round(3)
    ml.fill(store, ml.readings(ml.by_meter(METERS, energy), HISTORY_START), now=NOW)
    spring = 2.0 + np.arange((SPRING[1] - SPRING[0]) // HOUR) / 100
    ml.fill(store, ml.readings({"b3": spring}, SPRING[0]), now=NOW)


def _deliveries(folder: Path) -> list[str]:
    """Two files: what came in time, with two bad rows; and the last day of b2, a day late."""
    last_day = local(2024, 4, 9)
    is_late = {(t, m) for t, m in delivered() if m == "b2" and t >= last_day}
    rows: dict[bool, list[str]] = {False: [], True: []}
    for time, meter in delivered():
        late = (time, meter) in is_late
        arrival = time + (timedelta(days=1) if late else timedelta(minutes=5))
        power = kw(meter, time)
        rows[late].append(
            f"{time:%FT%TZ},{arrival:%FT%TZ},{meter},readings,,,,"
            f"{abs(power) + 0.5},{power},{volts(meter, time)}"
        )
    rows[False].insert(7, "no time,,b1,readings,,,,,1.0,220")
    rows[False].insert(9, '2024-04-05T01:00:00Z,,"b, 1",readings,,,,,many,220')
    paths = []
    for late, lines in rows.items():
        path = folder / f"delivery {int(late)}.csv"
        header = "time,arrival_time,device_id,measure_name,load,crrnt,pf,kva,kw,vltg"
        path.write_text("\n".join([header, *lines, ""]), encoding="utf-8")
        paths.append(str(path))
    return paths


def judged(store: Store, days: Sequence[Judged]) -> None:
    """Add judgements of days, as if a model had made them."""
    types = polars_schema(ANOMALIES)
    told = [
        {
            "meter_id": meter,
            "ds": day,
            "day_start": local(day.year, day.month, day.day),
            "consumption": energy,
            "yhat": 20.0,
            "yhat_lower": 10.0,
            "yhat_upper": 30.0,
            "anomaly": anomaly,
            "importance": importance,
            "kind": kind,
            "model": "by hand",
            "year": f"{day:%Y}",
            "month": f"{day:%m}",
        }
        for meter, day, energy, anomaly, importance, kind in days
    ]
    rows = pl.DataFrame(told, schema=types)
    files, version = [], snapshot(store, ANOMALIES).version
    for (year, month), part in rows.group_by("year", "month", maintain_order=True):
        frame = part.select([c.name for c in ANOMALIES.file_columns]).sort(ANOMALIES.sorted_by)
        place = {"year": str(year), "month": str(month)}
        name = f"{year}{month}-{version + 1}"
        files.append(write_file(store, ANOMALIES, frame, partition=place, name=name))
    commit(
        store, ANOMALIES, Change({"test": version + 1}, add=files, read_version=version), now=NOW
    )
