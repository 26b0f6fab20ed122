"""What every forecaster of the port does, whichever it is, alone and in a fleet's forecasts."""

import re
import string
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.ml import Energy, fleet, names, wall

from meterlake.forecast import gradient_trees, networks
from meterlake.forecast.features import CONTEXT, HORIZON, QUANTITIES
from meterlake.forecast.fleet import FleetForecaster
from meterlake.forecast.learning import (
    Learning,
    Trained,
    learnt,
    plan_origins,
    share_of_rows,
    step_of,
    trained,
)
from meterlake.forecast.port import Forecaster, TrainingRows
from meterlake.forecast.registry import named_forecaster
from meterlake.forecast.scores import scores
from meterlake.forecast.series import Series
from meterlake.forecast.statistics import Floats
from meterlake.periods import LocalHours
from meterlake.settings import MlSettings

COUNT = 20_000
DAYS = 112
AHEAD = wall(2024, 4, 22)


@pytest.fixture(autouse=True, scope="module")
def _small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "_COUNT", 2)
        patch.setattr(networks, "_MOST_STEPS", 500)
        patch.setattr(gradient_trees, "_ROUNDS", 100)
        yield


@pytest.fixture(
    params=["networks", pytest.param("lightgbm", marks=pytest.mark.proof)], scope="module"
)
def forecaster(request: pytest.FixtureRequest) -> type[Forecaster]:
    return named_forecaster(request.param)


# --- alone


def skewed(count: int = COUNT, seed: int = 1) -> TrainingRows:
    """Rows whose target is a share of the second feature, with the share's distribution known."""
    random = np.random.default_rng(seed)
    values = random.uniform(0.5, 2, (count, 3)).astype(np.float32)
    target = (values[:, 1] * random.exponential(1, count)).astype(np.float32)
    return TrainingRows(
        values, np.zeros((count, 4), np.float32), target, np.ones(count, np.float32)
    )


def fitted(forecaster: type[Forecaster], rows: TrainingRows, threads: int = 2) -> Forecaster:
    return forecaster.fit(rows, seed=0, threads=threads)


def predicted(fit: Forecaster, values: Floats, base: Floats | None = None) -> Floats:
    """What is forecast for rows of one series: [rows, QUANTITIES]."""
    base = np.zeros((len(values), 4), np.float32) if base is None else base
    found: Floats = fit.predict(values[None], base[None])[0]
    return found


@pytest.fixture(scope="module")
def usual(forecaster: type[Forecaster]) -> Forecaster:
    return fitted(forecaster, skewed())


def test_mean_and_quantiles_are_those_of_the_distribution(usual: Forecaster) -> None:
    rows = skewed()
    found = predicted(usual, rows.values)
    assert found.shape == (COUNT, len(QUANTITIES)) and found.dtype == np.float32
    expected = (1.0, *(-np.log(1 - level) for level in (0.1, 0.5, 0.9)))
    for output, share in enumerate(expected):
        assert (found[:, output] / rows.values[:, 1]).mean() == pytest.approx(share, rel=0.08)
    assert found[:, 0].mean() == pytest.approx(rows.target.mean(), rel=0.05)
    for output, level in ((1, 0.1), (2, 0.5), (3, 0.9)):
        assert (rows.target < found[:, output]).mean() == pytest.approx(level, abs=0.02)


def test_the_first_guess_is_what_it_corrects(usual: Forecaster) -> None:
    rows = skewed()
    one, other = (predicted(usual, rows.values, rows.base + more) for more in (0, 5))
    np.testing.assert_allclose(other, one + 5, rtol=1e-5)


def test_rows_count_as_much_as_they_weigh(forecaster: type[Forecaster]) -> None:
    is_odd = np.arange(COUNT) % 2 == 1
    target, weight = (np.where(is_odd, a, b).astype(np.float32) for a, b in ((1, 3), (1.8, 0.2)))
    rows = replace(skewed(), target=target, weight=weight)
    found = predicted(fitted(forecaster, rows), rows.values)
    assert found[:, 0].mean() == pytest.approx(1.2, abs=0.05)
    assert found[:, 2].mean() == pytest.approx(1.0, abs=0.05)


