"""A simulated grid and its weather: sound, the same every time, and one with the readings."""

import json
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from meterlake.cli import app
from meterlake.dataflows.run import Scope, run_dataflow
from meterlake.delta.store import Store, open_store
from meterlake.errors import BadInput
from meterlake.questions.sql import query
from meterlake.settings import load_settings
from meterlake.simulate.grid import meters_of, simulate_grid
from meterlake.simulate.readings import ReadingsPlan, device_id, simulate_readings
from meterlake.simulate.weather import simulate_weather

NEAR = (47.61, -122.33)
NOW = datetime(2024, 6, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
CONF = load_settings(late_hooks=())
KINDS = {
    "power_grid",
    "substation",
    "voltage_control_zone",
    "distribution_transformer",
    "service_transformer",
    "smart_meter",
    "location",
}


@pytest.fixture
def lake(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "lake"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def nodes(folder: Path, kind: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / f"{kind}.json").read_text())
    return found


def command(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, [*arguments, "--output", "json"])
    assert result.exit_code == 0, result.output
    facts: dict[str, Any] = json.loads(result.stdout)
    return facts


def test_the_same_arguments_give_the_same_seven_files(tmp_path: Path) -> None:
    made = simulate_grid(40, NEAR, tmp_path / "a", seed=3)
    simulate_grid(99, NEAR, tmp_path / "b", seed=3)  # what was there is replaced
    simulate_grid(40, NEAR, tmp_path / "b", seed=3)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert set(made) == KINDS
    assert set(contents(tmp_path / "a")) == {f"{kind}.json" for kind in KINDS}
    simulate_grid(40, NEAR, tmp_path / "c", seed=4)
    assert contents(tmp_path / "a") != contents(tmp_path / "c")


@pytest.mark.parametrize("number", [1, 6, 7, 1000])
def test_so_many_meters_are_loaded_and_nothing_is_odd(
    tmp_path: Path, lake: Store, number: int
) -> None:
    made = simulate_grid(number, NEAR, tmp_path / "grid")
    assert made == {kind: len(nodes(tmp_path / "grid", kind)) for kind in KINDS}
    done = run_dataflow(lake, "topology", Scope(str(tmp_path / "grid")), settings=CONF, now=NOW)
    assert done.odd == ()
    assert query(lake, "select * from topology_findings").is_empty()
    ways = query(lake, "select * from meter_topology")
    assert set(ways["meter_id"]) == {device_id(index) for index in range(number)}
    assert ways.height == number
    assert sum(ways.drop("address").null_count().row(0)) == 0
    assert max(Counter(ways["service_transformer_id"]).values()) == min(number, 6)
    apart = ((ways["latitude"] - NEAR[0]) ** 2 + (ways["longitude"] - NEAR[1]) ** 2).sqrt()
    assert (apart < 0.1).all()


def test_a_grid_needs_a_meter_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="at least one meter, found 0"):
        simulate_grid(0, NEAR, tmp_path / "grid")
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="found the file"):
        simulate_grid(1, NEAR, tmp_path / "file")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_readings_without_a_topology_hang_as_the_simulated_grid_says(tmp_path: Path) -> None:
    command("simulate", "topology", "--meters", "100", "--near", "47.61,-122.33",
            "--out", str(tmp_path / "grid"))  # fmt: skip
    start = datetime(2024, 1, 1, tzinfo=UTC)
    times: dict[str, Any] = {"start": start, "end": start + timedelta(days=2)}
    plan = ReadingsPlan(devices=100, interval_minutes=60, **times)
    known = ReadingsPlan(
        devices=100, interval_minutes=60, meters=meters_of(tmp_path / "grid"), **times
    )
    for name, one in (("own", plan), ("topology", known)):
        simulate_readings(one, tmp_path / name / "out", truth=tmp_path / name / "truth.csv")
    assert contents(tmp_path / "own") == contents(tmp_path / "topology")


