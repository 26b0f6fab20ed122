"""Faults that are known: what was done to which meter, from when to when.

| Kind | What happens | Magnitude |
|---|---|---|
| outage | a service transformer is off: its meters take no readings | |
| spike, dip | a meter draws a multiple, or a fraction, of what it would | the factor on kw |
| stuck | a meter repeats all six values of the fault's first reading | |
| dead | a meter takes no readings | |

A service transformer has one fault at a time, so no two can be taken for each other. Spikes and
dips befall only meters without a roof, where kw is consumption, and begin between 06:00 and 14:00,
where there is some to multiply. A spike may exceed the contract load: that is what it is.
"""

import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from meterlake.errors import BadInput
from meterlake.simulate.chance import MINUTES_PER_DAY, Minutes, Purpose, keyed
from meterlake.simulate.fleet import Fleet
from meterlake.simulate.plan import ReadingsPlan

# From this size on every kind occurs, so that a judge always finds something of each.
ALL_KINDS_FROM_DEVICES = 100
ALL_KINDS_FROM_DAYS = 2


@dataclass(frozen=True)
class FaultKind:
    """How often a kind of fault befalls one transformer or meter, how long and how strong."""

    name: str
    per_year: float
    hours: tuple[float, float]
    factor: tuple[float, float] | None = None
    least_steps: int = 1


FAULT_KINDS = (
    # Utilities with good networks report about one interruption per customer and year (SAIFI),
    # of one to two hours (CAIDI).
    FaultKind("outage", 1.0, (0.25, 4)),
    # A party, a heater that was left on; an empty house. A detector that judges days must be able
    # to see them, hence the hours; one a year keeps them rare enough to be anomalies.
    FaultKind("spike", 1.0, (3, 12), factor=(2.5, 6.0)),
    FaultKind("dip", 1.0, (3, 12), factor=(0.05, 0.3)),
    # Meters and their radios fail for good once in decades; more often here, or a month of a small
    # fleet would show none. Two readings are the least that can repeat.
    FaultKind("stuck", 0.2, (3, 24), least_steps=2),
    FaultKind("dead", 0.1, (24, 240)),
)

_FAULTS = {
    "kind": pl.String,
    "transformer": pl.Int64,
    "device": pl.Int64,
    "start_minute": pl.Int64,
    "end_minute": pl.Int64,
    "magnitude": pl.Float64,
}
_TRIES = 100


def no_faults() -> pl.DataFrame:
    """Return the faults of a clean simulation."""
    return pl.DataFrame(schema=_FAULTS)


def plan_faults(plan: ReadingsPlan, fleet: Fleet) -> pl.DataFrame:
    """Draw the faults of a plan.

    Returns
    -------
    DataFrame, sorted by start_minute, device; one row per fault and meter
        `kind`, `transformer` and `device` (numbers), `start_minute`, `end_minute` (since 1970,
        half-open, whole steps within the plan), `magnitude`.
    """
    rng = keyed(plan.seed, Purpose.FAULTS)
    years = plan.steps * plan.interval_minutes / (MINUTES_PER_DAY * 365.25)
    large = plan.devices >= ALL_KINDS_FROM_DEVICES and years >= ALL_KINDS_FROM_DAYS / 365.25
    faults = []
    taken: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    for kind in FAULT_KINDS:
        exposed = len(fleet.transformer_ids) if kind.name == "outage" else plan.devices
        for _ in range(max(int(large), rng.poisson(kind.per_year * exposed * years))):
            faults += _place(kind, plan, fleet, rng=rng, taken=taken)
    return pl.DataFrame(faults, schema=_FAULTS, orient="row").sort("start_minute", "device")


def faults_within(faults: pl.DataFrame, minutes: Minutes, kinds: tuple[str, ...]) -> pl.DataFrame:
    """Return the faults of some kinds that touch a stretch of consecutive steps."""
    return faults.filter(
        pl.col("kind").is_in(kinds),
        pl.col("start_minute") <= int(minutes[-1]),
        pl.col("end_minute") > int(minutes[0]),
    )


