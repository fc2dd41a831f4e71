"""The operator against a real API server, in every situation that the guide does not come to."""

import json
import time

import pytest
import yaml

import images
import operators
from checkpoints import LAUNCHER, PUBLISHES, checkpoint, claim, installed, says
from dynamo_entry.kube.identity import identity_hash

NAMESPACE = "operator-tests"

VALUES = {
    "checkpoint": {"enabled": True, "probe": False, "storage": {"type": "pvc"}, "launcher": LAUNCHER},
    "operator": {"watchNamespaces": [NAMESPACE]}, "agent": {"enabled": False}, "crds": {"install": True},
}  # fmt: skip


@pytest.fixture(scope="module")
def world(cluster, node, helm_install):
    with installed(cluster, helm_install, NAMESPACE, VALUES) as world:
        yield world


def template(**container):
    """A specification's change: another container."""
    return {
        "job": {"podTemplateSpec": {"spec": {"containers": [{"name": "main", "image": "i"} | container]}}}
    }


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"identity": {"model": "m"}}, "framework"),
        ({"identity": {"model": "m", "framework": "other"}}, "framework"),
        ({"identity": {"model": "", "framework": "vllm"}}, "model"),
        ({"identity": {"model": "m", "framework": "vllm", "tensorParallelSize": 0}}, "tensorParallelSize"),
        ({"identity": {"model": "m", "framework": "vllm", "extraParameters": {"a": 1}}}, "extraParameters"),
        ({"identity": {"model": "m", "framework": "vllm", "backendFramework": "sglang"}}, "differ"),
        ({"job": None}, r'"job"|spec\.job'),
        ({"job": {}}, "podTemplateSpec"),
        ({"deletionPolicy": "Sometimes"}, "deletionPolicy"),
        ({"job": {"podTemplateSpec": {"spec": {"containers": []}}}}, "containers"),
        (
            {"job": {"podTemplateSpec": {"spec": {"containers": [{"name": "a"}, {"name": "b"}]}}}},
            "targetContainerName",
        ),
        (template(command="python3 -m x"), r"containers\[0\]\.command: expected"),
        (template(env={"A": "b"}), r"containers\[0\]\.env: expected"),
        (template() | {"job": template()["job"] | {"sharedMemory": {"size": "8GB"}}}, r"sharedMemory\.size"),
    ],
)
def test_mistakes_are_refused_at_once(world, change, complaint):
    """By the schema or the validating webhook, with the field's name."""
    made = checkpoint("wrong")
    made["spec"] |= change
    with pytest.raises(AssertionError, match=complaint):
        world.kubectl("create", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(made))


def test_a_phase_that_is_none_cannot_be_written(world):
    """Nor by anybody else than the operator: what reads the status can rely on it."""
    world.apply(checkpoint("phased"))
    world.until("phased", "Ready")
    patch = json.dumps({"status": {"phase": "Done"}})
    with pytest.raises(AssertionError, match=r"status\.phase"):
        world.kubectl("patch", "dckpt", "phased", "--subresource=status", "--type=merge", "-p", patch)


def test_a_field_that_is_no_part_of_an_identity_makes_no_other(world):
    """It is not kept: two that differ in nothing else are the same checkpoint."""
    made = checkpoint("pruned")
    made["spec"]["identity"]["colour"] = "green"
    world.kubectl("create", "--validate=false", "-f", "-", stdin=yaml.safe_dump(made))
    status = world.until("pruned", "Ready")
    assert "colour" not in world.get("pruned")["spec"]["identity"]
    assert status["identityHash"] == identity_hash({"model": "pruned", "framework": "vllm"})


def test_defaults(world):
    """What is not written is what the guide says."""
    made = checkpoint("defaults")
    del made["spec"]["job"]["backoffLimit"]
    world.apply(made)
    spec = world.get("defaults")["spec"]
    assert (spec["identity"]["tensorParallelSize"], spec["identity"]["pipelineParallelSize"]) == (1, 1)
    assert (spec["job"]["activeDeadlineSeconds"], spec["job"]["backoffLimit"]) == (3600, 3)
    assert spec["deletionPolicy"] == "Retain"
    assert "ttlSecondsAfterFinished" not in spec["job"], "the chart's value counts"


def test_the_later_spelling_is_the_same_identity(world):
    """backendFramework for framework; null is what is not written."""
    made = checkpoint("later")
    made["spec"]["identity"] = {
        "model": "later", "backendFramework": "vllm", "tensorParallelSize": None,
    }  # fmt: skip
    world.kubectl("create", "-f", "-", stdin=yaml.safe_dump(made))
    status = world.until("later", "Ready")
    assert status["identityHash"] == identity_hash({"model": "later", "framework": "vllm"})
    identity = world.get("later")["spec"]["identity"]
    assert identity["tensorParallelSize"] == 1


