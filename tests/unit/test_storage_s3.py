"""S3 as far as it needs no server: what a location means, and who signs."""

import base64
import hashlib
import os
import zlib

import pytest
from servers.aws import AwsServices
from servers.quirks import Bucket, error
from servers.tls import issue

from dynamo_entry.errors import (
    CheckpointError,
    NotFound,
    SettingsError,
    StorageDenied,
    StorageError,
    StorageUnavailable,
)
from dynamo_entry.settings import Settings
from dynamo_entry.storage import Access, Retry
from dynamo_entry.storage import http as storage_http
from dynamo_entry.storage.s3 import S3Store, credentials, location, objects
from dynamo_entry.storage.s3.client import Client
from dynamo_entry.storage.s3.upload import Upload
from dynamo_entry.stores import open_store

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
        ("s3://MinIO:9000/bucket/a.tar", NAMED, "http://minio:9000", "bucket", "a.tar"),
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


@pytest.fixture
def services(monkeypatch):
    """botocore does not wait long for them."""
    for name, value in (("SLEEP_TIME", 0), ("RETRY_ATTEMPTS", 1), ("TIMEOUT_SECONDS", 0.2)):
        monkeypatch.setattr(f"botocore.utils.ContainerMetadataFetcher.{name}", value)
    server = AwsServices("key", "secret")
    yield server
    server.stop()


@pytest.fixture
def keyless(monkeypatch, tmp_path):
    """An environment in which boto3 finds nothing of the machine's."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def asked(limit_s=0.1):
    """What comes of asking a bucket that nobody serves."""
    with pytest.raises(CheckpointError) as caught:
        S3Store("s3+http://127.0.0.1:1/bucket/a.tar", Retry(limit_s, stall_s=0.2)).stat()
    return caught.value


@pytest.mark.parametrize(
    ("given", "how"),
    [
        *(
            (given, how)
            for given in (AwsServices.web_identity, AwsServices.container_role)
            for how in ("down", "silent", 500, 503, 429)
        ),
        *((AwsServices.web_identity, word) for word in ("Throttling", "IDPCommunicationError")),  # STS's own
    ],
)
def test_a_giver_of_credentials_that_cannot_now_is_asked_again(
    services, keyless, monkeypatch, tmp_path, given, how
):
    """It starts with its node, or hundreds of pods ask at once. Nothing that is said of it denies anything."""
    given(services, monkeypatch, tmp_path)
    if how == "down":
        services.stop()
    elif how == "silent":
        services.silent.set()
    else:
        services.refusal = (how, "Error") if isinstance(how, int) else (400, how)
    error = asked()
    assert (type(error), error.reason) == (StorageUnavailable, "CredentialsUnavailable")


def test_how_long_it_is_waited_for_is_the_stores_own_limit(services, keyless, monkeypatch, tmp_path):
    """botocore itself waits a minute for STS, and tries as often as its variable says, or five times."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "9")
    services.web_identity(monkeypatch, tmp_path)
    services.silent.set()
    asked()
    assert len(services.asked) <= 2


