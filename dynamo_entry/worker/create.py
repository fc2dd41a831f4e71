"""Creates a checkpoint: sets up, lets the engine start, waits until it is ready, freezes it, publishes the archive."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from msgspec import structs

from dynamo_entry import __version__, storage
from dynamo_entry.archive import ArchiveWriter, Compression, Head, Keys, StreamWriter, read_keys
from dynamo_entry.archive.streams import DELTA_INDEX, DELTA_TAR, DUMP_LOG
from dynamo_entry.checks import connections, files, image
from dynamo_entry.checks.dump import if_it_lasts
from dynamo_entry.checks.facts import host_facts
from dynamo_entry.criu import log as criu_log
from dynamo_entry.criu import options
from dynamo_entry.engine import canary, handshakes, hooks, readiness, sleep, sleep_protocols
from dynamo_entry.errors import (
    AlreadyExists,
    CheckpointError,
    DumpFailed,
    NotFound,
    RestoreFailed,
)
from dynamo_entry.fill import ranges
from dynamo_entry.linux import io_uring, mounts, proc, socket_options, tasks
from dynamo_entry.linux.cgroup import cores
from dynamo_entry.protocol import EngineGone, EngineIs, Outcomes, Phases, Result, StartEngine
from dynamo_entry.report import timestamp
from dynamo_entry.rootfs import changes, pack
from dynamo_entry.rootfs.early import EarlySearch
from dynamo_entry.scratch import own_paths
from dynamo_entry.settings import Settings
from dynamo_entry.stores import open_store
from dynamo_entry.value import NamedTuple
from dynamo_entry.worker import context_file, freeze, manifest_head, undo
from dynamo_entry.worker.channel import CalledOff, Channel, Phase
from dynamo_entry.worker.dump import Dump, Images
from dynamo_entry.worker.prepare import Prepared, existing, prepare

#: Making an archive durable is one call, which shows no progress: fsync(2), or a bucket that assembles parts.
_PUBLISH_STALLS = 10

#: How many ranges of shared memory are recorded. More of them would be most of a manifest's head.
_MOST_SHARED = 50_000


class Frozen(NamedTuple):
    """The inputs of a dump: the manifest's head, and the hints for CRIU."""

    head: Head
    hints: options.Hints


def run(settings: Settings, channel: Channel) -> Result:
    """Create and publish one archive; returns the result message. Raises CheckpointError."""
    with channel.phase(Phases.PREPARE):
        _take_back(settings, channel)
        store, keys = open_store(settings, settings.location), _keys(settings)
        if not settings.force:
            try:
                return _existing(channel, store, settings.hash, keys)
            except NotFound:
                pass
        prepared = prepare(settings, channel, store, keys)
    creation = _Creation(
        settings, channel, prepared, _start_engine(channel, prepared.handshake or prepared.offered)
    )
    try:
        with channel.phase(Phases.WAIT_READY, stall_s=settings.signal_timeout + readiness.PROBE_S):
            prepared.gpu.check()  # now: the GPU's driver was attached while the engine started
            creation.wait_until_ready()
        if settings.canary:
            creation.ask_canary()
        if hook := creation.pre_dump():
            with channel.phase(Phases.PRE_DUMP, stall_s=settings.signal_timeout):
                creation.call_pre_dump(hook)
        return creation.freeze_and_publish()
    finally:
        creation.wake()


def _take_back(settings: Settings, channel: Channel) -> None:
    """Undo an earlier restore in a container that was killed and started again. Raises OSError, DumpFailed."""
    try:
        undo.take_back(settings, channel)
    except RestoreFailed as error:
        raise DumpFailed(error.message, hint=error.hint, reason=error.reason) from None


def _keys(settings: Settings) -> Keys:
    return read_keys(settings.key_file, settings.sign_key_file, settings.verify_key_file)


def _existing(channel: Channel, store: storage.Store, expected_hash: str, keys: Keys) -> Result:
    """Return the result for a valid archive that already exists: nothing is left to do. Raises NotFound, DumpFailed."""
    with existing(store, expected_hash, keys) as archive:
        return _result(channel, Outcomes.EXISTS, store.location, archive.size, archive.digest)


def _result(channel: Channel, outcome: str, location: str, size: int, digest: str) -> Result:
    return Result(
        outcome,
        channel.phase_name,
        location=location,
        digest=digest,
        size_bytes=size,
        seconds=channel.seconds,
    )


def _start_engine(channel: Channel, handshake: handshakes.Handshake | None) -> int:
    """Ask PID 1 to start the engine; returns its pid."""
    channel.send(StartEngine(handshake.environment(), handshake.directory) if handshake else StartEngine({}))
    while True:
        said = channel.receive(60)
        if isinstance(said, EngineIs):
            return said.pid
        if isinstance(said, EngineGone):
            raise CheckpointError("the engine could not be started", reason="EngineEnded")


