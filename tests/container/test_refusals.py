"""A bad archive costs one attempt, not one a container restart."""

from containers import RESTORE
from launcher import COMMAND, FALLBACK, SETTINGS, published, restored


def begun(containers, command=COMMAND, **settings):
    """A restore that remembers."""
    settings = {**SETTINGS, "STATE_DIR": "/state", **settings}
    state = containers.directory / "state"
    state.mkdir(exist_ok=True)
    return containers.start(*command, options=RESTORE, settings=settings, volumes=(f"{state}:/state",))


def fail(containers, command=COMMAND):
    """A restore of an engine that does not answer afterwards."""
    container = begun(containers, command, READY_URL="http://127.0.0.1:9/", STALL_TIMEOUT="2")
    fallback = container.wait_for_event(FALLBACK)
    container.get("/health")
    container.kill()
    return fallback


def test_the_second_container_starts_cold_at_once_and_says_why(containers):
    published(containers)
    assert fail(containers)["reason"] == "NotReady"
    again = fail(containers)
    assert (again["phase"], again["reason"]) == ("check", "RefusedBefore")
    assert "NotReady" in again["message"]


def test_another_command_or_a_new_archive_is_tried(containers):
    published(containers)
    fail(containers)
    assert fail(containers, (*COMMAND, "--other"))["reason"] == "NotReady"
    published(containers, settings={"FORCE": "1"})
    assert fail(containers)["reason"] == "NotReady"


def test_a_restore_that_is_under_way_in_another_container_is_no_failure(containers):
    published(containers)
    other = begun(containers, READY_URL="http://127.0.0.1:9/", STALL_TIMEOUT="60")
    other.wait_for_event("fill")
    begun(containers).wait_for_event("Restored")


def test_a_restore_that_was_killed_with_its_container_is_one(containers):
    published(containers)
    other = begun(containers, READY_URL="http://127.0.0.1:9/", STALL_TIMEOUT="60")
    other.wait_for_event("fill")
    other.kill()
    fallback = begun(containers).wait_for_event(FALLBACK)
    assert fallback["reason"] == "RefusedBefore" and "Interrupted" in fallback["message"]


def test_without_a_place_that_outlives_the_container_nothing_is_remembered(containers):
    published(containers)
    assert restored(containers).event("Restored")
