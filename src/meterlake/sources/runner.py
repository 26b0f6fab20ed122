"""The runner: claim a source, poll it, fetch, verify, ingest, record, put away.

Whatever is cut off between, the next run resumes: a part on disk is fetched on, and a file that
staging has is known by its content. Only the holder of the claim takes files in.
"""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial

from meterlake.delta.commit import Mark
from meterlake.delta.lock import Claim, Taken, claimed
from meterlake.errors import BadInput, MeterlakeError, Unavailable, plain
from meterlake.ingest.intake import Ingested, ingest
from meterlake.pipeline.derivation import Session
from meterlake.schema import INTEGRATIONS, STAGING, TAKEN_FILES
from meterlake.sources.fetcher import fetch, keep_parts, part_of, parts_folder
from meterlake.sources.ledger import Ledger, RunState
from meterlake.sources.port import (
    Batch,
    Cursor,
    FileUnavailable,
    Means,
    Source,
    SourceFile,
    TakenFile,
)

_PORTION_FILES = 64  # ingested together, and
_PORTION_BYTES = 512 * 1024 * 1024  # about
_CHECK_SECONDS = 30.0  # between looks whether the claim is still ours


_COUNTED = (
    "taken", "known", "failed", "rows", "stored", "quarantined", "put_away", "stuck", "windows",
    "empty",
)  # fmt: skip


@dataclass(frozen=True)
class SourceRun:
    """What a run found at a source, and what became of it.

    `found` are files that the source names, `taken` those that came in now, `known` those whose
    content the lake had, `waiting` those that are not complete yet or could not be fetched,
    `failed` those that cannot be read; `rows` = `stored` + `quarantined`. `put_away` were marked
    or moved at the source, `stuck` could not be fetched or put away. `windows` of arrivals were
    gone through, `empty` ones among them, up to `cursor`.
    """

    name: str
    found: int = 0
    taken: int = 0
    known: int = 0
    waiting: int = 0
    failed: int = 0
    rows: int = 0
    stored: int = 0
    quarantined: int = 0
    put_away: int = 0
    stuck: int = 0
    windows: int = 0
    empty: int = 0
    cursor: datetime | None = None
    problems: tuple[str, ...] = ()

    @property
    def did_something(self) -> bool:
        """Whether anything came of it."""
        return any(
            getattr(self, name) for name in ("taken", "known", "failed", "put_away", "windows")
        )

    def plus(self, **counts: int) -> "SourceRun":
        """Return the same with more of some counts."""
        return replace(self, **{name: getattr(self, name) + n for name, n in counts.items()})

    def told(self, *problems: str) -> "SourceRun":
        """Return the same with more problems."""
        return replace(self, problems=(*self.problems, *problems))

    def after(self, earlier: "SourceRun") -> "SourceRun":
        """Return what this run and an earlier one did."""
        return self.plus(**{name: getattr(earlier, name) for name in _COUNTED})


