"""The small lake of support.served, served in this process, and copies that may be changed."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from support import ml, served

from meterlake.delta.store import Store, open_store
from meterlake.serve.app import create_app
from meterlake.settings import ServeSettings

LOOPBACK = "http://localhost"


def app_of(store: Store, **serve: Any) -> FastAPI:
    """The application of a lake, with settings of its section [serve]."""
    return create_app(store, served.conf(serve=ServeSettings.model_validate(serve)))


@pytest.fixture(scope="session")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Not to be changed: all tests and their processes share it."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # then each process has a folder in that of the run
        folder = folder.parent
    return served.made_once(folder / "served")


@pytest.fixture(scope="session")
def client(lake: Store) -> Iterator[TestClient]:
    """Asks the server of the lake; what it cannot answer is raised here."""
    with TestClient(app_of(lake), base_url=LOOPBACK) as asking:
        yield asking


@pytest.fixture
def own_lake(lake: Store, tmp_path: Path) -> Store:
    """A copy that may be changed."""
    return ml.copied(Path(lake.url), tmp_path / "own")


@pytest.fixture
def client_of() -> Iterator[Callable[..., TestClient]]:
    """Asks the server of any lake."""
    opened: list[TestClient] = []

    def asking(store: Store, **serve: Any) -> TestClient:
        opened.append(TestClient(app_of(store, **serve), base_url=LOOPBACK))
        return opened[-1].__enter__()

    yield asking
    for each in opened:
        each.__exit__(None, None, None)


@pytest.fixture
def empty_lake(tmp_path: Path) -> Store:
    """A lake in which nothing is yet."""
    (tmp_path / "empty").mkdir()
    return open_store(str(tmp_path / "empty"))
