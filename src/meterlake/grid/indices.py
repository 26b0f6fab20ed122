"""How reliable supply was: the indices of IEEE 1366, of the outages of a period."""

from collections.abc import Mapping

import polars as pl


def indices(
    outages: pl.DataFrame, customers: int, *, momentary_minutes: float
) -> Mapping[str, float | int | None]:
    """The indices of a period.

    Parameters
    ----------
    outages : rows of the table outages that start in the period. Those of nodes count with all
        their meters, those of single meters where something was measured and no node's outage has
        them: a meter whose reads are missing alone may have lost its radio
    customers : customers served: meters of the topology
    momentary_minutes : an interruption of at most that is momentary, a longer one sustained

    Returns
    -------
    `customers`; `interruptions` that are sustained; `saidi` [min]: minutes of sustained
    interruption per customer served; `saifi`: sustained interruptions per customer served;
    `caidi` [min]: minutes per interrupted customer; `maifi`: momentary interruptions per customer
    served. Null where they are divided by none.
    """
    is_single = pl.col("level") == "meter"
    counted = outages.filter(
        ~is_single | (pl.col("part_of").is_null() & (pl.col("evidence") != "missing"))
    )
    is_momentary = pl.col("minutes") <= momentary_minutes
    sustained, momentary = counted.filter(~is_momentary), counted.filter(is_momentary)
    minutes = float(sustained["customer_minutes"].sum())
    interrupted = int(sustained["meters"].sum())
    brief = int(momentary["meters"].sum())
    return {
        "customers": customers,
        "interruptions": sustained.height,
        "saidi": minutes / customers if customers else None,
        "saifi": interrupted / customers if customers else None,
        "caidi": minutes / interrupted if interrupted else None,
        "maifi": brief / customers if customers else None,
    }
