"""What servers of today do and 1.20 does not: native sidecars, pod security standards, policies, two conditions of an end.

Collected where DYNAMO_ENTRY_KUBERNETES names servers of 1.31 or newer (docs/kubernetes.md).
"""

import time

import pytest
from kubernetes.config import kube_config

import images
from checkpoints import LAUNCHER, PUBLISHES, checkpoint, claim, installed
from dynamo_entry.kube.cluster import ApiError, Cluster

NAMESPACE, GUARDED = "today-tests", "today-guarded"

VALUES = {
    "checkpoint": {"enabled": True, "probe": False, "storage": {"type": "pvc"}, "launcher": LAUNCHER},
    "operator": {"watchNamespaces": [NAMESPACE, GUARDED]}, "admissionPolicies": {"enabled": True},
    "agent": {"nodeSelector": {"no": "node"}},
}  # fmt: skip

SIDECAR = {
    "name": "proxy", "image": images.BASE, "restartPolicy": "Always",
    "command": ["/bin/sh", "-c", "trap 'exit 0' TERM; sleep 600 & wait"],
}  # fmt: skip


@pytest.fixture(scope="module")
def world(cluster, node, helm_install):
    cluster.kubectl("create", "namespace", GUARDED)
    cluster.kubectl("label", "namespace", GUARDED, "pod-security.kubernetes.io/enforce=baseline")
    cluster.apply(claim(), namespace=GUARDED)
    with installed(cluster, helm_install, NAMESPACE, VALUES) as world:
        yield world
    for name in (GUARDED, NAMESPACE):
        cluster.kubectl("delete", "namespace", name, "--wait=false")


def with_sidecar(made):
    made["spec"]["job"]["podTemplateSpec"]["spec"]["initContainers"] = [SIDECAR]
    return made


def worker(name, checkpoint_name, **spec):
    container = {"name": "main", "image": images.BASE, "command": ["/bin/sh", "-c", "env; sleep 600"]}
    return {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"nvidia.com/checkpoint-name": checkpoint_name}},
        "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 2, "containers": [container]} | spec,
    }  # fmt: skip


def test_a_native_sidecar_holds_no_creation_up(world):
    """It ends when the engine's container has, and is not what failed."""
    world.apply(with_sidecar(checkpoint("beside", f"sleep 2; {PUBLISHES}")))
    assert world.until("beside", "Ready", "Published")["digest"] == "blake3:1"
    world.wait(lambda: not world.cluster.get("job", "checkpoint-beside", NAMESPACE)["status"].get("active"))


def test_a_creation_that_fails_beside_a_native_sidecar(world):
    """The engine's reason, not the sidecar's."""
    world.apply(with_sidecar(checkpoint("fails", "echo no such device; exit 3")))
    status = world.until("fails", "Failed", "ContainerFailed")
    assert "no such device" in status["message"]


def test_a_worker_keeps_its_native_sidecar(world):
    """The webhook changes the engine's container alone."""
    world.until("beside", "Ready")
    world.apply(worker("with-proxy", "beside", initContainers=[SIDECAR]))
    found = world.cluster.get("pod", "with-proxy", NAMESPACE)
    (proxy,), (main,) = found["spec"]["initContainers"], found["spec"]["containers"]
    assert (proxy["command"], proxy["restartPolicy"]) == (SIDECAR["command"], "Always")
    assert "env" not in proxy
    assert "DYNAMO_CHECKPOINT_HASH" in {one["name"] for one in main["env"]}
    world.kubectl("wait", "pod/with-proxy", "--for=condition=Ready", "--timeout=60s")


def test_a_namespace_that_enforces_baseline_gets_its_pods_as_they_are(world):
    """With the capabilities they would be refused."""
    world.cluster.apply(worker("plain", "beside"), namespace=GUARDED)
    found = world.cluster.get("pod", "plain", GUARDED)
    assert "dynamo-entry/injected" not in found["metadata"].get("annotations", {})
    world.cluster.kubectl("wait", "pod/plain", "--for=condition=Ready", "--timeout=60s", "-n", GUARDED)


def test_a_checkpoint_there_says_why_it_waits(world):
    """In the words of the standard; once that allows it, it goes on by itself."""
    world.cluster.apply(checkpoint("held"), namespace=GUARDED)

    def status():
        return world.cluster.get("dynamocheckpoint", "held", GUARDED).get("status", {})

    world.wait(lambda: "NotAdmitted" in status().get("message", ""))
    assert 'violates PodSecurity "baseline' in status()["message"]
    world.cluster.kubectl(
        "label", "namespace", GUARDED, "--overwrite", "pod-security.kubernetes.io/enforce=privileged"
    )
    try:
        world.wait(lambda: status().get("phase") == "Ready", 90)
    finally:
        label = "pod-security.kubernetes.io/enforce=baseline"
        world.cluster.kubectl("label", "namespace", GUARDED, "--overwrite", label)


