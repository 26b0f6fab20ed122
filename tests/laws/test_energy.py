"""Energy is power times time: in days of 23, 24 and 25 hours, with gaps, for any interval."""

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.energy_oracle import Read, energy_by_day

from meterlake.periods import periods
from meterlake.readings.energy import daily_energy, period_energy
from meterlake.schema import POLARS_TYPES

ZONES = ["UTC", "Europe/London", "Australia/Lord_Howe", "America/Havana", "Asia/Kathmandu"]
SCHEMA = {
    "meter_id": pl.String(),
    "reading_date_time": POLARS_TYPES["timestamp"],
    "reading_value": pl.Float64(),
    "interval_seconds": pl.Int64(),
}
# Days of 2024 around which the clocks of these zones change, from January 1st.
CHANGES = [69, 90, 97, 279, 300, 307]


def energies(reads: Sequence[Read], zone: str, source: str = "profile") -> pl.DataFrame:
    frame = pl.DataFrame(reads, schema=SCHEMA, orient="row").sort("meter_id", "reading_date_time")
    times = [at for _, at, _, _ in reads]
    known = pl.col("interval_seconds").is_not_null()
    frame = frame.with_columns(
        pl.when(known).then(pl.lit(source)).otherwise(pl.lit("unknown")).alias("length_source"),
        pl.lit("raw").alias("status"),
    )
    return daily_energy(frame, periods(zone, "day", min(times), max(times) + timedelta(seconds=1)))


@dataclass(frozen=True)
class Meter:
    """Three days of a meter: interval and offset [min], share lost, stray reads, chance's seed."""

    minutes: int
    offset: int
    lost: float
    stray: int
    seed: int

    def reads(self, name: str, start: datetime) -> list[Read]:
        chance = random.Random(self.seed)
        reads = {}
        for step in range(3 * 24 * 60 // self.minutes):
            if chance.random() >= self.lost:
                at = start + timedelta(minutes=self.offset + step * self.minutes)
                reads[at] = round(chance.uniform(-3, 5), 3)
        for _ in range(self.stray):
            reads[start + timedelta(seconds=chance.randrange(3 * 86400))] = 1.0
        return [(name, at, kw, 60 * self.minutes) for at, kw in reads.items()]


meters = st.builds(
    Meter,
    minutes=st.sampled_from([5, 15, 30, 60, 360, 720]),
    offset=st.sampled_from([0, 0, 1, 7]),
    lost=st.sampled_from([0.0, 0.0, 0.05, 0.6]),
    stray=st.sampled_from([0, 0, 2]),
    seed=st.integers(0, 9999),
)


@given(
    fleet=st.lists(meters, min_size=1, max_size=3),
    day=st.sampled_from(CHANGES),
    zone=st.sampled_from(ZONES),
)
def test_a_day_has_the_energy_that_plain_arithmetic_gives(
    fleet: list[Meter], day: int, zone: str
) -> None:
    start = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=day - 1)
    reads = [read for n, meter in enumerate(fleet) for read in meter.reads(f"m{n}", start)]
    found = {(row["meter_id"], row["date"]): row for row in energies(reads, zone).to_dicts()}
    found = {key: row for key, row in found.items() if row["intervals"] > 0}
    wanted = energy_by_day(reads, zone)
    assert found.keys() == wanted.keys()
    for key, row in wanted.items():
        assert {name: found[key][name] for name in row} == pytest.approx(row), key


def regular(minutes: int, kw: float, day: date, zone: str, *, days: int = 1) -> list[Read]:
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    spans = periods(zone, "day", noon, noon + timedelta(days=days - 1, seconds=1))
    at, reads = spans[0].start, list[Read]()
    while at < spans[-1].end:
        reads.append(("m", at, kw, 60 * minutes))
        at += timedelta(minutes=minutes)
    return reads


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/London", date(2024, 3, 31), 23.0),
        ("Europe/London", date(2024, 10, 27), 25.0),
        ("Europe/London", date(2024, 6, 1), 24.0),
        ("Australia/Lord_Howe", date(2024, 4, 7), 24.5),
        ("Australia/Lord_Howe", date(2024, 10, 6), 23.5),
        ("America/Havana", date(2024, 3, 10), 23.0),  # its midnight does not exist
    ],
)
@pytest.mark.parametrize("minutes", [5, 15, 30])
def test_a_constant_load_has_the_energy_of_the_days_true_length(
    zone: str, day: date, hours: float, minutes: int
) -> None:
    (row,) = energies(regular(minutes, 2.0, day, zone), zone).to_dicts()
    assert (row["date"], row["hours"], row["is_complete"]) == (day, hours, True)
    assert row["energy_kwh"] == row["import_kwh"] == pytest.approx(2.0 * hours)
    assert row["intervals"] == row["intervals_expected"] == hours * 60 / minutes
    assert row["mean_kw"] == pytest.approx(2.0)


