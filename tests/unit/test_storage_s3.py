"""S3 as far as it needs no server: what a location means, and how requests are signed."""

import pytest

from dynamo_entry.errors import SettingsError
from dynamo_entry.storage.http import Server
from dynamo_entry.storage.s3 import location, signing
from dynamo_entry.storage.s3.credentials import Credentials

MINIO = Server("https", "minio.example.com", 443)
NAMED = {"AWS_ENDPOINT_URL": "http://minio:9000"}


@pytest.mark.parametrize(
    ("url", "environ", "endpoint", "bucket", "key"),
    [
        ("s3://bucket/a.tar", {}, None, "bucket", "a.tar"),
        ("s3://bucket/some/prefix/a.tar", {}, None, "bucket", "some/prefix/a.tar"),
        ("s3://my.bucket/a.tar", {}, None, "my.bucket", "a.tar"),
        ("s3://minio.example.com/bucket/a.tar", {}, MINIO, "bucket", "a.tar"),
        ("s3://minio.example.com:9000/bucket/p/a.tar", {}, MINIO._replace(port=9000), "bucket", "p/a.tar"),
        ("s3://minio:9000/bucket/a.tar", {}, Server("https", "minio", 9000), "bucket", "a.tar"),
        ("s3://localhost/bucket/a.tar", {}, Server("https", "localhost", 443), "bucket", "a.tar"),
        ("s3+http://10.0.0.1:80/bucket/a.tar", {}, Server("http", "10.0.0.1", 80), "bucket", "a.tar"),
        ("s3://bucket/a.tar", NAMED, Server("http", "minio", 9000), "bucket", "a.tar"),
        ("s3://my.bucket/p/a.tar", NAMED, Server("http", "minio", 9000), "my.bucket", "p/a.tar"),
        ("s3://minio/bucket/a.tar", NAMED, Server("http", "minio", 9000), "bucket", "a.tar"),
        ("s3://other:9000/bucket/a.tar", NAMED, Server("https", "other", 9000), "bucket", "a.tar"),
        ("s3://bucket/a.tar", {**NAMED, "AWS_ENDPOINT_URL_S3": "https://minio.example.com"}, MINIO, "bucket", "a.tar"),
    ],
)  # fmt: skip
def test_what_a_location_means(url, environ, endpoint, bucket, key):
    """The table of docs/storage.md."""
    assert location.parse(url, environ) == (endpoint, bucket, key)


@pytest.mark.parametrize(
    "url", ["s3://", "s3://bucket", "s3://bucket/", "s3://bucket/prefix/", "s3:///a.tar", "s3://b!/a.tar"]
)
def test_a_location_that_means_nothing_is_refused(url):
    with pytest.raises(SettingsError, match="names no"):
        location.parse(url, {})


def test_an_endpoint_that_is_no_url_is_refused():
    with pytest.raises(SettingsError, match="minio:9000"):
        location.parse("s3://bucket/a.tar", {"AWS_ENDPOINT_URL": "minio:9000"})


def test_the_signature_is_the_documented_one():
    """The example "GET Object" of the page that signing.py names."""
    added = signing.sign(
        "GET", "/test.txt", "", {"Host": "examplebucket.s3.amazonaws.com", "Range": "bytes=0-9"}, signing.EMPTY,
        credentials=Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
        region="us-east-1", now=1369353600,
    )  # fmt: skip
    assert added["x-amz-date"] == "20130524T000000Z"
    assert added["Authorization"].endswith(
        "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    )
