"""Dataflows of other packages, their options, runs at once, and the command line."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from support.files_server import FilesServer
from support.grids import small_grid, write_grid
from typer.testing import CliRunner

from meterlake.cli import app
from meterlake.dataflows.registry import known_dataflows
from meterlake.dataflows.run import DataflowRun, Scope, run_dataflow
from meterlake.delta import commit as commits
from meterlake.delta import upsert
from meterlake.delta.commit import snapshot
from meterlake.delta.store import Store, open_store
from meterlake.engine.local import LocalEngine
from meterlake.errors import BadInput, Conflict
from meterlake.pipeline import upkeep
from meterlake.pipeline.derivation import Session
from meterlake.questions.sql import query
from meterlake.schema import KINDS, TOPOLOGY, WEATHER, Table
from meterlake.settings import load_settings
from meterlake.topology.upstream import topology_at, upstream_nodes

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
Command = Callable[..., tuple[int, str, str]]

PACKAGE = """
import polars as pl
from pydantic import SecretStr

from meterlake.dataflows.port import Dataflow, HistoryOptions, Loaded, Request
from meterlake.errors import BadInput
from meterlake.schema import Column, Table

PRICES = Table(
    name="prices",
    path="integrated/prices",
    meaning="Hourly prices",
    columns=(
        Column("zone", "string", "", "Bidding zone"),
        Column("time", "timestamp", "UTC", "Start of the hour"),
        Column("price", "double", "EUR/MWh", "Price"),
        Column("currency", "string", "", "Never told"),
        Column("date", "string", "", "UTC date"),
    ),
    partitioned_by=("date",),
    time_column="time",
    sorted_by=("zone", "time"),
)


class PriceOptions(HistoryOptions):
    api_key: SecretStr = SecretStr("")


def load(request: Request) -> Loaded:
    if request.options.api_key.get_secret_value() != "s3cret-key":
        raise BadInput("The key is wrong")
    rows = pl.read_csv(request.source, try_parse_dates=True).with_columns(
        pl.col("time").dt.replace_time_zone("UTC")
    )
    rows = rows.filter(pl.col("time").is_between(request.start, request.end, closed="left"))
    return Loaded({"prices": rows.with_columns(pl.col("time").dt.strftime("%F").alias("date"))})


