"""Topology: the grid as it was at any moment, and what was wrong with it."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from support.grids import Grid, small_grid, write_grid

from meterlake.dataflows import run as dataflow
from meterlake.dataflows.run import DataflowRun, Scope, run_dataflow
from meterlake.delta import commit as commits
from meterlake.delta import upsert
from meterlake.delta.commit import snapshot
from meterlake.delta.store import Store, open_store
from meterlake.delta.upsert import SINCE_EVER
from meterlake.engine.local import LocalEngine
from meterlake.errors import BadInput, Unavailable
from meterlake.ingest import intake
from meterlake.integrate import derivations
from meterlake.pipeline import upkeep
from meterlake.pipeline.derivation import Session
from meterlake.questions import catalog
from meterlake.questions.sql import query
from meterlake.schema import KINDS, TOPOLOGY, Table
from meterlake.settings import load_settings
from meterlake.topology.dataflow import FINDINGS
from meterlake.topology.upstream import (
    changed_since,
    moment_of_topology,
    moments_of_topology,
    topology_at,
    upstream_nodes,
)

CONF = load_settings(late_hooks=())
FIRST = datetime(2024, 1, 1, tzinfo=UTC)
SECOND = datetime(2024, 3, 1, tzinfo=UTC)
THIRD = datetime(2024, 5, 1, tzinfo=UTC)
NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
SECOND_BEFORE = timedelta(microseconds=1)
Deliver = Callable[..., Path]
MORE = pytest.mark.proof  # the same, of more tables or kinds


@pytest.fixture
def lake(tmp_path: Path) -> Store:
    """A lake in a folder, where the kind of store makes no difference."""
    return open_store(str(tmp_path / "lake"))


@pytest.fixture
def load(tmp_path: Path) -> Callable[[Store, Grid, datetime], DataflowRun]:
    """Load a grid as it is at a moment."""

    def loaded(store: Store, grid: Grid, at: datetime) -> DataflowRun:
        return load_folder(store, write_grid(tmp_path / "grid", grid), at)

    return loaded


Load = Callable[[Store, Grid, datetime], DataflowRun]


def load_folder(store: Store, folder: Path, at: datetime) -> DataflowRun:
    return run_dataflow(store, "topology", Scope(str(folder), at=at), settings=CONF, now=NOW)


def rows(store: Store, kind: str) -> pl.DataFrame:
    return query(store, f"select * from {kind} order by id, valid_from")


def files(store: Store) -> dict[str, str]:
    """The file of each kind."""
    return {f.partition["kind"]: f.path for f in snapshot(store, TOPOLOGY).files}


def version(store: Store) -> int:
    return snapshot(store, TOPOLOGY).version


def view(store: Store) -> pl.DataFrame:
    return query(store, "select * from meter_topology order by meter_id")


def feeders(ways: pl.DataFrame) -> dict[str, str]:
    """Each meter's transformer."""
    return dict(ways.select("meter_id", "service_transformer_id").iter_rows())


def fed_at(store: Store, moment: datetime) -> dict[str, str]:
    return feeders(upstream_nodes(topology_at(store, moment)))


def findings(store: Store) -> list[tuple[str, str, str, str]]:
    """What is wrong now."""
    sql = "select kind, id, finding, detail from topology_findings where valid_to is null"
    return sorted(query(store, sql).rows())


def runs(store: Store) -> list[dict[str, Any]]:
    """The runs, as they were recorded; the last one is the last commit's."""
    return query(store, "select * from dataflow_runs order by window_end, outcome").to_dicts()


