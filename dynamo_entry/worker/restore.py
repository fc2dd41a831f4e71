"""Restores: finds a valid archive, checks that this host can run it, rebuilds the engine, hands it over."""

from __future__ import annotations

import errno
import io
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, suppress
from typing import TYPE_CHECKING, Any

from dynamo_entry import cuda
from dynamo_entry.archive import Archive, Keys, read_keys
from dynamo_entry.archive.streams import CRIU, DELTA_TAR
from dynamo_entry.checks import privileges, refusals
from dynamo_entry.checks.restore import Admitted, admit, land
from dynamo_entry.criu import images, process
from dynamo_entry.engine import readiness
from dynamo_entry.errors import ArchiveError, CheckpointError, NotFound, RestoreFailed, StorageError
from dynamo_entry.fill.filler import EARLY_BYTES
from dynamo_entry.fill.served import Images
from dynamo_entry.linux import proc
from dynamo_entry.pool import Pool
from dynamo_entry.protocol import Outcomes, Phases, Result, Sources
from dynamo_entry.rootfs import apply
from dynamo_entry.scratch import own_paths, work_directory
from dynamo_entry.settings import Settings
from dynamo_entry.stores import node_cache, open_store
from dynamo_entry.value import NamedTuple
from dynamo_entry.worker import context_file
from dynamo_entry.worker.channel import Channel, Phase
from dynamo_entry.worker.rebuild import Rebuild
from dynamo_entry.worker.standby import Standby, needs_no_images

if TYPE_CHECKING:
    from dynamo_entry.engine.handshakes import Handshake

#: A root process that cannot live here dies within this time.
_SETTLE_S = 0.1

#: Steps that may take STALL_TIMEOUT each: the engine's reaction, its health, two hooks, READY_URL.
_SETTLE_STALLS = 5

#: How often a missing archive is looked for again while WAIT lasts.
_WAIT_POLL_S = 1.0

#: Verified chunks of the filesystem delta kept ready.
_AHEAD = 3

#: Why a file of the engine could not be put in place → what to do about it.
_PLACING = {
    errno.EPERM: "its owner or mode takes CHOWN or FOWNER here: add them, or let the engine's user own what it changes",
    errno.EACCES: "its directory is not writable for this user: mount a volume there, or EXCLUDE_PATHS when creating",
    errno.EROFS: "mount it writable, as at creation",
    errno.ENOSPC: "give the filesystem more room",
    errno.EDQUOT: "give the filesystem more room",
}


class _Opened(NamedTuple):
    """An archive, and what decides whether it can be restored here: this container's privileges and CRIU.

    ``standby`` is a CRIU that is started already, or None.
    """

    archive: Archive
    have: privileges.Privileges
    criu_version: str
    standby: Standby | None


def run(settings: Settings, channel: Channel) -> None:
    """Restore the engine and hand it over to PID 1. Raises CheckpointError if that fails."""
    gpu = cuda.for_restore(channel, settings.gpu_timeout)  # attaching takes seconds: first of all
    sources = _sources(channel)
    check_settings(settings)
    opened = _open(sources, settings, channel)
    channel.limit(settings.restore_timeout)
    with opened.archive as archive, ExitStack() as stack:
        if opened.standby:
            stack.enter_context(opened.standby)
        with channel.phase(Phases.CHECK), images.decoding(archive.location):
            stack.enter_context(_attempt(settings, channel, archive.digest))
            gpu.check(archive.manifest.head.gpu)
            # An earlier restore in this container may have been killed.
            apply.undo(work_directory(settings))
            archived = Images(archive)
            admitted = _admitted(settings, channel, opened, archived)
        written = _write_context(settings, archive.digest)
        restoration = _Restoration(settings, channel, archive, admitted, written)
        restoration.prepare_handshake()
        with refusals.remembered(settings, archive.digest):
            with channel.phase(Phases.PLAN, stall_s=settings.stall_timeout):
                standby = opened.standby or stack.enter_context(
                    Standby(
                        work_directory(settings),
                        keeps_connections=admitted.keeps_connections,
                        clock=admitted.clock,
                    )
                )
                rebuild = Rebuild(settings, channel, archive, archived, admitted, standby=standby)
            with channel.phase(Phases.DELTA, stall_s=settings.stall_timeout) as phase:
                restoration.apply_delta(phase)
            with rebuild.running() as pid:
                gpu.thaw()
                with channel.phase(
                    Phases.SETTLE, stall_s=_SETTLE_STALLS * settings.stall_timeout + readiness.PROBE_S
                ):
                    restoration.settle(pid)
                channel.hand_over(restoration.result(pid))
            stack.close()  # the attempt is over, whatever becomes of this process
            if archive.near:
                channel.log.info("node cache used", **archive.near.report())
        restoration.drop_what_was_kept()


