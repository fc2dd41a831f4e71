"""What the kernel does not give away of a process: restored all the same, or refused by name."""

import json

import pytest
from containers import RESTORE, ROOT
from launcher import FALLBACK, published, restore

ENGINE = ROOT / "tests" / "container" / "forgotten.py"
VOLUMES = (f"{ENGINE}:/forgotten.py:ro",)


def said(container, word):
    """What the engine says of what it holds."""
    container.wait(lambda: f"{word} " in container.stdout, word)
    line = next(line for line in container.stdout.splitlines() if line.startswith(f"{word} "))
    return json.loads(line.partition(" ")[2])


def command(*arguments):
    return ("python3", "/forgotten.py", *arguments)


def both(containers, *arguments, options=RESTORE):
    """What it said before, and after its restore."""
    creator = published(containers, command=command(*arguments), volumes=VOLUMES)
    container = restore(containers, command=command(*arguments), options=options, volumes=VOLUMES)
    container.wait(lambda: container.event("Restored") or container.event(FALLBACK), "end")
    assert container.event("Restored"), container.output()
    return said(creator, "before"), said(container, "after")


@pytest.mark.parametrize(
    "arguments",
    [
        ("reservation",),
        ("reservation_to_be_read",),
        ("timer_of_an_ended_thread",),
        ("armed_timer_of_an_ended_thread",),
        ("many_descriptors", "1000"),
        ("many_descriptors", "9000"),
    ],
    ids=" ".join,
)
def test_what_the_kernel_does_not_tell_is_restored(containers, arguments):
    before, after = both(containers, *arguments)
    assert after == before
