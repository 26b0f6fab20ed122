"""Whether the server is well, for those who run it: health, readiness, Prometheus metrics."""

from datetime import UTC, datetime

from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from pydantic import BaseModel, Field

from meterlake import __version__
from meterlake.questions import catalog
from meterlake.serve.access import needs
from meterlake.serve.openapi import problems
from meterlake.serve.state import Here

router = APIRouter(tags=["server"])

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """What one process of the server counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "meterlake_requests", "Requests answered", ("method", "route", "status"),
            registry=self.registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "meterlake_request_seconds", "Time to answer", ("method", "route"),
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self._rows = Gauge("meterlake_rows", "Rows of a table", ("table",), registry=self.registry)
        self._bytes = Gauge(
            "meterlake_bytes", "Size of a table's files", ("table",), registry=self.registry
        )
        self._newest = Gauge(
            "meterlake_newest_timestamp_seconds", "Largest value of a table's time column",
            ("table",), registry=self.registry,
        )  # fmt: skip

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    def look_at(self, tables: list[dict[str, object]]) -> None:
        """Take over what the catalog says."""
        for table in tables:
            name = str(table["table"])
            if isinstance(table["rows"], int) and isinstance(table["bytes"], int):
                self._rows.labels(name).set(table["rows"])
                self._bytes.labels(name).set(table["bytes"])
            if table["newest"] is not None:
                newest = datetime.fromisoformat(str(table["newest"]))
                self._newest.labels(name).set(newest.astimezone(UTC).timestamp())


class Health(BaseModel):
    """How the server is."""

    status: str = Field(description="ok")
    version: str = Field(description="Version of meterlake")


@router.get("/healthz", summary="Whether the server runs")
async def healthz() -> Health:
    """Asks nothing of the lake."""
    return Health(status="ok", version=__version__)


@router.get(
    "/readyz",
    summary="Whether the server can answer: the lake's storage is there",
    responses={503: problems()[503]},
)
def readyz(here: Here) -> Health:
    """Reads which version the readings have."""
    here.version_of_readings()
    return Health(status="ok", version=__version__)


@router.get(
    "/metrics",
    summary="Figures of the server and the lake, for Prometheus",
    dependencies=[Depends(needs("read"))],
    responses={
        200: {"description": "Prometheus' text format", "content": {"text/plain": {}}},
        **problems(),
    },
    response_class=Response,
)
def metrics(request: Request, here: Here) -> Response:
    """Requests are those of the process that answers."""
    counted: Metrics = request.app.state.metrics
    counted.look_at(catalog.tables(here.store))
    return Response(generate_latest(counted.registry), media_type=CONTENT_TYPE_LATEST)
