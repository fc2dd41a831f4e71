"""Which GPU takes the place of which, and every way in which they can differ: decided before any data is read."""

import subprocess
import sys

import pytest

from dynamo_entry import cuda
from dynamo_entry.cuda import devices, failures
from dynamo_entry.cuda import facts as facts_cuda
from dynamo_entry.cuda.abi import Result
from dynamo_entry.cuda.facts import Device, Process, Recorded
from dynamo_entry.errors import Corrupt, Incompatible

GIB = 1 << 30


def device(uuid, **more):
    return Device(**{"uuid": uuid, "name": "NVIDIA H100", "compute": "9.0", "memory_bytes": 80 * GIB, **more})


def facts(*listed, driver="580.65.06", api=13000, way="driver"):
    return Recorded(driver=driver, api=api, way=way, devices=list(listed))


@pytest.mark.parametrize(
    ("recorded", "here", "pairs"),
    [
        ("ab", "ab", []),
        ("ab", "ba", ["aa", "bb"]),
        ("ab", "abx", ["aa", "bb"]),
        ("ab", "cd", ["ac", "bd"]),
        ("ab", "cb", ["ac", "bb"]),
        ("ab", "xby", ["ax", "bb"]),
        ("abc", "cde", ["ad", "be", "cc"]),
    ],
)
def test_a_gpu_that_is_there_is_kept_and_the_others_follow_in_order(recorded, here, pairs):
    """No map where the same GPUs are in the same places, which is what the driver takes for granted then."""
    found = devices.check(facts(*map(device, recorded)), facts(*map(device, here)))
    assert [old + new for old, new in found] == pairs


def test_among_mixed_gpus_each_goes_to_one_like_it():
    recorded = facts(device("a", name="A"), device("b", name="B"))
    here = facts(device("x", name="B"), device("y", name="A"))
    assert devices.check(recorded, here) == [("a", "y"), ("b", "x")]


@pytest.mark.parametrize(
    ("recorded", "here", "reason", "values"),
    [
        (facts(device("a")), facts(device("a"), driver="570.1"), "DriverDiffers", ("580.65.06", "570.1")),
        (facts(device("a"), device("b")), facts(device("a")), "GpuCountDiffers", ("2", "1")),
        (facts(device("a")), facts(device("x", name="NVIDIA L4")), "GpuModelDiffers", ("NVIDIA H100", "NVIDIA L4")),
        (facts(device("a")), facts(device("x", memory_bytes=40 * GIB)), "GpuMemoryDiffers", ("80.0", "40.0")),
        (
            facts(device("a", used_bytes=60 * GIB)), facts(device("a", free_bytes=10 * GIB)), "GpuMemoryShort",
            ("60.0", "10.0"),
        ),
        (facts(device("a")), facts(device("x", is_mig=True)), "Mig", ("off", "on", "whole GPUs")),
        (facts(device("a"), api=12080), facts(device("x"), api=12080), "GpuDiffers", ("a at creation, x here", "580")),
        (facts(device("a")), facts(device("a"), way=""), "DriverTooOld", ("driver at creation", "570 or newer")),
    ],
)  # fmt: skip
def test_a_difference_is_refused_with_both_values(recorded, here, reason, values):
    with pytest.raises(Incompatible) as caught:
        devices.check(recorded, here)
    assert caught.value.reason == reason
    assert caught.value.hint
    for value in values:
        assert value in str(caught.value)


def test_an_old_driver_may_restore_onto_the_same_gpu():
    assert devices.check(facts(device("a"), api=12080), facts(device("a"), api=12080)) == []


@pytest.mark.parametrize("here", ["ba", "abx"])
def test_an_old_driver_needs_the_same_gpus_in_the_same_places(here):
    """Type, number and order must be the same: NVIDIA/cuda-checkpoint #18."""
    with pytest.raises(Incompatible) as caught:
        devices.check(facts(*map(device, "ab"), api=12080), facts(*map(device, here), api=12080))
    assert caught.value.reason == "GpuDiffers"
    assert ", ".join(here) in caught.value.message


def test_memory_that_nobody_tells_is_not_held_against_a_gpu():
    recorded = facts(device("a", used_bytes=None))
    assert devices.check(recorded, facts(device("a", free_bytes=0))) == []


def test_gpu_state_is_refused_where_there_is_no_gpu():
    with pytest.raises(Incompatible) as caught:
        cuda.NoRestoration().check(facts_cuda.render(facts(device("a"))))
    assert caught.value.reason == "GpuMissing"
    cuda.NoRestoration().check({})


@pytest.mark.parametrize("action", ["lock", "checkpoint", "restore", "unlock", "tid", "state"])
@pytest.mark.parametrize("code", [*Result, 12345])
def test_every_failure_says_what_on_which_process_with_which_error(action, code):
    failure = failures.of_call(action, 1003, int(code), "CUDA_ERROR_X", state="LOCKED")
    assert f"GPU {action} of process 1003 failed with CUDA_ERROR_X ({int(code)})" in failure.message
    assert "LOCKED" in failure.message
    assert failure.reason.startswith("Gpu")
    assert failure.hint


def test_what_a_manifest_says_is_read_as_it_was_written():
    written = Recorded(
        driver="580.65.06", api=13000, way="driver", devices=[device("a", used_bytes=GIB)],
        processes=[Process(pid=1000, host_bytes=GIB)], job_file="/proc/1000/fd/5",
    )  # fmt: skip
    assert facts_cuda.parse(facts_cuda.render(written)) == written
    assert facts_cuda.parse({**facts_cuda.render(written), "of a later version": 1}) == written


@pytest.mark.parametrize("damage", [{"driver": 1}, {"devices": [{}]}, {"processes": [{"pid": "x"}]}])
def test_a_manifest_that_says_nonsense_is_corrupt(damage):
    with pytest.raises(Corrupt):
        facts_cuda.parse({**facts_cuda.render(facts(device("a"))), **damage})


def test_without_a_gpu_nothing_of_it_is_imported():
    """Neither the sequences nor the helper, by a creation or a restore."""
    code = (
        "import sys\n"
        "import dynamo_entry.worker.create, dynamo_entry.worker.restore\n"
        "from dynamo_entry import cuda\n"
        "cuda.for_creation(None, 0); cuda.for_restore(None, 0)\n"
        "print(*sorted(name for name in sys.modules if name.startswith('dynamo_entry.cuda')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["dynamo_entry.cuda"]
