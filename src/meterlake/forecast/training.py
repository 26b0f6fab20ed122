"""Training and backtests, each as a job."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl

from meterlake import __version__
from meterlake.delta.commit import snapshot
from meterlake.delta.store import Store
from meterlake.engine import Engine
from meterlake.engine.progress import Progress, silent
from meterlake.errors import BadInput
from meterlake.forecast import bands, models
from meterlake.forecast.days import read_days
from meterlake.forecast.features import CONTEXT, HORIZON
from meterlake.forecast.learning import (
    Learning,
    Learnt,
    Origins,
    Trained,
    day_off_of,
    hindcasts,
    learn,
    plan_origins,
    scored,
    share_of_rows,
    step_of,
    trained,
)
from meterlake.forecast.models import Model, Row
from meterlake.forecast.registry import named_forecaster
from meterlake.forecast.scores import Scores, scores
from meterlake.forecast.series import READING_TYPE, end_of_readings
from meterlake.forecast.temperature import daily_temperature, hourly_temperature
from meterlake.periods import LocalHours, local_hour, periods
from meterlake.readings.layout import DAY, LiveLayout, Piece
from meterlake.readings.meter_ranges import meters_in
from meterlake.schema import CONSUMPTION_DAILY
from meterlake.settings import Settings

log = logging.getLogger(__name__)

_LEAST_DAYS = 21
_RANGE_METERS = 20  # meters next to each other, which a file has in one or two row groups


@dataclass(frozen=True)
class TrainResult:
    """What a training gave. `is_current`: whether the model is now the one that forecasts.

    `before` is the model that was current, None where there was none; `compared_by` says how both
    were compared, and `wql_compared` and `wql_before` are their losses then. `no_band` says why
    there is no band for anomalies, None where there is one.
    """

    name: str
    scores: Scores
    rows: int
    meters: int
    trained_from: datetime
    trained_until: datetime
    held_out_weeks: int
    is_current: bool
    before: str | None
    wql_compared: float | None
    wql_before: float | None
    compared_by: str
    no_band: str | None


def train(
    store: Store,
    *,
    engine: Engine,
    settings: Settings,
    now: datetime,
    force: bool = False,
    progress: Progress = silent,
) -> TrainResult:
    """Train a model on the last days of readings; it becomes current where it is not worse.

    Raises
    ------
    BadInput
        There are too few readings, or no such forecaster, or a package of its extra is missing.
    """
    forecaster = named_forecaster(settings.ml.forecaster)
    live = LiveLayout(store)
    work = _work(store, live, settings)
    parts = _learnt(store, engine, settings, work, progress)
    unit = work.unit(settings)
    done = trained(parts, unit, day_off_of(settings.ml), forecaster, settings.workers)
    progress("train", 2, 1)
    band, no_band = _band(store, settings, work)
    progress("train", 2, 2)

    new = _Candidate(done, band, no_band, parts, unit)
    facts = new.facts(settings, live.integrated.version)
    name, digest = models.save(store, done.model, band, facts, work.hours.end())
    before: str | None = None
    compared = _Compared("")

    def judged(current: Row | None) -> tuple[bool, float | None]:
        nonlocal before, compared
        before = None if current is None else current["name"]
        if before == name:
            compared = _Compared("nothing: it is the current model already")
            return False, None
        compared = _compared(store, before, new, settings)
        return force or compared.is_better, compared.wql_before

    models.enter(store, new.row(name, digest, facts, now), judged, now=now)
    return TrainResult(
        name,
        done.scores,
        done.rows,
        new.meters,
        work.hours.start(),
        work.hours.end(),
        len(unit.origins.held_out),
        force or compared.is_better,
        before,
        compared.wql,
        compared.wql_before,
        compared.by,
        no_band,
    )


@dataclass(frozen=True)
class _Candidate:
    """A new model and its band, and what both were made from; `no_band` as in TrainResult."""

    trained: Trained
    band: bands.Band | None
    no_band: str | None
    parts: Sequence[Learnt]
    unit: Learning

    @property
    def meters(self) -> int:
        return sum(part.meters for part in self.parts)

    def facts(self, settings: Settings, readings_version: int) -> dict[str, Any]:
        """What the card says of the training."""
        return {
            "trained_from": self.unit.hours.start().isoformat(),
            "trained_until": self.unit.hours.end().isoformat(),
            "meters": self.meters,
            "rows": self.trained.rows,
            "held_out_weeks": len(self.unit.origins.held_out),
            "scores": asdict(self.trained.scores),
            "timezone": settings.timezone,
            "settings": settings.ml.model_dump(mode="json"),
            "readings_version": readings_version,
            "code_version": __version__,
            "no_band": self.no_band,
        }

    def row(self, name: str, card_sha256: str, facts: dict[str, Any], now: datetime) -> Row:
        """The model's row of the table, of the facts on its card."""
        same = ("meters", "rows", "held_out_weeks", "readings_version", "code_version")
        scores = self.trained.scores
        return {
            **{column: facts[column] for column in same},
            "name": name,
            "created_at": now,
            "trained_from": self.unit.hours.start(),
            "trained_until": self.unit.hours.end(),
            "wql": scores.wql,
            "nd": scores.nd,
            "coverage": scores.coverage,
            "card_sha256": card_sha256,
        }


