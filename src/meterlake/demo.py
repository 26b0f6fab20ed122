"""The demo: simulated files to answered questions, in one command."""

import sys
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from meterlake import lake as lakes
from meterlake import terminal
from meterlake.engine.progress import Progress
from meterlake.errors import BadInput
from meterlake.forecast.training import TrainResult
from meterlake.lake import Lake
from meterlake.settings import load_settings
from meterlake.simulate.grid import meters_of, simulate_grid
from meterlake.simulate.readings import ReadingsPlan, Simulated, device_id, simulate_readings
from meterlake.simulate.weather import simulate_weather

if TYPE_CHECKING:
    from meterlake.ingest.intake import Ingested
    from meterlake.integrate.derivations import Clustered, IntegrationResult

START = datetime(2024, 1, 1, tzinfo=UTC)
NEAR = 47.61, -122.33
LATE_PERCENT, LATE_MINUTES, BAD_PERCENT = 10.0, 1440, 0.1
LEAST_DAYS_TO_LEARN = 49
TRAIN_ROWS = 100_000  # enough for so few meters, and a third of the time of the default

PEAK_SQL = """
SELECT reading_date_time, round(sum(reading_value), 1) AS kw
FROM readings WHERE reading_type = 'kw'
GROUP BY reading_date_time ORDER BY kw DESC LIMIT 1
"""
LOWEST_VOLTAGE_SQL = """
SELECT meter_id, reading_date_time, reading_value AS vltg
FROM readings WHERE reading_type = 'vltg' ORDER BY reading_value LIMIT 1
"""
GRID_SQL = """
SELECT count(*) AS meters, count(DISTINCT service_transformer_id) AS transformers
FROM meter_topology
"""
OUTAGES_SQL = """SELECT id, start, "end" FROM outages WHERE level <> 'meter'"""
WORST_SQL = """
SELECT id, any_value(rating_kva) AS rating_kva, max(utilisation_percent) AS percent,
    arg_max(hour, utilisation_percent) AS hour,
    count(*) FILTER (utilisation_percent > 100) AS over
FROM transformer_load WHERE utilisation_percent IS NOT NULL
GROUP BY id ORDER BY over DESC, percent DESC, id LIMIT 1
"""
SAVED_SQL = """
SELECT sum(energy_saving_kwh) AS saved_kwh, sum(load_kw) AS kwh, avg(mean_v) AS mean_v
FROM volt_var
"""
NEXT_WEEK_SQL = "SELECT count(DISTINCT meter_id) AS meters, sum(mean) AS kwh FROM forecasts"
JUDGED_SQL = "SELECT meter_id, day_start, anomaly, kind, importance FROM anomalies"
INJECTED = ("spike", "dip", "stuck", "dead")
BAD_SQL = "SELECT source_file, source_row, reason FROM quarantine ORDER BY ALL LIMIT 3"


def run_demo(
    *, devices: int, days: int, folder: Path, now: datetime, quiet: bool
) -> dict[str, Any]:
    """Simulate, ingest, integrate and ask, in a folder that is new or empty.

    Returns
    -------
    What each step did, and `seconds` in all. Prints the story of it unless `quiet`.

    Raises
    ------
    BadInput
        The folder has something in it.
    """
    if folder.exists() and any(folder.iterdir()):
        raise BadInput(
            f"The demo needs an empty folder; '{folder}' has files in it. Remove it, or give "
            "another --folder"
        )
    if days < 1:
        raise BadInput(f"The demo needs at least one day; found --days {days}")
    began = time.perf_counter()
    settings = load_settings(lake=str(folder / "lake"), late_hooks=())
    ml = settings.ml.model_copy(update={"train_rows": TRAIN_ROWS})
    settings = settings.model_copy(update={"ml": ml})
    here = replace(lakes.open(settings=settings), clock=lambda: now)
    say = _silent if quiet else _say
    with terminal.progress(quiet=quiet) as progress:
        made = _simulate(folder, devices, days, progress)
        done = _fill(replace(here, progress=progress), folder, made, days)
    again = here.ingest(str(folder / "inbox"))
    seconds = round(time.perf_counter() - began, 1)
    say(_what_was_done(done, devices, days, again.already_ingested))
    say(_what_was_asked(here, done))
    if not quiet:
        print("\n  the first damaged rows")
        terminal.frame(here.query(BAD_SQL), "table")
    say(_where_it_is(here, folder, done.learnt, seconds))
    return {
        "files": done.taken.files,
        "rows": done.taken.rows,
        "readings": done.taken.readings,
        "quarantined": done.taken.quarantined,
        "already_ingested_again": again.already_ingested,
        **vars(done.merged),
        "clustered": vars(done.served),
        "grid": done.grid,
        "learnt": done.learnt,
        "lake": str(folder / "lake"),
        "seconds": seconds,
    }


