"""A directory of this machine for each claim: what a provisioner does."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from cluster.api import Api, ApiError

#: Claims of this class, which is the default one, get a directory that any number of pods may mount.
STORAGE_CLASS = "directory"


async def provide(api: Api, directory: Path) -> None:
    """Follow the claims for ever."""
    storage_class = {
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": "test/directory",
        "metadata": {"name": STORAGE_CLASS, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
    }  # fmt: skip
    await api.apply(f"/apis/storage.k8s.io/v1/storageclasses/{STORAGE_CLASS}", storage_class, "node")
    async for event, claim in api.watch("/api/v1/persistentvolumeclaims"):
        spec = claim["spec"]
        if event == "DELETED" or spec.get("storageClassName") != STORAGE_CLASS or spec.get("volumeName"):
            continue
        with contextlib.suppress(ApiError):  # made already
            await api.create("/api/v1/persistentvolumes", _volume(claim, directory))


def _volume(claim: dict[str, Any], parent: Path) -> dict[str, Any]:
    metadata, spec = claim["metadata"], claim["spec"]
    directory = parent / metadata["namespace"] / metadata["name"]
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o777)
    return {
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"pv-{metadata['uid']}"},
        "spec": {
            "capacity": spec["resources"]["requests"], "accessModes": spec["accessModes"],
            "storageClassName": STORAGE_CLASS, "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": {"path": str(directory)},
            "claimRef": {"kind": "PersistentVolumeClaim", "apiVersion": "v1"}
            | {key: metadata[key] for key in ("namespace", "name", "uid")},
        },
    }  # fmt: skip
