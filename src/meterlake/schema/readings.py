"""The tables of readings, and every reading type."""

from dataclasses import dataclass
from typing import Literal, get_args

from meterlake.schema.port import Column, Table

Kind = Literal["instantaneous", "mean_power", "interval", "register"]
"""What a value says of its interval, which decides the arithmetic.

`mean_power`: energy is the value times the interval's length. `interval`: energy or volume of the
interval, the value itself. `instantaneous`: no energy. `register`: a running total, whose
differences are energy or volume.
"""

Status = Literal[
    "raw", "valid", "suspect", "estimated", "final_estimate", "edited", "derived", "missing"
]
"""How far a value is to be trusted: one vocabulary for the quality flags of all formats."""

LengthSource = Literal["file", "profile", "lake", "inferred", "unknown"]
"""What says how long a reading's interval is."""

STATUSES: tuple[Status, ...] = get_args(Status)

TOTAL = "total"  # the channel of a quantity as a whole: that of all sums


@dataclass(frozen=True)
class ReadingType:
    """A measured quantity: its name, the unit it is stored in, OBIS code, meaning and kind."""

    name: str
    unit: str
    obis_code: str
    meaning: str
    kind: Kind = "mean_power"
    commodity: str = "electricity"


READING_TYPES: dict[str, ReadingType] = {
    t.name: t
    for t in (
        ReadingType(
            "load", "A", "1-0:90.7.0", "Current drawn by the premises' load", "instantaneous"
        ),
        ReadingType("crrnt", "A", "1-0:11.7.0", "Current at the meter", "instantaneous"),
        ReadingType("pf", "1", "1-0:13.7.0", "Power factor, 0 to 1", "instantaneous"),
        ReadingType("kva", "kVA", "1-0:9.7.0", "Apparent power"),
        ReadingType("kw", "kW", "1-0:16.7.0", "Mean net active power; negative is export"),
        ReadingType("vltg", "V", "1-0:12.7.0", "Voltage", "instantaneous"),
        ReadingType("kvar", "kvar", "1-0:3.7.0", "Mean reactive power"),
        ReadingType(
            "kw_controlled", "kW", "1-1:1.7.0", "Mean active power of separately switched load"
        ),
        ReadingType(
            "kw_generation", "kW", "1-2:2.7.0", "Mean active power generated, metered gross"
        ),
        ReadingType("kw_export", "kW", "1-0:2.7.0", "Mean active power delivered to the grid"),
        ReadingType("kw_other", "kW", "1-3:1.7.0", "Mean active power of further registers"),
    )
}

POWER_TYPES = tuple(t.name for t in READING_TYPES.values() if t.unit == "kW")

BATCH_SOURCE = "B"  # reading_source of reads from batch files, which all are today

_HOUR = (
    Column("year", "string", "", "UTC year of the reading, 4 digits"),
    Column("month", "string", "", "UTC month of the reading, 01 to 12"),
    Column("day", "string", "", "UTC day of the reading, 01 to 31"),
    Column("hour", "string", "", "UTC hour of the reading, 00 to 23"),
)
_METER_ID = Column("meter_id", "string", "", "Identifier of the meter, as delivered")
_READING_DATE_TIME = Column(
    "reading_date_time", "timestamp", "UTC", "Start of the interval that the reading stands for"
)
_READING_VALUE = Column("reading_value", "double", "see unit", "Measured value")
_CHANNEL = Column(
    "channel", "string", "", f"Instance of the type: a phase, a tariff; {TOTAL}: the whole quantity"
)
_LENGTH = (
    Column("interval_seconds", "long", "s", "Length of the reading's interval; null: not known"),
    Column("length_source", "string", "", "What says so: file, profile, lake, inferred or unknown"),
)
_STATUS = Column(
    "status", "string", "", "What the quality flag means, in one vocabulary: " + ", ".join(STATUSES)
)
_QUALITY = Column("quality", "string", "", "Quality flag as delivered; null where none was given")
_SOURCE_FILE = Column("source_file", "string", "", "Name of the delivered file")
_DELIVERY_ID = Column("delivery_id", "string", "", "Delivery that brought it: see deliveries")
_SOURCE_SHA256 = Column("source_sha256", "string", "", "SHA-256 of the delivered file's bytes")

