"""A check finds what is wrong, whatever it is; a repair mends what can be derived again."""

import io
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
import zstandard
from isal import igzip
from support import work

from meterlake.delta.commit import Change, commit, snapshot
from meterlake.delta.journal import provenance
from meterlake.delta.store import Store, open_store
from meterlake.delta.table import DataFile, log_files, write_file
from meterlake.engine.local import LocalEngine
from meterlake.errors import Unavailable
from meterlake.ingest import intake
from meterlake.pipeline import upkeep
from meterlake.pipeline.derivation import Session
from meterlake.questions.sql import query
from meterlake.schema import (
    CONSUMPTION_DAILY,
    CONSUMPTION_MONTHLY,
    CONSUMPTION_WEEKLY,
    DELIVERIES,
    LATE_ARRIVALS,
    QUARANTINE,
    READINGS,
    SERVING_READINGS,
    STAGING,
    TABLES,
    Table,
    known_tables,
)

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
ENERGIES = (CONSUMPTION_DAILY, CONSUMPTION_WEEKLY, CONSUMPTION_MONTHLY)
Damage = Callable[[Store], None]


HEADER = "time,arrival_time,device_id,measure_name,load,crrnt,pf,kva,kw,vltg"


def delivered(path: Path, hours: Iterable[int], arrival: str, *more: str) -> str:
    """A file of these hours of three meters, four times an hour."""
    rows = [
        f"2024-01-{1 + h // 24:02d} {h % 24:02d}:{m}:00,{arrival},m{d},readings,,,,,{h}.{d}{m},"
        for h in hours
        for m in (15, 30, 45)
        for d in range(3)
    ]
    text = "\n".join([HEADER, *rows, *more]) + "\n"
    path.write_bytes(igzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A lake of all tables; nobody changes it."""
    folder = tmp_path_factory.mktemp("once")
    return made(open_store(str(folder / "lake")), folder)


@pytest.fixture(scope="module")
def held_once(once: Store) -> dict[str, str]:
    return work.contents(once)


@pytest.fixture(scope="module")
def expired_once(once: Store, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The same lake, whose logs are as short as they can be."""
    folder = tmp_path_factory.mktemp("expired") / "lake"
    shutil.copytree(once.url, folder)
    store = open_store(str(folder))
    work.shorten_logs(store)
    first = {t.name: min(log_files(store, t).commits, default=0) for t in known_tables().values()}
    until = {t.name: snapshot(store, t).version for t in known_tables().values()}
    assert first[STAGING.name] == until[STAGING.name] - 1  # what came last is not integrated
    assert first[READINGS.name] == until[READINGS.name] > 0
    assert all(first[t.name] == until[t.name] > 0 for t in (SERVING_READINGS, *ENERGIES))
    return store


@pytest.fixture
def expired(store: Store, expired_once: Store) -> Store:
    """A copy of it."""
    shutil.copytree(expired_once.url, store.url, dirs_exist_ok=True)
    return store


@pytest.fixture
def lake(store: Store, once: Store, tmp_path: Path) -> Store:
    """A lake of all tables; on a folder a copy of the one that is made once."""
    if not store.is_local:
        return made(store, tmp_path)
    shutil.copytree(once.url, store.url, dirs_exist_ok=True)
    return store


@pytest.fixture
def held(lake: Store, held_once: dict[str, str]) -> dict[str, str]:
    """What the lake holds; that of a copy is known."""
    return held_once if lake.is_local else work.contents(lake)


def made(store: Store, tmp_path: Path) -> Store:
    # Few hours, of two days: each is a file of the integrated table.
    first = [
        delivered(tmp_path / "a.csv.gz", range(19, 22), "2024-01-02 07:00:00", "bad", "worse"),
        delivered(tmp_path / "b.csv", range(21, 26), "2024-01-02 12:00:00", "bad"),
    ]
    work.ingest(store.url, first, NOW)
    work.integrate(store.url, NOW)
    work.cluster(store.url, NOW)
    # And what waits to be integrated.
    waiting = delivered(tmp_path / "c.csv.gz", range(24, 28), "2024-01-03 12:00:00", "bad")
    work.ingest(store.url, [waiting], NOW + timedelta(days=1))
    return store


def check(store: Store, *, repair: bool = False, threads: int = 1) -> upkeep.Checked:
    return upkeep.check(Session(store, LocalEngine(threads), work.CONF, NOW), repair=repair)


def file_of(store: Store, table: Table, number: int = 0) -> DataFile:
    return sorted(snapshot(store, table).files, key=lambda f: f.path)[number]


def rewritten(table: Table, change: Callable[[pl.DataFrame], pl.DataFrame]) -> Damage:
    """Put other rows into a file, under the same name and with the log none the wiser."""

    def damage(store: Store) -> None:
        file = file_of(store, table)
        path = f"{table.path}/{file.path}"
        rows = pl.read_parquet(store.read(path))
        written = write_file(store, table, change(rows), partition=file.partition, name="changed")
        store.put(path, store.read(f"{table.path}/{written.path}"))
        store.delete(f"{table.path}/{written.path}")

    return damage


def gone(table: Table) -> Damage:
    return lambda store: store.delete(f"{table.path}/{file_of(store, table).path}")


def cut(table: Table) -> Damage:
    def damage(store: Store) -> None:
        path = f"{table.path}/{file_of(store, table).path}"
        store.put(path, store.read(path)[:-20])

    return damage


def flipped(table: Table) -> Damage:
    def damage(store: Store) -> None:
        path = f"{table.path}/{file_of(store, table).path}"
        data = bytearray(store.read(path))
        data[-9] ^= 0xFF
        data[len(data) // 2] ^= 0xFF
        store.put(path, bytes(data))

    return damage


def packed_otherwise(store: Store) -> None:
    """The same rows in other bytes: not the file that was committed."""
    path = f"{READINGS.path}/{file_of(store, READINGS).path}"
    buffer = io.BytesIO()
    pl.read_parquet(store.read(path)).write_parquet(buffer, compression="uncompressed")
    store.put(path, buffer.getvalue())


def committed(change: Callable[[pl.DataFrame], pl.DataFrame], table: Table = READINGS) -> Damage:
    """Put other rows into a partition as a commit does, so that the log knows their bytes."""

    def damage(store: Store) -> None:
        file, state = file_of(store, table), snapshot(store, table)
        rows = change(pl.read_parquet(store.read(f"{table.path}/{file.path}")))
        other = write_file(store, table, rows, partition=file.partition, name="other")
        last = provenance(store, table, state.version)
        change_of_table = Change(
            {"other": 0}, add=[other], remove=[file], read_version=state.version,
            provenance=replace(last, changed={}),
        )  # fmt: skip
        commit(store, table, change_of_table, now=NOW)

    return damage


def in_two_files(table: Table) -> Damage:
    def damage(store: Store) -> None:
        file, state = file_of(store, table), snapshot(store, table)
        rows = pl.read_parquet(store.read(f"{table.path}/{file.path}"))
        more = write_file(store, table, rows, partition=file.partition, name="second")
        commit(store, table, Change({"double": 0}, add=[more], read_version=state.version), now=NOW)

    return damage


def taken_out_of_the_log(store: Store) -> None:
    state = snapshot(store, READINGS)
    commit(
        store,
        READINGS,
        Change({"out": 0}, remove=[file_of(store, READINGS)], read_version=state.version),
        now=NOW,
    )


def of_no_reads(store: Store) -> None:
    state = snapshot(store, READINGS)
    rows = pl.read_parquet(store.read(f"{READINGS.path}/{file_of(store, READINGS).path}"))
    then = pl.lit(datetime(2023, 7, 1, 5, tzinfo=UTC), pl.Datetime("us", "UTC"))
    partition = {"reading_type": "kw", "year": "2023", "month": "07", "day": "01", "hour": "05"}
    file = write_file(
        store,
        READINGS,
        rows[:1].with_columns(then.alias("reading_date_time")),
        partition=partition,
        name="invented",
    )
    commit(store, READINGS, Change({"more": 0}, add=[file], read_version=state.version), now=NOW)


def first_value(value: float) -> pl.Expr:
    first = pl.int_range(pl.len()) == 0
    return pl.when(first).then(pl.lit(value)).otherwise("reading_value").alias("reading_value")


HOUR_LATER = pl.col("reading_date_time") + pl.duration(hours=1)

DAMAGES: dict[str, tuple[str, Damage]] = {
    "integrated file gone": ("missing", gone(READINGS)),
    "integrated file cut": ("bytes", cut(READINGS)),
    "integrated file packed otherwise": ("bytes", packed_otherwise),
    "integrated file flipped": ("cannot be read|rows are not those", flipped(READINGS)),
    "rows out of order": ("sorted by meter_id", rewritten(READINGS, lambda r: r.reverse())),
    "a row doubled": (
        "reading_date_time and channel of another",
        rewritten(READINGS, lambda r: pl.concat([r[:1], r])),
    ),
    "a row lost": ("the file has", rewritten(READINGS, lambda r: r[1:])),
    "another hour": ("another hour", rewritten(READINGS, lambda r: r.with_columns(HOUR_LATER))),
    "a value changed": (
        "rows are not those",
        committed(lambda r: r.with_columns(first_value(77.0))),
    ),
    "a value changed in the file": (
        "bytes are not those",
        rewritten(READINGS, lambda r: r.with_columns(first_value(77.0))),
    ),
    "a value of staging changed in the file": (
        "bytes are not those",
        rewritten(STAGING, lambda r: r.with_columns(pl.col("reading_value") + 1)),
    ),
    "not a number": (
        "no finite numbers",
        rewritten(READINGS, lambda r: r.with_columns(first_value(float("nan")))),
    ),
    "two files in a partition": ("needs to be one file", in_two_files(READINGS)),
    "a partition taken out of the log": ("not integrated", taken_out_of_the_log),
    "a partition of no reads": ("staging has no read", of_no_reads),
    "staging file gone": ("missing", gone(STAGING)),
    "staging file cut": ("bytes", cut(STAGING)),
    "staging out of order": ("ordered by hour", rewritten(STAGING, lambda r: r.reverse())),
    "staging of another day": (
        "another day",
        rewritten(
            STAGING, lambda r: r.with_columns(pl.col("reading_date_time") + pl.duration(days=1))
        ),
    ),
    "quarantine file gone": ("missing", gone(QUARANTINE)),
    "late arrivals gone": ("missing", gone(LATE_ARRIVALS)),
    "late arrivals changed": ("the file has", rewritten(LATE_ARRIVALS, lambda r: r[1:])),
    "serving file gone": ("missing", gone(SERVING_READINGS)),
    "serving file cut": ("bytes", cut(SERVING_READINGS)),
    "serving out of order": (
        "sorted by meter_id",
        rewritten(SERVING_READINGS, lambda r: r.reverse()),
    ),
    "serving of another month": (
        "another month",
        rewritten(
            SERVING_READINGS,
            lambda r: r.with_columns(pl.col("reading_date_time") + pl.duration(days=40)),
        ),
    ),
    "a value of serving changed": (
        "rows are not those that integrated has",
        committed(lambda r: r.with_columns(first_value(77.0)), SERVING_READINGS),
    ),
    "a reading of serving lost": (
        "rows are not those that integrated has",
        committed(lambda r: r[:-1], SERVING_READINGS),
    ),
    "serving in two files of the same meters": (
        "no meter_id may be in two files",
        in_two_files(SERVING_READINGS),
    ),
    "energy of a day gone": ("missing", gone(CONSUMPTION_DAILY)),
    "energy of a day changed": (
        "energies are not those of the readings",
        committed(lambda r: r.with_columns(pl.col("import_kwh") + 0.001), CONSUMPTION_DAILY),
    ),
    "a day counted as complete": (
        "energies are not those of the readings",
        committed(lambda r: r.with_columns(~pl.col("is_complete")), CONSUMPTION_DAILY),
    ),
    "energy of a week changed": (
        "energies are not those of its days",
        committed(lambda r: r.with_columns(pl.col("energy_kwh") - 1), CONSUMPTION_WEEKLY),
    ),
    "energy of a month not known": (
        "energies are not those of its days",
        committed(
            lambda r: r.with_columns(pl.lit(None, pl.Float64).alias("energy_kwh")),
            CONSUMPTION_MONTHLY,
        ),
    ),
    "deliveries file gone": ("missing", gone(DELIVERIES)),
    "a delivery changed in the file": (
        "bytes are not those",
        rewritten(DELIVERIES, lambda r: r.with_columns(pl.col("rows") + 1)),
    ),
    "quarantine row lost": ("the file has", rewritten(QUARANTINE, lambda r: r[1:])),
}


def test_a_sound_lake_has_no_findings(lake: Store) -> None:
    done = check(lake, threads=2)
    assert done.findings == ()
    states = [snapshot(lake, t) for t in TABLES.values()]
    assert done.files == sum(len(s.files) for s in states)
    assert done.rows == sum(s.rows for s in states)
    filled = [STAGING, QUARANTINE, READINGS, LATE_ARRIVALS, SERVING_READINGS, *ENERGIES]
    assert all(s.rows for s in states if s.table in filled)
    assert len(snapshot(lake, READINGS).files) == 7


@pytest.mark.parametrize(
    "name",
    [pytest.param(d, marks=[pytest.mark.proof] * (n % 3 > 0)) for n, d in enumerate(DAMAGES)],
)
@pytest.mark.parametrize("store", ["file"], indirect=True)
def test_a_damage_is_found_and_mended(lake: Store, held: dict[str, str], name: str) -> None:
    found_and_mended(lake, held, name)


@pytest.mark.proof
@pytest.mark.parametrize(
    "name",
    [pytest.param(d, marks=[pytest.mark.proof] * (n % 5 > 0)) for n, d in enumerate(DAMAGES)],
)
@pytest.mark.parametrize("store", ["file"], indirect=True)
def test_a_damage_is_found_and_mended_without_the_commits_of_the_past(
    expired: Store, held_once: dict[str, str], name: str
) -> None:
    found_and_mended(expired, held_once, name)


def found_and_mended(lake: Store, held: dict[str, str], name: str) -> None:
    problem, damage = DAMAGES[name]
    damage(lake)
    done = check(lake, repair=True)
    assert pl.Series([f.problem for f in done.repaired]).str.contains(problem).any(), done
    assert done.findings == ()
    assert work.contents(lake) == held
    # What waited still waits, and counts once.
    work.integrate(lake.url, NOW)
    assert check(lake).findings == ()


@pytest.mark.proof
def test_everything_damaged_at_once_is_mended(lake: Store, held: dict[str, str]) -> None:
    tables = (READINGS, STAGING, QUARANTINE, LATE_ARRIVALS)
    lost = {(t.name, f.path) for t in tables for f in snapshot(lake, t).files[::2]}
    assert len(lost) > 8
    for table, path in lost:
        lake.delete(f"{TABLES[table].path}/{path}")
    assert {(f.table, f.path) for f in check(lake, threads=2).findings} >= lost
    with pytest.raises(Unavailable, match="meterlake check"):
        work.integrate(lake.url, NOW)
    assert check(lake, repair=True, threads=2).findings == ()
    assert work.contents(lake) == held


@pytest.mark.proof
@pytest.mark.parametrize("store", ["file"], indirect=True)
def test_what_was_mended_can_be_damaged_and_mended_again(lake: Store, held: dict[str, str]) -> None:
    for _ in range(2):
        for table in (STAGING, QUARANTINE, LATE_ARRIVALS):
            gone(table)(lake)
        assert check(lake, repair=True).findings == ()
        assert work.contents(lake) == held


@pytest.mark.parametrize("store", ["file"], indirect=True)
def test_what_cannot_be_derived_stays_a_finding(lake: Store) -> None:
    for file in lake.list("inbound"):
        lake.delete(file.path)
    gone(STAGING)(lake)
    done = check(lake, repair=True)
    assert [(f.table, f.problem) for f in done.findings] == [("staging", "the file is missing")]
    assert done.repaired == ()


@pytest.mark.parametrize("store", ["file"], indirect=True)
def test_a_delivered_file_that_was_changed_in_the_lake_is_not_taken_in_again(lake: Store) -> None:
    gone(STAGING)(lake)
    for file in lake.list("inbound"):
        unpack, pack = (
            (igzip.decompress, igzip.compress)
            if file.path.endswith(".gz")
            else (zstandard.ZstdDecompressor().decompressobj().decompress, zstandard.compress)
        )
        lake.put(file.path, pack(unpack(lake.read(file.path)).replace(b".0", b".9")))
    assert [f.table for f in check(lake, repair=True).findings] == ["staging"]


@pytest.mark.parametrize("store", ["file"], indirect=True)
def test_a_commit_missing_from_the_log_is_found(lake: Store) -> None:
    lake.delete(f"{STAGING.path}/_delta_log/{1:020d}.json")
    assert [f.problem for f in check(lake).findings] == ["the commit is missing from the log"]


@pytest.mark.parametrize("store", ["file"], indirect=True)
def test_a_log_that_begins_after_what_was_consumed_is_found(expired: Store, tmp_path: Path) -> None:
    more = delivered(tmp_path / "d.csv", range(30, 31), "2024-01-03 12:00:00")
    work.ingest(expired.url, [more], NOW)
    last = snapshot(expired, STAGING).version
    work.checkpoint(expired, STAGING)
    for version in (last - 2, last - 1):
        expired.delete(f"{STAGING.path}/_delta_log/{version:020d}.json")
    problem = f"the log begins at version {last}; the versions from {last - 1} on are needed"
    assert problem in [f.problem for f in check(expired).findings]


@pytest.mark.parametrize("store", ["file"], indirect=True)
def test_a_file_of_ones_own_profile_is_taken_in_again_though_the_profile_is_gone(
    store: Store, tmp_path: Path
) -> None:
    profile = tmp_path / "ours.toml"
    profile.write_text(
        'name = "ours"\ninterval_minutes = 30\nmeter = "m"\n'
        'time = { column = "at", zone = "Europe/Berlin", stamps = "end" }\n'
        '[values]\nkwh = { type = "kw", unit = "kWh" }\n'
    )
    delivered = tmp_path / "a.csv"
    delivered.write_text("m,at,kwh\nm1,2024-07-01 00:30:00,1.5\nm1,2024-07-01 01:00:00,bad\n")
    done = intake.ingest(
        Session(store, LocalEngine(1), work.CONF, NOW), [str(delivered)], profile=str(profile)
    )
    assert (done.stored, done.quarantined) == (1, 1)
    held = work.contents(store)
    profile.unlink()
    delivered.unlink()
    gone(STAGING)(store)
    gone(QUARANTINE)(store)
    assert check(store, repair=True).findings == ()
    assert work.contents(store) == held


@pytest.mark.parametrize("store", ["file"], indirect=True)
@pytest.mark.parametrize("folder", ["staging", "staging/readings"])
def test_where_staging_is_gone_nothing_is_derived_from_it(lake: Store, folder: str) -> None:
    readings = snapshot(lake, READINGS).rows
    for file in lake.list(folder):
        lake.delete(file.path)
    for repair in (False, True):
        done = check(lake, repair=repair)
        assert "readings were made from it, and its log ends at -1" in done.findings[-1].problem
        assert snapshot(lake, READINGS).rows == readings
    with pytest.raises(Unavailable, match="needs the staging that the readings were made from"):
        work.integrate(lake.url, NOW)


@pytest.mark.parametrize("store", ["file"], indirect=True)
def test_a_question_to_a_missing_file_says_where_to_look(lake: Store) -> None:
    gone(READINGS)(lake)
    assert query(lake, "SELECT count(*) AS n FROM readings")["n"][0] > 0  # serving has them too
    with pytest.raises(Unavailable, match="meterlake check"):
        query(lake, "SELECT max(arrival_time) FROM readings")
    gone(SERVING_READINGS)(lake)
    with pytest.raises(Unavailable, match="meterlake check"):
        query(lake, "SELECT count(*) FROM readings")
