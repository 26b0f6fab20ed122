"""Exports that list the newest row first, over the hour that a clock shows twice."""

import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.deliveries import expected, read, readings, reasons

PROFILE = """
name = "newest"
meter = "meter"
[time]
column = "at"
zone = "{zone}"
{time}
[values]
kw = {{ type = "kw", unit = "kW" }}
v = {{ type = "vltg", unit = "V" }}
"""
LONG = """
[long]
type_column = "register"
value_column = "value"
"""
NEITHER = "appears twice, and the meter's stamps neither rise nor fall around it"
# A moment at which each zone's clock is put back, by an hour or, in Lord Howe, by half of one.
BACK = {
    "Europe/Vienna": datetime(2023, 10, 29, 1, tzinfo=UTC),
    "Europe/London": datetime(2024, 10, 27, 1, tzinfo=UTC),
    "America/New_York": datetime(2024, 11, 3, 6, tzinfo=UTC),
    "Australia/Lord_Howe": datetime(2024, 4, 6, 15, tzinfo=UTC),
}


def shown(moment: datetime, zone: str) -> str:
    return f"{moment.astimezone(ZoneInfo(zone)):%Y-%m-%d %H:%M:%S}"


def test_the_case_of_a_portal_in_vienna(shared_data: Path) -> None:
    case = shared_data.parent / "cases" / "g13-newest-first"
    parsed = read((case / "newest_first.toml").read_text(), case / "newest_first.csv")
    assert parsed.rejected.is_empty()
    assert readings(parsed) == expected(case / "expected.csv")


