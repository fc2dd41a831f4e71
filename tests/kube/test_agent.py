"""The node agent as a DaemonSet: copies, metrics, the sweep, with no right that it does not need."""

import json
import time
import urllib.request

import pytest
import yaml

import images
from archives import publish

HASH = "0123456789abcdef"

CRD = {
    "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
    "metadata": {"name": "dynamocheckpoints.nvidia.com"},
    "spec": {
        "group": "nvidia.com", "scope": "Namespaced",
        "names": {"plural": "dynamocheckpoints", "singular": "dynamocheckpoint", "kind": "DynamoCheckpoint"},
        "versions": [
            {
                "name": "v1alpha1", "served": True, "storage": True, "subresources": {"status": {}},
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            name: {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
                            for name in ("spec", "status")
                        },
                    }
                },
            }
        ],
    },
}  # fmt: skip

RULES = [
    {"apiGroups": ["nvidia.com"], "resources": ["dynamocheckpoints"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": ["nvidia.com"], "resources": ["dynamocheckpoints/status"], "verbs": ["patch"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["create"]},
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]},
]


def manifests(namespace, config, cache):
    role, account = {"name": f"agent-{namespace}"}, {"name": "agent"}
    context = {
        "capabilities": {"drop": ["ALL"]}, "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
        "runAsUser": 0, "seccompProfile": {"type": "RuntimeDefault"},
    }  # fmt: skip
    container = {
        "name": "agent", "image": images.OPERATOR, "securityContext": context,
        "args": ["agent"],
        "env": [
            {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": "POD_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
        ],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": 9102}, "periodSeconds": 1},
        "livenessProbe": {"httpGet": {"path": "/healthz", "port": 9102}, "initialDelaySeconds": 10},
        "volumeMounts": [
            {"name": "config", "mountPath": "/etc/dynamo-entry"},
            {"name": "cache", "mountPath": "/var/cache/dynamo-checkpoint"},
            {"name": "storage", "mountPath": "/checkpoints"},
        ],
    }  # fmt: skip
    volumes = [
        {"name": "config", "configMap": {"name": "config"}},
        {"name": "cache", "hostPath": {"path": str(cache), "type": "DirectoryOrCreate"}},
        {"name": "storage", "persistentVolumeClaim": {"claimName": "checkpoint-storage"}},
    ]
    labels = {"app": "agent"}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": role, "rules": RULES},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": role,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole"} | role,
            "subjects": [{"kind": "ServiceAccount", "namespace": namespace} | account],
        },
        {
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "checkpoint-storage"},
            "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
        },
        {
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "config"},
            "data": {"operator.yaml": yaml.safe_dump(config)},
        },
        {
            "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "dynamo-checkpoint-agent"},
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {
                        "serviceAccountName": "agent", "containers": [container], "volumes": volumes,
                        "terminationGracePeriodSeconds": 5,
                    },
                },
            },
        },
    ]  # fmt: skip


def wait_for(condition, limit_s=60):
    deadline = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return found


@pytest.fixture
def agent(cluster, node, namespace, tmp_path):
    """A running agent over a claim, with one Ready checkpoint; what to ask it with."""
    images.need(images.OPERATOR)
    config = {
        "storage": {"type": "pvc"}, "agent": {"cache": {"pvc": True, "sizeLimit": "1Gi", "minFree": "0"}, "sweepInterval": "1s"},
    }  # fmt: skip
    cluster.apply(CRD, *manifests(namespace, config, tmp_path / "cache"), namespace=namespace)
    cluster.kubectl(
        "rollout", "status", "daemonset/dynamo-checkpoint-agent", "--timeout=60s", "-n", namespace
    )
    yield
    print(cluster.kubectl("logs", "daemonset/dynamo-checkpoint-agent", "-n", namespace))  # shown on failure
    cluster.kubectl("delete", "clusterrole,clusterrolebinding", f"agent-{namespace}")
    cluster.kubectl("delete", "crd", CRD["metadata"]["name"])  # the chart brings its own


def make_checkpoint(cluster, namespace, location, digest):
    checkpoint = {
        "apiVersion": "nvidia.com/v1alpha1", "kind": "DynamoCheckpoint", "metadata": {"name": "model"}, "spec": {},
    }  # fmt: skip
    cluster.apply(checkpoint, namespace=namespace)
    status = {"phase": "Ready", "identityHash": HASH, "location": location, "digest": digest}
    # kubectl 1.32's --subresource needs a newer server.
    path = f"/apis/nvidia.com/v1alpha1/namespaces/{namespace}/dynamocheckpoints/model"
    current = cluster.get("dynamocheckpoint", "model", namespace)
    cluster.kubectl(
        "replace", "--raw", f"{path}/status", "-f", "-", stdin=json.dumps(current | {"status": status})
    )


def test_the_agent_at_work(cluster, node, namespace, agent, tmp_path):
    """It copies a Ready checkpoint, shows it, counts it, and notices when the archive is gone."""
    claim = node.claim(namespace, "checkpoint-storage")
    digest = publish(claim / f"{HASH}.tar", HASH, 20 << 20)
    make_checkpoint(cluster, namespace, f"/checkpoints/{HASH}.tar", digest)
    copy = tmp_path / "cache" / f"{HASH}.tar"
    wait_for(copy.exists)
    assert copy.read_bytes() == (claim / f"{HASH}.tar").read_bytes()
    listing = cluster.kubectl(
        "exec", "daemonset/dynamo-checkpoint-agent", "-n", namespace, "--", "ls", "-la", "/checkpoints"
    )
    assert f"{HASH}.tar" in listing
    (pod,) = cluster.get("pods", namespace=namespace)["items"]

    def metric(name):
        with urllib.request.urlopen(f"http://{pod['status']['podIP']}:9102/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"dynamo_checkpoint_{name} "))

    wait_for(lambda: metric("cache_archives") == 1)
    assert metric("cache_bytes") == copy.stat().st_size
    (claim / f"{HASH}.tar").unlink()

    def condition():
        status = cluster.get("dynamocheckpoint", "model", namespace)["status"]
        return [one for one in status.get("conditions", ()) if one["type"] == "ArchiveMissing"]

    assert wait_for(condition)[0]["status"] == "True"
    log = cluster.kubectl("logs", "daemonset/dynamo-checkpoint-agent", "-n", namespace)
    assert '"level": "error"' not in log
    assert "copy completed" in log