@dataclass(frozen=True)
class Backtest:
    """How a model that saw nothing after the first origin did, by origin and in all."""

    by_origin: tuple[tuple[datetime, Scores], ...]
    all: Scores
    naive: Scores
    rows: int
    meters: int


def backtest(
    store: Store,
    *,
    engine: Engine,
    settings: Settings,
    origins: int = 4,
    progress: Progress = silent,
) -> Backtest:
    """Train on what was before the last weeks, forecast each of them, and compare.

    Parameters
    ----------
    origins : number of weeks, one origin each

    Raises
    ------
    BadInput
        There are too few readings, or no such forecaster, or a package of its extra is missing.
    """
    forecaster = named_forecaster(settings.ml.forecaster)
    live = LiveLayout(store)
    work = _work(store, live, settings, timedelta(weeks=origins))
    parts = _learnt(store, engine, settings, work, progress)
    day_off = day_off_of(settings.ml)
    done = trained(parts, work.unit(settings), day_off, forecaster, settings.workers)

    judged = _judged_work(store, live, work, origins)
    held = _learnt(store, engine, settings, judged, progress)
    found = hindcasts(done.model, held, judged.unit(settings), day_off)
    stretch = done.model.stretch["meter"]
    return Backtest(
        tuple(
            (
                judged.hours.wall(origin).replace(tzinfo=None),
                scored([h for h in found if h.origin == origin], stretch=stretch),
            )
            for origin in judged.origins.held_out
        ),
        scored(found, stretch=stretch),
        _naive(held),
        done.rows,
        sum(p.meters for p in parts),
    )


@dataclass(frozen=True)
class _Work:
    """A window, its origins, the meters to learn from, and where their readings lie.

    `step`: hours between origins to learn from; None: nothing is learnt.
    """

    hours: LocalHours
    origins: Origins
    ranges: tuple[tuple[str, ...], ...]
    pieces: tuple[Piece, ...]
    temperature: Any
    step: int | None = None

    def unit(self, settings: Settings, number: int = 0) -> Learning:
        meters, count = self.ranges[number], sum(map(len, self.ranges))
        origins = self.origins
        if self.step is not None:  # of other meters at other hours
            offset = self.step * number // len(self.ranges)
            origins = plan_origins(self.hours.count, self.step, offset)
        return Learning(
            self.pieces,
            pl.col("meter_id").is_in(list(meters)),
            self.hours,
            origins,
            share_of_rows(count, len(origins.learn), settings.ml),
            self.temperature,
            number,
        )


