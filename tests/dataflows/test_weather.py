"""Weather: what the source has, in our units, and nothing else whatever the source does."""

import csv
import gzip
import io
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from support.files_server import FilesServer, Mood
from support.grids import small_grid, write_grid

from meterlake.dataflows import run as dataflow_run
from meterlake.dataflows.run import DataflowRun, Scope, run_dataflow
from meterlake.delta.commit import snapshot
from meterlake.delta.store import Store, open_store
from meterlake.delta.table import fetched, scan
from meterlake.engine.local import LocalEngine
from meterlake.errors import BadInput, Unavailable
from meterlake.pipeline import upkeep
from meterlake.pipeline.derivation import Session
from meterlake.questions.sql import query
from meterlake.schema import WEATHER
from meterlake.settings import load_settings

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
NAMES = ("temp", "dwpt", "rhum", "prcp", "snow", "wdir", "wspd", "wpgt", "pres", "tsun", "coco")
Hours = dict[datetime, float]


def at(month: int, day: int, hour: int = 0, year: int = 2024) -> datetime:
    return datetime(year, month, day, hour, tzinfo=UTC)


@pytest.fixture
def bulk(tmp_path: Path) -> Path:
    """The folder of the bulk files."""
    return tmp_path / "bulk"


@pytest.fixture
def server(bulk: Path) -> Iterator[FilesServer]:
    bulk.mkdir()
    with FilesServer(bulk) as running:
        yield running


@pytest.fixture
def lake(tmp_path: Path) -> Store:
    """A lake in a folder, where the kind of store makes no difference."""
    return open_store(str(tmp_path / "lake"))


def write_year(bulk: Path, year: int, station: str, header: list[str], *rows: list[str]) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([header, *rows])
    path = bulk / "hourly" / str(year) / f"{station}.csv.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.getvalue().encode()))


def write_hours(bulk: Path, station: str, hours: Mapping[datetime, float]) -> None:
    """Temperatures as Meteostat lays them out."""
    years = defaultdict(list)
    for hour, value in hours.items():
        stamp = [str(n) for n in (hour.year, hour.month, hour.day, hour.hour)]
        years[hour.year].append([*stamp, str(value), "dwd_hourly", "", ""])
    header = ["year", "month", "day", "hour", "temp", "temp_source", "tsun", "tsun_source"]
    for year, rows in years.items():
        write_year(bulk, year, station, header, *rows)


def write_stations(bulk: Path, *stations: tuple[str, float | None, float | None]) -> None:
    bulk.mkdir(exist_ok=True)
    connection = sqlite3.connect(bulk / "stations.db")
    with connection:
        connection.execute(
            "CREATE TABLE stations (id TEXT, name TEXT, latitude REAL, longitude REAL, elevation)"
        )
        rows = [(s, s.title(), lat, lon) for s, lat, lon in stations]
        connection.executemany("INSERT INTO stations VALUES (?, ?, ?, ?, 0)", rows)
    connection.close()


def run(
    store: Store,
    source: str | Path,
    *,
    now: datetime = NOW,
    pauses: list[float] | None = None,
    **options: Any,
) -> DataflowRun:
    """Load, with these options."""
    options.setdefault("since", at(1, 1))
    waited: list[float] = [] if pauses is None else pauses
    conf = load_settings(late_hooks=(), dataflow={"weather": options})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataflow_run, "_pause", waited.append)
        return run_dataflow(store, "weather", Scope(str(source)), settings=conf, now=now)


def rows(store: Store) -> pl.DataFrame:
    return fetched(scan(store, WEATHER, snapshot(store, WEATHER).files)).sort(WEATHER.sorted_by)


def temperatures(store: Store) -> Hours:
    return dict(rows(store).select("time", "temperature").iter_rows())


def last_run(store: Store) -> dict[str, Any]:
    runs = query(store, "select * from dataflow_runs where dataflow = 'weather' order by all")
    return runs.sort("started_at").row(-1, named=True)


