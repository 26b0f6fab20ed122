"""Days judged: by what was before them alone, each once, and again where its energy changed."""

import shutil
from collections.abc import Collection
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from support import ml
from support.ml import DAY, NOW, START, Energy

from meterlake.delta.commit import snapshot
from meterlake.delta.store import Store, open_store
from meterlake.engine.local import LocalEngine
from meterlake.errors import BadInput
from meterlake.forecast import detection as job
from meterlake.forecast.bands import HISTORY, KINDS, Band, MeterDays, fit_band, judge
from meterlake.forecast.detection import Detected, detect
from meterlake.forecast.learning import day_off_of
from meterlake.forecast.models import choose
from meterlake.forecast.training import TrainResult, train
from meterlake.periods import periods
from meterlake.pipeline.derivation import Session
from meterlake.pipeline.runner import open_run
from meterlake.questions.sql import query
from meterlake.schema import ANOMALIES, CONSUMPTION_DAILY
from meterlake.settings import MlSettings, Settings

ENGINE = LocalEngine(1)
IS_OFF = day_off_of(MlSettings())


def judged(store: Store, where: str = "true") -> pl.DataFrame:
    return query(store, f"SELECT * FROM anomalies WHERE {where} ORDER BY meter_id, ds")


def run(store: Store, conf: Settings, **options: object) -> Detected:
    return detect(Session(store, ENGINE, conf, NOW), **options)  # type: ignore[arg-type]


def days_of(energy: Energy, flat: Collection[tuple[int, int]] = ()) -> MeterDays:
    is_flat = np.zeros(energy.shape, np.bool_)
    for at in flat:
        is_flat[at] = True
    dates = [(START + number * DAY).date() for number in range(energy.shape[1])]
    return MeterDays(energy.astype(np.float32), is_flat, dates)


def daily(
    meters: int, days: int, *, noise: float = 0.15, differ: float = 0.0, seed: int = 1
) -> Energy:
    """Noise on a usual week, of some meters more than of others where they are to differ."""
    random = np.random.default_rng(seed)
    week = np.array([1, 1, 1.05, 1, 1.1, 0.8, 0.7])[np.arange(days) % 7]
    size = 10 * np.exp(random.normal(0, 0.5, meters))
    each = noise * np.exp(random.normal(0, differ, (meters, 1)))
    made: Energy = size[:, None] * week * np.exp(each * random.normal(0, 1, (meters, days)))
    return made


@pytest.fixture(scope="module")
def band() -> Band:
    return fit_band(days_of(daily(60, 200, differ=0.7)), IS_OFF)


# --- a day's judgement


def test_no_later_day_changes_a_judgement(band: Band) -> None:
    energy = daily(6, 150)
    energy[1, 120] *= 4
    energy[2, 110:114] = np.nan
    whole = judge(days_of(energy), band, IS_OFF)
    for day in (90, 119, 121, 140):
        later = energy.copy()
        later[:, day + 1 :] = np.nan if day % 2 else 1e6
        other = judge(days_of(later), band, IS_OFF)
        until = day + 1 - HISTORY
        for name in ("expected", "lower", "upper"):  # nor does the day itself: the next is as good
            a, b = getattr(whole, name), getattr(other, name)
            np.testing.assert_array_equal(a[:, : until + 1], b[:, : until + 1])
        for name in ("expected", "lower", "upper", "anomaly", "importance", "kind"):
            a, b = getattr(whole, name), getattr(other, name)
            np.testing.assert_array_equal(a[:, :until], b[:, :until], err_msg=f"{name} {day}")


def test_no_other_meter_changes_a_judgement(band: Band) -> None:
    energy = daily(4, 120)
    other = energy.copy()
    other[1:] = 1000 - other[1:] * 50
    a, b = (judge(days_of(e), band, IS_OFF) for e in (energy, other))
    np.testing.assert_array_equal(a.upper[0], b.upper[0])
    np.testing.assert_array_equal(a.kind[0], b.kind[0])


def test_of_clean_days_one_in_fifty_is_beyond_the_band(band: Band) -> None:
    found = judge(days_of(daily(100, 200, differ=0.7, seed=5)), band, IS_OFF)
    assert 0.01 <= (found.anomaly != 0).mean() <= 0.03
    assert (found.anomaly > 0).mean() >= 0.003 and (found.anomaly < 0).mean() >= 0.003


