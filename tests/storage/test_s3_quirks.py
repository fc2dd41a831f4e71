"""What buckets, and what stands before them, do otherwise than the servers that are tested with: one test a kind."""

import socket
import time

import pytest
from servers.quirks import Bucket, error
from store_contract import publish

from dynamo_entry.errors import AlreadyExists, NotFound, StorageDenied, StorageError
from dynamo_entry.storage import Access, Retry
from dynamo_entry.storage.s3 import S3Store

MIB = 1 << 20
RETRY = Retry(limit_s=8, stall_s=4)
HTML = b"<html><body>not here</body></html>"


@pytest.fixture
def bucket():
    server = Bucket()
    yield server
    server.stop()


def store(bucket, access=None, *, retry=RETRY, name="a.tar"):
    return S3Store(f"s3+http://127.0.0.1:{bucket.port}/models/{name}", retry, access or Access())


def test_encryption_and_access_control_of_new_objects(bucket):
    """A bucket whose policy demands both of whatever begins an object, and refuses them of a part (case 05)."""
    options = {
        "ServerSideEncryption": "aws:kms",
        "SSEKMSKeyId": "arn:aws:kms:eu-central-1:1:key/a",
        "ACL": "bucket-owner-full-control",
    }

    def demand(_bucket, request):
        given = [request.headers.get(f"x-amz-{name}") for name in
                 ("server-side-encryption", "server-side-encryption-aws-kms-key-id", "acl")]  # fmt: skip
        if given != (list(options.values()) if request.begins else [None] * 3):
            return error(403, "AccessDenied", "with an explicit deny in a resource-based policy")
        return None

    bucket.quirk = demand
    with pytest.raises(StorageDenied) as caught:
        store(bucket).check_writable()
    assert "DYNAMO_CHECKPOINT_STORAGE_OPTIONS" in caught.value.hint
    told = store(bucket, Access(options=options))
    told.check_writable()
    publish(told, b"content")
    assert bytes(told.read_range(0, 7)) == b"content"


def test_a_server_that_completes_under_a_condition_decides_by_itself(bucket):
    """As AWS does, and Ceph from 20 on: found out on a small object, then nobody takes turns."""
    publish(store(bucket), b"first")
    with pytest.raises(AlreadyExists):
        publish(store(bucket), b"second")
    assert bucket.objects == {"/models/a.tar": b"first"}
    assert bucket.uploads == {}
    assert not [request for request in bucket.seen if "claims" in request.path]


def test_a_conflict_while_it_is_completed_is_tried_again(bucket):
    """AWS: 409 ConditionalRequestConflict."""
    left = [error(409, "ConditionalRequestConflict")]
    bucket.quirk = lambda _, request: (
        left.pop() if left and request.completes and "probe" not in request.path else None
    )
    publish(store(bucket), b"content")
    assert not left
    assert bytes(store(bucket).read_range(0, 7)) == b"content"


def test_a_conflict_that_another_has_won_is_told_as_such(bucket):
    """Also while the other's object is not to be seen yet."""
    is_hidden = []

    def lose(bucket, request):
        if request.completes and "probe" not in request.path and not is_hidden:
            bucket.hold(request.path, b"theirs")
            is_hidden.append(True)
            return error(409, "ConditionalRequestConflict")
        if is_hidden and request.method in ("GET", "HEAD"):
            return error(404, "NoSuchKey")
        return None

    bucket.quirk = lose
    with pytest.raises(AlreadyExists):
        publish(store(bucket), b"ours")
    assert bucket.objects["/models/a.tar"] == b"theirs"


def test_a_404_of_a_proxy_whose_server_is_not_there_yet(bucket):
    """A mesh: no document of S3's. The answer of the store itself is taken at its word."""
    publish(store(bucket), b"content")
    until = time.monotonic() + 2
    bucket.quirk = lambda *_: (404, b"") if time.monotonic() < until else None
    assert store(bucket).stat().size == 7
    with pytest.raises(NotFound):
        store(bucket, name="b.tar").stat()


