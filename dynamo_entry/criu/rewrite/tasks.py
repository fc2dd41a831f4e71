"""Makes tasks ask for no more than this container gives: capabilities, limits, labels, timers, memory (``core-*``, ``mm-*``)."""

from __future__ import annotations

import os
import resource
from collections.abc import Collection, Iterable
from typing import Any

from dynamo_entry.linux import io_uring
from dynamo_entry.value import NamedTuple

#: CRIU's RLIM_INFINITY.
_NO_LIMIT = (1 << 64) - 1


class Grants(NamedTuple):
    """What a task may have here.

    ``capabilities`` are those that it may be given, out of the kernel's ``known_capabilities``. ``hard_limits``, by
    resource number, are None if limits may be raised. ``groups`` are this container's if a task may not have others.
    ``may_drop``: whether the bounding set can be reduced; if not, ``attainable`` are the capabilities that programs can
    get by it here, and ``secure_bits`` are those that tasks have in any case. ``withheld_bytes`` is the soft limit of locked
    memory for tasks from which it was withheld (linux/io_uring.py), if it was.
    """

    capabilities: frozenset[int]
    known_capabilities: frozenset[int]
    hard_limits: dict[int, int]
    groups: tuple[int, ...] | None = None
    may_drop: bool = False
    attainable: frozenset[int] = frozenset()
    secure_bits: int = 0
    withheld_bytes: int | None = None


def our_filters(entries: Iterable[Any]) -> frozenset[int]:
    """The numbers, in ``seccomp.img``, of the filters that kept an engine from io_uring (linux/io_uring.py), and stand alone."""
    ours = {io_uring.filter_rules(machine) for machine in io_uring.MACHINES}
    return frozenset(
        number
        for entry in entries
        for number, one in enumerate(entry.seccomp_filters)
        if one.filter in ours and not one.HasField("prev")
    )


def grant(entries: Iterable[Any], grants: Grants, *, is_root: bool, our_filters: frozenset[int]) -> None:
    """Let a ``core-*.img`` ask for nothing that this container does not have.

    CRIU fails, or hangs for ever, where capset, PR_CAPBSET_DROP or a label's transition fails. Labels, the audit id and the OOM
    score belong to the place, not to the engine: they are inherited. The root was made a subreaper for its creation
    (init/freezable.py): from now on orphans are children of PID 1 again, which reaps them. ``our_filters`` were installed for the
    creation, too, and are left out. An engine that has added a filter of its own keeps both, and its restore needs the right to
    install them.
    """
    for entry in entries:
        if entry.thread_core.HasField("creds"):  # a zombie has none
            _restrict(entry.thread_core.creds, grants)
        if entry.thread_core.HasField("seccomp_filter") and entry.thread_core.seccomp_filter in our_filters:
            entry.thread_core.ClearField("seccomp_filter")
            entry.thread_core.ClearField("seccomp_mode")
        if entry.thread_core.HasField("sched_policy"):
            _schedule(entry.thread_core)
        if entry.HasField("tc"):
            entry.tc.ClearField("loginuid")
            entry.tc.ClearField("oom_score_adj")
            if is_root:
                entry.tc.ClearField("child_subreaper")
            _give_back(entry.tc.rlimits.rlimits, grants.withheld_bytes)
            _lower_limits(entry.tc.rlimits.rlimits, grants.hard_limits)


#: sched(7)
_POLICIES = (os.SCHED_OTHER, os.SCHED_FIFO, os.SCHED_RR, os.SCHED_BATCH, os.SCHED_IDLE)


def _schedule(core: Any) -> None:
    """Let a thread of a policy that CRIU does not restore (SCHED_DEADLINE, SCHED_EXT) have the usual one."""
    if core.sched_policy & ~os.SCHED_RESET_ON_FORK not in _POLICIES:
        core.sched_policy = os.SCHED_OTHER


def widened(entries: Iterable[Any], grants: Grants) -> frozenset[int]:
    """The capabilities that programs of these tasks can get here by the bounding set, and could not at creation."""
    if grants.may_drop:
        return frozenset()
    return frozenset().union(
        *(
            grants.attainable - _numbers(entry.thread_core.creds.cap_bnd)
            for entry in entries
            if entry.thread_core.HasField("creds")
        )
    )


def _restrict(creds: Any, grants: Grants) -> None:
    """Reduce groups, capabilities and labels to those that a task may have here.

    Without CAP_SETPCAP, ask for the whole bounding set: CRIU then drops nothing, and the task inherits the container's. Otherwise
    CRIU would drop even capabilities that are not in it.
    """
    if grants.groups is not None:
        creds.groups[:] = grants.groups
    if not grants.may_drop:
        creds.cap_bnd[:] = _words(grants.known_capabilities)[: len(creds.cap_bnd)]
        creds.secbits = grants.secure_bits
    permitted = _words(grants.capabilities)
    for name in ("cap_inh", "cap_prm", "cap_eff", "cap_amb"):
        field = getattr(creds, name)
        field[:] = [old & new for old, new in zip(field, permitted, strict=False)]
    for name in ("lsm_profile", "lsm_sockcreate", "apparmor_data"):
        creds.ClearField(name)


