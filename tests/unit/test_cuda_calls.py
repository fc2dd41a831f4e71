"""The helper, the driver and both sequences, against real processes that use the stub driver."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request

import pytest
import stub_node
from servers.process import wait_for
from stub_node import Node, gpu, uuid

from dynamo_entry import cuda
from dynamo_entry.ctl import doctor as gpu_ctl
from dynamo_entry.cuda import client, recovery
from dynamo_entry.cuda import session as session_module
from dynamo_entry.cuda.abi import State
from dynamo_entry.cuda.creation import Creation
from dynamo_entry.cuda.facts import Device
from dynamo_entry.cuda.restoration import Restoration
from dynamo_entry.cuda.session import Session
from dynamo_entry.errors import DumpFailed, Incompatible, NotDumpable, RestoreFailed


class Channel:
    """The worker's, as far as the sequences use it."""

    def __init__(self):
        self.log = self
        self.lines = []
        self.fields = {}

    def info(self, event, **fields):
        self.lines.append((event, fields))

    error = info

    @contextlib.contextmanager
    def phase(self, name, **_limits):
        yield self

    @contextlib.contextmanager
    def shielded(self):
        yield


class Engine:
    def __init__(self, environment):
        self.process = subprocess.Popen(
            [sys.executable, str(stub_node.ENGINE)],
            env={**os.environ, "PORT": "0", **environment},
            stdout=subprocess.PIPE,
            text=True,
        )
        self.port = int(self.process.stdout.readline().split()[-1])

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as response:
            return json.load(response)

    def pids(self):
        listed = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(self.process.pid)], capture_output=True, text=True, check=False
        ).stdout.split()
        return [self.process.pid, *map(int, listed)]

    def end(self):
        for pid in self.pids():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def node(tmp_path, monkeypatch):
    monkeypatch.setenv("LD_LIBRARY_PATH", str(stub_node.build()))
    monkeypatch.setenv("STUB_CUDA", str(tmp_path / "node"))
    return Node(tmp_path / "node", gpus=(gpu(1), gpu(2)))


@pytest.fixture
def start():
    started = []

    def start_engine(**environment):
        started.append(Engine({name: str(value) for name, value in environment.items()}))
        return started[-1]

    yield start_engine
    for engine in started:
        engine.end()


@pytest.fixture
def session(node):
    sessions = []

    def open_session(limit_s=5.0):
        sessions.append(Session(lambda: None, limit_s))
        return sessions[-1]

    yield open_session
    for opened in sessions:
        opened.close()


