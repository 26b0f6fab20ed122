"""API keys: what opens, what does not, and what is kept of them."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from typer.testing import CliRunner

from meterlake.cli import app
from meterlake.cli.keys import KeyScope
from meterlake.delta.store import Store, open_store
from meterlake.errors import BadInput, Unavailable
from meterlake.serve.keys import (
    FOLDER,
    REMEMBERED,
    SCOPES,
    Keys,
    create_key,
    granted,
    has_valid_key,
    list_keys,
    revoke_key,
)

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
NOTHING_THERE = f"mlk_{'0' * 16}_{'0' * 64}"

Run = Callable[..., tuple[int, str, str]]


class CountingStore(Store):
    """Says how often it was asked for an object."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        object.__setattr__(self, "asked", [])

    asked: list[str]

    def has(self, path: str) -> bool:
        self.asked.append(path)
        return super().has(path)


@pytest.fixture
def lake(tmp_path: Path) -> CountingStore:
    return CountingStore(open_store(str(tmp_path / "lake")).url)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("METERLAKE_LAKE", raising=False)
    (tmp_path / "lake").mkdir()

    def invoke(*arguments: str) -> tuple[int, str, str]:
        result = CliRunner().invoke(app, ["keys", *arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    return invoke


def test_a_key_opens_until_it_is_revoked_on_a_folder_and_on_s3(store: Store) -> None:
    assert list_keys(store) == []
    assert not has_valid_key(store, now=NOW)
    key, text = create_key(store, name="grafana", scopes=["sql"], now=NOW)
    other, other_text = create_key(store, name="other", scopes=["read"], now=NOW + SECOND)
    assert Keys(store).verify(text, NOW) == key
    assert Keys(store).verify(NOTHING_THERE, NOW) is None
    assert list_keys(store) == [key, other]
    revoked = revoke_key(store, key.id, now=NOW + SECOND)
    assert revoke_key(store, key.id, now=NOW + 9 * SECOND) == revoked
    assert revoked.revoked_at == NOW + SECOND
    assert Keys(store).verify(text, NOW + SECOND) is None
    assert Keys(store).verify(other_text, NOW + SECOND) == other
    assert list_keys(store) == [revoked, other]
    assert has_valid_key(store, now=NOW)
    revoke_key(store, other.id, now=NOW)
    assert not has_valid_key(store, now=NOW)


def test_a_key_opens_up_to_the_moment_that_it_expires_and_not_at_it(lake: Store) -> None:
    ends = NOW + timedelta(days=90)
    key, text = create_key(lake, name="x", scopes=["read"], now=NOW, expires_at=ends)
    keys = Keys(lake)
    assert keys.verify(text, ends - timedelta(microseconds=1)) == key
    assert keys.verify(text, ends) is None  # at once, whatever is remembered
    assert has_valid_key(lake, now=ends - SECOND)
    assert not has_valid_key(lake, now=ends)


def test_what_is_remembered_of_a_key_is_five_seconds_old_at_most(lake: CountingStore) -> None:
    key, text = create_key(lake, name="x", scopes=["read"], now=NOW)
    keys = Keys(lake)
    assert timedelta(seconds=5) >= REMEMBERED
    assert keys.verify(text, NOW) == key
    revoke_key(lake, key.id, now=NOW)
    lake.asked.clear()
    for part in range(5):
        assert keys.verify(text, NOW + part * SECOND) == key
    assert lake.asked == []
    assert keys.verify(text, NOW + REMEMBERED) is None
    assert len(lake.asked) == 1


def test_a_clock_that_is_set_back_does_not_prolong_what_is_remembered(lake: Store) -> None:
    key, text = create_key(lake, name="x", scopes=["read"], now=NOW)
    keys = Keys(lake)
    assert keys.verify(text, NOW) == key
    revoke_key(lake, key.id, now=NOW)
    assert keys.verify(text, NOW - timedelta(hours=1)) is None


def test_a_key_that_is_made_while_the_server_runs_opens_at_once(lake: Store) -> None:
    keys = Keys(lake)
    assert keys.verify(NOTHING_THERE, NOW) is None
    key, text = create_key(lake, name="x", scopes=["read"], now=NOW)
    assert keys.verify(text, NOW) == key


def test_a_key_whose_object_is_gone_opens_nothing(lake: Store) -> None:
    key, text = create_key(lake, name="x", scopes=["read"], now=NOW)
    keys = Keys(lake)
    assert keys.verify(text, NOW) == key
    lake.delete(f"{FOLDER}/{key.id}.json")
    assert keys.verify(text, NOW + REMEMBERED) is None


def test_only_the_whole_secret_of_the_same_key_opens(lake: Store) -> None:
    key, text = create_key(lake, name="x", scopes=["admin"], now=NOW)
    other, other_text = create_key(lake, name="y", scopes=["read"], now=NOW)
    prefix, id, secret = text.split("_")
    keys = Keys(lake)
    assert keys.verify(text, NOW) == key
    wrong = [
        f"{prefix}_{id}_{other_text.split('_')[2]}",
        f"{prefix}_{other.id}_{secret}",
        f"{prefix}_{id}_{secret[:-1]}",
        f"{prefix}_{id}_{secret[:-1]}{'1' if secret[-1] == '0' else '0'}",
        f"{prefix}_{id}_",
        f"{prefix}_{id}_{key.sha256}",  # what is kept does not open
        text.upper(),
        f" {text}",
        f"{text}\n",
        f"{id}_{secret}",
        "",
    ]
    assert [keys.verify(one, NOW) for one in wrong] == [None] * len(wrong)


HOSTILE_IDS = [
    "../../../etc/passwd",
    "..",
    "",
    ".",
    "0" * 15 + "/",
    "0" * 17,
    "0" * 1_000_000,
    "０" * 16,  # digits, but not of ASCII
    "A" * 16,
    "0" * 15 + "\n",
    "0" * 15 + "\x00",
    "\udcff" * 16,
    "%2e%2e%2f%2e%2e%2f00",
]


@pytest.mark.parametrize("id", HOSTILE_IDS, ids=range(len(HOSTILE_IDS)))
def test_a_hostile_id_is_just_unknown_and_never_reaches_the_storage(
    lake: CountingStore, id: str
) -> None:
    assert Keys(lake).verify(f"mlk_{id}_{'0' * 64}", NOW) is None
    with pytest.raises(BadInput, match="There is no key with the id"):
        revoke_key(lake, id, now=NOW)
    assert lake.asked == []


@given(st.text() | st.from_regex(r"mlk_[0-9a-f]{16}_[0-9a-f]{64}", fullmatch=True))
@example("mlk_" * 100_000)
@example("mlk_../../../x_" + "0" * 64)
def test_no_text_but_a_keys_own_opens_or_fails(tmp_path: Path, text: str) -> None:
    store = open_store(str(tmp_path / "lake"))
    if not list_keys(store):
        create_key(store, name="x", scopes=["read"], now=NOW)
    assert Keys(store).verify(text, NOW) is None


def test_the_secret_is_kept_nowhere_and_its_hash_is_not_shown(lake: Store) -> None:
    key, text = create_key(lake, name="x", scopes=["read"], now=NOW)
    secret = text.rpartition("_")[2]
    assert len(bytes.fromhex(secret)) * 8 == 256
    assert len({secret[part : part + 16] for part in range(0, 64, 16)}) == 4
    kept = [p.read_bytes() for p in Path(lake.url).rglob("*") if p.is_file()]
    assert len(kept) == 1
    assert secret.encode() not in kept[0]
    assert secret not in repr(key) and secret not in str(asdict(key))
    assert key.sha256 not in repr(key)
    assert set(json.loads(kept[0])) == {
        *("id", "name", "scopes", "created_at", "expires_at", "revoked_at", "sha256")
    }


def test_no_two_keys_share_an_id_or_a_secret(lake: Store) -> None:
    made = [create_key(lake, name="x", scopes=["read"], now=NOW) for _ in range(20)]
    assert len({key.id for key, _ in made}) == len({text[-64:] for _, text in made}) == 20


def test_sql_includes_read_and_admin_everything_and_unknown_words_nothing() -> None:
    assert granted(["read"]) == {"read"}
    assert granted(["sql"]) == {"read", "sql"}
    assert granted(["admin"]) == set(SCOPES)
    assert granted([]) == granted(["READ", "*", "openid", "", "read sql"]) == set()


@pytest.mark.parametrize(
    ("name", "scopes", "lasts", "words"),
    [
        ("x", [], None, "read, sql, admin; found none"),
        ("x", ["read", "all"], None, "found all, read"),
        ("", ["read"], None, "printable"),
        ("  ", ["read"], None, "printable"),
        ("a\nb", ["read"], None, "printable"),
        ("x" * 101, ["read"], None, "up to 100"),
        ("x", ["read"], timedelta(0), "expire after"),
        ("x", ["read"], -SECOND, "expire after"),
    ],
)
def test_a_key_that_makes_no_sense_is_not_made(
    lake: Store, name: str, scopes: list[str], lasts: timedelta | None, words: str
) -> None:
    ends = None if lasts is None else NOW + lasts
    with pytest.raises(BadInput, match=words):
        create_key(lake, name=name, scopes=scopes, now=NOW, expires_at=ends)
    assert list_keys(lake) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda good: b"",
        lambda good: b"\xff\xfe",
        lambda good: good[:-20],
        lambda good: b"[" * 100_000,
        lambda good: good.replace(b'"read"', b'"root"'),
        lambda good: good.replace(b"+00:00", b"").replace(b"00Z", b"00"),
        lambda good: json.dumps({**json.loads(good), "id": "f" * 16}).encode(),
        lambda good: json.dumps({**json.loads(good), "sha256": None}).encode(),
    ],
    ids=["empty", "bytes", "cut", "deep", "scope", "zone", "id", "hash"],
)
def test_a_damaged_key_opens_nothing_and_is_told_of_without_its_content(
    lake: Store, damage: Callable[[bytes], bytes]
) -> None:
    key, text = create_key(lake, name="x", scopes=["read"], now=NOW)
    _, good_text = create_key(lake, name="good", scopes=["read"], now=NOW)
    path = f"{FOLDER}/{key.id}.json"
    lake.put(path, damage(lake.read(path)))
    assert Keys(lake).verify(text, NOW) is None
    assert Keys(lake).verify(good_text, NOW) is not None
    with pytest.raises(BadInput, match=rf"{key.id}\.json") as told:
        list_keys(lake)
    assert key.sha256 not in str(told.value)


