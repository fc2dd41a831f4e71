"""A restore's reads are signed by obstore where the environment says all, and made by botocore's client everywhere else."""

import os
import subprocess
import sys

import pytest
from servers.aws import AwsServices
from servers.quirks import Bucket, error

from dynamo_entry.errors import NotFound, StorageDenied, StorageError, StorageUnavailable
from dynamo_entry.storage import Access, Retry
from dynamo_entry.storage.http import Connections
from dynamo_entry.storage.s3 import S3Store
from dynamo_entry.storage.s3.location import Location
from dynamo_entry.storage.s3.presigned import PresignedReads

DATA = bytes(range(256))


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    """Keys, and nothing of the machine's."""
    for name in [name for name in os.environ if name.startswith("AWS_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "KEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "sesame")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def bucket():
    server = Bucket()
    server.hold("/bucket/p/a b.tar", DATA)
    yield server
    server.stop()


@pytest.fixture
def role(monkeypatch, tmp_path):
    """The pod has a container's role, and no keys."""
    services = AwsServices("ROLE", "x")
    services.container_role(monkeypatch, tmp_path)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    yield services
    services.stop()


def store(bucket, access=None, key="p/a b.tar"):
    return S3Store(f"s3+http://127.0.0.1:{bucket.port}/bucket/{key}", Retry(2, stall_s=1), access or Access())


def test_a_restore_reads_without_botocore(bucket):
    """It would take longer to load than the first reads take."""
    script = (
        "import sys; from dynamo_entry.storage.s3 import S3Store;"
        f"store = S3Store('s3+http://127.0.0.1:{bucket.port}/bucket/p/a b.tar');"
        "assert store.stat().size == len(store.read_range(0, 256)) == 256;"
        "store.close(); print(*sorted({'botocore', 'urllib3', 'tenacity'} & {*sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("", "")
    assert [request.is_presigned for request in bucket.seen] == [True, True]


@pytest.mark.parametrize(
    "answer",
    [error(403, "AccessDenied"), error(404, "NoSuchKey"), error(400, "InvalidRequest"), (301, b"")],
    ids=str,
)
def test_whoever_does_not_take_a_signed_url_gets_a_signed_header(bucket, answer):
    """It is tried once. The node's clock may be wrong, or a policy may forbid signed URLs."""
    bucket.quirk = lambda _, request: answer if request.is_presigned else None
    reader = store(bucket)
    for _ in range(3):
        assert bytes(reader.read_range(0, 7)) == DATA[:7]
    assert [request.is_presigned for request in bucket.seen] == [True, False, False, False]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (error(403, "AccessDenied", "because"), StorageDenied),
        (error(404, "NoSuchKey"), NotFound),
        (error(404, "NoSuchBucket"), StorageDenied),
        (error(503, "SlowDown"), StorageUnavailable),
        ((200, DATA), StorageError),
    ],
)  # fmt: skip
def test_no_failure_shows_a_secret(bucket, answer, kind):
    bucket.quirk = lambda *_: answer
    with pytest.raises(StorageError) as caught:
        store(bucket).read_range(3, 7)
    assert type(caught.value) is kind
    for secret in ("sesame", "X-Amz-Signature"):
        assert secret not in f"{caught.value!r} {caught.value.__cause__!r}"


def test_a_signed_url_is_of_use_for_a_minute(bucket):
    """Who ends TLS in front of a store may log it."""
    store(bucket).read_range(0, 7)
    assert bucket.seen[0].query["X-Amz-Expires"] == ["60"]


def test_the_location_s_host_is_asked_and_no_other(bucket, monkeypatch):
    """obstore has variables of its own."""
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT", "AWS_ENDPOINT_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "true")
    assert bytes(store(bucket).read_range(0, 7)) == DATA[:7]
    assert [(request.access_key, request.is_presigned) for request in bucket.seen] == [("KEY", True)]


