"""The settings of one agent, from the settings file that it shares with the operator."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from dynamo_entry.errors import SettingsError
from dynamo_entry.kube import storage
from dynamo_entry.kube.config import Config, interval, seconds, size, size_or_share
from dynamo_entry.value import NamedTuple


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
    #: any location in the configured storage, which leads to all archives beside it
    storage: str
    #: whether only checkpoints of ``namespace`` are visible, since a claim has one namespace
    is_claim: bool
    #: whether each namespace has its own part of the storage
    isolates_namespaces: bool = False
    #: as ``Operator.scopes``
    scopes: tuple[str, ...] = ("",)
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


#: Values with units: the setting's name here, its place in the file, and how it is read.
_MEASURES: dict[str, tuple[str, Callable[[str | int], float]]] = {
    "cache_limit": ("agent.cache.sizeLimit", size),
    "min_free": ("agent.cache.minFree", size_or_share),
    "rate_limit": ("agent.rateLimit", size),
    "sweep_every_s": ("agent.sweepInterval", interval),
    "verify_every_s": ("agent.verifyInterval", interval),
    "grace_s": ("gc.grace", seconds),
    "orphan_grace_s": ("gc.orphanGrace", seconds),
}


def from_config(config: Config, environ: Mapping[str, str]) -> AgentSettings:
    """Return the agent's settings; ``NODE_NAME`` and ``POD_NAMESPACE`` come from the pod.

    Raises SettingsError that lists every mistake.
    """
    mistakes = [f"{name} is not set" for name in ("NODE_NAME", "POD_NAMESPACE") if not environ.get(name)]
    measures: dict[str, Any] = {}
    for name, (path, parse) in _MEASURES.items():
        try:
            measures[name] = parse(_value(config, path))
        except ValueError as error:
            mistakes.append(f"{path}: {error}")
    if mistakes:
        raise SettingsError("; ".join(mistakes), hint="correct the settings file or the DaemonSet")
    agent, cache = config.agent, config.agent.cache
    is_claim = config.storage.type == "pvc"
    return AgentSettings(
        node=environ["NODE_NAME"],
        namespace=environ["POD_NAMESPACE"],
        cache_directory=cache.directory if storage.keeps_copies(config) else "",
        storage=_any_archive(config),
        is_claim=is_claim,
        isolates_namespaces=config.storage.is_isolated,
        scopes=tuple(config.operator.scopes),
        deletes_orphans=config.gc.orphans == "Delete",
        key_file=agent.key_file,
        verify_key_file=agent.verify_key_file,
        port=agent.port,
        **measures,
    )


def _value(config: Config, path: str) -> str | int:
    """Return a value of the file; an empty text, which a chart's empty value becomes, means the default."""
    section: Any = config
    *sections, name = re.sub("[A-Z]", lambda found: f"_{found[0].lower()}", path).split(".")
    for one in sections:
        section = getattr(section, one)
    text: str | int = getattr(section, name)
    default: str | int = getattr(type(section)(), name)
    return default if text == "" else text


def _any_archive(config: Config) -> str:
    """Return any location in the configured storage, which leads to all archives beside it."""
    storage = config.storage
    if storage.type == "pvc":
        return f"{storage.pvc.base_path.rstrip('/')}/any.tar"
    uri = getattr(storage, storage.type).uri.rstrip("/")
    return f"{uri}:any" if storage.type == "oci" else f"{uri}/any.tar"