def test_the_shared_grid_of_ten_thousand_meters(shared_data: Path, lake: Store) -> None:
    done = load_folder(lake, shared_data / "topology", FIRST)
    assert set(done.odd) == {
        "1 x distribution_transformer: id of two kinds",
        "1 x substation: id of two kinds",
        "10,000 x location: coordinates as text",
        "1,669 x service_transformer: no reference",
    }
    sql = "select kind, finding, count(*) from topology_findings group by all"
    counts = {(kind, finding): n for kind, finding, n in query(lake, sql).iter_rows()}
    assert counts == {
        ("distribution_transformer", "id of two kinds"): 1,
        ("substation", "id of two kinds"): 1,
        ("location", "coordinates as text"): 10_000,
        ("service_transformer", "no reference"): 1669,
    }
    ways = view(lake)
    assert ways.height == ways["meter_id"].n_unique() == 10_000
    complete = ("substation_id", "substation", "power_grid_id", "latitude", "longitude")
    assert ways.select(complete).null_count().row(0) == (0,) * len(complete)
    assert ways["latitude"].is_between(47, 48).all()
    assert ways["longitude"].is_between(-123, -122).all()
    assert set(ways["service_transformer_kva"]) == {100.0}
    assert set(ways["distribution_transformer_kva"]) == {40_000.0}
    assert set(ways["power_grid"]) == {"Seattle Main Grid"}
    assert ways["distribution_transformer_id"].n_unique() == 6
    assert ways.equals(upstream_nodes(topology_at(lake, NOW)))

    before = files(lake)
    again = load_folder(lake, shared_data / "topology", SECOND)
    assert (again.added, again.changed, again.ended, again.rows) == (0, 0, 0, done.rows)
    assert files(lake) == before
    assert upkeep.check(Session(lake, LocalEngine(1), CONF, NOW)).findings == ()


def test_each_kind_is_a_view_with_its_own_columns(lake: Store, load: Load) -> None:
    load(lake, small_grid(m1="t1"), FIRST)
    listed = {row["table"]: row["rows"] for row in catalog.tables(lake)}
    for kind in KINDS:
        assert listed[kind] is None
        nodes = rows(lake, kind)
        assert nodes.columns == [row["column"] for row in catalog.describe(kind)]
        assert nodes.select("valid_from", "valid_to").unique().row(0) == (SINCE_EVER, None)
        now = topology_at(lake, NOW)[kind]
        assert nodes.drop("valid_from", "valid_to").equals(now.sort("id"))


def test_a_meter_that_moves_one_that_goes_and_one_that_comes(store: Store, load: Load) -> None:
    load(store, small_grid(stays="t1", moves="t1", goes="t2"), FIRST)
    assert version(store) == 1
    before = files(store)
    grid = small_grid(stays="t1", moves="t2", comes="t2")
    kept = {n["id"]: n for n in small_grid(stays="t1", moves="t1", goes="t2")["location"]}
    grid["location"] = [kept.get(n["id"], n) for n in grid["location"]]
    done = load(store, grid, SECOND)
    assert (done.added, done.changed, done.ended) == (2, 1, 2)  # and the places of two
    assert version(store) == 2  # one commit
    assert {kind for kind, path in files(store).items() if path != before[kind]} == {
        "smart_meter", "location",
    }  # fmt: skip
    assert rows(store, "smart_meter").rows() == [
        ("comes", "at-comes", "t2", SECOND, None),
        ("goes", "at-goes", "t2", SINCE_EVER, SECOND),
        ("moves", "at-moves", "t1", SINCE_EVER, SECOND),
        ("moves", "at-moves", "t2", SECOND, None),
        ("stays", "at-stays", "t1", SINCE_EVER, None),
    ]
    was = {"stays": "t1", "moves": "t1", "goes": "t2"}
    now = {"stays": "t1", "moves": "t2", "comes": "t2"}
    for moment in (SINCE_EVER, FIRST - timedelta(days=999), FIRST, SECOND - SECOND_BEFORE):
        assert fed_at(store, moment) == was
    for moment in (SECOND, NOW, NOW + timedelta(days=999)):
        assert fed_at(store, moment) == now
    assert feeders(view(store)) == now
    assert view(store).equals(upstream_nodes(topology_at(store, NOW)))
    assert moment_of_topology(store) == SECOND
    way = view(store).filter(pl.col("meter_id") == "moves").drop("latitude", "longitude")
    assert way.rows() == [
        ("moves", "t2", 50.0, "d", 1000.0, "z", "Zone 1", "s", "North", "g", "Grid", "4 Main St")
    ]  # fmt: skip


