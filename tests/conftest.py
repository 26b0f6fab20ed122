"""What the tests share: a fresh lake, the real data, and inbound files made by hand."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from isal import igzip

from meterlake.lake.store import Store, open_store

settings.register_profile(
    "suite",
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("suite")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
HEADER = "time,arrival_time,device_id,measure_name,load,crrnt,pf,kva,kw,vltg"
NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "soak: long; run by make soak, not by make test")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "soak" in config.getoption("-m"):
        return
    long = [item for item in items if item.get_closest_marker("soak")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "lake"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real public data beside the checkout."""
    if not SHARED_DATA.is_dir():
        pytest.skip("../shared/data is not beside this checkout")
    return SHARED_DATA


@pytest.fixture
def deliver(tmp_path: Path) -> Callable[..., Path]:
    """Write a head-end file of these rows: a gzip CSV under the given name."""

    def write(name: str, *rows: str, header: str = HEADER, end: str = "\n") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = end.join([header, *rows]) + end
        data = text.encode()
        path.write_bytes(igzip.compress(data) if name.endswith(".gz") else data)
        return path

    return write
