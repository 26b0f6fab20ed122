"""Volt/var and transformer load: worked out by hand, and done again where something changed."""

import math
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from grid.conftest import NOW, QUARTER, START, Row
from support.grids import small_grid, write_grid

from meterlake.delta.commit import snapshot
from meterlake.delta.store import Store, open_store
from meterlake.engine.local import LocalEngine
from meterlake.errors import BadInput
from meterlake.grid.derivations import GRID, update_grid
from meterlake.pipeline import upkeep
from meterlake.pipeline.derivation import Session
from meterlake.questions.sql import query
from meterlake.schema import VOLT_VAR
from meterlake.settings import GridSettings, load_settings

HOUR = timedelta(hours=1)
METERS = {"a": "t1", "b": "t1", "c": "t2", "d": "t2"}


def update(store: Store, name: str, **changed: object) -> int:
    conf = load_settings(grid=GridSettings.model_validate(changed))
    return update_grid(Session(store, LocalEngine(2), conf, NOW), GRID[name])


@pytest.fixture
def load_grid(tmp_path: Path, topology: Callable[..., None]) -> Callable[[Store], Store]:
    def loaded(store: Store) -> Store:
        topology(store, write_grid(tmp_path / "topology", small_grid(**METERS)))
        return store

    return loaded


@pytest.fixture
def small(tmp_path: Path, load_grid: Callable[[Store], Store]) -> Store:
    return load_grid(open_store(str(tmp_path / "lake")))


def hour_of(
    volts: dict[str, list[float]], *, kw: float = 2.0, kva: float | None = 2.5
) -> list[Row]:
    return [
        (START + number * QUARTER, meter, kva, kw, value)
        for meter, values in volts.items()
        for number, value in enumerate(values)
    ]


def test_a_transformers_voltages_and_savings_are_those_worked_out_by_hand(
    small: Store, take: Callable[..., None]
) -> None:
    volts = {"a": [210.0, 212.0], "b": [208.0, 232.0], "c": [216.0, 218.0], "d": [214.0, 210.0]}
    take(small, [*hour_of(volts), (START, "nobody's", 9.0, 9.0, 100.0)])
    assert update(small, "volt-var") == 1
    (row,) = query(small, "SELECT * FROM volt_var").iter_rows(named=True)
    every = sorted(v for values in volts.values() for v in values)
    assert (row["meters"], row["reads"]) == (4, 8)
    assert (row["min_v"], row["max_v"], row["mean_v"]) == (208.0, 232.0, sum(every) / 8)
    assert row["p95_v"] == pytest.approx(218.0 + 0.65 * (232.0 - 218.0))  # at 0.95 * 7 = 6.65
    assert row["out_of_band_percent"] == 25.0  # 208 and 232; 209 to 231 is range A
    assert row["load_kw"] == pytest.approx(4 * 2.0)
    reduction = (220 - sum(every) / 8) / 220 * 100
    assert row["voltage_reduction_percent"] == pytest.approx(reduction)
    assert row["energy_saving_percent"] == pytest.approx(0.8 * reduction)
    kwh = 8.0 * 0.8 * reduction / 100
    assert row["energy_saving_kwh"] == pytest.approx(kwh)
    assert row["cost_avoided"] == pytest.approx(kwh * 0.11)
    assert row["saving_per_customer"] == pytest.approx(kwh * 0.11 / 4)
    assert row["carbon_reduction_lb"] == pytest.approx(kwh / 1000 * 900)


def test_with_the_guides_constants_the_figures_are_those_of_one_megawatt(
    small: Store, take: Callable[..., None]
) -> None:
    take(small, hour_of({"a": [217.8], "b": [217.8]}))
    update(small, "volt-var", cvr_load_mw=1, cvr_customers=1000)
    (row,) = query(small, "SELECT * FROM volt_var").iter_rows(named=True)
    assert row["voltage_reduction_percent"] == pytest.approx(1.0)
    assert row["energy_saving_kwh"] == pytest.approx(8.0)  # 0.8 % of a megawatt, for an hour
    assert row["saving_per_customer"] == pytest.approx(8.0 * 0.11 / 1000)
    assert row["carbon_reduction_lb"] == pytest.approx(7.2)


def test_above_the_set_point_the_saving_is_a_loss(small: Store, take: Callable[..., None]) -> None:
    take(small, hour_of({"a": [231.0]}))
    update(small, "volt-var")
    assert query(small, "SELECT energy_saving_kwh FROM volt_var").item() < 0


def test_late_reads_replace_the_hours_of_their_day_and_no_other(
    store: Store, load_grid: Callable[[Store], Store], take: Callable[..., None]
) -> None:
    small = load_grid(store)
    first = hour_of({"a": [210.0]})
    second = [(time + 24 * HOUR, *rest) for time, *rest in hour_of({"a": [230.0]})]
    take(small, [*first, *second])
    assert update(small, "volt-var") == 2
    before = {f.partition["date"]: f.path for f in snapshot(small, VOLT_VAR).files}
    assert update(small, "volt-var") == 0
    take(small, hour_of({"b": [220.0]}), arrival=NOW + HOUR)
    assert update(small, "volt-var") == 1
    after = {f.partition["date"]: f.path for f in snapshot(small, VOLT_VAR).files}
    assert after["2024-01-02"] == before["2024-01-02"]
    assert after["2024-01-01"] != before["2024-01-01"]
    means = query(small, "SELECT mean_v FROM volt_var ORDER BY hour")["mean_v"].to_list()
    assert means == [215.0, 230.0]
    assert update(small, "volt-var", cvr_factor=1.0) == 2  # other settings: all of it again
    assert upkeep.check(Session(small, LocalEngine(2), load_settings(), NOW)).findings == ()


def test_load_adds_active_and_reactive_power_and_export_relieves(
    small: Store, take: Callable[..., None]
) -> None:
    take(
        small,
        [
            *((START + n * QUARTER, "a", 10.0, 6.0, 220.0) for n in range(4)),  # 8 kvar
            *((START + n * QUARTER, "b", 5.0, -3.0, 220.0) for n in range(2)),  # 4 kvar
            (START, "c", None, 50.0, 220.0),
            (START + HOUR, "c", 60.0, 60.0, 220.0),
        ],
    )
    update(small, "transformer-load")
    found = {
        (row["id"], row["hour"]): row
        for row in query(small, "SELECT * FROM transformer_load").iter_rows(named=True)
    }
    t1 = found["t1", START]
    assert (t1["meters"], t1["meters_read"]) == (2, 2)
    assert t1["load_kw"] == pytest.approx(3.0)
    assert t1["load_kva"] == pytest.approx(math.hypot(3.0, 12.0))
    assert t1["utilisation_percent"] == pytest.approx(math.hypot(3.0, 12.0) / 25 * 100)
    t2 = found["t2", START]
    assert (t2["meters"], t2["meters_read"]) == (2, 1)
    assert t2["load_kva"] == pytest.approx(50.0)  # without apparent power, the active one
    assert found["t2", START + HOUR]["utilisation_percent"] == pytest.approx(120.0)
    assert found["d", START]["load_kva"] == pytest.approx(math.hypot(53.0, 12.0))
    assert found["d", START]["rating_kva"] == 1000.0


def test_without_a_topology_it_is_said_how_to_load_one(
    tmp_path: Path, take: Callable[..., None]
) -> None:
    store = open_store(str(tmp_path / "lake"))
    take(store, hour_of({"a": [220.0]}))
    for name in GRID:
        with pytest.raises(BadInput, match="dataflow run topology"):
            update(store, name)
