"""Where a checkpoint's archive is, and what a container needs to reach it. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from dynamo_entry.kube.config import Config, Remote
from dynamo_entry.value import NamedTuple

Object = dict[str, Any]

#: Where containers see the node agent's copies.
CACHE_PATH = "/var/cache/dynamo-checkpoint"

#: What the restoring pods of a node share; they verify everything that others wrote (docs/storage.md).
_NODE_CACHE_PATH = "/var/cache/dynamo-checkpoint-shared"

#: Volumes that say nothing about the storage.
ON_THE_NODE = frozenset(("checkpoint-cache", "checkpoint-node-cache"))

_DOCKER_PATH = "/var/run/dynamo-checkpoint/docker"
_CA_PATH = "/var/run/dynamo-checkpoint/ca"
_CREDENTIALS_PATH = "/var/run/dynamo-checkpoint/credentials"

#: Whole Secrets: each of their entries is a key, so that keys can be exchanged without a gap (docs/security.md).
_KEY_PATH = "/var/run/dynamo-checkpoint/key"
_SIGN_KEY_PATH = "/var/run/dynamo-checkpoint/sign-key"
_VERIFY_KEY_PATH = "/var/run/dynamo-checkpoint/verify-key"

_DIGEST = re.compile("blake3:[0-9a-f]{64}")

#: The keys of a Secret for S3, under the names that every S3 client knows.
_AWS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_ENDPOINT_URL")


#: emptyDirs of the engine's container.
CONTROL_PATH, SIGNAL_PATH, _STATE_PATH = "/checkpoint-control", "/checkpoint-signal", "/checkpoint-state"
_SMALL = {"emptyDir": {"sizeLimit": "16Mi"}}


class Wiring(NamedTuple):
    """A location, with the environment, volumes and mounts through which a container reaches it."""

    location: str
    env: tuple[Object, ...]
    volumes: tuple[Object, ...]
    mounts: tuple[Object, ...]


def with_control(wiring: Wiring) -> Wiring:
    """Add the directory of a handshake, at a path that the frozen engine remembers."""
    return _with_mount(wiring, "control", CONTROL_PATH, _SMALL, writes=True)


def with_state(wiring: Wiring) -> Wiring:
    """Add a directory that outlives the container, where failed restores are remembered."""
    return _with_variable(
        _with_mount(wiring, "state", _STATE_PATH, _SMALL, writes=True), "STATE_DIR", _STATE_PATH
    )


def with_signing(wiring: Wiring, config: Config) -> Wiring:
    """Add the signing key: for the creating container and nobody else."""
    if not config.storage.sign_key_secret_ref:
        return wiring
    wired = _with_mount(wiring, "sign-key", _SIGN_KEY_PATH, _secret(config.storage.sign_key_secret_ref))
    return _with_variable(wired, "SIGN_KEY_FILE", _SIGN_KEY_PATH)


def with_signal(wiring: Wiring) -> Wiring:
    """Add an empty directory for the signal file: none of an earlier attempt is there."""
    memory = {"emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}
    return _with_mount(wiring, "signal", SIGNAL_PATH, memory, writes=True)


def with_digest(wiring: Wiring, digest: str) -> Wiring:
    """Accept only the archive of this digest. A damaged status must not make a pod fail."""
    if not _DIGEST.fullmatch(digest):
        return wiring
    return _with_variable(wiring, "DIGEST", digest)


def with_wait(wiring: Wiring, seconds: str) -> Wiring:
    """Wait for an archive that does not exist yet."""
    return _with_variable(wiring, "WAIT", seconds)


def _with_variable(wiring: Wiring, name: str, value: str) -> Wiring:
    return wiring._replace(env=(*wiring.env, {"name": f"DYNAMO_CHECKPOINT_{name}", "value": value}))


def _with_mount(wiring: Wiring, name: str, path: str, source: Object, *, writes: bool = False) -> Wiring:
    mount = {"name": f"checkpoint-{name}", "mountPath": path} | ({} if writes else {"readOnly": True})
    return wiring._replace(
        volumes=(*wiring.volumes, {"name": f"checkpoint-{name}"} | source), mounts=(*wiring.mounts, mount)
    )


def location(config: Config, hash_: str, namespace: str) -> str:
    """Return the location of an identity's archive."""
    storage = config.storage
    inner = f"{namespace}/" if storage.is_isolated else ""
    if storage.type == "pvc":
        return f"{storage.pvc.base_path.rstrip('/')}/{hash_}.tar"
    if storage.type != "oci":
        return f"{getattr(storage, storage.type).uri.rstrip('/')}/{inner}{hash_}.tar"
    return f"{storage.oci.uri.rstrip('/')}{'/' + namespace if inner else ''}:{hash_}"


