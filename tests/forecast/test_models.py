"""Models as they are stored, which one is current, and the gate before a new one is."""

import json
import math
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forecast.test_scores import by_hand
from support import ml
from support.ml import DAY, NOW, START, Energy, wall

from meterlake.delta.check import Finding
from meterlake.delta.store import Store, open_store
from meterlake.engine.local import LocalEngine
from meterlake.errors import BadInput, MeterlakeError
from meterlake.forecast import models, networks, training
from meterlake.forecast.features import CONTEXT, HORIZON
from meterlake.forecast.learning import day_off_of
from meterlake.forecast.models import choose, forget
from meterlake.forecast.training import TrainResult, backtest, train
from meterlake.pipeline.derivation import Session
from meterlake.pipeline.upkeep import check, vacuum
from meterlake.questions.sql import query
from meterlake.settings import Settings, load_settings

ENGINE = LocalEngine(1)
FILES = ["card.json", "inputs.json", "model.json", "net_1.json", "net_2.json"]


def current(store: Store) -> str:
    return models.load(store).name


# --- what is stored


def test_a_model_is_text_and_its_card_says_what_made_it(
    lake: Store, first: TrainResult, conf: Settings
) -> None:
    folder = f"ml/models/{first.name}"
    found = [f.path for f in lake.list("ml/models") if first.name in f.path]
    assert sorted(path.rsplit("/", 1)[-1] for path in found) == sorted(FILES)
    for name in FILES:
        text = lake.read(f"{folder}/{name}").decode("ascii")
        assert json.loads(text)
    card = json.loads(lake.read(f"{folder}/card.json"))
    row = models.listed(lake).row(0, named=True)
    assert card["name"] == row["name"] == first.name
    assert card["trained_from"] == START.isoformat() == row["trained_from"].isoformat()
    assert card["trained_until"] == (START + 150 * DAY).isoformat()
    assert card["settings"] == conf.ml.model_dump(mode="json")
    assert card["kind"] == conf.ml.forecaster == "networks"
    assert card["scores"]["wql"] == row["wql"] == first.scores.wql
    assert card["rows"] == row["rows"] == first.rows and row["held_out_weeks"] == 4
    assert card["readings_version"] == row["readings_version"]
    assert set(card["features"]) >= {"week_1", "is_day_off", "log_scale"} and card["code_version"]
    assert row["wql_before"] is None and first.is_current and first.no_band is None


