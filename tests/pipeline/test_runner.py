"""A derived table is a function of its inputs and settings, whatever happens on the way."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest

from meterlake.delta import commit as commits
from meterlake.delta.commit import Change, commit, snapshot
from meterlake.delta.journal import provenance
from meterlake.delta.store import Store
from meterlake.delta.table import fetched, scan, table_at, write_file
from meterlake.engine.local import LocalEngine
from meterlake.errors import BadInput, Conflict
from meterlake.pipeline import runner
from meterlake.pipeline.derivation import Derivation, Made, Plan, Run, Session
from meterlake.pipeline.registry import derivations, in_order, named_derivation
from meterlake.pipeline.runner import bring_up
from meterlake.schema import TABLES, WEATHER, Column, Table
from meterlake.settings import Settings, load_settings

NOW = datetime(2024, 6, 1, tzinfo=UTC)

MEANS = Table(
    name="means",
    path="derived/means",
    meaning="Mean temperature per UTC day, above a base",
    columns=(
        Column("time", "timestamp", "UTC", "Start of the day"),
        Column("mean", "double", "°C", "Mean temperature, less the base"),
        Column("date", "string", "", "UTC date"),
    ),
    partitioned_by=("date",),
    time_column="time",
    sorted_by=("time",),
)


def plan_means(run: Run) -> Plan[Made]:
    weather = run.inputs[WEATHER.name]
    dates = {f.partition["date"] for f in weather.files}
    if not (run.is_full or run.damaged):
        dates = {f.partition["date"] for e in run.since(WEATHER) for f in e.added}

    def work(date: str) -> Made:
        files = [f for f in weather.files if f.partition["date"] == date]
        rows = fetched(scan(run.store, WEATHER, files))
        base = run.settings.cluster_after_hours
        frame = rows.select(
            pl.col("time").min().dt.truncate("1d"),
            (pl.col("temperature").mean() - base).alias("mean"),
        )
        name = f"part-{date}-{weather.version}-{base}"
        return Made((write_file(run.store, MEANS, frame, partition={"date": date}, name=name),))

    replaced = [f for f in run.state.files if f.partition["date"] in dates]
    return Plan(sorted(dates), work, replaced)


MEANING = Derivation(
    MEANS, made_from=(WEATHER,), plan=plan_means, settings=("cluster_after_hours",)
)


def observe(store: Store, *observations: tuple[str, float]) -> None:
    """Write hours of weather, each day again."""
    state = snapshot(store, WEATHER)
    days: dict[str, list[tuple[str, float]]] = {}
    for time, temperature in observations:
        days.setdefault(time[:10], []).append((time, temperature))
    files = []
    for date, rows in days.items():
        frame = pl.DataFrame(
            {
                "station_id": ["s"] * len(rows),
                "time": [datetime.fromisoformat(f"{t}:00+00:00") for t, _ in rows],
                "temperature": [v for _, v in rows],
            },
            schema_overrides={"time": pl.Datetime("us", "UTC")},
        )
        missing = [c.name for c in WEATHER.file_columns if c.name not in frame.columns]
        frame = frame.with_columns(pl.lit(None, pl.Float64).alias(n) for n in missing)
        frame = frame.select(c.name for c in WEATHER.file_columns).with_columns(
            pl.col("weather_condition_code").cast(pl.Int64)
        )
        name = f"day-{state.version + 1}"
        files.append(write_file(store, WEATHER, frame, partition={"date": date}, name=name))
    removed = [f for f in state.files if f.partition["date"] in days]
    change = Change({"test": state.version + 1}, files, removed, read_version=state.version)
    commit(store, WEATHER, change, now=NOW)


def session(store: Store, conf: Settings | None = None) -> Session:
    return Session(store, LocalEngine(2), conf or load_settings(cluster_after_hours=0), NOW)


def means(store: Store) -> dict[str, float]:
    rows = fetched(scan(store, MEANS, snapshot(store, MEANS).files)).sort("time")
    return dict(zip(rows["date"], rows["mean"], strict=True))


@pytest.fixture
def store(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A lake whose tables include the means."""
    known = {**TABLES, MEANS.name: MEANS}
    monkeypatch.setattr("meterlake.delta.commit.known_tables", lambda: known)
    return store


def test_only_what_changed_is_made_again(store: Store) -> None:
    observe(store, ("2024-01-01T00", 1.0), ("2024-01-02T00", 2.0))
    assert bring_up(session(store), MEANING).plan.units == ["2024-01-01", "2024-01-02"]
    observe(store, ("2024-01-02T00", 4.0))
    assert bring_up(session(store), MEANING).plan.units == ["2024-01-02"]
    assert means(store) == {"2024-01-01": 1.0, "2024-01-02": 4.0}


def test_what_is_current_makes_no_commit(store: Store) -> None:
    observe(store, ("2024-01-01T00", 1.0))
    bring_up(session(store), MEANING)
    before = snapshot(store, MEANS).version
    assert bring_up(session(store), MEANING).plan.units == []
    assert snapshot(store, MEANS).version == before


def test_another_setting_makes_everything_again_and_is_recorded(store: Store) -> None:
    observe(store, ("2024-01-01T00", 1.0), ("2024-01-02T00", 2.0))
    bring_up(session(store), MEANING)
    bring_up(session(store, load_settings(cluster_after_hours=1)), MEANING)
    assert means(store) == {"2024-01-01": 0.0, "2024-01-02": 1.0}
    told = provenance(store, MEANS, snapshot(store, MEANS).version)
    assert (told.job, dict(told.settings)) == ("means", {"cluster_after_hours": 1.0})


