"""The proxy forwards faithfully, and each fault does what it says."""

import http.client
import time
from collections.abc import Iterator
from datetime import timedelta

import obstore
import pytest
from obstore.exceptions import AlreadyExistsError, BaseError, GenericError, PreconditionError
from obstore.store import S3Store
from support.fault_proxy import Fault, FaultProxy, from_nth, nth, share
from support.seaweed import SeaweedFS

MB5 = bytes(range(256)) * (5_000_000 // 256)
SIZES = pytest.mark.parametrize("body", [b"", b"1", MB5], ids=["0B", "1B", "5MB"])


@pytest.fixture(scope="module")
def server() -> Iterator[SeaweedFS]:
    with SeaweedFS() as running:
        yield running


@pytest.fixture
def proxy(server: SeaweedFS) -> Iterator[FaultProxy]:
    with FaultProxy(server.endpoint, delay=0.3) as running:
        yield running


def client(server: SeaweedFS, endpoint: str, bucket: str) -> S3Store:
    """A client without retries."""
    return S3Store(
        bucket,
        endpoint=endpoint,
        access_key_id=server.access_key,
        secret_access_key=server.secret_key,
        region="us-east-1",
        client_options={"allow_http": True, "timeout": timedelta(seconds=20)},
        retry_config={"max_retries": 0},
    )


@pytest.fixture
def direct(server: SeaweedFS) -> S3Store:
    return client(server, server.endpoint, server.new_bucket())


@pytest.fixture
def proxied(server: SeaweedFS, proxy: FaultProxy, direct: S3Store) -> S3Store:
    """The same bucket as ``direct``, through the proxy."""
    return client(server, proxy.endpoint, direct.config["bucket"])


def there(store: S3Store) -> list[str]:
    return sorted(meta["path"] for batch in obstore.list(store) for meta in batch)


@SIZES
def test_what_goes_in_comes_out(
    proxy: FaultProxy, proxied: S3Store, direct: S3Store, body: bytes
) -> None:
    obstore.put(proxied, "a b/c=1%2F.txt", body, use_multipart=False)

    assert bytes(obstore.get(direct, "a b/c=1%2F.txt").bytes()) == body
    assert bytes(obstore.get(proxied, "a b/c=1%2F.txt").bytes()) == body
    assert obstore.head(proxied, "a b/c=1%2F.txt")["size"] == len(body)
    assert there(proxied) == ["a b/c=1%2F.txt"]

    obstore.delete(proxied, "a b/c=1%2F.txt")

    assert there(proxied) == there(direct) == []
    assert [request.method for request in proxy.requests] == [
        *("PUT", "GET", "HEAD", "GET", "POST", "GET")
    ]
    assert [request.number for request in proxy.requests] == [1, 2, 3, 4, 5, 6]


@SIZES
def test_a_conditional_put_writes_once(proxied: S3Store, direct: S3Store, body: bytes) -> None:
    obstore.put(proxied, "once", body, mode="create", use_multipart=False)

    with pytest.raises(AlreadyExistsError):
        obstore.put(proxied, "once", MB5[::-1], mode="create", use_multipart=False)

    assert bytes(obstore.get(direct, "once").bytes()) == body


def test_a_range_and_a_multipart_upload(
    proxy: FaultProxy, proxied: S3Store, direct: S3Store
) -> None:
    obstore.put(proxied, "big", MB5 * 3, chunk_size=6_000_000, use_multipart=True)

    assert bytes(obstore.get_range(proxied, "big", start=4_999_990, end=5_000_010)) == bytes(
        obstore.get_range(direct, "big", start=4_999_990, end=5_000_010)
    )
    assert obstore.head(direct, "big")["size"] == 3 * len(MB5)
    assert sum(request.method == "PUT" for request in proxy.requests) == 3


def test_a_stale_etag_is_refused_as_without_the_proxy(proxied: S3Store) -> None:
    etag = obstore.put(proxied, "x", b"1")["e_tag"]
    obstore.put(proxied, "x", b"2")

    with pytest.raises(PreconditionError):
        obstore.put(proxied, "x", b"3", mode={"e_tag": etag})


def test_chunked_bodies_and_100_continue(server: SeaweedFS, proxy: FaultProxy) -> None:
    url = obstore.sign(
        client(server, proxy.endpoint, server.new_bucket()), "PUT", "x", timedelta(minutes=1)
    )
    host, target = url.removeprefix("http://").split("/", 1)
    connection = http.client.HTTPConnection(host, timeout=10)

    for _ in range(2):  # on one connection
        connection.putrequest("PUT", f"/{target}")
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders([b"one ", b"two"], encode_chunked=True)
        with connection.getresponse() as answer:
            assert (answer.status, answer.read()) == (200, b"")

    connection.putrequest("PUT", f"/{target}")
    connection.putheader("Expect", "100-continue")
    connection.putheader("Content-Length", "3")
    connection.endheaders()
    assert connection.sock.recv(1000).startswith(b"HTTP/1.1 100 Continue")
    connection.send(b"end")
    with connection.getresponse() as answer:
        assert answer.status == 200
    connection.close()

    assert proxy.seen == 3


def test_drop_before_loses_the_request(
    proxy: FaultProxy, proxied: S3Store, direct: S3Store
) -> None:
    proxy.reset(nth(1, Fault.DROP_BEFORE))

    with pytest.raises(GenericError):
        obstore.put(proxied, "x", b"1")

    assert there(direct) == []
    assert proxy.seen == 1


@SIZES
def test_drop_after_loses_the_answer(
    proxy: FaultProxy, proxied: S3Store, direct: S3Store, body: bytes
) -> None:
    proxy.reset(nth(1, Fault.DROP_AFTER))

    with pytest.raises(GenericError):
        obstore.put(proxied, "x", body, use_multipart=False)

    assert bytes(obstore.get(direct, "x").bytes()) == body
    assert proxy.seen == 1


@pytest.mark.parametrize(
    ("fault", "words"), [(Fault.ERROR_500, "InternalError"), (Fault.ERROR_503, "SlowDown")]
)
def test_an_error_is_answered_without_the_server(
    proxy: FaultProxy, proxied: S3Store, direct: S3Store, fault: Fault, words: str
) -> None:
    proxy.reset(nth(1, fault))

    with pytest.raises(GenericError, match=words):
        obstore.put(proxied, "x", MB5, use_multipart=False)

    assert there(direct) == []
    obstore.put(proxied, "x", b"1")
    assert there(direct) == ["x"]


def test_delay_is_late_but_right(proxy: FaultProxy, proxied: S3Store) -> None:
    proxy.reset(nth(1, Fault.DELAY))

    started = time.monotonic()
    obstore.put(proxied, "x", b"1")

    assert time.monotonic() - started >= 0.3
    assert bytes(obstore.get(proxied, "x").bytes()) == b"1"


def test_cut_breaks_off_in_the_body(proxy: FaultProxy, proxied: S3Store) -> None:
    proxy.reset(from_nth(1, Fault.CUT))
    obstore.put(proxied, "x", MB5, use_multipart=False)  # nothing to cut

    answer = obstore.get(proxied, "x")  # the head comes through
    assert answer.meta["size"] == len(MB5)
    with pytest.raises(GenericError):
        answer.bytes()

    assert proxy.injected[Fault.CUT] == sum(request.method == "GET" for request in proxy.requests)


def test_from_nth_the_store_is_gone(proxy: FaultProxy, proxied: S3Store, direct: S3Store) -> None:
    proxy.reset(from_nth(3))

    obstore.put(proxied, "1", b"")
    obstore.put(proxied, "2", b"")
    for name in ("3", "4"):
        with pytest.raises(GenericError):
            obstore.put(proxied, name, b"")

    assert there(direct) == ["1", "2"]
    assert [request.fault for request in proxy.requests] == [
        *(None, None, Fault.DROP_BEFORE, Fault.DROP_BEFORE)
    ]


def test_each_request_in_turn_fails(proxy: FaultProxy, proxied: S3Store) -> None:
    for n in (1, 2, 3):
        proxy.reset(nth(n, Fault.DROP_BEFORE))
        failed = []
        for number in (1, 2, 3):
            try:
                obstore.put(proxied, str(number), b"1")
            except BaseError:
                failed.append(number)

        assert failed == [n]
        assert proxy.injected == {Fault.DROP_BEFORE: 1}


def test_a_share_is_random_but_the_same_for_a_seed() -> None:
    def run(seed: int) -> list[Fault | None]:
        policy = share(20, seed, [Fault.DROP_AFTER, Fault.ERROR_503])
        return [policy(n, "GET", f"/{n}") for n in range(1000)]

    assert run(1) == run(1) != run(2)
    assert 150 < 1000 - run(1).count(None) < 250
    assert set(run(1)) == {None, Fault.DROP_AFTER, Fault.ERROR_503}


def test_a_share_spares_a_request_that_failed_often_enough() -> None:
    policy = share(100, 1, [Fault.ERROR_500], at_most=2)
    fails = [policy(n, "GET", "/a") is not None for n in range(6)]

    assert fails == [True, True, False, True, True, False]
    assert policy(7, "PUT", "/a") is not None


def test_a_policy_that_breaks_is_heard_of(server: SeaweedFS) -> None:
    def broken(number: int, method: str, path: str) -> Fault | None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), FaultProxy(server.endpoint, broken) as proxy:
        http_connection = http.client.HTTPConnection(
            proxy.endpoint.removeprefix("http://"), timeout=5
        )
        http_connection.request("GET", "/")
        with pytest.raises(http.client.RemoteDisconnected):
            http_connection.getresponse()
        http_connection.close()
