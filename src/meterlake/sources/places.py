"""A source of files that arrive in a place: a folder, a server or a bucket.

A file is offered once it has stayed the same for long enough; files being written are left alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

from meterlake.source_settings import SourceSettings
from meterlake.sources.fetcher import credentials, is_usable, opened
from meterlake.sources.port import (
    Batch,
    Cursor,
    FileUnavailable,
    Leaves,
    Means,
    Order,
    Outcome,
    Place,
    Renames,
    Schedule,
    SourceFile,
    TakenFile,
    Version,
)

STUCK_SECONDS = 60.0  # until a file that could not be fetched or put away is tried again

_OUTCOMES: tuple[Outcome, ...] = ("taken", "failed")
_MARKS = tuple(f".{outcome}" for outcome in _OUTCOMES)
_UNFINISHED = (".part", ".tmp", ".filepart", ".crdownload", ".partial")


@dataclass(frozen=True)
class PlaceListing:
    """Files that a pattern names, marks that lie beside them, and names that cannot be used."""

    files: list[SourceFile] = field(default_factory=list)
    marks: set[str] = field(default_factory=set)
    unusable: set[str] = field(default_factory=set)


@dataclass
class PlaceSource:
    """Files of a place, and what is known of them from poll to poll.

    `every` is the pause between runs [s]; after a failure the next one is later.
    """

    settings: SourceSettings
    means: Means = field(default_factory=Means)
    every: float = 10.0
    is_exclusive: bool = False
    pending: Order | None = None
    _seen: dict[str, tuple[Version, float]] = field(default_factory=dict)
    _later: dict[str, float] = field(default_factory=dict)  # when stuck files are tried again
    _dealt_with: dict[str, TakenFile] = field(default_factory=dict)  # and not put away yet

    def __post_init__(self) -> None:
        self.name = self.settings.label
        self.key = f"source/{self.name}"
        self.profile = self.settings.profile
        self.puts_away = self.settings.after != "keep"
        self.schedule = Schedule(
            retry_seconds=2 * self.every, settle_seconds=self.settings.settle_seconds
        )

    def poll(self, cursor: Cursor) -> Batch:
        """Find files that are complete and new, and those that are yet to be put away."""
        with self.opened() as place:
            found = listing(place, self.settings.address.path)
            complete = self._complete(found.files, is_atomic=place.is_atomic)
            stays = _stays(place, self.settings.after)
        paths = frozenset(file.path for file in found.files)
        self._later = {path: until for path, until in self._later.items() if path in paths}
        self._dealt_with = {p: taken for p, taken in self._dealt_with.items() if p in paths}
        # Where files are put away, whatever lies under a name is new.
        known = cursor.files if stays else self._dealt_with
        now = self.means.tick()
        ready = [file for file in complete if self._later.get(file.path, now) <= now]
        new = [file for file in ready if not _is_known(file, known)]
        left = [known[file.path] for file in ready if _is_known(file, known)]
        offered = {file.path for file in new}
        unmarked = (t for t in left if f"{t.file.path}.{t.outcome}" not in found.marks)
        return Batch(
            tuple(new),
            dealt_with=tuple(unmarked) if self.puts_away else (),
            there=paths,
            waiting=sum(f.path not in offered and not _is_known(f, known) for f in found.files),
            problems=tuple(
                f"a file of the name {name[:100]!a} is left alone: rename it"
                for name in sorted(found.unusable)
            ),
        )

    def opened(self) -> AbstractContextManager[Place]:
        """Open its place, while the context lasts."""
        address, settings = self.settings.address, self.settings
        who = credentials(settings, settings.user or address.user, f"Source '{self.name}'")
        return opened(address, who)

    def put_away(self, dealt: Sequence[TakenFile]) -> Iterator[bool | FileUnavailable]:
        """Mark or move files as `after` says; False for one that is gone or another by now."""
        after = self.settings.after
        assert after != "keep"
        self._dealt_with |= {taken.file.path: taken for taken in dealt}
        with self.opened() as place:
            for taken in dealt:
                try:
                    yield put_away(place, taken, after=after)
                    del self._dealt_with[taken.file.path]
                except FileUnavailable as error:
                    self.postpone(taken.file)
                    yield error

    def postpone(self, file: SourceFile) -> None:
        """Try a file again after a while."""
        self._later[file.path] = self.means.tick() + STUCK_SECONDS

    def close(self) -> None:
        """Nothing is held."""

    def _complete(self, files: Sequence[SourceFile], *, is_atomic: bool) -> list[SourceFile]:
        """Files that have stayed the same for long enough, over two polls at least."""
        if is_atomic or self.settings.settle_seconds == 0:
            return list(files)
        now, before, complete = self.means.tick(), self._seen, []
        self._seen = {}
        for file in files:
            version, since = before.get(file.path, (None, now))
            since = since if version == file.version else now
            self._seen[file.path] = file.version, since
            if version == file.version and now - since >= self.settings.settle_seconds:
                complete.append(file)
        return complete


def listing(place: Place, pattern: str) -> PlaceListing:
    """List the files of a place that a pattern names; those being written are left alone."""
    found = PlaceListing()
    root = "/" if pattern.startswith("/") else ""
    _walk(place, root, pattern.removeprefix("/").split("/"), found)
    return found


def put_away(place: Place, taken: TakenFile, *, after: Literal["mark", "move"]) -> bool:
    """Mark a file that was dealt with, or move it; False where it is gone or another by now."""
    path, outcome = taken.file.path, taken.outcome
    if not taken.file.version.agrees_with(place.version(path)):
        return False
    if after == "mark" and isinstance(place, Leaves):
        place.leave(f"{path}.{outcome}")
        return True
    if not isinstance(place, Renames):
        raise TypeError(f"nothing can be put away in {type(place).__name__}")
    folder, slash, name = path.rpartition("/")
    for also in ("", f".{taken.at:%Y-%m-%dT%H%M%S.%fZ}"):  # an earlier file may have had its name
        if after == "mark":
            to = f"{path}{also}.{outcome}"
        else:
            to = f"{folder}{slash}{outcome}/{name}{also}"
        if place.version(to) is None:
            break
    place.rename(path, to)
    return True


def _stays(place: Place, after: str) -> bool:
    """Whether a file that was dealt with stays where it is, under its name."""
    return after == "keep" or (after == "mark" and isinstance(place, Leaves))


def _is_known(file: SourceFile, known: Mapping[str, TakenFile]) -> bool:
    return file.path in known and known[file.path].file == file


def _walk(place: Place, folder: str, parts: list[str], found: PlaceListing) -> None:
    part, rest = parts[0], parts[1:]
    is_pattern = any(c in part for c in "*?[")
    if rest and not is_pattern:
        _walk(place, f"{folder}{part}/", rest, found)
        return

    def wanted(name: str) -> bool:
        if not (fnmatchcase(name, part) if is_pattern else name == part):
            stem = next((name.removesuffix(m) for m in _MARKS if name.endswith(m)), "")
            if stem and fnmatchcase(stem, part):
                found.marks.add(f"{folder}{name}")
            return False
        if not name or name.startswith("."):
            return False
        if not is_usable(name):
            found.unusable.add(name)
            return False
        return bool(rest) or not name.endswith(_UNFINISHED)

    for entry in sorted(place.entries(folder, wanted), key=lambda entry: entry.name):
        path = f"{folder}{entry.name}"
        if entry.name.endswith(_MARKS):
            found.marks.add(path)
        elif entry.version is not None and not rest:
            found.files.append(SourceFile(path, entry.version))
        elif entry.version is None and rest and entry.name not in _OUTCOMES:
            _walk(place, f"{path}/", rest, found)
        elif entry.version is None and not rest and not is_pattern:
            _walk(place, f"{path}/", ["*"], found)
