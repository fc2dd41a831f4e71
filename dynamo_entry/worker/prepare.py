"""Checks and sets up a creation before the engine is started: what can be refused now costs nothing yet."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from dynamo_entry import cuda, storage
from dynamo_entry.archive import Archive, Compression, Keys
from dynamo_entry.archive.streams import DUMP_LOG
from dynamo_entry.checks import dump as dump_checks
from dynamo_entry.checks import left_behind, open_files, privileges
from dynamo_entry.checks.privileges import Privileges
from dynamo_entry.criu import images, options, process
from dynamo_entry.engine import canary, handshakes, hooks, readiness
from dynamo_entry.errors import ArchiveError, CheckpointError, DumpFailed, NotDumpable, SettingsError
from dynamo_entry.linux import mounts, proc
from dynamo_entry.rootfs import changes
from dynamo_entry.scratch import work_directory
from dynamo_entry.settings import Settings
from dynamo_entry.value import NamedTuple
from dynamo_entry.worker.channel import Channel

if TYPE_CHECKING:
    from dynamo_entry.cuda import NoCreation
    from dynamo_entry.cuda.creation import Creation


class Prepared(NamedTuple):
    """The state before the engine is started: facts, open objects and helpers."""

    store: storage.Store
    keys: Keys
    have: Privileges
    gpu: Creation | NoCreation
    criu_version: str
    places: options.Places
    mounts: list[mounts.Mount]
    roots: list[str]
    starts: list[changes.Start]
    handshake: handshakes.Handshake | None
    offered: handshakes.Handshake | None
    objects: frozenset[left_behind.Object]


def prepare(settings: Settings, channel: Channel, store: storage.Store, keys: Keys) -> Prepared:
    """Check everything that can be refused, before minutes are spent on the engine's start. Raises CheckpointError."""
    have = privileges.read()
    privileges.check_dump(have)
    work = work_directory(settings)
    argv = proc.command(os.getppid())
    handshake = handshakes.of_pod(settings.protocol, argv, os.environ, work)
    check_settings(settings)
    _check_readiness(settings, handshake)
    if settings.ready_url and not readiness.recordable(settings.ready_url):
        channel.log.warning(
            "READY_URL not recorded",
            hint="it is no loopback address: each restoring pod needs a READY_URL of its own",
        )
    if dump_checks.may_get_io_uring(argv):
        channel.log.warning("io_uring not withheld", hint=open_files.IO_URING_REMEDY)
    gpu = cuda.for_creation(channel, settings.gpu_timeout)
    try:
        criu_version = process.version()
        # protobuf's C++ code ends the process if a signal handler raises an exception during its import.
        with channel.deferring():
            images.message("core", "core_entry")
    except CheckpointError as error:
        raise NotDumpable(error.message, hint=error.hint, reason=error.reason) from None
    store.check_writable()
    if store.not_exclusive:
        channel.log.warning("exclusive publication not guaranteed", message=store.not_exclusive)
    readiness.remove_stale_signal(settings.signal_file)
    offered = None if handshake else handshakes.offered(settings.protocol, work)
    if paused := handshake or offered:
        paused.prepare_creation()
    here = mounts.read()
    roots = mounts.captured_roots(here, map(os.path.realpath, settings.capture_paths))
    places = options.Places(work, work, DUMP_LOG)
    return Prepared(
        store, keys, have, gpu, criu_version, places, here, roots,
        changes.mark(roots, mounts.without_renames(here)), handshake, offered,
        left_behind.ipc_objects(),
    )  # fmt: skip


def existing(store: storage.Store, expected_hash: str, keys: Keys) -> Archive:
    """Open the wanted archive, if it is at its location already. Raises NotFound, DumpFailed for anything else there."""
    try:
        return Archive.open(store, expected_hash=expected_hash, key=keys)
    except ArchiveError as error:
        raise DumpFailed(
            f"{store.location} holds something that is not the wanted archive: {error.message}",
            hint="remove it, choose another location, or set DYNAMO_CHECKPOINT_FORCE=1 to replace it",
            reason="LocationTaken",
            retry=False,
        ) from None


def check_settings(settings: Settings) -> None:
    """Check the settings that PID 1 cannot check. Raises SettingsError."""
    Compression.parse(settings.compression)
    readiness.check(settings.ready_url)
    hooks.check("PRE_DUMP", settings.pre_dump)
    hooks.check("POST_RESTORE", settings.post_restore)
    if settings.canary:
        canary.load(settings.canary)


def _check_readiness(settings: Settings, handshake: handshakes.Handshake | None) -> None:
    """Check whether the launcher will know when the engine is ready. Raises SettingsError."""
    if handshake:
        handshakes.check_settings(
            handshake.who, ready_url=settings.ready_url, canary=settings.canary, pre_dump=settings.pre_dump
        )
    elif not (settings.signal_file or settings.ready_url):
        raise SettingsError(
            "DYNAMO_CHECKPOINT_MODE='create' needs DYNAMO_CHECKPOINT_SIGNAL_FILE or DYNAMO_CHECKPOINT_READY_URL",
            hint="only a Dynamo worker (dynamo.vllm, dynamo.sglang, dynamo.trtllm) and vLLM's snapshot server report by "
            "themselves that they are ready; set DYNAMO_CHECKPOINT_PROTOCOL=dynamo for a script that starts such a worker",
        )
