"""What the operator makes of pods: the Job that creates, the worker that restores."""

import json
import subprocess
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamo_entry.errors import SettingsError
from dynamo_entry.kube import api, config, graphs, identity, podspec, storage
from dynamo_entry.kube.identity import identity_hash
from dynamo_entry.kube.operator import checkpoints as checkpoints_
from dynamo_entry.kube.operator import jobs
from dynamo_entry.kube.operator.automatic import Graphs
from dynamo_entry.kube.operator.run import _pod_marks
from dynamo_entry.kube.podspec import Unfit
from dynamo_entry.kube.webhook.admission import Known, mutate, validate
from dynamo_entry.settings import from_environment

HASH = "d936422b4f953f99"
IDENTITY = {
    "model": "meta-llama/Llama-3-8B",
    "framework": "vllm",
    "tensorParallelSize": 1,
    "dtype": "bfloat16",
}
PVC = config.parse("")
S3 = config.parse("storage: {type: s3, s3: {uri: 's3://bucket/prefix/', credentialsSecretRef: keys}}")
SHARED = config.parse("storage: {type: s3, isolateNamespaces: false, s3: {uri: 's3://b'}}")
OCI = config.parse("storage: {type: oci, oci: {uri: 'oci://host/repository', credentialsSecretRef: keys}}")


def checkpoint(container=None, status=None, **job):
    main = {
        "name": "main",
        "image": "i",
        "command": ["python3", "-m", "dynamo.vllm"],
        "args": ["--model", "m"],
    }
    template = {"spec": {"containers": [main | (container or {})]}}
    return {
        "metadata": {
            "name": "model",
            "namespace": "n",
            "uid": "u",
            "creationTimestamp": "2024-01-01T00:00:00Z",
        },
        "spec": {"identity": IDENTITY, "job": {"podTemplateSpec": template} | job},
        "status": status or {},
    }


def created(made, **options):
    job = jobs.creation(options.pop("config", PVC), made, HASH, force=options.pop("force", False))
    pod = job["spec"]["template"]
    return job, pod, podspec.target(pod["spec"]["containers"])


def environ(container):
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container["env"]}


# --- storage


@pytest.mark.parametrize(
    ("settings", "location"),
    [
        (PVC, f"/checkpoints/{HASH}.tar"),
        (S3, f"s3://bucket/prefix/n/{HASH}.tar"),
        (OCI, f"oci://host/repository/n:{HASH}"),
        (SHARED, f"s3://b/{HASH}.tar"),
    ],
)
def test_locations(settings, location):
    """Of each namespace its own, unless they share."""
    assert storage.location(settings, HASH, "n") == location


def test_claims_are_shared_within_a_namespace_only():
    """A claim of the same name in another namespace is another claim; a bucket is one, if it may be shared."""
    assert storage.key(PVC, HASH, "a") != storage.key(PVC, HASH, "b")
    assert storage.key(S3, HASH, "a") != storage.key(S3, HASH, "b")
    assert storage.key(SHARED, HASH, "a") == storage.key(SHARED, HASH, "b")


@pytest.mark.parametrize(("isolates", "path"), [("true", "/var/cache/node/n"), ("false", "/var/cache/node")])
def test_restoring_pods_of_a_namespace_share_a_directory(isolates, path):
    """Which they write to; nobody else gets it, nor a pod whose archive is on a claim."""
    text = "storage: {{type: {}, isolateNamespaces: {}, nodeCache: {{hostPath: /var/cache/node/}}, s3: {{uri: 's3://b'}}}}"
    settings = config.parse(text.format("s3", isolates))
    wired = storage.wiring(settings, HASH, "n", creates=False)
    (volume,) = (one for one in wired.volumes if one["name"] == "checkpoint-node-cache")
    assert volume["hostPath"] == {"path": path, "type": "DirectoryOrCreate"}
    (mount,) = (one for one in wired.mounts if one["name"] == "checkpoint-node-cache")
    assert not mount.get("readOnly")
    env = {one["name"]: one.get("value") for one in wired.env}
    assert env["DYNAMO_CHECKPOINT_NODE_CACHE_DIR"] == mount["mountPath"]
    others = [
        storage.wiring(settings, HASH, "n", creates=True).volumes,
        storage.wiring(config.parse(text.format("pvc", isolates)), HASH, "n", creates=False).volumes,
        storage.wiring(S3, HASH, "n", creates=False).volumes,
        jobs.probe(settings, checkpoint(), HASH)["spec"]["template"]["spec"]["volumes"],
    ]
    assert not any(one["name"] == "checkpoint-node-cache" for volumes in others for one in volumes)


@pytest.mark.parametrize(
    ("settings", "path"),
    [(S3, "/var/lib/dynamo-checkpoint/cache/n"), (SHARED, "/var/lib/dynamo-checkpoint/cache")],
)
def test_a_worker_sees_the_copies_of_its_own_namespace(settings, path):
    """Not those of others, which hold their engines' memory."""
    wired = storage.wiring(settings, HASH, "n", creates=False)
    (volume,) = (one for one in wired.volumes if "hostPath" in one)
    assert volume["hostPath"]["path"] == path
    env = {one["name"]: one.get("value") for one in wired.env}
    assert env["DYNAMO_CHECKPOINT_PATH"] == f"/var/cache/dynamo-checkpoint/{HASH}.tar"


@pytest.mark.parametrize("settings", [PVC, S3, OCI])
def test_no_secret_can_keep_a_pod_from_starting(settings):
    """Every reference is optional."""
    wired = storage.wiring(settings, HASH, "n", creates=False)
    for variable in wired.env:
        if "valueFrom" in variable:
            assert variable["valueFrom"]["secretKeyRef"]["optional"] is True
    for volume in wired.volumes:
        if "secret" in volume:
            assert volume["secret"]["optional"] is True


def test_a_private_authority_is_the_launchers_alone():
    """The engine's own connections go on as without us."""
    wired = storage.wiring(
        config.parse("storage: {type: s3, caSecretRef: ca, s3: {uri: 's3://b'}}"), HASH, "n", creates=False
    )
    env = {one["name"]: one.get("value", "") for one in wired.env}
    assert env["DYNAMO_CHECKPOINT_CA_FILE"] == "/var/run/dynamo-checkpoint/ca/ca.crt"
    assert all(name.startswith("DYNAMO_CHECKPOINT_") for name in env)


