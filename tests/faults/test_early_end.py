"""An engine that ends soon after `Restored` is no restored engine: the container's next start is cold."""

import signal

import pytest
from containers import RESTORE
from launcher import FALLBACK, published, restore

#: Ends after a moment where it was restored; a cold one, whose time goes on at once, stays.
ENGINE = """
import os, pathlib, sys, time
pathlib.Path("/tmp/ready").touch()
before = time.monotonic()
while not os.path.exists("/run/dynamo_entry/context.json"):
    time.sleep(0.05)
time.sleep(0.5)
if "end" in sys.argv:
    sys.exit(int(sys.argv[-1]))
print("serving", flush=True)
time.sleep(300)
"""


@pytest.fixture
def state(tmp_path):
    (tmp_path / "state").mkdir()
    return ("-v", f"{tmp_path / 'state'}:/state")


def start(containers, state, *arguments, **settings):
    return restore(
        containers, command=("python3", "-c", ENGINE, *arguments), options=(*RESTORE, *state),
        settings={"STATE_DIR": "/state", "STATUS_FILE": "/checkpoints/status", **settings},
    )  # fmt: skip


@pytest.mark.parametrize("code", [0, 3])
def test_an_engine_that_ends_soon_is_remembered(containers, state, code):
    arguments = ("end", str(code))
    published(containers, command=("python3", "-c", ENGINE, *arguments))
    first = start(containers, state, *arguments)
    assert first.exit_code() == code, first.output()
    assert first.event("Restored")
    event = first.event("restored engine ended early")
    assert (event["engine_code"], event["reason"]) == (code, "EngineDied")
    assert '"result": "failed"' in (containers.checkpoints / "status").read_text()
    second = start(containers, state, *arguments)
    assert second.wait_for_event(FALLBACK)["reason"] == "RefusedBefore"


def test_what_was_asked_for_is_not_held_against_the_archive(containers, state):
    """Nor what comes later than MIN_UPTIME, or with none."""
    published(containers, command=("python3", "-c", ENGINE))
    asked = start(containers, state)
    asked.wait_for_text("serving")
    asked.signal(signal.SIGTERM)
    assert asked.exit_code() == 143
    again = start(containers, state)
    again.wait_for_event("Restored")
    assert not asked.event("restored engine ended early")


def test_without_a_minimum_every_end_is_the_engines_own(containers, state):
    arguments = ("end", "0")
    published(containers, command=("python3", "-c", ENGINE, *arguments))
    for _ in range(2):
        container = start(containers, state, *arguments, MIN_UPTIME="0")
        assert container.exit_code() == 0, container.output()
        assert container.event("Restored")
        assert not container.event("restored engine ended early")
