"""The grid's topology: one table of nodes with their validity, and the kinds of node as views."""

from meterlake.schema.port import Column, Table, View

FINDING = "finding"  # kind of the rows that say what is wrong

_ID = Column("id", "string", "", "Identifier of the node, unique within its kind")
_NAME = Column("name", "string", "", "Name of the node, for people")
_STATUS = Column("status", "string", "", "State of the node, as delivered")
_LOCATION_ID = Column("location_id", "string", "", "Where it stands: a location's id")
_CAPACITY = (
    Column("capacity", "string", "", "Rating as delivered, such as 100kva or 40MVA"),
    Column("capacity_kva", "double", "kVA", "Rating: apparent power that it may always carry"),
)
_FINDING = (
    Column("finding", "string", "", "What is wrong: one of a few words"),
    Column("detail", "string", "", "What was found"),
)
_VALIDITY = (
    Column("valid_from", "timestamp", "UTC", "Since when the row holds; 1970: always"),
    Column("valid_to", "timestamp", "UTC", "Until when, not included; null: it still holds"),
)


def _kind(name: str, meaning: str, *columns: Column) -> View:
    """The view of a kind of node, as it was and is."""
    named = (_ID, *columns)
    return View(
        name,
        f"View: {meaning}",
        (*named, *_VALIDITY),
        frozenset({"topology"}),
        f"SELECT {', '.join(c.name for c in named)}, valid_from, valid_to "  # noqa: S608
        f"FROM topology WHERE kind = '{name}'",
    )


KINDS: dict[str, View] = {  # from the top down, and where things are
    view.name: view
    for view in (
        _kind("power_grid", "Grids", _NAME, _STATUS),
        _kind(
            "substation",
            "Substations, which feed distribution transformers",
            _NAME,
            _STATUS,
            Column("grid_id", "string", "", "The grid that it belongs to"),
            _LOCATION_ID,
        ),
        _kind("voltage_control_zone", "Zones whose voltage is controlled together", _NAME),
        _kind(
            "distribution_transformer",
            "Transformers that feed service transformers",
            Column("substation_id", "string", "", "The substation that feeds it"),
            _STATUS,
            *_CAPACITY,
            _LOCATION_ID,
            Column("voltage_control_zone_id", "string", "", "The zone that it belongs to"),
        ),
        _kind(
            "service_transformer",
            "The last transformers before the customers",
            Column("distribution_transformer_id", "string", "", "The transformer that feeds it"),
            _LOCATION_ID,
            *_CAPACITY,
        ),
        _kind(
            "smart_meter",
            "Meters, and the transformer that each hangs on; id is the readings' meter_id",
            _LOCATION_ID,
            Column("service_transformer_id", "string", "", "The transformer that feeds it"),
        ),
        _kind(
            "location",
            "Places",
            Column("latitude", "double", "°", "Degrees north (WGS 84)"),
            Column("longitude", "double", "°", "Degrees east (WGS 84)"),
            Column("address", "string", "", "Postal address"),
            Column("location_type", "string", "", "What stands there, as delivered"),
        ),
    )
}

TOPOLOGY_FINDINGS = View(
    "topology_findings",
    "View: What is wrong with the topology as it was delivered; it was loaded anyway",
    (Column("kind", "string", "", "Kind of node"), _ID, *_FINDING, *_VALIDITY),
    frozenset({"topology"}),
    "SELECT node_kind AS kind, id, finding, detail, valid_from, valid_to "  # noqa: S608
    f"FROM topology WHERE kind = '{FINDING}'",
)

_COLUMNS = {c.name: c for view in KINDS.values() for c in view.columns if c not in _VALIDITY}

TOPOLOGY = Table(
    name="topology",
    path="integrated/topology",
    meaning="The grid's nodes, as they were and are, and their flaws: one commit per state",
    columns=(
        *_COLUMNS.values(),
        Column("node_kind", "string", "", "Of a finding: the kind of node; else empty"),
        *_FINDING,
        *_VALIDITY,
        Column("kind", "string", "", f"Kind of node, or '{FINDING}'"),
    ),
    partitioned_by=("kind",),
    time_column="valid_from",
    sorted_by=("kind", "id", "node_kind", "finding", "detail", "valid_from"),
)
