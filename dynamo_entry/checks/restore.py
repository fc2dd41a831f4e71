"""Whether an archive can be restored here. All that can be known in advance is decided before anything is touched.

The manifest was read already. What else is needed is small: which files, pids and sockets CRIU will ask for.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterable
from typing import Any

from dynamo_entry.archive import Archive, Head
from dynamo_entry.archive.streams import DELTA_INDEX, DELTA_TAR
from dynamo_entry.checks import (
    delta,
    facts,
    files,
    host,
    huge_pages,
    image,
    kept_connections,
    privileges,
    socket_kinds,
    taken,
)
from dynamo_entry.checks.privileges import Privileges
from dynamo_entry.criu.rewrite import Rewriter, sockets, tasks
from dynamo_entry.fill.served import Images
from dynamo_entry.linux import capabilities, cgroup, mounts, timens
from dynamo_entry.rootfs import apply, index
from dynamo_entry.rootfs.guard import Land
from dynamo_entry.value import NamedTuple


class Admitted(NamedTuple):
    """What a restore continues with: rewritten images, the files to put in place, how the clock is kept."""

    rewriter: Rewriter
    delta: apply.Plan
    others: apply.Others
    clock: host.ClockOffsets | None
    may_write: Callable[[int, int], bool]
    keeps_connections: bool


def admit(
    archive: Archive,
    images: Images,
    have: Privileges,
    criu_version: str,
    *,
    land: Land,
    reopened: tuple[str, ...],
    policy: str,
    log: Any,
) -> Admitted:
    """Check one property after another. Log differences that do not matter; raise Incompatible for the first that does."""
    head = archive.manifest.head
    here = facts.host_facts(criu_version)
    for note in host.check_host(head.host, here, may_set_gid=capabilities.SETGID in have.effective):
        log.warning("host differs", difference=note)
    host.check_room(head.needs, cgroup.room())
    listed = index.parse(archive.read(DELTA_INDEX, most=index.INDEX_BYTES))
    rewriter = _rewriter(archive, images, have)
    huge_pages.check_room(rewriter.huge_pages())
    offsets = host.clock_offsets(rewriter.clocks(), facts.clocks(), may_set=timens.may_be_set())
    taken.check_pids(rewriter.pids())
    travelling, mounted = frozenset(listed.paths), mounts.read()
    opened = rewriter.regular_files()
    may_differ = files.check_files(opened, travelling, mounted, reopened)
    files.check_mapped(opened, may_differ, rewriter.mapped_bytes)
    files.check_watches(rewriter.watched(), travelling, mounted)
    files.check_deleted(rewriter.deleted_files(), mounted)
    paths = [os.fsdecode(name.name) for name in rewriter.names() if not (name.is_abstract or name.is_deleted)]
    files.check_sockets(paths, travelling, mounted)
    for path in files.check_content(head.volume_files, reopened):
        log.warning("volume file has another time", path=path)
    taken.check_locks(rewriter.locks(), travelling)
    changes = apply.plan(listed, land)
    others = apply.Others(may_differ.lacking, *rewriter.traces())
    changes.check(others)
    data_bytes = archive.size_of(DELTA_TAR)
    delta.check_delta(changes.touched(), head.facts.get("delta_bytes", {}), mounted, data_bytes=data_bytes)
    files.check_executable(head.facts.get("executable", ()))
    image.check_packages(head.facts.get("packages", {}), travelling)
    rewriter.continue_logs(may_differ.sizes)
    keeps_connections = kept_connections.check(
        head.facts.get("connections", {}), policy, may_keep=capabilities.NET_ADMIN in have.effective, log=log
    )
    if keeps_connections:
        closed = rewriter.close_what_leads_out(keeps_half_closed=capabilities.NET_RAW in have.effective)
        kept_connections.check_half_closed(closed, policy, log)
    moved = rewriter.move_sockets(_network(head, here["addresses"], keeps_connections))
    if moved:
        log.info("sockets moved", count=moved, addresses=[address for _, address in here["addresses"]])
    socket_kinds.check(rewriter.socket_kinds())
    taken.check_ports(rewriter.ports())
    taken.check_names(rewriter.names())
    if capabilities.CHOWN not in have.effective:
        rewriter.give_up_owners(os.geteuid(), {os.getegid(), *os.getgroups()})
    return Admitted(rewriter, changes, others, offsets, have.may_write, keeps_connections)


def land(archive: Archive, capture_paths: Iterable[str], scratch: Iterable[str]) -> Land:
    """What a delta may touch: mounts whose files travelled at creation, without the launcher's own files (``scratch``)."""
    return Land.here(
        (*map(os.path.realpath, capture_paths), *archive.manifest.head.facts.get("delta_bytes", {})), scratch
    )


def _rewriter(archive: Archive, images: Images, have: Privileges) -> Rewriter:
    head = archive.manifest.head
    rewriter = Rewriter(images.decoded, head.root_pid, head.stdio, _grants(have, head))
    rewriter.rename_sockets(head.facts.get("renamed_sockets", {}))
    return rewriter


def _grants(have: Privileges, head: Head) -> tasks.Grants:
    """What tasks may have here: raising limits takes CAP_SYS_RESOURCE, and other groups (fsGroup) CAP_SETGID."""
    hard = {}
    if capabilities.SYS_RESOURCE not in have.effective:
        numbers = range(resource.RLIM_NLIMITS) if hasattr(resource, "RLIM_NLIMITS") else range(16)
        values = {number: resource.getrlimit(number)[1] for number in numbers}
        hard = {number: value for number, value in values.items() if value != resource.RLIM_INFINITY}
    groups = None if capabilities.SETGID in have.effective else tuple(os.getgroups())
    return tasks.Grants(
        have.permitted, privileges.known_capabilities(), hard, groups,
        may_drop=capabilities.SETPCAP in have.effective,
        attainable=frozenset() if have.no_new_privileges else have.bounding,
        secure_bits=capabilities.secure_bits(),
        withheld_bytes=resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] if head.facts.get("memlock_withheld") else None,
    )  # fmt: skip


def _network(head: Head, here: list[list[str]], keeps_connections: bool) -> sockets.Network:
    old = [sockets.Address(*row) for row in head.host.get("addresses", ())]
    new = [sockets.Address(*row) for row in here]
    found = sockets.mapping(old, new)
    lost = frozenset(map(sockets.parse, (entry.address for entry in old))) - found.keys()
    interfaces = frozenset(entry.interface for entry in new) | {"lo"}
    return sockets.Network(found, lost, interfaces, sockets.is_reachable, keeps_connections)