def key(config: Config, hash_: str, namespace: str) -> tuple[str, ...]:
    """Return a key that is equal for checkpoints that share an archive; a claim belongs to one namespace."""
    where = location(config, hash_, namespace)
    return (
        (config.storage.type, where, namespace)
        if config.storage.type == "pvc"
        else (config.storage.type, where)
    )


def unusable(config: Config, namespace: str, claim: Object | None) -> tuple[str, str] | None:
    """Return (reason, message) if a pod that mounts the claim could never start."""
    if config.storage.type != "pvc":
        return None
    named = f"persistentvolumeclaim {config.storage.pvc.pvc_name!r}"
    if claim is None:
        return "StorageMissing", f"{named} does not exist in namespace {namespace!r}"
    if "deletionTimestamp" in claim["metadata"]:
        return "StorageMissing", f"{named} is being deleted"
    if claim.get("status", {}).get("phase") == "Lost":
        return "StorageMissing", f"{named} has lost its volume"
    modes = claim["spec"].get("accessModes", [])
    once = {"ReadWriteOnce"} if config.storage.pvc.allow_read_write_once else set()
    # ReadWriteOncePod is for one pod, not for one node.
    if not {"ReadWriteMany", *once} & {*modes}:
        who = "all that use it" if once else "workers on other nodes"
        return "StorageNotShared", f"{named} is {', '.join(modes)}; {who} need ReadWriteMany"
    return None


def is_bound(config: Config, claim: Object | None) -> bool:
    """Return whether the claim has a volume; it may wait for its first pod, which should not be a worker."""
    return config.storage.type != "pvc" or (claim or {}).get("status", {}).get("phase") == "Bound"


def needs_identity(config: Config, *, creates: bool) -> bool:
    """Return whether a pod reaches the storage by its ServiceAccount's identity, since no Secret has credentials."""
    storage = config.storage
    return storage.type not in ("pvc", "oci") and not _credentials(
        getattr(storage, storage.type), creates=creates
    )


def wiring(config: Config, hash_: str, namespace: str, *, creates: bool) -> Wiring:
    """Return what a container of the namespace needs to create, or restore from, the archive.

    Every reference is optional: a missing Secret causes a cold start, not a pod that never starts.
    """
    where, is_claim = location(config, hash_, namespace), config.storage.type == "pvc"
    wired = Wiring(where, (), (), ())
    for name, value in {"STORAGE_TYPE": config.storage.type, "LOCATION": where, "HASH": hash_}.items():
        wired = _with_variable(wired, name, value)
    if is_claim:
        claim: Object = {"persistentVolumeClaim": {"claimName": config.storage.pvc.pvc_name}}
        wired = _with_mount(wired, "storage", config.storage.pvc.base_path, claim, writes=creates)
    # The agent has the claim of its own namespace alone.
    if not creates and keeps_copies(config) and (not is_claim or namespace == config.operator.namespace):
        wired = _with_variable(wired, "PATH", f"{CACHE_PATH}/{hash_}.tar")
        directory = _on_the_node(config, config.agent.cache.host_path, namespace)
        wired = _with_mount(wired, "cache", CACHE_PATH, directory)
    elif is_claim:
        wired = _with_variable(wired, "PATH", where)
    if not (creates or is_claim):
        wired = _with_node_cache(wired, config, namespace)
    return _with_keys(_with_login(wired, config, creates=creates), config)


def keeps_copies(config: Config) -> bool:
    """Return whether agents keep copies of archives on their nodes; those of claims only on request."""
    cache = config.agent.cache
    return config.agent.enabled and cache.enabled and (config.storage.type != "pvc" or cache.pvc)


