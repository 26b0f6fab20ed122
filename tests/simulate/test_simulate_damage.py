"""Damage: as much as was asked for, and none that could be read as good."""

import csv
import gzip
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterlake.simulate.damage import damage
from meterlake.simulate.readings import ReadingsPlan, simulate_readings

START = datetime(2024, 1, 1, tzinfo=UTC)
GOOD = (
    "2024-01-01 00:15:00.0000000,2024-01-01 00:15:42.1234560,"
    "0fb26833-a9c2-3115-ad21-a082e21213f3,readings,1.0,1.0,0.9,0.2,0.2,220.1"
)


def fault_of(fields: list[str]) -> str:
    """Say what keeps a row from being good; a plain parser that trusts nothing."""
    if len(fields) != 10:
        return "fields"
    for text in fields[:2]:
        try:
            datetime.strptime(f"{text[:26]}Z", "%Y-%m-%d %H:%M:%S.%f%z")
        except ValueError:
            return "time"
    if not fields[2]:
        return "device"
    for text in fields[4:]:
        try:
            value = float(text)
        except ValueError:
            return "value"
        if not math.isfinite(value):
            return "not a number"
    return ""


@given(st.integers(0, 2**31 - 1))
def test_no_damaged_line_can_be_read_as_good(dice: int) -> None:
    damaged = damage(GOOD, dice)
    assert fault_of(GOOD.split(",")) == ""
    assert fault_of(damaged.split(",")) != ""


@given(st.integers(0, 2**31 - 1))
def test_damage_empties_no_value_and_leaves_one_plain_line(dice: int) -> None:
    fields = damage(GOOD, dice).split(",")
    assert "" not in fields[4:]
    assert fields[0]
    assert not set("\"\n\r'") & set(",".join(fields))


@pytest.mark.parametrize("bad_percent", [3.0, 100.0])
def test_the_asked_share_of_rows_is_damaged_and_counted(tmp_path: Path, bad_percent: float) -> None:
    plan = ReadingsPlan(
        devices=200,
        interval_minutes=30,
        start=START,
        end=START + timedelta(days=1),
        late_percent=10,
        bad_percent=bad_percent,
    )
    done = simulate_readings(plan, tmp_path)
    faults = []
    for file in done.files:
        with gzip.open(file.path, "rt", encoding="ascii", newline="") as text:
            faults += [fault_of(fields) for fields in list(csv.reader(text))[1:]]
    assert len(faults) == done.rows == 200 * 48
    assert len(faults) - faults.count("") == done.bad_rows
    # Four standard deviations of a draw for each row.
    share = bad_percent / 100
    spread = math.sqrt(share * (1 - share) * len(faults))
    assert abs(done.bad_rows - share * len(faults)) <= 4 * spread
    assert set(faults) - {""} == {"fields", "time", "device", "value", "not a number"}


def test_rows_that_are_not_damaged_stay_as_they_were(tmp_path: Path) -> None:
    def lines(bad_percent: float) -> list[bytes]:
        plan = ReadingsPlan(
            devices=100,
            interval_minutes=60,
            start=START,
            end=START + timedelta(days=1),
            bad_percent=bad_percent,
        )
        done = simulate_readings(plan, tmp_path / f"{bad_percent}")
        return gzip.decompress(done.files[0].path.read_bytes()).splitlines()

    clean, damaged = lines(0.0), lines(10.0)
    same = [one == other for one, other in zip(clean, damaged, strict=True)]
    assert 0.8 < sum(same) / len(same) < 1
    good = [fault_of(line.decode().split(",")) == "" for line in damaged[1:]]
    assert good == same[1:]
