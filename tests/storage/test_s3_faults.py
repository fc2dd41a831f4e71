"""What goes wrong between here and a bucket: it is retried where it broke, or told in full."""

import os
import time
import types

import pytest
from servers.between import Between, once
from servers.wire import Wire
from store_contract import publish

from conftest import RETRY
from dynamo_entry.errors import NotFound, StorageDenied, StorageError, StorageUnavailable
from dynamo_entry.storage import Retry
from dynamo_entry.storage.s3 import S3Store, signer

MIB = 1 << 20

#: Longer than any part of an upload takes here, and short enough for a test.
PATIENT = Retry(limit_s=20, stall_s=4)


@pytest.fixture
def between(rgw):
    proxy = Between(rgw.port)
    yield proxy
    proxy.stop()


@pytest.fixture
def at(bucket):
    """A store of the same object, directly or by way of a port."""
    name = bucket.partition("/")[2]

    def at(port=0, *, scheme="s3+http", retry=RETRY):
        host = f"127.0.0.1:{port}" if port else bucket.partition("/")[0]
        return S3Store(f"{scheme}://{host}/{name}/models/a.tar", retry)

    return at


@pytest.mark.parametrize("how", ["cut", "reset", "stall"])
def test_a_read_that_breaks_goes_on_where_it_broke(at, wire, how):
    """What had arrived is not fetched again."""
    data = os.urandom(16 * MIB)
    publish(at(), data)
    wire.fault("down", how, after=12 * MIB)
    assert bytes(at(wire.port).read_range(0, 16 * MIB)) == data
    assert wire.has_happened
    assert wire.moved["down"] < 22 * MIB, "all of it again would be 28"


