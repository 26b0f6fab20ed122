"""Which forecasters there are: ours, and those of installed packages."""

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from meterlake.errors import BadInput
from meterlake.forecast.port import Forecaster

ENTRY_POINT_GROUP = "meterlake.forecasters"

_OURS: Mapping[str, tuple[str, str, str]] = {  # module, class, extra
    "networks": ("networks", "Networks", "ml"),
    "lightgbm": ("gradient_trees", "GradientTrees", "lightgbm"),
}


def named_forecaster(kind: str) -> type[Forecaster]:
    """The forecaster of that kind.

    Raises
    ------
    BadInput
        There is none, or its package is not installed or does not have what the port needs.
    """
    if kind in _OURS:
        module, name, extra = _OURS[kind]
        try:
            return _checked(kind, getattr(import_module(f"{__package__}.{module}"), name))
        except (ImportError, OSError) as error:  # OSError: a library of the system is missing
            command = f"pip install 'meterlake[{extra}]'"
            command = command if isinstance(error, ImportError) else "apt-get install libgomp1"
            raise BadInput(
                f"Forecaster '{kind}' needs what cannot be loaded: {error}. Install it: {command}"
            ) from error
    points = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if kind not in points:
        ours = [f"{name} (pip install 'meterlake[{extra}]')" for name, (*_, extra) in _OURS.items()]
        raise BadInput(
            f"A forecaster is one of {', '.join((*ours, *sorted(points)))}; found '{kind}'. "
            "Correct ml.forecaster, or install the package that has it"
        )
    return _checked(kind, points[kind].load())


def _checked(kind: str, found: Any) -> type[Forecaster]:
    needed = ("fit", "predict", "save", "load")
    missing = [name for name in needed if not callable(getattr(found, name, None))]
    if missing or getattr(found, "kind", None) != kind:
        raise BadInput(
            f"Forecaster '{kind}' needs to be a class with kind = '{kind}' and the methods "
            f"{', '.join(needed)}; found {found!r:.100}. Fix or uninstall its package"
        )
    forecaster: type[Forecaster] = found
    return forecaster
