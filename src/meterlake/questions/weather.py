"""Questions of the weather, of local days; an hour counts to the day that it begins in."""

from meterlake.questions.consumption import BY_MONTH, METER, MONTH, YEAR
from meterlake.questions.question import NOON, Question, days, noon
from meterlake.schema import CONSUMPTION_DAILY, WEATHER, Column

_DAY = "timezone($zone, time)::DATE"
_TEMPERATURE = Column("temperature", "double", "°C", "Mean temperature over all stations")
_HOURS = """
SELECT time, avg(temperature) AS temperature FROM weather
WHERE temperature IS NOT NULL GROUP BY time
"""
_BY_DAY = f"""
SELECT {_DAY} AS date, count(*) AS hours, avg(temperature) AS temperature
FROM ({_HOURS}) GROUP BY ALL
"""

QUESTIONS = (
    Question(
        "temperature-by-day",
        "Mean temperature of each local day",
        (
            Column("date", "date", "", "Local day"),
            Column("hours", "long", "h", "Hours of it that have a temperature"),
            _TEMPERATURE,
        ),
        (WEATHER.name,),
        f"SELECT * FROM ({_BY_DAY}) WHERE {{where}}",
        ("date",),
        days("date"),
    ),
    Question(
        "temperature-change",
        "Mean temperature of a year and of the same days of the year before",
        (
            MONTH,
            Column("now", "double", "°C", "Mean temperature of the year"),
            Column("before", "double", "°C", "That of the same days of the year before"),
            Column("change", "double", "°C", "How much warmer the year is"),
        ),
        (WEATHER.name,),
        f"""
        WITH known AS (
            SELECT year(day) = $year AS is_now, day, strftime(day, '%m-%d') AS day_of_year,
                temperature
            FROM (SELECT date AS day, temperature FROM ({_BY_DAY}))
            WHERE year(day) IN ($year::BIGINT, $year::BIGINT - 1)
        )
        SELECT CASE WHEN $by = 'month' THEN strftime(day, '%m %b') END AS month,
            avg(temperature) FILTER (is_now) AS now,
            avg(temperature) FILTER (NOT is_now) AS before, now - before AS change
        FROM known
        WHERE is_now OR day_of_year IN (SELECT day_of_year FROM known WHERE is_now) GROUP BY month
        """,
        ("coalesce(month, '')",),
        (YEAR, BY_MONTH),
    ),
    Question(
        "consumption-and-temperature",
        "Energy and mean temperature of each local day, of all meters or of one",
        (
            Column("date", "date", "", "Local day"),
            NOON,
            Column("energy_kwh", "double", "kWh", "Energy of the day"),
            _TEMPERATURE,
        ),
        (CONSUMPTION_DAILY.name, WEATHER.name),
        f"""
        SELECT date, {noon("date")} AS noon_ms, energy_kwh, temperature
        FROM (SELECT date, sum(energy_kwh) AS energy_kwh FROM consumption_daily
            WHERE reading_type = 'kw' AND {{where}} GROUP BY date)
        LEFT JOIN ({_BY_DAY}) USING (date)
        """,
        ("date",),
        (*days("date"), METER),
    ),
)
