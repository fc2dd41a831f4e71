"""GPU memory through a checkpoint: real processes, real CRIU, and a driver that keeps its memory elsewhere."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from containers import CREATE, ENGINE, RESTORE, ROOT, Containers
from gpu_containers import create, options, published, restore, restored, volumes
from launcher import ARCHIVE, COMMAND, SETTINGS, SIGNAL
from launcher import published as published_without_gpu
from launcher import restored as restored_without_gpu
from stub_node import Node, gpu, uuid


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
    assert "cache" in creator.event("GPU memory is dumped as it is")["hint"]
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


@pytest.mark.parametrize(
    ("before", "after"),
    [("vllm-sleep", "vllm-wake"), ("sglang-release:8000", "sglang-resume:8000")],
    ids=["vllm", "sglang"],
)
def test_an_engine_sleeps_through_its_checkpoint_and_is_woken(containers, nodes, before, after):
    """What it gave back is not in the archive, and nobody is told "Restored" before it answers as it did."""
    here, there = nodes
    hooks = {"PRE_DUMP": before, "POST_RESTORE": after}
    env = {"GPU_MIB": "8", "CACHE_MIB": "96"}
    asked = canary(containers, "text", {"field": "score", "tolerance": 0.001})
    creator = create(containers, here, env=env, settings={**hooks, **asked, "AFTER_DUMP": "continue"})
    creator.wait_for_event("GPU given back")
    creator.wait(lambda: not creator.json("/is_sleeping")["is_sleeping"], "engine that is woken")
    answer = creator.json("/generate", body=b'{"prompt": "?"}')
    assert sum(device["used_bytes"] for device in manifest(containers)["devices"]) == 8 << 20
    assert not creator.event("GPU memory is dumped as it is")
    creator.kill()

    container = restored(containers, there, settings=hooks)
    assert container.event("canary matched")
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


def gpu_check(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "scripts/lib/gpu_check.py", "--gpu-mib=8", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests/support")}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_gpu_check_measures_and_compares(nodes):
    """The script for real hardware, here over the stub: one GPU, all of them, and another one."""
    given = (*options(nodes[0]), *(part for volume in volumes(nodes[0])[:-1] for part in ("-v", volume)))
    done = gpu_check(*(f"--option={option}" for option in given))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert (found["driver"], len(found["devices"])) == ("580.65.06", 2)
    assert [(this["name"], this["created_on"], this["restored_on"]) for this in found["rounds"]] == [
        ("one GPU", [uuid(1)], [uuid(1)]),
        ("every GPU", [uuid(1), uuid(2)], [uuid(1), uuid(2)]),
        ("another GPU", [uuid(1)], [uuid(2)]),
    ]
    for this in found["rounds"]:
        assert this["identical"]
        assert this["works"]
        assert "gpu" in this["create"]["seconds"]
        assert "gpu" in this["restore"]["seconds"]
        assert (
            len(this["create"]["processes"]) == len(this["restore"]["processes"]) == len(this["created_on"])
        )


def test_gpu_check_goes_on_after_a_round_that_failed(nodes):
    """Its answer is complete, and says where the logs are."""
    nodes[0].faults("checkpoint 1 error=801")
    given = (*options(nodes[0]), *(part for volume in volumes(nodes[0])[:-1] for part in ("-v", volume)))
    done = gpu_check(*(f"--option={option}" for option in given))
    assert done.returncode == 1
    found = {this["name"]: this for this in json.loads(done.stdout)["rounds"]}
    assert [name for name, this in found.items() if this["ok"]] == ["one GPU", "another GPU"]
    assert "CUDA_ERROR_NOT_SUPPORTED" in found["every GPU"]["error"]
    logs = Path(found["every GPU"]["logs"])
    assert list(logs.glob("*/stderr"))
    assert "every GPU" in done.stderr
    shutil.rmtree(logs.parent)


def test_gpu_check_says_so_where_there_is_no_gpu():
    done = gpu_check()
    assert done.returncode == 1
    assert "Is there an NVIDIA GPU" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_device_that_nobody_lets_go_of_is_refused_by_name(containers, nodes):
    """A child forked after cuInit has the descriptors of its parent's context (CRIU's CUDA plugin, README)."""
    creator = create(containers, nodes[0], env={"FORK": "1"})
    assert creator.exit_code() == 171
    event = creator.event("Checkpoint not created")
    assert event["reason"] == "GpuHeld"
    assert "/dev/nvidia0" in event["message"]


@pytest.mark.parametrize("way", ["toolkit", "cdi"])
def test_gpus_that_are_given_by_their_uuids(containers, nodes, way, tmp_path):
    """Restored on the GPU that the new container was given, whatever UUIDs the engine remembers in its environment.

    The engine keeps CUDA_VISIBLE_DEVICES of its creation; what counts is the driver's own list.
    """
    here, there = nodes
    with cdi_kind(way, nodes) as kind:
        creator = given(containers, here, CREATE, uuid(2), kind, SIGNAL)
        assert creator.exit_code() == 0, creator.output()
        assert [device["uuid"] for device in manifest(containers)["devices"]] == [uuid(2)]
        container = given(containers, there, RESTORE, uuid(4), kind, {})
        container.wait_for_event("Restored")
    assert there.memory() == {uuid(4): 16 << 20}
    moved = container.event("GPU moved")
    assert (moved["was"], moved["now"]) == (uuid(2), uuid(4))
    assert container.json("/work") == [1]


@contextlib.contextmanager
def cdi_kind(way, nodes):
    """For CDI, a specification like that of nvidia-ctk, under a kind of its own; else nothing."""
    if way != "cdi":
        yield ""
        return
    if ENGINE == "docker":
        pytest.skip('docker needs {"features": {"cdi": true}} in /etc/docker/daemon.json')
    kind = f"dynamo-entry-{os.getpid()}.test/gpu"
    devices = []
    for node in nodes:
        for line in node.gpus:
            name, minor = "GPU-" + line.split()[1], line.split()[4]
            edits = {
                "deviceNodes": [{"path": f"/dev/nvidia{minor}", "hostPath": "/dev/null"}],
                "env": [f"NVIDIA_VISIBLE_DEVICES={name}"],
            }
            devices.append({"name": name, "containerEdits": edits})
    common = {"deviceNodes": [{"path": "/dev/nvidiactl", "hostPath": "/dev/null"}]}
    specification = {"cdiVersion": "0.3.0", "kind": kind, "devices": devices, "containerEdits": common}
    path = Path(f"/etc/cdi/{kind.replace('/', '-')}.json")
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(specification))
    try:
        yield kind
    finally:
        path.unlink()


def given(containers, node, base, gpu_uuid, kind, settings):
    """A container that was given one GPU by its UUID, and an engine that sees only this one."""
    env = {"CUDA_VISIBLE_DEVICES": gpu_uuid}
    if kind:
        devices = ("--device", f"{kind}={gpu_uuid}")
    else:
        devices = options(node)
        env["NVIDIA_VISIBLE_DEVICES"] = gpu_uuid
    return containers.start(
        "python3", "/gpu_engine.py", options=(*base, *devices), volumes=volumes(node), env=env,
        settings={**SETTINGS, **settings},
    )  # fmt: skip


def test_a_process_that_begins_to_use_cuda_during_a_creation_is_in_the_archive(containers, nodes):
    """Between the locks of the others and their checkpoints."""
    here, there = nodes
    here.faults("checkpoint 0 delay_ms=5000")
    published(containers, here, env={"LATE": "1"})
    assert len(manifest(containers)["processes"]) == 2
    assert [(action, rank) for action, rank, _ in here.actions()] == [
        ("lock", 0), ("checkpoint", 0), ("lock", 1), ("checkpoint", 1),
    ]  # fmt: skip
    container = restored(containers, there)
    assert container.json("/work") == [1, 1]


def test_processes_of_a_launch_job_share_their_file_and_are_asked_one_after_another(containers, nodes):
    """The command of docs/gpu.md. The stub refuses whoever has not the job's file, or asks two at once."""
    here, there = nodes
    here.has_program = True
    text = (ROOT / "docs/gpu.md").read_text()
    documented = text[text.index("cuda-checkpoint --launch-job sh -c") :].partition("```")[0]
    script = documented.partition("'")[2].partition("'")[0].replace("vllm serve …", "python3 /gpu_engine.py")
    creator = create(
        containers, here, env={"RANKS": "3"}, settings={"AFTER_DUMP": "continue", "PRESET": "vllm"},
        command=("cuda-checkpoint", "--launch-job", "sh", "-c", script),
    )  # fmt: skip
    creator.wait_for_event("Checkpoint published")
    assert "NCCL_P2P_DISABLE" not in creator.event("environment preset")
    before = creator.json("/digest")
    creator.kill()
    assert manifest(containers)["job_file"] == "/tmp/cuda-job"
    container = restored(containers, there)
    assert container.json("/digest") == before


