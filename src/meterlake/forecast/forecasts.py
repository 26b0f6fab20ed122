"""Forecasts from the last readings on: of all meters into the lake, or of some on demand."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

import polars as pl

from meterlake.delta.commit import snapshot
from meterlake.delta.store import Store
from meterlake.delta.table import write_file
from meterlake.errors import BadInput
from meterlake.forecast import models
from meterlake.forecast.features import CONTEXT, HORIZON
from meterlake.forecast.inference import (
    NODES,
    Scored,
    Scoring,
    Target,
    forecast_of,
    forecast_rows,
    node_rows,
    score,
)
from meterlake.forecast.learning import (
    day_off_of,
)
from meterlake.forecast.models import Model, check_model_zone
from meterlake.forecast.series import READING_TYPE, end_of_readings, read_series
from meterlake.forecast.temperature import hourly_temperature
from meterlake.periods import LocalHours, local_hour
from meterlake.pipeline.derivation import Derivation, Finish, Plan, Run, Session
from meterlake.pipeline.runner import bring_up
from meterlake.readings.layout import LiveLayout, Piece
from meterlake.readings.meter_ranges import RANGE_ROWS, meter_ranges
from meterlake.schema import (
    FORECASTS,
    NODE_FORECASTS,
    READINGS,
)
from meterlake.settings import Settings
from meterlake.topology.upstream import moment_of_topology, topology_at, upstream_nodes

_WHICH = (
    "Which meters there are is answered by: "
    "meterlake query 'select distinct meter_id from readings'"
)


@dataclass(frozen=True)
class Forecasted:
    """What a batch of forecasts wrote; `is_new` where it was not there already."""

    model: str
    start: datetime
    meters: int
    nodes: int
    is_new: bool


def forecast_all(
    session: Session,
    *,
    start: datetime | None = None,
    use: str | None = None,
    rebuild: bool = False,
) -> Forecasted:
    """Forecast the HORIZON hours from a start on, of all meters, in one commit for each table.

    Parameters
    ----------
    start : any moment of the first local hour; None: the one after the last reading
    use : name of the model; None: the current one

    Raises
    ------
    BadInput
        There is no model, there are no readings before the start, or a package is missing.
    Conflict
        Other writers kept coming first.
    """
    model = models.load(session.store, use)
    derivation = replace(FORECASTING, plan=partial(_plan, model=model, start=start))
    plan = bring_up(session, derivation, rebuild=rebuild).plan
    facts = plan.facts
    counts = []
    for table in (FORECASTS, NODE_FORECASTS):
        files = snapshot(session.store, table).files
        rows = sum(f.rows for f in files if f.partition == facts["partition"])
        counts.append(rows // HORIZON)
    moment = datetime.fromisoformat(facts["start"])
    return Forecasted(model.name, moment, counts[0], counts[1], is_new=bool(plan.units))


def forecast_meters(
    store: Store,
    meters: Sequence[str],
    *,
    settings: Settings,
    start: datetime | None = None,
    use: str | None = None,
) -> pl.DataFrame:
    """The forecast of some meters on demand, nothing stored; rows as in the table forecasts.

    Raises
    ------
    BadInput
        As `forecast_all`; and where a meter has no readings in the weeks before.
    """
    model = models.load(store, use)
    live = LiveLayout(store)
    target, pieces = _target(store, live, settings, start, model)
    series = read_series(store, pieces, target.context, keep=pl.col("meter_id").is_in(list(meters)))
    missing = sorted(set(meters) - set(series.meters))
    if missing:
        names = ", ".join(f"'{meter}'" for meter in missing[:3])
        raise BadInput(
            f"A forecast needs readings of the {CONTEXT // 24} days before "
            f"{target.start:%Y-%m-%d %H:%M} UTC; found none of meter {names}. {_WHICH}"
        )
    found = forecast_of(model.forecaster, series, target, day_off_of(settings.ml))
    return forecast_rows(series.meters, found, target).with_columns(
        pl.lit(model.name).alias("model_name")
    )


def _target(
    store: Store, live: LiveLayout, settings: Settings, start: datetime | None, model: Model
) -> tuple[Target, list[Piece]]:
    zone = settings.timezone
    check_model_zone(model, zone)
    layout = live.now()
    end = end_of_readings(layout, zone)
    first = end if start is None else local_hour(zone, start)
    if first > end + timedelta(hours=HORIZON):
        raise BadInput(
            f"--start needs to be within {HORIZON} hours of the last reading, up to "
            f"{end + timedelta(hours=HORIZON):%Y-%m-%d %H:%M} ({zone}); found "
            f"{first:%Y-%m-%d %H:%M}"
        )
    if first.year < 2:  # there are no days before
        raise BadInput(f"--start needs to be later than the year 1; found {first:%Y-%m-%d %H:%M}")
    context = LocalHours(zone, first - timedelta(hours=CONTEXT), CONTEXT)
    pieces = layout.pieces(READING_TYPE, context.start(), context.end())
    temperature = None
    if model.forecaster.uses_temperature and settings.ml.use_weather:
        temperature = hourly_temperature(store, context)
    target = Target(context.end(), context, temperature)
    if not pieces:
        raise BadInput(
            f"A forecast needs readings of the {CONTEXT // 24} days before its start, "
            f"{target.start:%Y-%m-%d %H:%M} UTC; found none. Give another --start"
        )
    return target, pieces


def _plan(run: Run, model: Model | None = None, start: datetime | None = None) -> Plan[Scored]:
    """The forecasts of one model from one hour on, of all meters and of the nodes above them."""
    model = model or models.load(run.store, None)
    target, pieces = _target(run.store, run.session.live, run.settings, start, model)
    partition = {"model_name": model.name, "start": f"{target.start:%Y%m%d%H%M%S}"}
    moment = moment_of_topology(run.store)
    topology = None if moment is None else moment.isoformat()
    there, nodes_there = (
        [f for f in files if f.partition == partition]
        for files in (run.state.files, run.also[NODE_FORECASTS.name].files)
    )
    # Another topology has other sums.
    scope = f"forecast/{model.name}/{partition['start']}/{topology}"
    readings = run.inputs[READINGS.name]
    is_current = bool(there) and all(
        state.consumed(scope, readings) == readings.version
        for state in (run.state, run.also[NODE_FORECASTS.name])
    )
    above = None
    if moment is not None:
        ways = upstream_nodes(topology_at(run.store, target.start))
        above = ways.select("meter_id", *(f"{kind}_id" for kind in NODES))
    is_due = run.is_rebuild or not is_current
    ranges = meter_ranges(run.store, pieces, RANGE_ROWS) if is_due else ()

    def finish(made: Sequence[Scored]) -> Finish:
        sums = [s for part in made for s in part.sums]
        rows = node_rows(sums, model.forecaster, target, run.settings.ml)
        files = []
        if rows.height:
            columns = [c.name for c in NODE_FORECASTS.file_columns]
            frame = rows.sort(NODE_FORECASTS.sorted_by).select(columns)
            name = f"part-{uuid.uuid4().hex}"
            files = [write_file(run.store, NODE_FORECASTS, frame, partition=partition, name=name)]
        return Finish({NODE_FORECASTS.name: files}, {NODE_FORECASTS.name: nodes_there})

    return Plan(
        [Scoring(tuple(pieces), keep) for keep in ranges],
        score(run.store, model, target, run.settings.ml, above, partition["start"]),
        there if is_due else (),
        finish,
        facts={
            "model": model.name,
            "start": target.start.isoformat(),
            "partition": partition,
            "topology": topology,
            "ml": run.settings.ml.model_dump(mode="json"),
        },
        scope=scope,
    )


FORECASTING = Derivation(FORECASTS, made_from=(READINGS,), plan=_plan, also=(NODE_FORECASTS,))