@dataclass(frozen=True)
class _Done:
    """What the steps did."""

    made: Simulated
    taken: "Ingested"
    merged: "IntegrationResult"
    served: "Clustered"
    grid: dict[str, Any]
    learnt: dict[str, Any]


def _simulate(folder: Path, devices: int, days: int, progress: Progress) -> Simulated:
    """Write the grid, its weather and the files of readings."""
    end, topology, files = START + timedelta(days=days), folder / "topology", 0

    def on_file(_: object) -> None:
        nonlocal files
        files += 1
        progress("simulate", days + 1, files)

    simulate_grid(devices, NEAR, topology)
    simulate_weather(NEAR, START, end, folder / "weather")
    plan = ReadingsPlan(
        devices=devices,
        meters=meters_of(topology),
        interval_minutes=15,
        start=START,
        end=end,
        late_percent=LATE_PERCENT,
        late_minutes=LATE_MINUTES,
        bad_percent=BAD_PERCENT,
    )
    truth = folder / "truth.parquet"
    return simulate_readings(plan, folder / "inbox", truth=truth, on_file=on_file)


def _fill(here: Lake, folder: Path, made: Simulated, days: int) -> _Done:
    """Bring the lake up from the files to outages and forecasts."""
    taken, merged, served = here.ingest(str(folder / "inbox")), here.integrate(), here.cluster()
    here.run_dataflow("topology", str(folder / "topology"))
    here.run_dataflow("weather", str(folder / "weather"), start=START)
    here.update_grid()
    truth, began = folder / "truth.parquet", time.perf_counter()
    learnt: dict[str, Any] = {
        "story": f"need more days: of {LEAST_DAYS_TO_LEARN} and more the demo makes some"
    }
    if days >= LEAST_DAYS_TO_LEARN:
        trained = here.train()
        here.forecast_all()
        here.detect()
        learnt = _learnt(here, truth, trained, time.perf_counter() - began)
    return _Done(made, taken, merged, served, _grid(here, truth), learnt)


def _what_was_done(done: _Done, devices: int, days: int, again: int) -> str:
    made, taken, merged, served, grid = done.made, done.taken, done.merged, done.served, done.grid
    return f"""
What was done
  simulated   {len(made.files)} gzip files of {devices:,} meters, {days} days every 15 minutes,
              {LATE_PERCENT:.0f} % of the meters a day late, {made.bad_rows:,} rows damaged
  ingested    {taken.rows:,} rows: {taken.readings:,} readings staged, {taken.quarantined:,} rows in quarantine
  integrated  {merged.added:,} readings in {merged.partitions:,} partitions, one file each;
              {merged.late:,} were late, in {merged.late_partitions:,} partitions
  served      {served.days:,} days of a type copied by meter, {served.consumption_days:,} days of energy per meter
  topology    {grid["meters"]:,} meters on {grid["transformers"]:,} transformers; weather of {grid["hours"]:,} hours
  grid        voltage and load of each transformer and hour, outages
  forecasts   {done.learnt["story"]}
  again       the same {again} files once more: nothing changed
  balance     {taken.rows:,} rows x 6 = {merged.added:,} added + {merged.replaced:,} replaced + {merged.duplicates:,} duplicates + {taken.quarantined:,} quarantined x 6
"""


def _what_was_asked(here: Lake, done: _Done) -> str:
    meter, grid = device_id(0), done.grid
    day = here.readings(meter, start=START, end=START + timedelta(days=1))
    peak, lowest = here.query(PEAK_SQL), here.query(LOWEST_VOLTAGE_SQL)
    return f"""What was asked
  highest load   {peak["kw"][0]:,.1f} kW at {_minute(peak["reading_date_time"][0])}
  lowest voltage {lowest["vltg"][0]:,.1f} V at meter {lowest["meter_id"][0]}, {_minute(lowest["reading_date_time"][0])}
  one meter      {meter}: {day.height} readings on {START:%Y-%m-%d};
                 {_energies(here.consumption(meter))}
  outages        {grid["outages_right"]} of {grid["outages_injected"]} injected at transformers found, {grid["outages_found"] - grid["outages_right"]} found that were not injected
  most loaded    {grid["worst"]}
{_told(done.learnt)}  saved          {grid["saved_kwh"]:,.0f} kWh of {grid["kwh"]:,.0f}, since the mean voltage is {grid["mean_v"]:.1f} V and not {here.settings.grid.cvr_set_point_v:.0f} V"""


