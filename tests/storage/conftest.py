"""Real servers, started once; every test has a bucket of its own."""

import json
import shutil
import sys
import uuid
from pathlib import Path

import pytest
from buckets import RETRY  # noqa: F401 - for the tests
from servers.clouds import Azure, Google, has_azure, has_google
from servers.s3 import ACCESS_KEY, SECRET_KEY, Rclone, Rgw
from servers.wire import Wire

from dynamo_entry.storage.s3 import S3Store


@pytest.fixture(scope="session")
def rgw(tmp_path_factory):
    if shutil.which("radosgw") is None:
        pytest.skip("needs Ceph's RADOS Gateway: tests/support/servers/install")
    server = Rgw(tmp_path_factory.mktemp("rgw"))
    yield server
    server.stop()


@pytest.fixture
def wire(rgw):
    """The way to Ceph's gateway, which can be broken."""
    relay = Wire(rgw.port)
    yield relay
    relay.stop()


@pytest.fixture(scope="session")
def rclone(tmp_path_factory):
    if not Path(sys.executable).with_name("rclone").exists():
        pytest.skip("needs rclone: tests/support/servers/install")
    server = Rclone(tmp_path_factory.mktemp("rclone") / "data")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def google(tmp_path_factory):
    if not has_google():
        pytest.skip("needs gcsfs and fake-gcs-server: tests/support/servers/install")
    server = Google(tmp_path_factory.mktemp("google"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def azure(tmp_path_factory):
    if not has_azure():
        pytest.skip("needs adlfs and Azurite: tests/support/servers/install")
    server = Azure(tmp_path_factory.mktemp("azure"))
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def s3_environment(monkeypatch, tmp_path):
    """The test user's keys, and nothing of the machine's own configuration."""
    for name in (
        "AWS_PROFILE",
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_S3",
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def new_bucket(port):
    """``host:port/bucket`` of a bucket made just now."""
    place = f"127.0.0.1:{port}/test-{uuid.uuid4().hex[:12]}"
    S3Store(f"s3+http://{place}/x")._client.call("CreateBucket")
    return place


@pytest.fixture
def bucket(rgw):
    """A bucket of Ceph's, over plain http."""
    return new_bucket(rgw.port)


@pytest.fixture(params=["rgw", "rclone"])
def any_bucket(request):
    """A bucket on each server."""
    return new_bucket(request.getfixturevalue(request.param).port)


@pytest.fixture(scope="session")
def reader(rgw):
    """Access key and secret key of a user who may do nothing before ``let_read``."""
    keys = ("readeraccess", "readersecret")
    rgw.add_user("reader", *keys)
    return keys


def let_read(bucket):
    """Allow the reader what a pod needs that only restores."""
    name = bucket.partition("/")[2]
    statement = {
        "Effect": "Allow", "Principal": {"AWS": ["arn:aws:iam:::user/reader"]},
        "Action": ["s3:GetObject", "s3:ListBucket"],
        "Resource": [f"arn:aws:s3:::{name}", f"arn:aws:s3:::{name}/*"],
    }  # fmt: skip
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    client = S3Store(f"s3+http://{bucket}/x")._client
    client.call("PutBucketPolicy", Policy=policy)
