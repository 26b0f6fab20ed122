"""Voltage below the distribution transformers, and what conservation voltage reduction saves.

Conservation voltage reduction (CVR): many loads take less energy at a lower voltage. Its factor
says by how many per cent energy falls when voltage falls by one. The saving of an hour is that of
its mean voltage against the set point; above the set point it is negative, a loss.
"""

from collections.abc import Mapping

import polars as pl

from meterlake.grid.port import Analytic, hourly_mean
from meterlake.schema import VOLT_VAR
from meterlake.settings import GridSettings

_HOURS = 1.0  # of a row
_KW_PER_MW = 1000.0


def volt_var_rows(
    readings: Mapping[str, pl.DataFrame], ways: pl.DataFrame, settings: GridSettings
) -> pl.DataFrame:
    """The rows of a day, one for each transformer and hour with voltages.

    Parameters
    ----------
    readings : `vltg` [V] and `kw` [kW]: meter, time, value
    ways : `meter`, `distribution_transformer_id`
    """
    fed = ways.select("meter", transformer="distribution_transformer_id").drop_nulls()
    key = ["transformer", "hour"]
    hour = pl.col("time").dt.truncate("1h").alias("hour")
    volts = readings["vltg"].join(fed, on="meter").with_columns(hour)
    value = pl.col("value")
    # Where there is no supply there is no voltage to lower.
    dead = settings.nominal_voltage_v * settings.outage_voltage_percent / 100
    volts = volts.filter(value >= dead)
    low = settings.nominal_voltage_v * (1 - settings.voltage_low_percent / 100)
    high = settings.nominal_voltage_v * (1 + settings.voltage_high_percent / 100)
    rows = volts.group_by(key).agg(
        pl.col("meter").n_unique().cast(pl.Int64).alias("meters"),
        pl.len().cast(pl.Int64).alias("reads"),
        value.mean().alias("mean_v"),
        value.min().alias("min_v"),
        value.max().alias("max_v"),
        value.quantile(0.95, "linear").alias("p95_v"),
        ((value < low) | (value > high)).mean().mul(100).alias("out_of_band_percent"),
    )
    power = hourly_mean(readings["kw"], "kw").join(fed, on="meter")
    rows = rows.join(power.group_by(key).agg(pl.col("kw").sum()), on=key, how="left")
    load = pl.col("kw")
    if settings.cvr_load_mw is not None:
        load = pl.lit(settings.cvr_load_mw * _KW_PER_MW)
    customers = pl.col("meters")
    if settings.cvr_customers is not None:
        customers = pl.lit(settings.cvr_customers)
    set_point = settings.cvr_set_point_v
    reduction = (set_point - pl.col("mean_v")) / set_point * 100
    kwh = pl.col("load_kw") * _HOURS * pl.col("energy_saving_percent") / 100
    return (
        rows.with_columns(load.alias("load_kw"), reduction.alias("voltage_reduction_percent"))
        .with_columns(
            (pl.col("voltage_reduction_percent") * settings.cvr_factor).alias(
                "energy_saving_percent"
            )
        )
        .with_columns(kwh.alias("energy_saving_kwh"))
        .with_columns(
            (pl.col("energy_saving_kwh") * settings.energy_price_per_kwh).alias("cost_avoided"),
            (pl.col("energy_saving_kwh") * settings.customer_rate_per_kwh / customers).alias(
                "saving_per_customer"
            ),
            (pl.col("energy_saving_kwh") / _KW_PER_MW * settings.carbon_lb_per_mwh).alias(
                "carbon_reduction_lb"
            ),
        )
        .rename({"transformer": "distribution_transformer_id"})
    )


VOLT_VAR_ANALYTIC = Analytic(
    table=VOLT_VAR,
    reading_types=("vltg", "kw"),
    settings=(
        "nominal_voltage_v",
        "voltage_low_percent",
        "voltage_high_percent",
        "outage_voltage_percent",
        "cvr_set_point_v",
        "cvr_factor",
        "cvr_load_mw",
        "cvr_customers",
        "energy_price_per_kwh",
        "customer_rate_per_kwh",
        "carbon_lb_per_mwh",
    ),
    rows=volt_var_rows,
)