def test_the_helper_says_what_is_there(node, session, monkeypatch):
    """All GPUs, whatever view of them the engine was given."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    here = session().present()
    assert (here.driver, here.api, here.way) == ("580.65.06", 13000, "driver")
    assert [device.uuid for device in here.devices] == [uuid(1), uuid(2)]
    assert here.devices[0] == Device(
        ordinal=0, uuid=uuid(1), name="NVIDIA H100 80GB HBM3", compute="9.0", memory_bytes=256 << 20,
        free_bytes=256 << 20, minor=0,
    )  # fmt: skip


def test_what_is_in_use_on_all_gpus_is_known(node, session):
    node.occupy(1, 200)
    assert session().used_bytes() == 200 << 20


def frozen(session, engine, channel=None):
    return Creation(session, channel or Channel()).frozen(engine.pids)


@pytest.mark.parametrize("ranks", [1, 4])
def test_all_are_locked_before_one_is_checkpointed_and_all_come_back(node, start, session, ranks):
    engine = start(RANKS=ranks)
    before = engine.get("/digest")
    with frozen(session(), engine) as facts:
        assert [action for action, _, _ in node.actions()] == ["lock"] * ranks + ["checkpoint"] * ranks
        assert node.memory() == {}, "nothing is left on the GPUs"
        assert [row["pid"] for row in facts["processes"]] == sorted(engine.get("/pids"))
        assert facts["host_bytes"] >= ranks * 16 << 20
        assert sum(device["used_bytes"] for device in facts["devices"]) == ranks * 16 << 20
    assert [action for action, _, _ in node.actions()][2 * ranks :] == ["restore"] * ranks + [
        "unlock"
    ] * ranks
    assert engine.get("/digest") == before
    assert engine.get("/work") == [1] * ranks


def test_what_uses_no_cuda_is_left_alone(node, session):
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        with Creation(session(), Channel()).frozen(lambda: [sleeper.pid]) as facts:
            assert facts == {}
        assert node.calls() == []
    finally:
        sleeper.kill()
        sleeper.wait()


def test_a_child_that_was_forked_after_cuinit_has_no_context(node, start, session):
    engine = start(FORK=1)
    with frozen(session(), engine) as facts:
        assert [row["pid"] for row in facts["processes"]] == engine.get("/pids")


def test_a_process_that_began_to_use_cuda_and_has_no_context_is_left_alone(node, start, session):
    """Of one that only asked how many GPUs there are the lock says so (llm-d-rl-time-slicing #148)."""
    engine = start(RANKS=3, GPU_MIB=1)
    node.faults("lock 1 error=3")
    with frozen(session(), engine) as facts:
        pids = engine.get("/pids")
        assert [row["pid"] for row in facts["processes"]] == sorted([pids[0], pids[2]])
    assert engine.get("/work") == [1] * 3


def test_a_process_that_appears_late_is_frozen_too(node, start, session):
    """It calls cuInit while the others are being checkpointed."""
    node.faults("checkpoint 0 delay_ms=2500")
    engine = start(LATE=1)
    with frozen(session(10), engine) as facts:
        assert len(facts["processes"]) == 2
        assert node.memory() == {}
    engine.get("/work")


@pytest.mark.parametrize("host", ["private", "memfd"])
def test_calls_run_side_by_side(node, start, session, host):
    node.more = (f"host {host}",)
    node.write()
    engine = start(RANKS=4, GPU_MIB=1)
    node.faults("checkpoint * delay_ms=2000")
    began = time.monotonic()
    with frozen(session(), engine):
        assert time.monotonic() - began < 4 * 2


def test_processes_of_a_launch_job_are_handled_one_after_another(node, start, session, tmp_path):
    job = tmp_path / "job"
    job.touch()
    engine = start(RANKS=3, GPU_MIB=1, CUDA_CHECKPOINT_JOB_FILE=job)
    node.faults("checkpoint * delay_ms=300")
    began = time.monotonic()
    with frozen(session(), engine) as facts:
        assert time.monotonic() - began > 3 * 0.3
        assert facts["job_file"] == str(job)


@pytest.mark.parametrize(
    ("fault", "reason", "text"),
    [
        ("checkpoint 2 error=304", "GpuCheckpointFailed", "CUDA_ERROR_OPERATING_SYSTEM (304)"),
        ("checkpoint 2 error=801", "GpuCheckpointFailed", "docs/gpu.md"),
        ("lock 2 error=600", "GpuBusy", "PRE_DUMP"),
        ("tid 2 error=304", "GpuTidFailed", "CAP_SYS_PTRACE"),
    ],
)
def test_one_failure_of_four_takes_everything_back(node, start, session, fault, reason, text):
    engine = start(RANKS=4, GPU_MIB=1)
    before = engine.get("/digest")
    node.faults(fault)
    with pytest.raises(DumpFailed) as caught, frozen(session(), engine):
        pass
    assert caught.value.reason == reason
    assert text in str(caught.value)
    assert f"process {engine.get('/pids')[2]}" in caught.value.message
    assert engine.get("/digest") == before
    assert engine.get("/work") == [1] * 4


def test_a_lock_that_cannot_be_had_is_given_up_in_time(node, start, session):
    engine = start(GPU_MIB=1)
    engine.get("/busy?ms=60000")
    began = time.monotonic()
    with pytest.raises(DumpFailed) as caught, frozen(session(0.5), engine):
        pass
    assert time.monotonic() - began < 5
    assert caught.value.reason == "GpuBusy"
    assert session().states(engine.get("/pids")) == {engine.process.pid: State.RUNNING}


def test_ranks_that_block_each_other_are_disentangled(node, start, session):
    """NVIDIA/cuda-checkpoint #30: with one NCCL rank locked, calls on the others hang, and go on later."""
    node.more = ("coupled",)
    node.write()
    engine = start(RANKS=3, GPU_MIB=1)
    with pytest.raises(DumpFailed) as caught, frozen(session(1), engine):
        pass
    assert caught.value.reason == "GpuCallHangs"
    assert engine.get("/work") == [1] * 3
    assert set(session().states(engine.get("/pids")).values()) == {State.RUNNING}


def test_a_lost_helper_is_replaced_and_everything_taken_back(node, start, session):
    engine = start(RANKS=2, GPU_MIB=1)
    opened = session()
    node.faults("checkpoint 1 deaf")
    opened._given_limit_s = 1
    with pytest.raises(DumpFailed) as caught, frozen(opened, engine):
        pass
    assert caught.value.reason == "GpuCallHangs"
    assert engine.get("/work") == [1, 1]


def test_a_lock_that_is_under_way_when_the_helper_is_lost_is_waited_for(node, start, session, monkeypatch):
    """The process answers no question until the driver has the lock, or gives it up at its own limit."""
    monkeypatch.setattr(session_module, "_QUICK_LIMIT_S", 0.3)
    engine = start(GPU_MIB=1)
    engine.get("/busy?ms=3000")
    opened = session(0)
    opened.present()
    killer = threading.Timer(0.5, os.kill, (opened._helper.pid, signal.SIGKILL))
    killer.start()
    with pytest.raises(DumpFailed) as caught, frozen(opened, engine):
        pass
    killer.join()
    assert caught.value.reason == "GpuHelperLost"
    assert engine.get("/work") == [1]


@pytest.mark.parametrize("fault", ["checkpoint 1 hang", "checkpoint 1 error=999 state=failed"])
def test_an_engine_that_cannot_be_helped_is_ended(node, start, session, fault):
    """A rank that is lost would keep the whole engine waiting for ever."""
    engine = start(RANKS=2, GPU_MIB=1)
    node.faults(fault)
    channel = Channel()
    with pytest.raises(DumpFailed), frozen(session(0.5), engine, channel):
        pass
    assert engine.process.wait(5) == -signal.SIGKILL
    assert "engine ended: GPU state lost" in [event for event, _ in channel.lines]


def test_a_process_that_dies_while_locked_does_not_keep_the_others(node, start, session):
    engine = start(RANKS=3, GPU_MIB=1)
    pids = engine.get("/pids")
    node.faults("checkpoint 1 die")
    with pytest.raises(DumpFailed) as caught, frozen(session(), engine):
        pass
    assert f"process {pids[1]}" in caught.value.message
    assert set(session().states([pids[0], pids[2]]).values()) == {State.RUNNING}


@pytest.mark.parametrize("is_job", [False, True], ids=["plain", "launch job"])
def test_what_somebody_else_left_locked_is_recovered(node, start, session, tmp_path, is_job):
    """A worker that was killed cannot take back what it did."""
    (tmp_path / "job").touch()
    engine = start(RANKS=2, GPU_MIB=1, **({"CUDA_CHECKPOINT_JOB_FILE": tmp_path / "job"} if is_job else {}))
    Creation(session(), Channel())._freeze(engine.pids, {}, {})
    assert node.memory() == {}
    Creation(session(), Channel()).recover(engine.pids)
    assert engine.get("/work") == [1, 1]


def test_a_restore_goes_to_the_gpus_that_are_there(node, start, session):
    """Onto others, in exchanged places, by pairs for every GPU that was visible."""
    engine = start(RANKS=2)
    before = engine.get("/digest")
    creation = Creation(session(), Channel())
    recorded = creation._freeze(engine.pids, {}, {})
    node.gpus = (gpu(4), gpu(3))
    node.write()
    restoration = Restoration(session(), Channel())
    restoration.check(recorded)
    restoration.thaw()
    assert node.memory() == {uuid(3): 16 << 20, uuid(4): 16 << 20}
    assert engine.get("/digest") == before


@pytest.mark.parametrize(
    ("fault", "reason"), [("error=1", "GpuRestoreFailed"), ("error=2", "GpuMemoryShort")]
)
def test_a_restore_that_fails_is_not_tried_again(node, start, session, fault, reason):
    engine = start(GPU_MIB=1)
    recorded = Creation(session(), Channel())._freeze(engine.pids, {}, {})
    node.faults(f"restore 0 {fault}")
    restoration = Restoration(session(), Channel())
    restoration.check(recorded)
    with pytest.raises(RestoreFailed) as caught:
        restoration.thaw()
    assert caught.value.reason == reason
    assert "its CUDA state is CHECKPOINTED" in caught.value.message
    assert [action for action, _, _ in node.actions()].count("restore") == 1


def test_no_gpu_that_can_be_used_is_no_error_for_a_creation(node, session, monkeypatch):
    node.gpus = ()
    node.write()
    creation = Creation(session(), Channel())
    creation.check()
    with creation.frozen(lambda: [os.getpid()]) as facts:
        assert facts == {}


def test_no_gpu_that_can_be_used_refuses_a_restore(node, session):
    node.gpus = ()
    node.write()
    with pytest.raises(Incompatible) as caught:
        Restoration(session(), Channel()).check({"driver": "580.65.06", "api": 13000})
    assert caught.value.reason == "GpuMissing"


def test_mig_is_refused_by_name(node, session):
    node.gpus = (gpu(1, mig=True),)
    node.write()
    with pytest.raises(NotDumpable) as caught:
        Creation(session(), Channel()).check()
    assert caught.value.reason == "Mig"


def test_a_gpu_that_moved_in_the_order_is_mapped(node, start, session):
    """Without a map the driver goes by the place in the list (NVIDIA/cuda-checkpoint #46)."""
    engine = start(RANKS=2)
    recorded = Creation(session(), Channel())._freeze(engine.pids, {}, {})
    node.gpus = (gpu(3), gpu(2), gpu(1))
    node.write()
    restoration = Restoration(session(), Channel())
    restoration.check(recorded)
    restoration.thaw()
    assert node.memory() == {uuid(1): 16 << 20, uuid(2): 16 << 20}


def test_a_restore_says_which_way_is_taken_and_which_gpus_moved(node, start, session):
    engine = start(RANKS=2)
    recorded = Creation(session(), Channel())._freeze(engine.pids, {}, {})
    node.gpus = (gpu(1), gpu(4))
    node.write()
    channel = Channel()
    restoration = Restoration(session(), channel)
    restoration.check(recorded)
    (attached, fields), moved = channel.lines
    assert (attached, fields["driver"], fields["way"], fields["gpus"]) == (
        "GPU attached",
        "580.65.06",
        "driver",
        2,
    )
    assert moved == ("GPU moved", {"was": uuid(2), "now": uuid(4)})


def test_a_child_that_ends_while_it_is_asked_is_no_failure(node, start, session):
    """It is in the list of pids, and gone when its turn comes."""
    engine = start(GPU_MIB=1, RANKS=2)
    node.faults("tid 1 die")
    gone = engine.get("/pids")[1]
    listed = engine.pids()
    with Creation(session(), Channel()).frozen(lambda: listed) as facts:
        assert [row["pid"] for row in facts["processes"]] == [engine.process.pid]
    assert gone != engine.process.pid


def test_calls_are_waited_for_as_long_as_the_memory_in_use_needs(node, start, session):
    """Not as long as all memory of all GPUs would: a hang has to be noticed."""
    engine = start(GPU_MIB=64)
    opened = session(0)
    recorded = Creation(opened, Channel())._freeze(engine.pids, {}, {})
    assert opened.limit_s("checkpoint") == pytest.approx(60 + 2 / 16, abs=0.01)
    opened = session(0)
    Restoration(opened, Channel()).check(recorded)
    assert opened.limit_s("restore") == pytest.approx(60 + 2 / 16, abs=0.05)


class TestOlderDriver:
    """A driver without the calls: NVIDIA's program does it, or nothing."""

    @pytest.fixture
    def old(self, node, tmp_path, monkeypatch):
        libraries = tmp_path / "old"
        libraries.mkdir()
        shutil.copy(stub_node.BUILT / "libcuda-old.so.1", libraries / "libcuda.so.1")
        shutil.copy(stub_node.BUILT / "libnvidia-ml.so.1", libraries)
        monkeypatch.setenv("LD_LIBRARY_PATH", str(libraries))
        monkeypatch.setenv("STUB_CUDA_LIBRARY", str(stub_node.BUILT / "libcuda.so.1"))
        node.driver, node.api = "565.57.01", 12070
        node.write()
        return node

    def test_the_program_is_used_where_it_is(self, old, start, session, monkeypatch):
        monkeypatch.setenv("PATH", f"{stub_node.BUILT}:{os.environ['PATH']}")
        engine = start(RANKS=2, GPU_MIB=1)
        before = engine.get("/digest")
        opened = session()
        channel = Channel()
        creation = Creation(opened, channel)
        creation.check()
        attached, fields = channel.lines[0]
        assert (attached, fields["way"]) == ("GPU attached", "program")
        with creation.frozen(engine.pids) as facts:
            assert facts["way"] == "program"
            assert old.memory() == {}
        assert engine.get("/digest") == before

    def test_its_failures_are_told_as_the_drivers(self, old, start, session, monkeypatch):
        monkeypatch.setenv("PATH", f"{stub_node.BUILT}:{os.environ['PATH']}")
        engine = start(GPU_MIB=1)
        old.faults("lock 0 error=600")
        with pytest.raises(DumpFailed) as caught, frozen(session(), engine):
            pass
        assert caught.value.reason == "GpuBusy"

    def test_without_it_the_creation_is_refused(self, old, session):
        with pytest.raises(NotDumpable) as caught:
            Creation(session(), Channel()).check()
        assert caught.value.reason == "DriverTooOld"
        assert "565.57.01" in caught.value.message

    def test_without_it_a_restore_is_refused(self, old, start, session, monkeypatch):
        """The archive was made where the program was: here nothing could bring the GPU memory back."""
        monkeypatch.setenv("PATH", f"{stub_node.BUILT}:{os.environ['PATH']}")
        engine = start(GPU_MIB=1)
        recorded = Creation(session(), Channel())._freeze(engine.pids, {}, {})
        monkeypatch.setenv("PATH", os.environ["PATH"].partition(":")[2])
        with pytest.raises(Incompatible) as caught:
            Restoration(session(), Channel()).check(recorded)
        assert caught.value.reason == "DriverTooOld"

    def test_a_program_that_hangs_ends_with_the_helper(self, old, start, monkeypatch):
        """Else it might act when everything has been taken back."""
        monkeypatch.setenv("PATH", f"{stub_node.BUILT}:{os.environ['PATH']}")
        engine = start(GPU_MIB=1)
        old.faults("lock 0 deaf")
        helper = client.Helper(lambda: None)
        helper.facts()
        with pytest.raises(client.Unanswered):
            helper.ask("lock", [engine.process.pid], limit_s=0.5, timeout_ms=100)
        # It gets its SIGKILL when the helper ends, and ends a moment later.
        wait_for(
            lambda: f"{stub_node.BUILT}/cuda-checkpoint --action lock" not in running_commands(), "end of the program", 10
        )  # fmt: skip


def running_commands():
    return subprocess.run(["ps", "-eo", "args="], capture_output=True, text=True, check=True).stdout


def test_a_launch_job_of_the_launcher_itself_is_not_the_helpers(node, monkeypatch):
    """Its job file is a descriptor that the helper has not."""
    monkeypatch.setenv("CUDA_CHECKPOINT_JOB_FILE", "/proc/self/fd/99")
    helper = client.Helper(lambda: None)
    helper.facts()
    with open(f"/proc/{helper.pid}/environ", "rb") as file:
        assert b"CUDA_CHECKPOINT_JOB_FILE" not in file.read()
    helper.kill()


def test_a_helper_that_cannot_be_killed_is_left_behind(node, start):
    """A call may hang where the kernel heeds no signal: nobody waits for its end."""
    engine = start(GPU_MIB=1)
    node.faults("lock 0 deaf")
    helper = client.Helper(lambda: None)
    helper.facts()
    os.kill(helper.pid, signal.SIGSTOP)
    real, client.os.killpg = client.os.killpg, lambda *_: None
    try:
        began = time.monotonic()
        with pytest.raises(client.Unanswered, match="in time"):
            helper.ask("lock", [engine.process.pid], limit_s=0.2, timeout_ms=100)
        assert time.monotonic() - began < 5
    finally:
        client.os.killpg = real
        helper.kill()


def test_what_the_helper_cannot_do_is_a_failure_and_not_a_silence(node, start):
    engine = start(GPU_MIB=1)
    helper = client.Helper(lambda: None)
    helper.facts()
    answer = helper.ask("restore", [engine.process.pid], limit_s=5, pairs=[("nonsense", uuid(1))])
    assert answer[engine.process.pid].code == 999
    assert "ValueError" in answer[engine.process.pid].name
    helper.kill()


def test_a_driver_that_no_helper_can_attach_to_any_more_is_not_tried_for_ever(
    node, start, session, monkeypatch
):
    """The engine cannot be helped then, and is ended; every further attempt would take minutes."""
    monkeypatch.setattr(client.Helper.facts, "__defaults__", (0.5,))
    engine = start(GPU_MIB=1)
    opened = session(0.5)
    opened.present()
    node.faults("lock 0 deaf")
    node.more = ("init_ms 60000",)
    node.write()
    began = time.monotonic()
    with pytest.raises(DumpFailed), frozen(opened, engine):
        pass
    assert time.monotonic() - began < 10
    assert engine.process.wait(5) == -signal.SIGKILL


def test_a_helper_that_does_not_attach_in_time_is_killed(node):
    node.more = ("init_ms 60000",)
    node.write()
    helper = client.Helper(lambda: None)
    with pytest.raises(client.Unanswered, match="in time"):
        helper.facts(limit_s=0.5)
    assert not os.path.exists(f"/proc/{helper.pid}")


def test_gpu_check_without_containers_makes_the_drivers_calls_alone(node):
    """There and back, and with the GPUs exchanged: for a machine that has GPUs and nothing else."""
    root = stub_node.HERE.parents[2]
    done = subprocess.run(
        [sys.executable, root / "scripts/lib/gpu_driver_check.py", "--gpu-mib=4"],
        env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert [(this["name"], this["ok"]) for this in json.loads(done.stdout)["rounds"]] == [
        ("there and back", True), ("exchanged", True),
    ]  # fmt: skip


def test_gpu_check_without_containers_says_so_when_the_gpu_cannot_be_used(node):
    root = stub_node.HERE.parents[2]
    node.faults("init 0 error=100")
    done = subprocess.run(
        [sys.executable, root / "scripts/lib/gpu_driver_check.py", "--gpu-mib=4"],
        env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "did not start" in json.loads(done.stdout)["rounds"][0]["error"]
    assert "cuInit: 100" in done.stderr


class TestReport:
    """The GPU section of ``dynamo-entryctl doctor``."""

    @pytest.fixture
    def rows(self, node, monkeypatch):
        monkeypatch.setattr(cuda, "is_present", lambda: True)

        def said():
            node.write()
            return gpu_ctl.gpu_findings()

        return said

    def test_driver_way_and_every_device(self, rows):
        assert [(row.name, row.level) for row in rows()] == [
            ("NVIDIA driver", "ok"), ("GPU checkpoints", "ok"), ("GPU 0", "ok"), ("GPU 1", "ok"),
        ]  # fmt: skip
        assert rows()[0].value == "580.65.06, CUDA 13.0"
        assert rows()[2].value == f"NVIDIA H100 80GB HBM3, 0.2 GiB, 0.2 GiB free, {uuid(1)}"

    def test_what_stands_in_the_way(self, rows, node):
        node.gpus = (gpu(1, mig=True),)
        assert "MIG" in rows()[-1].remedy
        assert rows()[-1].rules_out == ("create", "restore")
        node.gpus, node.api = (gpu(1),), 12040
        assert "570" in rows()[1].remedy
        node.gpus = ()
        assert "NO_DEVICE" in rows()[0].remedy

    def test_no_gpu(self):
        assert gpu_ctl.gpu_findings() == [gpu_ctl.Finding("GPU", "none")]


def test_an_engine_that_cannot_go_on_is_ended_whole(monkeypatch):
    """A process that ended with another one keeps none of the rest."""
    monkeypatch.setattr(recovery, "_thaw", lambda *_: "it cannot")
    gone, running = (subprocess.Popen(["sleep", "60"]) for _ in range(2))
    gone.kill()
    gone.wait()
    recovery.give_back(None, Channel(), lambda: [gone.pid, running.pid], [running.pid])
    assert running.wait(10) == -signal.SIGKILL
