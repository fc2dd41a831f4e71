"""Keeps what was here before a delta is applied, and writes down where, so that all of it can be brought back.

The journal has one JSON array a line. Each one except ``added`` and ``parted`` is written before the step that it describes:

- ``["made", path]``: nothing was there; what is below it was made, too;
- ``["moved", path, aside]``: what was there gets another name in its directory;
- ``["rewritten", path, copy, uid, gid, mode, mtime, {extended attributes}]``: a file that cannot get another name, as in a
  directory of another user: its content was copied;
- ``["directory", path, uid, gid, mode, mtime, {extended attributes}]``: a directory: names in it, or its attributes,
  will change;
- ``["parting", path, …]``: the same, for a directory whose content has to be moved piece by piece;
- ``["parted", path]``: all of its content was moved;
- ``["added", path, is it a directory]``: an empty directory or file was made where other pods may use it, too: it is
  removed if it is still like that, and nobody has locked it.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from binascii import a2b_base64, b2a_base64
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from dynamo_entry.errors import RestoreFailed
from dynamo_entry.linux import locks
from dynamo_entry.rootfs import nodes
from dynamo_entry.rootfs.nodes import Attributes
from dynamo_entry.scratch import JOURNAL, remove

#: The kinds of rows that say where something was moved.
_TO = ("moved", "rewritten")

#: A larger file is not a journal of ours: a million paths take this much.
_LIMIT_BYTES = 512 << 20


class Journal:
    """The journal of an ``apply`` in progress. Every method raises OSError."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._token = os.urandom(4).hex()
        self._count = 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(f"{directory}/{JOURNAL}", flags, 0o600)

    def close(self) -> None:
        """Close the journal: nothing more will be changed."""
        os.close(self._descriptor)

    def begin(self, made: Iterable[str], directories: Iterable[str]) -> None:
        """Write down what will be made, and which existing directories will change."""
        self._write([*(["made", path] for path in made), *map(_row, directories)])

    def added(self, path: str, *, is_directory: bool = False) -> None:
        """Write down that an empty directory or file was made which others may be using; remove it if that fails."""
        try:
            self._write([["added", path, is_directory]])
        except OSError:
            _remove_unused(path, is_directory)
            raise

    def move_aside(self, paths: Iterable[str]) -> frozenset[str]:
        """Give what is at these paths another name. Returns the files for which that is not possible: they were copied."""
        copied = set()
        moves = [(path, self._aside(path)) for path in paths]
        self._write([["moved", *move] for move in moves])
        for path, aside in moves:
            try:
                os.rename(path, aside)
            except PermissionError:
                if not nodes.is_writable_file(path):
                    raise
                self._copy(path, f"{self._directory}/{os.path.basename(aside)}")
                copied.add(path)
            except OSError as error:
                # overlayfs(rst): directories of lower layers are not renamed
                if error.errno != errno.EXDEV or not nodes.is_directory(path):
                    raise
                inside = [directory for directory, _, _ in os.walk(path)]
                self._write([_row(directory, "parting") for directory in inside])
                _take_apart(path, aside)
                self._write([["parted", path]])
        return frozenset(copied)

    def _copy(self, path: str, copy: str) -> None:
        """Copy a file. The row is written last: if it is there the copy is complete, if not the file is as it was."""
        try:
            shutil.copyfile(path, copy, follow_symlinks=False)
            self._write([["rewritten", path, copy, *_row(path)[2:]]])
        except BaseException:  # no row names the copy: it would take up room, usually memory, for ever
            remove(copy)
            raise

    def _aside(self, path: str) -> str:
        self._count += 1
        return f"{os.path.dirname(path).rstrip('/')}/.dynamo_entry-{self._token}-{self._count}"

    def _write(self, rows: Iterable[list[Any]]) -> None:
        data = "".join(f"{json.dumps(row)}\n" for row in rows).encode("ascii")
        while data:
            data = data[os.write(self._descriptor, data) :]