QUARANTINE = Table(
    name="quarantine",
    path="staging/quarantine",
    meaning="Every row that could not be typed, with the reason",
    columns=(
        _SOURCE_FILE,
        _SOURCE_SHA256,
        _DELIVERY_ID,
        Column(
            "source_row", "long", "", "Line (text) or row (table) in the delivered file, from 1"
        ),
        Column("raw", "string", "", "The row as it was delivered"),
        Column("reason", "string", "", "Why it could not be typed"),
        Column("format", "string", "", "Format or profile that the file was read with"),
        Column("received_at", "timestamp", "UTC", "When meterlake took the file in"),
        Column("ingest_date", "string", "", "UTC date of received_at, YYYY-MM-DD"),
    ),
    partitioned_by=("ingest_date",),
    time_column="received_at",
)

DELIVERIES = Table(
    name="deliveries",
    path="staging/deliveries",
    meaning="Every delivered file that was taken in, and how it was read; its latest row counts",
    columns=(
        Column("delivery_id", "string", "", "Identifier of the delivery: how source_sha256 begins"),
        _SOURCE_FILE,
        Column(
            "sha256", "string", "", "SHA-256 of the uncompressed bytes; null: no longer available"
        ),
        _SOURCE_SHA256,
        Column("inbound", "string", "", "Where the lake keeps the file, below its root"),
        Column("format", "string", "", "Format or profile that it was read with"),
        Column("profile", "string", "", "The whole profile, as JSON; null: a package's format"),
        Column("timezone", "string", "", "Zone of times for which the file and format say none"),
        Column(
            "interval_seconds", "long", "s", "Length of the intervals of which the file says none"
        ),
        Column("length_source", "string", "", "What says so: profile, lake, inferred or unknown"),
        Column("received_at", "timestamp", "UTC", "When meterlake took the file in"),
        Column("rows", "long", "rows", "Rows of the file: those stored and those quarantined"),
        Column("stored", "long", "rows", "Rows that staging got"),
        Column("quarantined", "long", "rows", "Rows that the quarantine got"),
        Column("readings", "long", "readings", "Values in the stored rows"),
        Column("state", "string", "", "active: its reads count; withdrawn: they do not"),
        Column("reason", "string", "", "Why it was withdrawn"),
        Column("recorded_at", "timestamp", "UTC", "When this row was written"),
        Column("code_version", "string", "", "Version of meterlake that wrote this row"),
        Column("ingest_date", "string", "", "UTC date of received_at, YYYY-MM-DD"),
    ),
    partitioned_by=("ingest_date",),
    time_column="received_at",
)

STAGING = Table(
    name="staging",
    path="staging/readings",
    meaning="Every read ever received, one row for each value, never updated",
    columns=(
        _METER_ID,
        _READING_DATE_TIME,
        Column(
            "arrival_time",
            "timestamp",
            "UTC",
            "Arrival at the source system; null: not in the format",
        ),
        Column("received_at", "timestamp", "UTC", "When meterlake took the file in"),
        Column("reading_type", "string", "", "What was measured; null: the row has no value in it"),
        _CHANNEL,
        _READING_VALUE,
        *_LENGTH,
        _QUALITY,
        _STATUS,
        _SOURCE_FILE,
        _SOURCE_SHA256,
        _DELIVERY_ID,
        Column(
            "source_row", "long", "", "Line (text) or row (table) in the delivered file, from 1"
        ),
        *_HOUR[:3],
    ),
    partitioned_by=("year", "month", "day"),
    time_column="reading_date_time",
    attached=(QUARANTINE, DELIVERIES),
    covers="day",
    ordered_by="hour",
)

LATE_ARRIVALS = Table(
    name="late_arrivals",
    path="integrated/late_arrivals",
    meaning="One row per late partition, delivered file and job",
    columns=(
        Column("detected_at", "timestamp", "UTC", "When the job found the late reads"),
        Column("reading_type", "string", "", "Reading type of the partition they belong to"),
        Column("reading_hour", "timestamp", "UTC", "Start of the hour that they belong to"),
        Column("late", "long", "readings", "Number of late readings"),
        Column("min_late_minutes", "double", "min", "Smallest delay, arrival minus reading time"),
        Column("max_late_minutes", "double", "min", "Largest delay, arrival minus reading time"),
        _SOURCE_FILE,
        Column("staging_version", "long", "", "Version of staging that the job consumed"),
        Column("detection_date", "string", "", "UTC date of detected_at, YYYY-MM-DD"),
    ),
    partitioned_by=("detection_date",),
    time_column="detected_at",
)

