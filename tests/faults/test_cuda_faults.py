"""Whatever goes wrong with a GPU: the engine serves on, or the pod starts cold, and no process stays locked."""

import os
import shutil
import signal
import time

import gpu_containers
import pytest
from containers import RESTORE, Containers
from gpu_containers import create, published, restore
from launcher import ARCHIVE, FALLBACK, assert_all_or_nothing, doctor, worker_of
from stub_node import Node, gpu

RANKS = {"RANKS": "4", "GPU_MIB": "4"}
SOON = {"GPU_TIMEOUT": "1"}


@pytest.fixture
def node(tmp_path):
    return Node(tmp_path / "node", gpus=(gpu(1), gpu(2)))


def helper_of(container):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for pid, line in container.processes().items():
            if "dynamo_entry.cuda.helper" in line:
                return pid
        time.sleep(0.01)
    raise AssertionError(f"no GPU helper\n{container.output()}")


def assert_nothing_is_locked(node, ranks=range(4)):
    """The last that every rank was told is to go on, if it was ever told anything."""
    last = {rank: action for action, rank, result in node.actions() if result == 0}
    assert {last.get(rank, "unlock") for rank in ranks} == {"unlock"}, node.actions()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("lock 2 error=600", "GpuBusy"),
        ("checkpoint 2 error=304", "GpuCheckpointFailed"),
        ("checkpoint 1 deaf", "GpuCallHangs"),
        ("tid 3 error=304", "GpuTidFailed"),
        ("lock 3 error=3", "GpuHeld"),
    ],
    ids=["lock timeout", "checkpoint of the third fails", "call hangs", "driver refuses", "no context"],
)
def test_a_creation_that_fails_leaves_a_serving_engine(containers, node, fault, reason):
    node.faults(fault)
    container = create(containers, node, env=RANKS, settings={**SOON, "AFTER_DUMP": "continue"})
    event = container.wait_for_event("Checkpoint not created")
    assert (event["phase"], event["reason"]) == ("gpu", reason)
    assert container.json("/work") == [1] * 4
    assert_nothing_is_locked(node)
    assert not assert_all_or_nothing(containers)


def test_ranks_that_block_each_other_are_disentangled(containers, node):
    """NVIDIA/cuda-checkpoint #30: with one NCCL rank locked, every call on the others hangs."""
    node.more = ("coupled",)
    node.write()
    container = create(
        containers, node, env={"RANKS": "3", "GPU_MIB": "4"}, settings={**SOON, "AFTER_DUMP": "continue"}
    )  # fmt: skip
    event = container.wait_for_event("Checkpoint not created")
    assert event["reason"] == "GpuCallHangs"
    assert container.json("/work") == [1] * 3
    assert_nothing_is_locked(node, ranks=range(3))
    assert not assert_all_or_nothing(containers)


def test_a_lost_helper_is_replaced(containers, node):
    """Killed between the locks and the checkpoints."""
    node.faults("checkpoint * delay_ms=3000")
    container = create(containers, node, env=RANKS, settings={"AFTER_DUMP": "continue"})
    container.wait(lambda: "lock" in {action for action, _, _ in node.actions()}, "a lock")
    os.kill(helper_of(container), signal.SIGKILL)
    assert container.wait_for_event("Checkpoint not created")["reason"] == "GpuHelperLost"
    assert container.json("/work") == [1] * 4
    assert_nothing_is_locked(node)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hangs"])
@pytest.mark.parametrize("phase", ["gpu", "dump"])
def test_a_lost_worker_leaves_nothing_locked(containers, node, phase, number):
    """While calls of the driver are under way, and while CRIU has the tasks."""
    node.faults("checkpoint * delay_ms=500")
    env = {"RANKS": "4", "GPU_MIB": "4" if phase == "gpu" else "128"}
    container = create(
        containers, node, env=env, settings={"AFTER_DUMP": "continue", "STALL_TIMEOUT": "1"}
    )  # fmt: skip
    if phase == "gpu":
        container.wait(lambda: "lock" in {action for action, _, _ in node.actions()}, "a lock")
    else:
        container.wait_for_event("gpu")
    os.kill(worker_of(container), number)
    event = container.wait_for_event("Checkpoint not created")
    assert event["reason"] == "WorkerLost"
    assert container.json("/work") == [1] * 4
    assert_nothing_is_locked(node)
    assert not assert_all_or_nothing(containers)