def test_a_meter_that_comes_back_was_away_in_between(lake: Store, load: Load) -> None:
    load(lake, small_grid(a="t1", b="t1"), FIRST)
    load(lake, small_grid(a="t1"), SECOND)
    load(lake, small_grid(a="t1", b="t1"), THIRD)
    assert [set(fed_at(lake, at)) for at in (FIRST, SECOND, THIRD)] == [
        {"a", "b"}, {"a"}, {"a", "b"},
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["smart_meter", "power_grid"])
@pytest.mark.parametrize("at", [SECOND, THIRD])
def test_a_state_that_is_no_later_than_the_last_one_is_refused_and_changes_nothing(
    lake: Store, load: Load, kind: str, at: datetime
) -> None:
    load(lake, small_grid(a="t1"), FIRST)
    load(lake, small_grid(a="t2"), THIRD)  # changes no other kind
    before, was = version(lake), view(lake)
    grid = small_grid(a="t2")
    grid[kind][0] |= {"name": "renamed"} if kind == "power_grid" else {"locationId": "at-s"}
    with pytest.raises(BadInput, match=r"in the order of time.* Give a later"):
        load(lake, grid, at)
    assert view(lake).equals(was)
    assert version(lake) == before


def test_a_state_of_the_past_that_held_then_changes_nothing(lake: Store, load: Load) -> None:
    load(lake, small_grid(a="t1"), FIRST)
    load(lake, small_grid(a="t2"), THIRD)
    before = version(lake)
    done = load(lake, small_grid(a="t1"), SECOND)
    assert (done.added, done.changed, done.ended) == (0, 0, 0)
    assert version(lake) == before


def test_a_state_that_changed_nothing_held_at_its_moment_all_the_same(
    lake: Store, load: Load
) -> None:
    load(lake, small_grid(a="t1"), FIRST)
    load(lake, small_grid(a="t1"), THIRD)
    with pytest.raises(BadInput, match=r"in the order of time.* Give a later"):
        load(lake, small_grid(a="t2"), SECOND)
    assert fed_at(lake, THIRD) == {"a": "t1"}


def test_a_kind_whose_first_node_comes_later_did_not_have_it_since_ever(
    lake: Store, load: Load
) -> None:
    without = small_grid(a="t1")
    without["voltage_control_zone"] = []
    without["distribution_transformer"][0]["voltageControlZoneId"] = ""
    load(lake, without, FIRST)
    load(lake, small_grid(a="t1"), SECOND)
    assert topology_at(lake, FIRST)["voltage_control_zone"].is_empty()
    assert topology_at(lake, SECOND)["voltage_control_zone"]["id"].to_list() == ["z"]


def test_a_finding_that_comes_later_did_not_hold_since_ever(lake: Store, load: Load) -> None:
    load(lake, small_grid(a="t1"), FIRST)
    load(lake, small_grid(a="t9"), SECOND)
    assert rows(lake, "topology_findings")["valid_from"].to_list() == [SECOND]


def change(kind: str, **told: Any) -> Callable[[Grid], None]:
    """The first node of a kind, other than it was."""

    def changed(grid: Grid) -> None:
        grid[kind][0] |= told

    return changed


def add(kind: str, **told: Any) -> Callable[[Grid], None]:
    return lambda grid: grid[kind].append(told)


