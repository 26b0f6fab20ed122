"""Questions of the data's quality: what is missing, what came late, what was refused."""

from meterlake.questions.history import balance_sql
from meterlake.questions.question import NOON, Filter, Question, columns_of, days, moments, noon
from meterlake.schema import (
    CONSUMPTION_DAILY,
    DELIVERIES,
    LATE_ARRIVALS,
    QUARANTINE,
    STAGING,
    TOPOLOGY_FINDINGS,
    Column,
)
from meterlake.topology.upstream import METER_TOPOLOGY, VIEWS

_LATE = Column("late", "long", "readings", "Readings that came late")
_LATE_WINDOW = moments("reading_hour")
_LONGEST = Column("longest_hours", "double", "h", "Longest delay")
_REASON = "split_part(reason, ': ', 1)"  # what is behind it is the text of one row
_KNOWN = """
known AS (SELECT meter_id, min(date) AS first_day FROM consumption_daily
    WHERE reading_type = 'kw' GROUP BY meter_id)
"""
_METERS = Column("meters", "long", "", "Meters with readings")
_WITH_GAPS = Column("days_with_gaps", "long", "d", "Days that lack some readings")
_WITHOUT = Column("days_without", "long", "d", "Days without any reading")
_FILE = Column("source_file", "string", "", "Name of the delivered file")
_ROWS = Column("rows", "long", "", "Rows in quarantine")