@pytest.mark.parametrize("said", ["null", "[]", '"x"', "5", "{", '{"Version": 1}', "[" * 50_000])
def test_a_giver_of_credentials_that_says_none_is_told(keyless, monkeypatch, tmp_path, said):
    """A program of the user's own that a profile names."""
    (tmp_path / "said").write_text(said)
    (tmp_path / "config").write_text(f"[profile p]\ncredential_process = cat {tmp_path}/said\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "p")
    error = asked()
    assert (type(error), error.reason) == (StorageDenied, "NoCredentials")


@pytest.mark.parametrize("given", [AwsServices.web_identity, AwsServices.container_role])
def test_a_creation_asks_a_giver_of_credentials_again_too(
    services, keyless, served, monkeypatch, tmp_path, given
):
    """Its engine has been ready for a while when the upload begins, and the store is opened anew then."""
    given(services, monkeypatch, tmp_path)
    services.refusal, answer = (503, "Error"), services.answer

    def once(request, body):
        try:
            return answer(request, body)
        finally:
            services.refusal = None

    services.answer = once
    store, _ = served(lambda *_: None)
    store.open_writer().abort()
    assert len(services.asked) > 1


def test_of_a_secret_a_profile_may_name_a_role_and_variables_may_not(services, keyless, served, tmp_path):
    """Its files are no environment, where alone boto3 reads the variables of a role."""
    store, _ = served(lambda *_: None)
    arn, token = "arn:aws:iam::123456789012:role/checkpoints", tmp_path / "token"
    token.write_text("a.signed.token")
    (tmp_path / "config").write_text(
        f"[profile p]\nrole_arn = {arn}\nweb_identity_token_file = {token}\nservices = here\n"
        f"[services here]\nsts =\n  endpoint_url = {services.url}\n"
    )
    profile = {"AWS_CONFIG_FILE": str(tmp_path / "config"), "AWS_PROFILE": "p"}
    S3Store(store.location, access=Access(variables=profile)).open_writer().abort()
    assert "AssumeRoleWithWebIdentity" in services.asked[0][1]
    role = {"AWS_ROLE_ARN": arn, "AWS_WEB_IDENTITY_TOKEN_FILE": str(token)}
    with pytest.raises(StorageDenied) as caught:
        S3Store(store.location, access=Access(variables=role)).stat()
    assert caught.value.reason == "NoCredentials"


@pytest.mark.parametrize("given", [AwsServices.web_identity, AwsServices.container_role])
@pytest.mark.parametrize("status", [400, 403, 404])
def test_a_giver_of_credentials_that_refuses_is_believed(
    services, keyless, monkeypatch, tmp_path, given, status
):
    given(services, monkeypatch, tmp_path)
    services.refusal = status, "AccessDenied"
    error = asked()
    assert (type(error), error.reason) == (StorageDenied, "NoCredentials")
    assert "role" in error.hint


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        (
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            "http://credentials.example.com/",
        ),  # botocore takes loopback alone
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "two\nlines"),
        ("AWS_PROFILE", "missing"),
        ("AWS_REGION", "no region!"),
    ],
)
def test_settings_that_botocore_does_not_take_are_an_error_of_the_users(
    services, keyless, monkeypatch, variable, value
):
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", services.url)
    monkeypatch.setenv(variable, value)
    error = asked()
    assert isinstance(error, (StorageDenied, SettingsError))
    assert not error.retry


def test_a_host_name_that_botocore_does_not_take_is_an_error_of_the_users(monkeypatch):
    """With an underscore, as some name services."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    with pytest.raises(SettingsError, match="my_minio"):
        S3Store("s3://my_minio:9000/bucket/a.tar")._client.call("HeadBucket")


def test_a_second_store_parses_no_documents_of_botocores(keyless, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    assert S3Store("s3://bucket/a.tar")._client._client()
    monkeypatch.setattr("botocore.loaders.JSONFileLoader.load_file", None)
    assert S3Store("s3://bucket/b.tar")._client._client()


@pytest.fixture
def keys(monkeypatch, keyless):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")


@pytest.fixture
def served():
    """``served(quirk)``: a store of a server that has it, with an archive in it, and the server."""
    servers = []

    def made(quirk, key="p/a.tar"):
        servers.append(Bucket(quirk))
        servers[-1].hold(f"/bucket/{key}", b"archive")
        return S3Store(f"s3+http://127.0.0.1:{servers[-1].port}/bucket/{key}", Retry(1, stall_s=1)), servers[
            -1
        ]

    yield made
    for server in servers:
        server.stop()


@pytest.mark.parametrize("is_renewed", [True, False])
def test_a_login_that_is_renewed_while_it_is_used(served, keyless, monkeypatch, tmp_path, is_renewed):
    """Whoever keeps the file of credentials writes it again before they expire, and botocore reads it once."""

    def login(name):
        file.write_text(
            f"[default]\naws_access_key_id={name}\naws_secret_access_key=x\naws_session_token={name}\n"
        )

    def quirk(_server, request):
        if request.access_key == "OLD":
            if is_renewed:
                login("NEW")
            return error(400, "ExpiredToken")
        return None

    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    login("OLD")
    store, server = served(quirk)
    used = store._client._client_and_session()[1]
    if is_renewed:
        assert bytes(store.read_range(0, 7)) == b"archive"
        assert store._client._has_newer_login(used), "a thread that comes later has the new ones, too"
    else:
        with pytest.raises(StorageDenied) as caught:
            store.read_range(0, 7)
        assert caught.value.reason == "ExpiredToken"
        assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "ExpiredToken"),
        (403, "InvalidAccessKeyId"),
        (403, "SignatureDoesNotMatch"),
        (403, "InvalidTokenId"),
    ],
)
def test_the_files_of_a_login_that_are_renewed_while_it_is_used(
    served, keyless, monkeypatch, tmp_path, status, code
):
    """A secret that is mounted changes under the directory's name, and what was in it before ends."""

    def login(name):
        for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            (tmp_path / variable).write_text(name)

    def quirk(_server, request):
        if request.access_key == "OLD":
            login("NEW")
            return error(status, code)
        assert request.token == "NEW"
        return None

    login("OLD")
    _, server = served(quirk)
    settings = Settings(credentials_dir=str(tmp_path), stall_timeout=2)
    with open_store(settings, f"s3+http://127.0.0.1:{server.port}/bucket/p/a.tar") as store:
        store.check_writable()
        assert bytes(store.read_range(0, 7)) == b"archive"
    assert {request.access_key for request in server.seen} == {"OLD", "NEW"}


