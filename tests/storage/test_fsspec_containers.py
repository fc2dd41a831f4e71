"""The main job through Google Cloud Storage and Azure, in the image that has their packages."""

import json

import pytest
from containers import CREATE, RESTORE, TAG, WORKER
from fixtures import containers, worker_image  # noqa: F401
from servers import process

HASH = "d936422b4f953f99"
STORES = f"localhost/dynamo-entry/stores:{TAG}"


@pytest.fixture(params=["gs://bucket", "az://container"])
def start(request, containers):
    """Starts the tiny engine, on the same port throughout, with an archive in a folder of its own."""
    server = request.getfixturevalue("google" if request.param == "gs://bucket" else "azure")
    port = process.free_port()
    location = f"{request.param}/{port}/{HASH}.tar"

    def start(options, **how):
        settings = {
            "LOCATION": location, "HASH": HASH, "STORAGE_OPTIONS": json.dumps(server.options), **how.pop("settings", {})
        }  # fmt: skip
        container = containers.start(
            "python3", "/tiny.py", network="host", options=options, settings=settings,
            env={"PORT": str(port), "BALLAST_MIB": "48"}, **{"image": STORES, **how},
        )  # fmt: skip
        container.port = port
        return container

    start.location = location
    return start


def test_created_into_it_and_restored_from_it(start):
    creator = start(CREATE, settings={"SIGNAL_FILE": "/tmp/ready", "AFTER_DUMP": "continue"})
    assert creator.wait_for_event("Checkpoint published")["location"] == start.location
    before = creator.json("/state?digest=1", port=creator.port)
    creator.kill()

    again = start(CREATE, settings={"SIGNAL_FILE": "/tmp/ready"})
    assert again.exit_code() == 0, again.output()
    assert again.event("Checkpoint exists already")

    restored = start(RESTORE)
    restored.wait_for_event("Restored")
    after = restored.json("/state?digest=1", port=creator.port)
    assert (after["nonce"], after["sha256"]) == (before["nonce"], before["sha256"])


def test_an_image_without_its_package_starts_cold_and_says_which(start):
    cold = start(RESTORE, image=WORKER)
    event = cold.wait_for_event("Falling back to cold start")
    assert event["reason"] == "PackageMissing"
    assert "STORES=1" in event["message"]
    assert cold.json("/health", port=cold.port) == {"status": "ok"}
