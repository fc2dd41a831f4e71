"""Registries for those who use fsspec: half a file is never an artifact, and nothing is replaced unasked."""

import gc
import re
from pathlib import Path

import fsspec
import pytest
from fsspec.registry import known_implementations

from dynamo_entry.errors import StorageDenied, StorageUnavailable
from dynamo_entry.storage.local import LocalStore
from dynamo_entry.storage.oci import filesystem
from dynamo_entry.storage.oci.filesystem import OciFileSystem

URL = "oci-registry://registry.example.com/team/ck:tag"


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """Where the registry would keep it: files stand in for artifacts, and writers for writers."""

    def opened(location, _retry=None, access=None):
        name = location.partition("://")[2].replace("/", "_")
        return LocalStore(str(tmp_path / f"{name}.tar"))

    monkeypatch.setattr(filesystem, "open_store", opened)
    for name in OciFileSystem.protocol:
        fsspec.register_implementation(name, OciFileSystem, clobber=True)
    return tmp_path / "registry.example.com_team_ck:tag.tar"


def opened_by_filesystem(mode):
    return OciFileSystem(skip_instance_cache=True).open(URL, mode)


def opened_by_url(mode):
    return fsspec.open(URL, mode)


@pytest.mark.parametrize("mode", ["wb", "xb"])
@pytest.mark.parametrize("opened", [opened_by_filesystem, opened_by_url])
@pytest.mark.parametrize("written", [b"", b"half", bytes(9 << 20)])
def test_an_exception_discards(stored, opened, mode, written):
    """Whatever was written by then: nothing, less than a block, more."""
    with pytest.raises(ZeroDivisionError), opened(mode) as file:
        file.write(written)
        1 / 0  # noqa: B018
    assert list(stored.parent.iterdir()) == []


@pytest.mark.parametrize("opened", [opened_by_filesystem, opened_by_url])
def test_an_exception_leaves_what_was_there(stored, opened):
    stored.write_bytes(b"good")
    with pytest.raises(ZeroDivisionError), opened("wb") as file:
        file.write(b"half")
        1 / 0  # noqa: B018
    assert stored.read_bytes() == b"good"
    assert list(stored.parent.iterdir()) == [stored]


def test_a_file_that_is_forgotten_is_no_artifact(stored):
    """Garbage collection is nobody's wish to publish."""
    file = opened_by_filesystem("wb")
    file.write(bytes(9 << 20))
    del file
    gc.collect()
    assert list(stored.parent.iterdir()) == []


def test_what_is_complete_is_published(stored):
    for opened in (opened_by_filesystem, opened_by_url):
        with opened("wb") as file:
            file.write(b"abc")
        assert stored.read_bytes() == b"abc"
        with opened("rb") as file:
            file.seek(1)
            assert file.read() == b"bc"
    try:
        raise ValueError
    except ValueError:
        with opened_by_url("wb") as file:  # what failed before it was opened is not its failure
            file.write(b"after a failure")
    assert stored.read_bytes() == b"after a failure"


@pytest.mark.parametrize("later", [b"", b"short", b"something longer"])
def test_a_file_that_is_read_stays_the_one_that_was_opened(stored, later):
    """Its tag may be moved to another artifact meanwhile; a mixture of both is none."""
    stored.write_bytes(b"first archive")
    with opened_by_filesystem("rb") as file:
        other = stored.with_name("other")
        other.write_bytes(later)
        other.replace(stored)
        assert file.read() == b"first archive"


def test_what_is_not_there_cannot_be_opened(stored):
    with pytest.raises(FileNotFoundError):
        opened_by_filesystem("rb")


def test_exclusive_creation(stored):
    """``xb``, and what fsspec makes of it, refuse at once where something is, and at the end where it came meanwhile."""
    with opened_by_filesystem("xb") as file:
        file.write(b"first")
    with pytest.raises(FileExistsError):
        opened_by_filesystem("xb")
    with pytest.raises(FileExistsError):
        OciFileSystem().pipe_file(URL, b"second", mode="create")
    stored.unlink()
    file = opened_by_filesystem("xb")
    stored.write_bytes(b"meanwhile")
    file.write(b"late")
    with pytest.raises(FileExistsError):
        file.close()
    assert stored.read_bytes() == b"meanwhile"


def test_touch_replaces_nothing(stored):
    stored.write_bytes(b"good")
    with pytest.raises((FileExistsError, NotImplementedError)):
        OciFileSystem().touch(URL, truncate=False)
    assert stored.read_bytes() == b"good"


def test_a_transaction_publishes_all_or_nothing(stored):
    fs = OciFileSystem(skip_instance_cache=True)
    with pytest.raises(ZeroDivisionError), fs.transaction:
        with fs.open(URL, "wb") as file:
            file.write(b"x")
        1 / 0  # noqa: B018
    assert list(stored.parent.iterdir()) == []
    with fs.transaction:
        with fs.open(URL, "wb") as file:
            file.write(b"x")
        assert not stored.exists()
    assert stored.read_bytes() == b"x"


def test_a_failed_upload_is_given_up(stored, monkeypatch):
    def fail(*_):
        raise StorageUnavailable("no way")

    monkeypatch.setattr("dynamo_entry.storage.partial.LocalWriter.append", fail)
    with pytest.raises(OSError, match="no way"), opened_by_filesystem("wb") as file:
        file.write(bytes(9 << 20))
    assert list(stored.parent.iterdir()) == []


def test_a_refusal_is_not_absence(stored, monkeypatch):
    assert not OciFileSystem().exists(URL)

    def refuse(_):
        raise StorageDenied("not you")

    monkeypatch.setattr(LocalStore, "stat", refuse)
    with pytest.raises(PermissionError):
        OciFileSystem().exists(URL)


def test_a_repository_is_a_directory(stored):
    stored.write_bytes(b"abc")
    fs = OciFileSystem(skip_instance_cache=True)
    assert fs.info("oci-registry://registry.example.com/team/ck")["type"] == "directory"
    (one,) = fs.ls("oci-registry://registry.example.com/team/ck")
    assert (one["size"], one["type"]) == (3, "file")
    assert fs.info(URL)["size"] == 3
    fs.rm_file(URL)
    assert not fs.exists(URL)


def test_plain_http_and_logins_are_arguments(stored, monkeypatch):
    """Of one file system: nothing comes from, or goes into, the environment of the process."""
    asked = []
    monkeypatch.setattr(
        filesystem, "open_store", lambda location, _retry, access: asked.append((location, access))
    )
    fs, path = fsspec.url_to_fs(
        URL.replace("registry:", "registry+http:", 1), docker_config="/login", ca_file="/ca"
    )
    fs._store(path)
    ((location, access),) = asked
    assert location == "oci+http://registry.example.com/team/ck:tag"
    assert (access.ca_file, access.environ["DOCKER_CONFIG"]) == ("/ca", "/login")


def test_the_entry_point_takes_no_other_package_s_name():
    """``oci`` is Oracle's object storage for fsspec."""
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    section = project.partition('[project.entry-points."fsspec.specs"]')[2].partition("\n[")[0]
    assert set(re.findall(r'^"?([^"\s=]+)"? = ', section, flags=re.MULTILINE)) == set(OciFileSystem.protocol)
    others = {
        name
        for name, one in known_implementations.items()
        if not one["class"].startswith("dynamo_entry") and name not in OciFileSystem.protocol
    }
    assert "oci" in others
    assert set(OciFileSystem.protocol).isdisjoint(others)