def test_a_years_file_becomes_rows_in_our_units(
    store: Store, bulk: Path, server: FilesServer
) -> None:
    values = ["-7.5", "-9.1", "55", "0.4", "20", "350", "12.5", "30.6", "1012.3", "45", "7"]
    columns = [pair for name in reversed(NAMES) for pair in (f"{name}_source", name)]
    full = [pair for value in reversed(values) for pair in ("metar", value)]
    empty = ["", ""] * len(NAMES)
    header = ["year", "month", "day", "hour", *columns]
    first, second = ["2024", "2", "29", "13", *full], ["2024", "03", "1", "0", *empty]
    write_year(bulk, 2024, "10637", header, first, second)
    done = run(store, server.url, stations=["10637"], since=at(12, 31, year=2023))
    assert rows(store).rows() == [
        ("10637", at(2, 29, 13), -7.5, -9.1, 55.0, 0.4, 20.0, 350.0, 12.5, 30.6, 1012.3, 0.75, 7,
         "2024-02-29"),
        ("10637", at(3, 1), *[None] * len(NAMES), "2024-03-01"),
    ]  # fmt: skip
    assert (done.rows, done.added, done.changed, done.ended, done.attempts) == (2, 2, 0, 0, 1)
    assert server.requests == ["hourly/2023/10637.csv.gz", "hourly/2024/10637.csv.gz"]
    files = snapshot(store, WEATHER).files
    assert {f.path.rpartition("/")[0] for f in files} == {"date=2024-02-29", "date=2024-03-01"}
    assert WEATHER.path == "integrated/weather"
    assert upkeep.check(Session(store, LocalEngine(1), load_settings(), NOW)).findings == ()


def test_the_first_run_loads_from_since_and_later_ones_the_last_thirty_days_again(
    store: Store, bulk: Path, server: FilesServer
) -> None:
    newest = at(5, 31, 9)
    hours = {newest - n * 10 * DAY: float(n) for n in range(15)}
    outside = {at(1, 1) - HOUR: -1.0, NOW: -2.0}  # before since; not before now
    write_hours(bulk, "A", hours | outside)
    first = run(store, server.url, stations=["A"])
    assert (first.window_start, first.window_end) == (at(1, 1), NOW)
    assert temperatures(store) == hours
    before = snapshot(store, WEATHER)

    tomorrow, edge = NOW + DAY, newest - 30 * DAY
    late, new = newest - 15 * DAY, NOW + HOUR
    arrived = {edge: 99.0, late: 98.0, new: 97.0}
    ignored = {edge - HOUR: 96.0, newest - 40 * DAY: 95.0, at(1, 1): 94.0}
    published = hours | arrived | ignored
    del published[newest - 10 * DAY]  # what the source no longer has, stays
    write_hours(bulk, "A", published)
    second = run(store, server.url, stations=["A"], now=tomorrow)
    assert (second.window_start, second.window_end) == (edge, tomorrow)
    assert (second.added, second.changed, second.ended) == (2, 1, 0)
    assert temperatures(store) == hours | arrived
    after = snapshot(store, WEATHER)
    kept = {f.path for f in after.files}
    assert {f.partition["date"] for f in before.files if f.path not in kept} == {f"{edge:%F}"}

    third = run(store, server.url, stations=["A"], now=tomorrow + HOUR)
    assert third.window_start == new - 30 * DAY
    assert (third.added, third.changed, third.ended) == (0, 0, 0)
    assert snapshot(store, WEATHER) == after
    assert last_run(store)["started_at"] == tomorrow + HOUR


def test_the_window_that_is_given_is_loaded_and_nothing_else(lake: Store, bulk: Path) -> None:
    write_hours(bulk, "A", {at(2, day): float(day) for day in range(1, 29)})
    conf = load_settings(late_hooks=(), dataflow={"weather": {"stations": ["A"]}})
    run_dataflow(
        lake, "weather", Scope(str(bulk), start=at(2, 3), end=at(2, 5)), settings=conf, now=NOW
    )
    assert temperatures(lake) == {at(2, 3): 3.0, at(2, 4): 4.0}


