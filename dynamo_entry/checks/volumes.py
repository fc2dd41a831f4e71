"""The content of files on volumes that the engine only reads: another one of the same size must not go unnoticed.

Reading a model whole would take as long as loading it: where the time of a file differs, samples of it are compared.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from blake3 import blake3

from dynamo_entry.errors import Incompatible
from dynamo_entry.linux import mounts

#: Files up to so many bytes are read whole.
_WHOLE_BYTES = 4 << 20

#: Of larger ones the first and the last bytes, and so many pieces evenly between them.
_PIECES, _PIECE_BYTES = 64, 4096


def sample(path: str) -> str:
    """A digest that changes with the content. Raises OSError."""
    digest = blake3()
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if size <= _WHOLE_BYTES:
            digest.update(file.read())
        for piece in range(_PIECES if size > _WHOLE_BYTES else 0):
            offset = (size - _PIECE_BYTES) * piece // (_PIECES - 1)
            digest.update(os.pread(file.fileno(), _PIECE_BYTES, offset))
    return digest.hexdigest()


def check_content(recorded: Iterable[dict[str, Any]], reopened: tuple[str, ...]) -> list[str]:
    """Paths whose times differ although samples are alike. Raises Incompatible for a file that holds something else."""
    noted = []
    for file in recorded:
        path = file["path"]
        if "sample" not in file or mounts.is_below(path, reopened):
            continue
        with suppress(OSError):  # one that is not here is checked by its path
            if os.stat(path).st_mtime_ns == file["mtime_ns"]:
                continue
            if sample(path) != file["sample"]:
                raise Incompatible(
                    f"{path} holds something else here than at creation, and the engine has it open",
                    hint=f"the volume at {file['mount']} must hold what it held at creation", reason="VolumeDiffers",
                )  # fmt: skip
            noted.append(path)
    return noted
