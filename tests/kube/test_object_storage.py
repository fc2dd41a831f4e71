"""Checkpoints in S3: the Job streams to the bucket, pods restore from it, the agent's copies, a Secret that is missing."""

import json
import shutil
import sys
import time

import boto3
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

import archives
import engines
import images
from relay import Relay

sys.path.insert(0, str(images.ROOT / "tests" / "support"))

NAMESPACE = "s3-tests"
BUCKET = "models"


@pytest.fixture(scope="module")
def endpoint(cluster, node, tmp_path_factory):
    """A real S3 server with a bucket; its URL for pods."""
    if shutil.which("radosgw") is None:
        pytest.skip("needs radosgw: tests/support/servers/install")
    from servers.s3 import ACCESS_KEY, SECRET_KEY, Rgw

    server = Rgw(tmp_path_factory.mktemp("rgw"), memory_bytes=2 << 30)
    client = boto3.client(
        "s3", endpoint_url=f"http://127.0.0.1:{server.port}", aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY, region_name="us-east-1",
    )  # fmt: skip
    client.create_bucket(Bucket=BUCKET)
    relay = Relay(cluster, server.port)
    yield f"http://{relay.name}", (ACCESS_KEY, SECRET_KEY), client
    relay.shutdown()
    relay.server_close()
    server.stop()
    client.close()


@pytest.fixture(scope="module")
def world(cluster, engine_image, endpoint, helm_install, tmp_path_factory):
    url, (access, secret), client = endpoint
    cluster.kubectl("create", "namespace", NAMESPACE)
    login = {
        "AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret, "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": url,
    }  # fmt: skip
    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    contents = {"s3-creds": login, "s3-read": login, "sign": {"1": pem}, "verify": {"1": public}}
    secrets = (
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}
        for name, data in contents.items()
    )
    cluster.apply(*secrets, namespace=NAMESPACE)
    cache = tmp_path_factory.mktemp("cache")
    values = {
        "checkpoint": {
            "enabled": True,
            "storage": {
                "type": "s3", "signKeySecretRef": "sign", "verifyKeySecretRef": "verify",
                "s3": {
                    "uri": f"s3://{BUCKET}/checkpoints", "credentialsSecretRef": "s3-creds",
                    "restoreCredentialsSecretRef": "s3-read",
                },
            },
        },
        "operator": {"watchNamespaces": [NAMESPACE]},
        "agent": {"cache": {"hostPath": str(cache), "sizeLimit": "1Gi", "minFree": "0"}},
    }  # fmt: skip
    helm_install(cluster, NAMESPACE, yaml.safe_dump(values))
    yield cluster, client, cache
    print(cluster.kubectl("logs", "deployment/dynamo-entry-operator", "-n", NAMESPACE))  # shown on failure
    cluster.run("helm", "uninstall", "dynamo-entry", "-n", NAMESPACE)


CONTAINER = {
    "name": "main",
    "image": images.DYNAMO,
    "command": ["python3", "-m", "dynamo.vllm"],
    "args": ["--model", "m"],
}


MADE = {
    "apiVersion": "nvidia.com/v1alpha1", "kind": "DynamoCheckpoint", "metadata": {"name": "model"},
    "spec": {
        "identity": {"model": "m", "framework": "vllm"},
        "job": {"podTemplateSpec": {"spec": {"containers": [CONTAINER]}}},
    },
}  # fmt: skip


def worker(name):
    probe = {"httpGet": {"path": "/health", "port": 9090}, "periodSeconds": 1, "failureThreshold": 60}
    return {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"nvidia.com/checkpoint-name": "model"}},
        "spec": {"containers": [CONTAINER | {"readinessProbe": probe}], "terminationGracePeriodSeconds": 1},
    }  # fmt: skip


def events(cluster, pod):
    lines = cluster.pod_log(pod, NAMESPACE).splitlines()
    return {event["event"]: event for event in (json.loads(line) for line in lines if line.startswith("{"))}


def start(cluster, name):
    cluster.apply(worker(name), namespace=NAMESPACE)
    cluster.kubectl("wait", f"pod/{name}", "--for=condition=Ready", "--timeout=90s", "-n", NAMESPACE)
    return cluster.get("pod", name, NAMESPACE)


def restored_from(cluster, pod):
    """Where it was restored from; its engine answers a moment before the launcher says so."""
    deadline = time.monotonic() + 30
    while "Restored" not in (said := events(cluster, pod)):
        assert time.monotonic() < deadline, cluster.pod_log(pod, NAMESPACE)
        time.sleep(0.1)
    return said["Restored"]["location"]


