"""Rows and states of tables, against the plainest account of them."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterlake.delta.commit import snapshot
from meterlake.delta.store import Store, open_store
from meterlake.delta.table import fetched, scan
from meterlake.delta.upsert import (
    SINCE_EVER,
    VALIDITY,
    RowCounts,
    State,
    keep_history,
    last_moment,
    replace_rows,
)
from meterlake.errors import BadInput
from meterlake.questions.sql import query
from meterlake.schema import TOPOLOGY, WEATHER, Table, polars_schema

NOW = datetime(2024, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)
Zones = dict[str, str | None]
Batch = dict[tuple[str, int], float | None]


@pytest.fixture
def new_lake(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Store]:
    return lambda: open_store(str(tmp_path_factory.mktemp("lake")))


def held(store: Store, table: Table) -> pl.DataFrame:
    return fetched(scan(store, table, snapshot(store, table).files))


def frame(zones: Zones) -> pl.DataFrame:
    """Nodes of the topology."""
    schema = {
        name: dtype for name, dtype in polars_schema(TOPOLOGY).items() if name not in VALIDITY
    }
    common = {"kind": "zone", "node_kind": "", "finding": "", "detail": ""}
    rows = [
        dict.fromkeys(schema) | common | {"id": zone, "name": name} for zone, name in zones.items()
    ]
    return pl.DataFrame(rows, schema=schema, orient="row")


def keep(store: Store, zones: Zones, at: datetime) -> RowCounts:
    return keep_history(store, TOPOLOGY, State(frame(zones), at), job="test", now=NOW)


names = st.sampled_from(["", "North", "South"]) | st.none()
states = st.dictionaries(st.sampled_from("abcd"), names, max_size=4)


@settings(max_examples=15)
@given(st.lists(st.tuples(st.sampled_from([0, 1, 1, 30]), states), min_size=1, max_size=5))
def test_what_holds_at_a_moment_is_the_state_that_was_kept_for_it(
    new_lake: Callable[[], Store], steps: list[tuple[int, Zones]]
) -> None:
    store, before, moment, kept = new_lake(), Zones(), NOW, dict[datetime, Zones]()
    for days, state in steps:
        moment += days * DAY
        if moment in kept and state != kept[moment]:
            with pytest.raises(BadInput, match="in the order of time, one of a moment"):
                keep(store, state, moment)
            continue
        there = snapshot(store, TOPOLOGY)
        done = keep(store, state, moment)
        common = set(before) & set(state)
        assert done == RowCounts(
            added=len(set(state) - set(before)),
            changed=sum(before[name] != state[name] for name in common),
            ended=len(set(before) - set(state)),
        )
        after = snapshot(store, TOPOLOGY)
        if moment in kept:
            assert after == there
        elif done == RowCounts():
            assert after.files == there.files
        kept[moment] = before = state
        assert last_moment(store, after) == moment

    rows = held(store, TOPOLOGY)
    assert set(rows["valid_from"]) <= {SINCE_EVER, *kept}
    spans = rows.sort("id", "valid_from")
    assert (spans["valid_to"].is_null() | (spans["valid_from"] < spans["valid_to"])).all()
    follows = spans.select(pl.col("valid_from") >= pl.col("valid_to").shift(1).over("id"))
    assert follows.to_series().drop_nulls().all()
    assert not spans.filter(pl.col("valid_to").is_null())["id"].is_duplicated().any()
    for asked in {SINCE_EVER, *(at + shift for at in kept for shift in (-DAY / 2, 0 * DAY))}:
        wanted = kept[max((at for at in kept if at <= asked), default=min(kept))]
        ends = pl.col("valid_to")
        then = rows.filter(pl.col("valid_from") <= asked, ends.is_null() | (ends > asked))
        assert sorted(then.select("id", "name").rows()) == sorted(wanted.items())


hours = st.tuples(st.sampled_from(["A", "B"]), st.sampled_from([0, 1, 24, 47]))
values = st.sampled_from([0.0, 1.5, -3.0]) | st.none()
batches = st.dictionaries(hours, values, max_size=5)


def observations(batch: Batch) -> pl.DataFrame:
    schema = polars_schema(WEATHER)
    empty = dict.fromkeys(schema)
    rows = []
    for (station, hour), value in batch.items():
        time = NOW + timedelta(hours=hour)
        told = {"station_id": station, "time": time, "temperature": value, "date": f"{time:%F}"}
        rows.append(empty | told)
    return pl.DataFrame(rows, schema=schema, orient="row")


@settings(max_examples=20)
@given(st.lists(batches, min_size=1, max_size=5))
def test_rows_take_the_place_of_those_with_their_key_and_of_no_others(
    new_lake: Callable[[], Store], told: list[Batch]
) -> None:
    store, wanted = new_lake(), Batch()
    for batch in told:
        state = snapshot(store, WEATHER)
        done = replace_rows(store, WEATHER, observations(batch), job="test", now=NOW)
        changed = {key for key in set(batch) & set(wanted) if batch[key] != wanted[key]}
        new = set(batch) - set(wanted)
        assert done == RowCounts(added=len(new), changed=len(changed))
        days = {f"{NOW + timedelta(hours=hour):%F}" for _, hour in changed | new}
        after = snapshot(store, WEATHER)
        kept = {f.path for f in after.files}
        gone = {f.partition["date"] for f in state.files if f.path not in kept}
        assert gone == days & {f.partition["date"] for f in state.files}
        assert (after.version > state.version) == bool(days)
        wanted |= batch
        assert (
            held(store, WEATHER)
            .sort(WEATHER.sorted_by)
            .equals(observations(wanted).sort(WEATHER.sorted_by))
        )
        assert len({f.partition["date"] for f in after.files}) == len(after.files)


def test_a_key_that_stands_twice_or_is_missing_is_refused(
    new_lake: Callable[[], Store],
) -> None:
    store, zone = new_lake(), frame({"a": "North"})
    nameless = zone.with_columns(pl.lit(None, pl.String).alias("id"))
    for rows in (pl.concat([zone, zone]), nameless):
        with pytest.raises(BadInput, match="needs"):
            keep_history(store, TOPOLOGY, State(rows, NOW), job="test", now=NOW)
    row = observations({("A", 0): 1.0})
    orphan = row.with_columns(pl.lit(None, pl.String).alias("station_id"))
    for rows in (pl.concat([row, row]), orphan):
        with pytest.raises(BadInput, match="needs"):
            replace_rows(store, WEATHER, rows, job="test", now=NOW)
    assert snapshot(store, TOPOLOGY).version == -1
    assert snapshot(store, WEATHER).version == -1


@pytest.mark.parametrize("value", ["2024", "New York", "a/b", "50%", "k=v", "Zürich", "", None])
def test_rows_of_any_partition_are_refused_or_read_as_they_were_kept(
    new_lake: Callable[[], Store], value: str | None
) -> None:
    store = new_lake()
    rows = observations({("A", 0): 1.0}).with_columns(pl.lit(value, pl.String).alias("date"))
    try:
        for _ in range(2):
            replace_rows(store, WEATHER, rows, job="test", now=NOW)
    except BadInput as error:
        assert "date" in str(error)
        assert snapshot(store, WEATHER).rows == 0
    else:
        assert held(store, WEATHER).equals(rows)
        assert query(store, "select date from weather").rows() == [(value,)]
