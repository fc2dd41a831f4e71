"""Checkpoints in a registry with a login and a certificate of a private authority; its client is in pods."""

import base64
import json
import shutil
import ssl
import sys
import urllib.error
import urllib.request

import pytest
import yaml

import engines
import images
import relay

sys.path.insert(0, str(images.ROOT / "tests" / "storage"))

NAMESPACE = "oci-tests"
REPOSITORY = "models/checkpoints"

CONTAINER = {
    "name": "main", "image": images.DYNAMO, "command": ["python3", "-m", "dynamo.vllm"], "args": ["--model", "m"],
}  # fmt: skip

CHECKPOINT = {
    "apiVersion": "nvidia.com/v1alpha1", "kind": "DynamoCheckpoint", "metadata": {"name": "model"},
    "spec": {
        "identity": {"model": "m", "framework": "vllm"}, "deletionPolicy": "Delete",
        "job": {"podTemplateSpec": {"spec": {"containers": [CONTAINER]}}},
    },
}  # fmt: skip

PROBE = {"httpGet": {"path": "/health", "port": 9090}, "periodSeconds": 1, "failureThreshold": 60}

WORKER = {
    "apiVersion": "v1", "kind": "Pod",
    "metadata": {"name": "worker", "labels": {"nvidia.com/checkpoint-name": "model"}},
    "spec": {"containers": [CONTAINER | {"readinessProbe": PROBE}], "terminationGracePeriodSeconds": 1},
}  # fmt: skip


@pytest.fixture(scope="module")
def registry(cluster, node, tmp_path_factory):
    """Its name for pods, its login, and what it says of a manifest."""
    if shutil.which("docker-registry") is None:
        pytest.skip("needs Docker's registry: tests/storage/servers/install")
    from servers.registry import PASSWORD, USER, Registry

    server = Registry(tmp_path_factory.mktemp("registry"), f"IP:{relay.address(cluster)}")
    reachable = relay.Relay(cluster, server.port)
    login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()

    def has(tag):
        request = urllib.request.Request(
            f"https://{server.name}/v2/{REPOSITORY}/manifests/{tag}", method="HEAD",
            headers={"Authorization": f"Basic {login}", "Accept": "application/vnd.oci.image.manifest.v1+json"},
        )  # fmt: skip
        context = ssl.create_default_context(cafile=server.certificate.ca)
        try:
            return urllib.request.urlopen(request, context=context, timeout=10).status == 200
        except urllib.error.HTTPError as error:
            assert error.code == 404
            return False

    yield reachable.name, login, server.certificate.ca.read_text(), has
    reachable.shutdown()
    reachable.server_close()
    server.stop()


@pytest.fixture(scope="module")
def world(cluster, registry, helm_install):
    images.need(images.DYNAMO)
    name, login, authority, _ = registry
    cluster.kubectl("create", "namespace", NAMESPACE)
    cluster.apply(
        {
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "login"},
            "type": "kubernetes.io/dockerconfigjson",
            "stringData": {".dockerconfigjson": json.dumps({"auths": {name: {"auth": login}}})},
        },
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "authority"}, "stringData": {"ca.crt": authority}},
        namespace=NAMESPACE,
    )  # fmt: skip
    storage = {
        "type": "oci", "caSecretRef": "authority",
        "oci": {"uri": f"oci://{name}/{REPOSITORY}", "credentialsSecretRef": "login"},
    }  # fmt: skip
    values = {
        "checkpoint": {"enabled": True, "storage": storage},
        "operator": {"watchNamespaces": [NAMESPACE]}, "agent": {"cache": {"enabled": False}},
    }  # fmt: skip
    helm_install(cluster, NAMESPACE, yaml.safe_dump(values))
    yield cluster
    print(cluster.kubectl("logs", "deployment/dynamo-entry-operator", "-n", NAMESPACE))  # shown on failure
    cluster.run("helm", "uninstall", "dynamo-entry", "-n", NAMESPACE)


def test_through_a_registry(world, registry):
    """Created into it, restored from it, and deleted from it with the object; the agent reaches it, too."""
    *_, has = registry
    world.apply(CHECKPOINT, namespace=NAMESPACE)
    ready = ("dckpt/model", "--for=condition=Ready", "--timeout=120s", "-n", NAMESPACE)
    done = world.run("kubectl", "wait", *ready, check=False)
    assert done.returncode == 0, world.kubectl("logs", "job/checkpoint-model", "-n", NAMESPACE)
    status = world.get("dynamocheckpoint", "model", NAMESPACE)["status"]
    assert status["location"].endswith(f"/{REPOSITORY}:{status['identityHash']}")
    assert has(status["identityHash"])

    world.apply(WORKER, namespace=NAMESPACE)
    world.kubectl("wait", "pod/worker", "--for=condition=Ready", "--timeout=90s", "-n", NAMESPACE)
    log = world.kubectl("logs", "worker", "-n", NAMESPACE)
    assert any(json.loads(line)["event"] == "Restored" for line in log.splitlines() if line[:1] == "{"), log
    address = world.get("pod", "worker", NAMESPACE)["status"]["podIP"]
    assert engines.post(address, engines.QUESTION)
    assert "SSL_CERT_FILE" not in world.kubectl("exec", "worker", "-n", NAMESPACE, "--", "env")
    # Its readiness is the storage's reachability.
    world.kubectl("rollout", "status", "daemonset/dynamo-checkpoint-agent", "--timeout=60s", "-n", NAMESPACE)
    said = world.kubectl("logs", "daemonset/dynamo-checkpoint-agent", "-n", NAMESPACE)
    assert "Leftovers out of reach" in said, "it sweeps"
    assert '"level": "warning"' not in said, said

    world.kubectl("delete", "dckpt", "model", "--timeout=60s", "-n", NAMESPACE)
    assert not has(status["identityHash"])
