"""What a plan refuses, and that it says why."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from meterlake.errors import BadInput
from meterlake.simulate.readings import ReadingsPlan

START = datetime(2024, 1, 1, tzinfo=UTC)
GOOD: dict[str, Any] = {
    "devices": 1,
    "interval_minutes": 15,
    "start": START,
    "end": START + timedelta(days=1),
}


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"devices": 0}, "devices=0"),
        ({"interval_minutes": 0}, "interval_minutes=0"),
        ({"interval_minutes": -15}, "interval_minutes=-15"),
        ({"interval_minutes": 7}, "interval_minutes=7"),
        ({"start": START.replace(tzinfo=None)}, "found '2024-01-01 00:00:00'"),
        ({"end": START.replace(month=2, tzinfo=None)}, "found '2024-02-01 00:00:00'"),
        ({"start": START + timedelta(minutes=7)}, "00:07:00"),
        ({"start": START + timedelta(microseconds=1)}, "00:00:00.000001"),
        ({"end": START + timedelta(minutes=50)}, "00:50:00"),
        ({"end": START}, "an end after its start"),
        ({"end": START - timedelta(days=1)}, "an end after its start"),
        ({"file_every": timedelta(0)}, "file_every=0:00:00"),
        ({"file_every": timedelta(minutes=-15)}, "file_every=-1 day"),
        ({"file_every": timedelta(minutes=20)}, "file_every=0:20:00"),
        ({"min_load_kw": 0.0}, "min_load_kw=0.0"),
        ({"min_load_kw": 30.0}, "min_load_kw=30.0"),
        ({"max_load_kw": float("inf")}, "max_load_kw=inf"),
        ({"max_load_kw": float("nan")}, "max_load_kw=nan"),
        ({"region_voltage_v": 0.0}, "region_voltage_v=0.0"),
        ({"region_voltage_v": float("nan")}, "region_voltage_v=nan"),
        ({"late_percent": -1.0}, "late_percent=-1.0"),
        ({"late_percent": 100.5}, "late_percent=100.5"),
        ({"bad_percent": float("nan")}, "bad_percent=nan"),
        ({"late_minutes": -1}, "late_minutes=-1"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_what_cannot_be_simulated_is_refused_with_what_was_found(
    changes: dict[str, Any], found: str
) -> None:
    with pytest.raises(BadInput) as refusal:
        ReadingsPlan(**(GOOD | changes))
    assert found in str(refusal.value)
    assert str(refusal.value).startswith("A simulation needs ")
    assert ": " in str(refusal.value)


def test_another_zone_is_the_same_instant() -> None:
    there = START.astimezone(timezone(timedelta(hours=5, minutes=30)))
    moved = ReadingsPlan(**(GOOD | {"start": there}))
    assert moved.start_minute == ReadingsPlan(**GOOD).start_minute
    assert moved.steps == 96
