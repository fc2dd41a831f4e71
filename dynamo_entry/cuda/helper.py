"""The process that calls the driver, one for all pids, because attaching to the GPUs takes seconds in each process.

It speaks lines of JSON. The first one is ``{"facts": …}``, or ``{"absent": why}``. Then each request ``{"id", "action",
"pid", …}`` gets an answer ``{"id", "code", "name", "value", "seconds"}``, in the order in which they finish: every call
has a thread, so one that hangs does not delay others. The helper leads a session of its own. At the end of its input it
exits, with everything that it runs.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from typing import Any

from dynamo_entry.cuda.abi import Result
from dynamo_entry.cuda.driver import CallFailed, Driver, Nvml
from dynamo_entry.cuda.program import Program

_turn = threading.Lock()


def main() -> None:
    """Serve requests until standard input ends."""
    began = time.monotonic()
    answers = os.dup(1)
    os.dup2(2, 1)  # what a driver prints must not get between the answers
    try:
        driver = Driver()
        driver.init()
        way = driver if driver.has_checkpoint_api() else Program.find()
        nvml = _nvml()
        facts = _facts(driver, way, nvml)
        _say(answers, {"facts": {**facts, "attach_s": round(time.monotonic() - began, 3)}})
    except OSError as error:
        _say(answers, {"absent": f"the NVIDIA driver cannot be loaded: {error}"})
        return
    except CallFailed as error:
        _say(answers, {"absent": f"the NVIDIA driver cannot be used: {error}", "code": error.code})
        return
    for line in sys.stdin.buffer:
        request = json.loads(line)
        threading.Thread(target=_serve, args=(answers, way, nvml, request), daemon=True).start()
    os.killpg(0, signal.SIGKILL)


def _nvml() -> Nvml | None:
    try:
        return Nvml()
    except OSError:
        return None


def _facts(driver: Driver, way: Driver | Program | None, nvml: Nvml | None) -> dict[str, Any]:
    devices = driver.devices()
    for device in devices:
        seen = nvml.facts(device["uuid"]) if nvml else {}
        device.update(seen, is_mig=device["is_mig"] or bool(seen.get("is_mig")))
    ways = {Driver: "driver", Program: "program"}
    return {
        "driver": (nvml.driver() if nvml else "") or _driver_version(),
        "api": driver.version(),
        "way": ways.get(type(way), ""),
        "devices": devices,
    }


def _driver_version() -> str:
    """The version that the kernel module tells: ``NVRM version: NVIDIA UNIX … Kernel Module  580.65.06  …``."""
    try:
        with open("/proc/driver/nvidia/version", encoding="ascii", errors="replace") as file:
            words = file.readline().split()
    except OSError:
        return ""
    return next((word for word in words if word[:1].isdigit() and "." in word), "")


def _serve(answers: int, way: Driver | Program | None, nvml: Nvml | None, request: dict[str, Any]) -> None:
    began = time.monotonic()
    answer: dict[str, Any] = {"id": request["id"], "code": int(Result.SUCCESS), "name": "", "value": 0}
    try:
        if request["action"] == "memory":
            answer["value"] = {
                uuid: nvml.facts(uuid).get("free_bytes") if nvml else None for uuid in request["uuids"]
            }
        elif way is None:
            answer.update(code=int(Result.NOT_SUPPORTED), name="CUDA_ERROR_NOT_SUPPORTED")
        else:
            answer["value"] = way.perform(request["action"], request["pid"], request)
    except CallFailed as error:
        answer.update(code=int(error.code), name=error.name)
    except Exception as error:  # a thread's outermost frame: the worker waits for an answer, whatever it is
        answer.update(code=int(Result.UNKNOWN), name=repr(error))
    _say(answers, {**answer, "seconds": round(time.monotonic() - began, 3)})


def _say(answers: int, message: dict[str, Any]) -> None:
    with _turn:
        os.write(answers, json.dumps(message).encode() + b"\n")
