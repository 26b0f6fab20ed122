"""Features know what was before the origin, and of no other meter."""

from datetime import date, timedelta

import numpy as np
import pytest
from support.ml import fleet, wall

from meterlake.forecast.features import CONTEXT, HORIZON, Rows, features, scale_of, sound
from meterlake.forecast.learning import context_of, temperature_at
from meterlake.forecast.statistics import Floats

ORIGIN = wall(2024, 3, 1, 7)


def is_off(day: date) -> bool:
    return day.weekday() >= 5


def contexts(meters: int = 4) -> Floats:
    return fleet(meters, 60).astype(np.float32)[:, :CONTEXT]


def same(a: Rows, b: Rows, meters: slice = slice(None)) -> bool:
    def of(rows: Rows, values: Floats) -> Floats:
        return values.reshape(len(rows.scale), HORIZON, -1)[meters]

    return (
        np.array_equal(of(a, a.values), of(b, b.values), equal_nan=True)
        and np.array_equal(a.scale[meters], b.scale[meters], equal_nan=True)
        and np.array_equal(of(a, a.base), of(b, b.base), equal_nan=True)
    )


@pytest.mark.parametrize("origin", [168, 700, CONTEXT, CONTEXT + 31])
def test_what_comes_at_the_origin_or_later_changes_no_feature(origin: int) -> None:
    energy = fleet(3, 70).astype(np.float32)
    later = energy.copy()
    later[:, origin:] = 1e6
    a, b = (features(context_of(e, origin), ORIGIN, is_off) for e in (energy, later))
    assert same(a, b)
    assert context_of(energy, origin).shape == (3, CONTEXT)
    there = min(origin, CONTEXT)
    np.testing.assert_array_equal(
        context_of(energy, origin)[:, -there:], energy[:, origin - there : origin]
    )
    earlier = energy.copy()  # and what was right before it changes some
    earlier[:, origin - 1] *= 3
    assert not same(a, features(context_of(earlier, origin), ORIGIN, is_off))


def test_another_meter_changes_nothing_of_this_one() -> None:
    context = contexts()
    other = context.copy()
    other[2] = np.nan
    other[3] *= -100
    a, b = (features(c, ORIGIN, is_off) for c in (context, other))
    assert same(a, b, slice(0, 2)) and not same(a, b, slice(3, 4))
    alone = features(context[1:2], ORIGIN, is_off)
    np.testing.assert_array_equal(alone.values, a.values[HORIZON : 2 * HORIZON])


def test_gaps_are_left_out_of_means_and_a_meter_of_nothing_but_gaps_has_no_scale() -> None:
    context = np.ones((4, CONTEXT), np.float32)
    context[0, ::3] = np.nan
    context[1] = np.nan
    context[2, :-LEAST] = np.nan
    context[3, : -LEAST + 1] = np.nan
    rows = features(context, ORIGIN, is_off)
    np.testing.assert_array_equal(np.isnan(rows.scale), [False, True, False, True])
    assert rows.scale[0] == rows.scale[2] == 1
    of_first = dict(zip(rows.names, rows.values[0], strict=True))
    assert {of_first[n] for n in ("days_28", "level_56", "kind_q90")} == {np.arcsinh(np.float32(2))}
    known = np.repeat(~np.isnan(rows.scale), HORIZON)
    assert np.isfinite(rows.base[known]).all()
    by_hour = [
        n for n, name in enumerate(rows.names) if name.startswith(("week", "day_1", "days_"))
    ]
    assert np.isfinite(rows.values[known][:, by_hour]).all()  # an unknown hour is as guessed


LEAST = 168


def test_an_idle_meter_has_no_scale_and_export_counts_as_much_as_load() -> None:
    context = contexts(3)
    context[1] = 0
    context[2] = -context[0]
    scale = scale_of(context)
    assert np.isnan(scale[1]) and scale[2] == scale[0] > 0
    context[2, ::2] *= -1  # by day out, by night in
    assert scale_of(context)[2] == scale[0]


def test_a_few_readings_many_times_as_large_as_all_others_are_gaps() -> None:
    context = np.repeat(contexts(1), 5, axis=0)
    context[0, -300], context[1, [5, -1]] = 1e6, (-np.inf, np.inf)
    context[2, 100:109] = 1e6  # too often for that
    context[3, 5:] = 0.0  # a few hours of a usual load are no damage
    context[3, -300] = 1e6
    context[4, ::3] = np.nan
    found = sound(context)
    assert np.argwhere(np.isnan(found[:4])).tolist() == [
        [0, CONTEXT - 300], [1, 5], [1, CONTEXT - 1], [3, CONTEXT - 300],
    ]  # fmt: skip
    np.testing.assert_array_equal(found[~np.isnan(found)], context[~np.isnan(found)])
    np.testing.assert_array_equal(found[[2, 4]], context[[2, 4]])


def test_scaled_features_do_not_depend_on_the_size_of_the_meter() -> None:
    context = contexts(1)
    a, b = (features(c, ORIGIN, is_off) for c in (context, context * 8))
    others = [n for n, name in enumerate(a.names) if name != "log_scale"]
    np.testing.assert_allclose(a.values[:, others], b.values[:, others], rtol=1e-4, atol=1e-5)