SIGNED = config.parse(
    "storage: {type: s3, keySecretRef: seal, signKeySecretRef: sign, verifyKeySecretRef: verify, s3: {uri: 's3://b',"
    " credentialsSecretRef: write, restoreCredentialsSecretRef: read}}"
)
SIGNED_OCI = config.parse(
    "storage: {type: oci, oci: {uri: 'oci://h/r', credentialsSecretRef: write, restoreCredentialsSecretRef: read}}"
)


def secrets(spec, container):
    """The Secrets that a container has, mounted or as variables."""
    mounted = {one["name"] for one in container["volumeMounts"]}
    found = {
        one["secret"]["secretName"] for one in spec["volumes"] if one["name"] in mounted and "secret" in one
    }
    for one in container["env"]:
        if "valueFrom" in one:
            found.add(one["valueFrom"]["secretKeyRef"]["name"])
    return found


@pytest.mark.parametrize(
    ("settings", "creates", "restores"),
    [
        (SIGNED, {"write", "seal", "sign", "verify"}, {"read", "seal", "verify"}),
        (SIGNED_OCI, {"write"}, {"read"}),
        (S3, {"keys"}, {"keys"}),
        (OCI, {"keys"}, {"keys"}),
    ],
)
def test_who_has_which_secret(settings, creates, restores):
    """Only a creating container can sign, or write where read-only credentials are given; nor can helpers sign."""
    _, made, main = created(checkpoint(), config=settings)
    assert secrets(made["spec"], main) == creates
    worker = mutate(settings, pod(), "n", known(REF, [READY])).pod["spec"]
    assert secrets(worker, worker["containers"][0]) == restores
    for job, expected in (
        (jobs.probe(settings, checkpoint(), HASH), restores),
        (jobs.collection(settings, checkpoint(), HASH), creates - {"sign"}),
    ):
        spec = job["spec"]["template"]["spec"]
        assert secrets(spec, spec["containers"][0]) == expected


def test_keys_are_directories_so_that_they_can_be_exchanged():
    """Every entry of a Secret is a key."""
    _, made, main = created(checkpoint(), config=SIGNED)
    mounts = {one["name"]: one["mountPath"] for one in main["volumeMounts"]}
    for variable, volume in (("KEY", "key"), ("SIGN_KEY", "sign-key"), ("VERIFY_KEY", "verify-key")):
        assert environ(main)[f"DYNAMO_CHECKPOINT_{variable}_FILE"] == mounts[f"checkpoint-{volume}"]
        (source,) = (one for one in made["spec"]["volumes"] if one["name"] == f"checkpoint-{volume}")
        assert "items" not in source["secret"]


DIGEST = "blake3:" + "0" * 64


@pytest.mark.parametrize(
    ("status", "digest"),
    [
        ({"phase": "Ready", "digest": DIGEST}, DIGEST),
        ({"phase": "Ready"}, None),
        ({"phase": "Ready", "digest": "nonsense"}, None),
        ({"phase": "Creating", "digest": DIGEST}, None),
    ],
)
def test_a_worker_restores_the_archive_of_the_status_and_no_other(status, digest):
    """One that is being replaced is not pinned; a damaged status ends no pod."""
    worker = mutate(S3, pod(), "n", known(REF, [checkpoint(status=status)])).pod
    assert environ(worker["spec"]["containers"][0]).get("DYNAMO_CHECKPOINT_DIGEST") == digest


def test_the_engine_of_a_worker_has_no_storage_credentials():
    """Neither restored nor started cold; its own stay."""
    worker = mutate(S3, pod({"env": [{"name": "AWS_REGION", "value": "eu"}]}), "n", known(REF, [READY])).pod
    main = worker["spec"]["containers"][0]
    dropped = environ(main)["DYNAMO_CHECKPOINT_DROP_ENV"].split(",")
    assert "AWS_SECRET_ACCESS_KEY" in dropped
    assert "AWS_REGION" not in dropped
    assert environ(main)["AWS_REGION"] == "eu"


def test_a_worker_cannot_write_the_archive():
    """Its mount is read-only, the creator's is not."""
    assert storage.wiring(PVC, HASH, "n", creates=False).mounts[0]["readOnly"] is True
    assert "readOnly" not in storage.wiring(PVC, HASH, "n", creates=True).mounts[0]


# --- the Job


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


def test_the_users_environment_wins_unless_it_makes_two_truths():
    """A timeout may be set; another location may not."""
    _, _, main = created(checkpoint({"env": [{"name": "DYNAMO_CHECKPOINT_SIGNAL_TIMEOUT", "value": "9"}]}))
    assert environ(main)["DYNAMO_CHECKPOINT_SIGNAL_TIMEOUT"] == "9"
    with pytest.raises(Unfit, match="DYNAMO_CHECKPOINT_LOCATION"):
        created(checkpoint({"env": [{"name": "DYNAMO_CHECKPOINT_LOCATION", "value": "/elsewhere"}]}))


def test_storage_credentials_stay_out_of_the_dump():
    """Those that only the launcher needs are withheld from the engine; the engine's own are not."""
    _, _, main = created(checkpoint({"env": [{"name": "AWS_REGION", "value": "eu"}]}), config=S3)
    dropped = environ(main)["DYNAMO_CHECKPOINT_DROP_ENV"].split(",")
    assert "AWS_SECRET_ACCESS_KEY" in dropped
    assert "AWS_REGION" not in dropped
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


# --- the worker's command


WORDS = st.lists(
    st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), max_size=12),
    min_size=1,
    max_size=5,
)


@pytest.mark.parametrize(
    "launcher", [["sh", "-c", 'printf "%s\\n" launcher', "x", "--"], ["no-such-launcher", "--"]]
)
@settings(deadline=None, max_examples=25)
@given(words=WORDS)
def test_the_guard_hands_over_the_very_words(launcher, words):
    """With the launcher in the image and without it; whatever blanks, quotes and dollars are in them."""
    show = ["/usr/bin/env", "python3", "-S", "-c", "import sys; print(ascii(sys.argv[1:]))"]
    operator = config.Config(launcher=config.Launcher(command=tuple(launcher)))
    wrapped = podspec.wrap({"name": "main", "command": show, "args": words}, operator, guard=True)
    shown = subprocess.run(wrapped["command"], capture_output=True, text=True, check=True).stdout
    assert shown == ("launcher\n" if launcher[0] == "sh" else ascii(words) + "\n")


