"""Locations that only fsspec knows keep the contract of every store: here those that need no server."""

import gc
import json
import os
import subprocess
import sys
import uuid
from types import SimpleNamespace
from typing import ClassVar

import fsspec
import pytest
from answers import Answers
from fsspec.implementations.memory import MemoryFileSystem
from store_contract import StoreContract, publish

from dynamo_entry.errors import (
    Corrupt,
    NotFound,
    SettingsError,
    StorageDenied,
    StorageError,
    StorageUnavailable,
)
from dynamo_entry.settings import PREFIX, Settings, from_environment
from dynamo_entry.storage import Access, Leftover, Retry, open_store
from dynamo_entry.storage.fsspec import failures, filesystems
from dynamo_entry.storage.fsspec.writers import ObjectWriter
from dynamo_entry.stores import open_store as open_with_settings

RETRY = Retry(limit_s=1, stall_s=0.3)


@pytest.fixture(params=["memory", "file"])
def again(request, tmp_path):
    base = f"memory://{uuid.uuid4().hex}" if request.param == "memory" else f"file://{tmp_path}/d"
    return lambda name="a b+c[1].tar": open_store(f"{base}/{name}", RETRY, through_fsspec=True)


@pytest.fixture
def store(again):
    return again()


class TestContract(StoreContract):
    pass


def test_an_exception_leaves_nothing(store, again):
    """Neither at the location nor beside it, and what was there stays."""
    first = publish(store, b"first")
    writer = again().open_writer(replace=True)
    writer.append(b"half of the sec")
    writer.abort()
    assert again().stat() == first
    assert list(store.leftovers()) == []


def test_leftovers_of_killed_creators_are_found_and_removed(store, again):
    """Those of every archive in the directory; archives are none."""
    publish(store, b"x")
    writer = again("other.tar").open_writer()
    writer.append(b"half")
    writer._file.close()  # what a kill leaves
    (left,) = store.leftovers()
    assert left.name.startswith(".other.tar.")
    assert left.size == 4
    assert 0 <= left.age_s < 60
    store.remove_leftover(left)
    assert list(store.leftovers()) == []
    assert bytes(again().read_range(0, 1)) == b"x"


def test_an_archive_is_no_leftover(store):
    publish(store, b"x")
    with pytest.raises(StorageError):
        store.remove_leftover(Leftover("a b+c[1].tar", 1, 1e9))


def test_archives_beside_it_are_listed_by_locations_that_can_be_opened(store, again):
    publish(store, b"x")
    publish(again("b.tar"), b"yz")
    publish(again("notes.txt"), b"no archive")
    found = sorted(store.archives())
    assert [one.size for one in found] == [1, 2]
    for one in found:
        assert one.age_s < 60
        assert open_store(one.location, RETRY, through_fsspec=True).stat().size == one.size


def test_races_of_creators_are_told(store):
    """The creator logs this sentence once."""
    assert "exclusive" in store.not_exclusive


def test_the_location_s_type_follows_from_its_scheme():
    for location, kind in {"gs://b/a.tar": "gcs", "gcs://b/a.tar": "gcs", "az://c/a.tar": "azure",
                           "abfs://c@account.dfs.core.windows.net/a.tar": "azure", "hf://x/a.tar": "fsspec",
                           "file:///a.tar": "pvc", "s3://b/a.tar": "s3"}.items():  # fmt: skip
        variables = {PREFIX + "LOCATION": location, PREFIX + "HASH": "h"}
        assert from_environment({**variables, PREFIX + "STORAGE_TYPE": kind}).location
        with pytest.raises(SettingsError):
            from_environment({**variables, PREFIX + "STORAGE_TYPE": "oci"})


def test_a_directory_is_completed_by_the_hash():
    given = {PREFIX + "LOCATION": "gs://bucket/prefix/", PREFIX + "HASH": "d936"}
    assert from_environment(given).location == "gs://bucket/prefix/d936.tar"


