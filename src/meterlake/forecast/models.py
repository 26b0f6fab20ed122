"""Models as they are stored: files of their forecasters, a card of checksums, and which is current.

Nothing in them runs when it is loaded. The table `models` names each model and the checksum of its
card; the card has the kind of its forecaster and the checksums of the files. A model whose
checksums do not agree is not loaded.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from meterlake.delta.check import Finding
from meterlake.delta.commit import snapshot
from meterlake.delta.store import Store
from meterlake.delta.table import fetched, scan
from meterlake.delta.upsert import change_rows
from meterlake.errors import BadInput
from meterlake.forecast.bands import Band
from meterlake.forecast.fleet import FleetForecaster
from meterlake.schema import MODELS, polars_schema

Row = dict[str, Any]
"""A row of the table of models."""

CARD = "card.json"

_KIND_OF_OLD = "networks"  # cards of meterlake 0.1 do not name it

_OTHER_BYTES = "its bytes are not those that were written"
_WAY_OUT = "restore it, or train again and forget it: meterlake train; meterlake models --forget"


@dataclass(frozen=True)
class Model:
    """A model of the lake: its name, what forecasts and what judges, and its card.

    `band` is None where there were too few days to learn one.
    """

    name: str
    forecaster: FleetForecaster
    band: Band | None
    card: Mapping[str, Any]


def save(
    store: Store,
    forecaster: FleetForecaster,
    band: Band | None,
    facts: Mapping[str, Any],
    trained_until: datetime,
) -> tuple[str, str]:
    """Put a model's files, unknown before the table `models` has it: its name, SHA-256 of its card.

    The name says how far it was trained and what it holds, so the files of a name never change.
    """
    files = forecaster.to_files()
    card = {
        **facts,
        "kind": forecaster.kind,
        "features": list(forecaster.names),
        "band": None if band is None else band.to_json(),
        "sha256": {file: hashlib.sha256(data).hexdigest() for file, data in files.items()},
    }
    digest = hashlib.sha256(_written(card)).hexdigest()
    name = f"{trained_until:%Y%m%dT%H%M}-{digest[:8]}"
    written = _written({"name": name, **card})
    for file, data in files.items():
        store.put(f"{MODELS.path}/{name}/{file}", data)
    store.put(f"{MODELS.path}/{name}/{CARD}", written)
    return name, hashlib.sha256(written).hexdigest()


def _read(store: Store, path: str) -> bytes | None:
    """A file's bytes; None where it is gone."""
    return store.read(path) if store.has(path) else None


def _written(card: Mapping[str, Any]) -> bytes:
    return json.dumps(card, indent=1, sort_keys=True).encode()


def load(store: Store, name: str | None = None) -> Model:
    """A model by its name; None: the current one.

    Raises
    ------
    BadInput
        There is none of that name, or no model at all; its files are not what was stored; or its
        forecaster is not installed.
    """
    row = model_row(store, name)
    folder = f"{MODELS.path}/{row['name']}"

    def sound(file: str, expected: str) -> bytes:
        data = _read(store, f"{folder}/{file}")
        if data is None:
            raise BadInput(
                f"{store.uri(folder)} needs to have {file}; it is gone. Restore it, or train "
                "again: meterlake train"
            )
        found = hashlib.sha256(data).hexdigest()
        if found != expected:
            raise BadInput(
                f"{store.uri(folder)}/{file} needs to be as it was stored, SHA-256 {expected}; "
                f"found {found}. Restore it, or train again: meterlake train"
            )
        return data

    try:
        card = json.loads(sound(CARD, row["card_sha256"]))
        files = {file: sound(file, digest) for file, digest in card["sha256"].items()}
        band = None if card["band"] is None else Band.from_json(card["band"])
        kind = card.get("kind", _KIND_OF_OLD)
        return Model(row["name"], FleetForecaster.from_files(kind, files), band, card)
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(
            f"{store.uri(folder)} is not a model of this version of meterlake: {error!r}. Train "
            "again: meterlake train"
        ) from error


