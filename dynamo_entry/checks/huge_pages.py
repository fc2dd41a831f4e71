"""Huge pages (hugetlbfs): whether CRIU can dump those of an engine, and whether a place has as many as an archive takes."""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from contextlib import suppress

from dynamo_entry.errors import Incompatible, NotDumpable
from dynamo_entry.linux import mounts, proc

#: How the kernel shows huge pages, mapped or open; and linux/magic.h.
_ANONYMOUS = "/anon_hugepage (deleted)"
_SHOWN = (_ANONYMOUS, "/memfd:")
_MAGIC = 0x958458F6

#: mmap(2), where the size of the pages is a power of two.
_MAP_HUGETLB, _SIZE_SHIFT = 0x40000, 26


def check(tables: proc.Tables) -> None:
    """Raises NotDumpable that names the process whose huge pages CRIU has no room to dump.

    CRIU needs one free page of each size, by which it recognises pages of this size. It maps shared pages a second time, as
    private ones, for which the kernel reserves as many again (criu: shmem.c, dump_one_memfd_shmem). Both are tried here, for a
    moment, while the engine runs. The kernel's numbers of free pages do not tell: the pod has a limit of its own, and the kernel
    may make more (nr_overcommit_hugepages).
    """
    seen: set[tuple[int, int]] = set()
    for pid, table in tables.items():
        lines = proc.maps(pid)
        private = {proc.map_entry(line) for line in lines if is_private(line)}
        for entry, path in proc.files(table, lines):
            size = _page_bytes(f"/proc/{pid}/{entry}") if path.startswith(_SHOWN) else 0
            if not size:
                continue
            if (0, size) not in seen and not _are_left(size, size):
                raise _refused(
                    pid, size, "none is left here: CRIU needs one to know them by", "one huge page more"
                )
            seen.add((0, size))
            if entry not in private:
                _check_shared(pid, entry, size, seen)


def is_private(line: str) -> bool:
    """Whether a line of ``maps`` is a private mapping of huge pages."""
    return proc.mapped_file(line) == _ANONYMOUS and line.split()[1].endswith("p")


def _check_shared(pid: int, entry: str, size: int, seen: set[tuple[int, int]]) -> None:
    with suppress(OSError), open(f"/proc/{pid}/{entry}", "rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        if (status.st_ino, status.st_dev) in seen or not status.st_size:
            return
        seen.add((status.st_ino, status.st_dev))
        try:
            mmap.mmap(file.fileno(), status.st_size, mmap.MAP_PRIVATE, mmap.PROT_READ).close()
        except OSError:
            what = f"fewer than {status.st_size // size} are left here: CRIU needs as many again to read shared ones"
            raise _refused(pid, size, what, "twice as many huge pages as the engine shares") from None


def _refused(pid: int, size: int, what: str, remedy: str) -> NotDumpable:
    return NotDumpable(
        f"process {pid} has huge pages of {size >> 10} KiB (MAP_HUGETLB, MFD_HUGETLB), and {what}",
        hint=f"give the pod {remedy}, or let the engine use transparent ones",
        reason="HugePages",
    )


def check_room(needs: Mapping[int, int]) -> None:
    """Raises Incompatible where fewer huge pages are left than an engine takes. ``needs``: bytes by size of a page."""
    for size, total in needs.items():
        if total and not _are_left(size, total):
            raise Incompatible(
                f"the engine takes {total // size} huge pages of {size >> 10} KiB, and fewer are left here",
                hint=f"give the pod as many (on Kubernetes {_resource(size)}), and the node; or let the engine use transparent "
                "ones when creating",
                reason="NotEnoughHugePages",
            )


def _resource(size: int) -> str:
    """What Kubernetes calls pages of this size."""
    places, unit = next(
        ((places, unit) for places, unit in ((30, "Gi"), (20, "Mi")) if size >> places), (10, "Ki")
    )
    return f"hugepages-{size >> places}{unit}"


def _page_bytes(path: str) -> int:
    """The size of a file's huge pages; 0 for other files, and for what is gone."""
    kind, size = mounts.filesystem(path)
    return size if kind == _MAGIC else 0


def _are_left(size: int, total: int) -> bool:
    """Whether the kernel reserves these pages. They are not touched, and so not allocated."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_HUGETLB | (size.bit_length() - 1) << _SIZE_SHIFT
    try:
        mmap.mmap(-1, total, flags - (flags >> 31 << 32)).close()  # mmap takes a signed number of 32 bits
    except OSError:
        return False
    return True
