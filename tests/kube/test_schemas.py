"""Everything that the chart renders and the operator builds is what every Kubernetes from 1.25 on expects: to the letter."""

import functools
import itertools
import json

import pytest
import yaml
from kubernetes_validate import utils

from charts import GCS, GUIDE, OCI, S3, render, run
from dynamo_entry.kube import config
from dynamo_entry.kube.identity import identity_hash
from dynamo_entry.kube.operator import jobs
from dynamo_entry.kube.webhook.admission import Known, mutate

VERSIONS = sorted(set(utils.all_versions()), key=lambda text: int(text.split(".")[1]))

#: Kinds of others: no schema of Kubernetes'.
FOREIGN = {"PodMonitor", "Certificate", "Issuer"}

CHART_MODES = {
    "the guide's values": GUIDE,
    "the resource alone": "{}",
    "s3": S3,
    "oci": OCI,
    "gcs": GCS,
    "secrets": """
checkpoint:
  enabled: true
  storage: {type: s3, caSecretRef: ca, keySecretRef: key, isolateNamespaces: true, nodeCache: {hostPath: /var/cache/x}, s3: {uri: s3://b, endpointUrl: https://minio}}
""",
    "a claim of the chart's": "checkpoint: {enabled: true, storage: {pvc: {create: true, storageClassName: nfs, allowReadWriteOnce: true}}}",
    "openshift": "checkpoint: {enabled: true, dryRun: false, probe: false, security: {openshift: true, profile: none}}",
    "cert-manager": GUIDE + "webhook: {certificates: {mode: cert-manager}}",
    "a certificate of the user's": GUIDE + "webhook: {certificates: {mode: secret, secretName: mine}}",
    "no webhook, no agent": GUIDE + "webhook: {enabled: false}\nagent: {enabled: false}",
    "some namespaces": GUIDE + "operator: {watchNamespaces: [team-a, team-b], replicas: 2}",
    "everything else": GUIDE + """
metrics: {serviceMonitor: true}
webhook: {namespaceSelector: {matchExpressions: [{key: team, operator: In, values: [a]}]}}
operator:
  imagePullSecrets: [{name: pull}]
  nodeSelector: {disk: fast}
  tolerations: [{key: a, operator: Exists}]
  affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}]}}}
agent: {rateLimit: 500M, nodeSelector: {gpu: "true"}, cache: {enabled: false}}
""",
}  # fmt: skip

STORAGES = {
    "pvc": {},
    "s3": {"s3": {"uri": "s3://bucket/prefix", "credentialsSecretRef": "keys"}},
    "oci": {"oci": {"uri": "oci://host/repository", "credentialsSecretRef": "login"}},
    "gcs": {
        "gcs": {"uri": "gs://bucket/prefix", "credentialsSecretRef": "login", "options": {"project": "p"}}
    },
    "azure": {"azure": {"uri": "az://container/prefix", "credentialsSecretRef": "login"}},
    "identity": {"s3": {"uri": "s3://bucket/prefix"}},
    "fsspec": {"fsspec": {"uri": "sftp://host/directory", "credentialsSecretRef": "login"}},
}
PROFILES = ("minimal", "standard", "network", "none")

IDENTITY = {"model": "m", "framework": "vllm"}
HASH = identity_hash(IDENTITY)

MAIN = {
    "name": "main", "image": "i", "command": ["python3", "-m", "dynamo.vllm"], "args": ["--model", "m"],
    "ports": [{"name": "system", "containerPort": 9090}], "resources": {"limits": {"nvidia.com/gpu": 1}},
    "startupProbe": {"httpGet": {"path": "/health", "port": "system"}},
    "readinessProbe": {"httpGet": {"path": "/health", "port": 9090}, "initialDelaySeconds": 5},
}  # fmt: skip

CHECKPOINT = {
    "metadata": {"name": "model", "namespace": "n", "uid": "u", "creationTimestamp": "2024-01-01T00:00:00Z"},
    "spec": {
        "identity": IDENTITY,
        "job": {"podTemplateSpec": {"spec": {
            "securityContext": {"runAsUser": 0, "fsGroup": 0}, "containers": [MAIN, {"name": "mesh", "image": "m"}],
        }}},
    },
    "status": {"phase": "Ready", "conditions": [{"type": "StorageUsable", "status": "True"}]},
}  # fmt: skip