def load_grid(store: Store, folder: Path, *places: tuple[float, float]) -> None:
    """A topology with one meter at each place."""
    grid = small_grid(**{f"m{number}": "t1" for number in range(len(places))})
    for node in grid["location"]:
        if node["id"].startswith("at-m"):
            node["latitude"], node["longitude"] = places[int(node["id"][4:])]
    source = write_grid(folder, grid)
    conf = load_settings(late_hooks=())
    run_dataflow(store, "topology", Scope(str(source)), settings=conf, now=NOW)


def test_each_place_of_the_meters_has_its_nearest_station_that_has_observations(
    store: Store, bulk: Path, server: FilesServer, tmp_path: Path
) -> None:
    load_grid(store, tmp_path / "grid", (45.0, 7.0), (45.01, 7.0), (48.0, 2.0))
    write_stations(
        bulk,
        ("SILENT", 45.0, 7.01),
        ("NEAR", 45.1, 7.0),
        ("FARTHER", 45.3, 7.0),
        ("NOWHERE", None, 7.0),
        ("PARIS", 48.1, 2.0),
        ("LAGOS", 6.5, 3.4),
    )
    for station in ("NEAR", "FARTHER", "PARIS", "LAGOS"):
        write_hours(bulk, station, {at(5, 1): 10.0})
    done = run(store, server.url)
    assert set(rows(store)["station_id"]) == {"NEAR", "PARIS"}
    assert done.odd == ()
    asked = [path.split("/")[2].split(".")[0] for path in server.requests[1:]]
    assert asked == ["SILENT", "NEAR", "PARIS"]


def test_a_nearest_station_that_has_none_in_the_window_is_passed_over(
    lake: Store, bulk: Path, tmp_path: Path
) -> None:
    load_grid(lake, tmp_path / "grid", (45.0, 7.0))
    write_stations(bulk, ("CLOSED", 45.0, 7.01), ("OPEN", 45.1, 7.0))
    write_hours(bulk, "CLOSED", {at(1, 2): 1.0})
    write_hours(bulk, "OPEN", {at(5, 1): 10.0})
    run(lake, bulk, since=at(3, 1))
    assert set(rows(lake)["station_id"]) == {"OPEN"}


def test_a_place_whose_stations_have_nothing_is_odd_and_the_others_are_loaded(
    lake: Store, bulk: Path, tmp_path: Path
) -> None:
    load_grid(lake, tmp_path / "grid", (45.0, 7.0), (48.0, 2.0))
    write_stations(bulk, ("SILENT", 45.0, 7.01), ("MUTE", 45.0, 7.02), ("PARIS", 48.1, 2.0))
    write_hours(bulk, "PARIS", {at(5, 1): 10.0})
    done = run(lake, bulk)
    assert set(rows(lake)["station_id"]) == {"PARIS"}
    assert done.odd == ("no observations of SILENT or MUTE",)
    assert last_run(lake)["message"] == "no observations of SILENT or MUTE"


def test_a_station_must_be_within_the_radius(lake: Store, bulk: Path, tmp_path: Path) -> None:
    load_grid(lake, tmp_path / "grid", (45.0, 7.0))
    write_stations(bulk, ("LYON", 45.0, 8.26))  # a degree is 78.6 km there
    write_hours(bulk, "LYON", {at(5, 1): 10.0})
    with pytest.raises(BadInput, match="within 99 km"):
        run(lake, bulk, radius_km=99)
    assert snapshot(lake, WEATHER).version == -1
    run(lake, bulk, radius_km=100)
    assert temperatures(lake) == {at(5, 1): 10.0}


def test_without_stations_and_topology_there_is_nothing_to_load(lake: Store, bulk: Path) -> None:
    write_stations(bulk, ("A", 45.0, 7.0))
    with pytest.raises(BadInput, match="a topology that says where the meters are"):
        run(lake, bulk)


