"""Tokens of an OpenID Connect issuer: which ones open, and what happens while it is away."""

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jwt import PyJWS
from support.issuer import (
    DISCOVERY,
    LocalIssuer,
    PrivateKey,
    ec_key,
    ed_key,
    public_jwk,
    rsa_key,
)

from meterlake.errors import BadInput, Unavailable
from meterlake.serve import oidc
from meterlake.serve.oidc import (
    ASKED_AGAIN_AFTER,
    KEYS_LAST,
    KEYS_LAST_ALONE,
    Bearer,
    Issuer,
    NotAccepted,
)

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)  # ages the keys only: tokens are of the machine's time
SECOND = timedelta(seconds=1)
AGAIN = [DISCOVERY, "/keys"]
ANN = Bearer("ann", frozenset())


@pytest.fixture
def there() -> Iterator[LocalIssuer]:
    """An issuer with an RSA key `r` and an EC key `e`."""
    with LocalIssuer(
        public_jwk(rsa_key(), kid="r", alg="RS256", use="sig"), public_jwk(ec_key(), kid="e")
    ) as issuer:
        yield issuer


@pytest.fixture
def ours(there: LocalIssuer) -> Issuer:
    return Issuer(there.url, "meterlake")


def refusal(issuer: Issuer, token: str, now: datetime = NOW) -> str:
    with pytest.raises(NotAccepted) as told:
        issuer.verify(token, now)
    return str(told.value)


def as_part(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def by_hand(header: dict[str, Any], claims: dict[str, Any], secret: bytes | None) -> str:
    """A token as an attacker writes it, signed by HMAC or not at all."""
    text = f"{as_part(json.dumps(header).encode())}.{as_part(json.dumps(claims).encode())}"
    signature = b"" if secret is None else hmac.digest(secret, text.encode(), hashlib.sha256)
    return f"{text}.{as_part(signature)}"


@pytest.mark.parametrize(
    ("make", "algorithm", "members"),
    [
        (rsa_key, "RS256", {"alg": "RS256"}),
        (rsa_key, "RS512", {}),
        (rsa_key, "PS256", {}),
        (ec_key, "ES256", {"alg": "ES256", "use": "sig"}),
        (ec_key, "ES256", {}),
        (ed_key, "EdDSA", {}),
    ],
)
def test_a_token_that_the_issuer_signed_for_us_opens(
    make: Callable[[], PrivateKey], algorithm: str, members: dict[str, Any]
) -> None:
    key = make()
    with LocalIssuer(public_jwk(key, kid="k", **members)) as there:
        found = Issuer(there.url, "meterlake").verify(there.token(key, "k", algorithm), NOW)
    assert found == ANN


def test_a_token_may_be_for_several_audiences_and_of_a_clock_a_little_off(
    there: LocalIssuer, ours: Issuer
) -> None:
    now = int(time.time())
    for claims in (
        {"aud": ["other", "meterlake"]},
        {"exp": now - 5},
        {"nbf": now + 5, "iat": now + 5},
        {"iat": None},
    ):
        assert ours.verify(there.token(rsa_key(), "r", "RS256", **claims), NOW) == ANN


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ({"exp": -120}, "has expired"),
        ({"nbf": 120}, "not valid yet"),
        ({"iat": 120}, "not valid yet"),
        ({"aud": "secret-audience"}, "another audience"),
        ({"aud": ["meterlake2", "METERLAKE"]}, "another audience"),
        ({"aud": {"meterlake": 1}}, "another audience"),
        ({"aud": []}, "lacks one of"),
        ({"aud": None}, "lacks one of"),
        ({"exp": None}, "lacks one of"),
        ({"iss": None}, "lacks one of"),
        ({"iss": "https://secret.example"}, "another issuer"),
        ({"iss": "{url}/"}, "another issuer"),
        ({"exp": "secret"}, "cannot be read"),
        ({"sub": ["secret"]}, "cannot be read"),
    ],
)
def test_a_token_that_is_not_for_us_or_not_of_now_is_refused_and_the_reason_quotes_nothing(
    there: LocalIssuer, ours: Issuer, claims: dict[str, Any], words: str
) -> None:
    now = int(time.time())
    claims = {"sub": "secret", **claims}
    for name, value in claims.items():
        if isinstance(value, int):
            claims = {**claims, name: now + value}
        elif isinstance(value, str):
            claims = {**claims, name: value.format(url=there.url)}
    reason = refusal(ours, there.token(ec_key(), "e", "ES256", **claims))
    assert words in reason
    assert "secret" not in reason and there.url not in reason


