"""The node: what the tests rely on beyond a kubelet and containerd, and that the machine stays as it was."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

import images
from node.process import SYSCTLS

#: What a kubelet asks of a machine's kernel.
WANTED = {"vm/overcommit_memory": "1", "kernel/panic": "10", "kernel/panic_on_oops": "1"}


def pod(name, *script, **fields):
    container = {"name": "main", "image": images.BASE, "command": ["/bin/sh", "-c", *script]}
    container |= fields.pop("container", {})
    spec = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 2, "containers": [container]} | fields
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


@pytest.fixture
def run(cluster, node, namespace):
    """Create a pod and wait until it has ended; its log."""

    def run(definition, limit_s=300):
        cluster.apply(definition, namespace=namespace)
        deadline = time.monotonic() + limit_s
        name = definition["metadata"]["name"]
        while (found := cluster.get("pod", name, namespace))["status"]["phase"] != "Succeeded":
            assert time.monotonic() < deadline, json.dumps(found["status"], indent=1)
            time.sleep(0.1)
        return cluster.pod_log(name, namespace)

    return run


def test_the_machine_keeps_its_settings(node):
    """The kubelet has set what it wants, in files of its own."""
    assert {name: node.run("cat", f"/run/sysctl/{Path(name).name}").strip() for name in WANTED} == WANTED
    for name, before in node.sysctls.items():
        assert (SYSCTLS / name).read_text() == before


def test_nothing_is_mounted_over_the_proc_of_pods(node):
    """Else the kernel refuses a pod in a user namespace a /proc of its own."""
    (kubelet,) = node.run("pidof", "kubelet").split()
    (containerd,) = node.run("pidof", "containerd").split()
    assert "/proc/sys/kernel/panic " in node.run("cat", f"/proc/{kubelet}/mountinfo")
    assert " /proc/" not in node.run("cat", f"/proc/{containerd}/mountinfo")


def test_an_image_of_the_node_is_pulled(run):
    """Under the name that a guide gives it, with the pull policy that goes with ``latest``."""
    (name,) = images.GUIDE
    assert run(pod("pulls", "echo here", container={"image": name, "imagePullPolicy": "Always"})) == "here\n"


def test_an_image_that_is_nowhere_is_not_pulled(cluster, node, namespace):
    """The pod says so, as it does where a registry has no such image."""
    absent = pod("absent", "true", container={"image": "registry.test/no/such:image"})
    cluster.apply(absent, namespace=namespace)
    deadline, reason = time.monotonic() + 300, ""  # all images come onto the node first
    while reason not in ("ErrImagePull", "ImagePullBackOff"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
        statuses = cluster.get("pod", "absent", namespace)["status"].get("containerStatuses", [])
        reason = statuses[0]["state"].get("waiting", {}).get("reason") if statuses else ""


def test_a_claim_is_a_directory_of_this_machine(cluster, node, namespace, run):
    """It gets a volume by itself, and what a pod writes is there."""
    claim = {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
    }  # fmt: skip
    cluster.apply(claim, namespace=namespace)
    run(
        pod(
            "writes", "echo kept >/data/written",
            container={"volumeMounts": [{"name": "data", "mountPath": "/data"}]},
            volumes=[{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
        )
    )  # fmt: skip
    assert (node.claim(namespace, "data") / "written").read_text() == "kept\n"


def test_gpus_are_counted(run):
    """A pod that asks for one is admitted."""
    assert (
        run(pod("gpu", "echo ran", container={"resources": {"limits": {"nvidia.com/gpu": "1"}}})) == "ran\n"
    )


def test_the_api_server_is_reached_as_in_a_cluster(run):
    """By the service's address, with the certificate and the token that each pod has."""
    script = (
        "from os import environ as e; import ssl, urllib.request as r; d = '/var/run/secrets/kubernetes.io/serviceaccount/'; "
        "c = ssl.create_default_context(cafile=d + 'ca.crt'); h = {'Authorization': 'Bearer ' + open(d + 'token').read()}; "
        "print(r.urlopen(r.Request(f\"https://{e['KUBERNETES_SERVICE_HOST']}/version\", headers=h), context=c).status)"
    )
    assert (
        run(pod("asks", "", container={"image": images.DYNAMO, "command": ["python3", "-c", script]}))
        == "200\n"
    )


#: A node that goes on until it is killed; its API server is nowhere, so no cluster hears of it.
KILLED = """
import asyncio, sys
from pathlib import Path
from node.machine import Machine
from node.network import Network

async def main(kubeconfig, binaries, state, image):
    async with Network("https://127.0.0.1:1", "10.127.255.1") as network:
        machine = Machine(network, Path(state), Path(binaries), image=image, sandbox="none")
        machine.configure(Path(kubeconfig), "http://127.0.0.1:1")
        await machine.start("lonely", 120)
        print(network.name, flush=True)
        await asyncio.sleep(60)

asyncio.run(main(*sys.argv[1:]))
"""


def test_a_killed_node_leaves_nothing_behind(cluster, tmp_path):
    """Neither a container, nor a link, nor a cgroup."""
    images.need(images.MACHINE)
    (tmp_path / "state").mkdir()
    argv = [sys.executable, "-c", KILLED, cluster.kubeconfig, cluster.bin, tmp_path / "state", images.MACHINE]
    with subprocess.Popen(argv, cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True) as process:
        name = process.stdout.readline().strip()
        found = subprocess.run(
            ["podman", "inspect", "--format={{.ID}}", name], check=True, capture_output=True, text=True
        )
        process.kill()
    container = found.stdout.strip()

    def remains():
        exists = subprocess.run(["podman", "container", "exists", name], check=False).returncode == 0
        return [
            *([name] if exists else []),
            *Path("/sys/class/net").glob(name),
            *Path("/sys/fs/cgroup").glob(f"*/libpod_parent/*{container}*"),
        ]

    deadline = time.monotonic() + 20
    while left := remains():
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
