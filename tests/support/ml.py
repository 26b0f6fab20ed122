"""Readings of a small fleet made with numpy, and lakes that hold them."""

import os
import shutil
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from meterlake.delta.commit import Change, commit, snapshot
from meterlake.delta.store import Store, open_store
from meterlake.delta.table import write_file
from meterlake.engine.local import LocalEngine
from meterlake.forecast import networks
from meterlake.integrate.derivations import cluster
from meterlake.pipeline.derivation import Session
from meterlake.schema import READINGS, TOTAL, polars_schema
from meterlake.settings import MlSettings, Settings, load_settings

START = datetime(2024, 1, 1, tzinfo=UTC)  # a Monday
NOW = datetime(2024, 12, 1, tzinfo=UTC)
METERS = 14  # of a small lake
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)

Energy = NDArray[np.float64]
"""Energy [kWh] of meters and hours: [meters, hours]."""


def wall(year: int, month: int, day: int, hour: int = 0) -> datetime:
    """What a clock shows, naive."""
    return datetime(year, month, day, hour, tzinfo=UTC).replace(tzinfo=None)


def settings(zone: str = "UTC", **ml: object) -> Settings:
    """Settings of a small training."""
    small: dict[str, object] = {"train_rows": 4000, "use_weather": False, **ml}
    return load_settings(
        late_hooks=(), timezone=zone, workers=1, ml=MlSettings.model_validate(small)
    )


def small_networks(patch: pytest.MonkeyPatch, steps: int = 100) -> None:
    """Training that takes a second, and errs more."""
    patch.setattr(networks, "_COUNT", 2)
    patch.setattr(networks, "_MOST_STEPS", steps)


def fleet(meters: int, days: int, *, seed: int = 1, noise: float = 0.25) -> Energy:
    """A morning and an evening peak, lower on weekends, each meter of its own size."""
    random = np.random.default_rng(seed)
    hour = np.arange(24)
    shape = 0.5 + np.exp(-((hour - 8) ** 2) / 8) + 1.5 * np.exp(-((hour - 19) ** 2) / 10)
    week = np.array([1, 1, 1.05, 1, 1.1, 0.8, 0.7])[np.arange(days) % 7]
    size = np.exp(random.normal(0, 0.7, meters))
    usual = size[:, None, None] * week[None, :, None] * shape[None, None, :]
    made: Energy = usual * np.exp(random.normal(0, noise, (meters, days, 24)))
    return made.reshape(meters, days * 24)


def names(meters: int) -> list[str]:
    """Identifiers in order."""
    return [f"m{number:02d}" for number in range(meters)]


def readings(energy: Mapping[str, Energy], start: datetime = START) -> pl.DataFrame:
    """A reading of each hour, but where there is NaN: meter_id, reading_date_time, value."""
    parts = []
    for meter, series in energy.items():
        there = np.flatnonzero(~np.isnan(series))
        at = int(start.timestamp()) * 1_000_000 + there * 3_600_000_000
        parts.append(
            pl.DataFrame(
                {
                    "meter_id": pl.Series([meter] * len(there), dtype=pl.String),
                    "reading_date_time": pl.Series(at, dtype=pl.Int64).cast(
                        pl.Datetime("us", "UTC")
                    ),
                    "reading_value": pl.Series(series[there], dtype=pl.Float64),
                    "channel": TOTAL,
                    "interval_seconds": pl.Series([3600] * len(there), dtype=pl.Int64),
                    "length_source": "lake",
                    "status": "raw",
                }
            )
        )
    return pl.concat(parts)


def fill(store: Store, rows: pl.DataFrame, *, now: datetime = NOW) -> None:
    """Put readings into the lake, as integrate does but in one file a day, not one an hour.

    Days that are there already are replaced whole.
    """
    state = snapshot(store, READINGS)
    types = polars_schema(READINGS)
    missing = {
        c.name: pl.lit(None, types[c.name])
        for c in READINGS.file_columns
        if c.name not in rows.columns
    }
    of_files = [c.name for c in READINGS.file_columns]
    files = []
    for (day,), part in rows.group_by(pl.col("reading_date_time").dt.date(), maintain_order=True):
        assert isinstance(day, datetime | type(START.date()))
        partition = {
            "reading_type": "kw",
            "year": f"{day:%Y}",
            "month": f"{day:%m}",
            "day": f"{day:%d}",
            "hour": "12",
        }
        frame = part.with_columns(**missing).select(of_files).sort(READINGS.sorted_by)
        name = f"part-{uuid.uuid4().hex}"
        files.append(write_file(store, READINGS, frame, partition=partition, name=name))
    new = [f.partition for f in files]
    commit(
        store,
        READINGS,
        Change(
            {"test": state.version + 1},
            add=files,
            remove=[f for f in state.files if f.partition in new],
            read_version=state.version,
        ),
        now=now,
    )


def bring_up(store: Store, conf: Settings, now: datetime = NOW) -> None:
    """Serving and the energies per day."""
    cluster(Session(store, LocalEngine(2), conf, now))


def copied(lake: Path, to: Path) -> Store:
    """The same lake elsewhere; its files are linked, since none is ever written again."""
    shutil.copytree(lake, to, copy_function=os.link)
    return open_store(str(to))


def by_meter(ids: Iterable[str], energy: Energy) -> dict[str, Energy]:
    """The rows of a matrix by meter."""
    return dict(zip(ids, energy, strict=True))
