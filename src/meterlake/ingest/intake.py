"""The job that takes delivered files into staging.

The parts of all files are one stream of units, so that while one file is committed others are
worked on, and files that cannot be cut keep a cluster busy together. Each file is committed by
itself, when all of its parts are there; what is wrong with one leaves the others alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from datetime import datetime

from meterlake.delta.commit import Change, Mark, Step, commit, settle
from meterlake.delta.journal import Provenance, logged
from meterlake.delta.table import fetched, open_delta, recorded_under, scan
from meterlake.errors import BadInput, Conflict, MeterlakeError, NotReadable
from meterlake.formats.lengths import Lengths
from meterlake.formats.port import Format
from meterlake.formats.probe import probe
from meterlake.formats.registry import named_format, profile_of, recognise
from meterlake.formats.source import DeliveredFile
from meterlake.formats.tabular import stated_length, with_lengths
from meterlake.ingest.deliveries import (
    KEY_PREFIX,
    DeliveryRecord,
    delivery_id_of,
    read_records,
    withdrawal_keys,
    withdrawn,
    write_records,
)
from meterlake.ingest.land import Delivery, Fetch, delivery_of, expand, land, local, set_aside
from meterlake.ingest.stage import (
    Portion,
    RefusedPortion,
    Staged,
    by_own_steps,
    cut,
    files_of_delivery,
    stage,
)
from meterlake.pipeline.derivation import Session
from meterlake.schema import DELIVERIES, STAGING, LengthSource

_SETTLE_EVERY = 50  # files: so many commits a reader reads at most to see what they brought


@dataclass(frozen=True)
class Failure:
    """A delivered file that was not taken in, and why: it is bad, or was unavailable."""

    file: str
    reason: str
    is_bad: bool


@dataclass(frozen=True)
class FileBalance:
    """What became of a delivered file's rows: `rows` = `stored` + `quarantined`.

    `readings` are the values in the stored rows. `interval_seconds` is the shortest interval [s],
    `length_source` what says so, and `contradicting` the rows that come sooner after one another
    than the profile's or the lake's interval allows; `apart_seconds` is the smallest time between
    stamps; `rejected_because` the commonest reason of rejected rows. A file that was taken in
    before has no row counted: all of them are there already.
    """

    file: str
    sha256: str
    rows: int = 0
    quarantined: int = 0
    readings: int = 0
    already_ingested: bool = False
    interval_seconds: int | None = None
    length_source: LengthSource = "unknown"
    contradicting: int = 0
    apart_seconds: int | None = None
    rejected_because: str = ""

    @property
    def contradiction(self) -> str:
        """How the times of the readings contradict the length of their intervals; empty: not."""
        if self.interval_seconds is None or self.length_source not in ("profile", "lake"):
            return ""
        said = (
            f"the {self.length_source} says that intervals are {self.interval_seconds / 60:g} min"
        )
        if self.contradicting:
            share = self.contradicting / max(self.rows, 1)
            return (
                f"{said}, and {share:.0%} of the rows come sooner: their length is inferred, and "
                "no day of theirs is complete"
            )
        if self.apart_seconds is not None and self.apart_seconds > self.interval_seconds:
            return (
                f"{said}, and the readings are {self.apart_seconds / 60:g} min apart: the time "
                "between them counts as missing"
            )
        return ""

    @property
    def stored(self) -> int:
        """Rows that staging has of the file."""
        return self.rows - self.quarantined


@dataclass(frozen=True)
class IngestOptions:
    """How files are taken in.

    `strict`: refuse one whose times contradict the length of its intervals. `again`: read one that
    was taken in before once more, in the place of what it was read as.
    """

    strict: bool = False
    again: bool = False


USUAL = IngestOptions()


@dataclass
class Ingested:
    """What an ingest did, over all its files: `rows` = `stored` + `quarantined`."""

    balance: list[FileBalance] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    @property
    def files(self) -> int:
        """Number of files that were taken in."""
        return sum(not b.already_ingested for b in self.balance)

    @property
    def already_ingested(self) -> int:
        """Number of files that had been taken in before."""
        return len(self.balance) - self.files

    @property
    def rows(self) -> int:
        """Rows of the files that were taken in."""
        return sum(b.rows for b in self.balance)

    @property
    def stored(self) -> int:
        """Rows that staging has got."""
        return sum(b.stored for b in self.balance)

    @property
    def quarantined(self) -> int:
        """Rows that the quarantine has got."""
        return sum(b.quarantined for b in self.balance)

    @property
    def unread(self) -> list[FileBalance]:
        """The files of which not one row could be read."""
        return [b for b in self.balance if b.rows and not b.stored]

    @property
    def readings(self) -> int:
        """Values in the stored rows."""
        return sum(b.readings for b in self.balance)


def ingest(
    session: Session,
    locations: Sequence[str],
    *,
    profile: str | None = None,
    options: IngestOptions = USUAL,
    marks: Mapping[str, Mark] | None = None,
    fetch: Fetch = local,
) -> Ingested:
    """Take delivered files into staging, each in one commit, each once.

    A file that cannot be read is listed in `failures` and changes nothing; the others are
    still taken in.

    Parameters
    ----------
    profile : name or file of their format; None: it is recognised
    marks : keys of staging that move in the same step, a Step only with a single file; one that
        was taken in before moves none
    fetch : brings a location within reach; `sources.fetcher.local_copies` knows URLs
    """
    store, progress = session.store, session.progress
    if profile is not None:
        named_format(profile, default_zone=session.settings.timezone)
    files = expand(list(locations))
    if not files:
        raise BadInput(f"Ingest needs files; found none in {', '.join(locations)}. Check the path")
    settle(store, STAGING, now=session.now)
    if len(files) > 1 and any(isinstance(mark, Step) for mark in (marks or {}).values()):
        raise ValueError("a Step moves with one file")
    intake = _Intake(session, profile, marks or {}, fetch, options)
    units = intake.portions(files)
    rows = 0
    progress("ingest", len(files), 0)
    with closing(intake):
        for result in session.engine.map(stage(store, received_at=session.now), units):
            intake.conclude(before=result.number)
            intake.files[result.number].results.append(result)
            rows += result.rows if isinstance(result, Staged) else 0
            progress("rows", None, rows)
            progress("ingest", len(files), result.number)
        intake.conclude(before=len(files))
    settle(store, STAGING, now=session.now)
    progress("ingest", len(files), len(files))
    done = Ingested()
    for number in range(len(files)):
        outcome = intake.outcomes[number]
        if isinstance(outcome, Failure):
            done.failures.append(outcome)
        else:
            done.balance.append(outcome)
    return done


@dataclass
class _File:
    """A delivered file that is being taken in; its bytes are within reach until it is closed."""

    location: str
    delivery: Delivery
    held: ExitStack
    source: DeliveredFile | None = None
    format: Format | None = None
    lengths: Lengths | None = None
    error: MeterlakeError | None = None
    results: list[Staged | RefusedPortion] = field(default_factory=list)
    before: Sequence[DeliveryRecord] = ()

    @property
    def delivery_id(self) -> str:
        """Identifier of this delivery: another one each time that the content is read."""
        return delivery_id_of(self.delivery.sha256, len(self.before))

    def whole(self, number: int) -> Portion:
        """All of the file as a unit of work."""
        if self.source is None or self.format is None:
            raise ValueError(f"{self.location} has not been opened")
        return Portion(
            number,
            self.delivery.sha256,
            self.delivery_id,
            self.format,
            self.source,
            self.lengths,
            min((r.received_at for r in self.before), default=None),
        )


@dataclass
class _Intake:
    """The files of one ingest: those that are being taken in, and what became of the others."""

    session: Session
    profile: str | None
    marks: Mapping[str, Mark]
    fetch: Fetch
    options: IngestOptions
    known: list[DeliveryRecord] | None = None
    files: dict[int, _File] = field(default_factory=dict)
    first_of: dict[str, int] = field(default_factory=dict)  # number by content
    same: dict[int, tuple[str, Delivery]] = field(default_factory=dict)
    outcomes: dict[int, FileBalance | Failure] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.store, self.zone = self.session.store, self.session.settings.timezone

    def portions(self, locations: Sequence[str]) -> Iterator[Portion]:
        """Keep each file under `inbound/` and cut it."""
        for number, location in enumerate(locations):
            with ExitStack() as held:
                try:
                    delivery = delivery_of(held.enter_context(self.fetch(location)))
                    if self.first_of.setdefault(delivery.sha256, number) != number:
                        self.same[number] = location, delivery
                        continue
                    before = self._records(delivery.sha256)
                    if self._stays_as_it_is(before):
                        self.outcomes[number] = _known(delivery)
                        continue
                except MeterlakeError as error:
                    self.outcomes[number] = _failure(location, error)
                    continue
                file = _File(location, delivery, held.pop_all(), before=before)
                self.files[number] = file
            try:
                yield from self._cut(number, file)
            except MeterlakeError as error:
                file.error = error

    def _cut(self, number: int, file: _File) -> Iterator[Portion]:
        file.source = source = land(self.store, file.delivery)
        probe(source)
        if self.profile is None:
            fmt = recognise(source, default_zone=self.zone)
        else:
            fmt = named_format(self.profile, default_zone=self.zone)
        fmt, file.lengths = with_lengths(fmt, source, self.session.settings.interval_seconds)
        file.format = fmt
        for part in cut(fmt, source, by_reference=self.session.engine.sends_units):
            if any(isinstance(result, RefusedPortion) for result in file.results):
                return
            yield replace(file.whole(number), part=part)

    def conclude(self, *, before: int) -> None:
        """Commit the files before a number, all of whose portions are done."""
        for number in sorted(n for n in self.files if n < before):
            with self.files[number].held:
                file = self.files.pop(number)
                try:
                    self.outcomes[number] = self._commit(file)
                except MeterlakeError as error:
                    self.outcomes[number] = _failure(file.location, error)
            if number % _SETTLE_EVERY == _SETTLE_EVERY - 1:
                settle(self.store, STAGING, now=self.session.now)
        for number in [n for n in self.same if n < before]:
            location, delivery = self.same.pop(number)
            first = self.outcomes[self.first_of[delivery.sha256]]
            is_known = isinstance(first, FileBalance)
            self.outcomes[number] = _known(delivery) if is_known else replace(first, file=location)

    def close(self) -> None:
        """Let go of what was fetched for files that did not get done."""
        for file in self.files.values():
            file.held.close()

    def _commit(self, file: _File) -> FileBalance:
        delivery = file.delivery
        refused = [r.error for r in file.results if isinstance(r, RefusedPortion)]
        error = refused[0] if refused else file.error
        if isinstance(error, NotReadable):
            if not file.before and self._is_known(delivery.sha256):
                return _known(delivery)  # it could be read meanwhile, by another profile
            set_aside(self.store, delivery, file.source, str(error))
        if error is not None:
            raise error
        if file.source is None or file.format is None:
            raise ValueError(f"{file.location} was neither cut nor refused")
        results = [r for r in file.results if isinstance(r, Staged)]
        results = by_own_steps(
            self.store, file.whole(0), file.source, results, received_at=self.received_at(file)
        )
        balance = _balance(file, results)
        if self.options.strict and balance.contradiction:
            words = f"'{delivery.name}' is refused by --strict: {balance.contradiction}"
            set_aside(self.store, delivery, file.source, words)
            raise NotReadable(f"{words}. Correct the length in its profile, or in the settings")
        if not self.options.again:
            self._refuse_twice(file, results)
        record = self._record(file, balance, _content_of(file.source, results))
        try:
            commit(self.store, STAGING, self._change(file, record, results), now=self.session.now)
        except Conflict:
            if file.before or not self._is_known(record.source_sha256, record.sha256):
                raise
            if not self._is_known(delivery.sha256):  # it came before, otherwise packed
                self.store.delete(record.inbound)
            return _known(delivery)
        return balance

    def received_at(self, file: _File) -> datetime:
        """When a file came first: reading it again makes it no later."""
        return min((r.received_at for r in file.before), default=self.session.now)

    def _stays_as_it_is(self, before: Sequence[DeliveryRecord]) -> bool:
        """Whether a file's content counts already, read in the way that is asked for."""
        counting = [r for r in before if r.state == "active"]
        if self.options.again or not counting:
            return False
        if self.profile is None:
            return True
        fmt = named_format(self.profile, default_zone=self.zone)
        asked = fmt.name, profile_of(fmt)
        return any((r.format, r.profile) == asked for r in counting)

    def _refuse_twice(self, file: _File, results: Sequence[Staged]) -> None:
        """Raise BadInput where rows that count already would be read in another way too."""
        counting = {r.delivery_id: r for r in file.before if r.state == "active"}
        if not counting:
            return
        old = [f for f in logged(self.store, STAGING).files.values() if f.made_from in counting]
        new = [f for r in results for f in r.files]
        rows = (
            fetched(scan(self.store, STAGING, x).select("source_row").unique()) for x in (old, new)
        )
        twice = next(rows).join(next(rows), on="source_row", how="semi").height
        if twice and file.format is not None:
            how = ", ".join(r.format for r in counting.values())
            name = file.location
            raise BadInput(
                f"'{file.delivery.name}' was taken in before, read as {how}; {twice:,} of its rows "
                f"would be read as {file.format.name} too. To have it read as {file.format.name} "
                f"instead: meterlake ingest {name} --again --profile {self.profile}. To leave it "
                "as it is, do nothing; to take it back: meterlake withdraw "
                f"{file.delivery.sha256[:12]}"
            )

    def _record(self, file: _File, balance: FileBalance, content: str | None) -> DeliveryRecord:
        if file.source is None or file.format is None:
            raise ValueError(f"{file.location} was neither cut nor refused")
        source, fmt = file.source, file.format
        return DeliveryRecord(
            file.delivery_id,
            source_file=balance.file,
            sha256=content or balance.sha256,
            source_sha256=balance.sha256,
            inbound=source.url.removeprefix(f"{self.store.url}/"),
            format=fmt.name,
            profile=profile_of(fmt),
            timezone=self.zone,
            interval_seconds=balance.interval_seconds,
            length_source=balance.length_source,
            received_at=self.received_at(file),
            rows=balance.rows,
            stored=balance.stored,
            quarantined=balance.quarantined,
            readings=balance.readings,
            recorded_at=self.session.now,
        )

    def _change(self, file: _File, record: DeliveryRecord, results: Sequence[Staged]) -> Change:
        files = files_of_delivery(results, record.delivery_id)
        number = f"/{len(file.before)}" if file.before else ""
        keys = {
            f"{KEY_PREFIX}{sha256}{number}": 0 for sha256 in (record.sha256, record.source_sha256)
        }
        # What was read without a single row stands in nobody's way.
        active = [r for r in file.before if r.state == "active"]
        gone = [r for r in active if self.options.again or r.stored == 0]
        rows = [withdrawn(r, "read again", self.session.now) for r in gone]
        return Change(
            keys | withdrawal_keys(self.store, rows),
            add=files.pop(STAGING.name),
            attached={**files, DELIVERIES.name: write_records(self.store, [record, *rows])},
            marks=self.marks,
            provenance=Provenance("ingest"),
        )

    def _records(self, sha256: str) -> list[DeliveryRecord]:
        """What is known of a content that was taken in before: each time that it was read."""
        if not self._is_known(sha256):
            return []
        if self.known is None:
            self.known = list(read_records(self.store).values())
        return [r for r in self.known if sha256 in (r.sha256, r.source_sha256)]

    def _is_known(self, *contents: str | None) -> bool:
        """Whether a file of one of these hashes was taken in: of its content, or as delivered."""
        delta = open_delta(self.store, STAGING)
        return any(recorded_under(delta, f"{KEY_PREFIX}{sha256}") >= 0 for sha256 in contents)


