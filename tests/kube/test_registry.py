"""Checkpoints in a registry with a login and a certificate of a private authority; its clients are in pods.

The tests go on from one another: an older archive is adopted, another one made, restored, copied, deleted.
"""

import base64
import json
import shutil
import ssl
import sys
import time
import urllib.error
import urllib.request

import pytest
import yaml

import archives
import engines
import images
import relay
from dynamo_entry.kube.identity import identity_hash

sys.path.insert(0, str(images.ROOT / "tests" / "support"))

NAMESPACE = "oci-tests"
REPOSITORY = "models/checkpoints"
AGENT = "daemonset/dynamo-checkpoint-agent"

MIB = 1 << 20

#: Copies: room for either of the two checkpoints, and not for both.
LIMIT, OLDER = 96 * MIB, 80 * MIB

CONTAINER = {
    "name": "main", "image": images.DYNAMO, "command": ["python3", "-m", "dynamo.vllm"], "args": ["--model", "m"],
}  # fmt: skip

PROBE = {"httpGet": {"path": "/health", "port": 9090}, "periodSeconds": 1, "failureThreshold": 60}


def checkpoint(name, **spec):
    return {
        "apiVersion": "nvidia.com/v1alpha1", "kind": "DynamoCheckpoint", "metadata": {"name": name},
        "spec": {
            "identity": {"model": name, "framework": "vllm"},
            "job": {"podTemplateSpec": {"spec": {"containers": [CONTAINER]}}}, **spec,
        },
    }  # fmt: skip


def worker(name):
    return {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"nvidia.com/checkpoint-name": "model"}},
        "spec": {"containers": [CONTAINER | {"readinessProbe": PROBE}], "terminationGracePeriodSeconds": 1},
    }  # fmt: skip


@pytest.fixture(scope="module")
def server(cluster, node, tmp_path_factory):
    """A registry, and the way to it for pods."""
    if shutil.which("docker-registry") is None:
        pytest.skip("needs Docker's registry: tests/support/servers/install")
    from servers.registry import Registry

    registry = Registry(tmp_path_factory.mktemp("registry"), f"IP:{relay.address(cluster)}")
    reachable = relay.Relay(cluster, registry.port)
    yield registry, reachable
    reachable.shutdown()
    reachable.server_close()
    registry.stop()


def is_there(registry, tag):
    from servers.registry import PASSWORD, USER

    login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    request = urllib.request.Request(
        f"https://{registry.name}/v2/{REPOSITORY}/manifests/{tag}", method="HEAD",
        headers={"Authorization": f"Basic {login}", "Accept": "application/vnd.oci.image.manifest.v1+json"},
    )  # fmt: skip
    context = ssl.create_default_context(cafile=registry.certificate.ca)
    try:
        return urllib.request.urlopen(request, context=context, timeout=10).status == 200
    except urllib.error.HTTPError as error:
        assert error.code == 404
        return False


@pytest.fixture(scope="module")
def world(cluster, engine_image, server, helm_install, tmp_path_factory):
    """The chart, installed; where the node keeps its copies."""
    registry, reachable = server
    login = json.loads((registry.docker_config(tmp_path_factory.mktemp("login")) / "config.json").read_text())
    login["auths"][reachable.name] = login["auths"].pop(registry.name)
    cluster.kubectl("create", "namespace", NAMESPACE)
    cluster.apply(
        {
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "login"},
            "type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": json.dumps(login)},
        },
        {
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "authority"},
            "stringData": {"ca.crt": registry.certificate.ca.read_text()},
        },
        namespace=NAMESPACE,
    )  # fmt: skip
    storage = {
        "type": "oci", "caSecretRef": "authority", "isolateNamespaces": False,
        "oci": {"uri": f"oci://{reachable.name}/{REPOSITORY}", "credentialsSecretRef": "login"},
    }  # fmt: skip
    copies = tmp_path_factory.mktemp("copies")
    values = {
        "checkpoint": {"enabled": True, "storage": storage},
        "operator": {"watchNamespaces": [NAMESPACE]},
        "agent": {"cache": {"hostPath": str(copies), "sizeLimit": LIMIT, "minFree": "0"}},
    }
    helm_install(cluster, NAMESPACE, yaml.safe_dump(values))
    yield cluster, copies
    print(cluster.kubectl("logs", "deployment/dynamo-entry-operator", "-n", NAMESPACE))  # shown on failure
    print(cluster.kubectl("logs", AGENT, "-n", NAMESPACE))
    cluster.run("helm", "uninstall", "dynamo-entry", "-n", NAMESPACE)


def become_ready(cluster, name):
    """The status that a checkpoint has then."""
    ready = (f"dckpt/{name}", "--for=condition=Ready", "--timeout=120s", "-n", NAMESPACE)
    done = cluster.run("kubectl", "wait", *ready, check=False)
    assert done.returncode == 0, cluster.get("dckpt", name, NAMESPACE)
    return cluster.get("dckpt", name, NAMESPACE)["status"]


def await_copy(path, newer_than=0):
    """A new copy may well get the number of the inode that the old one had, but not its time."""
    deadline = time.monotonic() + 60
    while not path.exists() or path.stat().st_mtime_ns <= newer_than:
        assert time.monotonic() < deadline, list(path.parent.iterdir())
        time.sleep(0.1)
    return path


def start(cluster, *names):
    """Workers at once; what the launcher said of its restore in each, and where each is."""
    cluster.apply(*map(worker, names), namespace=NAMESPACE)
    cluster.kubectl(
        "wait", *(f"pod/{name}" for name in names), "--for=condition=Ready", "--timeout=90s", "-n", NAMESPACE
    )
    for name in names:
        assert engines.post(cluster.get("pod", name, NAMESPACE)["status"]["podIP"], engines.QUESTION)
    return [restored(cluster, name) for name in names]