def test_a_token_without_signature_is_refused(there: LocalIssuer, ours: Issuer) -> None:
    good = there.token(rsa_key(), "r", "RS256")
    claims = json.loads(base64.urlsafe_b64decode(good.split(".")[1] + "=="))
    algorithms: list[object] = ["none", "None", "NONE", "", None, ["RS256"], {}]
    for algorithm in algorithms:
        for key_id in ({"kid": "r"}, {}):
            token = by_hand({"alg": algorithm, **key_id}, claims, None)
            assert "algorithm that is not accepted" in refusal(ours, token)
    assert "signature" in refusal(ours, good[: good.rindex(".") + 1])


def test_the_public_key_does_not_pass_for_a_shared_secret(there: LocalIssuer, ours: Issuer) -> None:
    good = there.token(rsa_key(), "r", "RS256")
    claims = json.loads(base64.urlsafe_b64decode(good.split(".")[1] + "=="))
    public = rsa_key().public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    there.keys.append({"kty": "oct", "kid": "o", "alg": "HS256", "k": as_part(pem)})
    there.keys.append({"kty": "oct", "kid": "p", "k": as_part(pem)})
    for secret in (pem, pem.strip(), der, b""):
        for key_id in ("r", "e", "o", "p"):
            token = by_hand({"alg": "HS256", "kid": key_id}, claims, secret)
            assert "algorithm that is not accepted" in refusal(ours, token)
    # Nor is a published secret ever one of the keys, whatever algorithm the token names.
    assert ours.verify(good, NOW) == ANN
    token = by_hand({"alg": "RS256", "kid": "o"}, claims, pem)
    assert "does not publish" in refusal(ours, token)


def test_the_signature_of_another_key_is_refused(there: LocalIssuer, ours: Issuer) -> None:
    for key, key_id, algorithm, words in (
        (rsa_key(1), "r", "RS256", "not the issuer's"),
        (ec_key(1), "e", "ES256", "not the issuer's"),
        (ec_key(), "r", "ES256", "does not publish"),  # the key of a name has its algorithm
        (rsa_key(), "e", "RS256", "does not publish"),
        (rsa_key(), "r", "RS512", "does not publish"),
    ):
        assert words in refusal(ours, there.token(key, key_id, algorithm))
    head, claims, signature = there.token(rsa_key(), "r", "RS256").split(".")
    other = there.token(rsa_key(), "r", "RS256", sub="root").split(".")[1]
    assert "not the issuer's" in refusal(ours, f"{head}.{other}.{signature}")
    assert ours.verify(f"{head}.{claims}.{signature}", NOW) == ANN


def test_another_issuers_token_is_refused_and_what_it_points_to_is_never_asked(
    there: LocalIssuer, ours: Issuer
) -> None:
    with LocalIssuer(public_jwk(rsa_key(1), kid="r")) as other:
        own = other.token(rsa_key(1), "r", "RS256")
        forged = other.token(
            rsa_key(1), "r", "RS256", iss=there.url,
            headers={"jku": f"{other.url}/keys", "jwk": public_jwk(rsa_key(1), kid="r")},
        )  # fmt: skip
        assert "not the issuer's" in refusal(ours, own)
        assert "not the issuer's" in refusal(ours, forged)
        assert other.requests == []


def test_a_key_that_is_for_encryption_or_too_short_is_no_key(there: LocalIssuer) -> None:
    there.keys = [public_jwk(rsa_key(), kid="r", use="enc"), public_jwk(ec_key(), kid="e")]
    issuer = Issuer(there.url, "meterlake")
    assert "does not publish" in refusal(issuer, there.token(rsa_key(), "r", "RS256"))
    short = rsa_key(9, 1024)
    there.keys = [public_jwk(short, kid="r")]
    with pytest.warns(match="below the minimum"):
        token = there.token(short, "r", "RS256")
    assert "too weak" in refusal(Issuer(there.url, "meterlake"), token)


