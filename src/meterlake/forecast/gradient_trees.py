"""The forecaster `lightgbm`: gradient boosted trees, a model of the mean and one of each quantile.

They correct the first guesses, as the networks do. Models are stored in LightGBM's own text format.
Each is fitted with one thread, all four side by side, so their number does not change a digit and
no thread waits by spinning.
"""

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from typing import Any, ClassVar, Self

import lightgbm
import numpy as np

from meterlake.forecast.features import QUANTILES, QUANTITIES
from meterlake.forecast.port import TrainingRows
from meterlake.forecast.statistics import Floats

_ROUNDS = 200
_BINS = 63
_FARTHEST = 20.0  # error of a first guess that counts; beyond it more is a damaged reading
_LEAF_ROWS = (20, 500)  # the fewest and the most that a leaf may need
_LEAST_LEAVES = 20  # that the rows may fill
_CHECKSUMS = "sha256.json"

_OBJECTIVES: Mapping[str, dict[str, Any]] = {
    "mean": {"objective": "regression"},
    **{
        name: {"objective": "quantile", "alpha": level}
        for name, level in zip(QUANTITIES[1:], QUANTILES, strict=True)
    },
}


@dataclass(frozen=True)
class GradientTrees:
    """A LightGBM model of each of the QUANTITIES."""

    kind: ClassVar[str] = "lightgbm"

    boosters: tuple[lightgbm.Booster, ...]

    @classmethod
    def fit(cls, rows: TrainingRows, *, seed: int, threads: int) -> Self:
        """Fit the four models side by side."""
        least, most = _LEAF_ROWS
        parameters = {
            "num_leaves": 31,
            "learning_rate": 0.05,
            "min_data_in_leaf": min(max(len(rows.target) // _LEAST_LEAVES, least), most),
            "feature_fraction": 0.5,
            "bagging_fraction": 0.5,
            "bagging_freq": 1,
            "max_bin": _BINS,
            "deterministic": True,
            "force_row_wise": True,
            "seed": seed,
            "num_threads": 1,
            "verbose": -1,
        }
        if len(rows.target) < 2:  # of which LightGBM makes no data set
            rows = TrainingRows(*(np.repeat(part, 2, axis=0) for part in astuple(rows)))
        error = np.clip(rows.target[:, None] - rows.base, -_FARTHEST, _FARTHEST)

        def fitted(number: int) -> lightgbm.Booster:
            label = np.ascontiguousarray(error[:, number])
            data = lightgbm.Dataset(rows.values, label, weight=rows.weight)
            own = _OBJECTIVES[QUANTITIES[number]]
            return lightgbm.train(parameters | own, data, _ROUNDS)

        with ThreadPoolExecutor(threads) as pool:
            return cls(tuple(pool.map(fitted, range(len(QUANTITIES)))))

    def predict(self, values: Floats, base: Floats) -> Floats:
        """Add the models' corrections to the first guesses."""
        if not base.size:
            return base
        rows = values.reshape(-1, values.shape[-1])
        found = [np.asarray(b.predict(rows, num_threads=1)) for b in self.boosters]
        corrected: Floats = base + np.stack(found, axis=-1).reshape(base.shape).astype(np.float32)
        return corrected

    def save(self) -> dict[str, bytes]:
        """LightGBM's text of each model, and their checksums."""
        models = zip(QUANTITIES, self.boosters, strict=True)
        texts = {f"{name}.txt": booster.model_to_string().encode() for name, booster in models}
        return {**texts, _CHECKSUMS: json.dumps(_checksums(texts)).encode()}

    @classmethod
    def load(cls, files: Mapping[str, bytes]) -> Self:
        """Read the files of `save`; none that differs, since LightGBM ends the process on those."""
        texts = {f"{name}.txt": files[f"{name}.txt"] for name in QUANTITIES}
        if _checksums(texts) != json.loads(files[_CHECKSUMS]):
            raise ValueError("the text of a model is not the one that was stored")
        return cls(tuple(lightgbm.Booster(model_str=t.decode()) for t in texts.values()))


def _checksums(texts: Mapping[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(text).hexdigest() for name, text in texts.items()}
