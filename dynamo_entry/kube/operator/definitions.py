"""Which resources of Dynamo's the cluster serves, asked now and then: Dynamo may be installed or upgraded after us."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from dynamo_entry.kube import api, graphs
from dynamo_entry.kube.cluster import ApiError, Cluster

_T = TypeVar("_T")

_PAUSE_S = 2


class Served(NamedTuple):
    """The version of graphs, empty where there are none; whether there are NVIDIA's own snapshots."""

    graph_version: str
    has_snapshots: bool


def served(cluster: Cluster) -> Served:
    """What there is now. Raises ApiError."""
    return Served(_version(cluster, api.GRAPH_CRD), _version(cluster, api.SNAPSHOT_CRD) != "")


def _version(cluster: Cluster, kind: str) -> str:
    definition = cluster.find(f"{api.DEFINITIONS}/{kind}")
    return graphs.served_version(definition) if definition else ""


def insisting(question: Callable[[], _T], ended: threading.Event, log: Any) -> _T | None:
    """The answer to a question to the API server, however long that is away; None where ``ended`` comes first."""
    while not ended.is_set():
        try:
            return question()
        except ApiError as error:
            log.warning("API server not reached", message=error.message)
            ended.wait(_PAUSE_S)
    return None