def test_a_token_may_name_no_key_only_where_there_is_one(there: LocalIssuer, ours: Issuer) -> None:
    token = there.token(rsa_key(), None, "RS256")
    assert "does not publish" in refusal(ours, token)
    there.keys = [public_jwk(rsa_key())]
    assert Issuer(there.url, "meterlake").verify(token, NOW) == ANN


def test_keys_are_asked_for_once_in_five_minutes(there: LocalIssuer, ours: Issuer) -> None:
    token = there.token(rsa_key(), "r", "RS256")
    for moment in (NOW, NOW, NOW + KEYS_LAST - SECOND):
        ours.verify(token, moment)
    assert there.requests == AGAIN
    ours.verify(token, NOW + KEYS_LAST)
    assert there.requests == AGAIN * 2


def test_a_new_key_opens_as_soon_as_it_is_used_and_an_old_one_ends_with_its_keeping(
    there: LocalIssuer, ours: Issuer
) -> None:
    old, new = there.token(rsa_key(), "r", "RS256"), there.token(rsa_key(1), "r2", "RS256")
    ours.verify(old, NOW)
    there.keys = [public_jwk(rsa_key(1), kid="r2")]
    assert ours.verify(old, NOW + KEYS_LAST - SECOND) == ANN
    assert ours.verify(new, NOW + KEYS_LAST - SECOND) == ANN
    assert "does not publish" in refusal(ours, old, NOW + KEYS_LAST)
    # Also where the new one has the old one's name.
    there.keys = [public_jwk(rsa_key(), kid="r2")]
    later = NOW + 2 * KEYS_LAST
    assert ours.verify(there.token(rsa_key(), "r2", "RS256"), later) == ANN
    assert "not the issuer's" in refusal(ours, new, later)


def test_made_up_key_names_do_not_make_us_ask_more_often_than_every_ten_seconds(
    there: LocalIssuer, ours: Issuer
) -> None:
    tokens = [there.token(rsa_key(1), f"made-up-{n}", "RS256") for n in range(20)]
    for n, token in enumerate(tokens):
        assert "does not publish" in refusal(ours, token, NOW + n * SECOND)
    assert there.requests == AGAIN * 2
    assert timedelta(seconds=10) == ASKED_AGAIN_AFTER


def test_an_issuer_that_is_away_from_the_start_is_unavailable_until_it_is_there(
    there: LocalIssuer, ours: Issuer
) -> None:
    token = there.token(rsa_key(), "r", "RS256")
    there.answers[DISCOVERY] = (0, b"")
    for _ in range(3):
        with pytest.raises(Unavailable, match="does not answer; try again later"):
            ours.verify(token, NOW)
    assert there.requests == [DISCOVERY]
    there.answers.clear()
    assert ours.verify(token, NOW + ASKED_AGAIN_AFTER) == ANN


@pytest.mark.parametrize("path", [DISCOVERY, "/keys"])
def test_while_the_issuer_is_away_its_keys_serve_for_an_hour(
    there: LocalIssuer, ours: Issuer, path: str
) -> None:
    token, unknown = (there.token(rsa_key(), name, "RS256") for name in ("r", "unknown"))
    ours.verify(token, NOW)
    there.answers[path] = (503, b"")
    for minutes in (6, 30, 59):
        assert ours.verify(token, NOW + timedelta(minutes=minutes)) == ANN
    with pytest.raises(Unavailable, match="answers 503"):  # it may be a new one
        ours.verify(unknown, NOW + timedelta(minutes=59))
    with pytest.raises(Unavailable, match="answers 503"):
        ours.verify(token, NOW + KEYS_LAST_ALONE)
    there.answers.clear()
    back = NOW + KEYS_LAST_ALONE + ASKED_AGAIN_AFTER
    assert ours.verify(token, back) == ANN
    assert "does not publish" in refusal(ours, unknown, back)


def test_nobody_with_a_key_that_serves_waits_for_an_issuer_that_hangs(
    there: LocalIssuer, ours: Issuer
) -> None:
    token, later = there.token(rsa_key(), "r", "RS256"), NOW + KEYS_LAST
    ours.verify(token, NOW)
    there.may_answer.clear()
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ours.verify, token, later)
        assert there.hangs.wait(60)
        assert ours.verify(token, later) == ANN
        assert not asking.done()
        there.may_answer.set()
        assert asking.result() == ANN


