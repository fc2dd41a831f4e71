"""The Job that creates: what becomes of the user's template."""

import json
import re

import pytest
from kube_objects import (
    HASH,
    OCI,
    PVC,
    READY,
    S3,
    SNAPSHOT,
    SNAPSHOT_SERVER,
    checkpoint,
    created,
    environ,
    known,
    pod,
)

from dynamo_entry.kube import api, config, podspec
from dynamo_entry.kube.operator import jobs
from dynamo_entry.kube.podspec import Unfit
from dynamo_entry.kube.webhook.admission import mutate


def test_the_job_of_the_guide():
    """Names, labels, owner, deadline, and the environment of the contract."""
    job, pod, main = created(checkpoint(activeDeadlineSeconds=3600, backoffLimit=3))
    assert job["metadata"]["name"] == "checkpoint-model"
    labels = {
        "nvidia.com/checkpoint-source": "true",
        "nvidia.com/checkpoint-hash": HASH,
        "nvidia.com/checkpoint-name": "model",
    }
    assert job["metadata"]["labels"] == labels
    assert labels.items() <= pod["metadata"]["labels"].items()
    assert job["metadata"]["ownerReferences"][0]["uid"] == "u"
    assert (job["spec"]["activeDeadlineSeconds"], job["spec"]["backoffLimit"]) == (3600, 3)
    assert "ttlSecondsAfterFinished" not in job["spec"]
    assert pod["spec"]["restartPolicy"] == "Never"
    assert main["command"] == ["dynamo-entry", "--", "python3", "-m", "dynamo.vllm", "--model", "m"]
    assert "args" not in main
    assert environ(main) == {
        "DYNAMO_CHECKPOINT_STORAGE_TYPE": "pvc",
        "DYNAMO_CHECKPOINT_LOCATION": f"/checkpoints/{HASH}.tar",
        "DYNAMO_CHECKPOINT_PATH": f"/checkpoints/{HASH}.tar",
        "DYNAMO_CHECKPOINT_HASH": HASH,
        "DYNAMO_CHECKPOINT_SIGNAL_FILE": f"/checkpoint-signal/{HASH}.ready",
        "DYNAMO_CHECKPOINT_SIGNAL_TIMEOUT": "3300",
        "DYNAMO_CHECKPOINT_STATUS_FILE": "/dev/termination-log",
        "DYN_SNAPSHOT_CONTROL_DIR": "/checkpoint-control",
    }
    assert main["securityContext"] == {
        "capabilities": {"add": ["CHECKPOINT_RESTORE", "SYS_PTRACE"]}, "seccompProfile": {"type": "Unconfined"}
    }  # fmt: skip
    assert pod["metadata"]["annotations"]["sidecar.istio.io/inject"] == "false"