def test_the_same_rows_and_seed_give_the_same_forecaster_whatever_the_threads(
    forecaster: type[Forecaster], usual: Forecaster
) -> None:
    assert fitted(forecaster, skewed(), threads=1).save() == usual.save()
    assert forecaster.fit(skewed(), seed=1, threads=2).save() != usual.save()


def test_one_that_was_saved_and_loaded_predicts_the_same_digits(
    forecaster: type[Forecaster], usual: Forecaster
) -> None:
    rows, files = skewed(), usual.save()
    back = forecaster.load({**files, "model.json": b"{}"})  # of others, to be ignored
    np.testing.assert_array_equal(predicted(back, rows.values), predicted(usual, rows.values))
    assert back.save() == files and forecaster.kind == back.kind


def test_its_files_are_text_of_plain_names(usual: Forecaster) -> None:
    for name, data in usual.save().items():
        assert re.fullmatch(r"\w+\.\w+", name) and name not in ("card.json", "model.json")
        assert set(data.decode("ascii")) <= set(string.printable)


@pytest.mark.parametrize("damage", ["gone", "empty", "cut off", "garbage"])
def test_a_damaged_file_is_refused(
    damage: str, forecaster: type[Forecaster], usual: Forecaster
) -> None:
    files = usual.save()
    for name, data in files.items():
        changed = {"empty": b"", "cut off": data[: len(data) // 2], "garbage": b"\xff\x00" * 50}
        others = {other: text for other, text in files.items() if other != name}
        others |= {} if damage == "gone" else {name: changed[damage]}
        with pytest.raises((KeyError, TypeError, ValueError)):
            forecaster.load(others)


def test_it_writes_nothing_itself(
    forecaster: type[Forecaster], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `save` returns is put into the lake by others."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    rows = skewed(500)
    predicted(forecaster.load(fitted(forecaster, rows).save()), rows.values)
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_known_or_far_out_is_answered_within_what_was_seen(
    forecaster: type[Forecaster],
) -> None:
    rows = skewed()
    rows.values[::5, 1] = np.nan
    rows.values[:, 0] = np.nan
    rows.values[:, 2] = 7.0  # the same everywhere
    fit = fitted(forecaster, rows)
    strange = np.repeat(rows.values[1:2], 4, axis=0)
    strange[0, 1], strange[1, 1], strange[2, 1] = np.nan, 1e9, -1e9
    answer = predicted(fit, strange)
    assert np.isfinite(answer).all() and np.abs(answer).max() < 20
    assert answer[0, 0] == pytest.approx(1.25, rel=0.2)  # the mean of all
    for column in (0, 2):  # nothing was learnt from these
        other = strange[3:].copy()
        other[0, column] = 9.0
        np.testing.assert_allclose(predicted(fit, other), answer[3:], rtol=1e-4)


def test_a_damaged_target_does_not_spoil_what_is_learnt(
    forecaster: type[Forecaster], usual: Forecaster
) -> None:
    rows = skewed()
    sound = predicted(usual, rows.values)
    rows.target[7], rows.weight[7] = 1e7, 30
    spoilt = predicted(fitted(forecaster, rows), rows.values)
    np.testing.assert_allclose(spoilt.mean(axis=0), sound.mean(axis=0), rtol=0.1, atol=0.02)


def test_few_rows_are_not_learnt_by_heart(
    forecaster: type[Forecaster], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "_MOST_STEPS", 3000)
    monkeypatch.setattr(gradient_trees, "_ROUNDS", 200)
    fit, other = fitted(forecaster, skewed(2000)), skewed(seed=2)
    below = (other.target < predicted(fit, other.values)[:, 3]).mean()
    assert below == pytest.approx(0.9, abs=0.03)


@pytest.mark.parametrize("count", [1, 2, 30])
def test_a_handful_of_rows_is_enough(count: int, forecaster: type[Forecaster]) -> None:
    rows = skewed(count)
    fit = forecaster.load(fitted(forecaster, rows).save())
    assert np.isfinite(predicted(fit, skewed(100).values)).all()


def test_a_constant_target_is_forecast_as_it_is(forecaster: type[Forecaster]) -> None:
    rows = skewed(4000)
    rows = replace(rows, base=rows.base - 0.6, target=np.full(4000, -0.7, np.float32))
    found = predicted(fitted(forecaster, rows), rows.values, rows.base)
    np.testing.assert_allclose(found.mean(axis=0), -0.7, atol=0.03)


def test_no_series_changes_another_and_threads_may_ask_at_once(usual: Forecaster) -> None:
    values = skewed().values.reshape(-1, 100, 3)
    base = np.zeros((len(values), 100, 4), np.float32)
    together = usual.predict(values, base)
    with ThreadPoolExecutor(4) as pool:
        alone = list(pool.map(lambda n: usual.predict(values[n : n + 1], base[:1]), range(40)))
    np.testing.assert_array_equal(np.concatenate(alone), together[:40])
    assert usual.predict(values[:0], base[:0]).shape == (0, 100, 4)


# --- in a fleet's forecasts


def is_off(day: date) -> bool:
    return day.weekday() >= 5


@dataclass(frozen=True)
class Fleet:
    """What meters did, a week more than a model learnt from, and that model."""

    energy: Energy
    done: Trained

    def forecast(self, **options: Any) -> dict[str, Floats]:
        """The week that the model has not seen."""
        context = self.energy[:, -HORIZON - CONTEXT : -HORIZON].astype(np.float32)
        return self.done.model.forecast(context, AHEAD, is_off, **options)


@pytest.fixture(scope="module")
def found(forecaster: type[Forecaster]) -> Fleet:
    """Usual meters; the last ones have sun, gaps, no load, little history and none."""
    energy = fleet(16, DAYS + 7, noise=0.4)
    hour = np.arange(energy.shape[1]) % 24
    energy[-1] = np.nan
    energy[-2, : -11 * 24] = np.nan
    energy[-3] = 0
    energy[-4] -= 6 * np.exp(-((hour - 12) ** 2) / 6)
    energy[-5, ::7] = np.nan
    count = DAYS * 24
    origins = plan_origins(count, step_of(count, 16, 8000))
    share = share_of_rows(16, len(origins.learn), MlSettings(train_rows=8000))
    hours = LocalHours("UTC", wall(2024, 1, 1), count)
    unit = Learning((), None, hours, origins, share, None, 7)
    seen = Series(tuple(names(16)), hours, energy[:, :count].astype(np.float32))
    part = learnt(seen, unit, is_off)
    return Fleet(energy, trained([part], unit, is_off, forecaster, 2))


def test_every_meter_has_a_mean_and_quantiles_in_order(found: Fleet) -> None:
    for options in ({}, {"kind": "sum"}, {"calibrated": False}):
        ahead = found.forecast(**options)
        for name in QUANTITIES:
            assert ahead[name].shape == (16, HORIZON) and np.isfinite(ahead[name]).all()
        assert (ahead["p10"] <= ahead["p50"]).all() and (ahead["p50"] <= ahead["p90"]).all()


def test_a_load_below_zero_is_forecast_below_zero(found: Fleet) -> None:
    ahead, noon = found.forecast(), np.arange(12, HORIZON, 24)
    assert (ahead["mean"][-4, noon] < 0).all() and (ahead["p10"][-4, noon] < 0).all()
    assert (ahead["mean"][-3] == 0).all()  # and no load as none


def test_the_band_is_calibrated_on_held_out_weeks(found: Fleet) -> None:
    assert 0.76 <= found.done.scores.coverage <= 0.84
    stretched = {side for both in found.done.model.stretch.values() for side in both}
    assert stretched != {1.0}


def test_it_is_better_than_last_week_again(found: Fleet) -> None:
    """On the week that the model has not seen, where both are known."""
    actual = found.energy[:, -HORIZON:].astype(np.float32)
    before = found.energy[:, -2 * HORIZON : -HORIZON].astype(np.float32)
    actual = np.where(np.isnan(before), np.nan, actual)
    naive = np.nan_to_num(before)
    last_week = scores(actual, {"p10": naive, "p50": naive, "p90": naive})
    ours = scores(actual, found.forecast())
    assert ours.wql < 0.6 * last_week.wql and ours.nd < 0.8 * last_week.nd


def test_a_fleets_forecaster_comes_back_from_its_files(
    found: Fleet, forecaster: type[Forecaster]
) -> None:
    model = found.done.model
    back = FleetForecaster.from_files(forecaster.kind, model.to_files())
    assert back.to_files() == model.to_files() and back.kind == forecaster.kind
    again = Fleet(found.energy, replace(found.done, model=back)).forecast()
    assert all(np.array_equal(again[name], found.forecast()[name]) for name in QUANTITIES)
