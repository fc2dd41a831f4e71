"""Pairs the recorded GPUs with those that are here, or says why they do not fit. Pure."""

from __future__ import annotations

from dynamo_entry.cuda import abi
from dynamo_entry.cuda.facts import Device, Present, Recorded
from dynamo_entry.errors import Incompatible

Pair = tuple[str, str]

_GIB = 1 << 30


def check(recorded: Recorded, here: Present) -> list[Pair]:
    """The GPU pairs of a restore. Raises Incompatible that names the property and both values.

    There are no pairs if the same GPUs are in the same order, which the driver assumes without them
    (NVIDIA/cuda-checkpoint #18). Otherwise there is one for every GPU that the engine could see, used or not, as the
    driver wants it (NVIDIA/cuda-python #1983).
    """
    if not here.way:
        raise Incompatible(
            f"way to checkpoint GPUs: {recorded.way} at creation, none here",
            hint="use driver 570 or newer, or put cuda-checkpoint into the image", reason="DriverTooOld",
        )  # fmt: skip
    if recorded.driver != here.driver:
        # The engine has the driver's libraries mapped, and their file names carry the version.
        raise _refused("NVIDIA driver", recorded.driver, here.driver, "DriverDiffers")
    if slices := [device.uuid for device in here.devices if device.is_mig]:
        raise Incompatible(
            f"MIG: off at creation, on here ({slices[0]})",
            hint="give the pod whole GPUs", reason="Mig",
        )  # fmt: skip
    if len(here.devices) < len(recorded.devices):
        raise _refused("GPUs", len(recorded.devices), len(here.devices), "GpuCountDiffers")
    pairs = _paired(recorded.devices, here.devices)
    for old, new in pairs:
        _check_memory(old, new)
    was, now = ([device.uuid for device in listed] for listed in (recorded.devices, here.devices))
    if was == now:
        return []
    if here.api < abi.FIRST_API_WITH_PAIRS:
        raise Incompatible(
            f"GPUs: {', '.join(was)} at creation, {', '.join(now)} here, and driver {here.driver} can only "
            "restore onto the same ones in the same order",
            hint="use driver 580 or newer, or give the pod the same GPUs",
            reason="GpuDiffers",
        )
    return [(old.uuid, new.uuid) for old, new in pairs]


def _paired(recorded: list[Device], here: list[Device]) -> list[tuple[Device, Device]]:
    """Each recorded GPU, paired with itself if it is here, else with the next free GPU of the same kind."""
    free = {device.uuid: device for device in here}
    same = {device.uuid: free.pop(device.uuid) for device in recorded if device.uuid in free}
    pairs = []
    for old in recorded:
        new = same.get(old.uuid) or next((it for it in free.values() if _is_like(old, it)), None)
        if new is None:
            raise _difference(old, next(iter(free.values())))
        free.pop(new.uuid, None)
        pairs.append((old, new))
    return pairs


def _is_like(old: Device, new: Device) -> bool:
    is_same_chip = (old.name, old.compute) == (new.name, new.compute)
    return is_same_chip and old.memory_bytes <= new.memory_bytes


def _difference(old: Device, new: Device) -> Incompatible:
    if (old.name, old.compute) != (new.name, new.compute):
        return _refused("GPU model", old.name, new.name, "GpuModelDiffers")
    return _refused("GPU memory", _gib(old.memory_bytes), _gib(new.memory_bytes), "GpuMemoryDiffers")


def _check_memory(old: Device, new: Device) -> None:
    """Raises Incompatible if GPU memory is short: a restore that runs out of it cannot be repeated (cuda-checkpoint #44)."""
    needed, free = old.used_bytes, new.free_bytes
    if needed is not None and free is not None and free < needed:
        raise Incompatible(
            f"free GPU memory: {_gib(needed)} needed, {_gib(free)} free here on {new.uuid}",
            hint="end the other processes that use this GPU",
            reason="GpuMemoryShort",
        )


def _gib(count: int) -> str:
    return f"{count / _GIB:.1f} GiB"


def _refused(what: str, recorded: object, here: object, reason: str) -> Incompatible:
    return Incompatible(
        f"{what}: {recorded} at creation, {here} here",
        hint="restore where it is the same, or create a checkpoint here",
        reason=reason,
    )
