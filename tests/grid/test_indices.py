"""The reliability indices, by hand."""

import polars as pl
import pytest

from meterlake.grid.indices import indices

ROWS = pl.DataFrame(
    [
        ("service_transformer", 90.0, "missing", 6, 540.0, None),
        ("substation", 30.0, "voltage", 100, 2900.0, None),
        ("service_transformer", 5.0, "voltage", 6, 30.0, None),  # momentary
        ("meter", 90.0, "missing", 1, 90.0, "t1"),  # part of the first
        ("meter", 240.0, "missing", 1, 240.0, None),  # perhaps its radio
        ("meter", 60.0, "voltage", 1, 60.0, None),
    ],
    schema=["level", "minutes", "evidence", "meters", "customer_minutes", "part_of"],
    orient="row",
)


def test_the_indices_are_those_of_ieee_1366() -> None:
    found = indices(ROWS, 1000, momentary_minutes=5)
    assert found["interruptions"] == 3
    assert found["saidi"] == pytest.approx(3.5)
    assert found["saifi"] == pytest.approx(0.107)
    assert found["caidi"] == pytest.approx(3500 / 107)
    assert found["maifi"] == pytest.approx(0.006)


def test_where_nothing_was_interrupted_caidi_is_not_known() -> None:
    found = indices(ROWS.clear(), 10, momentary_minutes=5)
    assert (found["saidi"], found["saifi"], found["caidi"], found["maifi"]) == (0, 0, None, 0)
    assert indices(ROWS, 0, momentary_minutes=5)["saidi"] is None
