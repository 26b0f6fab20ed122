"""One meter: its place, its readings of any type, its energy, its forecast; and lakes with less."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from support import ml, served
from support.grids import small_grid, write_grid
from support.served import CLOCK, HOUR

from meterlake.dataflows.run import Scope, run_dataflow
from meterlake.delta.store import Store
from meterlake.forecast.forecasts import forecast_meters
from meterlake.questions.sql import query
from meterlake.readings.consumption import read_consumption
from meterlake.readings.reader import Reader

Rows = list[dict[str, Any]]


def asked(client: TestClient, path: str, **parameters: Any) -> Rows:
    answer = client.get(path, params=parameters)
    assert answer.status_code == 200, answer.text
    rows: Rows = answer.json()
    return rows


def refusal(client: TestClient, path: str, **parameters: Any) -> tuple[int, str]:
    answer = client.get(path, params=parameters)
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["detail"]


def text(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


# --- place


def test_a_meter_is_told_with_all_that_is_above_it(client: TestClient) -> None:
    told: Any = asked(client, "/meters/a2")
    assert [told] == asked(client, "/meters", meter_id="a2")
    way = (
        "service_transformer_id",
        "distribution_transformer_id",
        "substation_id",
        "power_grid_id",
    )
    assert [told[name] for name in way] == ["t1", "d", "s", "g"]
    assert (told["service_transformer_kva"], told["latitude"], told["address"]) == (
        25.0, 45.004, "4 Main St",
    )  # fmt: skip
    assert (told["first_day"], told["last_day"], told["days"]) == ("2024-03-11", "2024-04-10", 31)


def test_a_meter_that_was_not_read_or_is_in_no_grid_is_known(client: TestClient) -> None:
    never: Any = asked(client, f"/meters/{served.NEVER_READ}")
    assert (never["service_transformer_id"], never["days"]) == ("t2", 0)
    apart: Any = asked(client, f"/meters/{served.NOT_IN_GRID.replace(' ', '%20')}")
    assert (apart["meter_id"], apart["service_transformer_id"]) == (served.NOT_IN_GRID, None)
    assert refusal(client, "/meters/no")[0] == 404


# --- readings


@pytest.mark.parametrize("kind", ["kw", "kva", "vltg"])
def test_readings_of_any_type_are_those_of_the_window(
    client: TestClient, lake: Store, kind: str
) -> None:
    start, end = served.local(2024, 4, 6, 22), served.local(2024, 4, 7, 5)
    rows = asked(
        client, "/meters/b1/readings", reading_type=kind, **{"from": text(start), "to": text(end)}
    )
    found = Reader(lake).readings(["b1"], reading_types=[kind], start=start, end=end)
    assert len(rows) == 8  # seven hours of clocks, one of them twice
    assert [row["reading_date_time"] for row in rows] == [text(start + n * HOUR) for n in range(8)]
    assert [row["reading_value"] for row in rows] == found["reading_value"].to_list()
    assert {(row["reading_type"], row["unit"]) for row in rows} == {
        (kind, {"kw": "kW", "kva": "kVA", "vltg": "V"}[kind])
    }
    assert asked(client, "/meters/b1/readings", reading_type="pf") == []


def test_times_without_an_offset_are_those_of_the_lakes_clock(client: TestClient) -> None:
    path = "/meters/b1/readings"
    local = asked(client, path, **{"from": "2024-04-07T00:00:00", "to": "2024-04-08T00:00:00"})
    assert len(local) == 25
    assert local == asked(client, path, **{"from": "2024-04-06T13:00Z", "to": "2024-04-07T14:00Z"})
    offset = {"from": "2024-04-06T13:00:00+00:00", "to": "2024-04-08T00:00:00+10:00"}
    assert local == asked(client, path, **offset)


@pytest.mark.parametrize("limit", [1, 7, 1000])
def test_pages_of_readings_put_together_are_all_of_them(
    client: TestClient, lake: Store, limit: int
) -> None:
    window = {"from": "2024-04-06T00:00", "to": "2024-04-07T00:00"}
    path: str | None = f"/meters/b1/readings?limit={limit}&from={window['from']}&to={window['to']}"
    found: Rows = []
    while path is not None and len(found) < 30:
        answer = client.get(path)
        page = answer.json()
        path = answer.links["next"]["url"] if "next" in answer.links else None
        assert len(page) == limit or path is None
        found += page
    assert found == asked(client, "/meters/b1/readings", **window)
    assert len(found) == 23  # of 24 hours one was never read


def test_windows_cursors_and_types_that_are_none_are_refused(client: TestClient) -> None:
    path = "/meters/b1/readings"
    backwards = {"from": "2024-04-07T00:00", "to": "2024-04-06T00:00"}
    assert refusal(client, path, **backwards)[0] == 400
    assert refusal(client, path, reading_type="kwh")[0] == 422
    assert refusal(client, path, **{"from": "20240407"})[0] == 422  # no second of 1970
    assert refusal(client, path, cursor="x")[0] == 400
    other = client.get("/meters/b2/readings?limit=1").links["next"]["url"].partition("cursor=")[2]
    assert refusal(client, path, cursor=other)[0] == 400
    assert refusal(client, path, to="0001-01-01T00:00:00")[0] == 400
    assert asked(client, path, to="0001-01-02T00:00:00Z") == []


# --- energy


@pytest.mark.parametrize("by", ["day", "week", "month"])
@pytest.mark.parametrize("meter", ["b1", "b3"])
def test_energy_is_that_of_the_lakes_periods(
    client: TestClient, lake: Store, by: Any, meter: str
) -> None:
    expected = read_consumption(Reader(lake), [meter], by=by, zone=served.ZONE)
    rows = asked(client, f"/meters/{meter}/consumption", by=by)
    assert [row["date"] for row in rows] == [str(day) for day in expected["date"]]
    for name in ("energy_kwh", "intervals", "intervals_expected", "is_complete", "max_kw"):
        assert [row[name] for row in rows] == expected[name].to_list()
    assert [row["start"] for row in rows] == [text(moment) for moment in expected["start"]]


def test_energy_of_a_day_is_the_sum_of_its_readings_the_last_day_included(
    client: TestClient, lake: Store
) -> None:
    rows = asked(client, "/meters/b1/consumption", **{"from": "2024-04-06", "to": "2024-04-08"})
    assert [row["date"] for row in rows] == ["2024-04-06", "2024-04-07", "2024-04-08"]
    for row in rows:
        values = [
            served.kw("b1", time)
            for time, meter in served.delivered()
            if meter == "b1" and str(time.astimezone(CLOCK).date()) == row["date"]
        ]
        assert row["energy_kwh"] == pytest.approx(sum(values))
    assert [row["intervals_expected"] for row in rows] == [24, 25, 24]
    assert [row["is_complete"] for row in rows] == [False, True, True]


def test_dates_at_the_ends_of_the_calendar_are_no_fault(client: TestClient) -> None:
    for by in ("day", "week", "month"):
        whole = asked(client, "/meters/b1/consumption", by=by)
        ends = {"from": "0001-01-01", "to": "9999-12-31"}
        assert asked(client, "/meters/b1/consumption", by=by, **ends) == whole
        assert asked(client, "/meters/b1/consumption", by=by, **{"from": "9999-12-31"}) == []
    turned = {"from": "2024-04-08", "to": "2024-04-07"}
    assert refusal(client, "/meters/b1/consumption", **turned)[0] == 400


# --- forecast


def test_a_stored_forecast_and_one_on_demand_are_the_same(client: TestClient, lake: Store) -> None:
    stored = asked(client, "/meters/a1/forecast", start=text(served.FORECAST_START))
    table = query(
        lake,
        "SELECT date_time, p50 FROM forecasts WHERE meter_id = 'a1' AND forecast_start = "
        f"TIMESTAMPTZ '{served.FORECAST_START:%Y-%m-%d %H:%M:%S}Z' ORDER BY date_time",
    )
    assert len(stored) == 168
    assert [row["p50"] for row in stored] == table["p50"].to_list()
    made = forecast_meters(lake, ["a1"], settings=served.conf(), start=served.FORECAST_START)
    assert [row["p50"] for row in stored] == pytest.approx(made["p50"].to_list())
    local = asked(client, "/meters/a1/forecast", start="2024-04-08T00:00:00")
    assert local == stored
    latest = asked(client, "/meters/a1/forecast")
    assert latest[0]["date_time"] == text(served.END)


def test_a_forecast_that_cannot_be_made_says_why(client: TestClient) -> None:
    path = "/meters/a1/forecast"
    for start in ("2019-01-01T00:00Z", "2031-01-01T00:00Z"):
        status, detail = refusal(client, path, start=start)
        assert status == 400 and "start" in detail
    status, detail = refusal(client, path, model="no")
    assert status == 400 and "'no'" in detail
    status, detail = refusal(client, f"/meters/{served.NEVER_READ}/forecast")
    assert status == 400 and "readings" in detail
    assert refusal(client, "/meters/no/forecast")[0] == 404


def test_a_forecast_of_the_first_days_of_the_calendar_is_refused(client: TestClient) -> None:
    answer = client.get("/meters/b2/forecast", params={"start": "0001-01-03"})
    assert (answer.status_code, "year 1" in answer.json()["detail"]) == (400, True)


def test_readings_from_the_first_day_of_the_calendar_are_all_of_them(client: TestClient) -> None:
    path = "/meters/b2/readings"
    early, whole = (client.get(path, params=p) for p in ({"from": "0001-01-01T00:00Z"}, {}))
    assert early.status_code == 200 and early.json() == whole.json() != []


# --- lakes with less

EVERYTHING = [
    "/meters", "/meters/m", "/meters/m/readings", "/meters/m/consumption", "/meters/m/forecast",
    "/meters/m/forecast?start=2024-04-08T00:00Z",
    "/consumption/m?reading_date_from=20240407&reading_date_to=20240407",
    "/voltage/m?reading_date_from=20240407&reading_date_to=20240407", "/consumption/weekly/2024/m",
    "/forecast/m", "/anomaly/m?year=2024",
    "/outage?start_date_time=20240401000000&end_date_time=20240501000000",
    "/outage?start_date_time=20240401000000&end_date_time=20240501000000&error_code=E",
    "/anomalies", "/outages", "/volt-var", "/transformer-load", "/transformer-load-ranking",
    "/late-arrivals", "/quarantine", "/weather", "/node-forecasts", "/models", "/dataflow-runs",
    "/topology-findings", "/catalog", "/catalog/readings", "/indices", "/settings", "/metrics",
    "/healthz", "/readyz", "/about",
]  # fmt: skip


def answers(client: TestClient) -> dict[str, int]:
    """Each path's status; lists are empty where there is nothing, and refusals say why."""
    found = {}
    for path in EVERYTHING:
        answer = client.get(path)
        found[path] = answer.status_code
        if answer.status_code >= 400:
            assert len(answer.json()["detail"]) > 20, path
    return found


