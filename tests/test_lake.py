"""The Lake does what the commands do, and answers with frames."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path

import polars as pl
import pytest

import meterlake
from meterlake.errors import BadInput
from meterlake.questions.history import AsOf
from meterlake.settings import load_settings

START = datetime(2024, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def lake(tmp_path: Path) -> meterlake.Lake:
    rows = "".join(
        f"{(at := START + timedelta(minutes=15 * n)):%F %T},{at:%F %T},{meter},readings,,,,,{kw},\n"
        for meter, kw in (("m1", 1.0), ("m2", 2.0))
        for n in range(96)
    )
    file = tmp_path / "day.csv"
    file.write_text(f"time,arrival_time,device_id,measure_name,load,crrnt,pf,kva,kw,vltg\n{rows}")
    opened = meterlake.open(str(tmp_path / "lake"), settings=load_settings(late_hooks=()))
    assert opened.ingest(str(file)).stored == 192
    assert opened.integrate().added == 192
    opened.cluster()
    return opened


def test_one_meter_may_be_a_plain_string(lake: meterlake.Lake) -> None:
    one = lake.readings("m1")
    assert one.height == 96 and one.equals(lake.readings(["m1"]))
    assert lake.readings(["m1", "m2"]).height == 192
    energy = lake.consumption("m2")
    assert energy.select("date", "energy_kwh", "is_complete").rows() == [
        (date(2024, 1, 1), 48.0, True)
    ]


def test_an_unknown_reading_type_is_refused_with_those_there_are(lake: meterlake.Lake) -> None:
    with pytest.raises(BadInput, match=r"one of load, .*; found 'watts'"):
        lake.readings("m1", "watts")
    with pytest.raises(BadInput, match=r"one of kw, .*; found 'vltg'"):
        lake.consumption("m1", reading_type="vltg")


def test_a_time_without_an_offset_is_in_the_lakes_zone(lake: meterlake.Lake) -> None:
    there = replace(lake, settings=load_settings(timezone="Europe/Paris"))
    local = there.readings("m1", start=datetime(2024, 1, 1, 2), end=datetime(2024, 1, 1, 3))  # noqa: DTZ001
    utc = there.readings("m1", start=START + HOUR, end=START + 2 * HOUR)
    assert local.height == 4 and local.equals(utc)
    late = lake.ask("late-reads", **{"from": datetime(2024, 1, 1), "to": datetime(2024, 1, 2)})  # noqa: DTZ001
    assert late.is_empty()


def test_a_window_in_which_nothing_can_be_is_refused(lake: meterlake.Lake) -> None:
    refused = partial(pytest.raises, BadInput, match="end after it starts; found from 2024-01-01")
    with refused():
        lake.readings("m1", start=START, end=START)
    with refused():
        lake.consumption("m1", start=START.date(), end=START.date())
    with refused():
        lake.ask("late-reads", **{"from": START, "to": START - HOUR})


def test_the_arrival_is_told_where_it_is_asked_for(lake: meterlake.Lake) -> None:
    then = AsOf(START + 24 * HOUR)
    now = lake.readings("m1", with_arrival=True)
    assert now["arrival_time"].equals(now["reading_date_time"], check_names=False)
    assert lake.readings("m1", as_of=then, with_arrival=True).equals(now)
    assert "arrival_time" not in lake.readings("m1", as_of=then).columns


def test_the_rest_of_the_lake_answers(lake: meterlake.Lake) -> None:
    assert lake.query("select count(*) as n from readings")["n"].item() == 192
    assert lake.check().findings == ()
    assert lake.tables().filter(pl.col("table") == "readings")["rows"].item() == 192
    assert lake.lineage("readings")[0].state == "current"
    assert lake.derive("consumption_daily") == {"consumption_daily": 0}
    assert lake.vacuum(dry_run=True).superseded == 0


def test_an_answer_becomes_a_pandas_frame(lake: meterlake.Lake) -> None:
    pytest.importorskip("pandas", reason="needs the extra pandas")
    assert len(lake.readings("m1").to_pandas()) == 96


def test_a_lake_is_imported_when_it_is_asked_for() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = meterlake.nothing