@pytest.mark.parametrize(
    "nonsense", [None, b"", b"no database", b"SQLite format 3\x00" + b"x" * 99]
)
def test_stations_that_are_no_database_are_refused(
    lake: Store, bulk: Path, tmp_path: Path, nonsense: bytes | None
) -> None:
    load_grid(lake, tmp_path / "grid", (45.0, 7.0))
    bulk.mkdir()
    if nonsense is not None:
        (bulk / "stations.db").write_bytes(nonsense)
    with pytest.raises(BadInput, match=r"stations\.db"):
        run(lake, bulk)


@pytest.fixture
def filled(lake: Store, bulk: Path, server: FilesServer) -> Store:
    write_hours(bulk, "A", {at(5, 1): 10.0, at(5, 2): 11.0})
    run(lake, server.url, stations=["A"])
    return lake


def refused(
    store: Store, source: str | Path, error: type[Exception], words: str, **options: Any
) -> None:
    """The run fails with these words, is recorded, and the weather is as it was."""
    before, held = snapshot(store, WEATHER), rows(store)
    later = NOW + HOUR
    with pytest.raises(error, match=words) as said:
        run(store, source, now=later, **options)
    assert snapshot(store, WEATHER) == before
    assert rows(store).equals(held)
    last = last_run(store)
    assert (last["started_at"], last["outcome"]) == (later, "failed")
    assert last["message"] == str(said.value)[:2000]
    assert (last["rows"], last["added"]) == (None, None)
    assert upkeep.check(Session(store, LocalEngine(1), load_settings(), NOW)).findings == ()


def test_a_station_without_observations_is_named(filled: Store, server: FilesServer) -> None:
    refused(filled, server.url, BadInput, "has none of NOBODY", stations=["NOBODY"])


@pytest.mark.parametrize("mood", [Mood.BUSY, Mood.DOWN])
def test_a_source_that_cannot_be_had_is_tried_with_growing_pauses(
    filled: Store, server: FilesServer, mood: Mood
) -> None:
    server.mood = mood
    pauses: list[float] = []
    refused(
        filled, server.url, Unavailable, "cannot be fetched", stations=["A"], pauses=pauses
    )  # fmt: skip
    assert pauses == [5.0, 10.0, 20.0]
    assert last_run(filled)["attempts"] == 4


def test_a_server_that_nobody_runs_is_unavailable(filled: Store, tmp_path: Path) -> None:
    with FilesServer(tmp_path) as gone:
        pass
    refused(filled, gone.url, Unavailable, "cannot be fetched", stations=["A"])


def test_a_source_that_comes_back_is_loaded(lake: Store, bulk: Path, server: FilesServer) -> None:
    write_hours(bulk, "A", {at(5, 1): 10.0})
    server.mood = Mood.BUSY
    pauses: list[float] = []

    class Waiting(list[float]):
        def append(self, seconds: float) -> None:
            pauses.append(seconds)
            server.mood = Mood.GOOD if len(pauses) == 2 else Mood.DOWN

    done = run(lake, server.url, stations=["A"], pauses=Waiting())
    assert (done.attempts, pauses) == (3, [5.0, 10.0])
    assert temperatures(lake) == {at(5, 1): 10.0}
    last = last_run(lake)
    assert (last["attempts"], last["outcome"]) == (3, "succeeded")


def file(*lines: str) -> bytes:
    return gzip.compress("\n".join([*lines, ""]).encode())


HEAD = "year,month,day,hour,temp,coco"
SOUND = file(HEAD, *(f"2024,5,{day},0,{day / 7},1" for day in range(1, 30)))