def _work(
    store: Store, live: LiveLayout, settings: Settings, without: timedelta | None = None
) -> _Work:
    """The window up to the last reading, or so long before it."""
    zone = settings.timezone
    layout = live.now()
    end = end_of_readings(layout, zone)
    if without is not None:
        end -= without
    first = local_hour(zone, layout.days(READING_TYPE)[0])
    count = min((end - first) // timedelta(hours=1), settings.ml.window_days * 24)
    if count < _LEAST_DAYS * 24:
        fewer = "" if without is None else ". Give fewer --origins, where there are more"
        raise BadInput(
            f"Training needs {_LEAST_DAYS} days of readings of type kw or more; found "
            f"{max(count, 0) // 24} before {end:%Y-%m-%d %H:%M} ({zone}){fewer}"
        )
    hours = LocalHours(zone, end - timedelta(hours=count), count)
    pieces = tuple(layout.pieces(READING_TYPE, hours.start(), hours.end()))
    recent = layout.pieces(READING_TYPE, hours.end() - 28 * DAY, hours.end())
    ranges = _ranges(meters_in(store, recent), settings.ml.train_meters)
    temperature = hourly_temperature(store, hours) if settings.ml.use_weather else None
    step = step_of(count, sum(map(len, ranges)), settings.ml.train_rows)
    return _Work(hours, plan_origins(count, step), ranges, pieces, temperature, step)


def _judged_work(store: Store, live: LiveLayout, work: _Work, origins: int) -> _Work:
    """The weeks after a window and what forecasts of them may know, of the same meters."""
    first = work.hours.number(work.hours.end()) - CONTEXT
    hours = LocalHours(work.hours.zone, work.hours.wall(first), CONTEXT + origins * HORIZON)
    weeks = tuple(CONTEXT + HORIZON * number for number in range(origins))
    pieces = tuple(live.now().pieces(READING_TYPE, hours.start(), hours.end()))
    temperature = None if work.temperature is None else hourly_temperature(store, hours)
    return _Work(hours, Origins((), weeks), work.ranges, pieces, temperature)


def _ranges(meters: Sequence[str], most: int) -> tuple[tuple[str, ...], ...]:
    """Runs of meters next to each other, spread evenly over all, of so many in all at most."""
    if not meters:
        raise BadInput("Training needs meters with readings in the last four weeks; found none")
    runs = [tuple(meters[i : i + _RANGE_METERS]) for i in range(0, len(meters), _RANGE_METERS)]
    wanted = max(1, -(-min(most, len(meters)) // _RANGE_METERS))
    return tuple(runs[number * len(runs) // wanted] for number in range(wanted))


def _learnt(
    store: Store, engine: Engine, settings: Settings, work: _Work, progress: Progress
) -> list[Learnt]:
    units = [work.unit(settings, number) for number in range(len(work.ranges))]
    parts = []
    for done, part in enumerate(engine.map(learn(store, settings.ml), units), start=1):
        parts.append(part)
        progress("learn", len(units), done)
    return parts


def _band(store: Store, settings: Settings, work: _Work) -> tuple[bands.Band | None, str | None]:
    """A band of the same meters' days; or why there is none, which forecasts do not need."""
    meters = [meter for run in work.ranges for meter in run]
    # From before the first: a day needs some before it, but not all that there might be.
    start = work.hours.start() - bands.HISTORY * DAY
    window = periods(settings.timezone, "day", start, work.hours.end())
    files = snapshot(store, CONSUMPTION_DAILY).files
    use_weather = settings.ml.use_weather
    temperature = daily_temperature(store, window) if use_weather else None
    keep = pl.col("meter_id").is_in(meters)
    _, days = read_days(store, files, window, temperature, keep=keep)
    try:
        return bands.fit_band(days, day_off_of(settings.ml)), None
    except BadInput as error:
        return None, str(error)


@dataclass(frozen=True)
class _Compared:
    """What two models were compared by, and losses of the new one and of the one before by that."""

    by: str
    wql: float | None = None
    wql_before: float | None = None
    has_less: bool = False

    @property
    def is_better(self) -> bool:
        if self.has_less:
            return False
        # Not worse: also where weeks without a load tell nothing, and a loss is NaN.
        if self.wql is None or self.wql_before is None:
            return True
        return not self.wql > self.wql_before


def _compared(store: Store, name: str | None, new: _Candidate, settings: Settings) -> _Compared:
    """How the new model does beside the one before, on weeks that neither has seen."""
    if name is None:
        return _Compared("nothing: there was no model before")
    try:
        before = models.load(store, name)
    except BadInput as error:
        log.warning("The model before is not compared with: %s", error)
        return _Compared("nothing: the model before cannot be loaded")
    card = before.card
    if card["timezone"] != settings.timezone:
        return _Compared(f"nothing: the model before is of hours in {card['timezone']}")
    if before.band is not None and new.band is None:
        by = "the band for anomalies, which the model before has: --force does without"
        return _Compared(by, has_less=True)
    unseen = _unseen(before, new.unit)
    if unseen:
        found = hindcasts(before.forecaster, new.parts, new.unit, day_off_of(settings.ml))
        wql = scored(found, stretch=before.forecaster.stretch["meter"], origins=unseen).wql
        loss = scored(new.trained.hindcasts, origins=unseen).wql
        return _Compared("the held-out weeks that the model before had not seen", loss, wql)
    held_out = len(new.unit.origins.held_out)
    same = card["trained_until"], card["held_out_weeks"], card["meters"]
    if same == (new.unit.hours.end().isoformat(), held_out, new.meters):
        wql = float(card["scores"]["wql"])
        return _Compared("the weeks that both have held out", new.trained.scores.wql, wql)
    return _Compared("nothing: the model before has seen the weeks held out now")


def _unseen(model: Model, unit: Learning) -> tuple[int, ...]:
    """Origins of the held-out weeks that a model has not seen."""
    seen = datetime.fromisoformat(model.card["trained_until"])
    return tuple(o for o in unit.origins.held_out if _moment(unit.hours, o) >= seen)


def _moment(hours: LocalHours, number: int) -> datetime:
    return LocalHours(hours.zone, hours.wall(number), 1).start()


def _naive(held: Sequence[Learnt]) -> Scores:
    """Scores of last week's value of the same hour, as all three quantiles."""
    parts = [h for part in held for h in part.held_out if h.kind == "meter"]
    actual = np.concatenate([h.actual for h in parts])
    before = np.concatenate([h.context[:, -HORIZON:] for h in parts])
    known = np.where(np.isnan(before), np.nan, actual)
    filled = np.nan_to_num(before)
    return scores(known, {"p10": filled, "p50": filled, "p90": filled})
