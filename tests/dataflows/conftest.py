"""Dataflows are tested on a folder; tests/s3 runs their commands on an object store."""

from pathlib import Path

import pytest

from meterlake.delta.store import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "lake"))
