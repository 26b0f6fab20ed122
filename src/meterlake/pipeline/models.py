"""Which models the lake has, and which of them is current: changes of the table of models."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from meterlake.delta.store import Store
from meterlake.delta.upsert import change_rows
from meterlake.errors import BadInput
from meterlake.forecast import models
from meterlake.schema import MODELS, polars_schema

Row = dict[str, Any]
"""A row of the table of models."""


def enter(
    store: Store,
    row: Row,
    judged: Callable[[Row | None], tuple[bool, float | None]],
    *,
    now: datetime,
) -> None:
    """Add a model's row, and make it current where it is judged better than the one that is.

    Where another model became current meanwhile, it is judged once more, beside that one. Of a
    model that is there already nothing changes, but that it may become current.

    Parameters
    ----------
    row : without chosen_at and wql_before
    judged : of the row of the current model (None: there is none), whether the new one is better,
        and the loss of that one
    """

    def entered(rows: pl.DataFrame) -> pl.DataFrame:
        is_better, wql_before = judged(models.current_row(rows))
        there = rows.filter(pl.col("name") == row["name"])
        new = {**row, "chosen_at": None, "wql_before": wql_before}
        entry = new if there.is_empty() else there.row(0, named=True)
        if is_better:
            entry["chosen_at"] = _last_of(rows, now)
        return _with(rows, entry)

    change_rows(store, MODELS, entered, job="train", now=now)


def choose(store: Store, name: str, *, now: datetime) -> None:
    """Make a model current. Raises BadInput where there is none of that name, or it is damaged."""
    models.load(store, name)

    def chosen(rows: pl.DataFrame) -> pl.DataFrame:
        row = models.named_row(rows, name)
        return _with(rows, {**row, "chosen_at": _last_of(rows, now)})

    change_rows(store, MODELS, chosen, job="choose", now=now)


def forget(store: Store, name: str, *, now: datetime) -> None:
    """Take a model out of the table; a vacuum removes its files, and its forecasts stay.

    Raises
    ------
    BadInput
        There is none of that name, or it is the current one.
    """

    def forgotten(rows: pl.DataFrame) -> pl.DataFrame:
        models.named_row(rows, name)
        current = models.current_row(rows)
        if current is not None and current["name"] == name:
            raise BadInput(
                f"Model '{name}' is the current one. Make another one current first: meterlake "
                "models --use NAME, or meterlake train --force"
            )
        return rows.filter(pl.col("name") != name)

    change_rows(store, MODELS, forgotten, job="forget", now=now)


def _with(rows: pl.DataFrame, row: Row) -> pl.DataFrame:
    new = pl.DataFrame([row], schema=polars_schema(MODELS))
    return pl.concat([rows.filter(pl.col("name") != row["name"]), new])


def _last_of(rows: pl.DataFrame, now: datetime) -> datetime:
    """The moment at which a choice is the last one: a job that began before may choose later."""
    chosen: list[datetime] = rows["chosen_at"].drop_nulls().to_list()
    return max([now, *(at + timedelta(microseconds=1) for at in chosen)])