@pytest.fixture(params=["obstore", "botocore"])
def signed(request, keys, monkeypatch):
    """Who signs the requests of a read: with a configuration file, botocore's client."""
    if request.param == "botocore":
        monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)


def broken(piece):
    """A server whose answers to reads break off after ``piece`` bytes."""

    def quirk(server, request):
        if request.method != "GET":
            return None
        status, data, headers = server.reply(request)
        told = {**headers, "Content-Length": str(len(data)), "Connection": "close"}
        return status, data[:piece], told

    return quirk


def test_a_read_goes_on_where_it_broke_off(served, signed):
    store, server = served(broken(3))
    assert bytes(store.read_range(0, 7)) == b"archive"
    assert [request.headers["Range"] for request in server.seen] == ["bytes=0-6", "bytes=3-6", "bytes=6-6"]


@pytest.mark.parametrize("read", [lambda store: store.read_range(0, 7), lambda store: store.read_end(7)])
def test_a_read_that_gets_nowhere_is_a_lost_connection(served, signed, read):
    store, server = served(broken(0))
    with pytest.raises(StorageUnavailable) as caught:
        read(store)
    assert caught.value.reason == "ConnectionLost"
    assert len(server.seen) > 1


def test_a_small_object_is_read_again(served, signed):
    """A claim, whose owner's upload is aborted by its content."""
    store, server = served(lambda server, request: broken(2 * len(server.seen) ** 2)(server, request))
    server.hold("/bucket/p/claim", b"upload")
    assert objects.get(store._client, "p/claim") == "upload"
    assert len(server.seen) == 2


@pytest.mark.parametrize("own", [{}, {"AWS_SESSION_TOKEN": "ours"}, {"AWS_SECURITY_TOKEN": "ours"}])
@pytest.mark.parametrize("theirs", ["AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN"])
def test_keys_of_a_secret_do_not_come_with_the_engine_s_token(
    served, signed, monkeypatch, tmp_path, own, theirs
):
    """The pod's environment may have the temporary keys by which the engine reads its model."""
    monkeypatch.setenv(theirs, "the engine's")
    for name, value in {"AWS_ACCESS_KEY_ID": "OURS", "AWS_SECRET_ACCESS_KEY": "x", **own}.items():
        (tmp_path / name).write_text(value)
    _, server = served(lambda *_: None)
    settings = Settings(credentials_dir=str(tmp_path), stall_timeout=2)
    with open_store(settings, f"s3+http://127.0.0.1:{server.port}/bucket/p/a.tar") as store:
        assert bytes(store.read_range(0, 7)) == b"archive"
    (request,) = server.seen
    assert (request.access_key, request.token) == ("OURS", "ours" if own else "")


