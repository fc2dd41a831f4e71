"""etcd, kube-apiserver, kube-controller-manager and kube-scheduler as child processes, on free loopback ports.

Nothing outlives the object: the state is in one directory, each process is ended by its pid, and ends by
itself after LIFE_S. Tokens are random; RBAC is on; the API server refuses privileged pods.
"""

from __future__ import annotations

import os
import secrets
import socket
import ssl
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import yaml
from typing_extensions import Self

from cluster import versions
from cluster.reader import Reader

#: What any of the processes lives at most.
LIFE_S = 3 * 3600

INSTALL = Path(__file__).with_name("install")


class NotInstalled(Exception):
    """The servers are not there; the message names the command that provides them."""


def binaries() -> Path:
    """The directory of the built servers. Raises NotInstalled."""
    done = subprocess.run([INSTALL, "--where"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotInstalled(done.stderr.strip())
    return Path(done.stdout.strip())


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class ControlPlane:
    """A running control plane; ``kubeconfig`` is the administrator's."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bin = binaries()
        self.version = versions.version_of(self.bin)
        self.minor = versions.minor_of(self.version)
        self.kubeconfig = directory / "kubeconfig"
        self._services = f"10.{secrets.randbelow(60) + 192}.{secrets.randbelow(256)}"
        #: The API server's for pods, once a node has it; the server's certificate is good for it, too.
        self.service_ip = f"{self._services}.1"
        self._token = secrets.token_hex(16)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        client, peer, self.port = _free_ports(3)
        etcd = f"http://127.0.0.1:{client}"
        self._spawn(
            "etcd", "etcd",
            f"--data-dir={self.directory}/etcd", "--unsafe-no-fsync", "--logger=zap",
            f"--listen-client-urls={etcd}", f"--advertise-client-urls={etcd}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-cluster=default=http://127.0.0.1:{peer}",
        )  # fmt: skip
        key = self.directory / "service-accounts.key"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        tokens = self.directory / "tokens.csv"
        tokens.touch(0o600)
        tokens.write_text(f"{self._token},admin,admin,system:masters\n")
        certificates = self.directory / "certificates"
        self._spawn(
            "kube-apiserver", self.bin / "kube-apiserver",
            f"--etcd-servers={etcd}", "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none", f"--secure-port={self.port}", f"--cert-dir={certificates}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}",
            f"--token-auth-file={tokens}", "--authorization-mode=RBAC", "--allow-privileged=false",
            f"--service-cluster-ip-range={self._services}.0/24", *versions.gate_flags(self.minor),
            # Webhooks by Service reach the pods themselves: there is no kube-proxy.
            "--enable-aggregator-routing=true", "--kubelet-preferred-address-types=InternalIP",
        )  # fmt: skip
        self._await_ready(certificates / "apiserver.crt")
        self.write_kubeconfig(self.kubeconfig, self._token)
        self._reader = Reader(f"https://127.0.0.1:{self.port}", certificates / "apiserver.crt", self._token)
        self._spawn(
            "kube-controller-manager", self.bin / "kube-controller-manager",
            f"--kubeconfig={self.kubeconfig}", f"--service-account-private-key-file={key}",
            f"--root-ca-file={certificates}/apiserver.crt", "--leader-elect=false",
            "--kube-api-qps=200", "--kube-api-burst=400", "--secure-port=0", f"--cert-dir={self.directory}/kcm",
            *versions.without_plain_http(self.minor), *versions.gate_flags(self.minor),
        )  # fmt: skip
        self._spawn(
            "kube-scheduler", self.bin / "kube-scheduler",
            f"--kubeconfig={self.kubeconfig}", "--leader-elect=false", "--secure-port=0",
            *versions.without_plain_http(self.minor),
        )  # fmt: skip
        self._await_service_account()

    def _spawn(self, name: str, *argv: object) -> None:
        with (self.directory / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(
                ["timeout", "-k", "10", str(LIFE_S), *map(str, argv)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def _await_ready(self, certificate: Path) -> None:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            for name, process in self._processes.items():
                if process.poll() is not None:
                    raise RuntimeError(f"{name} ended:\n{self.log(name)[-4000:]}")
            try:
                context = ssl.create_default_context(cafile=certificate)
                request = urllib.request.Request(
                    f"https://127.0.0.1:{self.port}/readyz",
                    headers={"Authorization": f"Bearer {self._token}"},
                )
                with urllib.request.urlopen(request, context=context, timeout=5):
                    return
            except OSError:
                time.sleep(0.1)
        raise RuntimeError(f"kube-apiserver is not ready:\n{self.log('kube-apiserver')[-4000:]}")

    def _await_service_account(self) -> None:
        """Pods can be created in ``default``: the controllers run."""
        deadline = time.monotonic() + 60
        pod = ("kubectl", "run", "pod", "--image=none", "--dry-run=server")
        while self.run(*pod, check=False).returncode:
            if time.monotonic() > deadline:
                raise RuntimeError(f"no controllers:\n{self.log('kube-controller-manager')[-4000:]}")
            time.sleep(0.1)

    def log(self, name: str) -> str:
        """What a process wrote so far."""
        return (self.directory / f"{name}.log").read_text(errors="replace")

    def write_kubeconfig(self, path: Path, token: str) -> Path:
        """A kubeconfig for the holder of that token."""
        cluster = {
            "server": f"https://127.0.0.1:{self.port}",
            "certificate-authority": str(self.directory / "certificates" / "apiserver.crt"),
        }
        path.touch(0o600)
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "test",
                    "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
                    "clusters": [{"name": "test", "cluster": cluster}],
                    "users": [{"name": "test", "user": {"token": token}}],
                }
            )
        )
        return path

    def service_account_kubeconfig(self, namespace: str, name: str) -> Path:
        """A kubeconfig with the rights of a service account, and no others."""
        token = self.kubectl("create", "token", name, "-n", namespace, "--duration=2h").strip()
        return self.write_kubeconfig(self.directory / f"kubeconfig-{namespace}-{name}", token)

    @property
    def environ(self) -> dict[str, str]:
        """With the administrator's KUBECONFIG and the installed kubectl and helm on its PATH."""
        return os.environ | {
            "KUBECONFIG": str(self.kubeconfig),
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "HOME": str(self.directory),  # caches
        }

    def run(
        self, *argv: object, stdin: str | None = None, check: bool = True, limit_s: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """A command in ``environ``."""
        done = subprocess.run(
            [*map(str, argv)], env=self.environ, input=stdin, text=True, capture_output=True,
            timeout=limit_s, check=False,
        )  # fmt: skip
        if check and done.returncode:
            raise AssertionError(f"{' '.join(map(str, argv))}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def kubectl(self, *argv: object, stdin: str | None = None, limit_s: float = 120) -> str:
        """kubectl's standard output. Raises AssertionError with its messages where it fails."""
        return self.run("kubectl", *argv, stdin=stdin, limit_s=limit_s).stdout

    def apply(self, *documents: dict[str, Any], namespace: str = "default") -> None:
        """kubectl apply."""
        self.kubectl("apply", "-n", namespace, "-f", "-", stdin=yaml.safe_dump_all(documents))

    def get(
        self, kind: str, name: str = "", namespace: str = "default", *, selector: str = "", check: bool = True
    ) -> Any:
        """An object, or a list; an empty dict for an absent one without ``check``."""
        query = {"labelSelector": selector} if selector else {}
        found = self._reader.get(kind, name, namespace, **query)
        assert found is not None or not check, f"no {kind} {name!r} in {namespace!r}"
        return found or {}

    def pod_log(self, pod: str, namespace: str, container: str = "main") -> str:
        """What a container wrote so far."""
        return self._reader.log(pod, namespace, container)

    def close(self) -> None:
        """End the processes, the servers before their store."""
        for process in reversed(self._processes.values()):
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()
