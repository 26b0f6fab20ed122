"""The forecaster `networks`: several small neural networks in numpy, averaged.

Each is a perceptron with three hidden layers whose four outputs correct the first guesses. Adam
fits it to the squared error of the mean and the pinball losses of the quantiles together, by the
weight of each row. The networks differ in their random numbers only; the average of several errs
less than one.
"""

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar, Self

import numpy as np
import threadpoolctl

from meterlake.forecast.features import QUANTILES, QUANTITIES
from meterlake.forecast.port import TrainingRows
from meterlake.forecast.statistics import Floats, deviation, mean

_COUNT = 4  # networks
_HIDDEN = (128, 64, 32)
_DROPPED = 0.2  # of the last hidden layer, while it learns
_BATCH = 512  # rows
_MOST_STEPS, _LEAST_STEPS = 3000, 200
_MOST_VISITS = 8  # of a row; more than that learns the few by heart
_LEARNING_RATE = 2e-3
_DECAY = 1e-4  # of weights, at each step, in units of the learning rate
_MEAN_WEIGHT = 0.1  # of the squared error beside the pinball losses
_FARTHEST = 20.0  # error of a mean that counts; beyond it more is a damaged reading
_ENDLESS = 1e30  # spread of an input that counts for nothing
_CLIP = 5.0  # standard deviations that an input may be away from its mean


@dataclass(frozen=True)
class Network:
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

    def to_bytes(self) -> bytes:
        """Numbers as JSON."""
        layers = {name: [v.tolist() for v in getattr(self, name)] for name in ("weights", "biases")}
        return json.dumps(layers).encode()

    @staticmethod
    def from_bytes(data: bytes) -> "Network":
        """Read what `to_bytes` wrote. Raises KeyError, ValueError or TypeError."""
        layers = json.loads(data)
        weights, biases = (
            tuple(np.array(values, np.float32) for values in layers[name])
            for name in ("weights", "biases")
        )
        return Network(weights, biases)


@dataclass(frozen=True)
class Networks:
    """Networks, and the mean and standard deviation of each of their inputs."""

    kind: ClassVar[str] = "networks"

    centre: Floats
    spread: Floats
    networks: tuple[Network, ...]

    @classmethod
    def fit(cls, rows: TrainingRows, *, seed: int, threads: int) -> Self:
        """Fit the networks side by side, each with one thread."""
        centre, spread = np.nan_to_num(mean(rows.values, axis=0)), deviation(rows.values, axis=0)
        # A feature that is constant or unknown everywhere tells nothing, whatever it is later.
        spread = np.where(spread > 1e-6, spread, np.float32(_ENDLESS))
        empty = cls(centre, spread, ())
        rows = replace(rows, values=empty._inputs(rows.values))

        def fitted(number: int) -> Network:
            return _fit(rows, np.random.default_rng(seed + number))

        with one_thread(), ThreadPoolExecutor(threads) as pool:
            return replace(empty, networks=tuple(pool.map(fitted, range(_COUNT))))

    def predict(self, values: Floats, base: Floats) -> Floats:
        """Average the networks' corrections of the first guesses."""
        with one_thread():
            inputs = self._inputs(values)
            found = sum((one(inputs) for one in self.networks), np.float32(0)) / len(self.networks)
        corrected: Floats = base + found
        return corrected

    def save(self) -> dict[str, bytes]:
        """Numbers as JSON, one file for each network and one for their inputs."""
        inputs = {
            "centre": self.centre.tolist(),
            "spread": self.spread.tolist(),
            "networks": len(self.networks),
        }
        networks = {f"net_{n}.json": one.to_bytes() for n, one in enumerate(self.networks, start=1)}
        return {"inputs.json": json.dumps(inputs).encode(), **networks}

    @classmethod
    def load(cls, files: Mapping[str, bytes]) -> Self:
        """Read the files of `save`, or those of a model that meterlake 0.1 has stored."""
        inputs = json.loads(files["inputs.json" if "inputs.json" in files else "model.json"])
        centre, spread = (np.array(inputs[name], np.float32) for name in ("centre", "spread"))
        numbers = range(1, inputs.get("networks", _COUNT) + 1)
        networks = (Network.from_bytes(files[f"net_{number}.json"]) for number in numbers)
        found = cls(centre, spread, tuple(networks))
        found._check()
        return found

    def _check(self) -> None:
        """Raise ValueError where layers do not fit together, or a number is not finite."""
        if not self.networks or self.spread.shape != self.centre.shape:
            raise ValueError("networks, or the spreads of their inputs, are missing")
        parts = [self.centre, self.spread]
        for network in self.networks:
            shapes = [self.centre.shape, *(bias.shape for bias in network.biases)]
            fitting = [before + after for before, after in pairwise(shapes)]
            is_whole = shapes[-1] == (len(QUANTITIES),)
            if not is_whole or [w.shape for w in network.weights] != fitting:
                raise ValueError("the layers of a network do not fit together")
            parts += [*network.weights, *network.biases]
        if not all(np.isfinite(part).all() for part in parts):
            raise ValueError("a weight is not a number")

    def _inputs(self, values: Floats) -> Floats:
        inputs = np.nan_to_num((values - self.centre) / self.spread, copy=False)
        clipped: Floats = np.clip(inputs, -_CLIP, _CLIP, out=inputs)
        return clipped