def test_what_else_lies_beside_the_keys_is_no_key(lake: Store) -> None:
    key, _ = create_key(lake, name="x", scopes=["read"], now=NOW)
    for name in ("README.md", "notes.json", f"{key.id}.json~", f"{key.id}.txt"):
        lake.put(f"{FOLDER}/{name}", b"nothing")
    assert list_keys(lake) == [key]


def test_storage_that_is_away_is_unavailable_and_its_place_is_not_told(
    lake: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, text = create_key(lake, name="x", scopes=["read"], now=NOW)
    keys = Keys(lake)
    assert keys.verify(text, NOW)

    def away(store: Store, path: str) -> bool:
        raise Unavailable(f"Cannot look for {store.uri(path)}")

    monkeypatch.setattr(CountingStore, "has", away)
    assert keys.verify(text, NOW + SECOND)  # remembered
    with pytest.raises(Unavailable) as told:
        keys.verify(text, NOW + REMEMBERED)
    assert lake.url not in str(told.value)


def test_threads_that_share_it_get_what_one_would_get(lake: Store) -> None:
    made = [create_key(lake, name=str(n), scopes=["read"], now=NOW) for n in range(8)]
    keys, together = Keys(lake), threading.Barrier(8)

    def ask(n: int) -> list[str | None]:
        together.wait()
        found = [keys.verify(made[(n + i) % 8][1], NOW + i * SECOND) for i in range(40)]
        return [key.name if key else None for key in found]

    with ThreadPoolExecutor(8) as pool:
        for n, names in enumerate(pool.map(ask, range(8))):
            assert names == [str((n + i) % 8) for i in range(40)]


def test_a_key_is_made_shown_once_listed_and_revoked_by_command(run: Run, tmp_path: Path) -> None:
    code, out, err = run("create", "--name", "dashboards", "--scope", "read", "--scope", "sql",
                         "--expires", "90d", "--output", "json")  # fmt: skip
    made = json.loads(out)
    assert code == 0
    assert "not shown again" in err
    assert made["scopes"] == ["read", "sql"]
    store, now = open_store(str(tmp_path / "lake")), datetime.now(UTC)
    key = Keys(store).verify(made["key"], now)
    assert key is not None and key.expires_at is not None and key.id == made["id"]
    assert timedelta(days=89) < key.expires_at - now <= timedelta(days=90)
    code, out, _ = run("list", "--output", "json")
    (listed,) = json.loads(out)["keys"]
    assert (listed["id"], listed["name"], listed["state"]) == (key.id, "dashboards", "valid")
    assert made["key"] not in out and key.sha256 not in out
    code, out, _ = run("revoke", key.id, "--output", "json")
    assert (code, json.loads(out)["id"]) == (0, key.id)
    assert Keys(store).verify(made["key"], now) is None
    assert "revoked" in run("list")[1]


def test_for_people_the_key_stands_once_with_a_sentence_that_says_so(run: Run) -> None:
    code, out, err = run("create", "--name", "ann", "--scope", "admin")
    assert (code, err) == (0, "")
    assert out.count("mlk_") == 1
    assert "never" in out
    assert out.endswith("The key is not shown again: keep it where secrets are kept.\n")
    assert "mlk_" not in run("list")[1]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["create", "--name", "x"], 2, "--scope"),
        (["create", "--scope", "read"], 2, "--name"),
        (["create", "--name", "x", "--scope", "all"], 2, "all"),
        (["create", "--name", "x", "--scope", "read", "--expires", "soon"], 1, "--expires"),
        (["create", "--name", "x", "--scope", "read", "--expires", "0d"], 1, "--expires"),
        (["create", "--name", "", "--scope", "read"], 1, "name"),
        (["create", "--name", "x", "--scope", "read", "--lake", "nowhere"], 1, "no lake"),
        (["revoke", "../x"], 1, "no key with the id"),
    ],
)
def test_a_command_that_cannot_be_done_says_why_and_makes_no_key(
    run: Run, tmp_path: Path, arguments: list[str], code: int, words: str
) -> None:
    found, out, err = run(*arguments)
    assert found == code
    assert words in err
    assert "mlk_" not in out + err
    assert list(tmp_path.rglob("*.json")) == []


def test_the_command_knows_the_same_scopes_as_the_server() -> None:
    assert tuple(scope.value for scope in KeyScope) == SCOPES