@pytest.mark.parametrize("variable", ["AWS_PROFILE", "AWS_DEFAULT_PROFILE"])
@pytest.mark.parametrize("is_there", [True, False])
def test_keys_of_a_secret_need_no_profile(served, keyless, monkeypatch, tmp_path, variable, is_there):
    """The engine's may be in files that it makes, or has elsewhere; where it is there, it says the region, for example."""
    monkeypatch.setenv(variable, "engine")
    if is_there:
        (tmp_path / "config").write_text(
            "[profile engine]\nregion = eu-central-1\naws_access_key_id = THEIRS\n"
        )
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        (tmp_path / name).write_text("OURS")
    _, server = served(lambda *_: None)
    settings = Settings(credentials_dir=str(tmp_path), stall_timeout=2)
    with open_store(settings, f"s3+http://127.0.0.1:{server.port}/bucket/p/a.tar") as store:
        assert bytes(store.read_range(0, 7)) == b"archive"
    region = "eu-central-1" if is_there else "us-east-1"
    assert [
        request.headers["Authorization"].partition("Credential=OURS/")[2].split("/")[1]
        for request in server.seen
    ] == [region]


@pytest.mark.parametrize(
    "content",
    [
        b"[profile x\n",
        b"\xff\xfe\x00",
        b"[default]\ns3 =\n  addressing_style = x\n",
        b"[default]\nregion = a\n b!\n",
    ],
)
@pytest.mark.parametrize("has_keys", [True, False])
def test_a_configuration_that_cannot_be_used_is_told(
    served, keyless, monkeypatch, tmp_path, content, has_keys
):
    """In one line, which names the file or the value."""
    (tmp_path / "config").write_bytes(content)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY") if has_keys else ():
        monkeypatch.setenv(name, "x")
    store, _ = served(lambda *_: None)
    with pytest.raises((SettingsError, StorageDenied)) as caught:
        store.stat()
    assert caught.value.hint
    assert caught.value.message.isprintable()


def test_keys_of_the_environment_come_with_its_token(served, signed, monkeypatch):
    monkeypatch.setenv("AWS_SESSION_TOKEN", "theirs")
    store, server = served(lambda *_: None)
    assert bytes(store.read_range(0, 7)) == b"archive"
    assert server.seen[0].token == "theirs"


UNREADABLE = [
    (403, "InvalidObjectState", "The operation is not valid for the object's storage class"),
    (403, "AccessDenied", "User: x is not authorized to perform: kms:Decrypt on resource: y"),
    (400, "KMS.DisabledException", "The key is disabled"),
]


@pytest.mark.parametrize(("status", "code", "message"), UNREADABLE)
def test_what_cannot_be_read_can_be_deleted(served, keys, status, code, message):
    """In cold storage, or encrypted by a key that is not this login's."""
    store, server = served(
        lambda _, request: error(status, code, message) if request.method == "GET" else None
    )
    store.delete()
    assert server.objects == {}


def test_what_may_not_even_be_looked_at_is_not_deleted(served, keys):
    """Nobody knows whether it is there; the refusal of the read says most."""
    store, server = served(
        lambda _, request: error(403, "AccessDenied", "no") if request.method in ("GET", "HEAD") else None
    )
    with pytest.raises(StorageDenied) as caught:
        store.delete()
    assert caught.value.reason == "AccessDenied"
    assert "ListBucket" in caught.value.hint
    assert [request.method for request in server.seen][-1] == "HEAD"


def test_what_is_not_there_is_not_deleted(served, keys):
    store, server = served(lambda *_: None)
    server.objects.clear()
    with pytest.raises(NotFound):
        store.delete()
    assert not [request for request in server.seen if request.method == "DELETE"]


@pytest.mark.parametrize(
    "options",
    [
        {"Bucket": "x"},
        {"Key": "x"},
        {"Metadata": 5},
        {"Metadata": {"a": 5}},
        {"Metadata": {"a": "b\n"}},
        {"Nope": "x"},
    ],
)
def test_options_that_no_upload_takes_are_the_settings_fault(keys, served, options):
    _, server = served(lambda *_: None)
    location = f"s3+http://127.0.0.1:{server.port}/bucket/p/a.tar"
    with (
        open_store(Settings(storage_options=options), location) as store,
        pytest.raises(CheckpointError) as caught,
    ):
        store.check_writable()
    assert "STORAGE_OPTIONS" in str(caught.value)
    assert server.uploads == {}


