"""Scores against a second implementation, value by value."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterlake.forecast.scores import scores

LEVELS = {"p10": 0.1, "p50": 0.5, "p90": 0.9}


def by_hand(actual: list[float], forecast: dict[str, list[float]]) -> tuple[float, ...]:
    total = inside = count = error = loss = 0.0
    for number, was in enumerate(actual):
        if math.isnan(was):
            continue
        count += 1
        total += abs(was)
        error += abs(was - forecast["p50"][number])
        inside += forecast["p10"][number] <= was <= forecast["p90"][number]
        for name, level in LEVELS.items():
            off = was - forecast[name][number]
            loss += 2 * (level * off if off > 0 else (level - 1) * off) / 3
    return loss / total, error / total, inside / count, count


@given(
    rows=st.lists(
        st.tuples(
            st.one_of(st.just(math.nan), st.integers(-40, 40).map(lambda n: n / 4)),
            st.lists(st.integers(-40, 40).map(lambda n: n / 4), min_size=3, max_size=3),
        ),
        min_size=1,
        max_size=30,
    )
)
@settings(max_examples=60)
def test_scores_are_those_of_the_oracle(rows: list[tuple[float, list[float]]]) -> None:
    actual = [was for was, _ in rows]
    quantiles = {name: [sorted(q)[n] for _, q in rows] for n, name in enumerate(LEVELS)}
    found = scores(
        np.array(actual, np.float32),
        {name: np.array(q, np.float32) for name, q in quantiles.items()},
    )
    if not sum(abs(was) for was in actual if not math.isnan(was)):
        assert math.isnan(found.wql)
        return
    expected = by_hand(actual, quantiles)
    assert (found.wql, found.nd, found.coverage, found.values) == pytest.approx(expected)