def _where_it_is(here: Lake, folder: Path, learnt: dict[str, Any], seconds: float) -> str:
    meter, lake = device_id(0), folder / "lake"
    readings = here.tables().row(by_predicate=pl.col("table") == "readings", named=True)
    return f"""Where it is
  {folder / "inbox"}    what was delivered; {folder / "topology"} and {folder / "weather"}, the grid and its weather
  {lake}     the lake: {readings["rows"]:,} readings in {readings["bytes"] / 1e6:,.0f} MB, open Parquet and Delta

What to type next
  .venv/bin/meterlake catalog --lake {lake}
  .venv/bin/meterlake readings {meter} --type kw --from 2024-01-01 --to 2024-01-02 --lake {lake}
  .venv/bin/meterlake consumption {meter} --by day --lake {lake}
  .venv/bin/meterlake query "select reading_type, count(*), avg(reading_value) from readings group by all" --lake {lake}
  .venv/bin/meterlake late --lake {lake}
{_next(learnt, meter, lake)}  .venv/bin/meterlake grid outages --lake {lake}
  .venv/bin/meterlake grid transformer-load --lake {lake}
  .venv/bin/meterlake serve --lake {lake}

Done in {seconds} s."""


def _grid(here: Lake, truth: Path) -> dict[str, Any]:
    """What the grid's tables say, outages against those that were injected."""
    injected = (
        pl.read_parquet(truth)
        .filter(pl.col("kind") == "outage")
        .select(pl.col("transformer").alias("id"), "start", "end")
        .unique()
    )
    found = here.query(OUTAGES_SQL)
    right = injected.join(found, on="id").filter(
        pl.col("start") < pl.col("end_right"), pl.col("end") > pl.col("start_right")
    )
    worst = here.query(WORST_SQL).row(0, named=True)
    return {
        **here.query(GRID_SQL).row(0, named=True),
        **here.query("SELECT count(*) AS hours FROM weather").row(0, named=True),
        **here.query(SAVED_SQL).row(0, named=True),
        "outages_injected": injected.height,
        "outages_found": found.height,
        "outages_right": right.select("id", "start").unique().height,
        "worst": (
            f"{worst['id']}, {worst['rating_kva']:g} kVA: {worst['percent']:.0f} % at "
            f"{_minute(worst['hour'])}, {worst['over']} hour{'s' * (worst['over'] != 1)} over 100 %"
        ),
    }


def _learnt(here: Lake, truth: Path, trained: TrainResult, seconds: float) -> dict[str, Any]:
    """How good forecasts were on weeks held out, and which injected days were found."""
    ahead = here.query(NEXT_WEEK_SQL).row(0, named=True)
    judged = here.query(JUDGED_SQL)
    injected = (
        pl.read_parquet(truth)
        .filter(pl.col("kind").is_in(INJECTED))
        .select("meter_id", "start", "end")
    )
    day = judged.join(injected, on="meter_id").filter(
        pl.col("start") < pl.col("day_start") + pl.duration(days=1),
        pl.col("end") > pl.col("day_start"),
    )
    hit = day.select("meter_id", "day_start", "anomaly").unique()
    found = hit.filter(pl.col("anomaly") != 0).height
    flagged = judged.filter(pl.col("anomaly") != 0).height
    score = trained.scores
    return {
        "story": f"{ahead['meters']:,} meters x 168 hours, and {judged.height:,} days judged, in "
        f"{seconds:.1f} s with the\n              training, which here takes {TRAIN_ROWS:,} rows, an eighth of the usual",
        "model": trained.name,
        "wql": score.wql,
        "nd": score.nd,
        "coverage": score.coverage,
        "held_out_weeks": trained.held_out_weeks,
        "next_week_kwh": ahead["kwh"],
        "days_judged": judged.height,
        "days_flagged": flagged,
        "days_injected": hit.height,
        "days_injected_found": found,
        "seconds": round(seconds, 1),
    }


def _next(learnt: dict[str, Any], meter: str, lake: Path) -> str:
    if "model" not in learnt:
        return ""
    return (
        f"  .venv/bin/meterlake forecast {meter} --lake {lake}\n"
        f"  .venv/bin/meterlake anomalies --lake {lake}\n"
    )


def _told(learnt: dict[str, Any]) -> str:
    if "model" not in learnt:
        return ""
    others = learnt["days_flagged"] - learnt["days_injected_found"]
    ordinary = learnt["days_judged"] - learnt["days_injected"]
    return (
        f"  next week      {learnt['next_week_kwh']:,.0f} kWh expected; on the {learnt['held_out_weeks']} last weeks, held out, "
        f"the median was off by {100 * learnt['nd']:.0f} % of the\n"
        f"                 energy, and {100 * learnt['coverage']:.0f} % of hours lay in the band made for 80 %\n"
        f"  anomalies      {learnt['days_injected_found']} of {learnt['days_injected']} days with a simulated fault found, "
        f"{others} of {ordinary:,} others flagged;\n"
        f"                 the band is made to hold 98 %, and most faults last a few hours\n"
    )


def _energies(daily: pl.DataFrame) -> str:
    days = daily.head(3).select("date", "energy_kwh").rows()
    return ", ".join(f"{kwh:.1f} kWh on {day}" for day, kwh in days)


def _minute(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")


def _say(text: str) -> None:
    print(text, file=sys.stdout)


def _silent(text: str) -> None:
    """Say nothing."""
