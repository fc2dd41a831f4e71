"""Containers with the launcher before their command, connected to storage, with the required privileges. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from copy import deepcopy
from typing import Any

import msgspec

from dynamo_entry.engine import dynamo, handshakes
from dynamo_entry.kube import api
from dynamo_entry.kube.config import Config
from dynamo_entry.kube.storage import Wiring
from dynamo_entry.structs import decodable

Object = dict[str, Any]

MAIN = "main"

PROTOCOL, _DROP_ENV = "DYNAMO_CHECKPOINT_PROTOCOL", "DYNAMO_CHECKPOINT_DROP_ENV"

#: Commands that start the launcher.
_LAUNCHERS = (
    ["dynamo-entry"],
    *(
        [python, *isolated, "-m", "dynamo_entry"]
        for python in ("python3", "python")
        for isolated in ([], ["-I"])
    ),
)

#: An image without the launcher must start as if nothing had been injected: one shell, replaced by exec.
_GUARD = (
    'command -v "$1" >/dev/null 2>&1 && exec "$@"; shift {words}; '
    "echo 'Falling back to cold start: the launcher is not in this image' >&2; "
    'exec "$@"'
)

#: The capabilities of each profile: those that CRIU needs, and those that make restores simpler.
_CAPABILITIES = {
    "none": (),
    "minimal": ("CHECKPOINT_RESTORE", "SYS_PTRACE"),
    "standard": ("CHECKPOINT_RESTORE", "SYS_PTRACE", "SYS_ADMIN"),
    "network": ("CHECKPOINT_RESTORE", "SYS_PTRACE", "SYS_ADMIN", "NET_ADMIN", "SYS_TIME"),
}


#: The default limit; it reserves nothing. An invalid quantity must not keep a pod from starting.
_SHM_PATH, _SHM_SIZE = "/dev/shm", "8Gi"

#: Kubernetes' resource.Quantity, without a sign.
_QUANTITY = re.compile(r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[numkMGTPE]?|[KMGTPE]i|[eE][+-]?[0-9]{1,3})")


class Unfit(Exception):
    """The pod cannot be changed as required. ``reason`` is a word for machines."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


def pauses(container: Object) -> bool:
    """Return whether the engine pauses before it has a server."""
    env = {one["name"]: one.get("value") or "" for one in container.get("env") or ()}
    return handshakes.pauses(_words(container), env.get(PROTOCOL, ""))


def registers(container: Object) -> bool:
    """Return whether the engine is a part of Dynamo, whose probes succeed only once it has registered."""
    return dynamo.is_part(_words(container))


def _words(container: Object) -> list[str]:
    return [*(container.get("command") or ()), *(container.get("args") or ())]


def target(containers: Sequence[Object], name: str = "") -> Object:
    """Return the engine's container: the named one, else ``main``, else the only one. Raises Unfit."""
    wanted = name or MAIN
    for container in containers:
        if container.get("name") == wanted:
            return container
    if not name and len(containers) == 1:
        return containers[0]
    names = ", ".join(str(container.get("name")) for container in containers)
    raise Unfit(
        "TargetAmbiguous", f"no container is called {wanted!r}; set targetContainerName to one of: {names}"
    )


def is_launcher(command: Sequence[str]) -> bool:
    """Return whether a command starts the launcher."""
    return any(list(command[: len(known)]) == known for known in _LAUNCHERS)


def with_entrypoint(container: Object, *annotated: Object | None) -> Object:
    """Return a container without command with the image's ENTRYPOINT, if one of these annotations names it. Raises Unfit."""
    text = next((one[api.ENTRYPOINT] for one in annotated if one and api.ENTRYPOINT in one), "")
    if container.get("command") or not text:
        return container
    try:
        words: list[str] = msgspec.json.decode(text, type=list[str])
    except (msgspec.DecodeError, UnicodeError):
        words = []
    if not words or not words[0]:
        raise Unfit(
            "EntrypointInvalid",
            f"{api.ENTRYPOINT}: expected a JSON list of strings such as '[\"/opt/entry.sh\"]', found {text[:200]!r}",
        )
    return container | {"command": words}


