"""The command line: parses, picks the engine, calls jobs, prints.

With `--output json` a command prints one JSON object on stdout and nothing else there.
Exit codes: 0 done, 1 bad input, 2 usage, 3 unavailable.
"""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from meterlake import __version__, show
from meterlake.errors import BadInput, MeterlakeError, Unavailable
from meterlake.settings import Settings, load_settings, settings_table

app = typer.Typer(
    name="meterlake",
    help="An open meter-data lake: files in, one trustworthy table out, questions answered.",
    no_args_is_help=True,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
simulate_app = typer.Typer(
    help="Make test data that behaves like the real thing.", no_args_is_help=True
)
app.add_typer(simulate_app, name="simulate")


class Output(StrEnum):
    """How a command prints its result."""

    table = "table"
    json = "json"


class TableOutput(StrEnum):
    """How a command prints rows."""

    table = "table"
    csv = "csv"
    json = "json"
    parquet = "parquet"


class By(StrEnum):
    """Length of a local period."""

    day = "day"
    week = "week"
    month = "month"


class Clock(StrEnum):
    """What a read had to do by the moment of --as-of."""

    arrival = "arrival"
    receipt = "receipt"


LakeOption = Annotated[
    str | None,
    typer.Option("--lake", metavar="URL", help="The lake: a folder or s3://bucket/prefix."),
]
OutputOption = Annotated[Output, typer.Option("--output", help="For people, or one JSON object.")]
RowsOption = Annotated[TableOutput, typer.Option("--output", help="How to print the rows.")]
AsOfOption = Annotated[
    str | None,
    typer.Option("--as-of", help="Only what had arrived by this moment, whatever came since."),
]
ClockOption = Annotated[
    Clock,
    typer.Option(help="As-of clock: arrival at the source system, or receipt by this lake."),
]


@app.callback()
def main(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Set up logging for people: warnings, on stderr."""
    if version:
        print(f"meterlake {__version__}")
        raise typer.Exit
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)


@simulate_app.command("readings")
def simulate_readings_command(
    out: Annotated[Path, typer.Option(help="Folder for the files.")],
    start: Annotated[str, typer.Option(help="First moment, e.g. 2024-01-01 (UTC).")],
    end: Annotated[str, typer.Option(help="End, not included.")],
    devices: Annotated[int, typer.Option(help="Number of meters.")] = 10_000,
    interval_minutes: Annotated[int, typer.Option(help="Length of an interval in minutes.")] = 15,
    file_every: Annotated[str, typer.Option(help="A file for each 1d, 6h or 15m.")] = "1d",
    region_voltage: Annotated[float, typer.Option(help="Nominal voltage in V.")] = 220.0,
    min_load_kw: Annotated[float, typer.Option(help="Smallest contract load in kW.")] = 5.0,
    max_load_kw: Annotated[float, typer.Option(help="Largest contract load in kW.")] = 20.0,
    late_percent: Annotated[
        float, typer.Option(help="Share of meters that are late, in percent.")
    ] = 0.0,
    late_minutes: Annotated[int, typer.Option(help="How late they are in minutes.")] = 1440,
    bad_percent: Annotated[
        float, typer.Option(help="Share of rows that are damaged, in percent.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 1,
    truth: Annotated[
        Path | None, typer.Option(help="Inject faults and write here (csv, parquet) which.")
    ] = None,
    output: OutputOption = Output.table,
) -> None:
    """Write readings of simulated meters as gzip CSV files, as a head-end system would.

    Example: meterlake simulate readings --start 2024-01-01 --end 2024-01-08 --out inbox
    """
    from meterlake.simulate.readings import ReadingsPlan, simulate_readings

    with _errors():
        began = time.perf_counter()
        plan = ReadingsPlan(
            devices=devices,
            interval_minutes=interval_minutes,
            start=_moment(start, "--start"),
            end=_moment(end, "--end"),
            file_every=_duration(file_every, "--file-every"),
            region_voltage_v=region_voltage,
            min_load_kw=min_load_kw,
            max_load_kw=max_load_kw,
            late_percent=late_percent,
            late_minutes=late_minutes,
            bad_percent=bad_percent,
            seed=seed,
        )
        with show.progress(quiet=output is Output.json) as progress:
            count = 0

            def on_file(_: object) -> None:
                nonlocal count
                count += 1
                progress("simulate", None, count)

            made = simulate_readings(plan, out, truth=truth, on_file=on_file)
        show.result(
            {
                "files": len(made.files),
                "rows": made.rows,
                "readings": made.readings,
                "late_rows": made.late_rows,
                "bad_rows": made.bad_rows,
                "injected": made.injected,
                "out": str(out),
                "seconds": round(time.perf_counter() - began, 3),
            },
            output is Output.json,
        )


@app.command()
def ingest(
    locations: Annotated[
        list[str], typer.Argument(metavar="FILE|DIR|URL...", help="What was delivered.")
    ],
    profile: Annotated[
        str | None, typer.Option(help="Format's name or profile file; default: recognised.")
    ] = None,
    lake: LakeOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Take delivered files into staging: each once, each completely or not at all.

    Example: meterlake ingest inbox/ --lake ./lake
    """
    import polars as pl

    from meterlake import jobs

    with _errors(), _context(lake, may_be_new=True) as context:
        began = time.perf_counter()
        with show.progress(quiet=output is Output.json) as progress:
            done = jobs.ingest(
                context.store,
                locations,
                engine=context.engine,
                settings=context.settings,
                now=context.now,
                profile=profile,
                progress=progress,
            )
        facts: dict[str, Any] = {
            "files": done.files,
            "rows": done.rows,
            "stored": done.stored,
            "quarantined": done.quarantined,
            "readings": done.readings,
            "already_ingested": done.already_ingested,
            "failed": [{"file": f.file, "reason": f.reason} for f in done.failures],
            "seconds": round(time.perf_counter() - began, 3),
        }
        accounts = [
            {
                "file": b.file,
                "rows": b.rows,
                "stored": b.stored,
                "quarantined": b.quarantined,
                "readings": b.readings,
            }
            for b in done.balance
            if not b.already_ingested
        ]
        if output is Output.json:
            show.result({**facts, "balance": accounts}, as_json=True)
        else:
            show.result(facts, as_json=False)
            if len(accounts) > 1:
                show.frame(pl.DataFrame(accounts), "table")
        if done.failures:
            raise typer.Exit(1 if all(f.is_bad for f in done.failures) else 3)


@app.command()
def integrate(lake: LakeOption = None, output: OutputOption = Output.table) -> None:
    """Bring the integrated table up to what staging has received, and then what is derived of it.

    The one is one step; the other is what meterlake cluster does, and is left to it where the
    setting cluster_after_integrate is false.

    Example: meterlake integrate --lake ./lake
    """
    from meterlake import jobs
    from meterlake.jobs.cluster import cluster as run_cluster

    with _errors(), _context(lake) as context:
        began = time.perf_counter()
        failures: list[MeterlakeError] = []
        with show.progress(quiet=output is Output.json) as progress:
            done = jobs.integrate(
                context.store,
                engine=context.engine,
                settings=context.settings,
                now=context.now,
                progress=progress,
            )
            facts = {name: value for name, value in vars(done).items() if name != "hook_failures"}
            if done.hook_failures:
                facts["hook_failures"] = done.hook_failures
                failures.append(Unavailable(" ".join(done.hook_failures)))
            if context.settings.cluster_after_integrate:
                try:
                    served = run_cluster(
                        context.store,
                        engine=context.engine,
                        settings=context.settings,
                        now=context.now,
                        progress=progress,
                    )
                    facts["clustered"] = vars(served)
                except MeterlakeError as error:  # what is integrated stays so, and is told first
                    failures.append(error)
        facts["seconds"] = round(time.perf_counter() - began, 3)
        show.result(facts, output is Output.json)
        if failures:
            raise failures[-1]


@app.command()
def cluster(
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Write all of it anew, from the integrated table.")
    ] = False,
    lake: LakeOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Bring what serves questions up to date: readings by meter, energy per day, week and month.

    Closed days, and days that received late reads since. meterlake integrate does it too.

    Example: meterlake cluster --lake ./lake
    """
    from meterlake.jobs.cluster import cluster as run

    with _errors(), _context(lake) as context:
        began = time.perf_counter()
        with show.progress(quiet=output is Output.json) as progress:
            done = run(
                context.store,
                engine=context.engine,
                settings=context.settings,
                now=context.now,
                rebuild=rebuild,
                progress=progress,
            )
        show.result(
            {**vars(done), "seconds": round(time.perf_counter() - began, 3)},
            output is Output.json,
        )


@app.command()
def check(
    repair: Annotated[
        bool, typer.Option("--repair", help="Derive again what is wrong and can be derived.")
    ] = False,
    lake: LakeOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Verify the whole lake: logs, files, rows, order, keys, and integrated against staging.

    Exit code 1 where anything is found that is not mended.

    Example: meterlake check --repair
    """
    from meterlake.jobs import upkeep

    with _errors(), _context(lake) as context:
        began = time.perf_counter()
        with show.progress(quiet=output is Output.json) as progress:
            done = upkeep.check(
                context.store,
                engine=context.engine,
                now=context.now,
                repair=repair,
                progress=progress,
            )
        show.result(
            {
                "files": done.files,
                "rows": done.rows,
                "repaired": [vars(f) for f in done.repaired],
                "findings": [vars(f) for f in done.findings],
                "seconds": round(time.perf_counter() - began, 3),
            },
            output is Output.json,
        )
        if done.findings:
            raise typer.Exit(1)


@app.command()
def vacuum(
    retain: Annotated[
        str, typer.Option(help="Keep what was needed in the last 7d, 12h or 30m.")
    ] = "7d",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would go.")] = False,
    nobody_else: Annotated[
        bool,
        typer.Option("--nobody-else", help="Allow less than 1h: no job or query runs on the lake."),
    ] = False,
    lake: LakeOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Remove files that no version within the retention needs: superseded ones and orphans.

    Example: meterlake vacuum --retain 7d --dry-run
    """
    from meterlake.lake.vacuum import vacuum as run

    with _errors(), _context(lake) as context:
        began = time.perf_counter()
        done = run(
            context.store,
            retain=_duration(retain, "--retain", may_be_zero=True),
            now=context.now,
            dry_run=dry_run,
            nobody_else=nobody_else,
        )
        facts = {**vars(done), "dry_run": dry_run}
        show.result(
            {**facts, "seconds": round(time.perf_counter() - began, 3)}, output is Output.json
        )


@app.command()
def catalog(
    table: Annotated[str | None, typer.Argument(help="A table, for its columns.")] = None,
    lake: LakeOption = None,
    output: OutputOption = Output.table,
) -> None:
    """List the lake's tables, or one table's columns with unit and meaning.

    Example: meterlake catalog readings
    """
    from meterlake.lake.catalog import describe, tables

    with _errors(), _context(lake) as context:
        if table is None:
            show.rows("tables", tables(context.store), output is Output.json)
        else:
            show.rows("columns", describe(table), output is Output.json, extra={"table": table})


@app.command()
def readings(
    meter: Annotated[str, typer.Argument(metavar="METER", help="The meter's id.")],
    reading_type: Annotated[
        str, typer.Option("--type", help="kw, vltg, …: see the catalog.")
    ] = "kw",
    start: Annotated[
        str | None, typer.Option("--from", help="First moment; default: the beginning.")
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", help="End, not included; default: the end.")
    ] = None,
    with_arrival: Annotated[
        bool, typer.Option("--with-arrival", help="Also when each read arrived; slower.")
    ] = False,
    as_of: AsOfOption = None,
    clock: ClockOption = Clock.arrival,
    lake: LakeOption = None,
    output: RowsOption = TableOutput.table,
) -> None:
    """Show one meter's readings in a half-open window of time.

    Times without a zone are in the lake's time zone. With --as-of the readings are those that
    a bill of that moment was made from, worked out anew from staging.

    Example: meterlake readings 7a044be7-2f1e-3bf1-aa86-b8b1b9064f19 --from 2024-01-01
    """
    from meterlake.lake.reader import read_readings
    from meterlake.schema import READING_TYPES

    with _errors(), _context(lake) as context:
        if reading_type not in READING_TYPES:
            raise BadInput(
                f"--type needs one of {', '.join(READING_TYPES)}; found '{reading_type}'"
            )
        zone = context.settings.timezone
        first = None if start is None else _moment(start, "--from", zone)
        last = None if end is None else _moment(end, "--to", zone)
        if first is not None and last is not None and first >= last:
            raise BadInput(f"--to needs to be after --from; found {start} to {end}")
        frame = read_readings(
            context.store,
            [meter],
            reading_type=reading_type,
            start=first,
            end=last,
            as_of=_as_of(as_of, clock, zone),
            with_arrival=with_arrival,
        )
        show.frame(frame, output.value)
        if frame.is_empty():
            print(
                f"meterlake: no {reading_type} readings of a meter '{meter}' in that window; "
                "a question to the table readings tells which meters there are",
                file=sys.stderr,
            )


@app.command()
def consumption(
    meter: Annotated[str, typer.Argument(metavar="METER", help="The meter's id.")],
    by: Annotated[By, typer.Option("--by", help="Length of the local periods.")] = By.day,
    reading_type: Annotated[
        str, typer.Option("--type", help="kw, or another register in kW: see the catalog.")
    ] = "kw",
    start: Annotated[
        str | None, typer.Option("--from", help="First local date; default: the beginning.")
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", help="Local date, not included; default: the end.")
    ] = None,
    lake: LakeOption = None,
    output: RowsOption = TableOutput.table,
) -> None:
    """Show one meter's energy per day, week (ISO) or month of the lake's time zone.

    Weeks and months that --from and --to touch are shown whole.

    Example: meterlake consumption 7a044be7-2f1e-3bf1-aa86-b8b1b9064f19 --by month
    """
    from meterlake.lake.consumption import read_consumption
    from meterlake.lake.reader import Reader
    from meterlake.schema import POWER_TYPES

    with _errors(), _context(lake) as context:
        if reading_type not in POWER_TYPES:
            raise BadInput(f"--type needs one of {', '.join(POWER_TYPES)}; found '{reading_type}'")
        first, last = _date(start, "--from"), _date(end, "--to")
        if first is not None and last is not None and first >= last:
            raise BadInput(f"--to needs to be after --from; found {start} to {end}")
        frame = read_consumption(
            Reader(context.store),
            [meter],
            by=by.value,
            zone=context.settings.timezone,
            reading_type=reading_type,
            start=first,
            end=last,
        )
        if output is TableOutput.table:
            frame = frame.drop("meter_id", "start", "end", "interval_minutes", "hours")
        show.frame(frame, output.value)
        if frame.is_empty():
            print(
                f"meterlake: no {reading_type} readings of a meter '{meter}' in that time; "
                "a question to the table readings tells which meters there are",
                file=sys.stderr,
            )


@app.command()
def query(
    sql: Annotated[str, typer.Argument(metavar="SQL", help="One SELECT.")],
    as_of: AsOfOption = None,
    clock: ClockOption = Clock.arrival,
    lake: LakeOption = None,
    output: RowsOption = TableOutput.table,
) -> None:
    """Answer SQL over the lake's tables, by name; nothing can be changed.

    With --as-of the tables are as they were at that moment.

    Example: meterlake query "select reading_type, count(*) from readings group by all"
    """
    from meterlake.lake.sql import query as run

    with _errors(), _context(lake) as context:
        moment = _as_of(as_of, clock, context.settings.timezone)
        show.frame(run(context.store, sql, as_of=moment), output.value)


@app.command()
def balance(lake: LakeOption = None, output: RowsOption = TableOutput.table) -> None:
    """Account for every delivered row: what became of each file's rows and readings.

    rows = stored + quarantined; readings = standing + superseded + duplicates.

    Example: meterlake balance
    """
    from meterlake.lake.sql import balance as run

    with _errors(), _context(lake) as context:
        show.frame(run(context.store), output.value)


@app.command()
def late(lake: LakeOption = None, output: RowsOption = TableOutput.table) -> None:
    """Show which reads came late: by day of reading, type and delivered file.

    Example: meterlake late --output json
    """
    from meterlake.lake.sql import query as run

    with _errors(), _context(lake) as context:
        show.frame(
            run(
                context.store,
                "SELECT strftime(reading_hour, '%Y-%m-%d') AS reading_day, reading_type, "
                "source_file, sum(late)::BIGINT AS late, count(*) AS partitions, "
                "min(min_late_minutes) AS min_late_minutes, "
                "max(max_late_minutes) AS max_late_minutes, max(detected_at) AS detected_at "
                "FROM late_arrivals GROUP BY ALL ORDER BY ALL",
            ),
            output.value,
        )


@app.command()
def formats(output: OutputOption = Output.table) -> None:
    """List the formats and profiles that ingest knows.

    Example: meterlake formats
    """
    from meterlake.formats.profile import Profile
    from meterlake.formats.registry import known_formats

    with _errors():
        settings = load_settings()
        known = known_formats(default_zone=settings.timezone)
        show.rows(
            "formats",
            [
                {
                    "format": name,
                    "meaning": p.description
                    if isinstance(p := getattr(f, "profile", None), Profile)
                    else type(f).__module__,
                }
                for name, f in known.items()
            ],
            output is Output.json,
        )


@app.command()
def settings(lake: LakeOption = None, output: OutputOption = Output.table) -> None:
    """Show every setting: its value, default, variable and meaning; secrets stay hidden.

    Example: meterlake settings
    """
    with _errors():
        show.rows("settings", settings_table(load_settings(lake=lake)), output is Output.json)


@app.command()
def demo(
    devices: Annotated[int, typer.Option(help="Number of meters.")] = 1000,
    days: Annotated[int, typer.Option(help="Number of days.")] = 14,
    folder: Annotated[Path, typer.Option(help="An empty or new folder for all of it.")] = Path(
        "demo"
    ),
    output: OutputOption = Output.table,
) -> None:
    """From simulated inbound files to answered questions, in one go, on an empty folder.

    Example: meterlake demo --devices 1000 --days 14
    """
    from meterlake.demo import run_demo

    with _errors():
        as_json = output is Output.json
        done = run_demo(
            devices=devices, days=days, folder=folder, now=datetime.now(UTC), quiet=as_json
        )
        if as_json:
            show.result(done, as_json=True)


@dataclass(frozen=True)
class Context:
    """What a command works with: settings, the lake's storage, the engine, the moment."""

    settings: Settings
    store: Any
    engine: Any
    now: datetime


@contextmanager
def _context(lake: str | None, *, may_be_new: bool = False) -> Iterator[Context]:
    from meterlake.engine.local import LocalEngine
    from meterlake.lake.store import existing_store, open_store

    found = load_settings(lake=lake)
    store = (open_store if may_be_new else existing_store)(found.lake)
    yield Context(found, store, LocalEngine(found.workers), datetime.now(UTC))


@contextmanager
def _errors() -> Iterator[None]:
    """Our errors become one sentence and an exit code; others are bugs and stay whole."""
    try:
        yield
    except MeterlakeError as error:
        print(f"meterlake: {error}", file=sys.stderr)
        raise typer.Exit(1 if isinstance(error, BadInput) else 3) from error


def _as_of(text: str | None, clock: Clock, zone: str) -> Any:
    from meterlake.lake.history import AsOf

    return None if text is None else AsOf(_moment(text, "--as-of", zone), clock.value)


def _moment(text: str, flag: str, zone: str = "UTC") -> datetime:
    """An aware moment; text without an offset is in `zone`."""
    from zoneinfo import ZoneInfo

    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadInput(
            f"{flag} needs a date or time such as 2024-01-31 or 2024-01-31T05:00Z; found '{text}'"
        ) from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=ZoneInfo(zone))
    return moment.astimezone(UTC)


def _date(text: str | None, flag: str) -> date | None:
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError as error:
        raise BadInput(f"{flag} needs a date such as 2024-01-31; found '{text}'") from error


def _duration(text: str, flag: str, *, may_be_zero: bool = False) -> timedelta:
    units = {"d": "days", "h": "hours", "m": "minutes"}
    number, unit = text[:-1], text[-1:]
    usable = number.isascii() and number.isdigit() and len(number) < 7 and unit in units
    if not usable or (int(number) == 0 and not may_be_zero):
        raise BadInput(f"{flag} needs a length such as 1d, 6h or 15m; found '{text}'")
    return timedelta(**{units[unit]: int(number)})


def run() -> None:
    """Entry point of the `meterlake` command."""
    app()
