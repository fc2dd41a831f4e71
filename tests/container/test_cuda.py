"""GPU memory through a checkpoint: real processes, real CRIU, and a driver that keeps its memory elsewhere."""

import json
import signal

import pytest
from gpu_containers import create, published, restored
from harness import Containers
from stub_node import Node, gpu, uuid
from test_spine import ARCHIVE
from test_spine import published as published_without_gpu


@pytest.fixture
def nodes(tmp_path):
    """Two machines with the same kind of GPUs: other ones, with other device nodes."""
    return (
        Node(tmp_path / "node1", gpus=(gpu(1), gpu(2))),
        Node(tmp_path / "node2", gpus=(gpu(3, minor=6), gpu(4, minor=2))),
    )


def manifest(containers: Containers) -> dict:
    from dynamo_entry.archive import Archive
    from dynamo_entry.storage import open_store

    path = containers.checkpoints / ARCHIVE.rpartition("/")[2]
    with Archive.open(open_store(str(path))) as archive:
        return archive.manifest.head.gpu


@pytest.mark.parametrize(
    ("ranks", "host"), [(1, "private"), (4, "memfd")], ids=["one process", "four processes"]
)
def test_gpu_memory_comes_back_on_other_gpus(containers, nodes, ranks, host):
    """Byte for byte, from the archive alone, and CUDA goes on where it was."""
    here, there = nodes
    here.more = (f"host {host}",)
    here.write()
    env = {"RANKS": str(ranks), "GPU_MIB": "24"}
    creator = create(containers, here, env=env, settings={"AFTER_DUMP": "continue"})
    creator.wait_for_event("Checkpoint published")
    creator.wait_for_event("GPU given back")
    before = creator.json("/digest")
    assert creator.json("/work") == [1] * ranks, "the engine that was frozen goes on"
    assert [action for action, _, _ in here.actions()] == [
        word for word in ("lock", "checkpoint", "restore", "unlock") for _ in range(ranks)
    ]
    creator.kill()

    facts = manifest(containers)
    assert (facts["driver"], facts["way"], len(facts["processes"])) == ("580.65.06", "driver", ranks)
    assert [device["uuid"] for device in facts["devices"]] == [uuid(1), uuid(2)]
    assert facts["host_bytes"] >= ranks * 24 << 20
    assert sum(device["used_bytes"] for device in facts["devices"]) == ranks * 24 << 20

    container = restored(containers, there)
    assert [action for action, _, _ in there.actions()] == ["restore"] * ranks + ["unlock"] * ranks
    assert sum(there.memory().values()) == ranks * 24 << 20
    assert set(there.memory()) == {uuid(3), uuid(4)} if ranks > 1 else {uuid(3)}
    assert container.json("/digest") == before
    assert container.json("/work") == [1] * ranks
    seconds = container.event("Restored")["seconds"]
    assert "gpu" in seconds
    rows = [event for event in container.events() if event["event"] == "GPU process restored"]
    assert sorted(row["pid"] for row in rows) == sorted(row["pid"] for row in facts["processes"])
    container.signal(signal.SIGTERM)
    assert container.exit_code() in (0, 143)


def test_attaching_to_the_gpus_overlaps_the_rest_of_a_restore(containers, nodes):
    """The real driver takes 2.7 s for it (NVIDIA/nvcf #263): it begins before the archive is even looked for."""
    here, there = nodes
    published(containers, here)
    there.more = ("init_ms 1000",)
    there.write()
    container = restored(containers, there)
    seconds = container.event("Restored")["seconds"]
    assert seconds["gpu"] < 0.5


def test_an_engine_without_cuda_needs_no_gpu_later(containers, nodes):
    """A GPU that nobody used leaves nothing in the archive."""
    from gpu_containers import options, volumes
    from harness import CREATE
    from test_spine import COMMAND, SETTINGS, SIGNAL
    from test_spine import restored as restored_without_gpu

    creator = containers.start(
        *COMMAND, options=(*CREATE, *options(nodes[0])), volumes=volumes(nodes[0]), settings={**SETTINGS, **SIGNAL}
    )  # fmt: skip
    assert creator.exit_code() == 0, creator.output()
    assert manifest(containers) == {}
    assert restored_without_gpu(containers).json("/health") == {"status": "ok"}


def test_without_a_gpu_nothing_of_it_is_loaded_or_said(containers):
    creator = published_without_gpu(containers, settings={"LOG_LEVEL": "debug"})
    assert not [event for event in creator.events() if "gpu" in json.dumps(event).lower()], creator.output()
