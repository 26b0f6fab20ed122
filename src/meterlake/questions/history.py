"""What staging says: the readings as of any moment, and what became of every stored row.

Staging keeps every read that ever came, so both are questions to it alone. The rule of which
read of a key stands is that of integrate/hours.py: a measured value before an estimate, then the
latest arrival, and among equal ones the later row of the later-named file.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from meterlake.readings.withdrawals import withdrawn_sql
from meterlake.schema import DELIVERIES, LATE_ARRIVALS, QUARANTINE, READINGS, STAGING
from meterlake.schema.projection import ARRIVAL_SQL, KEY, RANK_SQL, VERSION, readings_sql

_ORDER = f"{RANK_SQL} DESC, {ARRIVAL_SQL} DESC, source_file DESC, source_row DESC"
_KEY = f"reading_type, {', '.join(KEY)}"
_GONE = withdrawn_sql("deliveries WHERE true")
_VERSION = f"{', '.join(VERSION)}, {ARRIVAL_SQL}"


@dataclass(frozen=True)
class AsOf:
    """A moment (aware), and the clock that a read had to arrive by.

    `arrival`: when the read reached its source system, or where the file does not say that,
    this lake; `receipt`: when this lake took the file in, which is what it could answer then.
    """

    moment: datetime
    clock: Literal["arrival", "receipt"] = "arrival"


def views_as_of(as_of: AsOf) -> dict[str, str]:
    """SQL of each table as it was, by table; `{table}` stands for the table as it is.

    The tables: `staging`, `quarantine` and `late_arrivals` without what came later, and
    `readings`, worked out from staging.
    """
    clock = ARRIVAL_SQL if as_of.clock == "arrival" else "received_at"
    moment = f"TIMESTAMPTZ '{as_of.moment.astimezone(UTC).isoformat()}'"
    return {
        STAGING.name: f"SELECT * FROM {{staging}} WHERE {clock} <= {moment}",
        QUARANTINE.name: (
            f"SELECT * FROM {{quarantine}} WHERE received_at <= {moment} AND delivery_id NOT IN "
            f"({_withdrawn(moment)})"
        ),
        DELIVERIES.name: f"SELECT * FROM {{deliveries}} WHERE recorded_at <= {moment}",
        LATE_ARRIVALS.name: f"SELECT * FROM {{late_arrivals}} WHERE detected_at <= {moment}",
        READINGS.name: _standing(
            f"SELECT * FROM {{staging}} WHERE {clock} <= {moment} AND delivery_id NOT IN "
            f"({_withdrawn(moment)})"
        ),
    }


def _withdrawn(moment: str) -> str:
    return withdrawn_sql(f"{{deliveries}} WHERE recorded_at <= {moment}")


def balance_sql() -> str:
    """SQL: what became of each delivered file's rows and readings, over staging and quarantine.

    `rows` = `stored` + `quarantined`, and `readings` = `standing` + `superseded` +
    `duplicates`: of a key's versions (another value, quality or arrival) one stands, the
    others are superseded, and what is the same as a version is a duplicate of it.
    """
    return f"""
        WITH judged AS (
            SELECT source_file, source_sha256,
                row_number() OVER (
                    PARTITION BY {_KEY} ORDER BY {_ORDER}
                ) = 1 AS stands,
                row_number() OVER (
                    PARTITION BY {_KEY}, {_VERSION} ORDER BY {_ORDER}
                ) = 1 AS is_version
            FROM staging
            WHERE reading_value IS NOT NULL AND delivery_id NOT IN ({_GONE})
        ), readings AS (
            SELECT source_file, source_sha256, count(*) AS readings,
                count(*) FILTER (stands) AS standing,
                count(*) FILTER (is_version AND NOT stands) AS superseded,
                count(*) FILTER (NOT is_version) AS duplicates
            FROM judged GROUP BY ALL
        ), stored AS (
            SELECT source_file, source_sha256, count(DISTINCT source_row) AS stored
            FROM staging WHERE delivery_id NOT IN ({_GONE}) GROUP BY ALL
        ), quarantined AS (
            SELECT source_file, source_sha256, count(*) AS quarantined FROM quarantine
            GROUP BY ALL
        )
        SELECT source_file AS file, source_sha256 AS sha256,
            coalesce(stored, 0) + coalesce(quarantined, 0) AS rows,
            coalesce(stored, 0) AS stored, coalesce(quarantined, 0) AS quarantined,
            coalesce(readings, 0) AS readings, coalesce(standing, 0) AS standing,
            coalesce(superseded, 0) AS superseded, coalesce(duplicates, 0) AS duplicates
        FROM stored
        FULL JOIN quarantined USING (source_file, source_sha256)
        LEFT JOIN readings USING (source_file, source_sha256)
    """


def _standing(staging: str) -> str:
    """The integrated table's rows, from staging."""
    return readings_sql(
        f"{staging} AND reading_value IS NOT NULL "
        f"QUALIFY row_number() OVER (PARTITION BY {_KEY} ORDER BY {_ORDER}) = 1"
    )
