"""Commands that ask the lake."""

import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from meterlake import terminal
from meterlake.cli.options import (
    AsOfOption,
    By,
    Clock,
    ClockOption,
    LakeOption,
    Output,
    OutputOption,
    RowsOption,
    TableOutput,
    as_of_moment,
    existing_lake,
    to_date,
    to_time,
)
from meterlake.errors import BadInput

commands = typer.Typer()


@commands.command()
def catalog(
    table: Annotated[str | None, typer.Argument(help="A table, for its columns.")] = None,
    lake: LakeOption = None,
    output: OutputOption = Output.table,
) -> None:
    """List the lake's tables, or one table's columns with unit and meaning.

    Example: meterlake catalog readings
    """
    from meterlake.questions.catalog import describe, tables

    with existing_lake(lake) as here:
        if table is None:
            listed = tables(here.store)
            if output is Output.table:  # meterlake lineage shows it
                listed = [{k: v for k, v in t.items() if k != "made_from"} for t in listed]
            terminal.rows("tables", listed, output is Output.json)
        else:
            terminal.rows("columns", describe(table), output is Output.json, extra={"table": table})


@commands.command()
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
        bool, typer.Option("--with-arrival", help="Show when each read arrived, too; slower.")
    ] = False,
    as_of: AsOfOption = None,
    clock: ClockOption = Clock.arrival,
    lake: LakeOption = None,
    output: RowsOption = TableOutput.table,
) -> None:
    """Show one meter's readings in a half-open window of time.

    Times without a zone are in the lake's time zone. With --as-of the readings are those that
    a bill of that moment was made from, recomputed from staging.

    Example: meterlake readings 7a044be7-2f1e-3bf1-aa86-b8b1b9064f19 --from 2024-01-01
    """
    with existing_lake(lake) as here:
        frame = here.readings(
            meter,
            reading_type,
            start=to_time(start, "--from"),
            end=to_time(end, "--to"),
            as_of=as_of_moment(as_of, clock, here.settings.timezone),
            with_arrival=with_arrival,
        )
        terminal.frame(frame, output.value)
        if frame.is_empty():
            _say_that_there_is_none(meter, reading_type)


@commands.command()
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
    with existing_lake(lake) as here:
        frame = here.consumption(
            meter,
            by=by.value,
            reading_type=reading_type,
            start=to_date(start, "--from"),
            end=to_date(end, "--to"),
        )
        if output is TableOutput.table:
            frame = frame.drop("meter_id", "start", "end", "interval_minutes", "hours")
        terminal.frame(frame, output.value)
        if frame.is_empty():
            _say_that_there_is_none(meter, reading_type)


@commands.command()
def query(
    sql: Annotated[str, typer.Argument(metavar="SQL", help="One SELECT.")],
    as_of: AsOfOption = None,
    clock: ClockOption = Clock.arrival,
    lake: LakeOption = None,
    output: RowsOption = TableOutput.table,
) -> None:
    """Run a read-only SQL query over the lake's tables.

    With --as-of the tables are as they were at that moment.

    Example: meterlake query "select reading_type, count(*) from readings group by all"
    """
    with existing_lake(lake) as here:
        moment = as_of_moment(as_of, clock, here.settings.timezone)
        terminal.frame(here.query(sql, as_of=moment), output.value)


@commands.command()
def ask(
    question: Annotated[
        str | None, typer.Argument(metavar="QUESTION", help="Its name; default: list them.")
    ] = None,
    filters: Annotated[
        list[str] | None,
        typer.Option("--filter", metavar="NAME=VALUE", help="Only matching rows; repeatable."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most rows; default: all.")] = None,
    lake: LakeOption = None,
    output: RowsOption = TableOutput.table,
) -> None:
    """Answer one of the questions that the API and the console ask, or list them.

    Times without a zone are in the lake's time zone.

    Example: meterlake ask gaps --filter from=2024-01-01 --filter to=2024-01-31
    """
    from meterlake.questions.question import Part
    from meterlake.questions.question import ask as run
    from meterlake.questions.registry import QUESTIONS, question_of

    with existing_lake(lake) as here:
        if question is None:
            terminal.rows(
                "questions",
                [
                    {
                        "question": q.name,
                        "filters": " ".join(f.name for f in q.filters),
                        "meaning": q.meaning,
                    }
                    for q in QUESTIONS.values()
                ],
                output is TableOutput.json,
            )
            return
        given = dict(_name_and_value(text) for text in filters or ())
        found = question_of(question)
        types = {each.name: each.type for each in found.filters}
        asked = {n: _value(types.get(n, "string"), n, text) for n, text in given.items()}
        page = run(here.store, found, asked, settings=here.settings, part=Part(limit))
        terminal.frame(page.rows, output.value)


@commands.command()
def balance(lake: LakeOption = None, output: RowsOption = TableOutput.table) -> None:
    """Account for every row of each delivered file: stored, quarantined, superseded.

    rows = stored + quarantined; readings = standing + superseded + duplicates.

    Example: meterlake balance
    """
    with existing_lake(lake) as here:
        terminal.frame(here.ask("balance"), output.value)


@commands.command()
def late(lake: LakeOption = None, output: RowsOption = TableOutput.table) -> None:
    """Show which reads came late: by day of reading, type and delivered file.

    Example: meterlake late --output json
    """
    with existing_lake(lake) as here:
        terminal.frame(here.ask("late-reads"), output.value)


def _name_and_value(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator:
        raise BadInput(f"--filter needs name=value; found '{text}'")
    return name, value


def _value(kind: str, name: str, text: str) -> Any:
    """A filter's value from its text."""
    if kind == "timestamp":
        return to_time(text, name)
    if kind == "date":
        return to_date(text, name)
    kinds: dict[str, Callable[[str], Any]] = {
        "boolean": {"true": True, "false": False}.__getitem__,
        "long": int,
        "double": float,
    }
    try:
        return kinds[kind](text) if kind in kinds else text
    except (ValueError, KeyError) as error:
        raise BadInput(f"The filter {name} needs a {kind}; found '{text}'") from error


def _say_that_there_is_none(meter: str, reading_type: str) -> None:
    print(
        f"meterlake: no {reading_type} readings of a meter '{meter}' in that time. Which meters "
        "there are is answered by: meterlake ask meters",
        file=sys.stderr,
    )
