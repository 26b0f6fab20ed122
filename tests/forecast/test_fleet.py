"""Forecasts of a fleet: in order, calibrated, the same twice, and blind for what comes later."""

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np
import pytest
from forecast.test_scores import by_hand
from support.ml import Energy, fleet, names, wall

from meterlake.errors import BadInput
from meterlake.forecast import learning, networks
from meterlake.forecast.calibration import in_order, stretch_for
from meterlake.forecast.features import CONTEXT, HORIZON, QUANTITIES, features
from meterlake.forecast.fleet import KINDS, FleetForecaster, fit, training_rows
from meterlake.forecast.learning import (
    Hindcast,
    Learning,
    Learnt,
    Trained,
    hindcasts,
    learnt,
    plan_origins,
    scored,
    share_of_rows,
    step_of,
    stretches,
    trained,
)
from meterlake.forecast.networks import Networks
from meterlake.forecast.port import Forecaster
from meterlake.forecast.sample import Sample, groups_of, take_sample
from meterlake.forecast.series import Series
from meterlake.forecast.statistics import Floats
from meterlake.periods import LocalHours
from meterlake.settings import MlSettings

DAYS = 84
FIRST = wall(2024, 1, 1)


def is_off(day: date) -> bool:
    return day.weekday() >= 5


def unit_of(
    days: int, meters: int, rows: int = 4000, temperature: Floats | None = None
) -> Learning:
    origins = plan_origins(days * 24, step_of(days * 24, meters, rows))
    share = share_of_rows(meters, len(origins.learn), MlSettings(train_rows=rows))
    hours = LocalHours("UTC", FIRST, days * 24)
    return Learning((), None, hours, origins, share, temperature, 7)


def learn(energy: Energy, unit: Learning) -> Learnt:
    return learnt(
        Series(tuple(names(len(energy))), unit.hours, energy.astype(np.float32)), unit, is_off
    )


@pytest.fixture(scope="module")
def mixed() -> Energy:
    """Meters as they are: usual ones, and at the end those that are not."""
    energy = fleet(16, DAYS, noise=0.4)
    hour = np.arange(DAYS * 24) % 24
    energy[-1] = np.nan  # no history
    energy[-2, : -4 * 24] = np.nan  # a short one
    energy[-3] = 0
    energy[-4] -= 6 * np.exp(-((hour - 12) ** 2) / 6)  # sun
    energy[-5, ::7] = np.nan
    return energy


@pytest.fixture(scope="module")
def unit() -> Learning:
    return unit_of(DAYS, 16)


@pytest.fixture(scope="module")
def part(mixed: Energy, unit: Learning) -> Learnt:
    return learn(mixed, unit)


@pytest.fixture(scope="module")
def done(part: Learnt, unit: Learning) -> Trained:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "_MOST_STEPS", 200)
        return trained([part], unit, is_off, Networks, 1)


def test_every_meter_has_a_mean_and_quantiles_in_order(done: Trained, mixed: Energy) -> None:
    context = mixed[:, -CONTEXT:].astype(np.float32)
    found = done.model.forecast(context, wall(2024, 3, 25), is_off)
    for name in QUANTITIES:
        assert found[name].shape == (16, HORIZON) and np.isfinite(found[name]).all()
    assert (found["p10"] <= found["p50"]).all() and (found["p50"] <= found["p90"]).all()
    usual = done.model.usual_scale
    assert found["mean"][-1].mean() == pytest.approx(usual, rel=0.2)  # as its like
    level = np.nanmean(mixed[-2])
    assert found["mean"][-2].mean() == pytest.approx(level, rel=0.2)  # at its own level
    assert np.ptp(found["mean"][-2, :24]) > 0.5 * level  # in the others' shape
    assert (found["mean"][-3] == 0).all()
    noon = np.arange(12, HORIZON, 24)
    assert (found["mean"][-4, noon] < 0).all() and (found["p10"][-4, noon] < 0).all()
    assert np.corrcoef(found["mean"][0, :24], np.nanmean(mixed[0].reshape(-1, 24), 0))[0, 1] > 0.9


