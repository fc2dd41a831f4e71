"""Looks at an engine right before its dump: refuses what CRIU cannot dump, and logs what a restore will lose."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import psutil

from dynamo_entry.archive import Keys
from dynamo_entry.checks import (
    breakpoints,
    connections,
    deleted,
    descriptors,
    huge_pages,
    leases,
    left_behind,
    queues,
    secrets,
    sharing,
)
from dynamo_entry.checks import dump as dump_checks
from dynamo_entry.criu import hints, options
from dynamo_entry.linux import capabilities, mounts, proc
from dynamo_entry.settings import Settings
from dynamo_entry.value import NamedTuple
from dynamo_entry.worker import manifest_head
from dynamo_entry.worker.prepare import Prepared


class Seen(NamedTuple):
    """What a dump has to know: the engine's output, its connections, and the hints for CRIU."""

    stdio: dict[str, str]
    connections: dict[str, Any]
    hints: options.Hints


def look(
    settings: Settings, prepared: Prepared, root: int, travelling: Callable[[], Iterable[str]], log: Any
) -> Seen:
    """Check the engine whose first process is ``root``, and log what will be lost. Raises NotDumpable.

    ``travelling`` looks for the files that will be archived.
    """
    processes, held = dump_checks.if_it_lasts(lambda: _checked(root, prepared.have.effective))
    pids = [*held]
    huge_pages.check(held)
    leases.check(held, travelling)
    descriptors.check(pids)
    sharing.check(processes)
    breakpoints.check(pids)
    queues.check(pids)
    left_behind.check_ipc(prepared.objects, left_behind.ipc_objects())
    held = proc.tables(pids)  # some of these checks wait
    connections.check_kernel_modules(held)
    _warn_of_secrets(prepared.keys, pids, log)
    _warn_of_losses(settings, prepared, root, held, log)
    kept = _check_connections(settings, prepared, pids, log)
    stdio = manifest_head.container_stdio(held)
    found = hints.find(held, prepared.roots, stdio)
    return Seen(stdio, kept, found._replace(keeps_connections=kept["kept"]))


def _checked(root: int, effective: frozenset[int]) -> tuple[list[psutil.Process], proc.Tables]:
    """Return the engine's processes and their descriptors. Raises NotDumpable, also for what lasts only a moment.

    Children that come and go may be in no table yet, have lost some of their threads, or be in a directory that is removed.
    """
    processes = proc.tree(root)
    held = proc.tables(process.pid for process in processes)
    dump_checks.check(held, effective)
    deleted.check(held)
    return processes, held


def _warn_of_losses(settings: Settings, prepared: Prepared, root: int, held: proc.Tables, log: Any) -> None:
    if bound := manifest_head.binding(held, prepared.roots, settings.reopen_paths):
        log.warning(
            "restores will need these files unchanged", paths=bound,
            hint="keep files that every pod writes to in the container's own filesystem, or list them in REOPEN_PATHS",
        )  # fmt: skip
    if numbered := manifest_head.numbered_databases(held, prepared.roots):
        log.warning(
            "databases will be read-only for their present connections", paths=numbered,
            hint="SQLite knows an open database by its number (inode), which a restore changes: let the engine use a write-ahead "
            "log (PRAGMA journal_mode=WAL), connect again after the restore, or keep them on a volume that is the same in all pods",
        )  # fmt: skip
    made = left_behind.mounts_made(prepared.mounts, mounts.read())
    if lost := [*left_behind.find(held), *left_behind.outside(root), *made]:
        log.warning("restores will not bring these back", things=lost, hint=left_behind.REMEDY)


def _check_connections(
    settings: Settings, prepared: Prepared, pids: Sequence[int], log: Any
) -> dict[str, Any]:
    """Return what a restore has to know about connections. Raises NotDumpable if none may be lost: a probe's is gone soon."""
    may_keep = capabilities.NET_ADMIN in prepared.have.effective

    def check() -> connections.Tcp:
        found = connections.tcp(proc.tables(pids), os.environ)
        connections.check_tcp(found, settings.engine_connections, may_keep=may_keep, log=log)
        return found

    found = dump_checks.if_it_lasts(check)
    return connections.record(found, kept=may_keep and bool(found.inside))


def _warn_of_secrets(keys: Keys, pids: Sequence[int], log: Any) -> None:
    """Warn about secrets in environments and command lines, which an unsealed archive will contain."""
    if keys.secrets:
        return
    names = secrets.in_environments(pids)
    options = sorted({name for pid in pids for name in secrets.in_command(proc.command(pid))})
    if names or options:
        log.warning(
            "secrets in the archive", names=names, options=options,
            hint="DROP_ENV withholds from the engine what only the launcher needs, CREDENTIALS_DIR keeps it "
            "elsewhere, KEY_FILE seals the archive",
        )  # fmt: skip
