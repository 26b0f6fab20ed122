"""Which forecasters there are, and what is said where one is not."""

import sys
from importlib.metadata import EntryPoint
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from support import ml
from support.ml import NOW

from meterlake.delta.store import Store
from meterlake.engine.local import LocalEngine
from meterlake.errors import BadInput
from meterlake.forecast import models, registry
from meterlake.forecast.networks import Networks
from meterlake.forecast.registry import ENTRY_POINT_GROUP, named_forecaster
from meterlake.forecast.training import train


class Ours(Networks):
    """As a package's."""

    kind = "ours"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What packages have at the names of their entry points."""
    module: Any = ModuleType("their_forecasters")
    monkeypatch.setitem(sys.modules, "their_forecasters", module)
    there: dict[str, Any] = {}

    def points(*, group: str) -> list[EntryPoint]:
        assert group == ENTRY_POINT_GROUP
        vars(module).update(there)
        return [EntryPoint(name, f"their_forecasters:{name}", group) for name in there]

    monkeypatch.setattr(registry, "entry_points", points)
    return there


def test_an_unknown_forecaster_is_told_the_known_ones(installed: dict[str, Any]) -> None:
    installed["ours"] = Ours
    with pytest.raises(BadInput) as error:
        named_forecaster("oracle")
    assert str(error.value) == (
        "A forecaster is one of networks (pip install 'meterlake[ml]'), lightgbm (pip install "
        "'meterlake[lightgbm]'), ours; found 'oracle'. Correct ml.forecaster, or install the "
        "package that has it"
    )


@pytest.mark.parametrize(
    ("kind", "module", "package"),
    [("networks", "networks", "threadpoolctl"), ("lightgbm", "gradient_trees", "lightgbm")],
)
def test_a_missing_package_is_named_with_its_extra(
    kind: str, module: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, f"meterlake.forecast.{module}")
    monkeypatch.setitem(sys.modules, package, None)
    extra = "ml" if kind == "networks" else kind
    with pytest.raises(BadInput, match=rf"'{kind}' needs .*{package}.*meterlake\[{extra}\]"):
        named_forecaster(kind)


def test_a_missing_library_of_the_system_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> ModuleType:
        raise OSError("libgomp.so.1: cannot open shared object file")

    monkeypatch.setattr(registry, "import_module", missing)
    with pytest.raises(BadInput, match=r"libgomp\.so\.1.*apt-get install libgomp1"):
        named_forecaster("lightgbm")


@pytest.mark.parametrize(
    "found", [SimpleNamespace(kind="theirs"), type("Other", (Networks,), {"kind": "other"}), 3]
)
def test_an_entry_point_of_something_else_is_refused(
    found: object, installed: dict[str, Any]
) -> None:
    installed["theirs"] = found
    with pytest.raises(BadInput, match="'theirs' needs to be a class with kind = 'theirs' and the"):
        named_forecaster("theirs")


def test_a_forecaster_of_a_package_trains_and_its_model_is_loaded_by_its_kind(
    untrained: Store, installed: dict[str, Any]
) -> None:
    installed["ours"] = Ours
    conf = ml.settings(forecaster="ours")
    done = train(untrained, engine=LocalEngine(1), settings=conf, now=NOW)
    model = models.load(untrained)
    assert model.name == done.name and model.card["kind"] == "ours"
    assert isinstance(model.forecaster.forecaster, Ours)
    del installed["ours"]
    with pytest.raises(BadInput, match="found 'ours'"):
        models.load(untrained)
    newer = train(untrained, engine=LocalEngine(1), settings=ml.settings(), now=NOW)
    assert newer.compared_by == "nothing: the model before cannot be loaded" and newer.is_current


def test_models_of_several_kinds_are_compared_with_each_other(untrained: Store) -> None:
    for kind in ("networks", "lightgbm"):
        conf = ml.settings(forecaster=kind)
        done = train(untrained, engine=LocalEngine(1), settings=conf, now=NOW)
        assert models.load(untrained, done.name).card["kind"] == kind
    assert done.compared_by == "the weeks that both have held out" and done.wql_before is not None
