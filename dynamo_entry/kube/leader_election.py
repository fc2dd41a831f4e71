"""Leader election with a coordination/v1 Lease, compatible with client-go's.

No other machine's clock is trusted: a lease has ended when it was seen unchanged for its whole duration. The
holder stops earlier than others may begin, even if it was suspended meanwhile.
"""

from __future__ import annotations

import time
from datetime import datetime, timezone

from dynamo_entry.kube.cluster import ApiError, Cluster, Object

#: The part of a lease's duration for which its holder trusts a renewal (client-go: 10 s of 15 s).
_TRUSTED = 2 / 3


class NotHeld(Exception):
    """An action for the holder only was not begun."""


class Lease:
    """The right of ``holder`` to do what only one replica of a cluster may do. Reads are thread-safe."""

    def __init__(self, cluster: Cluster, namespace: str, name: str, holder: str, duration_s: int) -> None:
        self._cluster = cluster
        self._list = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._name = name
        self._holder = holder
        self._duration_s = duration_s
        self._held_until = 0.0
        self._seen: tuple[object, ...] = ()
        self._seen_at = 0.0

    @property
    def is_held(self) -> bool:
        """Whether the last renewal still counts."""
        return _clock() < self._held_until

    def check(self) -> None:
        """Check that the lease is held. Raises NotHeld."""
        if not self.is_held:
            raise NotHeld(f"the lease {self._name} is not held")

    def acquire(self) -> bool:
        """Take or renew the lease; returns False if somebody else has it. Raises ApiError."""
        began = _clock()
        lease = self._cluster.find(f"{self._list}/{self._name}")
        if lease is not None and not self._is_free(lease.get("spec") or {}):
            self._held_until = 0
            return False
        spec = {"holderIdentity": self._holder, "leaseDurationSeconds": self._duration_s}
        if not self._write(lease, spec):
            # The client library sends a renewal again whose answer got lost, and that one is refused.
            return self.is_held
        self._held_until = began + self._duration_s * _TRUSTED
        return True

    def release(self) -> None:
        """Release the lease, so that the next replica need not wait. Raises ApiError."""
        is_held, self._held_until = self.is_held, 0
        if is_held:
            self._write(self._cluster.get(f"{self._list}/{self._name}"), {"leaseDurationSeconds": 1})

    def _is_free(self, spec: Object) -> bool:
        holder = spec.get("holderIdentity")
        if holder in (None, "", self._holder):
            return True
        if (seen := (holder, spec.get("renewTime"))) != self._seen:
            self._seen, self._seen_at = seen, _clock()
        return _clock() - self._seen_at > float(spec.get("leaseDurationSeconds", 0))

    def _write(self, lease: Object | None, spec: Object) -> bool:
        """Write the lease; returns False if another replica was faster, which its resourceVersion shows."""
        spec["renewTime"] = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        try:
            if lease is None:
                made = {
                    "apiVersion": "coordination.k8s.io/v1",
                    "kind": "Lease",
                    "metadata": {"name": self._name},
                }
                self._cluster.create(self._list, made | {"spec": spec})
            else:
                self._cluster.request("PUT", f"{self._list}/{self._name}", lease | {"spec": spec})
        except ApiError as error:
            if error.status != 409:
                raise
            return False
        return True


def _clock() -> float:
    """Return seconds of a clock that runs on while this process, or the whole machine, is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
