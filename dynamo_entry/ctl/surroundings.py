"""Observes what ``doctor`` reports, without judging it."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

from dynamo_entry import cuda
from dynamo_entry.archive import Archive, Keys, read_keys
from dynamo_entry.checks import facts, files, privileges, restore
from dynamo_entry.criu import images, options, process
from dynamo_entry.engine import handshakes
from dynamo_entry.errors import CheckpointError, NotFound
from dynamo_entry.fill.served import Images
from dynamo_entry.linux import capabilities, cgroup, loader, sock_diag, timens
from dynamo_entry.scratch import own_paths, work_directory
from dynamo_entry.settings import Settings
from dynamo_entry.storage.node_cache import examine
from dynamo_entry.stores import open_store
from dynamo_entry.value import NamedTuple
from dynamo_entry.worker import prepare
from dynamo_entry.worker import restore as restoring


class Answer(NamedTuple):
    """The answer to a question, or the error that came instead."""

    value: str = ""
    error: str = ""
    reason: str = ""


class Surroundings(NamedTuple):
    """A container as this process observes it."""

    python: str
    privileges: privileges.Privileges
    has_clone3: bool
    may_choose_pids: bool
    has_time_namespaces: bool
    may_set_clocks: bool
    criu: Answer
    pycriu: Answer
    scratch: Answer
    status_file: str
    status_is_writable: bool
    shm_bytes: int
    room: cgroup.Room
    lacking: dict[str, str]
    host: dict[str, Any]
    node_cache: Answer = Answer()


class Target(NamedTuple):
    """Where a creation would publish, and the file by which its engine says that it is ready."""

    place: str
    publishing: Answer = Answer()
    signal_file: str = ""
    signal_is_writable: bool = True


class Stored(NamedTuple):
    """The archive at a location."""

    location: str
    digest: str = ""
    size_bytes: int = 0
    needs: dict[str, Any] = {}  # noqa: RUF012 - never changed
    host: dict[str, Any] = {}  # noqa: RUF012
    volumes: Answer = Answer()
    gpus: Answer = Answer()
    admission: Answer = Answer()
    handshake: Answer = Answer()
    error: str = ""


def look(settings: Settings) -> Surroundings:
    """Observe everything that needs no store."""
    capabilities.take_effect(frozenset(options.REQUIRED))  # as a worker does
    theirs = {os.fsdecode(name) for name in loader.variables(os.environb, settings.drop_env)}
    clean = {name: value for name, value in os.environ.items() if name not in theirs}
    criu = _answer(lambda: process.version(clean))
    return Surroundings(
        python=platform.python_version(),
        privileges=privileges.read(),
        has_clone3=privileges.has_clone3(),
        may_choose_pids=privileges.may_write_last_pid(),
        has_time_namespaces=os.path.exists("/proc/self/timens_offsets"),
        may_set_clocks=timens.may_be_set(),
        criu=criu,
        pycriu=_answer(lambda: images.message("core", "core_entry") and ""),
        scratch=_answer(lambda: work_directory(settings)),
        status_file=settings.status_file,
        status_is_writable=_is_writable(settings.status_file),
        shm_bytes=_size("/dev/shm"),
        room=cgroup.room(),
        lacking=sock_diag.lacking(),
        host=facts.host_facts(criu.value or "0"),
        node_cache=_node_cache(settings.node_cache_dir),
    )


def settings_of(settings: Settings, *, creates: bool) -> Answer:
    """Check what a worker checks of its settings before anything else: files, URLs, hooks."""

    def checked() -> str:
        (prepare if creates else restoring).check_settings(settings)
        _keys(settings, creates=creates)
        return "valid"

    return _answer(checked)


def target(settings: Settings, location: str) -> Target:
    """Find out whether a creation could publish at a location. Leaves at most missing directories there."""

    def tried() -> str:
        with open_store(settings, location) as store:
            if not settings.force:
                with (
                    suppress(NotFound),
                    prepare.existing(store, settings.hash, _keys(settings, creates=True)),
                ):
                    return "exists already: a creation would publish nothing"
            store.check_writable()
            return store.not_exclusive or "can be written"

    publishing = _answer(tried) if location else Answer()
    is_writable = not settings.signal_file or _is_writable(settings.signal_file)
    return Target(location, publishing, settings.signal_file, is_writable)


def _keys(settings: Settings, *, creates: bool) -> Keys:
    return read_keys(settings.key_file, settings.sign_key_file if creates else "", settings.verify_key_file)


def open_archive(location: str, settings: Settings, criu_version: str) -> Stored:
    """Read the trailer, the manifest, and what the checks of a restore need: nothing large."""
    try:
        key = _keys(settings, creates=False)
        with Archive.open(
            open_store(settings, location),
            expected_hash=settings.hash,
            expected_digest=settings.digest,
            key=key,
        ) as archive:
            head = archive.manifest.head
            decoding = images.decoding(archive.location)
            files = _answer(decoding(lambda: _volumes(head.volume_files, settings.reopen_paths)))
            gpus = _answer(decoding(lambda: _gpus(head.gpu)))
            admission = _answer(decoding(lambda: _admitted(archive, settings, criu_version)))
            return Stored(
                archive.location, archive.digest, archive.size, head.needs, head.host, files, gpus, admission,
                _answer(decoding(lambda: _handshake(head.facts))),
            )  # fmt: skip
    except CheckpointError as error:
        return Stored(location, error=f"{error.reason}: {error}")


class _Notes(list[str]):
    """Collects what the checks of a restore log without refusing."""

    def warning(self, event: str, **_fields: object) -> None:
        self.append(event)

    info = warning


def _gpus(recorded: dict[str, Any]) -> str:
    """Compare an archive's GPUs with those here. Raises Incompatible, Corrupt."""
    if not recorded or not cuda.is_present():
        cuda.NoRestoration().check(recorded)
        return ""
    from dynamo_entry.cuda.restoration import Restoration  # noqa: PLC0415 - ctypes and a process, only for a GPU
    from dynamo_entry.cuda.session import Session  # noqa: PLC0415

    notes = _Notes()
    session = Session(lambda: None)
    try:
        Restoration(session, SimpleNamespace(log=notes)).check(recorded)
    finally:
        session.close()
    return "; ".join(notes)


