"""Printing for people and for programs, and progress on the terminal."""

import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import polars as pl

from meterlake.engine.progress import Progress
from meterlake.errors import BadInput

MAX_ROWS = 100  # a table on the terminal shows this many rows and says how many there are


def result(facts: Mapping[str, Any], as_json: bool) -> None:
    """One command's figures: a JSON object, or lines of name and figure."""
    if as_json:
        print(json.dumps(facts, default=str, ensure_ascii=False))
        return
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        if isinstance(value, list):
            for item in value:
                told = item.get("reason") or ": ".join(map(str, item.values()))
                print(f"{name.replace('_', ' '):<{width}}  {told}")
        elif isinstance(value, Mapping):
            told = ", ".join(f"{n.replace('_', ' ')} {v:,}" for n, v in value.items())
            print(f"{name.replace('_', ' '):<{width}}  {told}")
        else:
            shown = f"{value:,}" if _is_number(value) else str(value)
            print(f"{name.replace('_', ' '):<{width}}  {shown}")


def rows(
    name: str,
    items: Sequence[Mapping[str, Any]],
    as_json: bool,
    *,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """A short list: a JSON object with it under `name`, or a table."""
    if as_json:
        print(json.dumps({**(extra or {}), name: items}, default=str, ensure_ascii=False))
    else:
        _table(list(items[0]) if items else [name], [list(item.values()) for item in items])


def frame(data: pl.DataFrame, output: str) -> None:
    """Rows as table, csv, json (one object: `rows` and the list) or parquet (bytes)."""
    if output == "json":
        print(json.dumps({"rows": json.loads(_iso_times(data).write_json())}, ensure_ascii=False))
    elif output == "csv":
        nested = [n for n, t in data.schema.items() if t.is_nested()]
        if nested:
            raise BadInput(
                f"--output csv needs plain columns; '{nested[0]}' is a list or has parts. "
                "Unnest it in the query, or use --output json"
            )
        sys.stdout.write(_iso_times(data).write_csv())
    elif output == "parquet":
        if sys.stdout.isatty():
            raise BadInput("--output parquet needs a file or pipe: add > readings.parquet")
        buffer = io.BytesIO()
        data.write_parquet(buffer)
        sys.stdout.buffer.write(buffer.getvalue())
    else:
        _table(data.columns, [list(row) for row in _iso_times(data.head(MAX_ROWS)).rows()])
        if data.height > MAX_ROWS:
            print(f"{MAX_ROWS} of {data.height:,} rows; another --output has them all")
        elif data.is_empty():
            print("no rows")


@contextmanager
def progress(*, quiet: bool = False) -> Iterator[Progress]:
    """A progress bar on stderr, where that is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda what, total, done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn())
    with Bars(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as bars:
        tasks = {}

        def tell(what: str, total: int | None, done: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], total=total, completed=done)

        yield tell


def _iso_times(data: pl.DataFrame) -> pl.DataFrame:
    times = [n for n, t in data.schema.items() if isinstance(t, pl.Datetime)]
    return data.with_columns(
        pl.col(n).dt.strftime(
            "%Y-%m-%dT%H:%M:%S%.fZ" if data.schema[n].time_zone else "%Y-%m-%dT%H:%M:%S%.f"  # type: ignore[attr-defined]
        )
        for n in times
    )


def _table(columns: Sequence[str], values: Sequence[Sequence[Any]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    numeric = [
        bool(values) and all(isinstance(row[i], int | float | None) for row in values)
        for i in range(len(columns))
    ]
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column, right in zip(columns, numeric, strict=True):
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    for row in values:
        table.add_row(*(Text(_cell(value)) for value in row))
    # Off a terminal nothing is folded to a width that nobody has.
    Console(width=None if sys.stdout.isatty() else 400).print(table)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if not _is_number(value):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"
