"""One of many at a time: a coordination/v1 Lease."""

from __future__ import annotations

from datetime import datetime, timezone

from dynamo_entry.kube.cluster import ApiError, Cluster, Object


class Lease:
    """The right of ``holder`` to do something that is done once in a cluster."""

    def __init__(self, cluster: Cluster, namespace: str, name: str, holder: str, duration_s: int) -> None:
        self._cluster = cluster
        self._list = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._name = name
        self._holder = holder
        self._duration_s = duration_s

    def acquire(self) -> bool:
        """Take or renew it; False while somebody else has it. Raises ApiError."""
        now = datetime.now(timezone.utc)
        spec = {
            "holderIdentity": self._holder, "leaseDurationSeconds": self._duration_s,
            "renewTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        }  # fmt: skip
        lease = self._cluster.find(f"{self._list}/{self._name}")
        try:
            if lease is None:
                body = {
                    "apiVersion": "coordination.k8s.io/v1",
                    "kind": "Lease",
                    "metadata": {"name": self._name},
                }
                self._cluster.create(self._list, body | {"spec": spec})
            elif lease["spec"].get("holderIdentity") != self._holder and not _is_over(lease["spec"], now):
                return False
            else:
                # The resourceVersion that was read makes the slower of two fail.
                self._cluster.request("PUT", f"{self._list}/{self._name}", lease | {"spec": spec})
        except ApiError as error:
            if error.status != 409:
                raise
            return False
        return True


def _is_over(spec: Object, now: datetime) -> bool:
    if not spec.get("renewTime"):
        return True
    renewed = datetime.fromisoformat(spec["renewTime"].replace("Z", "+00:00"))
    return (now - renewed).total_seconds() > float(spec.get("leaseDurationSeconds", 0))