def check_truth(path: Path) -> None:
    """Refuse a truth file of a kind that cannot be written.

    Raises
    ------
    BadInput
        The suffix is neither .csv nor .parquet.
    """
    if path.suffix not in (".csv", ".parquet"):
        raise BadInput(
            f"The truth of a simulation needs a file that ends in .csv or .parquet, found '{path}'"
            ": rename it"
        )


def truth(faults: pl.DataFrame, fleet: Fleet) -> pl.DataFrame:
    """Return the faults as a judge reads them.

    Returns
    -------
    DataFrame, sorted by start, meter_id; one row per fault and meter
        `kind`; `transformer`, null but for outages; `meter_id`; `start`, `end` (UTC, half-open);
        `magnitude`: the factor on kw for spikes and dips, null for the rest.
    """
    instant = (pl.col("start_minute", "end_minute") * 60_000_000).cast(pl.Datetime("us", "UTC"))
    return (
        faults.with_columns(instant)
        .select(
            "kind",
            pl.when(pl.col("kind") == "outage")
            .then(pl.lit(pl.Series(fleet.transformer_ids, dtype=pl.String)).gather("transformer"))
            .alias("transformer"),
            pl.lit(pl.Series(fleet.device_ids)).gather("device").alias("meter_id"),
            pl.col("start_minute").alias("start"),
            pl.col("end_minute").alias("end"),
            "magnitude",
        )
        .sort("start", "meter_id")
    )


def write_truth(faults: pl.DataFrame, fleet: Fleet, path: Path) -> None:
    """Write the faults as a judge reads them, as CSV or Parquet by the suffix of the file."""
    table = truth(faults, fleet)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    if path.suffix == ".parquet":
        table.write_parquet(partial)
    else:
        table.write_csv(partial, datetime_format="%Y-%m-%dT%H:%M:%SZ")
    partial.replace(path)


def _place(
    kind: FaultKind,
    plan: ReadingsPlan,
    fleet: Fleet,
    *,
    rng: np.random.Generator,
    taken: defaultdict[int, list[tuple[int, int]]],
) -> list[tuple[str, int, int, int, int, float | None]]:
    # Drawn again until it lies within the plan and on a transformer that is free; a plan too short
    # or too crowded for a fault does without it.
    for _ in range(_TRIES):
        device = int(rng.integers(plan.devices))
        transformer = int(fleet.transformer[device])
        start, end = _when(kind, plan, rng=rng)
        if not plan.start_minute <= start < end <= plan.end_minute:
            continue
        if kind.factor is not None and np.isin(device, fleet.solar):
            continue
        if any(start < other_end and other < end for other, other_end in taken[transformer]):
            continue
        taken[transformer].append((start, end))
        magnitude = None if kind.factor is None else round(rng.uniform(*kind.factor), 3)
        hit = fleet.meters_of(transformer)
        devices = hit if kind.name == "outage" else [device]
        return [(kind.name, transformer, one, start, end, magnitude) for one in devices]
    return []


def _when(kind: FaultKind, plan: ReadingsPlan, *, rng: np.random.Generator) -> tuple[int, int]:
    shortest, longest = kind.hours
    # Evenly on a logarithmic scale: short faults are more frequent than long ones.
    minutes = 60 * math.exp(rng.uniform(math.log(shortest), math.log(longest)))
    steps = max(kind.least_steps, math.ceil(minutes / plan.interval_minutes))
    if kind.factor is None:
        start = plan.start_minute + int(rng.integers(plan.steps)) * plan.interval_minutes
    else:
        days = plan.start_minute // MINUTES_PER_DAY, plan.end_minute // MINUTES_PER_DAY
        day = int(rng.integers(days[0], days[1] + 1))
        start = day * MINUTES_PER_DAY + int(rng.integers(6 * 60, 14 * 60))
        start -= start % plan.interval_minutes
    end = start + steps * plan.interval_minutes
    # The dead may stay dead beyond the plan; its end is then all that can be seen.
    return start, min(end, plan.end_minute) if kind.name == "dead" else end
