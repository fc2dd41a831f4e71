"""What may be written as a pod template: the definition of DynamoCheckpoints takes anything there."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dynamo_entry.kube import api, config, podspec
from dynamo_entry.kube.operator import jobs
from dynamo_entry.kube.operator.lifecycle import engine_command
from dynamo_entry.kube.podspec import Unfit
from dynamo_entry.kube.webhook.admission import validate

HASH = "d936422b4f953f99"
CLAIM = config.parse("")
ENGINE = ["vllm", "serve", "m"]

#: Every field that the operator reads or adds to, and the shape that it has.
FULL = {
    "metadata": {"labels": {"a": "b"}, "annotations": {"a": "b"}},
    "spec": {
        "containers": [
            {
                "name": "main", "command": ENGINE, "args": ["--port", "1"], "env": [{"name": "A", "value": "b"}],
                "ports": [{"name": "http", "containerPort": 1}],
                "volumeMounts": [{"name": "mine", "mountPath": "/mine"}],
                "readinessProbe": {"httpGet": {"port": "http", "path": "/", "scheme": "HTTP"}},
                "livenessProbe": {"exec": {"command": ["x"]}}, "startupProbe": {"httpGet": {"port": 1}},
                "securityContext": {"capabilities": {"add": ["NET_ADMIN"]}},
            }
        ],
        "volumes": [{"name": "mine", "persistentVolumeClaim": {"claimName": "checkpoint-storage"}}],
        "securityContext": {"fsGroup": 1}, "terminationGracePeriodSeconds": 30,
    },
}  # fmt: skip


def checkpoint(template, **job):
    return {
        "metadata": {"name": "c", "namespace": "n", "uid": "u"},
        "spec": {
            "identity": {"model": "m", "framework": "vllm"}, "job": {"podTemplateSpec": template} | job
        },
    }  # fmt: skip


def paths(value, path=()):
    """Of every field and every element."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in items:
        yield (*path, key)
        yield from paths(one, (*path, key))


def changed(path, value):
    template = json.loads(json.dumps(FULL))
    where = template
    for key in path[:-1]:
        where = where[key]
    where[path[-1]] = value
    return template


#: Without them it is no template, which the definition refuses by itself.
REQUIRED = [
    ("spec",),
    ("spec", "containers"),
    ("spec", "containers", 0),
    ("spec", "containers", 0, "name"),
]
FIELDS = [path for path in paths(FULL) if path not in REQUIRED]
OPTIONAL = [path for path in FIELDS if isinstance(path[-1], str) and path[-1] not in (
    "name", "mountPath", "containerPort", "port", "claimName"
)]  # fmt: skip


@pytest.mark.parametrize("path", OPTIONAL, ids=lambda path: ".".join(map(str, path)))
def test_a_field_that_is_null_is_read_as_absent(path):
    """As Helm renders empty keys, and as the API server reads every other object."""
    absent = changed(path, None)
    where = absent
    for key in path[:-1]:
        where = where[key]
    del where[path[-1]]
    made, expected = (
        jobs.creation(CLAIM, checkpoint(template), HASH, force=False)
        for template in (changed(path, None), absent)
    )
    assert made == expected
    assert validate(None, checkpoint(changed(path, None))) == ""
    engine_command(checkpoint(changed(path, None)), "main")
    jobs.collection(CLAIM, checkpoint(changed(path, None)), HASH)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(FIELDS),
    st.sampled_from(
        [None, True, 7, -1, 1.5, "x", "", [], ["x"], [None], [{}], [[]], {}, {"x": "y"}, {"x": None}]
    ),
)
def test_whatever_is_written_it_is_said_or_taken(path, value):
    """Nothing else is ever raised: a checkpoint without a phase tells nobody why. Webhook and operator agree."""
    made = checkpoint(changed(path, value))
    problem = validate(None, made)
    try:
        job = jobs.creation(CLAIM, made, HASH, force=False)
    except Unfit as unfit:
        assert unfit.reason in ("TemplateInvalid", "StorageMountConflict")
        assert problem == unfit.message or unfit.reason == "StorageMountConflict"
    else:
        assert problem == ""
        assert api.job_name("c") == job["metadata"]["name"]
    jobs.collection(CLAIM, made, HASH)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("spec", "containers", 0, "command"), "python3 -m x", "spec.containers[0].command: expected `array`, got `str`"),
        (("spec", "containers", 0, "env"), {"A": "b"}, "spec.containers[0].env: expected `array`, got `object`"),
        (("spec", "containers", 0, "readinessProbe"), {"httpGet": {"path": "/"}}, "missing required field `port`"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(path, value, message):
    """A string as a command is not torn into letters."""
    with pytest.raises(Unfit) as caught:
        jobs.creation(CLAIM, checkpoint(changed(path, value)), HASH, force=False)
    assert caught.value.reason == "TemplateInvalid"
    assert caught.value.message.startswith("spec.job.podTemplateSpec.spec.containers")
    assert message in caught.value.message


def test_one_that_is_there_keeps_its_labels_and_its_finalizer():
    """Whatever its template is: only who writes it is told."""
    old = checkpoint(changed(("spec", "containers", 0, "args"), "x"))
    new = json.loads(json.dumps(old))
    new["metadata"]["labels"] = {"a": "b"}
    assert validate(old, new) == ""
    new["spec"]["deletionPolicy"] = "Delete"
    assert "args" in validate(old, new)


@pytest.mark.parametrize(
    ("size", "is_good"),
    [
        ("16Gi", True), (1 << 30, True), ("1e11", True), ("500m", True), (".5Gi", True), ("1.Gi", True), ("2E9", True),
        ("100GB", False), ("much", False), ("16 Gi", False), ("-1Gi", False), ("1e", False), ("16gi", False),
        ("\u0661Gi", False),
    ],
)  # fmt: skip
def test_the_size_of_shared_memory(size, is_good):
    """A size that no server takes is said, not replaced by another one."""
    made = checkpoint(FULL, sharedMemory={"size": size})
    if is_good:
        job = jobs.creation(CLAIM, made, HASH, force=False)
        volumes = job["spec"]["template"]["spec"]["volumes"]
        assert str(size) in [one.get("emptyDir", {}).get("sizeLimit") for one in volumes]
        return
    with pytest.raises(Unfit, match=r"spec\.job\.sharedMemory\.size") as caught:
        jobs.creation(CLAIM, made, HASH, force=False)
    assert caught.value.reason == "TemplateInvalid"
    assert "sharedMemory.size" in validate(None, made)


def test_a_pod_never_suffers_for_the_size():
    """A checkpoint that is older than the check still serves."""
    volumes, _ = podspec.with_shared_memory([], {"name": "main"}, {"size": "much"})
    assert volumes[0]["emptyDir"]["sizeLimit"] == "8Gi"
