"""Load of transformers: apparent power of the meters below against the rating.

Apparent powers do not add up, since currents are out of step by different angles: active and
reactive power do. A meter's reactive power is what its apparent power has beside the active one,
taken as lagging, as that of homes is. Export makes active power negative and relieves.
"""

from collections.abc import Mapping

import polars as pl

from meterlake.grid.port import Analytic, hourly_mean
from meterlake.schema import TRANSFORMER_LOAD
from meterlake.settings import GridSettings

KINDS = ("service_transformer", "distribution_transformer")


def transformer_load_rows(
    readings: Mapping[str, pl.DataFrame], ways: pl.DataFrame, settings: GridSettings
) -> pl.DataFrame:
    """The rows of a day, one for each transformer and hour with readings below it.

    Parameters
    ----------
    readings : `kw` [kW] and `kva` [kVA]: meter, time, value. Of a meter that has one of them in
        an hour, that one is both its active and its apparent power.
    ways : `meter`, and of each kind its id and rating [kVA]
    """
    del settings
    active, apparent = hourly_mean(readings["kw"], "kw"), hourly_mean(readings["kva"], "kva")
    both = active.join(apparent, on=["meter", "hour"], how="full", coalesce=True)
    kw, kva = pl.coalesce("kw", "kva"), pl.coalesce("kva", "kw")
    power = both.select("meter", "hour", kw.alias("p"), (kva**2 - kw**2).clip(0).sqrt().alias("q"))
    power = power.join(ways, on="meter")
    found = []
    for kind in KINDS:
        key = f"{kind}_id"
        below = ways.group_by(key).agg(pl.len().cast(pl.Int64).alias("meters"))
        rows = (
            power.filter(pl.col(key).is_not_null())
            .group_by(key, "hour")
            .agg(
                pl.len().cast(pl.Int64).alias("meters_read"),
                pl.col("p").sum().alias("load_kw"),
                pl.col("q").sum(),
                pl.col(f"{kind}_kva").first().alias("rating_kva"),
            )
            .join(below, on=key)
            .with_columns((pl.col("load_kw") ** 2 + pl.col("q") ** 2).sqrt().alias("load_kva"))
        )
        share = pl.when(pl.col("rating_kva") > 0).then(pl.col("load_kva") / pl.col("rating_kva"))
        found.append(
            rows.select(
                pl.lit(kind).alias("kind"),
                pl.col(key).alias("id"),
                "hour",
                "meters",
                "meters_read",
                "load_kw",
                "load_kva",
                "rating_kva",
                (share * 100).alias("utilisation_percent"),
            )
        )
    return pl.concat(found)


TRANSFORMER_LOAD_ANALYTIC = Analytic(
    table=TRANSFORMER_LOAD,
    reading_types=("kw", "kva"),
    settings=(),
    rows=transformer_load_rows,
)
