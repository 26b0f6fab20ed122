"""Which files hold the readings of a type and window: serving where it is up to date.

Serving has closed days, sorted by meter; integrated has every hour. A day of serving is stale
from the moment an hour of it is integrated again until it is clustered again, and meanwhile its
readings are those of integrated. So a read by a layout gets exactly what integrated has.
"""

import time
from bisect import bisect_right, insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache

import polars as pl

from meterlake.delta.journal import Entry, entries, log_path
from meterlake.delta.store import Store
from meterlake.delta.table import DataFile, Snapshot, key_of, scan, table_at
from meterlake.schema import READINGS, SERVING_READINGS, TOTAL, Table
from meterlake.schema.projection import of_serving

_LONGEST_PAUSE_SECONDS = 3600  # less than a log keeps its commits

EARLIEST = datetime(1, 1, 2, tzinfo=UTC)
LATEST = datetime(9999, 12, 31, tzinfo=UTC)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)

Day = tuple[str, datetime]
"""Reading type, and start of a UTC day."""


@dataclass(frozen=True)
class Piece:
    """The readings of [start, end) in some files of a table, each file sorted by meter and time."""

    table: Table
    files: tuple[DataFile, ...]
    start: datetime
    end: datetime

    @property
    def rows(self) -> int:
        """Rows of the files, also those of other times."""
        return sum(f.rows for f in self.files)

    def has_all_of(self, file: DataFile) -> bool:
        """Whether all rows of a file are in the piece's time."""
        return self._begins_in(file) and self._ends_in(file)

    def has_in(self, file: DataFile, start: datetime, end: datetime) -> bool:
        """Whether its rows of a file are those of a window that has the piece's time in it."""
        begins = self._begins_in(file) or self.start == start
        return begins and (self._ends_in(file) or self.end == end)

    def _begins_in(self, file: DataFile) -> bool:
        return file.first is not None and file.first >= self.start

    def _ends_in(self, file: DataFile) -> bool:
        return file.last is not None and file.last < self.end


@dataclass(frozen=True)
class Span:
    """What serving has of one type from a day on, in one file or several by ranges of meters."""

    first: datetime
    end: datetime
    files: tuple[DataFile, ...]


