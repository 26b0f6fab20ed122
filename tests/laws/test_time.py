"""A reading's time is never guessed: wall clock to UTC is exact in every zone, or refused.

The oracle is the standard library: a wall clock's time means each instant that shows it, found
by trying both folds and going back. The rules are those of the package tzdata, as this machine's
may be older or newer. Stamps that mean two instants are decided only where both are there.
"""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from functools import cache
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from meterlake.delta.store import open_store
from meterlake.engine.local import LocalEngine
from meterlake.errors import BadInput
from meterlake.formats.cells import type_rows
from meterlake.formats.profile import read_profile
from meterlake.ingest import intake
from meterlake.integrate import derivations
from meterlake.pipeline.derivation import Session
from meterlake.questions.sql import query
from meterlake.settings import load_settings

TZDATA = resources.files("tzdata")
ALL_ZONES = TZDATA.joinpath("zones").read_text().split()
ODD_ZONES = [
    "Europe/London", "Europe/Berlin", "Europe/Dublin", "America/New_York", "America/Vancouver",
    "America/St_Johns", "America/Sao_Paulo", "America/Nuuk", "Australia/Lord_Howe",
    "Australia/Sydney", "Pacific/Apia", "Africa/Casablanca", "Africa/Monrovia", "Asia/Kathmandu",
    "Asia/Tehran", "Antarctica/Troll",
]  # fmt: skip
FIXED_ZONES = ["+10:00", "-03:30", "+05:45", "+00:00", "-11:00"]
# Zones whose clocks are put forward by as much as they were put back.
SUMMER_ZONES = [
    "Australia/Sydney", "Australia/Lord_Howe", "Europe/London", "America/St_Johns",
    "America/Sao_Paulo", "America/New_York",
]  # fmt: skip

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
UNDECIDED = "does not exist in {}, or twice and the file does not say which"
NO_TIME, OUTSIDE = "t is not a valid time: ", "t is outside 1970 to 2099: "


# --- the oracle


@cache
def clock(zone: str) -> tzinfo:
    if zone[0] in "+-":
        sign = -1 if zone[0] == "-" else 1
        return timezone(sign * timedelta(hours=int(zone[1:3]), minutes=int(zone[4:])))
    with TZDATA.joinpath("zoneinfo", *zone.split("/")).open("rb") as file:
        return ZoneInfo.from_file(file, key=zone)


def shown(zone: str, moment: datetime) -> datetime:
    """What the zone's clock shows at a moment."""
    return moment.astimezone(clock(zone)).replace(tzinfo=None, fold=0)


def meant(zone: str, wall: datetime) -> list[datetime]:
    """The instants at which the zone's clock shows a time, in order: none, one or two."""
    both = {wall.replace(tzinfo=clock(zone), fold=fold).astimezone(UTC) for fold in (0, 1)}
    return sorted(moment for moment in both if shown(zone, moment) == wall)


def offset(zone: str, moment: datetime) -> timedelta:
    return shown(zone, moment) - moment.replace(tzinfo=None)


@cache
def changes(zone: str) -> list[datetime]:
    """The minutes in which the zone's offset changes, 1970 to 2099."""
    found, step = [], 5 * DAY
    moment = datetime(1970, 1, 4, tzinfo=UTC)
    before = offset(zone, moment)
    while moment.year < 2099:
        after = offset(zone, moment + step)
        if after != before:
            low, high = moment, moment + step
            while high - low > MINUTE:
                middle = low + (high - low) // MINUTE // 2 * MINUTE
                low, high = (middle, high) if offset(zone, middle) == before else (low, middle)
            found.append(high)
        moment, before = moment + step, after
    return found


# --- what is asked


