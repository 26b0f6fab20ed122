"""A dataflow's run: load, prepare, keep, and write down how it went.

Each table is changed in one commit, planned again where another run comes first.
"""

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from meterlake.dataflows.port import Dataflow, HistoryOptions, Loaded, Options, Request
from meterlake.dataflows.registry import known_dataflows, named_dataflow, options_of
from meterlake.delta.commit import snapshot
from meterlake.delta.store import Store
from meterlake.delta.table import fetched, scan
from meterlake.delta.upsert import (
    SINCE_EVER,
    VALIDITY,
    RowCounts,
    State,
    append,
    keep_history,
    replace_rows,
)
from meterlake.engine.progress import Progress, silent
from meterlake.errors import BadInput, Unavailable
from meterlake.schema import DATAFLOW_RUNS, known_tables, polars_schema
from meterlake.settings import Settings
from meterlake.storage import without_secrets

_pause: Callable[[float], None] = time.sleep


@dataclass(frozen=True)
class Scope:
    """What a run loads, as far as it is not what the settings say.

    Parameters
    ----------
    source : where to load from
    start, end : the window of a dataflow that keeps rows. By default from its option `since` on
        where it has none, and later from `reload_days` before the newest row; to now
    at : the moment of a state, of a dataflow that keeps states; by default now
    """

    source: str | None = None
    start: datetime | None = None
    end: datetime | None = None
    at: datetime | None = None


@dataclass(frozen=True)
class DataflowRun:
    """How a run went; see the table dataflow_runs for the meaning of the figures."""

    dataflow: str
    window_start: datetime | None
    window_end: datetime
    source: str
    rows: int = 0
    added: int = 0
    changed: int = 0
    ended: int = 0
    attempts: int = 1
    odd: tuple[str, ...] = field(default=())


def run_dataflow(
    store: Store,
    name: str,
    scope: Scope | None = None,
    *,
    settings: Settings,
    now: datetime,
    progress: Progress = silent,
) -> DataflowRun:
    """Load what a dataflow's source has, and keep it; what fails leaves its tables as they are.

    The same state of the same moment may be loaded again, and changes nothing.

    Raises
    ------
    BadInput
        The source is wrong, or an option; or there is another state of that moment, or a later
        one.
    Unavailable
        The source stayed unavailable at every attempt.
    Conflict
        Other writers kept coming first.
    """
    flow = named_dataflow(name)
    scope = scope or Scope()
    told = dict(settings.dataflow.get(name, {}))
    options = options_of(flow, told | ({} if scope.source is None else {"source": scope.source}))
    location = options.source or flow.source
    if location is None:
        raise BadInput(
            f"Dataflow '{name}' needs a source: give --source, or set source under "
            f"[dataflow.{name}] in meterlake.toml"
        )
    first, last = _window(store, flow, options, scope, now)
    request = Request(location, options, first, last, settings.timezone, store)
    run = _Recorded(store, flow, request, now, time.perf_counter())
    try:
        loaded = _loaded(run, settings, progress)
        frames = {t: _conformed(flow, t, rows) for t, rows in loaded.tables.items()}
        counts = _keep(request, flow, frames, now, progress)
    except Exception as error:
        run.record("failed", str(error)[:2000])
        raise
    figures = {"rows": sum(f.height for f in frames.values()), **vars(counts)}
    run.record("succeeded", "; ".join(loaded.odd)[:2000], **figures)
    return DataflowRun(
        name,
        None if flow.keeps == "states" else first,
        last,
        without_secrets(location),
        attempts=run.attempts,
        odd=loaded.odd,
        **figures,
    )


def list_dataflows(settings: Settings) -> list[dict[str, Any]]:
    """Each dataflow's tables, source and options."""
    return [
        {
            "dataflow": flow.name,
            "meaning": flow.meaning,
            "tables": ", ".join(t.name for t in flow.tables),
            "source": without_secrets(
                settings.dataflow.get(flow.name, {}).get("source") or flow.source or ""
            ),
            "options": ", ".join(flow.options.model_fields),
        }
        for flow in known_dataflows().values()
    ]


def dataflow_status(store: Store) -> list[dict[str, Any]]:
    """Each dataflow's last run, when it last succeeded, and how often it has failed since."""
    runs = _runs(store)
    listed = []
    for name in known_dataflows():
        mine = runs.filter(pl.col("dataflow") == name)
        good = mine.filter(pl.col("outcome") == "succeeded")
        last = mine.row(-1, named=True) if mine.height else {}
        since = good["started_at"][-1] if good.height else None
        failed = mine.height if since is None else mine.filter(pl.col("started_at") > since).height
        listed.append(
            {
                "dataflow": name,
                "last_run": last.get("started_at"),
                "outcome": last.get("outcome", "never run"),
                "rows": last.get("rows"),
                "last_success": since,
                "loaded_until": good["window_end"].max() if good.height else None,
                "failures_since": failed,
                "message": last.get("message", ""),
            }
        )
    return listed


