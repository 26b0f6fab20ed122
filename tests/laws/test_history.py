"""History stands: as of any moment the lake answers what had arrived by then."""

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st
from support import work

from meterlake.delta.store import Store, open_store
from meterlake.questions.history import AsOf
from meterlake.questions.question import ask
from meterlake.questions.readings import readings_as_of
from meterlake.questions.registry import QUESTIONS
from meterlake.questions.sql import query
from meterlake.readings.reader import Reader
from meterlake.settings import Settings

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
START = datetime(2024, 1, 1, tzinfo=UTC)
HEADER = "time,arrival_time,device_id,measure_name,load,crrnt,pf,kva,kw,vltg"
ALWAYS = datetime(2099, 1, 1, tzinfo=UTC)

read = st.tuples(
    st.sampled_from(["m1", "m2"]),
    st.integers(0, 2),  # quarter hours
    st.sampled_from([0, 5, 61, 300]),  # minutes from reading to arrival: few, so that many tie
    st.sampled_from(["", "0.0", "1.5", "-2.25"]),  # kW
    st.sampled_from(["", "220.0", "230.0"]),  # V
)
Read = tuple[str, int, int, str, str]
deliveries = st.lists(st.lists(read, min_size=1, max_size=15), min_size=1, max_size=4)


def write(path: Path, reads: list[Read], *more: str) -> str:
    lines = [HEADER]
    for meter, quarter, delay, kw, volt in reads:
        time = START + timedelta(minutes=15 * quarter)
        stamps = f"{time:%Y-%m-%d %H:%M:%S},{time + timedelta(minutes=delay):%Y-%m-%d %H:%M:%S}"
        lines.append(f"{stamps},{meter},readings,,,,,{kw},{volt}")
    path.write_text("\n".join([*lines, *more, ""]))
    return str(path)


def lake_of(folder: Path, files: list[list[Read]], *, until: datetime | None = None) -> Store:
    """A lake that took these files in an hour apart; by `until`, only what had arrived."""
    store = open_store(str(folder / "lake"))
    store.put("inbound/new", b"")
    for number, reads in enumerate(files):
        if until is not None:
            reads = [r for r in reads if START + timedelta(minutes=15 * r[1] + r[2]) <= until]
        # The number keeps files apart that hold the same.
        path = write(folder / f"{number}.csv", reads, f"# {number}")
        work.ingest(store.url, [path], NOW + timedelta(hours=number))
    work.integrate(store.url, NOW)
    return store


SQL = "SELECT * FROM readings ORDER BY meter_id, reading_type, reading_date_time"


@settings(max_examples=5)
@given(files=deliveries, minutes=st.integers(0, 400))
def test_as_of_a_moment_is_the_lake_of_what_had_arrived_by_then(
    files: list[list[Read]], minutes: int
) -> None:
    moment = START + timedelta(minutes=minutes)
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        lake = lake_of(Path(one), files)
        then = lake_of(Path(other), files, until=moment)
        assert query(lake, SQL, as_of=AsOf(moment)).equals(query(then, SQL))
        assert query(lake, SQL, as_of=AsOf(ALWAYS)).equals(query(lake, SQL))
        meters = ["m2", "m1"]
        start, end = START + timedelta(minutes=15), START + timedelta(minutes=61)
        for kind in ("kw", "vltg"):
            found = readings_as_of(
                lake, meters, AsOf(moment), reading_type=kind, start=start, end=end
            )
            told = Reader(then).readings(
                meters, reading_types=kind, start=start, end=end, with_arrival=True
            )
            assert found.equals(told)


@settings(max_examples=5)
@given(files=deliveries, taken=st.integers(0, 4))
def test_by_receipt_it_is_the_lake_as_it_was_at_that_moment(
    files: list[list[Read]], taken: int
) -> None:
    moment = NOW + timedelta(hours=taken - 0.5)
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        lake = lake_of(Path(one), files)
        then = lake_of(Path(other), files[:taken])
        as_of = AsOf(moment, "receipt")
        for table in ("readings", "staging", "quarantine"):
            sql = f"SELECT * FROM {table} ORDER BY ALL"
            assert query(lake, sql, as_of=as_of).equals(query(then, sql)), table


@settings(max_examples=5)
@given(files=deliveries)
def test_the_balance_accounts_for_every_row_and_reading(files: list[list[Read]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        lake = lake_of(Path(folder), files)
        rows = ask(lake, QUESTIONS["balance"], {}, settings=Settings()).rows
        assert rows["file"].to_list() == [f"{n}.csv" for n in range(len(files))]
        for number, reads in enumerate(files):
            of = rows.row(number, named=True)
            values = sum((kw != "") + (volt != "") for *_, kw, volt in reads)
            assert (of["rows"], of["stored"]) == (len(reads) + 1, len(reads))
            assert (of["quarantined"], of["readings"]) == (1, values)
            assert values == of["standing"] + of["superseded"] + of["duplicates"]
        # Each key stands once; each other content of it is superseded; the rest is the same.
        every = [
            (r[0], r[1], kind, r[2], value)
            for reads in files
            for r in reads
            for kind, value in (("kw", r[3]), ("vltg", r[4]))
            if value != ""
        ]
        keys, contents = len({e[:3] for e in every}), len(set(every))
        assert rows["standing"].sum() == keys == query(lake, SQL).height
        assert rows["superseded"].sum() == contents - keys
        assert rows["duplicates"].sum() == len(every) - contents


def test_a_bill_is_the_same_after_a_correction(tmp_path: Path) -> None:
    first = write(tmp_path / "a.csv", [("m1", q, 5, "1.0", "") for q in range(4)])
    store = open_store(str(tmp_path / "lake"))
    work.ingest(store.url, [first], NOW)
    work.integrate(store.url, NOW)
    sql = "SELECT sum(reading_value) FROM readings WHERE reading_type = 'kw'"
    assert query(store, sql).item() == 4.0
    again = write(tmp_path / "b.csv", [("m1", 2, 60 * 24 * 40, "9.0", "")])
    work.ingest(store.url, [again], NOW + timedelta(days=1))
    work.integrate(store.url, NOW + timedelta(days=1))
    assert query(store, sql).item() == 12.0
    billed = START + timedelta(days=31)
    assert query(store, sql, as_of=AsOf(billed)).item() == 4.0
    assert query(store, sql, as_of=AsOf(billed + timedelta(days=31))).item() == 12.0
    assert query(store, sql, as_of=AsOf(NOW, "receipt")).item() == 4.0
    assert query(store, sql, as_of=AsOf(NOW - timedelta(seconds=1), "receipt")).item() is None
    late = pl.DataFrame(query(store, "SELECT * FROM late_arrivals", as_of=AsOf(NOW)))
    assert late.is_empty()