@pytest.mark.parametrize(
    ("container", "command"),
    [
        ({"command": ["a"], "args": ["b c"]}, ["dynamo-entry", "--", "a", "b c"]),
        ({"args": ["python3 -m dynamo.vllm --model X"]}, None),
        ({}, None),
        ({"command": ["dynamo-entry", "--", "a"]}, ["dynamo-entry", "--", "a"]),
        (
            {"command": ["python3", "-m", "dynamo_entry", "--", "a"]},
            ["python3", "-m", "dynamo_entry", "--", "a"],
        ),
        ({"command": ["/bin/sh", "-c"], "args": ["a b"]}, ["dynamo-entry", "--", "/bin/sh", "-c", "a b"]),
    ],
)
def test_how_a_command_is_wrapped(container, command):
    """The image's ENTRYPOINT decides where there is none."""
    assert podspec.wrap(container, PVC, guard=False).get("command") == command


def test_a_known_entrypoint_is_wrapped():
    """The annotation says what the image would have run."""
    wrapped = podspec.wrap({"args": ["x"]}, PVC, guard=False, entrypoint=["/opt/entry.sh"])
    assert wrapped == {"command": ["dynamo-entry", "--", "/opt/entry.sh", "x"]}


ENTRYPOINT = {"dynamo-entry/entrypoint": '["/opt/entry.sh"]'}


@pytest.mark.parametrize("annotated", [("checkpoint",), ("template",), ("checkpoint", "template")])
def test_a_creation_wraps_the_known_entrypoint(annotated):
    """The checkpoint says it, or its template, as a graph's pod does; without it nobody would freeze the engine."""
    made = checkpoint({"command": None, "args": ["x"]})
    template = made["spec"]["job"]["podTemplateSpec"]
    for where in annotated:
        metadata = made["metadata"] if where == "checkpoint" else template.setdefault("metadata", {})
        metadata["annotations"] = dict(ENTRYPOINT)
    if len(annotated) == 2:
        made["metadata"]["annotations"] = {"dynamo-entry/entrypoint": '["other"]'}
    _, _, main = created(made)
    assert main["command"] == ["dynamo-entry", "--", "/opt/entry.sh", "x"]


WRONG_ENTRYPOINTS = [
    '"/opt/entry.sh"',
    "[1]",
    "/opt/entry.sh",
    "[]",
    '[""]',
    "[[]]",
    "null",
    "{}",
    "\ud800",
    "[" * 9999,
]


@pytest.mark.parametrize("text", WRONG_ENTRYPOINTS)
def test_a_wrong_entrypoint_breaks_no_pod(text):
    """The pod starts as it would without us; a checkpoint says what is wrong."""
    wrong = {"dynamo-entry/entrypoint": text}
    answer = mutate(PVC, pod({"command": None}, annotations=wrong), "n", known(REF, [READY]))
    assert (answer.pod, answer.reason) == (None, "EntrypointInvalid")
    assert "JSON list" in answer.message
    made = checkpoint({"command": None})
    made["metadata"]["annotations"] = wrong
    with pytest.raises(Unfit) as caught:
        created(made)
    assert caught.value.reason == "EntrypointInvalid"
    assert "dynamo-entry/entrypoint" in validate(None, made)


# --- admission


def graph(**fields):
    service = {"checkpoint": {"enabled": True} | fields}
    return {"metadata": {"name": "g", "namespace": "n"}, "spec": {"services": {"Worker": service}}}


def pod(container=None, labels=None, annotations=None, **spec):
    main = {"name": "main", "command": ["serve"], "env": [{"name": "A", "value": "1"}]} | (container or {})
    marks = {"nvidia.com/dynamo-graph-deployment-name": "g", "nvidia.com/dynamo-component": "Worker"}
    return {
        "metadata": {"labels": marks if labels is None else labels, "annotations": annotations or {}},
        "spec": {"containers": [main, {"name": "sidecar", "command": ["x"]}]} | spec,
    }


def known(graphs_=None, checkpoints=()):
    """As the operator's watches have them."""
    by_name = {one["metadata"]["name"]: checkpoints_.known(one) for one in checkpoints}
    return Known(
        lambda namespace, name: graphs_,
        lambda namespace, name: by_name.get(name),
        lambda key: next(iter(by_name.values()), None),
    )


USABLE = [{"type": "StorageUsable", "status": "True"}]
READY = checkpoint(status={"phase": "Ready", "conditions": USABLE})
SNAPSHOT = {"name": "DYNAMO_CHECKPOINT_PROTOCOL", "value": "vllm-snapshot"}
SNAPSHOT_SERVER = ["python3", "-m", "vllm.snapshot.server", "--ready-file", "/r", "--release-file", "/l", "m"]
REFUSED = checkpoint(
    status={"phase": "Pending", "conditions": [{"type": "Ready", "status": "False", "reason": "NotAdmitted"}]}
)
REF = graph(checkpointRef="model")
AUTO = graph(mode="auto", identity=IDENTITY)


