"""Pods of one node that restore the same archive by way of a directory that they share."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from buckets import (  # noqa: F401 - fixtures among them
    by_way_of,
    containers,
    published,
    start,
    worker_image,
)
from containers import RESTORE

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


@pytest.fixture
def restore(start, wire, published):
    """Pods that restore at once; returns what each of them says of the directory, and what the store sent to all."""

    def act(options, count=1):
        before = wire.moved["down"]
        pods = [start(by_way_of(wire, published), options, NODE_CACHE_DIR="/cache") for _ in range(count)]
        for pod in pods:
            pod.wait_for_event("Restored", 120)
        found = {pod.json("/state?digest=1", port=pod.port)["sha256"] for pod in pods}
        assert len(found) == 1
        said = [pod.event("node cache used") for pod in pods]
        for pod in pods:
            pod.kill()
        return said, wire.moved["down"] - before

    return act


def test_pods_that_restore_at_once_read_the_store_once(restore, directory, published):
    """But for the end of the archive, which each reads itself: what the others have is compared with it."""
    size = size_of(published)
    said, sent = restore(mounted(directory), PODS)
    assert size * 0.9 < sent < size * 1.3
    assert sum(one["from_node_bytes"] for one in said) > (PODS - 1.5) * size
    assert not any("trouble" in one for one in said), said
    _, sent = restore(mounted(directory))
    assert sent < size * 0.1


def test_a_neighbour_that_lies_costs_reads_alone(restore, directory, published):
    size = size_of(published)
    restore(mounted(directory))
    (kept,) = directory.iterdir()
    with kept.open("r+b") as file:
        file.write(os.urandom(size))
    said, sent = restore(mounted(directory))
    assert size * 0.8 < sent < size * 1.3
    assert said[0]["from_node_bytes"] < size


@pytest.mark.parametrize(
    ("options", "trouble"),
    [
        (("--tmpfs", "/cache:size=16m"), "is free"),
        (("--tmpfs", "/cache:ro"), "Read-only file system"),
        ((), "Read-only file system"),
    ],
    ids=["full", "read-only", "nowhere"],
)
def test_a_directory_that_is_of_no_use_fails_nobody(restore, options, trouble):
    rights = (*RESTORE, *options) if options else (*RESTORE, "--read-only")
    said, _ = restore(rights)
    assert trouble in said[0]["trouble"]