@dataclass
class _Recorded:
    """A run, and its row of the table of runs, written when it has ended."""

    store: Store
    flow: Dataflow
    request: Request
    now: datetime
    began: float
    attempts: int = 0

    def record(self, outcome: str, message: str, **figures: int) -> None:
        run_id = uuid.uuid4().hex
        row = {
            "run_id": run_id,
            "dataflow": self.flow.name,
            "started_at": self.now,
            "seconds": round(time.perf_counter() - self.began, 3),
            "window_start": None if self.flow.keeps == "states" else self.request.start,
            "window_end": self.request.end,
            "source": without_secrets(self.request.source),
            "attempts": self.attempts,
            "outcome": outcome,
            "message": message,
            "run_month": self.now.strftime("%Y-%m"),
            **figures,
        }
        schema = polars_schema(DATAFLOW_RUNS)
        rows = pl.DataFrame({name: [row.get(name)] for name in schema}, schema=schema)
        append(self.store, DATAFLOW_RUNS, rows, key=f"run/{run_id}", now=self.now)


def _loaded(run: _Recorded, settings: Settings, progress: Progress) -> Loaded:
    """What the source has; tried again while it is unavailable."""
    while True:
        run.attempts += 1
        try:
            return run.flow.load(run.request)
        except Unavailable:
            if run.attempts >= settings.dataflow_attempts:
                raise
        progress(f"{run.flow.name}, try {run.attempts + 1}", None, 0)
        _pause(settings.dataflow_pause_seconds * 2 ** (run.attempts - 1))


def _window(
    store: Store,
    flow: Dataflow,
    options: Options,
    scope: Scope,
    now: datetime,
) -> tuple[datetime, datetime]:
    if flow.keeps == "states":
        if scope.start is not None or scope.end is not None:
            raise BadInput(f"Dataflow '{flow.name}' keeps states: give --at, not --from and --to")
        moment = (scope.at or now).astimezone(UTC)
        if not SINCE_EVER < moment <= now:
            raise BadInput(f"--at needs a moment since 1970, not in the future; found {moment}")
        return moment, moment
    if scope.at is not None:
        raise BadInput(f"Dataflow '{flow.name}' loads a window: give --from and --to, not --at")
    if not isinstance(options, HistoryOptions):
        raise TypeError(f"dataflow {flow.name} keeps rows and needs HistoryOptions")
    start, end = scope.start, scope.end or now
    if start is None:
        newest = [snapshot(store, table).newest for table in flow.tables]
        start = options.since
        if not any(at is None for at in newest):
            known = min(at for at in newest if at is not None)
            start = max(start, min(known, end) - timedelta(days=options.reload_days))
    if start >= end:
        raise BadInput(f"--from needs to be before --to; found {start} and {end}")
    return start, end


def _runs(store: Store) -> pl.DataFrame:
    files = snapshot(store, DATAFLOW_RUNS).files
    return fetched(scan(store, DATAFLOW_RUNS, files)).sort("started_at")


def _conformed(flow: Dataflow, name: str, rows: pl.DataFrame) -> pl.DataFrame:
    """Rows with the table's columns, in their types and order. Raises BadInput."""
    if name not in {t.name for t in flow.tables}:
        raise BadInput(f"Dataflow '{flow.name}' loaded rows of '{name}', which is no table of it")
    table = known_tables()[name]
    schema: Mapping[str, pl.DataType] = {
        column: dtype
        for column, dtype in polars_schema(table).items()
        if flow.keeps == "rows" or column not in VALIDITY
    }
    strange = set(rows.columns) - set(schema)
    if strange:
        raise BadInput(
            f"Table '{name}' has no column {', '.join(sorted(strange))}; correct the dataflow "
            f"'{flow.name}'"
        )
    try:
        frame = rows.select(
            (pl.col(column) if column in rows.columns else pl.lit(None)).cast(dtype).alias(column)
            for column, dtype in schema.items()
        )
    except pl.exceptions.PolarsError as error:
        found = str(error).splitlines()[0]
        raise BadInput(
            f"Table '{name}' needs other types than dataflow '{flow.name}' loaded: {found}"
        ) from error
    return frame.with_columns(pl.selectors.float().fill_nan(None))


def _keep(
    request: Request,
    flow: Dataflow,
    frames: Mapping[str, pl.DataFrame],
    now: datetime,
    progress: Progress,
) -> RowCounts:
    counts, job = RowCounts(), f"dataflow/{flow.name}"
    for done, (name, rows) in enumerate(frames.items(), start=1):
        table = known_tables()[name]
        if flow.keeps == "states":
            state = State(rows, request.end, flow.delivered)
            counts += keep_history(request.store, table, state, job=job, now=now)
        else:
            counts += replace_rows(request.store, table, rows, job=job, now=now)
        progress(flow.name, len(frames), done)
    return counts