def test_a_meter_with_little_history_is_forecast_as_those_of_its_size() -> None:
    """Small ones take their energy at night here, large ones by day."""
    hour = np.arange(DAYS * 24) % 24
    night, day = 1.0 * (hour < 8), 1.0 * ((hour >= 8) & (hour < 18))
    sizes = np.concatenate([np.full(10, 0.5), np.full(10, 2.0), np.full(10, 20.0)])
    energy = sizes[:, None] * np.where(sizes[:, None] > 10, day, night)
    noise = np.random.default_rng(1).lognormal(0, 0.2, energy.shape)
    unit = unit_of(DAYS, 30)
    model = trained([learn(energy * noise, unit)], unit, is_off, Networks, 1).model
    context = np.full((3, CONTEXT), np.nan, np.float32)
    context[0, -48:], context[1, -48:] = energy[0, -48:], energy[-1, -48:]
    context[2, -3:] = 50.0  # too little to tell its size by
    found = model.forecast(context, wall(2024, 3, 25), is_off)
    of_day = found["mean"].reshape(3, 7, 24).mean(axis=1)
    assert of_day[0, 2] > 10 * of_day[0, 12] and of_day[1, 12] > 10 * of_day[1, 2]
    assert of_day[0].mean() == pytest.approx(energy[0].mean(), rel=0.2)
    assert of_day[1].mean() == pytest.approx(energy[-1].mean(), rel=0.2)
    assert of_day[2].mean() == pytest.approx(model.usual_scale, rel=0.2)
    assert of_day[2, [2, 12]].min() > 0.2 * model.usual_scale  # as all do


def test_a_damaged_reading_spoils_no_forecast(
    mixed: Energy, unit: Learning, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "_MOST_STEPS", 200)
    energy = mixed.copy()
    energy[0, -300] = energy[1, -100] = 1e6
    part = learn(energy, unit)
    assert part.sample is not None and part.sample.scale.max() < 100
    part.sample.actual[:10] = 1e6
    model = trained([part], unit, is_off, Networks, 1).model
    assert model.profile["mean"].max() < 20
    context = energy[:, -CONTEXT:].astype(np.float32)
    found = model.forecast(context, wall(2024, 3, 25), is_off)
    usual = np.nanmedian(np.abs(energy[:15]), axis=1)
    for meter in (0, 1, 2, 15):  # the last has no history: it is forecast as its like
        level = usual[meter] if meter < 15 else model.usual_scale
        assert 0.5 < found["mean"][meter].mean() / level < 2
    both = context[:2].sum(axis=0, keepdims=True)
    of_sum = model.forecast(both, wall(2024, 3, 25), is_off, kind="sum")["mean"].mean()
    assert 0.5 < of_sum / usual[:2].sum() < 2


def test_meters_do_not_change_each_others_forecasts(done: Trained, mixed: Energy) -> None:
    context = mixed[:, -CONTEXT:].astype(np.float32)
    forecaster = done.model
    together = forecaster.forecast(context, wall(2024, 3, 25), is_off)
    for number in (0, 5, 12, 13, 15):
        alone = forecaster.forecast(context[number : number + 1], wall(2024, 3, 25), is_off)
        for name in QUANTITIES:
            np.testing.assert_array_equal(alone[name][0], together[name][number])