def test_a_driver_older_than_the_calls_is_served_by_the_program(containers, tmp_path):
    """NVIDIA's cuda-checkpoint, in the image; the log says which way was taken."""
    node = Node(tmp_path / "node", driver="565.57.01", api=12070, has_program=True)
    creator = create(containers, node, env={"RANKS": "2"}, settings={"AFTER_DUMP": "continue"})
    creator.wait_for_event("Checkpoint published")
    assert creator.event("GPU attached")["way"] == "program"
    before = creator.json("/digest")
    creator.kill()
    assert manifest(containers)["way"] == "program"
    container = restored(containers, node)
    assert container.event("GPU attached")["way"] == "program"
    assert container.json("/digest") == before


def test_an_engine_on_gpus_that_the_launcher_cannot_use_is_refused_by_name(containers, nodes):
    """And not left to CRIU, which would fail on a device file."""
    nodes[0].faults("init -1 error=999")
    creator = create(containers, nodes[0])
    assert creator.exit_code() == 171
    event = creator.event("Checkpoint not created")
    assert event["reason"] == "GpuHeld"
    assert "the launcher cannot use the GPUs" in event["message"]
    assert "999" in event["message"]


def test_a_cold_start_leaves_the_gpus_to_the_engine(containers, nodes):
    """No helper, no word."""
    container = containers.start(
        "python3", "/gpu_engine.py", options=options(nodes[0]), volumes=volumes(nodes[0]),
        settings={"MODE": "cold", "LOG_LEVEL": "debug"},
    )  # fmt: skip
    assert container.json("/work") == [1]
    assert len(container.processes()) == 2
    assert "gpu" not in container.stderr.lower()


def test_doctor_tells_driver_way_and_devices(containers, nodes):
    container = containers.start(
        "sleep", "60", options=(*CREATE, *options(nodes[0])), volumes=volumes(nodes[0]), settings={"MODE": "cold"}
    )  # fmt: skip
    container.wait(lambda: "sleep 60 " in container.processes().values(), "engine")
    said = container.run_inside(
        "/opt/dynamo_entry/bin/dynamo-entryctl", "doctor", "--json", "--for", "create"
    )
    rows = {finding["name"]: finding["value"] for finding in json.loads(said)["findings"]}
    assert rows["NVIDIA driver"] == "580.65.06, CUDA 13.0"
    assert rows["GPU checkpoints"] == "by calls of the driver, restored onto any GPU of the same model"
    assert uuid(1) in rows["GPU 0"]
    assert uuid(2) in rows["GPU 1"]
