"""Files that arrive somewhere: each is taken in whole, and once, over every protocol."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.outboxes import KINDS, Outbox, outbox

from meterlake.delta.commit import snapshot
from meterlake.delta.lock import Taken as Claimed
from meterlake.delta.lock import claimed
from meterlake.delta.store import Store, open_store
from meterlake.engine.local import LocalEngine
from meterlake.errors import Unavailable
from meterlake.ingest import intake
from meterlake.pipeline.derivation import Session
from meterlake.questions.sql import query
from meterlake.schema import TAKEN_FILES
from meterlake.settings import load_settings
from meterlake.source_settings import SourceSettings
from meterlake.sources import ledger, places, runner
from meterlake.sources.fetcher import fetch
from meterlake.sources.folder import FolderPlace
from meterlake.sources.ledger import Ledger
from meterlake.sources.object_store import ObjectPlace
from meterlake.sources.places import STUCK_SECONDS, PlaceSource, listing
from meterlake.sources.port import FileUnavailable, Listed, Means, Version
from meterlake.sources.runner import Runner, SourceRun

HEADER = "time,arrival_time,device_id,measure_name,load,crrnt,pf,kva,kw,vltg"
ENGINE = LocalEngine(1)
EPOCH = datetime(2024, 1, 1, tzinfo=UTC)
CONF = load_settings(late_hooks=(), source=())


class Cut(BaseException):
    """The process ends here."""


def reads(*meters: str) -> bytes:
    """A file with a row for each of some meters."""
    row = "2024-01-01 00:00:00,2024-01-01 00:00:09,{},readings,1,1,1,1,1.5,220"
    return "\n".join([HEADER, *(row.format(meter) for meter in meters), ""]).encode()


@dataclass
class Watcher:
    """Looks at a place for a lake; time passes as the test says, and fetches are counted."""

    store: Store
    box: Outbox
    now: float = 1000.0
    fetched: list[str] = field(default_factory=list)
    check: Callable[[], object] = lambda: None
    runner: Runner = field(init=False)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self, **told: Any) -> None:
        """As another process, which remembers nothing but what the lake has."""
        source = SourceSettings.model_validate(
            {"name": "box", "settle_seconds": 10} | self.box.told | told
        )
        means = Means(
            lambda: EPOCH + timedelta(seconds=self.now),
            lambda: self.now,
            check=lambda: self.check(),
            chance=lambda: 1.0,
        )
        self.source = PlaceSource(source, means)
        self.runner = Runner(Session(self.store, ENGINE, CONF, EPOCH), self.source, means)

    def look(self, seconds: float = 11.0) -> SourceRun:
        """Look after a while."""
        self.now += seconds
        return self.runner.run()

    def twice(self) -> SourceRun:
        """Look, and again when everything has settled; the one that did something."""
        first, second = self.look(), self.look()
        return first if first.did_something else second

    def store_folder(self) -> Path:
        return Path(self.store.url)

    def staged(self) -> list[tuple[str, str]]:
        """Every row of staging: meter and file."""
        return query(
            self.store, "SELECT DISTINCT meter_id, source_file FROM staging ORDER BY ALL"
        ).rows()


@pytest.fixture(params=KINDS)
def box(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Outbox]:
    with outbox(request.param, tmp_path, request, monkeypatch) as made:
        yield made


@pytest.fixture
def folder_box(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Outbox]:
    with outbox("folder", tmp_path, request, monkeypatch) as made:
        yield made


@pytest.fixture
def watching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Outbox], Watcher]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def made(box: Outbox) -> Watcher:
        watcher = Watcher(open_store(str(tmp_path / "lake")), box)

        def counted(place: Any, file: Any, to: Path, *, seen: Any) -> None:
            watcher.fetched.append(file.name)
            fetch(place, file, to, seen=seen)

        monkeypatch.setattr(runner, "fetch", counted)
        return watcher

    return made


Watching = Callable[[Outbox], Watcher]


def test_files_are_taken_in_once_and_stay_where_they_are(box: Outbox, watching: Watching) -> None:
    watcher = watching(box)
    box.put("a.csv", reads("m1"))
    box.put("with space ä.csv", reads("m2", "m3"))
    for name in ("a.txt", ".hidden.csv", "b.csv.part", "c.tmp", "below/d.csv"):
        box.put(name, reads("other"))
    before = box.names()
    done = watcher.twice()
    assert done == SourceRun("box", 2, taken=2, rows=3, stored=3)
    assert watcher.staged() == [
        ("m1", "a.csv"), ("m2", "with space ä.csv"), ("m3", "with space ä.csv")
    ]  # fmt: skip
    watcher.restart()
    assert watcher.twice() == SourceRun("box", 2)
    assert sorted(watcher.fetched) == ["a.csv", "with space ä.csv"]
    assert box.names() == before


def test_a_file_that_grows_is_waited_for(box: Outbox, watching: Watching) -> None:
    watcher = watching(box)
    if box.kind == "s3":
        box.put("a.csv", reads("m1"))
        assert watcher.look().taken == 1  # an object is there as a whole
        return
    whole = reads("m1", "m2")
    for end in (80, 120, len(whole)):
        box.put("a.csv", whole[:end])
        done = watcher.look()
        assert (done.waiting, done.taken) == (1, 0)
    assert watcher.look(3).waiting == 1  # not long enough
    assert watcher.look(8).taken == 1
    assert watcher.staged() == [("m1", "a.csv"), ("m2", "a.csv")]


def test_a_file_that_changes_while_it_is_fetched_is_not_taken_in(
    box: Outbox, watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = watching(box)
    box.put("a.csv", reads("m1"))
    changes = [reads("m1", "m2")]

    def meddled(place: Any, file: Any, to: Path, *, seen: Any) -> None:
        fetched = place.fetch

        def then_changed(*args: Any, **named: Any) -> None:
            fetched(*args, **named)
            if changes:
                box.put("a.csv", changes.pop())

        place.fetch = then_changed
        fetch(place, file, to, seen=seen)

    monkeypatch.setattr(runner, "fetch", meddled)
    if box.kind != "s3":
        watcher.look()
    done = watcher.look()
    assert (done.taken, done.stuck, done.waiting) == (0, 1, 1)
    assert "changed" in done.problems[0]
    watcher.look(STUCK_SECONDS + 1)
    watcher.look()
    assert watcher.staged() == [("m1", "a.csv"), ("m2", "a.csv")]


@pytest.mark.parametrize("box", ["s3"], indirect=True)
def test_a_store_that_lists_finer_times_than_it_answers_with_does_not_change_for_ever(
    box: Outbox, watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries, version = ObjectPlace.entries, ObjectPlace.version

    def listed(place: ObjectPlace, folder: str, wanted: Any) -> Iterator[Listed]:
        for entry in entries(place, folder, wanted):
            yield replace(entry, version=at(entry.version, 123_000))

    def at(found: Version | None, microsecond: int) -> Version | None:
        if found is None or found.modified is None:
            return found
        return replace(found, modified=found.modified.replace(microsecond=microsecond))

    monkeypatch.setattr(ObjectPlace, "entries", listed)
    monkeypatch.setattr(ObjectPlace, "version", lambda place, path: at(version(place, path), 0))
    box.told["after"] = "move"
    watcher = watching(box)
    box.put("a.csv", reads("m1"))
    done = watcher.look()
    assert (done.taken, done.stuck, done.put_away) == (1, 0, 1)
    assert box.names() == {"taken/a.csv"}


def test_what_has_no_tag_is_told_apart_by_its_time() -> None:
    early, late = (datetime(2024, 1, 1, 0, 0, s, tzinfo=UTC) for s in (1, 2))
    assert Version(5, early, "a").agrees_with(Version(5, late, "a"))
    assert not Version(5, early, "a").agrees_with(Version(5, early, "b"))
    assert not Version(5, early, "a").agrees_with(Version(6, early, "a"))
    assert not Version(5, early, "a").agrees_with(Version(5, late))
    assert not Version(5, early).agrees_with(Version(5, late))
    assert not Version(5, early).agrees_with(None)


def test_new_content_under_the_same_name_comes_in_too(box: Outbox, watching: Watching) -> None:
    watcher = watching(box)
    box.put("a.csv", reads("m1"))
    watcher.twice()
    box.put("a.csv", reads("m2", "m3"))
    watcher.twice()
    assert [meter for meter, _ in watcher.staged()] == ["m1", "m2", "m3"]
    watcher.restart()
    assert watcher.twice().taken == 0
    assert watcher.fetched == ["a.csv", "a.csv"]


def test_the_same_content_under_another_name_comes_in_once(
    folder_box: Outbox, watching: Watching
) -> None:
    watcher = watching(folder_box)
    folder_box.put("a.csv", reads("m1"))
    watcher.twice()
    folder_box.put("b.csv", reads("m1"))
    done = watcher.twice()
    assert (done.taken, done.known) == (0, 1)
    assert watcher.staged() == [("m1", "a.csv")]


@pytest.mark.parametrize(
    ("box", "after"),
    [(kind, after) for kind in KINDS for after in ("mark", "move") if kind != "http"],
    indirect=["box"],
)
def test_what_was_taken_is_marked_or_moved_and_what_is_damaged_too(
    box: Outbox, watching: Watching, after: str
) -> None:
    box.told["after"] = after
    watcher = watching(box)
    box.put("a.csv", reads("m1"))
    box.put("bad.csv", b"junk")
    watcher.twice()
    marked = {"a.csv.taken", "bad.csv.failed"}
    if after == "move":
        assert box.names() == {"taken/a.csv", "failed/bad.csv"}
    elif box.kind == "s3":
        assert box.names() == {"a.csv", "bad.csv", *marked}
    else:
        assert box.names() == marked
    watcher.twice()
    box.put("a.csv", reads("m2"))  # the same name once more
    watcher.twice()
    assert watcher.source.settings.after == after
    assert [meter for meter, _ in watcher.staged()] == ["m1", "m2"]
    assert watcher.fetched.count("a.csv") == 2
    if box.kind != "s3" or after == "move":
        assert len(box.names()) == 3  # the earlier one is still there


def test_a_damaged_file_is_aside_and_not_tried_again(box: Outbox, watching: Watching) -> None:
    watcher = watching(box)
    for name, content in {"a": reads("m1"), "b": b"junk", "c": reads("m2"), "d": b""}.items():
        box.put(f"{name}.csv", content)
    done = watcher.twice()
    assert (done.taken, done.failed, done.known) == (2, 2, 0)
    assert "b.csv" in done.problems[0]
    kept = {p.name for p in (watcher.store_folder() / "inbound" / "failed").rglob("b.csv")}
    assert kept == {"b.csv"}
    watcher.restart()
    again = watcher.twice()
    assert (again.failed, again.taken, again.problems) == (0, 0, ())
    assert watcher.fetched.count("b.csv") == 1
    box.put("b.csv", reads("m3"))  # mended
    watcher.twice()
    assert [meter for meter, _ in watcher.staged()] == ["m1", "m2", "m3"]


@pytest.mark.parametrize(
    ("box", "after", "where"),
    [
        *((kind, "keep", "record") for kind in KINDS),
        *((kind, "move", "put_away") for kind in KINDS if kind != "http"),
        *((kind, "mark", where) for kind in ("sftp", "s3") for where in ("record", "put_away")),
    ],
    indirect=["box"],
)
def test_a_crash_after_the_ingest_is_mended_by_the_next_look(
    box: Outbox, watching: Watching, monkeypatch: pytest.MonkeyPatch, after: str, where: str
) -> None:
    box.told |= {"after": after, "settle_seconds": 0}
    watcher = watching(box)
    box.put("a.csv", reads("m1"))
    box.put("b.csv", reads("m2"))

    def cut(*_: object, **__: object) -> None:
        raise Cut

    with monkeypatch.context() as patched:
        patched.setattr(Ledger if where == "record" else places, where, cut)
        with pytest.raises(Cut):
            watcher.look()
    assert len(watcher.staged()) == 2
    watcher.restart()
    done = watcher.look()
    assert done.taken == 0
    is_remembered = where == "put_away" and box.kind == "s3" and after == "mark"
    assert done.known == (0 if is_remembered else 2)
    assert len(watcher.fetched) == (2 if is_remembered else 4)
    stays = after == "keep" or (after, box.kind) == ("mark", "s3")
    assert {"a.csv", "b.csv"} & box.names() == ({"a.csv", "b.csv"} if stays else set())
    assert watcher.look().did_something is False
    assert watcher.staged() == [("m1", "a.csv"), ("m2", "b.csv")]


def test_whatever_moment_it_is_cut_off_at_every_row_comes_in_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(runner, "_PORTION_FILES", 1)
    moments = 0
    while True:
        moments += 1
        folder = tmp_path / str(moments)
        folder.mkdir()
        with outbox("folder", folder, request, monkeypatch) as box:
            box.told |= {"after": "move", "settle_seconds": 0}
            for number in range(2):
                box.put(f"{number}.csv", reads(f"m{number}"))
            watcher = Watcher(open_store(str(folder / "lake")), box)
            left = [moments]

            def check(left: list[int] = left) -> None:
                left[0] -= 1
                if left[0] == 0:
                    raise Cut

            watcher.check = check
            try:
                watcher.look()
                was_cut = False
            except Cut:
                was_cut = True
            watcher.check = lambda: None
            watcher.restart()
            watcher.look()
            assert [meter for meter, _ in watcher.staged()] == ["m0", "m1"]
            assert box.names() == {"taken/0.csv", "taken/1.csv"}
        if not was_cut:
            break
    assert moments > 6


def test_a_part_that_is_here_is_gone_on_with(box: Outbox, watching: Watching) -> None:
    watcher = watching(box)
    content = reads(*(f"m{n}" for n in range(50)))
    box.put("a.csv", content)
    to = watcher.store_folder().parent / "part" / "a.csv"
    to.parent.mkdir()
    with watcher.source.opened() as place:
        (file,) = listing(place, watcher.source.settings.address.path).files
        to.write_bytes(b"x" * 100)
        fetch(place, file, to, seen=lambda done: None)
    starts_over = box.kind in ("folder", "http")  # which has no entity tag here
    assert to.read_bytes() == (content if starts_over else b"x" * 100 + content[100:])


def test_a_file_that_is_not_to_be_had_leaves_the_others_alone(
    folder_box: Outbox, watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_box.told["settle_seconds"] = 0
    watcher = watching(folder_box)
    folder_box.put("a.csv", reads("m1"))
    folder_box.put("b.csv", reads("m2"))

    def refuse(self: Any, file: Any, to: Path, **_: Any) -> None:
        raise FileUnavailable("'a.csv' may not be read")

    fetched = FolderPlace.fetch
    with monkeypatch.context() as patched:
        patched.setattr(
            FolderPlace,
            "fetch",
            lambda self, file, to, *, seen: (refuse if file.name == "a.csv" else fetched)(
                self, file, to, seen=seen
            ),
        )
        done = watcher.look()
        assert (done.taken, done.stuck, done.waiting) == (1, 1, 1)
        tried = len(watcher.fetched)
        assert watcher.look(1).waiting == 1
        assert len(watcher.fetched) == tried  # not at each look
    assert watcher.look(STUCK_SECONDS + 1).taken == 1


def test_a_source_that_may_not_be_changed_is_read_all_the_same(
    folder_box: Outbox, watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_box.told |= {"settle_seconds": 0, "after": "move"}
    watcher = watching(folder_box)
    folder_box.put("a.csv", reads("m1"))
    (folder_box.root / "taken").write_bytes(b"in the way of the folder")
    done = watcher.look()
    assert (done.taken, done.stuck, done.put_away) == (1, 1, 0)
    assert "set after to keep" in done.problems[0]
    folder_box.put("b.csv", reads("m2"))
    assert watcher.look(1).taken == 1
    (folder_box.root / "taken").unlink()
    assert watcher.look(STUCK_SECONDS + 1).put_away == 2
    assert len(watcher.staged()) == 2


def test_two_watchers_do_not_both_take_a_sources_files(
    folder_box: Outbox, watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_box.told["settle_seconds"] = 0
    watcher = watching(folder_box)
    folder_box.put("a.csv", reads("m1"))
    with claimed(watcher.store, "source/box", tables=()):
        with pytest.raises(Claimed, match="one process at a time"):
            watcher.look()
        assert watcher.fetched == []
    other = Watcher(watcher.store, folder_box)
    alone = claimed

    def other_comes_first(*args: Any, **named: Any) -> Any:
        monkeypatch.setattr(runner, "claimed", alone)
        other.look()
        return alone(*args, **named)

    monkeypatch.setattr(runner, "claimed", other_comes_first)
    assert watcher.look().did_something is False
    assert watcher.fetched == ["a.csv"]
    assert watcher.staged() == [("m1", "a.csv")]


@pytest.mark.parametrize("looks", [True, pytest.param(False, marks=pytest.mark.proof)])
def test_a_watcher_that_was_overtaken_commits_nothing_more(
    folder_box: Outbox, watching: Watching, monkeypatch: pytest.MonkeyPatch, looks: bool
) -> None:
    """Though it does not even look whether the source is still its own."""
    folder_box.told["settle_seconds"] = 0
    watcher = watching(folder_box)
    folder_box.put("a.csv", reads("m1"))
    ingested, versions = intake.ingest, list[int]()

    def overtaken(*args: Any, **named: Any) -> intake.Ingested:
        monkeypatch.setattr(runner, "ingest", ingested)
        folder_box.put("b.csv", reads("m2"))
        watcher.now += 86_400 if looks else 0
        other = Watcher(watcher.store, folder_box, now=watcher.now + 86_400)
        other.look()
        versions.append(snapshot(watcher.store, TAKEN_FILES).version)
        return ingested(*args, **named)

    monkeypatch.setattr(runner, "ingest", overtaken)
    with pytest.raises(Unavailable):
        watcher.look()
    assert watcher.staged() == [("m1", "a.csv"), ("m2", "b.csv")]
    assert versions == [snapshot(watcher.store, TAKEN_FILES).version]


def test_a_source_that_fails_is_left_alone_for_longer_and_longer(
    folder_box: Outbox, watching: Watching
) -> None:
    watcher = watching(folder_box)
    folder_box.root.rmdir()
    pauses = []
    for _ in range(12):
        with pytest.raises(Unavailable, match="cannot be read"):
            watcher.look()
        pauses.append(watcher.runner.seconds_until_due(10))
        watcher.now += pauses[-1]
        assert watcher.runner.seconds_until_due(10) == 0
    assert pauses[:4] == [20, 40, 80, 160]
    assert pauses[-1] == watcher.source.schedule.longest_seconds
    folder_box.root.mkdir()
    watcher.look()
    assert not watcher.runner.has_failed


def test_an_idle_look_writes_nothing(folder_box: Outbox, watching: Watching) -> None:
    folder_box.told["settle_seconds"] = 0
    watcher = watching(folder_box)
    folder_box.put("a.csv", reads("m1"))
    watcher.look()
    before = sorted(p for p in watcher.store_folder().rglob("*") if p.is_file())
    for _ in range(3):
        watcher.look()
    assert sorted(p for p in watcher.store_folder().rglob("*") if p.is_file()) == before


def test_what_is_gone_from_a_source_is_forgotten_in_the_end(
    folder_box: Outbox, watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "FORGET_AFTER", 3)
    folder_box.told |= {"settle_seconds": 0, "after": "move"}
    watcher = watching(folder_box)
    for number in range(6):
        folder_box.put(f"{number}.csv", reads(f"m{number}"))
        watcher.look()
    rows = query(watcher.store, "SELECT path FROM taken_files").height
    assert 1 <= rows <= 3
    assert len(watcher.staged()) == 6