def test_the_calendar_is_that_of_the_hours_ahead() -> None:
    rows = features(contexts(1), ORIGIN, is_off)
    hours = [ORIGIN + timedelta(hours=h) for h in range(HORIZON)]
    column = {name: rows.values[:, n].tolist() for n, name in enumerate(rows.names)}
    assert rows.hour.tolist() == [h.hour for h in hours]
    assert column["is_weekday_2"] == [h.weekday() == 2 for h in hours]
    assert column["is_day_off"] == rows.is_day_off.tolist() == [h.weekday() >= 5 for h in hours]
    turn = [2 * np.pi * h.hour / 24 for h in hours]
    np.testing.assert_allclose(column["sin_2"], np.sin(2 * np.array(turn)), atol=1e-6)
    np.testing.assert_allclose(column["cos_1"], np.cos(turn), atol=1e-6)
    context = contexts(1)
    last_week = context[0, -HORIZON:] / rows.scale[0]
    was = np.arcsinh(2 * last_week)
    np.testing.assert_allclose(column["week_1"], was, rtol=1e-6)
    np.testing.assert_allclose(column["day_1"], np.tile(was[-24:], 7), rtol=1e-6)


def test_a_days_kind_is_learnt_from_days_of_that_kind() -> None:
    hours = [ORIGIN + timedelta(hours=h - CONTEXT) for h in range(CONTEXT)]
    context = np.array([[3.0 if is_off(h.date()) else 1.0 for h in hours]], np.float32)
    rows = features(context, ORIGIN, is_off)
    scale, number = rows.scale[0], rows.names.index
    off = rows.is_day_off
    middle = (rows.hour > 0) & (rows.hour < 23)
    of_kind = np.sinh(rows.values[:, number("kind_q50")]) / 2 * scale
    assert set(np.round(of_kind[off & middle], 4)) == {3.0}
    assert set(np.round(of_kind[~off & middle], 4)) == {1.0}


def column(rows: Rows, name: str) -> Floats:
    return rows.values[:HORIZON, rows.names.index(name)]


def test_first_guesses_are_halfway_between_days_of_the_kind_and_all_days() -> None:
    random = np.random.default_rng(1)
    context = random.exponential(1, (1, CONTEXT)).astype(np.float32)
    rows = features(context, ORIGIN, is_off)
    past = [ORIGIN + timedelta(hours=h - CONTEXT) for h in range(CONTEXT)]
    far, off = np.arange(CONTEXT) < CONTEXT - 28 * 24, np.array([is_off(p.date()) for p in past])
    off = np.repeat(off[::24], 24)  # a day begins at the hour of the origin
    for ahead in (5, 30):
        then = ORIGIN + timedelta(hours=ahead)
        beside = np.abs(np.arange(CONTEXT) % 24 - ahead % 24) <= 1  # an hour and those beside it
        of_kind = (off if is_off(then.date()) else ~off & ~far) & beside
        both = [context[0, chosen] / rows.scale[0] for chosen in (of_kind, ~far & beside)]
        guesses = [np.mean([values.mean() for values in both])]
        guesses += [np.mean([np.quantile(v, q) for v in both]) for q in (0.1, 0.5, 0.9)]
        np.testing.assert_allclose(rows.base[ahead], guesses, rtol=0.03)


def test_an_hour_that_was_never_known_is_guessed_as_all_hours_are() -> None:
    context = contexts(1)
    context.reshape(1, -1, 24)[:, :, 3:9] = np.nan
    rows = features(context, ORIGIN, is_off)
    level = np.nanmean(context) / rows.scale[0]
    np.testing.assert_allclose(rows.base[5], level, rtol=1e-5)


def test_levels_are_of_the_last_hours_and_days() -> None:
    context = contexts(1)
    rows = features(context, ORIGIN, is_off)
    scaled = context[0] / rows.scale[0]
    for name, hours in (("hours_6", 6), ("level_1", 24), ("level_3", 72), ("level_7", 168)):
        expected = np.arcsinh(2 * scaled[-hours:].mean())
        np.testing.assert_allclose(column(rows, name), expected, rtol=1e-4)
    assert column(rows, "log_scale")[0] == np.log(rows.scale[0])
    step = np.arange(HORIZON)
    for fades in (12, 36):
        nearness = column(rows, f"nearness_{fades}")
        np.testing.assert_allclose(nearness, np.exp(-step / fades), rtol=1e-5)


def test_weather_features_compare_the_hours_ahead_with_those_before() -> None:
    temperature = np.random.default_rng(1).normal(10, 5, CONTEXT + HORIZON).astype(np.float32)
    temperature[CONTEXT + 7] = np.nan
    rows = features(contexts(1), ORIGIN, is_off, temperature)
    before, ahead = temperature[:CONTEXT].reshape(-1, 24), temperature[CONTEXT:]
    usual = np.tile(before[-28:].mean(axis=0), 7)
    of_day = np.repeat(np.nanmean(ahead.reshape(7, 24), axis=1), 24)
    for name, expected in (
        ("is_temperature_known", ~np.isnan(ahead)),
        ("temperature", ahead),
        ("temperature_of_day", of_day),
        ("warmer_than_usual", ahead - usual),
        ("usual_temperature", usual),
        ("temperature_day_1", np.tile(before[-1], 7)),
    ):
        np.testing.assert_allclose(column(rows, name), expected, rtol=1e-4, atol=1e-4)


def test_weather_ahead_is_known_only_where_it_is_not_hidden() -> None:
    temperature = np.arange(2000, dtype=np.float32)
    shown = temperature_at(temperature, 1500, hide_ahead=False)
    hidden = temperature_at(temperature, 1500, hide_ahead=True)
    assert shown is not None and hidden is not None
    np.testing.assert_array_equal(shown, np.arange(1500 - CONTEXT, 1500 + HORIZON))
    np.testing.assert_array_equal(hidden[:CONTEXT], shown[:CONTEXT])
    assert np.isnan(hidden[CONTEXT:]).all()
    a = features(contexts(1), ORIGIN, is_off, hidden)
    ahead = [n for n, name in enumerate(a.names) if name == "temperature"]
    assert np.isnan(a.values[:, ahead]).all()
    assert temperature_at(None, 1500, hide_ahead=True) is None