def check_settings(settings: Settings) -> None:
    """Check the settings that PID 1 cannot check. Raises SettingsError."""
    readiness.check(settings.ready_url)
    if settings.post_restore:
        from dynamo_entry.engine import hooks  # noqa: PLC0415 - few have one

        hooks.check("POST_RESTORE", settings.post_restore)


def _open(sources: list[str], settings: Settings, channel: Channel) -> _Opened:
    """Open the archive while CRIU is asked for its version, and start CRIU."""
    with channel.phase(Phases.OPEN) as phase:
        keys = read_keys(settings.key_file, verify_key_file=settings.verify_key_file)
        begun = _begun(sources[:1], settings, keys)
        have = privileges.read()
        privileges.check_restore(have)
        with process.asking_version() as answer, ExitStack() as stack:
            archive = stack.enter_context(_open_first(sources, settings, keys, channel, begun))
            archive.verify_early(f"{CRIU}pages-", EARLY_BYTES)
            standby = _early_standby(settings, archive)
            if standby:
                stack.enter_context(standby)
            # protobuf's C++ code ends the process if a signal handler raises an exception during its import.
            with channel.deferring():
                images.message("core", "core_entry")
            version = answer()
            stack.pop_all()
        phase.fields["location"] = archive.location
    return _Opened(archive, have, version, standby)


def _attempt(settings: Settings, channel: Channel, digest: str) -> AbstractContextManager[None]:
    """Refuse an archive that failed before. Returns a context in which this attempt is on record."""
    if not refusals.is_usable(settings.state_dir):
        channel.log.warning(
            "failures not remembered", path=settings.state_dir,
            hint="STATE_DIR must be a directory in which this user can create files: mount an emptyDir there",
        )  # fmt: skip
    refusals.check(settings, digest)
    return refusals.attempt(settings, digest)


def _admitted(settings: Settings, channel: Channel, opened: _Opened, archived: Images) -> Admitted:
    """Check everything that can be known before anything is touched. Raises Incompatible, Corrupt."""
    scratch = (*own_paths(settings), context_file.directory(settings))
    return admit(
        opened.archive, archived, opened.have, opened.criu_version,
        land=land(opened.archive, settings.capture_paths, scratch),
        policy=settings.engine_connections, reopened=settings.reopen_paths, log=channel.log,
    )  # fmt: skip


def _sources(channel: Channel) -> list[str]:
    """Return the locations to try, as PID 1 decided."""
    said = channel.receive(10)
    assert isinstance(said, Sources)
    return said.locations


def _begun(sources: list[str], settings: Settings, keys: Keys) -> dict[str, Callable[[], Archive]]:
    """Begin to open remote archives while this host is checked; returns, by source, a function that waits for the archive."""
    return {
        source: Pool(1, "open").submit(_opened, source, settings, keys).result
        for source in sources
        if "://" in source
    }


def _opened(source: str, settings: Settings, keys: Keys) -> Archive:
    """Open the archive of a source. Raises as ``Archive.open``."""
    return Archive.open(
        open_store(settings, source),
        expected_hash=settings.hash,
        expected_digest=settings.digest,
        key=keys,
        near=node_cache(settings, source),
    )


