"""Installed with a certificate of the user's, or cert-manager's, the webhooks answer the API server."""

import base64
import time
import urllib.request
from datetime import timedelta

import pytest
import yaml

import images
from cert_manager import CertManager
from dynamo_entry.kube.webhook.certificates import self_signed

SECRET = "dynamo-entry-webhook-tls"


@pytest.fixture
def install(cluster, node, namespace, helm_install):
    """The chart without an agent, with certificates of that mode."""
    values = {
        "checkpoint": {"enabled": True, "storage": {"type": "s3", "s3": {"uri": "s3://bucket/prefix"}}},
        "operator": {"watchNamespaces": [namespace]}, "agent": {"enabled": False},
    }  # fmt: skip

    def install(mode):
        values["webhook"] = {"certificates": {"mode": mode, "secretName": SECRET}}
        helm_install(cluster, namespace, yaml.safe_dump(values))

    yield install
    print(
        cluster.run(
            "kubectl", "logs", "deployment/dynamo-entry-operator", "-n", namespace, check=False
        ).stdout
    )
    cluster.run("helm", "uninstall", "dynamo-entry", "-n", namespace, check=False)


def refused(cluster, namespace):
    """What the webhook says of a DynamoCheckpoint that cannot work, once the API server trusts it."""
    main = {"name": "main", "image": images.BASE}
    document = yaml.safe_dump({
        "apiVersion": "nvidia.com/v1alpha1", "kind": "DynamoCheckpoint", "metadata": {"name": "m"},
        "spec": {
            "identity": {"model": "m", "framework": "vllm"},
            "job": {"targetContainerName": "engine", "podTemplateSpec": {"spec": {"containers": [main]}}},
        },
    })  # fmt: skip
    argv = ("kubectl", "create", "--dry-run=server", "-n", namespace, "-f", "-")
    deadline = time.monotonic() + 30
    while (done := cluster.run(*argv, stdin=document, check=False)).returncode == 0:
        assert time.monotonic() < deadline, cluster.get(
            "validatingwebhookconfiguration", f"dynamo-entry-{namespace}"
        )
        time.sleep(0.3)
    return done.stderr


def reviewed_pods(cluster, namespace):
    """How many pods the operator was asked about, after one that it could have changed."""
    pod = {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "worker", "labels": {"nvidia.com/checkpoint-name": "unknown"}},
        "spec": {"containers": [{"name": "main", "image": images.BASE}]},
    }  # fmt: skip
    cluster.kubectl("create", "--dry-run=server", "-n", namespace, "-f", "-", stdin=yaml.safe_dump(pod))
    (operator,) = cluster.get("pods", namespace=namespace)["items"]
    with urllib.request.urlopen(f"http://{operator['status']['podIP']}:9101/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    counted = [line for line in lines if line.startswith("dynamo_checkpoint_webhook_requests_total")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in counted if 'reason="no-checkpoint"' in line)


def test_a_certificate_of_the_users(cluster, namespace, install):
    """The operator announces the authority that stands beside it."""
    made = self_signed(f"dynamo-entry-webhook.{namespace}.svc", timedelta(days=30))
    data = {name: base64.b64encode(value).decode() for name, value in made.items()}
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/tls",
            "metadata": {"name": SECRET},
            "data": data,
        },
        namespace=namespace,
    )
    install("secret")
    assert "targetContainerName" in refused(cluster, namespace)
    assert reviewed_pods(cluster, namespace) == 1
    # What others put into the Secret is theirs.
    assert cluster.get("secret", SECRET, namespace)["data"] == data


def test_a_certificate_of_cert_managers(cluster, namespace, install):
    """Its resources are what the chart asks it with; the operator serves what it issues, through an upgrade, too."""
    manager = CertManager(cluster, namespace)
    try:
        install("cert-manager")
        spec = cluster.get("certificates.cert-manager.io", "dynamo-entry-webhook", namespace)["spec"]
        assert spec == {
            "secretName": SECRET, "dnsNames": [f"dynamo-entry-webhook.{namespace}.svc"],
            "issuerRef": {"name": "dynamo-entry-webhook"},
        }  # fmt: skip
        assert "targetContainerName" in refused(cluster, namespace)
        assert reviewed_pods(cluster, namespace) == 1
        manager.stop()  # it would put right what an upgrade made wrong
        chart = images.ROOT / "charts" / "dynamo-entry"
        more = ("--reuse-values", "--set", "webhook.timeoutSeconds=1")
        cluster.run("helm", "upgrade", "dynamo-entry", chart, "-n", namespace, *more)
        configuration = f"dynamo-entry-{namespace}"
        for kind in ("mutatingwebhookconfiguration", "validatingwebhookconfiguration"):
            for webhook in cluster.get(kind, configuration)["webhooks"]:
                assert webhook["timeoutSeconds"] == 1
                assert webhook["clientConfig"]["caBundle"]
    finally:
        manager.close()
