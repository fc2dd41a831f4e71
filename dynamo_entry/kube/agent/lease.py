"""One agent of all at a time: a coordination/v1 Lease, taken for longer than what is done under it."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from kubernetes import client
from kubernetes.client.exceptions import ApiException


class Lease:
    """The right of ``holder`` to do something that is done once in a cluster."""

    def __init__(self, name: str, namespace: str, holder: str, duration_s: int) -> None:
        self._api = client.CoordinationV1Api()
        self._name = name
        self._namespace = namespace
        self._holder = holder
        self._duration_s = duration_s

    def acquire(self) -> bool:
        """Take or renew it; False while somebody else has it. Raises ApiException."""
        now = datetime.now(timezone.utc)
        try:
            lease = self._api.read_namespaced_lease(self._name, self._namespace)
        except ApiException as error:
            if error.status != 404:
                raise
            metadata = client.V1ObjectMeta(name=self._name, namespace=self._namespace)
            body = client.V1Lease(metadata=metadata, spec=self._spec(now))
            return self._wins(self._api.create_namespaced_lease, self._namespace, body)
        if lease.spec and lease.spec.holder_identity != self._holder and not _is_over(lease.spec, now):
            return False
        lease.spec = self._spec(now)
        # The resourceVersion that was read makes the slower of two fail.
        return self._wins(self._api.replace_namespaced_lease, self._name, self._namespace, lease)

    def _spec(self, now: datetime) -> Any:
        return client.V1LeaseSpec(
            holder_identity=self._holder, lease_duration_seconds=self._duration_s, renew_time=now
        )

    def _wins(self, write: Any, *arguments: Any) -> bool:
        try:
            write(*arguments)
        except ApiException as error:
            if error.status != 409:
                raise
            return False
        return True


def _is_over(spec: Any, now: datetime) -> bool:
    if spec.renew_time is None:
        return True
    return bool(spec.renew_time + timedelta(seconds=spec.lease_duration_seconds or 0) < now)
