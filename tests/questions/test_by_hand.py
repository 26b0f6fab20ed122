"""Questions asked of tables made by hand."""

import re
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import pytest

from meterlake.questions.registry import QUESTIONS

OUT = [
    ("service_transformer", 90.0, "missing", 6, 540.0, None),
    ("substation", 30.0, "voltage", 100, 2900.0, None),
    ("service_transformer", 5.0, "voltage", 6, 30.0, None),  # momentary
    ("meter", 90.0, "missing", 1, 90.0, "t1"),  # part of the first
    ("meter", 240.0, "missing", 1, 240.0, None),  # perhaps its radio
    ("meter", 60.0, "voltage", 1, 60.0, None),
]


def asked(connection: duckdb.DuckDBPyConnection, name: str, **values: object) -> list[Any]:
    """The rows that answer a question without conditions, as dictionaries, in its order."""
    question = QUESTIONS[name]
    sql = question.sql.format(where="true")
    if question.order:
        sql = f"SELECT * FROM ({sql}) ORDER BY {', '.join(question.order)}"
    names = set(re.findall(r"\$(\w+)", sql))
    connection.execute("SET TimeZone = 'UTC'")
    found = connection.sql(sql, params={each: values.get(each) for each in names})
    return [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]


def test_no_question_takes_power_for_energy_or_an_interval_for_granted() -> None:
    for question in QUESTIONS.values():
        assert not re.search(r"sum\([^()]*reading_value", question.sql), question.name
        assert not re.search(r"\b0\.25\b|/ 4\b|\b15\b|\b900\b", question.sql), question.name


def reliability(rows: list[tuple[Any, ...]], customers: int) -> dict[str, Any]:
    connection = duckdb.connect()
    connection.execute(
        "CREATE TABLE outages (level VARCHAR, minutes DOUBLE, evidence VARCHAR, meters BIGINT, "
        "customer_minutes DOUBLE, part_of VARCHAR)"
    )
    for row in rows:
        connection.execute("INSERT INTO outages VALUES (?, ?, ?, ?, ?, ?)", row)
    connection.execute(f"CREATE TABLE meter_topology AS SELECT * FROM range({customers})")
    (found,) = asked(connection, "indices", momentary_minutes=5.0)
    return dict(found)


def test_the_indices_are_those_of_ieee_1366() -> None:
    found = reliability(OUT, 1000)
    assert (found["customers"], found["interruptions"]) == (1000, 3)
    assert found["saidi"] == pytest.approx(3.5)
    assert found["saifi"] == pytest.approx(0.107)
    assert found["caidi"] == pytest.approx(3500 / 107)
    assert found["maifi"] == pytest.approx(0.006)


def test_where_nothing_was_interrupted_caidi_is_not_known() -> None:
    found = reliability([], 10)
    assert (found["saidi"], found["saifi"], found["caidi"], found["maifi"]) == (0, 0, None, 0)
    assert (found["customers"], found["interruptions"]) == (10, 0)
    assert reliability([], 0)["saidi"] is None


def test_the_year_before_counts_with_the_days_that_this_year_has() -> None:
    connection = duckdb.connect()
    connection.execute(
        "CREATE TABLE consumption_daily AS SELECT 'm' AS meter_id, 'kw' AS reading_type, "
        "CAST(d AS DATE) AS date, strftime(d, '%Y') AS year, "
        "CASE WHEN year(d) = 2023 THEN 2.0 ELSE 3.0 END::DOUBLE AS energy_kwh "
        "FROM generate_series(DATE '2023-01-01', DATE '2024-03-01', INTERVAL 1 DAY) AS s(d)"
    )
    days, same = 31 + 29 + 1, 31 + 28 + 1  # there was no 29 February in 2023
    (found,) = asked(connection, "consumption-change", year=2024, price=0.5)
    assert (found["now_kwh"], found["before_kwh"]) == (3.0 * days, 2.0 * same)
    assert (found["now_cost"], found["before_cost"]) == (1.5 * days, 1.0 * same)
    assert found["change_percent"] == pytest.approx(100 * (1.5 * days / same - 1))
    (found,) = asked(connection, "consumption-change", year=2023)
    assert (found["now_kwh"], found["before_kwh"], found["change_percent"]) == (730, None, None)


@pytest.mark.parametrize("minutes", [5, 15, 30, 60])
def test_an_hours_average_energy_is_the_same_whatever_the_interval(minutes: int) -> None:
    """Hour h takes h kW, in Berlin's zone of 2024 and over both changes of its clock."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    clock = ZoneInfo("Europe/Berlin")
    start, end = (
        datetime(d.year, d.month, d.day, tzinfo=clock).astimezone(UTC)
        for d in (date(2024, 1, 1), date(2025, 1, 1))
    )
    connection.execute(
        "CREATE TABLE readings AS SELECT 'm' AS meter_id, 'kw' AS reading_type, "
        "'total' AS channel, "
        "moment AS reading_date_time, "
        "CAST(hour(moment AT TIME ZONE 'Europe/Berlin') AS DOUBLE) AS reading_value "
        f"FROM generate_series(TIMESTAMPTZ '{start}', TIMESTAMPTZ '{end}' "
        f"- INTERVAL {minutes} MINUTE, INTERVAL {minutes} MINUTE) AS s(moment)"
    )
    connection.execute(
        "CREATE TABLE forecasts AS SELECT 'm' AS meter_id, 'one' AS model_name, "
        f"TIMESTAMPTZ '{end}' AS forecast_start, "
        f"TIMESTAMPTZ '{end}' + h * INTERVAL 1 HOUR AS date_time, "
        "CAST(h % 24 AS DOUBLE) AS mean, 0.0 AS p10, 0.0 AS p90 FROM range(168) AS r(h)"
    )
    found = asked(connection, "forecast-by-hour-of-day", meter_id="m", zone="Europe/Berlin")
    assert [row["hour"] for row in found] == [f"{hour:02d}" for hour in range(24)]
    for hour, row in enumerate(found):
        assert (row["average_kwh"], row["forecast_kwh"]) == (hour, hour)


@pytest.mark.parametrize("zone", ["Australia/Sydney", "Europe/Berlin", "America/New_York"])
def test_late_readings_count_to_the_day_that_the_local_clock_shows(zone: str) -> None:
    clock, start = ZoneInfo(zone), datetime(2024, 1, 1, tzinfo=UTC)
    hours = [start + n * timedelta(hours=1) for n in range(366 * 24)]
    connection = duckdb.connect()
    connection.execute(
        "CREATE TABLE late_arrivals AS SELECT 1 AS late, 60.0 AS max_late_minutes, "
        f"TIMESTAMPTZ '{start}' + n * INTERVAL 1 HOUR AS reading_hour FROM range({len(hours)}) "
        "AS r(n)"
    )
    expected: dict[date, int] = {}
    for hour in hours:
        day = hour.astimezone(clock).date()
        expected[day] = expected.get(day, 0) + 1
    found = asked(connection, "late-by-day", zone=zone)
    assert {row["day"]: row["late"] for row in found} == expected
    noons = [row["noon_ms"] for row in found]
    assert {after - before for before, after in pairwise(noons)} == {86_400_000}
