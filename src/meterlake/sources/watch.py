"""The job that looks at a source of files, and takes in what is complete there, each once.

A file is fetched whole, taken into staging, remembered, and only then marked or moved at its
source. Whatever is cut off between, the next look goes on: a file that staging has is known by its
content, whatever its name.
"""

import hashlib
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from meterlake.delta.lock import Claim, claimed
from meterlake.delta.store import Store
from meterlake.engine import Engine
from meterlake.engine.progress import Progress, silent
from meterlake.errors import Unavailable
from meterlake.ingest.intake import ingest
from meterlake.schema import STAGING, TAKEN_FILES
from meterlake.settings import Settings
from meterlake.source_settings import SourceSettings
from meterlake.sources.ledger import Looked, Means, Memory, Taken
from meterlake.sources.places import File, Listing, Version, fetch, listing, opened, put_away, stays
from meterlake.sources.received import FileUnavailable, parts_folder

LONGEST_PAUSE_SECONDS = 900.0  # until a source that fails is looked at again
STUCK_SECONDS = 60.0  # until a file that could not be fetched or put away is tried again
_BATCH_FILES = 64  # taken in together, and
_BATCH_BYTES = 512 * 1024 * 1024  # about
_CHECK_SECONDS = 30.0


@dataclass
class Watched:
    """A source, and what is known of it from look to look."""

    store: Store
    told: SourceSettings
    engine: Engine
    settings: Settings
    means: Means = field(default_factory=Means)
    progress: Progress = silent
    failures: int = 0
    due_at: float = 0.0
    _seen: dict[str, tuple[Version, float]] = field(default_factory=dict)
    _later: dict[str, float] = field(default_factory=dict)  # when stuck files are tried again
    _dealt: dict[str, Taken] = field(default_factory=dict)  # and are yet to be put away
    _stays: bool = True  # whether files stay where they are, under their names

    def __post_init__(self) -> None:
        self._memory = Memory(self.store, self.told.label)
        self._parts = parts_folder("source", self.store.url, self.told.label)

    @property
    def is_due(self) -> bool:
        """Whether it may be looked at again after it has failed."""
        return self.means.tick() >= self.due_at

    def look(self) -> Looked:
        """Look at the source once, and take in what is complete.

        Raises
        ------
        Taken
            Another process takes its files in.
        BadInput, Unavailable
            The source or the lake is not to be had; what came in before stays.
        """
        with opened(self.told) as place:
            there = listing(place, self.told.address.path)
            complete = self._complete(there.files, is_atomic=place.is_atomic)
            self._stays = stays(place, self.told.after)
        paths = {file.path for file in there.files}
        self._later = {path: until for path, until in self._later.items() if path in paths}
        self._dealt = {path: taken for path, taken in self._dealt.items() if path in paths}
        done = Looked(
            self.told.label, len(there.files), problems=tuple(map(_odd, sorted(there.unusable)))
        )
        self._memory.refresh()
        new, left = self._split(complete, there)
        tried = {file.path for file in new}
        waiting = sum(f.path not in tried and not self._is_known(f) for f in there.files)
        if new or left:
            with claimed(
                self.store,
                f"source/{self.told.label}",
                tables=(STAGING, TAKEN_FILES),
                clock=self.means.clock,
                waits=(),
            ) as claim:
                self._memory.refresh()  # another may have been here
                new, left = self._split(complete, there)
                done = _Turn(self, claim, done).through(new, left)
                self._memory.forget(paths, claim, now=self.means.clock())
        self.failures, self.due_at = 0, 0.0
        return replace(done, waiting=done.waiting + waiting)

    def failed(self, every: float) -> float:
        """After a look that failed: wait for the next one, the longer the more have; the pause."""
        self.failures += 1
        longest = min(every * 2.0 ** min(self.failures, 60), LONGEST_PAUSE_SECONDS)
        pause = longest * (0.5 + self.means.chance() / 2)
        self.due_at = self.means.tick() + pause
        return pause

    def _complete(self, files: Sequence[File], *, is_atomic: bool) -> list[File]:
        """Those that have stayed the same for long enough, over two looks at least."""
        if is_atomic or self.told.settle_seconds == 0:
            return list(files)
        now, before, complete = self.means.tick(), self._seen, []
        self._seen = {}
        for file in files:
            version, since = before.get(file.path, (None, now))
            since = since if version == file.version else now
            self._seen[file.path] = file.version, since
            if version == file.version and now - since >= self.told.settle_seconds:
                complete.append(file)
        return complete

    def _split(self, files: Sequence[File], there: Listing) -> tuple[list[File], list[Taken]]:
        """Files that are new, and those that were dealt with and are yet to be put away."""
        now = self.means.tick()
        files = [f for f in files if self._later.get(f.path, now) <= now]
        new = [f for f in files if not self._is_known(f)]
        if self.told.after == "keep":
            return new, []
        known = self._memory.known if self._stays else self._dealt
        left = [known[f.path] for f in files if self._is_known(f)]
        return new, [t for t in left if f"{t.file.path}.{t.outcome}" not in there.marks]

    def _is_known(self, file: File) -> bool:
        """Whether a file was dealt with; where files are put away, what lies there is new."""
        known = self._memory.known if self._stays else self._dealt
        return file.path in known and known[file.path].file == file