@pytest.mark.parametrize("how", ["cut", "reset", "stall"])
def test_the_end_is_read_although_the_answer_breaks(at, wire, how):
    data = os.urandom(4 * MIB)
    published = publish(at(), data)
    wire.fault("down", how, after=MIB // 2)
    found, end = at(wire.port).read_end(MIB)
    assert wire.has_happened
    assert (found, bytes(end)) == (published, data[-MIB:])


@pytest.mark.parametrize("how", ["cut", "reset", "stall", "damage"])
def test_an_upload_that_breaks_sends_one_part_again(at, wire, how):
    """Damage on plain http, too: the server compares the digest that was signed."""
    data = os.urandom(64 * MIB)
    wire.fault("up", how, after=20 * MIB)
    publish(at(wire.port, retry=PATIENT), data)
    assert wire.has_happened
    assert bytes(at().read_range(0, 64 * MIB)) == data
    assert wire.moved["up"] < (64 + 16 + 4) * MIB


def test_damage_under_tls_is_fetched_again(at, rgw, monkeypatch):
    monkeypatch.setenv("AWS_CA_BUNDLE", str(rgw.certificate.ca))
    data = os.urandom(8 * MIB)
    publish(at(), data)
    relay = Wire(rgw.tls_port)
    relay.fault("down", "damage", after=4 * MIB)
    assert bytes(at(relay.port, scheme="s3").read_range(0, 8 * MIB)) == data
    assert relay.has_happened
    relay.stop()


def test_a_store_that_dies_is_told_in_time_and_leaves_nothing_visible(at, wire):
    """Cleaning up does not take so long that whoever waits gives up before the reason is told."""
    retry = Retry(limit_s=6, stall_s=1)
    writer = at(wire.port, retry=retry).open_writer()
    wire.fault("up", "reset", after=20 * MIB, for_good=True)
    began = time.monotonic()
    with pytest.raises(StorageUnavailable) as caught:
        publish_in(writer, os.urandom(64 * MIB))
    assert time.monotonic() - began < 1.8 * retry.limit_s
    assert caught.value.reason == "ConnectionLost"
    with pytest.raises(NotFound):
        at().stat()
    (left,) = at().leftovers()
    at().remove_leftover(left)
    assert list(at().leftovers()) == []


def publish_in(writer, data):
    try:
        writer.append(data)
        return writer.commit()
    finally:
        writer.abort()


@pytest.mark.parametrize("operation", ["PutObject", "CompleteMultipartUpload"])
def test_a_store_that_dies_while_it_publishes_is_told_in_time(at, between, operation):
    """While creators take turns, and when it is ours."""
    retry = Retry(limit_s=6, stall_s=1)
    writer = at(between.port, retry=retry).open_writer()
    method = {"PutObject": "PUT", "CompleteMultipartUpload": "POST"}[operation]
    dead = []

    def fault(now, path):
        if now == method and "partNumber" not in path:
            dead.append(path)
        return (503, xml("SlowDown")) if dead else None

    between.fault = fault
    began = time.monotonic()
    with pytest.raises(StorageUnavailable, match=operation):
        publish_in(writer, b"content")
    assert time.monotonic() - began < 1.8 * retry.limit_s


def xml(code):
    return f"<Error><Code>{code}</Code><Message>Because.</Message><RequestId>7f3</RequestId></Error>".encode()


@pytest.mark.parametrize(
    "fault",
    [
        (500, xml("InternalError")),
        (502, b"<html>proxy</html>"),
        (503, xml("SlowDown"), {"Retry-After": "1"}),
        (429, xml("TooManyRequests")),
        (400, xml("RequestTimeout")),
        "cut",
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("method", "query"), [("GET", ""), ("PUT", ""), ("POST", "uploads="), ("POST", "uploadId=")]
)
def test_what_passes_is_retried_and_nothing_else_is(at, between, method, query, fault):
    """At any request: reads, parts, the beginning and the completion of an upload."""
    data = os.urandom(3 * MIB)
    between.fault = once(method, fault, also=query)
    publish(at(between.port), data, replace=True)
    store = at(between.port)
    store.stat()
    assert bytes(store.read_range(0, 3 * MIB)) == data
    reads = [seen for seen in between.seen if seen.method == "GET"]
    assert sum(seen.sent for seen in reads) <= 3 * MIB + 1000
    parts = [seen for seen in between.seen if "partNumber" in seen.path]
    assert len(parts) == 1 + (method == "PUT" and fault != "cut"), "no body, nothing to cut"


def test_an_error_that_comes_after_the_status_line_is_one(at, between):
    """AWS may answer a completion with 200 and then say that it failed."""
    between.fault = once("POST", (200, xml("InternalError")), also="uploadId=")
    publish(at(between.port), b"content", replace=True)
    assert bytes(at().read_range(0, 7)) == b"content"


def test_a_completion_whose_answer_is_lost_counts(at, between):
    """The next attempt finds the upload gone; whose the object is tells that it succeeded."""
    between.fault = once("POST", "cut", also="uploadId=")
    published = publish(at(between.port), b"content")
    assert at().stat() == published


@pytest.mark.parametrize(
    ("status", "code", "kind", "reason", "hint"),
    [
        (403, "AccessDenied", StorageDenied, "AccessDenied", "s3:GetObject"),
        (403, "InvalidAccessKeyId", StorageDenied, "InvalidAccessKeyId", "not known"),
        (400, "ExpiredToken", StorageDenied, "ExpiredToken", "renew"),
        (404, "NoSuchBucket", StorageDenied, "NoSuchBucket", "create the bucket"),
        (404, "NoSuchKey", NotFound, "NotFound", ""),
        (405, "MethodNotAllowed", StorageError, "MethodNotAllowed", "does not support"),
        (503, "SlowDown", StorageUnavailable, "SlowDown", "overloaded"),
    ],
)
def test_what_does_not_pass_is_told_in_full(at, between, status, code, kind, reason, hint):
    """Location, operation, status, request and what to do; and a refusal is never taken for absence."""
    publish(at(), b"content")
    between.fault = lambda *_: (status, xml(code), {"x-amz-request-id": "tx0007"})
    store = at(between.port, retry=Retry(limit_s=1, stall_s=1))
    for operation, call in (
        ("GetObject", store.stat if status in (403, 400, 404) else lambda: store.read_range(0, 7)),
        ("CreateMultipartUpload", store.check_writable),
    ):
        with pytest.raises(StorageError) as caught:
            call()
        error = caught.value
        assert type(error) is kind
        assert (error.status, error.reason, error.request_id) == (status, reason, "tx0007")
        for part in (store.location, operation, str(status), code, "Because", "tx0007", hint):
            assert part in str(error), part


@pytest.mark.parametrize(
    "answer",
    [(200, b"content"), (206, b"co", {"Content-Range": "bytes 0-1/7"})],
    ids=["ignores the range", "gives another one"],
)
def test_a_server_that_gives_another_range_is_told(at, between, answer):
    """Not one byte of it is taken."""
    between.fault = lambda *_: answer
    with pytest.raises(StorageError) as caught:
        at(between.port).read_range(3, 4)
    assert caught.value.reason == "NoRanges"
    assert "GetObject" in caught.value.message
    assert "ranged reads" in caught.value.hint


def test_an_object_that_is_replaced_in_mid_read_is_told(at):
    store = at()
    publish(at(), b"first")
    store.stat()
    publish(at(), b"later", replace=True)
    with pytest.raises(StorageError) as caught:
        store.read_range(0, 5)
    assert caught.value.reason == "Replaced"


def test_a_host_that_has_no_address():
    """It may get one: the name of a service that is being created."""
    began = time.monotonic()
    with pytest.raises(StorageUnavailable) as caught:
        S3Store("s3://minio.invalid:9000/bucket/a.tar", Retry(limit_s=2, stall_s=1)).stat()
    assert caught.value.reason == "HostNotFound"
    assert "DNS" in caught.value.hint
    assert time.monotonic() - began < 15


def test_an_authority_that_is_not_trusted_is_denied_at_once(at, rgw, monkeypatch):
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    began = time.monotonic()
    with pytest.raises(StorageDenied) as caught:
        at(rgw.tls_port, scheme="s3").stat()
    assert caught.value.reason == "CertificateNotTrusted"
    assert "CA_FILE" in caught.value.hint
    assert time.monotonic() - began < RETRY.limit_s, "another attempt would end the same"


@pytest.mark.parametrize("call", ["stat", "read", "write"])
def test_a_clock_that_is_wrong_is_set_by_the_server(at, monkeypatch, call):
    """Whatever the first request is."""
    publish(at(), b"content")
    wrong = types.SimpleNamespace(time=lambda: time.time() + 3600)
    monkeypatch.setattr(signer, "time", wrong)
    monkeypatch.setattr(signer, "CLOCK", signer.Clock())
    store = at()
    calls = {
        "stat": lambda: store.stat().size,
        "read": lambda: len(store.read_range(0, 7)),
        "write": lambda: publish(store, b"another", replace=True).size,
    }
    assert calls[call]() == 7