def restored(cluster, name, limit_s=10):
    """An engine answers a moment before the launcher says so."""
    deadline = time.monotonic() + limit_s
    while True:
        log = cluster.pod_log(name, NAMESPACE)
        said = {
            one["event"]: one for one in (json.loads(line) for line in log.splitlines() if line[:1] == "{")
        }
        if "Restored" in said:
            return said["Restored"]
        assert time.monotonic() < deadline, log
        time.sleep(0.1)


def metric(cluster, name):
    (pod,) = (
        one
        for one in cluster.get("pods", namespace=NAMESPACE)["items"]
        if one["metadata"]["labels"].get("app.kubernetes.io/component") == "agent"
    )
    with urllib.request.urlopen(f"http://{pod['status']['podIP']}:9102/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"dynamo_checkpoint_{name} "))


def test_an_archive_that_is_there_is_adopted_and_copied(world, server, monkeypatch, tmp_path):
    """The copy on the node is the registry's layers put together."""
    cluster, copies = world
    registry, _ = server
    monkeypatch.setenv("SSL_CERT_FILE", str(registry.certificate.ca))
    monkeypatch.setenv("DOCKER_CONFIG", str(registry.docker_config(tmp_path / "login")))
    hash_ = identity_hash({"model": "older", "framework": "vllm"})
    digest = archives.publish(f"oci://{registry.name}/{REPOSITORY}:{hash_}", hash_, OLDER)
    cluster.apply(checkpoint("older"), namespace=NAMESPACE)
    status = become_ready(cluster, "older")
    assert status["digest"] == digest
    copy = await_copy(copies / f"{hash_}.tar")
    assert copy.stat().st_size == status["sizeBytes"]
    deadline = time.monotonic() + 30
    while metric(cluster, "cache_archives") != 1:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    listing = cluster.kubectl("exec", AGENT, "-n", NAMESPACE, "--", "ls", "/checkpoints")
    assert copy.name in listing.split()


def test_through_a_registry(world, server):
    """Created into it, restored from it; nothing of its login and authority is the engine's. The agent sweeps it."""
    cluster, copies = world
    made = checkpoint("model", deletionPolicy="Delete")
    made["metadata"]["annotations"] = {"dynamo-entry/prefetch": "false"}
    cluster.apply(made, namespace=NAMESPACE)
    status = become_ready(cluster, "model")
    assert status["location"].endswith(f"/{REPOSITORY}:{status['identityHash']}")
    assert is_there(server[0], status["identityHash"])
    (one,) = start(cluster, "worker")
    assert one["location"] == status["location"]
    assert "SSL_CERT_FILE" not in cluster.kubectl("exec", "worker", "-n", NAMESPACE, "--", "env")
    assert not (copies / f"{status['identityHash']}.tar").exists()
    # Its readiness is the storage's reachability.
    cluster.kubectl("rollout", "status", AGENT, "--timeout=60s", "-n", NAMESPACE)
    said = cluster.kubectl("logs", AGENT, "-n", NAMESPACE)
    assert "leftovers not listed" in said, "it sweeps"
    assert '"level": "warning"' not in said, said


def test_pods_restore_from_the_copy_that_their_node_made(world, server):
    """It is read from the registry once, takes the room of one that nobody uses, and serves any number of pods."""
    cluster, copies = world
    _, reachable = server
    before, read = reachable.answered, metric(cluster, "prefetch_bytes_total")
    cluster.kubectl(
        "annotate", "dckpt", "model", "dynamo-entry/prefetch=true", "--overwrite", "-n", NAMESPACE
    )
    status = cluster.get("dckpt", "model", NAMESPACE)["status"]
    copy = await_copy(copies / f"{status['identityHash']}.tar")
    size = status["sizeBytes"]
    assert copy.stat().st_size == size
    assert size <= reachable.answered - before < 1.1 * size + MIB
    assert size * 0.9 < metric(cluster, "prefetch_bytes_total") - read <= size
    older = cluster.get("dckpt", "older", NAMESPACE)["status"]["identityHash"]
    assert not (copies / f"{older}.tar").exists(), f"{size} bytes fit beside it"
    assert metric(cluster, "cache_evictions_total") == 1

    before = reachable.answered
    for one in start(cluster, "one", "two"):
        assert one["location"] == f"/var/cache/dynamo-checkpoint/{copy.name}"
        assert one["digest"] == status["digest"]
    assert reachable.answered - before < size / 10


def test_a_damaged_copy_is_found_and_made_anew(world):
    """A new agent looks at what it finds, says what was wrong, and copies again."""
    cluster, copies = world
    status = cluster.get("dckpt", "model", NAMESPACE)["status"]
    copy = copies / f"{status['identityHash']}.tar"
    intact = copy.read_bytes()
    with copy.open("r+b") as file:
        file.seek(len(intact) // 2)
        file.write(bytes([intact[len(intact) // 2] ^ 1]))
    damaged = copy.stat().st_mtime_ns
    cluster.kubectl("rollout", "restart", AGENT, "-n", NAMESPACE)
    await_copy(copy, newer_than=damaged)
    assert copy.read_bytes() == intact
    reasons = "-o=jsonpath={.items[*].reason}"
    assert "CacheCorrupt" in cluster.kubectl("get", "events", reasons, "-n", NAMESPACE)


def test_the_artifact_goes_with_the_object(world, server):
    cluster, _ = world
    hash_ = cluster.get("dckpt", "model", NAMESPACE)["status"]["identityHash"]
    cluster.kubectl("delete", "dckpt", "model", "--timeout=60s", "-n", NAMESPACE)
    assert not is_there(server[0], hash_)
