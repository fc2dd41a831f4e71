"""The main job through a bucket: created into it here, restored from it there, and whatever fails in between."""

import os
import signal
import threading
import time

import pytest
from buckets import (  # noqa: F401 - fixtures among them
    WHEN_TOLD,
    by_way_of,
    containers,
    published,
    start,
    uploads,
    worker_image,
)
from containers import CREATE, RESTORE
from launcher import FALLBACK, HASH
from servers import process
from servers.between import Between
from servers.s3 import ACCESS_KEY, SECRET_KEY
from typer.testing import CliRunner

from conftest import RETRY
from dynamo_entry.ctl import app
from dynamo_entry.errors import NotFound
from dynamo_entry.storage.s3 import S3Store

#: A root filesystem that cannot be written, and tmpfs that holds sockets and logs but no archive.
NO_DISK = (
    "--read-only", "--read-only-tmpfs=false", "--shm-size=4m",
    "--tmpfs", "/run:size=4m", "--tmpfs", "/tmp:size=4m", "--tmpfs", "/var/tmp:size=4m",
)  # fmt: skip


def assert_serves_cold(container):
    assert container.json("/health", port=container.port) == {"status": "ok"}
    container.wait_for_text("tiny: listening")  # started here, not restored
    assert "Traceback" not in container.stderr


def test_created_into_a_bucket_and_restored_from_it_without_any_disk(start, rgw, bucket):
    """Over TLS with a private authority; the key is the hash where none is given."""
    prefix = f"s3://127.0.0.1:{rgw.tls_port}/{bucket.partition('/')[2]}/models"
    creator = start(
        prefix, (*CREATE, *NO_DISK), SIGNAL_FILE="/tmp/ready", AFTER_DUMP="continue", COMPRESSION="none"
    )
    published = creator.wait_for_event("Checkpoint published")
    assert published["location"] == f"{prefix}/{HASH}.tar"
    assert published["size_bytes"] > 48 << 20
    before = creator.json("/state?digest=1", port=creator.port)
    creator.kill()

    again = start(prefix, CREATE, SIGNAL_FILE="/tmp/ready")
    assert again.exit_code() == 0
    assert again.event("Checkpoint exists already")

    restored = start(prefix, (*RESTORE, *NO_DISK))
    restored.wait_for_event("Restored")
    after = restored.json("/state?digest=1", port=creator.port)
    assert (after["nonce"], after["sha256"]) == (before["nonce"], before["sha256"])


def test_of_racing_creators_one_publishes_and_all_succeed(start, bucket, containers):
    location = f"s3+http://{bucket}/models/{HASH}.tar"
    creators = [
        start(location, CREATE, command=WHEN_TOLD, SIGNAL_FILE="/tmp/ready", COMPRESSION="none")
        for _ in range(3)
    ]
    for creator in creators:
        creator.wait_for_event("engine started")
    (containers.checkpoints / "go").touch()
    assert [creator.exit_code(120) for creator in creators] == [0, 0, 0]
    winners = [event for creator in creators if (event := creator.event("Checkpoint published"))]
    others = [event for creator in creators if (event := creator.event("Checkpoint exists already"))]
    assert (len(winners), len(others)) == (1, 2)
    assert {event["digest"] for event in others} == {winners[0]["digest"]}
    with S3Store(location, RETRY) as store:
        assert store.stat().size == winners[0]["size_bytes"]
        assert list(store.leftovers()) == []


@pytest.fixture
def only_one_part(rgw):
    """A proxy at which the second part of an upload gets no further."""
    proxy, over = Between(rgw.port), threading.Event()
    proxy.fault = lambda _method, path: (503, b"") if "partNumber=2" in path and over.wait(120) else None
    yield proxy
    over.set()
    proxy.stop()


def test_a_killed_creator_leaves_nothing_visible_and_prune_finds_the_rest(start, bucket, only_one_part):
    location = f"s3+http://{bucket}/models/{HASH}.tar"
    creator = start(by_way_of(only_one_part, location), CREATE, SIGNAL_FILE="/tmp/ready", COMPRESSION="none")
    creator.wait_for_event("engine started")
    process.wait_for(lambda: [left for left in uploads(location) if left.size], "parts in the bucket")
    os.kill(creator.pid, signal.SIGKILL)
    creator.exit_code()

    with S3Store(location, RETRY) as store, pytest.raises(NotFound):
        store.stat()
    assert prune(location, "--older-than", "3600").endswith("0 leftovers, 0 bytes\n"), "it might be alive"
    said = prune(location, "--older-than", "0")
    assert "removed: models/" in said
    assert "uploadId=" in said
    assert uploads(location) == []


def prune(*arguments):
    done = CliRunner().invoke(app, ["prune", *arguments])
    assert done.exit_code == 0, done.output
    return done.output


def test_a_store_that_dies_during_a_creation_leaves_nothing_and_the_engine_goes_on(start, bucket, wire):
    location = f"s3+http://{bucket}/models/{HASH}.tar"
    wire.fault("up", "reset", after=20 << 20, for_good=True)
    creator = start(
        by_way_of(wire, location), CREATE,
        SIGNAL_FILE="/tmp/ready", COMPRESSION="none", AFTER_DUMP="continue", STALL_TIMEOUT="6",
    )  # fmt: skip
    event = creator.wait_for_event("Checkpoint not created")
    assert event["reason"] == "ConnectionLost", event
    assert "UploadPart" in event["message"]
    assert creator.json("/health", port=creator.port) == {"status": "ok"}
    with S3Store(location, RETRY) as store, pytest.raises(NotFound):
        store.stat()


