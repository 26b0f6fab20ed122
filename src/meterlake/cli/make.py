"""Commands that make data: simulate, demo."""

import itertools
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meterlake import terminal
from meterlake.cli.options import (
    Output,
    OutputOption,
    plain_errors,
    to_duration,
    to_moment,
    to_place,
)

if TYPE_CHECKING:
    from meterlake.simulate.readings import Simulated

commands = typer.Typer()
simulate_app = typer.Typer(
    help="Make test data that behaves like the real thing.", no_args_is_help=True
)
commands.add_typer(simulate_app, name="simulate")


@simulate_app.command("readings")
def simulate_readings_command(
    out: Annotated[Path, typer.Option(help="Folder for the files.")],
    start: Annotated[str, typer.Option(help="First moment, e.g. 2024-01-01 (UTC).")],
    end: Annotated[str, typer.Option(help="End, not included.")],
    devices: Annotated[
        int | None, typer.Option(help="Number of meters; default: 10,000, or the topology's.")
    ] = None,
    topology: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of topology files, whose meters are simulated."),
    ] = None,
    interval_minutes: Annotated[int, typer.Option(help="Length of an interval in minutes.")] = 15,
    file_every: Annotated[str, typer.Option(help="Time span of a file: 1d, 6h or 15m.")] = "1d",
    region_voltage: Annotated[float, typer.Option(help="Nominal voltage in V.")] = 220.0,
    min_load_kw: Annotated[float, typer.Option(help="Smallest contract load in kW.")] = 5.0,
    max_load_kw: Annotated[float, typer.Option(help="Largest contract load in kW.")] = 20.0,
    late_percent: Annotated[
        float, typer.Option(help="Share of meters that are late, in percent.")
    ] = 0.0,
    late_minutes: Annotated[int, typer.Option(help="Delay of late meters in minutes.")] = 1440,
    bad_percent: Annotated[
        float, typer.Option(help="Share of rows that are damaged, in percent.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 1,
    truth: Annotated[
        Path | None, typer.Option(help="Inject faults and list them in this file (csv, parquet).")
    ] = None,
    output: OutputOption = Output.table,
) -> None:
    """Write readings of simulated meters as gzip CSV files, as a head-end system would.

    Example: meterlake simulate readings --start 2024-01-01 --end 2024-01-08 --out inbox
    """
    from meterlake.simulate.grid import meters_of
    from meterlake.simulate.readings import ReadingsPlan, simulate_readings

    with plain_errors():
        began = time.perf_counter()
        meters = () if topology is None else meters_of(topology, most=devices)
        plan = ReadingsPlan(
            devices=len(meters) or (10_000 if devices is None else devices),
            meters=meters,
            interval_minutes=interval_minutes,
            start=to_moment(start, "--start"),
            end=to_moment(end, "--end"),
            file_every=to_duration(file_every, "--file-every"),
            region_voltage_v=region_voltage,
            min_load_kw=min_load_kw,
            max_load_kw=max_load_kw,
            late_percent=late_percent,
            late_minutes=late_minutes,
            bad_percent=bad_percent,
            seed=seed,
        )
        with terminal.progress(quiet=output is Output.json) as progress:
            files = itertools.count(1)
            made = simulate_readings(
                plan, out, truth=truth, on_file=lambda _: progress("simulate", None, next(files))
            )
        seconds = round(time.perf_counter() - began, 3)
        facts = {**_counts(made), "out": str(out), "seconds": seconds}
        terminal.result(facts, output is Output.json)


def _counts(made: "Simulated") -> dict[str, int]:
    return {
        "files": len(made.files),
        "rows": made.rows,
        "readings": made.readings,
        "late_rows": made.late_rows,
        "bad_rows": made.bad_rows,
        "injected": made.injected,
    }


@simulate_app.command("topology")
def simulate_topology_command(
    out: Annotated[Path, typer.Option(help="Folder for the files.")],
    near: Annotated[str, typer.Option(metavar="LAT,LON", help="Where the grid is.")],
    meters: Annotated[int, typer.Option(help="Number of meters.")] = 10_000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 1,
    output: OutputOption = Output.table,
) -> None:
    """Write the seven topology files of a simulated grid around a place.

    Example: meterlake simulate topology --meters 1000 --near 47.61,-122.33 --out topology
    """
    from meterlake.simulate.grid import simulate_grid

    with plain_errors():
        began = time.perf_counter()
        made = simulate_grid(meters, to_place(near, "--near"), out, seed=seed)
        facts = {**made, "out": str(out), "seconds": round(time.perf_counter() - began, 3)}
        terminal.result(facts, output is Output.json)


@simulate_app.command("weather")
def simulate_weather_command(
    out: Annotated[Path, typer.Option(help="Folder for the files.")],
    near: Annotated[str, typer.Option(metavar="LAT,LON", help="Where the station is.")],
    start: Annotated[str, typer.Option(help="First hour, e.g. 2024-01-01 (UTC).")],
    end: Annotated[str, typer.Option(help="End, not included.")],
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 1,
    output: OutputOption = Output.table,
) -> None:
    """Write a weather station's hours in Meteostat's bulk format: a source without a network.

    Example: meterlake simulate weather --near 48,-122 --start 2024-01-01 --end 2024-03-01 --out w
    """
    from meterlake.simulate.weather import simulate_weather

    with plain_errors():
        began = time.perf_counter()
        first, last = to_moment(start, "--start"), to_moment(end, "--end")
        made = simulate_weather(to_place(near, "--near"), first, last, out, seed=seed)
        facts = {**made, "out": str(out), "seconds": round(time.perf_counter() - began, 3)}
        terminal.result(facts, output is Output.json)


@commands.command()
def demo(
    devices: Annotated[int, typer.Option(help="Number of meters.")] = 150,
    days: Annotated[int, typer.Option(help="Number of days.")] = 56,
    folder: Annotated[Path, typer.Option(help="An empty or new folder.")] = Path("demo"),
    serve: Annotated[
        bool, typer.Option(help="Serve the lake at the end, until Ctrl-C; not with json.")
    ] = True,
    output: OutputOption = Output.table,
) -> None:
    """Run everything once in an empty folder, from simulated files to answered questions.

    Example: meterlake demo --devices 150 --days 56
    """
    from meterlake.demo import run_demo

    with plain_errors():
        as_json = output is Output.json
        done = run_demo(
            devices=devices, days=days, folder=folder, now=datetime.now(UTC), quiet=as_json
        )
        if as_json:
            terminal.result(done, as_json=True)
        elif serve:
            from meterlake.cli.serve import serve_lake

            serve_lake(str(done["lake"]), {}, or_free_port=True)
