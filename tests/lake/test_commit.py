"""A commit happens once, whole, and on what it was planned on."""

from datetime import UTC, datetime

import polars as pl
import pytest

from meterlake.errors import Conflict
from meterlake.lake.commit import commit, snapshot
from meterlake.lake.store import Store
from meterlake.lake.table import DataFile, consumed_version, scan, write_file
from meterlake.schema import POLARS_TYPES, QUARANTINE

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)


def a_file(store: Store, name: str) -> DataFile:
    frame = pl.DataFrame(
        {c.name: [None] for c in QUARANTINE.file_columns},
        schema={c.name: POLARS_TYPES[c.type] for c in QUARANTINE.file_columns},
    ).with_columns(pl.lit(name).alias("raw"))
    return write_file(store, QUARANTINE, frame, partition={"ingest_date": "2024-06-01"}, name=name)


def raws(store: Store) -> list[str]:
    rows = scan(store, QUARANTINE, snapshot(store, QUARANTINE).files).collect()
    return sorted(rows["raw"].to_list())


def test_a_file_is_not_there_before_its_commit(store: Store) -> None:
    a_file(store, "orphan")
    assert raws(store) == []


def test_what_is_removed_and_what_replaces_it_change_places_in_one_step(store: Store) -> None:
    commit(store, QUARANTINE, add=[a_file(store, "old")], key="k", version=1, now=NOW)
    before = snapshot(store, QUARANTINE)
    commit(
        store, QUARANTINE, add=[a_file(store, "new")], remove=before.files,
        key="k", version=2, read_version=before.version, now=NOW,
    )  # fmt: skip
    assert raws(store) == ["new"]
    assert snapshot(store, QUARANTINE).version == before.version + 1
    assert consumed_version(store, QUARANTINE, "k") == 2
    # Whoever reads the earlier version still finds all of it.
    assert scan(store, QUARANTINE, before.files).collect()["raw"].to_list() == ["old"]


def test_a_change_planned_on_an_older_version_is_refused_whole(store: Store) -> None:
    commit(store, QUARANTINE, add=[a_file(store, "a")], key="k", version=1, now=NOW)
    planned = snapshot(store, QUARANTINE)
    commit(store, QUARANTINE, add=[a_file(store, "b")], key="other", version=1, now=NOW)
    with pytest.raises(Conflict, match="another writer"):
        commit(
            store, QUARANTINE, add=[a_file(store, "c")], remove=planned.files,
            key="k", version=2, read_version=planned.version, now=NOW,
        )  # fmt: skip
    assert raws(store) == ["a", "b"]
    assert consumed_version(store, QUARANTINE, "k") == 1


def test_a_key_is_used_once(store: Store) -> None:
    commit(store, QUARANTINE, add=[a_file(store, "a")], key="k", version=1, now=NOW)
    with pytest.raises(Conflict):
        commit(store, QUARANTINE, add=[a_file(store, "b")], key="k", version=1, now=NOW)
    assert raws(store) == ["a"]


def test_appends_with_different_keys_do_not_disturb_each_other(store: Store) -> None:
    for name in "abc":
        commit(store, QUARANTINE, add=[a_file(store, name)], key=name, version=0, now=NOW)
    assert raws(store) == ["a", "b", "c"]
