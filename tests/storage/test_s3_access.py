"""Who may do what in a bucket, and how that is found out."""

import pytest
from store_contract import publish

from conftest import RETRY, let_read
from dynamo_entry.errors import NotFound, StorageDenied
from dynamo_entry.storage.s3 import S3Store


@pytest.fixture
def as_reader(reader, bucket, monkeypatch):
    """The store of a location that the test may only read from now on."""
    location = f"s3+http://{bucket}/models/a.tar"
    let_read(bucket)

    def become():
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", reader[0])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", reader[1])
        return S3Store(location, RETRY)

    become.location = location
    return become


def test_whoever_may_read_can_read(as_reader):
    publish(S3Store(as_reader.location), b"content")
    store = as_reader()
    assert store.stat().size == 7
    assert bytes(store.read_range(3, 4)) == b"tent"


def test_that_it_cannot_be_written_is_said_before_anything_is(as_reader):
    """Absence is seen, and is no promise that there may be an object."""
    store = as_reader()
    with pytest.raises(NotFound):
        store.stat()
    with pytest.raises(StorageDenied) as caught:
        store.check_writable()
    error = caught.value
    assert (error.status, error.reason) == (403, "AccessDenied")
    assert "CreateMultipartUpload" in error.message
    assert "PutObject" in error.hint
    assert error.request_id
