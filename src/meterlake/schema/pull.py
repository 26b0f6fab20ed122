"""The table of what is pulled from where, and how it goes.

How far an integration is stands in the staging table's own log, recorded in the same step as
the file that it was for, so the two cannot disagree; this table has what may be lost.
"""

from meterlake.schema.port import Column, Table

INTEGRATIONS = Table(
    name="integrations",
    path="integrated/integrations",
    meaning="Head-end systems that are pulled from: how the last pull went, when the next is due",
    columns=(
        Column("name", "string", "", "Name of the integration in meterlake.toml"),
        Column("tried_at", "timestamp", "UTC", "When it was last pulled from, or tried"),
        Column("succeeded_at", "timestamp", "UTC", "When a pull last went well"),
        Column("next_eligible", "timestamp", "UTC", "When it is due next"),
        Column("failures", "long", "", "Pulls in a row that failed; 0: the last went well"),
        Column("last_error", "string", "", "Why the last one failed; empty: it did not"),
        Column("request_id", "string", "", "The head-end system's name of the file it prepares"),
        Column("asked_from", "timestamp", "UTC", "Arrivals in that file: from here on"),
        Column("asked_to", "timestamp", "UTC", "Their end, not included"),
    ),
    partitioned_by=(),
    time_column="tried_at",
    sorted_by=("name",),
)