def test_energy_is_the_same_whatever_the_intervals_it_is_told_in() -> None:
    day = date(2024, 10, 27)
    fine: list[Read] = [
        (meter, at, float(n % 7) - 2.0, seconds)
        for n, (meter, at, _, seconds) in enumerate(regular(5, 0.0, day, "Europe/London"))
    ]
    coarse: list[Read] = [
        ("m", fine[n][1], sum(kw for _, _, kw, _ in fine[n : n + 6]) / 6, 1800)
        for n in range(0, len(fine), 6)
    ]
    (of_fine,), (of_coarse,) = (energies(r, "Europe/London").to_dicts() for r in (fine, coarse))
    assert of_fine["energy_kwh"] == pytest.approx(of_coarse["energy_kwh"])
    assert (of_fine["interval_minutes"], of_coarse["interval_minutes"]) == (5.0, 30.0)


def test_export_is_kept_apart_from_import() -> None:
    reads = regular(60, 0.0, date(2024, 6, 1), "UTC")
    reads = [(m, at, 3.0 if at.hour < 6 else -1.0, s) for m, at, _, s in reads]
    (row,) = energies(reads, "UTC").to_dicts()
    assert (row["import_kwh"], row["export_kwh"], row["energy_kwh"]) == (18.0, 18.0, 0.0)
    assert (row["min_kw"], row["max_kw"], row["mean_kw"]) == (-1.0, 3.0, 0.0)


def test_a_gap_is_no_zero_and_a_zero_no_gap() -> None:
    reads = regular(15, 0.0, date(2024, 6, 1), "UTC")
    (zeros,) = energies(reads, "UTC").to_dicts()
    assert (zeros["energy_kwh"], zeros["intervals"], zeros["is_complete"]) == (0.0, 96, True)
    (gap,) = energies([(m, at, 4.0, s) for m, at, _, s in reads if at.hour != 7], "UTC").to_dicts()
    assert (gap["energy_kwh"], gap["hours"], gap["mean_kw"]) == (92.0, 23.0, 4.0)
    assert (gap["intervals"], gap["intervals_expected"], gap["is_complete"]) == (92, 96, False)


@pytest.mark.parametrize("times", [[3], [3, 8], [3, 8, 13]], ids=str)
def test_the_length_of_an_interval_is_not_guessed(times: list[int]) -> None:
    reads = [("m", datetime(2024, 6, 1, hour, tzinfo=UTC), 2.0, None) for hour in times]
    (row,) = energies(reads, "UTC").to_dicts()
    assert (row["energy_kwh"], row["intervals_expected"], row["hours"]) == (None, None, None)
    assert (row["intervals"], row["is_complete"], row["mean_kw"]) == (len(times), False, 2.0)
    month = period_energy(
        energies(reads, "UTC"),
        periods("UTC", "month", reads[0][1], reads[0][1] + timedelta(hours=1)),
    )
    assert (month["energy_kwh"].item(), month["is_complete"].item()) == (None, False)


def test_of_every_second_reading_half_the_energy_is_there() -> None:
    (half,) = energies(regular(15, 1.0, date(2024, 6, 1), "UTC")[::2], "UTC").to_dicts()
    assert (half["energy_kwh"], half["intervals"], half["intervals_expected"]) == (12.0, 48, 96)
    assert (half["is_complete"], half["hours"]) == (False, 12.0)


def test_with_an_inferred_length_no_day_is_complete() -> None:
    reads = regular(15, 1.0, date(2024, 6, 1), "UTC")
    (row,) = energies(reads, "UTC", "inferred").to_dicts()
    assert (row["energy_kwh"], row["intervals"], row["is_complete"]) == (24.0, 96, False)


