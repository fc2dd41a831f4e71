"""Unpacks a delta's tar: only the files that the plan names, each of them once."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import IO

from dynamo_entry.errors import Corrupt
from dynamo_entry.rootfs import members, nodes
from dynamo_entry.rootfs.members import Member, Members, member_path
from dynamo_entry.rootfs.nodes import Attributes
from dynamo_entry.value import NamedTuple


class Expected(NamedTuple):
    """Absolute paths of members: those to make, and those to skip."""

    files: frozenset[str]
    directories: frozenset[str]
    passed_over: frozenset[str]


def unpack(file: IO[bytes], expected: Expected, rewritten: Collection[str] = frozenset()) -> dict[str, str]:
    """Make every file, and give every directory, which exists already, its attributes.

    There is nothing yet at the paths of files, except for those ``rewritten`` in place. Returns the extended attributes
    that could not be set, each with its path. Raises Corrupt for a member that is not expected, before anything of it is
    made, and for one that is missing; OSError.
    """
    unpacking = _Unpacking(Members(file), expected, rewritten)
    try:
        unpacking.run()
    except (ValueError, OverflowError) as error:  # a name, owner or time that no system call takes
        raise Corrupt(f"the filesystem delta cannot be unpacked: {error}", reason="BadDelta") from None
    return unpacking.lost


class _Unpacking:
    def __init__(self, found: Members, expected: Expected, rewritten: Collection[str]) -> None:
        self._members = found
        self._expected = expected
        self._rewritten = rewritten
        self.lost: dict[str, str] = {}
        self._left = set(expected.files | expected.directories | expected.passed_over)
        self._directories: dict[str, Attributes] = {}

    def run(self) -> None:
        for member in self._members:
            path = member_path(member.name)
            is_directory = member.kind == members.DIRECTORY
            wrong = self._expected.files if is_directory else self._expected.directories
            if path not in self._left or path in wrong:
                raise Corrupt(f"the filesystem delta holds {path} unannounced", reason="BadDelta")
            self._left.remove(path)
            if path in self._expected.passed_over:
                continue
            if is_directory:
                self._directories[path] = member.attributes
            else:
                self._make(member, path)
        if self._left:
            raise Corrupt(f"the filesystem delta lacks {min(self._left)}", reason="BadDelta")
        for path in sorted(self._directories, key=len, reverse=True):  # a child made later changes its times
            self._note(path, nodes.set_on_directory(path, self._directories[path]))

    def _note(self, path: str, lost: list[str]) -> None:
        for name in lost:
            self.lost.setdefault(name, path)

    def _make(self, member: Member, path: str) -> None:
        if member.kind == members.REGULAR:
            self._write(member, path)
        elif member.kind == members.HARD_LINK:
            target = member_path(member.link)
            if target not in self._expected.files or target in self._left:
                raise Corrupt(f"the filesystem delta links {path} to {target}", reason="BadDelta")
            os.link(target, path, follow_symlinks=False)
        elif member.kind == members.LINK:
            os.symlink(member.link, path)
            self._note(path, nodes.set_on_path(path, member.attributes))
        elif member.kind == members.FIFO:
            os.mkfifo(path, 0o600)
            self._note(path, nodes.set_on_path(path, member.attributes))
        else:
            raise Corrupt(f"the filesystem delta holds a member of type {member.kind!r}", reason="BadDelta")

    def _write(self, member: Member, path: str) -> None:
        is_rewritten = path in self._rewritten
        how = os.O_TRUNC if is_rewritten else os.O_CREAT | os.O_EXCL
        # Only this user may open it until it has its owner: its directory may have given it another group.
        descriptor = os.open(path, os.O_WRONLY | how | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if is_rewritten:
                nodes.narrow(descriptor, member.attributes.mode)
            self._members.copy(member, descriptor)
            self._note(path, nodes.set_by_descriptor(descriptor, member.attributes))
        finally:
            os.close(descriptor)
