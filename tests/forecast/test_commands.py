"""The commands: what they print, and errors that say what to do; the calendar and the weather."""

import json
import sys
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from support import ml
from support.ml import DAY, HOUR, NOW, START, wall
from typer.testing import CliRunner

from meterlake import cli
from meterlake.delta.store import Store, open_store
from meterlake.delta.upsert import replace_rows
from meterlake.engine.local import LocalEngine
from meterlake.errors import BadInput
from meterlake.forecast import models
from meterlake.forecast.calendar import days_off, holidays_of
from meterlake.forecast.forecasts import forecast_meters
from meterlake.forecast.temperature import daily_temperature, hourly_temperature
from meterlake.forecast.training import TrainResult, train
from meterlake.periods import LocalHours, periods
from meterlake.questions.sql import query
from meterlake.schema import WEATHER, polars_schema

END = START + 150 * DAY


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in (("ML__TRAIN_ROWS", "4000"), ("WORKERS", "1")):
        monkeypatch.setenv(f"METERLAKE_{name}", value)


def told(store: Store, *args: str) -> Any:
    """What a command prints as JSON."""
    words = [*args, "--lake", store.url, "--output", "json"]
    result = CliRunner().invoke(cli.app, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    return found.get("rows", found)


def refused(store: Store, *args: str) -> str:
    """The error of a command that is refused."""
    result = CliRunner().invoke(cli.app, [*args, "--lake", store.url])
    assert result.exit_code not in (0, 70) and "Traceback" not in result.output, result.output
    return " ".join(result.output.replace("│", " ").split())


def test_the_path_from_training_to_anomalies(untrained: Store) -> None:
    done = told(untrained, "train", "--window-days", "140")
    assert set(done) >= {
        "model", "is_current", "trained_from", "trained_until", "meters", "rows_learnt_from",
        "held_out_weeks", "wql", "nd", "coverage", "model_before", "seconds",
    }  # fmt: skip
    assert done["is_current"] is True and done["meters"] == 14
    assert done["trained_from"].startswith("2024-01-11")
    listed = told(untrained, "models")
    assert [(row["name"], row["is_current"]) for row in listed] == [(done["model"], True)]
    batch = told(untrained, "forecast", "--all", "--start", "2024-05-20")
    assert {k: batch[k] for k in ("model", "meters", "nodes", "is_new")} == {
        "model": done["model"], "meters": 14, "nodes": 0, "is_new": True
    }  # fmt: skip
    assert batch["start"].startswith("2024-05-20")
    assert told(untrained, "forecast", "--all", "--start", "2024-05-20")["is_new"] is False
    rows = told(untrained, "forecast", "m03", "--start", "2024-05-20")
    assert len(rows) == 168
    assert set(rows[0]) == {
        "meter_id", "forecast_start", "date_time", "mean", "p10", "p50", "p90", "model_name"
    }  # fmt: skip
    stored = query(
        untrained, "SELECT mean FROM forecasts WHERE meter_id = 'm03' ORDER BY date_time"
    )
    assert [row["mean"] for row in rows] == stored["mean"].to_list()
    found = told(untrained, "detect")
    assert found["judged"] > 1000 and found["model"] == done["model"]
    odd = told(untrained, "anomalies", "--from", "2024-03-01", "--to", "2024-04-01")
    assert all("2024-03-01" <= row["ds"] < "2024-04-01" for row in odd)
    importance = [row["importance"] for row in odd]
    assert importance == sorted(importance, reverse=True) and odd
    one = told(untrained, "anomalies", odd[0]["meter_id"], "--limit", "1")
    assert len(one) == 1 and one[0]["meter_id"] == odd[0]["meter_id"]


@pytest.mark.proof
def test_backtest_says_every_origin(lake: Store) -> None:
    done = told(lake, "backtest", "--origins", "2", "--horizon", "168")
    assert set(done["wql_by_origin"]) == {"2024-05-16T00:00", "2024-05-23T00:00"}
    assert 0 < done["wql"] < done["wql_of_last_week_again"] and 0.7 < done["coverage"] < 0.9
    assert done["values"] == 2 * 14 * 168


def test_one_model_is_made_current_by_name(lake: Store, first: TrainResult) -> None:
    other = train(
        lake, engine=LocalEngine(1), settings=ml.settings(train_rows=3000), now=NOW, force=True
    )
    rows = told(lake, "models", "--use", first.name)
    assert {row["name"]: row["is_current"] for row in rows} == {first.name: True, other.name: False}
    assert told(lake, "forecast", "--all")["model"] == first.name
    assert told(lake, "forecast", "--all", "--use", other.name)["model"] == other.name
    assert told(lake, "detect", "--use", other.name)["model"] == other.name
    rows = told(lake, "models", "--forget", other.name)
    assert [(row["name"], row["is_current"]) for row in rows] == [(first.name, True)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["forecast"], "needs a meter id, or --all; found neither"),
        (["forecast", "m01", "--all"], "needs a meter id, or --all; found both"),
        (["forecast", "--all", "--output", "csv"], "--output table or json; found csv"),
        (["forecast", "--all", "--start", "soon"], "--start"),
        (["forecast", "m01", "--use", "no-such"], "There is no model 'no-such'; the lake has:"),
        (["forecast", "m99"], "found none of meter 'm99'. Which meters there are"),
        (["backtest", "--horizon", "24"], "--horizon needs to be 168; found 24"),
        (["backtest", "--origins", "20"], "Give fewer --origins"),
        (["forecast", "--all", "--start", "2024-05-20+02:00"], "--start needs a date or time"),
        (["models", "--use", "no-such"], "There is no model 'no-such'"),
        (["models", "--forget", "no-such"], "There is no model 'no-such'"),
        (["anomalies"], "no anomalies yet. Detect them: meterlake detect"),
    ],
)
def test_a_wrong_command_says_what_is_right(
    words: list[str], message: str, with_model: tuple[Path, TrainResult]
) -> None:
    assert message in refused(open_store(str(with_model[0])), *words)


