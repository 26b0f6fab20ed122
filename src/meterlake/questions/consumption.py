"""Questions of energy: by day, by meter, and beside the year before."""

from meterlake.questions.question import NOON, PRICE, Filter, Question, days, equal, noon
from meterlake.schema import CONSUMPTION_DAILY, Column

METER = equal("meter_id", "Only of this meter")
YEAR = Filter("year", "long", "The local year, such as 2024")
BY_MONTH = Filter("by", "string", "Apart for each month; left out: in all", choices=("month",))
MONTH = Column("month", "string", "", "Month of both years, such as '03 Mar'; null: in all")

QUESTIONS = (
    Question(
        "consumption-by-day",
        "Energy of each local day, of all meters or of one",
        (
            Column("date", "date", "", "Local day"),
            NOON,
            Column("meters", "long", "", "Meters that have readings"),
            Column("complete", "long", "", "Meters that have all of their readings"),
            Column("energy_kwh", "double", "kWh", "Energy of all meters"),
            Column("complete_kwh", "double", "kWh", "Energy of the complete meters"),
            Column("mean_kwh", "double", "kWh", "Mean of the complete meters"),
        ),
        (CONSUMPTION_DAILY.name,),
        f"""
        SELECT date, {noon("date")} AS noon_ms, count(*) AS meters,
            count(*) FILTER (is_complete AND energy_kwh IS NOT NULL) AS complete,
            sum(energy_kwh) AS energy_kwh,
            sum(energy_kwh) FILTER (is_complete) AS complete_kwh,
            avg(energy_kwh) FILTER (is_complete) AS mean_kwh
        FROM consumption_daily WHERE reading_type = 'kw' AND {{where}} GROUP BY date
        """,
        ("date",),
        (*days("date"), METER),
    ),
    Question(
        "consumption-by-meter",
        "Energy of each meter that has any, of a window of local days",
        (
            Column("meter_id", "string", "", "Identifier of the meter"),
            Column("days", "long", "d", "Local days with readings"),
            Column("energy_kwh", "double", "kWh", "Energy of them"),
        ),
        (CONSUMPTION_DAILY.name,),
        """
        SELECT meter_id, count(*) AS days, sum(energy_kwh) AS energy_kwh
        FROM consumption_daily WHERE reading_type = 'kw' AND {where} GROUP BY meter_id
        """,
        ("meter_id",),
        (*days("date"), METER),
    ),
    Question(
        "consumption-span",
        "The first and the last complete local day, of all meters or of one",
        (
            Column("first", "date", "", "First complete local day"),
            Column("last", "date", "", "Last complete local day"),
        ),
        (CONSUMPTION_DAILY.name,),
        """
        SELECT min(date) AS first, max(date) AS last
        FROM consumption_daily WHERE reading_type = 'kw' AND is_complete AND {where}
        """,
        filters=(METER,),
    ),
    Question(
        "years",
        "Local years that have readings, the latest first",
        (Column("year", "string", "", "Local year"),),
        (CONSUMPTION_DAILY.name,),
        "SELECT DISTINCT year FROM consumption_daily",
        ("-year::BIGINT",),
    ),
    Question(
        "consumption-change",
        "Energy of a year and of the same days of the year before",
        (
            MONTH,
            Column("now_kwh", "double", "kWh", "Energy of the year"),
            Column("before_kwh", "double", "kWh", "Energy of the same days of the year before"),
            Column("change_percent", "double", "%", "How much more the year has"),
            Column("now_cost", "double", "currency", "Energy of the year times the price"),
            Column("before_cost", "double", "currency", "That of the year before"),
        ),
        (CONSUMPTION_DAILY.name,),
        """
        WITH used AS (
            SELECT year(date) = $year AS is_now, date, strftime(date, '%m-%d') AS day_of_year,
                sum(energy_kwh) AS kwh
            FROM consumption_daily
            WHERE reading_type = 'kw' AND {where}
                AND year IN ($year::BIGINT::VARCHAR, ($year::BIGINT - 1)::VARCHAR)
            GROUP BY ALL
        ), same AS (
            SELECT CASE WHEN $by = 'month' THEN strftime(date, '%m %b') END AS month,
                kwh, is_now
            FROM used
            WHERE is_now OR day_of_year IN (SELECT day_of_year FROM used WHERE is_now)
        )
        SELECT month, sum(kwh) FILTER (is_now) AS now_kwh,
            sum(kwh) FILTER (NOT is_now) AS before_kwh,
            100 * (now_kwh / nullif(before_kwh, 0) - 1) AS change_percent,
            now_kwh * $price AS now_cost, before_kwh * $price AS before_cost
        FROM same GROUP BY month
        """,
        ("coalesce(month, '')",),
        (YEAR, METER, BY_MONTH, PRICE),
    ),
)