def test_a_dump_that_fails_gives_the_gpus_back(containers, node):
    """CRIU dies while it has the tasks, whose GPU memory is in host memory by then."""
    container = create(
        containers, node, env={"RANKS": "4", "GPU_MIB": "48"},
        settings={"AFTER_DUMP": "continue", "COMPRESSION": "none"},
    )  # fmt: skip
    victim = container.wait(
        lambda: next((pid for pid, line in container.processes().items() if "criu dump" in line), 0), "criu"
    )
    os.kill(victim, signal.SIGKILL)
    event = container.wait_for_event("Checkpoint not created")
    assert event["phase"] == "dump"
    assert container.event("GPU given back")
    assert container.json("/work") == [1] * 4
    assert_nothing_is_locked(node)
    assert not assert_all_or_nothing(containers)


def test_a_rank_that_dies_while_locked(containers, node):
    node.faults("checkpoint 1 die")
    container = create(containers, node, env=RANKS, settings={"AFTER_DUMP": "continue"})
    assert container.wait_for_event("Checkpoint not created")["reason"] == "GpuCheckpointFailed"
    assert container.json("/health") == {"status": "ok"}
    assert_nothing_is_locked(node, ranks=(0, 2, 3))


def test_an_engine_that_stays_locked_is_ended(containers, node):
    """Better a pod that is started again than one that looks alive and never answers."""
    node.faults("checkpoint 1 hang")
    container = create(containers, node, env=RANKS, settings={**SOON, "AFTER_DUMP": "continue"})
    assert container.exit_code() != 0
    ended = container.event("engine ended: GPU state lost")
    assert "does not answer" in ended["why"]
    assert not assert_all_or_nothing(containers)


def test_sigterm_while_the_gpus_are_checkpointed(containers, node):
    node.faults("checkpoint * delay_ms=1000")
    container = create(containers, node, env=RANKS)
    container.wait(lambda: "lock" in {action for action, _, _ in node.actions()}, "a lock")
    container.signal(signal.SIGTERM)
    assert container.exit_code(20) == 128 + signal.SIGTERM
    assert_nothing_is_locked(node)
    assert not assert_all_or_nothing(containers)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """An archive of four ranks on two GPUs, made once."""
    directory = tmp_path_factory.mktemp("archive")
    makers = Containers(directory)
    published(makers, Node(directory / "node", gpus=(gpu(1), gpu(2))), env=RANKS)
    makers.close()
    return makers.checkpoints


@pytest.fixture
def stored(containers, archive):
    shutil.copytree(archive, containers.checkpoints, dirs_exist_ok=True)
    return containers


def assert_cold(container, node, phase, reason):
    """The engine that answers was started cold, and nothing of the one that was not restored is left."""
    event = container.wait_for_event(FALLBACK)
    assert (event["phase"], event["reason"]) == (phase, reason), event
    assert container.json("/work") == [1] * 4
    assert not container.event("Restored")
    pids = container.json("/pids")
    assert max(pids) < 1000, "no pid of a restored engine"
    assert sum(node.memory(pids).values()) == 4 * 4 << 20
    servers = [line for line in container.processes().values() if line.startswith("python3 /gpu_engine.py")]
    assert len(servers) == 1, servers


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("restore 0 error=2", "GpuMemoryShort"),
        ("restore 1 error=1", "GpuRestoreFailed"),
        ("restore 2 hang", "GpuCallHangs"),
        ("restore 3 die", "GpuRestoreFailed"),
        ("unlock 1 error=401", "GpuUnlockFailed"),
    ],
    ids=["out of memory", "wrong uuid", "call hangs", "process dies", "unlock fails"],
)
def test_a_restore_that_fails_starts_cold(stored, node, fault, reason):
    node.faults(fault)
    container = restore(stored, node, settings=SOON, env=RANKS)
    assert_cold(container, node, "gpu", reason)


