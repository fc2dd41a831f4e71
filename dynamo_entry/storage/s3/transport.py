"""The transport of botocore's requests: our connections, with their time limits and typed failures."""

from __future__ import annotations

import io
from contextlib import ExitStack
from typing import Any

from dynamo_entry.storage.base import Bytes
from dynamo_entry.storage.failures import check_tags
from dynamo_entry.storage.http import Connections, Response

#: AWS and MinIO begin their answer at once, and send blanks until the object is put together.
_LONG = "CompleteMultipartUpload"

#: Its response has a body that botocore passes on unread.
READ = "GetObject"

#: Headers that our connections set themselves, or do not support: every body is in memory, and its length is known.
_OURS = {"host", "content-length", "transfer-encoding", "user-agent", "expect"}


class Part:
    """A body in memory in the form that botocore expects, a file. It is read only if the signature covers it."""

    def __init__(self, view: memoryview) -> None:
        self.view = view
        self._at = 0

    def __len__(self) -> int:
        return len(self.view)

    def read(self, size: int = -1) -> memoryview:
        """Return the next bytes without a copy."""
        start, self._at = self._at, len(self.view) if size < 0 else min(len(self.view), self._at + size)
        return self.view[start : self._at]

    def tell(self) -> int:
        """Return the position, as a file does."""
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        """Set the position, as a file does."""
        self._at = offset + (0, self._at, len(self.view))[whence]
        return self._at


class Unread:
    """A response whose body is still to be read, in the form that botocore passes on.

    It must be read in a block of ``exchange``, which ends the exchange and raises what fails.
    """

    def __init__(self, response: Response, exchange: ExitStack) -> None:
        self.response = response
        self.exchange = exchange

    def close(self) -> None:
        """End the exchange."""
        self.exchange.close()


class Transport(Connections):
    """Connections to all servers that botocore names. Thread-safe."""

    def __init__(self, what: str, *, stall_s: float, ca_file: str) -> None:
        super().__init__(stall_s=stall_s, ca_file=ca_file)
        self._what = what

    def __call__(self, request: Any, event_name: str, **_: Any) -> Any:
        """Handle botocore's event ``before-send``: return the response. Raises StorageError, ValueError."""
        from botocore.awsrequest import AWSResponse  # noqa: PLC0415 - it is there: it made the request

        operation = event_name.rpartition(".")[2]
        what = f"{self._what}: {operation}"
        headers = {name: _text(value) for name, value in request.headers.items() if name.lower() not in _OURS}
        with ExitStack() as stack:
            exchange = self.exchange(
                what, request.method, request.url, headers, _body(request.body), is_long=operation == _LONG
            )
            response = stack.enter_context(exchange)
            raw: Unread | _Raw
            if operation == READ and response.status < 300:
                raw = Unread(response, stack.pop_all())
            else:
                content = b"" if request.method == "HEAD" else response.read()
                check_tags(content)
                if ".List" in event_name and response.status < 300 and not content.lstrip().startswith(b"<"):
                    raise ValueError("it is no XML")  # botocore takes nothing for an empty listing
                raw = _Raw(content)
            return AWSResponse(request.url, response.status, response.headers(), raw)


class _Raw(io.BytesIO):
    """A completed response in the form that botocore reads."""

    def stream(self) -> list[bytes]:
        return [self.read()]


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _body(body: Any) -> list[Bytes]:
    if not body:
        return []
    if isinstance(body, Part):
        return [body.view]
    if isinstance(body, str | bytes):
        return [body.encode() if isinstance(body, str) else body]
    return list(body)  # botocore's own: a part in pieces, with its checksum after them