def test_readings_of_a_topology_are_those_of_its_meters_and_fail_by_its_transformers(
    tmp_path: Path,
) -> None:
    sizes = {f"pole {number}": number % 5 + 1 for number in range(60)}
    left = dict(sizes)
    meters: list[dict[str, str]] = []
    while left:  # the meters of a transformer do not follow each other
        for name in list(left):
            meters.append({"id": f"meter {len(meters)}", "serviceTransformerId": name})
            left[name] -= 1
            if not left[name]:
                del left[name]
    folder = tmp_path / "grid"
    folder.mkdir()
    (folder / "smart_meter.json").write_text(json.dumps(meters))
    facts = command(
        "simulate", "readings", "--topology", str(folder), "--out", str(tmp_path / "out"),
        "--start", "2024-01-01", "--end", "2024-04-01", "--interval-minutes", "60",
        "--file-every", "91d", "--truth", str(tmp_path / "truth.parquet"),
    )  # fmt: skip
    of = defaultdict(set)
    for meter in meters:
        of[meter["serviceTransformerId"]].add(meter["id"])
    truth = pl.read_parquet(tmp_path / "truth.parquet")
    assert facts["injected"] == truth.height
    outages = truth.filter(pl.col("kind") == "outage")
    seen = set()
    for (name, _), group in outages.group_by("transformer", "start"):
        assert sorted(group["meter_id"]) == sorted(of[str(name)])
        seen.add(group.height)
    assert len(seen) >= 4
    read = pl.concat([pl.read_csv(p) for p in (tmp_path / "out").iterdir()])
    assert set(read["device_id"]) == {meter["id"] for meter in meters}
    hours = (pl.col("end") - pl.col("start")).dt.total_hours()
    silent = truth.filter(pl.col("kind").is_in(["outage", "dead"])).select(hours.sum()).item()
    assert read.height == len(meters) * 24 * 91 - silent


@pytest.mark.parametrize(
    "text",
    [
        *(None, "", "[", "{}", "[]", "[1]", '[{"id": "a"}]'),
        '[{"id": "a", "serviceTransformerId": "t"}]',
    ],
)
def test_a_topology_without_enough_meters_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "smart_meter.json").write_text(text)
    with pytest.raises(BadInput, match=r"smart_meter\.json"):
        meters_of(tmp_path, most=2)


def test_simulated_weather_is_loaded_for_a_simulated_grid(tmp_path: Path, lake: Store) -> None:
    start, end = datetime(2023, 12, 30, tzinfo=UTC), datetime(2024, 1, 3, 5, tzinfo=UTC)
    made = simulate_weather(NEAR, start, end, tmp_path / "a")
    simulate_weather(NEAR, start, end, tmp_path / "b")
    hourly = {name: data for name, data in contents(tmp_path / "a").items() if "hourly" in name}
    assert set(hourly) == {"hourly/2023/SIM00.csv.gz", "hourly/2024/SIM00.csv.gz"}
    assert hourly.items() <= contents(tmp_path / "b").items()
    assert made == {"stations": 1, "files": 2, "rows": 101}
    simulate_grid(12, NEAR, tmp_path / "grid")
    source = str(tmp_path / "grid")
    run_dataflow(lake, "topology", Scope(source), settings=CONF, now=NOW)
    done = run_dataflow(lake, "weather", Scope(str(tmp_path / "a")), settings=CONF, now=NOW)
    assert (done.rows, done.odd) == (101, ())
    rows = query(lake, "select * from weather order by time")
    assert rows["time"].to_list() == [start + n * HOUR for n in range(101)]
    assert rows["sunshine_hours"].is_between(0, 1).all()
    assert rows.filter(pl.col("sunshine_hours") > 0).height > 0
    assert (rows["dew_point"] <= rows["temperature"] + 0.05).all()
    assert rows.drop("snow_depth").null_count().sum_horizontal().item() == 0
