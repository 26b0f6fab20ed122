"""Forecasts in the lake: by key, once, coherent with the grid above the meters."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest
from support import ml
from support.grids import small_grid, write_grid
from support.ml import DAY, HOUR, NOW, START, Energy

from meterlake.dataflows.run import Scope, run_dataflow
from meterlake.delta.commit import snapshot
from meterlake.delta.store import Store, open_store
from meterlake.engine.local import LocalEngine
from meterlake.errors import BadInput
from meterlake.forecast import forecasts as job
from meterlake.forecast import inference, models
from meterlake.forecast.features import CONTEXT
from meterlake.forecast.forecasts import Forecasted, forecast_all, forecast_meters
from meterlake.forecast.inference import Target
from meterlake.forecast.series import Series
from meterlake.forecast.training import TrainResult, train
from meterlake.periods import LocalHours
from meterlake.pipeline.derivation import Session
from meterlake.questions.sql import query
from meterlake.schema import FORECASTS, NODE_FORECASTS
from meterlake.settings import Settings

ENGINE = LocalEngine(1)
END = START + 150 * DAY  # of the lake's readings
QUANTITIES = ["mean", "p10", "p50", "p90"]


def run(store: Store, conf: Settings, **options: object) -> Forecasted:
    return forecast_all(Session(store, ENGINE, conf, NOW), **options)  # type: ignore[arg-type]


def rows_of(store: Store, where: str = "true") -> pl.DataFrame:
    return query(store, f"SELECT * FROM forecasts WHERE {where} ORDER BY meter_id, date_time")


def test_every_meter_has_168_hours_from_the_start_each_once(
    lake: Store, first: TrainResult, conf: Settings
) -> None:
    assert run(lake, conf) == Forecasted(first.name, END, 14, 0, True)
    rows = rows_of(lake)
    expected = [(m, END + h * HOUR) for m in ml.names(14) for h in range(168)]
    assert rows.select("meter_id", "date_time").rows() == expected
    assert set(rows["model_name"]) == {first.name} and set(rows["forecast_start"]) == {END}
    assert set(rows["start"]) == {"20240530000000"}
    assert (
        rows.select(pl.col("p10") <= pl.col("p50"), pl.col("p50") <= pl.col("p90")).to_numpy().all()
    )
    assert rows.select(QUANTITIES).null_count().sum_horizontal().item() == 0
    assert rows.select(pl.col(QUANTITIES).is_finite().all()).row(0) == (True,) * 4


@pytest.mark.parametrize("ranges", [False, True])
def test_rows_are_joined_by_key_and_never_by_position(
    ranges: bool, lake: Store, energy: Energy, conf: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Meters in another order in every file, some silent, in several units: each gets its own."""
    if ranges:
        monkeypatch.setattr(job, "RANGE_ROWS", 5000)
    shuffled = ml.names(14)
    np.random.default_rng(4).shuffle(shuffled)
    ids = dict(zip([f"z{n:02d}" for n in range(14)], shuffled, strict=True))
    store = open_store(f"{lake.url}-other")
    by_name = dict(zip(ml.names(14), energy, strict=True))
    fresh = {new: by_name[old].copy() for new, old in ids.items()}
    fresh["z03"][-20 * 24 :] = np.nan  # this one is silent at last
    ml.fill(store, ml.readings(fresh))
    for file in lake.list("ml/models"):
        store.put(file.path, lake.read(file.path))
    run(lake, conf)
    run(store, conf)
    usual = {
        (m, t): v for m, t, *v in rows_of(lake).select("meter_id", "date_time", *QUANTITIES).rows()
    }
    found = rows_of(store)
    assert found.height == 14 * 168
    for meter, time, *values in found.select("meter_id", "date_time", *QUANTITIES).rows():
        if meter != "z03":
            assert values == usual[ids[meter], time]
    for meter in ("z00", "z03", "z13"):
        alone = forecast_meters(store, [meter], settings=conf)
        assert alone["meter_id"].unique().to_list() == [meter]
        batch = found.filter(pl.col("meter_id") == meter).select(alone.columns)
        assert alone.equals(batch)
    two = forecast_meters(store, ["z09", "z02"], settings=conf)
    assert two.select(found.columns[:7]).equals(
        found.filter(pl.col("meter_id").is_in(["z02", "z09"])).select(found.columns[:7])
    )