FLOW = Dataflow("prices", "Prices of the day ahead", (PRICES,), load, options=PriceOptions)
"""
SETTINGS = '[dataflow.prices]\nsource = "prices.csv"\napi_key = "s3cret-key"\nsince = 2024-01-01\n'


@pytest.fixture
def installed(tmp_path: Path) -> Callable[..., None]:
    """Install a package of one module whose dataflow is at an entry point."""

    def install(python: str, point: str = "prices = our_prices:FLOW") -> None:
        (tmp_path / "our_prices.py").write_text(python)
        info = tmp_path / "our_prices-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: our-prices\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[meterlake.dataflows]\n{point}\n")

    return install


@pytest.fixture
def meterlake(tmp_path: Path) -> Command:
    """The real command in a process of its own."""

    def call(*arguments: str) -> tuple[int, str, str]:
        told = {k: v for k, v in os.environ.items() if not k.startswith(("METERLAKE_", "AWS_"))}
        done = subprocess.run(
            [str(Path(sys.executable).parent / "meterlake"), *arguments],
            cwd=tmp_path,
            env=told | {"PYTHONPATH": str(tmp_path), "COLUMNS": "200"},
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout, done.stderr

    return call


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("METERLAKE_LAKE", raising=False)

    def invoke(*arguments: str) -> tuple[int, str, str]:
        result = CliRunner().invoke(app, arguments)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    return invoke


def answer(out: str) -> Any:
    """The one JSON object that was printed."""
    (line,) = out.splitlines()
    return json.loads(line)


def test_a_dataflow_of_another_package_is_as_good_as_ours(
    installed: Callable[..., None], meterlake: Command, tmp_path: Path
) -> None:
    installed(PACKAGE)
    (tmp_path / "meterlake.toml").write_text(SETTINGS)
    (tmp_path / "prices.csv").write_text(
        "zone,time,price\nNO1,2023-12-31 23:00:00,1\nNO1,2024-01-01 00:00:00,2\n"
        "SE3,2024-01-02 00:00:00,\n"
    )
    everything = ""

    def call(*arguments: str) -> Any:
        nonlocal everything
        code, out, problem = meterlake(*arguments, "--output", "json")
        everything += out + problem
        assert (code, problem) == (0, "")
        return answer(out)

    flows = {f["dataflow"]: f for f in call("dataflow", "list")["dataflows"]}
    assert set(flows) == {"weather", "topology", "prices"}
    assert flows["prices"] == {
        "dataflow": "prices",
        "meaning": "Prices of the day ahead",
        "tables": "prices",
        "source": "prices.csv",
        "options": "source, since, reload_days, api_key",
    }
    done = call("dataflow", "run", "prices")
    assert (done["rows"], done["added"], done["attempts"]) == (2, 2, 1)
    sql = "select zone, price, currency, date from prices order by all"
    assert call("query", sql)["rows"] == [
        {"zone": "NO1", "price": 2.0, "currency": None, "date": "2024-01-01"},
        {"zone": "SE3", "price": None, "currency": None, "date": "2024-01-02"},
    ]
    states = {f["dataflow"]: f for f in call("dataflow", "status")["dataflows"]}
    assert (states["prices"]["outcome"], states["weather"]["outcome"]) == ("succeeded", "never run")
    tables = {t["table"]: t["rows"] for t in call("catalog")["tables"]}
    assert (tables["prices"], tables["dataflow_runs"]) == (2, 1)
    assert call("check")["findings"] == []
    call("settings")
    assert "s3cret" not in everything


@pytest.mark.parametrize(
    ("python", "point"),
    [
        ("import no_such_module", "prices = our_prices:FLOW"),
        ("", "prices = our_prices:FLOW"),
        ("FLOW = 7", "prices = our_prices:FLOW"),
        ("1 / 0", "prices = our_prices:FLOW"),
        (PACKAGE.replace('"integrated/prices"', '"integrated/weather"'), "p = our_prices:FLOW"),
        (PACKAGE.replace('Dataflow("prices"', 'Dataflow("weather"'), "p = our_prices:FLOW"),
    ],
    ids=["no import", "no flow", "no dataflow", "an error", "taken path", "taken name"],
)
def test_a_package_that_is_broken_is_named(
    installed: Callable[..., None], meterlake: Command, python: str, point: str
) -> None:
    installed(python, point)
    code, out, problem = meterlake("dataflow", "list")
    assert (code, out) == (1, "")
    assert problem.count("\n") == 1
    assert problem.startswith("meterlake: ")
    assert point.partition(" ")[0] in problem


@pytest.mark.parametrize("name", ["weather", "topology"])
def test_an_unknown_option_is_refused_with_the_known_ones(tmp_path: Path, name: str) -> None:
    flow = known_dataflows()[name]
    conf = load_settings(late_hooks=(), dataflow={name: {"sauce": "hot-secret"}})
    store = open_store(str(tmp_path / "lake"))
    with pytest.raises(BadInput) as said:
        run_dataflow(store, name, Scope(str(tmp_path)), settings=conf, now=NOW)
    assert f"Option 'sauce' of dataflow '{name}'" in str(said.value)
    assert ", ".join(flow.options.model_fields) in str(said.value)
    assert "hot-secret" not in str(said.value)


@pytest.mark.parametrize("output", ["table", "json"])
def test_the_settings_show_the_names_of_options_and_no_values(
    run: Command, tmp_path: Path, output: str
) -> None:
    (tmp_path / "meterlake.toml").write_text('[dataflow.ours]\nkey = "hush"\n[dataflow.b]\nc = 7\n')
    code, out, problem = run("settings", "--output", output)
    assert code == 0
    assert "hush" not in out + problem
    if output == "json":
        assert "ours.key, b.c" in out


@pytest.mark.parametrize("file", ["good.csv", "bad.csv", "nothing.csv"])
def test_a_password_in_a_sources_url_is_never_written(
    run: Command, tmp_path: Path, file: str
) -> None:
    (tmp_path / "good.csv").write_text("time,temp\n2024-01-01T00:00:00Z,1\n")
    (tmp_path / "bad.csv").write_text("time,temp\n2024-01-01T00:00:00Z,warm\n")
    with FilesServer(tmp_path) as server:
        source = server.url.replace("://", "://jane:hush@") + f"/{file}"
        code, out, problem = run("dataflow", "run", "weather", "--source", source)
        assert code == int(file != "good.csv")
        assert file in out + problem
        _, status, _ = run("dataflow", "status", "--output", "json")
    assert server.requests == [file]
    (row,) = query(open_store(str(tmp_path / "lake")), "select * from dataflow_runs").to_dicts()
    assert row["source"] == f"{server.url}/{file}"
    assert "hush" not in str(row) + problem + out + status


def at_once(*works: Callable[[], DataflowRun]) -> list[DataflowRun]:
    with ThreadPoolExecutor(len(works)) as pool:
        return [future.result() for future in [pool.submit(work) for work in works]]


@pytest.fixture
def conflicts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two runs at once plan each table's first change on the same version; one has to replan."""
    lost: list[str] = []
    met, barrier = set[tuple[str, int]](), threading.Barrier(2, timeout=60)

    def both(store: Store, table: Table, *change: Any, **options: Any) -> Any:
        first = (table.name, threading.get_ident())
        if table.name != "dataflow_runs" and first not in met:
            met.add(first)
            barrier.wait()
        try:
            return commits.commit(store, table, *change, **options)
        except Conflict:
            lost.append(table.name)
            raise

    monkeypatch.setattr(upsert, "commit", both)
    return lost


