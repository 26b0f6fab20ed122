"""The networks: their slopes against differences, what they learn, and that they do it again."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import threadpoolctl
from numpy.typing import NDArray

from meterlake.forecast import nets
from meterlake.forecast.nets import Net, Nets, fit_nets, one_thread

ROWS = 20_000


@pytest.fixture(autouse=True)
def _two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nets, "_NETS", 2)
    monkeypatch.setattr(nets, "_MOST_STEPS", 500)


def skewed(seed: int = 1) -> tuple[Any, Any, Any]:
    """Rows whose target is a share of the second input, with the share's distribution known."""
    random = np.random.default_rng(seed)
    values = random.uniform(0.5, 2, (ROWS, 3)).astype(np.float32)
    target = (values[:, 1] * random.exponential(1, ROWS)).astype(np.float32)
    return values, np.zeros((ROWS, 4), np.float32), target


def loss(
    weights: list[Any], biases: list[Any], kept: Any, rows: tuple[Any, Any, Any, Any]
) -> float:
    """The loss of some rows, as its definition reads."""
    inputs, base, target, weight = rows
    total = 0.0
    for row in range(len(target)):
        layer = inputs[row]
        for w, b in zip(weights[:-1], biases[:-1], strict=True):
            layer = np.maximum(layer @ w + b, 0)
        outputs = (layer * kept[row]) @ weights[-1] + biases[-1] + base[row]
        error = target[row] - outputs
        own = 0.1 * error[0] ** 2 / 2
        for level, e in zip((0.1, 0.5, 0.9), error[1:], strict=True):
            own += level * e if e > 0 else (level - 1) * e
        total += weight[row] * own
    return total / len(target)


@pytest.mark.parametrize("layer", [0, 1, 2, 3])
@pytest.mark.parametrize("kind", ["weights", "biases"])
def test_slopes_are_those_of_the_loss(layer: int, kind: str) -> None:
    random = np.random.default_rng(3)
    sizes = (5, 7, 6, 8, 4)
    weights: list[Any] = [random.normal(0, 0.5, (n, m)) for n, m in pairwise(sizes)]
    biases: list[Any] = [random.normal(0, 0.5, n) for n in sizes[1:]]
    count = 12
    inputs, base = random.normal(size=(count, 5)), random.normal(size=(count, 4))
    target, weight = random.normal(0, 2, count), random.uniform(0.5, 2, count)
    rows: tuple[Any, Any, Any, Any] = inputs, base, target, weight
    kept = (np.random.default_rng(9).random((count, 8), np.float32) >= 0.2) / 0.8
    found = nets._slopes(weights, biases, *rows, np.random.default_rng(9))
    slope = found[layer + (0 if kind == "weights" else 4)]
    parameter: NDArray[np.float64] = (weights if kind == "weights" else biases)[layer]
    for at in list(np.ndindex(parameter.shape))[::3]:
        was, step = parameter[at], 1e-6
        parameter[at] = was + step
        more = loss(weights, biases, kept, rows)
        parameter[at] = was - step
        less = loss(weights, biases, kept, rows)
        parameter[at] = was
        assert slope[at] == pytest.approx((more - less) / (2 * step), abs=1e-6)


def test_mean_and_quantiles_are_those_of_the_distribution() -> None:
    values, base, target = skewed()
    found = fit_nets(values, base, target, np.ones(ROWS, np.float32), threads=1)(values, base)
    expected = (1.0, *(-np.log(1 - level) for level in (0.1, 0.5, 0.9)))
    for output, share in enumerate(expected):
        assert (found[:, output] / values[:, 1]).mean() == pytest.approx(share, rel=0.08)
    assert found[:, 0].mean() == pytest.approx(target.mean(), rel=0.05)
    for output, level in ((1, 0.1), (2, 0.5), (3, 0.9)):
        assert (target < found[:, output]).mean() == pytest.approx(level, abs=0.02)


def test_the_first_guess_is_what_they_correct() -> None:
    values, base, target = skewed()
    given = fit_nets(values, base, target, np.ones(ROWS, np.float32), threads=1)
    np.testing.assert_allclose(given(values, base + 5), given(values, base) + 5, rtol=1e-5)


def test_rows_count_as_much_as_they_weigh() -> None:
    values, base, _ = skewed()
    target = np.where(np.arange(ROWS) % 2, 1.0, 3.0).astype(np.float32)
    weight = np.where(np.arange(ROWS) % 2, 9.0, 1.0).astype(np.float32)
    found = fit_nets(values, base, target, weight, threads=1)(values, base)
    assert found[:, 0].mean() == pytest.approx(1.2, abs=0.05)
    assert found[:, 2].mean() == pytest.approx(1.0, abs=0.05)


