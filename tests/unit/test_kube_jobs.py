"""Jobs of the operator: what they are not retried for."""

import pytest

from dynamo_entry import errors
from dynamo_entry.kube import config, podspec, podtemplate
from dynamo_entry.kube.operator import jobs

#: Only a restore ends with it.
ARCHIVE_DOES_NOT_FIT = 181


def test_a_job_is_not_retried_where_no_failure_of_that_code_can_be_helped():
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type)
        and issubclass(kind, errors.CheckpointError)
        and kind is not errors.CheckpointError
    ]
    final = {kind.exit_code for kind in kinds} - {kind.exit_code for kind in kinds if kind.retry}
    assert {*jobs._POINTLESS} == final - {ARCHIVE_DOES_NOT_FIT} | {126, 127}


def test_a_template_that_is_nested_too_deeply_is_refused_by_name():
    """One object must not keep the operator from looking at the others."""
    nested = {}
    for _ in range(2_000):
        nested = {"a": nested}
    with pytest.raises(podspec.Unfit, match="nested too deeply"):
        podtemplate.checked({"podTemplateSpec": nested})


def checkpoint(**template):
    spec = {"containers": [{"name": "main", "image": "i", "command": ["serve"]}]} | template
    return {
        "metadata": {"name": "c", "namespace": "n", "uid": "u"},
        "spec": {"identity": {"model": "m", "framework": "vllm"}, "job": {"podTemplateSpec": {"spec": spec}}},
    }  # fmt: skip


