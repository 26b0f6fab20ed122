"""A small lake with readings of 150 days, energies per day and a model; a copy for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import ml
from support.ml import METERS, Energy

from meterlake.delta.store import Store, open_store
from meterlake.engine.local import LocalEngine
from meterlake.forecast.training import TrainResult, train
from meterlake.settings import Settings

DAYS = 150


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    ml.small_networks(monkeypatch)


@pytest.fixture(scope="session")
def energy() -> Energy:
    return ml.fleet(METERS, DAYS)


@pytest.fixture(scope="session")
def filled(energy: Energy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with readings and energies, without a model."""
    folder = tmp_path_factory.mktemp("filled") / "lake"
    store = open_store(str(folder))
    ml.fill(store, ml.readings(ml.by_meter(ml.names(METERS), energy)))
    ml.bring_up(store, ml.settings())
    return folder


@pytest.fixture(scope="session")
def with_model(
    filled: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, TrainResult]]:
    folder = tmp_path_factory.mktemp("trained") / "lake"
    store = ml.copied(filled, folder)
    with pytest.MonkeyPatch.context() as patch:
        ml.small_networks(patch)
        done = train(store, engine=LocalEngine(1), settings=ml.settings(), now=ml.NOW)
    yield folder, done


@pytest.fixture
def conf() -> Settings:
    return ml.settings()


@pytest.fixture
def untrained(filled: Path, tmp_path: Path) -> Store:
    return ml.copied(filled, tmp_path / "lake")


@pytest.fixture
def lake(with_model: tuple[Path, TrainResult], tmp_path: Path) -> Store:
    """Its model is the current one."""
    return ml.copied(with_model[0], tmp_path / "lake")


@pytest.fixture
def first(with_model: tuple[Path, TrainResult]) -> TrainResult:
    """What the training of `lake` said."""
    return with_model[1]
