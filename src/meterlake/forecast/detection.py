"""Days judged: those of the daily energies that are new or have changed since."""

import uuid
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import partial

from meterlake.errors import BadInput
from meterlake.forecast import models
from meterlake.forecast.bands import LOOK_BACK
from meterlake.forecast.days import JudgedDays, Judging, judge_days
from meterlake.forecast.models import Model, check_model_zone
from meterlake.forecast.series import READING_TYPE
from meterlake.forecast.temperature import daily_temperature
from meterlake.integrate.consumption import changed_dates, dates_in
from meterlake.periods import first_date, local_midnight, next_date, periods
from meterlake.pipeline.derivation import Derivation, Plan, Run, Session
from meterlake.pipeline.runner import bring_up
from meterlake.readings.consumption import check_zone
from meterlake.schema import ANOMALIES, CONSUMPTION_DAILY


@dataclass(frozen=True)
class Detected:
    """Days of meters that were judged, and how many of them are anomalies."""

    judged: int
    anomalies: int
    model: str


def detect(session: Session, *, use: str | None = None, rebuild: bool = False) -> Detected:
    """Judge the days whose energy is new or has changed, in one commit.

    A day that was judged and has the energy that it had then is left as it is, whatever model
    judged it.

    Parameters
    ----------
    use : name of the model whose band judges; None: the current one
    rebuild : judge every day again

    Raises
    ------
    BadInput
        There is no model, its training had too few days for a band, or the energies are of
        another time zone than the settings'.
    Conflict
        Other writers kept coming first.
    """
    derivation = replace(DETECTION, plan=partial(_plan, use=use))
    outcome = bring_up(session, derivation, rebuild=rebuild)
    judged = sum(made.judged for made in outcome.made)
    anomalies = sum(made.anomalies for made in outcome.made)
    return Detected(judged, anomalies, outcome.plan.facts["model"])


def _plan(run: Run, use: str | None = None) -> Plan[JudgedDays]:
    model = _model_with_band(run, use)
    assert model.band is not None
    daily, zone = run.inputs[CONSUMPTION_DAILY.name], run.settings.timezone
    check_zone(run.store, daily, zone)
    is_full = run.is_full or bool(run.damaged)
    if is_full:
        dates = dates_in(daily.files, zone).get(READING_TYPE, set())
    else:
        dates = changed_dates(run.since(CONSUMPTION_DAILY), zone).get(READING_TYPE, set())
    units = _units(run, sorted(dates), is_full)
    return Plan(
        units,
        judge_days(run.store, model.band, model.name, run.settings.ml),
        run.state.files if is_full else [f for unit in units for f in unit.before],
        facts={"model": model.name, "ml": run.settings.ml.model_dump(mode="json")},
    )


def _model_with_band(run: Run, use: str | None) -> Model:
    model = models.load(run.store, use)
    check_model_zone(model, run.settings.timezone)
    if model.band is None:
        raise BadInput(
            f"Model '{model.name}' has no band: {model.card['no_band']}. Train again then, or "
            "with a longer window: meterlake train"
        )
    return model


def _units(run: Run, dates: list[date], is_full: bool) -> list[Judging]:
    """A unit for each month with dates to judge."""
    by_month: dict[date, list[date]] = {}
    for day in dates:
        by_month.setdefault(first_date(day, "month"), []).append(day)
    zone, use_weather = run.settings.timezone, run.settings.ml.use_weather
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
                run.inputs[CONSUMPTION_DAILY.name].files,
                tuple(f for f in run.state.files if f.partition == partition),
                daily_temperature(run.store, window) if use_weather else None,
                is_full,
                partition,
                f"part-{uuid.uuid4().hex}",
            )
        )
    return units


DETECTION = Derivation(
    ANOMALIES, made_from=(CONSUMPTION_DAILY,), settings=("timezone",), plan=_plan
)
