"""Address space that is only reserved stays free of charge (``mm-*.img``)."""

from __future__ import annotations

from dynamo_entry.criu import images

#: mman(2), the same on x86-64 and arm64, and criu/include/image.h.
_PROT_WRITE, _MAP_NORESERVE = 2, 0x4000
_ANON_PRIVATE = 1 << 9


def unreserved(mm: bytes) -> bytes:
    """Private mappings that cannot be written are not accounted for, as they were not by the kernel.

    CRIU makes every mapping writable first, and the kernel grants no more of those than there is memory.
    """
    image = images.memory(mm)
    for entry in image.messages:
        for area in entry.vmas:
            if area.status & _ANON_PRIVATE and not area.prot & _PROT_WRITE:
                area.flags |= _MAP_NORESERVE
    return image.encode()
