"""Readings to hours, against a plain oracle that goes reading by reading."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from support import ml
from support.energy_oracle import apart
from support.ml import wall

from meterlake.delta.store import open_store
from meterlake.engine.local import LocalEngine
from meterlake.forecast.series import hourly, read_series
from meterlake.ingest import intake
from meterlake.integrate import derivations
from meterlake.periods import LocalHours
from meterlake.pipeline.derivation import Session
from meterlake.readings.energy import without_overlap
from meterlake.readings.layout import LiveLayout

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)

CHANGES = {
    "Europe/London": ("2024-03-31", "2024-10-27"),
    "Australia/Lord_Howe": ("2024-04-07", "2024-10-06"),  # by half an hour
    "Asia/Kathmandu": ("2024-05-05",),  # never; +5:45
}
PLACES = [(zone, date) for zone, dates in CHANGES.items() for date in dates]

Read = tuple[datetime, float, int]
"""Start, mean power and length of the interval [min]."""


def oracle(reads: Sequence[Read], hours: LocalHours) -> list[float]:
    """Mean power of each local hour, NaN where a minute of it is not covered; minute by minute."""
    zone = ZoneInfo(hours.zone)

    def hour_of(at: datetime) -> datetime:
        return at.astimezone(zone).replace(minute=0, second=0, microsecond=0, tzinfo=None)

    minutes: dict[datetime, list[float]] = {}
    for at, kw, seconds in apart([(at, kw, 60 * length) for at, kw, length in reads]):
        if seconds is None or seconds > 3600:  # of more than an hour nobody knows which one
            continue
        for minute in range(seconds // 60):
            minutes.setdefault(hour_of(at + minute * MINUTE), []).append(kw)
    first = hours.first.replace(tzinfo=zone).astimezone(UTC) - 4 * HOUR
    real = Counter(hour_of(first + n * MINUTE) for n in range((hours.count + 8) * 60))
    found = []
    for number in range(hours.count):
        hour = hours.first + number * HOUR
        there = minutes.get(hour, [])
        whole = real[hour] > 0 and len(there) == real[hour]
        found.append(sum(there) / len(there) if whole else math.nan)
    return found


def frame(meters: dict[str, Sequence[Read]]) -> pl.DataFrame:
    rows = [
        (meter, at, kw, 60 * length)
        for meter in sorted(meters)
        for at, kw, length in sorted(meters[meter])
    ]
    found = pl.DataFrame(
        rows,
        schema={
            "meter_id": pl.String,
            "reading_date_time": pl.Datetime("us", "UTC"),
            "reading_value": pl.Float64,
            "interval_seconds": pl.Int64,
        },
        orient="row",
    )
    return without_overlap(found.with_columns(pl.lit("raw").alias("status")))


def check(meters: dict[str, Sequence[Read]], hours: LocalHours) -> None:
    series = hourly(frame(meters), hours)
    assert series.meters == tuple(sorted(meter for meter, reads in meters.items() if reads))
    for meter, found in zip(series.meters, series.energy, strict=True):
        expected = np.array(oracle(meters[meter], hours), np.float32)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6, err_msg=meter)


@st.composite
def reads_of(draw: st.DrawFn, around: datetime) -> list[Read]:
    """Days of a meter, each with its interval, off the grid perhaps; gaps, one time once."""
    found: dict[datetime, tuple[float, int]] = {}
    at = around - DAY + draw(st.sampled_from([0, 0, 5, 20, 37, 45])) * MINUTE
    random = np.random.default_rng(draw(st.integers(0, 1000)))
    for _ in range(3):
        length = draw(st.sampled_from([5, 15, 30, 60, 60, 120]))
        end = at + DAY
        while at < end:
            found[at] = round(float(random.uniform(-3, 9)), 3), length
            at += length * MINUTE
    times = sorted(found)
    for _ in range(draw(st.integers(0, 3))):
        gap = draw(st.integers(0, len(times) - 1))
        for time in times[gap : gap + draw(st.integers(1, 12))]:
            found.pop(time, None)
    for _ in range(draw(st.integers(0, 2))):  # one that comes in between
        found[times[draw(st.integers(0, len(times) - 1))] + 3 * MINUTE] = 1.0, 15
    return sorted((at, kw, length) for at, (kw, length) in found.items())


@pytest.mark.parametrize(("zone", "date"), PLACES)
@given(data=st.data())
@settings(max_examples=12, phases=[Phase.explicit, Phase.generate])
def test_the_energy_of_every_local_hour_is_that_of_the_oracle(
    zone: str, date: str, data: st.DataObject
) -> None:
    around = datetime.fromisoformat(date).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    first = datetime.fromisoformat(date) - timedelta(hours=data.draw(st.integers(-3, 20)))
    hours = LocalHours(zone, first, data.draw(st.integers(1, 60)))
    check({name: data.draw(reads_of(around)) for name in ("a", "b")}, hours)


@pytest.mark.parametrize(("zone", "date"), PLACES)
@pytest.mark.parametrize("minute", [0, 20, 45])
def test_an_hour_long_interval_is_shared_out_where_the_clock_is_changed(
    zone: str, date: str, minute: int
) -> None:
    around = datetime.fromisoformat(date).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    reads = [(around - DAY + h * HOUR + minute * MINUTE, 1.0 + h, 60) for h in range(72)]
    check({"a": reads}, LocalHours(zone, datetime.fromisoformat(date), 24))


def test_an_incomplete_hour_is_not_known_and_a_gap_closes_nothing_up() -> None:
    start = datetime(2024, 5, 1, tzinfo=UTC)
    reads = [(start + n * 15 * MINUTE, 2.0, 15) for n in range(96) if n not in (9, *range(20, 24))]
    series = hourly(frame({"a": reads}), LocalHours("UTC", wall(2024, 5, 1), 26))
    assert np.flatnonzero(np.isnan(series.energy[0])).tolist() == [2, 5, 24, 25]
    assert set(series.energy[0][~np.isnan(series.energy[0])].tolist()) == {2.0}


def test_export_is_negative_energy() -> None:
    start = datetime(2024, 5, 1, tzinfo=UTC)
    reads = [(start + n * 30 * MINUTE, -1.0 if n % 2 else -3.0, 30) for n in range(48)]
    series = hourly(frame({"a": reads}), LocalHours("UTC", wall(2024, 5, 1), 24))
    assert set(series.energy[0].tolist()) == {-2.0}


@pytest.mark.parametrize("days", [(5, 60, 30), (60, 5, 15), (30, 15, 60)])
def test_a_meter_may_change_its_interval_from_one_day_to_the_next(days: tuple[int, ...]) -> None:
    start = datetime(2024, 5, 1, tzinfo=UTC)
    reads = [
        (start + number * DAY + n * minutes * MINUTE, float(number + n % 7), minutes)
        for number, minutes in enumerate(days)
        for n in range(1440 // minutes)
    ]
    hours = LocalHours("UTC", wall(2024, 5, 1), 72)
    assert not np.isnan(hourly(frame({"a": reads}), hours).energy).any()
    check({"a": reads, "b": [(at, -kw, m) for at, kw, m in reads[: len(reads) // 2]]}, hours)


@example(meters=1)
@example(meters=3)
@given(meters=st.integers(1, 5))
@settings(max_examples=3)
def test_of_a_reading_of_less_than_an_hour_the_hour_is_not_known(meters: int) -> None:
    at = datetime(2024, 5, 1, tzinfo=UTC)
    hours = LocalHours("UTC", wall(2024, 5, 1), 24)
    series = hourly(frame({f"m{n}": [(at, 1.0, 15)] for n in range(meters)}), hours)
    assert len(series.meters) == meters and np.isnan(series.energy).all()


def test_no_readings_are_no_meters() -> None:
    hours = LocalHours("UTC", wall(2024, 5, 1), 24)
    assert hourly(frame({}), hours).energy.shape == (0, 24)


@pytest.mark.parametrize("clustered", [False, True])
@pytest.mark.parametrize("zone", ["Asia/Kathmandu", "Australia/Lord_Howe", "Europe/London"])
def test_the_series_of_a_lake_are_those_of_its_readings(
    zone: str, clustered: bool, tmp_path: Path, deliver: Callable[..., Path]
) -> None:
    start, random = datetime(2024, 4, 30, tzinfo=UTC), np.random.default_rng(3)
    meters = {
        name: [
            (start + n * 30 * MINUTE, round(float(random.normal(1, 2)), 3), 30) for n in range(130)
        ]
        for name in ("b", "a", "c")
    }
    lines = [
        f"{at:%F %T},{at:%F %T},{meter},readings,,,,,{kw},"
        for meter, reads in meters.items()
        for at, kw, _ in reads
    ]
    store, engine = open_store(str(tmp_path / "lake")), LocalEngine(2)
    conf = ml.settings(zone).model_copy(update={"interval_minutes": 30.0})
    path = deliver("reads.csv", *lines)
    intake.ingest(Session(store, engine, conf, ml.NOW), [str(path)])
    derivations.integrate(Session(store, engine, conf, ml.NOW))
    if clustered:
        ml.bring_up(store, conf)
    hours = LocalHours(zone, wall(2024, 5, 1, 2), 40)
    pieces = LiveLayout(store).now().pieces("kw", hours.start(), hours.end())
    found = read_series(store, pieces, hours)
    assert found.meters == ("a", "b", "c")
    for meter, energy in zip(found.meters, found.energy, strict=True):
        there = [r for r in meters[meter] if hours.start() <= r[0] < hours.end()]
        np.testing.assert_allclose(energy, oracle(there, hours), rtol=1e-5, atol=1e-6)