def _admitted(archive: Archive, settings: Settings, criu_version: str) -> str:
    """Run the checks that a restore runs before it fetches data. Raises Incompatible, Corrupt."""
    notes = _Notes()
    restore.admit(
        archive, Images(archive), privileges.read(), criu_version,
        land=restore.land(archive, settings.capture_paths, own_paths(settings)),
        reopened=settings.reopen_paths, policy=settings.engine_connections, log=notes,
    )  # fmt: skip
    return "; ".join(dict.fromkeys(notes))


def _handshake(recorded: dict[str, Any]) -> str:
    """Describe the handshake of a restore, and its requirements. Raises Corrupt."""
    if not (found := handshakes.recorded(recorded)):
        return ""
    return "; ".join(filter(None, (f"{found.who}, files in {found.directory}", found.needs)))


def _volumes(recorded: list[dict[str, Any]], reopened: tuple[str, ...]) -> str:
    """Compare recorded files on volumes with those here. Raises Incompatible for other content."""
    noted = [f"{path} has another time" for path in files.check_content(recorded, reopened)]
    missing = [f"{file['path']} is not here" for file in recorded if not os.path.exists(file["path"])]
    return "; ".join((*noted, *missing))


def _node_cache(directory: str) -> Answer:
    """Examine NODE_CACHE_DIR; an empty answer if it is not set."""
    if not directory:
        return Answer()
    try:
        if os.stat(directory).st_dev == os.stat("/").st_dev:
            return Answer(error="no volume is mounted there")
        return Answer(value=examine(directory))
    except OSError as error:
        return Answer(error=error.strerror or str(error))


def _answer(ask: Callable[[], str]) -> Answer:
    try:
        return Answer(value=ask())
    except CheckpointError as error:
        return Answer(error=str(error), reason=error.reason)


def _is_writable(path: str) -> bool:
    existing = path if os.path.exists(path) else os.path.dirname(path)
    return os.access(existing, os.W_OK, effective_ids=True)


def _size(directory: str) -> int:
    try:
        status = os.statvfs(directory)
    except OSError:
        return 0
    return status.f_blocks * status.f_frsize