ODD: dict[str, tuple[Callable[[Grid], None], list[tuple[str, str, str, str]]]] = {
    "a meter on no transformer that is there": (
        change("smart_meter", serviceTransformerId="t9"),
        [("smart_meter", "m1", "dangling reference", "service_transformer_id t9")],
    ),
    "a meter on no transformer": (
        change("smart_meter", serviceTransformerId=" "),
        [("smart_meter", "m1", "no reference", "service_transformer_id")],
    ),
    "a meter nowhere": (
        change("smart_meter", locationId=None),
        [("smart_meter", "m1", "no reference", "location_id")],
    ),
    "a zone that is not there": (
        change("distribution_transformer", voltageControlZoneId="z9"),
        [
            (
                "distribution_transformer",
                "d",
                "dangling reference",
                "voltage_control_zone_id z9",
            )
        ],
    ),
    "no zone, which may be": (change("distribution_transformer", voltageControlZoneId=""), []),
    "an id twice": (
        add("smart_meter", id="m1", locationId="at-m2", serviceTransformerId="t2"),
        [("smart_meter", "m1", "id twice", "again as node 3")],
    ),
    "no id": (
        add("smart_meter", id="", locationId="at-m2", serviceTransformerId="t2"),
        [("smart_meter", "", "no id", "node 3 of the file")],
    ),
    "an id of two kinds": (
        add("voltage_control_zone", id="t1", name="Zone t1"),
        [
            ("service_transformer", "t1", "id of two kinds", "voltage_control_zone"),
            ("voltage_control_zone", "t1", "id of two kinds", "service_transformer"),
        ],
    ),
    "empty coordinates": (
        change("location", latitude="", longitude=None),
        [
            ("location", "at-s", "no coordinates", "latitude None"),
            ("location", "at-s", "no coordinates", "longitude None"),
        ],
    ),
    "coordinates off the globe": (
        change("location", latitude=90.5, longitude="-181"),
        [
            ("location", "at-s", "coordinates as text", "longitude"),
            ("location", "at-s", "no coordinates", "latitude 90.5"),
            ("location", "at-s", "no coordinates", "longitude '-181'"),
        ],
    ),
    "a latitude too large for a number": (
        change("location", latitude=10**400),
        [("location", "at-s", "no coordinates", f"latitude {10**400!r}")],
    ),
    "coordinates as text": (
        change("location", latitude="45.5", longitude="7.5"),
        [("location", "at-s", "coordinates as text", "latitude and longitude")],
    ),
    "a capacity that is none": (
        change("service_transformer", capacity="25 kW"),
        [("service_transformer", "t1", "no capacity", "'25 kW'")],
    ),
    "no capacity": (
        change("distribution_transformer", capacity=""),
        [("distribution_transformer", "d", "no capacity", "None")],
    ),
}


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=[MORE] * (n % 3 > 0)) for n, c in enumerate(ODD)]
)
def test_what_is_odd_is_loaded_told_of_and_closed_when_it_is_mended(
    lake: Store, load: Load, case: str
) -> None:
    mutilate, expected = ODD[case]
    odd = small_grid(m1="t1", m2="t2")
    mutilate(odd)
    done = load(lake, odd, FIRST)
    assert findings(lake) == expected
    assert {finding for _, _, finding, _ in expected} <= set(FINDINGS)
    counts = Counter((kind, finding) for kind, _, finding, _ in expected)
    assert set(done.odd) == {f"{n} x {kind}: {finding}" for (kind, finding), n in counts.items()}
    assert set(feeders(view(lake))) == {"m1", "m2"}
    assert view(lake).equals(upstream_nodes(topology_at(lake, NOW)))
    assert load(lake, small_grid(m1="t1", m2="t2"), SECOND).odd == ()
    assert findings(lake) == []
    assert set(rows(lake, "topology_findings")["valid_to"]) == ({SECOND} if expected else set())
    assert fed_at(lake, NOW) == {"m1": "t1", "m2": "t2"}


def test_of_an_id_that_stands_twice_the_first_counts(lake: Store, load: Load) -> None:
    grid = small_grid(m1="t1")
    grid["smart_meter"].append({"id": "m1", "locationId": "", "serviceTransformerId": "t2"})
    load(lake, grid, FIRST)
    assert fed_at(lake, NOW) == {"m1": "t1"}


def test_ids_that_are_numbers_are_known_by_their_digits(lake: Store, load: Load) -> None:
    grid = small_grid(m1="t1")
    grid["service_transformer"][0]["id"] = 7
    grid["smart_meter"][0]["serviceTransformerId"] = 7
    load(lake, grid, FIRST)
    assert fed_at(lake, NOW) == {"m1": "7"}
    assert findings(lake) == []


def test_meters_are_compared_with_the_readings_of_the_last_days(
    store: Store, load: Load, deliver: Deliver
) -> None:
    def row(day: str, meter: str) -> str:
        return f"2024-01-{day} 00:00:00,2024-01-{day} 00:05:00,{meter},readings,,,,,1,"

    read = [row("02", "old"), row("03", "first"), row("09", "m1"), row("09", "stranger")]
    path = deliver("a.csv.gz", *read)
    intake.ingest(Session(store, LocalEngine(1), CONF, NOW), [str(path)])
    derivations.integrate(Session(store, LocalEngine(1), CONF, NOW))
    load(store, small_grid(m1="t1", old="t1", first="t1", never="t2"), FIRST)
    since = "in the last 7 days of readings"
    assert findings(store) == [
        ("smart_meter", "never", "no readings", since),
        ("smart_meter", "old", "no readings", since),
        ("smart_meter", "stranger", "not in the topology", since),
    ]
    assert set(feeders(view(store))) == {"m1", "old", "first", "never"}