READINGS = Table(
    name="readings",
    path="integrated/readings/parquet",
    meaning="One reading per meter, type, channel and time; of several the latest arrival",
    columns=(
        _METER_ID,
        _READING_VALUE,
        _READING_DATE_TIME,
        Column("unit", "string", "", "Unit of reading_value"),
        Column("obis_code", "string", "", "OBIS code of the measured quantity (IEC 62056-61)"),
        Column("phase", "string", "", "Phase; null: all phases, or not said"),
        Column("reading_source", "string", "", "B: from a batch file"),
        Column("arrival_time", "timestamp", "UTC", "Arrival of the read that won"),
        _QUALITY,
        _CHANNEL,
        *_LENGTH,
        _STATUS,
        Column("reading_type", "string", "", "Kind of reading: " + ", ".join(READING_TYPES)),
        *_HOUR,
    ),
    partitioned_by=("reading_type", "year", "month", "day", "hour"),
    time_column="reading_date_time",
    attached=(LATE_ARRIVALS,),
    sorted_by=("meter_id", "reading_date_time", "channel"),
    covers="hour",
    finite=("reading_value",),
)

SERVING_READINGS = Table(
    name="serving_readings",
    path="serving/readings",
    meaning="A copy of the readings of closed days, by meter; without what their type says",
    columns=(
        _METER_ID,
        _READING_VALUE,
        _READING_DATE_TIME,
        _QUALITY,
        _CHANNEL,
        *_LENGTH,
        _STATUS,
        Column("reading_type", "string", "", "Kind of reading: " + ", ".join(READING_TYPES)),
        *_HOUR[:2],
        Column("day", "string", "", "First UTC day in the file, 01 to 31; it may hold several"),
    ),
    partitioned_by=("reading_type", "year", "month", "day"),
    time_column="reading_date_time",
    sorted_by=("meter_id", "reading_date_time", "channel"),
    ranged_by="meter_id",
    covers="rest of month",
)


def _consumption(
    period: str, meaning: str, date: str, partition: Column, more: tuple[Column, ...] = ()
) -> Table:
    """A table of energy per meter and local period, partitioned by type and `partition`."""
    return Table(
        name=f"consumption_{period}",
        path=f"serving/consumption_{period}",
        meaning=meaning,
        columns=(
            _METER_ID,
            Column("date", "date", "", date),
            Column("start", "timestamp", "UTC", "When it begins in the lake's time zone"),
            Column("end", "timestamp", "UTC", "When it ends, not included"),
            Column(
                "energy_kwh",
                "double",
                "kWh",
                "Energy of the intervals that lie in it whole: import less export; null: not known",
            ),
            Column("import_kwh", "double", "kWh", "Energy of the intervals with positive power"),
            Column("export_kwh", "double", "kWh", "Energy of those with negative power, positive"),
            Column("intervals", "long", "", "Number of intervals that have a reading"),
            Column("intervals_expected", "long", "", "Number of intervals that it has in all"),
            Column(
                "is_complete", "boolean", "", "Whether intervals of a stated length cover all of it"
            ),
            Column("interval_minutes", "double", "min", "Most frequent length of its intervals"),
            Column("hours", "double", "h", "Time that the intervals cover"),
            Column("min_kw", "double", "kW", "Smallest mean power of an interval"),
            Column("max_kw", "double", "kW", "Largest mean power of an interval"),
            Column("mean_kw", "double", "kW", "Mean power over the time that is covered"),
            *more,
            Column("reading_type", "string", "", "Kind of reading: those in kW"),
            Column("year", "string", "", "Year of the date, 4 digits; of weeks the ISO year"),
            partition,
        ),
        partitioned_by=("reading_type", "year", partition.name),
        time_column="start",
        sorted_by=("meter_id", "date"),
        ranged_by="meter_id",
    )


_MONTH = Column("month", "string", "", "Month of the date, 01 to 12")

_OVER = (
    Column("stated_hours", "double", "h", "Time that intervals of a stated length cover"),
    Column("first_start", "timestamp", "UTC", "Start of its first interval"),
    Column(
        "over_end", "timestamp", "UTC", "End of an interval that begins in it and ends after it"
    ),
    Column("over_import_kwh", "double", "kWh", "Imported in that interval, not in import_kwh"),
    Column("over_export_kwh", "double", "kWh", "Exported in that interval, not in export_kwh"),
    Column("over_hours", "double", "h", "Length of that interval, not in hours"),
    Column("over_stated_hours", "double", "h", "The same where its length is stated, else 0"),
)

CONSUMPTION_DAILY = _consumption(
    "daily", "Energy per meter and local day", "Local day", _MONTH, _OVER
)
CONSUMPTION_WEEKLY = _consumption(
    "weekly",
    "Energy per meter and ISO week, of the days that are closed",
    "Monday of the week",
    Column("week", "string", "", "ISO week of the date, 01 to 53"),
)
CONSUMPTION_MONTHLY = _consumption(
    "monthly",
    "Energy per meter and local month, of the days that are closed",
    "First day of the month",
    _MONTH,
)
