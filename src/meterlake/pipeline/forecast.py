"""Forecasts from the last readings on: of all meters into the lake, or of some on demand."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from meterlake.delta.commit import Change, commit, persistently, snapshot
from meterlake.delta.journal import Provenance
from meterlake.delta.store import Store
from meterlake.delta.table import consumed_of, key_of, write_file
from meterlake.engine import Engine
from meterlake.engine.progress import Progress, silent
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
from meterlake.readings.layout import LiveLayout, Piece
from meterlake.readings.meter_ranges import RANGE_ROWS, meter_ranges
from meterlake.schema import (
    FORECASTS,
    NODE_FORECASTS,
)
from meterlake.settings import Settings
from meterlake.topology.upstream import moment_of_topology, topology_at, ways_up

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
    store: Store,
    *,
    engine: Engine,
    settings: Settings,
    now: datetime,
    start: datetime | None = None,
    use: str | None = None,
    rebuild: bool = False,
    progress: Progress = silent,
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
    model = models.load(store, use)
    return persistently(
        lambda: _forecast_all(store, engine, settings, now, start, model, rebuild, progress)
    )


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


def _forecast_all(
    store: Store,
    engine: Engine,
    settings: Settings,
    now: datetime,
    start: datetime | None,
    model: Model,
    rebuild: bool,
    progress: Progress,
) -> Forecasted:
    live = LiveLayout(store)
    target, pieces = _target(store, live, settings, start, model)
    partition = {"model_name": model.name, "start": f"{target.start:%Y%m%d%H%M%S}"}
    state, nodes_state = snapshot(store, FORECASTS), snapshot(store, NODE_FORECASTS)
    job = f"forecast/{model.name}/{partition['start']}"
    there = [f for f in state.files if f.partition == partition]
    moment = moment_of_topology(store)
    made_of = {
        "model": model.name,
        "topology": None if moment is None else moment.isoformat(),
        **settings.ml.model_dump(mode="json"),
    }
    consumed = consumed_of(store, state, job, live.integrated)
    nodes_there = [f for f in nodes_state.files if f.partition == partition]
    is_done = consumed == live.integrated.version and bool(there)
    job_of_nodes = f"{job}/{made_of['topology']}"  # another topology has other sums
    consumed = consumed_of(store, nodes_state, job_of_nodes, live.integrated)
    has_nodes = moment is None or consumed == live.integrated.version
    if is_done and not rebuild and has_nodes:
        meters, nodes = (sum(f.rows for f in of) // HORIZON for of in (there, nodes_there))
        return Forecasted(model.name, target.start, meters, nodes, is_new=False)
    above = None
    if moment is not None:
        ways = ways_up(topology_at(store, target.start))
        above = ways.select("meter_id", *(f"{kind}_id" for kind in NODES))
    units = [Scoring(tuple(pieces), keep) for keep in meter_ranges(store, pieces, RANGE_ROWS)]
    work = score(store, model, target, settings.ml, above, partition["start"])
    parts: list[Scored] = []
    for done, part in enumerate(engine.map(work, units), start=1):
        parts.append(part)
        progress("forecast", len(units), done)
    files = [f for part in parts for f in part.files]
    version = live.integrated.version
    provenance = Provenance("forecast", made_of)
    of_nodes = node_rows(
        [s for part in parts for s in part.sums],
        model.forecaster,
        target,
        settings.ml,
    )
    of_sums = []
    if of_nodes.height:
        columns = [c.name for c in NODE_FORECASTS.file_columns]
        frame = of_nodes.sort(NODE_FORECASTS.sorted_by).select(columns)
        name = f"part-{uuid.uuid4().hex}"
        of_sums.append(write_file(store, NODE_FORECASTS, frame, partition=partition, name=name))
    change = Change(
        {key_of(job, live.integrated): version},
        add=files,
        remove=there,
        read_version=state.version,
        provenance=provenance,
    )
    commit(store, FORECASTS, change, now=now)
    if moment is not None:  # also without nodes, so that it is known that there are none
        change = Change(
            {key_of(job_of_nodes, live.integrated): version},
            add=of_sums,
            remove=nodes_there,
            read_version=nodes_state.version,
            provenance=provenance,
        )
        commit(store, NODE_FORECASTS, change, now=now)
    meters = sum(p.meters for p in parts)
    return Forecasted(model.name, target.start, meters, of_nodes.height // HORIZON, is_new=True)