def test_every_kind_is_found_with_its_name(band: Band) -> None:
    energy = daily(6, 130, noise=0.05)
    energy[0, 110] *= 3
    energy[1, 110] *= 0.3
    energy[2, 110] = 0
    energy[3, 110] = energy[3, 109]
    energy[4, 110:114] *= 2.5
    found = judge(days_of(energy, [(3, 110)]), band, IS_OFF)
    told = [
        [None if k < 0 else KINDS[k] for k in found.kind[meter, 110 - HISTORY : 114 - HISTORY]]
        for meter in range(5)
    ]
    assert [kinds[0] for kinds in told[:4]] == ["spike", "dip", "zero", "stuck"]
    assert told[4][:3] == ["spike", "spike", "step change"]
    at = 110 - HISTORY
    assert found.anomaly[:3, at].tolist() == [1, -1, -1] and found.anomaly[3, at] != 0
    assert (found.importance[:5, at] > 0).all() and (found.importance[:4, at] <= 1).all()
    assert (found.importance[found.anomaly == 0] == 0).all()
    quiet = found.anomaly[5]
    assert np.abs(quiet).mean() < 0.1


def test_an_anomaly_does_not_hide_the_next(band: Band) -> None:
    energy = daily(3, 130, noise=0.05)
    for day in (100, 103, 107, 119):
        energy[0, day] *= 5
        energy[1, day] *= 0.1
    found = judge(days_of(energy), band, IS_OFF)
    at = np.array([100, 103, 107, 119]) - HISTORY
    assert (found.anomaly[0, at] == 1).all() and (found.anomaly[1, at] == -1).all()
    others = np.setdiff1d(np.arange(46), at)
    assert np.abs(found.anomaly[:2][:, others]).mean() < 0.1


def test_an_anomaly_hardly_moves_what_is_expected_of_later_days(band: Band) -> None:
    energy = daily(20, 140)
    other = energy.copy()
    other[:, 100] *= 100
    a, b = (judge(days_of(e), band, IS_OFF).expected for e in (energy, other))
    later = slice(101 - HISTORY, None)
    assert np.abs(np.log(b[:, later] / a[:, later])).max() < 0.15


def test_export_days_have_a_band_and_usual_ones_none_below_zero(band: Band) -> None:
    energy = daily(3, 130)
    energy[1] *= -1
    energy[2] -= energy[2].mean()
    energy[1, 120] *= 4  # more export
    found = judge(days_of(energy), band, IS_OFF)
    assert (found.lower[0] >= 0).all() and (found.upper[1] < 0).any()
    assert found.anomaly[1, 120 - HISTORY] == -1
    assert np.isfinite(found.upper).all()
    assert np.abs(found.anomaly).mean() < 0.08


def test_a_meter_that_is_always_flat_or_always_zero_is_not_odd(band: Band) -> None:
    energy = np.zeros((2, 120))
    energy[1] = 5
    flat = [(m, d) for m in range(2) for d in range(120)]
    assert not judge(days_of(energy, flat), band, IS_OFF).anomaly.any()


def test_a_gap_is_no_day_and_the_days_after_it_are_judged_by_those_before(band: Band) -> None:
    energy = daily(1, 130)
    energy[0, 100:107] = np.nan
    found = judge(days_of(energy), band, IS_OFF)
    gap = slice(100 - HISTORY, 107 - HISTORY)
    assert not found.anomaly[0, gap].any() and (found.kind[0, gap] == -1).all()
    assert np.isfinite(found.upper).all()
    little = energy.copy()
    little[0, :118] = np.nan
    assert np.isnan(judge(days_of(little), band, IS_OFF).upper[0, : 130 - HISTORY - 5]).all()


def test_a_band_needs_days_to_learn_from_and_comes_back_from_json(band: Band) -> None:
    with pytest.raises(BadInput, match="needs 100 complete days of meters to learn from"):
        fit_band(days_of(daily(3, 100)), IS_OFF)
    assert Band.from_json(band.to_json()) == band
    assert band.below > 0 and band.above > 0 and min(band.spread) >= 0


def test_what_is_odd_in_the_days_learnt_from_does_not_widen_the_band(band: Band) -> None:
    energy = daily(60, 200, differ=0.7)
    random = np.random.default_rng(9)
    odd = random.random(energy.shape) < 0.01
    with_odd = fit_band(days_of(np.where(odd, energy * 5, energy)), IS_OFF)
    clean = days_of(daily(50, 200, differ=0.7, seed=5))
    wide, usual = (
        np.mean(np.log(found.upper / np.maximum(found.lower, 0.1)))
        for found in (judge(clean, one, IS_OFF) for one in (with_odd, band))
    )
    assert wide < 1.35 * usual


# --- the job


def odd_fleet(energy: Energy) -> Energy:
    """The lake's fleet with some anomalous days: at a month's border too."""
    changed = energy.copy()

    def day(number: int, count: int = 1) -> slice:
        return slice(number * 24, (number + count) * 24)

    changed[0, day(100)] *= 6
    changed[1, day(90)] *= 0.1
    changed[2, day(130)] = 0
    changed[3, day(125)] = 0.7
    changed[4, day(119, 5)] *= 5  # from the last days of April into May
    changed[5, day(140)] = np.nan
    changed[6, day(80)] *= 20
    changed[6, day(50)] *= 20
    return changed


