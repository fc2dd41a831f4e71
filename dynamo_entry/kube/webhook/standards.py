"""Whether namespaces take pods with what a restore needs: the API server alone knows the pod security defaults of its cluster."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet

from dynamo_entry.kube import podspec
from dynamo_entry.kube.cluster import ApiError, Cluster, Object
from dynamo_entry.kube.config import Config

#: How long an answer counts, and how long a pod's review waits for one.
_VALID_S, _PATIENCE_S = 300, 0.5

#: How pod security refuses. Quotas, and policies of others, say nothing about privileges.
_REFUSAL = "violates PodSecurity"


class Standards:
    """Asks by a dry run, once for each namespace and a while, with a pod that has nothing but the privileges."""

    def __init__(self, config: Config, cluster: Cluster) -> None:
        self._config = config
        self._cluster = cluster
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="standards")
        self._lock = threading.Lock()
        self._asked: dict[str, tuple[float, Future[bool]]] = {}
        #: the last answers, which count while the next one is awaited
        self._known: dict[str, bool] = {}

    def admit(self, namespace: str) -> bool:
        """Return whether a restoring pod may start there, as far as known; false if it never was. True without `dryRun`."""
        if not self._config.dry_run or self._config.security.profile == "none":
            return True
        answer = self._answer(namespace)
        if not answer.done() and namespace in self._known:
            return self._known[namespace]
        try:
            return answer.result(_PATIENCE_S)
        except NotYet:
            return False
        except ApiError:
            with self._lock:
                self._asked.pop(namespace, None)
            return self._known.get(namespace, False)

    def learn(self, namespace: str) -> None:
        """Ask before a pod's review has to wait: other webhooks of the cluster may take their time for a dry run."""
        if self._config.dry_run and self._config.security.profile != "none":
            self._answer(namespace)

    def _answer(self, namespace: str) -> Future[bool]:
        now = time.monotonic()
        with self._lock:
            at, answer = self._asked.get(namespace, (0.0, None))
            if answer is None or (answer.done() and now - at > _VALID_S):
                answer = self._pool.submit(self._ask, namespace)
                self._asked[namespace] = now, answer
        return answer

    def _ask(self, namespace: str) -> bool:
        """Raises ApiError if the API server does not answer."""
        try:
            self._cluster.create(f"/api/v1/namespaces/{namespace}/pods", self._pod(), dryRun="All")
        except ApiError as error:
            if not 400 <= error.status < 500:
                raise
            self._known[namespace] = _REFUSAL not in error.message
        else:
            self._known[namespace] = True
        return self._known[namespace]

    def _pod(self) -> Object:
        container = podspec.with_privileges(
            {"name": "engine", "image": "engine"}, self._config, creates=False
        )
        return {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "dynamo-entry-"},
            "spec": {"containers": [container]},
        }  # fmt: skip
