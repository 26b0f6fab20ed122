"""Batch inference: the forecast of a range of meters, and of the grid's nodes above them."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import polars as pl
from numpy.typing import NDArray

from meterlake.delta.store import Store
from meterlake.delta.table import write_file
from meterlake.forecast.calibration import Forecast
from meterlake.forecast.features import CONTEXT, HORIZON, QUANTITIES, sound
from meterlake.forecast.fleet import DayOff, FleetForecaster
from meterlake.forecast.learning import day_off_of
from meterlake.forecast.models import Model
from meterlake.forecast.series import Series, read_series
from meterlake.forecast.statistics import Floats
from meterlake.forecast.statistics import mean as mean_known
from meterlake.periods import LocalHours
from meterlake.pipeline.derivation import Made
from meterlake.readings.layout import HOUR, Piece
from meterlake.schema import FORECASTS
from meterlake.settings import MlSettings

NODES = ("distribution_transformer", "substation")
_DIGITS = 6  # of kWh: a milliwatt hour
_LEAST_KNOWN = 0.9  # share of a node's usual energy that has to be known in an hour


@dataclass(frozen=True)
class Target:
    """When a forecast begins, and what it may know: the hours before, the temperature."""

    start: datetime
    context: LocalHours
    temperature: Floats | None

    def moments(self) -> list[datetime]:
        """Start of each hour that is forecast."""
        return [self.start + number * HOUR for number in range(HORIZON)]

    def numbers(self) -> NDArray[np.int64]:
        """Of each of them the number of the hour that the clock shows, from the origin on.

        Where the clock is put forward in between, the last real hour lies beyond what is
        forecast: it takes the value of the same hour a day before.
        """
        found = np.array([self.context.number(m) - CONTEXT for m in self.moments()])
        return np.where(found < HORIZON, found, found - 24)


@dataclass(frozen=True)
class Scoring:
    """A unit of work: the readings of a range of meters before the start."""

    pieces: tuple[Piece, ...]
    keep: pl.Expr | None


@dataclass(frozen=True)
class NodeSums:
    """Of the meters below some nodes: what is known of them, and their means added up.

    `ids` are of one kind of node; `known` is the usual energy of those whose hour is known.
    """

    kind: str
    ids: tuple[str, ...]
    meters: NDArray[np.int64]
    energy: NDArray[np.float64]  # [nodes, CONTEXT]
    known: NDArray[np.float64]  # [nodes, CONTEXT]
    usual: NDArray[np.float64]  # [nodes]
    mean: NDArray[np.float64]  # [nodes, HORIZON], by the clock


@dataclass(frozen=True)
class Scored(Made):
    """What a unit wrote, and its part of the nodes' sums."""

    meters: int = 0
    sums: tuple[NodeSums, ...] = ()


def score(
    store: Store,
    model: Model,
    target: Target,
    settings: MlSettings,
    above: pl.DataFrame | None,
    start: str,
) -> Callable[[Scoring], Scored]:
    """The work on one unit: its file of forecasts.

    Parameters
    ----------
    above : meter_id and the id of its node of each of NODES; None without a topology
    start : name of the partition
    """

    def work(unit: Scoring) -> Scored:
        series = read_series(store, unit.pieces, target.context, keep=unit.keep)
        if not series.meters:
            return Scored()
        found = forecast_of(model.forecaster, series, target, day_off_of(settings))
        rows = forecast_rows(series.meters, found, target)
        partition = {"model_name": model.name, "start": start}
        name = f"part-{uuid.uuid4().hex}"
        file = write_file(store, FORECASTS, rows, partition=partition, name=name)
        sums = () if above is None else _sums(series, found["mean"], above)
        return Scored((file,), len(series.meters), sums)

    return work


def forecast_of(
    forecaster: FleetForecaster,
    series: Series,
    target: Target,
    day_off: DayOff,
    kind: str = "meter",
) -> Forecast:
    """Forecast by the clock: hour 0 is the target's first local hour."""
    origin = target.context.wall(CONTEXT)
    return forecaster.forecast(series.energy, origin, day_off, target.temperature, kind=kind)


def forecast_rows(meters: Sequence[str], found: Forecast, target: Target) -> pl.DataFrame:
    """The rows of the table of forecasts without its partition columns, by meter and time."""
    return pl.DataFrame(
        {
            "meter_id": pl.Series(list(meters), dtype=pl.String).gather(
                np.repeat(np.arange(len(meters)), HORIZON)
            ),
            **_of_hours(found, target),
        }
    )


