"""Turns what ``doctor`` observed into findings. Pure."""

from __future__ import annotations

from dynamo_entry.checks import connections, host
from dynamo_entry.checks.privileges import lack
from dynamo_entry.criu import images
from dynamo_entry.ctl.surroundings import Answer, Stored, Surroundings, Target
from dynamo_entry.errors import ArchiveError
from dynamo_entry.linux import capabilities
from dynamo_entry.value import NamedTuple

CREATE, RESTORE = "create", "restore"

#: What vLLM needs for each server; the default of container runtimes is 64 MiB.
_VLLM_SHM_BYTES = 160 << 20

_UNCONFINED = "securityContext.seccompProfile.type: Unconfined"
_CLONE3 = "securityContext.seccompProfile: {type: Localhost, localhostProfile: dynamo-entry/restore.json} (images/seccomp/restore.json)"
_CLOCKS = "securityContext.capabilities.add: [SYS_ADMIN, SYS_TIME]"


class Finding(NamedTuple):
    """One row: the observed value, which of create and restore it rules out, and the remedy."""

    name: str
    value: str
    rules_out: tuple[str, ...] = ()
    remedy: str = ""

    @property
    def level(self) -> str:
        """``ok``, ``note`` (it works, but could be better) or ``missing``."""
        return "missing" if self.rules_out else "note" if self.remedy else "ok"


def examine(here: Surroundings) -> list[Finding]:
    """Return the findings about the container alone."""
    return [
        _capabilities(here), _seccomp(here), _pids(here),
        _needed("criu", here.criu), _needed("pycriu", here.pycriu), Finding("python", here.python),
        _clocks(here), _needed("scratch directory", here.scratch), _sock_diag(here), _status(here), _shm(here), _memory(here),
        *_node_cache(here),
    ]  # fmt: skip


def intended(verb: str, settings: Answer) -> Finding:
    """Return the finding about the settings of what the container is for."""
    if settings.error:
        return Finding("settings", settings.reason, (verb,), settings.error)
    return Finding("settings", settings.value)


def publish(target: Target) -> list[Finding]:
    """Return the findings about a creation's location and its signal file."""
    found = []
    if target.publishing.error:
        found.append(Finding("location", target.publishing.reason, (CREATE,), target.publishing.error))
    elif target.place:
        found.append(Finding("location", f"{target.place}: {target.publishing.value}"))
    if not target.signal_is_writable:
        remedy = "set DYNAMO_CHECKPOINT_SIGNAL_FILE to a path that the engine can create"
        found.append(Finding("signal file", f"{target.signal_file} cannot be created", (), remedy))
    return found


def compare(here: Surroundings, stored: Stored) -> list[Finding]:
    """Return the findings about an archive in this container."""
    if stored.error:
        return [Finding("archive", stored.location, (RESTORE,), stored.error)]
    found = [Finding("archive", f"{stored.location}, {_mib(stored.size_bytes)}, {stored.digest}")]
    try:
        with images.decoding(stored.location):
            may_set_gid = capabilities.SETGID in here.privileges.effective
            notes = host.check_host(stored.host, here.host, may_set_gid=may_set_gid)
            host.check_room(stored.needs, here.room)
            needed = _mib(int(stored.needs.get("memory_bytes", 0)))
    except ArchiveError as error:
        return [*found, Finding("archive fits", error.message, (RESTORE,), error.hint)]
    found.append(Finding("archive fits", "; ".join((f"needs {needed} of memory", *notes))))
    # Name, answer, the value shown for an error, and the one for an answer without words.
    rows = (
        ("files on volumes", stored.volumes, "differ", "as at creation"),
        ("GPUs fit", stored.gpus, stored.gpus.reason, ""),
        ("handshake", stored.handshake, "invalid", ""),
        ("checks of a restore", stored.admission, stored.admission.reason, "passed"),
    )
    for name, answer, refused, passed in rows:
        if answer.error:
            return [*found, Finding(name, refused, (RESTORE,), answer.error)]
        if value := answer.value or passed:
            found.append(Finding(name, value))
    return found


def _capabilities(here: Surroundings) -> Finding:
    lacking = lack(here.privileges, int(here.host.get("uid", 0)))
    if lacking is None:
        return Finding("capabilities", "sufficient")
    return Finding("capabilities", lacking.what, (CREATE, RESTORE), lacking.remedy.removeprefix("add "))


def _seccomp(here: Surroundings) -> Finding:
    if not here.privileges.has_seccomp:
        return Finding("seccomp", "unconfined")
    return Finding("seccomp", "a profile is on", (CREATE,), _UNCONFINED)


def _pids(here: Surroundings) -> Finding:
    ways = [("clone3", here.has_clone3), ("ns_last_pid", here.may_choose_pids)]
    given = [name for name, is_given in ways if is_given]
    if given:
        return Finding("choice of pids", ", ".join(given))
    return Finding("choice of pids", "neither clone3 nor ns_last_pid", (RESTORE,), _CLONE3)


def _clocks(here: Surroundings) -> Finding:
    if not here.has_time_namespaces:
        return Finding("time namespace", "the kernel has none", (), "use Linux 5.6 or newer")
    if here.may_set_clocks:
        return Finding("time namespace", "clocks can be set")
    return Finding(
        "time namespace", "clocks cannot be set: restores only on hosts that are up for longer", (), _CLOCKS
    )


def _sock_diag(here: Surroundings) -> Finding:
    """Check the kernel's modules. Every engine has unix and TCP sockets, but few have other kinds."""
    if not here.lacking:
        return Finding("sock_diag", "every module is there")
    modules = sorted(here.lacking.values())
    rules_out = (CREATE,) if {"unix", "tcp"} & here.lacking.keys() else ()
    return Finding(
        "sock_diag", f"without {', '.join(modules)}", rules_out, connections.modules_remedy(modules)
    )


def _status(here: Surroundings) -> Finding:
    if here.status_is_writable:
        return Finding("status file", here.status_file)
    return Finding(
        "status file", f"{here.status_file} cannot be written", (),
        "set DYNAMO_CHECKPOINT_STATUS_FILE to a writable path",
    )  # fmt: skip


def _shm(here: Surroundings) -> Finding:
    size = _mib(here.shm_bytes)
    if here.shm_bytes >= _VLLM_SHM_BYTES:
        return Finding("/dev/shm", size)
    remedy = "volumes: [{name: shm, emptyDir: {medium: Memory}}], mounted at /dev/shm"
    return Finding("/dev/shm", f"{size}; vLLM needs {_mib(_VLLM_SHM_BYTES)} per server", (), remedy)


def _node_cache(here: Surroundings) -> list[Finding]:
    answer = here.node_cache
    if answer.error:
        remedy = "volumes: [{hostPath: {path: …, type: DirectoryOrCreate}}], mounted at DYNAMO_CHECKPOINT_NODE_CACHE_DIR, for this user to write to"
        return [Finding("node cache", f"nothing can be kept: {answer.error}", (), remedy)]
    return [Finding("node cache", answer.value)] if answer.value else []


def _memory(here: Surroundings) -> Finding:
    memory, tasks = here.room.memory_bytes, here.room.tasks
    left = "no limit" if memory is None else f"{_mib(memory)} left"
    return Finding("memory", left if tasks is None else f"{left}, {tasks} more tasks")


def _needed(name: str, told: Answer) -> Finding:
    return (
        Finding(name, "missing", (CREATE, RESTORE), told.error)
        if told.error
        else Finding(name, told.value or "found")
    )


def _mib(count: int) -> str:
    return f"{count >> 20} MiB"
