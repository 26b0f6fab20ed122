"""Forecasts and anomaly bands of the tools that people would pick instead.

    python benchmarks/ml_rivals.py deepar|mstl|prophet IN.npz OUT.npz

Run by `ml.py` with the Python of `.venv-rivals`, which `make bench` makes of
`benchmarks/ml_rivals.txt`: these packages need versions of others that meterlake does not.
Knows nothing of meterlake. `seconds` in what it writes are without imports.
"""

import logging
import sys
import tempfile
import time
import warnings
from typing import Any

import numpy as np

HORIZON = 168
QUANTILES = (0.1, 0.5, 0.9)


def deepar(told: Any) -> dict[str, Any]:
    """GluonTS' DeepAR, trained once before the first origin: 10 epochs of 50 batches."""
    import pandas as pd
    import torch
    from gluonts.dataset.pandas import PandasDataset
    from gluonts.torch import DeepAREstimator

    torch.manual_seed(1)
    np.random.seed(1)
    index = pd.date_range(str(told["first"]), periods=told["energy"].shape[1], freq="h")
    energy, origins = told["energy"], [int(o) for o in told["origins"]]

    def until(end: int) -> Any:
        return PandasDataset(
            {str(n): pd.Series(row[:end], index=index[:end]) for n, row in enumerate(energy)}
        )

    began = time.perf_counter()
    model = DeepAREstimator(
        prediction_length=HORIZON,
        context_length=HORIZON,
        freq="h",
        num_batches_per_epoch=50,
        trainer_kwargs={
            "max_epochs": 10,
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "logger": False,
            "default_root_dir": tempfile.mkdtemp(),
        },
    ).train(until(origins[0]))
    found = []
    for origin in origins:
        forecasts = list(model.predict(until(origin)))
        found.append([[f.quantile(q) for f in forecasts] for q in QUANTILES])
    return {"quantiles": np.array(found), "seconds": time.perf_counter() - began}


def mstl(told: Any) -> dict[str, Any]:
    """Statsforecast's MSTL of days and weeks with AutoETS for the trend, of eight weeks each."""
    import pandas as pd
    from statsforecast import StatsForecast
    from statsforecast.models import MSTL

    index = pd.date_range(str(told["first"]), periods=told["energy"].shape[1], freq="h")
    began = time.perf_counter()
    found = []
    for origin in [int(o) for o in told["origins"]]:
        start = origin - 8 * HORIZON
        frames = [
            pd.DataFrame(
                {
                    "unique_id": f"{n:05d}",
                    "ds": index[start:origin],
                    "y": pd.Series(row[start:origin]).interpolate().bfill().fillna(0.0),
                }
            )
            for n, row in enumerate(told["energy"])
        ]
        model = StatsForecast(models=[MSTL(season_length=[24, 168])], freq="h", n_jobs=2)
        rows = model.forecast(df=pd.concat(frames), h=HORIZON, level=[80]).sort_values(
            ["unique_id", "ds"]
        )
        shape = len(frames), HORIZON
        names = ("MSTL-lo-80", "MSTL", "MSTL-hi-80")
        found.append([rows[name].to_numpy().reshape(shape) for name in names])
    return {"quantiles": np.array(found), "seconds": time.perf_counter() - began}


def prophet(told: Any) -> dict[str, Any]:
    """Prophet as the guide's implementation uses it: fitted to the days that it judges."""
    import pandas as pd
    from prophet import Prophet

    days = pd.date_range(str(told["first"]), periods=told["energy"].shape[1], freq="D")
    began = time.perf_counter()
    found = []
    for row in told["energy"]:
        frame = pd.DataFrame({"ds": days, "y": row})
        frame["weekend"] = (frame["ds"].dt.dayofweek >= 5).astype(int)
        model = Prophet(
            seasonality_mode="multiplicative",
            weekly_seasonality=True,
            yearly_seasonality=True,
            daily_seasonality=False,
            interval_width=0.98,
        )
        model.add_country_holidays(str(told["country"]))
        model.add_regressor("weekend")
        model.fit(frame.dropna())
        ahead = model.predict(frame)
        found.append([ahead[name].to_numpy() for name in ("yhat", "yhat_lower", "yhat_upper")])
    return {"band": np.array(found), "seconds": time.perf_counter() - began}


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    for name in ("cmdstanpy", "prophet", "lightning.pytorch", "gluonts"):
        logging.getLogger(name).setLevel(logging.ERROR)
    np.savez(sys.argv[3], **globals()[sys.argv[1]](np.load(sys.argv[2])))
