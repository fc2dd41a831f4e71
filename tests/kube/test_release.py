"""A release through its life, as a part of another chart: what users made outlives upgrade and uninstall."""

import yaml

import archives
import images
from charts import umbrella
from dynamo_entry.kube.identity import identity_hash

CLAIM = "checkpoint-storage"
IDENTITY = {"model": "m", "framework": "vllm"}
CRD = ("crd", "dynamocheckpoints.nvidia.com")

CHECKPOINT = {
    "apiVersion": "nvidia.com/v1alpha1", "kind": "DynamoCheckpoint", "metadata": {"name": "model"},
    "spec": {
        "identity": IDENTITY, "job": {"podTemplateSpec": {"spec": {"containers": [{"name": "main", "image": images.BASE}]}}},
    },
}  # fmt: skip


def test_what_users_made_outlives_the_release(cluster, node, namespace, tmp_path):
    """The resource, a checkpoint, its claim and archive: through upgrade, uninstall and another install."""
    cluster.kubectl("delete", *CRD, "--ignore-not-found")  # of another test's release
    repository, _, tag = images.OPERATOR.rpartition(":")
    storage = {"type": "pvc", "pvc": {"pvcName": CLAIM, "create": True, "size": "1Gi"}}
    values = {
        "dynamo-operator": {
            "checkpoint": {"enabled": True, "storage": storage},
            "operator": {"watchNamespaces": [namespace], "image": {"repository": repository, "tag": tag}},
        }
    }
    platform = umbrella(tmp_path / "platform", alias="dynamo-operator")

    def helm(verb, *options):
        argv = ("helm", verb, "platform", *((platform, "-f", "-") if verb != "uninstall" else ()))
        cluster.run(*argv, "-n", namespace, "--timeout", "1m", *options, stdin=yaml.safe_dump(values))

    def kept():
        """The claim, and the checkpoint with the status that it got."""
        made = cluster.get("dckpt", "model", namespace)
        return (
            cluster.get("pvc", CLAIM, namespace)["metadata"]["uid"],
            made["metadata"]["uid"],
            made["status"],
        )

    helm("install", "--wait")
    hash_ = identity_hash(IDENTITY)
    archive = node.claim(namespace, CLAIM) / f"{hash_}.tar"
    archives.publish(archive, hash_)
    cluster.apply(CHECKPOINT, namespace=namespace)
    cluster.kubectl("wait", "dckpt/model", "--for=condition=Ready", "--timeout=60s", "-n", namespace)
    before = kept()
    role = ("clusterrole", f"dynamo-entry-operator-cluster-{namespace}")

    values["dynamo-operator"]["checkpoint"]["gc"] = {"grace": "48h"}
    helm("upgrade", "--wait")
    settings = cluster.get("configmap", "dynamo-entry-operator", namespace)["data"]["operator.yaml"]
    assert yaml.safe_load(settings)["gc"]["grace"] == "48h"
    assert kept() == before

    helm("uninstall", "--wait")
    # Not of pods: an old kubelet keeps their objects for up to a minute after they have ended.
    cluster.kubectl(
        "wait", "deployments,daemonsets", "--all", "--for=delete", "--timeout=30s", "-n", namespace
    )
    assert not cluster.get(*role, check=False)
    for kind in ("mutatingwebhookconfiguration", "validatingwebhookconfiguration"):
        assert not cluster.get(kind, f"dynamo-entry-{namespace}", check=False)
    assert kept() == before
    assert archive.exists()

    helm("install", "--wait")
    assert cluster.get(*role)
    assert kept() == before
    helm("uninstall")