def test_a_trial_is_taken_back_although_the_server_is_busy(served, keys):
    """Its part would stay in the bucket, one for every creation."""
    left = [(503, b"", {"Retry-After": "1"})]
    _, server = served(lambda _, request: left.pop() if request.method == "DELETE" and left else None)
    with S3Store(f"s3+http://127.0.0.1:{server.port}/bucket/a.tar", Retry(limit_s=4, stall_s=1)) as store:
        store.check_writable()
    assert (left, server.uploads) == ([], {})


@pytest.mark.parametrize("body", [b"", b"<html>welcome</html>", b"<R><UploadId></UploadId></R>"])
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_an_upload_whose_answers_lack_what_they_should_have(served, keys, method, body):
    """Neither a name nor a tag: a proxy, or a page, answers with 200."""
    store, _ = served(lambda _, request: (200, body) if request.method == method else None)
    with pytest.raises(StorageError) as caught:
        store.check_writable()
    assert caught.value.reason == "BadAnswer"


def test_a_list_of_parts_that_does_not_say_where_it_goes_on_ends(served, keys):
    moment = "2024-01-01T00:00:00Z"
    listed = (
        f"<R><Upload><Key>p/a.tar</Key><UploadId>u</UploadId><Initiated>{moment}</Initiated></Upload></R>"
    )
    parts = f"<R><IsTruncated>true</IsTruncated><Part><Size>5</Size><LastModified>{moment}</LastModified></Part></R>"

    def quirk(_server, request):
        if request.method != "GET":
            return None
        answer = listed if "uploads" in request.query else parts if "uploadId" in request.query else "<R/>"
        return 200, answer.encode()

    store, _ = served(quirk)
    assert [left.size for left in store.leftovers()] == [5]


def test_a_completion_may_answer_as_slowly_as_it_works(served, keys, monkeypatch):
    """AWS and MinIO begin their answer at once, and send blanks until the object is put together. Of others, no drips."""
    monkeypatch.setattr(storage_http, "_STALLS", 1e-9)
    store, server = served(lambda *_: None)
    upload = Upload(store._client, "p/a.tar")
    sent = upload.put_part(1, memoryview(b"part"))
    monkeypatch.setattr(storage_http, "_LEAST_BYTES_PER_S", 1 << 60)
    upload.complete([sent], conditional=False)
    assert server.objects["/bucket/p/a.tar"] == b"part"
    with pytest.raises(StorageUnavailable, match=r"GetObject was too slow: [0-9]+ bytes in 0 s"):
        store.stat()


def test_a_trial_leaves_nothing_where_uploads_are_refused(served, keys):
    store, server = served(
        lambda _, request: error(403, "AccessDenied") if "uploads" in request.query else None
    )
    store._publisher.prepare()
    assert server.objects.keys() == {"/bucket/p/a.tar"}
    assert [request.method for request in server.seen] == ["PUT", "POST", "DELETE"]


def test_the_upload_of_a_trial_that_was_killed_is_a_leftover(served, keys):
    name = f"p/a.tar.probe-{'0' * 16}"
    moment = "2024-01-01T00:00:00Z"
    listed = (
        f"<R><Upload><Key>{name}</Key><UploadId>u</UploadId><Initiated>{moment}</Initiated></Upload>"
        f"<Upload><Key>p/else</Key><UploadId>u</UploadId><Initiated>{moment}</Initiated></Upload></R>"
    )

    def quirk(_server, request):
        return (
            None
            if request.method != "GET"
            else (200, listed.encode() if "uploads" in request.query else b"<R/>")
        )

    store, _ = served(quirk)
    assert [left.name for left in store.leftovers()] == [f"{name}?uploadId=u"]


