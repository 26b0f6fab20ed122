"""The tables of what is worked out from readings and topology."""

from meterlake.schema.port import Column, Table

_HOUR = Column("hour", "timestamp", "UTC", "Start of the hour")
_DATE = Column("date", "string", "", "UTC date of the hour, YYYY-MM-DD")

VOLT_VAR = Table(
    name="volt_var",
    path="grid/volt_var",
    meaning="Voltage below each distribution transformer per hour, and what it saves",
    columns=(
        Column("distribution_transformer_id", "string", "", "The transformer"),
        _HOUR,
        Column("meters", "long", "", "Meters below it that have voltages in the hour"),
        Column("reads", "long", "", "Voltages that they have"),
        Column("mean_v", "double", "V", "Mean of the voltages"),
        Column("min_v", "double", "V", "Smallest voltage"),
        Column("max_v", "double", "V", "Largest voltage"),
        Column("p95_v", "double", "V", "Voltage that 95 % of them do not exceed"),
        Column("out_of_band_percent", "double", "%", "Share of voltages outside the band"),
        Column("load_kw", "double", "kW", "Load that savings are of: the meters' mean, or as set"),
        Column("voltage_reduction_percent", "double", "%", "Set point less mean, of the set point"),
        Column("energy_saving_percent", "double", "%", "Voltage reduction times the CVR factor"),
        Column("energy_saving_kwh", "double", "kWh", "Energy that the hour took less"),
        Column("cost_avoided", "double", "currency", "Its price to the utility"),
        Column("saving_per_customer", "double", "currency", "Its price to a customer, each"),
        Column("carbon_reduction_lb", "double", "lb CO2", "Carbon dioxide that was not emitted"),
        _DATE,
    ),
    partitioned_by=("date",),
    time_column="hour",
    sorted_by=("distribution_transformer_id", "hour"),
)

TRANSFORMER_LOAD = Table(
    name="transformer_load",
    path="grid/transformer_load",
    meaning="Apparent power through each transformer per hour, against its rating",
    columns=(
        Column("kind", "string", "", "service_transformer or distribution_transformer"),
        Column("id", "string", "", "The transformer"),
        _HOUR,
        Column("meters", "long", "", "Meters below it"),
        Column("meters_read", "long", "", "Those of them that have readings in the hour"),
        Column("load_kw", "double", "kW", "Their mean net active power, summed"),
        Column("load_kva", "double", "kVA", "Apparent power of their active and reactive power"),
        Column("rating_kva", "double", "kVA", "What the transformer may carry continuously"),
        Column("utilisation_percent", "double", "%", "Apparent power of the rating"),
        _DATE,
    ),
    partitioned_by=("date",),
    time_column="hour",
    sorted_by=("kind", "id", "hour"),
)

METER_SUPPLY = Table(
    name="meter_supply",
    path="grid/meter_supply",
    meaning="When each meter had readings in a UTC day, and when its supply is in doubt",
    columns=(
        Column("meter_id", "string", "", "Identifier of the meter, as delivered"),
        Column("start", "timestamp", "UTC", "Since when; of a span its first reading"),
        Column("end", "timestamp", "UTC", "Until when; of a span the end of its last interval"),
        Column(
            "evidence",
            "string",
            "",
            "span: from the first to the last reading; missing, voltage or error: what is wrong",
        ),
        Column("interval_minutes", "double", "min", "Length of the meter's intervals"),
        _DATE,
    ),
    partitioned_by=("date",),
    time_column="start",
    sorted_by=("meter_id", "start", "evidence"),
)

OUTAGES = Table(
    name="outages",
    path="grid/outages",
    meaning="Times without supply: of nodes of the grid, and of single meters",
    columns=(
        Column(
            "level",
            "string",
            "",
            "What is out: meter, service_transformer, distribution_transformer or substation",
        ),
        Column("id", "string", "", "The meter or node"),
        Column("start", "timestamp", "UTC", "Start of the first interval without supply"),
        Column("end", "timestamp", "UTC", "End of the last one; of one that goes on, so far"),
        Column("minutes", "double", "min", "How long it lasted"),
        Column("is_ongoing", "boolean", "", "Whether it lasted to the end of the readings"),
        Column("evidence", "string", "", "missing: reads are; voltage: it was low; error: said so"),
        Column("meters", "long", "", "Meters that were out in it"),
        Column("customer_minutes", "double", "min", "Their times without supply, summed"),
        Column("part_of", "string", "", "Of a meter: the node whose outage it is part of, or null"),
        Column("date", "string", "", "UTC date of the start, YYYY-MM-DD"),
    ),
    partitioned_by=("date",),
    time_column="start",
    sorted_by=("level", "id", "start"),
)
