"""A creation: set up, let the engine start, wait until it is ready, freeze it, publish the archive."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from msgspec import structs

from dynamo_entry import __version__, cuda, storage
from dynamo_entry.archive import Archive, ArchiveWriter, Compression, Head, StreamWriter, read_key
from dynamo_entry.archive.streams import CRIU, DELTA_INDEX, DELTA_TAR, DUMP_LOG
from dynamo_entry.checks import connections, image, privileges, secrets
from dynamo_entry.checks import dump as dump_checks
from dynamo_entry.checks.facts import host_facts
from dynamo_entry.criu import hints, images, options, process
from dynamo_entry.engine import canary, dynamo, hooks, readiness
from dynamo_entry.errors import (
    AlreadyExists,
    ArchiveError,
    CheckpointError,
    DumpFailed,
    NotDumpable,
    NotFound,
    SettingsError,
)
from dynamo_entry.fill import ranges
from dynamo_entry.linux import affinity, mounts, proc
from dynamo_entry.linux.cgroup import cores
from dynamo_entry.report.lines import timestamp
from dynamo_entry.rootfs import changes, pack
from dynamo_entry.scratch import work_directory
from dynamo_entry.settings import Settings
from dynamo_entry.stores import open_store
from dynamo_entry.worker import context, criu_log, manifest_head
from dynamo_entry.worker.channel import Channel, Phase
from dynamo_entry.worker.dump import Dump

#: Making an archive durable is one call that shows no progress: fsync(2), or a bucket that puts parts together.
_PUBLISH_STALLS = 10


def run(settings: Settings, channel: Channel) -> dict[str, Any]:
    """Create and publish one archive; returns the result message. Raises CheckpointError."""
    creation = _Creation(settings, channel)
    with channel.phase("prepare"):
        found = creation.existing()
        if found:
            return found
        creation.prepare()
    creation.start_engine()
    try:
        with channel.phase("wait-ready", stall_s=settings.signal_timeout + readiness.PROBE_S):
            creation.check_gpu()
            creation.wait_until_ready()
        if settings.canary:
            creation.ask_canary()
        if settings.pre_dump:
            with channel.phase("pre-dump", stall_s=settings.signal_timeout):
                creation.call_pre_dump()
        return creation.freeze_and_publish()
    finally:
        creation.wake()


class _Creation:
    def __init__(self, settings: Settings, channel: Channel) -> None:
        self._settings = settings
        self._channel = channel
        self._store = open_store(settings, settings.location)
        self._key = read_key(settings.key_file)
        self._pid = 0
        self._canary: dict[str, Any] = {}
        self._handshake = dynamo.Handshake.of_pod(
            proc.command(os.getppid()), os.environ, work_directory(settings)
        )
        self._release = dynamo.RELEASES[0]
        self._is_asleep = False

    def existing(self) -> dict[str, Any] | None:
        """A result if a valid archive is there already: whoever made it, there is nothing to do."""
        if self._settings.force:
            return None
        try:
            return self._theirs()
        except NotFound:
            return None

    def _theirs(self) -> dict[str, Any]:
        """The result where somebody else's archive is at the location. Raises NotFound, DumpFailed."""
        try:
            with Archive.open(self._store, expected_hash=self._settings.hash, key=self._key) as archive:
                return self._result("exists", archive.size, archive.digest)
        except ArchiveError as error:
            raise DumpFailed(
                f"{self._store.location} holds something that is not the wanted archive: {error.message}",
                hint="remove it, choose another location, or set DYNAMO_CHECKPOINT_FORCE=1 to replace it",
                reason="LocationTaken",
            ) from None

    def prepare(self) -> None:
        """Everything that can be refused is refused here, before minutes of engine start are spent."""
        self._have = privileges.read()
        privileges.check_dump(self._have)
        self._check_settings()
        self._gpu = cuda.for_creation(self._channel, self._settings.gpu_timeout)
        if self._settings.canary:
            canary.load(self._settings.canary)
        try:
            self._criu_version = process.version()
            images.message("core", "core_entry")
        except CheckpointError as error:
            raise NotDumpable(error.message, hint=error.hint, reason=error.reason) from None
        self._store.check_writable()
        work = work_directory(self._settings)
        self._places = options.Places(work, work, DUMP_LOG)
        readiness.remove_stale_signal(self._settings.signal_file)
        if self._handshake:
            self._handshake.prepare_creation()
        self._mounts = mounts.read()
        self._roots = mounts.captured_roots(self._mounts, self._settings.capture_paths)
        self._starts = changes.mark(self._roots)

    def _check_settings(self) -> None:
        """What the command decides about the settings. Raises SettingsError."""
        settings = self._settings
        if self._handshake:
            dynamo.check_settings(
                ready_url=settings.ready_url, canary=settings.canary, pre_dump=settings.pre_dump
            )
        elif not (settings.signal_file or settings.ready_url):
            raise SettingsError(
                "DYNAMO_CHECKPOINT_MODE='create' needs DYNAMO_CHECKPOINT_SIGNAL_FILE or DYNAMO_CHECKPOINT_READY_URL",
                hint="only a Dynamo worker (dynamo.vllm, dynamo.sglang, dynamo.trtllm) says by itself when it is ready",
                reason="SettingsInvalid",
            )

    def start_engine(self) -> None:
        """Ask PID 1 for the engine, and learn its pid."""
        self._channel.send(
            engine="start", environment=self._handshake.environment() if self._handshake else {}
        )
        while not (word := self._channel.wait_for_word(60)).startswith("engine "):
            if word == "ended":
                raise CheckpointError("the engine could not be started", reason="EngineEnded")
        self._pid = int(word.split()[1])

    def wait_until_ready(self) -> None:
        """Until the engine says so, each in its own way. Raises NotReady, NotDumpable, EngineEnded, CalledOff."""
        settings = self._settings
        if not self._handshake:
            readiness.wait_until(
                lambda: readiness.is_ready(settings.ready_url, settings.signal_file),
                expected=readiness.expected(settings.ready_url, settings.signal_file),
                limit_s=settings.signal_timeout, pause=self._channel.check_engine,
            )  # fmt: skip
            return
        readiness.wait_until(
            self._has_paused, expected=f"write a ready file to {self._handshake.directory}",
            limit_s=settings.signal_timeout, pause=self._channel.check_engine,
        )  # fmt: skip
        self._channel.log.info("dynamo worker paused", ready_file=self._release.ready)

    def _has_paused(self) -> bool:
        assert self._handshake is not None
        found = self._handshake.ready(self._open_files)
        self._release = found or self._release
        return found is not None

    def _open_files(self) -> set[str]:
        return {path for pid in self._pids() for path in proc.descriptors(pid).values()}

    def call_pre_dump(self) -> None:
        """Raises CheckpointError where the hook fails."""
        self._is_asleep = True
        hooks.call("PRE_DUMP", self._settings.pre_dump, self._settings.signal_timeout)

    def check_gpu(self) -> None:
        """Refuse a GPU that cannot be checkpointed; its driver was attached while the engine started."""
        self._gpu.check()

    def ask_canary(self) -> None:
        """Keep the engine's answer for the restores. Raises DumpFailed."""
        asked = canary.load(self._settings.canary)
        with self._channel.phase("canary", stall_s=2 * asked.timeout):
            self._canary = canary.record(asked)

    def wake(self) -> None:
        """An engine that paused, or that PRE_DUMP put to sleep, and that is to serve on is woken as after a restore."""
        settings = self._settings
        if settings.after_dump != "continue" or not proc.tree(self._pid):
            return
        if self._handshake:
            self._handshake.let_go_or_warn(self._release, os.environ, self._pids(), self._channel.log)
        if not self._is_asleep:
            return
        try:
            hooks.call("POST_RESTORE", settings.post_restore, settings.stall_timeout)
        except CheckpointError as error:
            self._channel.log.warning("POST_RESTORE hook failed after the dump", message=str(error))

    def freeze_and_publish(self) -> dict[str, Any]:
        """From a running engine to a visible archive; on any error the engine runs on and nothing is visible."""
        # Anew: the engine may have taken longer to start than the credentials were good for.
        self._store = open_store(self._settings, self._settings.location)
        processes = proc.tree(self._pid)
        expected = manifest_head.needs(processes)["memory_bytes"] + self._gpu.used_bytes()
        sink = self._store.open_writer(replace=self._settings.force, expected_size=expected)
        try:
            writer = ArchiveWriter(
                sink, compression=Compression.parse(self._settings.compression),
                threads=self._settings.concurrency or cores(), key=self._key,
            )  # fmt: skip
        except BaseException:  # its first bytes did not fit
            sink.abort()
            raise
        try:
            return self._transaction(writer, sink)
        except BaseException as error:
            _drop(writer, sink)
            if isinstance(error, CheckpointError):
                criu_log.keep(self._settings, self._channel, DUMP_LOG)
            raise

    def _transaction(self, writer: ArchiveWriter, sink: storage.Writer) -> dict[str, Any]:
        stall_s = self._settings.stall_timeout
        self._channel.limit(self._settings.dump_timeout)
        with self._channel.phase("freeze", stall_s=stall_s):
            processes = proc.tree(self._pid)
            dump_checks.check(processes, self._have.effective)
            self._warn_of_secrets(process.pid for process in processes)
            self._hints = hints.find(processes, self._roots, manifest_head.container_stdio(self._pid))
        with self._gpu.frozen(self._pids, stall_s) as gpu:
            connections.check(proc.tree(self._pid))  # a GPU's driver may have let go of some
            head = self._head(proc.tree(self._pid), gpu)
            return self._dump_and_publish(writer, sink, head)

    def _warn_of_secrets(self, pids: Iterable[int]) -> None:
        """An engine's environment is part of its memory, and so of an archive that is not sealed."""
        if self._key is None and (names := secrets.in_environments(pids)):
            self._channel.log.warning(
                "secrets in the archive", names=names,
                hint="DROP_ENV withholds from the engine what only the launcher needs, CREDENTIALS_DIR keeps it "
                "elsewhere, KEY_FILE seals the archive",
            )  # fmt: skip

    def _pids(self) -> list[int]:
        return [process.pid for process in proc.tree(self._pid)]

    def _dump_and_publish(self, writer: ArchiveWriter, sink: storage.Writer, head: Head) -> dict[str, Any]:
        stall_s = self._settings.stall_timeout
        dump = Dump(
            self._pid, self._places, self._hints,
            open_sink=lambda name: writer.stream(CRIU + name),
        )  # fmt: skip
        with dump, _giving_up(dump, writer, sink):
            with self._channel.phase("dump", stall_s=stall_s) as phase:
                dump.take_images(phase)
                facts = {
                    **head.facts,
                    "shared_ranges": self._shared_ranges(),
                    "affinity": affinity.record(self._pids()),
                }
            with self._channel.phase("delta", stall_s=stall_s) as phase:
                facts["delta_bytes"] = self._add_delta(writer, phase)
            with self._channel.phase("publish", stall_s=_PUBLISH_STALLS * stall_s):
                finished = writer.finish(structs.replace(head, facts=facts))
                sink.describe(finished.document, _annotations(head, finished.digest))
                result = self._commit(sink, finished.digest)
            self._channel.send(**result)  # whatever happens from here on, there is an archive
            self._channel.limit(0)
            limit_s = dump.end_limit_s(stall_s)
            with self._channel.phase("thaw", stall_s=limit_s), self._channel.shielded():
                self._let_go(dump, limit_s)
        return {**result, "seconds": self._channel.seconds}

    def _shared_ranges(self) -> dict[str, list[tuple[int, int]]]:
        """Only a process with relatives can share memory with them."""
        pids = self._pids()
        if len(pids) < 2:
            return {}
        return {str(pid): ranges.union(proc.shared_mappings(pid)) for pid in pids}

    def _head(self, processes: list[Any], gpu: dict[str, Any]) -> Head:
        mapped = proc.mapped_files(process.pid for process in processes)
        return Head(
            hash=self._settings.hash,
            created_at=timestamp(),
            argv=processes[0].cmdline() if processes else [],
            host=host_facts(self._criu_version),
            processes=manifest_head.summary(processes),
            stdio=manifest_head.container_stdio(self._pid),
            root_pid=self._pid,
            volume_files=manifest_head.volume_files(processes, mapped, self._roots),
            gpu=gpu,
            canary=self._canary,
            facts={
                "packages": image.packages(mapped),
                "ready_url": self._settings.ready_url,
                **(self._handshake.facts(self._release) if self._handshake else {}),
            },
            needs=manifest_head.needs(processes),
        )

    def _add_delta(self, writer: ArchiveWriter, phase: Phase) -> dict[str, int]:
        """The engine is frozen: what its filesystems hold now is what its memory knows. Returns the bytes in each."""
        skip = {mount.point for mount in self._mounts}
        skip |= {self._places.work, context.directory(), *self._settings.exclude_paths}
        if self._handshake:
            skip.add(self._handshake.directory)
        sizes: dict[str, int] = {}
        tar = writer.stream(DELTA_TAR)
        try:
            index = pack.pack(changes.find_all(self._starts, frozenset(skip), sizes), _Told(tar, phase))
        except OSError as error:
            raise DumpFailed(
                f"{error.filename or 'a file'} of the engine cannot be read: {error.strerror}",
                hint="EXCLUDE_PATHS leaves out what a restored engine does not need",
                reason="FileNotCaptured",
            ) from None
        tar.close()
        listing = writer.stream(DELTA_INDEX)
        listing.write(index.encode())
        listing.close()
        log = writer.stream(DUMP_LOG)
        with open(f"{self._places.work}/{DUMP_LOG}", "rb") as file:
            log.write(file.read())
        log.close()
        phase.fields["paths"] = len(index.paths)
        return sizes

    def _commit(self, sink: storage.Writer, digest: str) -> dict[str, Any]:
        """Publish; an archive that somebody else published meanwhile is as good as ours."""
        try:
            with self._channel.shielded():
                published = sink.commit()
        except AlreadyExists:
            return self._theirs()
        return self._result("published", published.size, digest)

    def _let_go(self, dump: Dump, limit_s: float) -> None:
        """The archive is safe; an engine that then resists is PID 1's to end."""
        try:
            if self._settings.after_dump == "continue":
                dump.resume(limit_s)
            else:
                dump.end(limit_s)
        except (DumpFailed, TimeoutError) as error:
            self._channel.log.warning("engine not let go by criu", message=str(error))

    def _result(self, result: str, size: int, digest: str) -> dict[str, Any]:
        return {
            "result": result, "phase": self._channel.phase_name, "location": self._store.location,
            "digest": digest, "size_bytes": size, "seconds": self._channel.seconds,
        }  # fmt: skip


class _Told:
    """A stream whose growth is the progress of a phase."""

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
def _giving_up(dump: Dump, writer: ArchiveWriter, sink: storage.Writer) -> Iterator[None]:
    """What was written is dropped while CRIU thaws the tasks, which may take longer than there is time."""
    try:
        yield
    except BaseException:
        dump.let_go()
        _drop(writer, sink)
        raise


def _annotations(head: Head, digest: str) -> dict[str, str]:
    """What a registry shows of a checkpoint. The first name is the image specification's."""
    return {
        "org.opencontainers.image.created": head.created_at,
        "io.dynamo-entry.checkpoint.hash": head.hash,
        "io.dynamo-entry.checkpoint.digest": digest,
        "io.dynamo-entry.checkpoint.creator": __version__,
        "io.dynamo-entry.checkpoint.criu": head.host.get("criu", ""),
    }
