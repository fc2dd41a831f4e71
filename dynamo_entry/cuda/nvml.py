"""libnvidia-ml.so.1 by ctypes: what libcuda tells only through a context, which would itself take GPU memory."""

from __future__ import annotations

import ctypes

_LIBRARY = "libnvidia-ml.so.1"


class _Memory(ctypes.Structure):
    """nvmlMemory_t (nvml.h)."""

    _fields_ = (
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


class Nvml:
    """The management library, initialised. Raises OSError where it is missing or fails."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(_LIBRARY)
        if code := self._library.nvmlInit_v2():
            raise OSError(code, "nvmlInit failed")

    def driver(self) -> str:
        """The driver's version, ``580.65.06``; empty where it is not told."""
        text = ctypes.create_string_buffer(96)
        failed = self._library.nvmlSystemGetDriverVersion(text, len(text))
        return "" if failed else text.value.decode("ascii", "replace")

    def facts(self, uuid: str) -> dict[str, int | bool]:
        """Of one GPU, what is told of it: free memory, the minor number of its device node, MIG."""
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