def test_an_identity_cannot_be_changed(world):
    """Another identity is another checkpoint."""
    world.apply(checkpoint("fixed"))
    patch = json.dumps({"spec": {"identity": {"model": "other"}}})
    with pytest.raises(AssertionError, match="immutable"):
        world.kubectl("patch", "dckpt", "fixed", "--type=merge", "-p", patch)


def test_a_second_attempt_succeeds(world):
    """The first pod fails, the Job goes on: Creating throughout, then Ready."""
    script = f"[ -e /checkpoints/tried ] || {{ touch /checkpoints/tried; {says(result='failed', reason='NotReady', retry=True, code=173)}; }}; {PUBLISHES}"
    world.apply(checkpoint("second", script, job={"backoffLimit": 2}))
    seen = set()

    def ready():
        seen.add(world.get("second")["status"].get("phase"))
        return "Ready" in seen

    world.wait(lambda: world.get("second").get("status"))
    world.wait(ready, 90)
    assert "Failed" not in seen


def test_a_pointless_retry_is_not_made(world):
    """The launcher knows: Failed at once, with its reason, and no pod runs on.

    Servers before 1.26 know no podFailurePolicy: such a Job's controller may be faster by one pod, which is ended.
    """
    script = says(
        result="failed", reason="NotDumpable", message="the engine holds an io_uring", retry=False, code=171
    )
    world.apply(checkpoint("pointless", script, job={"backoffLimit": 3}))
    status = world.until("pointless", "Failed", "NotDumpable")
    assert "io_uring" in status["message"]
    world.wait(lambda: world.has_ended("pointless"))  # nothing of it starts any more
    selector = "nvidia.com/checkpoint-name=pointless"
    pods = world.cluster.get("pods", namespace=NAMESPACE, selector=selector)["items"]
    assert 1 <= len(pods) <= 2
    # A busy node takes its time to delete a pod that it has not started yet.
    assert all(one["status"]["phase"] == "Failed" or "deletionTimestamp" in one["metadata"] for one in pods)


def test_empty_fields(world):
    """As Helm renders them: absent, as in any pod."""
    names = ("args", "env", "volumeMounts", "ports", "livenessProbe", "securityContext")
    made = checkpoint("empty", container=dict.fromkeys(names))
    spec = made["spec"]["job"]["podTemplateSpec"]
    spec["metadata"] = {"labels": None, "annotations": None}
    spec["spec"] |= {"volumes": None, "terminationGracePeriodSeconds": None}
    world.kubectl("create", "-f", "-", stdin=yaml.safe_dump(made))
    world.until("empty", "Ready", "Published")


def test_an_edit_while_the_job_runs(world):
    """It is not lost: another Job, of the new template."""
    world.apply(checkpoint("edited", "trap 'exit 1' TERM; sleep 300 & wait"))
    world.until("edited", "Creating")
    uid = world.wait(lambda: world.cluster.get("job", "checkpoint-edited", NAMESPACE, check=False))[
        "metadata"
    ]["uid"]
    world.apply(checkpoint("edited"))
    world.until("edited", "Ready", "Published")
    assert world.cluster.get("job", "checkpoint-edited", NAMESPACE)["metadata"]["uid"] != uid


def test_an_edit_of_something_else_is_no_new_attempt(world):
    """A GPU for an hour, because of a policy."""
    world.apply(checkpoint("kept", "exit 1"))
    before = world.until("kept", "Failed")
    world.apply(checkpoint("kept", "exit 1", deletionPolicy="Delete"))
    world.wait(lambda: world.get("kept")["status"]["observedGeneration"] > before["observedGeneration"])
    assert world.get("kept")["status"]["phase"] == "Failed"
    world.kubectl("delete", "dckpt", "kept", "--wait=false")


def test_a_deadline(world):
    """An engine that never becomes ready ends in a reason."""
    world.apply(checkpoint("slow", "sleep 300", job={"activeDeadlineSeconds": 3}))
    world.until("slow", "Failed", "DeadlineExceeded")


