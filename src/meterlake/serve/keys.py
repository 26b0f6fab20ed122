"""API keys: made, revoked, listed, and looked at when somebody shows one.

A key's text is `mlk_<id>_<secret>` and is shown once. The lake's storage keeps one small object
a key, `access/keys/<id>.json`, with the SHA-256 of the secret. A secret is 256 random bits, so
it cannot be guessed and a plain, fast hash suffices: slow ones are for what people choose. Ids
are no secrets. Who may write into the lake's storage can make keys; who may only read it cannot.
"""

import hashlib
import hmac
import re
import secrets
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal

from pydantic import AwareDatetime, TypeAdapter, ValidationError

from meterlake.delta.store import Store
from meterlake.errors import BadInput, Unavailable

Scope = Literal["read", "sql", "admin"]

SCOPES: tuple[Scope, ...] = ("read", "sql", "admin")
PREFIX = "mlk_"  # for people, and for programs that look for secrets in the wrong places
FOLDER = "access/keys"
REMEMBERED = timedelta(seconds=5)  # so long a key that was revoked may still work

_INCLUDED: dict[str, tuple[Scope, ...]] = {
    "read": ("read",),
    "sql": ("read", "sql"),
    "admin": ("read", "sql", "admin"),
}
_ID = re.compile(r"[0-9a-f]{16}")
_TEXT = re.compile(rf"{PREFIX}([0-9a-f]{{16}})_([0-9a-f]{{64}})")
_LONGEST_NAME = 100


@dataclass(frozen=True)
class Key:
    """What is known of a key: everything but its secret."""

    id: str
    name: str
    scopes: tuple[Scope, ...]
    created_at: AwareDatetime
    expires_at: AwareDatetime | None
    revoked_at: AwareDatetime | None
    sha256: str = field(repr=False)

    def state(self, now: datetime) -> Literal["valid", "expired", "revoked"]:
        """Whether it opens anything at a moment, and if not, why."""
        if self.revoked_at is not None:
            return "revoked"
        return "valid" if self.expires_at is None or now < self.expires_at else "expired"


_AS_JSON = TypeAdapter(Key)


def granted(scopes: Iterable[str]) -> frozenset[Scope]:
    """All that scopes allow: sql includes read, admin everything. Unknown words allow nothing.

    >>> sorted(granted(["sql", "openid"]))
    ['read', 'sql']
    """
    return frozenset(part for scope in scopes for part in _INCLUDED.get(scope, ()))


def create_key(
    store: Store,
    *,
    name: str,
    scopes: Iterable[str],
    now: datetime,
    expires_at: datetime | None = None,
) -> tuple[Key, str]:
    """Make a key; its text is known to the caller alone from now on.

    Raises
    ------
    BadInput
        It would have no name or no scope, an unknown scope, or be expired already.
    Unavailable
        The storage fails.
    """
    asked = set(scopes)
    if not asked or not asked <= set(SCOPES):
        found = ", ".join(sorted(asked)) or "none"
        raise BadInput(f"A key needs scopes of {', '.join(SCOPES)}; found {found}")
    if not (name.strip() and name.isprintable() and len(name) <= _LONGEST_NAME):
        raise BadInput(
            f"A key needs a name of up to {_LONGEST_NAME} printable characters, for its "
            f"holder; found {name[:_LONGEST_NAME]!r}"
        )
    if expires_at is not None and expires_at <= now:
        raise BadInput(f"A key needs to expire after {now}; found {expires_at}")
    secret = secrets.token_hex(32)
    key = Key(
        id=secrets.token_hex(8),
        name=name,
        scopes=tuple(scope for scope in SCOPES if scope in asked),
        created_at=now,
        expires_at=expires_at,
        revoked_at=None,
        sha256=_digest(secret),
    )
    _write(store, key)
    return key, f"{PREFIX}{key.id}_{secret}"


def revoke_key(store: Store, id: str, *, now: datetime) -> Key:
    """Revoke a key for good. One that was revoked stays so, since its first moment.

    Raises
    ------
    BadInput
        There is no such key.
    Unavailable
        The storage fails.
    """
    key = _read(store, id) if _ID.fullmatch(id) else None
    if key is None:
        raise BadInput(
            f"There is no key with the id '{id[:40]}'; meterlake keys list shows the ids"
        )
    if key.revoked_at is None:
        key = replace(key, revoked_at=now)
        _write(store, key)
    return key


def list_keys(store: Store) -> list[Key]:
    """All keys that were ever made, the oldest first.

    Raises
    ------
    BadInput
        The file in a key's place is not a key.
    Unavailable
        The storage fails.
    """
    names = (stored.path.rpartition("/")[2] for stored in store.list(FOLDER))
    ids = (name.removesuffix(".json") for name in names if name.endswith(".json"))
    read = (_read(store, id) for id in ids if _ID.fullmatch(id))
    return sorted((key for key in read if key), key=lambda key: (key.created_at, key.id))


def has_valid_key(store: Store, *, now: datetime) -> bool:
    """Whether there is a key that opens anything. Raises as `list_keys`."""
    return any(key.state(now) == "valid" for key in list_keys(store))


class Keys:
    """Looks at keys that are shown, and remembers what the storage said for 5 s at most.

    Only keys that exist are remembered, so that made-up ones cost no memory. Threads may share it.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._remembered: dict[str, tuple[datetime, Key]] = {}

    def verify(self, text: str, now: datetime) -> Key | None:
        """The key whose text this is, if it is valid. Any other text is just none.

        Raises
        ------
        Unavailable
            The storage cannot say.
        """
        found = _TEXT.fullmatch(text)
        key = None if found is None else self._key(found[1], now)
        if found is None or key is None or not hmac.compare_digest(key.sha256, _digest(found[2])):
            return None
        return key if key.state(now) == "valid" else None

    def _key(self, id: str, now: datetime) -> Key | None:
        with self._lock:
            read_at, key = self._remembered.get(id, (None, None))
        if read_at is not None and timedelta(0) <= now - read_at < REMEMBERED:
            return key
        try:
            key = _read(self._store, id)
        except BadInput:  # whose place holds something else is no key; `list_keys` tells of it
            key = None
        except Unavailable as error:  # whose words are about the storage, and not for the caller
            raise Unavailable(
                "The key cannot be checked, since the lake's storage is not available; try again"
            ) from error
        with self._lock:
            if key is None:
                self._remembered.pop(id, None)
            else:
                self._remembered[id] = (now, key)
        return key


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _path(id: str) -> str:
    return f"{FOLDER}/{id}.json"


def _write(store: Store, key: Key) -> None:
    store.put(_path(key.id), _AS_JSON.dump_json(key, indent=1))


def _read(store: Store, id: str) -> Key | None:
    path = _path(id)
    if not store.has(path):
        return None
    try:
        key = _AS_JSON.validate_json(store.read(path))
    except ValidationError as error:
        where = "".join(f", {part}" for part in error.errors()[0]["loc"])
        raise BadInput(
            f"{store.uri(path)} needs to be a key{where}: remove it, and make a new one with "
            "meterlake keys create"
        ) from None  # which would quote what lies there
    if key.id != id:
        raise BadInput(f"{store.uri(path)} is the key '{key.id}': remove it, or name it as its id")
    return key
