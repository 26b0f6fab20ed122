"""Taking a delivery back, and reading it again: the lake answers as if it always were so."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import work

from meterlake.delta.commit import snapshot
from meterlake.delta.store import Store, open_store
from meterlake.engine.local import LocalEngine
from meterlake.errors import BadInput
from meterlake.ingest import intake
from meterlake.ingest.deliveries import withdraw
from meterlake.ingest.intake import IngestOptions
from meterlake.integrate.derivations import cluster, integrate
from meterlake.pipeline import upkeep
from meterlake.pipeline.derivation import Session
from meterlake.questions.history import AsOf
from meterlake.questions.sql import query
from meterlake.readings.consumption import read_consumption
from meterlake.readings.reader import Reader
from meterlake.schema import READINGS, STAGING

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
CASES = Path(__file__).resolve().parents[3] / "shared" / "cases"
PROFILE = """
name = "ours"
interval_minutes = {minutes}
meter = "meter"
[time]
column = "at"
zone = "{zone}"
[values]
kwh = {{ type = "kw", unit = "{unit}" }}
"""
ANSWERS = (
    "SELECT * EXCLUDE (arrival_time) FROM readings ORDER BY ALL",
    "SELECT * FROM consumption_daily ORDER BY ALL",
    "SELECT * FROM consumption_monthly ORDER BY ALL",
)


def session(store: Store, now: datetime = NOW) -> Session:
    return Session(store, LocalEngine(1), work.CONF, now)


def take(store: Store, file: Path, profile: str, *, again: bool = False) -> intake.Ingested:
    path = file.parent / f"{file.stem}-{abs(hash(profile))}.toml"
    path.write_text(profile)
    options = IngestOptions(again=again)
    done = intake.ingest(session(store), [str(file)], profile=str(path), options=options)
    assert done.failures == []
    return done


def bring_up(store: Store) -> None:
    integrate(session(store))
    cluster(session(store))


def same_answers(one: Store, other: Store) -> None:
    for sql in ANSWERS:
        assert query(one, sql).equals(query(other, sql)), sql
    meters = ["m0", "m1", "m2"]
    found, wanted = (
        read_consumption(Reader(s), meters, by="day", zone="UTC") for s in (one, other)
    )
    assert found.equals(wanted)
    assert upkeep.check(session(one)).findings == ()


def file_of(folder: Path, name: str, rows: list[tuple[int, int, float]]) -> Path:
    """Rows: meter, quarter-hour of some days, kWh."""
    start = datetime(2024, 1, 1, 22, tzinfo=UTC)
    lines = [
        f"m{meter},{start + timedelta(minutes=15 * at):%Y-%m-%d %H:%M:%S},{kwh}"
        for meter, at, kwh in rows
    ]
    path = folder / name
    path.write_text("\n".join(["meter,at,kwh", *lines, ""]))
    return path


rows_of = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 300), st.floats(0, 9)), min_size=1, max_size=12
)


@settings(max_examples=6)
@given(kept=rows_of, gone=rows_of, steps=st.lists(st.booleans(), min_size=4, max_size=4))
def test_withdrawing_answers_like_a_lake_that_never_had_the_file(
    tmp_path_factory: pytest.TempPathFactory,
    kept: list[tuple[int, int, float]],
    gone: list[tuple[int, int, float]],
    steps: list[bool],
) -> None:
    folder = tmp_path_factory.mktemp("withdraw")
    profile = PROFILE.format(minutes=15, zone="UTC", unit="kWh")
    wrong, right = file_of(folder, "wrong.csv", gone), file_of(folder, "right.csv", kept)
    lake, other = open_store(str(folder / "lake")), open_store(str(folder / "other"))
    take(lake, wrong, profile)
    if steps[0]:
        bring_up(lake)
    if steps[1]:
        take(lake, right, profile)
    if steps[2]:
        bring_up(lake)
    assert [r.source_file for r in withdraw(lake, "wrong.csv", reason="test", now=NOW)]
    if not steps[1]:
        take(lake, right, profile)
    if steps[3]:
        reader = Reader(lake)
        reader.readings(["m0", "m1"])  # keeps in memory what was there
        bring_up(lake)
        assert set(reader.readings(["m0", "m1", "m2"])["meter_id"]) <= {f"m{m}" for m, *_ in kept}
    bring_up(lake)
    take(other, right, profile)
    bring_up(other)
    same_answers(lake, other)


@pytest.mark.parametrize(
    "wrong",
    [
        {"minutes": 60, "zone": "UTC", "unit": "kWh"},
        {"minutes": 15, "zone": "Australia/Brisbane", "unit": "kWh"},
        {"minutes": 15, "zone": "UTC", "unit": "Wh"},
    ],
    ids=["length", "zone", "unit"],
)
@pytest.mark.parametrize("integrated", [False, True])
def test_reading_again_with_the_right_profile_is_reading_right_at_once(
    tmp_path: Path, wrong: dict[str, object], integrated: bool
) -> None:
    right = PROFILE.format(minutes=15, zone="UTC", unit="kWh")
    file = file_of(tmp_path, "a.csv", [(m, at, 0.25 + m) for m in range(3) for at in range(96)])
    lake, other = open_store(str(tmp_path / "lake")), open_store(str(tmp_path / "other"))
    take(lake, file, PROFILE.format(**wrong))
    if integrated:
        bring_up(lake)
    take(lake, file, right, again=True)
    bring_up(lake)
    take(other, file, right)
    bring_up(other)
    same_answers(lake, other)
    states = query(lake, "SELECT state, reason FROM deliveries ORDER BY ALL").rows()
    assert ("withdrawn", "read again") in states
    before = query(lake, "SELECT count(*) FROM staging").item()
    assert take(lake, file, right).already_ingested == 1
    assert query(lake, "SELECT count(*) FROM staging").item() == before == 2 * 288


def test_as_of_answers_as_the_lake_answered_then(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "lake"))
    profile = PROFILE.format(minutes=15, zone="UTC", unit="kWh")
    take(store, file_of(tmp_path, "a.csv", [(0, at, 1.0) for at in range(4)]), profile)
    bring_up(store)
    withdraw(store, "a.csv", reason=None, now=NOW + timedelta(hours=2))
    bring_up(store)
    sql = "SELECT count(*) FROM readings"
    assert query(store, sql).item() == 0
    assert query(store, sql, as_of=AsOf(NOW + timedelta(hours=1), "receipt")).item() == 4
    assert query(store, sql, as_of=AsOf(NOW + timedelta(hours=3), "receipt")).item() == 0
    assert snapshot(store, READINGS).rows == 0
    assert snapshot(store, STAGING).rows == 4


def test_a_file_taken_back_comes_in_again(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "lake"))
    profile = PROFILE.format(minutes=15, zone="UTC", unit="kWh")
    file = file_of(tmp_path, "a.csv", [(0, at, 1.0) for at in range(4)])
    for _ in range(3):
        assert take(store, file, profile).stored == 4
        assert take(store, file, profile).already_ingested == 1
        bring_up(store)
        assert query(store, "SELECT count(*) FROM readings").item() == 4
        assert len(withdraw(store, "a.csv", reason=None, now=NOW)) == 1
        assert withdraw(store, "a.csv", reason=None, now=NOW) == []
        bring_up(store)
        assert query(store, "SELECT count(*) FROM readings").item() == 0


def test_what_is_withdrawn_is_named_by_its_file_or_hash(
    tmp_path: Path, deliver: Callable[..., Path]
) -> None:
    store = open_store(str(tmp_path / "lake"))
    row = "2024-01-01 00:00:00,2024-01-01 01:00:00,m1,readings,,,,,{},"
    for value in (1, 2):
        intake.ingest(session(store), [str(deliver("a.csv", row.format(value)))])
    with pytest.raises(BadInput, match="several deliveries"):
        withdraw(store, "a.csv", reason=None, now=NOW)
    for name in ("b.csv", "12345678", "1"):
        with pytest.raises(BadInput, match="needs the name or the SHA-256"):
            withdraw(store, name, reason=None, now=NOW)
    sha = query(store, "SELECT sha256 FROM deliveries ORDER BY ALL LIMIT 1").item()
    assert len(withdraw(store, sha[:9].upper(), reason=None, now=NOW)) == 1


@pytest.mark.skipif(not CASES.is_dir(), reason="../shared is not beside this checkout")
class TestCases:
    """The cases of the shared folder, as their READMEs say."""

    def test_g11_a_profile_is_corrected_after_ingest(self, tmp_path: Path) -> None:
        (case,) = CASES.glob("g11-*")
        expected = pl.read_csv(case / "expected.csv")["reading_value"].to_list()
        for wrong in ("wrong_format", "wrong_unit", "wrong_zone"):
            store = open_store(str(tmp_path / wrong))
            first = intake.ingest(
                session(store), [str(case / "a.csv")], profile=str(case / f"{wrong}.toml")
            )
            if wrong == "wrong_format":
                (unread,) = first.unread
                assert "is not a valid time" in unread.rejected_because
                assert query(store, "SELECT count(*) FROM quarantine").item() == 3
            bring_up(store)
            again = IngestOptions(again=wrong != "wrong_format")
            done = intake.ingest(
                session(store), [str(case / "a.csv")], profile=str(case / "right.toml"),
                options=again,
            )  # fmt: skip
            assert done.failures == []
            bring_up(store)
            rows = query(store, "SELECT reading_value FROM readings ORDER BY reading_date_time")
            assert rows["reading_value"].to_list() == expected
            assert query(store, "SELECT count(*) FROM quarantine").item() == 0

    def test_g12_two_profiles_read_two_kinds_of_rows(self, tmp_path: Path) -> None:
        (case,) = CASES.glob("g12-*")
        store = open_store(str(tmp_path / "lake"))
        for profile in ("column_60", "column_15"):
            done = intake.ingest(
                session(store), [str(case / "file.csv")], profile=str(case / f"{profile}.toml")
            )
            assert done.failures == []
        bring_up(store)
        sql = "SELECT meter_id, count(*), min(reading_value), max(reading_value) FROM readings "
        assert query(store, sql + "GROUP BY ALL ORDER BY ALL").rows() == [
            ("A", 24, 1.0, 1.0),
            ("B", 96, 1.0, 1.0),
        ]
        overlapping = intake.ingest(
            session(store), [str(case / "file.csv")], profile=str(self.all_rows(tmp_path))
        )
        (failure,) = overlapping.failures
        assert "--again --profile" in failure.reason
        assert "meterlake withdraw" in failure.reason

    def all_rows(self, folder: Path) -> Path:
        path = folder / "all.toml"
        path.write_text(PROFILE.format(minutes=60, zone="UTC", unit="kWh"))
        return path