@pytest.mark.parametrize("name", ["AWS_SESSION_TOKEN", "AWS_TOKEN"])
def test_keys_of_a_secret_do_not_come_with_a_token_that_obstore_finds(bucket, monkeypatch, name):
    monkeypatch.setenv(name, "theirs")
    access = Access(variables={"AWS_ACCESS_KEY_ID": "OURS", "AWS_SECRET_ACCESS_KEY": "x"})
    assert bytes(store(bucket, access).read_range(0, 7)) == DATA[:7]
    assert [(request.access_key, request.token) for request in bucket.seen] == [("OURS", "")]


@pytest.mark.parametrize(
    "key",
    ["/a.tar", "//a.tar", "p//a.tar", "./a.tar", "p/../a.tar", "ü+%41~'(*)/a.tar", "a?versionId=b", "a#b"],
)
def test_the_object_of_this_key_is_read_and_no_other(bucket, key):
    """obstore has rules for paths; S3 has none."""
    bucket.hold("/bucket/a.tar", b"another's archive")
    bucket.hold(f"/bucket/{key}", DATA)
    assert bytes(store(bucket, key=key).read_range(0, 7)) == DATA[:7]


@pytest.mark.parametrize("name", ["AWS_ENDPOINT", "AWS_BUCKET", "AWS_VIRTUAL_HOSTED_STYLE_REQUEST"])
def test_aws_is_asked_whatever_obstore_finds(monkeypatch, name):
    """The first is a variable of obstore's alone: another server, where not even the bucket would be named."""
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert signed() == "https://bucket.s3.eu-central-1.amazonaws.com/p/a.tar"


def test_keys_that_are_empty_are_none(bucket, role, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "")
    assert bytes(store(bucket).read_range(0, 7)) == DATA[:7]
    assert [request.access_key for request in bucket.seen] == ["ROLE"]


def signed(endpoint="", bucket="bucket", **environ):
    """The URL that is signed, if one is."""
    given = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "eu-central-1", **environ}
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        given.setdefault(name, "/nonexistent")
    connections = Connections(stall_s=1, ca_file="")
    place = Location(endpoint, bucket, "p/a.tar")
    return PresignedReads(place, "it", connections, given)._signed().partition("?")[0]


def test_the_address():
    assert signed() == "https://bucket.s3.eu-central-1.amazonaws.com/p/a.tar"
    assert signed("https://minio:9000/s3") == "https://minio:9000/s3/bucket/p/a.tar"
    assert signed("http://minio", bucket="my.bucket", AWS_REGION="") == "http://minio/my.bucket/p/a.tar"


@pytest.mark.parametrize(
    "more",
    [
        {"AWS_PROFILE": "ours"}, {"AWS_DEFAULT_PROFILE": "ours"}, {"AWS_CONFIG_FILE": os.devnull},
        {"AWS_SHARED_CREDENTIALS_FILE": os.devnull}, {"AWS_SECRET_ACCESS_KEY": ""},
        {"AWS_REGION": ""}, {"AWS_REGION": "cn-north-1"}, {"bucket": "my.bucket"}, {"AWS_USE_FIPS_ENDPOINT": "true"},
        {"bucket": "a--use1-az4--x-s3"},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_left_to_botocore(more, monkeypatch):
    """Its files, its services, its rules: a profile's keys win over the environment's, for example."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setattr("obstore.store.S3Store", lambda *_, **__: pytest.fail("it is left to obstore"))
    assert signed(**more) == ""


class Panic(BaseException):
    """How those of obstore's are raised, where no thread can be had, for example."""


def test_a_panic_of_obstores_is_a_failure_like_others(bucket, monkeypatch):
    """It would end the thread that reads."""

    def panic(*_, **__):
        raise Panic

    monkeypatch.setattr("obstore.store.S3Store", panic)
    assert bytes(store(bucket).read_range(0, 7)) == DATA[:7]
    assert [request.is_presigned for request in bucket.seen] == [False]
