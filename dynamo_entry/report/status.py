"""The result object: what happened, for the operator that reads the container's termination message."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Kubernetes truncates a termination message at 4096 bytes; the contract promises less.
LIMIT_BYTES = 3072

VERSION = 1


def encode(result: dict[str, Any]) -> bytes:
    """One JSON object of at most ``LIMIT_BYTES``; a long message is cut, nothing else is."""
    import json  # noqa: PLC0415 - a plain cold start writes no status and never pays for it

    def dump(message: str) -> bytes:
        return json.dumps({"v": VERSION, **result, "message": message}, default=str).encode()

    message = str(result.get("message", ""))
    while len(data := dump(message)) > LIMIT_BYTES and message:
        message = message[: len(message) * 3 // 4].rstrip("…") + "…" if len(message) > 8 else ""
    return data


def write(path: str, result: dict[str, Any]) -> None:
    """Write the result object to ``path``. Raises OSError.

    In place, because Kubernetes bind-mounts the termination log: a file renamed over it is not seen. Without
    waiting: a fifo that nobody reads is an error. A link is not followed: others may write to its directory.
    """
    flags = os.O_WRONLY | os.O_TRUNC | os.O_CREAT | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o644)
    try:
        os.write(descriptor, encode(result) + b"\n")
    finally:
        os.close(descriptor)