def test_through_a_bucket(world):
    """Created into it, restored from it, restored from the node's copy; answers are the same throughout."""
    cluster, client, cache = world
    cluster.apply(MADE, namespace=NAMESPACE)
    cold = start(cluster, "cold")
    assert "Restored" not in events(cluster, "cold")
    answer = engines.post(cold["status"]["podIP"], engines.QUESTION)
    cluster.kubectl("delete", "pod", "cold", "-n", NAMESPACE, "--wait=false")
    done = cluster.run(
        "kubectl",
        "wait",
        "dckpt/model",
        "--for=condition=Ready",
        "--timeout=90s",
        "-n",
        NAMESPACE,
        check=False,
    )
    assert done.returncode == 0, cluster.kubectl("logs", "job/checkpoint-model", "-n", NAMESPACE)
    status = cluster.get("dynamocheckpoint", "model", NAMESPACE)["status"]
    key = f"checkpoints/{NAMESPACE}/{status['identityHash']}.tar"
    assert status["location"] == f"s3://{BUCKET}/{key}"
    assert client.head_object(Bucket=BUCKET, Key=key)["ContentLength"] == status["sizeBytes"]

    restored = start(cluster, "restored")
    assert restored_from(cluster, "restored")
    assert engines.post(restored["status"]["podIP"], engines.QUESTION) == answer

    copy = cache / NAMESPACE / f"{status['identityHash']}.tar"
    deadline = time.monotonic() + 60
    while not copy.exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert copy.stat().st_size == status["sizeBytes"]
    listing = cluster.kubectl(
        "-n", NAMESPACE, "exec", "daemonset/dynamo-checkpoint-agent", "--", "ls", "-laR", "/checkpoints"
    )
    assert copy.name in listing
    start(cluster, "from-copy")
    assert restored_from(cluster, "from-copy").startswith("/var/cache/dynamo-checkpoint/")


def test_a_missing_secret_is_a_cold_start(world):
    """Neither refused nor waiting for ever."""
    cluster, _, cache = world
    # The agent would make the copies anew, with the credentials that it has.
    cluster.kubectl(
        "delete",
        "daemonset",
        "dynamo-checkpoint-agent",
        "-n",
        NAMESPACE,
        "--cascade=foreground",
        "--timeout=60s",
    )
    for copy in cache.glob("*/*"):
        copy.unlink()
    secret = cluster.get("secret", "s3-read", NAMESPACE)
    cluster.kubectl("delete", "secret", "s3-read", "-n", NAMESPACE)
    start(cluster, "without")
    assert "Falling back to cold start" in events(cluster, "without"), cluster.kubectl(
        "logs", "without", "-n", NAMESPACE
    )
    cluster.apply(
        {key: secret[key] for key in ("apiVersion", "kind", "data")} | {"metadata": {"name": "s3-read"}},
        namespace=NAMESPACE,
    )


def test_another_archive_in_its_place_is_not_restored(world, tmp_path):
    """Whoever may write to the bucket decides neither what runs nor whether a pod starts."""
    cluster, client, _ = world
    status = cluster.get("dynamocheckpoint", "model", NAMESPACE)["status"]
    key = f"checkpoints/{NAMESPACE}/{status['identityHash']}.tar"
    kept = client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    archives.publish(tmp_path / "other.tar", status["identityHash"])
    client.put_object(Bucket=BUCKET, Key=key, Body=(tmp_path / "other.tar").read_bytes())
    start(cluster, "other")
    fallen = events(cluster, "other")["Falling back to cold start"]
    assert fallen["reason"] == "DigestMismatch", fallen
    client.put_object(Bucket=BUCKET, Key=key, Body=kept)


def test_the_engine_of_a_worker_has_no_login(world):
    """Started cold, it cannot get at the bucket; the shell of ``exec`` has the container's environment and does not count."""
    cluster, _, _ = world
    look = (
        "for pid in /proc/[0-9]*; do grep -qa dynamo.vllm $pid/cmdline && ! grep -qa dynamo_entry $pid/cmdline && "
        "grep -ca AWS_SECRET_ACCESS_KEY $pid/environ; done; true"
    )
    counts = cluster.kubectl("exec", "other", "-n", NAMESPACE, "--", "sh", "-c", look).split()
    assert counts, "the engine was found"
    assert set(counts) == {"0"}


def test_the_object_goes_with_its_last_checkpoint(world):
    """Not while another uses it."""
    cluster, client, _ = world
    other = MADE | {"metadata": {"name": "other"}, "spec": MADE["spec"] | {"deletionPolicy": "Delete"}}
    cluster.apply(other, namespace=NAMESPACE)
    cluster.kubectl("wait", "dckpt/other", "--for=condition=Ready", "--timeout=60s", "-n", NAMESPACE)
    cluster.kubectl("delete", "dckpt", "other", "--timeout=20s", "-n", NAMESPACE)
    assert "Contents" in client.list_objects_v2(Bucket=BUCKET)
    cluster.apply(MADE | {"spec": other["spec"]}, namespace=NAMESPACE)
    deadline = time.monotonic() + 30
    while "finalizers" not in cluster.get("dckpt", "model", NAMESPACE)["metadata"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    cluster.kubectl("delete", "dckpt", "model", "--timeout=60s", "-n", NAMESPACE)
    assert "Contents" not in client.list_objects_v2(Bucket=BUCKET)
