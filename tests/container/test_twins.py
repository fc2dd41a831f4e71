"""Two restores of one archive draw the same numbers, until context.reseed() is called."""

import json

import pytest
from containers import ROOT, TAG
from launcher import published, restored

IMAGE = f"localhost/dynamo-entry/embed:{TAG}"
HOW = {
    "image": IMAGE,
    "command": ("python3", "/twin.py"),
    "volumes": (
        f"{ROOT}/tests/container/twin.py:/twin.py:ro",
        f"{ROOT}/dynamo_entry/context.py:/opt/engine/context.py:ro",
    ),
}
EVERYTHING = {"random", "uuid1", "tempfile", "ssl", "ssl in a thread", "numpy", "torch"}


@pytest.fixture
def twins(containers):
    def twins(**env):
        found = []
        for _ in range(2):
            engine = restored(containers, env=env, **HOW)
            engine.wait_for_text("drawn ")
            line = next(line for line in engine.stdout.splitlines() if line.startswith("drawn "))
            found.append(json.loads(line.partition(" ")[2]))
        return found

    return twins


def test_replicas_draw_the_same_numbers_unless_they_are_seeded_anew(containers, twins):
    published(containers, **HOW)
    one, other = twins()
    assert {name for name in one if one[name] == other[name]} == EVERYTHING
    one, other = twins(RESEED="1")
    assert {name for name in one if one[name] != other[name]} == EVERYTHING
