"""A Spark cluster for the tests of engines, and this process as its driver."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from support.spark_cluster import SparkCluster

from meterlake.engine import Engine
from meterlake.engine.local import LocalEngine
from meterlake.engine.spark import SparkEngine, require_java, spark_engine
from meterlake.errors import BadInput


class Driver:
    """This process's connection to the cluster, which gives all of its cores to one driver."""

    def __init__(self, cluster: SparkCluster) -> None:
        self._cluster = cluster
        self._held = ExitStack()
        self._engine: SparkEngine | None = None

    def engine(self) -> SparkEngine:
        if self._engine is None:
            self._engine = self._held.enter_context(spark_engine(self._cluster.master))
        return self._engine

    def stop(self) -> None:
        self._held.close()
        self._engine = None


@pytest.fixture(scope="session")
def cluster() -> Iterator[SparkCluster]:
    """A standalone master and two workers of one core."""
    try:
        require_java()
    except BadInput as error:
        pytest.skip(str(error))
    with SparkCluster() as running, pytest.MonkeyPatch.context() as patch:
        for name, value in running.environment().items():
            patch.setenv(name, value)
        yield running


@pytest.fixture(scope="session")
def driver(cluster: SparkCluster) -> Iterator[Driver]:
    running = Driver(cluster)
    yield running
    running.stop()


@pytest.fixture
def spark(driver: Driver) -> SparkEngine:
    return driver.engine()


@pytest.fixture(params=["local", "spark"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """What a test says of it holds for every engine."""
    if request.param == "local":
        return LocalEngine(2)
    found: SparkEngine = request.getfixturevalue("spark")
    return found
