"""libcuda.so.1 and libnvidia-ml.so.1 through ctypes: the devices, and the checkpoint calls on other processes.

ctypes instead of NVIDIA's cuda.core.checkpoint, which needs numpy, 120 MiB and half a second to import, for the six
functions below. NVML gives what libcuda gives only through a context, which would itself take GPU memory.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

from dynamo_entry.cuda import abi
from dynamo_entry.cuda.abi import Result

_LIBRARY = "libcuda.so.1"

#: CUdevice_attribute: CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR.
_COMPUTE_MAJOR, _COMPUTE_MINOR = 75, 76

#: The file that the processes of a `cuda-checkpoint --launch-job` share; the driver reads the variable at each call.
_JOB_FILE = "CUDA_CHECKPOINT_JOB_FILE"


class CallFailed(Exception):
    """A call of the driver failed: CUresult and its name."""

    def __init__(self, code: int, name: str) -> None:
        super().__init__(f"{name} ({code})")
        self.code = code
        self.name = name


class Driver:
    """The driver's library, loaded. Raises OSError if there is none."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(_LIBRARY)

    def init(self) -> None:
        """Attach to the GPUs, which takes seconds. Raises CallFailed."""
        self._call("cuInit", 0)

    def version(self) -> int:
        """The CUDA version that the driver supports: 12080 is 12.8. Raises CallFailed."""
        version = ctypes.c_int()
        self._call("cuDriverGetVersion", ctypes.byref(version))
        return version.value

    def has_checkpoint_api(self) -> bool:
        """Whether the driver has the checkpoint API."""
        return hasattr(self._library, "cuCheckpointProcessLock") and self.version() >= abi.FIRST_API

    def devices(self) -> list[dict[str, Any]]:
        """The GPUs, in the driver's order. Raises CallFailed."""
        count = ctypes.c_int()
        self._call("cuDeviceGetCount", ctypes.byref(count))
        return [self._device(ordinal) for ordinal in range(count.value)]

    def _device(self, ordinal: int) -> dict[str, Any]:
        device, memory, name = ctypes.c_int(), ctypes.c_size_t(), ctypes.create_string_buffer(256)
        self._call("cuDeviceGet", ctypes.byref(device), ordinal)
        self._call("cuDeviceGetName", name, len(name), device)
        self._call("cuDeviceTotalMem_v2", ctypes.byref(memory), device)
        uuid, slice_uuid = abi.Uuid(), abi.Uuid()
        self._call("cuDeviceGetUuid_v2", slice_uuid, device)
        # For a MIG slice, the older call gives the UUID of the whole GPU.
        self._call(
            "cuDeviceGetUuid" if hasattr(self._library, "cuDeviceGetUuid") else "cuDeviceGetUuid_v2",
            uuid, device,
        )  # fmt: skip
        major, minor = (self._attribute(device, which) for which in (_COMPUTE_MAJOR, _COMPUTE_MINOR))
        return {
            "ordinal": ordinal,
            "uuid": abi.uuid_text(slice_uuid),
            "name": name.value.decode("utf-8", "replace"),
            "compute": f"{major}.{minor}",
            "memory_bytes": memory.value,
            "is_mig": bytes(uuid) != bytes(slice_uuid),
        }

    def _attribute(self, device: ctypes.c_int, which: int) -> int:
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), which, device)
        return value.value

    def perform(self, action: str, pid: int, request: dict[str, Any]) -> int:
        """One action on a process. Returns the answer of ``tid`` and ``state``, else 0. Raises CallFailed."""
        if job_file := request.get("job_file"):
            os.environ[_JOB_FILE] = job_file
        if action in ("tid", "state"):
            value = ctypes.c_int()
            name = "GetRestoreThreadId" if action == "tid" else "GetState"
            self._call(f"cuCheckpointProcess{name}", pid, ctypes.byref(value))
            return value.value
        args = _arguments(action, request)
        self._call(f"cuCheckpointProcess{action.capitalize()}", pid, args and ctypes.byref(args))
        return 0

    def _call(self, function: str, *arguments: Any) -> None:
        code = getattr(self._library, function)(*arguments)
        if code != Result.SUCCESS:
            raise CallFailed(code, self._name_of(code))

    def _name_of(self, code: int) -> str:
        name = ctypes.c_char_p()
        if self._library.cuGetErrorName(code, ctypes.byref(name)) or not name.value:
            return "CUDA_ERROR_UNKNOWN"
        return name.value.decode("ascii", "replace")


def _arguments(action: str, request: dict[str, Any]) -> abi.LockArgs | abi.RestoreArgs | None:
    if action == "lock":
        return abi.LockArgs(timeoutMs=request["timeout_ms"])
    pairs = request.get("pairs")
    if action != "restore" or not pairs:
        return None
    array = (abi.GpuPair * len(pairs))(
        *(abi.GpuPair(abi.uuid_bytes(old), abi.uuid_bytes(new)) for old, new in pairs)
    )
    return abi.RestoreArgs(gpuPairs=array, gpuPairsCount=len(pairs))


_NVML = "libnvidia-ml.so.1"


class _Memory(ctypes.Structure):
    """nvmlMemory_t (nvml.h)."""

    _fields_ = (
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


class Nvml:
    """The management library, initialised. Raises OSError if it is missing or fails."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(_NVML)
        if code := self._library.nvmlInit_v2():
            raise OSError(code, "nvmlInit failed")

    def driver(self) -> str:
        """The driver's version, ``580.65.06``; empty if NVML does not answer."""
        text = ctypes.create_string_buffer(96)
        failed = self._library.nvmlSystemGetDriverVersion(text, len(text))
        return "" if failed else text.value.decode("ascii", "replace")

    def facts(self, uuid: str) -> dict[str, int | bool]:
        """Facts about one GPU, as far as NVML answers: free memory, the minor number of its device node, MIG."""
        device = ctypes.c_void_p()
        if self._library.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(device)):
            return {}
        found: dict[str, int | bool] = {}
        memory, minor = _Memory(), ctypes.c_uint()
        current, pending = ctypes.c_uint(), ctypes.c_uint()
        if not self._library.nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory)):
            found["free_bytes"] = memory.free
        if not self._library.nvmlDeviceGetMinorNumber(device, ctypes.byref(minor)):
            found["minor"] = minor.value
        if not self._library.nvmlDeviceGetMigMode(device, ctypes.byref(current), ctypes.byref(pending)):
            found["is_mig"] = bool(current.value)
        return found
