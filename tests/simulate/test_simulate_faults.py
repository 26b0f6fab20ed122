"""The truth: what it says was done, was done, and nothing else."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from meterlake.errors import BadInput
from meterlake.simulate.faults import plan_faults
from meterlake.simulate.fleet import fleet_of
from meterlake.simulate.readings import ReadingsPlan, Simulated, device_id, simulate_readings

START = datetime(2024, 3, 4, tzinfo=UTC)
DAYS = timedelta(days=14)
PLAN = ReadingsPlan(devices=300, interval_minutes=30, start=START, end=START + DAYS, seed=5)
VALUES = ["load", "crrnt", "pf", "kva", "kw", "vltg"]
KINDS = {"outage", "spike", "dip", "stuck", "dead"}
SCHEMA = {
    "kind": pl.String,
    "transformer": pl.String,
    "meter_id": pl.String,
    "start": pl.Datetime("us", "UTC"),
    "end": pl.Datetime("us", "UTC"),
    "magnitude": pl.Float64,
}


def rows(done: Simulated) -> pl.DataFrame:
    return (
        pl.concat([pl.read_csv(file.path) for file in done.files])
        .select(
            pl.col("device_id").alias("meter_id"),
            pl.col("time").str.head(19).str.to_datetime("%Y-%m-%d %H:%M:%S", time_zone="UTC"),
            *VALUES,
        )
        .sort("meter_id", "time")
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def faulty(folder: Path) -> Simulated:
    late = replace(PLAN, late_percent=10)
    return simulate_readings(late, folder / "faulty", truth=folder / "truth" / "t.parquet")


@pytest.fixture(scope="module")
def truth(folder: Path, faulty: Simulated) -> pl.DataFrame:
    return pl.read_parquet(folder / "truth" / "t.parquet")


@pytest.fixture(scope="module")
def clean(folder: Path) -> pl.DataFrame:
    return rows(simulate_readings(PLAN, folder / "clean"))


@pytest.fixture(scope="module")
def shown(faulty: Simulated) -> pl.DataFrame:
    return rows(faulty)


def during(table: pl.DataFrame, truth: pl.DataFrame, *kinds: str) -> pl.DataFrame:
    """Return the rows that lie within a fault of these kinds, with the fault."""
    faults = truth.filter(pl.col("kind").is_in(kinds)).with_row_index("fault")
    return table.join(faults, on="meter_id").filter(
        pl.col("time") >= pl.col("start"), pl.col("time") < pl.col("end")
    )


def test_every_kind_of_fault_occurs_and_is_counted(truth: pl.DataFrame, faulty: Simulated) -> None:
    assert dict(truth.schema) == SCHEMA
    assert set(truth["kind"]) == KINDS
    assert faulty.injected == truth.height
    assert truth.sort("start", "meter_id").equals(truth)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("interval_minutes", [60, 1440])
def test_a_hundred_meters_and_two_days_suffice_for_every_kind(
    tmp_path: Path, seed: int, interval_minutes: int
) -> None:
    small = ReadingsPlan(
        devices=100,
        interval_minutes=interval_minutes,
        start=START,
        end=START + timedelta(days=2),
        seed=seed,
    )
    done = simulate_readings(small, tmp_path, truth=tmp_path / "truth.parquet")
    table = pl.read_parquet(tmp_path / "truth.parquet")
    assert set(table["kind"]) == KINDS
    assert done.injected == table.height


def test_faults_are_whole_steps_within_the_plan(truth: pl.DataFrame) -> None:
    assert truth.select((pl.col("start") < pl.col("end")).all()).item()
    assert min(truth["start"].to_list()) >= PLAN.start
    assert max(truth["end"].to_list()) <= PLAN.end
    for edge in ("start", "end"):
        assert (truth[edge].dt.truncate("30m") == truth[edge]).all()


def test_faults_last_as_long_as_their_kind_says(truth: pl.DataFrame) -> None:
    hours = (pl.col("end") - pl.col("start")).dt.total_minutes() / 60
    found = truth.group_by("kind").agg(hours.min().alias("least"), hours.max().alias("most"))
    spans = {kind: (least, most) for kind, least, most in found.rows()}
    limits = {"outage": (0.5, 4), "spike": (3, 12), "dip": (3, 12), "stuck": (3, 24)}
    for kind, (least, most) in limits.items():
        assert least <= spans[kind][0] <= spans[kind][1] <= most
    assert spans["dead"][1] <= 240


def test_the_dead_may_stay_dead_to_the_end_of_the_plan() -> None:
    large = replace(PLAN, devices=3000)
    dead = plan_faults(large, fleet_of(large)).filter(pl.col("kind") == "dead")
    at_the_end = dead.filter(pl.col("end_minute") == large.end_minute)
    assert 0 < at_the_end.height < dead.height


def test_spikes_and_dips_befall_only_meters_without_a_roof() -> None:
    large = replace(PLAN, devices=3000)
    fleet = fleet_of(large)
    hit = plan_faults(large, fleet).filter(pl.col("kind").is_in(["spike", "dip"]))["device"]
    assert len(hit) > 100
    assert not set(hit) & set(fleet.solar.tolist())


def test_a_transformer_has_one_fault_at_a_time(truth: pl.DataFrame) -> None:
    groups = {device_id(index): index // 6 for index in range(PLAN.devices)}
    faults = (
        truth.with_columns(pl.col("meter_id").replace_strict(groups).alias("group"))
        .unique(["group", "kind", "start"])
        .sort("group", "start")
    )
    follows = faults.select(pl.col("start") >= pl.col("end").shift(1).over("group"))
    assert follows.to_series().drop_nulls().all()


def test_an_outage_takes_every_meter_of_its_transformer(truth: pl.DataFrame) -> None:
    outages = truth.filter(pl.col("kind") == "outage")
    for (name, _), group in outages.group_by("transformer", "start"):
        number = int(name.removeprefix("st-"))
        assert name == f"st-{number:06d}"
        assert set(group["meter_id"]) == {device_id(6 * number + index) for index in range(6)}
        assert group["end"].n_unique() == 1
    assert truth.filter(pl.col("kind") != "outage")["transformer"].null_count() == (
        truth.height - outages.height
    )


def test_rows_are_missing_during_outages_and_deaths_and_nowhere_else(
    truth: pl.DataFrame, clean: pl.DataFrame, shown: pl.DataFrame
) -> None:
    key = ["meter_id", "time"]
    silent = during(clean, truth, "outage", "dead").select(key)
    assert silent.height > 0
    assert shown.select(key).equals(clean.select(key).join(silent, on=key, how="anti").sort(key))
    assert not shown.select(key).is_duplicated().any()


def test_a_spike_or_dip_multiplies_kw_by_its_magnitude(
    truth: pl.DataFrame, clean: pl.DataFrame, shown: pl.DataFrame
) -> None:
    both = during(shown, truth, "spike", "dip").join(clean, on=["meter_id", "time"])
    factors = {kind: one["magnitude"] for (kind,), one in both.group_by("kind")}
    assert 2.5 <= factors["spike"].to_numpy().min() <= factors["spike"].to_numpy().max() <= 6
    assert 0.05 <= factors["dip"].to_numpy().min() <= factors["dip"].to_numpy().max() <= 0.3
    # The clean value is rounded too, and the factor multiplies what was rounded off.
    off = (both["kw"] - both["kw_right"] * both["magnitude"]).abs()
    assert (off <= 0.0005 * (1 + both["magnitude"]) + 1e-6).all()


def test_a_stuck_meter_repeats_its_first_reading(
    truth: pl.DataFrame, clean: pl.DataFrame, shown: pl.DataFrame
) -> None:
    stuck = during(shown, truth, "stuck")
    assert stuck.group_by("fault").len()["len"].to_numpy().min() > 1
    first = stuck.filter(pl.col("time") == pl.col("start"))
    assert first.join(clean, on=["meter_id", "time", *VALUES], how="anti").height == 0
    repeated = stuck.join(first.select("fault", *VALUES), on="fault")
    for name in VALUES:
        assert (repeated[name] == repeated[f"{name}_right"]).all()
    alive = during(clean, truth, "stuck").group_by("fault").agg(pl.col("kw").n_unique())
    assert alive["kw"].to_numpy().min() > 1


def test_outside_its_faults_a_meter_draws_what_it_would(
    truth: pl.DataFrame, clean: pl.DataFrame, shown: pl.DataFrame
) -> None:
    key = ["meter_id", "time"]
    touched = during(shown, truth, *KINDS).select(key)
    sound = shown.join(touched, on=key, how="anti").join(clean, on=key)
    assert (sound["kw"] == sound["kw_right"]).all()


def test_the_neighbours_of_a_spike_see_their_voltage_sag(
    truth: pl.DataFrame, clean: pl.DataFrame, shown: pl.DataFrame
) -> None:
    groups = {device_id(index): index // 6 for index in range(PLAN.devices)}
    spikes = truth.filter(pl.col("kind") == "spike").with_columns(
        pl.col("meter_id").replace_strict(groups).alias("group")
    )
    changed = (
        shown.join(clean, on=["meter_id", "time"])
        .with_columns(pl.col("meter_id").replace_strict(groups).alias("group"))
        .join(spikes.select("group", "start", "end", hit="meter_id"), on="group")
        .filter(pl.col("time") >= pl.col("start"), pl.col("time") < pl.col("end"))
        .filter(pl.col("meter_id") != pl.col("hit"))
    )
    assert changed.height > 0
    assert (changed["vltg"] < changed["vltg_right"]).all()


def test_faulty_values_still_agree_with_each_other(shown: pl.DataFrame) -> None:
    assert (shown["kva"] - shown["kw"].abs() / shown["pf"]).abs().to_numpy().max() <= 0.0005 + 1e-9
    assert (
        shown["crrnt"] - 1000 * shown["kva"] / shown["vltg"]
    ).abs().to_numpy().max() <= 0.0005 + 1e-9


def test_the_truth_as_csv_is_the_truth_as_parquet(tmp_path: Path, truth: pl.DataFrame) -> None:
    simulate_readings(PLAN, tmp_path / "out", truth=tmp_path / "truth.csv")
    text = pl.read_csv(tmp_path / "truth.csv", schema_overrides={"magnitude": pl.Float64})
    instants = pl.col("start", "end").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_zone="UTC")
    assert text.with_columns(instants).equals(truth)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["truth.csv"]


def test_a_truth_file_of_another_kind_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    with pytest.raises(BadInput, match=r"\.csv or \.parquet"):
        simulate_readings(PLAN, tmp_path / "out", truth=tmp_path / "truth.json")
    assert list(tmp_path.iterdir()) == []
