"""Hourly weather: from Meteostat's bulk files, or from a CSV file of the same columns.

Meteostat offers one gzip CSV file per station and year, `hourly/{year}/{station}.csv.gz`, in UTC,
and the stations as an SQLite database, `stations.db`. The same files may lie in a folder. A
single CSV file has `time`, by a wall clock or with an offset, and may have a column `station`.
"""

import csv
import gzip
import io
import math
import sqlite3
import zlib
from pathlib import Path
from zoneinfo import ZoneInfo

import polars as pl
from pydantic import Field, field_validator

from meterlake import storage
from meterlake.dataflows.port import Dataflow, HistoryOptions, Loaded, Request
from meterlake.delta.store import Store
from meterlake.errors import BadInput
from meterlake.formats.clock import METER, ORDER, REGISTER, Reason, with_utc
from meterlake.formats.profile import Time
from meterlake.schema import WEATHER, polars_schema
from meterlake.topology.upstream import moment_of_topology, topology_at, upstream_nodes

METEOSTAT = "https://data.meteostat.net"

COLUMNS = {
    "temp": "temperature",
    "dwpt": "dew_point",
    "rhum": "relative_humidity",
    "prcp": "precipitation",
    "snow": "snow_depth",
    "wdir": "wind_direction",
    "wspd": "wind_speed",
    "wpgt": "wind_gust",
    "pres": "sealevel_air_pressure",
    "tsun": "sunshine_hours",  # minutes there, hours here
    "coco": "weather_condition_code",
}
"""Meteostat's name of each value, and ours."""

_MINUTES_PER_HOUR = 60.0
_PLACE_DEGREES = 0.25  # meters this near to each other share their nearest station
_TRIED_STATIONS = 5  # nearest ones, until one has observations
_EARTH_KM = 6371.0
_MOST_CODE = 100
_STATIONS = (
    "SELECT id, latitude, longitude FROM stations "
    "WHERE latitude IS NOT NULL AND longitude IS NOT NULL"
)

_NO_TABLE = (OSError, EOFError, ValueError, IndexError, zlib.error)  # of damaged gzip and text


class WeatherOptions(HistoryOptions):
    """What can be set for weather."""

    stations: tuple[str, ...] = Field(
        (), description="Stations' ids; none: the nearest to the meters of the topology"
    )
    timezone: str | None = Field(
        None, description="IANA zone of a CSV file's times without an offset; unset: the lake's"
    )
    radius_km: float = Field(
        100.0, gt=0, description="How far a station may be from the meters [km]"
    )

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str | None) -> str | None:
        try:
            ZoneInfo(value or "UTC")
        except (KeyError, ValueError, OSError) as error:
            raise ValueError("not an IANA time zone such as Europe/Rome") from error
        return value


def load_weather(request: Request) -> Loaded:
    """Read the observations of a window.

    Raises
    ------
    BadInput
        A file is not of Meteostat's columns; no station is given or near; none has observations.
    Unavailable
        The source is not available at the moment.
    """
    options = request.options
    assert isinstance(options, WeatherOptions)
    if request.source.endswith((".csv", ".csv.gz")):
        read = _read_file(request, options)
        odd: tuple[str, ...] = ()
    else:
        read, odd = _read_stations(request, options)
    return Loaded({WEATHER.name: _inside(read, request)}, odd)


WEATHER_FLOW = Dataflow(
    name="weather",
    meaning="Hourly observations of weather stations, from Meteostat or a CSV file",
    tables=(WEATHER,),
    load=load_weather,
    options=WeatherOptions,
    source=METEOSTAT,
)


def _inside(rows: pl.DataFrame, request: Request) -> pl.DataFrame:
    """The rows of the window."""
    return rows.filter(pl.col("time").is_between(request.start, request.end, closed="left"))