def test_a_repeat_does_nothing_and_new_readings_make_it_again(
    lake: Store, energy: Energy, conf: Settings
) -> None:
    start = END - 14 * DAY
    run(lake, conf)
    assert run(lake, conf, start=start).is_new
    version = snapshot(lake, FORECASTS).version
    before, other = (rows_of(lake, f"start = '{s:%Y%m%d%H%M%S}'") for s in (start, END))
    again = run(lake, conf, start=start + timedelta(minutes=20))  # any moment of that hour
    assert again == Forecasted(again.model, start, 14, 0, False)
    assert snapshot(lake, FORECASTS).version == version
    late = energy[:, 130 * 24 : 131 * 24] * np.array([[9.0]] + [[1.0]] * 13)
    ml.fill(lake, ml.readings(ml.by_meter(ml.names(14), late), START + 130 * DAY))
    assert run(lake, conf, start=start).is_new
    after = rows_of(lake, f"start = '{start:%Y%m%d%H%M%S}'")
    assert after.height == before.height
    rest = pl.col("meter_id") != "m00"
    assert after.filter(rest).equals(before.filter(rest)) and not after.equals(before)
    assert rows_of(lake, f"start = '{END:%Y%m%d%H%M%S}'").equals(other)
    assert run(lake, conf, start=start, rebuild=True).is_new


def test_nothing_of_the_start_or_later_is_seen(lake: Store, energy: Energy, conf: Settings) -> None:
    start = END - 10 * DAY
    run(lake, conf, start=start)
    before = rows_of(lake)
    ml.fill(lake, ml.readings(ml.by_meter(ml.names(14), energy[:, -240:] * 7), start))
    assert run(lake, conf, start=start).is_new
    assert rows_of(lake).equals(before)


def test_each_model_has_its_rows_and_one_can_be_pinned(
    lake: Store, first: TrainResult, conf: Settings
) -> None:
    few = ml.settings(train_rows=3000)
    other = train(lake, engine=ENGINE, settings=few, now=NOW + DAY, force=True)
    assert run(lake, conf).model == other.name
    assert run(lake, conf, use=first.name).model == first.name
    assert rows_of(lake).height == 2 * 14 * 168
    alone = forecast_meters(lake, ["m03"], settings=conf, use=first.name)
    pinned = rows_of(lake, f"model_name = '{first.name}' AND meter_id = 'm03'")
    assert alone.equals(pinned.select(alone.columns))


@pytest.mark.parametrize(
    ("zone", "change"),
    [
        ("Europe/London", datetime(2024, 3, 31, 1, tzinfo=UTC)),
        ("Australia/Lord_Howe", datetime(2024, 4, 6, 15, tzinfo=UTC)),
        ("America/New_York", datetime(2024, 3, 10, 7, tzinfo=UTC)),
        ("Asia/Kathmandu", datetime(2024, 3, 10, 7, tzinfo=UTC)),
    ],
)
def test_where_the_clock_is_changed_there_are_168_real_hours(
    zone: str, change: datetime, lake: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "check_model_zone", lambda model, zone: None)  # it is UTC's
    conf = ml.settings(zone)
    asked = change - 3 * DAY
    rows = forecast_meters(lake, ["m00", "m01"], settings=conf, start=asked)
    start = asked.astimezone(ZoneInfo(zone)).replace(minute=0).astimezone(UTC)
    for meter in ("m00", "m01"):
        times = rows.filter(pl.col("meter_id") == meter)["date_time"].to_list()
        assert times == [start + h * HOUR for h in range(168)]
    assert rows["mean"].is_finite().all()
    first = start.astimezone(ZoneInfo(zone)).replace(tzinfo=None)
    context = LocalHours(zone, first - CONTEXT * HOUR, CONTEXT)
    numbers = Target(context.end(), context, None).numbers()
    shown = [t.astimezone(ZoneInfo(zone)) for t in times]
    assert [context.wall(CONTEXT + int(n)).hour for n in numbers] == [t.hour for t in shown]
    dates = [context.wall(CONTEXT + int(n)).date() for n in numbers]
    assert dates[:160] == [t.date() for t in shown][:160] and max(numbers) < 168