def test_without_a_model_the_commands_say_what_makes_one(filled: Path) -> None:
    untrained = open_store(str(filled))
    for words in (["forecast", "--all"], ["forecast", "m01"], ["detect"]):
        assert "no model yet. Train one: meterlake train" in refused(untrained, *words)


def test_a_missing_package_is_named_with_its_extra(
    lake: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "threadpoolctl", None)
        patch.delitem(sys.modules, "meterlake.forecast.networks")
        for words in (["train"], ["backtest"], ["forecast", "--all"], ["forecast", "m01"]):
            assert "pip install 'meterlake[ml]'" in refused(lake, *words)
    monkeypatch.setitem(sys.modules, "holidays", None)
    monkeypatch.setenv("METERLAKE_ML__COUNTRY", "AU")
    message = refused(lake, "forecast", "m01")
    assert "Public holidays need the package holidays: pip install 'meterlake[ml]'" in message


# --- the calendar


def test_holidays_are_those_of_the_country_and_its_part() -> None:
    assert holidays_of("AU", "NSW")(date(2024, 1, 26)) and holidays_of("GB")(date(2024, 12, 25))
    assert holidays_of("AU", "VIC")(date(2024, 11, 5))  # Melbourne Cup Day
    assert not holidays_of("AU", "NSW")(date(2024, 11, 5))
    assert not holidays_of(None)(date(2024, 12, 25))
    is_off = days_off(holidays_of("AU", "VIC"))
    assert is_off(date(2024, 11, 5)) and is_off(date(2024, 11, 9)) and not is_off(date(2024, 11, 6))


@pytest.mark.parametrize(
    ("country", "part", "message"),
    [
        ("XX", None, "ISO 3166 codes"),
        ("AU", "XYZ", "'AU' and 'XYZ'"),
        (None, "NSW", "ml.subdivision needs ml.country; found 'NSW' alone"),
    ],
)
def test_a_country_that_nobody_knows_is_refused(
    country: str | None, part: str | None, message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        holidays_of(country, part)


# --- the weather


def weather(store: Store, start: datetime, values: dict[str, list[float | None]]) -> None:
    types = polars_schema(WEATHER)
    rows = [
        {
            "station_id": station, "time": start + h * HOUR, "temperature": value,
            "date": f"{start + h * HOUR:%Y-%m-%d}",
        }
        for station, series in values.items()
        for h, value in enumerate(series)
    ]  # fmt: skip
    frame = pl.DataFrame(rows, schema_overrides={"temperature": pl.Float64, "time": types["time"]})
    missing = [
        pl.lit(None, types[c.name]).alias(c.name)
        for c in WEATHER.columns
        if c.name not in frame.columns
    ]
    replace_rows(
        store, WEATHER, frame.with_columns(missing).select(c.name for c in WEATHER.columns),
        job="test", now=NOW,
    )  # fmt: skip


def test_the_temperature_of_an_hour_is_the_mean_of_all_stations(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "lake"))
    hours = LocalHours("UTC", wall(2024, 1, 2), 24)
    assert hourly_temperature(store, hours) is None
    assert daily_temperature(store, periods("UTC", "day", START, START + DAY)) is None
    weather(store, START, {"a": [float(h) for h in range(72)], "b": [10.0] * 30 + [None] * 42})
    found = hourly_temperature(store, hours)
    assert found is not None and len(found) == 24 + 168
    expected = [(h + 10) / 2 if h < 30 else float(h) for h in range(24, 72)]
    assert found[:48].tolist() == expected
    assert np.isnan(found[48:]).all()
    days = daily_temperature(store, periods("UTC", "day", START, START + 4 * DAY))
    assert days is not None
    assert days[:3].tolist() == pytest.approx([10.75, sum(expected[:24]) / 24, 59.5])
    assert np.isnan(days[3])


@pytest.mark.proof
def test_weather_is_a_feature_where_there_is_some_and_it_is_wanted(untrained: Store) -> None:
    hour = np.arange(157 * 24)
    series = 15 - 10 * np.cos(2 * np.pi * hour / 8760) + 3 * np.sin(2 * np.pi * hour / 24)
    engine, without, with_it = LocalEngine(1), ml.settings(), ml.settings(use_weather=True)
    no_weather = train(untrained, engine=engine, settings=with_it, now=NOW)
    assert not models.load(untrained, no_weather.name).forecaster.uses_temperature
    weather(untrained, START, {"a": series.tolist()})
    unused = train(untrained, engine=engine, settings=without, now=NOW)
    texts = [
        models.load(untrained, name).forecaster.to_files()
        for name in (unused.name, no_weather.name)
    ]
    assert texts[0] == texts[1]
    used = train(untrained, engine=engine, settings=with_it, now=NOW, force=True)
    assert models.load(untrained, used.name).forecaster.uses_temperature
    a = forecast_meters(untrained, ["m01"], settings=with_it, use=used.name)
    b = forecast_meters(untrained, ["m01"], settings=without, use=used.name)  # it is not known then
    assert a.height == b.height == 168 and b["mean"].is_finite().all()