def _open_first(
    sources: list[str],
    settings: Settings,
    keys: Keys,
    channel: Channel,
    begun: dict[str, Callable[[], Archive]],
) -> Archive:
    """Open the first source with a valid archive; later ones are tried only if earlier ones fail.

    An answer that there is none counts as progress, so a store that hangs is noticed however long WAIT is.
    """
    deadline = time.monotonic() + settings.wait
    while True:
        failure: CheckpointError = NotFound("no source for the archive is given")
        for source in sources:
            try:
                return begun.pop(source)() if source in begun else _opened(source, settings, keys)
            except (StorageError, ArchiveError) as error:
                failure = error
                channel.waits()
                if source != sources[-1]:
                    channel.log.warning(
                        "archive not usable", source=source, reason=error.reason, message=str(error)
                    )
        if not isinstance(failure, NotFound) or time.monotonic() >= deadline:
            raise failure
        channel.receive(min(_WAIT_POLL_S, max(0.0, deadline - time.monotonic())))


def _early_standby(settings: Settings, archive: Archive) -> Standby | None:
    """Start CRIU, unless its options depend on images. Raises Corrupt."""
    with images.decoding(archive.location):
        is_possible = needs_no_images(archive.manifest.head.facts)
    return Standby(work_directory(settings)) if is_possible else None


def _write_context(settings: Settings, digest: str) -> context_file.Written:
    """Write context.json, so that the engine finds out where it is once it continues. Raises RestoreFailed."""
    try:
        return context_file.write(settings, digest)
    except OSError as error:
        raise RestoreFailed(
            f"context.json cannot be written: {error}",
            hint=""
            if str(error.filename).startswith("/proc/")
            else "mount a writable tmpfs at /run, or set WORK_DIR",
            reason="ContextNotWritten",
        ) from None


def _handshake(facts: Mapping[str, Any]) -> Handshake | None:
    """Return the handshake of an engine that paused by itself, or None. Raises Corrupt."""
    if "dynamo" not in facts and "vllm_snapshot" not in facts:
        return None
    from dynamo_entry.engine import handshakes  # noqa: PLC0415 - restores of other engines must not wait for it

    return handshakes.recorded(facts)


def _wake_hook(facts: Mapping[str, Any]) -> str:
    """Return the hook that wakes an engine that was put to sleep, or an empty string. Raises Corrupt."""
    if "wake" not in facts:
        return ""
    from dynamo_entry.engine import sleep_protocols  # noqa: PLC0415 - as above

    return sleep_protocols.recorded(facts)


