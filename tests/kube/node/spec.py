"""A container of a pod → podman's arguments. Pure: what must be looked up is looked up before."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]

#: The test machines have no CAP_SYS_RESOURCE; runc would fail to raise these.
MACHINE = ("--runtime=runc", "--pids-limit=0", "--ulimit=nofile=1024:20000", "--ulimit=nproc=32768:32768")

TERMINATION_LOG = "/dev/termination-log"


class Refused(Exception):
    """The pod asks for what this node does not grant, or does not know."""


@dataclass
class Place:
    """What the node decided about one start of one container."""

    name: str
    image: str
    namespace_path: str
    pod_ip: str
    pidfile: str
    termination_log: str
    life_s: int
    env: list[tuple[str, str]] = field(default_factory=list)
    mounts: list[str] = field(default_factory=list)


def expand(text: str, values: dict[str, str]) -> str:
    """``$(NAME)`` as Kubernetes expands it: unknown names stay, ``$$`` is one dollar sign."""

    def replace(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return values.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([^()]+)\)", replace, text)


def check(pod: Object) -> None:
    """Raises Refused for what no pod of ours may ask for."""
    spec = pod["spec"]
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            raise Refused(f"{name} is not granted on this node")
    for container in [*spec.get("initContainers", ()), *spec["containers"]]:
        context = container.get("securityContext", {})
        if context.get("privileged"):
            raise Refused(f"container {container['name']}: privileged is not granted on this node")
        if context.get("procMount", "Default") != "Default":
            raise Refused(f"container {container['name']}: procMount is not granted on this node")


def podman(pod: Object, container: Object, place: Place) -> list[str]:
    """The whole command line. Raises Refused for an unknown seccomp profile."""
    values = dict(place.env)
    command = [expand(part, values) for part in container.get("command", ())]
    arguments = [expand(part, values) for part in container.get("args", ())]
    return [
        "podman", "run", "--rm", f"--name={place.name}", *MACHINE,
        # Ends the container itself, whatever becomes of this process.
        f"--timeout={place.life_s}", "--log-driver=none", "--http-proxy=false",
        f"--network=ns:{place.namespace_path}", f"--hostname={pod['metadata']['name'][:63]}",
        *_hosts(pod, place), f"--pidfile={place.pidfile}",
        *_security(pod["spec"].get("securityContext", {}), container.get("securityContext", {})),
        *([f"--workdir={container['workingDir']}"] if container.get("workingDir") else ()),
        *(f"--env={name}={value}" for name, value in place.env),
        *(f"--volume={mount}" for mount in place.mounts),
        f"--volume={place.termination_log}:{container.get('terminationMessagePath') or TERMINATION_LOG}",
        *([f"--entrypoint={json.dumps(command)}"] if command else ()),
        place.image, *arguments,
    ]  # fmt: skip


def _hosts(pod: Object, place: Place) -> list[str]:
    options = [f"--add-host={pod['metadata']['name'][:63]}:{place.pod_ip}"]
    for alias in pod["spec"].get("hostAliases", ()):
        options += [f"--add-host={name}:{alias['ip']}" for name in alias["hostnames"]]
    return options


def _security(pod: Object, container: Object) -> list[str]:
    both = pod | container
    capabilities = container.get("capabilities", {})
    options = [f"--cap-drop={name}" for name in capabilities.get("drop", ())]
    options += [f"--cap-add={name}" for name in capabilities.get("add", ())]
    if container.get("allowPrivilegeEscalation") is False:
        options.append("--security-opt=no-new-privileges")
    if container.get("readOnlyRootFilesystem"):
        options += ["--read-only", "--read-only-tmpfs=false"]
    if "runAsUser" in both:
        options.append(f"--user={both['runAsUser']}:{both.get('runAsGroup', 0)}")
    groups = [*pod.get("supplementalGroups", ()), *([pod["fsGroup"]] if "fsGroup" in pod else ())]
    options += [f"--group-add={group}" for group in groups]
    profile = both.get("seccompProfile", {}).get("type", "RuntimeDefault")
    if profile == "Unconfined":
        options.append("--security-opt=seccomp=unconfined")
    elif profile != "RuntimeDefault":
        raise Refused(f"seccompProfile {profile} is not known on this node")
    return options


def may_start(container: Object, pod_context: Object, image_user: str) -> str:
    """Why ``runAsNonRoot`` forbids the start, or nothing."""
    both = pod_context | container.get("securityContext", {})
    user = str(both.get("runAsUser", image_user)).split(":")[0]
    if both.get("runAsNonRoot") and user in ("", "0", "root"):
        return "container has runAsNonRoot and image will run as root"
    return ""