QUESTIONS = (
    Question(
        "completeness",
        "How many of the intervals of each local day have a reading of power",
        (
            Column("day", "date", "", "Local day"),
            NOON,
            Column("complete_percent", "double", "%", "Share of the intervals that were read"),
            *columns_of(CONSUMPTION_DAILY, "intervals", "intervals_expected"),
            _METERS,
            Column("with_gaps", "long", "", "Meters that lack some readings"),
            Column("without_readings", "long", "", "Meters without any, that had some before"),
        ),
        (CONSUMPTION_DAILY.name,),
        f"""
        WITH {_KNOWN}, had AS (
            SELECT date, count(*) AS meters, count(*) FILTER (NOT is_complete) AS with_gaps,
                sum(intervals)::BIGINT AS intervals,
                sum(intervals_expected)::BIGINT AS intervals_expected
            FROM consumption_daily WHERE reading_type = 'kw' AND {{where}} GROUP BY date
        ), begun AS (
            SELECT first_day, count(*) AS meters FROM known GROUP BY first_day
        )
        SELECT had.date AS day, {noon("had.date")} AS noon_ms,
            100 * had.intervals / had.intervals_expected AS complete_percent,
            had.intervals, had.intervals_expected, had.meters, had.with_gaps,
            (SELECT sum(begun.meters) FROM begun WHERE begun.first_day <= had.date)::BIGINT
                - had.meters AS without_readings
        FROM had
        """,
        ("day",),
        days("date"),
    ),
    Question(
        "completeness-in-all",
        "How many of the intervals of a window have a reading of power, and what is missing",
        (
            Column("complete_percent", "double", "%", "Share of the intervals that were read"),
            _WITH_GAPS,
            Column("days_without", "long", "d", "Days without any, from first to last"),
            _METERS,
        ),
        (CONSUMPTION_DAILY.name,),
        """
        SELECT 100 * sum(found) / nullif(sum(expected), 0) AS complete_percent,
            sum(gaps) AS days_with_gaps, sum(absent) AS days_without, count(*) AS meters
        FROM (SELECT sum(intervals) AS found, sum(intervals_expected) AS expected,
                count(*) FILTER (NOT is_complete) AS gaps,
                date_diff('day', min(date), max(date)) + 1 - count(*) AS absent
            FROM consumption_daily WHERE reading_type = 'kw' AND {where} GROUP BY meter_id)
        """,
        filters=days("date"),
    ),
    Question(
        "gaps",
        "Meters that lack readings of power, those that lack the most first",
        (
            Column("meter_id", "string", "", "Identifier of the meter"),
            _WITH_GAPS,
            _WITHOUT,
            Column("missing", "long", "readings", "Readings that are missing"),
            Column("read_percent", "double", "%", "Share of the intervals that were read"),
            Column("last_day", "date", "", "Last local day of the window with readings"),
        ),
        (CONSUMPTION_DAILY.name,),
        f"""
        WITH {_KNOWN}, there AS (
            SELECT DISTINCT date FROM consumption_daily WHERE reading_type = 'kw' AND {{where}}
        ), had AS (
            SELECT meter_id, count(*) AS days, sum(intervals)::BIGINT AS intervals,
                sum(intervals_expected)::BIGINT AS expected, max(date) AS last_day,
                count(*) FILTER (NOT is_complete) AS days_with_gaps
            FROM consumption_daily WHERE reading_type = 'kw' AND {{where}} GROUP BY meter_id
        ), due AS (
            SELECT first_day,
                (SELECT count(*) FROM there WHERE there.date >= days.first_day) AS days
            FROM (SELECT DISTINCT first_day FROM known) AS days
        ), usual AS (
            SELECT sum(expected) / sum(days) AS a_day FROM had
        )
        SELECT known.meter_id, coalesce(had.days_with_gaps, 0) AS days_with_gaps,
            due.days - coalesce(had.days, 0) AS days_without,
            coalesce(expected - intervals, 0) + round((due.days - coalesce(had.days, 0))
                * coalesce(expected / had.days, usual.a_day))::BIGINT AS missing,
            100 * (1 - missing / (coalesce(expected, 0) + round((due.days - coalesce(had.days, 0))
                * coalesce(expected / had.days, usual.a_day)))) AS read_percent,
            had.last_day
        FROM known JOIN due USING (first_day) LEFT JOIN had USING (meter_id) CROSS JOIN usual
        WHERE missing > 0
        """,
        ("-missing", "meter_id"),
        days("date"),
    ),
    Question(
        "late-reads",
        "Which reads came late: by UTC day of reading, type and delivered file",
        (
            Column("reading_day", "string", "", "UTC day of the readings"),
            *columns_of(LATE_ARRIVALS, "reading_type", "source_file"),
            _LATE,
            Column("partitions", "long", "", "Arrivals of an hour's readings that they came in"),
            *columns_of(LATE_ARRIVALS, "min_late_minutes", "max_late_minutes", "detected_at"),
        ),
        (LATE_ARRIVALS.name,),
        """
        SELECT strftime(reading_hour, '%Y-%m-%d') AS reading_day, reading_type, source_file,
            sum(late) AS late, count(*) AS partitions,
            min(min_late_minutes) AS min_late_minutes, max(max_late_minutes) AS max_late_minutes,
            max(detected_at) AS detected_at
        FROM late_arrivals WHERE {where} GROUP BY ALL
        """,
        ("reading_day", "reading_type", "source_file"),
        _LATE_WINDOW,
    ),
    Question(
        "late-by-day",
        "Late readings by the local day that they are of",
        (Column("day", "date", "", "Local day"), NOON, _LATE, _LONGEST),
        (LATE_ARRIVALS.name,),
        f"""
        SELECT timezone($zone, reading_hour)::DATE AS day, {noon("day")} AS noon_ms,
            sum(late) AS late, max(max_late_minutes) / 60 AS longest_hours
        FROM late_arrivals WHERE {{where}} GROUP BY ALL
        """,
        ("day",),
        _LATE_WINDOW,
    ),
    Question(
        "late-by-delay",
        "Late readings by how late they came, by the latest of each hour and file",
        (
            Column("delay", "long", "", "0: up to 6 h, 1: 24 h, 2: 48 h, 3: a week, 4: more"),
            _LATE,
        ),
        (LATE_ARRIVALS.name,),
        """
        SELECT CASE WHEN max_late_minutes <= 360 THEN 0 WHEN max_late_minutes <= 1440 THEN 1
                WHEN max_late_minutes <= 2880 THEN 2 WHEN max_late_minutes <= 10080 THEN 3
                ELSE 4 END AS delay,
            sum(late) AS late
        FROM late_arrivals WHERE {where} GROUP BY delay
        """,
        ("delay",),
        _LATE_WINDOW,
    ),
    Question(
        "late-by-file",
        "Late readings by delivered file, the most first",
        (
            _FILE,
            _LATE,
            Column("shortest_hours", "double", "h", "Shortest delay"),
            _LONGEST,
            Column("first_hour", "timestamp", "UTC", "First hour that they are of"),
            Column("last_hour", "timestamp", "UTC", "Last hour that they are of"),
            *columns_of(LATE_ARRIVALS, "detected_at"),
        ),
        (LATE_ARRIVALS.name,),
        """
        SELECT source_file, sum(late) AS late, min(min_late_minutes) / 60 AS shortest_hours,
            max(max_late_minutes) / 60 AS longest_hours, min(reading_hour) AS first_hour,
            max(reading_hour) AS last_hour, max(detected_at) AS detected_at
        FROM late_arrivals WHERE {where} GROUP BY source_file
        """,
        ("-late", "source_file"),
        _LATE_WINDOW,
    ),
    Question(
        "refused-and-late",
        "Rows in quarantine, whenever they came, and the late readings of a window",
        (
            Column("refused", "long", "", "Rows in quarantine"),
            _LATE,
            _LONGEST,
        ),
        (LATE_ARRIVALS.name, QUARANTINE.name),
        """
        SELECT (SELECT count(*) FROM quarantine) AS refused, coalesce(sum(late), 0) AS late,
            max(max_late_minutes) / 60 AS longest_hours
        FROM late_arrivals WHERE {where}
        """,
        filters=_LATE_WINDOW,
    ),
    Question(
        "quarantine-by-reason",
        "Rows in quarantine by the reason, the most frequent first",
        (
            Column("reason", "string", "", "Why they could not be typed"),
            _ROWS,
            Column("files", "long", "", "Delivered files that they are of"),
            Column("example", "string", "", "The whole reason of one of them"),
            Column("newest", "timestamp", "UTC", "When the last of them was received"),
        ),
        (QUARANTINE.name,),
        f"""
        SELECT {_REASON} AS reason, count(*) AS rows, count(DISTINCT source_file) AS files,
            any_value(q.reason) AS example, max(received_at) AS newest
        FROM quarantine AS q GROUP BY 1
        """,
        ("-rows", "reason"),
    ),
    Question(
        "quarantine-by-file",
        "Rows in quarantine by delivered file, the most first",
        (
            _FILE,
            _ROWS,
            Column("most_often", "string", "", "The most frequent reason"),
            Column("received_at", "timestamp", "UTC", "When the last of them was received"),
        ),
        (QUARANTINE.name,),
        f"""
        SELECT source_file, count(*) AS rows, mode({_REASON}) AS most_often,
            max(received_at) AS received_at
        FROM quarantine GROUP BY source_file
        """,
        ("-rows", "source_file"),
    ),
    Question(
        "newest-deliveries",
        "Delivered files, the newest first",
        (
            Column("file", "string", "", "Name of the delivered file"),
            *columns_of(
                DELIVERIES,
                "delivery_id",
                "format",
                "rows",
                "quarantined",
                "readings",
                "received_at",
            ),
        ),
        (DELIVERIES.name,),
        """
        SELECT source_file AS file, delivery_id, format, rows, quarantined, readings, received_at
        FROM deliveries WHERE {where}
        QUALIFY row_number() OVER (PARTITION BY delivery_id ORDER BY recorded_at DESC) = 1
        """,
        ("-epoch_us(received_at)", "file", "delivery_id"),
        moments("received_at"),
    ),
    Question(
        "findings-by-kind",
        "What is wrong with the topology now, the most frequent first",
        (
            *columns_of(TOPOLOGY_FINDINGS, "finding", "kind"),
            Column("nodes", "long", "", "Nodes that it is found of"),
            Column("example", "string", "", "Identifier of one of them"),
            Column("detail", "string", "", "What was found of one of them"),
        ),
        (TOPOLOGY_FINDINGS.name,),
        """
        SELECT finding, kind, count(*) AS nodes, any_value(id) AS example,
            any_value(detail) AS detail
        FROM topology_findings WHERE valid_to IS NULL GROUP BY finding, kind
        """,
        ("-nodes", "finding", "kind"),
    ),
    Question(
        "balance",
        "What became of each delivered file's rows and readings",
        (
            Column("file", "string", "", "Name of the delivered file"),
            Column("sha256", "string", "", "SHA-256 of its bytes"),
            Column("rows", "long", "", "Rows: stored and quarantined"),
            Column("stored", "long", "", "Rows in staging"),
            Column("quarantined", "long", "", "Rows in quarantine"),
            Column("readings", "long", "", "Readings: standing, superseded and duplicates"),
            Column("standing", "long", "", "Readings that hold"),
            Column("superseded", "long", "", "Readings that a later arrival has replaced"),
            Column("duplicates", "long", "", "Readings that are the same as another"),
        ),
        (STAGING.name, QUARANTINE.name, DELIVERIES.name),
        balance_sql(),
        ("file", "sha256"),
    ),
    Question(
        "flagged-reads",
        "Moments at which a meter's read was delivered with a quality flag, and where",
        (
            *columns_of(STAGING, "meter_id", "reading_date_time"),
            *(c for c in VIEWS[METER_TOPOLOGY].columns if c.name in ("latitude", "longitude")),
        ),
        (STAGING.name, METER_TOPOLOGY),
        f"""
        SELECT meter_id, reading_date_time, latitude, longitude
        FROM (SELECT DISTINCT meter_id, reading_date_time FROM staging
            WHERE quality = $quality AND {{where}})
        LEFT JOIN {METER_TOPOLOGY} USING (meter_id)
        """,
        ("reading_date_time", "meter_id"),
        (Filter("quality", "string", "The flag, as delivered"), *moments("reading_date_time")),
    ),
)
