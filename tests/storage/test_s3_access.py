"""Who may do what in a bucket, and how that is found out."""

import pytest
from servers.aws import AwsServices
from servers.s3 import ACCESS_KEY, SECRET_KEY
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


@pytest.fixture
def services():
    server = AwsServices(ACCESS_KEY, SECRET_KEY)
    yield server
    server.stop()


@pytest.fixture
def keyless(monkeypatch):
    """An environment without keys: boto3's chain looks further."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)


def instance_role(services, monkeypatch, _tmp_path):
    """What an EC2 instance with a role finds."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", services.url)


def profile(_services, monkeypatch, tmp_path):
    """A profile of the shared files, which are mounted."""
    (tmp_path / "credentials").write_text(
        f"[ours]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
    )
    (tmp_path / "config").write_text("[profile ours]\nregion = eu-central-1\n")
    monkeypatch.setenv("AWS_PROFILE", "ours")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))


@pytest.mark.parametrize(
    "given", [AwsServices.web_identity, AwsServices.container_role, instance_role, profile]
)
def test_credentials_are_found_as_boto3_finds_them(bucket, services, keyless, monkeypatch, tmp_path, given):
    given(services, monkeypatch, tmp_path)
    store = S3Store(f"s3+http://{bucket}/models/a.tar", RETRY)
    publish(store, b"content")
    assert bytes(store.read_range(0, 7)) == b"content"
    assert bool(services.asked) == (given is not profile)


def test_a_role_s_credentials_are_renewed_before_they_expire(
    bucket, services, keyless, monkeypatch, tmp_path
):
    """A creation may wait for its engine for longer than they last."""
    services.web_identity(monkeypatch, tmp_path)
    services.life_s = 60
    store = S3Store(f"s3+http://{bucket}/models/a.tar", RETRY)
    publish(store, b"content")
    asked = len(services.asked)
    assert asked
    assert "a.signed.token" in services.asked[0][1]
    store.stat()
    assert len(services.asked) > asked


def test_no_credentials_at_all_are_denied_with_what_to_do(bucket, keyless):
    with pytest.raises(StorageDenied, match="CREDENTIALS_DIR") as caught:
        S3Store(f"s3+http://{bucket}/models/a.tar", RETRY).stat()
    assert caught.value.reason == "NoCredentials"