@pytest.mark.parametrize(
    ("case", "made", "what", "settings", "reason"),
    [
        ("reference, Ready", pod(), known(REF, [READY]), PVC, "injected"),
        ("auto, Ready", pod(), known(AUTO, [READY]), PVC, "injected"),
        ("reference, absent", pod(), known(REF), PVC, "no-checkpoint"),
        ("pvc, not Ready: the claim may not bind", pod(), known(REF, [checkpoint()]), PVC, "not-ready"),
        ("pvc, Ready, but the claim went", pod(), known(REF, [checkpoint(status={"phase": "Ready"})]), PVC, "not-ready"),
        ("s3, not Ready: it may become so", pod(), known(AUTO), S3, "injected"),
        ("Failed", pod(), known(REF, [checkpoint(status={"phase": "Failed"})]), S3, "failed"),
        ("its Job's pod is refused here", pod(), known(REF, [REFUSED]), S3, "not-admitted"),
        ("it was refused, and is no more", pod(), known(REF, [READY]), S3, "injected"),
        ("no such graph", pod(), known(), PVC, "unknown"),
        ("checkpointing is off", pod(), known(graph(enabled=False)), PVC, "unknown"),
        ("no identity", pod(), known(graph(mode="auto")), PVC, "unfit"),
        ("the pod opts out", pod(annotations={"dynamo-entry/skip": "true"}), known(REF, [READY]), PVC, "skipped"),
        (
            "it is configured already",
            pod({"env": [{"name": "DYNAMO_CHECKPOINT_MODE", "value": "cold"}]}), known(REF, [READY]), PVC, "configured",
        ),
        (
            "the path is taken",
            pod({"volumeMounts": [{"name": "x", "mountPath": "/checkpoints"}]}), known(REF, [READY]), PVC,
            "StorageMountConflict",
        ),
        ("any pod, by label", pod(labels={"nvidia.com/checkpoint-name": "model"}), known(None, [READY]), PVC, "injected"),
        (
            "one of several nodes",
            pod(labels={"nvidia.com/dynamo-multinode-role": "leader"}), known(REF, [READY]), PVC, "multinode",
        ),
    ],
)  # fmt: skip
def test_which_pods_are_wired(case, made, what, settings, reason):
    """Everything else is left as it is."""
    answer = mutate(settings, made, "n", what)
    assert answer.reason == reason, case
    assert (answer.pod is not None) == (reason == "injected")


THEIRS = [
    ({"annotations": {"nvidia.com/restore-from": "snap"}}, {}),
    ({"annotations": {"nvidia.com/restore-container-map": "main=engine-0"}}, {}),
    # Their webhook may come after ours: it makes such a pod one that their agent restores.
    ({"annotations": {"nvidia.com/dynamo-checkpoint-restore-candidate": "true"}}, {}),
    ({"labels": {"nvidia.com/snapshot-is-checkpoint-source": "true"}}, {}),
    ({"annotations": {"nvidia.com/snapshot-is-checkpoint-source": "true"}}, {}),
    ({}, {"env": [{"name": "SNAPSHOT_RESTORE_STANDBY", "value": "1"}]}),
    ({}, {"env": [{"name": "DYN_SNAPSHOT_RESTORE_STANDBY", "value": "1"}]}),
]


def marked(marks, container, labels):
    made = pod(container, labels=labels)
    for kind, values in marks.items():
        made["metadata"][kind] = made["metadata"][kind] | values
    return made


@pytest.mark.parametrize(("marks", "container"), THEIRS)
@pytest.mark.parametrize("labels", [None, {"nvidia.com/checkpoint-name": "model"}])
def test_pods_of_nvidias_own_snapshots_are_left_alone(marks, container, labels):
    """Their node agent captures or restores them: with our launcher in front it would find another process."""
    answer = mutate(PVC, marked(marks, container, labels), "n", known(REF, [READY]))
    assert answer == (None, "snapshot", "")


@pytest.mark.parametrize(("marks", "container"), THEIRS)
def test_nothing_is_created_from_a_pod_of_nvidias_own_snapshots(marks, container):
    """Its worker waits for their agent, and would wait for ever in a Job of ours."""
    theirs, ours = marked(marks, container, None), pod()
    theirs["metadata"]["name"], ours["metadata"]["name"] = "theirs", "ours"
    by_name = {"g": AUTO, "theirs": theirs, "ours": ours}
    made = []
    cluster = SimpleNamespace(
        find=lambda path: by_name[path.rpartition("/")[2]], create=lambda path, body: made.append(body)
    )
    present = [theirs]
    watcher = Graphs(
        PVC, cluster, None, SimpleNamespace(info=lambda *_, **__: None), pods=lambda *_: present, sharing=lambda key: None
    )  # fmt: skip
    assert watcher.reconcile(("n", "g")) > 0
    assert not made
    present.append(ours)
    watcher.reconcile(("n", "g"))
    (one,) = made
    assert (
        one["spec"]["job"]["podTemplateSpec"]["spec"]["containers"][0]["env"]
        == ours["spec"]["containers"][0]["env"]
    )


@pytest.mark.parametrize("marks", [marks for marks, _ in THEIRS if marks])
def test_a_template_of_nvidias_own_snapshots_is_refused(marks):
    """Two agents on one pod: it is said at once, not after the deadline."""
    made = checkpoint()
    made["spec"]["job"]["podTemplateSpec"]["metadata"] = marks
    with pytest.raises(Unfit, match=r"nvidia.com/(snapshot|restore|dynamo-checkpoint)") as caught:
        created(made)
    assert caught.value.reason == "TemplateInvalid"


def test_only_the_engine_is_touched_and_once():
    """Sidecars stay; a second pass changes nothing; what was added can be taken away again."""
    before = pod({"securityContext": {"runAsUser": 0}})
    after = mutate(PVC, before, "n", known(REF, [READY])).pod
    main, sidecar = after["spec"]["containers"]
    assert sidecar == before["spec"]["containers"][1]
    assert environ(main)["A"] == "1"
    assert main["securityContext"]["capabilities"]["add"] == ["CHECKPOINT_RESTORE", "SYS_PTRACE"]
    assert "seccompProfile" not in main["securityContext"]
    assert after["metadata"]["labels"]["nvidia.com/checkpoint-hash"] == HASH
    assert environ(main)["DYNAMO_CHECKPOINT_STATE_DIR"] == "/checkpoint-state"
    mounted = {one["mountPath"]: one["name"] for one in main["volumeMounts"]}
    assert {"name": mounted["/checkpoint-state"], "emptyDir": {"sizeLimit": "16Mi"}} in after["spec"][
        "volumes"
    ]
    assert mutate(PVC, after, "n", known(REF, [READY])).reason == "configured"
    assert mounted["/dev/shm"] == "checkpoint-shm"
    undone = podspec.undone(after["spec"], after["metadata"]["annotations"]["dynamo-entry/injected"])
    assert undone["containers"][0] == before["spec"]["containers"][0] | {"volumeMounts": []}
    assert undone["volumes"] == []