POLICY = {
    "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "no-jobs"},
    "spec": {
        "failurePolicy": "Fail",
        "matchConstraints": {"resourceRules": [
            {"apiGroups": ["batch"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["jobs"]},
        ]},
        "matchConditions": [{"name": "one", "expression": "object.metadata.name == 'checkpoint-policed'"}],
        "validations": [{"expression": "false", "message": "not on a Sunday"}],
    },
}  # fmt: skip
BINDING = {
    "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
    "metadata": {"name": "no-jobs"}, "spec": {"policyName": "no-jobs", "validationActions": ["Deny"]},
}  # fmt: skip


def test_a_policy_that_refuses_the_job(world):
    """It is no mistake of the template, and goes on when the policy goes."""
    world.apply(POLICY, BINDING)
    time.sleep(3)  # policies are compiled in the background
    try:
        world.apply(checkpoint("policed"))
        assert "not on a Sunday" in world.until("policed", "Pending", "NotAdmitted")["message"]
    finally:
        world.kubectl("delete", "validatingadmissionpolicybinding,validatingadmissionpolicy", "no-jobs")
    world.until("policed", "Ready", limit_s=90)


def test_a_deadline_is_told_before_its_pod_is_gone(world):
    """FailureTarget comes at once, Failed when the last pod has ended."""
    stubborn = "trap '' TERM; while :; do sleep 1; done"
    world.apply(checkpoint("stubborn", stubborn, job={"activeDeadlineSeconds": 3}))
    world.until("stubborn", "Failed", "DeadlineExceeded", limit_s=30)
    job = world.cluster.get("job", "checkpoint-stubborn", NAMESPACE)
    assert "FailureTarget" in {one["type"] for one in job["status"]["conditions"]}
    world.kubectl("delete", "dckpt", "stubborn", "--wait=false")


@pytest.fixture
def acting(world, monkeypatch):
    """The API with the rights of one of the chart's accounts."""

    def acting(account):
        kubeconfig = world.cluster.service_account_kubeconfig(NAMESPACE, account)
        monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(kubeconfig))
        return Cluster()

    return acting


STATUS = f"/apis/nvidia.com/v1alpha1/namespaces/{NAMESPACE}/dynamocheckpoints/beside/status"
ODD = ({"digest": "blake3:2"}, {"phase": "Failed"}, {"location": None}, {"attempts": 9, "imageID": "x"})


def test_an_agent_says_only_whether_an_archive_is_there(world, acting):
    """Whoever has a node's account must not choose what pods restore."""
    world.until("beside", "Ready")
    before, agent = world.get("beside")["status"], acting("dynamo-checkpoint-agent")
    for status in ODD:
        with pytest.raises(ApiError, match="the agent changes nothing but conditions"):
            agent.merge(STATUS, {"status": status})
    others = [one | {"status": "False"} for one in before["conditions"]]
    with pytest.raises(ApiError, match="no condition but ArchiveMissing"):
        agent.merge(STATUS, {"status": {"conditions": others}})
    assert world.get("beside")["status"] == before
    missing = {
        "type": "ArchiveMissing", "status": "False", "reason": "Found", "message": "it is there",
        "lastTransitionTime": "2024-01-01T00:00:00Z",
    }  # fmt: skip
    agent.merge(STATUS, {"status": {"conditions": [*before["conditions"], missing]}})
    assert any(one["type"] == "ArchiveMissing" for one in world.get("beside")["status"]["conditions"])


def test_an_operator_makes_no_pod_and_no_job_of_others(acting):
    """With its account nobody gets at the Secrets and accounts of a namespace by a pod of their own."""
    operator, pod = acting("dynamo-entry-operator"), worker("own", "none")
    with pytest.raises(ApiError, match="the operator creates no pod"):
        operator.create(f"/api/v1/namespaces/{NAMESPACE}/pods", pod)
    job = {
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "own"}, "spec": {"template": {"spec": pod["spec"]}},
    }  # fmt: skip
    with pytest.raises(ApiError, match="Jobs of DynamoCheckpoints only"):
        operator.create(f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs", job)