def _read_stations(
    request: Request, options: WeatherOptions
) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """The observations of the given stations, or of the nearest that have some."""
    if options.stations:
        wanted = [[station] for station in options.stations]
    else:
        wanted = _nearest(request.source, _places(request.store), options.radius_km)
    found: dict[str, pl.DataFrame] = {}
    odd = []
    for candidates in wanted:
        for station in candidates:
            if station not in found:
                found[station] = _years(request, station)
            if found[station].height:
                break
        else:
            odd.append(f"no observations of {' or '.join(candidates)}")
    some = [rows for rows in found.values() if rows.height]
    if not some:
        source = storage.without_secrets(request.source)
        raise BadInput(
            f"Weather needs observations of {request.start:%Y-%m-%d} to {request.end:%Y-%m-%d}; "
            f"'{source}' has none of {', '.join(found)}. Name other stations under "
            "[dataflow.weather] in meterlake.toml, or correct --from and --to"
        )
    return pl.concat(some), tuple(odd)


def _years(request: Request, station: str) -> pl.DataFrame:
    """One station's observations of the years of the window."""
    frames = [_observations(pl.DataFrame(schema={"time": pl.String}), "", station, "UTC")[:0]]
    for year in range(request.start.year, request.end.year + 1):
        where = f"{request.source.rstrip('/')}/hourly/{year}/{station}.csv.gz"
        try:
            data = storage.fetched(where)
        except FileNotFoundError:  # how the source says that it has none
            continue
        where = storage.without_secrets(where)
        frames.append(_observations(_table(data, where), where, station, "UTC"))
    return _inside(pl.concat(frames), request)


def _read_file(request: Request, options: WeatherOptions) -> pl.DataFrame:
    where = storage.without_secrets(request.source)
    try:
        data = storage.fetched(request.source)
    except FileNotFoundError as error:
        raise BadInput(f"'{where}' needs to be a CSV file; there is none") from error
    if len(options.stations) > 1:
        raise BadInput(
            "A CSV file's rows without a column 'station' are of one station; found "
            f"stations {', '.join(options.stations)}. Name one"
        )
    station = options.stations[0] if options.stations else Path(request.source).name.split(".")[0]
    zone = options.timezone or request.zone
    return _observations(_table(data, where), where, station, zone)


def _table(data: bytes, where: str) -> pl.DataFrame:
    try:
        text = gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
        rows = list(filter(None, csv.reader(io.StringIO(text.decode("utf-8-sig")))))
        return pl.DataFrame(rows[1:], schema=dict.fromkeys(rows[0], pl.String()), orient="row")
    except (*_NO_TABLE, csv.Error, pl.exceptions.PolarsError) as error:
        raise BadInput(
            f"'{where}' needs to be a CSV file of Meteostat's columns; it cannot be read: {error}"
        ) from error


def _with_time(table: pl.DataFrame, where: str) -> pl.DataFrame:
    """Rows with `time` to the second, whichever columns of the file say it."""
    if {"year", "month", "day", "hour"} <= set(table.columns):
        stamp = pl.format(
            "{}-{}-{} {}:00:00",
            "year",
            *(pl.col(name).replace("", "??").str.zfill(2) for name in ("month", "day", "hour")),
        )
        table = table.with_columns(stamp.alias("time"))
    if "time" not in table.columns or not (where == "" or set(table.columns) & set(COLUMNS)):
        raise BadInput(
            f"'{where}' needs the column time, or year, month, day and hour, and some of "
            f"{', '.join(COLUMNS)}; found {', '.join(table.columns)[:200]}"
        )
    without_seconds = r"^(\d{4}-\d\d-\d\d[ T]\d\d:\d\d)(Z|[+-]\d\d:?\d\d)?$"
    return table.with_columns(
        pl.col("time").str.strip_chars().str.replace(without_seconds, "${1}:00${2}")
    )