@pytest.mark.parametrize(
    ("options", "own", "size"),
    [
        (None, None, "8Gi"),
        ({"size": "16Gi"}, None, "16Gi"),
        ({"size": "1e11"}, None, "1e11"),
        ({"size": "500000k"}, None, "500000k"),
        ({"size": 1073741824}, None, "1073741824"),
        ({"disabled": True}, None, None),
        (None, "/dev/shm", None),
        (None, "/dev/shm/", None),
    ],
)
def test_shared_memory_is_that_of_the_creation(options, own, size):
    """The runtime's 64 MiB are too little for what is restored; a pod's own is left."""
    main = {"volumeMounts": [{"name": "mine", "mountPath": own}] if own else []}
    volumes = [{"name": "mine", "emptyDir": {}}, {"name": "checkpoint-shm", "emptyDir": {}}]
    fields = {"sharedMemory": options} if options else {}
    made = checkpoint(main, status=READY["status"], **fields)
    made["spec"]["job"]["podTemplateSpec"]["spec"]["volumes"] = volumes
    _, creating, creator = created(made)
    worker = mutate(PVC, pod(main, volumes=volumes), "n", known(REF, [made])).pod["spec"]
    for spec, container in ((creating["spec"], creator), (worker, worker["containers"][0])):
        names = [one["name"] for one in container["volumeMounts"] if one["mountPath"].startswith("/dev/shm")]
        found = [one["emptyDir"] for one in spec["volumes"] if one["name"] in names and one["name"] != "mine"]
        assert found == ([{"medium": "Memory", "sizeLimit": size}] if size else [])
        assert len(names) == (1 if size or own else 0)


def test_a_restored_worker_of_dynamo_finds_its_directory():
    """An emptyDir of its own at the path that it was frozen with; the variable is the launcher's to set."""
    before = pod(
        {"command": ["python3", "-m", "dynamo.vllm"]},
        volumes=[{"name": "x", "emptyDir": {"sizeLimit": "16Mi"}}],
    )
    after = mutate(PVC, before, "n", known(REF, [READY])).pod
    main = after["spec"]["containers"][0]
    names = {
        one["name"]
        for one in main["volumeMounts"]
        if one["mountPath"] in ("/checkpoint-control", "/checkpoint-state")
    }
    assert len(names - {"x"}) == 2
    assert "DYN_SNAPSHOT_CONTROL_DIR" not in environ(main)


@pytest.mark.parametrize(
    ("job", "served", "has_directory"),
    [
        ({"env": [SNAPSHOT]}, {}, True),
        ({"command": SNAPSHOT_SERVER}, {}, True),
        ({}, {"env": [SNAPSHOT]}, True),
        ({}, {}, False),
    ],
)
def test_a_replica_of_a_paused_engine_finds_the_directory_whatever_its_own_command(
    job, served, has_directory
):
    """PROTOCOL says what the engine is; a pod that has no other variable of the launcher's is wired."""
    spec = {"command": ["vllm", "serve", "m"]}
    made = checkpoint({**spec, **job}, status=READY["status"])
    after = mutate(PVC, pod({**spec, **served}), "n", known(REF, [made]))
    assert after.reason == "injected"
    mounts = after.pod["spec"]["containers"][0]["volumeMounts"]
    assert ("/checkpoint-control" in [one["mountPath"] for one in mounts]) == has_directory


def test_probes_ask_more_often_within_the_same_time():
    """A slow period would cost more than the restore; a cold start must still have its time."""
    probe = {"periodSeconds": 10, "failureThreshold": 720, "initialDelaySeconds": 5, "httpGet": {"port": 1}}
    after = mutate(PVC, pod({"startupProbe": probe, "livenessProbe": probe}), "n", known(REF, [READY])).pod
    main = after["spec"]["containers"][0]
    assert main["startupProbe"] == {"periodSeconds": 1, "failureThreshold": 7205, "httpGet": {"port": 1}}
    assert main["livenessProbe"] == probe


def test_what_a_checkpoint_may_not_be():
    """Immutable in what it is of, defaults aside; and it must say which container is the engine."""
    old = checkpoint()
    same = json.loads(json.dumps(old))
    same["spec"]["identity"]["pipelineParallelSize"] = 1
    assert validate(old, same) == ""
    same["spec"]["identity"]["model"] = "other"
    assert "immutable" in validate(old, same)
    same["metadata"]["deletionTimestamp"] = "now"
    assert validate(old, same) == ""
    assert "targetContainerName" in validate(None, checkpoint(targetContainerName="gone"))
    large = checkpoint(targetContainerName="main")
    large["spec"]["job"]["podTemplateSpec"]["metadata"] = {"annotations": {"x": "y" * (1 << 20)}}
    assert "bytes" in validate(None, large)
    assert "bytes" in validate(checkpoint(), large)
    assert validate(large, json.loads(json.dumps(large))) == "", (
        "one that is there keeps its finalizer and its labels"
    )
    both = checkpoint()
    both["spec"]["identity"] = IDENTITY | {"backendFramework": "sglang"}
    assert "differ" in validate(None, both)


# --- graphs


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"enabled": False}, None),
        ({"checkpointRef": "x", "identity": IDENTITY}, graphs.Want(ref="x", is_deprecated=True)),
        ({"mode": "Manual", "identity": IDENTITY}, (False, HASH)),
        ({"mode": "Auto", "identity": IDENTITY}, (True, HASH)),
        ({"identity": IDENTITY}, (True, HASH)),
    ],
)
def test_what_a_service_wants(fields, expected):
    """A reference goes before an identity; Auto is read in either case."""
    want = graphs.wants(graph(**fields)).get("Worker")
    if isinstance(expected, tuple) and not isinstance(expected, graphs.Want):
        assert (want.creates, identity_hash(want.identity)) == expected
    else:
        assert want == expected


def test_the_later_version_of_graphs():
    """Components are a list there."""
    later = {
        "spec": {
            "components": [
                {"name": "w", "experimental": {"checkpoint": {"enabled": True, "checkpointRef": "x"}}}
            ]
        }
    }
    assert graphs.wants(later) == {"w": graphs.Want(ref="x")}


@pytest.mark.parametrize(
    ("container", "model", "framework"),
    [
        ({"command": ["python3", "-m", "dynamo.vllm"], "args": ["--model", "Qwen/Qwen3-0.6B"]}, "Qwen/Qwen3-0.6B", "vllm"),
        ({"args": ["python3 -m dynamo.sglang --model-path=/models/x --tp 2"]}, "/models/x", "sglang"),
        ({"command": ["/bin/sh", "-c"], "args": ["exec python3 -m dynamo.trtllm --model 'a/b'"]}, "a/b", "trtllm"),
        ({"command": ["vllm", "serve", "a/b", "--port", "1"]}, "a/b", "vllm"),
        (
            {"args": ["python3 -m dynamo.vllm --model $(MODEL)"], "env": [{"name": "MODEL", "value": "a/b"}]},
            "a/b", "vllm",
        ),
        ({"command": ["python3", "-m", "dynamo.vllm"]}, None, None),
        ({"command": ["serve", "--model", "x"]}, None, None),
        ({}, None, None),
    ],
)  # fmt: skip
def test_the_identity_of_a_service_that_says_none(container, model, framework):
    """What its engine's command says."""
    found = identity.derived_identity(container)
    assert (found and (found["model"], found["framework"])) == (model and (model, framework))


