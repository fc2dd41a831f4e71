"""The driver's process checkpoint API as NVIDIA's cuda.h declares it: states, results, argument structures.

Source: cuda.h, group "CUDA Checkpointing", of CUDA 12.8 (driver 570, the first), 12.9, 13.0 (driver 580: GPU
pairs) and every version from there to 13.5. Each argument structure has 64 bytes; what is not used here is
reserved in some version and zero in all, so one layout serves each of them. A test compiles and compares.
"""

from __future__ import annotations

import ctypes
from enum import IntEnum

#: cuDriverGetVersion of the first driver with the API, and with GPU pairs (12080 is 12.8).
FIRST_API = 12080
FIRST_API_WITH_PAIRS = 13000


class State(IntEnum):
    """The states of a process: CUprocessState."""

    RUNNING = 0
    LOCKED = 1
    CHECKPOINTED = 2
    FAILED = 3
    CHECKPOINTING = 4
    RESTORING = 5


class Result(IntEnum):
    """The values of CUresult that matter here."""

    SUCCESS = 0
    INVALID_VALUE = 1
    OUT_OF_MEMORY = 2
    NOT_INITIALIZED = 3
    NO_DEVICE = 100
    OPERATING_SYSTEM = 304
    ILLEGAL_STATE = 401
    NOT_READY = 600
    NOT_SUPPORTED = 801
    UNKNOWN = 999


#: The API's results for a process that has no CUDA context.
NO_CONTEXT = (Result.INVALID_VALUE, Result.NOT_INITIALIZED)

Uuid = ctypes.c_ubyte * 16


class LockArgs(ctypes.Structure):
    """CUcheckpointLockArgs."""

    _fields_ = (
        ("timeoutMs", ctypes.c_uint),
        ("reserved0", ctypes.c_uint),
        ("reserved1", ctypes.c_uint64 * 7),
    )


class GpuPair(ctypes.Structure):
    """CUcheckpointGpuPair."""

    _fields_ = (("oldUuid", Uuid), ("newUuid", Uuid))


class RestoreArgs(ctypes.Structure):
    """CUcheckpointRestoreArgs."""

    _fields_ = (
        ("gpuPairs", ctypes.POINTER(GpuPair)),
        ("gpuPairsCount", ctypes.c_uint),
        ("reserved", ctypes.c_char * 52),
    )


def uuid_text(uuid: ctypes.Array[ctypes.c_ubyte]) -> str:
    """A UUID as nvidia-smi writes it: ``GPU-`` and the usual groups."""
    digits = bytes(uuid).hex()
    return f"GPU-{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def uuid_bytes(text: str) -> ctypes.Array[ctypes.c_ubyte]:
    """The reverse of ``uuid_text``. Raises ValueError."""
    return Uuid(*bytes.fromhex(text.removeprefix("GPU-").replace("-", "")))