POD = {
    "apiVersion": "v1", "kind": "Pod",
    "metadata": {"name": "worker", "labels": {"nvidia.com/checkpoint-name": "model"}}, "spec": {"containers": [MAIN]},
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def quick():
    """Without it every object would have all schemas of a version parsed anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            utils,
            "schema_contents",
            functools.cache(utils.schema_contents),
        )
        yield


def complaints(objects, versions=VERSIONS):
    """Strictly: no field that is unknown."""
    found = []
    for version, one in itertools.product(versions, objects):
        if one["kind"] in FOREIGN:
            continue
        try:
            assert utils.validate(one, version, strict=True) == version.rpartition(".")[0]
        except utils.ValidationError as error:
            found.append(f"{version}: {one['kind']}: {'.'.join(map(str, error.path))}: {error.message}")
    return found


@pytest.mark.parametrize("mode", CHART_MODES)
def test_what_the_chart_renders(mode):
    objects = render(CHART_MODES[mode], "--kube-version", VERSIONS[0])
    assert complaints(objects.values()) == []


@pytest.mark.parametrize("agents", [True, False])
def test_the_policies_of_newer_servers(agents):
    """For each account its own; older servers are refused before anything is installed."""
    values = f"{GUIDE}admissionPolicies: {{enabled: true}}\nagent: {{enabled: {str(agents).lower()}}}"
    newer = [version for version in VERSIONS if int(version.split(".")[1]) >= 30]
    made = [one for one in render(values, "--kube-version", newer[0]).values() if "Policy" in one["kind"]]
    accounts = {"dynamo-entry-operator-dynamo-system"} | (
        {"dynamo-checkpoint-agent-dynamo-system"} if agents else set()
    )
    assert {one["metadata"]["name"] for one in made if one["kind"] == "ValidatingAdmissionPolicy"} == accounts
    assert {
        one["spec"]["policyName"] for one in made if one["kind"] == "ValidatingAdmissionPolicyBinding"
    } == accounts
    assert complaints(made, newer) == []
    assert "admissionPolicies.enabled needs Kubernetes 1.30" in run(values, "--kube-version", "1.29.9").stderr


def test_there_is_one_rendering_for_all_of_them():
    """So the test above is about each of the versions."""
    everything = CHART_MODES["everything else"]
    oldest, newest = (
        render(everything, "--kube-version", version) for version in (VERSIONS[0], VERSIONS[-1])
    )
    assert oldest == newest


@pytest.mark.parametrize(("kind", "profile"), list(itertools.product(STORAGES, PROFILES)))
def test_what_the_operator_builds(kind, profile):
    """Its Jobs, and the pod that it lets restore."""
    storage = {
        "type": "s3" if kind == "identity" else kind,
        "caSecretRef": "ca",
        "keySecretRef": "key",
    } | STORAGES[kind]
    settings = {
        "image": "o:1",
        "imagePullSecrets": [{"name": "pull"}],
        "storage": storage,
        "security": {"profile": profile},
    }
    parsed = config.parse(yaml.safe_dump(settings))
    made = [
        jobs.creation(parsed, CHECKPOINT, HASH, force=True),
        jobs.probe(parsed, CHECKPOINT, HASH),
        jobs.collection(parsed, CHECKPOINT, HASH),
    ]
    # Schemas before 1.29 call it required; the servers never did, and Kubernetes' own examples leave it out.
    for rule in made[0]["spec"]["podFailurePolicy"]["rules"]:
        rule.setdefault("onPodConditions", [])
    known = Known(lambda *_: None, lambda *_: CHECKPOINT, lambda *_: CHECKPOINT, lambda *_: True)
    answer = mutate(parsed, POD, "n", known)
    assert answer.reason == "injected"
    assert complaints([*made, json.loads(json.dumps(answer.pod))]) == []


def test_a_mistake_would_be_seen():
    """A wrong type, a field that does not exist."""
    for wrong in ({"replicas": "1"}, {"replica": 1}):
        deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": wrong}
        assert len(complaints([deployment])) >= len(VERSIONS)