def test_the_collector_is_the_user_that_made_the_archive():
    """Without a capability, another user could not delete it; nothing else of the template is taken over."""
    made = checkpoint()
    spec = made["spec"]["job"]["podTemplateSpec"]["spec"]
    spec["securityContext"] = {"runAsUser": 1, "fsGroup": 7, "sysctls": []}
    spec["containers"][0]["securityContext"] = {"runAsUser": 1000, "privileged": True}
    pod = jobs.collection(PVC, made, HASH)["spec"]["template"]["spec"]
    assert pod["securityContext"] == {"runAsUser": 1000, "fsGroup": 7}
    assert pod["containers"][0]["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert "runAsUser" not in pod["containers"][0]["securityContext"], "it would win"


@pytest.mark.parametrize(("settings", "user"), [(S3, 65532), (OCI, 65532), (PVC, 0)])
def test_what_looks_into_a_bucket_is_not_root(settings, user):
    """Only a claim's files have owners. OpenShift chooses the user itself."""
    for job in (jobs.probe(settings, checkpoint(), HASH), jobs.collection(settings, checkpoint(), HASH)):
        context = job["spec"]["template"]["spec"]["containers"][0]["securityContext"]
        assert context.get("runAsUser") == user
        assert context.get("runAsNonRoot", False) == (user != 0)
    shift = config.parse("storage: {type: s3, s3: {uri: 's3://b'}}\nsecurity: {openshift: true}")
    job = jobs.probe(shift, checkpoint(), HASH)
    assert "runAsUser" not in job["spec"]["template"]["spec"]["containers"][0]["securityContext"]


def test_probes_of_the_engine():
    """A frozen engine answers nobody: liveness and startup go, httpGet readiness becomes the launcher's question."""
    get = {"httpGet": {"path": "/health", "port": "system"}}
    _, _, main = created(
        checkpoint(
            {
                "ports": [{"name": "system", "containerPort": 9090}],
                "livenessProbe": get,
                "readinessProbe": get,
                "startupProbe": get,
                "command": ["vllm", "serve"],
            }
        )
    )
    assert not main.keys() & {"livenessProbe", "startupProbe", "readinessProbe"}
    assert environ(main)["DYNAMO_CHECKPOINT_READY_URL"] == "http://127.0.0.1:9090/health"
    assert "DYN_SNAPSHOT_CONTROL_DIR" not in environ(main)
    by_setting = {"command": ["vllm", "serve"], "readinessProbe": get, "env": [SNAPSHOT]}
    for paused in (by_setting, {"command": SNAPSHOT_SERVER, "readinessProbe": get}):
        _, _, main = created(checkpoint(paused))
        assert "DYNAMO_CHECKPOINT_READY_URL" not in environ(main), "a paused engine has no server"
        assert environ(main)["DYN_SNAPSHOT_CONTROL_DIR"] == "/checkpoint-control"
        assert "/checkpoint-control" in [one["mountPath"] for one in main["volumeMounts"]]
    _, _, main = created(checkpoint({"readinessProbe": {"exec": {"command": ["touch", "x"]}}}))
    assert "readinessProbe" in main


@pytest.mark.parametrize(
    ("get", "url"),
    [
        ({"port": 80}, "http://127.0.0.1:80/"),
        ({"port": 80, "path": "", "scheme": ""}, "http://127.0.0.1:80/"),
        ({"port": 80, "path": "health"}, "http://127.0.0.1:80/health"),
        ({"port": "80", "path": "/a?b=1", "scheme": "HTTPS"}, "https://127.0.0.1:80/a?b=1"),
    ],
)
def test_a_probe_is_read_as_a_kubelet_reads_it(get, url):
    """A path needs no slash, a port may be a text, and what is empty has a default."""
    _, _, main = created(checkpoint({"command": ["serve"], "readinessProbe": {"httpGet": get}}))
    assert environ(main)["DYNAMO_CHECKPOINT_READY_URL"] == url


@pytest.mark.parametrize("field", ["restartPolicy", "restartPolicyRules", "resizePolicy"])
def test_nothing_starts_the_engine_again(field):
    """Each attempt is a pod of its own; the API server refuses pods that are never restarted and say how, or to resize by it."""
    _, _, main = created(checkpoint({field: [{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]}))
    assert field not in main


def test_the_result_is_where_the_kubelet_reads_it():
    """Whatever file the template names for its engine's last words; else the operator would never learn of the archive."""
    env = [{"name": "DYNAMO_CHECKPOINT_STATUS_FILE", "value": "/tmp/status"}]
    _, _, main = created(checkpoint({"terminationMessagePath": "/tmp/last-words", "env": env}))
    assert (
        main.get("terminationMessagePath", "/dev/termination-log")
        == environ(main)["DYNAMO_CHECKPOINT_STATUS_FILE"]
        == "/dev/termination-log"
    )


def test_nobody_empties_a_node_under_a_creation():
    """Neither autoscaler moves its pod; the user's own annotations stay."""
    made = checkpoint()
    made["spec"]["job"]["podTemplateSpec"]["metadata"] = {"annotations": {"mine": "x"}}
    _, pod, _ = created(made)
    annotations = pod["metadata"]["annotations"]
    assert annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"
    assert annotations["karpenter.sh/do-not-disrupt"] == "true"
    assert annotations["mine"] == "x"


def test_a_worker_of_dynamo_is_not_asked_by_its_probe():
    """It succeeds when the worker has registered: too late to be frozen. The worker says by itself when it has paused."""
    get = {"httpGet": {"path": "/health", "port": 9090}}
    _, pod, main = created(
        checkpoint({"readinessProbe": get}), config=config.parse("job: {readyUrl: 'http://127.0.0.1:1/'}")
    )
    assert "DYNAMO_CHECKPOINT_READY_URL" not in environ(main)
    mounted = {one["mountPath"]: one["name"] for one in main["volumeMounts"]}
    volume = next(one for one in pod["spec"]["volumes"] if one["name"] == mounted["/checkpoint-control"])
    assert "emptyDir" in volume


@pytest.mark.parametrize(
    "container", [{}, {"command": SNAPSHOT_SERVER}, {"command": ["serve"], "env": [SNAPSHOT]}]
)
def test_a_ready_url_of_an_engine_that_pauses_is_refused(container):
    """It has no server until it is restored, and the launcher would refuse both: by then a GPU has been waited for."""
    made = checkpoint(container)
    made["metadata"]["annotations"] = {"dynamo-entry/ready-url": "http://127.0.0.1:1/early"}
    with pytest.raises(Unfit, match=r"dynamo-entry/ready-url.*remove") as refused:
        created(made)
    assert refused.value.reason == "TemplateInvalid"


@pytest.mark.parametrize("where", ["checkpoint", "template"])
def test_a_worker_that_its_image_starts_is_not_asked_by_its_probe(where):
    """Its annotation says what the image's ENTRYPOINT is."""
    get = {"httpGet": {"path": "/health", "port": 9090}}
    made = checkpoint({"command": None, "args": ["--model", "m"], "readinessProbe": get})
    template = made["spec"]["job"]["podTemplateSpec"]
    metadata = made["metadata"] if where == "checkpoint" else template.setdefault("metadata", {})
    metadata["annotations"] = {"dynamo-entry/entrypoint": '["python3", "-m", "dynamo.vllm"]'}
    _, _, main = created(made)
    assert "DYNAMO_CHECKPOINT_READY_URL" not in environ(main)
    assert environ(main)["DYN_SNAPSHOT_CONTROL_DIR"] == "/checkpoint-control"
    assert main["command"] == ["dynamo-entry", "--", "python3", "-m", "dynamo.vllm", "--model", "m"]


@pytest.mark.parametrize(
    ("command", "is_asked"),
    [
        (["python3", "-m", "dynamo.mocker"], False),
        (["sh", "-c", "exec python3 -m dynamo.vllm.sidecar"], False),
        (["python3", "-m", "dynamo_like"], True),
    ],
)
def test_a_part_of_dynamo_without_the_handshake_is_not_asked_by_its_probe(command, is_asked):
    """It has registered by then. It may create the signal file, or the checkpoint names another URL."""
    made = checkpoint({"command": command, "readinessProbe": {"httpGet": {"path": "/health", "port": 9090}}})
    _, _, main = created(made)
    assert ("DYNAMO_CHECKPOINT_READY_URL" in environ(main)) == is_asked
    made["metadata"]["annotations"] = {"dynamo-entry/ready-url": "http://127.0.0.1:1/early"}
    _, _, main = created(made)
    assert environ(main)["DYNAMO_CHECKPOINT_READY_URL"] == "http://127.0.0.1:1/early"


@pytest.mark.parametrize(
    ("change", "is_other"),
    [
        (lambda one: one["spec"]["job"].update(backoffLimit=1), True),
        (lambda one: one["spec"]["job"]["podTemplateSpec"]["spec"]["containers"][0].update(image="j"), True),
        (
            lambda one: one["metadata"].update(annotations={"dynamo-entry/ready-url": "http://127.0.0.1/"}),
            True,
        ),
        (lambda one: one["metadata"].update(annotations={"dynamo-entry/entrypoint": '["x"]'}), True),
        (lambda one: one["metadata"].update(annotations={"dynamo-entry/retry": "1"}), False),
        (lambda one: one["spec"]["job"].update(ttlSecondsAfterFinished=1), False),
        (lambda one: one["spec"].update(deletionPolicy="Delete"), False),
    ],
)
def test_what_makes_another_job(change, is_other):
    """And so a new attempt; the rest of a checkpoint does not."""
    made, other = checkpoint(), checkpoint()
    change(other)
    assert (jobs.digest(made) != jobs.digest(other)) == is_other


def test_the_template_of_the_user_is_not_changed():
    """Nothing of the checkpoint's spec is shared with the Job."""
    made = checkpoint()
    before = json.dumps(made)
    created(made)
    assert json.dumps(made) == before


@pytest.mark.parametrize("mode", ["cold", "restore"])
def test_a_mode_that_creates_nothing_is_refused(mode):
    """A graph's pod may start cold on purpose: a Job of it would run until its deadline."""
    with pytest.raises(Unfit, match=f"DYNAMO_CHECKPOINT_MODE is set to '{mode}'"):
        created(checkpoint({"env": [{"name": "DYNAMO_CHECKPOINT_MODE", "value": mode}]}))


def test_the_users_environment_wins_unless_it_makes_two_truths():
    """A timeout may be set; another location may not."""
    _, _, main = created(checkpoint({"env": [{"name": "DYNAMO_CHECKPOINT_SIGNAL_TIMEOUT", "value": "9"}]}))
    assert environ(main)["DYNAMO_CHECKPOINT_SIGNAL_TIMEOUT"] == "9"
    with pytest.raises(Unfit, match="DYNAMO_CHECKPOINT_LOCATION"):
        created(checkpoint({"env": [{"name": "DYNAMO_CHECKPOINT_LOCATION", "value": "/elsewhere"}]}))


def test_storage_credentials_stay_out_of_the_dump():
    """Those that only the launcher needs are withheld from the engine; the engine's own are not."""
    _, _, main = created(checkpoint({"env": [{"name": "AWS_REGION", "value": "eu"}]}), config=OCI)
    assert environ(main)["DYNAMO_CHECKPOINT_DROP_ENV"] == "DOCKER_CONFIG"
    assert environ(main)["AWS_REGION"] == "eu"


def test_a_volume_of_the_same_claim_is_used_a_taken_path_is_refused():
    """Two mounts at one path cannot be."""
    made = checkpoint()
    spec = made["spec"]["job"]["podTemplateSpec"]["spec"]
    spec["volumes"] = [{"name": "mine", "persistentVolumeClaim": {"claimName": "checkpoint-storage"}}]
    _, pod, main = created(made)
    assert pod["spec"]["volumes"][0]["name"] == "mine"
    assert {"name": "mine", "mountPath": "/checkpoints"} in main["volumeMounts"]
    spec["containers"][0]["volumeMounts"] = [{"name": "other", "mountPath": "/checkpoints/"}]
    with pytest.raises(Unfit, match="/checkpoints"):
        created(made)


@pytest.mark.parametrize(
    ("mount", "volume", "complaint"),
    [
        ({"subPath": "models"}, {}, "subPath"),
        ({"subPathExpr": "$(X)"}, {}, "subPath"),
        ({"readOnly": True}, {}, "read-only"),
        ({}, {"readOnly": True}, "already"),
        ({}, {}, ""),
    ],
)
def test_a_mount_of_the_claim_that_is_not_ours(mount, volume, complaint):
    """In a part of it nobody else would find the archive; read-only nothing can be written. A restore may read."""
    claim = {"persistentVolumeClaim": {"claimName": "checkpoint-storage"} | volume}
    container = {"volumeMounts": [{"name": "mine", "mountPath": "/checkpoints"} | mount]}
    made = checkpoint(container)
    made["spec"]["job"]["podTemplateSpec"]["spec"]["volumes"] = [{"name": "mine"} | claim]
    labels = {"nvidia.com/checkpoint-name": "model"}
    restored = mutate(
        PVC, pod(container, labels=labels, volumes=[{"name": "mine"} | claim]), "n", known(None, [READY])
    )
    assert (restored.reason == "injected") == (complaint != "subPath"), restored
    if complaint:
        with pytest.raises(Unfit, match=complaint) as caught:
            created(made)
        assert caught.value.reason == "StorageMountConflict"
    else:
        created(made)


def test_a_volume_that_is_read_only_is_not_written_to():
    """The same claim as a volume of its own, for the engine's model: the creation gets another one."""
    made = checkpoint({"volumeMounts": [{"name": "mine", "mountPath": "/models"}]})
    claim = {"claimName": "checkpoint-storage", "readOnly": True}
    made["spec"]["job"]["podTemplateSpec"]["spec"]["volumes"] = [
        {"name": "mine", "persistentVolumeClaim": claim}
    ]
    _, creating, main = created(made)
    (name,) = (one["name"] for one in main["volumeMounts"] if one["mountPath"] == "/checkpoints")
    (volume,) = (one for one in creating["spec"]["volumes"] if one["name"] == name)
    assert volume["persistentVolumeClaim"] == {"claimName": "checkpoint-storage"}


@pytest.mark.parametrize(
    ("containers", "name", "expected"),
    [
        ([{"name": "a"}], "", "a"), ([{"name": "a"}, {"name": "main"}], "", "main"),
        ([{"name": "a"}, {"name": "main"}], "a", "a"), ([{"name": "a"}, {"name": "b"}], "", None),
        ([{"name": "a"}], "b", None),
    ],
)  # fmt: skip
def test_the_engines_container(containers, name, expected):
    """The named one, else main, else the only one."""
    if expected is None:
        with pytest.raises(Unfit):
            podspec.target(containers, name)
    else:
        assert podspec.target(containers, name)["name"] == expected


def test_names_fit_into_labels():
    """A Job's name becomes one."""
    assert api.job_name("short") == "checkpoint-short"
    assert len(api.job_name("x" * 200)) <= 63
    assert api.job_name("x" * 199) != api.job_name("x" * 200)


@pytest.mark.parametrize("end", ["", ".", "-", ".-."])
def test_a_long_name_is_not_cut_into_an_invalid_one(end):
    """No part of a name between dots begins or ends with a hyphen."""
    name = api.job_name("x" * (43 - len(end)) + end + "y" * 60)
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", name)
