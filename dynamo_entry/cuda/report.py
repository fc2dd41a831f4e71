"""What ``dynamo-entryctl doctor`` says about GPUs: driver, API, devices, and what stands in the way."""

from __future__ import annotations

from typing import NamedTuple

from dynamo_entry import cuda
from dynamo_entry.cuda import abi

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
        facts = session.facts()
    finally:
        session.close()
    if "absent" in facts:
        return [Row("GPU", "not usable", facts["absent"])]
    version = f"{facts['driver']}, CUDA {facts['api'] // 1000}.{facts['api'] % 1000 // 10}"
    return [Row("NVIDIA driver", version), _way(facts["way"], facts["api"]), *map(_device, facts["devices"])]


def _way(way: str, api: int) -> Row:
    name = "GPU checkpoints"
    if not way:
        return Row(name, "impossible", "use driver 570 or newer, or put cuda-checkpoint into the image")
    by = "by calls of the driver" if way == "driver" else "by the cuda-checkpoint program"
    if api < abi.FIRST_API_WITH_PAIRS:
        return Row(name, f"{by}, restored onto the same GPU only")
    return Row(name, f"{by}, restored onto any GPU of the same model")


def _device(device: dict[str, object]) -> Row:
    free = device.get("free_bytes")
    shown = "" if free is None else f", {int(str(free)) / _GIB:.1f} GiB free"
    value = f"{device['name']}, {int(str(device['memory_bytes'])) / _GIB:.1f} GiB{shown}, {device['uuid']}"
    return Row(
        f"GPU {device['ordinal']}",
        value,
        "a MIG slice cannot be checkpointed" if device["is_mig"] else "",
    )