class Record:
    """What a journal says. Every method raises OSError."""

    def __init__(self, rows: Iterable[list[Any]]) -> None:
        self._made: list[str] = []
        self._added: dict[str, bool] = {}
        self._moved: dict[str, str] = {}
        self._rewritten: dict[str, tuple[str, Attributes]] = {}
        self._parting: dict[str, Attributes] = {}
        self._directories: dict[str, Attributes] = {}
        for row in rows:
            self._take(*row)

    def _take(self, kind: str, path: str, *rest: Any) -> None:
        if not isinstance(path, str) or not all(isinstance(other, str) for other in rest[:1] if kind in _TO):
            raise ValueError(f"it has a path that is none: {path!r:.100}")
        if kind == "made":
            self._made.append(path)
        elif kind == "added":
            (self._added[path],) = rest
        elif kind == "moved":
            (self._moved[path],) = rest
        elif kind == "rewritten":
            copy, *attributes = rest
            self._rewritten[path] = copy, _attributes(*attributes)
        elif kind == "parting":
            self._parting[path] = _attributes(*rest)
        elif kind == "parted":
            self._parting = {}  # directories are taken apart one after another
        elif kind == "directory":
            self._directories[path] = _attributes(*rest)
        else:
            raise ValueError(f"it has a row of kind {kind!r}")

    def restore(self, keep: frozenset[str]) -> None:
        """Bring everything back. ``keep`` are mount points. Can be repeated if it was interrupted.

        Raises RestoreFailed, before it changes anything, if what was a directory is not one any more; and, when all the
        rest is done, the first failure to remove what others might have used.
        """
        for path in self._directories:
            if os.path.realpath(path) != path or not nodes.is_directory(path):
                raise RestoreFailed(f"{path} was a directory before the restore", reason="NotUndone")
        for path, aside in self._moved.items():
            if os.path.lexists(aside):
                self._bring_back(path, aside, keep)
        for path in self._topmost_made():
            nodes.remove(path, keep)
        for path, (copy, attributes) in self._rewritten.items():
            _write_back(path, copy, attributes)
        failure = self._remove_added()
        directories = self._directories | self._parting
        for path in sorted(directories, key=len, reverse=True):
            nodes.set_on_directory(path, directories[path], exactly=True)
        if failure is not None:
            raise failure

    def _remove_added(self) -> OSError | None:
        """Remove what was added and is unused; returns the first failure.

        What lies below other new paths is gone by now, or was there before.
        """
        new = {*self._made} | self._moved.keys()
        failure: OSError | None = None
        for path in reversed(self._added):
            if not any(above in new for above in _with_parents(path)):
                try:
                    _remove_unused(path, self._added[path])
                except OSError as error:
                    failure = failure or error
        return failure

    def _topmost_made(self) -> list[str]:
        """The paths that were made, without those below others: whatever is there now was not there before."""
        new = {*self._made} | self._moved.keys()
        return [path for path in self._made if path not in self._moved and os.path.dirname(path) not in new]

    def _bring_back(self, path: str, aside: str, keep: frozenset[str]) -> None:
        if path in self._parting:
            _merge(aside, path)
        else:
            nodes.remove(path, keep)
            os.rename(aside, path)

    def drop(self, keep: frozenset[str]) -> None:
        """Remove what was kept aside. The directories that held it keep their times. One failure does not stop the rest."""
        times = {os.path.dirname(aside): 0 for aside in self._moved.values() if os.path.lexists(aside)}
        for directory in times:
            times[directory] = os.lstat(directory).st_mtime_ns
        failure: OSError | None = None
        for kept in (*self._moved.values(), *(copy for copy, _ in self._rewritten.values())):
            try:
                nodes.remove(kept, keep)
            except OSError as error:
                failure = failure or error
        for directory, mtime_ns in times.items():
            with suppress(PermissionError):  # it is another user's, as /tmp is for most
                os.utime(directory, ns=(mtime_ns, mtime_ns), follow_symlinks=False)
        if failure is not None:
            raise failure


def read(directory: str) -> Record | None:
    """The journal that an ``apply`` has left. Raises OSError; RestoreFailed if the launcher cannot have written it."""
    try:
        descriptor = os.open(f"{directory}/{JOURNAL}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with open(descriptor, "rb") as file:
        data = file.read(_LIMIT_BYTES + 1)
    try:
        if len(data) > _LIMIT_BYTES:
            raise ValueError("it is too long")
        # The last line may be cut off: the step that it describes was not done.
        return Record(json.loads(line) for line in data.split(b"\n")[:-1])
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise RestoreFailed(f"{directory}/{JOURNAL} cannot be read: {error}", reason="NotUndone") from None


def forget(directory: str) -> None:
    """Remove the journal, whatever it says. Raises OSError."""
    remove(f"{directory}/{JOURNAL}")


def _with_parents(path: str) -> Iterator[str]:
    while (above := os.path.dirname(path)) != path:
        yield path
        path = above


def _remove_unused(path: str, is_directory: bool) -> None:
    try:
        if is_directory:
            os.rmdir(path)
            return
        status = os.lstat(path)
        if stat.S_ISREG(status.st_mode) and status.st_size == 0 and not _is_locked(path):
            os.unlink(path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.ENOTDIR):
            raise


def _is_locked(path: str) -> bool:
    with suppress(OSError):  # a filesystem without locks
        return locks.is_flocked(path) or locks.is_locked(path)
    return False


def _row(path: str, kind: str = "directory") -> list[Any]:
    uid, gid, mode, mtime_ns, extended = Attributes.of(path)
    encoded = {name: b2a_base64(value, newline=False).decode("ascii") for name, value in extended.items()}
    return [kind, path, uid, gid, mode, mtime_ns, encoded]


def _attributes(uid: int, gid: int, mode: int, mtime_ns: int, encoded: dict[str, str]) -> Attributes:
    return Attributes(uid, gid, mode, mtime_ns, {name: a2b_base64(text) for name, text in encoded.items()})


def _write_back(path: str, copy: str, attributes: Attributes) -> None:
    """Bring a file back that was rewritten in place, then drop the copy. If there is no copy this was done before."""
    try:
        source = os.open(copy, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    target = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(source, "rb") as reader, open(target, "wb") as writer:
        nodes.narrow(target, attributes.mode)
        shutil.copyfileobj(reader, writer)
        writer.flush()
        nodes.set_by_descriptor(target, attributes)
    os.unlink(copy)


def _take_apart(path: str, aside: str) -> None:
    """Move a directory that cannot be renamed: make a new one like it, and move the content there."""
    attributes = Attributes.of(path)
    os.mkdir(aside, 0o700)
    for name in os.listdir(path):
        try:
            os.rename(f"{path}/{name}", f"{aside}/{name}")
        except OSError as error:
            if error.errno != errno.EXDEV or not nodes.is_directory(f"{path}/{name}"):
                raise
            _take_apart(f"{path}/{name}", f"{aside}/{name}")
    nodes.set_on_directory(aside, attributes)
    os.rmdir(path)


def _merge(aside: str, path: str) -> None:
    """The reverse of a ``_take_apart`` that was interrupted."""
    if not os.path.lexists(path):
        os.rename(aside, path)
        return
    for name in os.listdir(aside):
        _merge(f"{aside}/{name}", f"{path}/{name}")
    os.rmdir(aside)