def wrap(container: Object, config: Config, *, guard: bool) -> Object:
    """Return the container with the launcher before its command; without one, the image's ENTRYPOINT is the launcher."""
    command = container.get("command")
    if not command or is_launcher(command):
        return container
    engine = [*command, *container.get("args", ())]
    launcher = [*config.launcher.command, *engine]
    if guard:
        script = _GUARD.format(words=len(config.launcher.command))
        launcher = ["/bin/sh", "-c", script, "dynamo-entry", *launcher]
    return {key: value for key, value in container.items() if key != "args"} | {"command": launcher}


def with_env(container: Object, extra: Iterable[Object]) -> Object:
    """Return the container with these variables, unless it already sets them: the user's own win."""
    present = {variable["name"] for variable in container.get("env", ())}
    missing = [variable for variable in extra if variable["name"] not in present]
    return container | {"env": [*container.get("env", ()), *missing]} if missing else container


def without_storage_credentials(container: Object, wiring: Wiring) -> Object:
    """Withhold from the engine, and so from its dump, the credentials that only the launcher needs. Raises Unfit."""
    env = {variable["name"]: variable for variable in container.get("env", ())}
    ours = [
        one["name"] for one in wiring.env if not one["name"].startswith("DYNAMO_") and one["name"] not in env
    ]
    if not ours:
        return container
    own = env.get(_DROP_ENV, {"value": ""})
    if "valueFrom" in own:
        raise Unfit(
            "TemplateInvalid", f"{_DROP_ENV} needs a value: the storage's credentials are added to it"
        )
    names = dict.fromkeys((*own.get("value", "").replace(",", " ").split(), *ours))
    kept = [one for one in container.get("env", ()) if one["name"] != _DROP_ENV]
    return container | {"env": [*kept, {"name": _DROP_ENV, "value": ",".join(names)}]}


def with_volumes(spec: Object, container: Object, wiring: Wiring) -> tuple[list[Object], Object]:
    """Return the pod's volumes and the container with the wiring's mounts.

    A volume with the same source is reused; if only the name is the same, ours gets the suffix ``-1``. Raises
    Unfit for a mount path that is taken.
    """
    volumes = list(spec.get("volumes", ()))
    mounts = list(container.get("volumeMounts", ()))
    for volume, mount in zip(wiring.volumes, wiring.mounts, strict=True):
        source = {key: value for key, value in volume.items() if key != "name"}
        writes = not mount.get("readOnly")
        same = next((one for one in volumes if _is_same(one, source, writes=writes)), None)
        name = same["name"] if same else _free_name(volume["name"], volumes)
        if same is None:
            volumes.append({"name": name} | source)
        taken = next(
            (one for one in mounts if one["mountPath"].rstrip("/") == mount["mountPath"].rstrip("/")), None
        )
        if taken is None:
            mounts.append(mount | {"name": name})
        elif problem := _conflict(taken, name, writes=writes):
            raise Unfit("StorageMountConflict", f"{mount['mountPath']} is the mount of {problem}")
    return volumes, container | {"volumeMounts": mounts}


def _conflict(taken: Object, name: str, *, writes: bool) -> str:
    """Return what is wrong with a container's own mount at the place of ours, or an empty string."""
    if taken["name"] != name:
        return f"volume {taken['name']!r} already"
    if taken.get("subPath") or taken.get("subPathExpr"):
        return f"a part of volume {name!r}, and archives are in its root: remove the subPath"
    return (
        f"volume {name!r} read-only, and a creation writes there" if writes and taken.get("readOnly") else ""
    )


