"""Outages: what is found, what is not, and what late reads withdraw."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from grid.conftest import NOW, QUARTER, START, Row
from hypothesis import given, settings
from hypothesis import strategies as st
from support.grids import small_grid, write_grid

from meterlake.dataflows.run import Scope, run_dataflow
from meterlake.delta.store import Store, open_store
from meterlake.engine.local import LocalEngine
from meterlake.grid.derivations import GRID, update_grid
from meterlake.grid.outages import outage_rows
from meterlake.grid.supply import supply_rows
from meterlake.ingest import intake
from meterlake.integrate import derivations
from meterlake.pipeline.derivation import Session
from meterlake.questions.sql import query
from meterlake.settings import GridSettings, Settings, load_settings
from meterlake.simulate.grid import meters_of, simulate_grid
from meterlake.simulate.readings import ReadingsPlan, simulate_readings

DAY = timedelta(days=1)
METERS = {**{f"a{n}": "t1" for n in range(4)}, **{f"b{n}": "t2" for n in range(4)}}

Out = set[tuple[str, int]]
"""Meter, and number of the quarter of an hour that has no reading."""


def rows(out: Out, *, quarters: int = 2 * 96, volts: float = 220.0) -> list[Row]:
    """A reading of every meter and quarter, but for those that are out."""
    return [
        (START + number * QUARTER, meter, 1.0, 1.0, volts)
        for number in range(quarters)
        for meter in METERS
        if (meter, number) not in out
    ]


def silent(meters: str, first: int, end: int) -> Out:
    return {(m, n) for m in METERS if m.startswith(meters) for n in range(first, end)}


def update(store: Store, **changed: object) -> dict[str, int]:
    conf = load_settings(grid=GridSettings.model_validate(changed))
    return {
        name: update_grid(Session(store, LocalEngine(2), conf, NOW), GRID[name]) for name in GRID
    }


def told(store: Store) -> list[tuple[str, str, float, float, str, int]]:
    """Level, node, first quarter, end, evidence, meters."""
    found = query(
        store,
        "SELECT level, id, (epoch(start) - epoch(TIMESTAMPTZ '2024-01-01')) / 900 AS first, "
        "(epoch(\"end\") - epoch(TIMESTAMPTZ '2024-01-01')) / 900 AS last, evidence, meters "
        "FROM outages ORDER BY ALL",
    )
    return [(level, node, a, b, why, n) for level, node, a, b, why, n in found.rows()]


@pytest.fixture
def small(tmp_path: Path, topology: Callable[..., None]) -> Store:
    """A lake with a grid of two transformers of four meters each, and no readings."""
    store = open_store(str(tmp_path / "lake"))
    topology(store, write_grid(tmp_path / "topology", small_grid(**METERS)), at=START)
    return store


def test_meters_that_are_silent_together_are_an_outage_of_their_transformer(
    small: Store, take: Callable[..., None]
) -> None:
    out = silent("a", 90, 100)  # over midnight
    out |= {("b0", 20), ("b1", 20), ("b2", 20), ("b3", 50), ("a1", 100), ("a2", 88)}  # noise
    take(small, rows(out))
    assert update(small) == dict.fromkeys(GRID, 2)
    found = told(small)
    assert [row for row in found if row[0] != "meter"] == [
        ("service_transformer", "t1", 90, 100, "missing", 4)
    ]
    parts = query(small, "SELECT id, part_of FROM outages WHERE level = 'meter' ORDER BY id")
    assert parts.rows() == [(f"a{n}", "t1") for n in range(4)]  # b's noise is too short
    minutes = query(small, "SELECT customer_minutes FROM outages WHERE level <> 'meter'").item()
    assert minutes == 4 * 10 * 15


def test_all_transformers_of_a_substation_at_once_are_one_outage_of_it(
    small: Store, take: Callable[..., None]
) -> None:
    out = silent("a", 30, 40) | silent("b", 30, 44)
    take(small, [*rows(out), (START + 35 * QUARTER, "elsewhere", 1.0, 1.0, 220.0)])
    with pytest.MonkeyPatch.context() as patch:  # else all meters that there are would be silent
        patch.setattr("meterlake.grid.outages._apart_from", lambda outages, gone: outages)
        update(small)
    assert [row[:4] for row in told(small) if row[0] != "meter"] == [("substation", "s", 30, 40)]


def test_where_every_meter_is_silent_the_data_are_missing_and_there_is_no_outage(
    small: Store, take: Callable[..., None]
) -> None:
    take(small, rows(silent("", 30, 60)))
    update(small)
    assert told(small) == []


def test_a_late_read_withdraws_an_outage_and_shortens_another(
    small: Store, take: Callable[..., None]
) -> None:
    take(small, rows(silent("a", 10, 20) | silent("b", 120, 130)))
    update(small)
    nodes = [row[:4] for row in told(small) if row[0] != "meter"]
    assert nodes == [("service_transformer", "t1", 10, 20), ("service_transformer", "t2", 120, 130)]
    late = [(START + n * QUARTER, f"a{m}", 1.0, 1.0, 220.0) for n in range(10, 20) for m in (0, 1)]
    late += [(START + n * QUARTER, "b0", 1.0, 1.0, 220.0) for n in range(125, 130)]
    take(small, late, arrival=NOW + DAY)
    update(small)
    nodes = [row[:4] for row in told(small) if row[0] != "meter"]
    assert nodes == [("service_transformer", "t2", 120, 125)]
    assert update(small) == dict.fromkeys(GRID, 0)  # nothing new, nothing to do


def test_low_voltage_and_flags_say_it_though_reads_are_there(
    small: Store, take: Callable[..., None]
) -> None:
    low = [(START + n * QUARTER, "a0", 0.0, 0.0, 21.0) for n in range(8, 10)]
    take(small, [*rows({("a0", n) for n in range(8, 10)}), *low])
    update(small)
    assert told(small) == [("meter", "a0", 8, 10, "voltage", 1)]
    update(small, outage_voltage_percent=5)
    assert told(small) == []


def test_an_outage_that_lasts_to_the_end_is_ongoing_and_then_ends(
    small: Store, take: Callable[..., None]
) -> None:
    take(small, rows(silent("a", 80, 96), quarters=96))
    update(small)
    ongoing = query(small, "SELECT id, is_ongoing, minutes FROM outages WHERE level <> 'meter'")
    assert ongoing.rows() == [("t1", True, 240.0)]
    more = [r for r in rows(silent("a", 80, 100)) if r[0] >= START + DAY]
    take(small, more, arrival=NOW + DAY)
    update(small)
    ended = query(small, "SELECT id, is_ongoing, minutes FROM outages WHERE level <> 'meter'")
    assert ended.rows() == [("t1", False, 300.0)]


def test_a_new_topology_moves_the_outages_of_days_that_it_holds_for(
    small: Store, take: Callable[..., None], topology: Callable[..., None], tmp_path: Path
) -> None:
    take(small, rows(silent("a", 10, 20) | silent("a", 110, 120)))
    update(small)
    moved = METERS | {"a0": "t2", "a1": "t2"}
    del moved["b3"]
    topology(small, write_grid(tmp_path / "later", small_grid(**moved)), at=START + DAY)
    before = [row[:4] for row in told(small) if row[0] != "meter"]
    assert before == [
        ("service_transformer", "t1", 10, 20), ("service_transformer", "t1", 110, 120)
    ]  # fmt: skip
    update(small)
    after = [row[:4] for row in told(small) if row[0] != "meter"]
    assert after == [("service_transformer", "t1", 10, 20)]  # then t1 has two meters, t2 five


def test_a_day_that_a_new_topology_leaves_without_supply_has_no_outages_any_more(
    small: Store, take: Callable[..., None], topology: Callable[..., None], tmp_path: Path
) -> None:
    take(small, rows(silent("a", 10, 20) | silent("a", 90, 100)))
    update(small)
    topology(small, write_grid(tmp_path / "later", small_grid(elsewhere="t1")), at=START + DAY)
    before = [row[:4] for row in told(small) if row[0] != "meter"]
    assert before == [
        ("service_transformer", "t1", 10, 20), ("service_transformer", "t1", 90, 100)
    ]  # fmt: skip
    assert update(small) == dict.fromkeys(GRID, 1)
    left = query(small, "SELECT * FROM outages ORDER BY ALL")
    assert set(left["id"]) >= {"t1"}
    assert query(small, "SELECT DISTINCT date FROM meter_supply").rows() == [("2024-01-01",)]
    update_grid(Session(small, LocalEngine(2), load_settings(), NOW), GRID["outages"], rebuild=True)
    assert left.equals(query(small, "SELECT * FROM outages ORDER BY ALL"))


def test_outages_go_with_the_last_day_of_supply(
    small: Store, take: Callable[..., None], topology: Callable[..., None], tmp_path: Path
) -> None:
    take(small, rows(silent("a", 110, 120), quarters=2 * 96))
    update(small)
    assert told(small)
    topology(small, write_grid(tmp_path / "later", small_grid(elsewhere="t1")), at=START + DAY / 2)
    update(small)
    assert told(small) == []
    assert update(small) == dict.fromkeys(GRID, 0)


@pytest.mark.proof
def test_injected_outages_are_found_among_reads_that_are_missing_by_chance(
    tmp_path: Path, conf: Settings
) -> None:
    grid, inbox = tmp_path / "grid", tmp_path / "inbox"
    simulate_grid(2000, (47.6, -122.3), grid)
    plan = ReadingsPlan(
        devices=2000, meters=meters_of(grid), interval_minutes=60, start=START,
        end=START + 6 * DAY, seed=3,
    )  # fmt: skip
    simulate_readings(plan, inbox, truth=tmp_path / "truth.parquet")
    for number, path in enumerate(sorted(inbox.iterdir())):
        read = pl.read_csv(path, infer_schema=False)
        kept = read.filter(pl.int_range(pl.len()).shuffle(seed=number) >= 0.05 * len(read))
        path.unlink()
        kept.write_csv(path.with_suffix(""))
    store = open_store(str(tmp_path / "lake"))
    engine = LocalEngine(2)
    intake.ingest(Session(store, engine, conf, NOW), [str(inbox)])
    derivations.integrate(Session(store, engine, conf, NOW))
    run_dataflow(store, "topology", Scope(str(grid)), settings=conf, now=NOW)
    for name in ("meter-supply", "outages"):
        update_grid(Session(store, engine, conf, NOW), GRID[name])
    nodes = "SELECT id, start, \"end\" FROM outages WHERE level <> 'meter'"
    found = set(query(store, nodes).rows())
    injected = set(
        pl.read_parquet(tmp_path / "truth.parquet")
        .filter(pl.col("kind") == "outage")
        .select("transformer", "start", "end")
        .rows()
    )
    assert len(injected) >= 3
    assert len(found & injected) >= 0.95 * max(len(found), len(injected))


def at(number: int) -> datetime:
    return START + number * QUARTER


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(METERS)), st.integers(1, 46), st.integers(1, 6)),
        max_size=30,
    )
)
def test_the_outages_of_nodes_are_those_of_counting_meters_at_each_moment(
    drawn: list[tuple[str, int, int]],
) -> None:
    """An oracle of sets: at each quarter of an hour, who is out below which node."""
    out = {(m, n) for m, first, length in drawn for n in range(first, min(first + length, 47))}
    meters = [*METERS, "c0"]  # c0 hangs elsewhere, so that never everyone is silent
    read = pl.DataFrame(
        [(meters.index(m), at(n)) for m in meters for n in range(48) if (m, n) not in out],
        schema={"meter": pl.UInt32, "time": pl.Datetime("us", "UTC")},
        orient="row",
    ).with_columns(pl.lit(220.0).alias("value"), pl.lit(None, pl.String).alias("quality"))
    nodes = {**METERS, "c0": "t3"}
    ways = pl.DataFrame(
        {
            "meter_id": meters,
            "service_transformer_id": [nodes[m] for m in meters],
            "distribution_transformer_id": ["d1" if m != "c0" else "d2" for m in meters],
            "substation_id": ["s1" if m != "c0" else "s2" for m in meters],
        }
    )
    numbered = ways.with_row_index("meter")
    supply = supply_rows({"vltg": read, "kw": read.clear()}, numbered, GridSettings())
    found = outage_rows(supply, ways, at(48), GridSettings(outage_meter_minutes=0))
    told = {
        (row["id"], number)
        for row in found.filter(pl.col("level") != "meter").iter_rows(named=True)
        for number in range(48)
        if row["start"] <= at(number) < row["end"]
    }
    below = {"t1": 4, "t2": 4, "s1": 8}
    expected = set()
    segments: dict[str, list[int]] = {}
    for node, number_of in below.items():
        mine = [m for m in METERS if METERS[m] == node or node == "s1"]
        segments[node] = [
            n for n in range(48) if sum((m, n) in out for m in mine) >= 0.9 * number_of
        ]
    whole = set(segments["s1"])
    expected |= {("s1", n) for n in whole}
    for node in ("t1", "t2"):
        run: list[int] = []
        for n in [*segments[node], 99]:
            if run and n != run[-1] + 1:
                expected |= set() if whole & set(run) else {(node, one) for one in run}
                run = []
            run.append(n)
    # d1 has the same meters as s1, which is above it and counts.
    assert told == expected
    single = found.filter(pl.col("level") == "meter")
    seen = {
        (row["id"], n)
        for row in single.iter_rows(named=True)
        for n in range(48)
        if row["start"] <= at(n) < row["end"]
    }
    assert seen == out
