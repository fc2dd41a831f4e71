"""Compares storage with the checkpoints' status: removes leftovers, notices missing archives and orphans.

One agent at a time does it. Nothing younger than the grace period is touched, and no archive that a
DynamoCheckpoint names is ever deleted.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from dynamo_entry import stores
from dynamo_entry.errors import NotFound, StorageError, StorageUnavailable
from dynamo_entry.kube.agent import settings
from dynamo_entry.kube.agent.settings import AgentSettings
from dynamo_entry.kube.metrics import AgentMetrics
from dynamo_entry.storage import Store, StoredArchive
from dynamo_entry.value import NamedTuple


class Named(NamedTuple):
    """A checkpoint and the archive that its status names."""

    uid: str
    location: str
    is_ready: bool


class Orphans(NamedTuple):
    """Archives that no checkpoint names, and those of them that may be deleted now."""

    all: tuple[StoredArchive, ...]
    old: tuple[StoredArchive, ...]


def orphans(archives: Iterable[StoredArchive], named: Iterable[Named], grace_s: float) -> Orphans:
    """Return the archives that belong to nobody. Another tag of a named archive is not an orphan."""
    known = {one.location.removeprefix("file://") for one in named}
    archives = tuple(archives)
    versions = {one.version for one in archives if one.version and _path(one) in known}
    found = tuple(one for one in archives if _path(one) not in known and one.version not in versions)
    return Orphans(found, tuple(one for one in found if one.age_s >= grace_s))


def _path(archive: StoredArchive) -> str:
    return archive.location.removeprefix("file://")


class Sweeper:
    """Sweeps the storage. After a sweep, ``missing`` holds uids of Ready checkpoints absent in the last two sweeps."""

    def __init__(self, agent: AgentSettings, metrics: AgentMetrics, log: Any) -> None:
        self._settings = agent
        self._metrics = metrics
        self._log = log
        self._absent: set[str] = set()
        self._has_told = False
        self._places = {agent.storage}
        self.missing: set[str] = set()

    def sweep(self, named: list[Named], namespaces: Iterable[str] = ()) -> None:
        """Sweep the storage once, for these namespaces and all that ever existed.

        What a store cannot or will not do is logged, and the rest continues.
        """
        self._places |= {settings.place(self._settings, one) for one in namespaces}
        for step in (self._leftovers, self._missing, self._orphans):
            try:
                step(named)
            except StorageError as error:
                self._log.warning(
                    "sweep not completed", step=step.__name__[1:], reason=error.reason, message=str(error)
                )

    def _leftovers(self, _named: list[Named]) -> None:
        for place in sorted(self._places):
            with self._opened(place, "leftovers not listed") as store:
                self._remove_leftovers(store)

    @contextmanager
    def _opened(self, place: str, refusal: str) -> Iterator[Store]:
        """Open the store of a place. What it refuses is logged: other namespaces may be accessible.

        Raises StorageUnavailable: the store will not answer for the other places either.
        """
        try:
            with stores.open_with(os.environ, place) as store:
                yield store
        except StorageUnavailable:
            raise
        except StorageError as error:
            self._log.warning(refusal, place=place, reason=error.reason, message=str(error))

    def _remove_leftovers(self, store: Store) -> None:
        if store.out_of_reach and not self._has_told:
            self._has_told = True
            self._log.info("leftovers not listed", message=store.out_of_reach)
        for leftover in store.leftovers():
            if leftover.age_s < self._settings.grace_s:
                continue
            try:
                store.remove_leftover(leftover)
            except StorageError as error:
                self._log.warning("leftover not removed", name=leftover.name, message=str(error))
                continue
            self._metrics.aborted_uploads.inc()
            self._log.info(
                "leftover removed", name=leftover.name, size_bytes=leftover.size, age_s=round(leftover.age_s)
            )

    def _missing(self, named: list[Named]) -> None:
        absent = {one.uid for one in named if one.is_ready and _is_absent(one.location)}
        self.missing = absent & self._absent
        self._absent = absent

    def _orphans(self, named: list[Named]) -> None:
        archives: list[StoredArchive] = []
        for place in sorted(self._places):
            with self._opened(place, "archives not listed") as store, suppress(NotFound):
                # All or nothing: without its first tag, another tag of a named archive would count as an orphan.
                archives += list(store.archives())
        found = orphans(archives, named, self._settings.orphan_grace_s)
        self._metrics.orphan_archives.set(len(found.all))
        self._metrics.orphan_bytes.set(sum(archive.size for archive in found.all))
        for archive in found.old:
            if not self._settings.deletes_orphans:
                self._log.info("orphan archive found", location=archive.location, size_bytes=archive.size)
                continue
            self._delete(archive)

    def _delete(self, orphan: StoredArchive) -> None:
        try:
            with suppress(NotFound), stores.open_with(os.environ, orphan.location) as store:
                store.delete()
        except StorageError as error:
            self._log.warning("orphan archive not deleted", location=orphan.location, message=str(error))
            return
        self._log.warning("orphan archive deleted", location=orphan.location, size_bytes=orphan.size)


def _is_absent(location: str) -> bool:
    """Return whether the store definitely says so; a refusal proves nothing. Raises StorageUnavailable."""
    try:
        with stores.open_with(os.environ, location) as store:
            store.stat()
    except NotFound:
        return True
    except StorageUnavailable:
        raise  # the store will not answer for the others either
    except StorageError:
        return False
    return False
