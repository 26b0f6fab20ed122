"""Which of several reads of one reading stands: by status, then by arrival; channels stay apart."""

import itertools
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support import work

from meterlake.delta.store import Store, open_store
from meterlake.engine.local import LocalEngine
from meterlake.ingest import intake
from meterlake.integrate.derivations import cluster, integrate
from meterlake.pipeline import upkeep
from meterlake.pipeline.derivation import Session
from meterlake.questions.history import AsOf
from meterlake.questions.sql import query
from meterlake.readings.consumption import read_consumption
from meterlake.readings.reader import Reader
from meterlake.schema import STATUSES

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
PROFILE = """
name = "ours"
interval_minutes = 60
meter = "meter"
quality = "flag"
[status]
M = "valid"
E = "estimated"
F = "final_estimate"
X = "missing"
[time]
column = "at"
zone = "UTC"
[values]
kw = { type = "kw", unit = "kW" }
"""


def session(store: Store, now: datetime = NOW) -> Session:
    return Session(store, LocalEngine(1), work.CONF, now)


def deliver(store: Store, folder: Path, number: int, flag: str, value: float) -> None:
    (folder / "p.toml").write_text(PROFILE)
    path = folder / f"{number}.csv"
    path.write_text(f"meter,at,flag,kw\nm,2024-01-01 00:00:00,{flag},{value}\n")
    now = NOW + timedelta(hours=number)
    done = intake.ingest(session(store, now), [str(path)], profile=str(folder / "p.toml"))
    assert done.failures == []


@pytest.mark.parametrize("flags", list(itertools.permutations("MEX")), ids="".join)
@pytest.mark.parametrize("integrated", [False, True])
def test_a_measured_value_stands_before_an_estimate_whichever_came_later(
    tmp_path: Path, flags: tuple[str, ...], integrated: bool
) -> None:
    store = open_store(str(tmp_path / "lake"))
    for number, flag in enumerate(flags):
        deliver(store, tmp_path, number, flag, float(number))
        if integrated:
            integrate(session(store))
    integrate(session(store))
    found = query(store, "SELECT reading_value, quality, status FROM readings").rows()
    assert found == [(float(flags.index("M")), "M", "valid")]
    always = AsOf(NOW + timedelta(days=1), "receipt")
    then = query(store, "SELECT reading_value, quality, status FROM readings", as_of=always)
    assert then.rows() == found
    assert upkeep.check(session(store)).findings == ()


@pytest.mark.parametrize(("first", "second"), [("M", "M"), ("E", "F"), ("", "M"), ("X", "X")])
def test_among_equals_the_latest_arrival_stands(tmp_path: Path, first: str, second: str) -> None:
    store = open_store(str(tmp_path / "lake"))
    deliver(store, tmp_path, 0, first, 1.0)
    deliver(store, tmp_path, 1, second, 2.0)
    integrate(session(store))
    assert query(store, "SELECT reading_value FROM readings").rows() == [(2.0,)]


def test_a_flag_that_is_not_mapped_and_none_are_raw(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "lake"))
    for number, flag in enumerate(["", "unknown"]):
        deliver(store, tmp_path, number, flag, float(number))
        assert set(query(store, "SELECT DISTINCT status FROM staging")["status"]) == {"raw"}
    assert len(STATUSES) == 8


def test_channels_of_a_type_stay_apart_and_sums_are_of_the_total(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "lake"))
    (tmp_path / "p.toml").write_text(
        PROFILE.replace('quality = "flag"\n', "").replace(
            'kw = { type = "kw", unit = "kW" }',
            'kw = { type = "kw", unit = "kW" }\n'
            'one = { type = "kw", unit = "kW", channel = "L1" }\n'
            'two = { type = "kw", unit = "kW", channel = "L2" }',
        )
    )
    rows = [f"m,2024-01-01 {h:02d}:00:00,3.0,1.0,2.0" for h in range(24)]
    (tmp_path / "a.csv").write_text("\n".join(["meter,at,kw,one,two", *rows, ""]))
    intake.ingest(session(store), [str(tmp_path / "a.csv")], profile=str(tmp_path / "p.toml"))
    integrate(session(store))
    cluster(session(store))
    sql = "SELECT channel, phase, sum(reading_value) FROM readings GROUP BY ALL ORDER BY ALL"
    for clustered in (
        sql,
        sql.replace("SELECT channel", "SELECT max(arrival_time) IS NULL, channel"),
    ):
        assert [row[-3:] for row in query(store, clustered).rows()] == [
            ("L1", "L1", 24.0),
            ("L2", "L2", 48.0),
            ("total", None, 72.0),
        ]
    energy = read_consumption(Reader(store), "m", by="day", zone="UTC")
    assert energy.select("energy_kwh", "intervals", "is_complete").rows() == [(72.0, 24, True)]
    assert Reader(store).readings("m")["channel"].unique().to_list() == ["total"]
    assert upkeep.check(session(store)).findings == ()
