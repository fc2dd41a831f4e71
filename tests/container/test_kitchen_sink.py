"""An engine with one of everything around it: made here, restored where host name, addresses and volumes are others.

One engine holds all of it at once, so that each thing is one request; what it does is in ``messy/``.
"""

import contextlib

import pytest
from containers import CREATE, RESTORE, Containers, network
from elsewhere import HELD, Pair, volume


@pytest.fixture(scope="module")
def restored(tmp_path_factory):
    directory = tmp_path_factory.mktemp("messy")
    with network() as bridge, contextlib.closing(Containers(directory)) as containers:
        pair = Pair(containers)
        volumes = [(f"{volume(directory / name)}:/volume",) for name in ("first", "second")]
        # A shell that waits for the engine is the root of the tree. It locks memory, and says so.
        command = ("python3 /messy --mlock ; echo after",)
        creator = pair.published(
            *HELD, network=bridge, volumes=volumes[0], command=command,
            options=(*CREATE, "--hostname", "first", "--shm-size", "16m"),
        )  # fmt: skip
        assert "messy: listening" in creator.stdout
        container = pair.restored(
            *HELD, network=bridge, volumes=volumes[1], command=command,
            options=(*RESTORE, "--hostname", "second", "--shm-size", "16m"),
        )  # fmt: skip
        yield container


@pytest.mark.parametrize("thing", HELD)
def test_it_works_after_a_restore(restored, thing):
    error = restored.json(f"/check?thing={thing}")["error"]
    assert error is None, error


def test_it_is_the_engine_that_was_created(restored):
    assert "messy: listening" not in restored.stdout


def test_nothing_is_left_beside_the_engines_own_processes(restored):
    """No CRIU, no worker, no helper."""
    lines = [line for line in restored.processes().values() if "criu" in line or "worker" in line]
    assert lines == []
