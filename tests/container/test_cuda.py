"""GPU memory through a checkpoint: real processes, real CRIU, and a driver that keeps its memory elsewhere."""

import json
import os
import signal
import subprocess
import sys

import pytest
from gpu_containers import create, options, published, restore, restored, volumes
from harness import CREATE, ROOT, Containers
from stub_node import Node, gpu, uuid
from test_spine import ARCHIVE, COMMAND, SETTINGS, SIGNAL
from test_spine import published as published_without_gpu
from test_spine import restored as restored_without_gpu


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
    listing = container.run_inside("/opt/dynamo_entry/bin/dynamo-entryctl", "inspect", ARCHIVE)
    assert "2 (NVIDIA H100 80GB HBM3), driver 580.65.06" in listing
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


def canary(containers: Containers, *compare) -> dict[str, str]:
    """Settings with a canary that asks the engine to generate."""
    fields = {
        "url": "http://127.0.0.1:8000/generate",
        "body": {"prompt": "The capital of France is"},
        "compare": list(compare),
    }
    (containers.checkpoints / "canary.json").write_text(json.dumps(fields))
    return {"CANARY": "/checkpoints/canary.json"}


def test_an_engine_sleeps_through_its_checkpoint_and_is_woken(containers, nodes):
    """What it gave back is not in the archive, and nobody is told "Restored" before it answers as it did."""
    here, there = nodes
    hooks = {"PRE_DUMP": "vllm-sleep", "POST_RESTORE": "vllm-wake"}
    env = {"GPU_MIB": "8", "CACHE_MIB": "96"}
    asked = canary(containers, "text", {"field": "score", "tolerance": 0.001})
    creator = create(containers, here, env=env, settings={**hooks, **asked, "AFTER_DUMP": "continue"})
    creator.wait_for_event("GPU given back")
    creator.wait(lambda: not creator.json("/is_sleeping")["is_sleeping"], "engine that is woken")
    answer = creator.json("/generate", body=b'{"prompt": "?"}')
    assert sum(device["used_bytes"] for device in manifest(containers)["devices"]) == 8 << 20
    creator.kill()

    container = restored(containers, there, settings=hooks)
    assert container.event("canary answered as at creation")
    assert there.memory() == {uuid(3): (8 + 96) << 20}
    assert container.json("/generate", body=b'{"prompt": "?"}')["text"] == answer["text"]


def test_an_engine_that_answers_otherwise_is_not_restored(containers, nodes):
    here, there = nodes
    published(containers, here, settings=canary(containers, "text"))
    container = restore(containers, there, settings={"POST_RESTORE": "http://127.0.0.1:8000/spoil"})
    event = container.wait_for_event("Falling back to cold start")
    assert (event["phase"], event["reason"]) == ("canary", "CanaryDiffers")
    assert container.json("/work") == [1]
    assert not container.event("Restored")


def test_an_engine_on_gpus_gets_its_preset(containers, nodes):
    """Where unset, and said in the log."""
    script = "import os, time; print({n: os.environ.get(n) for n in ('NCCL_P2P_DISABLE', 'NCCL_NVLS_ENABLE')}, flush=True); time.sleep(60)"
    container = containers.start(
        "python3", "-c", script, options=(*CREATE, *options(nodes[0])), env={"NCCL_NVLS_ENABLE": "1"},
        settings={**SETTINGS, **SIGNAL, "PRESET": "vllm"},
    )  # fmt: skip
    container.wait_for_text("'NCCL_NVLS_ENABLE': '1'")
    assert "'NCCL_P2P_DISABLE': '1'" in container.stdout
    said = container.event("environment preset")
    assert (said["engine"], said["NCCL_P2P_DISABLE"]) == ("vllm", "1")
    assert "NCCL_NVLS_ENABLE" not in said
    assert container.event("option missing")["option"] == "--disable-custom-all-reduce"


def test_an_engine_without_cuda_needs_no_gpu_later(containers, nodes):
    """A GPU that nobody used leaves nothing in the archive."""
    creator = containers.start(
        *COMMAND, options=(*CREATE, *options(nodes[0])), volumes=volumes(nodes[0]), settings={**SETTINGS, **SIGNAL}
    )  # fmt: skip
    assert creator.exit_code() == 0, creator.output()
    assert manifest(containers) == {}
    assert restored_without_gpu(containers).json("/health") == {"status": "ok"}


def test_without_a_gpu_nothing_of_it_is_loaded_or_said(containers):
    creator = published_without_gpu(containers, settings={"LOG_LEVEL": "debug"})
    assert not [event for event in creator.events() if "gpu" in json.dumps(event).lower()], creator.output()


def test_gpu_check_measures_and_compares(nodes):
    """The script for real hardware, here over the stub."""
    given = (*options(nodes[0]), *(part for volume in volumes(nodes[0])[:-1] for part in ("-v", volume)))
    done = subprocess.run(
        [
            sys.executable, ROOT / "scripts/lib/gpu_check.py", "--ranks=2", "--gpu-mib=8",
            *(f"--option={option}" for option in given),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests/container")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["identical"]
    assert found["works"]
    assert (found["driver"], found["gpus"]) == ("580.65.06", 2)
    assert "gpu" in found["restore"]["seconds"]
    assert len(found["create"]["processes"]) == len(found["restore"]["processes"]) == 2


def test_a_device_that_nobody_lets_go_of_is_refused_by_name(containers, nodes):
    """A child forked after cuInit has the descriptors of its parent's context (CRIU's CUDA plugin, README)."""
    creator = create(containers, nodes[0], env={"FORK": "1"})
    assert creator.exit_code() == 171
    event = creator.event("Checkpoint not created")
    assert event["reason"] == "GpuHeld"
    assert "/dev/nvidia0" in event["message"]
