"""How good forecasts and anomaly bands are, and how fast, beside what people would pick instead.

    python benchmarks/ml.py           # a quarter of an hour
    python benchmarks/ml.py --quick   # few meters and homes, no rivals; judges nothing
    python benchmarks/ml.py --json    # the last line is one JSON object

Forecasts: the homes of ../shared/data/sgsc with data from 2013-02-01 to 2014-02-23, hourly, the
395 days before the first of four weekly origins that end at 2014-02-24. Nothing was chosen on
these weeks: parameters and features were on the eight weeks before them.

Anomalies: the same homes' days; spikes, dips, days of nothing and steps are put into 5 % of them.
Bands are learnt from the days before the middle of September 2013 and judge those after; Prophet
sees all days, also those that it judges, as the guide's implementation has it. What a meter costs
is measured on the homes again and again, as a fleet of 10,000.

Batch: a lake of 10,000 meters and eight weeks every 15 minutes, all of them forecast.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from reporting import Figures, Target, conclude, machine

from meterlake.delta.store import Store, open_store
from meterlake.engine.local import LocalEngine
from meterlake.forecast.bands import HISTORY, MeterDays, fit_band, judge
from meterlake.forecast.features import HORIZON
from meterlake.forecast.forecasts import forecast_all
from meterlake.forecast.learning import (
    Learning,
    Learnt,
    context_of,
    day_off_of,
    learnt,
    plan_origins,
    share_of_rows,
    step_of,
    trained,
)
from meterlake.forecast.port import Forecaster
from meterlake.forecast.registry import named_forecaster
from meterlake.forecast.scores import scores
from meterlake.forecast.series import Series
from meterlake.forecast.statistics import Floats, quantiles
from meterlake.forecast.training import train
from meterlake.ingest import intake
from meterlake.integrate import derivations
from meterlake.integrate.derivations import cluster
from meterlake.periods import LocalHours
from meterlake.pipeline.derivation import Session
from meterlake.settings import MlSettings, Settings

HOMES = Path(__file__).resolve().parents[2] / "shared" / "data" / "sgsc" / "sgsc_50.parquet"
RIVALS = Path(__file__).resolve().parents[1] / ".venv-rivals" / "bin" / "python"
BEGIN = datetime(2013, 2, 1)  # noqa: DTZ001  (by the clock)
END = datetime(2014, 2, 24)  # noqa: DTZ001  (by the clock)
WEEKS = 4
WINDOW_DAYS = 395
ML = MlSettings(country="AU", subdivision="NSW", use_weather=False)
START = datetime(2024, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
LEVELS = (0.1, 0.5, 0.9)


@dataclass(frozen=True)
class Size:
    """How much is measured: all of it, or the quick form."""

    homes: int
    rows: int
    seeds: int
    meters: tuple[int, int]
    minutes: int


FULL = Size(50, 800_000, 3, (2_500, 10_000), 15)
QUICK = Size(8, 20_000, 1, (20, 60), 60)


# --- the homes


def homes(size: Size) -> tuple[datetime, Floats]:
    """The first hour by the clock, and energy [kWh] of homes and hours."""
    first = END - timedelta(weeks=WEEKS, days=WINDOW_DAYS)
    hours = (
        pl.read_parquet(HOMES)
        .select("customer_id", time="reading_datetime", kwh="general_supply_kwh")
        .unique(["customer_id", "time"], keep="first", maintain_order=True)
        .group_by("customer_id", hour=pl.col("time").dt.truncate("1h"))
        .agg(pl.col("kwh").sum(), halves=pl.len())
    )
    span = hours.group_by("customer_id").agg(first=pl.col("hour").min(), last=pl.col("hour").max())
    chosen = span.filter(pl.col("first") <= BEGIN, pl.col("last") >= END - timedelta(hours=1))[
        "customer_id"
    ].sort()[: size.homes]
    rows = hours.filter(
        pl.col("customer_id").is_in(chosen.to_list()),
        pl.col("hour").is_between(first, END, closed="left"),
        pl.col("halves") == 2,
    )
    energy = np.full((len(chosen), (END - first) // timedelta(hours=1)), np.nan, np.float32)
    row = chosen.search_sorted(rows["customer_id"]).to_numpy()
    column = (rows["hour"] - first).dt.total_hours().to_numpy()
    energy[row, column] = rows["kwh"].to_numpy()
    return first, energy


# --- forecasts


def forecasts(size: Size, folder: Path) -> dict[str, Figures]:
    first, energy = homes(size)
    count = energy.shape[1]
    origins = [count - HORIZON * number for number in range(WEEKS, 0, -1)]
    actual = np.stack([energy[:, o : o + HORIZON] for o in origins])
    found: dict[str, Figures] = {}

    for title, kind in (("meterlake", "networks"), ("meterlake with LightGBM", "lightgbm")):
        began = time.perf_counter()
        answer = ours(named_forecaster(kind), Window.of(first, energy, origins, size), origins)
        found[title] = judged(actual, answer, time.perf_counter() - began)

    before = np.stack([energy[:, o - HORIZON : o] for o in origins])
    found["seasonal naive, a week"] = judged(actual, np.stack([before] * 3, axis=1), 0.0)
    began = time.perf_counter()
    weeks = np.stack([energy[:, o - 8 * HORIZON : o].reshape(-1, 8, HORIZON) for o in origins])
    climate = np.stack(quantiles(weeks.swapaxes(2, 3), LEVELS, axis=3), axis=1)
    found["hour of week, 8 weeks"] = judged(actual, climate, time.perf_counter() - began)
    for name, title in (
        ("mstl", "statsforecast MSTL + AutoETS"),
        ("deepar", "GluonTS DeepAR, 10 x 50 batches"),
    ):
        told = {"energy": energy, "origins": origins, "first": str(first)}
        if size == FULL and (answer := rival(name, told, folder)) is not None:
            found[title] = judged(actual, answer["quantiles"], float(answer["seconds"]))
    return found


@dataclass(frozen=True)
class Window:
    """The homes, and what lies before the first origin as training takes it."""

    energy: Floats
    unit: Learning
    learnt: Learnt

    @staticmethod
    def of(first: datetime, energy: Floats, origins: list[int], size: Size) -> "Window":
        """Of the 395 days before the first origin."""
        settings = ML.model_copy(update={"train_rows": size.rows})
        hours = LocalHours("UTC", first, origins[0])
        series = Series(tuple(map(str, range(len(energy)))), hours, energy[:, : origins[0]])
        plan = plan_origins(hours.count, step_of(hours.count, len(energy), settings.train_rows))
        share = share_of_rows(len(energy), len(plan.learn), settings)
        unit = Learning((), None, hours, plan, share, None, seed=0)
        return Window(energy, unit, learnt(series, unit, day_off_of(ML)))


def ours(forecaster: type[Forecaster], window: Window, origins: list[int]) -> NDArray[np.floating]:
    """Trained once on what lies before the first origin: [origins, quantiles, homes, hours]."""
    day_off = day_off_of(ML)
    model = trained([window.learnt], window.unit, day_off, forecaster, threads=2).model
    found = []
    for origin in origins:
        at = window.unit.hours.wall(origin)
        ahead = model.forecast(context_of(window.energy, origin), at, day_off)
        found.append([ahead["p10"], ahead["p50"], ahead["p90"]])
    return np.array(found)


def judged(actual: NDArray[np.floating], told: NDArray[np.floating], seconds: float) -> Figures:
    """Scores of [origins, quantiles, homes, hours], by a second, plain implementation too."""
    low, median, high = (np.asarray(told[:, i]) for i in range(3))
    unknown = np.isnan(low) | np.isnan(median) | np.isnan(high)
    was = np.where(unknown, np.nan, actual)
    by_name = {
        name: np.nan_to_num(values).astype(np.float32)
        for name, values in (("p10", low), ("p50", median), ("p90", high))
    }
    found = scores(was.astype(np.float32), by_name)
    plain = plainly(was, [low, median, high])
    if not np.allclose([found.wql, found.nd, found.coverage], plain, atol=2e-6):
        raise SystemExit(f"two ways to score differ: {found} and {plain}")
    return {"wql": found.wql, "nd": found.nd, "coverage": found.coverage, "seconds": seconds}


def plainly(
    actual: NDArray[np.floating], quantiles: list[NDArray[np.floating]]
) -> tuple[float, float, float]:
    """wQL, ND and coverage value by value, as their definitions read."""
    total = loss = error = inside = number = 0.0
    for was, *told in zip(
        actual.reshape(-1).tolist(), *(q.reshape(-1).tolist() for q in quantiles), strict=True
    ):
        if was != was:
            continue
        total += abs(was)
        number += 1
        for level, value in zip(LEVELS, told, strict=True):
            loss += 2 * (level * (was - value) if was >= value else (1 - level) * (value - was))
        error += abs(was - told[1])
        inside += told[0] <= was <= told[2]
    return loss / len(LEVELS) / total, error / total, inside / number


# --- anomalies


def anomalies(size: Size, folder: Path) -> dict[str, Figures]:
    first, hours = homes(size)
    skip = (-first.hour) % 24
    energy = hours[:, skip:]
    energy = energy[:, : energy.shape[1] // 24 * 24].reshape(len(hours), -1, 24).sum(axis=2)
    day = (first + timedelta(hours=skip)).date()
    dates = [day + timedelta(days=number) for number in range(energy.shape[1])]
    cut = dates.index(date(2013, 9, 15))
    found: dict[str, list[Figures]] = {}
    for seed in range(size.seeds):
        changed, is_odd = injected(energy, np.random.default_rng(seed), start=56)
        band = fit_band(_days(changed[:, :cut], dates[:cut]), day_off_of(ML))
        judged_days = changed[:, cut - HISTORY :], dates[cut - HISTORY :]
        verdict = judge(_days(*judged_days), band, day_off_of(ML))
        year = seconds_of_a_fleet(changed, dates, cut, size) * 365 / (len(dates) - cut)
        width = np.where(
            changed[:, cut:] >= verdict.expected,
            verdict.upper - verdict.expected,
            verdict.expected - verdict.lower,
        )
        beyond = np.abs(changed[:, cut:] - verdict.expected) / np.maximum(width, 1e-9)
        found.setdefault("meterlake", []).append(
            told_apart(changed[:, cut:], is_odd[:, cut:], verdict.anomaly != 0, beyond, year)
        )
        told = {"energy": changed, "first": str(day), "country": "AU"}
        if size == FULL and (answer := rival("prophet", told, folder)) is not None:
            yhat, lower, upper = (answer["band"][:, i, cut:] for i in range(3))
            was = changed[:, cut:]
            width = np.where(was >= yhat, upper - yhat, yhat - lower)
            found.setdefault("Prophet, as the reference", []).append(
                told_apart(
                    was,
                    is_odd[:, cut:],
                    (was > upper) | (was < lower),
                    np.abs(was - yhat) / np.maximum(width, 1e-9),
                    float(answer["seconds"]) / len(energy) * 365 / len(dates),
                )
            )
    return {
        name: {key: float(np.mean([run[key] for run in runs])) for key in runs[0]}
        for name, runs in found.items()
    }


def seconds_of_a_fleet(energy: Floats, dates: list[date], cut: int, size: Size) -> float:
    """Seconds a meter of a fleet: a band learnt from as many as training takes, all judged."""
    fleet = np.tile(energy, (-(-size.meters[1] // len(energy)), 1))
    began = time.perf_counter()
    band = fit_band(_days(fleet[: ML.train_meters, :cut], dates[:cut]), day_off_of(ML))
    for start in range(0, len(fleet), 1000):
        part = fleet[start : start + 1000, cut - HISTORY :]
        judge(_days(part, dates[cut - HISTORY :]), band, day_off_of(ML))
    return (time.perf_counter() - began) / len(fleet)


def _days(energy: Floats, dates: list[date]) -> MeterDays:
    return MeterDays(energy, np.zeros(energy.shape, np.bool_), dates)


def injected(
    energy: Floats, random: np.random.Generator, start: int
) -> tuple[Floats, NDArray[np.bool_]]:
    """5 % of each home's days changed: spikes, dips, nothing, and steps of five days."""
    changed = energy.copy()
    is_odd = np.zeros(energy.shape, np.bool_)
    days = energy.shape[1]
    for row in range(len(energy)):
        while is_odd[row].sum() < 0.05 * (days - start):
            kind = random.integers(4)
            length = 5 if kind == 3 else 1
            at = slice(day := int(random.integers(start, days - length)), day + length)
            if is_odd[row, at].any() or np.isnan(energy[row, at]).any():
                continue
            up = random.uniform(1.6, 2.0) if random.random() < 0.5 else random.uniform(0.4, 0.6)
            factor = (random.uniform(2, 3), random.uniform(0.3, 0.5), 0.0, up)[kind]
            changed[row, at] *= factor
            is_odd[row, at] = True
    return changed, is_odd