def broken(folder: Path, how: str) -> None:
    """Change one file of a sound grid."""
    file = folder / "location.json"
    match how:
        case "a missing file":
            file.unlink()
        case "no JSON":
            file.write_text('[{"id": "a"}')
        case "no UTF-8":
            file.write_bytes(b'[{"id": "\xff\xfe"}]')
        case "no list":
            file.write_text('{"id": "a"}')
        case "a list of no nodes":
            file.write_text('["a"]')
        case "a reference that is a list":
            node = '[{"id": "m1", "serviceTransformerId": ["t1"], "locationId": "at-m1"}]'
            (folder / "smart_meter.json").write_text(node)
        case "half a letter":
            (folder / "voltage_control_zone.json").write_text('[{"id": "z", "name": "\\ud800"}]')
        case "a circle":
            (folder / "substation.json").write_text('[{"id": "s", "gridId": "d"}]')
        case "a node that feeds itself":
            (folder / "substation.json").write_text('[{"id": "s", "gridId": "s"}]')


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("a missing file", r"power_grid\.json, .*location\.json' is not there"),
        ("no JSON", "needs to be JSON"),
        ("no UTF-8", "needs to be JSON"),
        ("no list", "needs to be a list of nodes"),
        ("a list of no nodes", "needs to be a list of nodes"),
        ("a reference that is a list", "service_transformer_id"),
        ("half a letter", "voltage_control_zone"),
        ("a circle", "without a circle; found .*substation s -> distribution_transformer d"),
        ("a node that feeds itself", "without a circle; found substation s -> substation s"),
    ],
)
def test_what_makes_no_sense_as_a_whole_is_refused_and_changes_nothing(
    lake: Store, load: Load, tmp_path: Path, how: str, words: str
) -> None:
    load(lake, small_grid(m1="t1"), FIRST)
    before, was = version(lake), view(lake)
    folder = write_grid(tmp_path / "broken", small_grid(m1="t2", m2="t2"))
    broken(folder, how)
    with pytest.raises(BadInput, match=words) as said:
        load_folder(lake, folder, SECOND)
    assert version(lake) == before
    assert view(lake).equals(was)
    *_, last = runs(lake)
    assert (last["window_end"], last["outcome"], last["window_start"]) == (SECOND, "failed", None)
    assert last["message"] == str(said.value)


def test_a_circle_of_ids_is_none_where_a_node_of_the_right_kind_has_the_id(
    lake: Store, load: Load
) -> None:
    grid = small_grid(m1="t1")
    grid["power_grid"].append({"id": "d", "name": "Like the transformer", "status": ""})
    grid["substation"][0]["gridId"] = "d"
    load(lake, grid, FIRST)
    assert view(lake)["power_grid"].to_list() == ["Like the transformer"]


@contextmanager
def refusing(table: str, error: type[BaseException] = Unavailable) -> Iterator[None]:
    """Nothing can be committed to this table."""

    def refused(store: Store, into: Table, *change: Any, **options: Any) -> Any:
        if into.name == table:
            raise error(f"{table} cannot be written")
        return commits.commit(store, into, *change, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upsert, "commit", refused)
        yield


def test_nobody_sees_half_a_snapshot(lake: Store, load: Load) -> None:
    load(lake, small_grid(m1="t1", m2="t2"), FIRST)
    before, was = version(lake), view(lake)
    grid = small_grid(m1="t2", m3="t2")
    for kind in ("power_grid", "substation", "voltage_control_zone"):
        grid[kind][0]["name"] += " renamed"
    grid["distribution_transformer"][0]["capacity"] = "2MVA"
    grid["service_transformer"][1]["capacity"] = "75kVA, about"

    with refusing("topology"), pytest.raises(Unavailable, match="topology"):
        load(lake, grid, SECOND)
    assert view(lake).equals(was)
    for moment in (FIRST, SECOND, NOW):
        assert upstream_nodes(topology_at(lake, moment)).equals(was)
    for again, commits_by_then in ((SECOND, 1), (SECOND, 1), (THIRD, 2)):
        load(lake, grid, again)
        assert version(lake) == before + commits_by_then
        now = view(lake)
        assert feeders(now) == {"m1": "t2", "m3": "t2"}
        assert set(now["substation"]) == {"North renamed"}
        assert set(now["service_transformer_kva"]) == {None}
        assert set(now["distribution_transformer_kva"]) == {2000.0}
        assert now.equals(upstream_nodes(topology_at(lake, NOW)))
        assert upstream_nodes(topology_at(lake, SECOND - SECOND_BEFORE)).equals(was)
    assert upkeep.check(Session(lake, LocalEngine(1), CONF, NOW)).findings == ()


