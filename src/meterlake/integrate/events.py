"""Telling others of late reads: hooks, found by name.

A hook is a callable that takes a `LateReads` and the settings. Packages add their own
under the entry point group `meterlake.late_hooks`; `log` and `webhook` are shipped. Hooks
are called once the reads are integrated and recorded in late_arrivals, with all that was
recorded since the last integration: the next job reports those of one that was cut off. A
hook that fails is not called again; the table has what it missed.
"""

import json
import logging
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import entry_points
from typing import Any

from meterlake.errors import BadInput, Unavailable
from meterlake.settings import Settings

ENTRY_POINT_GROUP = "meterlake.late_hooks"
WEBHOOK_TIMEOUT_SECONDS = 10

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LateReads:
    """What one job found: the rows that it added to late_arrivals, as plain data."""

    late: int
    partitions: int
    rows: list[dict[str, Any]]


Hook = Callable[[LateReads, Settings], None]


def log_late_reads(event: LateReads, settings: Settings) -> None:
    """Log one line of how many reads came late."""
    _log.warning("%d late readings in %d partitions", event.late, event.partitions)


def post_late_reads(event: LateReads, settings: Settings) -> None:
    """Post the event as JSON to late_webhook_url.

    Raises
    ------
    BadInput
        No http(s) URL is set.
    Unavailable
        It does not answer, or not with success.
    """
    secret = settings.late_webhook_url
    url = "" if secret is None else secret.get_secret_value()
    if not url.startswith(("http://", "https://")):
        raise BadInput("The webhook hook needs late_webhook_url to be an http or https URL: set it")
    body = {"event": "late_reads", "late": event.late, "partitions": event.partitions}
    request = urllib.request.Request(
        url,
        data=json.dumps(body | {"rows": event.rows}, default=_iso).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=WEBHOOK_TIMEOUT_SECONDS):
            pass
    except (urllib.error.URLError, OSError) as error:
        cause = getattr(error, "code", None) or getattr(error, "reason", None) or "no answer"
        raise Unavailable(
            f"The webhook of late reads did not take the event: {cause}. The reads are integrated "
            "and recorded anyway: see meterlake late"
        ) from error


def _iso(value: object) -> str:
    if not isinstance(value, datetime):
        raise TypeError(f"no JSON for {type(value)}")
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def late_hooks(names: Iterable[str]) -> list[Hook]:
    """The hooks of these names. Raises BadInput where one is not known."""
    known: dict[str, Hook] = {"log": log_late_reads, "webhook": post_late_reads}
    points = {p.name: p for p in entry_points(group=ENTRY_POINT_GROUP)}
    hooks = []
    for name in names:
        if name not in known and name not in points:
            raise BadInput(
                f"late_hooks needs names of {', '.join([*known, *points])}; found '{name}'"
            )
        hooks.append(known[name] if name in known else points[name].load())
    return hooks
