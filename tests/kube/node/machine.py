"""The container that is the node: how it is started, and its files."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import yaml

from cluster import versions
from node.network import Network, run

#: Where the node finds its files, and leaves its logs.
CONFIGURATION = "/node"

#: This machine's part of what a container may have; runc would fail to raise these.
LIMITS = ("--pids-limit=0", "--ulimit=nofile=1024:20000", "--ulimit=nproc=32768:32768")


def kubelet(address: str, minor: int) -> dict[str, Any]:
    return versions.kubelet_settings(minor) | {
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration", "address": address,
        # Only this machine can reach it.
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs", "failSwapOn": False, "oomScoreAdj": 0, "makeIPTablesUtilChains": False,
        # Tests wait for what it tells: its defaults are for clusters of thousands of nodes.
        "kubeAPIQPS": 100, "kubeAPIBurst": 200, "eventRecordQPS": 100, "eventBurst": 200,
        # Nobody answers there, at once: without an address each pod gets a warning.
        "resolvConf": "", "clusterDNS": ["127.0.0.1"], "maxPods": 100, "readOnlyPort": 0, "healthzPort": 0,
        # The machine is shared: neither its disk nor its memory is the node's alone.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "200Mi", "imagefs.available": "200Mi"},
        "imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
    }  # fmt: skip


def containerd(sandbox: str) -> str:
    return f"""
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{sandbox}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{CONFIGURATION}/cni"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{CONFIGURATION}/registries"
"""


def bridge(pods: str) -> dict[str, Any]:
    plugin = {
        "type": "bridge", "bridge": "cni0", "isGateway": True, "hairpinMode": True,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": pods}]], "routes": [{"dst": "0.0.0.0/0"}]},
    }  # fmt: skip
    return {"cniVersion": "0.4.0", "name": "pods", "plugins": [plugin]}


def kubeconfig(administrator: Path, server: str) -> dict[str, Any]:
    """The administrator's, by the address that the server has for nodes."""
    found: dict[str, Any] = yaml.safe_load(administrator.read_text())
    cluster = found["clusters"][0]["cluster"]
    cluster["server"] = server
    authority = Path(cluster.pop("certificate-authority")).read_bytes()
    cluster["certificate-authority-data"] = base64.b64encode(authority).decode()
    return found


class Machine:
    """A node of containerd and a kubelet in one privileged container, which has no network but the link."""

    def __init__(self, network: Network, state: Path, binaries: Path, *, image: str, sandbox: str) -> None:
        self._network = network
        self._binaries = binaries
        self._minor = versions.minor_of(versions.version_of(binaries))
        self._image = image
        self._sandbox = sandbox
        self._files = state / "node"
        #: Directories below it are the same for this machine and for pods (hostPath).
        self._shared = state.parent

    def configure(self, administrator: Path, registry: str) -> None:
        """Write the node's files. ``registry``: URL of the one to which all names of images lead."""
        files = {
            "containerd.toml": containerd(self._sandbox),
            "kubelet.yaml": yaml.safe_dump(kubelet(self._network.address, self._minor)),
            "kubeconfig": yaml.safe_dump(kubeconfig(administrator, f"https://{self._network.service_ip}:443")),
            "cni/10-pods.conflist": json.dumps(bridge(self._network.pods)),
            "registries/_default/hosts.toml": f'[host."{registry}"]\n',
        }  # fmt: skip
        for name, text in files.items():
            path = self._files / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    async def start(self, name: str, life_s: int) -> None:
        """Containerd answers and the kubelet has been started."""
        profiles = Path(__file__).parents[3] / "images" / "seccomp"
        await run(
            "podman", "--runtime=runc", "run", "--detach", "--rm", f"--name={self._network.name}",
            f"--hostname={name}", f"--timeout={life_s}", "--privileged", "--cgroupns=private",
            "--network=none", *LIMITS, "--tmpfs=/run:exec,dev,suid", "--tmpfs=/tmp:exec",
            # On the disk's own file system: an overlay takes no overlay as its upper layer.
            "--volume=/var/lib/containerd", "--volume=/var/lib/kubelet", "--volume=/var/log/pods",
            f"--volume={profiles}:/var/lib/kubelet/seccomp:ro", f"--volume={self._files}:{CONFIGURATION}",
            f"--volume={self._shared}:{self._shared}", f"--volume={self._binaries}:/opt/kubernetes:ro",
            self._image, self._network.address, self._network.gateway, *versions.kubelet_flags(self._minor),
        )  # fmt: skip
        pid = await run("podman", "inspect", "--format={{.State.Pid}}", self._network.name)
        await self._network.attach(int(pid))
        while True:
            try:
                await self.run("ctr", "version")
            except RuntimeError:
                await run("podman", "container", "exists", self._network.name)
                await asyncio.sleep(0.2)
            else:
                return

    async def run(self, *argv: str) -> str:
        """A command in the node."""
        return await run("podman", "exec", self._network.name, *argv)

    async def load(self, images: list[str]) -> None:
        """Copy images of this machine's podman into the node."""
        script = 'podman save --multi-image-archive "${@:2}" | podman exec --interactive "$1" ctr -n k8s.io images import -'
        await run("bash", "-o", "pipefail", "-c", script, "bash", self._network.name, *images)
