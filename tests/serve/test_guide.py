"""The guide's requests: what its users ask and get, right where its implementation was wrong."""

import math
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from fastapi.testclient import TestClient
from support import served
from support.served import CLOCK, HOUR

from meterlake.delta.store import Store
from meterlake.forecast.forecasts import forecast_meters
from meterlake.questions.sql import query
from meterlake.schema import STAGING


def asked(client: TestClient, path: str, **parameters: str) -> list[dict[str, Any]]:
    answer = client.get(path, params=parameters)
    assert answer.status_code == 200, answer.text
    rows: list[dict[str, Any]] = answer.json()
    return rows


def days(first: str, last: str) -> dict[str, str]:
    return {"reading_date_from": first, "reading_date_to": last}


def text(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def delivered_in(first: date, last: date, meter: str) -> list[datetime]:
    """What was delivered in days as Sydney's clock shows them, by looking at each reading."""
    return sorted(
        time
        for time, each in served.delivered()
        if each == meter and first <= time.astimezone(CLOCK).date() <= last
    )


# --- consumption and voltage


@pytest.mark.parametrize(
    ("path", "kind", "value"),
    [("/consumption", "kw", served.kw), ("/voltage", "vltg", served.volts)],
)
@pytest.mark.parametrize(
    ("first", "last", "hours"),
    [
        ("20240407", "20240407", 25),
        ("20240406", "20240408", 24 + 25 + 24),
        ("20240410", "20240410", 6),
    ],
)
def test_readings_are_of_whole_local_days_the_last_one_too(
    client: TestClient, path: str, kind: str, value: Any, first: str, last: str, hours: int
) -> None:
    times = delivered_in(date.fromisoformat(first), date.fromisoformat(last), "b2")
    assert len(times) == hours
    assert asked(client, f"{path}/b2", **days(first, last)) == [
        {
            "meter_id": "b2",
            "reading_value": value("b2", time),
            "reading_date_time": text(time),
            "reading_type": kind,
        }
        for time in times
    ]


def test_the_day_on_which_clocks_go_forward_has_23_hours(client: TestClient) -> None:
    rows = asked(client, "/consumption/b3", **days("20231001", "20231001"))
    # Midnight was at 14:00 UTC, and the next one at 13:00, an hour of clocks less.
    first = datetime(2023, 9, 30, 14, tzinfo=UTC)
    assert [row["reading_date_time"] for row in rows] == [text(first + n * HOUR) for n in range(23)]
    assert [row["reading_value"] for row in rows] == [2.0 + n / 100 for n in range(24, 47)]


def test_fields_come_in_the_order_of_the_guide(client: TestClient) -> None:
    def fields(path: str, **parameters: str) -> list[str]:
        return list(asked(client, path, **parameters)[0])

    reading = ["meter_id", "reading_value", "reading_date_time", "reading_type"]
    assert fields("/consumption/b2", **days("20240407", "20240407")) == reading
    assert fields("/voltage/b2", **days("20240407", "20240407")) == reading
    assert fields("/forecast/b2") == ["date_time", "consumption", "p10", "p90", "mean"]
    anomaly = ["anomaly_date", "meter_id", "consumption", "anomaly_importance", "anomaly"]
    assert fields("/anomaly/a1", year="2024") == anomaly
    window = {"start_date_time": "20240401000000", "end_date_time": "20240501000000"}
    assert fields("/outage", **window) == ["meter_id", "reading_date_time", "lat", "long"]


def test_zero_and_export_are_readings_and_a_gap_is_none(client: TestClient) -> None:
    values = [
        r["reading_value"] for r in asked(client, "/consumption/a2", **days("20240406", "20240406"))
    ]
    assert values[4:6] == [0.0, -1.5]
    times = [
        r["reading_date_time"]
        for r in asked(client, "/consumption/b1", **days("20240406", "20240406"))
    ]
    assert len(times) == 23 and text(served.GAP) not in times


def test_a_meter_is_asked_for_by_any_name_that_it_has(client: TestClient) -> None:
    answer = client.get("/consumption/%C3%BC%20%261", params=days("20240406", "20240406"))
    assert {row["meter_id"] for row in answer.json()} == {served.NOT_IN_GRID}
    assert len(answer.json()) == 5


@pytest.mark.parametrize("meter", ["b2", served.NEVER_READ])
def test_a_window_without_readings_is_an_empty_list(client: TestClient, meter: str) -> None:
    assert asked(client, f"/consumption/{meter}", **days("20200101", "20200131")) == []
    assert asked(client, f"/voltage/{meter}", **days("20200101", "20200131")) == []
    assert asked(client, f"/anomaly/{meter}", year="2020") == []
    assert asked(client, f"/consumption/daily/2020/{meter}") == []


@pytest.mark.parametrize(
    "path",
    [
        "/consumption/no?reading_date_from=20240407&reading_date_to=20240407",
        "/voltage/no?reading_date_from=20240407&reading_date_to=20240407",
        "/consumption/monthly/2024/no",
        "/forecast/no",
        "/forecast/no?forecast_start=20240407140000",
        "/anomaly/no?year=2024",
    ],
)
def test_a_meter_that_the_lake_does_not_know_is_not_found(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert "'no'" in answer.json()["detail"] and "/meters?search=" in answer.json()["hint"]


@pytest.mark.parametrize(
    ("path", "status", "word"),
    [
        ("/consumption/b2", 422, "reading_date_from"),
        (
            "/consumption/b2?reading_date_from=2024-04-07&reading_date_to=20240407",
            422,
            "reading_date_from",
        ),
        ("/consumption/b2?reading_date_from=20240407&reading_date_to=20240431", 422, "20240431"),
        ("/consumption/b2?reading_date_from=20240407&reading_date_to=99999999", 422, "99999999"),
        (
            "/consumption/b2?reading_date_from=20240408&reading_date_to=20240407",
            400,
            "reading_date_to",
        ),
        ("/consumption/hourly/2024/b2", 422, "by"),
        ("/consumption/daily/0/b2", 422, "year"),
        ("/forecast/b2?forecast_start=20240407", 422, "forecast_start"),
        ("/forecast/b2?forecast_start=20241307000000", 422, "forecast_start"),
        ("/anomaly/b2", 422, "year"),
        ("/anomaly/b2?year=24", 422, "year"),
        ("/outage?start_date_time=20240401000000", 422, "end_date_time"),
        (
            "/outage?start_date_time=20240401000000&end_date_time=20240401000000",
            400,
            "end_date_time",
        ),
    ],
)
def test_mistakes_are_named_and_are_no_fault_of_the_server(
    client: TestClient, path: str, status: int, word: str
) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (
        status,
        "application/problem+json",
    )
    assert answer.json()["status"] == status and word in answer.json()["detail"]


def test_a_window_of_more_readings_than_one_answer_has_is_read_on_by_its_link(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meterlake.serve.guide.MOST_ROWS", 10)
    whole: list[str] = []
    path = "/consumption/b2?reading_date_from=20240407&reading_date_to=20240407"
    while path and len(whole) <= 25:
        answer = client.get(path)
        whole += [row["reading_date_time"] for row in answer.json()]
        path = answer.links["next"]["url"] if "next" in answer.links else ""
    assert whole == [text(t) for t in delivered_in(date(2024, 4, 7), date(2024, 4, 7), "b2")]


# --- energy per period


def test_energy_per_day_is_the_sum_of_its_hours_however_many_they_are(client: TestClient) -> None:
    rows = asked(client, "/consumption/daily/2024/b1")
    assert list(rows[0]) == ["meter_id", "date", "consumption", "is_complete"]
    assert [row["date"] for row in rows] == sorted(row["date"] for row in rows)
    of = {row["date"]: (row["consumption"], row["is_complete"]) for row in rows}
    for day, hours, complete in ((6, 23, False), (7, 25, True), (8, 24, True), (10, 6, False)):
        times = delivered_in(date(2024, 4, day), date(2024, 4, day), "b1")
        assert len(times) == hours
        energy, is_complete = of[f"2024-04-{day:02}"]
        assert energy == pytest.approx(sum(served.kw("b1", time) for time in times))
        assert is_complete is complete


@pytest.mark.parametrize(
    ("by", "first"),
    [
        ("daily", lambda day: day),
        ("weekly", lambda day: day - timedelta(days=day.weekday())),
        ("monthly", lambda day: day.replace(day=1)),
    ],
)
def test_energy_per_period_is_that_of_its_readings(
    client: TestClient, lake: Store, by: str, first: Any
) -> None:
    readings = query(
        lake,
        "SELECT reading_date_time, reading_value FROM readings "
        "WHERE meter_id = 'b3' AND reading_type = 'kw' AND year >= '2024' ORDER BY 1",
    )
    sums: dict[str, float] = {}
    for time, value in readings.rows():
        period = str(first(time.astimezone(CLOCK).date()))
        sums[period] = sums.get(period, 0.0) + value
    rows = asked(client, f"/consumption/{by}/2024/b3")
    assert {row["date"]: row["consumption"] for row in rows} == pytest.approx(sums)
    assert (
        len(asked(client, f"/consumption/{by}/2023/b3"))
        == {"daily": 3, "weekly": 2, "monthly": 2}[by]
    )


# --- forecast


@pytest.mark.parametrize("start", [None, served.FORECAST_START])
def test_a_forecast_is_the_median_of_72_hours_with_its_band(
    client: TestClient, lake: Store, start: datetime | None
) -> None:
    parameters = {} if start is None else {"forecast_start": f"{start:%Y%m%d%H%M%S}"}
    rows = asked(client, "/forecast/a1", **parameters)
    begins = start or served.END
    assert [row["date_time"] for row in rows] == [text(begins + n * HOUR) for n in range(72)]
    stored = query(
        lake,
        "SELECT p50, p10, p90, mean FROM forecasts WHERE meter_id = 'a1' AND forecast_start = "
        f"TIMESTAMPTZ '{begins:%Y-%m-%d %H:%M:%S}Z' ORDER BY date_time LIMIT 72",
    )
    told = [(row["consumption"], row["p10"], row["p90"], row["mean"]) for row in rows]
    assert told == [pytest.approx(row) for row in stored.rows()]
    assert all(row["p10"] <= row["consumption"] <= row["p90"] for row in rows)


def test_a_forecast_of_a_start_that_was_not_stored_is_made_now(
    client: TestClient, lake: Store
) -> None:
    start = served.FORECAST_START - 12 * HOUR
    made = forecast_meters(lake, ["a1"], settings=served.conf(), start=start)
    rows = asked(client, "/forecast/a1", forecast_start=f"{start:%Y%m%d%H%M%S}")
    assert [row["consumption"] for row in rows] == pytest.approx(made["p50"].to_list()[:72])


def test_a_forecast_of_a_start_without_readings_before_or_far_ahead_is_refused(
    client: TestClient,
) -> None:
    for start in ("20200101000000", "20300101000000"):
        answer = client.get("/forecast/a1", params={"forecast_start": start})
        assert answer.status_code == 400, answer.text
        assert "start" in answer.json()["detail"]


# --- anomalies


def test_anomalies_are_dips_and_spikes_of_the_year_in_the_order_of_days(client: TestClient) -> None:
    for meter in ("a1", "b2"):
        assert asked(client, f"/anomaly/{meter}", year="2024") == [
            {
                "anomaly_date": str(day),
                "meter_id": meter,
                "consumption": energy,
                "anomaly_importance": None if importance == math.inf else importance,
                "anomaly": anomaly,
            }
            for each, day, energy, anomaly, importance, _ in served.JUDGED
            if each == meter and day.year == 2024 and anomaly != 0
        ]
    assert [r["anomaly"] for r in asked(client, "/anomaly/a1", year="2023")] == [1]


# --- outages


def outages(client: TestClient, start: str, end: str, **more: str) -> list[tuple[Any, ...]]:
    rows = asked(client, "/outage", start_date_time=start, end_date_time=end, **more)
    return [tuple(row.values()) for row in rows]


def test_outages_are_meters_times_and_places_in_a_half_open_window_of_local_time(
    client: TestClient,
) -> None:
    silent, gap = text(served.OUT[0]), text(served.GAP)
    assert outages(client, "20240406000000", "20240409000000") == [
        ("b1", gap, 45.006, 7.0),
        ("a1", silent, 45.003, 7.0),
        ("a2", silent, 45.004, 7.0),
        ("a3", silent, 45.005, 7.0),
    ]
    assert [row[0] for row in outages(client, "20240408200000", "20240408200001")] == [
        "a1",
        "a2",
        "a3",
    ]
    assert outages(client, "20240408200001", "20240409000000") == []
    assert outages(client, "20240406030001", "20240408200000") == []


def test_reads_with_an_error_code_are_those_with_that_quality(
    client: TestClient, lake: Store
) -> None:
    assert outages(client, "20240101000000", "20250101000000", error_code="E1") == []
    assert query(lake, f"SELECT count(*) FROM {STAGING.name} WHERE quality IS NOT NULL").item() == 0


def test_answers_are_the_same_as_a_table(client: TestClient) -> None:
    path = "/consumption/b2?reading_date_from=20240407&reading_date_to=20240407"
    as_csv = client.get(path, headers={"Accept": "text/csv"})
    table = pl.read_csv(as_csv.content)
    assert table.to_dicts() == client.get(path).json()