def test_a_snapshot_that_was_cut_off_and_never_made_whole_is_no_part_of_the_past(
    lake: Store, load: Load
) -> None:
    load(lake, small_grid(m1="t1", m2="t1"), FIRST)
    was = view(lake)
    with refusing("topology"), pytest.raises(Unavailable):
        load(lake, small_grid(m1="t2", m3="t2"), SECOND)
    load(lake, small_grid(m1="t1", m2="t1", m3="t1"), THIRD)
    assert fed_at(lake, THIRD) == {"m1": "t1", "m2": "t1", "m3": "t1"}
    assert upstream_nodes(topology_at(lake, THIRD - SECOND_BEFORE)).equals(was)


def test_a_first_snapshot_that_was_cut_off_is_none(
    lake: Store, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(commits, "_write", refused)  # the table is there by then
        load(lake, small_grid(m1="t1"), FIRST)
    assert version(lake) == 0
    assert moment_of_topology(lake) is None
    assert moments_of_topology(lake) == []
    assert view(lake).is_empty()
    assert all(nodes.is_empty() for nodes in topology_at(lake, NOW).values())
    load(lake, small_grid(m1="t2", m2="t2"), SECOND)  # now the first, and another one
    for moment in (SINCE_EVER, FIRST, SECOND, NOW):
        ways = upstream_nodes(topology_at(lake, moment))
        assert ways.height == 2
        assert feeders(ways) == {"m1": "t2", "m2": "t2"}
    assert view(lake).equals(ways)


def test_a_snapshot_whose_run_was_not_recorded_can_be_loaded_again(lake: Store, load: Load) -> None:
    load(lake, small_grid(m1="t1"), FIRST)
    with refusing("dataflow_runs"), pytest.raises(Unavailable):
        load(lake, small_grid(m1="t2"), SECOND)
    before = version(lake)
    assert load(lake, small_grid(m1="t2"), SECOND).changed == 0
    assert version(lake) == before
    assert moments(lake) == [FIRST, SECOND]
    assert fed_at(lake, NOW) == feeders(view(lake)) == {"m1": "t2"}


@contextmanager
def overtaken(table: str, by: Callable[[], object]) -> Iterator[list[str]]:
    """Right before the next commit to this table, `by` is done; yields the table when it was."""
    done: list[str] = []

    def late(store: Store, into: Table, *change: Any, **options: Any) -> Any:
        if into.name == table and not done:
            done.append(table)
            by()
        return commits.commit(store, into, *change, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upsert, "commit", late)
        yield done


def moments(store: Store) -> list[datetime]:
    return [row["window_end"] for row in runs(store) if row["outcome"] == "succeeded"]


def test_of_two_runs_at_once_the_later_state_follows_the_earlier(lake: Store, load: Load) -> None:
    load(lake, small_grid(m1="t1"), FIRST)
    earlier, later = small_grid(m1="t2"), small_grid(m1="t1")
    with overtaken("topology", by=lambda: load(lake, earlier, SECOND)) as done:
        load(lake, later, THIRD)
    assert done
    assert [fed_at(lake, at)["m1"] for at in (FIRST, SECOND, THIRD)] == ["t1", "t2", "t1"]
    assert moments(lake) == [FIRST, SECOND, THIRD]


@pytest.mark.parametrize("where", ["before it looks at the table", "before its commit"])
def test_a_run_that_a_later_state_overtakes_comes_too_late(
    lake: Store, load: Load, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """The run that overtakes it finds the lake as it loads it: it has nothing to change."""
    as_before, moved = small_grid(m1="t1", m2="t2"), small_grid(m1="t2", m2="t2")
    moved["location"][0]["latitude"] = 1.0
    load(lake, as_before, FIRST)
    was, conformed = view(lake), dataflow._conformed

    def slowly(*arguments: Any) -> pl.DataFrame:
        monkeypatch.setattr(dataflow, "_conformed", conformed)
        load(lake, as_before, THIRD)
        return conformed(*arguments)

    too_late = pytest.raises(BadInput, match=r"in the order of time.* Give a later")
    if where == "before its commit":
        with overtaken("topology", by=lambda: load(lake, as_before, THIRD)) as done, too_late:
            load(lake, moved, SECOND)
        assert done
    else:
        monkeypatch.setattr(dataflow, "_conformed", slowly)
        with too_late:
            load(lake, moved, SECOND)
    assert moments(lake) == [FIRST, THIRD]
    assert view(lake).equals(was)
    for moment in (SECOND, THIRD, NOW):
        assert upstream_nodes(topology_at(lake, moment)).equals(was)
    with pytest.raises(BadInput, match="in the order of time"):
        load(lake, moved, SECOND)
    assert upkeep.check(Session(lake, LocalEngine(1), CONF, NOW)).findings == ()


@pytest.mark.parametrize("second", [FIRST, SECOND], ids=["of one moment", "of two moments"])
def test_two_first_states_are_not_mixed(lake: Store, load: Load, second: datetime) -> None:
    one, other = small_grid(m1="t1"), small_grid(m1="t2")
    for transformer in other["service_transformer"]:
        transformer["capacity"] = "75kva"
    overtaking = overtaken("topology", by=lambda: load(lake, other, second))
    with overtaking as done, pytest.raises(BadInput, match="in the order of time"):
        load(lake, one, FIRST)
    assert done
    assert moments(lake) == [second]
    for ways in (view(lake), upstream_nodes(topology_at(lake, SINCE_EVER))):
        nodes = ways.select("service_transformer_id", "service_transformer_kva")
        assert nodes.rows() == [("t2", 75.0)]


def test_from_when_on_the_grid_is_another_one_than_at_a_version(lake: Store, load: Load) -> None:
    assert changed_since(lake, -1, -1) is None
    loaded = {-1: -1}
    states = [("t1", FIRST), ("t2", SECOND), ("t2", THIRD), ("t1", NOW)]
    for number, (transformer, at) in enumerate(states):
        load(lake, small_grid(m1=transformer), at)
        loaded[number] = version(lake)
    assert moments_of_topology(lake) == [SECOND, NOW]
    assert moment_of_topology(lake) == NOW
    for before, now, since in [
        (-1, 0, SINCE_EVER), (-1, 3, SINCE_EVER), (0, 0, None), (0, 1, SECOND), (0, 3, SECOND),
        (1, 2, None), (1, 3, NOW), (2, 3, NOW),
    ]:  # fmt: skip
        assert changed_since(lake, loaded[before], loaded[now]) == since, (before, now)


def test_a_finding_alone_does_not_make_the_grid_another_one(
    lake: Store, load: Load, deliver: Deliver
) -> None:
    load(lake, small_grid(m1="t1"), FIRST)
    before = version(lake)
    read = deliver("a.csv", "2024-01-02 00:00:00,2024-01-02 00:05:00,stranger,readings,,,,,1,")
    intake.ingest(Session(lake, LocalEngine(1), CONF, NOW), [str(read)])
    derivations.integrate(Session(lake, LocalEngine(1), CONF, NOW))
    load(lake, small_grid(m1="t1"), SECOND)
    assert findings(lake) != []
    assert changed_since(lake, before, version(lake)) is None
    assert moments_of_topology(lake) == []


def test_a_run_that_was_recorded_though_its_answer_was_lost_can_be_run_again(
    store: Store, load: Load, deliver: Deliver
) -> None:
    first, second = small_grid(m1="t1", m2="t2"), small_grid(m1="t2")
    loaded = load(store, first, FIRST)
    load(store, second, SECOND)
    before, was = version(store), view(store)
    # Other findings, since there are readings by now: of the lake, not of what is loaded.
    read = deliver("a.csv", "2024-01-02 00:00:00,2024-01-02 00:05:00,stranger,readings,,,,,1,")
    intake.ingest(Session(store, LocalEngine(1), CONF, NOW), [str(read)])
    derivations.integrate(Session(store, LocalEngine(1), CONF, NOW))
    for grid, at in ((second, SECOND), (first, FIRST)):
        again = load(store, grid, at)
        assert (again.added, again.changed, again.ended) == (0, 0, 0)
    assert again.rows > loaded.rows
    for grid, at in ((first, SECOND), (second, FIRST)):
        with pytest.raises(BadInput, match=r"has other rows in .* Give a later --at"):
            load(store, grid, at)
    assert version(store) == before
    assert view(store).equals(was)
    assert moments(store) == [FIRST, FIRST, SECOND, SECOND]