@pytest.mark.parametrize("style", ["asked for", "found out"])
def test_a_store_that_wants_the_bucket_in_its_host_name(bucket, style, monkeypatch, tmp_path):
    """Alibaba's, say."""
    resolve = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *rest, **more: resolve("127.0.0.1", *rest, **more)
    )
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://localhost:{bucket.port}")
    if style == "asked for":
        (tmp_path / "config").write_text("[default]\ns3 =\n  addressing_style = virtual\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    bucket.quirk = lambda _, request: (
        None
        if request.host.startswith("models.")
        else error(403, "SecondLevelDomainForbidden", "Please use virtual hosted style")
    )
    there = S3Store("s3://models/some/a.tar", RETRY)
    publish(there, b"content")
    assert bytes(there.read_range(0, 7)) == b"content"
    assert list(bucket.objects) == ["/some/a.tar"]
    later = S3Store("s3://models/some/a.tar", RETRY)
    assert later.stat().size == 7
    assert bytes(later.read_range(0, 7)) == b"content"


def test_an_endpoint_below_a_path(bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{bucket.port}/gateway/s3")
    bucket.quirk = lambda _, request: None if request.path.startswith("/gateway/s3/models/") else (404, HTML)
    there = S3Store("s3://models/a.tar", RETRY)
    publish(there, b"content")
    assert bytes(there.read_range(0, 7)) == b"content"


@pytest.mark.parametrize("limit", [MIB, 16 * MIB - 1])
def test_a_proxy_that_takes_no_request_of_that_size(bucket, limit):
    """Found before anything is uploaded, with what is to be changed."""
    bucket.quirk = lambda _, request: (413, HTML) if len(request.body) > limit else None
    with pytest.raises(StorageError) as caught:
        store(bucket).check_writable()
    assert (caught.value.status, caught.value.retry) == (413, False)
    assert "proxy-body-size" in caught.value.hint
    assert not bucket.uploads
    assert not bucket.objects


def the_end(bucket, request, content_range=""):
    """A server's answer to a range that counts from the end."""
    asked = request.headers.get("Range", "")
    if not asked.startswith("bytes=-"):
        return None
    data = bucket.objects[request.path]
    first = max(0, len(data) - int(asked[7:]))
    said = content_range or f"bytes {first}-{len(data) - 1}/{len(data)}"
    return 206, data[first:], {"ETag": '"e"', "Content-Range": said}


def test_the_end_and_the_size_are_one_request(bucket):
    publish(store(bucket), b"content")
    bucket.quirk = the_end
    bucket.seen.clear()
    reader = store(bucket)
    found, data = reader.read_end(4)
    assert (found.size, bytes(data)) == (7, b"tent")
    assert [request.method for request in bucket.seen] == ["GET"]
    bucket.quirk = lambda _, request: (
        (206, b"n", {"ETag": '"other"', "Content-Range": "bytes 2-2/7"})
        if request.headers.get("Range")
        else None
    )
    with pytest.raises(StorageError) as caught:
        reader.read_range(2, 1)
    assert caught.value.reason == "Replaced"


@pytest.mark.parametrize(
    "content_range",
    ["bytes 3-6/*", "bytes 2-6/7", "bytes 3-5/7", f"bytes 3-6/{'9' * 5000}", "bytes 0-0/0", "tent"],
)
def test_an_end_that_is_answered_otherwise_is_asked_for_by_its_place(bucket, content_range):
    """As where the range is ignored."""
    publish(store(bucket), b"content")
    assert bytes(store(bucket).read_end(4)[1]) == b"tent"
    bucket.quirk = lambda bucket, request: the_end(bucket, request, content_range)
    found, data = store(bucket).read_end(4)
    assert (found.size, bytes(data)) == (7, b"tent")


@pytest.mark.parametrize(
    ("status", "code"), [(400, "InvalidArgument"), (416, "InvalidRange"), (501, "NotImplemented")]
)
def test_an_end_that_is_refused_is_asked_for_by_its_place(bucket, status, code):
    publish(store(bucket), b"content")
    bucket.quirk = lambda bucket, request: the_end(bucket, request) and error(status, code)
    assert bytes(store(bucket).read_end(4)[1]) == b"tent"
