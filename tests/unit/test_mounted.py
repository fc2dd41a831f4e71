"""Files that a user names are read whole or refused: nothing waits for them, nothing fills the memory."""

import json
import os

import pytest

from dynamo_entry import mounted
from dynamo_entry.archive import read_keys
from dynamo_entry.engine import canary
from dynamo_entry.errors import SettingsError, StorageDenied
from dynamo_entry.stores import read_credentials


def test_a_file_is_read_whole(tmp_path):
    (tmp_path / "file").write_bytes(bytes(mounted.LIMIT_BYTES))
    assert mounted.read(str(tmp_path / "file")) == bytes(mounted.LIMIT_BYTES)


@pytest.fixture(params=["fifo", "device", "directory", "large", "missing"])
def odd(request, tmp_path):
    path = tmp_path / "odd" / "AWS_SESSION_TOKEN"
    path.parent.mkdir()
    if request.param == "fifo":
        os.mkfifo(path)
    elif request.param == "device":
        path.symlink_to("/dev/zero")
    elif request.param == "directory":
        path.mkdir()
    elif request.param == "large":
        path.write_bytes(bytes(mounted.LIMIT_BYTES + 1))
    return path


def test_anything_else_is_refused(odd):
    with pytest.raises(OSError, match=r"regular file|larger than 1 MiB|directory"):
        mounted.read(str(odd))


def test_whoever_asks_for_one_says_which(odd):
    with pytest.raises(SettingsError, match="canary"):
        canary.load(str(odd))
    for kind in ("key_file", "sign_key_file", "verify_key_file"):
        with pytest.raises(SettingsError, match="key"):
            read_keys(**{"key_file": "", kind: str(odd)})
    if odd.exists():
        with pytest.raises(StorageDenied, match="no credentials can be read"):
            read_credentials(str(odd.parent))


def test_a_canary_that_is_deeply_nested_is_refused(tmp_path):
    path = tmp_path / "canary"
    path.write_text('{"url": "http://127.0.0.1:8000/", "compare": ["a"], "body": ' + "[" * 100000)
    with pytest.raises(SettingsError):
        canary.load(str(path))
    path.write_text(json.dumps({"url": "http://127.0.0.1:8000/", "compare": ["a"]}))
    assert canary.load(str(path)).compare == ["a"]
