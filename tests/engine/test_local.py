"""The engine port's laws, on the local engine."""

import threading
from collections.abc import Iterator

import pytest

from meterlake.engine.local import LocalEngine


def test_results_come_in_the_units_order() -> None:
    assert list(LocalEngine(3).map(lambda n: n * n, range(50))) == [n * n for n in range(50)]


def test_units_are_drawn_only_as_fast_as_they_are_worked_off() -> None:
    drawn = 0
    release = threading.Event()

    def units() -> Iterator[int]:
        nonlocal drawn
        for n in range(20):
            drawn += 1
            yield n
            if drawn > 3:
                release.set()

    def work(n: int) -> int:
        release.wait(0.5)
        return n

    results = LocalEngine(2).map(work, units())
    next(results)
    assert drawn <= 4
    assert list(results) == list(range(1, 20))


def test_an_error_of_a_unit_ends_the_job_and_no_further_unit_begins() -> None:
    begun = []

    def work(n: int) -> int:
        begun.append(n)
        if n == 3:
            raise ZeroDivisionError
        return n

    with pytest.raises(ZeroDivisionError):
        list(LocalEngine(1).map(work, range(1000)))
    assert len(begun) < 10