@pytest.fixture(scope="module")
def odd(
    with_model: tuple[Path, TrainResult], energy: Energy, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The lake once its readings are those."""
    folder = tmp_path_factory.mktemp("odd") / "lake"
    store = ml.copied(with_model[0], folder)
    ml.fill(store, ml.readings(ml.by_meter(ml.names(14), odd_fleet(energy))))
    ml.bring_up(store, ml.settings())
    return folder


@pytest.fixture
def odd_lake(odd: Path, tmp_path: Path) -> Store:
    return ml.copied(odd, tmp_path / "odd")


def at(number: int) -> date:
    return (START + number * DAY).date()


def test_odd_days_are_found_in_the_lake(odd_lake: Store, conf: Settings) -> None:
    done = run(odd_lake, conf)
    rows = judged(odd_lake)
    assert done.judged == rows.height and done.anomalies == (rows["anomaly"] != 0).sum()
    assert done.anomalies / done.judged < 0.05
    kind = {(m, d): k for m, d, k in rows.select("meter_id", "ds", "kind").rows()}
    assert kind["m00", at(100)] == "spike"
    assert kind["m01", at(90)] == "dip"
    assert kind["m02", at(130)] == "zero"
    assert kind["m03", at(125)] == "stuck"
    assert [kind["m04", at(119 + n)] for n in range(3)] == ["spike", "spike", "step change"]
    assert ("m05", at(140)) not in kind and ("m05", at(141)) in kind
    energies = query(
        odd_lake,
        "SELECT meter_id, ds FROM anomalies a JOIN consumption_daily d USING (meter_id) WHERE "
        "d.date = a.ds AND d.reading_type = 'kw' AND a.day_start = d.start "
        "AND abs(a.consumption - d.energy_kwh) < 1e-4 AND d.is_complete",
    )
    assert energies.height == rows.height
    assert rows.select("meter_id", "ds").is_unique().all()
    in_band = pl.col("consumption").is_between("yhat_lower", "yhat_upper")
    plain = pl.col("kind").is_null() | pl.col("kind").is_in(["spike", "dip", "step change"])
    assert rows.filter(plain).select((in_band == (pl.col("anomaly") == 0)).all()).item()
    assert (rows["kind"].is_null() == (rows["anomaly"] == 0)).all()
    assert (rows["model"] == done.model).all()


def test_what_was_judged_is_not_judged_twice(odd_lake: Store, conf: Settings) -> None:
    run(odd_lake, conf)
    version, rows = snapshot(odd_lake, ANOMALIES).version, judged(odd_lake)
    assert run(odd_lake, conf).judged == 0
    assert snapshot(odd_lake, ANOMALIES).version == version
    assert judged(odd_lake).equals(rows)
    again = run(odd_lake, conf, rebuild=True)
    assert again.judged == rows.height
    assert judged(odd_lake).equals(rows)


def test_months_one_by_one_are_as_all_days_in_one(odd_lake: Store, conf: Settings) -> None:
    """Whatever is a unit of work, a day's judgement is by all that was before it."""
    from meterlake.forecast import models
    from meterlake.forecast.days import Judging, judged_rows, read_days

    run(odd_lake, conf)
    model = models.load(odd_lake)
    assert model.band is not None
    window = periods("UTC", "day", START - 200 * DAY, START + 150 * DAY)
    files = snapshot(odd_lake, CONSUMPTION_DAILY).files
    meters, days = read_days(odd_lake, files, window, None)
    dates = tuple(day.date for day in window)
    unit = Judging(tuple(window), dates, (), (), None, True, {}, "")
    whole = judged_rows(meters, days, unit, model.band, model.name, conf.ml)
    found = judged(odd_lake).select(whole.columns)
    assert found.drop(FLOATS).equals(whole.drop(FLOATS))
    np.testing.assert_allclose(found.select(FLOATS), whole.select(FLOATS), atol=2e-4, rtol=1e-4)


FLOATS = ["consumption", "yhat", "yhat_lower", "yhat_upper", "importance"]


@pytest.mark.proof
def test_day_by_day_is_as_all_at_once(
    with_model: tuple[Path, TrainResult], odd_lake: Store, energy: Energy, conf: Settings,
    tmp_path: Path,
) -> None:  # fmt: skip
    """Detected after every day: a step at a month's border is still a step."""
    run(odd_lake, conf)
    store = open_store(str(tmp_path / "growing"))
    rows = ml.readings(ml.by_meter(ml.names(14), odd_fleet(energy)))
    ends = [118, *range(120, 124), 150]
    begin = START
    for number in ends:
        end = START + number * DAY
        ml.fill(store, rows.filter(pl.col("reading_date_time").is_between(begin, end, "left")))
        begin = end
        ml.bring_up(store, conf)
        if number == ends[0]:
            shutil.copytree(with_model[0] / "ml", tmp_path / "growing" / "ml")
        run(store, conf)
    found, whole = judged(store), judged(odd_lake)
    assert found.drop(FLOATS).equals(whole.drop(FLOATS))
    np.testing.assert_allclose(found.select(FLOATS), whole.select(FLOATS), atol=2e-4, rtol=1e-4)


def test_an_incomplete_day_waits(lake: Store, energy: Energy, conf: Settings) -> None:
    run(lake, conf)
    there = judged(lake).height
    more = ml.fleet(14, 157)[:, 150 * 24 :]
    cut = more[:, : 2 * 24].copy()
    cut[0, 30:] = np.nan  # the rest of the second day is not read yet
    ml.fill(lake, ml.readings(ml.by_meter(ml.names(14), cut), START + 150 * DAY))
    ml.bring_up(lake, conf)
    assert run(lake, conf).judged == 14 + 13
    assert judged(lake, f"ds = DATE '{at(151)}' AND meter_id = 'm00'").is_empty()
    whole = more[:, 24 : 2 * 24]
    ml.fill(lake, ml.readings(ml.by_meter(ml.names(14), whole), START + 151 * DAY))
    ml.bring_up(lake, conf)
    assert run(lake, conf).judged == 1
    assert judged(lake).height == there + 28
    assert judged(lake, f"ds = DATE '{at(151)}' AND meter_id = 'm00'").height == 1


def test_a_corrected_day_is_judged_again_and_only_it(
    lake: Store, first: TrainResult, energy: Energy, conf: Settings
) -> None:
    run(lake, conf)
    before = judged(lake)
    other = train(
        lake, engine=ENGINE, settings=ml.settings(train_rows=3000), now=NOW + DAY, force=True
    )
    assert other.name != first.name
    day = energy[:, 100 * 24 : 101 * 24].copy()
    day[3] *= 5
    ml.fill(lake, ml.readings(ml.by_meter(ml.names(14), day), START + 100 * DAY))
    ml.bring_up(lake, conf)
    assert run(lake, conf, use=other.name) == Detected(1, 1, other.name)
    after = judged(lake)
    this = (pl.col("meter_id") == "m03") & (pl.col("ds") == at(100))
    assert after.filter(~this).equals(before.filter(~this))
    row = after.filter(this).row(0, named=True)
    assert (row["kind"], row["model"], row["anomaly"]) == ("spike", other.name, 1)
    assert row["consumption"] == pytest.approx(day[3].sum(), rel=1e-5)
    assert set(after["model"]) == {first.name, other.name}
    assert run(lake, conf).judged == 0


def test_a_pinned_band_judges_and_the_current_stays(
    lake: Store, first: TrainResult, conf: Settings
) -> None:
    other = train(
        lake, engine=ENGINE, settings=ml.settings(train_rows=3000), now=NOW + DAY, force=True
    )
    assert run(lake, conf, use=first.name).model == first.name
    assert run(lake, conf).model == other.name
    choose(lake, first.name, now=NOW + 2 * DAY)
    assert run(lake, conf, rebuild=True).model == first.name


def test_without_enough_days_there_is_no_band_and_detect_says_so(
    tmp_path: Path, conf: Settings
) -> None:
    store = open_store(str(tmp_path / "lake"))
    ml.fill(store, ml.readings(ml.by_meter(ml.names(4), ml.fleet(4, 40))))
    ml.bring_up(store, conf)
    assert train(store, engine=ENGINE, settings=conf, now=NOW).no_band
    with pytest.raises(BadInput, match=r"has no band: .* meterlake train"):
        run(store, conf)


def test_energies_of_another_zone_are_refused(lake: Store) -> None:
    with pytest.raises(BadInput, match="in UTC; the setting timezone is Europe/London"):
        run(lake, ml.settings("Europe/London"))


def test_a_date_that_a_zone_skipped_takes_no_other_from_judgement(tmp_path: Path) -> None:
    """Apia had no 30 December 2011."""
    conf = ml.settings("Pacific/Apia")
    store = open_store(str(tmp_path / "lake"))
    dates = [date(2012, 1, 3)]
    _, run = open_run(Session(store, LocalEngine(1), conf, NOW), job.DETECTION)
    (unit,) = job._units(run, dates, False)
    assert date(2011, 12, 30) not in {day.date for day in unit.window}
    assert dates[0] in {day.date for day in unit.window[HISTORY:]}
    assert len({day.date for day in unit.window}) == len(unit.window)