@settings(max_examples=60)
@given(
    zone=st.sampled_from(sorted(BACK)),
    minutes=st.sampled_from([5, 15, 30]),
    newest_first=st.lists(st.booleans(), min_size=1, max_size=3),
    layout=st.sampled_from(["wide", "long"]),
    kind=st.sampled_from(["csv", "parquet"]),
    blanks=st.integers(0, 3),
    lost=st.integers(0, 3),
    chance=st.randoms(use_true_random=False),
)
def test_each_meters_rows_are_at_their_instants_whichever_way_they_run(
    zone: str,
    minutes: int,
    newest_first: list[bool],
    layout: str,
    kind: str,
    blanks: int,
    lost: int,
    chance: random.Random,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    step = timedelta(minutes=minutes)
    moments = [BACK[zone] + n * step for n in range(-150 // minutes, 150 // minutes)]
    rows, wanted, alone = [], {}, set()
    for meter, is_newest_first in enumerate(newest_first):
        gone = chance.sample(moments, lost)
        kept = [moment for moment in moments if moment not in gone]
        blank = chance.sample(kept, blanks)
        stamps = Counter(shown(m, zone) for m in kept)
        for moment in reversed(kept) if is_newest_first else kept:
            stamp, kw = shown(moment, zone), float(moments.index(moment))
            rows.append((f"m{meter}", stamp, None if moment in blank else kw, 230.0))
            local = moment.astimezone(ZoneInfo(zone))
            means = {local.replace(fold=fold).astimezone(UTC) for fold in (0, 1)}
            if len(means) == 2 and stamps[stamp] == 1:
                alone.add(len(rows) - 1)
                continue
            at = f"{moment:%Y-%m-%dT%H:%M:%SZ}"
            wanted[f"m{meter}", "vltg", at] = 230.0
            if moment not in blank:
                wanted[f"m{meter}", "kw", at] = kw
    table = pl.DataFrame(rows, schema=["meter", "at", "kw", "v"], orient="row")
    first, per_row = 2 if kind == "csv" else 1, 1
    if layout == "long":
        # Register by register: stamps of the next one begin again.
        table = table.unpivot(["kw", "v"], index=["meter", "at"], variable_name="register").sort(
            "meter", maintain_order=True
        )
        per_row = 2
    path = tmp_path_factory.mktemp("newest") / f"a.{kind}"
    table.write_csv(path) if kind == "csv" else table.write_parquet(path)
    profile = PROFILE.format(zone=zone, time="") + (LONG if layout == "long" else "")
    parsed = read(profile, path)
    assert readings(parsed) == wanted
    assert parsed.rejected.height == len(alone) * per_row
    if layout == "wide":
        assert set(reasons(parsed)) == {n + first for n in alone}


# Stamps around 02:00 to 03:00 in Vienna, and the UTC times of the two 02:30s, by row; None: told
# by nothing.
ORDERS = {
    "rising": (["01:30", "02:30", "02:30", "03:30"], ["00:30", "01:30"]),
    "falling": (["03:30", "02:30", "02:30", "01:30"], ["01:30", "00:30"]),
    "rising to the hour": (["01:30", "02:30", "02:30"], ["00:30", "01:30"]),
    "falling from the hour": (["02:30", "02:30", "01:30"], ["01:30", "00:30"]),
    "rising within": (["02:00", "02:30", "02:00", "02:30"], ["00:30", "01:30"]),
    "falling within": (["02:30", "02:00", "02:30", "02:00"], ["01:30", "00:30"]),
    "a late row after it": (["01:30", "02:30", "02:30", "03:30", "01:00"], ["00:30", "01:30"]),
    "alone": (["02:30", "02:30"], None),
    "rising, then falling": (["01:30", "02:30", "02:30", "01:00"], None),
    "falling, then rising": (["03:30", "02:30", "02:30", "04:00"], None),
    "up and down alike": (["02:30", "02:00", "02:30"], None),
}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("name", ORDERS)
def test_stamps_that_neither_rise_nor_fall_around_the_hour_are_rejected(
    tmp_path: Path, name: str, kind: str
) -> None:
    stamps, told = ORDERS[name]
    # The other meter's rows run the other way, in between: they are nothing to this one.
    rows = [("m1", f"2023-10-29 {stamp}:00", float(n), 1.0) for n, stamp in enumerate(stamps)]
    others = [("m2", f"2023-10-29 {stamp}:00", 0.0, 1.0) for stamp in reversed(stamps)]
    table = pl.DataFrame(
        [row for both in zip(rows, others, strict=True) for row in both],
        schema=["meter", "at", "kw", "v"],
        orient="row",
    )
    path = tmp_path / f"a.{kind}"
    table.write_csv(path) if kind == "csv" else table.write_parquet(path)
    parsed = read(PROFILE.format(zone="Europe/Vienna", time=""), path)
    pair = [float(n) for n, stamp in enumerate(stamps) if stamp == "02:30"]
    found = {
        value: at[11:16]
        for (m, kind_, at), value in readings(parsed).items()
        if m == "m1" and kind_ == "kw"
    }
    if told is not None:
        assert [found[n] for n in pair] == told
    else:
        assert not set(pair) & set(found)
        first = 2 if kind == "csv" else 1
        assert all(NEITHER in reasons(parsed)[int(2 * n) + first] for n in pair)


def test_an_order_column_says_it_however_the_rows_run(tmp_path: Path) -> None:
    stamps = ["03:30", "02:30", "02:30", "01:30"]
    for order, wanted in (([4, 3, 2, 1], ["01:30", "00:30"]), ([1, 2, 3, 4], ["00:30", "01:30"])):
        pl.DataFrame(
            {
                "meter": "m1",
                "at": [f"2023-10-29 {stamp}:00" for stamp in stamps],
                "kw": [0.0, 1.0, 2.0, 3.0],
                "v": 230.0,
                "key": order,
            }
        ).write_csv(tmp_path / "a.csv")
        parsed = read(
            PROFILE.format(zone="Europe/Vienna", time='order = "key"'), tmp_path / "a.csv"
        )
        times = {
            value: at[11:16] for (_, kind, at), value in readings(parsed).items() if kind == "kw"
        }
        assert [times[1.0], times[2.0]] == wanted


@pytest.mark.parametrize("is_newest_first", [False, True])
def test_an_hour_stamped_twice_in_spring_is_put_right_in_both_directions(
    tmp_path: Path, is_newest_first: bool
) -> None:
    # Standard time, but 03:00 and 03:30 are stamped 02:00 and 02:30 again.
    hours = ["01:30", "02:00", "02:30", "02:00", "02:30", "04:00"]
    rows = [f"m1,2012-10-07 {hour}:00,{n},230" for n, hour in enumerate(hours)]
    rows = rows[::-1] if is_newest_first else rows
    (tmp_path / "a.csv").write_text("\n".join(["meter,at,kw,v", *rows, ""]))
    time = 'order = "key"\ndoubled_hour = "Australia/Sydney"'
    parsed = read(PROFILE.format(zone="+00:00", time=time), tmp_path / "a.csv")
    times = {value: at[11:16] for (_, kind, at), value in readings(parsed).items() if kind == "kw"}
    assert [times[n] for n in range(6)] == ["01:30", "02:00", "02:30", "03:00", "03:30", "04:00"]
    (tmp_path / "a.csv").write_text("\n".join(["meter,at,kw,v", rows[2], rows[4], ""]))
    parsed = read(PROFILE.format(zone="+00:00", time=time), tmp_path / "a.csv")
    assert [NEITHER in why for why in reasons(parsed).values()] == [True, True]
