"""The main job through a registry: created into it here, restored from it there, and a cold start without it."""

import os

import pytest
from containers import CREATE, RESTORE
from fixtures import containers, worker_image  # noqa: F401
from registries import log_in_also_at, new_location, registries, registry  # noqa: F401
from servers import process
from servers.wire import Wire


@pytest.fixture
def start(containers, registry):
    """Starts the tiny engine with what it takes to reach a location in the registry."""
    port = process.free_port()

    def start(location, options, **settings):
        return containers.start(
            "python3", "/tiny.py", network="host", options=options,
            settings={"STORAGE_TYPE": "oci", "LOCATION": location, "HASH": "d936422b4f953f99", **settings},
            env={"PORT": str(port), "BALLAST_MIB": "70", "SSL_CERT_FILE": "/ca.pem", "DOCKER_CONFIG": "/login"},
            volumes=(f"{registry.certificate.ca}:/ca.pem:ro", f"{os.environ['DOCKER_CONFIG']}:/login:ro"),
        )  # fmt: skip

    start.port = port
    return start


def test_created_into_a_registry_and_restored_from_it(start, registry):
    """The tag is the hash where none is given; a second creator finds it there."""
    repository = new_location(registry).rpartition(":")[0]
    creator = start(repository, CREATE, SIGNAL_FILE="/tmp/ready", AFTER_DUMP="continue")
    published = creator.wait_for_event("Checkpoint published")
    assert published["location"] == f"{repository}:d936422b4f953f99"
    before = creator.json("/state?digest=1", port=start.port)
    creator.kill()
    again = start(repository, CREATE, SIGNAL_FILE="/tmp/ready")
    assert again.exit_code() == 0
    assert again.event("Checkpoint exists already")

    container = start(repository, RESTORE)
    container.wait_for_event("Restored")
    after = container.json("/state?digest=1", port=start.port)
    assert (after["nonce"], after["sha256"]) == (before["nonce"], before["sha256"])


def test_a_registry_that_dies_during_a_restore_costs_a_cold_start_in_time(start, registry):
    location = new_location(registry)
    creator = start(location, CREATE, SIGNAL_FILE="/tmp/ready", COMPRESSION="none")
    assert creator.exit_code() == 0, creator.output()
    wire = Wire(registry.port)
    log_in_also_at(f"localhost:{wire.port}", registry)
    wire.fault("down", "reset", after=30 << 20, for_good=True)
    container = start(
        location.replace(registry.name, f"localhost:{wire.port}"), RESTORE, STALL_TIMEOUT="6"
    )  # fmt: skip
    event = container.wait_for_event("Falling back to cold start", 40)
    wire.stop()
    assert (wire.has_happened, event["reason"]) == (True, "ConnectionLost"), event
    assert container.json("/health", port=start.port) == {"status": "ok"}


def test_a_registry_that_is_down_costs_a_cold_start_in_time(start, registry):
    location = new_location(registry)
    registry.pause()
    try:
        container = start(location, RESTORE, STALL_TIMEOUT="6")
        event = container.wait_for_event("Falling back to cold start", 40)
    finally:
        registry.resume()
    assert event["phase"] == "open"
    assert event["reason"] == "ConnectionRefused"
    assert container.json("/health", port=start.port) == {"status": "ok"}
