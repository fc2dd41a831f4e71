"""Parts of a launcher are killed at random moments, under another init, which cleans up nothing."""

import os
from pathlib import Path

import pytest
from containers import CREATE
from gate import SCRATCH
from launcher import NAME, SETTINGS, SIGNAL, assert_all_or_nothing, published

PLAYER = Path(__file__).parent / "at_random.py"

#: What a restored engine reads, and what CRIU is asked by, beside the scratch files that say nothing to a later attempt.
THEIRS = {"dynamo_entry", "context.json", "lazy-pages.socket"}

ROUNDS = int(os.environ.get("ROUNDS", "8"))


@pytest.mark.parametrize("verb", ["restore", "create"])
def test_whatever_is_killed_at_any_moment_the_pod_serves_and_nothing_is_left(containers, verb):
    """Or the launcher itself was killed. SEED repeats the choices, not their moments."""
    seed = os.environ.get("SEED") or str(int.from_bytes(os.urandom(4), "big"))
    settings = {**SETTINGS, "STATUS_FILE": "/checkpoints/status"}
    if verb == "create":
        settings |= {**SIGNAL, "MODE": "create", "AFTER_DUMP": "continue", "FORCE": "1"}
    published(containers)
    names = ",".join({*SCRATCH, *THEIRS, *(Path(name).name for name in SCRATCH)})
    container = containers.start(
        "/at_random.py", verb, seed, str(ROUNDS), names, settings=settings,
        options=(*CREATE, "-v", f"{PLAYER}:/at_random.py:ro", "--entrypoint", "/usr/bin/python3"),
    )  # fmt: skip
    assert container.exit_code(200) == 0, f"seed {seed}\n{container.output()}"
    assert container.stdout.count("ok\n") == ROUNDS, container.output()
    assert assert_all_or_nothing(containers) or verb == "create", NAME