def test_a_step_before_the_engine_that_fails(world):
    """Failed with the name and the words of the init container, not of the Job's counter."""
    made = checkpoint("early")
    first = {"name": "download", "image": images.BASE, "terminationMessagePolicy": "FallbackToLogsOnError",
             "command": ["/bin/sh", "-c", "echo no such model; exit 6"]}  # fmt: skip
    made["spec"]["job"]["podTemplateSpec"]["spec"]["initContainers"] = [first]
    world.apply(made)
    status = world.until("early", "Failed", "InitFailed")
    assert "'download' ended with exit code 6: no such model" in status["message"]


def test_a_lost_job_is_made_again(world):
    """Deleted by hand while it runs; but not for ever."""
    # On no node: there is nothing to end, and so nothing to wait for.
    made = checkpoint("lost", "sleep 300")
    made["spec"]["job"]["podTemplateSpec"]["spec"]["nodeSelector"] = {"no": "node"}
    world.apply(made)
    uids = set()

    def next_job():
        job = world.cluster.get("job", "checkpoint-lost", NAMESPACE, check=False)
        is_new = job and job["metadata"]["uid"] not in uids and "deletionTimestamp" not in job["metadata"]
        return job["metadata"]["uid"] if is_new else None

    for _ in range(4):
        uids.add(world.wait(next_job))
        world.kubectl("delete", "job", "checkpoint-lost", "--wait=false")
    status = world.until("lost", "Failed", "JobLost")
    assert "4 times" in status["message"]
    world.annotate("lost", retry="1")
    world.wait(next_job)
    world.kubectl("delete", "dckpt", "lost")


def test_a_job_that_goes_after_its_work_is_not_missed(world):
    """Ready stays Ready."""
    world.apply(checkpoint("done"))
    before = world.until("done", "Ready")
    world.kubectl("delete", "job", "checkpoint-done", "--cascade=foreground", "--timeout=30s")
    time.sleep(2)
    assert world.get("done")["status"] == before
    assert "checkpoint-done" not in world.jobs()


def test_a_killed_operator_loses_nothing(world):
    """Its pod is deleted while a Job runs: the same end, one Job."""
    world.apply(checkpoint("patient", f"sleep 4; {PUBLISHES}"))
    world.until("patient", "Creating")
    job = world.wait(lambda: world.cluster.get("job", "checkpoint-patient", NAMESPACE, check=False))
    world.kubectl(
        "delete", "pod", "-l", "app.kubernetes.io/component=operator", "--grace-period=0", "--force"
    )
    world.until("patient", "Ready", "Published", 90)
    assert (
        world.cluster.get("job", "checkpoint-patient", NAMESPACE)["metadata"]["uid"] == job["metadata"]["uid"]
    )
    world.kubectl("rollout", "status", "deployment/dynamo-entry-operator", "--timeout=60s")


def test_one_archive_is_made_once(world):
    """Two checkpoints of one identity: one Job, both Ready; when the leader goes the other takes over."""
    world.apply(checkpoint("one", f"sleep 3; {PUBLISHES}", model="same"))
    world.until("one", "Creating")
    world.apply(checkpoint("two", model="same"))
    world.until("two", "Pending", "SharedWith")
    assert "checkpoint-two" not in world.jobs()
    world.until("one", "Ready")
    status = world.until("two", "Ready", "SharedWith")
    assert status["digest"] == "blake3:1"
    assert "checkpoint-two" not in world.jobs()


def test_storage_that_is_missing_is_waited_for(world):
    """No Job before the claim is there; then it goes on by itself."""
    world.delete_claim()
    world.apply(checkpoint("homeless"))
    status = world.until("homeless", "Pending", "StorageMissing")
    assert "checkpoint-storage" in status["message"]
    assert "checkpoint-homeless" not in world.jobs()
    world.apply(claim(mode="ReadWriteOnce"))
    world.until("homeless", "Pending", "StorageNotShared")
    world.delete_claim()
    world.apply(claim())
    world.until("homeless", "Ready")


def test_storage_that_went_keeps_no_pod_from_starting(world):
    """A pod that mounts a claim which is gone would wait for ever: it starts cold, until the claim is there again."""
    world.apply(checkpoint("stored"))
    world.until("stored", "Ready")

    def is_wired(name):
        made = {
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "labels": {"nvidia.com/checkpoint-name": "stored"}},
            "spec": {
                "restartPolicy": "Never",
                "containers": [{"name": "main", "image": images.BASE, "command": ["true"]}],
            },
        }  # fmt: skip
        world.apply(made)
        world.wait(lambda: world.cluster.get("pod", name, NAMESPACE)["status"]["phase"] == "Succeeded")
        pod = world.cluster.get("pod", name, NAMESPACE)
        return "dynamo-entry/injected" in pod["metadata"].get("annotations", {})

    def usable(expected):
        conditions = {one["type"]: one for one in world.get("stored")["status"]["conditions"]}
        return conditions["StorageUsable"]["status"] == expected

    assert is_wired("before")
    world.delete_claim()
    world.wait(lambda: usable("False"))
    time.sleep(0.5)  # the webhook's watch
    assert not is_wired("meanwhile")
    assert "start cold" in world.kubectl("describe", "dckpt", "stored")
    world.apply(claim())
    world.wait(lambda: usable("True"))
    time.sleep(0.5)
    assert is_wired("after")