@given(
    lengths=st.lists(st.sampled_from([300, 900, 1800, 3600, 7200, 21600]), min_size=1, max_size=40),
    split=st.integers(1, 5),
)
def test_splitting_an_interval_conserves_its_energy(lengths: list[int], split: int) -> None:
    at, whole, parts = datetime(2024, 6, 1, tzinfo=UTC), list[Read](), list[Read]()
    for number, seconds in enumerate(lengths):
        if at + timedelta(seconds=seconds) > datetime(2024, 6, 2, tzinfo=UTC):
            break
        kw, part = float(number % 5) - 1.0, seconds // split
        whole.append(("m", at, kw, part * split))
        parts += [("m", at + timedelta(seconds=n * part), kw, part) for n in range(split)]
        at += timedelta(seconds=seconds)
    (one,), (many,) = (energies(reads, "UTC").to_dicts() for reads in (whole, parts))
    for name in ("energy_kwh", "import_kwh", "export_kwh", "hours", "is_complete"):
        assert many[name] == pytest.approx(one[name])


@pytest.mark.parametrize("first", ["hours", "quarters"])
def test_no_moment_counts_twice_where_deliveries_overlap(first: str) -> None:
    """Hourly reads redelivered over quarter-hours, and the other way round: the later stand."""
    day = date(2024, 6, 1)
    hours, quarters = regular(60, 2.0, day, "UTC"), regular(15, 5.0, day, "UTC")
    early, late = (hours, quarters) if first == "hours" else (quarters, hours)
    stands = {(m, at): (m, at, kw, s) for m, at, kw, s in [*early, *late]}
    arrived = {**{r[1]: 1 for r in early}, **{r[1]: 2 for r in late}}
    frame = pl.DataFrame(list(stands.values()), schema=SCHEMA, orient="row").with_columns(
        pl.lit("profile").alias("length_source"), pl.lit("raw").alias("status")
    )

    def arrivals(meters: list[str]) -> pl.DataFrame:
        assert meters == ["m"]
        at = pl.col("reading_date_time").replace_strict(arrived)
        moment = (datetime(2024, 6, 2, tzinfo=UTC) + at * timedelta(hours=1)).alias("arrival_time")
        return frame.select("meter_id", "reading_date_time", moment)

    (row,) = daily_energy(
        frame.sort("reading_date_time"), periods("UTC", "day", early[0][1], early[-1][1]), arrivals
    ).to_dicts()
    wanted = 24 * (5.0 if first == "hours" else 2.0)
    assert (row["energy_kwh"], row["hours"], row["is_complete"]) == (wanted, 24.0, True)


def test_a_month_is_complete_where_all_its_days_are_there_and_complete() -> None:
    zone, first = "Europe/London", date(2024, 3, 1)
    reads = regular(30, 1.0, first, zone, days=31)
    month = periods(zone, "month", reads[0][1], reads[0][1] + timedelta(hours=1))
    (whole,) = period_energy(energies(reads, zone), month).to_dicts()
    assert (whole["date"], whole["energy_kwh"]) == (first, pytest.approx(31 * 24 - 1.0))
    assert (whole["is_complete"], whole["intervals"]) == (True, whole["intervals_expected"])
    assert whole["hours"] == 31 * 24 - 1
    for lost in (range(96, 144), [500], range(1400, len(reads))):
        some = [r for n, r in enumerate(reads) if n not in set(lost)]
        (rest,) = period_energy(energies(some, zone), month).to_dicts()
        assert (rest["is_complete"], rest["intervals"]) == (False, len(some))
        assert rest["intervals_expected"] == whole["intervals_expected"]
        assert rest["energy_kwh"] == pytest.approx(len(some) / 2)


def test_weeks_begin_on_monday_and_follow_the_iso_calendar() -> None:
    reads = regular(60, 1.0, date(2024, 12, 28), "UTC", days=5)
    weeks = periods("UTC", "week", reads[0][1], reads[-1][1])
    found = period_energy(energies(reads, "UTC"), weeks)
    assert found.select("date", "energy_kwh").rows() == [
        (date(2024, 12, 23), 48.0), (date(2024, 12, 30), 72.0),
    ]  # fmt: skip


@pytest.mark.parametrize("by", ["day", "week", "month"])
@pytest.mark.parametrize("zone", [*ZONES, "Pacific/Apia", "Africa/Cairo"])
def test_the_periods_of_a_zone_leave_no_moment_out(zone: str, by: str) -> None:
    start, end = datetime(2010, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)
    found = periods(zone, by, start, end)  # type: ignore[arg-type]
    assert found[0].start <= start < found[0].end
    assert found[-1].start < end <= found[-1].end
    for one, following in itertools.pairwise(found):
        assert one.start < one.end == following.start
        assert one.date < following.date