@pytest.mark.parametrize(("chosen", "is_signed"), [("", True), ("payload_signing_enabled = false", False)])
def test_the_signature_covers_a_body_without_tls_unless_the_configuration_says_otherwise(
    served, keys, monkeypatch, tmp_path, chosen, is_signed
):
    (tmp_path / "config").write_text(f"[default]\ns3 =\n  addressing_style = path\n  {chosen}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    signed = []
    store, _ = served(
        lambda _, request: (
            signed.append(request.headers["x-amz-content-sha256"] != "UNSIGNED-PAYLOAD")
            if request.method == "PUT"
            else None
        )
    )
    store.check_writable()
    assert signed == [is_signed]


def test_what_a_bucket_asks_of_parts_is_found_before_the_engine_starts(served, keys, monkeypatch):
    """An upload may be begun; its parts are what a bucket with locked objects, or a customer's key, refuses. AWS's, too."""
    words = "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Part requests with Object Lock parameters"
    store, server = served(
        lambda _, request: error(400, "InvalidRequest", words) if request.method == "PUT" else None
    )
    monkeypatch.setattr(Client, "is_aws", True)
    with pytest.raises(StorageError) as caught:
        store.check_writable()
    assert "AWS_REQUEST_CHECKSUM_CALCULATION" in caught.value.hint
    assert server.uploads == {}


def unchunked(body):
    """The content of a body in AWS's chunks, and the value of its trailer."""
    content = b""
    while size := int(body[: body.index(b"\r\n")], 16):
        start = body.index(b"\r\n") + 2
        content += body[start : start + size]
        body = body[start + size + 2 :]
    return content, body.partition(b":")[2].strip().decode()


def checking(algorithm, checksum):
    """A server that goes by AWS's rules: checksums are told when an upload begins, with each part, and once more at the end."""
    header, tag = f"x-amz-checksum-{algorithm.lower()}", f"Checksum{algorithm}"
    seen = {}

    def quirk(server, request):
        upload = request.query.get("uploadId", [""])[0]
        if "uploads" in request.query:
            is_told = request.headers["x-amz-checksum-algorithm"] == algorithm
            return None if is_told else error(400, "InvalidRequest", "the upload begins without an algorithm")
        if "partNumber" in request.query:
            content, given = request.body, request.headers[header]
            if request.headers["X-Amz-Trailer"] == header:
                content, given = unchunked(request.body)
            if request.headers["Transfer-Encoding"] or given != checksum(content):
                return error(400, "InvalidRequest", "a part without its checksum")
            seen.setdefault(upload, []).append(f"<{tag}>{given}</{tag}>".encode())
            status, document, headers = server.reply(request._replace(body=content))
            return status, document, headers | {header: given}
        if request.completes and not all(one in request.body for one in seen[upload]):
            return error(400, "InvalidPart")
        return None

    return quirk


CHECKSUMS = {
    "CRC32": lambda data: zlib.crc32(data).to_bytes(4, "big"),
    "SHA256": lambda data: hashlib.sha256(data).digest(),
}


@pytest.mark.parametrize("is_secure", [False, True])
@pytest.mark.parametrize(
    ("algorithm", "options"), [("CRC32", {}), ("SHA256", {"ChecksumAlgorithm": "SHA256"})]
)
def test_parts_have_checksums_where_they_are_asked_for(
    tmp_path, keys, monkeypatch, algorithm, options, is_secure
):
    """By the variable that the hint names, or by an option."""
    if not options:
        monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_supported")
    monkeypatch.setattr("dynamo_entry.storage.s3.writer.SMALLEST_PART", 1 << 20)
    certificate = issue(tmp_path) if is_secure else None
    server = Bucket(
        checking(algorithm, lambda data: base64.b64encode(CHECKSUMS[algorithm](data)).decode()), certificate
    )
    place = f"{'s3' if is_secure else 's3+http'}://127.0.0.1:{server.port}/bucket/p/a.tar"
    access = Access(str(certificate.ca) if certificate else "", options=options)
    content = os.urandom(5 << 19)
    try:
        with S3Store(place, Retry(1, stall_s=5), access) as store:
            store.check_writable()
            writer = store.open_writer()
            writer.append(content)
            writer.commit()
    finally:
        server.stop()
    assert server.objects["/bucket/p/a.tar"] == content


@pytest.mark.parametrize(
    ("name", "is_trusted"),
    [("AWS_ENDPOINT_URL_STS", True), ("AWS_ENDPOINT_URL", True), ("AWS_REGION", False)],
)
def test_a_private_authority_is_trusted_where_credentials_come_from_a_server_of_one_s_own(
    keyless, name, is_trusted
):
    """MinIO and Ceph give them out themselves; AWS's service has no private certificate."""
    made = credentials.session({name: "https://minio.example.com"}, {}, 1, "/ca.pem")
    assert (made.get_config_variable("ca_bundle") == "/ca.pem") is is_trusted