class Layout:
    """The files of serving and integrated, and which days of serving are stale."""

    def __init__(
        self,
        serving: Snapshot,
        clustered: int,
        integrated: Snapshot,
        since: Iterable[Entry] = (),
    ) -> None:
        """`since`: integrated's commits after version `clustered`."""
        self.clustered = clustered
        self.key = key_of("", integrated)
        self._spans: dict[str, dict[datetime, tuple[DataFile, ...]]] = {}
        self._first_days: dict[str, list[datetime]] = {}
        self._hours: dict[str, dict[datetime, dict[str, DataFile]]] = {}
        self._days: dict[str, list[datetime]] = {}
        self._integrated_at: dict[Day, int] = {}
        self._where: dict[str, DataFile] = {}
        for file in serving.files:
            self._add_serving(file)
        for file in integrated.files:
            self._add_integrated(file)
        for entry in since:
            self._note_integrated(entry)

    def follow_serving(self, entry: Entry) -> None:
        """Take over a commit to serving."""
        for path in entry.removed:
            file = self._where.pop(path)
            spans, first = self._spans[file.partition["reading_type"]], day_of(file)
            spans[first] = tuple(f for f in spans[first] if f.path != path)
            if not spans[first]:
                del spans[first]
                self._first_days[file.partition["reading_type"]].remove(first)
        for file in entry.added:
            self._add_serving(file)
        self.clustered = entry.keys.get(self.key, self.clustered)
        stale = self._integrated_at.items()
        self._integrated_at = {day: at for day, at in stale if at > self.clustered}

    def follow_integrated(self, entry: Entry) -> None:
        """Take over a commit to integrated."""
        for path in entry.removed:
            file = self._where.pop(path)
            del self._hours[file.partition["reading_type"]][day_of(file)][path]
        for file in entry.added:
            self._add_integrated(file)
        self._note_integrated(entry)

    @property
    def reading_types(self) -> list[str]:
        """The types that there are readings of."""
        return sorted(self._days)

    def days(self, reading_type: str) -> Sequence[datetime]:
        """The UTC days with readings of a type, in order."""
        return self._days.get(reading_type, ())

    def hours(self, reading_type: str, day: datetime) -> tuple[DataFile, ...]:
        """Integrated's files of a day, in the order of time."""
        files = self._hours[reading_type][day].values()
        return tuple(sorted(files, key=lambda f: f.partition["hour"]))

    def is_stale(self, reading_type: str, day: datetime) -> bool:
        """Whether integrated has had readings of that day since serving was made."""
        return (reading_type, day) in self._integrated_at

    def spans(self, reading_type: str) -> list[Span]:
        """What serving has of a type, in the order of time."""
        return [self._span(reading_type, day) for day in self._first_days.get(reading_type, ())]

    def span_of(self, reading_type: str, day: datetime) -> Span | None:
        """Serving's span that has the day, stale or not; None where it has not been clustered."""
        firsts = self._first_days.get(reading_type, [])
        number = bisect_right(firsts, day) - 1
        if number < 0:
            return None
        span = self._span(reading_type, firsts[number])
        return span if day < span.end else None

    def pieces(
        self, reading_type: str, start: datetime, end: datetime, *, by_meter: bool = True
    ) -> list[Piece]:
        """The readings of a type in a half-open window, in the order of time.

        Parameters
        ----------
        by_meter : False: from integrated alone
        """
        found: list[Piece] = []
        days = self.days(reading_type)
        number = bisect_right(days, start - DAY)
        while number < len(days) and days[number] < end:
            day = days[number]
            span = self.span_of(reading_type, day) if by_meter else None
            if span is None or self.is_stale(reading_type, day):
                window = max(day, start), min(day + DAY, end)
                files = self.hours(reading_type, day)
                found.append(Piece(READINGS, tuple(f for f in files if meets(f, *window)), *window))
                number += 1
                continue
            until = day  # a run of days that are not stale
            while number < len(days) and days[number] < min(span.end, end):
                if self.is_stale(reading_type, days[number]):
                    break
                until = days[number] + DAY
                number += 1
            found.append(Piece(SERVING_READINGS, span.files, max(day, start), min(until, end)))
        return [p for p in found if p.files]

    def _span(self, reading_type: str, first: datetime) -> Span:
        files = self._spans[reading_type][first]
        last = max(_last(f) for f in files)
        return Span(first, start_of_day(last) + DAY, files)

    def _add_serving(self, file: DataFile) -> None:
        reading_type, first = file.partition["reading_type"], day_of(file)
        spans = self._spans.setdefault(reading_type, {})
        if first not in spans:
            insort(self._first_days.setdefault(reading_type, []), first)
        spans[first] = (*spans.get(first, ()), file)
        self._where[file.path] = file

    def _add_integrated(self, file: DataFile) -> None:
        reading_type, day = file.partition["reading_type"], day_of(file)
        hours = self._hours.setdefault(reading_type, {})
        if day not in hours:
            hours[day] = {}
            insort(self._days.setdefault(reading_type, []), day)
        hours[day][file.path] = file
        self._where[file.path] = file

    def _note_integrated(self, entry: Entry) -> None:
        if entry.version > self.clustered:
            for reading_type, hour in hours_of(entry):
                day = start_of_day(hour)
                if day not in self._hours.setdefault(reading_type, {}):  # nothing is left of it
                    self._hours[reading_type][day] = {}
                    insort(self._days.setdefault(reading_type, []), day)
                self._integrated_at[reading_type, day] = entry.version