@pytest.mark.parametrize("file", FILES)
def test_a_flipped_byte_is_refused(file: str, lake: Store, first: TrainResult) -> None:
    path = f"ml/models/{first.name}/{file}"
    data = bytearray(lake.read(path))
    data[len(data) // 2] ^= 1
    lake.put(path, bytes(data))
    with pytest.raises(BadInput, match=rf"{file} needs to be as it was stored, SHA-256"):
        models.load(lake)


@pytest.mark.parametrize("file", ["card.json", "net_2.json"])
def test_a_file_that_is_gone_is_named(file: str, lake: Store, first: TrainResult) -> None:
    lake.delete(f"ml/models/{first.name}/{file}")
    with pytest.raises(MeterlakeError, match=file):
        models.load(lake)


def test_a_model_is_known_by_its_name_alone(lake: Store, first: TrainResult) -> None:
    assert models.load(lake, first.name).card == models.load(lake).card
    with pytest.raises(BadInput, match=f"no model 'another'; the lake has: {first.name}"):
        models.load(lake, "another")
    with pytest.raises(BadInput, match="no model 'another'"):
        choose(lake, "another", now=NOW)


def test_a_lake_without_a_model_says_what_makes_one(untrained: Store) -> None:
    with pytest.raises(BadInput, match=r"no model yet\. Train one: meterlake train"):
        models.load(untrained)
    with pytest.raises(BadInput, match="no model 'x'; the lake has: none"):
        models.load(untrained, "x")


def test_the_same_lake_gives_the_same_model_and_one_row(
    lake: Store, first: TrainResult, conf: Settings
) -> None:
    before = models.listed(lake)
    for file in lake.list(f"ml/models/{first.name}")[::2]:
        lake.delete(file.path)
    again = train(lake, engine=ENGINE, settings=conf, now=NOW + DAY)
    assert again.name == first.name and again.scores == first.scores and again.is_current
    assert models.listed(lake).equals(before) and before.height == 1
    assert models.load(lake).name == first.name  # its files are there again
    workers = conf.model_copy(update={"workers": 2})
    assert train(lake, engine=LocalEngine(2), settings=workers, now=NOW).name == first.name


# --- which one is current


def test_the_one_chosen_last_is_current(lake: Store, first: TrainResult) -> None:
    few = ml.settings(train_rows=1000)
    other = train(lake, engine=ENGINE, settings=few, now=NOW + DAY, force=True)
    assert other.name != first.name and current(lake) == other.name
    choose(lake, first.name, now=NOW + 2 * DAY)
    assert current(lake) == first.name and models.listed(lake).height == 2
    assert models.load(lake, other.name).name == other.name


def test_where_both_have_held_out_the_same_weeks_these_compare_them(
    lake: Store, first: TrainResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "_MOST_STEPS", 1)
    worse = train(lake, engine=ENGINE, settings=ml.settings(train_rows=1000), now=NOW + DAY)
    assert worse.wql_before == first.scores.wql < worse.scores.wql
    assert not worse.is_current and current(lake) == first.name


def test_where_the_current_one_has_seen_all_weeks_the_newer_is_taken(
    lake: Store, first: TrainResult, conf: Settings
) -> None:
    newer = train(lake, engine=ENGINE, settings=ml.settings(window_days=70), now=NOW + DAY)
    assert newer.name != first.name and newer.held_out_weeks == 2
    assert newer.before == first.name and newer.wql_before is None
    assert newer.is_current and current(lake) == newer.name


def test_one_that_becomes_current_while_another_is_trained_is_what_it_is_compared_with(
    lake: Store, first: TrainResult, conf: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a choice is the last one, though its training began before the other's."""
    grow(lake, conf, 28)
    saved = models.save
    inner: list[TrainResult] = []
    began: list[bool] = []

    def meanwhile(*args: Any) -> tuple[str, str]:
        found = saved(*args)
        if not began:
            began.append(True)
            inner.append(train(lake, engine=ENGINE, settings=conf, now=NOW + 2 * DAY, force=True))
        return found

    monkeypatch.setattr(models, "save", meanwhile)
    few = ml.settings(train_rows=1000)
    done = train(lake, engine=ENGINE, settings=few, now=NOW + DAY, force=True)
    (between,) = inner
    assert between.before == first.name
    assert done.before == between.name != done.name
    assert done.wql_before == between.scores.wql
    assert done.is_current and current(lake) == done.name


def test_a_model_that_is_not_current_can_be_forgotten(lake: Store, first: TrainResult) -> None:
    with pytest.raises(BadInput, match=r"is the current one\. Make another one current first"):
        forget(lake, first.name, now=NOW)
    with pytest.raises(BadInput, match="no model 'another'"):
        forget(lake, "another", now=NOW)
    few = ml.settings(train_rows=1000)
    other = train(lake, engine=ENGINE, settings=few, now=NOW + DAY, force=True)
    lake.delete(f"ml/models/{first.name}/card.json")
    assert len(wrong(lake)) == 1
    forget(lake, first.name, now=NOW + DAY)
    assert models.listed(lake)["name"].to_list() == [other.name] == [current(lake)]
    assert wrong(lake) == []
    kept = [f.path for f in lake.list(f"ml/models/{first.name}")]
    for path in kept:
        os.utime(f"{lake.url}/{path}", (0, 0))  # the version that needs them is younger
    vacuum(Session(lake, ENGINE, load_settings(), datetime.now(UTC)), retain=DAY)
    assert [f.path for f in lake.list(f"ml/models/{first.name}")] == kept
    later = datetime.now(UTC) + 30 * DAY
    told = vacuum(Session(lake, ENGINE, load_settings(), later), retain=DAY, dry_run=True)
    assert vacuum(Session(lake, ENGINE, load_settings(), later), retain=DAY) == told
    assert lake.list(f"ml/models/{first.name}") == []
    assert current(lake) == other.name


def test_what_a_training_left_that_was_cut_off_goes_when_it_is_old(
    lake: Store, first: TrainResult
) -> None:
    for file in lake.list(f"ml/models/{first.name}"):
        lake.put(file.path.replace(first.name, "cut-off"), lake.read(file.path))
    left = {f.path for f in lake.list("ml/models/cut-off")}
    held = {f.path for f in lake.list("ml")} - left
    assert wrong(lake) == []
    now = datetime.now(UTC)
    assert vacuum(Session(lake, ENGINE, load_settings(), now + DAY / 2), retain=DAY).orphans == 0
    assert vacuum(Session(lake, ENGINE, load_settings(), now + 2 * DAY), retain=DAY).orphans == len(
        left
    )
    assert {f.path for f in lake.list("ml")} == held
    assert models.load(lake).name == first.name


# --- what check says


def wrong(store: Store) -> list[Finding]:
    """What a check finds of the models; this lake has no staging, which it finds too."""
    found = check(Session(store, ENGINE, load_settings(), NOW)).findings
    return [f for f in found if f.table == "models"]


def flipped(store: Store, path: str) -> None:
    data = bytearray(store.read(path))
    data[len(data) // 2] ^= 1
    store.put(path, bytes(data))


def test_a_check_finds_each_file_of_a_model_that_is_not_what_was_stored(
    lake: Store, first: TrainResult
) -> None:
    card, _, gone, other, swapped = sorted(f.path for f in lake.list(f"ml/models/{first.name}"))
    lake.put(swapped, lake.read(other))
    flipped(lake, other)
    lake.delete(gone)
    missing, bytes_ = "the file is missing", "its bytes are not those that were written"
    way_out = "restore it, or train again and forget it: meterlake train; meterlake models --forget"
    assert [(f"ml/models/{f.path}", f.problem) for f in wrong(lake)] == [
        (path, f"{problem}; {way_out} {first.name}")
        for path, problem in ((gone, missing), (other, bytes_), (swapped, bytes_))
    ]
    flipped(lake, card)  # which says what the others are to be
    (finding,) = wrong(lake)
    assert (finding.path, finding.problem.split(";")[0]) == (f"{first.name}/card.json", bytes_)


def grow(store: Store, conf: Settings, days: int, meters: int = 14) -> None:
    """More days of the same fleet."""
    whole = ml.fleet(meters, 150 + days)[:, 150 * 24 :]
    ml.fill(store, ml.readings(ml.by_meter(ml.names(meters), whole), START + 150 * DAY))


def test_a_worse_model_does_not_become_current_but_by_force(
    lake: Store, first: TrainResult, conf: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    grow(lake, conf, 28)
    monkeypatch.setattr(networks, "_LEARNING_RATE", 3.0)
    bad = train(lake, engine=ENGINE, settings=conf, now=NOW + DAY)
    row = query(lake, f"SELECT * FROM models WHERE name = '{bad.name}'").row(0, named=True)
    assert bad.wql_before is not None and bad.scores.wql > bad.wql_before
    assert (row["wql"], row["wql_before"]) == (bad.scores.wql, bad.wql_before)
    assert not bad.is_current and row["chosen_at"] is None
    assert bad.before == first.name == current(lake)
    assert models.load(lake, bad.name).name == bad.name  # it can still be pinned
    forced = train(lake, engine=ENGINE, settings=conf, now=NOW + 2 * DAY, force=True)
    assert forced.name == bad.name == current(lake) and forced.is_current


def test_one_that_cannot_be_loaded_is_not_compared_with(
    lake: Store, first: TrainResult, conf: Settings
) -> None:
    flipped(lake, f"ml/models/{first.name}/net_1.json")
    other = conf.model_copy(update={"ml": conf.ml.model_copy(update={"train_rows": 3000})})
    newer = train(lake, engine=ENGINE, settings=other, now=NOW + DAY)
    assert newer.compared_by == "nothing: the model before cannot be loaded"
    assert newer.is_current and current(lake) == newer.name != first.name


def test_one_of_another_zone_is_replaced(lake: Store, first: TrainResult) -> None:
    """Else nothing could be forecast by the new zone, however often it is trained."""
    newer = train(lake, engine=ENGINE, settings=ml.settings("Europe/London"), now=NOW + DAY)
    assert newer.compared_by == "nothing: the model before is of hours in UTC"
    assert newer.before == first.name and newer.wql_before is None
    assert newer.is_current and current(lake) == newer.name


def test_one_without_a_band_does_not_replace_one_that_has_it(
    lake: Store, first: TrainResult, conf: Settings
) -> None:
    short = train(lake, engine=ENGINE, settings=ml.settings(window_days=21), now=NOW + DAY)
    assert short.no_band is not None and "found " in short.no_band
    assert short.compared_by.startswith("the band for anomalies, which the model before has")
    assert not short.is_current and current(lake) == first.name
    card = models.load(lake, short.name).card
    assert card["settings"]["window_days"] == 21  # and not what is usual
    few = ml.settings(window_days=21)
    forced = train(lake, engine=ENGINE, settings=few, now=NOW + 2 * DAY, force=True)
    assert forced.is_current and current(lake) == short.name


@pytest.mark.parametrize(
    ("wql", "before", "is_better"),
    [(0.3, 0.3, True), (0.3, 0.2, False), (0.3, math.nan, True), (math.nan, 0.3, True)],
)
def test_a_loss_that_tells_nothing_keeps_no_model_back(
    wql: float, before: float, is_better: bool
) -> None:
    assert training._Compared("weeks", wql, before).is_better is is_better


def test_a_better_model_becomes_current(lake: Store, conf: Settings) -> None:
    grow(lake, conf, 28)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "_MOST_STEPS", 1)
        few = ml.settings(train_rows=1000)
        poor = train(lake, engine=ENGINE, settings=few, now=NOW + DAY, force=True)
    grow(lake, conf, 56)
    better = train(lake, engine=ENGINE, settings=conf, now=NOW + 2 * DAY)
    assert better.before == poor.name and better.wql_before is not None
    assert better.is_current and current(lake) == better.name
    assert better.scores.wql < better.wql_before


def test_models_are_compared_on_the_same_weeks(
    lake: Store, conf: Settings, first: TrainResult
) -> None:
    """The one week that the current model has not seen is an easy one: nobody is worse for it."""
    usual = ml.fleet(14, 157, noise=0.0)[:, 150 * 24 :]
    ml.fill(lake, ml.readings(ml.by_meter(ml.names(14), usual), START + 150 * DAY))
    newer = train(lake, engine=ENGINE, settings=conf, now=NOW + DAY)
    assert newer.wql_before is not None and newer.wql_compared is not None
    assert newer.wql_compared <= newer.wql_before  # of one week, and not of the four
    assert newer.wql_compared != newer.scores.wql
    assert newer.is_current


# --- what is said of them


def test_the_scores_of_a_backtest_are_those_of_the_oracle(
    lake: Store, energy: Energy, conf: Settings
) -> None:
    """By a model of the readings before the last two weeks, forecast and scored by hand."""
    done = backtest(lake, engine=ENGINE, settings=conf, origins=2)
    until = 150 * 24 - 2 * HORIZON
    alike = open_store(f"{lake.url}-alike")
    ml.fill(alike, ml.readings(ml.by_meter(ml.names(14), energy[:, :until])))
    train(alike, engine=ENGINE, settings=conf, now=NOW)
    forecaster = models.load(alike).forecaster
    actual: list[float] = []
    quantiles: dict[str, list[float]] = {"p10": [], "p50": [], "p90": []}
    before: list[float] = []
    for origin, (start, scores) in zip((until, until + HORIZON), done.by_origin, strict=True):
        at = wall(2024, 1, 1) + timedelta(hours=origin)
        context = energy[:, origin - CONTEXT : origin].astype(np.float32)
        found = forecaster.forecast(context, at, day_off_of(conf.ml))
        was = energy[:, origin : origin + HORIZON].reshape(-1).tolist()
        here = {name: found[name].reshape(-1).tolist() for name in quantiles}
        assert start == at
        told = (scores.wql, scores.nd, scores.coverage, scores.values)
        assert told == pytest.approx(by_hand(was, here), rel=1e-4)
        actual += was
        for name, values in quantiles.items():
            values += here[name]
        before += energy[:, origin - HORIZON : origin].reshape(-1).tolist()
    told = (done.all.wql, done.all.nd, done.all.coverage, done.all.values)
    assert told == pytest.approx(by_hand(actual, quantiles), rel=1e-4)
    naive = by_hand(actual, dict.fromkeys(quantiles, before))
    assert (done.naive.wql, done.naive.nd) == pytest.approx(naive[:2], rel=1e-4)
    assert done.all.wql < done.naive.wql


def test_training_takes_so_many_meters_evenly_and_a_window(
    lake: Store, conf: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meterlake.forecast.training._RANGE_METERS", 2)
    few = ml.settings(train_meters=6, window_days=60)
    done = train(lake, engine=ENGINE, settings=few, now=NOW)
    assert done.meters == 6
    assert done.trained_from == START + 90 * DAY and done.trained_until == START + 150 * DAY


def test_too_few_days_are_said(tmp_path: Path, conf: Settings) -> None:
    store = open_store(str(tmp_path / "lake"))
    with pytest.raises(BadInput, match="need readings of type kw; the lake has none"):
        train(store, engine=ENGINE, settings=conf, now=NOW)
    ml.fill(store, ml.readings(ml.by_meter(ml.names(3), ml.fleet(3, 20))))
    with pytest.raises(BadInput, match="needs 21 days of readings of type kw or more; found 20"):
        train(store, engine=ENGINE, settings=conf, now=NOW)
    whole: Any = ml.fleet(3, 21)[:, 20 * 24 :]
    ml.fill(store, ml.readings(ml.by_meter(ml.names(3), whole), START + 20 * DAY))
    assert train(store, engine=ENGINE, settings=conf, now=NOW).is_current
