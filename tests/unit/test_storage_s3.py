"""S3 as far as it needs no server: what a location means."""

import pytest

from dynamo_entry.errors import SettingsError
from dynamo_entry.storage.s3 import location

MINIO = "https://minio.example.com"
NAMED = {"AWS_ENDPOINT_URL": "http://minio:9000"}


@pytest.mark.parametrize(
    ("url", "environ", "endpoint", "bucket", "key"),
    [
        ("s3://bucket/a.tar", {}, "", "bucket", "a.tar"),
        ("s3://bucket/some/prefix/a.tar", {}, "", "bucket", "some/prefix/a.tar"),
        ("s3://my.bucket/a.tar", {}, "", "my.bucket", "a.tar"),
        ("s3://minio.example.com/bucket/a.tar", {}, MINIO, "bucket", "a.tar"),
        ("s3://minio.example.com:9000/bucket/p/a.tar", {}, f"{MINIO}:9000", "bucket", "p/a.tar"),
        ("s3://minio:9000/bucket/a.tar", {}, "https://minio:9000", "bucket", "a.tar"),
        ("s3://localhost/bucket/a.tar", {}, "https://localhost", "bucket", "a.tar"),
        ("s3+http://10.0.0.1:80/bucket/a.tar", {}, "http://10.0.0.1:80", "bucket", "a.tar"),
        ("s3://bucket/a.tar", NAMED, "http://minio:9000", "bucket", "a.tar"),
        ("s3://my.bucket/p/a.tar", NAMED, "http://minio:9000", "my.bucket", "p/a.tar"),
        ("s3://minio/bucket/a.tar", NAMED, "http://minio:9000", "bucket", "a.tar"),
        ("s3://other:9000/bucket/a.tar", NAMED, "https://other:9000", "bucket", "a.tar"),
        ("s3://bucket/a.tar", {"AWS_ENDPOINT_URL": "http://minio:9000/s3/"}, "http://minio:9000/s3", "bucket", "a.tar"),
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