def test_two_runs_at_once_of_weather_leave_the_rows_of_both(
    store: Store, tmp_path: Path, conflicts: list[str]
) -> None:
    (tmp_path / "a.csv").write_text("time,temp\n2024-05-01T00:00:00Z,1\n2024-05-02T00:00:00Z,2\n")
    (tmp_path / "b.csv").write_text("time,temp\n2024-05-02T00:00:00Z,2\n2024-05-02T01:00:00Z,3\n")
    conf = load_settings(late_hooks=(), dataflow={"weather": {"stations": ["S"]}})

    def load(name: str) -> Callable[[], DataflowRun]:
        source = str(tmp_path / name)
        return lambda: run_dataflow(store, "weather", Scope(source), settings=conf, now=NOW)

    runs = at_once(load("a.csv"), load("b.csv"))
    assert set(conflicts) == {"weather"}
    assert sorted((r.added, r.changed) for r in runs) == [(1, 0), (2, 0)]
    rows = query(store, "select time, temperature from weather order by all")
    assert rows.height == snapshot(store, WEATHER).rows == 3
    assert rows["temperature"].to_list() == [1.0, 2.0, 3.0]
    assert query(store, "select outcome from dataflow_runs").rows() == [("succeeded",)] * 2


def test_two_runs_at_once_of_topology_leave_each_state_once(
    store: Store, tmp_path: Path, conflicts: list[str]
) -> None:
    source = str(write_grid(tmp_path / "grid", small_grid(m1="t1", m2="t2")))
    conf = load_settings(late_hooks=())

    def load() -> DataflowRun:
        return run_dataflow(store, "topology", Scope(source), settings=conf, now=NOW)

    runs = at_once(load, load)
    assert set(conflicts) == {"topology"}
    assert sorted(r.added for r in runs) == [0, runs[0].rows]
    nodes = topology_at(store, NOW)
    assert all(nodes[kind].height for kind in KINDS)
    assert snapshot(store, TOPOLOGY).rows == sum(of.height for of in nodes.values())
    assert upstream_nodes(nodes)["meter_id"].to_list() == ["m1", "m2"]
    assert query(store, "select outcome from dataflow_runs").rows() == [("succeeded",)] * 2
    assert upkeep.check(Session(store, LocalEngine(1), load_settings(), NOW)).findings == ()


def test_the_command_line_says_what_a_dataflow_can_be_told(run: Command, tmp_path: Path) -> None:
    for arguments, words in [
        (["weather", "--at", "2024-01-01"], "give --from and --to, not --at"),
        (["topology", "--from", "2024-01-01", "--source", "."], "give --at, not --from"),
        (["topology", "--to", "2024-01-01", "--source", "."], "give --at, not --from"),
        (["topology"], "needs a source: give --source"),
        (["wether"], "one of weather, topology; found 'wether'"),
        (["weather", "--from", "2024-02-01", "--to", "2024-02-01"], "needs to be before --to"),
        (["weather", "--from", "soon"], "--from needs a date or time"),
    ]:
        code, out, problem = run("dataflow", "run", *arguments, "--output", "json")
        assert (code, out) == (1, ""), arguments
        assert words in problem
        assert problem.count("\n") == 1
    assert not list((tmp_path / "lake").rglob("*.parquet"))


def test_each_command_prints_one_json_object(run: Command, tmp_path: Path) -> None:
    grid = small_grid(m1="t1")
    grid["smart_meter"][0]["locationId"] = ""
    write_grid(tmp_path / "grid", grid)
    (tmp_path / "w.csv").write_text("time,temp\n2024-01-01T00:00:00Z,1\n2024-02-01T00:00:00Z,2\n")
    flows = ["dataflow", "run"]
    code, out, problem = run(
        *flows, "topology", "--source", "grid", "--at", "2024-01-01", "--output", "json"
    )
    facts = answer(out)
    assert (code, problem) == (0, "")
    assert facts.pop("seconds") > 0
    assert facts == {
        "dataflow": "topology",
        "window_end": "2024-01-01T00:00:00Z",
        "source": "grid",
        "rows": 12,
        "added": 12,
        "changed": 0,
        "ended": 0,
        "attempts": 1,
        "odd": [{"reason": "1 x smart_meter: no reference"}],
    }
    window = ["--from", "2024-01-15", "--to", "2024-03-01T06:00Z"]
    code, out, problem = run(
        *flows, "weather", "--source", "w.csv", *window, "--output", "json"
    )  # fmt: skip
    facts = answer(out)
    assert (code, problem) == (0, "")
    assert (facts["window_start"], facts["window_end"], facts["added"]) == (
        "2024-01-15T00:00:00Z", "2024-03-01T06:00:00Z", 1,
    )  # fmt: skip
    code, out, _ = run(*flows, "weather", "--source", "gone.csv", "--output", "json")
    assert (code, out) == (1, "")
    code, out, _ = run("dataflow", "status", "--output", "json")
    states = {f["dataflow"]: f for f in answer(out)["dataflows"]}
    assert states["topology"]["failures_since"] == 0
    weather = states["weather"]
    assert (weather["outcome"], weather["failures_since"]) == ("failed", 1)
    assert weather["loaded_until"] == "2024-03-01T06:00:00Z"
    assert "gone.csv" in weather["message"]
    rows = query(open_store(str(tmp_path / "lake")), "select temperature from weather")
    assert rows.equals(pl.DataFrame({"temperature": [2.0]}))
