"""Whether namespaces take pods with what a restore needs: the API server alone knows the pod security defaults of its cluster."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from dynamo_entry.kube import podspec
from dynamo_entry.kube.cluster import ApiError, Cluster, Object
from dynamo_entry.kube.config import Config

#: How long an answer counts, and how soon one that says nothing is asked for again.
_VALID_S, _AGAIN_S = 300, 30

#: Places that are asked about. No cluster has so many, but whoever reaches the webhook can make up names.
_MOST = 10_000

#: How pod security refuses. Whatever else refuses a pod, or the request, says nothing about privileges.
_REFUSAL = "violates PodSecurity"


class Standards:
    """Asks by dry runs in the background, with a pod that has nothing but the privileges. Nobody waits for an answer.

    A place is a namespace with a runtime class: pod security may exempt pods of a class.
    """

    def __init__(self, config: Config, cluster: Cluster) -> None:
        self._config = config
        self._cluster = cluster.with_short_deadline(lambda: None)
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="standards")
        #: when each place is asked about again
        self._due: dict[tuple[str, str], float] = {}
        self._refusing: set[tuple[str, str]] = set()

    def admit(self, namespace: str, runtime_class: str) -> bool:
        """Return whether a restoring pod may start there: yes unless the last answer was a refusal."""
        place = namespace, runtime_class
        self._learn(place)
        return place not in self._refusing

    def learn(self, namespace: str) -> None:
        """Ask before the first pod comes."""
        self._learn((namespace, ""))

    def _learn(self, place: tuple[str, str]) -> None:
        """Ask, unless a recent answer counts. Two threads may ask at the same time, which does no harm."""
        if not self._config.dry_run or self._config.security.profile == "none":
            return
        now = time.monotonic()
        if now < self._due.get(place, now) or (place not in self._due and len(self._due) >= _MOST):
            return
        self._due[place] = now + _VALID_S
        self._pool.submit(self._ask, place)

    def _ask(self, place: tuple[str, str]) -> None:
        namespace, runtime_class = place
        try:
            self._cluster.create(
                f"/api/v1/namespaces/{namespace}/pods", self._pod(runtime_class), dryRun="All"
            )
        except ApiError as error:
            if _REFUSAL in error.message:
                self._refusing.add(place)
            else:
                self._due[place] = time.monotonic() + _AGAIN_S
        else:
            self._refusing.discard(place)

    def _pod(self, runtime_class: str) -> Object:
        container = podspec.with_privileges(
            {"name": "engine", "image": "engine"}, self._config, creates=False
        )
        return {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "dynamo-entry-"},
            "spec": {"containers": [container]} | ({"runtimeClassName": runtime_class} if runtime_class else {}),
        }  # fmt: skip