def _words(capabilities: frozenset[int]) -> list[int]:
    return [sum(1 << (number % 32) for number in capabilities if number // 32 == word) for word in (0, 1)]


def _numbers(words: Iterable[int]) -> frozenset[int]:
    return frozenset(
        32 * place + bit for place, word in enumerate(words) for bit in range(32) if word >> bit & 1
    )


def _give_back(limits: list[Any], locked: int | None) -> None:
    for limit in limits[resource.RLIMIT_MEMLOCK : resource.RLIMIT_MEMLOCK + 1]:
        if limit.cur == 0 and locked is not None:
            limit.cur = limit.max if locked == resource.RLIM_INFINITY else min(locked, limit.max)


def _lower_limits(limits: list[Any], hard: dict[int, int]) -> None:
    for number, limit in enumerate(limits):
        most = hard.get(number, _NO_LIMIT)
        limit.max = min(limit.max, most)
        limit.cur = min(limit.cur, most)


def rearm(entries: Iterable[Any]) -> None:
    """Let a periodic timer with unread expirations expire again at once.

    The kernel starts the next period when the last expiration is read. Until then it shows no time left (0), which CRIU
    would set, and which would disarm the timer for ever.
    """
    for entry in entries:
        timer = entry.tfd
        if entry.HasField("tfd") and timer.ticks and (timer.isec or timer.insec):
            timer.vnsec = timer.vnsec or (0 if timer.vsec else 1)


def drop_of_ended_threads(task: Any, threads: Collection[int]) -> None:
    """Leave out the timers of a ``task_core_entry`` that signal a thread which has ended: they never fire again.

    The kernel does not create a timer for such a thread.
    """
    timers = task.timers.posix
    kept = [
        timer
        for timer in timers
        if not timer.HasField("notify_thread_id") or timer.notify_thread_id in threads
    ]
    if len(kept) < len(timers):
        del timers[:]
        timers.extend(kept)


#: Ids of processor time clocks, as the kernel notes them (linux/posix-timers_types.h): the calling thread's, and that of another
#: thread, of which the tid is a part.
_OF_CALLER, _OF_THREAD, _CLOCK_BITS = 0xFFFFFFFE, 6, 0xFFFFFFFF


def measure_threads(task: Any) -> None:
    """Let timers of a ``task_core_entry`` that measure a thread's processor time measure the thread that they signal.

    Such a timer measures the thread that makes it (profilers of Go and C++ have one in every thread). CRIU makes all of them in the
    main thread.
    """
    for timer in task.timers.posix:
        if timer.clock_id == _OF_CALLER and timer.HasField("notify_thread_id"):
            timer.clock_id = (~timer.notify_thread_id << 3 | _OF_THREAD) & _CLOCK_BITS


#: mman(2), the same on x86-64 and arm64, and criu/include/image.h.
_PROT_WRITE, _MAP_NORESERVE = 2, 0x4000
_ANON_PRIVATE = 1 << 9


#: linux/mman.h: a private mapping of huge pages, and the power of two of their size, in flags of mappings and of memfds.
_PRIVATE_HUGE, _SIZE_SHIFT, _SIZE_MASK = 0x40002, 26, 0x3F


def huge_pages(memory: Iterable[Any], memfds: Iterable[Any]) -> dict[int, int]:
    """The bytes in huge pages by the size of a page: in private mappings, and in objects of shared memory (memfd.img).

    Mappings for which the kernel reserves none (MAP_NORESERVE) do not count: it is not known how much of them is used.
    """
    found: dict[int, int] = {}
    areas = ((vma.flags, vma.end - vma.start) for one in memory for vma in one.vmas)
    kind = _PRIVATE_HUGE | _MAP_NORESERVE
    private = [(flags, length) for flags, length in areas if flags & kind == _PRIVATE_HUGE]
    shared = [(memfd.hugetlb_flag, memfd.size) for memfd in memfds if memfd.hugetlb_flag]
    for flags, length in (*private, *shared):
        size = 1 << (flags >> _SIZE_SHIFT & _SIZE_MASK)
        found[size] = found.get(size, 0) + length
    return found


def unreserve(entries: Iterable[Any]) -> None:
    """Give private mappings that are not writable MAP_NORESERVE: the kernel did not account for them either.

    CRIU makes every mapping writable first, and the kernel grants only as much of those as there is memory.
    """
    for entry in entries:
        for area in entry.vmas:
            if area.status & _ANON_PRIVATE and not area.prot & _PROT_WRITE:
                area.flags |= _MAP_NORESERVE
