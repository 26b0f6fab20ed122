"""The table of what is pulled from where, and how it goes.

How far an integration is stands in the staging table's own log, recorded in the same step as
the file that it was for, so the two cannot disagree; this table has what may be lost.

So has that of files of sources: it spares fetching a file twice, and damaged ones being tried
again and again. That each file comes in once follows from its content, which staging knows.
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
        Column("ordered_at", "timestamp", "UTC", "When that file was ordered"),
        Column("asked_from", "timestamp", "UTC", "Arrivals in that file: from here on"),
        Column("asked_to", "timestamp", "UTC", "Their end, not included"),
    ),
    partitioned_by=(),
    time_column="tried_at",
    sorted_by=("name",),
)

TAKEN_FILES = Table(
    name="taken_files",
    path="integrated/taken_files",
    meaning="Files of sources that were looked at, and what became of each; of a file that was "
    "replaced there by another the last row holds",
    columns=(
        Column("source", "string", "", "Name of the source in meterlake.toml"),
        Column("path", "string", "", "The file, as its source calls it"),
        Column("size", "long", "B", "Its size there"),
        Column("modified_at", "timestamp", "UTC", "When it was last changed there; null: not told"),
        Column("entity_tag", "string", "", "What tells its versions apart, by HTTP and S3"),
        Column("source_sha256", "string", "", "SHA-256 of its bytes; empty: not taken in"),
        Column("outcome", "string", "", "taken, or failed where it cannot be read at all"),
        Column("message", "string", "", "Why it failed"),
        Column("taken_at", "timestamp", "UTC", "When this lake took it in, or gave up on it"),
        Column("year", "string", "", "Year of that, UTC"),
        Column("month", "string", "", "Month of that, 01 to 12, UTC"),
    ),
    partitioned_by=("source", "year", "month"),
    time_column="taken_at",
    sorted_by=("source", "path"),
)