def check_model(store: Store) -> Callable[[tuple[str, str]], list[Finding]]:
    """The work on one model, its name and the SHA-256 of its card: read and compare each file."""

    def work(unit: tuple[str, str]) -> list[Finding]:
        name, card_sha256 = unit
        findings: list[Finding] = []

        def sound(file: str, expected: str) -> bytes | None:
            data = _read(store, f"{MODELS.path}/{name}/{file}")
            if data is not None and hashlib.sha256(data).hexdigest() == expected:
                return data
            problem = "the file is missing" if data is None else _OTHER_BYTES
            problem = f"{problem}; {_WAY_OUT} {name}"
            findings.append(Finding(MODELS.name, f"{name}/{file}", problem))
            return None

        card = sound(CARD, card_sha256)
        if card is not None:
            for file, digest in json.loads(card)["sha256"].items():
                sound(file, digest)
        return findings

    return work


def model_row(store: Store, name: str | None = None) -> Row:
    """A model's row of the table, by its name; None: the current one. Raises BadInput."""
    rows = listed(store)
    if name is not None:
        return named_row(rows, name)
    row = current_row(rows)
    if row is None:
        raise BadInput("The lake has no model yet. Train one: meterlake train")
    return row


def named_row(rows: pl.DataFrame, name: str) -> Row:
    """The row of a name, of rows of the table. Raises BadInput where there is none."""
    found = rows.filter(pl.col("name") == name)
    if found.is_empty():
        known = ", ".join(rows["name"].to_list()) or "none"
        raise BadInput(f"There is no model '{name}'; the lake has: {known}")
    return found.row(0, named=True)


def current_row(rows: pl.DataFrame) -> Row | None:
    """The row of the current model, the one chosen last; None where there is none."""
    chosen = rows.filter(pl.col("chosen_at").is_not_null()).sort("chosen_at", "name")
    return None if chosen.is_empty() else chosen.row(-1, named=True)


def listed(store: Store) -> pl.DataFrame:
    """All models, the newest first."""
    rows = fetched(scan(store, MODELS, snapshot(store, MODELS).files))
    return rows.sort("created_at", "name", descending=True)


def check_model_zone(model: Model, zone: str) -> None:
    """Raise BadInput where a model was trained on the hours of another zone."""
    found = model.card["timezone"]
    if found != zone:
        raise BadInput(
            f"Model '{model.name}' is of hours in {found}; the setting timezone is {zone}. Correct "
            "the setting, or train again: meterlake train"
        )


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
        is_better, wql_before = judged(current_row(rows))
        there = rows.filter(pl.col("name") == row["name"])
        new = {**row, "chosen_at": None, "wql_before": wql_before}
        entry = new if there.is_empty() else there.row(0, named=True)
        if is_better:
            entry["chosen_at"] = _last_choice(rows, now)
        return _with_row(rows, entry)

    change_rows(store, MODELS, entered, job="train", now=now)


def choose(store: Store, name: str, *, now: datetime) -> None:
    """Make a model current. Raises BadInput where there is none of that name, or it is damaged."""
    load(store, name)

    def chosen(rows: pl.DataFrame) -> pl.DataFrame:
        row = named_row(rows, name)
        return _with_row(rows, {**row, "chosen_at": _last_choice(rows, now)})

    change_rows(store, MODELS, chosen, job="choose", now=now)


def forget(store: Store, name: str, *, now: datetime) -> None:
    """Take a model out of the table; a vacuum removes its files, and its forecasts stay.

    Raises
    ------
    BadInput
        There is none of that name, or it is the current one.
    """

    def forgotten(rows: pl.DataFrame) -> pl.DataFrame:
        named_row(rows, name)
        current = current_row(rows)
        if current is not None and current["name"] == name:
            raise BadInput(
                f"Model '{name}' is the current one. Make another one current first: meterlake "
                "models --use NAME, or meterlake train --force"
            )
        return rows.filter(pl.col("name") != name)

    change_rows(store, MODELS, forgotten, job="forget", now=now)


def _with_row(rows: pl.DataFrame, row: Row) -> pl.DataFrame:
    new = pl.DataFrame([row], schema=polars_schema(MODELS))
    return pl.concat([rows.filter(pl.col("name") != row["name"]), new])


def _last_choice(rows: pl.DataFrame, now: datetime) -> datetime:
    """The moment at which a choice is the last one: a job that began before may choose later."""
    chosen: list[datetime] = rows["chosen_at"].drop_nulls().to_list()
    return max([now, *(at + timedelta(microseconds=1) for at in chosen)])
