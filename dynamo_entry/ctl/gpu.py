"""What ``dynamo-entryctl doctor`` says about GPUs: driver, API, devices, and what stands in the way."""

from __future__ import annotations

from typing import NamedTuple

from dynamo_entry import cuda
from dynamo_entry.cuda import abi
from dynamo_entry.cuda.facts import Device

_GIB = 1 << 30


class Row(NamedTuple):
    """One finding; ``problem`` is empty where all is well."""

    name: str
    value: str
    problem: str = ""


def rows() -> list[Row]:
    """The findings, after attaching to the GPUs; one row where there are none."""
    if not cuda.is_present():
        return [Row("GPU", "none")]
    from dynamo_entry.cuda.session import Session  # noqa: PLC0415 - ctypes and a process, only for a GPU

    session = Session(lambda: None)
    try:
        here = session.present()
    finally:
        session.close()
    if here is None:
        return [Row("GPU", "not usable", session.absence)]
    version = f"{here.driver}, CUDA {here.api // 1000}.{here.api % 1000 // 10}"
    return [Row("NVIDIA driver", version), _way(here.way, here.api), *map(_device, here.devices)]


def _way(way: str, api: int) -> Row:
    name = "GPU checkpoints"
    if not way:
        return Row(name, "impossible", "use driver 570 or newer, or put cuda-checkpoint into the image")
    by = "by calls of the driver" if way == "driver" else "by the cuda-checkpoint program"
    if api < abi.FIRST_API_WITH_PAIRS:
        return Row(name, f"{by}, restored onto the same GPU only")
    return Row(name, f"{by}, restored onto any GPU of the same model")


def _device(device: Device) -> Row:
    free = "" if device.free_bytes is None else f", {device.free_bytes / _GIB:.1f} GiB free"
    value = f"{device.name}, {device.memory_bytes / _GIB:.1f} GiB{free}, {device.uuid}"
    return Row(f"GPU {device.ordinal}", value, "a MIG slice cannot be checkpointed" if device.is_mig else "")
