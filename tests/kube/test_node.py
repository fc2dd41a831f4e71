"""The test node does with pods what a kubelet does, as far as the tests above it rely on it."""

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from node.network import Network

IMAGE = "localhost/dynamo-entry/base:trixie"


def pod(name, *script, **fields):
    container = {"name": "main", "image": IMAGE, "command": ["/bin/sh", "-c", *script]}
    container |= fields.pop("container", {})
    spec = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 2, "containers": [container]} | fields
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"colour": "blue"}},
        "spec": spec,
    }


@pytest.fixture
def run(cluster, node, namespace):
    """Create a pod and wait for its phase."""

    def run(definition, phase="Succeeded", limit_s=60):
        cluster.apply(definition, namespace=namespace)
        return wait(definition["metadata"]["name"], lambda found: found["status"]["phase"] == phase, limit_s)

    def wait(name, condition, limit_s=60):
        deadline = time.monotonic() + limit_s
        while not condition(found := cluster.get("pod", name, namespace)):
            assert time.monotonic() < deadline, json.dumps(found["status"], indent=1)
            time.sleep(0.1)
        return found

    run.wait = wait
    return run


def test_what_a_container_is_given(cluster, namespace, run):
    """Secrets, config maps, the downward API and $(VAR) arrive in its environment, arguments and volumes."""
    cluster.kubectl("create", "secret", "generic", "keys", "--from-literal=token=s3cret", "-n", namespace)
    cluster.kubectl("create", "configmap", "conf", "--from-literal=a.yaml=x: 1", "-n", namespace)
    run(
        pod(
            "given",
            'echo "$TOKEN $NAME $COLOUR $GREETING [$ABSENT] $0 $1"; cat /conf/a.yaml /keys/t; ls /scratch; '
            "mount | grep -c ' /shm tmpfs\\| on /shm'; echo done >/dev/termination-log",
            "$(TOKEN)",
            "$$(TOKEN)",
            container={
                "env": [
                    {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "token"}}},
                    {
                        "name": "ABSENT",
                        "valueFrom": {"secretKeyRef": {"name": "no", "key": "x", "optional": True}},
                    },
                    {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "COLOUR", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['colour']"}}},
                    {"name": "GREETING", "value": "hello-$(NAME)"},
                ],
                "volumeMounts": [
                    {"name": "conf", "mountPath": "/conf"},
                    {"name": "keys", "mountPath": "/keys", "readOnly": True},
                    {"name": "scratch", "mountPath": "/scratch"},
                    {"name": "shm", "mountPath": "/shm"},
                ],
            },
            volumes=[
                {"name": "conf", "configMap": {"name": "conf"}},
                {"name": "keys", "secret": {"secretName": "keys", "items": [{"key": "token", "path": "t"}]}},
                {"name": "scratch", "emptyDir": {}},
                {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            ],
        )
    )
    log = cluster.kubectl("logs", "given", "-n", namespace)
    assert log == "s3cret given blue hello-given [] s3cret $(TOKEN)\nx: 1s3cret1\n"


