"""The grid's topology: seven JSON files, one for each kind of node, as one state of the grid.

Flawed nodes are loaded as far as possible, and reported: see `FINDINGS`. Only what makes the whole
meaningless is refused: a file that is missing or no list of nodes, and nodes that feed
themselves in a circle.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from graphlib import CycleError, TopologicalSorter
from typing import Any

import polars as pl
from pydantic import Field

from meterlake import storage
from meterlake.dataflows.port import Dataflow, Loaded, Options, Request
from meterlake.delta.commit import snapshot
from meterlake.delta.store import Store
from meterlake.errors import BadInput
from meterlake.questions.sql import query
from meterlake.schema import FINDING, KINDS, POLARS_TYPES, READINGS, TOPOLOGY, View
from meterlake.topology.upstream import PARENTS

Node = dict[str, Any]
Finding = tuple[str, str, str, str]
"""Kind, id, finding, detail."""

FINDINGS = {
    "no id": "a node without an id, which is left out",
    "id twice": "an id that appears twice in one file; the first counts",
    "id of two kinds": "an id that a node of another kind has too; both are loaded",
    "dangling reference": "a node that points to one that is not there",
    "no reference": "a node that points to nothing where it should",
    "no coordinates": "a location without latitude or longitude, or with impossible ones",
    "coordinates as text": "a location whose coordinates are text; they are read as numbers",
    "no capacity": "a transformer whose capacity is not understood",
    "no readings": "a meter of which the lake has no readings lately",
    "not in the topology": "a meter that has readings lately and is not in the topology",
}
"""What can be wrong with a node, and what becomes of it."""

_HALF_A_LETTER = re.compile("[\ud800-\udfff]")
_REFERENCES = {
    kind: {
        **PARENTS.get(kind, {}),
        **({"location_id": "location"} if "location_id" in (c.name for c in view.columns) else {}),
    }
    for kind, view in KINDS.items()
}
_MAY_BE_EMPTY = {"voltage_control_zone_id"}  # not every transformer is in a zone

_KVA = {"": 0.001, "k": 1.0, "m": 1000.0}


class TopologyOptions(Options):
    """What can be set for topology."""

    readings_days: int = Field(
        7, ge=1, description="Meters are compared with the readings of so many last days [d]"
    )


def load_topology(request: Request) -> Loaded:
    """Read the seven files, and say what is wrong with them.

    Raises
    ------
    BadInput
        A file is missing or no list of nodes; or there is a circle.
    Unavailable
        A file is not available at the moment.
    """
    assert isinstance(request.options, TopologyOptions)
    findings: list[Finding] = []
    delivered = {kind: list(_nodes(request.source, kind, findings)) for kind in KINDS}
    _refuse_circles(delivered)
    findings += _odd_references(delivered)
    nodes = {kind: _frame(KINDS[kind], nodes) for kind, nodes in delivered.items()}
    days = request.options.readings_days
    findings += _odd_meters(request.store, nodes["smart_meter"], days)
    odd = pl.DataFrame(
        sorted(set(findings)),
        schema=dict.fromkeys(("node_kind", "id", "finding", "detail"), pl.String()),
        orient="row",
    )
    nothing = (pl.lit("").alias(name) for name in ("node_kind", "finding", "detail"))
    rows = pl.concat([*nodes.values()], how="diagonal").with_columns(*nothing)
    rows = pl.concat([rows, odd.with_columns(pl.lit(FINDING).alias("kind"))], how="diagonal")
    counts = Counter((kind, finding) for kind, _, finding, _ in set(findings))
    return Loaded(
        {TOPOLOGY.name: rows},
        tuple(
            f"{number:,} x {kind}: {finding}" for (kind, finding), number in sorted(counts.items())
        ),
    )


TOPOLOGY_FLOW = Dataflow(
    name="topology",
    meaning="The grid: meters, transformers, substations, zones and where they are",
    tables=(TOPOLOGY,),
    load=load_topology,
    keeps="states",
    options=TopologyOptions,
    delivered=pl.col("kind") != FINDING,  # findings depend on the lake's readings, too
)


def apparent_power_kva(text: object) -> float | None:
    """A rating in kVA, None where it is not understood.

    >>> [apparent_power_kva(t) for t in ("100kva", "40MVA", "1.5 MVA", "40 MW", "")]
    [100.0, 40000.0, 1500.0, None, None]
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([km]?)va\s*", str(text).lower())
    return None if found is None else float(found[1]) * _KVA[found[2]]


def _nodes(source: str, kind: str, findings: list[Finding]) -> Iterator[Node]:
    """The nodes of one file by our names, each id once, texts that are empty as null."""
    seen: set[str] = set()
    for number, item in enumerate(_read(source, kind), start=1):
        node = {re.sub(r"(?<=[a-z])(?=[A-Z])", "_", k).lower(): v for k, v in item.items()}
        node = {k: _plain(v, k, _where(source, kind)) for k, v in node.items()}
        identifier = node.get("id")
        if identifier is None:
            findings.append((kind, "", "no id", f"node {number:,} of the file"))
            continue
        node["id"] = identifier = str(identifier)
        if identifier in seen:
            findings.append((kind, identifier, "id twice", f"again as node {number:,}"))
            continue
        seen.add(identifier)
        for column in _REFERENCES[kind]:
            node[column] = None if node.get(column) is None else str(node[column])
        if kind == "location":
            _place(node, findings)
        if "capacity" in (c.name for c in KINDS[kind].columns):
            node["capacity_kva"] = apparent_power_kva(node.get("capacity"))
            if node["capacity_kva"] is None:
                findings.append((kind, identifier, "no capacity", repr(node.get("capacity"))))
        yield node