@dataclass
class _Turn:
    """The part of a look that takes files in."""

    source: Watched
    claim: Claim
    done: Looked
    checked_at: float = 0.0

    def through(self, new: Sequence[File], left: Sequence[Taken]) -> Looked:
        """Take in what is new, some at a time, and put away what was dealt with before."""
        self.checked_at = self.source.means.tick()
        parts = self.source._parts
        wanted = {_key(file) for file in new}
        with suppress(FileNotFoundError):
            for folder in parts.iterdir():
                if folder.name not in wanted:
                    shutil.rmtree(folder, ignore_errors=True)
        for batch in _batches(new):
            fetched, error = self._fetched(batch)
            self._take_in(fetched)
            if error is not None:
                raise error
        self._put_away(left)
        return self.done

    def _fetched(self, files: Sequence[File]) -> tuple[dict[str, File], Unavailable | None]:
        """Files by where they are now, and why there are not more."""
        source, here = self.source, dict[str, File]()
        try:
            with opened(source.told) as place:
                for number, file in enumerate(files):
                    self._alive()
                    source.progress(f"fetch from {source.told.label}", len(files), number)
                    to = source._parts / _key(file) / file.name
                    try:
                        fetch(place, file, to, seen=lambda _: self._alive())
                    except FileUnavailable as error:
                        self._stuck(file, error)
                        self.done = replace(self.done, waiting=self.done.waiting + 1)
                        continue
                    here[str(to)] = file
        except Unavailable as error:
            return here, error
        except OSError as error:
            return here, Unavailable(
                f"Files cannot be kept in {source._parts}: {error.strerror or error}"
            )
        return here, None

    def _take_in(self, here: dict[str, File]) -> None:
        """Ingest files that are here, remember what became of them, put them away."""
        if not here:
            return
        source, now = self.source, self.source.means.clock()
        result = ingest(
            source.store,
            list(here),
            engine=source.engine,
            settings=source.settings,
            now=now,
            profile=source.told.profile,
            marks=self.claim.marks,
            progress=self._progress,
        )
        refused = {failure.file: failure for failure in result.failures}
        balances = iter(result.balance)  # in the order of the files, without those that failed
        dealt: list[Taken] = []
        away: str | None = None
        for path, file in here.items():
            failure = refused.get(path)
            if failure is None:
                dealt.append(Taken(file, "taken", now, sha256=next(balances).sha256))
            elif failure.is_bad:
                dealt.append(Taken(file, "failed", now, message=failure.reason))
            else:
                away = failure.reason
        if dealt:
            source._memory.remember(dealt, self.claim, now=now)
        failed = [taken for taken in dealt if taken.outcome == "failed"]
        self.done = replace(
            self.done,
            taken=self.done.taken + result.files,
            known=self.done.known + result.already_ingested,
            failed=self.done.failed + len(failed),
            rows=self.done.rows + result.rows,
            stored=self.done.stored + result.stored,
            quarantined=self.done.quarantined + result.quarantined,
            problems=(
                *self.done.problems,
                *(f"'{t.file.name}' is not taken in: {t.message}" for t in failed),
            ),
        )
        for taken in dealt:
            shutil.rmtree(source._parts / _key(taken.file), ignore_errors=True)
        if away is not None:
            raise Unavailable(away)
        if source.told.after != "keep":
            self._put_away(dealt)

    def _put_away(self, dealt: Sequence[Taken]) -> None:
        after = self.source.told.after
        if not dealt or after == "keep":
            return
        self._alive()
        moved = 0
        self.source._dealt |= {taken.file.path: taken for taken in dealt}
        with opened(self.source.told) as place:
            for taken in dealt:
                try:
                    moved += put_away(place, taken.file, taken.outcome, after=after, at=taken.at)
                    del self.source._dealt[taken.file.path]
                except FileUnavailable as error:
                    self._stuck(taken.file, error)
        self.done = replace(self.done, put_away=self.done.put_away + moved)

    def _stuck(self, file: File, error: FileUnavailable) -> None:
        self.source._later[file.path] = self.source.means.tick() + STUCK_SECONDS
        problems = (*self.done.problems, str(error))
        self.done = replace(self.done, stuck=self.done.stuck + 1, problems=problems)

    def _progress(self, what: str, total: int | None, done: int) -> None:
        self._alive()
        self.source.progress(what, total, done)

    def _alive(self) -> None:
        """Go on having the claim, looking every so often; end where it is to be ended."""
        means = self.source.means
        means.check()
        if means.tick() - self.checked_at > _CHECK_SECONDS:
            self.claim.check()
            self.checked_at = means.tick()


def _batches(files: Sequence[File]) -> list[list[File]]:
    batches: list[list[File]] = []
    size = 0
    for file in files:
        if not batches or len(batches[-1]) == _BATCH_FILES or size >= _BATCH_BYTES:
            batches.append([])
            size = 0
        batches[-1].append(file)
        size += file.version.size
    return batches


def _key(file: File) -> str:
    """Name of the folder that a file is fetched to: another content goes elsewhere."""
    return hashlib.sha256(f"{file.path}\n{file.version}".encode()).hexdigest()[:24]


def _odd(name: str) -> str:
    return f"a file of the name {name[:100]!a} is left alone: rename it"
