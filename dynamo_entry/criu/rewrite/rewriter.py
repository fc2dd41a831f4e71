"""Makes images for this place from the images of an archive."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from dynamo_entry.criu import images
from dynamo_entry.criu.images import Decoded
from dynamo_entry.criu.rewrite import files, owners, pipes, sockets, stdio, tasks, unix


class Rewriter:
    """Changes images, and serves them. Its constructor decodes those that decide whether a restore can work at all."""

    def __init__(self, decoded: Decoded, root_pid: int, links: dict[str, str], grants: tasks.Grants) -> None:
        """``root_pid`` and ``links``, where stdout and stderr led ("1" and "2"), are the creator's."""
        self._decoded = decoded
        self._root_pid = root_pid
        self._links = links
        self._grants = grants
        self._files = decoded.image("files.img")
        self._stdio = stdio.find(self._files.messages, self._table(root_pid), links)
        self._our_filters = tasks.our_filters(decoded.messages("seccomp.img"))
        self._tasks = images.tasks(decoded)
        self._threads = {task.pid: frozenset(task.threads) for task in self._tasks}
        self._refills: dict[str, list[pipes.Refill]] = {}
        self._widened: frozenset[int] = frozenset()
        self._half_closed: list[tuple[int, int]] = []
        stdio.replug(self._files, self._stdio)
        tasks.rearm(self._files.messages)
        self._owners = owners.without_threads(self._files.messages, {task.pid for task in self._tasks})
        self._owners_tables = self._tables() if self._owners else {}
        files.follow_volumes(self._files.messages)

    def pids(self) -> list[int]:
        """Every pid that the engine needs: of tasks, threads, and leaders of groups and sessions."""
        found: set[int] = set()
        for task in self._tasks:
            found |= {task.pid, task.pgid, task.sid, *task.threads}
        return sorted(found - {0})

    def clocks(self) -> dict[str, float]:
        """What the engine's clocks said when it was frozen, in seconds."""
        read = self._decoded.image("timens-0.img").messages[0]
        return {
            f"{name}_s": clock.tv_sec + clock.tv_nsec / 1e9
            for name, clock in (("monotonic", read.monotonic), ("boottime", read.boottime))
        }

    def regular_files(self) -> list[files.Regular]:
        """The files that CRIU will open by path."""
        remapped = {*self._stdio.ids, *(row.orig_id for row in self._remaps())}
        return files.regular_files(self._files.messages, frozenset(remapped))

    def mapped_bytes(self) -> dict[str, int]:
        """See ``files.mapped_bytes``."""
        return files.mapped_bytes(self._files.messages, self._memories())

    def huge_pages(self) -> dict[int, int]:
        """See ``tasks.huge_pages``."""
        return tasks.huge_pages(self._memories(), self._decoded.messages("memfd.img"))

    def _memories(self) -> Iterator[Any]:
        """What the images say of each process's mappings; a zombie has none."""
        names = [f"mm-{task.pid}.img" for task in self._tasks]
        return (one for name in names if name in self._decoded.names for one in self._decoded.messages(name))

    def deleted_files(self) -> list[str]:
        """See ``files.deleted``."""
        return files.deleted(self._files.messages, self._remaps())

    def traces(self) -> files.Traces:
        """See ``files.traces``."""
        return files.traces(self._files.messages, self._remaps())

    def _remaps(self) -> list[Any]:
        return self._decoded.messages("remap-fpath.img")

    def continue_logs(self, sizes: dict[str, int]) -> None:
        """See ``files.continue_logs``."""
        files.continue_logs(self._files.messages, sizes)

    def move_sockets(self, network: sockets.Network) -> int:
        """See ``sockets.move``. Raises Incompatible."""
        return sockets.move(self._files.messages, network)

    def close_what_leads_out(self, *, keeps_half_closed: bool) -> int:
        """See ``sockets.close_what_leads_out``; returns how many connections inside the engine are closed."""
        found = sockets.close_what_leads_out(self._files.messages, keeps_half_closed=keeps_half_closed)
        tables = self._tables().items() if found else ()
        self._half_closed = [(pid, row.fd) for pid, rows in tables for row in rows if row.id in found]
        return len(found) // 2

    def half_closed(self) -> list[tuple[int, int]]:
        """(pid, descriptor) of the ends of connections inside the engine that are closed."""
        return self._half_closed

    def socket_kinds(self) -> list[sockets.Kind]:
        """See ``sockets.kinds``."""
        return sockets.kinds(self._files.messages)

    def ports(self) -> list[sockets.Bound]:
        """See ``sockets.bound``."""
        return sockets.bound(self._files.messages)

    def rename_sockets(self, renamed: Mapping[str, Sequence[Any]]) -> None:
        """See ``unix.rename``."""
        unix.rename(self._files.messages, renamed)

    def names(self) -> list[unix.Named]:
        """See ``unix.named``."""
        return unix.named(self._files.messages)

    def give_up_owners(self, uid: int, groups: Collection[int]) -> None:
        """See ``unix.give_up_owners`` and ``files.give_up_owners``."""
        unix.give_up_owners(self._files.messages, uid, groups)
        files.give_up_owners(self._files.messages, uid, groups)

    def watched(self) -> list[str]:
        """See ``files.watched``."""
        return files.watched(self._files.messages)

    def locks(self) -> list[files.Lock]:
        """See ``files.locks``."""
        entries = self._decoded.messages("filelocks.img")
        paths = {
            file.reg.id: files.text(file.reg.name) for file in self._files.messages if file.HasField("reg")
        }
        return files.locks(
            entries,
            {
                (pid, row.fd): paths[row.id]
                for pid in {entry.pid for entry in entries}
                for row in self._table(pid)
                if row.id in paths
            },
        )

    def refills(self) -> list[pipes.Refill]:
        """The bytes to put back into pipes, for the images that have been served so far."""
        return [entry for refills in self._refills.values() for entry in refills]

    def set_owners(self) -> list[str]:
        """See ``owners.set_again``."""
        return owners.set_again(self._owners, self._owners_tables)

    def widened(self) -> frozenset[int]:
        """See ``tasks.widened``, for the images that have been served so far."""
        return self._widened

    def image(self, name: str) -> bytes | None:
        """A rewritten image, or None if it is served as it is in the archive. CRIU may ask again: to rewrite twice is harmless."""
        rewrite = self.REWRITES.get(images.kind(name))
        return rewrite(self, name) if rewrite else None

    def _all_files(self, _name: str) -> bytes:
        return self._files.encode()

    def _memory(self, name: str) -> bytes | None:
        if name not in self._decoded.names:
            return None  # CRIU asks even for a zombie, which has none
        image = self._decoded.image(name)
        tasks.unreserve(image.messages)
        return image.encode()

    def _descriptors(self, name: str) -> bytes | None:
        if not self._stdio.ids:
            return None
        image = self._decoded.image(name)
        stdio.replug_table(image.messages, self._stdio)
        return image.encode()

    def _core(self, name: str) -> bytes:
        pid = int(name[5:-4])
        image = self._decoded.image(name)
        self._widened |= tasks.widened(image.messages, self._grants)
        tasks.grant(
            image.messages, self._grants,
            is_root=pid == self._root_pid, our_filters=self._our_filters,
        )  # fmt: skip
        for entry in image.messages:
            if entry.HasField("tc"):
                tasks.drop_of_ended_threads(entry.tc, self._threads.get(pid, ()))
                tasks.measure_threads(entry.tc)
        return image.encode()

    def _without_pipe_data(self, name: str) -> bytes | None:
        if name not in self._decoded.names:
            return None
        image = self._decoded.image(name)
        if name not in self._refills:  # CRIU may ask again
            sent = pipes.sent(self._decoded.messages("sk-queues.img"))
            places = pipes.places(self._files.messages, self._tables(), sent)
            self._refills[name] = pipes.drain(image, places, stdio.pipe_ids(self._links.values()))
        return image.encode()

    def _table(self, pid: int) -> list[Any]:
        ids = self._decoded.image(f"ids-{pid}.img").messages[0]
        return self._decoded.image(f"fdinfo-{ids.files_id}.img").messages

    def _tables(self) -> dict[int, list[Any]]:
        pids = [int(name[4:-4]) for name in self._decoded.names if name.startswith("ids-")]
        return {pid: self._table(pid) for pid in pids}

    #: By kind of image, see ``images.KINDS``.
    REWRITES: ClassVar[dict[str, Callable[[Rewriter, str], bytes | None]]] = {
        "core-": _core,
        "fdinfo-": _descriptors,
        "fifo-data.img": _without_pipe_data,
        "files.img": _all_files,
        "mm-": _memory,
        "pipes-data.img": _without_pipe_data,
    }
