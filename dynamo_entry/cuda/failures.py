"""What a failed call of the driver means and what to do about it. Pure."""

from __future__ import annotations

from dynamo_entry.cuda.abi import Result
from dynamo_entry.value import NamedTuple

_MEANINGS = {
    "lock": "the process still works on the GPU",
    "checkpoint": "its GPU memory could not be taken into host memory",
    "restore": "its GPU memory could not be brought back",
    "unlock": "it cannot use the GPU again",
    "tid": "the driver could not say whether it uses CUDA",
    "state": "the driver could not say what state it is in",
}

_UNSUPPORTED = (
    "the driver cannot checkpoint what the process uses (managed memory, CUDA IPC between GPUs, NVLink multicast, "
    "MIG, MPS): see docs/gpu.md for the settings of each engine"
)

_HINTS = {
    ("lock", Result.NOT_READY): "let PRE_DUMP make the engine idle, or raise GPU_TIMEOUT",
    ("restore", Result.OUT_OF_MEMORY): "end what else uses this GPU",
    (
        "restore",
        Result.INVALID_VALUE,
    ): "the GPUs that are visible here must be those of the checkpoint, or all be mapped",
}

_CODE_HINTS = {
    Result.NOT_SUPPORTED: _UNSUPPORTED,
    Result.OPERATING_SYSTEM: "the launcher needs CAP_SYS_PTRACE, and /dev/nvidia* must be in the container",
    Result.ILLEGAL_STATE: "something else checkpoints this process, too: let only the launcher do it",
}

_ANY_HINT = "the kernel's log may tell more (dmesg, NVRM and Xid); docs/gpu.md has the driver's limits"


class Failure(NamedTuple):
    """The parts of a typed error; the sequence that raises it chooses the type."""

    message: str
    hint: str
    reason: str


def of_call(action: str, pid: int, code: int, name: str, *, state: str = "") -> Failure:
    """The failure of a call that was answered with an error."""
    known = Result(code) if code in list(Result) else Result.UNKNOWN
    if (action, known) == ("lock", Result.NOT_READY):
        reason = "GpuBusy"
    elif known == Result.OUT_OF_MEMORY:
        reason = "GpuMemoryShort"
    else:
        reason = f"Gpu{action.capitalize()}Failed"
    suffix = f"; its CUDA state is {state}" if state else ""
    return Failure(
        f"GPU {action} of process {pid} failed with {name} ({code}): {_MEANINGS[action]}{suffix}",
        _HINTS.get((action, known)) or _CODE_HINTS.get(known, _ANY_HINT),
        reason,
    )


def of_silence(action: str, pids: list[int], why: str) -> Failure:
    """The failure of a helper that died, or was killed at a deadline, before the calls on these processes were answered."""
    listed = ", ".join(map(str, sorted(pids)))
    return Failure(
        f"GPU {action} of process {listed} was not answered: the GPU helper {why}",
        "raise GPU_TIMEOUT if the GPUs are only slow; ranks of one NCCL job hang so while another one is locked",
        "GpuCallHangs" if "time" in why else "GpuHelperLost",
    )
