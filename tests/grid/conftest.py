"""A small grid with readings: made once by simulation, or by hand."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from meterlake.dataflows.run import Scope, run_dataflow
from meterlake.delta.store import Store
from meterlake.engine.local import LocalEngine
from meterlake.ingest import intake
from meterlake.integrate import derivations
from meterlake.pipeline.derivation import Session
from meterlake.settings import Settings, load_settings

START = datetime(2024, 1, 1, tzinfo=UTC)
NOW = datetime(2024, 6, 1, tzinfo=UTC)
QUARTER = timedelta(minutes=15)

Row = tuple[datetime, str, float | None, float, float]
"""Time, meter, kva, kw, voltage."""


@pytest.fixture
def conf() -> Settings:
    return load_settings(late_hooks=())


@pytest.fixture
def take(tmp_path: Path, conf: Settings) -> Callable[..., None]:
    """Deliver rows as a head-end file, and integrate them."""

    def taken(store: Store, rows: list[Row], *, arrival: datetime = NOW) -> None:
        lines = ["time,arrival_time,device_id,measure_name,load,crrnt,pf,kva,kw,vltg"]
        for time, meter, kva, kw, volts in rows:
            shown = "" if kva is None else kva
            lines.append(
                f"{time:%Y-%m-%d %H:%M:%S},{arrival:%Y-%m-%d %H:%M:%S},{meter},readings,,,,"
                f"{shown},{kw},{volts}"
            )
        path = tmp_path / f"{len(list(tmp_path.glob('*.csv')))}.csv"
        path.write_text("\n".join([*lines, ""]))
        engine = LocalEngine(2)
        intake.ingest(Session(store, engine, conf, arrival), [str(path)])
        derivations.integrate(Session(store, engine, conf, arrival))

    return taken


@pytest.fixture
def topology(conf: Settings) -> Callable[..., None]:
    """Load a topology from a folder."""

    def loaded(store: Store, folder: Path, *, at: datetime | None = None) -> None:
        run_dataflow(store, "topology", Scope(str(folder), at=at), settings=conf, now=NOW)

    return loaded
