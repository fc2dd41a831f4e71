"""A container runtime in a container of its own, spoken to as a kubelet speaks to it: by the CRI."""

from __future__ import annotations

import subprocess
import uuid
from pathlib import Path
from typing import Any

import grpc
from containers import MACHINE, ROOT, TAG
from cri_api.v1 import api_pb2 as cri
from cri_api.v1.api_pb2_grpc import RuntimeServiceStub
from typing_extensions import Self

SUITES = ("trixie", "sid")
SANDBOX = f"localhost/dynamo-entry/sandbox:{TAG}"

#: The name under which the runtime's configuration asks for it.
_SANDBOX_THERE = "localhost/sandbox:1"

#: What any of these containers lives at most.
_LIFE_S = 600

#: What a kubelet asks the runtime to hide, and to make read-only, unless procMount is Unmasked.
MASKED = (
    "/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
    "/sys/devices/virtual/powercap",
)  # fmt: skip
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

#: The users of a pod of ``hostUsers: false`` are these of the machine.
USERS = cri.IDMapping(host_id=655360, container_id=0, length=65536)


def image(suite: str) -> str:
    return f"localhost/dynamo-entry/runtime-{suite}:{TAG}"


def _run(*argv: str) -> str:
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False)  # fmt: skip
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr}"
    return done.stdout


class Runtime:
    """containerd and runc of a Debian suite. ``directory`` is /node there; pods' volumes are below it."""

    def __init__(self, suite: str, directory: Path) -> None:
        self.suite = suite
        self.directory = directory
        self._name = f"dynamo-entry-test-{uuid.uuid4().hex[:12]}"

    def __enter__(self) -> Self:
        _run(
            "podman", "--runtime=runc", "run", "--detach", "--rm", f"--name={self._name}", f"--timeout={_LIFE_S}",
            "--privileged", "--cgroupns=private", "--network=none", *MACHINE,
            "--tmpfs=/run:exec,dev,suid", "--tmpfs=/tmp:exec",
            # On the disk's own file system: an overlay takes no overlay as its upper layer.
            "--volume=/var/lib/containerd", f"--volume={self.directory}:/node",
            f"--volume={ROOT / 'images' / 'seccomp'}:/profiles:ro", image(self.suite),
        )  # fmt: skip
        self._channel = grpc.insecure_channel(
            f"unix://{self.directory}/containerd.sock", options=[("grpc.default_authority", "localhost")]
        )
        self.service = RuntimeServiceStub(self._channel)
        self.version = self.service.Version(
            cri.VersionRequest(), timeout=60, wait_for_ready=True
        ).runtime_version
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()
        _run("podman", "rm", "--force", "--time=0", "--volumes", "--ignore", self._name)

    def run(self, *argv: str) -> str:
        """A command beside containerd, and its output."""
        return _run("podman", "exec", self._name, *argv)

    def ctr(self, *argv: str) -> str:
        """A command of containerd's own client."""
        return self.run("ctr", "--address=/node/containerd.sock", "--namespace=k8s.io", *argv)

    def load(self, *images: str) -> None:
        """Copy images of podman's."""
        script = (
            'podman save --multi-image-archive "${@:2}" | podman exec --interactive "$1" '
            "ctr --address=/node/containerd.sock --namespace=k8s.io images import -"
        )
        _run("bash", "-o", "pipefail", "-c", script, "bash", self._name, SANDBOX, *images)
        self.ctr("images", "tag", SANDBOX, _SANDBOX_THERE)


class Pod:
    """A pod of one container, as a kubelet asks for it; it is gone when the block ends."""

    def __init__(
        self, runtime: Runtime, *, host_network: bool = False, user_namespace: bool = False, shared_pids: bool = False
    ) -> None:  # fmt: skip
        self._runtime = runtime
        self._name = f"pod-{uuid.uuid4().hex[:8]}"
        self._namespaces = cri.NamespaceOption(
            network=cri.NODE if host_network else cri.POD,
            pid=cri.POD if shared_pids else cri.CONTAINER,
            ipc=cri.POD,
        )
        if user_namespace:
            users = cri.UserNamespace(mode=cri.POD, uids=[USERS], gids=[USERS])
            self._namespaces.userns_options.CopyFrom(users)
        self._logs = runtime.directory / self._name
        self._logs.mkdir()
        self._config = cri.PodSandboxConfig(
            metadata=cri.PodSandboxMetadata(name=self._name, uid=uuid.uuid4().hex, namespace="tests"),
            hostname="" if host_network else self._name,
            log_directory=f"/node/{self._name}",
            linux=cri.LinuxPodSandboxConfig(
                cgroup_parent=f"/pods/{self._name}",
                security_context=cri.LinuxSandboxSecurityContext(
                    namespace_options=self._namespaces, seccomp=seccomp("RuntimeDefault")
                ),
            ),
        )

    def __enter__(self) -> Self:
        request = cri.RunPodSandboxRequest(config=self._config)
        self._id = self._runtime.service.RunPodSandbox(request, timeout=60).pod_sandbox_id
        return self

    def __exit__(self, *_: object) -> None:
        service = self._runtime.service
        stop = cri.StopPodSandboxRequest(pod_sandbox_id=self._id)
        try:
            service.StopPodSandbox(stop, timeout=60)
        except grpc.RpcError:  # containerd 2, of a container that ends just then; a kubelet asks again, too
            service.StopPodSandbox(stop, timeout=60)
        service.RemovePodSandbox(cri.RemovePodSandboxRequest(pod_sandbox_id=self._id), timeout=60)

    def start(
        self, image: str, command: list[str], env: dict[str, str], mounts: list[cri.Mount], **context: Any
    ) -> None:
        """``context``: fields of LinuxContainerSecurityContext."""
        config = cri.ContainerConfig(
            metadata=cri.ContainerMetadata(name="main"), image=cri.ImageSpec(image=image), command=command,
            envs=[cri.KeyValue(key=key, value=value.encode()) for key, value in env.items()],
            mounts=mounts, log_path="log",
            linux=cri.LinuxContainerConfig(
                resources=cri.LinuxContainerResources(cpu_shares=2, oom_score_adj=1000),
                security_context=cri.LinuxContainerSecurityContext(
                    namespace_options=self._namespaces, **context
                ),
            ),
        )  # fmt: skip
        request = cri.CreateContainerRequest(
            pod_sandbox_id=self._id, config=config, sandbox_config=self._config
        )
        self._container = self._runtime.service.CreateContainer(request, timeout=60).container_id
        self._runtime.service.StartContainer(
            cri.StartContainerRequest(container_id=self._container), timeout=60
        )

    def log(self) -> list[str]:
        """Its lines, without the time and the stream that the runtime writes before each."""
        path = self._logs / "log"
        return [line.split(" ", 3)[3] for line in path.read_text().splitlines()] if path.exists() else []

    def has_ended(self) -> bool:
        request = cri.ContainerStatusRequest(container_id=self._container)
        state: int = self._runtime.service.ContainerStatus(request, timeout=60).status.state
        return state == cri.CONTAINER_EXITED


def seccomp(kind: str, profile: str = "") -> cri.SecurityProfile:
    return cri.SecurityProfile(
        profile_type=cri.SecurityProfile.ProfileType.Value(kind), localhost_ref=profile
    )