def test_fsspec_may_be_asked_for_any_scheme(tmp_path):
    given = {PREFIX + "STORAGE_TYPE": "fsspec", PREFIX + "LOCATION": f"file://{tmp_path}/a.tar"}
    settings = from_environment(given)
    assert settings.location == f"file://{tmp_path}/a.tar"
    assert open_with_settings(settings, settings.location).not_exclusive
    assert not open_with_settings(settings, str(tmp_path / "copy.tar")).not_exclusive


@pytest.mark.parametrize("text", ["{", "[]", '"secret"'])
def test_options_are_a_json_object_and_not_shown(text):
    with pytest.raises(SettingsError, match="STORAGE_OPTIONS: ") as caught:
        from_environment({PREFIX + "STORAGE_OPTIONS": text + "secret"})
    assert "secret" not in str(caught.value)


def test_options_reach_the_library_as_they_are():
    given = {PREFIX + "STORAGE_OPTIONS": '{"global_store": false}', PREFIX + "LOCATION": "memory://own/a.tar"}
    settings = from_environment(given)
    store = open_with_settings(settings, settings.location)
    publish(store, b"x")
    assert "/own/a.tar" not in MemoryFileSystem.store
    with pytest.raises(NotFound):
        open_store("memory://own/a.tar").stat()


def test_an_option_that_the_library_does_not_take_is_told():
    class Strict(MemoryFileSystem):
        protocol = "strict"

        def __init__(self, wanted=0):
            super().__init__()

    fsspec.register_implementation("strict", Strict, clobber=True)
    with pytest.raises(SettingsError, match="unwanted"):
        open_store("strict://d/a.tar", RETRY, Access(options={"unwanted": 1})).stat()


@pytest.mark.parametrize("location", ["s4://bucket/a.tar", "simplecache::memory://d/a.tar", "://a.tar"])
def test_a_scheme_that_nobody_knows_is_refused(location):
    with pytest.raises(SettingsError, match="no storage backend"):
        open_store(location)


