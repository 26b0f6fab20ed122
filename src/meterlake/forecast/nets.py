"""Small neural networks in numpy: of each row a mean and quantiles, averaged over several networks.

Each is a perceptron with three hidden layers, whose four outputs correct the first guesses that
stand in the rows. It is fitted by Adam to the squared error of the mean and the pinball loss of the
quantiles together, every row weighing as much as it is told to. Networks differ in their random
numbers alone; the mean of several is surer than one.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from meterlake.errors import BadInput
from meterlake.forecast.features import QUANTILES
from meterlake.forecast.statistics import Floats, deviation, mean

_NETS = 4
_HIDDEN = (128, 64, 32)
_DROPPED = 0.2  # of the last hidden layer, while it learns
_BATCH = 512  # rows
_MOST_STEPS, _LEAST_STEPS = 3000, 200
_MOST_VISITS = 8  # of a row; more than that learns the few by heart
_LEARNING_RATE = 2e-3
_DECAY = 1e-4  # of weights, at each step, in units of the learning rate
_MEAN_WEIGHT = 0.1  # of the squared error beside the pinball losses
_FARTHEST = 20.0  # error of a mean that counts; beyond it more is a damaged reading
_HEAVIEST = 30.0  # weight of a row, where the mean is 1
_ENDLESS = 1e30  # spread of an input that counts for nothing
_CLIP = 5.0  # standard deviations that an input may be away from its mean


@dataclass(frozen=True)
class Net:
    """Weights and biases of each layer, from the inputs to the outputs."""

    weights: tuple[Floats, ...]
    biases: tuple[Floats, ...]

    def __call__(self, inputs: Floats) -> Floats:
        """The outputs of rows, [..., rows, outputs]."""
        found = inputs
        for weights, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            found = np.maximum(found @ weights + bias, 0)
        outputs: Floats = found @ self.weights[-1] + self.biases[-1]
        return outputs

    def to_json(self) -> dict[str, Any]:
        """Numbers alone."""
        return {name: [v.tolist() for v in getattr(self, name)] for name in ("weights", "biases")}

    @staticmethod
    def from_json(told: Mapping[str, Any]) -> "Net":
        """What `to_json` gave. Raises KeyError, ValueError or TypeError where it did not."""
        weights, biases = (
            tuple(np.array(values, np.float32) for values in told[name])
            for name in ("weights", "biases")
        )
        return Net(weights, biases)


@dataclass(frozen=True)
class Nets:
    """Networks, and the mean and standard deviation of each of their inputs."""

    centre: Floats
    spread: Floats
    nets: tuple[Net, ...]

    def __call__(self, values: Floats, base: Floats) -> Floats:
        """The mean of what the networks say.

        Parameters
        ----------
        values : features, NaN where not known, [..., rows, features]
        base : first guesses of the mean and of each quantile, [..., rows, outputs]
        """
        with one_thread():
            inputs = self._inputs(values)
            found = sum((net(inputs) for net in self.nets), np.float32(0)) / len(self.nets)
        corrected: Floats = base + found
        return corrected

    def _inputs(self, values: Floats) -> Floats:
        inputs = np.nan_to_num((values - self.centre) / self.spread, copy=False)
        clipped: Floats = np.clip(inputs, -_CLIP, _CLIP, out=inputs)
        return clipped


def fit_nets(values: Floats, base: Floats, target: Floats, weight: Floats, *, threads: int) -> Nets:
    """Fit networks to rows; the same ones, however many threads there are.

    Parameters
    ----------
    values, base : as of `Nets`, of [rows, ...]
    target : what was, in the unit of `base`
    weight : how much each row counts
    """
    centre, spread = np.nan_to_num(mean(values, axis=0)), deviation(values, axis=0)
    # What is the same everywhere, or not known anywhere, says nothing, whatever it is later.
    spread = np.where(spread > 1e-6, spread, np.float32(_ENDLESS))
    empty = Nets(centre, spread, ())
    inputs = empty._inputs(values)
    weight = np.minimum(weight / weight.mean(), _HEAVIEST).astype(np.float32)

    def fitted(seed: int) -> Net:
        return _fit(inputs, base, target, weight, np.random.default_rng(seed))

    with one_thread(), ThreadPoolExecutor(threads) as pool:
        nets = tuple(pool.map(fitted, range(_NETS)))
    return Nets(centre, spread, nets)


def _fit(
    inputs: Floats, base: Floats, target: Floats, weight: Floats, random: np.random.Generator
) -> Net:
    rows = len(target)
    batch = min(_BATCH, rows)
    steps = min(_MOST_STEPS, max(_LEAST_STEPS, _MOST_VISITS * rows // batch))
    sizes = (inputs.shape[1], *_HIDDEN, base.shape[1])
    weights = [
        random.standard_normal((n, m), np.float32) * np.float32(np.sqrt(2 / n))
        for n, m in pairwise(sizes)
    ]
    weights[-1] *= np.float32(0.1)
    biases = [np.zeros(m, np.float32) for m in sizes[1:]]
    adam = _Adam([*weights, *biases], decayed=len(weights))
    order, at = random.permutation(rows), 0
    for step in range(1, steps + 1):
        if at + batch > rows:
            order, at = random.permutation(rows), 0
        chosen = order[at : at + batch]
        at += batch
        slopes = _slopes(
            weights, biases, inputs[chosen], base[chosen], target[chosen], weight[chosen], random
        )
        warm = min(1.0, step / min(200, steps / 10))
        adam.step(slopes, _LEARNING_RATE * warm * 0.5 * (1 + np.cos(np.pi * step / steps)))
    return Net(tuple(weights), tuple(biases))


def _slopes(
    weights: Sequence[Floats],
    biases: Sequence[Floats],
    inputs: Floats,
    base: Floats,
    target: Floats,
    weight: Floats,
    random: np.random.Generator,
) -> list[Floats]:
    """Slopes of the loss of some rows, by the weights and then by the biases of each layer."""
    layers = [inputs]
    for n, bias in zip(weights[:-1], biases[:-1], strict=True):
        layers.append(np.maximum(layers[-1] @ n + bias, 0))
    is_kept = random.random(layers[-1].shape, np.float32) >= _DROPPED
    kept = is_kept.astype(np.float32) / np.float32(1 - _DROPPED)
    layers[-1] *= kept

    error = target[:, None] - (layers[-1] @ weights[-1] + biases[-1] + base)
    slope = np.empty_like(error)
    slope[:, 0] = -_MEAN_WEIGHT * np.clip(error[:, 0], -_FARTHEST, _FARTHEST)
    levels = np.array(QUANTILES, np.float32)
    slope[:, 1:] = np.where(error[:, 1:] > 0, -levels, 1 - levels)
    slope *= weight[:, None] / np.float32(len(target))

    of_weights: list[Floats] = []
    of_biases: list[Floats] = []
    for number in reversed(range(len(weights))):
        of_weights.insert(0, layers[number].T @ slope)
        of_biases.insert(0, slope.sum(axis=0))
        if number:
            slope = slope @ weights[number].T
            if number == len(weights) - 1:
                slope *= kept
            slope *= layers[number] > 0
    return of_weights + of_biases


class _Adam:
    """Kingma and Ba's, with the decay of weights apart from the slopes (Loshchilov and Hutter)."""

    def __init__(self, parameters: list[Floats], decayed: int) -> None:
        self._parameters = parameters
        self._decayed = decayed
        self._first = [np.zeros_like(p) for p in parameters]
        self._second = [np.zeros_like(p) for p in parameters]
        self._steps = 0

    def step(self, slopes: Sequence[Floats], rate: float) -> None:
        self._steps += 1
        of_first, of_second = (np.float32(1 - beta**self._steps) for beta in (0.9, 0.999))
        moments = zip(self._parameters, slopes, self._first, self._second, strict=True)
        for number, (parameter, slope, first, second) in enumerate(moments):
            first += np.float32(0.1) * (slope - first)
            second += np.float32(0.001) * (slope * slope - second)
            if number < self._decayed:
                parameter *= np.float32(1 - rate * _DECAY)
            move = first / of_first / (np.sqrt(second / of_second) + np.float32(1e-8))
            parameter -= np.float32(rate) * move


