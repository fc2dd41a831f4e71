"""Google Cloud Storage and Azure, through fsspec, keep the contract of every store."""

import gc
import json
import os
import subprocess
import sys
import uuid

import pytest
from store_contract import MIB, StoreContract, publish

from conftest import RETRY
from dynamo_entry.archive import ArchiveWriter, Compression, Head
from dynamo_entry.errors import AlreadyExists, NotFound, StorageDenied, StorageError
from dynamo_entry.storage import Access, open_store

#: What the libraries warn of themselves.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(params=["google", "azure"])
def cloud(request):
    """A place that is new, and what its library needs."""
    server = request.getfixturevalue(request.param)
    root = "gs://bucket" if request.param == "google" else "az://container"
    return f"{root}/{uuid.uuid4().hex}", server.options


@pytest.fixture
def again(cloud):
    place, options = cloud
    return lambda name="a b+c.tar": open_store(f"{place}/{name}", RETRY, Access(options=options))


@pytest.fixture
def store(again):
    return again()


class TestContract(StoreContract):
    pass


def test_an_upload_of_many_blocks(store, again):
    """Three, of which the last is not full; what is given up half-way leaves nothing to see."""
    data = bytes(range(256)) * (40 << 12)
    writer = store.open_writer()
    for start in range(0, len(data), MIB):
        writer.append(data[start : start + MIB])
    assert writer.commit().size == len(data)
    assert bytes(again().read_range(15 << 20, 20 << 20)) == data[15 << 20 : 35 << 20]
    writer = again().open_writer(replace=True)
    writer.append(bytes(40 * MIB))
    writer.abort()
    assert bytes(again().read_range(0, 256)) == data[:256]


def test_creators_are_exclusive(store):
    assert not store.not_exclusive


def test_the_second_of_two_uploads_of_many_blocks_is_refused(store, again):
    writers = [store.open_writer(), again().open_writer()]
    for number, writer in enumerate(writers):
        try:
            writer.append(bytes([number]) * (17 * MIB))
        except (AlreadyExists, StorageError):
            writer.abort()
    writers[0].commit()
    with pytest.raises(AlreadyExists):
        again().open_writer().commit()
    assert bytes(again().read_range(0, 2)) == b"\0\0"


def test_archives_beside_it_are_listed(store, again):
    publish(store, b"x")
    publish(again("b.tar"), b"yz")
    publish(again("notes.txt"), b"n")
    found = sorted(store.archives())
    assert [one.location.rpartition("/")[2] for one in found] == ["a b+c.tar", "b.tar"]
    assert [one.size for one in found] == [1, 2]
    assert all(0 <= one.age_s < 600 for one in found)
    assert list(store.leftovers()) == []
    assert store.out_of_reach


def test_no_such_bucket_is_a_refusal_where_one_writes(cloud):
    place, options = cloud
    nowhere = open_store(f"{place.partition('://')[0]}://nowhere/a.tar", RETRY, Access(options=options))
    with pytest.raises(NotFound):
        nowhere.stat()
    with pytest.raises(StorageDenied) as caught:
        nowhere.check_writable()
    assert caught.value.reason == "NoSuchBucket"


def test_an_object_that_was_replaced_is_not_mixed(google):
    """Google's alone are read by generation."""
    location = f"gs://bucket/{uuid.uuid4().hex}/a.tar"
    access = Access(options=google.options)
    reader = open_store(location, RETRY, access)
    publish(reader, b"first")
    reader.stat()
    publish(open_store(location, RETRY, access), b"later", replace=True)
    with pytest.raises(StorageError) as caught:
        reader.read_range(0, 5)
    assert caught.value.reason == "Replaced"


def test_a_server_that_is_not_there_is_told_in_time(google):
    store = open_store(
        "gs://bucket/a.tar", RETRY, Access(options={**google.options, "endpoint_url": "http://127.0.0.1:9"})
    )
    with pytest.raises(StorageError) as caught:
        store.stat()
    assert "gs://bucket/a.tar" in str(caught.value)


def test_a_secret_logs_in(azure, tmp_path):
    """A file of the directory that CREDENTIALS_DIR names."""
    publish(open_store("az://container/secret/a.tar", RETRY, Access(options=azure.options)), b"x")
    given = {"AZURE_STORAGE_CONNECTION_STRING": azure.connection}
    assert open_store("az://container/secret/a.tar", RETRY, Access(variables=given)).stat().size == 1


@pytest.mark.parametrize("name", ["CONNECTION_STRING", "ACCOUNT_KEY"])
def test_a_login_of_the_environment_does_not_win_over_the_secret_s(monkeypatch, name):
    """The engine may fetch its model from an account of its own."""
    theirs = {"ACCOUNT_KEY": "a2V5", "CONNECTION_STRING": "AccountName=models;AccountKey=a2V5"}[name]
    monkeypatch.setenv(f"AZURE_STORAGE_{name}", theirs)
    secret = {"AZURE_STORAGE_SAS_TOKEN": f"?sig={name}"}
    access = Access(variables=secret, options={"account_name": "ours"})
    with open_store("az://container/a.tar", RETRY, access) as store, store._asked("look") as fs:
        assert fs.service_client.url == f"https://ours.blob.core.windows.net/?sig={name}"
    assert os.environ[f"AZURE_STORAGE_{name}"] == theirs


def test_an_agent_s_memory_does_not_fill_with_file_systems_of_azure():
    """It opens a store a minute, and one for each archive. adlfs' finalizer of a file system refers to it."""
    from adlfs import AzureBlobFileSystem

    def opened(key):
        access = Access(options={"account_name": "me", "account_key": key})
        with open_store("az://container/a.tar", RETRY, access) as store, store._asked("look") as fs:
            return id(fs)

    def alive():
        gc.collect()
        return sum(type(one) is AzureBlobFileSystem for one in gc.get_objects())

    first, before = opened("a2V5"), alive()
    assert {opened("a2V5") for _ in range(3)} == {first}
    assert alive() == before
    assert opened("b3RoZXI=") != first, "a renewed secret is another login"


def ctl(options, *arguments):
    return subprocess.run(
        [sys.executable, "-c", "from dynamo_entry.ctl import main; main()", *arguments],
        env={**os.environ, "DYNAMO_CHECKPOINT_STORAGE_OPTIONS": json.dumps(options)},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def test_every_verb_of_the_tool(cloud, again, tmp_path):
    """With the launcher's variables."""
    place, options = cloud
    sink = again("a.tar").open_writer()
    writer = ArchiveWriter(sink, compression=Compression.parse("none"), threads=2)
    stream = writer.stream("criu/pages-1.img")
    stream.write(os.urandom(20 * MIB))
    stream.close()
    digest = writer.finish(Head(hash="d936422b4f953f99")).digest
    sink.commit()
    location = f"{place}/a.tar"
    shown = ctl(options, "inspect", location, "--json")
    assert json.loads(shown.stdout)["digest"] == digest, shown.stderr
    for verb, *more in (("verify",), ("extract", str(tmp_path / "taken")), ("prune",)):
        done = ctl(options, verb, location, *more)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "taken" / "criu" / "pages-1.img").stat().st_size == 20 * MIB
    said = json.loads(ctl(options, "doctor", location, "--for", "restore", "--json").stdout)
    (about,) = (one for one in said["findings"] if one["name"] == "archive")
    assert digest in about["value"], about
