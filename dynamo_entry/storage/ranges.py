"""Ranged reads into memory, which resume at the byte where a response broke off or ended."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from dynamo_entry.errors import StorageError
from dynamo_entry.storage.base import too_short
from dynamo_entry.storage.http import Response
from dynamo_entry.storage.retry import Retry


def fill(
    retry: Retry, name: str, offset: int, view: memoryview,
    request: Callable[[str], AbstractContextManager[Response]],
) -> bool:  # fmt: skip
    """Fill ``view`` with the bytes at ``offset``; returns False if the server does not support ranges.

    ``request`` makes a request with the given Range header. Raises Corrupt if the object is shorter, StorageError otherwise.
    """
    done = 0

    def moved(count: int) -> None:
        nonlocal done
        done += count

    def attempt() -> bool:
        while done < len(view):
            with request(f"bytes={offset + done}-{offset + len(view) - 1}") as response:
                count = _served(name, response, offset + done, offset + len(view))
                if not count:
                    return False
                response.read_into(view[done : done + count], moved)
        return True

    try:
        return retry.call(attempt, progress=lambda: done)
    except StorageError as error:
        raise too_short(name, offset, len(view)) if error.status == 416 else error from None


def _served(name: str, response: Response, start: int, end: int) -> int:
    """Return how many bytes from ``start`` on a response holds: a server may send less than requested (RFC 9110, 15.3.7)."""
    found = response.content_range()  # rclone answers with status 200 and this header
    if not found and response.status != 206:
        return 0
    first, last, size = found or (-1, -1, None)
    if first == start and size is not None and size < end:
        raise too_short(name, start, end - start)
    if first != start or not start <= last < end:
        raise StorageError(
            f"{response.what} was answered with a different byte range than requested",
            hint="the server, or a proxy in front of it, does not support ranged reads", reason="NoRanges",
        )  # fmt: skip
    return last + 1 - start
