"""Whatever a storage server answers: a typed error that says what it was, at little cost, and an end."""

import json
import tracemalloc

import pytest
from answers import Answers
from archive_store import build, noise

from dynamo_entry.archive import Archive
from dynamo_entry.errors import ArchiveError, Corrupt, StorageDenied, StorageError
from dynamo_entry.storage import Retry, failures, open_store
from dynamo_entry.storage.oci import artifact, layers

UNKNOWN = b'{"errors": [{"code": "MANIFEST_UNKNOWN"}]}'
RETRY = Retry(limit_s=0.01, stall_s=2)
ARCHIVE = build({"s": noise(5000)})
LISTED = "<R><IsTruncated>false</IsTruncated><Contents><Key>p/a.tar</Key><Size>5</Size><LastModified>2024-01-01T00:00:00Z</LastModified></Contents></R>"


@pytest.fixture(scope="module")
def server():
    return Answers()


@pytest.fixture
def bucket(server, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.setenv(name, "x")

    def opened(parts=(), **said):
        server.case = {"answers.json": json.dumps(said).encode(), **dict(parts)}
        return open_store(f"s3+http://127.0.0.1:{server.port}/bucket/p/a.tar", RETRY)

    return opened


@pytest.fixture
def registry(server, monkeypatch):
    monkeypatch.setenv("DOCKER_CONFIG", "/nonexistent")

    def opened(parts=(), **said):
        server.case = {"answers.json": json.dumps(said).encode(), **dict(parts)}
        return open_store(f"oci+http://127.0.0.1:{server.port}/ck:tag", RETRY)

    return opened


@pytest.fixture(params=["bucket", "registry"])
def opened(request):
    """``opened(answer)``: a store with an archive whose data is answered so."""

    def open_(answer):
        parts = {"object": ARCHIVE, "manifest": manifest(len(ARCHIVE))}
        store = request.getfixturevalue(request.param)
        if request.param == "bucket":
            return store(parts, GET=answer)
        return store(parts, **{"/manifests/": [200, {}, "manifest"], "/blobs/": answer})

    return open_


def manifest(size):
    return artifact.encoded(artifact.manifest([artifact.Layer("sha256:" + "0" * 64, size)], None, {}))


@pytest.mark.parametrize(
    "listing",
    [
        "", "no XML", LISTED.replace(">5<", "><"), LISTED.replace(">5<", ">five<"), LISTED.replace(">5<", f">{'9' * 5000}<"),
        LISTED.replace("2024-01-01T00:00:00Z", ""), LISTED.replace("2024", "yesterday"), "<R>" + "<a/>" * 100_001 + "</R>",
    ],
)  # fmt: skip
def test_a_listing_that_is_none(bucket, listing):
    store = bucket({"list": listing.encode()}, **{"list-type": [200, {}, "list"]})
    with store, pytest.raises(StorageError) as caught:
        list(store.archives())
    assert caught.value.reason == "BadAnswer"


def entries(kind, *keys):
    item = {
        "Contents": "<Size>5</Size><LastModified>2024-01-01T00:00:00Z</LastModified>",
        "Upload": "<UploadId>u</UploadId><Initiated>2024-01-01T00:00:00Z</Initiated>",
    }[kind]
    return f"<R>{''.join(f'<{kind}><Key>{key}</Key>{item}</{kind}>' for key in keys)}</R>".encode()


def test_a_listing_of_more_than_was_asked_for(bucket):
    """Nobody else's archive counts as an orphan, and nobody else's upload is aborted, where a server ignores the prefix."""
    claim = "a.tar.claims/00000001-0123456789abcdef"
    parts = {
        "objects": entries(
            "Contents", "b.tar", "p/a.tar", "p/deeper/c.tar", "zz.tar", f"p/{claim}", f"q/{claim}"
        ),
        "uploads": entries("Upload", "b.tar", "p/a.tar", "q/d.tar"),
        "parts": b"<R></R>",
    }
    said = {"list-type": [200, {"Date": "Thu, 01 Feb 2024 00:00:00 GMT"}, "objects"]}
    said |= {"?uploads": [200, {}, "uploads"], "uploadId": [200, {}, "parts"]}
    with bucket(parts, **said) as store:
        assert [archive.location.partition("/bucket/")[2] for archive in store.archives()] == ["p/a.tar"]
        assert [leftover.name for leftover in store.leftovers()] == ["p/a.tar?uploadId=u", f"p/{claim}"]


def test_a_listing_that_repeats_itself_ends(bucket):
    again = LISTED.replace("false", "true").replace(
        "<Contents>", "<NextContinuationToken>t</NextContinuationToken><Contents>"
    )
    with bucket({"list": again.encode()}, **{"list-type": [200, {}, "list"]}) as store:
        assert len(list(store.archives())) == 2


def test_a_listing_that_goes_round_ends(bucket):
    pages = {
        name: LISTED.replace("false", "true")
        .replace("<Contents>", f"<NextContinuationToken>{following}</NextContinuationToken><Contents>")
        .encode()
        for name, following in (("first", "a"), ("a", "b"), ("b", "a"))
    }
    said = {f"continuation-token={name}": [200, {}, name] for name in "ab"}
    with bucket(pages, **said, **{"list-type": [200, {}, "first"]}) as store:
        assert len(list(store.archives())) == 3


@pytest.mark.parametrize("kind", ["bucket", "registry"])
def test_a_server_s_words_are_quoted_within_bounds(request, kind):
    """They are printed, logged, and counted under their code."""
    said = 'Because.\n{"event": "Restored"} \x1b[2J https://h/p?X-Amz-Signature=sesame ' + "x" * 100_000
    code = "Word" * 10_000
    documents = {
        "bucket": f"<Error><Code>{code}</Code><Message>{said.replace(chr(27), ' ')}</Message></Error>".encode(),
        "registry": json.dumps({"errors": [{"code": code, "message": said}]}).encode(),
    }
    answer = [403, {"x-amz-request-id": "r" * 5000, "X-Request-Id": "r" * 5000}, "document"]
    store = request.getfixturevalue(kind)({"document": documents[kind]}, GET=answer, HEAD=answer)
    with store, pytest.raises(StorageDenied) as caught:
        store.stat()
    assert len(caught.value.message) < 1000
    assert caught.value.message.isprintable()
    assert "Because" in caught.value.message
    assert "sesame" not in caught.value.message
    assert len(caught.value.reason) <= 64


def test_a_list_of_tags_that_repeats_itself_ends(registry):
    """With its first page, or with another."""
    for link in ('</v2/ck/tags/list?n=1000>; rel="next"', '<list?again>; rel="next"'):
        said = {
            "/tags/list": [200, {"Link": link}, "tags"],
            "/list?again": [200, {"Link": link}, "tags"],
            "/manifests/": [404, {}, "no"],
        }
        with registry({"tags": b'{"tags": ["tag"]}', "no": UNKNOWN}, **said) as store:
            assert list(store.archives()) == []


@pytest.mark.parametrize("length", ["", "x", "-", "-5", "1_0", "9" * 5000])
def test_an_object_without_a_size(bucket, length):
    store = bucket({"object": b""}, GET=[200, {"Content-Length": length}, "object"])
    with store, pytest.raises(StorageError):
        store.stat()


@pytest.mark.parametrize(
    "content_range", ["", "bytes 0-9", f"bytes {'9' * 5000}-9/*", "bytes 1-0/1", "bytes \u0660-9/10"]
)
def test_a_range_that_is_none(opened, content_range):
    said = [206, {"Content-Range": content_range}, "object"]
    with opened(said) as store, pytest.raises((StorageError, ArchiveError)):
        store.read_range(0, 10)


@pytest.mark.parametrize(
    "location", ["http://[", "//[x", "\udc80", "http://127.0.0.1:1/\u00e4", "ftp://x", "http://127.0.0.1:99999/", "", "/v2/ x"]
)  # fmt: skip
@pytest.mark.parametrize("page", [False, True])
def test_an_address_that_is_none(registry, location, page):
    if page:
        said = {
            "/tags/list": [200, {"Link": f'<{location}>; rel="next"'}, "tags"],
            "/manifests/": [404, {}, ""],
        }
    else:
        said = {"/manifests/": [307, {"Location": location}, ""]}
    with registry({"tags": b'{"tags": ["tag"]}'}, **said) as store:
        if page and location in ("", "/v2/ x"):
            return
        with pytest.raises(StorageError):
            list(store.archives()) if page else store.stat()


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_by_a_registry_s_store_of_blobs_is_not_the_login_s_fault(server, registry, status):
    """The registry's own login there is: the address that it gives has it."""
    said = {
        "/manifests/": [200, {}, "manifest"],
        "/blobs/": [307, {"Location": f"http://localhost:{server.port}/elsewhere?signature=sesame"}, ""],
        "/elsewhere": [status, {}, ""],
    }
    with registry({"manifest": manifest(5)}, **said) as store, pytest.raises(StorageDenied) as caught:
        store.read_range(0, 5)
    assert f"localhost:{server.port}" in caught.value.message
    assert "registry's login" in caught.value.hint
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize("digest", ["../../../other/ck/blobs/sha256:0", "sha256:0?x", "", 5])
def test_a_layer_of_another_name_is_none(registry, digest):
    """What is asked for with our login is a blob of the location's repository."""
    body = artifact.encoded(artifact.manifest([artifact.Layer(digest, 5)], None, {}))
    with (
        registry({"manifest": body}, **{"/manifests/": [200, {}, "manifest"]}) as store,
        pytest.raises(Corrupt),
    ):
        store.stat()


def test_an_upload_without_an_address_ends(registry):
    with registry(**{"/uploads/": [202, {}, ""]}) as store, pytest.raises(StorageError) as caught:
        store.check_writable()
    assert caught.value.reason == "BadLocation"


@pytest.mark.parametrize("encoding", ["gzip", "br", "Zstd"])
def test_a_body_that_was_compressed_on_its_way_is_no_damage(opened, encoding):
    """The archive at the server is whole: it is not to be removed, nor never to be tried again."""
    with (
        opened([206, {"Content-Encoding": encoding}, "object"]) as store,
        pytest.raises(StorageError) as caught,
    ):
        store.read_range(0, 10)
    assert caught.value.reason == "BadAnswer"


@pytest.mark.parametrize("status", [405, 411, 501])
def test_what_a_server_does_not_do_is_not_asked_for_again(opened, status):
    with opened([status, {}, ""]) as store, pytest.raises(StorageError) as caught:
        store.read_range(0, 5)
    assert not caught.value.retry
    assert caught.value.hint


DEEP, WIDE = b"[" * 90_000, b'{"layers": [' + b"{}," * 200_000 + b"{}]}"


@pytest.mark.parametrize(
    "body", [DEEP, WIDE, b"null", b'"x"', b'{"layers": 1}', b"\xff"], ids=["deep", "wide", *"1234"]
)
@pytest.mark.parametrize("what", ["manifest", "tags", "error", "token"])
def test_a_document_that_is_none(server, registry, what, body):
    said = {"/manifests/": [200, {}, "body"], "/tags/list": [200, {}, "body"], "/token": [200, {}, "body"]}
    if what == "error":
        said["/manifests/"] = [403, {}, "body"]
    if what == "token":
        realm = f'Bearer realm="http://127.0.0.1:{server.port}/token"'
        said["/manifests/"] = [401, {"WWW-Authenticate": realm}, ""]
    with registry({"body": body}, **said) as store, pytest.raises((StorageError, ArchiveError)):
        list(store.archives()) if what == "tags" else store.stat()


@pytest.mark.parametrize("what", ["manifest", "error", "token", "listing"])
def test_an_answer_without_end_costs_little(server, bucket, registry, what):
    realm = f'Bearer realm="http://127.0.0.1:{server.port}/token"'
    said = {
        "manifest": {"/manifests/": [200, {}, "body"]},
        "error": {"/manifests/": [403, {}, "body"]},
        "token": {"/token": [200, {}, "body"], "/manifests/": [401, {"WWW-Authenticate": realm}, ""]},
    }
    large = {"body": b" " * (8 * failures.ANSWER_BYTES)}
    if what == "listing":
        store, ask = bucket(large, **{"list-type": [200, {}, "body"]}), lambda: list(store.archives())
    else:
        store = registry(large, **said[what])
        ask = store.stat
    tracemalloc.start()
    try:
        with store, pytest.raises(StorageError) as caught:
            ask()
        cost = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.reason == ("LoginFailed" if what == "token" else "BadAnswer")
    # The server is in this process: it has a copy or two of what it sends.
    assert cost < 3 * len(large["body"])


def test_a_layer_is_not_fetched_whole_if_it_is_too_large(registry):
    parts = {"manifest": manifest(1 << 50), "layer": b"x"}
    store = registry(parts, **{"/manifests/": [200, {}, "manifest"], "/blobs/": [200, {}, "layer"]})
    with store, pytest.raises(StorageError, match="does not support ranges") as caught:
        store.read_range(0, 10)
    assert caught.value.reason == "NoRanges"


def test_whole_layers_that_are_kept_have_a_bound(monkeypatch):
    monkeypatch.setattr(layers, "_WHOLE_BYTES", 10)
    found = layers.Layers(None, [artifact.Layer(str(number), 4) for number in range(6)])
    monkeypatch.setattr(found, "_fetch_once", lambda _layer: bytearray(4))
    for number in range(6):
        found._read_whole(artifact.Layer(str(number), 4))
    assert len(found._whole) == 2


def test_an_archive_is_read_all_the_same(opened):
    with Archive.open(opened([206, {"ETag": '"1"'}, "object"])) as archive:
        assert archive.read("s") == noise(5000)


@pytest.mark.parametrize("status", [301, 302, 307, 400])
@pytest.mark.parametrize("region", ["", "x", "-", "a.b/c"])
def test_a_server_that_leads_elsewhere_for_ever(bucket, status, region):
    """Whoever asks a bucket where it is asks once: the answer may lead elsewhere again."""
    headers = {"Location": "/bucket/p/a.tar"} | ({"x-amz-bucket-region": region} if region else {})
    with bucket(GET=[status, headers, ""]) as store, pytest.raises(StorageError):
        store.stat()
    listing = {"list-type": [status, headers, ""], "HEAD": [status, headers, ""]}
    with bucket(**listing) as store, pytest.raises(StorageError):
        [*store.archives()]


@pytest.mark.parametrize(
    "link", ['</v2/ck/tags/list?last=a>; rel="next"', '<list?last=a>; rel="next"', '<?last=a>; rel="next"']
)
def test_the_next_page_of_tags_is_where_the_answer_says(registry, link):
    """Relative to the page, or to the server; also where a page has no tags."""
    said = {
        "last=a": [200, {}, "second"],
        "/tags/list": [200, {"Link": link}, "first"],
        "/manifests/": [200, {}, "manifest"],
    }
    parts = {"first": b'{"tags": null}', "second": b'{"tags": ["b"]}', "manifest": manifest(5)}
    with registry(parts, **said) as store:
        assert [one.location.rpartition(":")[2] for one in store.archives()] == ["b"]
