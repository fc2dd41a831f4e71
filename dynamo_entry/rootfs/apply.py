"""A delta as a transaction: decides first what it may touch, and keeps what was there until it is settled or undone."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import IO

from dynamo_entry.errors import Corrupt, Incompatible
from dynamo_entry.linux import mounts
from dynamo_entry.rootfs import journal, nodes
from dynamo_entry.rootfs.guard import Guard, Land
from dynamo_entry.rootfs.index import Index
from dynamo_entry.rootfs.members import member_path
from dynamo_entry.rootfs.unpack import Expected, unpack
from dynamo_entry.value import NamedTuple

#: What container runtimes make in the root filesystem.
_RUNTIME_FILES = {
    "/.dockerenv", "/dev", "/etc/hostname", "/etc/hosts", "/etc/mtab", "/etc/resolv.conf", "/proc", "/run", "/sys",
}  # fmt: skip

_SAME_PLACE = "restore in the image and with the mounts that the checkpoint was made with"


class Lacking(NamedTuple):
    """A file that is made if there is none: its permissions, and its least size.

    One that ``stays`` is not removed by an ``undo``: other replicas may be using it although it looks unused.
    """

    path: str
    mode: int
    size: int = 0
    stays: bool = False


class Others(NamedTuple):
    """Files that are not in a delta but are made together with it.

    ``lacking`` files are made here. ``bound`` and ``passing`` are made by CRIU later: sockets, each in place of one that is
    there, and files that CRIU makes and removes again.
    """

    lacking: tuple[Lacking, ...] = ()
    bound: tuple[str, ...] = ()
    passing: tuple[str, ...] = ()


NOTHING_ELSE = Others()


class Plan(NamedTuple):
    """What an ``apply`` will do: the members to unpack, and the paths to remove because the engine deleted them."""

    expected: Expected
    doomed: tuple[str, ...]
    guard: Guard

    def touched(self) -> Iterator[str]:
        """The paths that are made, replaced or removed. A directory that exists is not among them: only its attributes change."""
        yield from self.expected.files
        yield from (path for path in self.expected.directories if not nodes.is_directory(path))
        yield from self.doomed

    def check(self, others: Others) -> None:
        """Raises Incompatible for a file among those of the launcher or the kernel. Sockets such as /dev/log are allowed."""
        for path in map(_resolved, (*(file.path for file in others.lacking), *others.bound, *others.passing)):
            if self.guard.holds_reserved(path) and not self.guard.is_beside_devices(path):
                raise Incompatible(
                    f"the engine had {path} open or bound, where the launcher or the system has files of its own",
                    hint="let the engine have its sockets and logs elsewhere when creating", reason="PathReserved",
                )  # fmt: skip


def plan(index: Index, land: Land) -> Plan:
    """Raises Corrupt for an index that contradicts itself, Incompatible for one that touches what is not the engine's."""
    return _Planning(index, land).plan()


def apply(
    what: Plan, tar_file: IO[bytes], work_directory: str, others: Others = NOTHING_ELSE
) -> dict[str, str]:
    """Move aside what is in the way, unpack the delta, and make the lacking files of ``others``.

    Returns the extended attributes that could not be set here, each with its path. Raises Corrupt, Incompatible, OSError;
    ``undo`` then takes back what was done so far.
    """
    files, directories, _ = what.expected
    place = _Place(files, directories)
    notes = journal.Journal(work_directory)
    try:
        in_the_way = [*what.doomed, *place.in_the_way]
        new = [*place.new_directories, *place.new_files]
        topmost = [path for path in new if os.path.dirname(path) not in place.new_directories]
        changed = {*map(os.path.dirname, (*in_the_way, *topmost)), *directories}.difference(
            place.new_directories
        )
        notes.begin(topmost, changed)
        rewritten = notes.move_aside(in_the_way)
        for path in place.new_directories:
            # Only this user may enter it until it has its owner and mode, which come last: its content may be open to all.
            os.mkdir(path, 0o700 if path in directories else 0o777)
        lost = unpack(tar_file, what.expected, rewritten)
        what.check(others)  # once more: the delta may have brought links
        gives_way, made = _later(others, what.guard)
        notes.begin(made, ())
        notes.move_aside(gives_way)
        for file in others.lacking:
            _make(file, notes)
    finally:
        notes.close()
    return lost