@pytest.mark.parametrize("how", ["cut", "reset", "stall"])
def test_a_connection_that_breaks_during_a_restore_costs_no_more_than_a_retry(start, published, wire, how):
    wire.fault("down", how, after=20 << 20)
    container = start(by_way_of(wire, published), RESTORE, STALL_TIMEOUT="9")
    container.wait_for_event("Restored")
    assert wire.has_happened


@pytest.mark.parametrize(("how", "reason"), [("reset", "ConnectionLost"), ("stall", "Stalled")])
def test_a_store_that_dies_during_a_restore_costs_a_cold_start_in_time(start, published, wire, how, reason):
    wire.fault("down", how, after=20 << 20, for_good=True)
    container = start(by_way_of(wire, published), RESTORE, STALL_TIMEOUT="6")
    began = time.monotonic()
    event = container.wait_for_event(FALLBACK)
    assert time.monotonic() - began < 6 + 20
    assert event["reason"] == reason, event
    assert published.rpartition("/")[2] in event["message"]
    assert_serves_cold(container)


def flipped(data):
    """A byte in the middle of what CRIU is served."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [(flipped, "ChunkDigestMismatch"), (lambda data: data[: len(data) // 2], "Incomplete")],
    ids=["flipped", "truncated"],
)
def test_a_damaged_object_costs_a_cold_start(start, published, damage, reason):
    with S3Store(published, RETRY) as store:
        data = bytes(store.read_range(0, store.stat().size))
        writer = store.open_writer(replace=True)
        writer.append(damage(data))
        writer.commit()
    container = start(published, RESTORE)
    assert container.wait_for_event(FALLBACK)["reason"] == reason
    assert_serves_cold(container)


@pytest.mark.parametrize(
    ("env", "reason"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "SignatureDoesNotMatch"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "InvalidAccessKeyId"),
    ],
)
def test_a_refusal_is_a_cold_start_and_never_taken_for_absence(start, bucket, env, reason):
    """It is not waited for, either. A creation ends before the engine starts."""
    location = f"s3+http://{bucket}/models/{HASH}.tar"
    container = start(location, RESTORE, env=env, WAIT="30")
    event = container.wait_for_event(FALLBACK)
    assert event["reason"] == reason, event
    assert "403" in event["message"]
    assert_serves_cold(container)
    creator = start(location, CREATE, env=env, SIGNAL_FILE="/tmp/ready")
    assert creator.exit_code() == 176
    assert "tiny: listening" not in creator.stdout


def test_a_missing_object_and_a_missing_bucket_are_told_apart(start, bucket):
    container = start(f"s3+http://{bucket}/models/{HASH}.tar", RESTORE)
    assert container.wait_for_event(FALLBACK)["reason"] == "NotFound"
    assert_serves_cold(container)
    container = start(f"s3+http://{bucket}-other/models/{HASH}.tar", RESTORE)
    assert container.wait_for_event(FALLBACK)["reason"] == "NoSuchBucket"
    assert_serves_cold(container)


def mounted(directory, **files):
    """A secret for CREDENTIALS_DIR, and the options that mount it."""
    directory.mkdir()
    for name, text in files.items():
        (directory / name).write_text(text)
    return ("-v", f"{directory}:/credentials:ro")


NO_KEYS = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}


@pytest.mark.parametrize("are_mounted", [True, False])
def test_whether_storage_keys_are_in_the_archive_is_known(start, bucket, tmp_path, are_mounted):
    """A mounted secret is the launcher's alone. Keys in the engine's environment are captured, and that is said."""
    location = f"s3+http://{bucket}/models/{HASH}.tar"
    secret = mounted(tmp_path / "s", AWS_ACCESS_KEY_ID=ACCESS_KEY, AWS_SECRET_ACCESS_KEY=f"{SECRET_KEY}\n")
    options = (*CREATE, *secret) if are_mounted else CREATE
    settings = {"CREDENTIALS_DIR": "/credentials"} if are_mounted else {}
    creator = start(
        location, options, env=NO_KEYS if are_mounted else {}, SIGNAL_FILE="/tmp/ready", COMPRESSION="none", **settings
    )  # fmt: skip
    assert creator.exit_code() == 0, creator.output()
    with S3Store(location, RETRY) as store:
        data = bytes(store.read_range(0, store.stat().size))
    assert (SECRET_KEY.encode() in data) == (not are_mounted)
    warning = creator.event("secrets in the archive")
    assert bool(warning) == (not are_mounted)
    assert SECRET_KEY not in creator.stderr
    if warning:
        assert warning["names"] == ["AWS_SECRET_ACCESS_KEY"]
    container = start(
        location, (*RESTORE, *secret) if are_mounted else RESTORE, env=NO_KEYS if are_mounted else {}, **settings
    )  # fmt: skip
    container.wait_for_event("Restored")
