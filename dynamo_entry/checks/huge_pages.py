"""Shared huge pages (hugetlbfs), of which CRIU knows the filesystem only if it gets a page of that size itself."""

from __future__ import annotations

import mmap

from dynamo_entry.errors import NotDumpable
from dynamo_entry.linux import mounts, proc

#: What they are shown as, mapped or open; linux/magic.h.
_SHOWN = ("/anon_hugepage (deleted)", "/memfd:")
_MAGIC = 0x958458F6

#: mmap(2), where the size of the pages is a power of two.
_MAP_HUGETLB, _SIZE_SHIFT = 0x40000, 26


def check(tables: proc.Tables) -> None:
    """Raises NotDumpable that names the process which has huge pages where none is left.

    Each size is tried once: it takes a page for a moment, while the engine runs. The kernel's numbers of free pages are no
    answer, as the pod has a limit of its own, and the kernel may make more (nr_overcommit_hugepages).
    """
    left = set()
    for pid, table in tables.items():
        for entry, path in proc.files(table, proc.maps(pid)):
            size = _page_bytes(f"/proc/{pid}/{entry}") if path.startswith(_SHOWN) else 0
            if not size or size in left:
                continue
            if not _is_one_left(size):
                raise NotDumpable(
                    f"process {pid} has huge pages of {size >> 10} KiB (MAP_HUGETLB, MFD_HUGETLB), and none is left here: CRIU "
                    "needs one to know them by",
                    hint="give the pod one huge page more than the engine takes, or let the engine use transparent ones",
                    reason="HugePages",
                )
            left.add(size)


def _page_bytes(path: str) -> int:
    """The size of a file's huge pages; 0 for other files, and for what is gone."""
    kind, size = mounts.filesystem(path)
    return size if kind == _MAGIC else 0


def _is_one_left(size: int) -> bool:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_HUGETLB | (size.bit_length() - 1) << _SIZE_SHIFT
    try:
        mmap.mmap(-1, size, flags).close()
    except OSError:
        return False
    return True
