"""A weather station's hours, laid out as Meteostat's bulk files: a source without a network.

`stations.db` has the station, and `hourly/{year}/{station}.csv.gz` its observations: a year's and
a day's course of the temperature after the latitude, with weather that comes and goes over days.
"""

import gzip
import math
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

from meterlake.errors import BadInput
from meterlake.simulate.chance import Purpose, keyed
from meterlake.simulate.plan import minute_of

STATION = "SIM00"
HEADER = "year,month,day,hour,temp,dwpt,rhum,prcp,snow,wdir,wspd,wpgt,pres,tsun,coco"

_HOUR = timedelta(hours=1)
_KEPT = 0.97  # of the last hour's departure from the usual, which fades over a day or two
_CLEAR, _RAIN = 1, 8  # Meteostat's codes of the weather


def simulate_weather(
    near: tuple[float, float], start: datetime, end: datetime, out: Path, *, seed: int = 1
) -> dict[str, int]:
    """Write the hours of [start, end) of a station at a place.

    Returns
    -------
    `stations`, `files` and `rows` that were written. Files of other years are left alone.

    Raises
    ------
    BadInput
        There is no hour between, or `out` is a file.
    """
    if start >= end:
        raise BadInput(f"Weather needs an end after its start, found {start} and {end}")
    if out.exists() and not out.is_dir():
        raise BadInput(f"Weather needs a folder to write to, found the file '{out}': move it")
    latitude, longitude = near
    chance = keyed(seed, Purpose.WEATHER, minute=minute_of(start))
    mean = 27.0 - 0.4 * abs(latitude)
    yearly, daily = 0.2 * abs(latitude), 4.5
    warmest = 200 if latitude >= 0 else 17  # day of the year
    years: dict[int, list[str]] = {}
    departure, cloud = 0.0, 0.5
    hour = start.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    while hour < end:
        departure = _KEPT * departure + 0.8 * chance.standard_normal()
        cloud = min(1.0, max(0.0, cloud + 0.08 * chance.standard_normal()))
        of_year = hour.timetuple().tm_yday
        solar = (hour.hour + longitude / 15) % 24
        season = math.cos(2 * math.pi * (of_year - warmest) / 365.25)
        clear = 1 - 0.6 * cloud
        temperature = mean + yearly * season + departure
        temperature += daily * clear * math.cos(2 * math.pi * (solar - 15) / 24)
        humidity = round(min(100.0, max(20.0, 55 + 35 * cloud - 2 * departure)))
        dew_point = temperature - (100 - humidity) / 5
        rain = round(max(0.0, cloud - 0.8) * 6 * chance.random(), 1)
        half_day = 6 + 0.04 * abs(latitude) * season  # from sunrise to noon, roughly [h]
        sun = round(60 * (1 - cloud)) if abs(solar - 12) < half_day else 0
        wind = round(4 + 14 * cloud * chance.random(), 1)
        years.setdefault(hour.year, []).append(
            f"{hour.year},{hour.month},{hour.day},{hour.hour},{temperature:.1f},{dew_point:.1f},"
            f"{humidity},{rain},,{int(chance.integers(0, 360))},{wind},{round(wind * 1.6, 1)},"
            f"{1013 + 8 * (0.5 - cloud):.1f},{sun},{_RAIN if rain else _CLEAR}"
        )
        hour += _HOUR
    for year, rows in years.items():
        folder = out / "hourly" / str(year)
        folder.mkdir(parents=True, exist_ok=True)
        text = "\n".join([HEADER, *rows, ""]).encode()
        (folder / f"{STATION}.csv.gz").write_bytes(gzip.compress(text, mtime=0))
    _write_station(out / "stations.db", near)
    return {"stations": 1, "files": len(years), "rows": sum(map(len, years.values()))}


def _write_station(path: Path, near: tuple[float, float]) -> None:
    path.unlink(missing_ok=True)
    connection = sqlite3.connect(path)
    try:
        with connection:
            connection.execute("CREATE TABLE stations (id TEXT, latitude REAL, longitude REAL)")
            connection.execute("INSERT INTO stations VALUES (?, ?, ?)", (STATION, *near))
    finally:
        connection.close()