def test_what_is_damaged_is_made_with_the_settings_it_was_made_with(store: Store) -> None:
    observe(store, ("2024-01-01T00", 5.0))
    bring_up(session(store, load_settings(cluster_after_hours=1)), MEANING)
    (file,) = snapshot(store, MEANS).files
    store.delete(f"{MEANS.path}/{file.path}")
    other = session(store, load_settings(cluster_after_hours=3))
    bring_up(other, MEANING, damaged=frozenset({file.path}))
    assert means(store) == {"2024-01-01": 4.0}


def test_an_input_that_was_lost_and_made_again_is_consumed_from_its_beginning(
    store: Store,
) -> None:
    observe(store, ("2024-01-01T00", 1.0), ("2024-01-02T00", 2.0))
    bring_up(session(store), MEANING)
    for file in store.list(WEATHER.path):
        store.delete(file.path)
    observe(store, ("2024-01-01T00", 7.0))
    bring_up(session(store), MEANING)
    assert means(store)["2024-01-01"] == 7.0


def test_who_is_overtaken_plans_again_on_what_came_first(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    observe(store, ("2024-01-01T00", 1.0))
    real: Any = commits.commit

    def overtaking(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(runner, "commit", real)
        observe(store, ("2024-01-01T00", 9.0))
        bring_up(session(store), MEANING)
        return real(*args, **options)

    monkeypatch.setattr(runner, "commit", overtaking)
    assert bring_up(session(store), MEANING).plan.units == []
    assert means(store) == {"2024-01-01": 9.0}


def test_who_is_overtaken_for_ever_gives_up(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    observe(store, ("2024-01-01T00", 1.0))

    def never(*args: Any, **options: Any) -> Any:
        raise Conflict("busy")

    monkeypatch.setattr(runner, "commit", never)
    monkeypatch.setattr("meterlake.storage.pause", lambda attempt: None)
    with pytest.raises(Conflict):
        bring_up(session(store), MEANING)
    assert snapshot(store, MEANS).version < 1


def test_a_guard_keeps_a_setting_from_being_followed_but_not_a_rebuild(store: Store) -> None:
    def refuse(run: Run) -> None:
        raise BadInput("another base")

    observe(store, ("2024-01-01T00", 1.0))
    guarded = replace(MEANING, guard=refuse)
    with pytest.raises(BadInput, match="another base"):
        bring_up(session(store), guarded)
    bring_up(session(store), guarded, rebuild=True)
    assert means(store) == {"2024-01-01": 1.0}


def test_rearranging_leaves_the_table_no_nearer_to_its_inputs(store: Store) -> None:
    observe(store, ("2024-01-01T00", 1.0))
    bring_up(session(store), MEANING)
    observe(store, ("2024-01-01T00", 2.0))

    def rearranged(run: Run) -> Plan[Made]:
        return replace(plan_means(replace(run, is_full=True)), consumes=False)

    bring_up(session(store), replace(MEANING, plan=rearranged, rearranges=True))
    assert bring_up(session(store), MEANING).plan.units == ["2024-01-01"]
    log = store.read(f"{MEANS.path}/_delta_log/{2:020d}.json").decode()
    assert '"dataChange":false' in log and '"dataChange":true' not in log


def test_derivations_come_after_those_that_they_are_made_from() -> None:
    order = [d.name for d in derivations()]
    for derivation in derivations():
        for table in derivation.made_from:
            if table.name in order:
                assert order.index(table.name) < order.index(derivation.name)
    names = [
        "readings",
        "serving_readings",
        "consumption_daily",
        "outages",
        "forecasts",
        "anomalies",
    ]
    assert [n for n in order if n in names] == sorted(names, key=order.index)
    assert order.index("readings") == 0


def test_a_cycle_of_derivations_is_refused_by_name() -> None:
    def table(name: str) -> Table:
        return replace(MEANS, name=name, path=f"derived/{name}")

    def made(name: str, *sources: str) -> Derivation[Made]:
        return Derivation(table(name), tuple(map(table, sources)), plan=plan_means)

    assert [d.name for d in in_order([made("b", "a"), made("a", "weather")])] == ["a", "b"]
    with pytest.raises(BadInput, match=r"without a cycle; found .*a.*b"):
        in_order([made("a", "b"), made("b", "a")])
    with pytest.raises(BadInput, match="Table 'a' needs one derivation"):
        in_order([made("a"), made("a")])


def test_a_table_that_nothing_derives_is_refused_with_those_there_are() -> None:
    with pytest.raises(BadInput, match=r"one of readings, .*; found 'staging'"):
        named_derivation("staging")


def test_every_derived_table_of_ours_is_in_the_schema_and_no_source_is_unknown() -> None:
    for derivation in derivations():
        for each in (derivation.table, *derivation.also, *derivation.made_from):
            assert TABLES[each.name] is each


def test_a_state_read_twice_gives_the_same_plan(store: Store) -> None:
    observe(store, ("2024-01-01T00", 1.0), ("2024-01-02T00", 2.0))
    plans: list[Sequence[Any]] = []
    for _ in range(2):
        _, run = runner.open_run(session(store), MEANING)
        plans.append(plan_means(run).units)
    assert plans[0] == plans[1]
    assert table_at(store, MEANS).version == -1