def _plain(value: object, name: str, where: str) -> object:
    """A value as it is, a text that is empty as null. Raises BadInput where it is none."""
    if isinstance(value, str):
        if _HALF_A_LETTER.search(value):
            raise BadInput(f"'{where}' needs valid Unicode; found half a surrogate pair in {name}")
        return value if value.strip() else None
    if isinstance(value, list | dict):
        raise BadInput(f"'{where}' needs a text or a number as {name}; found {str(value)[:60]}")
    return value


def _where(source: str, kind: str) -> str:
    return f"{storage.without_secrets(source).rstrip('/')}/{kind}.json"


def _read(source: str, kind: str) -> list[dict[str, Any]]:
    where = _where(source, kind)
    names = ", ".join(f"{name}.json" for name in KINDS)
    try:
        read = json.loads(storage.fetched(f"{source.rstrip('/')}/{kind}.json"))
    except FileNotFoundError as error:
        raise BadInput(f"A topology needs the files {names}; '{where}' is not there") from error
    except ValueError as error:  # no JSON, or no UTF-8
        raise BadInput(f"'{where}' needs to be JSON: {error}") from error
    if not isinstance(read, list) or not all(isinstance(item, dict) for item in read):
        raise BadInput(f"'{where}' needs to be a list of nodes; found {str(read)[:60]!r}")
    return read


def _place(node: Node, findings: list[Finding]) -> None:
    """Coordinates as numbers."""
    texts = []
    for name, most in (("latitude", 90.0), ("longitude", 180.0)):
        said: Any = node.get(name)
        texts += [name] if isinstance(said, str) else []
        try:
            degrees = float(said)
        except (TypeError, ValueError, OverflowError):
            degrees = math.nan
        node[name] = degrees if -most <= degrees <= most else None
        if node[name] is None:
            findings.append(("location", node["id"], "no coordinates", f"{name} {said!r}"))
    if texts:
        findings.append(("location", node["id"], "coordinates as text", " and ".join(texts)))


def _odd_references(delivered: Mapping[str, list[Node]]) -> Iterator[Finding]:
    ids = {kind: {node["id"] for node in nodes} for kind, nodes in delivered.items()}
    for kind, nodes in delivered.items():
        for other, theirs in ids.items():
            if other != kind:
                for both in ids[kind] & theirs:
                    yield kind, both, "id of two kinds", other
        for column, target in _REFERENCES[kind].items():
            for node in nodes:
                points_to = node.get(column)
                if points_to is None:
                    if column not in _MAY_BE_EMPTY:
                        yield kind, node["id"], "no reference", column
                elif points_to not in ids[target]:
                    yield kind, node["id"], "dangling reference", f"{column} {points_to}"


def _refuse_circles(delivered: Mapping[str, list[Node]]) -> None:
    """Raise BadInput where a node is upstream of itself.

    By kinds alone there is no circle: each points to a higher one. So one shows where a node
    points to an id that only a node of another kind has.
    """
    kinds: dict[str, list[str]] = {}
    for kind, nodes in delivered.items():
        for node in nodes:
            kinds.setdefault(node["id"], []).append(kind)
    up: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for kind, nodes in delivered.items():
        for node in nodes:
            for column, target in PARENTS.get(kind, {}).items():
                above = str(node.get(column))
                there = kinds.get(above, [])
                meant = [target] if target in there else there
                up.setdefault((kind, node["id"]), []).extend((k, above) for k in meant)
    try:
        TopologicalSorter(up).prepare()
    except CycleError as error:
        told = " -> ".join(f"{kind} {identifier}" for kind, identifier in reversed(error.args[1]))
        raise BadInput(f"A topology needs references without a circle; found {told}") from error


def _frame(view: View, nodes: list[Node]) -> pl.DataFrame:
    columns = {c.name: POLARS_TYPES[c.type] for c in view.columns if "valid_" not in c.name}
    texts = {name for name, dtype in columns.items() if dtype == pl.String()}
    frame = pl.DataFrame(
        {
            name: [
                str(node[name]) if name in texts and node.get(name) is not None else node.get(name)
                for node in nodes
            ]
            for name in columns
        },
        schema=columns,
    )
    return frame.with_columns(pl.lit(view.name).alias("kind"))


def _odd_meters(store: Store, meters: pl.DataFrame, days: int) -> list[Finding]:
    newest = snapshot(store, READINGS).newest
    if newest is None:
        return []
    start = _midnight(newest) - timedelta(days=days - 1)
    read = query(
        store,
        "SELECT DISTINCT meter_id AS id FROM readings "  # noqa: S608
        f"WHERE reading_date_time >= TIMESTAMPTZ '{start.isoformat()}'",
    )
    when = f"in the last {days} days of readings"
    kind = "smart_meter"
    silent = meters.join(read, on="id", how="anti")["id"]
    strange = read.join(meters, on="id", how="anti")["id"]
    return [
        *((kind, meter, "no readings", when) for meter in silent),
        *((kind, meter, "not in the topology", when) for meter in strange),
    ]


def _midnight(moment: datetime) -> datetime:
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)
