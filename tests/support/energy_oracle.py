"""Energy per meter and local day, slowly and plainly; knows nothing of meterlake."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

HOUR = timedelta(hours=1)

Read = tuple[str, datetime, float, int | None]
"""Meter, start, mean kW, and length of the interval [s]; None: not known."""


def energy_by_day(reads: Iterable[Read], zone: str) -> dict[tuple[str, date], dict[str, Any]]:
    """What the daily table says of reads whose lengths are stated, by meter and date."""
    clock = ZoneInfo(zone)
    days = defaultdict(list)
    for meter, at, kw, seconds in reads:
        day = at.astimezone(clock).date()
        start, end = _bounds(day, clock)
        until = at if seconds is None else at + timedelta(seconds=seconds)
        if start <= at and until <= end:
            days[meter, day].append((at.astimezone(UTC), kw, seconds))
    return {key: _energy(apart(day), *_bounds(key[1], clock)) for key, day in days.items()}


def _bounds(day: date, clock: ZoneInfo) -> tuple[datetime, datetime]:
    start, end = (
        datetime.combine(d, time(), clock).astimezone(UTC) for d in (day, day + timedelta(days=1))
    )
    return start, end


def apart(
    reads: list[tuple[datetime, float, int | None]],
) -> list[tuple[datetime, float, int | None]]:
    """Of reads that cover the same moment the shorter, then the earlier."""
    kept: list[tuple[datetime, float, int | None]] = []
    for at, kw, seconds in sorted(reads, key=lambda r: (r[2] or 0, r[0])):
        until = at + timedelta(seconds=seconds or 0)
        if all(until <= a or at >= a + timedelta(seconds=s or 0) for a, _, s in kept):
            kept.append((at, kw, seconds))
    return kept


def _energy(
    reads: list[tuple[datetime, float, int | None]], start: datetime, end: datetime
) -> dict[str, Any]:
    lengths = Counter(seconds for _, _, seconds in reads if seconds is not None)
    if not lengths:
        return {"energy_kwh": None, "intervals": len(reads), "is_complete": False, "hours": None}
    most = max(lengths.values())
    interval = min(seconds for seconds, n in lengths.items() if n == most)
    bought = sold = hours = 0.0
    for _, kw, seconds in reads:
        hours += (seconds or 0) / 3600
        bought += max(kw, 0.0) * (seconds or 0) / 3600
        sold += max(-kw, 0.0) * (seconds or 0) / 3600
    missing = (end - start) / timedelta(seconds=1) - hours * 3600
    return {
        "energy_kwh": bought - sold,
        "import_kwh": bought,
        "export_kwh": sold,
        "intervals": len(reads),
        "intervals_expected": len(reads) + round(missing / interval),
        "is_complete": abs(missing) < 0.5 and None not in {s for *_, s in reads},
        "interval_minutes": interval / 60,
        "hours": hours,
        "min_kw": min(kw for _, kw, _ in reads),
        "max_kw": max(kw for _, kw, _ in reads),
        "mean_kw": (bought - sold) / hours,
    }