@pytest.mark.parametrize("scheme", ["s3", "oci", "sftp", "https"])
@pytest.mark.parametrize("odd", ["a\r\nX: y", "\udc80", "\x1b[2J"])
def test_a_location_that_cannot_be_printed_is_refused(scheme, odd):
    """It would get into requests and logs. A volume may have such names."""
    with pytest.raises(SettingsError) as caught:
        open_store(f"{scheme}://host/{odd}.tar", RETRY)
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("scheme", ["sftp", "s3", "s3+http", "oci", "oci+http", "az", "unknown"])
@pytest.mark.parametrize("user", ["me", ""])
def test_a_password_in_a_location_is_refused_without_showing_it(scheme, user):
    with pytest.raises(SettingsError, match="password") as caught:
        open_store(f"{scheme}://{user}:sesame@host/bucket/a.tar")
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize(
    ("scheme", "extra"), [("gs", "gcs"), ("gcs", "gcs"), ("az", "azure"), ("abfs", "azure")]
)
def test_a_missing_package_is_told_with_its_extra(scheme, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    monkeypatch.setitem(sys.modules, "adlfs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, scheme, raising=False)
    with pytest.raises(SettingsError, match=rf"dynamo-entry\[{extra}\]") as caught:
        open_store(f"{scheme}://bucket/a.tar").stat()
    assert caught.value.reason == "PackageMissing"


def test_a_secret_s_files_are_arguments(monkeypatch):
    """Those that clouds' tools know, and those that fsspec itself documents. The environment stays as it is."""
    before = dict(os.environ)
    azure = {
        "AZURE_STORAGE_ACCOUNT_NAME": "me",
        "AZURE_STORAGE_ACCOUNT_KEY": "k",
        "AWS_ACCESS_KEY_ID": "other",
    }
    assert filesystems._logins("az", azure) == {"account_name": "me", "account_key": "k"}
    key = json.dumps({"type": "service_account"})
    assert filesystems._logins("gs", {"GOOGLE_APPLICATION_CREDENTIALS": key}) == {"token": json.loads(key)}
    assert filesystems._logins("gs", {"GOOGLE_APPLICATION_CREDENTIALS": "/key.json"}) == {
        "token": "/key.json"
    }
    assert filesystems._logins("sftp", {"FSSPEC_SFTP_PASSWORD": "p", "FSSPEC_GS_TOKEN": "t"}) == {
        "password": "p"
    }
    with pytest.raises(StorageDenied):
        filesystems._logins("gs", {"GOOGLE_APPLICATION_CREDENTIALS": "{"})
    assert dict(os.environ) == before


def test_unknown_hosts_are_not_trusted():
    """fsspec's own default is to believe whoever answers."""
    assert filesystems._defaults("sftp", RETRY) == {"host_key_policy": "reject"}


def test_an_authority_that_cannot_be_passed_is_refused():
    with pytest.raises(SettingsError, match="CA_FILE"):
        filesystems._trust("az", "/ca.crt")
    with pytest.raises(StorageDenied):
        filesystems._trust("gs", "/nowhere/ca.crt")


class Answered(Exception):
    def __init__(self, **fields):
        super().__init__("words of the server\nand a page more")
        self.__dict__.update(fields)


class ServiceRequestError(Exception):
    """As azure-core names it."""


def wrapped(cause):
    """As adlfs does it."""
    try:
        try:
            raise cause
        except Exception as error:
            raise RuntimeError("Failed to upload block") from error
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (FileNotFoundError("x"), NotFound),
        (PermissionError(13, "Permission denied"), StorageDenied),
        (PermissionError("Access Denied"), StorageDenied),
        (Answered(code=403), StorageDenied),
        (Answered(status_code=401), StorageDenied),
        (Answered(status=503), StorageUnavailable),
        (wrapped(Answered(status_code=429)), StorageUnavailable),
        (wrapped(ServiceRequestError("no route")), StorageUnavailable),
        (OSError("Forbidden: https://storage.googleapis.com/b/o"), StorageDenied),
        (ConnectionResetError(104, "reset"), StorageUnavailable),
        (TimeoutError(), StorageUnavailable),
        (RuntimeError("anything"), StorageError),
    ],
)
def test_exceptions_of_libraries_are_told_apart(error, kind):
    found = failures.storage_error("gs://b/a: read", error)
    assert type(found) is kind, found
    assert found.message.startswith("gs://b/a: read")
    assert "\n" not in found.message
    assert "volume" not in found.hint


def test_a_file_s_permissions_are_told_as_of_any_volume():
    assert "runAsUser" in failures.storage_error("file:///d/a: read", PermissionError(13, "denied")).hint


class Odd(MemoryFileSystem):
    """As a server without sizes, or without ranges, behind fsspec's HTTP."""

    protocol = "odd"
    size, data = 10, b"0123456789"

    def info(self, path, **_):
        return {"name": path, "size": self.size, "type": "file"}

    def cat_file(self, path, start=None, end=None, **_):
        return self.data


@pytest.fixture
def odd(monkeypatch):
    fsspec.register_implementation("odd", Odd, clobber=True)
    return open_store("odd://d/a.tar", RETRY)


@pytest.mark.parametrize("size", [None, "", "ten", -1])
def test_a_server_that_does_not_say_how_large_it_is(odd, monkeypatch, size):
    monkeypatch.setattr(Odd, "size", size)
    with pytest.raises(StorageError) as caught:
        odd.stat()
    assert caught.value.reason == "BadAnswer"


def test_a_server_without_ranges_does_not_make_an_archive_damaged(odd, monkeypatch):
    with pytest.raises(StorageError) as caught:
        odd.read_range(2, 3)
    assert caught.value.reason == "NoRanges"
    monkeypatch.setattr(Odd, "data", b"01")
    with pytest.raises(Corrupt):
        odd.read_range(2, 3)