@pytest.mark.parametrize(
    ("nonsense", "words"),
    [
        (b"", "cannot be read"),
        (b"\x00\xff\xfe nonsense", "cannot be read"),
        (b"<html><body>Sign in</body></html>", "needs the column time"),
        (SOUND[:-20], "cannot be read"),
        (SOUND[:40] + b"\xff" * 20 + SOUND[60:], "cannot be read"),
        (file("a,b", "1,2"), "needs the column time"),
        (file("year,month,day,hour", "2024,5,3,0"), "needs the column time"),
        (file(HEAD, "2024,5,3,0,mild,1"), r"temperature is 'mild' \(row 1\)"),
        (file(HEAD, "2024,5,3,0,1,1", "2024,5,32,0,1,1"), r"'2024-05-32 00:00:00' \(row 2\)"),
        (file(HEAD, "2024,5,3,24,1,1"), "time"),
        (file(HEAD, "2024,5,3,,1,1"), "time"),
        (file(HEAD, "2024,5,3,0,1,1,9"), "cannot be read"),
        (file(HEAD, "2024,5,3,0,-inf,1"), "temperature"),
        (file(HEAD, "2024,5,3,0,1,inf"), "weather_condition_code"),
        (file(HEAD, "2024,5,3,0,1,1e300"), "weather_condition_code"),
    ],
    ids=[
        "empty", "no text", "a page", "cut off", "damaged gzip", "other columns", "no values",
        "text", "no date", "hour 24", "no hour", "a value too many", "infinite cold",
        "infinite code", "huge code",
    ],
)  # fmt: skip
def test_a_source_that_answers_nonsense_changes_nothing(
    filled: Store, server: FilesServer, nonsense: bytes, words: str
) -> None:
    server.mood, server.nonsense = Mood.NONSENSE, nonsense
    refused(filled, server.url, BadInput, words, stations=["A"])
    assert last_run(filled)["attempts"] == 1


def test_a_csv_file_says_its_station_and_its_offsets(lake: Store, tmp_path: Path) -> None:
    path = tmp_path / "ours.v2.csv"
    path.write_text(
        "station,time,temp\nA,2024-05-01 02:30:00+02:00,1\nB,2024-05-01T00:00:00Z,2\n"
        "A,2024-05-01 00:00:00,3\n"
    )
    run(lake, path, timezone="America/New_York")
    found = rows(lake).select("station_id", "time", "temperature").rows()
    assert found == [("A", at(5, 1), 1.0), ("A", at(5, 1, 4), 3.0), ("B", at(5, 1), 2.0)]


def test_two_years_of_rome_by_its_wall_clock(lake: Store, shared_data: Path) -> None:
    source = shared_data / "weather" / "station_16230_2023_2024.csv.gz"
    with pytest.raises(BadInput, match=r"2023-03-26 01:00:00' does not exist in Europe/London"):
        run(lake, source, timezone="Europe/London", since=at(1, 1, year=2020))
    assert snapshot(lake, WEATHER).version == -1
    done = run(
        lake,
        source,
        timezone="Europe/Rome",
        since=at(1, 1, year=2020),
        now=at(6, 1, year=2025),
        stations=["16230"],
    )
    assert done.rows == done.added == 17_542
    found = rows(lake)
    assert found.height == 17_542
    assert found["time"][0] == at(12, 31, 23, year=2022)
    assert set(found["station_id"]) == {"16230"}
    assert found.select("snow_depth", "sunshine_hours").null_count().row(0) == (17_542, 17_542)
    with gzip.open(source, "rt", encoding="utf-8") as text:
        local = {row["time"]: row for row in csv.DictReader(text)}
    by_time = {row["time"]: row for row in found.iter_rows(named=True)}
    spring, autumn = at(3, 26, year=2023), at(10, 29, year=2023)
    stamps = {
        spring: "2023-03-26 01:00:00",
        spring + HOUR: "2023-03-26 03:00:00",
        autumn: "2023-10-29 02:00:00",
        autumn + 2 * HOUR: "2023-10-29 03:00:00",
        at(7, 1, 12, year=2024): "2024-07-01 14:00:00",
        at(12, 1, 12, year=2024): "2024-12-01 13:00:00",
    }
    for moment, stamp in stamps.items():
        said = [local[stamp][name] for name in ("temp", "rhum", "pres", "coco")]
        row = by_time[moment]
        names = ("temperature", "relative_humidity", "sealevel_air_pressure")
        assert [*(row[name] for name in names), row["weather_condition_code"]] == [
            float(text) if text else None for text in said
        ]
    assert autumn + HOUR not in by_time