def test_a_template_that_the_server_refuses(world):
    """Failed with the server's own words, before any Job."""
    mounts = [{"name": "nowhere", "mountPath": "/x"}]
    world.apply(checkpoint("bad", container={"volumeMounts": mounts}))
    status = world.until("bad", "Failed", "TemplateInvalid")
    assert "volumeMounts" in status["message"]
    assert "checkpoint-bad" not in world.jobs()
    world.kubectl("delete", "dckpt", "bad")


def test_a_quota_is_waited_for(world):
    """Pending with the server's words; it heals."""
    quota = {
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}
    }  # fmt: skip
    world.apply(quota)
    world.wait(lambda: world.cluster.get("resourcequota", "none", NAMESPACE)["status"].get("hard"))
    world.apply(checkpoint("poor"))
    status = world.until("poor", "Pending", "NotAdmitted")
    assert "quota" in status["message"]
    world.kubectl("delete", "resourcequota", "none")
    world.until("poor", "Ready", limit_s=90)


def test_retry_and_recreate_by_annotation(world):
    """A failed one is tried again; a Ready one is made anew, by force, once."""
    fails = says(result="failed", reason="NotReady", retry=True, code=173)
    world.apply(checkpoint("again", f"[ -e /checkpoints/fixed ] || {{ {fails}; }}; {PUBLISHES}"))
    world.until("again", "Failed", "NotReady")
    world.kubectl("run", "fixer", f"--image={images.BASE}", "--restart=Never", "--overrides", json.dumps({
        "spec": {
            "containers": [{
                "name": "fixer", "image": images.BASE, "command": ["touch", "/checkpoints/fixed"],
                "volumeMounts": [{"name": "s", "mountPath": "/checkpoints"}],
            }],
            "volumes": [{"name": "s", "persistentVolumeClaim": {"claimName": "checkpoint-storage"}}],
        }
    }))  # fmt: skip
    world.wait(lambda: world.cluster.get("pod", "fixer", NAMESPACE)["status"]["phase"] == "Succeeded")
    world.annotate("again", retry="1")
    world.until("again", "Ready", "Published")
    world.annotate("again", recreate="1")
    world.wait(lambda: world.get("again")["status"].get("recreateToken") == "1")
    world.until("again", "Ready", "Published")
    job = world.cluster.get("job", "checkpoint-again", NAMESPACE)
    env = job["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "DYNAMO_CHECKPOINT_FORCE", "value": "1"} in env


def test_an_idle_checkpoint_is_left_alone(world):
    """Nothing is written while nothing changes."""
    world.apply(checkpoint("idle"))
    world.until("idle", "Ready")
    time.sleep(1)
    version = world.get("idle")["metadata"]["resourceVersion"]
    time.sleep(6)
    assert world.get("idle")["metadata"]["resourceVersion"] == version


def test_events_tell_the_story(world):
    """kubectl describe shows what happened."""
    world.apply(checkpoint("told"))
    world.until("told", "Ready")
    description = world.wait(
        lambda: (text := world.kubectl("describe", "dckpt", "told")) and "CheckpointReady" in text and text
    )
    for part in ("JobCreated", "Phase:", "Identity Hash:", "Location:", "Storage Type:", "Created At:"):
        assert part in description


def test_an_upgrade_keeps_the_users_objects(world):
    """Whatever it changes, also when it switches everything off."""
    world.apply(checkpoint("lasting"))
    world.until("lasting", "Ready")
    before = world.get("lasting")["metadata"]["uid"]
    for change in ("checkpoint.gc.giveUpAfter=2h", "checkpoint.enabled=false"):
        argv = (
            "helm",
            "upgrade",
            "dynamo-entry",
            operators.CHART,
            "-n",
            NAMESPACE,
            "--reuse-values",
            "--set",
            change,
        )
        world.cluster.run(*argv)
        found = world.get("lasting")
        assert (found["metadata"]["uid"], found["status"]["phase"]) == (before, "Ready")
    assert not world.cluster.get("deployment", "dynamo-entry-operator", NAMESPACE, check=False)