def _with_node_cache(wired: Wiring, config: Config, namespace: str) -> Wiring:
    """Add the directory that pods of a node and a namespace share, if there is one."""
    shared = config.storage.node_cache.host_path
    if not shared:
        return wired
    wired = _with_variable(wired, "NODE_CACHE_DIR", _NODE_CACHE_PATH)
    directory = _on_the_node(config, shared, namespace)
    return _with_mount(wired, "node-cache", _NODE_CACHE_PATH, directory, writes=True)


def _with_login(wired: Wiring, config: Config, *, creates: bool) -> Wiring:
    """Add the credentials of the storage, and what else its library needs."""
    storage = config.storage
    if storage.type == "pvc":
        return wired
    remote: Remote = getattr(storage, storage.type)
    login = _credentials(remote, creates=creates)
    if storage.type == "oci":
        if not login:
            return wired
        items = [{"key": ".dockerconfigjson", "path": "config.json"}]
        wired = _with_mount(wired, "docker", _DOCKER_PATH, _secret(login, items))
        return wired._replace(env=(*wired.env, {"name": "DOCKER_CONFIG", "value": _DOCKER_PATH}))
    if remote.endpoint_url:
        wired = wired._replace(env=(*wired.env, {"name": "AWS_ENDPOINT_URL", "value": remote.endpoint_url}))
    if login:
        # Files change with the Secret, and are not mixed with keys that the engine has in its environment.
        chosen = _keys_of_s3(remote) if storage.type == "s3" else ()
        wired = _with_mount(wired, "credentials", _CREDENTIALS_PATH, _secret(login, chosen))
        wired = _with_variable(wired, "CREDENTIALS_DIR", _CREDENTIALS_PATH)
    return _with_variable(wired, "STORAGE_OPTIONS", json.dumps(remote.options)) if remote.options else wired


def _with_keys(wired: Wiring, config: Config) -> Wiring:
    """Add the keys that seal and verify archives, and the authority of the storage's certificate."""
    storage = config.storage
    if storage.key_secret_ref:
        wired = _with_mount(wired, "key", _KEY_PATH, _secret(storage.key_secret_ref))
        wired = _with_variable(wired, "KEY_FILE", _KEY_PATH)
    if storage.verify_key_secret_ref:
        wired = _with_mount(wired, "verify-key", _VERIFY_KEY_PATH, _secret(storage.verify_key_secret_ref))
        wired = _with_variable(wired, "VERIFY_KEY_FILE", _VERIFY_KEY_PATH)
    if storage.ca_secret_ref:
        items = [{"key": "ca.crt", "path": "ca.crt"}]
        wired = _with_mount(wired, "ca", _CA_PATH, _secret(storage.ca_secret_ref, items))
        wired = _with_variable(wired, "CA_FILE", f"{_CA_PATH}/ca.crt")
    return wired


def _on_the_node(config: Config, path: str, namespace: str) -> Object:
    """Return a directory of the node, for this namespace alone unless namespaces share their archives.

    With DirectoryOrCreate the pod also starts on a node where nobody has made the directory.
    """
    inner = f"/{namespace}" if config.storage.is_isolated or config.storage.type == "pvc" else ""
    return {"hostPath": {"path": f"{path.rstrip('/')}{inner}", "type": "DirectoryOrCreate"}}


def _credentials(remote: Remote, *, creates: bool) -> str:
    """Return the Secret's name; containers that only restore get the read-only one if there is one."""
    restoring = remote.restore_credentials_secret_ref or remote.credentials_secret_ref
    return remote.credentials_secret_ref if creates else restoring


def _keys_of_s3(s3: Remote) -> list[Object]:
    """Return the entries of a Secret that are mounted; an endpoint in the settings goes before the Secret's."""
    given = {"AWS_ENDPOINT_URL"} if s3.endpoint_url else set()
    return [{"key": name, "path": name} for name in _AWS if name not in given]


def _secret(name: str, items: Sequence[Object] = ()) -> Object:
    """Return the volume of a Secret, with all of its entries or only these."""
    chosen = {"items": list(items)} if items else {}
    return {"secret": {"secretName": name, "optional": True} | chosen}
