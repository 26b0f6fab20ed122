"""Integrating: which read wins, what is late, and what a cut-off job leaves."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from meterlake import storage
from meterlake.delta import commit as commits
from meterlake.delta.commit import snapshot
from meterlake.delta.store import Store
from meterlake.delta.table import table_at
from meterlake.engine.local import LocalEngine
from meterlake.errors import BadInput, Conflict
from meterlake.ingest import intake
from meterlake.integrate import derivations, events
from meterlake.integrate.events import LateReads
from meterlake.pipeline import runner
from meterlake.pipeline.derivation import Session
from meterlake.questions.sql import query
from meterlake.schema import LATE_ARRIVALS, READINGS, STAGING
from meterlake.settings import Settings, load_settings

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
CONF = load_settings(late_hooks=())
Deliver = Callable[..., Path]


def row(time: str, arrival: str, meter: str, kw: float | str) -> str:
    return f"2024-01-{time}:00,2024-01-{arrival}:00,{meter},readings,,,,,{kw},"


def ingest(store: Store, *paths: Path) -> None:
    done = intake.ingest(Session(store, LocalEngine(2), CONF, NOW), [str(p) for p in paths])
    assert done.failures == []


def integrate(store: Store, conf: Settings = CONF) -> derivations.IntegrationResult:
    return derivations.integrate(Session(store, LocalEngine(2), conf, NOW))


def values(store: Store) -> list[tuple[str, float]]:
    sql = "select meter_id, reading_value from readings order by meter_id, reading_date_time"
    return query(store, sql).rows()


def test_the_latest_arrival_wins_whichever_file_comes_first(store: Store, deliver: Deliver) -> None:
    newer = deliver("a.csv.gz", row("01 00:00", "01 00:10", "m1", 2))
    older = deliver("b.csv.gz", row("01 00:00", "01 00:05", "m1", 1))
    ingest(store, newer)
    assert integrate(store).added == 1
    ingest(store, older)
    assert integrate(store) == derivations.IntegrationResult(partitions=1, added=0, replaced=1)
    assert values(store) == [("m1", 2.0)]


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_of_equal_arrivals_the_later_row_of_the_later_named_file_wins(
    store: Store, deliver: Deliver, order: tuple[str, str]
) -> None:
    same = ("01 00:00", "01 00:05", "m1")
    paths = {
        "b": deliver("b.csv.gz", row(*same, 2), row(*same, 3)),
        "a": deliver("a.csv.gz", row(*same, 9)),
    }
    for name in order:
        ingest(store, paths[name])
        integrate(store)
    assert values(store) == [("m1", 3.0)]


def test_an_empty_value_is_no_reading_and_replaces_none(store: Store, deliver: Deliver) -> None:
    ingest(store, deliver("a.csv.gz", row("01 00:00", "01 00:05", "m1", 0)))
    integrate(store)
    ingest(store, deliver("b.csv.gz", row("01 00:00", "01 00:09", "m1", "")))
    assert integrate(store) == derivations.IntegrationResult()
    assert values(store) == [("m1", 0.0)]


def test_only_partitions_that_received_reads_are_written_again(
    store: Store, deliver: Deliver
) -> None:
    hours = [row(f"01 {h:02d}:00", f"01 {h:02d}:01", "m1", h) for h in range(24)]
    ingest(store, deliver("a.csv.gz", *hours))
    assert integrate(store).partitions == 24
    before = {f.path for f in snapshot(store, READINGS).files}
    ingest(store, deliver("b.csv.gz", row("01 05:30", "01 05:31", "m2", 1)))
    assert integrate(store).partitions == 1
    after = {f.path for f in snapshot(store, READINGS).files}
    assert len(after) == 24
    assert len(before - after) == len(after - before) == 1


def test_each_partition_is_one_file_sorted_by_meter_and_time(
    store: Store, deliver: Deliver
) -> None:
    rows = [row(f"01 00:{m:02d}", "01 01:00", meter, 1) for m in (45, 0, 30) for meter in "cab"]
    for n in range(3):
        ingest(store, deliver(f"{n}.csv.gz", *rows[n::3]))
        integrate(store)
    (file,) = snapshot(store, READINGS).files
    keys = pl.read_parquet(store.uri(f"{READINGS.path}/{file.path}")).select(
        "meter_id", "reading_date_time"
    )
    assert keys.height == 9
    assert keys.equals(keys.sort("meter_id", "reading_date_time"))


def test_late_reads_are_recorded_once_by_partition_and_file_and_announced(
    store: Store, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[LateReads] = []
    monkeypatch.setattr(events, "log_late_reads", lambda event, settings: told.append(event))
    path = deliver(
        "a.csv.gz",
        row("01 00:00", "01 01:00", "m1", 1),  # just on time: 60 minutes
        row("01 00:15", "01 01:16", "m1", 1),  # 61 minutes
        row("01 00:30", "02 00:30", "m1", 1),  # a day
        row("01 01:00", "02 00:30", "m1", 1),
    )
    conf = load_settings(late_hooks=("log",))
    ingest(store, path)
    done = integrate(store, conf)
    assert (done.late, done.late_partitions) == (3, 2)
    rows = query(
        store,
        "select reading_type, reading_hour, late, min_late_minutes, max_late_minutes, "
        "source_file from late_arrivals order by reading_hour",
    ).rows()
    assert rows == [
        ("kw", datetime(2024, 1, 1, tzinfo=UTC), 2, 61.0, 1440.0, "a.csv.gz"),
        ("kw", datetime(2024, 1, 1, 1, tzinfo=UTC), 1, 1410.0, 1410.0, "a.csv.gz"),
    ]
    assert [(e.late, e.partitions, len(e.rows)) for e in told] == [(3, 2, 2)]
    integrate(store, conf)
    assert len(told) == 1


def test_the_limit_of_lateness_is_a_setting(store: Store, deliver: Deliver) -> None:
    ingest(store, deliver("a.csv.gz", row("01 00:00", "01 01:30", "m1", 1)))
    assert integrate(store, load_settings(late_hooks=(), late_after_minutes=90)).late == 0


def test_a_job_cut_off_after_its_commit_has_its_late_reads_and_the_next_one_tells_of_them(
    store: Store, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest(store, deliver("a.csv.gz", row("01 00:00", "02 00:00", "m1", 1)))
    ours = commits.settle(store, READINGS, now=NOW)
    assert ours == {LATE_ARRIVALS.name: ()}

    def cut_off(*args: object, **options: object) -> Any:
        raise KeyboardInterrupt

    told: list[LateReads] = []
    monkeypatch.setattr(events, "log_late_reads", lambda event, settings: told.append(event))
    conf = load_settings(late_hooks=("log",))
    with monkeypatch.context() as patch:
        patch.setattr(runner, "settle", cut_off)
        with pytest.raises(KeyboardInterrupt):
            integrate(store, conf)
    # Both tables are there for every reader, though the second has no log of its own yet.
    assert (snapshot(store, READINGS).rows, snapshot(store, LATE_ARRIVALS).rows) == (1, 1)
    assert table_at(store, LATE_ARRIVALS).version == -1
    assert told == []
    ingest(store, deliver("b.csv.gz", row("01 00:15", "02 00:00", "m1", 1)))
    done = integrate(store, conf)
    assert (done.added, done.late) == (1, 1)
    assert [(e.late, len(e.rows)) for e in told] == [(2, 2)]
    assert table_at(store, LATE_ARRIVALS).rows == 2
    recorded = query(store, "select source_file, late from late_arrivals order by 1").rows()
    assert recorded == [("a.csv.gz", 1), ("b.csv.gz", 1)]
    integrate(store, conf)
    assert len(told) == 1


def test_an_ingest_cut_off_before_its_commit_leaves_nothing_and_can_be_repeated(
    store: Store, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = deliver("a.csv.gz", row("01 00:00", "01 00:01", "m1", 1), "damaged")
    real: Any = commits.commit

    def cut_off(*args: object, **options: object) -> Any:
        if args[1] is STAGING:
            raise KeyboardInterrupt
        return real(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(intake, "commit", cut_off)
        with pytest.raises(KeyboardInterrupt):
            ingest(store, path)
    assert snapshot(store, STAGING).rows == 0
    ingest(store, path)
    ingest(store, path)
    counts = query(
        store, "select (select count(*) from staging), (select count(*) from quarantine)"
    )
    assert counts.row(0) == (1, 1)


def test_an_integration_that_another_overtakes_plans_again(
    store: Store, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest(store, deliver("a.csv.gz", row("01 00:00", "01 00:01", "m1", 1)))
    integrate(store)
    ingest(store, deliver("b.csv.gz", row("01 00:00", "01 00:02", "m1", 2)))
    real: Any = commits.commit
    overtaken: list[bool] = []

    def overtaking(*args: object, **options: object) -> Any:
        if args[1] is READINGS and not overtaken:
            overtaken.append(True)
            monkeypatch.setattr(runner, "commit", real)
            assert integrate(store).replaced == 1
        return real(*args, **options)

    monkeypatch.setattr(runner, "commit", overtaking)
    assert integrate(store) == derivations.IntegrationResult()
    assert values(store) == [("m1", 2.0)]


def test_a_first_integration_that_another_overtakes_adds_nothing_twice(
    store: Store, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest(store, deliver("a.csv.gz", row("01 00:00", "01 00:01", "m1", 1)))
    real: Any = commits.commit

    def overtaking(*args: object, **options: object) -> Any:
        monkeypatch.setattr(runner, "commit", real)
        integrate(store)
        return real(*args, **options)

    monkeypatch.setattr(runner, "commit", overtaking)
    assert integrate(store) == derivations.IntegrationResult()
    assert values(store) == [("m1", 1.0)]


def test_two_ingests_of_one_file_at_once_stage_it_once(
    store: Store, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = deliver("a.csv.gz", row("01 00:00", "01 00:01", "m1", 1))
    ingest(store, deliver("first.csv.gz", row("01 00:00", "01 00:01", "m0", 1)))
    real: Any = commits.commit

    def overtaking(*args: object, **options: object) -> Any:
        monkeypatch.setattr(intake, "commit", real)
        ingest(store, path)
        return real(*args, **options)

    monkeypatch.setattr(intake, "commit", overtaking)
    done = intake.ingest(Session(store, LocalEngine(1), CONF, NOW), [str(path)])
    assert (done.files, done.already_ingested) == (0, 1)
    assert snapshot(store, STAGING).rows == 2


def test_a_hook_that_is_not_known_is_refused_before_anything_is_done(store: Store) -> None:
    with pytest.raises(BadInput, match="log, webhook"):
        integrate(store, load_settings(late_hooks=("pigeon",)))


def test_a_hook_that_fails_keeps_neither_the_result_nor_the_other_hooks(
    store: Store, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[LateReads] = []
    monkeypatch.setattr(events, "log_late_reads", lambda event, settings: told.append(event))
    conf = load_settings(late_hooks=("webhook", "log"), late_webhook_url="http://127.0.0.1:9/x")
    ingest(store, deliver("a.csv.gz", row("01 00:00", "02 00:00", "m1", 1)))
    done = integrate(store, conf)
    assert (done.added, done.late, len(told)) == (1, 1, 1)
    assert "webhook" in done.hook_failures[0]


def test_conflicts_end_after_a_bound(
    store: Store, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest(store, deliver("a.csv.gz", row("01 00:00", "01 00:01", "m1", 1)))
    tries = []

    def never(*args: object, **options: object) -> None:
        tries.append(1)
        raise Conflict("busy")

    waits: list[int] = []
    monkeypatch.setattr(runner, "commit", never)
    monkeypatch.setattr(storage, "pause", waits.append)
    with pytest.raises(Conflict):
        integrate(store)
    assert len(tries) == commits.ATTEMPTS
    assert waits == list(range(commits.ATTEMPTS - 1))