class Session(Odd):
    """As a file system that stays without a connection once it has lost it: SFTP's."""

    protocol = "session"
    made: ClassVar[list] = []

    def __init__(self, **options):
        super().__init__(**options)
        self.made.append(self)

    def cat_file(self, path, **_):
        if self is self.made[0]:
            raise ConnectionResetError(104, "reset")
        return self.data


def test_a_connection_that_is_lost_is_made_again():
    fsspec.register_implementation("session", Session, clobber=True)
    Session.made.clear()
    assert open_store("session://d/a.tar", RETRY).read_range(0, 10) == Session.data
    assert len(Session.made) == 2


def test_a_server_that_asks_for_time_is_asked_again_by_the_same_connection(monkeypatch):
    class Busy(Exception):
        code = 503

    def cat_file(_self, _path, **_):
        asked.append(None)
        if len(asked) == 1:
            raise Busy
        return Session.data

    asked = []
    fsspec.register_implementation("session", Session, clobber=True)
    Session.made.clear()
    monkeypatch.setattr(Session, "cat_file", cat_file)
    assert open_store("session://d/a.tar", RETRY).read_range(0, 10) == Session.data
    assert (len(asked), len(Session.made)) == (2, 1)


def test_a_volume_imports_none_of_it(tmp_path):
    """Nor does a bucket."""
    code = (
        "import sys; from dynamo_entry.settings import Settings; from dynamo_entry.stores import open_store\n"
        f"open_store(Settings(), {str(tmp_path / 'a.tar')!r})\n"
        "open_store(Settings(), 's3://bucket/a.tar')\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('fsspec', 'gcsfs', 'adlfs', 'aiohttp')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert Settings().storage_options == {}


class UploadOfALibrary:
    """Publishes when it is collected, as files of fsspec do."""

    closed = False

    def __init__(self, published):
        self._published = published
        self._data = b""

    def write(self, data):
        self._data += data

    def discard(self):
        self._data = b""

    def __del__(self):
        if not self.closed:
            self._published.append(self._data)


@pytest.mark.parametrize("first", ["writer", "file"])
def test_an_upload_that_nobody_ends_is_not_published(first):
    """In whatever order the two are collected: an exception that is kept ties them together."""
    published = []
    made = [UploadOfALibrary(published)] if first == "file" else []
    fs = SimpleNamespace(open=lambda *_, **__: made.pop() if made else UploadOfALibrary(published))
    store = SimpleNamespace(location="gs://bucket/archive.tar")
    writer = ObjectWriter(store, fs, "bucket/archive.tar", replace=False, block=1 << 20)
    writer.append(b"half")
    writer._file.kept_by = writer  # in a cycle, whose members are collected one after another
    del writer
    gc.collect()
    assert published == []


def test_a_signature_in_an_exception_s_words_is_not_shown():
    """aiohttp quotes the address that it asked."""
    found = failures.storage_error(
        "x", ValueError("403, message='Forbidden', url='https://h/c/a.tar?sv=1&sig=sesame'")
    )
    assert "sesame" not in str(found)
    assert "https://h/c/a.tar" in found.message


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (404, NotFound), (410, NotFound), (400, StorageError), (401, StorageDenied), (403, StorageDenied), (429, StorageUnavailable),
        (500, StorageUnavailable), (503, StorageUnavailable),
    ],
)  # fmt: skip
def test_only_what_is_not_there_is_absent(status, kind):
    """fsspec's http says FileNotFoundError whatever the server answers. An agent would take the archive for lost."""
    server = Answers()
    server.case = {"answers.json": json.dumps({"": [status, {}, ""]}).encode()}
    with open_store(f"http://127.0.0.1:{server.port}/p/a.tar", RETRY) as store:
        with pytest.raises(StorageError) as caught:
            store.stat()
        assert type(caught.value) is kind


def test_a_server_that_is_not_there_proves_no_absence():
    with pytest.raises(StorageUnavailable) as caught:
        open_store("http://127.0.0.1:1/p/a.tar", RETRY).stat()
    assert caught.value.reason in ("ConnectionRefused", "ConnectionLost")
