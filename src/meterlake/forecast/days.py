"""Daily energies to matrices and back: what bands judge, and the rows of what they found."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import polars as pl

from meterlake.delta.store import Store
from meterlake.delta.table import DataFile, fetched, scan, write_file
from meterlake.forecast.bands import HISTORY, KINDS, Band, MeterDays, judge
from meterlake.forecast.learning import day_off_of
from meterlake.forecast.series import READING_TYPE
from meterlake.forecast.statistics import Floats
from meterlake.periods import Period, first_date
from meterlake.pipeline.derivation import Made
from meterlake.readings.consumption import month_of
from meterlake.schema import ANOMALIES, CONSUMPTION_DAILY, polars_schema
from meterlake.settings import MlSettings

_SEVERAL = 4  # intervals of a day that have one value before the day counts as flat
_DIGITS = 6


@dataclass(frozen=True)
class Judging:
    """A unit of work: dates of one month, in the order of time with LOOK_BACK days before them.

    `daily` are files of the daily table that have these days, `before` those of the month in the
    table of anomalies; `temperature` [°C] is of all days of the window.
    """

    window: tuple[Period, ...]
    dates: tuple[date, ...]
    daily: tuple[DataFile, ...]
    before: tuple[DataFile, ...]
    temperature: Floats | None
    is_full: bool
    partition: dict[str, str]
    name: str


@dataclass(frozen=True)
class JudgedDays(Made):
    """What a unit wrote: its file, days of meters judged, and how many are anomalies."""

    judged: int = 0
    anomalies: int = 0


def read_days(
    store: Store,
    files: Sequence[DataFile],
    window: Sequence[Period],
    temperature: Floats | None,
    *,
    keep: pl.Expr | None = None,
) -> tuple[tuple[str, ...], MeterDays]:
    """Meters in order, and their complete days of a window as matrices.

    Parameters
    ----------
    files : of the daily table
    """
    dates = [day.date for day in window]
    rows = scan(store, CONSUMPTION_DAILY, [f for f in files if _is_of(f, dates)]).filter(
        pl.col("date").is_between(dates[0], dates[-1]),
        pl.col("is_complete"),
        pl.col("energy_kwh").is_not_null(),
    )
    rows = rows if keep is None else rows.filter(keep)
    found = fetched(
        rows.select(
            "meter_id",
            "date",
            "energy_kwh",
            ((pl.col("min_kw") == pl.col("max_kw")) & (pl.col("intervals") >= _SEVERAL)).alias(
                "is_flat"
            ),
        )
    )
    meters = found["meter_id"].unique().sort()
    row = meters.search_sorted(found["meter_id"]).to_numpy()
    column = (found["date"] - pl.Series([dates[0]])).dt.total_days().to_numpy()
    at = {day: number for number, day in enumerate(dates)}
    if len(at) != (dates[-1] - dates[0]).days + 1:  # a zone may have skipped a date
        column = np.array([at[day] for day in found["date"]], np.int64)
    energy = np.full((len(meters), len(dates)), np.nan, np.float32)
    flat = np.zeros(energy.shape, np.bool_)
    energy[row, column] = found["energy_kwh"].to_numpy()
    flat[row, column] = found["is_flat"].to_numpy()
    return tuple(meters.to_list()), MeterDays(energy, flat, dates, temperature)


def judge_days(
    store: Store, band: Band, model: str, settings: MlSettings
) -> Callable[[Judging], JudgedDays]:
    """The work on one unit: its dates judged, those that were judged already as they are."""

    def work(unit: Judging) -> JudgedDays:
        meters, days = read_days(store, unit.daily, unit.window, unit.temperature)
        columns = [c.name for c in ANOMALIES.file_columns]
        before = fetched(scan(store, ANOMALIES, unit.before).select(columns))
        fresh = judged_rows(meters, days, unit, band, model, settings)
        key = ["meter_id", "ds"]
        if not unit.is_full:
            same = [*key, "consumption"]
            fresh = fresh.join(before.select(same), on=same, how="anti")
        others = (
            before if not unit.is_full else before.filter(~pl.col("ds").is_in(list(unit.dates)))
        )
        others = others.join(fresh.select(key), on=key, how="anti")
        rows = pl.concat([others, fresh]).sort(key)
        anomalies = int((fresh["anomaly"] != 0).sum())
        if rows.is_empty() or (fresh.is_empty() and others.height == before.height):
            return JudgedDays(unit.before)
        file = write_file(store, ANOMALIES, rows, partition=unit.partition, name=unit.name)
        return JudgedDays((file,), fresh.height, anomalies)

    return work


def judged_rows(
    meters: Sequence[str],
    days: MeterDays,
    unit: Judging,
    band: Band,
    model: str,
    settings: MlSettings,
) -> pl.DataFrame:
    """The rows of the unit's dates that are complete and have enough days before them."""
    types = polars_schema(ANOMALIES)
    schema = {c.name: types[c.name] for c in ANOMALIES.file_columns}
    if not meters:
        return pl.DataFrame(schema=schema)
    found = judge(days, band, day_off_of(settings))
    judged = unit.window[HISTORY:]
    wanted = np.array([day.date in unit.dates for day in judged])
    actual = days.energy[:, HISTORY:]
    row, column = np.nonzero(np.isfinite(actual) & np.isfinite(found.upper) & wanted)
    kinds = pl.Series([*KINDS, None], dtype=pl.String)

    def rounded(values: Floats) -> pl.Series:
        return pl.Series(values[row, column].astype(np.float64)).round(_DIGITS)

    return pl.DataFrame(
        {
            "meter_id": pl.Series(list(meters), dtype=pl.String).gather(row),
            "ds": pl.Series([d.date for d in judged], dtype=pl.Date).gather(column),
            "day_start": pl.Series(
                [d.start for d in judged], dtype=pl.Datetime("us", "UTC")
            ).gather(column),
            "consumption": rounded(actual),
            "yhat": rounded(found.expected),
            "yhat_lower": rounded(found.lower),
            "yhat_upper": rounded(found.upper),
            "anomaly": found.anomaly[row, column].astype(np.int64),
            "importance": rounded(found.importance),
            "kind": kinds.gather(found.kind[row, column] % len(kinds)),
            "model": pl.Series([model], dtype=pl.String).gather(np.zeros_like(row)),
        },
        schema=schema,
    )


def _is_of(file: DataFile, dates: Sequence[date]) -> bool:
    is_in = first_date(dates[0], "month") <= month_of(file) <= dates[-1]
    return file.partition["reading_type"] == READING_TYPE and is_in
