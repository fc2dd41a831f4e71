"""Objects and logs, read from the API server by a connection that stays open.

Tests wait by asking again and again: a process of kubectl's for each question takes more of a small machine than all
that is waited for.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import urllib3


class Reader:
    """Reads with a token. Kinds have every name that kubectl takes, without a version."""

    def __init__(self, server: str, certificate: Path, token: str) -> None:
        self._server = server
        self._pool = urllib3.PoolManager(
            ca_certs=str(certificate), headers={"Authorization": f"Bearer {token}"}, maxsize=8
        )
        #: name → (path of its API, plural, whether it is in a namespace)
        self._kinds: dict[str, tuple[str, str, bool]] = {}

    def get(self, kind: str, name: str, namespace: str, **query: str) -> Any:
        """An object, or a list; None if the server does not know it. Raises AssertionError."""
        if kind not in self._kinds:
            self._discover()
        if kind not in self._kinds:
            return None
        api, plural, is_namespaced = self._kinds[kind]
        inside = f"/namespaces/{namespace}" if is_namespaced else ""
        found = self._ask(f"{api}{inside}/{plural}{'/' if name else ''}{name}", **query)
        return None if found is None else json.loads(found)

    def log(self, pod: str, namespace: str, container: str) -> str:
        """What a container wrote so far; empty before it was started."""
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/log"
        return (self._ask(path, container=container) or b"").decode(errors="replace")

    def _ask(self, path: str, **query: str) -> bytes | None:
        answer = self._pool.request("GET", f"{self._server}{path}", fields=query, timeout=30)
        # 204: a log without a line; 400, 500: one that is not there yet, or no more
        if answer.status in (204, 400, 404) or (answer.status == 500 and path.endswith("/log")):
            return None
        assert answer.status == 200, f"{path}: {answer.status} {answer.data.decode(errors='replace')}"
        return answer.data

    def _discover(self) -> None:
        """Learn what the server serves now; of two that are called alike, the first counts, as for kubectl."""
        groups = json.loads(self._ask("/apis") or b"{}").get("groups", ())
        served = [("", "/api/v1")]
        for one in groups:  # a resource need not be in the version that the group prefers
            versions = [one["preferredVersion"], *one["versions"]]
            served += [(one["name"], f"/apis/{version['groupVersion']}") for version in versions]
        for group, api in served:
            for one in json.loads(self._ask(api) or b"{}").get("resources", ()):
                if "/" in one["name"]:
                    continue
                names = [one["name"], one["kind"].lower(), *one.get("shortNames", ())]
                for name in (*names, f"{one['name']}.{group}"):
                    self._kinds.setdefault(name, (api, one["name"], one["namespaced"]))