def test_an_issuer_that_hangs_is_given_up(
    there: LocalIssuer, ours: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oidc, "_ANSWER_SECONDS", 0.05)
    there.may_answer.clear()
    with pytest.raises(Unavailable, match="does not answer"):
        ours.verify(there.token(rsa_key(), "r", "RS256"), NOW)


def test_many_that_come_at_once_make_us_ask_once(there: LocalIssuer, ours: Issuer) -> None:
    token, together = there.token(rsa_key(), "r", "RS256"), threading.Barrier(8)

    def ask(_: int) -> Bearer:
        together.wait()
        return ours.verify(token, NOW)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == [ANN] * 8
    assert there.requests == AGAIN


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        (DISCOVERY, 200, b"<html>"),
        (DISCOVERY, 200, b"\xff\xfe\x00"),
        (DISCOVERY, 200, b"[]"),
        (DISCOVERY, 200, b"[" * 200_000),
        (DISCOVERY, 200, b"{}"),
        (DISCOVERY, 404, b""),
        (DISCOVERY, 302, b""),
        ("/keys", 200, b"{}"),
        ("/keys", 200, b'{"keys": []}'),
        ("/keys", 200, b'{"keys": {"kid": "r"}}'),
        ("/keys", 200, b'{"keys": [7, null, {}, {"kty": "RSA", "kid": "r", "n": 5, "e": []}]}'),
        ("/keys", 200, b'{"keys": [{"kty": ["EC"], "alg": ["ES256"], "kid": {}}]}'),
        ("/keys", 500, b""),
    ],
    ids=range(13),
)
def test_an_issuer_that_answers_nonsense_is_unavailable(
    there: LocalIssuer, ours: Issuer, path: str, status: int, body: bytes
) -> None:
    there.answers[path] = (status, body)
    with pytest.raises(Unavailable, match=there.url):
        ours.verify(there.token(rsa_key(), "r", "RS256"), NOW)


def test_keys_are_not_taken_from_where_a_redirect_leads_or_out_of_an_endless_answer(
    there: LocalIssuer,
) -> None:
    token, good = there.token(rsa_key(), "r", "RS256"), json.dumps({"keys": there.keys}).encode()
    there.answers = {"/keys": (200, good + b" " * 900_000), "/moved": (200, good)}
    assert Issuer(there.url, "meterlake").verify(token, NOW) == ANN
    for answer in ((302, b""), (200, good + b" " * 1_000_000)):
        there.answers["/keys"] = answer
        with pytest.raises(Unavailable, match=there.url):
            Issuer(there.url, "meterlake").verify(token, NOW)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"issuer": "https://evil.example"}, "exactly what"),
        ({"issuer": None}, "exactly what"),
        ({"jwks_uri": "http://evil.example/keys"}, "https"),
        ({"jwks_uri": "file:///etc/passwd"}, "https"),
        ({"jwks_uri": "data:application/json,{}"}, "https"),
        ({"jwks_uri": None}, "https"),
        ({"jwks_uri": "http://127.0.0.1:notaport/"}, "does not answer"),
        ({"jwks_uri": "http://[::1"}, "https"),
    ],
)
def test_an_issuer_is_only_believed_about_itself_and_keys_only_come_by_tls(
    there: LocalIssuer, ours: Issuer, said: dict[str, Any], words: str
) -> None:
    there.discovery = said
    with pytest.raises(Unavailable, match=words):
        ours.verify(there.token(rsa_key(), "r", "RS256"), NOW)


@pytest.mark.parametrize(
    "url",
    [
        *("", "login.example.com", "http://login.example.com", "http://127.0.0.1.example.com"),
        *("ftp://login.example.com", "file:///etc", "https://", "https://me:pw@login.example.com"),
        *("https://login.example.com?x=1", "https://login.example.com#x", "https://[::1"),
        *("https://login.example.com/a b\n", "http://0.0.0.0"),
    ],
)
def test_an_issuer_needs_tls_except_on_loopback(url: str) -> None:
    with pytest.raises(BadInput, match=r"serve\.oidc_issuer"):
        Issuer(url, "meterlake")