def test_a_restore_of_gpus_that_takes_too_long_starts_cold(stored, node):
    """RESTORE_TIMEOUT holds for the driver's part, too."""
    node.faults("restore 2 delay_ms=60000 once")
    container = restore(stored, node, settings={"RESTORE_TIMEOUT": "2"}, env=RANKS)
    assert_cold(container, node, "gpu", "WorkerLost")


def test_a_lost_helper_starts_cold(stored, node):
    node.faults("restore * delay_ms=3000 once")
    container = restore(stored, node, env=RANKS)
    container.wait_for_event("restore")
    os.kill(helper_of(container), signal.SIGKILL)
    assert_cold(container, node, "gpu", "GpuHelperLost")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"driver": "570.86.10"}, "DriverDiffers"),
        ({"gpus": (gpu(1),)}, "GpuCountDiffers"),
        ({"gpus": (gpu(5, name="NVIDIA_L4"), gpu(6, name="NVIDIA_L4"))}, "GpuModelDiffers"),
        ({"gpus": (gpu(5, mib=128), gpu(6, mib=128))}, "GpuMemoryDiffers"),
        ({"gpus": (gpu(1, mig=True), gpu(2))}, "Mig"),
        ({"gpus": (gpu(5), gpu(6)), "api": 12080}, "GpuDiffers"),
        ({"occupied": True}, "GpuMemoryShort"),
    ],
    ids=["driver", "count", "model", "memory", "mig", "another gpu with an old driver", "occupied"],
)
def test_gpus_that_do_not_fit_are_refused_before_any_data_is_read(stored, node, change, reason):
    """Property and both values; the archive's chunks are not touched."""
    if change.pop("occupied", False):
        node.occupy(1, 250)
    for name, value in change.items():
        setattr(node, name, value)
    node.write()
    container = restore(stored, node, env={"RANKS": "1", "GPU_MIB": "1"})
    event = container.wait_for_event(FALLBACK)
    assert (event["phase"], event["reason"]) == ("check", reason), event
    assert container.json("/work") == [1]
    assert not container.event("delta")


def test_an_archive_with_gpu_memory_is_refused_where_there_is_no_gpu(stored):
    container = stored.start(
        "python3", "-c", "import time; time.sleep(60)",
        settings={"PATH": "/checkpoints/d936422b4f953f99.tar", "HASH": "d936422b4f953f99"},
        options=("--cap-add", "CHECKPOINT_RESTORE", "--cap-add", "SYS_PTRACE"),
    )  # fmt: skip
    event = container.wait_for_event(FALLBACK)
    assert (event["phase"], event["reason"]) == ("check", "GpuMissing")


def test_doctor_compares_the_gpus_as_well(stored, node):
    def asked(*given):
        volumes = (f"{stored.checkpoints}:/checkpoints", *gpu_containers.volumes(node))
        _, report, rows = doctor(ARCHIVE, options=(*RESTORE, *given), volumes=volumes)
        assert not report["restore"]
        return rows["GPUs fit"]["value"]

    assert asked() == "GpuMissing"
    node.gpus = (gpu(1),)
    node.write()
    assert asked(*gpu_containers.options(node)) == "GpuCountDiffers"


def test_a_mig_slice_is_refused_before_the_engine_is_waited_for(containers, node):
    node.gpus = (gpu(1, mig=True),)
    node.write()
    container = create(containers, node, env={"GPU_MIB": "1"})
    assert container.exit_code() == 171
    event = container.event("Checkpoint not created")
    assert event["reason"] == "Mig"
