"""What the tests share: a fresh lake, the real data, and inbound files made by hand."""

import gc
import os
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from isal import igzip
from support.seaweed import SeaweedFS

from meterlake.delta.store import Store, open_store

# Several processes share few cores, and little data needs no threads: children take this over.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("POLARS_MAX_THREADS", "1")
os.environ.setdefault("TOKIO_WORKER_THREADS", "1")

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
SERVERS = {"s3_lake", "seaweed", "bucket", "spark", "driver", "cluster"}  # fixtures


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "proof: takes minutes; run by make proof and so by CI")
    config.addinivalue_line("markers", "soak: takes an hour; run by make soak")


def _is_proof(item: pytest.Item) -> bool:
    """Whether it is marked so, or needs an S3 server or a Spark cluster."""
    if item.get_closest_marker("proof"):
        return True
    params = item.callspec.params if hasattr(item, "callspec") else {}
    if "s3" in (params.get("store"), params.get("box")) or params.get("engine") == "spark":
        return True
    return bool(SERVERS & set(getattr(item, "fixturenames", ())))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is collected lives to the end: to look for garbage among it again and again is slow."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("soak") is None and _is_proof(item):
            item.add_marker("proof")
    # The long ones first, so that no worker is left with one at the end.
    items.sort(
        key=lambda item: (
            not {"engine", "guarantees", "s3", "docs", "console"} & set(item.path.parts)
        )
    )
    if config.getoption("-m"):
        return
    long = [i for i in items if i.get_closest_marker("proof") or i.get_closest_marker("soak")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The figures of docs/guarantees.md, of this run: what the tests recorded, summed up."""
    figures: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport) and report.when == "call" and report.passed:
                for name, figure in report.user_properties:
                    figures[name] += int(str(figure))
    if figures:
        terminalreporter.section("survived")
        for name, figure in sorted(figures.items()):
            terminalreporter.line(f"{figure:>9,}  {name}")


@pytest.fixture(scope="session")
def seaweed() -> Iterator[SeaweedFS]:
    """A real S3 server on loopback."""
    with SeaweedFS() as server:
        yield server


@pytest.fixture(scope="session")
def bucket(seaweed: SeaweedFS) -> str:
    return seaweed.new_bucket()


@pytest.fixture
def s3_lake(seaweed: SeaweedFS, bucket: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a new lake on the S3 server; the usual variables say how to reach it."""
    for name, value in seaweed.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ALLOW_HTTP", raising=False)
    return f"s3://{bucket}/{uuid.uuid4().hex}"


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A new lake: what a test says of it holds for a folder and for an object store."""
    if request.param == "s3":
        return open_store(request.getfixturevalue("s3_lake"))
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