def _make(file: Lacking, notes: journal.Journal) -> None:
    """Make a file, and the directories that lead to it. On a volume another replica may be doing the same."""
    path = _resolved(file.path)
    for directory in _missing(os.path.dirname(path)):
        with suppress(FileExistsError):
            os.mkdir(directory)
            notes.added(directory, is_directory=True)
    flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        if file.size:
            with open(os.open(path, flags), "wb") as found:
                _enlarge(found.fileno(), file)
    else:
        with open(descriptor, "wb"):
            if not file.stays:
                notes.added(path)
            os.fchmod(descriptor, file.mode)
            _enlarge(descriptor, file)


def _enlarge(descriptor: int, file: Lacking) -> None:
    """Append zeros until a file has its size: setting the size would shrink what another replica has enlarged meanwhile."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", file.path)
    while (lacks := file.size - os.fstat(descriptor).st_size) > 0:
        os.write(descriptor, bytes(min(lacks, 1 << 20)))


def _missing(directory: str) -> list[str]:
    """A directory and those above it that do not exist, the topmost first."""
    found: list[str] = []
    while not os.path.lexists(directory):
        found.insert(0, directory)
        directory = os.path.dirname(directory)
    return found


def _later(others: Others, guard: Guard) -> tuple[list[str], list[str]]:
    """(paths that give way to a socket, paths that will be made where there is nothing).

    A socket gives way anywhere. Another file gives way only where the engine's files travel: there it is a file of the image
    that the engine had removed when it was frozen.
    """
    bound = dict.fromkeys(map(_resolved, others.bound))
    places = {**bound, **dict.fromkeys(map(_resolved, others.passing))}
    made = [path for path in places if not os.path.lexists(path)]
    gives_way = [
        path for path in bound
        if nodes.is_socket(path) or not (nodes.is_directory(path) or guard.volume_of(os.path.dirname(path)))
    ]  # fmt: skip
    return [path for path in gives_way if os.path.lexists(path)], made


def undo(work_directory: str) -> bool:
    """Take back an ``apply`` that was begun; False if there was none. Raises OSError, RestoreFailed."""
    found = journal.read(work_directory)
    if found is None:
        return False
    found.restore(_mount_points())
    journal.forget(work_directory)
    return True


def settle(work_directory: str) -> None:
    """Drop what was kept aside. Raises OSError, RestoreFailed."""
    found = journal.read(work_directory)
    journal.forget(work_directory)
    if found is not None:
        found.drop(_mount_points())


def _mount_points() -> frozenset[str]:
    return frozenset(mount.point for mount in mounts.read())


def _resolved(path: str) -> str:
    """The path of a file that is to be made, with the links on the way to it resolved."""
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


class _Place:
    """What will be made here, and what is in its place now."""

    def __init__(self, files: Iterable[str], directories: Iterable[str]) -> None:
        self.in_the_way: list[str] = []
        self.new_files: list[str] = []
        #: Directories, parents first, with all that lead to what will be made.
        self.new_directories: dict[str, None] = {}
        self._present = {"/"}
        for path in directories:
            self._add_directory(path)
        for path in files:
            if not self._add_directory(os.path.dirname(path)) and os.path.lexists(path):
                self.in_the_way.append(path)
            else:
                self.new_files.append(path)

    def _add_directory(self, path: str) -> bool:
        """Add a directory; returns whether it does not exist yet."""
        unknown = []
        while path not in self._present and path not in self.new_directories:
            unknown.append(path)
            path = os.path.dirname(path)
        is_new = path in self.new_directories
        for below in reversed(unknown):
            if not is_new and nodes.is_directory(below):
                self._present.add(below)
                continue
            if not is_new and os.path.lexists(below):
                self.in_the_way.append(below)
            is_new = True
            self.new_directories[below] = None
        return is_new


class _Planning:
    def __init__(self, index: Index, land: Land) -> None:
        self._guard = Guard(land)
        self._listed = {member_path(path): names for path, names in index.directories.items()}
        self._paths = [member_path(path) for path in index.paths]
        self._known = {*self._paths}
        self._parents: dict[str, None] = {"/": None}
        if len(self._known) != len(self._paths) or not self._listed.keys() <= self._known:
            raise Corrupt("the index of the filesystem delta contradicts itself", reason="BadDelta")

    def plan(self) -> Plan:
        files, directories, passed_over = [], [], []
        for path in self._paths:
            self._check_parents(os.path.dirname(path))
            if self._is_passed_over(path):
                passed_over.append(path)
            elif path in self._listed:
                directories.append(path)
            else:
                files.append(path)
        expected = Expected(frozenset(files), frozenset(directories), frozenset(passed_over))
        return Plan(expected, tuple(self._doomed()), self._guard)

    def _check_parents(self, directory: str) -> None:
        """Raises unless everything above a path is a directory, in the delta or here."""
        while directory not in self._parents:
            if directory in self._known and directory not in self._listed:
                raise Corrupt(f"{directory} is not a directory in the filesystem delta", reason="BadDelta")
            if (
                directory not in self._listed
                and os.path.lexists(directory)
                and not nodes.is_directory(directory)
            ):
                raise Incompatible(
                    f"{directory} is a symbolic link or a file here and was a directory where the checkpoint was made",
                    hint="restore in the image that the checkpoint was made with", reason="FilesystemDiffers",
                )  # fmt: skip
            self._parents[directory] = None
            directory = os.path.dirname(directory)

    def _is_passed_over(self, path: str) -> bool:
        """Whether a path stays as it is here. Raises Incompatible if it would have to change and must not.

        Owner and mode of a mount are the place's: a kubelet gives an emptyDir those that the pod asks for (fsGroup).
        """
        guard = self._guard
        is_directory = path in self._listed
        if is_directory and nodes.is_directory(path):
            return guard.is_mount_point(path) or bool(guard.volume_of(path)) or guard.is_reserved(path)
        if guard.holds_reserved(path):
            if "__pycache__" in path.split("/"):
                return True
            raise Incompatible(
                f"the engine had changed {path}, which the launcher or the system needs unchanged",
                hint="leave it out with DYNAMO_CHECKPOINT_EXCLUDE_PATHS when creating", reason="PathReserved",
            )  # fmt: skip
        if guard.holds_mount(path) or guard.volume_of(path):
            raise Incompatible(
                f"the engine had changed {path}, and {guard.volume_of(path) or 'what is mounted there'} "
                "is a volume here", hint=_SAME_PLACE, reason="VolumeInTheWay",
            )  # fmt: skip
        if path == "/":
            raise Corrupt("the filesystem delta replaces the root directory", reason="BadDelta")
        return False

    def _doomed(self) -> Iterator[str]:
        """The paths in directories of the delta that are here, and were not there when the engine was frozen.

        Only the root filesystem has such paths: tmpfs mounts of a new container hold only what its runtime put there. Mounts,
        the directories that lead to them, and files of the launcher and of the runtime are not the engine's to delete.
        """
        leads_to = self._parents.keys() | self._known
        for directory, names in self._listed.items():
            if not nodes.is_directory(directory) or self._guard.is_mounted(directory):
                continue
            for name in _names(directory).difference(names):
                path = os.path.join(directory, name)
                if not (
                    path in leads_to
                    or path in _RUNTIME_FILES
                    or self._guard.holds_mount(path)
                    or self._guard.holds_reserved(path)
                ):
                    yield path


def _names(directory: str) -> set[str]:
    try:
        return {*os.listdir(directory)}
    except OSError:
        return set()