@dataclass
class Runner:
    """Runs of one source; `done` is what the last one did, also where it failed midway."""

    session: Session
    source: Source
    means: Means = field(default_factory=Means)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.session.store, self.source.name, self.source.key)
        self.done = SourceRun(self.source.name)
        self.state: RunState | None = None
        self._parts = parts_folder(self.session.store.url, self.source.key)
        self._began: float | None = None
        self._claim: Claim | None = None
        self._checked_at = 0.0

    def run(self) -> SourceRun:
        """Take in what the source has now.

        Raises
        ------
        Taken
            Another process takes its files in.
        BadInput, Unavailable
            The source or the lake cannot be used; what came in before stays. The next run resumes.
        """
        source = self.source
        self._began = self.means.tick()
        self._begin()
        with ExitStack() as held:
            held.enter_context(closing(source))
            try:
                cursor = None if source.is_exclusive else Cursor(files=self.ledger.files())
                batch = None if cursor is None else self._poll(cursor)
                if batch is None or batch.files or batch.dealt_with:
                    self._claim = held.enter_context(self._claimed())
                    self.ledger.marks = self._claim.marks
                    self._take_all(cursor, batch)
                self._succeeded()
            except Taken:
                raise
            except MeterlakeError as error:
                self._failed(error)
                raise
            finally:
                self._claim = None
        return self.done

    def seconds_until_due(self, every: float) -> float:
        """Seconds until the next run: after a failure its back-off, else the next turn.

        `every` is the time from turn to turn [s]; a source may have a longer interval.
        """
        if self.source.is_exclusive:
            with suppress(Unavailable):  # the run will say so
                self.state = self.ledger.state()
        seconds = pause_of(self.state, now=self.means.clock())
        if self._began is None or self.has_failed:
            return seconds
        return max(seconds, self._began + every - self.means.tick())

    @property
    def has_failed(self) -> bool:
        """Whether the last run failed."""
        return self.state is not None and self.state.failures > 0

    def _claimed(self) -> AbstractContextManager[Claim]:
        store, key, means = self.session.store, self.source.key, self.means
        tables = STAGING, INTEGRATIONS if self.source.is_exclusive else TAKEN_FILES
        return claimed(store, key, tables=tables, clock=means.clock, pause=means.pause, waits=())

    def _begin(self) -> RunState:
        now = self.means.clock()
        self.done = SourceRun(self.source.name)
        self.state = replace(self.state or RunState(now), tried_at=now)
        return self.state

    def _take_all(self, cursor: Cursor | None, batch: Batch | None) -> None:
        """Take in batch after batch, up to the last one."""
        if cursor is None:
            self.state = self.ledger.state()
            self.source.pending = self._begin().order
            cursor = Cursor(until=self.ledger.until())
            self.done = replace(self.done, cursor=cursor.until)
        elif (files := self.ledger.files()) is not cursor.files:  # another has been here
            cursor, batch = Cursor(files=files), None
        while True:
            batch = batch or self._poll(cursor)
            if batch.keeps_order:
                self._record_state()
            if batch.wait_seconds is not None:
                self._alive()
                self.means.pause(batch.wait_seconds)
            else:
                cursor = self._take(batch, cursor)
                if batch.is_last:
                    return
                self._alive(at_once=True)
            batch = None

    def _poll(self, cursor: Cursor) -> Batch:
        batch = self.source.poll(cursor)
        found, waiting, problems = len(batch.there), batch.waiting, batch.problems
        self.done = replace(self.done, found=found, waiting=waiting, problems=problems)
        if batch.progress is not None:
            self.session.progress(*batch.progress)
        return batch

    def _take(self, batch: Batch, cursor: Cursor) -> Cursor:
        """Take in a batch, some files at a time; where the cursor is then."""
        keep_parts(self._parts, batch.files)
        for files in _portions(batch.files):
            here, error = self._fetched(files, is_one=batch.next_cursor is not None)
            if here:
                self._take_in(here, batch.next_cursor, cursor)
            if error is not None:
                raise error
        if batch.next_cursor is not None:
            if not batch.files:
                self._take_in({}, batch.next_cursor, cursor)
            return Cursor(until=batch.next_cursor)
        self._put_away(batch.dealt_with)
        if batch.there:
            self.ledger.forget(batch.there, now=self.means.clock())
        return cursor

    def _fetched(
        self, files: Sequence[SourceFile], *, is_one: bool
    ) -> tuple[dict[str, SourceFile], Unavailable | None]:
        """Files by where they are now, and why there are not more."""
        here: dict[str, SourceFile] = {}
        try:
            with self.source.opened() as place:
                for number, file in enumerate(files):
                    self._alive()
                    self.session.progress(f"fetch from {self.source.name}", len(files), number)
                    to = part_of(self._parts, file)
                    try:
                        fetch(
                            place,
                            file,
                            to,
                            seen=partial(self._progress, "bytes", file.version.size),
                        )
                    except FileUnavailable as error:
                        self.source.postpone(file)
                        if is_one:
                            raise
                        self._stuck(error, waiting=1)
                    else:
                        here[str(to)] = file
        except Unavailable as error:
            return here, error
        return here, None

    def _take_in(
        self, here: Mapping[str, SourceFile], next_cursor: datetime | None, cursor: Cursor
    ) -> None:
        """Ingest files that are here, record what became of them, put them away."""
        now = self.means.clock()
        marks: Mapping[str, Mark] = self.ledger.marks
        if next_cursor is not None:
            marks = self.ledger.step(cursor.until, next_cursor)
        result = Ingested()
        if here:
            session = replace(self.session, now=now, progress=self._progress)
            result = ingest(session, list(here), profile=self.source.profile, marks=marks)
        dealt, away = _outcomes(here, result, now)
        failed = [taken for taken in dealt if taken.outcome == "failed"]
        if next_cursor is not None:
            for taken in failed:
                self.source.postpone(taken.file)  # the same file would be as bad again
                raise BadInput(taken.message)
        elif dealt:
            self.ledger.record(dealt, now=now)
        self.done = self.done.plus(
            taken=result.files,
            known=result.already_ingested,
            failed=len(failed),
            rows=result.rows,
            stored=result.stored,
            quarantined=result.quarantined,
        ).told(*(f"'{t.file.name}' is not taken in: {t.message}" for t in failed))
        for taken in dealt:
            shutil.rmtree(part_of(self._parts, taken.file).parent, ignore_errors=True)
        if away is not None:
            raise Unavailable(away)
        if next_cursor is None:
            self._put_away(dealt)
            return
        if not result.files:  # nothing arrived, or just these bytes were taken in before
            self.ledger.move(marks, now=now)
        keep_parts(self._parts, ())
        self.source.pending = None
        self.done = replace(self.done, cursor=next_cursor).plus(windows=1, empty=int(not here))

    def _put_away(self, dealt: Sequence[TakenFile]) -> None:
        if dealt and self.source.puts_away:
            self._alive()
            for outcome in self.source.put_away(dealt):
                if isinstance(outcome, FileUnavailable):
                    self._stuck(outcome, waiting=0)
                else:
                    self.done = self.done.plus(put_away=int(outcome))

    def _stuck(self, error: FileUnavailable, *, waiting: int) -> None:
        self.done = self.done.plus(stuck=1, waiting=waiting).told(str(error))

    def _succeeded(self) -> None:
        assert self.state is not None
        due = self.state.tried_at + timedelta(seconds=self.source.schedule.interval_seconds)
        self.state = replace(
            self.state,
            succeeded_at=self.means.clock(),
            next_eligible=due,
            failures=0,
            last_error="",
        )
        self._record_state()

    def _failed(self, error: MeterlakeError) -> None:
        """Try again later, the later the more often it has failed."""
        assert self.state is not None
        schedule, failures = self.source.schedule, self.state.failures + 1
        longest = min(
            schedule.retry_seconds * 2.0 ** min(failures - 1, 60), schedule.longest_seconds
        )
        seconds = longest * (0.5 + self.means.chance() / 2)  # spread
        self.state = replace(
            self.state,
            failures=failures,
            last_error=plain(error, 2000),
            next_eligible=self.means.clock() + timedelta(seconds=seconds),
        )
        with suppress(Unavailable):  # the lake is away, or another has it: the cause is raised
            self._record_state()

    def _record_state(self) -> None:
        """Record an exclusive source's state, while the claim is ours."""
        if self.source.is_exclusive and self._claim is not None and self.state is not None:
            self._claim.check()
            self.state = replace(self.state, order=self.source.pending)
            self.ledger.record_state(self.state, now=self.means.clock())

    def _progress(self, what: str, total: int | None, done: int) -> None:
        self._alive()
        self.session.progress(what, total, done)

    def _alive(self, *, at_once: bool = False) -> None:
        """Keep the claim, looking every so often; end where the run is to be ended."""
        self.means.check()
        tick = self.means.tick()
        if self._claim is not None and (at_once or tick - self._checked_at > _CHECK_SECONDS):
            self._claim.check()
            self._checked_at = tick


