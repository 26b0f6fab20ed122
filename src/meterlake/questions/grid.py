"""Questions of the grid: meters and what is upstream of them, outages, voltages, loads."""

from meterlake.questions.question import Filter, Question, columns_of, equal, moments
from meterlake.schema import CONSUMPTION_DAILY, OUTAGES, TRANSFORMER_LOAD, VOLT_VAR, Column
from meterlake.topology.upstream import METER_TOPOLOGY, VIEWS

_WAY = VIEWS[METER_TOPOLOGY]
_PLACE = tuple(c for c in _WAY.columns if c.name in ("latitude", "longitude", "address"))
_READ_COLUMNS = (
    Column("first_day", "date", "", "First local day with energy in the lake"),
    Column("last_day", "date", "", "Last such day"),
    Column("days", "long", "d", "Number of local days with energy"),
)
_BEGUN = moments("start")
_NODES = " UNION ALL ".join(
    f"SELECT '{kind}' AS level, id, location_id FROM {kind} WHERE valid_to IS NULL"
    for kind in ("service_transformer", "distribution_transformer", "substation")
)
_STANDS = f"""
stands AS (
    SELECT 'meter' AS level, meter_id AS id, latitude, longitude, address FROM {METER_TOPOLOGY}
    UNION ALL
    SELECT n.level, n.id, l.latitude, l.longitude, l.address
    FROM ({_NODES}) AS n LEFT JOIN location AS l ON l.id = n.location_id AND l.valid_to IS NULL
)
"""
_TRANSFORMER = equal("distribution_transformer_id", "Identifier of the transformer")
_VOLT_VAR_COLUMNS = (
    Column("hours", "long", "h", "Hours with voltages"),
    Column("meters", "long", "", "Most meters that were read in an hour"),
    Column("reads", "long", "", "Voltages that were read"),
    Column("mean_v", "double", "V", "Mean of all voltages"),
    Column("min_v", "double", "V", "Lowest voltage"),
    Column("max_v", "double", "V", "Highest voltage"),
    Column("p95_v", "double", "V", "Voltage that 95 % do not exceed, in the highest hour"),
    Column("out_of_band_percent", "double", "%", "Share of voltages outside the band"),
    Column("reduction_percent", "double", "%", "How far they were below the set point"),
    Column("energy_kwh", "double", "kWh", "Energy that was delivered"),
    Column("saving_kwh", "double", "kWh", "Energy that the lower voltage saved"),
    Column("cost", "double", "currency", "Cost that it avoided"),
    Column("carbon_lb", "double", "lb CO2", "Carbon dioxide that it avoided"),
)
_VOLT_VAR_SUMS = """
    count(*) AS hours, max(meters) AS meters,
    sum(reads) AS reads, sum(mean_v * reads) / nullif(sum(reads), 0) AS mean_v,
    min(min_v) AS min_v, max(max_v) AS max_v, max(p95_v) AS p95_v,
    sum(out_of_band_percent * reads) / nullif(sum(reads), 0) AS out_of_band_percent,
    sum(voltage_reduction_percent * reads) / nullif(sum(reads), 0) AS reduction_percent,
    sum(load_kw) AS energy_kwh, sum(energy_saving_kwh) AS saving_kwh,
    sum(cost_avoided) AS cost, sum(carbon_reduction_lb) AS carbon_lb
"""

