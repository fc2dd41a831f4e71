"""CRIU's images, decoded and rewritten with pycriu (part of CRIU, so of the same version)."""

from __future__ import annotations

import io
from typing import Any

from dynamo_entry.errors import CheckpointError

_HINT = "install the distribution's python3-pycriu of the same version as criu"

#: Every bit that the kernel has room for: with the whole bounding set asked for, CRIU drops nothing, and
#: the engine inherits the container's. It drops even what is absent, which needs CAP_SETPCAP.
_ALL_CAPABILITIES = [0xFFFFFFFF, 0xFFFFFFFF]


def load_pycriu() -> Any:
    """``pycriu.images``. Raises CheckpointError that names the package."""
    try:
        from pycriu import images  # noqa: PLC0415 - absent wherever CRIU is
    except ImportError as error:
        raise CheckpointError(
            f"pycriu cannot be imported: {error}", hint=_HINT, reason="PycriuMissing"
        ) from None
    return images


def decode(data: bytes) -> dict[str, Any]:
    """An image as pycriu's dictionary: ``{"magic": …, "entries": […]}``."""
    decoded: dict[str, Any] = load_pycriu().loads(bytes(data))
    return decoded


def encode(image: dict[str, Any]) -> bytes:
    """The reverse of ``decode``."""
    file = io.BytesIO()
    load_pycriu().dump(image, file)
    return file.getvalue()


def with_capabilities(core: bytes, permitted: frozenset[int]) -> bytes:
    """A ``core-*.img`` whose task asks for no capability that this container does not have.

    CRIU fails (or hangs) where capset or PR_CAPBSET_DROP does.
    """
    words = [sum(1 << (number % 32) for number in permitted if number // 32 == word) for word in (0, 1)]
    image = decode(core)
    for entry in image["entries"]:
        creds = entry.get("thread_core", {}).get("creds")
        if creds is None:
            continue
        creds["cap_bnd"] = _ALL_CAPABILITIES[: len(creds["cap_bnd"])]
        for name in ("cap_inh", "cap_prm", "cap_eff", "cap_amb"):
            if name in creds:
                creds[name] = [old & new for old, new in zip(creds[name], words, strict=False)]
    return encode(image)