@pytest.mark.parametrize(
    ("change", "is_same"),
    [
        ({"image": "other"}, False),
        ({"args": ["--model", "m", "--tp", "2"]}, False),
        ({"resources": {"limits": {"nvidia.com/gpu": 2}}}, False),
        ({"resources": {"limits": {"nvidia.com/gpu": "1", "memory": "9Gi"}}}, True),
        ({"env": [{"name": "DYN_NAMESPACE", "value": "x"}]}, True),
    ],
)
def test_what_makes_another_identity(change, is_same):
    """The image, the command and the GPUs; not what differs between deployments of the same."""
    engine = {
        "image": "i", "command": ["python3", "-m", "dynamo.vllm"], "args": ["--model", "m"],
        "resources": {"limits": {"nvidia.com/gpu": 1}},
    }  # fmt: skip
    assert (identity.derived_identity(engine) == identity.derived_identity(engine | change)) == is_same


VLLM = {"command": ["python3", "-m", "dynamo.vllm"], "args": ["--model", "m"]}
LATER = {
    "kind": "DynamoGraphDeployment", "apiVersion": "nvidia.com/v1beta1",
    "metadata": {"name": "g", "namespace": "n", "uid": "graph"},
    "spec": {"components": [{"name": "Worker", "experimental": {"checkpoint": {"enabled": True}}}]},
}  # fmt: skip


def test_a_service_that_is_enabled_and_says_no_more():
    """The pod's own command is its identity, before our webhook and after it."""
    answer = mutate(S3, pod(VLLM), "n", known(LATER))
    assert answer.reason == "injected"
    hash_ = answer.pod["metadata"]["labels"]["nvidia.com/checkpoint-hash"]
    want = graphs.wants(LATER)["Worker"]
    for one in (pod(VLLM), answer.pod):
        assert identity_hash(graphs.settled(want, one).identity) == hash_


def test_nvidias_own_snapshots_are_meant_where_they_are_served():
    """Two operators would create one checkpoint each; a graph with an identity means ours."""
    served = known(LATER)._replace(are_snapshots_served=True)
    assert mutate(S3, pod(VLLM), "n", served) == (None, "snapshot", "")
    served = known(AUTO, [READY])._replace(are_snapshots_served=True)
    assert mutate(S3, pod(VLLM), "n", served).reason == "injected"


@pytest.mark.parametrize(
    ("policy", "phase", "annotations", "expected"),
    [
        ("WaitForCheckpoint", "Creating", {}, "600"),
        ("WaitForCheckpoint", "Ready", {}, None),
        ("WaitForCheckpoint", "Creating", {"dynamo-entry/wait-seconds": "5"}, "5"),
        ("Immediate", "Creating", {}, None),
    ],
)
def test_how_a_pod_starts_while_there_is_no_archive(policy, phase, annotations, expected):
    """At once and cold, or it waits for as long as the creation may take."""
    made = graph(checkpointRef="model", startupPolicy=policy)
    present = checkpoint(status={"phase": phase}, activeDeadlineSeconds=600)
    worker = mutate(S3, pod(annotations=annotations), "n", known(made, [present])).pod
    assert environ(worker["spec"]["containers"][0]).get("DYNAMO_CHECKPOINT_WAIT") == expected


def test_the_container_that_a_graph_names():
    """It goes before the checkpoint's, and before main."""
    made = graph(checkpointRef="model", targetContainerName="sidecar")
    worker = mutate(S3, pod(), "n", known(made, [READY])).pod
    main, other = worker["spec"]["containers"]
    assert "DYNAMO_CHECKPOINT_HASH" not in environ(main)
    assert environ(other)["DYNAMO_CHECKPOINT_HASH"] == HASH


class World:
    """A graph, its one pod, and what is written."""

    def __init__(
        self, graph_, container=VLLM, found=None, *, snapshots=(), is_served=False, marks=(), settings=S3
    ):
        one = pod(container, annotations=dict.fromkeys(marks, "x"))
        one["metadata"] |= {"name": "worker", "namespace": "n"}
        self.objects = {
            f"{api.GRAPHS}/g": graph_, "pods/worker": one, **{f"podsnapshots/{name}": {} for name in snapshots}
        }  # fmt: skip
        self.made, self.merged, self.told, self.asked = [], [], [], []
        recorder = SimpleNamespace(
            event=lambda _subject, reason, message: self.told.append((reason, message))
        )
        log = SimpleNamespace(info=lambda *_, **__: None)
        self.graphs = Graphs(
            settings, self, recorder, log, pods=lambda *_: [_pod_marks(one)], sharing=lambda _key: found,
            are_snapshots_served=is_served,
        )  # fmt: skip

    def find(self, path):
        self.asked.append(path)
        return self.objects.get("/".join(path.split("/")[-2:]))

    def create(self, _path, body):
        self.made.append(body)

    def merge(self, path, body):
        self.merged.append((path, body))

    def look(self):
        return self.graphs.reconcile(("n", "g"))


def test_a_service_that_is_enabled_and_says_no_more_brings_its_checkpoint_about():
    """Under the hash that its pods get; where NVIDIA's own are served, nothing is made and nothing said."""
    world = World(LATER)
    assert world.look() == 0
    (one,) = world.made
    hash_ = mutate(S3, pod(VLLM), "n", known(LATER)).pod["metadata"]["labels"]["nvidia.com/checkpoint-hash"]
    assert one["metadata"]["name"] == f"auto-{hash_}"
    assert "deletionPolicy" not in one["spec"]
    assert "ownerReferences" not in one["metadata"]
    theirs = World(LATER, is_served=True)
    assert theirs.look() == 0
    assert not theirs.made
    assert not theirs.told
    unclear = World(LATER, {"command": ["serve"]})
    unclear.look()
    ((reason, message),) = unclear.told
    assert reason == "InvalidCheckpoint"
    assert "names no model" in message