class _Creation:
    """Leads from a started engine to a published archive."""

    def __init__(self, settings: Settings, channel: Channel, prepared: Prepared, pid: int) -> None:
        self._settings = settings
        self._channel = channel
        self._prepared = prepared
        self._pid = pid
        self._store = prepared.store
        self._handshake = prepared.handshake
        self._canary: dict[str, Any] = {}
        self._is_asleep = False
        self._wake_hook = ""

    def wait_until_ready(self) -> None:
        """Wait until the engine reports that it is ready. Raises NotReady, NotDumpable, EngineEnded, CalledOff."""
        settings, handshake = self._settings, self._handshake
        waiting = readiness.Waiting(settings.ready_url, settings.signal_file, self._channel.log)
        expected = readiness.expected(settings.ready_url, settings.signal_file)
        readiness.wait_until(
            self._has_paused if handshake else lambda: self._has_paused() or waiting.is_over(),
            expected=handshake.expected if handshake else expected,
            limit_s=settings.signal_timeout, pause=self._channel.check_engine, why=lambda: waiting.why,
        )  # fmt: skip

    def _has_paused(self) -> bool:
        """Return whether the engine paused by itself, which it may do although its command did not show it.

        Raises SettingsError if that does not fit the settings.
        """
        settings, offered = self._settings, self._prepared.offered
        handshake = self._handshake or offered
        if not (handshake and handshake.ready(self._open_files)):
            return False
        if offered:
            handshakes.check_settings(
                offered.who, ready_url="", canary=settings.canary, pre_dump=settings.pre_dump
            )
        self._handshake = handshake
        told = {"hint": handshake.needs} if handshake.needs else {}
        event = f"{handshake.who} paused"
        self._channel.log.info(event, **told)
        return True

    def _open_files(self) -> set[str]:
        return {path for pid in self._pids() for path in proc.descriptors(pid).values()}

    def pre_dump(self) -> str:
        """Return the hook to call before the dump, or an empty string."""
        hook = sleep.hook(self._settings.pre_dump, self._commands(), is_paused=self._handshake is not None)
        if hook and not self._settings.pre_dump:
            self._channel.log.info("engine is prepared for the dump", hook=hook)
        elif not (hook or self._settings.pre_dump or self._handshake) and self._prepared.gpu.used_bytes():
            self._channel.log.info("GPU memory is dumped as it is", hint=sleep.AS_IT_IS)
        return hook

    def call_pre_dump(self, hook: str) -> None:
        """Call the hook. Raises CheckpointError if it fails."""
        self._wake_hook = sleep_protocols.wake_of(hook)
        self._is_asleep = True
        try:
            hooks.call("PRE_DUMP", hook, self._settings.signal_timeout, commands=self._commands())
        except CalledOff:
            raise
        except CheckpointError:
            self._is_asleep = not self._wake_hook  # an engine that refuses a protocol is awake
            raise

    def ask_canary(self) -> None:
        """Record the engine's answer for the restores. Raises DumpFailed."""
        asked = canary.load(self._settings.canary)
        with self._channel.phase(Phases.CANARY, stall_s=2 * asked.timeout):
            self._canary = canary.record(asked)

    def wake(self) -> None:
        """Wake an engine that paused or that PRE_DUMP put to sleep, if it is to continue, as after a restore."""
        settings = self._settings
        if settings.after_dump != "continue" or not proc.tree(self._pid):
            return
        with self._channel.aftermath(Phases.WAKE, stall_s=2 * settings.stall_timeout):
            if refused := io_uring.give_back_memory(self._pids()):
                self._channel.log.warning("memlock limit not given back", pids=refused)
            if paused := self._handshake or self._prepared.offered:
                argv = proc.command(os.getppid())
                environ = context_file.environment(settings)
                handshakes.let_go_or_warn(paused, environ, argv, self._pids(), self._channel.log)
            if not self._is_asleep:
                return
            try:
                hooks.wake(self._wake_hook, settings.post_restore, settings.stall_timeout, self._commands())
            except CheckpointError as error:
                self._channel.log.warning("POST_RESTORE hook failed after the dump", message=str(error))

    def freeze_and_publish(self) -> Result:
        """Freeze the running engine and publish its archive.

        After an error the engine continues and no archive is visible.
        """
        # The store is opened again: its credentials may have expired while the engine started.
        self._store = open_store(self._settings, self._settings.location)
        processes = proc.tree(self._pid)
        expected = manifest_head.needs(processes)["memory_bytes"] + self._prepared.gpu.used_bytes()
        sink = self._store.open_writer(replace=self._settings.force, expected_size=expected)
        is_remote = self._store.read_bytes > 0
        try:
            writer = ArchiveWriter(
                sink, compression=Compression.parse(self._settings.compression, is_remote=is_remote),
                threads=self._settings.concurrency or cores(), key=self._prepared.keys,
            )  # fmt: skip
        except BaseException:  # the archive's first bytes could not be written
            sink.abort()
            raise
        try:
            return self._transaction(writer, sink)
        except BaseException as error:
            _drop(writer, sink)
            if isinstance(error, CheckpointError):
                criu_log.keep(
                    self._prepared.places.work, DUMP_LOG, state_dir=self._settings.state_dir,
                    status_file=self._settings.status_file, log=self._channel.log,
                )  # fmt: skip
            raise

    def _transaction(self, writer: ArchiveWriter, sink: storage.Writer) -> Result:
        stall_s = self._settings.stall_timeout
        self._channel.limit(self._settings.dump_timeout)
        with self._channel.phase(Phases.FREEZE, stall_s=stall_s):
            seen = freeze.look(
                self._settings,
                self._prepared,
                self._pid,
                lambda: (change.path for change in self._changes({})),
                self._channel.log,
            )
        with self._prepared.gpu.frozen(self._pids, stall_s) as gpu:
            renamed = if_it_lasts(lambda: connections.check(proc.tables(self._pids()), self._channel.log))
            held = proc.tables(self._pids())  # the GPU's driver may have closed descriptors meanwhile
            head = self._head(held, seen, gpu, renamed)
            return self._dump_and_publish(writer, sink, Frozen(head, seen.hints))

    def _commands(self) -> list[list[str]]:
        return [proc.command(pid) for pid in self._pids()]

    def _pids(self) -> list[int]:
        return [process.pid for process in proc.tree(self._pid)]

    def _dump_and_publish(self, writer: ArchiveWriter, sink: storage.Writer, frozen: Frozen) -> Result:
        stall_s = self._settings.stall_timeout
        search = EarlySearch(self._changes, lambda: proc.open_paths(self._pids()))
        dump = Dump(
            self._pid, self._prepared.places, frozen.hints,
            open_sink=Images(writer, self._pids, on_frozen=search.begin).open,
        )  # fmt: skip
        with dump, _dropping_on_error(dump, writer, sink):
            with self._channel.phase(Phases.DUMP, stall_s=stall_s) as phase:
                dump.take_images(phase)
                facts = {
                    **frozen.head.facts,
                    **self._shared_ranges(),
                    "pinned": tasks.record_affinity(self._pids()),
                }
            with self._channel.phase(Phases.DELTA, stall_s=stall_s) as phase:
                facts["delta_bytes"] = self._add_delta(writer, search, phase)
            with self._channel.phase(Phases.PUBLISH, stall_s=_PUBLISH_STALLS * stall_s):
                finished = writer.finish(structs.replace(frozen.head, facts=facts))
                sink.describe(finished.document, _annotations(frozen.head, finished.digest))
                result = self._commit(sink, finished.digest)
            self._channel.send(result)  # whatever happens from here on, there is an archive
            self._channel.limit(0)
            limit_s = dump.end_limit_s(stall_s)
            with self._channel.phase(Phases.THAW, stall_s=limit_s), self._channel.shielded():
                self._let_go(dump, limit_s)
        return result._replace(seconds=self._channel.seconds)

    def _shared_ranges(self) -> dict[str, dict[str, list[tuple[int, int]]]]:
        """Return a fact for the manifest: the address ranges that processes share, by pid. Without it, all may be shared."""
        pids = self._pids()
        if len(pids) < 2:
            return {"shared_ranges": {}}
        found = {str(pid): ranges.union(proc.shared_mappings(pid)) for pid in pids}
        return {"shared_ranges": found} if sum(map(len, found.values())) <= _MOST_SHARED else {}

    def _head(
        self, held: proc.Tables, seen: freeze.Seen, gpu: dict[str, Any], renamed: dict[int, str]
    ) -> Head:
        processes = proc.tree(self._pid)
        mapped = proc.mapped_files(held)
        return Head(
            hash=self._settings.hash,
            created_at=timestamp(),
            argv=processes[0].cmdline() if processes else [],
            host=host_facts(self._prepared.criu_version),
            processes=manifest_head.summary(processes),
            stdio=seen.stdio,
            root_pid=self._pid,
            volume_files=manifest_head.volume_files(held, mapped, self._prepared.roots),
            gpu=gpu,
            canary=self._canary,
            facts={
                "packages": image.packages(mapped),
                "memlock_withheld": io_uring.is_memory_withheld(proc.command(os.getppid())),
                "connections": seen.connections,
                "executable": files.executable_directories(held),
                "socket_options": socket_options.record(held),
                "renamed_sockets": manifest_head.renamed_sockets(renamed),
                "ready_url": readiness.recordable(self._settings.ready_url),
                "wake": self._wake_hook,
                **self._handshake_facts(list(held)),
            },
            needs=manifest_head.needs(processes),
        )

    def _handshake_facts(self, pids: Sequence[int]) -> dict[str, Any]:
        if not self._handshake:
            return {}
        return self._handshake.facts(context_file.environment(self._settings), pids)

    def _changes(self, sizes: dict[str, int]) -> Iterator[changes.Change]:
        """Find the changed files; ``sizes`` gets the bytes by filesystem."""
        excluded = changes.as_found(self._settings.exclude_paths)
        own = (*own_paths(self._settings), context_file.directory(self._settings))
        ours = changes.as_found((*own, *(self._handshake.files if self._handshake else ())))
        skip = {mount.point for mount in self._prepared.mounts} | excluded | ours
        starts = [
            start
            for start in changes.set_back(self._prepared.starts)
            if not mounts.is_below(start.root, tuple(excluded))
        ]
        return changes.find_all(starts, frozenset(skip), frozenset(self._settings.cache_directories), sizes)

    def _add_delta(self, writer: ArchiveWriter, search: EarlySearch, phase: Phase) -> dict[str, int]:
        """Add the changed files to the archive; returns the bytes by filesystem.

        The engine is frozen, so its files match its memory.
        """
        sizes: dict[str, int] = {}
        tar = writer.stream(DELTA_TAR)
        try:
            index = pack.pack(search.result(sizes), _Counting(tar, phase))
        except OSError as error:
            raise DumpFailed(
                f"{error.filename or 'a file'} of the engine cannot be read: {error.strerror}",
                hint="leave out with EXCLUDE_PATHS what a restored engine does not need",
                reason="FileNotCaptured",
                retry=not isinstance(error, PermissionError),
            ) from None
        tar.close()
        listing = writer.stream(DELTA_INDEX)
        listing.write(index.encode())
        listing.close()
        log = writer.stream(DUMP_LOG)
        with open(f"{self._prepared.places.work}/{DUMP_LOG}", "rb") as file:
            log.write(file.read())
        log.close()
        phase.fields["paths"] = len(index.paths)
        return sizes

    def _commit(self, sink: storage.Writer, digest: str) -> Result:
        """Publish the archive; one that somebody else has published meanwhile is just as good."""
        try:
            with self._channel.shielded():
                published = sink.commit()
        except AlreadyExists:
            return _existing(self._channel, self._store, self._settings.hash, self._prepared.keys)
        return _result(self._channel, Outcomes.PUBLISHED, self._store.location, published.size, digest)

    def _let_go(self, dump: Dump, limit_s: float) -> None:
        """Let CRIU release the engine. The archive is safe, so a failure is left to PID 1, which ends the engine."""
        try:
            if self._settings.after_dump == "continue":
                dump.resume(limit_s)
            else:
                dump.end(limit_s)
        except (DumpFailed, TimeoutError) as error:
            self._channel.log.warning("CRIU did not release the engine", message=str(error))


class _Counting:
    """A stream that reports its growth as progress of a phase."""

    def __init__(self, stream: StreamWriter, phase: Phase) -> None:
        self._stream = stream
        self._phase = phase

    def write(self, data: bytes, /) -> None:
        self._stream.write(data)
        self._phase.progress(self._stream.size)


def _drop(writer: ArchiveWriter, sink: storage.Writer) -> None:
    writer.abort()
    sink.abort()


@contextmanager
def _dropping_on_error(dump: Dump, writer: ArchiveWriter, sink: storage.Writer) -> Iterator[None]:
    """On an error, drop what was written while CRIU thaws the tasks, which may take longer than there is time."""
    try:
        yield
    except BaseException:
        dump.let_go()
        _drop(writer, sink)
        raise


def _annotations(head: Head, digest: str) -> dict[str, str]:
    """Return the annotations that a registry shows. The first name is from the image specification."""
    return {
        "org.opencontainers.image.created": head.created_at,
        "io.dynamo-entry.checkpoint.hash": head.hash,
        "io.dynamo-entry.checkpoint.digest": digest,
        "io.dynamo-entry.checkpoint.creator": __version__,
        "io.dynamo-entry.checkpoint.criu": head.host.get("criu", ""),
    }