def node_rows(
    sums: Sequence[NodeSums], forecaster: FleetForecaster, target: Target, settings: MlSettings
) -> pl.DataFrame:
    """The rows of the table of nodes' forecasts without its partition columns.

    A node's mean is the sum of its meters' means. Its quantiles are those that the model gives
    for the sum of the meters' histories, moved so that its mean is that sum.
    """
    parts = []
    for kind in NODES:
        total = _added([s for s in sums if s.kind == kind])
        if total is None:
            continue
        is_known = total.known >= _LEAST_KNOWN * total.usual[:, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            filled = total.energy * (total.usual[:, None] / total.known)
        energy = np.where(is_known, filled, np.nan).astype(np.float32)
        energy[(total.usual == 0) & ~total.mean.any(axis=1)] = 0  # of meters that are all idle
        series = Series(total.ids, target.context, energy)
        found = forecast_of(forecaster, series, target, day_off_of(settings), "sum")
        moved = total.mean - found["mean"]
        rows = {name: values + moved for name, values in found.items()}
        number = np.repeat(np.arange(len(total.ids)), HORIZON)
        parts.append(
            pl.DataFrame(
                {
                    "kind": pl.Series([kind], dtype=pl.String).gather(np.zeros_like(number)),
                    "id": pl.Series(list(total.ids), dtype=pl.String).gather(number),
                    **_of_hours(rows, target),
                    "meters": total.meters[number],
                }
            )
        )
    return pl.concat(parts) if parts else pl.DataFrame()


def _of_hours(found: Mapping[str, NDArray[np.floating]], target: Target) -> dict[str, pl.Series]:
    utc = pl.Datetime("us", "UTC")
    count = len(found["mean"])
    moments = pl.Series(target.moments(), dtype=utc)
    numbers = target.numbers()
    return {
        "forecast_start": pl.Series([target.start], dtype=utc).gather(
            np.zeros(count * HORIZON, np.int64)
        ),
        "date_time": moments.gather(np.tile(np.arange(HORIZON), count)),
        **{
            name: pl.Series(found[name][:, numbers].reshape(-1).astype(np.float64)).round(_DIGITS)
            for name in QUANTITIES
        },
    }


def _sums(series: Series, mean: Floats, above: pl.DataFrame) -> tuple[NodeSums, ...]:
    number: Mapping[str, int] = {meter: i for i, meter in enumerate(series.meters)}
    here = above.filter(pl.col("meter_id").is_in(list(number)))
    energy = sound(series.energy)
    usual = np.nan_to_num(mean_known(np.abs(energy), axis=1))
    known = ~np.isnan(energy)
    stored = np.round(mean.astype(np.float64), _DIGITS)  # what is added up is what is stored
    parts = []
    for kind in NODES:
        column = f"{kind}_id"
        grouped = here.filter(pl.col(column).is_not_null()).group_by(column).agg("meter_id")
        grouped = grouped.sort(column)
        members = [[number[m] for m in meters] for meters in grouped["meter_id"].to_list()]
        parts.append(
            NodeSums(
                kind,
                tuple(grouped[column].to_list()),
                np.array([len(m) for m in members], np.int64),
                _stacked(
                    [np.nansum(energy[m], axis=0, dtype=np.float64) for m in members],
                    CONTEXT,
                ),
                _stacked([(known[m] * usual[m, None]).sum(axis=0) for m in members], CONTEXT),
                np.array([usual[m].sum() for m in members], np.float64),
                _stacked([stored[m].sum(axis=0) for m in members], HORIZON),
            )
        )
    return tuple(parts)


def _stacked(rows: Sequence[NDArray[np.floating]], width: int) -> NDArray[np.float64]:
    return np.stack(rows).astype(np.float64) if rows else np.zeros((0, width))


def _added(parts: Sequence[NodeSums]) -> NodeSums | None:
    """Parts of one kind added up, by id."""
    ids = sorted({node for part in parts for node in part.ids})
    if not ids:
        return None
    at = {node: number for number, node in enumerate(ids)}
    count = len(ids)
    total = NodeSums(
        parts[0].kind,
        tuple(ids),
        np.zeros(count, np.int64),
        np.zeros((count, CONTEXT)),
        np.zeros((count, CONTEXT)),
        np.zeros(count),
        np.zeros((count, HORIZON)),
    )
    for part in parts:
        rows = [at[node] for node in part.ids]
        total.meters[rows] += part.meters
        total.energy[rows] += part.energy
        total.known[rows] += part.known
        total.usual[rows] += part.usual
        total.mean[rows] += part.mean
    return total
