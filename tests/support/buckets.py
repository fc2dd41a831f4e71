"""The launcher in containers whose archive is in a bucket."""

import re

import pytest
from containers import CREATE
from fixtures import containers, worker_image  # noqa: F401
from launcher import COMMAND, HASH, NAME
from servers import process
from servers.s3 import ACCESS_KEY, SECRET_KEY

from dynamo_entry.storage import Retry
from dynamo_entry.storage.s3 import S3Store

#: Short, so that what fails for good does so soon.
RETRY = Retry(limit_s=8, stall_s=2)

#: The tiny engine, as soon as there is a file ``go`` beside the checkpoints.
WHEN_TOLD = ("sh", "-c", "until [ -e /checkpoints/go ]; do sleep 0.05; done; exec python3 /tiny.py")


@pytest.fixture
def start(containers, rgw):
    """Starts the tiny engine with what it takes to reach a bucket; every container has a port of its own."""

    def start(location, options, *, command=COMMAND, env=None, **settings):
        port = process.free_port()
        container = containers.start(
            *command, network="host", options=options,
            settings={"STORAGE_TYPE": "s3", "LOCATION": location, "HASH": HASH, **settings},
            env={
                "PORT": str(port), "BALLAST_MIB": "48", "AWS_CA_BUNDLE": "/ca.pem", "AWS_REGION": "us-east-1",
                "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, **(env or {}),
            },
            volumes=(f"{rgw.certificate.ca}:/ca.pem:ro",),
        )  # fmt: skip
        container.port = port
        return container

    return start


@pytest.fixture
def published(start, bucket):
    """An archive in a bucket; its location and what its engine held."""
    location = f"s3+http://{bucket}/models/{NAME}"
    creator = start(location, CREATE, SIGNAL_FILE="/tmp/ready", COMPRESSION="none")
    assert creator.exit_code() == 0, creator.output()
    assert creator.event("Checkpoint published")
    return location


def by_way_of(wire, location):
    """The same object, reached through the relay."""
    return re.sub(r"127\.0\.0\.1:\d+", f"127.0.0.1:{wire.port}", location)


def uploads(location):
    """Uploads under way near a location."""
    with S3Store(location, RETRY) as store:
        return [left for left in store.leftovers() if "uploadId" in left.name]