def _observations(table: pl.DataFrame, where: str, station: str, zone: str) -> pl.DataFrame:
    """A file's rows as rows of the weather table, one for each hour; what is empty is null."""
    table = _with_time(table, where)
    name = pl.col("station") if "station" in table.columns else pl.lit(station)
    table = table.with_columns(
        name.alias(METER),
        pl.int_range(pl.len()).alias(ORDER),
        pl.lit("").alias(REGISTER),
        pl.int_range(pl.len()).alias("source_row"),
    )
    reasons: list[Reason] = []
    table = with_utc(
        table,
        Time(column="time", zone=zone),
        "~utc",
        default_zone=zone,
        reasons=reasons,
        in_pairs=False,
    )
    values = {
        ours: pl.col(theirs).str.strip_chars().replace("", None)
        if theirs in table.columns
        else pl.lit(None, pl.String)
        for theirs, ours in COLUMNS.items()
    }
    for ours, value in values.items():
        most = _MOST_CODE if ours == "weather_condition_code" else math.inf
        is_fit = (value.cast(pl.Float64, strict=False).abs() < most).fill_null(False)
        reasons.append(
            (value.is_not_null() & ~is_fit, pl.format("{} is '{}'", pl.lit(ours), value))
        )
    for wrong, reason in reasons:
        rows = table.filter(wrong.fill_null(False))
        if rows.height:
            raise BadInput(
                f"'{where}' needs times and numbers; found that {rows.select(reason).item(0, 0)} "
                f"(row {rows[ORDER][0] + 1:,}). Correct the file, or its timezone in the settings"
            )
    numbers = {n: v.cast(pl.Float64) for n, v in values.items()}
    numbers["sunshine_hours"] = numbers["sunshine_hours"] / _MINUTES_PER_HOUR
    numbers["weather_condition_code"] = numbers["weather_condition_code"].cast(pl.Int64)
    return (
        table.select(
            pl.col(METER).alias("station_id"),
            pl.col("~utc").dt.truncate("1h").alias("time"),
            *(expression.alias(name) for name, expression in numbers.items()),
        )
        .with_columns(pl.col("time").dt.strftime("%Y-%m-%d").alias("date"))
        .unique(["station_id", "time"], keep="last", maintain_order=True)
        .select(*polars_schema(WEATHER))
    )


def _places(store: Store) -> list[tuple[float, float]]:
    """Where the meters are, roughly: latitude and longitude."""
    moment = moment_of_topology(store)
    if moment is not None:
        ways = upstream_nodes(topology_at(store, moment)).drop_nulls(["latitude", "longitude"])
        cell = (pl.col("latitude", "longitude") / _PLACE_DEGREES).round()
        places = ways.group_by(cell.name.suffix("_cell")).agg(
            pl.col("latitude", "longitude").mean()
        )
        found = places.select("latitude", "longitude").sort("latitude", "longitude").rows()
        if found:
            return [(latitude, longitude) for latitude, longitude in found]
    raise BadInput(
        "Weather needs stations, or a topology that says where the meters are; found neither. "
        "Load a topology first, or set stations under [dataflow.weather] in meterlake.toml"
    )


def _nearest(source: str, places: list[tuple[float, float]], radius_km: float) -> list[list[str]]:
    """For each place the stations near it, the nearest first."""
    stations = _stations(source)
    nearest = []
    for place in places:
        by_distance = sorted((_distance_km(place, at), station) for station, at in stations)
        near = [station for km, station in by_distance if km <= radius_km][:_TRIED_STATIONS]
        if not near:
            raise BadInput(
                f"Weather needs a station within {radius_km:g} km of {place[0]:.2f}, "
                f"{place[1]:.2f}; '{source}' has none. Set radius_km or stations under "
                "[dataflow.weather] in meterlake.toml"
            )
        nearest.append(near)
    return nearest


def _stations(source: str) -> list[tuple[str, tuple[float, float]]]:
    """Each station's id and place."""
    where = f"{storage.without_secrets(source).rstrip('/')}/stations.db"
    try:
        data = storage.fetched(f"{source.rstrip('/')}/stations.db")
    except FileNotFoundError as error:
        raise BadInput(
            f"Weather needs stations, or '{where}' to find the nearest; it is not there"
        ) from error
    connection = sqlite3.connect(":memory:")
    try:
        connection.deserialize(data)
        return [
            (str(station), (float(latitude), float(longitude)))
            for station, latitude, longitude in connection.execute(_STATIONS)
        ]
    except (sqlite3.Error, OverflowError, MemoryError, ValueError) as error:
        raise BadInput(f"'{where}' needs to be a database of stations: {error}") from error
    finally:
        connection.close()


def _distance_km(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Along the great circle."""
    (lat1, lon1), (lat2, lon2) = (tuple(map(math.radians, place)) for place in (one, other))
    half = (
        math.sin((lat2 - lat1) / 2) ** 2
        + math.cos(lat1) * math.cos(lat2) * math.sin((lon2 - lon1) / 2) ** 2
    )
    return 2 * _EARTH_KM * math.asin(min(1.0, math.sqrt(half)))
