"""An operator that dies after any of its writes: the next one comes to the same end, with one Job."""

import itertools
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from kubernetes.config import kube_config

import operators
from checkpoints import checkpoint
from dynamo_entry.kube import config
from dynamo_entry.kube.cluster import ApiError, Cluster
from dynamo_entry.kube.events import Recorder
from dynamo_entry.kube.operator.checkpoints import Checkpoints, known

NAMESPACE = "crash-tests"

VALUES = {
    "checkpoint": {
        "enabled": True, "probe": False, "storage": {"type": "s3", "s3": {"uri": "s3://bucket/prefix"}},
    },
    "agent": {"enabled": False},
}  # fmt: skip

#: More writes than the way from nothing to Ready has.
CRASHES = 16

CHECKPOINTS = f"/apis/nvidia.com/v1alpha1/namespaces/{NAMESPACE}/dynamocheckpoints"
JOBS = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"

PUBLISHED = {"result": "published", "location": "x", "digest": "blake3:1", "size_bytes": 5}


class Killed(BaseException):
    pass


class Dying(Cluster):
    """Ends its process, as it were, when the server has done the ``last`` write; notes the Jobs that it made."""

    def __init__(self, last):
        super().__init__()
        self._left = itertools.count(last, -1)
        self.jobs = set()
        self.has_died = False

    def request(self, method, path, *arguments, **options):
        answer = super().request(method, path, *arguments, **options)
        if method != "GET":
            if path == JOBS and "dryRun" not in options:
                self.jobs.add(answer["metadata"]["uid"])
            if next(self._left) == 1:
                self.has_died = True
                raise Killed
        return answer


class Log:
    def info(self, event, **fields):
        """Not looked at."""

    warning = error = info


@pytest.fixture(scope="module")
def settings(cluster):
    cluster.kubectl("create", "namespace", NAMESPACE)
    yield config.parse(json.dumps(operators.install(cluster, NAMESPACE, VALUES)))
    cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def end(admin, job):
    """Play the node: the pods of that Job have published. They fit on no node."""
    for pod in admin.list(PODS, labelSelector=f"job-name={job}"):
        ended = {"exitCode": 0, "message": json.dumps(PUBLISHED), "finishedAt": "2024-01-01T00:00:00Z"}
        container = {"name": "main", "state": {"terminated": ended}, "imageID": "i", "image": "i", "ready": False,
                     "restartCount": 0}  # fmt: skip
        status = {"phase": "Succeeded", "containerStatuses": [container]}
        admin.merge(f"{PODS}/{pod['metadata']['name']}/status", {"status": status})


def live(settings, admin, last):
    """One checkpoint from nothing to Ready; what was found in the end, and whether a crash was on the way."""
    name = f"crash-{last}"
    made = checkpoint(name)
    made["spec"]["job"]["podTemplateSpec"]["spec"]["nodeSelector"] = {"no": "node"}
    admin.create(CHECKPOINTS, made)
    dying = Dying(last)
    for _ in range(300):
        # Each round is a new process: nothing is remembered.
        others = [known(one) for one in admin.get(CHECKPOINTS)["items"]]
        operator = Checkpoints(settings, dying, Recorder(dying, Log()), Log(), lambda others=others: others)
        try:
            operator.reconcile((NAMESPACE, name))
        except (Killed, ApiError):
            continue
        end(admin, f"checkpoint-{name}")
        status = admin.get(f"{CHECKPOINTS}/{name}").get("status", {})
        if status.get("phase") in ("Ready", "Failed"):
            return dying, status
    raise AssertionError(f"crash after write {last}: {status}")


def test_a_crash_after_any_write_changes_nothing_in_the_end(cluster, settings, monkeypatch):
    """Ready, published, attempted once, by one Job; with no right but the operator's."""
    admin = client(monkeypatch, cluster.kubeconfig)
    client(monkeypatch, cluster.service_account_kubeconfig(NAMESPACE, "dynamo-entry-operator"))
    with ThreadPoolExecutor(4) as pool:
        ended = list(pool.map(lambda last: live(settings, admin, last), range(1, CRASHES + 1)))
    for dying, status in ended:
        assert (status["phase"], status["digest"], status["attempts"]) == ("Ready", "blake3:1", 1)
        assert len(dying.jobs) == 1
    crashes = [dying.has_died for dying, _ in ended]
    assert sum(crashes) >= 5
    assert not crashes[-1], "CRASHES is too small"


def client(monkeypatch, kubeconfig):
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(kubeconfig))
    return Cluster()