def told_apart(
    energy: Floats,
    is_odd: NDArray[np.bool_],
    is_flagged: NDArray[np.bool_],
    score: NDArray[np.floating],
    seconds_a_year: float,
) -> Figures:
    """Precision, recall, F1, area under their curve, and false alarms of judged days."""
    known = np.isfinite(energy) & np.isfinite(score)
    odd, flagged = is_odd[known], is_flagged[known]
    right = (odd & flagged).sum()
    precision, recall = right / max(flagged.sum(), 1), right / odd.sum()
    ranked = odd[np.argsort(-score[known], kind="stable")]
    precisions = np.cumsum(ranked) / np.arange(1, len(ranked) + 1)
    return {
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(2 * precision * recall / max(precision + recall, 1e-9)),
        "auprc": float((precisions * ranked).sum() / ranked.sum()),
        "false_alarms": float((flagged & ~odd).sum() / (~odd).sum()),
        "ms_a_meter_year": seconds_a_year * 1000,
    }


# --- batch


def batch(size: Size, folder: Path) -> Figures:
    found: Figures = {}
    for meters in size.meters:
        store = _lake(folder / f"lake-{meters}", meters, size)
        settings = _settings(store, size)
        now = START + 60 * DAY
        engine = LocalEngine(2)
        train(store, engine=engine, settings=settings, now=now, force=True)
        seconds = []
        for _ in range(2):
            began = time.perf_counter()
            done = forecast_all(Session(store, engine, settings, now), rebuild=True)
            seconds.append(time.perf_counter() - began)
        if done.meters != meters:
            raise SystemExit(f"forecasts of {done.meters} meters, not of {meters}")
        found[f"seconds_{meters}"] = min(seconds)
    few, many = size.meters
    found["cost_per_meter_ratio"] = (found[f"seconds_{many}"] / many) / (
        found[f"seconds_{few}"] / few
    )
    found["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return found


def _lake(folder: Path, meters: int, size: Size) -> Store:
    """Eight weeks of kW of meters that follow a day's and a week's course, with noise."""
    inbox = folder / "inbox"
    inbox.mkdir(parents=True)
    (folder / "export.toml").write_text(
        'name = "bench"\ndescription = "kW of meters"\nrecognise = ["meter", "time", "kw"]\n'
        f'interval_minutes = {size.minutes}\nmeter = "meter"\n'
        '[time]\ncolumn = "time"\nzone = "UTC"\nstamps = "start"\n'
        '[values]\nkw = { type = "kw", unit = "kW" }\n'
    )
    random = np.random.default_rng(1)
    steps = 24 * 60 // size.minutes
    level = random.lognormal(-0.7, 0.6, meters)
    ids = np.repeat([f"{n:08d}-{hash(n) & 0xFFFF:04x}-meter" for n in range(meters)], steps)
    at = np.arange(steps) / steps * 24
    course = 0.5 + 0.4 * np.sin((at - 9) / 24 * 2 * np.pi) + 0.7 * np.exp(-((at - 19) ** 2) / 8)
    store = open_store(str(folder / "lake"))
    engine = LocalEngine(2)
    for day in range(57):
        start = START + day * DAY
        times = pl.datetime_range(
            start, start + DAY, f"{size.minutes}m", closed="left", eager=True, time_unit="us"
        )
        kw = level[:, None] * course * random.lognormal(0, 0.5, (meters, steps))
        frame = pl.DataFrame({"meter": ids, "kw": kw.reshape(-1)}).with_columns(
            time=times.dt.replace_time_zone(None).gather(np.tile(np.arange(steps), meters))
        )
        frame.write_parquet(inbox / f"day_{day:03d}.parquet")
    settings = _settings(store, size)
    now = START + 60 * DAY
    done = intake.ingest(
        Session(store, engine, settings, now), [str(inbox)], profile=str(folder / "export.toml")
    )
    if done.failures:
        raise SystemExit(f"the files were not taken in: {done.failures}")
    derivations.integrate(Session(store, engine, settings, now))
    cluster(Session(store, engine, settings, now))
    return store


def _settings(store: Store, size: Size) -> Settings:
    ml = MlSettings(train_rows=size.rows // 2)
    return Settings(lake=store.url, late_hooks=(), workers=2, ml=ml)


# --- all of it


def rival(name: str, told: dict[str, Any], folder: Path) -> Any:
    """What a rival answers; None where it is not installed."""
    if not RIVALS.exists():
        print(f"{name} is left out: make bench installs it", file=sys.stderr)
        return None
    given, answer = folder / "in.npz", folder / "out.npz"
    np.savez(given, **told)
    script = Path(__file__).with_name("ml_rivals.py")
    done = subprocess.run(
        [str(RIVALS), str(script), name, str(given), str(answer)], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
    return np.load(answer)


def table(rows: dict[str, Figures], digits: dict[str, int]) -> None:
    names = list(digits)
    print("", f"| | {' | '.join(names)} |", f"|---|{'--:|' * len(names)}", sep="\n")
    for title, row in rows.items():
        print(f"| {title} | {' | '.join(f'{row[n]:.{digits[n]}f}' for n in names)} |")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true", dest="as_json")
    parser.add_argument("--only", choices=("forecasts", "anomalies", "batch"))
    told = parser.parse_args()
    size = QUICK if told.quick else FULL
    print("# Forecasts and anomalies", "", *machine(), sep="\n")
    figures: dict[str, Figures] = {}
    targets: dict[str, Target] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if told.only in (None, "forecasts"):
            rows = forecasts(size, folder)
            table(rows, {"wql": 4, "nd": 4, "coverage": 3, "seconds": 1})
            figures |= {f"forecast {title}": row for title, row in rows.items()}
            mine = rows["meterlake"]
            targets |= {
                "wQL of four weeks": Target(mine["wql"], "<=", 0.380),
                "ND of four weeks": Target(mine["nd"], "<=", 0.567),
                "coverage, at least": Target(mine["coverage"], ">=", 0.78),
                "coverage, at most": Target(mine["coverage"], "<=", 0.82),
                "seconds of training and four origins": Target(mine["seconds"], "<=", 60),
            }
        if told.only in (None, "anomalies"):
            rows = anomalies(size, folder)
            table(
                rows,
                {
                    "precision": 3,
                    "recall": 3,
                    "f1": 3,
                    "auprc": 3,
                    "false_alarms": 4,
                    "ms_a_meter_year": 3,
                },
            )
            figures |= {f"anomalies {title}": row for title, row in rows.items()}
            mine = rows["meterlake"]
            targets["false alarms of untouched days"] = Target(mine["false_alarms"], "<=", 0.03)
            if "Prophet, as the reference" in rows:
                other = rows["Prophet, as the reference"]
                targets |= {
                    "F1 beside Prophet's": Target(mine["f1"] / other["f1"], ">=", 1.0),
                    "times as fast as Prophet": Target(
                        other["ms_a_meter_year"] / mine["ms_a_meter_year"], ">=", 500
                    ),
                }
        if told.only in (None, "batch"):
            found = batch(size, folder)
            table({"batch inference": found}, dict.fromkeys(found, 2))
            figures["batch"] = found
            many = size.meters[1]
            targets |= {
                f"seconds of {many:,} meters x 168 hours": Target(
                    found[f"seconds_{many}"], "<=", 30
                ),
                "peak memory, training included [GB]": Target(found["peak_gb"], "<", 4),
                "cost per meter, many against few": Target(
                    found["cost_per_meter_ratio"], "<=", 1.2
                ),
            }
    return conclude("ml", figures, targets, quick=told.quick, as_json=told.as_json)


if __name__ == "__main__":
    sys.exit(main())