class LiveLayout:
    """The layout kept in memory: the logs are read once and then followed, commit by commit."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._layout: Layout | None = None
        self._asked = 0.0
        self.serving_version = -1
        self.integrated = Snapshot(READINGS, -1, ())  # without its files, which the layout has

    def now(self) -> Layout:
        """The layout as it is now: the same object, brought up to date."""
        # Before there was a serving nobody noted what is stale: start over when it appears, and
        # after a long pause too: the commits that came meanwhile may have expired.
        asked, self._asked = self._asked, time.monotonic()
        paused = self._asked - asked > _LONGEST_PAUSE_SECONDS
        if self._layout is None or paused or self._appeared():
            self._layout = self._loaded()
        # Serving first: integrated is then at the version that it was made of, or later.
        for entry in self._coming(SERVING_READINGS, self.serving_version):
            self._layout.follow_serving(entry)
            self.serving_version = entry.version
        for entry in self._coming(READINGS, self.integrated.version):
            self._layout.follow_integrated(entry)
            self.integrated = replace(self.integrated, version=entry.version)
        return self._layout

    def _appeared(self) -> bool:
        return any(
            version < 0 and self._store.has(log_path(table, 0))
            for table, version in (
                (SERVING_READINGS, self.serving_version),
                (READINGS, self.integrated.version),
            )
        )

    def _loaded(self) -> Layout:
        serving = table_at(self._store, SERVING_READINGS)
        integrated = table_at(self._store, READINGS)
        self.serving_version = serving.version
        self.integrated = replace(integrated, files=(), delta=None)
        return layout_of(self._store, serving, integrated)

    def _coming(self, table: Table, version: int) -> Iterator[Entry]:
        while version >= 0 and self._store.has(log_path(table, version + 1)):
            yield from entries(self._store, table, after=version, until=version + 1)
            version += 1


def layout_of(store: Store, serving: Snapshot, integrated: Snapshot) -> Layout:
    """The layout of states of serving and integrated, of which serving was read first."""
    clustered = serving.consumed("", integrated)
    since: Iterable[Entry] = ()
    if serving.files:
        since = entries(store, READINGS, after=clustered, until=integrated.version)
    return Layout(serving, clustered, integrated, since)


def scan_pieces(
    store: Store,
    pieces: Sequence[Piece],
    columns: Sequence[str],
    *,
    keep: pl.Expr | None = None,
    channels: Sequence[str] | None = (TOTAL,),
) -> pl.LazyFrame:
    """Columns of the readings in pieces; those of one piece that lies wholly in it, in its order.

    Parameters
    ----------
    columns : of READINGS, without year, month, day and hour; without arrival_time where a piece
        is of serving
    keep : which rows, such as a range of meters
    channels : of the types; None: all
    """
    start = min((p.start for p in pieces), default=EARLIEST)
    end = max((p.end for p in pieces), default=EARLIEST)
    tables: Mapping[str, Table] = {p.table.name: p.table for p in pieces}
    whole: dict[str, list[DataFile]] = {}
    edges: dict[str, list[DataFile]] = {}
    frames = []
    for piece in pieces:
        for file in piece.files:
            if piece.has_all_of(file):
                whole.setdefault(piece.table.name, []).append(file)
            elif piece.has_in(file, start, end):
                edges.setdefault(piece.table.name, []).append(file)
            else:
                frames.append(
                    _scan(store, piece.table, [file], columns).filter(_in(piece.start, piece.end))
                )
    for name, files in edges.items():
        files += whole.pop(name, [])
        files.sort(key=lambda f: EARLIEST if f.first is None else f.first)
        frames.append(_scan(store, tables[name], files, columns).filter(_in(start, end)))
    frames += [_scan(store, tables[name], files, columns) for name, files in whole.items()]
    if not frames:
        return scan(store, READINGS, []).select(columns)
    if keep is not None:
        frames = [frame.filter(keep) for frame in frames]
    if channels is not None:
        frames = [frame.filter(pl.col("channel").is_in(list(channels))) for frame in frames]
    return pl.concat([frame.select(columns) for frame in frames])


def _in(start: datetime, end: datetime) -> pl.Expr:
    return pl.col("reading_date_time").is_between(start, end, closed="left")


def _scan(
    store: Store, table: Table, files: Sequence[DataFile], columns: Sequence[str]
) -> pl.LazyFrame:
    rows = scan(store, table, files)
    return rows.with_columns(of_serving(columns)) if table == SERVING_READINGS else rows


def hours_of(entry: Entry) -> Iterator[tuple[str, datetime]]:
    """Reading type and UTC hour of each partition that a commit to the readings has changed."""
    for path in (*(f.path for f in entry.added), *entry.removed):
        values = dict(part.split("=", 1) for part in path.split("/")[:-1])
        day = _day(values["year"], values["month"], values["day"])
        yield values["reading_type"], day.replace(hour=int(values["hour"]))


def day_of(file: DataFile) -> datetime:
    """The UTC day of a file's partition."""
    partition = file.partition
    return _day(partition["year"], partition["month"], partition["day"])


@cache
def _day(year: str, month: str, day: str) -> datetime:
    return datetime(int(year), int(month), int(day), tzinfo=UTC)


def start_of_day(moment: datetime) -> datetime:
    """The UTC day that a UTC moment is in."""
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


def meets(file: DataFile, start: datetime, end: datetime) -> bool:
    """Whether a file may have rows of a half-open window."""
    return file.first is None or file.last is None or (file.first < end and file.last >= start)


def _last(file: DataFile) -> datetime:
    if file.last is None:
        raise ValueError(f"{file.path} needs the times of its readings in the log")
    return file.last