def test_the_operators_own_jobs_run_where_its_pod_does():
    """Its image is to be had there; elsewhere they might never be scheduled, or pull what is on the node."""
    placed = config.parse(
        "{image: i, imagePullPolicy: Never, operator: {nodeSelector: {pool: system}, tolerations: [{key: gpu, operator: Exists}]},"
        " storage: {type: s3, s3: {uri: s3://bucket}}}"
    )
    for job in (jobs.probe(placed, checkpoint(), "h"), jobs.collection(placed, checkpoint(), "h")):
        spec = job["spec"]["template"]["spec"]
        assert spec["nodeSelector"] == {"kubernetes.io/os": "linux", "pool": "system"}
        assert spec["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
        assert spec["containers"][0]["imagePullPolicy"] == "Never"
    default = jobs.probe(config.parse("image: i"), checkpoint(), "h")["spec"]["template"]["spec"]
    assert "imagePullPolicy" not in default["containers"][0]


def test_the_operators_own_jobs_run_where_the_claim_can_be_mounted():
    """It decides which nodes can; the operator's pool may not be among them."""
    placed = config.parse(
        "{image: i, operator: {nodeSelector: {pool: system}, tolerations: [{key: gpu, operator: Exists}]}}"
    )
    assert placed.storage.type == "pvc"
    for job in (jobs.probe(placed, checkpoint(), "h"), jobs.collection(placed, checkpoint(), "h")):
        spec = job["spec"]["template"]["spec"]
        assert spec["nodeSelector"] == {"kubernetes.io/os": "linux"}
        assert spec["tolerations"] == [{"key": "gpu", "operator": "Exists"}]


KEYS = "storage: {type: s3, s3: {uri: s3://b, credentialsSecretRef: keys}}"
READS = "storage: {type: s3, s3: {uri: s3://b, restoreCredentialsSecretRef: keys}}"
ROLE = "storage: {type: s3, s3: {uri: s3://b}}"
OCI = "storage: {type: oci, oci: {uri: oci://host/repository}}"
AZURE = "storage: {type: azure, azure: {uri: az://b}}"


@pytest.mark.parametrize(
    ("settings", "probes", "deletes"),
    [("", None, None), (OCI, None, None), (KEYS, None, None), (READS, None, "worker"), (ROLE, "worker", "worker"), (AZURE, "worker", "worker")],
)  # fmt: skip
def test_without_a_secret_a_bucket_is_reached_as_the_engine_reaches_it(settings, probes, deletes):
    """By the identity of its ServiceAccount: the namespace's default one has no role, and nothing was ever deleted."""
    for name in ("serviceAccountName", "serviceAccount"):
        made = checkpoint(**{name: "worker"})
        for make, account in ((jobs.probe, probes), (jobs.collection, deletes)):
            template = make(config.parse(settings), made, "h")["spec"]["template"]
            assert template["spec"].get("serviceAccountName") == account
            assert template["spec"]["automountServiceAccountToken"] is False
            is_marked = template["metadata"]["labels"].get("azure.workload.identity/use") == "true"
            assert is_marked == (settings == AZURE)
    plain = jobs.probe(config.parse(ROLE), checkpoint(), "h")["spec"]["template"]["spec"]
    assert "serviceAccountName" not in plain
    unfit = jobs.probe(config.parse(ROLE), checkpoint(containers="none"), "h")["spec"]["template"]["spec"]
    assert "serviceAccountName" not in unfit


def test_a_proxy_of_the_engines_leads_the_operators_jobs_to_the_storage_as_well():
    """Nothing else of its environment is theirs, which another variable may refer to; a claim needs no network."""
    ours = [
        {"name": "HTTPS_PROXY", "value": "http://proxy:3128"},
        {"name": "no_proxy", "valueFrom": {"configMapKeyRef": {"name": "proxy", "key": "except"}}},
    ]
    main = {"name": "main", "command": ["serve"], "env": [*ours, {"name": "HF_TOKEN", "value": "secret"}]}
    main["env"].append({"name": "HTTP_PROXY", "value": "http://$(PROXY_HOST):3128"})
    made = checkpoint(containers=[main, {"name": "other", "env": [{"name": "HTTP_PROXY", "value": "x"}]}])
    for settings, env in ((ROLE, ours), (OCI, ours), ("", [])):
        for make in (jobs.probe, jobs.collection):
            (container,) = make(config.parse(settings), made, "h")["spec"]["template"]["spec"]["containers"]
            assert [one for one in container["env"] if not one["name"].startswith("DYNAMO_")] == env
    unfit = jobs.probe(config.parse(ROLE), checkpoint(containers="none"), "h")["spec"]["template"]["spec"]
    assert unfit["containers"][0]["env"]


def test_a_quota_on_what_pods_may_take_keeps_no_job_of_the_operators_from_running():
    """Under one, a pod must say all of it; a deletion would be tried for an hour, and then be given up."""
    for job in (
        jobs.probe(config.parse(""), checkpoint(), "h"),
        jobs.collection(config.parse(""), checkpoint(), "h"),
    ):
        (container,) = job["spec"]["template"]["spec"]["containers"]
        assert {kind: {*amounts} for kind, amounts in container["resources"].items()} == {
            "requests": {"cpu", "memory"}, "limits": {"cpu", "memory"},
        }  # fmt: skip


def test_an_engine_that_has_published_is_not_started_again():
    """Whatever a pod of the worker says of its container: since Kubernetes 1.34 each may have rules of its own."""
    main = {
        "name": "main",
        "image": "i",
        "command": ["serve"],
        "restartPolicy": "Always",
        "restartPolicyRules": [{}],
    }
    spec = jobs.creation(config.parse(""), checkpoint(containers=[main]), "h", force=False)["spec"][
        "template"
    ]["spec"]
    assert not spec["containers"][0].keys() & {"restartPolicy", "restartPolicyRules"}
    assert spec["restartPolicy"] == "Never"


def test_every_container_of_a_creation_has_last_words():
    """What keeps the engine from running is told in them. A policy of the user's own stays."""
    others = [
        {"name": "main", "image": "i", "command": ["serve"]},
        {"name": "helper", "terminationMessagePolicy": "File"},
    ]
    made = checkpoint(containers=others, initContainers=[{"name": "download"}])
    spec = jobs.creation(config.parse(""), made, "h", force=False)["spec"]["template"]["spec"]
    policies = {
        one["name"]: one["terminationMessagePolicy"] for one in (*spec["initContainers"], *spec["containers"])
    }
    assert policies == {
        "download": "FallbackToLogsOnError",
        "main": "FallbackToLogsOnError",
        "helper": "File",
    }