def test_the_start_is_after_the_last_reading_and_one_before_all_is_an_error(
    lake: Store, conf: Settings, tmp_path: Path
) -> None:
    one = forecast_meters(lake, ["m00"], settings=conf)
    assert one["date_time"][0] == END
    with pytest.raises(BadInput, match=r"readings of the 56 days before its start, 2023-12-31"):
        run(lake, conf, start=START - DAY)
    with pytest.raises(BadInput, match="found none of meter 'nobody'"):
        forecast_meters(lake, ["m00", "nobody"], settings=conf)
    bare = open_store(str(tmp_path / "bare"))
    for path in ("meterlake.json", *(f.path for f in lake.list("ml/models"))):
        bare.put(path, lake.read(path))
    with pytest.raises(BadInput, match="need readings of type kw; the lake has none yet"):
        run(bare, conf)


def test_a_model_of_another_zone_is_refused(lake: Store) -> None:
    with pytest.raises(BadInput, match="hours in UTC; the setting timezone is Europe/London"):
        run(lake, ml.settings("Europe/London"))


def test_a_start_long_after_the_last_reading_is_refused(lake: Store, conf: Settings) -> None:
    with pytest.raises(BadInput, match="within 168 hours of the last reading"):
        run(lake, conf, start=END + 8 * DAY)


def test_meters_with_no_week_of_hours_get_the_profile_of_their_like(
    lake: Store, conf: Settings
) -> None:
    hours = 30
    new = {"new": np.full(hours, 5.0), "idle": np.zeros(hours), "seldom": np.full(hours, np.nan)}
    new["seldom"][3] = 1.0
    ml.fill(lake, ml.readings(new, END))
    run(lake, conf)
    mean = dict(rows_of(lake).group_by("meter_id").agg(pl.col("mean").mean()).iter_rows())
    assert len(mean) == 17
    assert mean["new"] == pytest.approx(5, rel=0.3) and mean["idle"] == 0
    usual = models.load(lake).forecaster.usual_scale
    assert mean["seldom"] == pytest.approx(usual, rel=0.3)


# --- the grid


@pytest.fixture
def with_grid(lake: Store, tmp_path: Path, conf: Settings) -> Store:
    """Meters 2 to 13 below two service transformers of one distribution transformer."""
    below = {name: "t1" if n % 3 else "t2" for n, name in enumerate(ml.names(14)[2:])}
    folder = write_grid(tmp_path / "grid", small_grid(**below))
    run_dataflow(lake, "topology", Scope(str(folder), at=START), settings=conf, now=NOW)
    return lake


def test_the_means_of_the_grid_are_the_sums_of_its_meters(
    with_grid: Store, conf: Settings, monkeypatch: pytest.MonkeyPatch, energy: Energy
) -> None:
    large = energy * np.where(np.arange(14) == 3, 1000, 1)[:, None]  # a works among homes
    large[5] = -large[5]
    large[7, -600:] = np.nan
    ml.fill(with_grid, ml.readings(ml.by_meter(ml.names(14), large)))
    monkeypatch.setattr(job, "RANGE_ROWS", 5000)  # several units, whose sums are added
    done = run(with_grid, conf)
    assert (done.meters, done.nodes) == (14, 2)
    nodes = query(with_grid, "SELECT * FROM node_forecasts ORDER BY kind, id, date_time")
    assert nodes.height == 2 * 168 and set(nodes["meters"]) == {12}
    sums = (
        rows_of(with_grid, "meter_id > 'm01'")
        .group_by("date_time", maintain_order=True)
        .agg(pl.col("mean").sum(), pl.col("p10").sum(), pl.col("p90").sum())
        .sort("date_time")
    )
    for kind, name in (("distribution_transformer", "d"), ("substation", "s")):
        here = nodes.filter(pl.col("kind") == kind)
        assert set(here["id"]) == {name}
        assert here["date_time"].to_list() == sums["date_time"].to_list()
        np.testing.assert_allclose(here["mean"], sums["mean"], rtol=0, atol=1e-6)
        ordered = here.select(pl.col("p10") <= pl.col("p50"), pl.col("p50") <= pl.col("p90"))
        assert ordered.to_numpy().all()
    assert not run(with_grid, conf).is_new