def test_a_pod_that_another_webhook_changed_after_ours():
    """Its checkpoint would never be found again: it is said instead of made."""
    world = World(LATER)
    one = world.objects["pods/worker"]
    one["metadata"]["labels"]["nvidia.com/checkpoint-hash"] = "0" * 16
    assert world.look() == 0
    assert not world.made
    ((reason, message),) = world.told
    assert reason == "InvalidCheckpoint"
    assert "webhook" in message


def deleted_with(**fields):
    made = json.loads(json.dumps(LATER))
    made["spec"]["components"][0]["experimental"]["checkpoint"] |= {"deletionPolicy": "Delete"} | fields
    return made


def test_a_checkpoint_that_ends_with_its_graphs():
    """The server deletes it with the last one that uses it."""
    world = World(deleted_with())
    world.look()
    (one,) = world.made
    assert one["spec"]["deletionPolicy"] == "Delete"
    (owner,) = one["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner["apiVersion"]) == (
        "DynamoGraphDeployment", "graph", "nvidia.com/v1beta1"
    )  # fmt: skip
    present = one | {"metadata": one["metadata"] | {"uid": "c", "resourceVersion": "3"}}
    again = World(deleted_with(), found=present)
    again.look()
    assert not again.merged
    other = deleted_with()
    other["metadata"]["uid"] = "second"
    joins = World(other, found=present)
    joins.look()
    ((_, change),) = joins.merged
    assert [one["uid"] for one in change["metadata"]["ownerReferences"]] == ["graph", "second"]
    assert change["metadata"]["resourceVersion"] == "3"


@pytest.mark.parametrize(("snapshots", "reasons"), [(["x"], []), ([], ["WaitingForCheckpoint"])])
def test_a_reference_to_a_snapshot_of_nvidias_own(snapshots, reasons):
    """Is not missed; a name that nothing has is."""
    world = World(graph(checkpointRef="x"), snapshots=snapshots, is_served=True)
    world.look()
    assert [reason for reason, _ in world.told] == reasons
    assert mutate(S3, pod(), "n", known(graph(checkpointRef="x"))).reason == "no-checkpoint"


MARKED = ("nvidia.com/restore-from",)


@pytest.mark.parametrize(
    ("fields", "marks", "said"),
    [
        ({"identity": IDENTITY}, (), "goes by them"),
        ({"identity": IDENTITY}, MARKED, "left alone"),
        ({"identity": IDENTITY, "checkpointRef": "x"}, (), "checkpointRef goes before"),
        ({"mode": "Auto", "checkpointRef": "x"}, MARKED, "left alone"),
        ({"mode": "Auto"}, (), "left alone"),
        ({"mode": "Manual"}, (), "left alone"),
        ({}, (), None),
        ({"checkpointRef": "x"}, (), None),
    ],
)
@pytest.mark.parametrize("is_served", [True, False])
def test_fields_that_dynamo_does_not_read_any_more(is_served, fields, marks, said):
    """They work here; it is said where Dynamo's operator is one that ignores them, and what becomes of its pods."""
    world = World(graph(**fields), found=READY, is_served=is_served, marks=marks)
    world.objects[f"{api.CHECKPOINTS}/x"] = READY
    world.look()
    told = [message for reason, message in world.told if reason == "DeprecatedFields"]
    assert len(told) == (1 if said and is_served else 0)
    assert all(said in one for one in told)


def test_pods_of_nvidias_own_snapshots_are_not_asked_for_again_and_again():
    """The watch tells when one comes that is ours."""
    world = World(AUTO, marks=MARKED, is_served=True)
    assert world.look() == 0
    assert not [path for path in world.asked if "/pods/" in path]
    assert not world.made


@pytest.mark.parametrize("fields", [{"identity": IDENTITY}, {"checkpointRef": "x"}, {}])
def test_a_job_of_the_graphs_own_is_not_used(fields):
    """Which is said: whoever wrote it would wonder."""
    job = {"podTemplate": {"spec": {"containers": []}}, "gmsClientContainers": ["a"]}
    for more, reasons in (({"job": job}, ["IgnoredFields"]), ({}, [])):
        world = World(graph(**fields, **more))
        world.look()
        assert [reason for reason, _ in world.told if reason == "IgnoredFields"] == reasons


@pytest.mark.parametrize(
    ("fields", "is_problem"),
    [({}, True), ({"identity": IDENTITY}, False), ({"checkpointRef": "x"}, False)],
)
def test_a_service_in_manual_mode_says_which_checkpoint(fields, is_problem):
    """Else it would start cold for ever, and nobody would know why."""
    world = World(graph(mode="Manual", **fields))
    assert world.look() == 0
    assert not world.made
    told = [message for reason, message in world.told if reason == "InvalidCheckpoint"]
    assert bool(told) == is_problem
    assert all("checkpointRef" in one for one in told)
    reason = mutate(S3, pod(VLLM), "n", known(graph(mode="Manual", **fields))).reason
    assert (reason == "unfit") == is_problem


@pytest.mark.parametrize(
    ("settings_", "policy", "status", "waits"),
    [
        (S3, "WaitForCheckpoint", {"phase": "Creating"}, True),
        (S3, "Immediate", {"phase": "Creating"}, False),
        (S3, "WaitForCheckpoint", {"phase": "Failed"}, False),
        (S3, "WaitForCheckpoint", REFUSED["status"], False),
        (S3, "WaitForCheckpoint", None, False),
        (PVC, "WaitForCheckpoint", {"phase": "Creating"}, False),
        (PVC, "WaitForCheckpoint", {"phase": "Creating", "conditions": USABLE}, True),
    ],
)
def test_what_a_graph_is_told_of_a_checkpoint_that_is_not_ready(settings_, policy, status, waits):
    """What its pods really do: the webhook goes by the same."""
    made = graph(checkpointRef="model", startupPolicy=policy)
    world = World(made, settings=settings_)
    present = [] if status is None else [checkpoint(status=status)]
    world.objects |= {f"{api.CHECKPOINTS}/model": one for one in present}
    world.look()
    ((_, message),) = world.told
    assert ("pods wait for it" in message) == waits
    assert ("start cold" in message) != waits
    worker = mutate(settings_, pod(), "n", known(made, present)).pod
    has_wait = worker is not None and "DYNAMO_CHECKPOINT_WAIT" in environ(worker["spec"]["containers"][0])
    assert has_wait == waits


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        ({"v1beta1": True, "v1alpha1": True}, "v1alpha1"),
        ({"v1beta1": True, "v1alpha1": False}, "v1beta1"),
        ({"v1beta1": True}, "v1beta1"),
        ({"v1alpha1": False}, ""),
    ],
)
def test_the_version_of_graphs_that_is_asked_for(versions, expected):
    """One that the server has."""
    served = [{"name": name, "served": is_served} for name, is_served in versions.items()]
    assert graphs.served_version({"spec": {"versions": served}}) == expected


