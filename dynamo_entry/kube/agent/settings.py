"""What one agent works with, from the settings file that it shares with the operator."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import yaml

from dynamo_entry.errors import SettingsError
from dynamo_entry.kube.duration import seconds

#: Kubernetes' resource.Quantity, as far as bytes go.
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15} | {
    f"{letter}i": 1024**power for power, letter in enumerate("KMGTP", start=1)
}


class AgentSettings(NamedTuple):
    """Sizes are bytes, times seconds, rates bytes a second."""

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
    #: the location of any archive of the configured storage; empty where the agent cannot see it
    storage: str
    #: claims live in one namespace: only checkpoints of ``namespace`` are looked for
    is_claim: bool
    #: a copy belongs to the namespace of its checkpoint, and is not shared with others
    isolates_namespaces: bool = False
    #: empty: all namespaces
    watch_namespaces: tuple[str, ...] = ()
    deletes_orphans: bool = False
    key_file: str = ""
    port: int = 9102
    sweep_every_s: float = 600
    grace_s: float = 24 * 3600
    orphan_grace_s: float = 7 * 24 * 3600
    verify_every_s: float = 24 * 3600


def size(text: str | int) -> int:
    """Bytes of a quantity such as ``200Gi``. Raises ValueError."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([kMGTP]?|[KMGTP]i)", str(text))
    if not match:
        raise ValueError(f"expected a quantity such as 200Gi, found {text!r}")
    return int(float(match[1]) * _UNITS[match[2]])


def size_or_share(text: str | int) -> int | float:
    """Bytes of a quantity, or the share that ``10%`` is. Raises ValueError."""
    if not str(text).endswith("%"):
        return size(text)
    share = float(str(text)[:-1]) / 100
    if not 0 <= share < 1:
        raise ValueError(f"expected a percentage below 100, found {text!r}")
    return share


def parse(text: str) -> AgentSettings:
    """The settings in a file's text. Raises SettingsError."""
    return from_config(yaml.safe_load(text) or {}, os.environ)


def from_config(config: Mapping[str, Any], environ: Mapping[str, str]) -> AgentSettings:
    """The settings in the file's sections ``storage``, ``agent``, ``gc`` and ``operator``.

    ``NODE_NAME`` and ``POD_NAMESPACE`` come from the pod. Raises SettingsError that lists every mistake.
    """
    mistakes: list[str] = []

    def read(path: str, parse: Any, default: Any) -> Any:
        value: Any = config
        for name in path.split("."):
            value = (value or {}).get(name)
        try:
            return parse(default if value in (None, "") else value)
        except ValueError as error:
            mistakes.append(f"{path}: {error}")

    kind = read("storage.type", str, "pvc")
    is_cache_on = read("agent.cache.enabled", bool, True) and (
        kind != "pvc" or read("agent.cache.pvc", bool, False)
    )
    settings = AgentSettings(
        node=environ.get("NODE_NAME", ""),
        namespace=environ.get("POD_NAMESPACE", ""),
        cache_directory=read("agent.cache.directory", str, "/var/cache/dynamo-checkpoint")
        if is_cache_on
        else "",
        cache_limit=read("agent.cache.sizeLimit", size, "200Gi"),
        min_free=read("agent.cache.minFree", size_or_share, "10%"),
        rate_limit=read("agent.rateLimit", size, "0"),
        storage=_storage(config, kind),
        is_claim=kind == "pvc",
        isolates_namespaces=read("storage.isolateNamespaces", bool, False),
        watch_namespaces=read("operator.watchNamespaces", tuple, ()),
        deletes_orphans=read("gc.orphans", str, "Report") == "Delete",
        key_file=read("agent.keyFile", str, ""),
        port=read("agent.port", int, 9102),
        sweep_every_s=read("agent.sweepInterval", seconds, "10m"),
        grace_s=read("gc.grace", seconds, "24h"),
        orphan_grace_s=read("gc.orphanGrace", seconds, "7d"),
        verify_every_s=read("agent.verifyInterval", seconds, "24h"),
    )
    mistakes += [f"{name} is not set" for name in ("NODE_NAME", "POD_NAMESPACE") if not environ.get(name)]
    if mistakes:
        raise SettingsError("; ".join(mistakes), hint="correct the settings file or the DaemonSet")
    return settings


def _storage(config: Mapping[str, Any], kind: str) -> str:
    """A location in the configured storage: what is beside it is what there is."""
    options = config.get("storage", {}).get(kind) or {}
    if kind == "pvc":
        return f"{options.get('basePath', '/checkpoints').rstrip('/')}/any.tar"
    uri = options.get("uri", "").rstrip("/")
    return (f"{uri}/any.tar" if kind == "s3" else f"{uri}:any") if uri else ""
