"""What the worker finds out about an engine before it freezes it: readiness, its tree, what CRIU cannot dump."""

from __future__ import annotations

import os
import time
from typing import Any

import psutil

from dynamo_entry.errors import NotDumpable, NotReady
from dynamo_entry.rootfs import mounts
from dynamo_entry.settings import Settings
from dynamo_entry.worker.channel import Channel

_POLL_S = 0.1

#: One probe of READY_URL.
_PROBE_S = 5


def remove_stale_signal(path: str) -> None:
    """A signal file of an earlier run says nothing about this engine."""
    if path:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass


def wait_until_ready(settings: Settings, channel: Channel) -> None:
    """Wait for the signal file or READY_URL. Raises NotReady, EngineEnded, CalledOff."""
    deadline = time.monotonic() + settings.signal_timeout
    while not _is_ready(settings):
        channel.check_engine(_POLL_S)
        if time.monotonic() > deadline:
            raise NotReady(
                f"the engine was not ready within {settings.signal_timeout:g} s",
                hint=f"it must create {settings.signal_file or settings.ready_url}, or SIGNAL_TIMEOUT be raised",
            )


def _is_ready(settings: Settings) -> bool:
    if settings.ready_url:
        if not answers(settings.ready_url):
            return False
        if settings.signal_file:
            os.makedirs(os.path.dirname(settings.signal_file), exist_ok=True)
            with open(settings.signal_file, "w", encoding="ascii"):
                pass
        return True
    return os.path.exists(settings.signal_file)


def answers(url: str) -> bool:
    """Whether an HTTP GET answers 200 right now."""
    import urllib.error  # noqa: PLC0415 - 25 ms, which every restore would wait for and few need
    import urllib.request  # noqa: PLC0415

    try:
        with urllib.request.urlopen(url, timeout=_PROBE_S) as response:
            return int(response.status) == 200
    except (OSError, ValueError, urllib.error.HTTPError):
        return False


def tree(root: int) -> list[psutil.Process]:
    """The engine's process and all below it."""
    try:
        process = psutil.Process(root)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def refuse_what_cannot_be_dumped(processes: list[psutil.Process]) -> None:
    """Raises NotDumpable, naming what CRIU would fail on without saying so."""
    for process in processes:
        for descriptor, target in descriptors(process.pid).items():
            if target == "anon_inode:[io_uring]":
                raise NotDumpable(
                    f"process {process.pid} holds an io_uring (descriptor {descriptor}), which CRIU cannot dump",
                    hint="switch io_uring off in the engine; UV_USE_IO_URING=0 is set already",
                    reason="IoUring",
                )
        if any("/SYSV" in line for line in _maps(process.pid)):
            raise NotDumpable(
                f"process {process.pid} maps SysV shared memory, which cannot be dumped from inside a container",
                hint="let the engine use POSIX shared memory",
                reason="SysvShm",
            )


def descriptors(pid: int) -> dict[int, str]:
    """Open descriptors of a process and what they lead to; nothing for one that is gone."""
    found = {}
    try:
        for entry in os.listdir(f"/proc/{pid}/fd"):
            try:
                found[int(entry)] = os.readlink(f"/proc/{pid}/fd/{entry}")
            except OSError:
                continue
    except OSError:
        pass
    return found


def volume_files(processes: list[psutil.Process], roots: list[str]) -> list[dict[str, Any]]:
    """Files on volumes that the engine holds open or mapped: a restore needs the same ones there."""
    here = mounts.read()
    paths: set[str] = set()
    for process in processes:
        paths.update(descriptors(process.pid).values())
        paths.update(line.partition(" /")[2] and "/" + line.partition(" /")[2] for line in _maps(process.pid))
    found = []
    for path in sorted(
        path for path in paths if path.startswith("/") and not path.startswith(("/dev/", "/proc/", "/sys/"))
    ):
        volume = mounts.volume_of(path, here, roots)
        if volume and os.path.isfile(path):
            found.append({"path": path, "mount": volume, "size": os.path.getsize(path)})
    return found


def _maps(pid: int) -> list[str]:
    try:
        with open(f"/proc/{pid}/maps", encoding="utf-8", errors="surrogateescape") as file:
            return file.read().splitlines()
    except OSError:
        return []


def summary(processes: list[psutil.Process]) -> list[dict[str, Any]]:
    """The tree for people: pid, parent, command line, threads, resident bytes."""
    rows = []
    for process in processes:
        try:
            with process.oneshot():
                rows.append(
                    {
                        "pid": process.pid,
                        "ppid": process.ppid(),
                        "argv": process.cmdline(),
                        "threads": process.num_threads(),
                        "rss_bytes": process.memory_info().rss,
                    }
                )
        except psutil.NoSuchProcess:
            continue
    return rows
