"""The settings of one agent, from the settings file that it shares with the operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec

from dynamo_entry.errors import SettingsError
from dynamo_entry.kube.config import Config, interval, seconds, size, size_or_share
from dynamo_entry.tuples import NamedTuple

_T = TypeVar("_T")


class AgentSettings(NamedTuple):
    """Settings of one agent. Sizes are in bytes, times in seconds, rates in bytes a second."""

    node: str
    #: the agent's own namespace: its lease, its claim
    namespace: str
    #: the directory of the copies; empty: this node keeps none
    cache_directory: str
    cache_limit: int
    #: bytes that the file system must keep free, or a share of it
    min_free: int | float
    #: 0: no limit
    rate_limit: int
    #: any location in the configured storage; empty if the agent cannot see it
    storage: str
    #: whether only checkpoints of ``namespace`` are visible, since a claim has one namespace
    is_claim: bool
    #: whether each namespace has its own copies
    isolates_namespaces: bool = False
    #: empty: all namespaces
    watch_namespaces: tuple[str, ...] = ()
    deletes_orphans: bool = False
    key_file: str = ""
    verify_key_file: str = ""
    port: int = 9102
    sweep_every_s: float = 600
    grace_s: float = 24 * 3600
    orphan_grace_s: float = 7 * 24 * 3600
    verify_every_s: float = 24 * 3600


def place(settings: AgentSettings, namespace: str) -> str:
    """Return a location in the namespace's part of the storage."""
    if not settings.isolates_namespaces:
        return settings.storage
    uri, _, end = settings.storage.rpartition("any")
    return f"{uri[:-1]}/{namespace}{uri[-1]}any{end}"


def from_config(config: Config, environ: Mapping[str, str]) -> AgentSettings:
    """Return the agent's settings; ``NODE_NAME`` and ``POD_NAMESPACE`` come from the pod.

    Raises SettingsError that lists every mistake.
    """
    mistakes = [f"{name} is not set" for name in ("NODE_NAME", "POD_NAMESPACE") if not environ.get(name)]

    def value(path: str, parse: Callable[[str | int], _T], section: msgspec.Struct, name: str) -> _T | None:
        """Parse a value; an empty text, which a chart's empty value becomes, means the default."""
        text = getattr(section, name)
        try:
            return parse(getattr(type(section)(), name) if text == "" else text)
        except ValueError as error:
            mistakes.append(f"{path}: {error}")
            return None

    agent, cache, gc = config.agent, config.agent.cache, config.gc
    is_claim = config.storage.type == "pvc"
    keeps_copies = cache.enabled and (not is_claim or cache.pvc)
    measures = {
        "cache_limit": value("agent.cache.sizeLimit", size, cache, "size_limit"),
        "min_free": value("agent.cache.minFree", size_or_share, cache, "min_free"),
        "rate_limit": value("agent.rateLimit", size, agent, "rate_limit"),
        "sweep_every_s": value("agent.sweepInterval", interval, agent, "sweep_interval"),
        "verify_every_s": value("agent.verifyInterval", interval, agent, "verify_interval"),
        "grace_s": value("gc.grace", seconds, gc, "grace"),
        "orphan_grace_s": value("gc.orphanGrace", seconds, gc, "orphan_grace"),
    }
    if mistakes:
        raise SettingsError("; ".join(mistakes), hint="correct the settings file or the DaemonSet")
    return AgentSettings(
        node=environ["NODE_NAME"],
        namespace=environ["POD_NAMESPACE"],
        cache_directory=cache.directory if keeps_copies else "",
        storage=_any_archive(config),
        is_claim=is_claim,
        isolates_namespaces=config.storage.is_isolated,
        watch_namespaces=config.operator.watch_namespaces,
        deletes_orphans=gc.orphans == "Delete",
        key_file=agent.key_file,
        verify_key_file=agent.verify_key_file,
        port=agent.port,
        **measures,  # type: ignore[arg-type]
    )


def _any_archive(config: Config) -> str:
    """Return any location in the configured storage, which leads to all archives beside it."""
    storage = config.storage
    if storage.type == "pvc":
        return f"{storage.pvc.base_path.rstrip('/')}/any.tar"
    uri = getattr(storage, storage.type).uri.rstrip("/")
    return f"{uri}:any" if storage.type == "oci" else f"{uri}/any.tar"