def test_a_graph_of_a_later_version_is_looked_at():
    """Under the path of that version."""
    asked = []
    cluster = SimpleNamespace(find=asked.append)
    watcher = Graphs(S3, cluster, None, None, pods=lambda *_: (), sharing=lambda _: None, version="v1beta1")
    assert watcher.reconcile(("n", "g")) == 0
    assert asked == ["/apis/nvidia.com/v1beta1/namespaces/n/dynamographdeployments/g"]


def test_a_graph_is_told_that_its_checkpoint_failed():
    """Who looks at the graph sees why its pods start cold."""
    made = AUTO | {"kind": "DynamoGraphDeployment"}
    failed = checkpoint(status={"phase": "Failed", "message": "NotDumpable: io_uring"})
    told = []
    recorder = SimpleNamespace(event=lambda subject, reason, message: told.append((reason, message)))
    cluster = SimpleNamespace(find=lambda path: made)
    watcher = Graphs(PVC, cluster, recorder, None, pods=lambda *_: (), sharing=lambda key: failed)
    assert watcher.reconcile(("n", "g")) == 0
    ((reason, message),) = told
    assert reason == "CheckpointFailed"
    assert "NotDumpable: io_uring" in message


@pytest.mark.parametrize(
    "text", ["nonsense", "[]", "{}", '{"container": 1}', '{"container": "main", "env": null}']
)
def test_a_note_of_the_webhook_that_somebody_changed(text):
    """Is told on the graph; neither the webhook nor the operator stumbles."""
    world = World(LATER)
    world.objects["pods/worker"]["metadata"]["annotations"]["dynamo-entry/injected"] = text
    world.look()
    ((reason, message),) = world.told
    assert (reason, "dynamo-entry/injected" in message) == ("InvalidCheckpoint", True)
    changed = pod(VLLM, annotations={"dynamo-entry/injected": text})
    assert mutate(S3, changed, "n", known(LATER)).reason == "InjectedInvalid"


def test_a_template_from_a_pod():
    """Without what admission, the scheduler and our own webhook added; the engine alone; no labels of others."""
    wired = mutate(PVC, pod(), "n", known(REF, [READY])).pod
    spec = wired["spec"] | {
        "nodeName": "node-1", "priority": 5,
        "volumes": [*wired["spec"]["volumes"], {"name": "kube-api-access-x"}, {"name": "model"}],
        "initContainers": [{"name": "istio-init"}, {"name": "download"}],
    }  # fmt: skip
    template = graphs.template({"metadata": wired["metadata"], "spec": spec}, None)
    assert [one["name"] for one in template["spec"]["containers"]] == ["main"]
    assert template["spec"]["containers"][0]["command"] == ["serve"]
    assert [one["name"] for one in template["spec"]["initContainers"]] == ["download"]
    assert [one["name"] for one in template["spec"]["volumes"]] == ["model"]
    assert not template["spec"].keys() & {"nodeName", "priority"}
    assert "nvidia.com/dynamo-component" not in template["metadata"]["labels"]


CLOUDS = {
    "gcs": "gs://bucket/prefix",
    "azure": "az://container/prefix",
    "fsspec": "sftp://host/directory",
}


@pytest.mark.parametrize("kind", CLOUDS)
def test_what_fsspec_knows_is_wired_as_the_rest(kind):
    """The Secret is a directory of the launcher's, and the options are for the library."""
    text = (
        f"storage: {{type: {kind}, isolateNamespaces: true, {kind}: {{uri: '{CLOUDS[kind]}/', "
        "credentialsSecretRef: writes, restoreCredentialsSecretRef: reads, options: {a: 1}}}"
    )
    configured = config.parse(text)
    for creates, secret in ((True, "writes"), (False, "reads")):
        made = storage.wiring(configured, HASH, "n", creates=creates)
        assert made.location == f"{CLOUDS[kind]}/n/{HASH}.tar"
        env = {one["name"].removeprefix("DYNAMO_CHECKPOINT_"): one["value"] for one in made.env}
        assert (env["STORAGE_TYPE"], env["STORAGE_OPTIONS"]) == (kind, '{"a": 1}')
        (volume,) = [one for one in made.volumes if one.get("secret")]
        assert volume["secret"] == {"secretName": secret, "optional": True}
        (mount,) = [one for one in made.mounts if one["name"] == volume["name"]]
        assert (mount["mountPath"], mount["readOnly"]) == (env["CREDENTIALS_DIR"], True)
        from_environment({one["name"]: one["value"] for one in made.env})


@pytest.mark.parametrize("kind", CLOUDS)
def test_a_store_of_fsspec_s_without_a_secret(kind):
    made = storage.wiring(
        config.parse(f"storage: {{type: {kind}, {kind}: {{uri: '{CLOUDS[kind]}'}}}}"), HASH, "n", creates=True
    )
    assert not [one for one in made.env if one["name"].endswith(("CREDENTIALS_DIR", "STORAGE_OPTIONS"))]
    with pytest.raises(SettingsError, match=f"{kind}.uri"):
        config.parse(f"storage: {{type: {kind}}}")


def test_a_container_whose_fields_are_null_is_read_like_one_without_them():
    """As Helm renders empty keys; else no pod of the graph would be restored."""
    assert not podspec.pauses({"name": "sidecar", "command": None, "args": None, "env": None})
    env = [{"name": "DYNAMO_CHECKPOINT_PROTOCOL", "value": None}]
    assert podspec.pauses({"name": "main", "args": ["python3", "-m", "dynamo.vllm"], "env": env})