def test_a_nodes_band_is_narrower_than_the_sum_of_its_meters_bands(
    with_grid: Store, conf: Settings
) -> None:
    run(with_grid, conf)
    node = query(with_grid, "SELECT sum(p90 - p10) FROM node_forecasts WHERE id = 's'").item()
    meters = query(with_grid, "SELECT sum(p90 - p10) FROM forecasts WHERE meter_id > 'm01'").item()
    assert 0 < node < 0.8 * meters


def test_a_node_of_idle_meters_has_nothing_to_expect(
    lake: Store, tmp_path: Path, conf: Settings
) -> None:
    idle = ml.by_meter(["i1", "i2"], np.zeros((2, 60 * 24)))
    ml.fill(lake, ml.readings(idle, END))
    folder = write_grid(tmp_path / "grid", small_grid(i1="t1", i2="t2"))
    run_dataflow(lake, "topology", Scope(str(folder), at=START), settings=conf, now=NOW)
    run(lake, conf)
    found = query(lake, "SELECT DISTINCT mean, p10, p50, p90 FROM node_forecasts")
    assert found.rows() == [(0, 0, 0, 0)]


def test_a_damaged_reading_makes_no_hour_of_a_node_unknown(energy: Energy) -> None:
    """Its meter would else count for nearly all of the node's energy, and its gaps for gaps."""
    damaged = energy[:, -CONTEXT:].astype(np.float32)
    damaged[3, -300], damaged[3, :-400] = 1e6, np.nan
    damaged[0] *= 40
    hours = LocalHours("UTC", ml.wall(2024, 1, 1), CONTEXT)
    nodes = {f"{kind}_id": ["n"] * 14 for kind in inference.NODES}
    above = pl.DataFrame({"meter_id": ml.names(14), **nodes})
    series = Series(tuple(ml.names(14)), hours, damaged)
    for node in inference._sums(series, np.zeros((14, 168), np.float32), above):
        assert (node.known >= 0.9 * node.usual).all()
        assert node.energy.max() < 1000


@pytest.mark.proof
def test_a_grid_that_comes_later_or_changes_gets_its_sums(
    with_grid: Store, tmp_path: Path, conf: Settings
) -> None:
    run(with_grid, conf)
    version = snapshot(with_grid, NODE_FORECASTS).version
    fewer = small_grid(**dict.fromkeys(ml.names(14)[4:], "t1"))
    folder = write_grid(tmp_path / "later", fewer)
    run_dataflow(with_grid, "topology", Scope(str(folder), at=START + DAY), settings=conf, now=NOW)
    assert run(with_grid, conf).is_new
    assert snapshot(with_grid, NODE_FORECASTS).version > version
    counts = query(with_grid, "SELECT DISTINCT meters FROM node_forecasts").rows()
    assert counts == [(10,)]
    assert not run(with_grid, conf).is_new


def test_where_no_meter_is_below_a_node_that_is_known_and_done(
    with_grid: Store, tmp_path: Path, conf: Settings
) -> None:
    run(with_grid, conf)
    folder = write_grid(tmp_path / "later", small_grid(somebody="t1"))
    run_dataflow(with_grid, "topology", Scope(str(folder), at=START + DAY), settings=conf, now=NOW)
    assert run(with_grid, conf).is_new
    assert snapshot(with_grid, NODE_FORECASTS).files == ()
    assert not run(with_grid, conf).is_new
