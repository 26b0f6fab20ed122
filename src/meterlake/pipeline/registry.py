"""Every derivation there is, each after those whose tables it is made from.

Ours are named below; packages add their own under the entry point group `meterlake.derivations`.
The modules are imported when they are asked for: a command that derives nothing pays nothing.
"""

from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import EntryPoint, entry_points

from meterlake.errors import BadInput
from meterlake.pipeline.derivation import Derivation, Made
from meterlake.schema import DERIVATIONS, Table

_SHIPPED = (
    "meterlake.integrate.derivations:INTEGRATION",
    "meterlake.integrate.derivations:CLUSTERING",
    "meterlake.integrate.derivations:DAILY",
    "meterlake.integrate.derivations:WEEKLY",
    "meterlake.integrate.derivations:MONTHLY",
    "meterlake.grid.derivations:VOLT_VAR_DERIVATION",
    "meterlake.grid.derivations:TRANSFORMER_LOAD_DERIVATION",
    "meterlake.grid.derivations:METER_SUPPLY_DERIVATION",
    "meterlake.grid.derivations:OUTAGES_DERIVATION",
    "meterlake.forecast.forecasts:FORECASTING",
    "meterlake.forecast.detection:DETECTION",
)


@cache
def derivations() -> tuple[Derivation[Made], ...]:
    """All derivations, each after those that it needs.

    Raises
    ------
    BadInput
        A package cannot be loaded, makes a table that another makes, or closes a cycle.
    """
    points = [EntryPoint(name=value, value=value, group=DERIVATIONS) for value in _SHIPPED]
    return in_order([_loaded(point) for point in [*points, *entry_points(group=DERIVATIONS)]])


def named_derivation(table: str) -> Derivation[Made]:
    """The derivation of a table. Raises BadInput where none makes it."""
    found = {d.name: d for d in derivations()}
    if table not in found:
        raise BadInput(f"A derived table needs to be one of {', '.join(found)}; found '{table}'")
    return found[table]


def made_from() -> dict[str, tuple[str, ...]]:
    """The names of the tables that each derived table is made from."""
    return {
        table.name: tuple(t.name for t in derivation.made_from)
        for derivation in derivations()
        for table in (derivation.table, *derivation.also)
    }


def in_order(found: list[Derivation[Made]]) -> tuple[Derivation[Made], ...]:
    """Derivations, each after those that it needs. Raises BadInput."""
    makers: dict[Table, Derivation[Made]] = {}
    for derivation in found:
        for table in (derivation.table, *derivation.also):
            if table in makers:
                raise BadInput(
                    f"Table '{table.name}' needs one derivation that makes it; found two. "
                    "Uninstall the package of one of them"
                )
            makers[table] = derivation
    sorter = TopologicalSorter(
        {d.name: [makers[t].name for t in d.made_from if t in makers] for d in found}
    )
    try:
        order = list(sorter.static_order())
    except CycleError as error:
        names = " -> ".join(error.args[1])
        raise BadInput(
            f"Derived tables need to be made from others without a cycle; found {names}. "
            "Correct or uninstall the package that closes it"
        ) from error
    return tuple(sorted(found, key=lambda d: order.index(d.name)))


def _loaded(point: EntryPoint) -> Derivation[Made]:
    try:
        found = point.load()
    except (ImportError, AttributeError) as error:
        raise BadInput(
            f"Derivation '{point.name}' ({point.value}) cannot be loaded: {error}. Correct or "
            "uninstall its package"
        ) from error
    if not isinstance(found, Derivation):
        raise BadInput(
            f"Derivation '{point.name}' ({point.value}) needs to be a Derivation; found "
            f"{type(found).__name__}. Correct or uninstall its package"
        )
    return found
