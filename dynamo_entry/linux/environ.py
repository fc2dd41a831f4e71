"""The environment that a process began with (proc_pid_environ(5)), byte for byte."""

from __future__ import annotations


def read(pid: int) -> list[tuple[bytes, bytes]]:
    """(name, value) of each variable, in order; a name may be there twice. Raises OSError."""
    with open(f"/proc/{pid}/environ", "rb") as file:
        entries = [entry.partition(b"=") for entry in file.read().split(b"\0")]
    return [(name, value) for name, found, value in entries if found]
