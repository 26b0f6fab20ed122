"""Write docs/img/forecast.svg and docs/img/anomalies.svg, of a simulated lake.

    python docs/plots.py

60 meters, ten weeks every hour; the model sees the first nine, and the tenth is then compared.
"""

import math
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

from meterlake.delta.store import Store, open_store
from meterlake.engine.local import LocalEngine
from meterlake.forecast.detection import detect
from meterlake.forecast.forecasts import forecast_meters
from meterlake.forecast.training import train
from meterlake.ingest import intake
from meterlake.integrate import derivations
from meterlake.pipeline.derivation import Session
from meterlake.questions.sql import query
from meterlake.readings.reader import Reader
from meterlake.settings import MlSettings, Settings
from meterlake.simulate.readings import ReadingsPlan, device_id, simulate_readings

IMAGES = Path(__file__).parent / "img"
START = datetime(2024, 1, 1, tzinfo=UTC)
WEEK = timedelta(weeks=1)
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 860, 300, 56, 16, 48, 36


class Plot:
    """Curves over time, drawn as SVG."""

    def __init__(self, title: str, unit: str, times: Sequence[datetime], top: float) -> None:
        self.start, self.end = times[0], times[-1]
        size = 10.0 ** math.floor(math.log10(top / 4))
        self.top = top = (
            4 * size * next(n for n in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if 4 * size * n >= top)
        )
        self.told = times[0] - WEEK
        self.parts = [
            f'<text x="{LEFT}" y="18" font-weight="600">{title}</text>',
            f'<text x="{LEFT - 8}" y="{TOP - 14}" text-anchor="end">{unit}</text>',
        ]
        for number in range(5):
            value = top * number / 4
            y = self.y(value)
            self.parts += [
                f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" stroke="#8884"/>',
                f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{value:.3g}</text>',
            ]

    def x(self, time: datetime) -> float:
        share = (time - self.start) / (self.end - self.start)
        return round(float(LEFT + share * (WIDTH - LEFT - RIGHT)), 1)

    def y(self, value: float) -> float:
        return round(HEIGHT - BOTTOM - value / self.top * (HEIGHT - TOP - BOTTOM), 1)

    def ticks(self, times: Sequence[datetime]) -> None:
        for time in times:
            self.parts.append(
                f'<text x="{self.x(time)}" y="{HEIGHT - 12}" text-anchor="middle">'
                f"{time:%a %d %b}</text>"
            )

    def band(self, times: Sequence[datetime], low: Sequence[float], high: Sequence[float]) -> None:
        there = [f"{self.x(t)},{self.y(v)}" for t, v in zip(times, high, strict=True)]
        back = [f"{self.x(t)},{self.y(v)}" for t, v in zip(times, low, strict=True)]
        points = " ".join([*there, *reversed(back)])
        self.parts.append(f'<polygon points="{points}" fill="#2f80ed" fill-opacity="0.22"/>')

    def line(self, times: Sequence[datetime], values: Sequence[float], colour: str) -> None:
        points = " ".join(f"{self.x(t)},{self.y(v)}" for t, v in zip(times, values, strict=True))
        self.parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.6"/>'
        )

    def mark(self, time: datetime, value: float, text: str) -> None:
        x, y = self.x(time), self.y(value)
        self.parts += [
            f'<circle cx="{x}" cy="{y}" r="4.5" fill="none" stroke="#d1342f" stroke-width="2"/>',
        ]
        if time - self.told > timedelta(days=5):  # of a run the first is named
            anchor = "end" if x > WIDTH - 60 else "middle"
            self.parts.append(
                f'<text x="{x}" y="{y - 10}" text-anchor="{anchor}" fill="#d1342f">{text}</text>'
            )
            self.told = time

    def legend(self, entries: Sequence[tuple[str, str]]) -> None:
        x = WIDTH - RIGHT
        for colour, text in reversed(entries):
            x -= 7 * len(text) + 34
            self.parts += [
                f'<rect x="{x}" y="9" width="14" height="10" fill="{colour}"/>',
                f'<text x="{x + 19}" y="18">{text}</text>',
            ]

    def write(self, name: str) -> None:
        IMAGES.mkdir(exist_ok=True)
        (IMAGES / name).write_text(
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            'font-family="system-ui, sans-serif" font-size="12" fill="#555">\n'
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>\n'
            + "\n".join(self.parts)
            + "\n</svg>\n"
        )


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = open_store(str(folder / "lake"))
        settings = Settings(lake=store.url, late_hooks=(), ml=MlSettings(train_rows=200_000))
        inbox = folder / "inbox"
        plan = ReadingsPlan(
            devices=60, interval_minutes=60, start=START, end=START + 10 * WEEK, file_every=WEEK
        )
        files = [
            str(f.path) for f in simulate_readings(plan, inbox, truth=folder / "t.parquet").files
        ]
        bring(store, settings, files[:9])
        train(store, engine=LocalEngine(2), settings=settings, now=START + 10 * WEEK)
        forecast(store, settings, files[9:])
        detect(Session(store, LocalEngine(2), settings, START + 11 * WEEK))
        anomalies(store)


