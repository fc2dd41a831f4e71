"""Files that the engine had open or mapped and that are not in the archive: on volumes, and in the image."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from typing import Any

from blake3 import blake3

from dynamo_entry.criu.rewrite.files import Regular
from dynamo_entry.errors import Incompatible
from dynamo_entry.linux import elf, mounts, proc
from dynamo_entry.linux.pages import PAGE
from dynamo_entry.rootfs import nodes
from dynamo_entry.rootfs.apply import Lacking
from dynamo_entry.value import NamedTuple

#: SQLite removes these files of a database when its last connection ends, and begins anew if they are empty: the log, and the
#: index of the log, which is mapped and so must not be smaller than it was (https://sqlite.org/walformat.html).
_LOG, _INDEX = "-wal", "-shm"

#: An index that is larger is not made: a log of 128 GiB has one of this size.
_MOST_BYTES = 1 << 28

#: The pod's own files, which differ from pod to pod: what is here is taken.
_PODS_OWN = ("/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/run/secrets", "/var/run/secrets")


class MayDiffer(NamedTuple):
    """Files that need not be as they were: their sizes here (path → bytes), and those that will be made, or enlarged."""

    sizes: dict[str, int]
    lacking: tuple[Lacking, ...]


def check_files(
    files: list[Regular],
    travelling: Collection[str],
    here: list[mounts.Mount],
    reopened: tuple[str, ...] = (),
) -> MayDiffer:
    """Raises Incompatible for a file that is not what it was, and has to be.

    ``travelling`` are the paths that the filesystem delta brings. Everything else must be as it was, except for files
    that the engine only appends to, files at or below ``reopened`` paths, and the pod's own.
    """
    sizes: dict[str, int] = {}
    lacking = []
    remade = {
        f"{file.path}{suffix}"
        for file in files
        for suffix in (_LOG, _INDEX)
        if mounts.is_below(file.path, reopened)
    }
    pods_own = (*reopened, *_PODS_OWN)
    for file in files:
        if file.path in travelling:
            continue
        if file.is_kernels:
            _check_kernels(file.path)
            continue
        is_index = file.path in remade and file.path.endswith(_INDEX)
        least = min(file.size or 0, _MOST_BYTES) if is_index else 0
        try:
            size = os.stat(file.path).st_size
        except OSError as error:
            if not _may_be_created(file) and file.path not in remade:
                raise _missing(file, error, here) from None
            size = -1
        if size < least:
            mode = file.mode & 0o777 if file.mode else 0o644  # set-id bits would act for the launcher's user
            lacking.append(Lacking(file.path, mode, least, stays=file.path.endswith((_LOG, _INDEX))))
            size = least
        is_free = file.path in remade or mounts.is_below(file.path, pods_own)
        if is_free or file.is_log or _may_be_created(file):
            sizes[file.path] = size
        elif file.size is not None and size != file.size:
            raise Incompatible(
                f"size of {file.path}: {file.size} at creation, {size} here",
                hint=_hint(file, here), reason="VolumeDiffers" if _volume(file.path, here) else "ImageDiffers",
            )  # fmt: skip
        elif file.build_id:
            _check_build_id(file, here)
        _check_access(file, here)
    return MayDiffer(sizes, tuple(lacking))


def check_mapped(
    files: list[Regular], may_differ: MayDiffer, mapped_bytes: Callable[[], dict[str, int]]
) -> None:
    """Check files that may differ and became shorter: reading a mapping beyond the end of its file ends the engine (SIGBUS).

    Raises Incompatible.
    """
    shorter = [file for file in files if may_differ.sizes.get(file.path, file.size or 0) < (file.size or 0)]
    reached = mapped_bytes() if shorter else {}
    for file in shorter:
        size = may_differ.sizes[file.path]
        if -(-size // PAGE) * PAGE < min(file.size or 0, reached.get(file.path, 0)):
            raise Incompatible(
                f"size of {file.path}: {file.size} at creation, {size} here, and the engine has more of it mapped",
                hint="let nothing shorten the file, also below REOPEN_PATHS, or let the engine unmap it before the dump",
                reason="VolumeDiffers",
            )


def _check_kernels(path: str) -> None:
    """Raises Incompatible if a kernel file (of a device or an interface, for example) does not exist here."""
    if not os.path.exists(path):
        raise Incompatible(
            f"the engine had {path} open, which this node or pod does not have",
            hint="let the engine, or PRE_DUMP, close it before the dump; or restore where it is",
            reason="KernelFileMissing",
        )


def check_watches(paths: Iterable[str], travelling: Collection[str], here: list[mounts.Mount]) -> None:
    """Raises Incompatible for a path that the engine watches and that does not exist here."""
    for path in paths:
        whole = f"/{path.lstrip('/')}"
        if whole not in travelling and not os.path.lexists(whole):
            raise _missing(Regular(whole, os.O_RDONLY, None), FileNotFoundError(2, os.strerror(2)), here)


def check_deleted(paths: Iterable[str], here: list[mounts.Mount]) -> None:
    """Raises Incompatible if CRIU cannot make a deleted file again in its directory, where it then deletes it again."""
    for path in paths:
        _check_place(path, "a deleted file,", here)


def check_sockets(paths: Iterable[str], travelling: Collection[str], here: list[mounts.Mount]) -> None:
    """Raises Incompatible for a unix socket that cannot be bound again, because of its directory or its name."""
    for path in paths:
        directory = os.path.dirname(path)
        if not os.path.isdir(directory) and not _comes_along(directory, travelling, here):
            raise _missing(Regular(directory, os.O_RDONLY, None), FileNotFoundError(2, os.strerror(2)), here)
        _check_place(path, "a unix socket,", here)
        is_in_the_way = os.path.isdir(path) or _volume(path, here)
        if is_in_the_way and os.path.lexists(path) and not nodes.is_socket(path):
            raise Incompatible(
                f"the engine's unix socket {path} is taken here by a file that is no socket",
                hint="remove that file: a socket is bound in place of an older one, and of nothing else",
                reason="NameTaken",
            )


def _comes_along(directory: str, travelling: Collection[str], here: list[mounts.Mount]) -> bool:
    """Whether the delta brings a directory, or a link or directory on the way to it, that is not on a volume here.

    A socket is named as the engine named it: ``/var/run/x``, although it is ``/run/x`` that travels.
    """
    path = os.path.realpath(directory)
    volumes = {mount.point for mount in here} - set(mounts.captured_roots(here))
    while path != "/" and path not in volumes:
        if path in travelling:
            return True
        path = os.path.dirname(path)
    return False


def _check_place(path: str, what: str, here: list[mounts.Mount]) -> None:
    if mounts.flags(os.path.dirname(path)) & os.ST_RDONLY:
        volume = _volume(path, here)
        raise Incompatible(
            f"the engine has {what} {path}, and {volume or 'the root filesystem'} is read-only here",
            hint="mount it writable, as at creation",
            reason="VolumeReadOnly" if volume else "RootReadOnly",
        )


def _may_be_created(file: Regular) -> bool:
    """Whether a missing file may be created: logs, and empty files such as lock files."""
    return not file.is_fifo and (file.is_log or (file.is_writable and not file.size))


def _check_build_id(file: Regular, here: list[mounts.Mount]) -> None:
    """Raises Incompatible for a program or library that has the same size and is another build."""
    try:
        found = elf.build_id(file.path)
    except OSError:
        return  # CRIU's own error says more
    if found.ljust(len(file.build_id), b"\0") != file.build_id:
        raise Incompatible(
            f"build id of {file.path}: {file.build_id.hex()} at creation, {found.hex() or 'none'} here",
            hint=_hint(file, here), reason="VolumeDiffers" if _volume(file.path, here) else "ImageDiffers",
        )  # fmt: skip


def _check_access(file: Regular, here: list[mounts.Mount]) -> None:
    path = mounts.existing(file.path)
    if file.is_writable and not os.access(path, os.W_OK, effective_ids=True):
        where = _volume(file.path, here) or "the root filesystem"
        raise Incompatible(
            f"the engine writes to {file.path}, and {where} is read-only here",
            hint="mount it writable, as at creation",
            reason="VolumeReadOnly" if _volume(file.path, here) else "RootReadOnly",
        )


def _missing(file: Regular, error: OSError, here: list[mounts.Mount]) -> Incompatible:
    reason = "VolumeMissing" if _volume(file.path, here) or not _is_of_an_image(file.path) else "ImageDiffers"
    return Incompatible(
        f"the engine had {file.path} open, which does not exist here: {error.strerror}",
        hint=_hint(file, here),
        reason=reason,
    )


def _is_of_an_image(path: str) -> bool:
    return path.startswith(("/usr/", "/lib", "/bin/", "/sbin/", "/opt/", "/etc/"))


def _hint(file: Regular, here: list[mounts.Mount]) -> str:
    if volume := _volume(file.path, here):
        return f"the volume at {volume} must hold what it held at creation"
    return "mount the same volumes at the same paths, and use the image that the checkpoint was created with"


def _volume(path: str, here: list[mounts.Mount]) -> str:
    return mounts.volume_of(path, here, mounts.captured_roots(here))


#: Files up to this size are read whole.
_WHOLE_BYTES = 4 << 20

#: How many pieces of larger files are read: evenly spaced, with the first and the last bytes among them.
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
    """The paths whose times differ although their samples are equal. Raises Incompatible for a file with other content."""
    noted = []
    reopened = (*reopened, *_PODS_OWN)
    for file in recorded:
        path = file["path"]
        if "sample" not in file or mounts.is_below(path, reopened):
            continue
        with suppress(OSError):  # whether the file is here at all is checked by its path
            if os.stat(path).st_mtime_ns == file["mtime_ns"]:
                continue
            if sample(path) != file["sample"]:
                raise Incompatible(
                    f"{path} holds something else here than at creation, and the engine has it open",
                    hint=f"the volume at {file['mount']} must hold what it held at creation", reason="VolumeDiffers",
                )  # fmt: skip
            noted.append(path)
    return noted


#: How the kernel shows mapped memory that no mount holds.
_MEMORY = ("/memfd:", "/dev/zero")


def executable_directories(pids: Iterable[int]) -> list[str]:
    """The directories of the files that processes run, or have mapped as executable."""
    found = set()
    for pid in pids:
        for line in proc.maps(pid):
            permissions, path = line.split(" ", 2)[1], proc.mapped_file(line)
            if "x" in permissions and path and not path.startswith(_MEMORY):
                found.add(os.path.dirname(path))
    return sorted(found)


def check_executable(recorded: Iterable[str]) -> None:
    """Raises Incompatible that names a directory on a noexec mount."""
    for directory in recorded:
        if mounts.flags(directory) & os.ST_NOEXEC:
            raise Incompatible(
                f"the engine runs a program or a library in {directory}, which is mounted noexec here",
                hint="mount it without noexec, as at creation",
                reason="MountNoexec",
            )
