"""Which dataflows there are: ours, and those of installed packages."""

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from pydantic import ValidationError

from meterlake.dataflows.port import Dataflow, Options
from meterlake.errors import BadInput
from meterlake.schema import DATAFLOWS, known_tables
from meterlake.topology.dataflow import TOPOLOGY_FLOW
from meterlake.weather.dataflow import WEATHER_FLOW


def known_dataflows() -> dict[str, Dataflow]:
    """All dataflows by name. Raises BadInput where a package's cannot be loaded."""
    known_tables()  # which says what is wrong with an entry point
    flows = {flow.name: flow for flow in (WEATHER_FLOW, TOPOLOGY_FLOW)}
    for point in entry_points(group=DATAFLOWS):
        flow = point.load()
        if not isinstance(flow, Dataflow) or flow.name in flows:
            raise BadInput(
                f"Entry point '{point.name}' ({point.value}) needs to be a Dataflow with a name of "
                f"its own; found {flow!r:.100}. Correct or uninstall its package"
            )
        flows[flow.name] = flow
    return flows


def named_dataflow(name: str) -> Dataflow:
    """The dataflow of that name. Raises BadInput."""
    flows = known_dataflows()
    if name not in flows:
        raise BadInput(f"A dataflow is one of {', '.join(flows)}; found '{name}'")
    return flows[name]


def options_of(flow: Dataflow, told: Mapping[str, Any]) -> Options:
    """A dataflow's options, of what the settings and flags say. Raises BadInput."""
    try:
        return flow.options.model_validate(dict(told))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        known = ", ".join(flow.options.model_fields)
        problem = first["msg"].removeprefix("Value error, ")
        raise BadInput(
            f"Option '{name}' of dataflow '{flow.name}': {problem}; set it under "
            f"[dataflow.{flow.name}] in meterlake.toml (options: {known})"
        ) from error