def _is_same(volume: Object, source: Object, *, writes: bool) -> bool:
    if "emptyDir" in source:
        return False  # each emptyDir is a separate directory
    if "persistentVolumeClaim" in source:
        claim = volume.get("persistentVolumeClaim", {})
        is_usable = not (writes and claim.get("readOnly"))
        return bool(claim.get("claimName") == source["persistentVolumeClaim"]["claimName"] and is_usable)
    return {key: value for key, value in volume.items() if key != "name"} == source


def _free_name(name: str, volumes: list[Object]) -> str:
    taken, free, number = {volume["name"] for volume in volumes}, name, 0
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    return free


def is_quantity(text: str | int) -> bool:
    """Return whether Kubernetes accepts the text as an amount of memory."""
    return _QUANTITY.fullmatch(str(text)) is not None


def with_shared_memory(
    volumes: list[Object], container: Object, options: Object
) -> tuple[list[Object], Object]:
    """Return both with an own /dev/shm unless there is one: engines need more than the runtime's 64 MiB."""
    mounts = container.get("volumeMounts", [])
    if options.get("disabled") or any(one["mountPath"].rstrip("/") == _SHM_PATH for one in mounts):
        return volumes, container
    size = str(options.get("size") or "")
    memory = {"medium": "Memory", "sizeLimit": size if is_quantity(size) else _SHM_SIZE}
    name = _free_name("checkpoint-shm", volumes)
    return (
        [*volumes, {"name": name, "emptyDir": memory}],
        container | {"volumeMounts": [*mounts, {"name": name, "mountPath": _SHM_PATH}]},
    )


def with_privileges(container: Object, config: Config, *, creates: bool) -> Object:
    """Return the container with the profile's capabilities; a creating one gets no seccomp profile.

    Nothing can be dumped under a profile, whatever it allows: the kernel refuses PTRACE_O_SUSPEND_SECCOMP.
    """
    added = _CAPABILITIES[config.security.profile]
    if not added:
        return container
    context = deepcopy(container.get("securityContext") or {})
    capabilities = context.setdefault("capabilities", {})
    present = capabilities.get("add", [])
    capabilities["add"] = [*present, *(name for name in added if name not in present)]
    if creates and not config.security.openshift:
        context["seccompProfile"] = {"type": "Unconfined"}
    return container | {"securityContext": context}


def replaced(containers: Sequence[Object], new: Object) -> list[Object]:
    """Return the list with the container of the same name replaced."""
    return [new if one.get("name") == new["name"] else one for one in containers]


@decodable
class _Injected(msgspec.Struct, frozen=True):
    """What the webhook recorded about a pod that it changed."""

    container: str
    env: list[str]
    mounts: list[str]
    volumes: list[str]
    command: list[str] | None = None
    args: list[str] | None = None
    security_context: Object | None = msgspec.field(default=None, name="securityContext")


def undone(spec: Object, injected: str) -> Object:
    """Return the pod's spec without the webhook's additions, which the annotation lists. Raises Unfit."""
    try:
        marks = msgspec.json.decode(injected, type=_Injected)
    except (msgspec.DecodeError, UnicodeError):
        raise Unfit(
            "InjectedInvalid", f"the annotation {api.INJECTED} is not what the webhook wrote"
        ) from None
    container = target(spec["containers"], marks.container)
    own = {"command": marks.command, "args": marks.args, "securityContext": marks.security_context}
    restored = {key: value for key, value in container.items() if key not in own}
    restored |= {key: value for key, value in own.items() if value is not None}
    restored["env"] = [one for one in container.get("env", ()) if one["name"] not in marks.env]
    restored["volumeMounts"] = [
        one for one in container.get("volumeMounts", ()) if one["mountPath"] not in marks.mounts
    ]
    volumes = [one for one in spec.get("volumes", ()) if one["name"] not in marks.volumes]
    return spec | {"containers": replaced(spec["containers"], restored), "volumes": volumes}
