"""The networks alone: their slopes against differences, their threads, and Adam's steps."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import threadpoolctl
from numpy.typing import NDArray

from meterlake.forecast import networks
from meterlake.forecast.networks import Network, Networks, one_thread
from meterlake.forecast.port import TrainingRows

ROWS = TrainingRows(
    np.random.default_rng(1).uniform(0.5, 2, (600, 3)).astype(np.float32),
    np.zeros((600, 4), np.float32),
    np.linspace(0, 2, 600, dtype=np.float32),
    np.ones(600, np.float32),
)


@pytest.fixture(autouse=True)
def _two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "_COUNT", 2)
    monkeypatch.setattr(networks, "_MOST_STEPS", 20)


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
    network = Network(tuple(weights), tuple(biases))
    found = networks._slopes(network, TrainingRows(*rows), np.random.default_rng(9))
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


def test_networks_differ_by_their_random_numbers() -> None:
    one, other = Networks.fit(ROWS, seed=0, threads=1).networks
    assert one.to_bytes() != other.to_bytes()
    (shared, _) = Networks.fit(ROWS, seed=1, threads=1).networks
    assert shared.to_bytes() == other.to_bytes()


@pytest.mark.parametrize("change", ["shape", "outputs", "infinite", "none", "spread"])
def test_networks_that_do_not_fit_together_are_refused(change: str) -> None:
    fitted = Networks.fit(ROWS, seed=0, threads=1)
    first, other = fitted.networks
    weights, biases = list(first.weights), list(first.biases)
    if change == "shape":
        weights[1] = weights[1].T
    elif change == "outputs":
        weights[-1], biases[-1] = weights[-1][:, :3], biases[-1][:3]
    elif change == "infinite":
        biases[0] = np.full_like(biases[0], np.inf)
    changed = Network(tuple(weights), tuple(biases))
    damaged = replace(fitted, networks=() if change == "none" else (changed, other))
    if change == "spread":
        damaged = replace(damaged, spread=fitted.spread[1:])
    with pytest.raises(ValueError, match=r"do not fit together|not a number|missing"):
        Networks.load(damaged.save())


def test_a_model_of_the_first_version_is_read() -> None:
    """It has the inputs in model.json, beside what every forecaster stores there."""
    fitted = Networks.fit(ROWS, seed=0, threads=1)
    files = fitted.save()
    files["model.json"] = files.pop("inputs.json")
    assert Networks.load(files).save() == fitted.save()


def threads() -> set[int]:
    """Of numpy."""
    found = threadpoolctl.threadpool_info()
    return {pool["num_threads"] for pool in found if pool["user_api"] == "blas"}


@pytest.fixture
def _two_threads() -> Iterator[None]:
    limit = networks._apart(lambda: threadpoolctl.threadpool_limits(2, "blas"))
    yield
    networks._apart(limit.restore_original_limits)


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

    def counted(*_: Any) -> Network:
        seen.append(threads())
        return Network((np.zeros((3, 4), np.float32),), (np.zeros(4, np.float32),))

    monkeypatch.setattr(networks, "_fit", counted)
    Networks.fit(ROWS, seed=0, threads=2)
    assert seen == [{1}, {1}] and threads() == {2}


def test_the_first_step_is_as_long_as_the_rate_and_only_weights_decay() -> None:
    weight, bias = np.full(3, 2.0, np.float32), np.full(3, 2.0, np.float32)
    slope = np.array([1e-3, -5.0, 0.0], np.float32)
    networks._Adam([weight, bias], decayed=1).step([slope, slope], 0.5)
    np.testing.assert_allclose(bias, [1.5, 2.5, 2.0], rtol=1e-4)
    np.testing.assert_allclose(bias - weight, 2 * 0.5 * networks._DECAY, rtol=1e-2)
