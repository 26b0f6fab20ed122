"""Energy per meter and local day, slowly and plainly; knows nothing of meterlake."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

HOUR = timedelta(hours=1)


def energy_by_day(
    reads: Iterable[tuple[str, datetime, float]], zone: str
) -> dict[tuple[str, date], dict[str, Any]]:
    """What the daily table says of (meter, time, mean kW) reads, by meter and date."""
    clock = ZoneInfo(zone)
    days = defaultdict(list)
    for meter, at, kw in reads:
        days[meter, at.astimezone(clock).date()].append((at.astimezone(UTC), kw))
    return {key: _energy(sorted(day), *_bounds(key[1], clock)) for key, day in days.items()}


def _bounds(day: date, clock: ZoneInfo) -> tuple[datetime, datetime]:
    start, end = (
        datetime.combine(d, time(), clock).astimezone(UTC) for d in (day, day + timedelta(days=1))
    )
    return start, end


def _energy(reads: list[tuple[datetime, float]], start: datetime, end: datetime) -> dict[str, Any]:
    times = [at for at, _ in reads]
    steps = Counter(b - a for a, b in pairwise(times))
    most = max(steps.values(), default=0)
    interval = min((step for step, n in steps.items() if n == most), default=None)
    slots = set()
    if interval is not None:
        at = times[0]
        while at >= start:
            at -= interval
        while (at := at + interval) < end:
            slots.add(at)
    covered = interval is not None and (
        times[0] - interval < start  # no earlier interval of its own fits into the day
        and all(b - a <= interval for a, b in pairwise(times))
        and times[-1] + interval >= end
    )
    if interval is None or (most < 3 and not covered):
        return {"energy_kwh": None, "intervals": len(reads), "is_complete": False, "hours": None}
    bought = sold = hours = 0.0
    for number, (at, kw) in enumerate(reads):
        until = min([at + interval, *times[number + 1 : number + 2]])
        length = (until - at) / HOUR
        hours += length
        bought += max(kw, 0.0) * length
        sold += max(-kw, 0.0) * length
    return {
        "energy_kwh": bought - sold,
        "import_kwh": bought,
        "export_kwh": sold,
        "intervals": len(reads),
        "intervals_expected": len(slots),
        "is_complete": covered,
        "interval_minutes": interval / timedelta(minutes=1),
        "hours": hours,
        "min_kw": min(kw for _, kw in reads),
        "max_kw": max(kw for _, kw in reads),
        "mean_kw": (bought - sold) / hours,
    }