def test_an_empty_lake_is_served(empty_lake: Store, client_of: Callable[..., TestClient]) -> None:
    client = client_of(empty_lake)
    found = answers(client)
    of_no_meter = {
        path for path in EVERYTHING if "/m?" in path or "/m/" in path or path[-2:] == "/m"
    }
    assert {path for path in EVERYTHING if found[path] != 200} == of_no_meter
    assert {found[path] for path in of_no_meter} == {404}
    assert asked(client, "/meters") == [] and asked(client, "/outages") == []


def test_a_lake_with_readings_alone_is_served(
    empty_lake: Store, client_of: Callable[..., TestClient]
) -> None:
    power = ml.by_meter(["m"], ml.fleet(1, 3))
    ml.fill(empty_lake, ml.readings(power, served.local(2024, 4, 6)), now=served.NOW)
    client = client_of(empty_lake)
    found = answers(client)
    forecasts = {path for path in EVERYTHING if "forecast/m" in path or "m/forecast" in path}
    assert {path for path in EVERYTHING if found[path] != 200} == forecasts
    assert {found[path] for path in forecasts} == {400}
    assert "meterlake train" in refusal(client, "/meters/m/forecast")[1]
    (row,) = asked(client, "/consumption/monthly/2024/m")
    assert row["consumption"] == pytest.approx(power["m"].sum())


