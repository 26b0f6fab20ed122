"""The values: they agree with each other, with the contract, with the sun and with the grid."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from meterlake.simulate.faults import no_faults
from meterlake.simulate.fleet import fleet_of
from meterlake.simulate.readings import ReadingsPlan, device_id, simulate_readings
from meterlake.simulate.registers import registers

JUNE = datetime(2024, 6, 10, tzinfo=UTC)  # a Monday
PLAN = ReadingsPlan(
    devices=240,
    interval_minutes=15,
    start=JUNE,
    end=JUNE + timedelta(days=7),
    file_every=timedelta(7),
)
WINTER = replace(
    PLAN, start=datetime(2024, 1, 15, tzinfo=UTC), end=datetime(2024, 1, 22, tzinfo=UTC)
)
VALUES = ["load", "crrnt", "pf", "kva", "kw", "vltg"]


def table(plan: ReadingsPlan, out: Path) -> pl.DataFrame:
    """Read the files back, with the number and the transformer of each meter."""
    numbers = {device_id(index): index for index in range(plan.devices)}
    done = simulate_readings(plan, out)
    return (
        pl.concat([pl.read_csv(file.path) for file in done.files])
        .with_columns(
            pl.col("time").str.head(19).str.to_datetime("%Y-%m-%d %H:%M:%S"),
            pl.col("device_id").replace_strict(numbers).alias("device"),
        )
        .with_columns(pl.col("device").floordiv(6).alias("transformer"))
    )


@pytest.fixture(scope="module")
def june(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    return table(PLAN, tmp_path_factory.mktemp("june"))


@pytest.fixture(scope="module")
def winter(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    return table(WINTER, tmp_path_factory.mktemp("winter"))


def test_every_value_is_a_finite_number(june: pl.DataFrame) -> None:
    assert june.select(VALUES).dtypes == [pl.Float64] * 6
    assert june.select(pl.all_horizontal(pl.col(VALUES).is_finite()).all()).item()


def test_kva_is_kw_over_pf_and_never_negative(june: pl.DataFrame) -> None:
    off = (june["kva"] - june["kw"].abs() / june["pf"]).abs()
    assert off.to_numpy().max() <= 0.0005 + 1e-9
    assert june["kva"].to_numpy().min() >= 0


def test_current_is_apparent_power_over_voltage(june: pl.DataFrame) -> None:
    off = (june["crrnt"] - 1000 * june["kva"] / june["vltg"]).abs()
    assert off.to_numpy().max() <= 0.0005 + 1e-9
    assert june["crrnt"].to_numpy().min() >= 0


def test_load_is_the_current_without_the_roof(june: pl.DataFrame) -> None:
    on_roof = np.isin(june["device"].to_numpy(), fleet_of(PLAN).solar)
    assert june.filter(~on_roof).select((pl.col("load") == pl.col("crrnt")).all()).item()
    assert june.filter(on_roof).select((pl.col("load") != pl.col("crrnt")).any()).item()
    gross_kw = june["load"] * june["vltg"] * june["pf"] / 1000
    assert (gross_kw - june["kw"]).to_numpy().min() > -0.002
    assert june["load"].to_numpy().min() > 0


def test_pf_is_above_eight_tenths_and_at_most_one(june: pl.DataFrame) -> None:
    assert 0.8 < june["pf"].to_numpy().min() < june["pf"].to_numpy().max() <= 1
    assert june["pf"].to_numpy().mean() > 0.9


def test_no_meter_exceeds_its_contract_load_either_way(june: pl.DataFrame) -> None:
    contract_kw = fleet_of(PLAN).contract_kw
    assert PLAN.min_load_kw <= contract_kw.min() < contract_kw.max() <= PLAN.max_load_kw
    assert (june["kw"].abs().to_numpy() <= contract_kw[june["device"].to_numpy()]).all()


def test_no_rounding_exceeds_the_contract_of_a_meter_that_draws_all_it_may() -> None:
    fleet = fleet_of(PLAN)
    greedy = replace(fleet, peak_kw=fleet.contract_kw * 100)
    minutes = np.arange(PLAN.start_minute, PLAN.start_minute + 1440, 15)
    kw = registers(PLAN, greedy, no_faults(), minutes=minutes).values["kw"]
    assert (kw <= fleet.contract_kw).all()
    plain = np.setdiff1d(np.arange(PLAN.devices), fleet.solar)
    assert (kw[:, plain] > fleet.contract_kw[plain] - 0.002).all()


def test_roofs_export_at_midday_and_never_at_night(june: pl.DataFrame) -> None:
    noon = june.filter(pl.col("time").dt.hour().is_between(11, 12))
    night = june.filter(~pl.col("time").dt.hour().is_between(3, 20))
    exporting = noon.filter(pl.col("kw") < 0)["device"].n_unique()
    assert 0.05 * PLAN.devices < exporting <= len(fleet_of(PLAN).solar)
    assert night["kw"].to_numpy().min() >= 0


def test_about_one_roof_in_seven_has_a_plant() -> None:
    fleet = fleet_of(replace(PLAN, devices=5000))
    assert 0.13 < len(fleet.solar) / 5000 < 0.17


def test_the_roofs_share_one_sky(june: pl.DataFrame) -> None:
    roofs = june.filter(pl.col("device").is_in(fleet_of(PLAN).solar.tolist()))
    yield_kw = pl.col("load") * pl.col("vltg") * pl.col("pf") / 1000 - pl.col("kw")
    days = (
        roofs.group_by("device", pl.col("time").dt.date().alias("day"))
        .agg(yield_kw.sum().alias("sum"))
        .with_columns(pl.col("sum") / pl.col("sum").mean().over("device"))
        .group_by("day")
        .agg(pl.col("sum").mean().alias("mean"), pl.col("sum").std().alias("spread"))
    )
    assert days["spread"].to_numpy().max() < 0.1 * days["mean"].to_numpy().mean()
    assert days["mean"].to_numpy().std() > 0.05


def test_voltage_sags_with_the_load_of_its_transformer(june: pl.DataFrame) -> None:
    correlation = (
        june.with_columns(pl.col("kw").sum().over("transformer", "time").alias("total_kw"))
        .group_by("device")
        .agg(pl.corr("total_kw", "vltg").alias("r"))["r"]
    )
    assert correlation.to_numpy().max() < -0.3
    assert correlation.to_numpy().mean() < -0.7


def test_voltage_follows_the_own_transformer_more_than_another(june: pl.DataFrame) -> None:
    # Against the mean over all transformers, which takes the common evening out.
    totals = june.group_by("transformer", "time").agg(pl.col("kw").sum(), pl.col("vltg").mean())
    spread = totals.with_columns(pl.col("kw", "vltg") - pl.col("kw", "vltg").mean().over("time"))
    spread = spread.sort("transformer", "time")
    kw = spread["kw"].to_numpy().reshape(40, -1)
    volt = spread["vltg"].to_numpy().reshape(40, -1)
    own = [np.corrcoef(kw[one], volt[one])[0, 1] for one in range(40)]
    other = [np.corrcoef(kw[one], volt[one - 1])[0, 1] for one in range(40)]
    assert np.mean(own) < -0.5
    assert abs(np.mean(other)) < 0.2


def test_voltage_is_higher_while_a_transformer_exports_than_while_it_draws(
    june: pl.DataFrame,
) -> None:
    noon = june.filter(pl.col("time").dt.hour().is_between(10, 13))
    steps = noon.group_by("transformer", "time").agg(pl.col("kw").sum(), pl.col("vltg").mean())
    exporting, drawing = pl.col("kw") < 0, pl.col("kw") > 1
    often = (exporting.sum() >= 20) & (drawing.sum() >= 20)
    volts = (
        steps.group_by("transformer")
        .agg(
            often.alias("often"),
            pl.col("vltg").filter(exporting).mean().alias("exporting"),
            pl.col("vltg").filter(drawing).mean().alias("drawing"),
        )
        .filter("often")
    )
    assert volts.height >= 5
    assert (volts["exporting"] > volts["drawing"]).to_numpy().mean() > 0.9


@pytest.mark.parametrize("region_voltage_v", [120.0, 230.0])
def test_voltage_stays_within_the_band_of_its_region(
    tmp_path: Path, region_voltage_v: float
) -> None:
    one_day = replace(PLAN, region_voltage_v=region_voltage_v, end=JUNE + timedelta(days=1))
    shown = table(one_day, tmp_path)["vltg"] / region_voltage_v
    assert 0.9 <= shown.to_numpy().min() < shown.to_numpy().max() <= 1.1
    assert 0.97 < shown.to_numpy().mean() < 1.01


def test_winter_draws_more_than_summer(june: pl.DataFrame, winter: pl.DataFrame) -> None:
    ratio = winter["load"].to_numpy().mean() / june["load"].to_numpy().mean()
    assert 1.2 < ratio < 2.5


def test_a_day_has_its_shape_and_the_week_its_weekend(winter: pl.DataFrame) -> None:
    fleet = fleet_of(WINTER)
    kind = fleet.group[winter["device"].to_numpy()] // 4
    shown = winter.with_columns(
        pl.Series("kind", kind),
        pl.col("time").dt.hour().alias("hour"),
        pl.col("time").dt.weekday().alias("weekday"),
    )

    def mean_load(*wanted: pl.Expr) -> float:
        return float(shown.filter(*wanted)["load"].to_numpy().mean())

    family, night, shop = (pl.col("kind") == one for one in (0, 2, 3))
    evening, small_hours, late_morning = (
        pl.col("hour").is_between(*span) for span in ((18, 20), (1, 4), (10, 12))
    )
    workday, sunday = pl.col("weekday") <= 5, pl.col("weekday") == 7
    assert mean_load(family, evening) > 2 * mean_load(family, small_hours)
    assert mean_load(night, small_hours) > 2 * mean_load(night, late_morning)
    assert mean_load(family, sunday, late_morning) > 1.5 * mean_load(family, workday, late_morning)
    assert mean_load(shop, workday, late_morning) > 3 * mean_load(shop, sunday, late_morning)


def test_a_large_household_stays_a_large_one(winter: pl.DataFrame) -> None:
    weeks = winter.with_columns((pl.col("time").dt.weekday() <= 2).alias("early"))
    early = weeks.filter("early").group_by("device").agg(pl.col("load").mean()).sort("device")
    later = weeks.filter(~pl.col("early")).group_by("device").agg(pl.col("load").mean())
    assert np.corrcoef(early["load"], later.sort("device")["load"])[0, 1] > 0.8


def test_noise_of_neighbouring_steps_is_alike(winter: pl.DataFrame) -> None:
    # Workdays, less what each meter does at that time of day and on that day.
    load = winter.sort("device", "time")["load"].to_numpy().reshape(240, 7, 96)[:, :5]
    noise = np.log(load)
    noise = noise - noise.mean(axis=1, keepdims=True)
    noise = noise - noise.mean(axis=2, keepdims=True)
    near = np.corrcoef(noise[:, :, 1:].ravel(), noise[:, :, :-1].ravel())[0, 1]
    assert 0.3 < near < 0.9


def test_a_larger_fleet_begins_with_the_smaller(tmp_path: Path) -> None:
    day = replace(PLAN, end=JUNE + timedelta(days=1))
    small = table(day, tmp_path / "small")
    large = table(replace(day, devices=300), tmp_path / "large")
    order = ["device", "time"]
    same = large.filter(pl.col("device") < PLAN.devices)
    assert same.select(order + VALUES).sort(order).equals(small.select(order + VALUES).sort(order))
