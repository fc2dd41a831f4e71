"""A real Kubernetes API for the tests below: one control plane and one node a session."""

import contextlib
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
import real

import engines
import images
from cluster.control_plane import LIFE_S, ControlPlane, NotInstalled
from node.process import Node

#: Of servers that this project does not build.
collect_ignore = [] if os.environ.get("DYNAMO_ENTRY_KUBERNETES") else ["test_today.py"]


def pytest_report_teststatus(report, config):
    """No dots between the lines of tests that tell what they do (scripts/test kube-e2e)."""
    tells = config.option.capture == "no" and report.when == "call"
    return (report.outcome, "", "") if tells and report.passed else None


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """A running ControlPlane; no node."""
    try:
        plane = ControlPlane(tmp_path_factory.mktemp("cluster"))
    except NotInstalled as missing:
        pytest.skip(str(missing))
    with plane:
        yield plane


def pytest_collection_modifyitems(items):
    """Files that need no node come first: images are copied onto it meanwhile."""
    need = {item.path for item in items if "node" in item.fixturenames}
    items.sort(key=lambda item: item.path in need)


@pytest.fixture(scope="session", autouse=True)
def early_node(request):
    """The node starts with the session, if a test needs it."""
    if any("node" in item.fixturenames for item in request.session.items):
        with contextlib.suppress(pytest.skip.Exception):  # raised again where it is needed
            request.getfixturevalue("starting_node")


@pytest.fixture(scope="session")
def starting_node(cluster, request, tmp_path_factory):
    if subprocess.run(["podman", "--version"], capture_output=True, check=False).returncode:
        pytest.skip("needs podman: scripts/test kube")
    images.need(images.MACHINE, images.SANDBOX, *images.ON_THE_NODE)
    is_real = any("test_real_worker" in item.nodeid for item in request.session.items)
    with Node(
        cluster, tmp_path_factory.mktemp("node"), machine=images.MACHINE, sandbox=images.SANDBOX,
        images=[*images.ON_THE_NODE, *([real.IMAGE] if is_real else [])], mirrors=images.GUIDE,
    ) as starting:  # fmt: skip
        yield starting


@pytest.fixture(scope="session")
def node(starting_node):
    """A Node that runs the pods of the cluster."""
    starting_node.await_ready()
    return starting_node


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A directory of the node for the agent's copies."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def engine_image(node):
    """The stand-in's image is on the node: no test's time runs while it is copied."""
    node.await_image(images.DYNAMO)


@pytest.fixture(scope="session")
def engine(cluster, node):
    """What the guide's image name stands for, on the node."""
    print("\n== The worker's image comes onto the node", flush=True)
    node.await_image(images.WORKER)
    if not images.IS_REAL:
        return engines.StandIn()
    print("\n== The platform: etcd and Dynamo's frontend", flush=True)
    return engines.Worker(cluster, "default", images.WORKER)


@pytest.fixture(scope="session")
def dynamo(cluster, engine, tmp_path_factory):
    """Dynamo's custom resource, and the stand-in for its operator."""
    here = Path(__file__).parent
    cluster.kubectl("apply", "-f", here / "dynamo" / "crd.yaml")
    cluster.kubectl("wait", "--for=condition=Established", "crd/dynamographdeployments.nvidia.com")
    env = [f"--env={name}={value}" for name, value in engine.env.items()]
    argv = [sys.executable, "-m", "dynamo", f"--kubeconfig={cluster.kubeconfig}", *env]
    with (tmp_path_factory.mktemp("dynamo") / "log").open("wb") as log:
        process = subprocess.Popen(["timeout", str(LIFE_S), *argv], cwd=here, stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # fmt: skip
    yield
    process.terminate()
    process.wait(30)


def install(cluster, namespace, values):
    """helm install of the chart, with the operator's image under test."""
    images.need(images.OPERATOR)
    # Another release of this session may have brought the resource, and left it as it should.
    cluster.kubectl("delete", "crd", "dynamocheckpoints.nvidia.com", "--ignore-not-found")
    repository, _, tag = images.OPERATOR.rpartition(":")
    done = cluster.run(
        "helm", "install", "dynamo-entry", images.ROOT / "charts" / "dynamo-entry", "-n", namespace,
        "--wait", "--timeout", "4m", "-f", "-",
        "--set", f"operator.image.repository={repository},operator.image.tag={tag}",
        stdin=values, limit_s=300, check=False,
    )  # fmt: skip
    if done.returncode:
        logs = cluster.run(
            "kubectl", "logs", "deployment/dynamo-entry-operator", "-n", namespace, check=False
        )
        pytest.fail(
            f"{done.stderr}\n{cluster.kubectl('get', 'pods', '-n', namespace)}\n{logs.stdout[-3000:]}"
        )


@pytest.fixture(scope="session")
def helm_install():
    return install


@pytest.fixture
def namespace(cluster):
    """A namespace of the test's own."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    cluster.kubectl("create", "namespace", name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")