def test_the_same_rows_give_the_same_networks_whatever_the_threads() -> None:
    values, base, target = skewed()
    weight = np.ones(ROWS, np.float32)
    one, two = (fit_nets(values, base, target, weight, threads=n) for n in (1, 2))
    assert all(a.to_json() == b.to_json() for a, b in zip(one.nets, two.nets, strict=True))
    assert one.nets[0].to_json() != one.nets[1].to_json()  # of the same rows, another network
    back = tuple(Net.from_json(net.to_json()) for net in one.nets)
    again = Nets(one.centre, one.spread, back)
    np.testing.assert_array_equal(again(values, base), one(values, base))


def test_what_is_not_known_or_far_out_is_answered_within_what_was_seen() -> None:
    values, base, target = skewed()
    known = values.copy()
    known[::5, 1] = np.nan
    known[:, 0] = np.nan
    known[:, 2] = 7.0  # the same everywhere
    found = fit_nets(known, base, target, np.ones(ROWS, np.float32), threads=1)
    usual = known[:1].copy()
    usual[0, 1] = np.nanmean(known[:, 1])
    strange = np.repeat(usual, 4, axis=0)
    strange[0, 1], strange[1, 1], strange[2, 1] = np.nan, 1e9, -1e9
    answer = found(strange, base[:4])
    np.testing.assert_allclose(answer[0], answer[3], rtol=1e-3, atol=1e-3)
    assert np.isfinite(answer).all() and np.abs(answer).max() < 20
    for column in (0, 2):  # nothing was learnt from these
        other = usual.copy()
        other[0, column] = 9.0
        np.testing.assert_allclose(found(other, base[:1]), answer[3:], rtol=1e-4)


def test_a_damaged_reading_does_not_spoil_what_is_learnt() -> None:
    values, base, target = skewed()
    weight = np.ones(ROWS, np.float32)
    sound = fit_nets(values, base, target, weight, threads=1)(values, base)
    target[7], weight[7] = 1e7, 1e4
    spoilt = fit_nets(values, base, target, weight, threads=1)(values, base)
    np.testing.assert_allclose(spoilt.mean(axis=0), sound.mean(axis=0), rtol=0.1, atol=0.02)


def test_few_rows_are_not_learnt_by_heart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nets, "_MOST_STEPS", 3000)
    values, base, target = (part[:2000] for part in skewed())
    other, more, later = skewed(seed=2)
    found = fit_nets(values, base, target, np.ones(2000, np.float32), threads=2)
    below = (later < found(other, more)[:, 3]).mean()
    assert below == pytest.approx(0.9, abs=0.03)


def threads() -> set[int]:
    """Of numpy."""
    found = threadpoolctl.threadpool_info()
    return {pool["num_threads"] for pool in found if pool["user_api"] == "blas"}


@pytest.fixture
def _two_threads() -> Iterator[None]:
    limit = nets._apart(lambda: threadpoolctl.threadpool_limits(2, "blas"))
    yield
    nets._apart(limit.restore_original_limits)


@pytest.mark.usefixtures("_two_threads")
def test_one_thread_lasts_until_the_last_has_left() -> None:
    with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second:
        one, other = one_thread(), one_thread()
        first.submit(one.__enter__).result()
        assert threads() == {1}
        second.submit(other.__enter__).result()
        first.submit(one.__exit__, None, None, None).result()
        assert threads() == {1}
        second.submit(other.__exit__, None, None, None).result()
        assert threads() == {2}
    with one_thread():
        assert threads() == {1}
    assert threads() == {2}


@pytest.mark.usefixtures("_two_threads")
def test_networks_are_fitted_and_asked_with_one_thread_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[set[int]] = []

    def counted(*_: Any) -> Net:
        seen.append(threads())
        return Net((np.zeros((3, 4), np.float32),), (np.zeros(4, np.float32),))

    monkeypatch.setattr(nets, "_fit", counted)
    values, base, target = skewed()
    fit_nets(values, base, target, np.ones(ROWS, np.float32), threads=2)
    assert seen == [{1}, {1}] and threads() == {2}


def test_the_first_step_is_as_long_as_the_rate_and_only_weights_decay() -> None:
    weight, bias = np.full(3, 2.0, np.float32), np.full(3, 2.0, np.float32)
    slope = np.array([1e-3, -5.0, 0.0], np.float32)
    nets._Adam([weight, bias], decayed=1).step([slope, slope], 0.5)
    np.testing.assert_allclose(bias, [1.5, 2.5, 2.0], rtol=1e-4)
    np.testing.assert_allclose(bias - weight, 2 * 0.5 * nets._DECAY, rtol=1e-2)
