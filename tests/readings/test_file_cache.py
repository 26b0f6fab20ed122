"""Files kept in memory give what the files give, and no more memory than they may."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support import work

from meterlake.delta.commit import snapshot
from meterlake.delta.store import Store, open_store
from meterlake.delta.table import fetched
from meterlake.readings import file_cache
from meterlake.readings.reader import Reader
from meterlake.schema import SERVING_READINGS
from meterlake.simulate.readings import ReadingsPlan, device_id, simulate_readings

START = datetime(2024, 1, 1, tzinfo=UTC)
NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
METERS = [str(device_id(n)) for n in range(12)]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Some meters, days of several files, gaps by late reads that have not come."""
    folder = tmp_path_factory.mktemp("kept")
    plan = ReadingsPlan(
        devices=12, interval_minutes=60, start=START, end=START + timedelta(days=12),
        late_percent=20, late_minutes=20_000, bad_percent=2,
    )  # fmt: skip
    files = [str(f.path) for f in simulate_readings(plan, folder / "inbox").files]
    store = open_store(str(folder / "lake"))
    work.ingest(store.url, files[:-2], NOW)
    work.integrate(store.url, NOW)
    work.cluster(store.url, NOW)
    yield store


def windows() -> Iterator[tuple[datetime | None, datetime | None]]:
    yield None, None
    yield START + timedelta(hours=30), START + timedelta(days=9, minutes=30)
    yield START - timedelta(days=3), START
    yield START + timedelta(days=3), START + timedelta(days=3, hours=1)


def test_what_is_asked_for_often_is_answered_as_what_is_asked_for_once(lake: Store) -> None:
    often = Reader(lake, keep_mb=100)
    for meter in [METERS[-1], "nobody"]:
        for start, end in windows():
            for types in (["kw"], ["vltg", "kw", "pf"]):
                asked = {"reading_types": types, "start": start, "end": end}
                once = Reader(lake).readings([meter], **asked)  # type: ignore[arg-type]
                for _ in range(file_cache.ASKED + 1):
                    assert often.readings([meter], **asked).equals(once)  # type: ignore[arg-type]
    assert often._kept is not None and often._kept.bytes > 0
    assert often.readings(METERS[:3]).equals(Reader(lake).readings(METERS[:3]))


def test_a_late_read_is_answered_though_its_file_was_kept(tmp_path: Path) -> None:
    header = "time,arrival_time,device_id,measure_name,load,crrnt,pf,kva,kw,vltg"
    row = "2024-01-01 00:00:00,2024-01-0{day} 00:00:00,m1,readings,,,,,{kw},"
    store = open_store(str(tmp_path / "lake"))
    reader = Reader(store, keep_mb=10)
    for day in (1, 2):
        file = tmp_path / f"{day}.csv"
        file.write_text("\n".join([header, row.format(day=day, kw=day), ""]))
        work.ingest(store.url, [str(file)], NOW)
        work.integrate(store.url, NOW)
        for _ in range(2):  # before it is clustered, and after
            for _ in range(file_cache.ASKED + 1):
                assert reader.readings(["m1"])["reading_value"].to_list() == [float(day)]
            work.cluster(store.url, NOW)


def test_no_more_is_kept_than_the_budget_and_what_was_asked_for_last_stays(lake: Store) -> None:
    files = snapshot(lake, SERVING_READINGS).files
    whole = file_cache.KeptFiles(lake, 100)
    for file in files:
        for _ in range(file_cache.ASKED):
            whole.rows(file, METERS[0])
    sizes = {path: decoded.bytes for path, decoded in whole._files.items()}
    assert whole.bytes == sum(sizes.values())
    small = file_cache.KeptFiles(lake, 1)
    small._budget = whole.bytes // 2
    for file in files:
        for _ in range(file_cache.ASKED):
            small.rows(file, METERS[0])
        assert small.bytes == sum(sizes[path] for path in small._files) <= small._budget
    assert list(small._files) == [f.path for f in files][-len(small._files) :]
    assert 0 < len(small._files) < len(files)
    nothing = file_cache.KeptFiles(lake, 0)
    found = [nothing.rows(files[0], METERS[0]) for _ in range(3 * file_cache.ASKED)]
    assert nothing.bytes == 0 and sum(rows is not None for rows in found) == 1


def test_a_file_is_decoded_once_though_many_ask_at_once(
    lake: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = snapshot(lake, SERVING_READINGS).files[0]
    store = file_cache.KeptFiles(lake, 100)
    decoded = []
    real = fetched

    def counting(*args: object) -> object:
        decoded.append(args)
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(file_cache, "fetched", counting)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: store.rows(file, METERS[n % 12]), range(400)))
    assert sum(rows is None for rows in found) >= file_cache.ASKED - 1
    assert store.rows(file, METERS[0]) is not None and len(decoded) == 1