def bring(store: Store, settings: Settings, files: Sequence[str]) -> None:
    now = START + 11 * WEEK
    engine = LocalEngine(2)
    session = Session(store, engine, settings, now)
    intake.ingest(session, files)
    derivations.integrate(session)
    derivations.cluster(session)


def forecast(store: Store, settings: Settings, later: Sequence[str]) -> None:
    meter, start = device_id(3), START + 9 * WEEK
    ahead = forecast_meters(store, [meter], settings=settings, start=start)
    bring(store, settings, later)
    was = Reader(store).readings(meter, start=start, end=start + WEEK)
    times = ahead["date_time"].to_list()
    top = max(ahead["p90"].to_list() + was["reading_value"].to_list()) * 1.05
    plot = Plot("One meter's next week, forecast at its beginning", "kWh", times, top)
    plot.band(times, ahead["p10"].clip(0).to_list(), ahead["p90"].to_list())
    plot.line(was["reading_date_time"].to_list(), was["reading_value"].to_list(), "#222")
    plot.line(times, ahead["p50"].to_list(), "#2f80ed")
    plot.ticks([start + timedelta(days=day, hours=12) for day in range(7)])
    plot.legend([("#222", "what came"), ("#2f80ed", "p50"), ("#2f80ed55", "p10 to p90")])
    plot.write("forecast.svg")


def anomalies(store: Store) -> None:
    rows = query(store, "SELECT * FROM anomalies ORDER BY meter_id, ds")
    kinds = (
        rows.filter(pl.col("anomaly") != 0)
        .group_by("meter_id")
        .agg(kinds=pl.col("kind").n_unique(), importance=pl.col("importance").sum())
        .sort("kinds", "importance", descending=True)
    )
    of_one = rows.filter(pl.col("meter_id") == kinds["meter_id"][0])
    times = of_one["day_start"].to_list()
    top = max(of_one["consumption"].to_list() + of_one["yhat_upper"].to_list()) * 1.1
    plot = Plot("One meter's days, judged by the days before each", "kWh", times, top)
    plot.band(times, of_one["yhat_lower"].to_list(), of_one["yhat_upper"].to_list())
    plot.line(times, of_one["yhat"].to_list(), "#2f80ed")
    plot.line(times, of_one["consumption"].to_list(), "#222")
    for row in of_one.filter(pl.col("anomaly") != 0).iter_rows(named=True):
        plot.mark(row["day_start"], row["consumption"], row["kind"])
    plot.ticks(times[4:-3:7])
    plot.legend([("#222", "energy"), ("#2f80ed", "expected"), ("#2f80ed55", "98 % band")])
    plot.write("anomalies.svg")


if __name__ == "__main__":
    main()
