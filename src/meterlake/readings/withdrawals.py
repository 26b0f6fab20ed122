"""Which deliveries do not count: those that were withdrawn, or read again in another way.

Their rows stay in staging. A delivery that was withdrawn never counts again; the same file, taken
in once more, is another delivery.
"""

import polars as pl

from meterlake.delta.commit import snapshot
from meterlake.delta.store import Store
from meterlake.delta.table import fetched, open_delta, recorded_under, scan
from meterlake.schema import DELIVERIES, STAGING

COUNT_KEY = "withdrawn"  # staging's key: how many deliveries have been withdrawn
PREFIX = "withdraw/"  # staging's key of a withdrawal: this and the delivery's identifier


def withdrawn_deliveries(store: Store) -> frozenset[str]:
    """Identifiers of the deliveries that do not count. Raises Unavailable."""
    if recorded_under(open_delta(store, STAGING), COUNT_KEY) < 0:
        return frozenset()
    rows = scan(store, DELIVERIES, snapshot(store, DELIVERIES).files)
    gone = rows.filter(pl.col("state") == "withdrawn").select("delivery_id")
    return frozenset(fetched(gone)["delivery_id"])


def withdrawn_sql(deliveries: str) -> str:
    """SQL of the deliveries that do not count, from rows of the table."""
    return f"SELECT delivery_id FROM {deliveries} AND state = 'withdrawn'"  # noqa: S608