def _balance(file: _File, results: Sequence[Staged]) -> FileBalance:
    """What became of a file's rows."""
    if file.format is None:
        raise ValueError(f"{file.location} has not been opened")
    seconds, told = stated_length(file.format, file.lengths)
    return FileBalance(
        file.delivery.name,
        file.delivery.sha256,
        rows=sum(r.rows for r in results),
        quarantined=sum(r.quarantined for r in results),
        readings=sum(r.readings for r in results),
        interval_seconds=seconds,
        length_source=told,
        contradicting=sum(r.contradicting for r in results),
        apart_seconds=min((r.apart for r in results if r.apart is not None), default=None),
        rejected_because=next((r.reason for r in results if r.reason), ""),
    )


def _content_of(source: DeliveredFile, results: Sequence[Staged]) -> str | None:
    """SHA-256 of the content of a file that came compressed; None: it came as it is."""
    if source.compression == "none" or source.ranges:
        return None
    return next((r.sha256 for r in results if r.sha256), None) or source.content_sha256()


def _known(delivery: Delivery) -> FileBalance:
    return FileBalance(delivery.name, delivery.sha256, already_ingested=True)


def _failure(location: str, error: MeterlakeError) -> Failure:
    return Failure(location, str(error), isinstance(error, BadInput))