def said(
    stamps: Sequence[Any] | pl.Series,
    zone: str,
    *,
    meters: Sequence[str] | None = None,
    default_zone: str = "UTC",
    head: str = "",
    time: str = "",
    **columns: Sequence[Any],
) -> list[tuple[datetime | None, str | None]]:
    """Each row's time, or why it has none."""
    named = f'zone = "{zone}"' if zone else ""
    profile = read_profile(
        f'name = "p"\nmeter = "m"\n{head}\n[time]\ncolumn = "t"\n{named}\n{time}\n'
        '[values]\nv = { type = "kw", unit = "kW" }\n',
        origin="test",
    )
    cells = pl.DataFrame(
        {
            "t": stamps,
            "m": meters or ["m1"] * len(stamps),
            "v": [1.0] * len(stamps),
            "source_row": range(2, len(stamps) + 2),
            **columns,
        }
    )
    typed = type_rows(cells, profile, default_zone=default_zone)
    assert typed["source_row"].to_list() == cells["source_row"].to_list()  # no row is lost
    times = typed["reading_date_time"].dt.replace_time_zone(None)
    return [
        (time.replace(tzinfo=UTC) if why is None else None, why)
        for time, why in zip(times, typed["reason"], strict=True)
    ]


def iso(wall: datetime, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    return wall.strftime(form)


any_zone = st.one_of(
    st.sampled_from(ODD_ZONES),
    st.sampled_from(ODD_ZONES),
    st.sampled_from(ODD_ZONES),
    st.sampled_from(ALL_ZONES),
    st.sampled_from(FIXED_ZONES),
)
any_day = st.integers(0, 129 * 365).map(lambda n: datetime(1970, 1, 8, tzinfo=UTC) + n * DAY)


@st.composite
def zone_and_moment(draw: st.DrawFn) -> tuple[str, datetime]:
    """A zone and a moment, mostly on a day on which its clock changes or the days around it."""
    zone = draw(any_zone)
    known = changes(zone)
    is_change = draw(st.integers(0, 4)) > 0
    if known and is_change:
        moment: datetime = draw(st.sampled_from(known))
        return zone, moment + draw(st.integers(-1, 1)) * DAY
    return zone, draw(any_day)


@st.composite
def change(draw: st.DrawFn) -> tuple[str, datetime]:
    """A zone and a moment at which its offset changes, by whole minutes."""
    zone = draw(any_zone)
    known = changes(zone)
    assume(known)
    moment = draw(st.sampled_from(known))
    assume(all(not (offset(zone, t) % MINUTE) for t in (moment, moment - MINUTE)))
    return zone, moment


# --- the laws


@settings(max_examples=40)
@given(
    where=zone_and_moment(),
    minutes=st.sampled_from([5, 15, 30, 60]),
    stamps=st.sampled_from(["start", "end"]),
)
@example(("Pacific/Apia", datetime(2011, 12, 30, 10, tzinfo=UTC)), 30, "start")
@example(("Australia/Lord_Howe", datetime(2024, 4, 6, 15, tzinfo=UTC)), 60, "start")
@example(("America/Sao_Paulo", datetime(2018, 2, 18, 2, tzinfo=UTC)), 15, "end")
@example(("America/Vancouver", datetime(2026, 11, 1, 9, tzinfo=UTC)), 30, "start")
def test_intervals_stamped_by_the_clock_on_the_wall_are_at_their_instants(
    where: tuple[str, datetime], minutes: int, stamps: str
) -> None:
    zone, moment = where
    step = minutes * MINUTE
    # From a full hour by that clock, and so that the change comes at any place of the window.
    start = moment - DAY
    start -= shown(zone, start) - shown(zone, start).replace(minute=0, second=0)
    true = [start + i * step for i in range(36 * HOUR // step)]
    walls = [shown(zone, t + step if stamps == "end" else t) for t in true]
    times = Counter(walls)
    wanted = [
        t if times[wall] == len(meant(zone, wall)) else None
        for t, wall in zip(true, walls, strict=True)
    ]
    # Two meters' rows in turn: those of one are nothing to the other.
    found = said(
        [iso(wall) for wall in walls for _ in range(2)],
        zone,
        meters=["m1", "m2"] * len(walls),
        head=f"interval_minutes = {minutes}",
        time=f'stamps = "{stamps}"',
    )
    for meter in (0, 1):
        assert [time for time, _ in found[meter::2]] == wanted
    assert all(why is None or UNDECIDED.format(zone) in why for _, why in found)
    if None not in wanted:
        assert {b - a for a, b in pairwise(t for t, _ in found[::2] if t)} == {step}


@settings(max_examples=40)
@given(where=change(), part=st.integers(0, 999), copies=st.sampled_from([1, 1, 3]))
@example(("Pacific/Apia", datetime(2011, 12, 30, 10, tzinfo=UTC)), 500, 1)
@example(("America/St_Johns", datetime(2010, 3, 14, 3, 31, tzinfo=UTC)), 0, 1)
def test_a_stamp_that_is_skipped_or_stands_alone_in_a_repeated_hour_is_refused(
    where: tuple[str, datetime], part: int, copies: int
) -> None:
    zone, moment = where
    before, after = offset(zone, moment - MINUTE), offset(zone, moment)
    naive = moment.replace(tzinfo=None)
    low, high = naive + min(before, after), naive + max(before, after)
    second = timedelta(seconds=1)
    odd = low + part * (high - low) // 1000 // second * second
    assert len(meant(zone, odd)) == (0 if after > before else 2)
    refused = sorted({odd, low, high - second})
    found = said([iso(wall) for wall in refused for _ in range(copies)], zone)
    assert [time for time, _ in found] == [None] * len(found)
    for n, (_, why) in enumerate(found):
        assert f"t '{iso(refused[n // copies])}' {UNDECIDED.format(zone)}" == why
    around = [low - second, high]
    assert [[time] for time, _ in said([iso(wall) for wall in around], zone)] == [
        meant(zone, wall) for wall in around
    ]


@settings(max_examples=30)
@given(where=zone_and_moment(), minutes=st.integers(-840, 840), micro=st.integers(0, 999_999))
def test_a_stamp_that_says_its_offset_is_exact_whatever_the_zone(
    where: tuple[str, datetime], minutes: int, micro: int
) -> None:
    zone, moment = where
    moment += timedelta(microseconds=micro)
    local = moment.astimezone(timezone(minutes * MINUTE)).replace(tzinfo=None)
    sign, size = "-" if minutes < 0 else "+", abs(minutes)
    hours = f"{sign}{size // 60:02d}:{size % 60:02d}"
    digits = f".{micro:06d}7"
    stamps = [
        iso(moment) + digits + "Z",
        iso(local, "%Y-%m-%dT%H:%M:%S") + digits + hours,
        " " + iso(local) + digits + hours.replace(":", "") + " ",
    ]
    assert said(stamps, zone) == [(moment, None)] * 3
    whole = moment.replace(microsecond=0)
    form = 'format = "%d/%m/%Y %H:%M:%S %z"'
    assert said([f"{local:%d/%m/%Y %H:%M:%S} {hours}"], zone, time=form) == [(whole, None)]
    since_1970 = str(int(whole.timestamp()))
    assert said([since_1970], zone, time='format = "%s"') == [(whole, None)]
    assert said(pl.Series([moment]).dt.convert_time_zone("Asia/Tokyo"), zone) == [(moment, None)]


@settings(max_examples=30)
@given(
    zone=st.sampled_from(SUMMER_ZONES),
    number=st.integers(0, 10**6),
    minutes=st.sampled_from([5, 10, 15, 30]),
    chance=st.randoms(use_true_random=False),
    labelled=st.booleans(),
)
def test_an_hour_stamped_twice_on_summer_times_first_day_is_put_right(
    zone: str, number: int, minutes: int, chance: Any, labelled: bool
) -> None:
    skips = [t for t in changes(zone) if offset(zone, t) > offset(zone, t - MINUTE)]
    moment = skips[number % len(skips)]
    standard = offset(zone, moment - MINUTE)
    shift = offset(zone, moment) - standard
    assume(not standard % MINUTE and not shift % (minutes * MINUTE))
    size = abs(standard) // MINUTE
    fixed = f"{'-' if standard < timedelta(0) else '+'}{size // 60:02d}:{size % 60:02d}"
    true = [moment + i * minutes * MINUTE for i in range(-48, 49)]
    gap = shown(fixed, moment)
    walls = [shown(fixed, t) for t in true]
    if not labelled:
        walls = [w - shift if gap + shift <= w < gap + 2 * shift else w for w in walls]
    rows = list(zip(true, map(iso, walls), range(len(true)), strict=True))
    chance.shuffle(rows)  # the column says the order, not the file
    how = f'order = "o"\ndoubled_hour = "{zone}"'
    found = said([r[1] for r in rows], fixed, time=how, o=[r[2] for r in rows])
    assert found == [(r[0], None) for r in rows]
    # Without its twin a stamp could be either; where the next hour has its own it could not.
    lost = chance.randrange(shift // (minutes * MINUTE))
    kept = [r for r in rows if r[0] != moment + lost * minutes * MINUTE]
    found = said([r[1] for r in kept], fixed, time=how, o=[r[2] for r in kept])
    alone = moment + shift + lost * minutes * MINUTE
    wanted = [None if r[0] == alone and not labelled else r[0] for r in kept]
    assert [time for time, _ in found] == wanted
    # Once more than it can be is once too often.
    again = [*rows, next(r for r in rows if r[0] == moment)]
    found = said([r[1] for r in again], fixed, time=how, o=[r[2] for r in again])
    unclear = [time is None for time, _ in found]
    assert unclear == [r[1] == again[-1][1] for r in again]
    assert all(why is None or UNDECIDED.format(fixed) in why for _, why in found)


def test_rows_that_are_no_readings_make_no_pair() -> None:
    stamps = ["2024-10-27 01:30:00"] * 4 + ["2024-10-27 02:00:00"]
    require = 'require = { medium = "power" }'
    found = said(stamps[3:], "Europe/London", head=require, medium=["power", "power"])
    assert found[0][0] is None
    found = said(stamps[2:], "Europe/London", head=require, medium=["power", "gas", "power"])
    assert [time for time, _ in found[:2]] == [None, None]
    assert UNDECIDED.format("Europe/London") in str(found[0][1])
    found = said(
        stamps, "Europe/London", head=require, medium=["gas", "power", "power", "gas", "power"]
    )
    first = datetime(2024, 10, 27, 0, 30, tzinfo=UTC)
    assert [time for time, _ in found[:4]] == [None, first, first + HOUR, None]


def test_an_arrival_in_a_repeated_hour_is_the_earlier_and_in_a_skipped_one_refused() -> None:
    arrival = '[arrival]\ncolumn = "a"\nzone = "Europe/London"'
    profile = read_profile(
        f'name = "p"\nmeter = "m"\n[time]\ncolumn = "t"\n{arrival}\n'
        '[values]\nv = { type = "kw", unit = "kW" }\n',
        origin="test",
    )
    stamps = ["2024-10-27 01:30:00", "2024-03-31 01:30:00", "2024-07-01 01:30:00"]
    cells = pl.DataFrame(
        {"m": "m1", "t": "2024-01-01 00:00:00", "a": stamps, "v": 1.0, "source_row": [2, 3, 4]}
    )
    typed = type_rows(cells, profile, default_zone="UTC")
    assert typed["arrival_time"].dt.strftime("%d %H:%M").to_list() == ["27 00:30", None, "01 00:30"]
    assert typed["reason"].is_null().to_list() == [True, False, True]


@pytest.mark.parametrize(
    ("stamp", "wanted"),
    [
        ("2016-12-31T23:59:59", datetime(2016, 12, 31, 23, 59, 59)),  # noqa: DTZ001
        ("2016-12-31T23:59:60", NO_TIME),
        ("2016-12-31 23:59:60", NO_TIME),
        ("2016-12-31T23:59:60Z", NO_TIME),
        ("2016-12-31T23:59:60.0000000+00:00", NO_TIME),
        ("2017-01-01T00:00:00", datetime(2017, 1, 1)),  # noqa: DTZ001
        ("2015-06-30 23:59:59", datetime(2015, 6, 30, 23, 59, 59)),  # noqa: DTZ001
        ("2015-06-30 23:59:60", NO_TIME),
        ("2015-06-30 23:59:60.60", NO_TIME),
        ("2015-07-01 00:00:00", datetime(2015, 7, 1)),  # noqa: DTZ001
        ("2024-05-05 12:30:60", NO_TIME),
        ("2060-12-31 23:59:60", NO_TIME),
        ("2060-06-06 06:00:00.6060606", datetime(2060, 6, 6, 6, 0, 0, 606060)),  # noqa: DTZ001
        ("2024-05-05 12:60:00", NO_TIME),
        ("2024-02-29 00:00:00", datetime(2024, 2, 29)),  # noqa: DTZ001
        ("2000-02-29 00:00:00", datetime(2000, 2, 29)),  # noqa: DTZ001
        ("2023-02-29 00:00:00", NO_TIME),
        ("2100-02-29 00:00:00", NO_TIME),
        ("2100-01-01 00:00:00", OUTSIDE),
        ("2099-12-31 23:59:59.9999999", datetime(2099, 12, 31, 23, 59, 59, 999999)),  # noqa: DTZ001
        ("1970-01-01 00:00:00", datetime(1970, 1, 1)),  # noqa: DTZ001
        ("1969-12-31 23:59:59.9999999", OUTSIDE),
        ("0000-01-01 00:00:00", OUTSIDE),
        ("0001-01-01 00:00:00", OUTSIDE),
        ("9999-12-31 23:59:59", OUTSIDE),
        ("+262142-12-31 23:59:59", OUTSIDE),
        ("-262143-01-01 00:00:00", OUTSIDE),
        ("+200000-01-01 00:00:00Z", OUTSIDE),
        ("24-01-01 00:00:00", OUTSIDE),
        ("2024-01-01 24:00:00", NO_TIME),
        ("2024-01-01 25:00:00", NO_TIME),
        ("2024-01-01 00:00:00+24:00", NO_TIME),
        ("2024-01-01", NO_TIME),
        ("", NO_TIME),
        (None, NO_TIME),
        ("2024-01-01 00:00:00.1234567", datetime(2024, 1, 1, 0, 0, 0, 123456)),  # noqa: DTZ001
        ("2024-01-01 00:00:00.9999999", datetime(2024, 1, 1, 0, 0, 0, 999999)),  # noqa: DTZ001
        ("2024-01-01 00:00:00.5", datetime(2024, 1, 1, 0, 0, 0, 500000)),  # noqa: DTZ001
        ("2024-01-01 00:00:00.000000001", datetime(2024, 1, 1)),  # noqa: DTZ001
    ],
)
def test_the_calendars_edges_are_exact_or_refused(
    stamp: str | None, wanted: datetime | str
) -> None:
    # Beside a good row, and in several zones: one bad row costs no other.
    doubled = 'order = "o"\ndoubled_hour = "Australia/Sydney"'
    for zone, how in [("UTC", ""), ("GMT", doubled)]:
        found = said([stamp, "2024-07-01 00:00:00"], zone, time=how, o=[1, 2])
        assert found[1] == (datetime(2024, 7, 1, tzinfo=UTC), None)
        if isinstance(wanted, str):
            assert str(found[0][1]).startswith(wanted)
        else:
            assert found[0] == (wanted.replace(tzinfo=UTC), None)
    for zone in ("Pacific/Apia", "-11:00"):
        found = said([stamp, "2024-07-01 12:00:00Z"], zone)
        assert found[1][0] == datetime(2024, 7, 1, 12, tzinfo=UTC)
        if wanted == NO_TIME:
            assert str(found[0][1]).startswith(NO_TIME)


@pytest.mark.parametrize(
    ("form", "stamp", "wanted"),
    [
        ("%Y%m%d%H%M%S", "20161231235959", datetime(2016, 12, 31, 23, 59, 59)),  # noqa: DTZ001
        ("%Y%m%d%H%M%S", "20161231235960", None),
        ("%Y%m%d%H%M%S", "20240606060000", datetime(2024, 6, 6, 6)),  # noqa: DTZ001
        ("%Y%m%d%H%M%S", "20600606060060", None),
        ("%H:%M:%S %d.%m.%Y", "23:59:60 31.12.2060", None),
        ("%H:%M:%S %d.%m.%Y", "23:59:00 31.12.2060", datetime(2060, 12, 31, 23, 59)),  # noqa: DTZ001
        ("%d/%m/%Y %H:%M", "29/02/2023 00:00", None),
        ("%d/%m/%Y %H:%M", "29/02/2024 24:00", None),
        ("%s", "1704067260", datetime(2024, 1, 1, 0, 1)),  # noqa: DTZ001
        ("%Y-%m-%d %H:%M:%S.%f", "2024-01-01 00:00:00.5", datetime(2024, 1, 1, 0, 0, 0, 500000)),  # noqa: DTZ001
        ("%Y-%m-%d %I:%M %p", "2024-01-01 12:00 AM", datetime(2024, 1, 1)),  # noqa: DTZ001
    ],
)
def test_a_format_of_ones_own_has_the_same_edges(
    form: str, stamp: str, wanted: datetime | None
) -> None:
    ((time, why),) = said([stamp], "UTC", time=f'format = "{form}"')
    assert time == (wanted and wanted.replace(tzinfo=UTC))
    assert (why is None) == (wanted is not None)


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC"])
def test_typed_times_of_any_size_are_exact_or_refused(unit: Any, zone: str | None) -> None:
    good = pl.Series([datetime(2024, 7, 1)]).cast(pl.Datetime(unit)).to_physical()[0]  # noqa: DTZ001
    numbers = [good, 2**63 - 1, -(2**63) + 1, 2**62, -1, None]
    times = pl.Series(numbers, dtype=pl.Int64).cast(pl.Datetime(unit, zone))
    for local in ("America/New_York", "+10:00", "UTC"):
        found = said(times, local)
        hours = 0 if zone else {"America/New_York": 4, "+10:00": -10, "UTC": 0}[local]
        assert found[0] == (datetime(2024, 7, 1, tzinfo=UTC) + hours * HOUR, None)
        assert all(time is None or time.year == 1970 for time, _ in found[1:])
        assert [time for time, _ in found[1:4]] == [None] * 3
    days = pl.Series([19905, 2**31 - 1, -(2**31), None], dtype=pl.Int32).cast(pl.Date)
    found = said(days, "+10:00")
    assert [time for time, _ in found] == [datetime(2024, 6, 30, 14, tzinfo=UTC), None, None, None]


def test_a_column_of_any_name_can_be_the_time() -> None:
    profile = read_profile(
        'name = "p"\nmeter = "m"\n[time]\ncolumn = "t {}"\n'
        '[values]\nv = { type = "kw", unit = "kW" }\n',
        origin="test",
    )
    cells = pl.DataFrame({"m": ["m1"], "t {}": ["x"], "v": [1.0], "source_row": [2]})
    reasons = type_rows(cells, profile, default_zone="UTC")["reason"].to_list()
    assert reasons == ["t {} is not a valid time: 'x'"]


def test_a_zone_that_only_this_machine_has_is_refused() -> None:
    with pytest.raises(BadInput, match="tzdata"):
        said(["2024-07-01 00:00:00"], "", default_zone="localtime")


def everything() -> str:
    """Times of many zones' changes, as text: the same in whatever zone the process runs."""
    lines = []
    for zone in ODD_ZONES[::4]:
        for moment in changes(zone)[::60]:
            naive = moment.replace(tzinfo=None) + offset(zone, moment)
            stamps = [naive + i * 20 * MINUTE for i in range(-9, 9)]
            lines += said([iso(s) for s in stamps * 2], zone)
            lines += said(pl.Series(stamps), zone)
    lines += said(pl.Series([date(2024, 7, 1)]), "Asia/Kathmandu")
    return "\n".join(f"{time} {why}" for time, why in lines)


def test_the_zone_that_the_process_runs_in_does_not_matter() -> None:
    here = everything()
    assert here.count("does not exist") > 10
    environment = os.environ | {"TZ": "Pacific/Auckland"}
    there = subprocess.run(
        [sys.executable, __file__], env=environment, capture_output=True, text=True, check=True
    )
    assert there.stdout.strip() == here


# --- machine clocks that jump

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
HEADER = "time,arrival_time,device_id,measure_name,load,crrnt,pf,kva,kw,vltg"


def _file(number: int) -> str:
    """Reads of four hours: each file has some of the last one's, arrived later or earlier."""
    start = datetime(2024, 5, 1, tzinfo=UTC)
    lines = [HEADER, f"{iso(start)},{iso(start)},m1,readings,1,1,1,1,x,1"]
    for i in range(6):
        time = start + (number + i) * 30 * MINUTE
        arrival = time + (5 if (i + number) % 2 else 90 + 10 * number) * MINUTE
        lines.append(f"{iso(time)},{iso(arrival)},m1,readings,1,1,1,1,{number}.{i},230")
    return "\n".join([*lines, ""])


def _lake_at(folder: Path, moments: Sequence[datetime]) -> tuple[list[int], pl.DataFrame]:
    """Ingest and integrate each file at the next two moments: counts, and the table."""
    store, engine = open_store(str(folder / "lake")), LocalEngine(1)
    conf = load_settings(late_hooks=())
    balance = [0] * 6
    for number, (first, second) in enumerate(zip(moments[::2], moments[1::2], strict=True)):
        path = folder / f"reads_{number}.csv"
        path.write_text(_file(number))
        taken = intake.ingest(Session(store, engine, conf, first), [str(path)])
        assert taken.failures == []
        done = derivations.integrate(Session(store, engine, conf, second))
        counts = (
            taken.rows, taken.quarantined, done.added, done.replaced, done.duplicates, done.late
        )  # fmt: skip
        balance = [a + b for a, b in zip(balance, counts, strict=True)]
    columns = "meter_id, reading_type, reading_date_time, reading_value, arrival_time"
    return balance, query(store, f"select {columns} from readings order by all")


def test_a_machine_clock_that_jumps_by_days_changes_no_reading(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    steady = _lake_at(tmp_path_factory.mktemp("steady"), [NOW + i * MINUTE for i in range(6)])
    (rows, quarantined, added, replaced, duplicates, late), table = steady
    assert (rows, quarantined) == (21, 3)
    assert 6 * (rows - quarantined) == added + replaced + duplicates
    assert late > 0
    assert table.height == added == 6 * 8
    back_and_forth = [NOW + days * DAY for days in (0, -3, 9, -400, -400, 9000)]
    back = [NOW - days * DAY for days in range(6)]
    for moments in (back_and_forth, back):
        balance, found = _lake_at(tmp_path_factory.mktemp("jumps"), moments)
        assert balance == steady[0]
        assert found.equals(table)


if __name__ == "__main__":
    print(everything())