def test_an_issuer_needs_an_audience() -> None:
    Issuer("https://login.example.com/", "meterlake")
    for audience in (None, ""):
        with pytest.raises(BadInput, match=r"serve\.oidc_audience"):
            Issuer("https://login.example.com/", audience)


@pytest.mark.parametrize(
    ("name", "claims", "words"),
    [
        ("scope", {"scope": "openid read  sql"}, {"openid", "read", "sql"}),
        ("scope", {"scope": ["read", 7, None, ["sql"]]}, {"read"}),
        ("scope", {"scope": 7}, set()),
        ("scope", {"scope": {"read": True}}, set()),
        ("scope", {}, set()),
        ("roles", {"scope": "admin", "roles": ["read"]}, {"read"}),
        ("realm_access.roles", {"realm_access": {"roles": ["sql"]}}, {"sql"}),
        ("realm_access.roles", {"realm_access": ["roles"]}, set()),
        ("realm_access.roles", {"realm_access": "roles"}, set()),
        ("https://grid.example/roles", {"https://grid.example/roles": ["read"]}, {"read"}),
        ("", {"scope": "admin"}, set()),
    ],
)
def test_scopes_are_the_words_of_the_claim_that_the_settings_name(
    there: LocalIssuer, name: str, claims: dict[str, Any], words: set[str]
) -> None:
    token = there.token(ec_key(), "e", "ES256", **claims)
    assert Issuer(there.url, "meterlake", name).verify(token, NOW).words == words


@pytest.mark.parametrize(
    ("claims", "subject"),
    [
        ({"sub": "a\nb\x1b[31m"}, "a?b?[31m"),
        ({"sub": "x" * 999}, "x" * 200),
        ({"sub": None, "client_id": "robot"}, "robot"),
        ({"sub": None}, "unnamed"),
    ],
)
def test_a_subject_fits_on_a_line_of_a_log(
    there: LocalIssuer, ours: Issuer, claims: dict[str, Any], subject: str
) -> None:
    assert ours.verify(there.token(ec_key(), "e", "ES256", **claims), NOW).subject == subject


@pytest.fixture(scope="module")
def known() -> Iterator[tuple[LocalIssuer, Issuer]]:
    with LocalIssuer(public_jwk(ec_key(), kid="e")) as there:
        ours = Issuer(there.url, "meterlake")
        ours.verify(there.token(ec_key(), "e", "ES256"), NOW)
        yield there, ours


@given(st.text() | st.from_regex(r"[\w-]{1,9}\.[\w-]{0,9}\.[\w-]{0,9}", fullmatch=True))
@example("a" * 16_385)
@example("." * 10_000)
@example("eyJhbGciOiJSUzI1NiJ9." * 2)
@example("\udcff.\udcff.\udcff")
@example(f"{as_part(b'[' * 9_000)}..")
def test_any_text_is_refused_and_nothing_else(known: tuple[LocalIssuer, Issuer], text: str) -> None:
    with pytest.raises(NotAccepted):
        known[1].verify(text, NOW)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)
NAMES = st.sampled_from(["iss", "aud", "exp", "nbf", "iat", "sub", "jti", "client_id", "scope"])


@settings(max_examples=50)
@given(claims=st.dictionaries(NAMES, JSON, min_size=1))
def test_whatever_a_token_claims_it_opens_or_is_refused(
    known: tuple[LocalIssuer, Issuer], claims: dict[str, Any]
) -> None:
    there, ours = known
    now = int(time.time())
    told = {"iss": there.url, "aud": "meterlake", "exp": now + 3600, **claims}
    token = PyJWS().encode(json.dumps(told).encode(), ec_key(), "ES256", {"kid": "e"})
    try:
        found = ours.verify(token, NOW)
    except NotAccepted:
        return
    assert told["iss"] == there.url
    assert "meterlake" in told["aud"]
    assert found.subject.isprintable()


@given(place=st.integers(0, 10_000), byte=st.sampled_from("AZaz09-_.=x"))
def test_a_token_with_a_changed_character_is_refused(
    known: tuple[LocalIssuer, Issuer], place: int, byte: str
) -> None:
    there, ours = known
    token = there.token(ec_key(), "e", "ES256")
    place %= len(token)
    changed = token[:place] + byte + token[place + 1 :]
    if changed != token:
        with pytest.raises(NotAccepted):
            ours.verify(changed, NOW)