def test_the_end_of_a_container_is_reported(cluster, namespace, run):
    """Exit code, reason and termination message stand in the pod's status."""
    failed = run(pod("ends", "echo why >/dev/termination-log; exit 7"), phase="Failed")
    ending = failed["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (ending["exitCode"], ending["reason"], ending["message"]) == (7, "Error", "why\n")


def test_a_command_that_is_not_there(run):
    """A container that the runtime cannot start ends with 128, StartError."""
    failed = run(pod("absent", "", container={"command": ["/no/such/program"]}), phase="Failed")
    ending = failed["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (ending["exitCode"], ending["reason"]) == (128, "StartError")


def test_a_job_is_run_and_its_pods_go_with_it(cluster, namespace, run):
    """A Job's container writes to a claim; deleting the Job removes pod and container."""
    claim = {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
    }  # fmt: skip
    template = pod(
        "x", "date >/data/written; sleep 600",
        container={"volumeMounts": [{"name": "data", "mountPath": "/data"}]},
        volumes=[{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
    )  # fmt: skip
    job = {
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "writer"},
        "spec": {"template": {"spec": template["spec"]}},
    }  # fmt: skip
    cluster.apply(claim, job, namespace=namespace)
    cluster.kubectl(
        "wait", "pod", "-l", "job-name=writer", "--for=condition=Ready", "--timeout=60s", "-n", namespace
    )
    listing = cluster.kubectl("exec", "job/writer", "-n", namespace, "--", "ls", "/data")
    assert listing == "written\n"
    cluster.kubectl("delete", "job", "writer", "-n", namespace, "--timeout=60s")
    cluster.kubectl("wait", "pod", "-l", "job-name=writer", "--for=delete", "--timeout=60s", "-n", namespace)


def test_a_deployment_is_restarted_probed_and_reached(cluster, namespace, run):
    """Readiness follows the probe, a container that ends is started again, exec reports the exit code."""
    template = pod(
        "x", "test -e /state/first || { touch /state/first; exit 1; }; echo up; sleep 600",
        restartPolicy="Always",
        container={
            "volumeMounts": [{"name": "state", "mountPath": "/state"}],
            "readinessProbe": {"exec": {"command": ["test", "-e", "/state/ready"]}, "periodSeconds": 1},
        },
        volumes=[{"name": "state", "emptyDir": {}}],
    )  # fmt: skip
    deployment = {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "server"},
        "spec": {
            "selector": {"matchLabels": {"app": "server"}},
            "template": {"metadata": {"labels": {"app": "server"}}, "spec": template["spec"]},
        },
    }  # fmt: skip
    cluster.apply(deployment, namespace=namespace)
    cluster.kubectl(
        "wait", "pod", "-l", "app=server", "--for=condition=Initialized", "--timeout=60s", "-n", namespace
    )
    name = cluster.get("pods", namespace=namespace)["items"][0]["metadata"]["name"]
    found = run.wait(name, lambda found: found["status"]["containerStatuses"][0]["restartCount"] == 1
                     and "running" in found["status"]["containerStatuses"][0]["state"])  # fmt: skip
    assert not found["status"]["containerStatuses"][0]["ready"]
    assert found["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"] == 1
    done = cluster.run("kubectl", "exec", name, "-n", namespace, "--", "sh", "-c", "exit 9", check=False)
    assert done.returncode == 9
    cluster.kubectl("exec", name, "-n", namespace, "--", "touch", "/state/ready")
    cluster.kubectl("rollout", "status", "deployment/server", "--timeout=30s", "-n", namespace)
    assert cluster.kubectl("logs", "deployment/server", "-n", namespace) == "up\n"


def test_privilege_is_refused(cluster, namespace, run):
    """Neither privileged containers nor the host's namespaces run here."""
    privileged = pod("mighty", "true", container={"securityContext": {"privileged": True}})
    with pytest.raises(AssertionError, match="privileged: Forbidden"):
        cluster.apply(privileged, namespace=namespace)
    assert run(pod("host", "true", hostPID=True), phase="Failed")["status"]["reason"] == "Refused"


def test_a_pod_has_what_its_security_context_says(cluster, namespace, run):
    """Capabilities are added and dropped, the seccomp profile is on unless Unconfined, the root file system is kept."""
    look = "grep -E '^(CapEff|Seccomp|NoNewPrivs):' /proc/self/status; touch /x 2>/dev/null || echo ro; id -u"
    context = {
        "capabilities": {"drop": ["ALL"], "add": ["SYS_PTRACE"]}, "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
    }  # fmt: skip
    run(pod("strict", look, container={"securityContext": context}))
    log = cluster.kubectl("logs", "strict", "-n", namespace).split()
    assert log == ["CapEff:", "0000000000080000", "NoNewPrivs:", "1", "Seccomp:", "2", "ro", "0"]
    run(
        pod(
            "open",
            look,
            container={"securityContext": {"seccompProfile": {"type": "Unconfined"}, "runAsUser": 7}},
        )
    )
    assert cluster.kubectl("logs", "open", "-n", namespace).split()[-4:] == ["Seccomp:", "0", "ro", "7"]


KILLED = """
import asyncio
from node.network import Network

async def main():
    async with Network("https://127.0.0.1:1", "127.0.0.2") as network:
        await network.attach(network.namespace("pod"))
        print(network.namespace("pod"), flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


def test_a_killed_node_leaves_no_network_behind():
    """Neither a bridge nor a namespace."""
    if subprocess.run(["ip", "link"], capture_output=True, check=False).returncode:
        pytest.skip("needs ip: scripts/test kube")
    argv = [sys.executable, "-c", KILLED]
    with subprocess.Popen(argv, cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True) as process:
        name = process.stdout.readline().strip()
        assert (Path("/run/netns") / name).exists()
        process.kill()
    bridge = Path("/sys/class/net") / name.partition("-")[0]
    deadline = time.monotonic() + 20
    while bridge.exists() or (Path("/run/netns") / name).exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_the_bridge_keeps_its_address():
    """Else a pod that comes or goes cuts the others off, until they have forgotten the old one."""
    if subprocess.run(["ip", "link"], capture_output=True, check=False).returncode:
        pytest.skip("needs ip: scripts/test kube")

    async def addresses():
        async with Network("https://127.0.0.1:1", "127.0.0.3") as network:
            name = network.namespace("a").partition("-")[0]
            found = []
            for number in range(6):
                found.append((Path("/sys/class/net") / name / "address").read_text())
                await network.attach(network.namespace(str(number)))
            return found

    assert len(set(asyncio.run(addresses()))) == 1
