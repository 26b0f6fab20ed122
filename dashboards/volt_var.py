"""Volt/var: the voltage below each distribution transformer, and what lowering it saves."""

from typing import Any

from dashboards.panels import (
    bars,
    built,
    currency_variable,
    lines,
    rows,
    stats,
    transformer_variable,
    year_variable,
)
from dashboards.queries import (
    BLUE,
    COST,
    COUNT,
    DAY,
    GREEN,
    KWH,
    ORANGE,
    PERCENT,
    PURPLE,
    RED,
    VOLT,
    YEAR_SPAN,
    Col,
    days,
    sql,
    text,
    wall_clock,
)

UID = "meterlake-volt-var"

POUNDS = "masslb"
_ALL = f"""
WITH {YEAR_SPAN},
found AS (SELECT v.* EXCLUDE (date) FROM volt_var AS v, span
  WHERE v.hour >= year_begins AND v.hour < year_ends)
"""
_MINE = f"""
WITH {YEAR_SPAN}, {days()},
found AS (SELECT v.* EXCLUDE (date) FROM volt_var AS v, span
  WHERE v.hour >= year_begins AND v.hour < year_ends
    AND v.distribution_transformer_id = ${{transformer:sqlstring}}),
timed AS (SELECT {wall_clock("hour")} AS clock, * FROM found ASOF JOIN days ON hour >= begins)
"""
_MEAN_V = "sum(mean_v * reads) / nullif(sum(reads), 0)"
_OUT = "sum(out_of_band_percent * reads) / nullif(sum(reads), 0)"


def volt_var(currency: str) -> dict[str, Any]:
    """The dashboard."""
    day, hour, month, id_ = Col("day", unit=DAY), Col("hour"), text("month"), text("id")
    mean = Col("mean_v", "Mean", VOLT, BLUE)
    smallest, largest = Col("min_v", "Smallest", VOLT, ORANGE), Col("max_v", "Largest", VOLT, RED)
    out = Col("out", "Out of band", PERCENT, steps=((1.0, "orange"), (5.0, "red")), decimals=2)
    panels = [
        stats(
            "Voltage, ${year}",
            "Below the transformer: the mean over all reads, the extremes, and the share of reads "
            "outside the band.",
            sql(
                f"{_MINE} SELECT {_MEAN_V} AS mean_v, min(min_v) AS min_v, max(max_v) AS max_v, "
                f"{_OUT} AS out FROM found",
                mean,
                smallest,
                largest,
                out,
            ),
            unit=VOLT,
            width=12,
        ),
        stats(
            "Saved, ${year}",
            "What the voltage below the set point saved: energy, what it would have cost the "
            "utility, and carbon dioxide.",
            sql(
                f"{_MINE} SELECT sum(energy_saving_kwh) AS energy, sum(cost_avoided) AS cost, "
                "sum(carbon_reduction_lb) AS carbon FROM found",
                Col("energy", "Energy", KWH, GREEN),
                Col("cost", "Cost avoided", color=GREEN, decimals=2),
                Col("carbon", "Carbon dioxide", POUNDS, GREEN),
            ),
            unit=COST,
            width=12,
            costs="cost",
        ),
        lines(
            "Voltage per day",
            "Below the transformer, per local day: mean, extremes, and the voltage that 95 % of "
            "reads do not exceed in the highest hour.",
            sql(
                f"""
                {_MINE}
                SELECT epoch_ms(CAST(clock AS DATE) + INTERVAL 12 HOUR) AS day,
                  min(min_v) AS min_v, max(max_v) AS max_v, {_MEAN_V} AS mean_v,
                  max(p95_v) AS p95_v
                FROM timed GROUP BY ALL ORDER BY ALL
                """,
                day,
                smallest,
                largest,
                mean,
                Col("p95_v", "95 %, highest hour", VOLT, PURPLE),
            ),
            x=day,
            unit=VOLT,
            decimals=1,
        ),
        lines(
            "Voltage by hour of the day",
            "Mean and extremes of each hour of the lake's wall clock, over the year.",
            sql(
                f"""
                {_MINE}
                SELECT hour(clock) AS hour, min(min_v) AS min_v, max(max_v) AS max_v,
                  {_MEAN_V} AS mean_v
                FROM timed GROUP BY hour(clock) ORDER BY hour(clock)
                """,
                hour,
                smallest,
                largest,
                mean,
            ),
            x=hour,
            unit=VOLT,
            width=12,
            decimals=1,
        ),
        bars(
            "Saved per month",
            "Energy that the voltage below the set point saved.",
            sql(
                f"""
                {_MINE}
                SELECT strftime(clock, '%Y-%m') AS month, sum(energy_saving_kwh) AS energy
                FROM timed GROUP BY ALL ORDER BY ALL
                """,
                month,
                Col("energy", "Energy saved", KWH, GREEN),
            ),
            x=month,
            unit=KWH,
        ),
        rows(
            "All distribution transformers, ${year}",
            "Those with the most reads outside the band first.",
            sql(
                f"""
                {_ALL}
                SELECT distribution_transformer_id AS id, max(meters) AS meters,
                  {_MEAN_V} AS mean_v, {_OUT} AS out, sum(energy_saving_kwh) AS energy,
                  sum(cost_avoided) AS cost
                FROM found GROUP BY ALL ORDER BY out DESC, id LIMIT 2000
                """,
                text("id", "Transformer"),
                Col("meters", "Meters", COUNT, decimals=0),
                mean,
                out,
                Col("energy", "Energy saved", KWH),
                Col("cost", "Cost avoided", decimals=2),
            ),
            unit=COUNT,
            width=12,
            costs="cost",
        ),
        bars(
            "Loaded most, ${year}",
            "The ten transformers of the highest hourly apparent power against their rating.",
            sql(
                f"""
                WITH {YEAR_SPAN}
                SELECT t.id, max(t.utilisation_percent) AS peak
                FROM transformer_load AS t, span
                WHERE t.hour >= year_begins AND t.hour < year_ends
                  AND t.utilisation_percent IS NOT NULL
                GROUP BY ALL ORDER BY peak DESC, t.id LIMIT 10
                """,
                id_,
                Col("peak", "Highest hour", PERCENT, steps=((80.0, "orange"), (100.0, "red"))),
            ),
            x=id_,
            unit=PERCENT,
        ),
    ]
    transformers = transformer_variable(
        "SELECT DISTINCT distribution_transformer_id AS __text, "
        "distribution_transformer_id AS __value FROM volt_var ORDER BY 1 LIMIT 20000"
    )
    return built(
        UID,
        "Volt/var",
        "Voltage below each distribution transformer, and what lowering it saves.",
        [transformers, year_variable(), currency_variable(currency)],
        panels,
    )