def pause_of(state: RunState | None, *, now: datetime) -> float:
    """Seconds until a source may be polled again; 0: it may be now."""
    if (
        state is None or state.next_eligible is None or state.tried_at > now
    ):  # the clock was set back
        return 0.0
    return max(0.0, (state.next_eligible - now).total_seconds())


def _outcomes(
    here: Mapping[str, SourceFile], result: Ingested, now: datetime
) -> tuple[list[TakenFile], str | None]:
    """What became of files, and why some were neither taken in nor found to be bad."""
    refused = {failure.file: failure for failure in result.failures}
    balances = iter(result.balance)  # in the order of the files, without those that failed
    dealt: list[TakenFile] = []
    away = None
    for path, file in here.items():
        failure = refused.get(path)
        if failure is None:
            dealt.append(TakenFile(file, "taken", now, sha256=next(balances).sha256))
        elif failure.is_bad:
            dealt.append(TakenFile(file, "failed", now, message=failure.reason))
        else:
            away = failure.reason
    return dealt, away


def _portions(files: Sequence[SourceFile]) -> list[list[SourceFile]]:
    """Files to be ingested together."""
    portions: list[list[SourceFile]] = []
    size = 0
    for file in files:
        if not portions or len(portions[-1]) == _PORTION_FILES or size >= _PORTION_BYTES:
            portions.append([])
            size = 0
        portions[-1].append(file)
        size += file.version.size
    return portions
