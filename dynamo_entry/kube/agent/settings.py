"""What one agent works with."""

from __future__ import annotations

from typing import NamedTuple


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