QUESTIONS = (
    Question(
        "meters",
        "Meters of the topology, and those with a day of readings that is over",
        (*_WAY.columns, *_READ_COLUMNS),
        (METER_TOPOLOGY, CONSUMPTION_DAILY.name),
        f"""
        WITH known AS (
            SELECT meter_id, min(date) AS first_day, max(date) AS last_day,
                count(DISTINCT date) AS days
            FROM consumption_daily WHERE reading_type = 'kw' GROUP BY meter_id
        ), met AS (
            SELECT meter_id FROM known UNION SELECT meter_id FROM {METER_TOPOLOGY}
        )
        SELECT met.meter_id,
            {", ".join(f"w.{c.name}" for c in _WAY.columns if c.name != "meter_id")},
            known.first_day, known.last_day, coalesce(known.days, 0) AS days
        FROM met LEFT JOIN {METER_TOPOLOGY} AS w ON w.meter_id = met.meter_id
            LEFT JOIN known ON known.meter_id = met.meter_id
        WHERE {{where}}
        """,
        ("meter_id",),
        (
            Filter(
                "search",
                "string",
                "Part of the meter's id or address",
                "contains(lower(met.meter_id), lower($search)) "
                "OR contains(lower(w.address), lower($search))",
            ),
            equal("meter_id", "Identifier of the meter", "met.meter_id"),
            *(
                equal(f"{kind}_id", "Only meters below it", f"w.{kind}_id")
                for kind in ("service_transformer", "distribution_transformer", "substation")
            ),
        ),
    ),
    Question(
        "outages-span",
        "When the first outage began and the last one ended",
        (
            Column("first", "timestamp", "UTC", "Start of the first outage"),
            Column("last", "timestamp", "UTC", "End of the last outage"),
        ),
        (OUTAGES.name,),
        'SELECT min(start) AS first, max("end") AS last FROM outages',
    ),
    Question(
        "indices",
        "SAIDI, SAIFI, CAIDI and MAIFI (IEEE 1366), of outages that start in the window",
        (
            Column("customers", "long", "", "Meters of the topology"),
            Column("interruptions", "long", "", "Sustained interruptions"),
            Column("saidi", "double", "min", "Minutes without supply per customer"),
            Column("saifi", "double", "", "Sustained interruptions per customer"),
            Column("caidi", "double", "min", "Minutes per interruption of a customer"),
            Column("maifi", "double", "", "Momentary interruptions per customer"),
        ),
        (OUTAGES.name, METER_TOPOLOGY),
        # Outages of nodes count with all their meters, those of single meters where something was
        # measured and no node's outage has them: a meter whose reads are missing alone may have
        # lost its radio.
        f"""
        SELECT customers, count(*) FILTER (is_sustained) AS interruptions,
            coalesce(sum(customer_minutes) FILTER (is_sustained), 0) / nullif(customers, 0)
                AS saidi,
            coalesce(sum(meters) FILTER (is_sustained), 0) / nullif(customers, 0) AS saifi,
            sum(customer_minutes) FILTER (is_sustained)
                / nullif(sum(meters) FILTER (is_sustained), 0) AS caidi,
            coalesce(sum(meters) FILTER (NOT is_sustained), 0) / nullif(customers, 0) AS maifi
        FROM (SELECT count(*) AS customers FROM {METER_TOPOLOGY})
            LEFT JOIN (SELECT *, minutes > $momentary_minutes AS is_sustained FROM outages
                WHERE (level <> 'meter' OR part_of IS NULL AND evidence <> 'missing')
                    AND {{where}}) ON true
        GROUP BY customers
        """,
        filters=_BEGUN,
    ),
    Question(
        "outage-counts",
        "Outages that are not part of a larger one, and the meters that were hit, by month",
        (
            Column("month", "string", "", "Local month; null: in all"),
            Column("outages", "long", "", "Outages that are not part of a larger one"),
            Column("meters", "long", "", "Different meters that were hit"),
            Column("longest_minutes", "double", "min", "How long the longest was"),
        ),
        (OUTAGES.name,),
        """
        SELECT CASE WHEN $by = 'month' THEN strftime(timezone($zone, start), '%Y-%m') END AS month,
            count(*) FILTER (part_of IS NULL) AS outages,
            count(DISTINCT id) FILTER (level = 'meter') AS meters, max(minutes) AS longest_minutes
        FROM outages WHERE {where} GROUP BY month
        """,
        ("coalesce(month, '')",),
        (
            *_BEGUN,
            Filter("by", "string", "Apart for each month; left out: in all", choices=("month",)),
        ),
    ),
    Question(
        "outages-with-places",
        "Outages that are not part of a larger one and where they were, the last first",
        (
            *columns_of(OUTAGES, "level", "id", "start"),
            Column("local_start", "string", "", "Start, as the local clock shows it"),
            *columns_of(OUTAGES, "minutes", "is_ongoing", "evidence", "meters"),
            *_PLACE,
        ),
        (OUTAGES.name, METER_TOPOLOGY),
        f"""
        WITH {_STANDS}
        SELECT level, id, start, strftime(timezone($zone, start), '%Y-%m-%d %H:%M') AS local_start,
            minutes, is_ongoing, evidence, meters, latitude, longitude, address
        FROM outages LEFT JOIN stands USING (level, id) WHERE part_of IS NULL AND {{where}}
        """,
        ("-epoch_us(start)", "level", "id"),
        _BEGUN,
    ),
    Question(
        "meters-hit",
        "Meters that were out, those that were out longest first",
        (
            Column("meter_id", "string", "", "Identifier of the meter"),
            Column("outages", "long", "", "Number of outages"),
            Column("minutes", "double", "min", "How long they were, in all"),
            Column("longest_minutes", "double", "min", "How long the longest was"),
            Column("last_start", "string", "", "When the last began, as the local clock shows it"),
            *(c for c in _WAY.columns if c.name == "service_transformer_id"),
            *_PLACE,
        ),
        (OUTAGES.name, METER_TOPOLOGY),
        f"""
        SELECT hit.*, service_transformer_id, latitude, longitude, address
        FROM (SELECT id AS meter_id, count(*) AS outages, sum(minutes) AS minutes,
                max(minutes) AS longest_minutes,
                strftime(timezone($zone, max(start)), '%Y-%m-%d %H:%M') AS last_start
            FROM outages WHERE level = 'meter' AND {{where}} GROUP BY id) AS hit
        LEFT JOIN {METER_TOPOLOGY} USING (meter_id)
        """,
        ("-round(minutes, 3)", "meter_id"),
        _BEGUN,
    ),
    Question(
        "meter-outages",
        "Each outage of a single meter, and where the meter is",
        (
            Column("meter_id", "string", "", "Identifier of the meter"),
            *columns_of(OUTAGES, "start", "end", "minutes", "evidence", "part_of"),
            *_PLACE,
        ),
        (OUTAGES.name, METER_TOPOLOGY),
        f"""
        SELECT id AS meter_id, start, "end", minutes, evidence, part_of, latitude, longitude,
            address
        FROM outages LEFT JOIN {METER_TOPOLOGY} AS way ON way.meter_id = id
        WHERE level = 'meter' AND {{where}}
        """,
        ("start", "meter_id"),
        (*_BEGUN, equal("meter_id", "Only of this meter", "id")),
    ),
    Question(
        "volt-var-by-transformer",
        "Voltage below each distribution transformer and what it saved, the worst first",
        (*columns_of(VOLT_VAR, "distribution_transformer_id"), *_VOLT_VAR_COLUMNS),
        (VOLT_VAR.name,),
        f"""
        SELECT distribution_transformer_id, {_VOLT_VAR_SUMS} FROM volt_var
        WHERE {{where}} GROUP BY distribution_transformer_id
        """,
        ("-round(coalesce(out_of_band_percent, 0), 6)", "distribution_transformer_id"),
        (*moments("hour", date_of="date"), _TRANSFORMER),
    ),
    Question(
        "volt-var-by-period",
        "Voltage and what it saved by local day, hour of the day or month",
        (
            Column("period", "string", "", "Local day, hour of the day, or month"),
            Column("number", "long", "", "Noon of the day [ms since 1970], hour, or month"),
            *_VOLT_VAR_COLUMNS,
        ),
        (VOLT_VAR.name,),
        f"""
        WITH timed AS (
            SELECT timezone($zone, hour) AS clock, * EXCLUDE (date) FROM volt_var WHERE {{where}}
        )
        SELECT strftime(clock, CASE $by WHEN 'hour' THEN '%H' WHEN 'month' THEN '%Y-%m'
                ELSE '%Y-%m-%d' END) AS period,
            CASE $by WHEN 'hour' THEN hour(clock) WHEN 'month' THEN month(clock)
                ELSE epoch_ms(clock::DATE + INTERVAL 12 HOUR) END AS number,
            {_VOLT_VAR_SUMS}
        FROM timed GROUP BY period, number
        """,
        ("period",),
        (
            *moments("hour", date_of="date"),
            _TRANSFORMER,
            Filter("by", "string", "Left out: day", choices=("day", "hour", "month")),
        ),
    ),
    Question(
        "transformer-load-ranking",
        "Transformers by the hours that they are loaded beyond their rating, and by the highest "
        "load",
        (
            *columns_of(TRANSFORMER_LOAD, "kind", "id", "rating_kva", "meters"),
            Column("hours", "long", "h", "Hours with a known load"),
            Column("hours_over", "long", "h", "Hours loaded beyond the rating"),
            Column("highest_percent", "double", "%", "Highest load of an hour, of the rating"),
            Column("highest_at", "timestamp", "UTC", "Start of that hour"),
            Column("mean_percent", "double", "%", "Mean load, of the rating"),
        ),
        (TRANSFORMER_LOAD.name,),
        # In whole parts of a million: the sum of doubles depends on who adds first.
        """
        SELECT kind, id, arg_max(rating_kva, hour) AS rating_kva, max(meters) AS meters,
            count(*) AS hours, count(*) FILTER (utilisation_percent > 100) AS hours_over,
            max(utilisation_percent) AS highest_percent,
            first(hour ORDER BY utilisation_percent DESC, hour) AS highest_at,
            sum((utilisation_percent * 1e6)::BIGINT) / 1e6 / count(*) AS mean_percent
        FROM transformer_load
        WHERE utilisation_percent IS NOT NULL AND {where} GROUP BY kind, id
        """,
        ("-hours_over", "-highest_percent", "kind", "id"),
        moments("hour", date_of="date"),
    ),
    Question(
        "load-by-hour",
        "Load of all transformers of a kind by the hour",
        (
            Column("hour", "timestamp", "UTC", "Start of the hour"),
            Column("load_kw", "double", "kW", "Load of those whose load is known"),
            Column("meters_read", "long", "", "Meters below them that were read"),
        ),
        (TRANSFORMER_LOAD.name,),
        """
        SELECT hour, sum(load_kw) AS load_kw, sum(meters_read) AS meters_read
        FROM transformer_load WHERE load_kw IS NOT NULL AND {where} GROUP BY hour
        """,
        ("hour",),
        (*moments("hour", date_of="date"), equal("kind", "Kind of transformer")),
    ),
)
