"""Days judged: those of the daily energies that are new or have changed since."""

import uuid
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from meterlake.delta.commit import Change, commit, persistently, snapshot
from meterlake.delta.journal import Provenance, provenance
from meterlake.delta.store import Store
from meterlake.delta.table import DataFile, consumed_of, key_of
from meterlake.engine import Engine
from meterlake.engine.progress import Progress, silent
from meterlake.errors import BadInput
from meterlake.forecast import models
from meterlake.forecast.bands import LOOK_BACK
from meterlake.forecast.days import Judging, judge_days
from meterlake.forecast.models import Model, check_model_zone
from meterlake.forecast.series import READING_TYPE
from meterlake.forecast.temperature import daily_temperature
from meterlake.integrate.consumption import changed_dates, dates_in
from meterlake.periods import first_date, local_midnight, next_date, periods
from meterlake.readings.consumption import check_zone
from meterlake.schema import ANOMALIES, CONSUMPTION_DAILY
from meterlake.settings import Settings

_KEY = "judge"  # the version of the daily table that is judged


@dataclass(frozen=True)
class Detected:
    """Days of meters that were judged, and how many of them are anomalies."""

    judged: int
    anomalies: int
    model: str


def detect(
    store: Store,
    *,
    engine: Engine,
    settings: Settings,
    now: datetime,
    use: str | None = None,
    rebuild: bool = False,
    progress: Progress = silent,
) -> Detected:
    """Judge the days whose energy is new or has changed, in one commit.

    A day that was judged and has the energy that it had then is left as it is, whatever model
    judged it.

    Parameters
    ----------
    use : name of the model whose band judges; None: the current one
    rebuild : judge every day anew

    Raises
    ------
    BadInput
        There is no model, its training had too few days for a band, or the energies are of
        another time zone than the settings'.
    Conflict
        Other writers kept coming first.
    """
    model = models.load(store, use)
    check_model_zone(model, settings.timezone)
    if model.band is None:
        raise BadInput(
            f"Model '{model.name}' has no band: {model.card['no_band']}. Train again then, or "
            "with a longer window: meterlake train"
        )
    return persistently(lambda: _detect(store, engine, settings, now, model, rebuild, progress))


def _detect(
    store: Store,
    engine: Engine,
    settings: Settings,
    now: datetime,
    model: Model,
    rebuild: bool,
    progress: Progress,
) -> Detected:
    assert model.band is not None
    zone = settings.timezone
    state, daily = snapshot(store, ANOMALIES), snapshot(store, CONSUMPTION_DAILY)
    check_zone(store, daily, zone)
    consumed = consumed_of(store, state, _KEY, daily)
    last = provenance(store, ANOMALIES, state.version).settings
    anew = rebuild or consumed < 0 or last.get("timezone", zone) != zone
    if anew:
        dates = dates_in(daily.files, zone).get(READING_TYPE, set())
    else:
        dates = changed_dates(store, daily, consumed, zone).get(READING_TYPE, set())
    units = _plan(store, settings, sorted(dates), daily.files, state.files, anew)
    work = judge_days(store, model.band, model.name, settings.ml)
    judged = anomalies = 0
    files: list[DataFile] = []
    for done, found in enumerate(engine.map(work, units), start=1):
        files += found.files
        judged += found.judged
        anomalies += found.anomalies
        progress("judge", len(units), done)
    replaced = state.files if anew else [f for unit in units for f in unit.before]
    kept = {f.path for f in replaced} & {f.path for f in files}
    add = [f for f in files if f.path not in kept]
    remove = [f for f in replaced if f.path not in kept]
    if add or remove:
        made_of = {"model": model.name, "timezone": zone, **settings.ml.model_dump(mode="json")}
        change = Change(
            {key_of(_KEY, daily): daily.version},
            add=add,
            remove=remove,
            read_version=state.version,
            provenance=Provenance("detect", made_of),
        )
        commit(store, ANOMALIES, change, now=now)
    return Detected(judged, anomalies, model.name)


def _plan(
    store: Store,
    settings: Settings,
    dates: list[date],
    daily: tuple[DataFile, ...],
    there: tuple[DataFile, ...],
    anew: bool,
) -> list[Judging]:
    """A unit for each month with dates to judge."""
    by_month: dict[date, list[date]] = {}
    for day in dates:
        by_month.setdefault(first_date(day, "month"), []).append(day)
    zone = settings.timezone
    units = []
    for month, of_month in by_month.items():
        end = next_date(of_month[-1], "day")
        start = of_month[0] - timedelta(days=LOOK_BACK)
        window = periods(zone, "day", local_midnight(zone, start), local_midnight(zone, end))
        partition = {"year": f"{month.year:04d}", "month": f"{month.month:02d}"}
        units.append(
            Judging(
                tuple(window),
                tuple(of_month),
                daily,
                tuple(f for f in there if f.partition == partition),
                daily_temperature(store, window) if settings.ml.use_weather else None,
                anew,
                partition,
                f"part-{uuid.uuid4().hex}",
            )
        )
    return units