def test_a_lake_with_a_grid_alone_is_served(
    empty_lake: Store, tmp_path: Path, client_of: Callable[..., TestClient]
) -> None:
    grid = write_grid(tmp_path / "grid", small_grid(m="t1"))
    run_dataflow(
        empty_lake,
        "topology",
        Scope(str(grid), at=served.HISTORY_START),
        settings=served.conf(),
        now=served.NOW,
    )
    client = client_of(empty_lake)
    found = answers(client)
    assert {path for path in EVERYTHING if found[path] != 200} == {
        path for path in EVERYTHING if "forecast/m" in path or "m/forecast" in path
    }
    assert asked(client, "/meters/m/readings") == []
    assert asked(client, "/meters/m/consumption") == []


def test_readings_that_come_while_it_runs_are_answered_at_once(
    own_lake: Store, client_of: Callable[..., TestClient]
) -> None:
    client = client_of(own_lake)
    first = client.get("/meters/b1/readings?from=2024-04-10T00:00")
    day = served.local(2024, 4, 11)
    more = ml.by_meter(["b1"], ml.fleet(1, 1))
    ml.fill(own_lake, ml.readings(more, day + timedelta(hours=10)), now=served.NOW)
    after = client.get(
        "/meters/b1/readings?from=2024-04-10T00:00",
        headers={"If-None-Match": first.headers["etag"]},
    )
    assert after.status_code == 200
    assert len(after.json()) == len(first.json()) + 24
    assert asked(client, "/meters/b1/consumption", **{"from": str(date(2024, 4, 12))})
