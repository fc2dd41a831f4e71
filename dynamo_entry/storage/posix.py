"""What stores need from a POSIX filesystem: typed errors, mapped reads, publishing without overwriting."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from dynamo_entry.errors import NotFound, StorageDenied, StorageError, StorageUnavailable
from dynamo_entry.storage.base import ObjectStat

_MADV_POPULATE_READ = 22  # linux/mman.h, Linux 5.14
_RENAME_NOREPLACE = 1  # linux/fs.h
_AT_FDCWD = -100

_libc = ctypes.CDLL(None, use_errno=True)
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

#: What one POSIX_FADV_WILLNEED brings in, whatever it asks for, is limited to a volume's read-ahead window (mm/readahead.c,
#: force_page_cache_ra), 128 KiB unless somebody changed it (include/linux/mm.h, VM_READAHEAD_PAGES).
_READ_AHEAD_BYTES = 128 << 10

#: Errors of network filesystems and failing disks: another attempt, or another node, may succeed.
_TRANSIENT = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EREMOTEIO, errno.EHOSTDOWN, errno.ENOTCONN}

#: Errors of filesystems without hard links, or without RENAME_NOREPLACE.
_UNSUPPORTED = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EMLINK}

#: Errors of filesystems that lack what publishing needs.
_LACKING = {errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOLCK}


def storage_error(error: OSError, path: str, *, is_publication: bool = False) -> StorageError:
    """Return our error for an OSError about ``path``."""
    message = f"{path}: {error.strerror}"
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return NotFound(message)
    if error.errno in (errno.EACCES, errno.EPERM):
        hint = (
            "check owner and mode of the volume's directory, the pod's runAsUser and fsGroup, "
            "and with hostUsers: false, that the volume and the node's runtime support idmapped mounts"
        )
        return StorageDenied(message, hint=hint)
    if error.errno == errno.EROFS:
        return StorageDenied(message, hint="mount the volume read-write", reason="ReadOnly")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "enlarge the volume, or free space: dynamo-entryctl prune removes what killed creators left"
        return StorageError(message, hint=hint, reason="DiskFull")
    if is_publication and error.errno in _LACKING:
        hint = "use a volume that knows rename(2) and fsync(2), or the bucket itself as location (s3://…)"
        return StorageDenied(message, hint=hint, reason="VolumeUnfit")
    if error.errno in _TRANSIENT:
        return StorageUnavailable(message, hint="the volume's server or disk does not answer properly")
    return StorageError(message)


@contextmanager
def translated(path: str, *, is_publication: bool = False) -> Iterator[None]:
    """Translate an OSError of the block into our StorageError."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, path, is_publication=is_publication) from error


def object_stat(status: os.stat_result) -> ObjectStat:
    """Return size and version of a file."""
    return ObjectStat(status.st_size, f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}")


def map_range(descriptor: int, offset: int, length: int) -> memoryview | None:
    """Return a read-only view of mapped and present file pages, or None if that is impossible.

    Pages are brought in by MADV_POPULATE_READ rather than MAP_POPULATE: it reports what cannot be read
    instead of causing a SIGBUS, and runs without the GIL. The mapping ends with its last view.
    """
    before = offset % mmap.ALLOCATIONGRANULARITY
    try:
        # ACCESS_COPY, since ctypes takes the address of writable memory only; nothing is ever written.
        mapped = mmap.mmap(descriptor, before + length, access=mmap.ACCESS_COPY, offset=offset - before)
    except (OSError, ValueError):
        return None
    address = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
    if _libc.madvise(address, before + length, _MADV_POPULATE_READ):
        return None
    return memoryview(mapped).toreadonly()[before:]


def read_ahead(descriptor: int, offset: int, length: int) -> None:
    """Make the kernel read everything that is not in the page cache, all at once.

    By itself it reads only what a page fault needs, and waits for it. On a network filesystem, where every
    answer takes milliseconds, that is a small part of what the server could deliver.
    """
    if _is_cached(descriptor, offset) and _is_cached(descriptor, offset + length - 1):
        return
    for start in range(offset, offset + length, _READ_AHEAD_BYTES):
        with suppress(OSError):
            os.posix_fadvise(descriptor, start, _READ_AHEAD_BYTES, os.POSIX_FADV_WILLNEED)


def _is_cached(descriptor: int, offset: int) -> bool:
    try:
        return os.preadv(descriptor, [bytearray(1)], offset, os.RWF_NOWAIT) == 1
    except OSError:  # not cached, or the filesystem cannot tell
        return False


def publish_exclusively(temporary: str, final: str) -> None:
    """Give a complete file its final name in one step, or raise FileExistsError and change nothing.

    The temporary name may remain, as a second name of the same file. A hard link does it wherever hard links
    exist, NFS included; else renameat2(RENAME_NOREPLACE). Filesystems with neither get a check and a rename
    under a lock on the directory: still atomic, and exclusive among all who see each other's locks.
    """
    for attempt in (_link, _rename_no_replace, _rename_locked):
        try:
            attempt(temporary, final)
        except OSError as error:
            if error.errno not in _UNSUPPORTED or attempt is _rename_locked:
                raise
        else:
            return


def _link(temporary: str, final: str) -> None:
    try:
        os.link(temporary, final)
    except FileExistsError:
        # NFS sends a request again when the answer got lost, and then finds what it did the first time.
        if not os.path.samefile(temporary, final):
            raise


def _rename_no_replace(temporary: str, final: str) -> None:
    if not hasattr(_libc, "renameat2"):  # glibc 2.28, musl 1.2.5
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    names = os.fsencode(temporary), os.fsencode(final)
    if _libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_NOREPLACE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), final)


def _rename_locked(temporary: str, final: str) -> None:
    directory = os.open(os.path.dirname(final), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        if os.path.lexists(final):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), final)
        os.rename(temporary, final)
    finally:
        os.close(directory)


def sync_directory(path: str) -> None:
    """Make the names in a directory durable, if the filesystem can."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)


def make_directories(path: str) -> None:
    """Create missing directories, durable and for their owner only."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    make_directories(parent)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return
    sync_directory(parent)


def is_unlocked(descriptor: int) -> bool:
    """Take the file's lock if nobody holds it; also False if the filesystem has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