def _fit(rows: TrainingRows, random: np.random.Generator) -> Network:
    count = len(rows.target)
    batch = min(_BATCH, count)
    steps = min(_MOST_STEPS, max(_LEAST_STEPS, _MOST_VISITS * count // batch))
    sizes = (rows.values.shape[1], *_HIDDEN, rows.base.shape[1])
    weights = [
        random.standard_normal((n, m), np.float32) * np.float32(np.sqrt(2 / n))
        for n, m in pairwise(sizes)
    ]
    weights[-1] *= np.float32(0.1)
    biases = [np.zeros(m, np.float32) for m in sizes[1:]]
    network = Network(tuple(weights), tuple(biases))
    adam = _Adam([*weights, *biases], decayed=len(weights))
    order, at = random.permutation(count), 0
    for step in range(1, steps + 1):
        if at + batch > count:
            order, at = random.permutation(count), 0
        chosen = order[at : at + batch]
        at += batch
        some = TrainingRows(
            rows.values[chosen], rows.base[chosen], rows.target[chosen], rows.weight[chosen]
        )
        warm = min(1.0, step / min(200, steps / 10))
        rate = _LEARNING_RATE * warm * 0.5 * (1 + np.cos(np.pi * step / steps))
        adam.step(_slopes(network, some, random), rate)
    return network


def _slopes(network: Network, rows: TrainingRows, random: np.random.Generator) -> list[Floats]:
    """Slopes of the loss of some rows, by the weights and then by the biases of each layer."""
    weights, biases = network.weights, network.biases
    layers = [rows.values]
    for n, bias in zip(weights[:-1], biases[:-1], strict=True):
        layers.append(np.maximum(layers[-1] @ n + bias, 0))
    is_kept = random.random(layers[-1].shape, np.float32) >= _DROPPED
    kept = is_kept.astype(np.float32) / np.float32(1 - _DROPPED)
    layers[-1] *= kept

    error = rows.target[:, None] - (layers[-1] @ weights[-1] + biases[-1] + rows.base)
    slope = np.empty_like(error)
    slope[:, 0] = -_MEAN_WEIGHT * np.clip(error[:, 0], -_FARTHEST, _FARTHEST)
    levels = np.array(QUANTILES, np.float32)
    slope[:, 1:] = np.where(error[:, 1:] > 0, -levels, 1 - levels)
    slope *= rows.weight[:, None] / np.float32(len(rows.target))

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

    def ask(self) -> None:
        """Set it, unless another did."""
        with self._lock:
            if not self._asking:
                self._set = _apart(lambda: threadpoolctl.threadpool_limits(1, "blas"))
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
    _limit.ask()
    try:
        yield
    finally:
        _limit.leave()