class _Limit:
    """The limit of numpy's threads, which is of the whole process, and how many ask for it.

    It is set and lifted in threads that end at once: threadpoolctl heeds nobody but the first
    thread that set something, as long as that lives.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asking = 0
        self._set: Any = None

    def ask(self, package: Any) -> None:
        """Set it, unless another did."""
        with self._lock:
            if not self._asking:
                self._set = _apart(lambda: package.threadpool_limits(1, "blas"))
            self._asking += 1

    def leave(self) -> None:
        """Lift it, unless another still asks for it."""
        with self._lock:
            self._asking -= 1
            if not self._asking:
                _apart(self._set.restore_original_limits)


def _apart(call: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


_limit = _Limit()


@contextmanager
def one_thread() -> Iterator[None]:
    """While it lasts, numpy multiplies with one thread: the work is shared out above it.

    Several threads of the process may be within at once; the last that leaves lifts the limit.
    """
    _limit.ask(needed_packages())
    try:
        yield
    finally:
        _limit.leave()


def needed_packages() -> Any:
    """The package threadpoolctl. Raises BadInput where it is not installed."""
    try:
        import threadpoolctl
    except ImportError as error:
        raise BadInput(
            f"Forecasts need threadpoolctl: pip install 'meterlake[ml]' (found: {error})"
        ) from error
    return threadpoolctl