class _Restoration:
    def __init__(
        self,
        settings: Settings,
        channel: Channel,
        archive: Archive,
        admitted: Admitted,
        written: context_file.Written,
    ) -> None:
        self._settings = settings
        self._channel = channel
        self._archive = archive
        self._admitted = admitted
        self._written = written
        self._work = work_directory(settings)
        facts = archive.manifest.head.facts
        self._handshake = _handshake(facts)
        self._ready_url = settings.ready_url or readiness.recorded(facts)
        self._wake_hook = _wake_hook(facts)

    def apply_delta(self, phase: Phase) -> None:
        """Put the engine's files in place. Raises Corrupt, RestoreFailed."""
        chunks = _Chunks(self._archive.chunks(DELTA_TAR, ahead=_AHEAD), phase)
        try:
            lost = apply.apply(
                self._admitted.delta, io.BufferedReader(chunks), self._work, self._admitted.others
            )
        except OSError as error:
            raise RestoreFailed(
                f"{error.filename or 'a file'} of the engine cannot be put in place: {error.strerror}",
                hint=_PLACING.get(error.errno or 0, ""),
                reason="FileNotRestored",
            ) from None
        if lost:
            self._channel.log.warning("file attributes not restored", paths=lost)

    def prepare_handshake(self) -> None:
        """Prepare the files that a paused engine knows. Raises RestoreFailed."""
        if self._handshake:
            self._handshake.prepare_restore()

    def settle(self, pid: int) -> None:
        """Make sure that the engine stays up before it counts as restored. Raises RestoreFailed."""
        began = time.monotonic()
        with suppress(OSError):  # it ended, which is reported below
            self._channel.log.info("environment", changed=context_file.changed(self._settings, pid))
        if self._handshake:
            self._wake(pid, self._handshake)
        self._call_hooks(pid)
        url = self._ready_url
        self._wait(pid, lambda: time.monotonic() > began + _SETTLE_S, str)
        if url:
            self._wait_for_answer(pid, url)
        if self._archive.manifest.head.canary:
            from dynamo_entry.engine import canary  # noqa: PLC0415 - few have one

            recorded = canary.parse(self._archive.manifest.head.canary)
            with self._channel.phase(Phases.CANARY, stall_s=recorded.request.timeout):
                canary.verify(recorded)
            self._channel.log.info("canary matched")

    def drop_what_was_kept(self) -> None:
        """Drop the undo data: the engine belongs to PID 1, and nothing will be undone."""
        try:
            apply.settle(self._work)
        except (OSError, RestoreFailed) as error:
            self._channel.log.warning("files kept for an undo not removed", message=str(error))

    def _call_hooks(self, pid: int) -> None:
        """Wake an engine that was put to sleep before its dump. Raises CheckpointError."""
        if not (self._wake_hook or self._settings.post_restore):
            return
        from dynamo_entry.engine import hooks  # noqa: PLC0415 - as above

        told = self._written._asdict()
        commands = [proc.command(process.pid) for process in proc.tree(pid)]
        hooks.wake(self._wake_hook, self._settings.post_restore, self._settings.stall_timeout, commands, told)

    def _wake(self, pid: int, handshake: Handshake) -> None:
        """Give a paused engine its new identity, now that the GPU is back, and wait until it serves."""
        pids = [process.pid for process in proc.tree(pid)]
        argv = proc.command(os.getppid())
        environ = context_file.environment(self._settings)
        try:
            handshake.let_go(environ, argv, pids)
        except OSError as error:
            raise RestoreFailed(
                f"{handshake.directory} cannot be written to: {error.strerror}",
                reason="ControlDirectoryInvalid",
            ) from None
        self._wait(
            pid, handshake.has_reacted, lambda: f"does not react to what is written to {handshake.directory}"
        )
        if url := handshake.health_url(environ, argv, pids):
            self._wait_for_answer(pid, url, handshake.lack)

    def _wait_for_answer(self, pid: int, url: str, lack: str = "") -> None:
        """Wait until the engine answers. Raises RestoreFailed with the reason why it does not."""
        why = ""

        def answers() -> bool:
            nonlocal why
            why = readiness.unanswered(url)
            return not why

        self._wait(pid, answers, lambda: ": ".join(filter(None, (f"does not answer {url}", lack, why))))

    def _wait(self, pid: int, condition: Callable[[], bool], lack: Callable[[], str]) -> None:
        """Wait for a condition, for STALL_TIMEOUT at most and only while the engine lives. Raises RestoreFailed."""
        deadline = time.monotonic() + self._settings.stall_timeout
        while not condition():
            if proc.has_ended(pid):
                raise RestoreFailed(
                    f"the engine (pid {pid}) ended right after it was restored", reason="EngineDied"
                )
            if time.monotonic() > deadline:
                raise RestoreFailed(f"the restored engine {lack()}", reason="NotReady")
            time.sleep(0.02)

    def result(self, pid: int) -> Result:
        """Return the result for PID 1: the engine is up, and PID 1 owns it from now on."""
        return Result(
            Outcomes.RESTORED, Phases.SETTLE, pid=pid,
            refusal=refusals.place(self._settings, self._archive.digest), location=self._archive.location,
            digest=self._archive.digest, size_bytes=self._archive.size, seconds=self._channel.seconds,
        )  # fmt: skip


class _Chunks(io.RawIOBase):
    """An iterator of chunks as a raw file; reading it reports progress of a phase."""

    def __init__(self, chunks: Iterator[Any], phase: Phase) -> None:
        self._chunks = chunks
        self._phase = phase
        self._done_bytes = 0
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        self._done_bytes += count
        self._phase.progress(self._done_bytes)
        return count
