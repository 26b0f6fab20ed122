"""What the API takes and tells, field by field."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from meterlake.simulate.head_end.requests import RequestStatus


def _to_moment(given: object) -> datetime:
    if isinstance(given, datetime):
        return given
    try:
        moment = datetime.fromisoformat(given) if isinstance(given, str) else None
        if moment is None or moment.tzinfo is None:
            raise ValueError
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("a time with an offset is needed, such as 2024-01-31T05:15:00Z") from None


def _told(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


Moment = Annotated[datetime, BeforeValidator(_to_moment), PlainSerializer(_told, return_type=str)]
_EXAMPLE = "2024-01-31T05:15:00Z"
START = Field(description="Start of the window of arrival, included", examples=[_EXAMPLE])
END = Field(
    description="End of the window of arrival, not included; left out, or after complete_until: "
    "complete_until as it is now",
    examples=["2024-01-31T06:15:00Z"],
)


class About(BaseModel):
    """The head-end and how far it has read."""

    name: str = Field(description="What this is")
    version: str = Field(description="Version of meterlake")
    devices: int = Field(description="Number of meters")
    interval_minutes: int = Field(description="From one read of a meter to its next [min]")
    now: Moment = Field(description="The head-end's own clock")
    complete_until: Moment = Field(
        description="Every read that arrives before it is stored, and no other will ever come"
    )
    oldest: Moment | None = Field(description="First arrival; null: nothing has arrived yet")


class Window(BaseModel):
    """What a file is asked for: a window of arrival, half-open."""

    model_config = ConfigDict(extra="forbid")

    start_date: Annotated[Moment, START]
    end_date: Annotated[Moment | None, END] = None


class Queued(BaseModel):
    """A file that was asked for."""

    request_id: str = Field(description="By which to ask what has become of it")
    status: RequestStatus = Field(description="What has become of it")
    start_date: Moment = Field(description="Start of its window of arrival, included")
    end_date: Moment = Field(description="End of it, not included")


class File(Queued):
    """A file that was asked for, and what has become of it."""

    sftp_location: str | None = Field(description="Its path on the SFTP server")
    record_count: int | None = Field(description="Its rows, without the header")
    size: int | None = Field(description="Its size as compressed [bytes]")
    sha256: str | None = Field(description="Hash of its compressed bytes, hex")
    error: str | None = Field(description="Why there is no file")


class Read(BaseModel):
    """One read of a meter."""

    time: Moment = Field(description="When it was taken")
    arrival_time: Moment = Field(description="When it reached the head-end")
    device_id: str = Field(description="The meter")
    measure_name: str = Field(description="Always readings")
    load: float = Field(description="Current of the household alone [A]")
    crrnt: float = Field(description="Current [A]")
    pf: float = Field(description="Power factor [1]")
    kva: float = Field(description="Apparent power [kVA]")
    kw: float = Field(description="Active power, negative when exported [kW]")
    vltg: float = Field(description="Voltage [V]")


class ReadsPage(BaseModel):
    """Some of the reads of a window, by arrival, meter and time."""

    total: int = Field(description="Reads of the window")
    offset: int = Field(description="How many come before these")
    page_size: int = Field(description="Most reads of a page")
    readings: list[Read] = Field(description="The reads")


class HeadEndProblem(BaseModel):
    """What went wrong (RFC 9457)."""

    type: str = Field(description="Kind of the problem, a URI")
    title: str = Field(description="The status in words")
    status: int = Field(description="HTTP status")
    detail: str = Field(description="What was needed and what was found")