def test_the_same_readings_give_the_same_model(part: Learnt, mixed: Energy, unit: Learning,
    monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(networks, "_MOST_STEPS", 4)
    one = trained([part], unit, is_off, Networks, 1)
    again = trained([learn(mixed, unit)], unit, is_off, Networks, 2)  # whatever the threads
    assert one.model.to_files() == again.model.to_files()
    monkeypatch.setattr(networks, "_MOST_STEPS", 5)
    other = trained([part], unit, is_off, Networks, 1)
    assert other.model.to_files() != one.model.to_files()


def test_a_model_comes_back_from_its_files(done: Trained, mixed: Energy) -> None:
    back = FleetForecaster.from_files("networks", done.model.to_files())
    assert back.to_files() == done.model.to_files()
    context = mixed[:, -CONTEXT:].astype(np.float32)
    a, b = (m.forecast(context, FIRST, is_off) for m in (done.model, back))
    assert all(np.array_equal(a[name], b[name]) for name in QUANTITIES)


def test_a_model_of_other_features_is_refused(done: Trained) -> None:
    names = done.model.names
    for other in (names[1:], (*names[1:], names[0]), (*names, "temperature")):
        with pytest.raises(ValueError, match="other features"):
            FleetForecaster.from_files("networks", replace(done.model, names=other).to_files())


@pytest.mark.parametrize("seed", [1, 2])
def test_of_weeks_held_out_four_fifths_lie_in_the_band(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "_MOST_STEPS", 200)
    unit = unit_of(112, 15)
    found = trained([learn(fleet(15, 112, seed=seed, noise=0.5), unit)], unit, is_off, Networks, 1)
    assert 0.78 <= found.scores.coverage <= 0.82
    assert found.scores.values == 15 * 4 * HORIZON


def test_the_band_holds_four_fifths_of_weeks_that_calibrated_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(networks, "_MOST_STEPS", 200)
    energy = fleet(15, 126, noise=0.5)
    unit = unit_of(112, 15)
    model = trained([learn(energy[:, : 112 * 24], unit)], unit, is_off, Networks, 1).model
    inside = []
    for origin in (112 * 24, 119 * 24):
        context = energy[:, origin - CONTEXT : origin].astype(np.float32)
        found = model.forecast(context, unit.hours.wall(origin), is_off)
        was = energy[:, origin : origin + HORIZON]
        inside.append((was >= found["p10"]) & (was <= found["p90"]))
    assert 0.77 <= np.mean(inside) <= 0.83


def test_sums_of_meters_have_bands_of_their_own() -> None:
    unit = unit_of(112, 20)
    energy = fleet(20, 112, noise=0.8)
    part = learn(energy, unit)
    assert part.sample is not None
    assert {held.kind for held in part.held_out} == {"meter", "sum"}
    assert set(part.sample.size) > {1}  # it learns from sums too
    done = trained([part], unit, is_off, Networks, 1)
    assert 0.75 <= scored(done.hindcasts, "sum").coverage <= 0.85
    context = energy[:, -CONTEXT:].astype(np.float32)
    one = done.model.forecast(context, unit.hours.wall(112 * 24), is_off)
    several = done.model.forecast(
        context.sum(axis=0, keepdims=True), unit.hours.wall(112 * 24), is_off, kind="sum"
    )
    widths = [((f["p90"] - f["p10"]).mean() / f["mean"].mean()) for f in (several, one)]
    assert widths[0] < 0.5 * widths[1]  # errors cancel out


@pytest.mark.parametrize("factor", [1, 100])
def test_a_sum_counts_as_much_as_one_of_its_meters(factor: int) -> None:
    sample = learn(factor * fleet(20, DAYS), unit_of(DAYS, 20)).sample
    assert sample is not None
    weight = training_rows(sample).weight
    expected = sample.scale / sample.size
    np.testing.assert_allclose(weight, expected / expected.mean(), rtol=1e-5)
    is_sum = sample.size > 1
    assert weight[is_sum].mean() == pytest.approx(weight[~is_sum].mean(), rel=0.5)


def test_no_row_weighs_more_than_thirty_others(part: Learnt) -> None:
    assert part.sample is not None
    damaged = replace(part.sample, scale=part.sample.scale.copy())
    damaged.scale[7] = 1e7
    assert training_rows(damaged).weight.max() == 30


def test_the_first_model_sees_nothing_of_the_weeks_held_out(
    mixed: Energy, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = unit_of(DAYS, 16, rows=40_000)
    part = learn(mixed, unit)
    monkeypatch.setattr(networks, "_MOST_STEPS", 2)
    seen: list[Sample] = []

    def spied(sample: Sample, forecaster: type[Forecaster], threads: int) -> FleetForecaster:
        seen.append(sample)
        return fit(sample, forecaster, threads)

    monkeypatch.setattr(learning, "fit", spied)
    done = trained([part], unit, is_off, Networks, 1)
    first, last = seen
    held = min(unit.origins.held_out)
    assert held == DAYS * 24 - len(unit.origins.held_out) * HORIZON
    assert any(held - HORIZON < origin < held for origin in unit.origins.learn)
    assert first.origin.max() + HORIZON <= held
    assert last.origin.max() + HORIZON == DAYS * 24  # the second sees all
    assert len(first.actual) < len(last.actual)
    assert done.model.stretch == stretches(done.hindcasts) != dict.fromkeys(KINDS, (1.0, 1.0))


def test_what_happened_in_the_weeks_held_out_does_not_change_their_forecast(
    mixed: Energy, unit: Learning, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "_MOST_STEPS", 4)
    first = unit.origins.held_out[0]
    other = mixed.copy()
    other[:, first:] = 50 - other[:, first:]
    found: list[list[Floats]] = []
    real = hindcasts

    def spied(*args: Any) -> Any:
        casts = real(*args)
        found.append([c.found["p90"] for c in casts if c.origin == first and c.kind == "meter"])
        return casts

    monkeypatch.setattr(learning, "hindcasts", spied)
    for energy in (mixed, other):
        trained([learn(energy, unit)], unit, is_off, Networks, 1)
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_weather_ahead_is_hidden_in_what_is_held_out_and_in_every_other_origin(
    mixed: Energy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "_MOST_STEPS", 4)
    random = np.random.default_rng(1)
    weather = random.normal(10, 5, DAYS * 24 + HORIZON).astype(np.float32)
    unit = unit_of(DAYS, 16, temperature=weather)
    part = learn(mixed, unit)
    assert part.sample is not None
    ahead = np.isnan(part.sample.column("temperature"))
    for number, origin in enumerate(unit.origins.learn):
        assert set(ahead[part.sample.origin == origin]) <= {number % 2 == 0}
    before = ~np.isnan(part.sample.column("temperature_day_1"))
    assert before.any()
    model = fit(part.sample, Networks, 1)
    assert model.uses_temperature
    context = mixed[:, -CONTEXT:].astype(np.float32)
    nothing = np.full(CONTEXT + HORIZON, np.nan, np.float32)
    without, unknown = (model.forecast(context, FIRST, is_off, t) for t in (None, nothing))
    np.testing.assert_array_equal(without["mean"], unknown["mean"])
    hot = weather.copy()
    hot[unit.origins.held_out[-1] :] += 30
    hidden, hotter = (
        hindcasts(model, [part], unit_of(DAYS, 16, temperature=t), is_off)[-1].found["mean"]
        for t in (weather, hot)
    )
    np.testing.assert_array_equal(hidden, hotter)


@pytest.mark.parametrize("days", [21, 28, 40, 84, 140, 395])
@pytest.mark.parametrize("offset", [0, 5])
def test_origins_have_a_week_before_and_a_week_after_and_come_at_all_hours(
    days: int, offset: int
) -> None:
    origins = plan_origins(days * 24, step_of(days * 24, 32, 800_000), offset)
    assert min(origins.learn) == HORIZON
    assert max(origins.learn) == max((days - 7) * 24 - offset, HORIZON)
    assert len(set(origins.learn)) == len(origins.learn)
    assert origins.held_out[-1] == (days - 7) * 24
    assert 1 <= len(origins.held_out) == min(4, max(1, days // 7 // 4))
    if days >= 40:
        assert {origin % 24 for origin in origins.learn} == set(range(24))
    assert any(origin + HORIZON <= origins.held_out[0] for origin in origins.learn)


@pytest.mark.parametrize("meters", [1, 32, 100, 400])
def test_from_origin_to_origin_are_hours_that_meet_all_of_the_week(meters: int) -> None:
    for days in (21, 84, 200, 395):
        assert math.gcd(step_of(days * 24, meters, 100_000), HORIZON) == 1


@pytest.mark.parametrize(("meters", "rows"), [(2, 800_000), (32, 800_000), (400, 800_000)])
def test_more_meters_have_fewer_origins_each(meters: int, rows: int) -> None:
    """The work before training does not grow with the fleet."""
    origins = plan_origins(395 * 24, step_of(395 * 24, meters, rows)).learn
    share = share_of_rows(meters, len(origins), MlSettings(train_rows=rows))
    assert share <= 0.5
    if meters > 2:
        series = meters + meters // 5  # with the sums of some
        assert series * len(origins) * HORIZON * share == pytest.approx(rows, rel=0.1)
        assert share > 0.45
    else:
        assert len(origins) > 700


@pytest.mark.parametrize("rows", [1000, 4000])
def test_training_learns_from_about_as_many_rows_as_are_set(mixed: Energy, rows: int) -> None:
    unit = unit_of(DAYS, 11, rows)
    sample = learn(mixed[:11], unit).sample
    assert sample is not None
    assert len(sample.actual) == pytest.approx(rows, rel=0.1)


def test_rows_keep_their_own_outcome() -> None:
    """The target of a row is what its meter did `step` hours after its origin."""
    energy = np.arange(1, 3 * 2000 + 1, dtype=np.float32).reshape(3, 2000)
    origin = 1500
    rows = features(energy[:, origin - CONTEXT : origin], FIRST, is_off)
    actual = energy[:, origin : origin + HORIZON]
    sample = take_sample(rows, actual, origin, np.ones(3, np.int64), 0.5, np.random.default_rng(1))
    meter = (sample.actual - 1) // 2000
    step = (sample.actual - 1) % 2000 - origin
    np.testing.assert_allclose(sample.column("step"), step / HORIZON, rtol=1e-6)
    np.testing.assert_array_equal(sample.hour, (FIRST.hour + step) % 24)
    np.testing.assert_array_equal(sample.scale, rows.scale[meter.astype(int)])
    assert (sample.origin == origin).all()


def test_scores_of_hindcasts_are_those_of_the_oracle(
    done: Trained, part: Learnt, unit: Learning
) -> None:
    casts = hindcasts(done.model, [part], unit, is_off)
    of_meters = [c for c in casts if c.kind == "meter"]
    actual: list[float] = []
    quantiles: dict[str, list[float]] = {"p10": [], "p50": [], "p90": []}
    for cast in of_meters:
        others = [c for c in of_meters if c.origin != cast.origin]
        together = {n: np.concatenate([c.found[n] for c in others]) for n in QUANTITIES}
        asked = stretch_for(np.concatenate([c.actual for c in others]), together)
        stretch = (1 + (asked[0] - 1) / 2, 1 + (asked[1] - 1) / 2)
        found = in_order(cast.found, stretch)
        actual += cast.actual.reshape(-1).tolist()
        for name, values in quantiles.items():
            values += found[name].reshape(-1).tolist()
    scores = scored(casts)
    expected = by_hand(actual, quantiles)
    told = (scores.wql, scores.nd, scores.coverage, scores.values)
    assert told == pytest.approx(expected, rel=1e-6)


def test_quantiles_that_cross_are_put_in_order_and_stretched() -> None:
    found = {
        "mean": np.array([[5.0]], np.float32),
        "p10": np.array([[3.0]], np.float32),
        "p50": np.array([[1.0]], np.float32),
        "p90": np.array([[2.0]], np.float32),
    }
    ordered = in_order(found, (2.0, 0.5))
    assert [ordered[name].item() for name in ("mean", "p10", "p50", "p90")] == [5, 0, 2, 2.5]


def test_the_stretch_leaves_a_tenth_beyond_each_side() -> None:
    random = np.random.default_rng(1)
    actual = random.normal(0, 1, (50, HORIZON)).astype(np.float32)
    actual[0, :20] = np.nan
    flat: Callable[[float], Floats] = lambda value: np.full_like(actual, value)  # noqa: E731
    found = {"mean": flat(0), "p10": flat(-3), "p50": flat(0), "p90": flat(0.5)}
    stretched = in_order(found, stretch_for(actual, found))
    known = ~np.isnan(actual)
    assert (actual < stretched["p10"])[known].mean() == pytest.approx(0.1, abs=0.002)
    assert (actual > stretched["p90"])[known].mean() == pytest.approx(0.1, abs=0.002)


def test_a_band_is_never_stretched_without_end() -> None:
    flat = np.zeros((2, HORIZON), np.float32)
    found = {"mean": flat, "p10": flat - 1, "p50": flat, "p90": flat + 1}
    assert stretch_for(flat + 1000, found) == (0.0, 4.0)
    assert stretch_for(flat - 1000, found) == (4.0, 0.0)


def test_each_kind_has_its_own_stretch(done: Trained, mixed: Energy) -> None:
    flat = np.zeros((2, HORIZON), np.float32)
    actual = np.linspace(-1, 1, HORIZON * 2, dtype=np.float32).reshape(2, HORIZON)
    found = {"mean": flat, "p10": flat - 0.4, "p50": flat, "p90": flat + 0.4}
    wide = {"mean": flat, "p10": flat - 0.8, "p50": flat, "p90": flat + 0.8}
    asked = stretches([Hindcast("meter", 1, actual, found), Hindcast("sum", 1, actual, wide)])
    assert asked["meter"] == pytest.approx((1.5, 1.5), abs=0.02)  # half of 2
    assert asked["sum"] == pytest.approx((1, 1), abs=0.02)
    model = replace(done.model, stretch={"meter": (1.0, 2.0), "sum": (3.0, 1.0)})
    context = mixed[:3, -CONTEXT:].astype(np.float32)
    meter, total, plain = (
        model.forecast(context, FIRST, is_off, kind=kind, calibrated=calibrated)
        for kind, calibrated in (("meter", True), ("sum", True), ("sum", False))
    )
    up, down = plain["p90"] - plain["p50"], plain["p50"] - plain["p10"]
    for found, low, high in ((meter, 1, 2), (total, 3, 1)):
        np.testing.assert_allclose(found["p90"] - found["p50"], high * up, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(found["p50"] - found["p10"], low * down, rtol=1e-3, atol=1e-5)


def test_groups_are_of_different_meters_and_of_all_sizes() -> None:
    groups = list(groups_of(500, np.random.default_rng(1)))
    assert len(groups) == 100
    assert all(len(set(group)) == len(group) for group in groups)
    sizes = [len(group) for group in groups]
    assert min(sizes) < 5 and max(sizes) > 300


def test_of_a_sum_nothing_is_known_where_one_of_its_meters_is_not() -> None:
    energy = fleet(5, DAYS)
    energy[range(5), [-1, -2, -3, -4, -5]] = np.nan
    last = learn(energy, unit_of(DAYS, 5)).held_out[-1]
    assert last.kind == "sum" and 2 <= np.isnan(last.actual).sum() <= 5


def test_others_are_the_meters_and_days_off_are_apart() -> None:
    """A profile is of meters alone; of days off that of days off."""
    off = np.repeat(np.arange(DAYS) % 7 >= 5, 24)
    energy = np.where(off, 3.0, 1.0) * np.random.default_rng(1).lognormal(0, 0.5, (20, DAYS * 24))
    sample = learn(energy, unit_of(DAYS, 20)).sample
    assert sample is not None
    model = fit(sample, Networks, 1)
    one = sample.where((sample.size == 1) & ~sample.is_day_off)
    scaled = one.actual / one.scale
    for name, level in (("p10", 0.1), ("p50", 0.5), ("p90", 0.9)):
        found = model.profile[name][-1, 0].mean()
        assert found == pytest.approx(np.quantile(scaled, level), rel=0.05)
    context = np.full((1, CONTEXT), np.nan, np.float32)
    of_day = model.forecast(context, FIRST, is_off)["mean"].reshape(7, 24).mean(axis=1)
    assert of_day[5:].min() > 2 * of_day[:5].max()


@pytest.mark.parametrize("energy", [np.nan, 4e-4])  # of the second there are sums alone
def test_where_no_meter_has_a_week_nothing_can_be_learnt(energy: float) -> None:
    unit = unit_of(DAYS, 20)
    with pytest.raises(BadInput, match="a meter with complete hours for a week"):
        trained([learn(np.full((20, DAYS * 24), energy), unit)], unit, is_off, Networks, 1)
