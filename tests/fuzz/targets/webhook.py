"""An AdmissionReview that anybody in the cluster may send, about any pod and any checkpoint that somebody made."""

import copy
import json
from base64 import b64decode
from types import SimpleNamespace

from dynamo_entry.kube import api, config
from dynamo_entry.kube.webhook.admission import Known, mutate, validate
from dynamo_entry.kube.webhook.server import answer

#: Answered with status 400 (server.py).
REFUSALS = (ValueError, RecursionError, LookupError, TypeError)

_CONFIG = config.parse("storage: {type: s3, s3: {uri: 's3://bucket/prefix/', credentialsSecretRef: keys}}")
_MAIN = {
    "name": "main", "image": "i", "command": ["python3", "-m", "dynamo.vllm"], "args": ["--model", "m"],
    "env": [{"name": "A", "value": "1"}], "volumeMounts": [{"name": "v", "mountPath": "/v"}],
    "startupProbe": {"periodSeconds": 10, "failureThreshold": 3}, "securityContext": {"capabilities": {"drop": ["ALL"]}},
}  # fmt: skip
_IDENTITY = {"model": "m", "backendFramework": "vllm"}
_CHECKPOINT = {
    "metadata": {"name": "c", "namespace": "n"},
    "spec": {"identity": _IDENTITY, "job": {"podTemplateSpec": {"spec": {"containers": [_MAIN]}}}},
    "status": {"phase": "Ready", "conditions": [{"type": "StorageUsable", "status": "True"}]},
}
_POD = {
    "metadata": {"labels": {api.NAME_LABEL: "c"}, "annotations": {}},
    "spec": {
        "containers": [_MAIN, {"name": "side", "image": "s"}],
        "volumes": [{"name": "v", "emptyDir": {}}],
    },
}


def _review(kind, **fields):
    request = {"uid": "1", "kind": {"kind": kind}, "namespace": "n", **fields}
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


SEEDS = [
    {"review.json": json.dumps(_review("Pod", object=_POD)).encode(), "checkpoint.json": json.dumps(_CHECKPOINT).encode()},
    {"review.json": json.dumps(_review("DynamoCheckpoint", object=_CHECKPOINT, oldObject=_CHECKPOINT)).encode()},
]  # fmt: skip


def feed(case, _place):
    """The pod is admitted, as it is or with a patch that applies."""
    review = json.loads(case["review.json"])
    checkpoint = json.loads(case.get("checkpoint.json", b"null"))
    known = Known(lambda *_: None, lambda *_: checkpoint, lambda *_: checkpoint, lambda *_: True)

    def reviewer(request):
        if "checkpoint.json" in case:
            pod, reason, _ = mutate(_CONFIG, request["object"], request["namespace"], known)
            return pod, reason, False
        problem = validate(request.get("oldObject"), request["object"])
        return None, problem, bool(problem)

    before = copy.deepcopy(review)
    answered = json.loads(
        json.dumps(answer(review, reviewer, lambda *_: None, SimpleNamespace(error=lambda *_, **__: None)))
    )
    assert review == before, "the request was changed"
    response = answered["response"]
    assert response["uid"] == review["request"]["uid"]
    if "checkpoint.json" in case:
        assert response["allowed"], "a pod is never refused"
    for operation in json.loads(b64decode(response.get("patch", b"W10="))):
        _check(review["request"]["object"], operation)


def _check(document, operation):
    *above, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
    for part in above:
        document = document[part]
    assert (last in document) == (operation["op"] != "add")
