"""Pods of one node that restore the same archive by way of a directory that they share."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from buckets import (  # noqa: F401 - fixtures among them
    by_way_of,
    containers,
    start,
    worker_image,
)
from containers import CREATE, RESTORE
from launcher import HASH

from conftest import RETRY
from dynamo_entry.storage.s3 import S3Store

PODS = 4


@pytest.fixture
def directory():
    """In memory: on a disk that is nearly full, nothing is kept."""
    made = Path(tempfile.mkdtemp(dir="/dev/shm"))
    yield made
    shutil.rmtree(made)


def size_of(location):
    with S3Store(location, RETRY) as store:
        return store.stat().size


def mounted(directory):
    return (*RESTORE, "-v", f"{directory}:/cache")


#: An engine without a port, of which many can be restored in one network; it tells what it holds when it is asked.
ENGINE = """
import hashlib, os, time
held = os.urandom(48 << 20)
open("/tmp/ready", "w").close()
while not os.path.exists("/cache/ask"):
    time.sleep(0.05)
print("holds", hashlib.sha256(held).hexdigest(), flush=True)
time.sleep(1000)
"""


@pytest.fixture
def location(start, bucket, directory):
    """Of an archive of that engine."""
    found = f"s3+http://{bucket}/models/{HASH}.tar"
    creator = start(
        found, (*CREATE, "-v", f"{directory}:/cache"), command=("python3", "-c", ENGINE),
        SIGNAL_FILE="/tmp/ready", COMPRESSION="none",
    )  # fmt: skip
    assert creator.exit_code() == 0, creator.output()
    return found


@pytest.fixture
def restore(start, wire, location, directory):
    """Pods that restore at once; returns what each of them says of the directory, and what the store sent to all."""

    def act(options, count=1):
        before = wire.moved["down"]
        pods = [start(by_way_of(wire, location), options, NODE_CACHE_DIR="/cache") for _ in range(count)]
        for pod in pods:
            pod.wait_for_event("Restored", 120)
        sent = wire.moved["down"] - before
        return [pod.event("node cache used") for pod in pods], sent, pods

    return act


def held(pods, directory):
    (directory / "ask").touch()
    for pod in pods:
        pod.wait_for_text("holds ")
    (directory / "ask").unlink()
    return {pod.stdout.partition("holds ")[2].split()[0] for pod in pods}


def kept_in(directory):
    (found,) = (path for path in directory.iterdir() if path.name != "ask")
    return found


def test_pods_that_restore_at_once_read_the_store_once(restore, directory, location):
    """But for the end of the archive, which each reads itself: what the others have is compared with it."""
    size = size_of(location)
    said, sent, pods = restore(mounted(directory), PODS)
    assert size * 0.9 < sent < size * 1.3
    assert sum(one["from_node_bytes"] for one in said) > (PODS - 1.5) * size
    assert not any("trouble" in one for one in said), said
    _, sent, later = restore(mounted(directory))
    assert sent < size * 0.1
    assert len(held([*pods, *later], directory)) == 1


def test_a_neighbour_that_lies_costs_reads_alone(restore, directory, location):
    size = size_of(location)
    _, _, first = restore(mounted(directory))
    with kept_in(directory).open("r+b") as file:
        file.write(os.urandom(size))
    said, sent, second = restore(mounted(directory))
    assert size * 0.8 < sent < size * 1.3
    assert "trouble" in said[0]
    assert len(held([*first, *second], directory)) == 1


@pytest.mark.parametrize(
    ("options", "troubles"),
    [
        (("--tmpfs", "/cache:size=16m"), ("is free", "No space left")),
        (("--tmpfs", "/cache:ro"), ("Read-only file system",)),
        (("--read-only",), ("Read-only file system",)),
    ],
    ids=["full", "read-only", "nowhere"],
)
def test_a_directory_that_is_of_no_use_fails_nobody(restore, options, troubles):
    said, _, _ = restore((*RESTORE, *options))
    assert any(trouble in said[0]["trouble"] for trouble in troubles), said
