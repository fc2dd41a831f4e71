"""The operator's smaller parts: webhook answers, queue, settings, certificates."""

import base64
import json
import threading
import time
from datetime import timedelta
from types import SimpleNamespace

import pytest
from cryptography import x509

from dynamo_entry.errors import SettingsError
from dynamo_entry.kube import config
from dynamo_entry.kube.cluster import ApiError, Cluster
from dynamo_entry.kube.operator.watches import Watches
from dynamo_entry.kube.operator.workqueue import WorkQueue
from dynamo_entry.kube.webhook.certificates import self_signed
from dynamo_entry.kube.webhook.server import answer, difference


class Log:
    def __init__(self):
        self.lines = []

    def error(self, event, **fields):
        self.lines.append(event)

    warning = info = error


def review(reviewer, obj=None):
    notes, log = [], Log()
    request = {"uid": "1", "object": obj or {"metadata": {}}}
    document = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
    answered = answer(document, reviewer, lambda *note: notes.append(note), log)
    return answered["response"], notes[0][:2], log


def test_a_bug_in_the_webhook_admits_the_object_as_it_is():
    """Whatever is raised, the pod starts as it would have without us."""

    def bug(request):
        raise KeyError("bug")

    response, note, log = review(bug)
    assert response == {"uid": "1", "allowed": True}
    assert note == ("unchanged", "error")
    assert log.lines == ["review failed"]


def test_a_change_is_a_patch():
    """Of exactly what differs."""
    response, note, _ = review(lambda request: ({"metadata": {"labels": {"a/b": "c"}}}, "injected", False))
    patch = json.loads(base64.b64decode(response["patch"]))
    assert (response["allowed"], response["patchType"]) == (True, "JSONPatch")
    assert patch == [{"op": "add", "path": "/metadata/labels", "value": {"a/b": "c"}}]
    assert note == ("changed", "injected")


def test_a_refusal_says_why():
    """It is the message that kubectl prints."""
    response, note, _ = review(lambda request: (None, "immutable", True))
    assert (response["allowed"], response["status"]["message"]) == (False, "immutable")
    assert note == ("refused", "invalid")


def test_differences():
    """Names with slashes are escaped, lists replaced as a whole."""
    old, new = {"a": {"x/y": 1, "gone": 1}, "l": [1]}, {"a": {"x/y": 2}, "l": [1, 2]}
    assert difference(old, new) == [
        {"op": "remove", "path": "/a/gone"},
        {"op": "replace", "path": "/a/x~1y", "value": 2},
        {"op": "replace", "path": "/l", "value": [1, 2]},
    ]


def wait_until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_key_is_with_one_worker_at_a_time_and_never_forgotten():
    """What is added while it is worked on is looked at once more."""
    began, go_on, calls = threading.Event(), threading.Event(), []

    def work(key):
        calls.append(key)
        if key == "a":
            began.set()
            assert go_on.wait(30)
        return 0

    queue = WorkQueue(work, 3, Log(), lambda: None)
    queue.add("a")
    assert began.wait(30)
    for _ in range(5):
        queue.add("a")
    queue.add("b")  # younger: a worker takes it only where it may not take "a"
    wait_until(lambda: "b" in calls)
    assert calls == ["a", "b"]
    go_on.set()
    wait_until(lambda: len(calls) == 3)
    queue.add("c")
    wait_until(lambda: "c" in calls)
    assert calls == ["a", "b", "a", "c"]


def test_a_failure_is_tried_again_and_counted():
    """With a growing pause; a later success forgets it."""
    times, failures = [], []

    def work(key):
        times.append(time.monotonic())
        if len(times) < 2:
            raise RuntimeError("server away")
        return 0

    queue = WorkQueue(work, 1, Log(), lambda: failures.append(1))
    queue.add("a")
    wait_until(lambda: len(times) == 2)
    assert times[1] - times[0] > 0.7
    assert len(failures) == 1


def test_looking_again_when_asked_for():
    """The work says after how many seconds."""
    calls = []

    def work(key):
        calls.append(key)
        return 0.05 if len(calls) < 3 else 0

    WorkQueue(work, 2, Log(), lambda: None).add("a")
    wait_until(lambda: len(calls) == 3)


def test_a_pod_that_is_faster_than_the_watch_still_restores():
    """The first pods of a graph come as soon as the graph: its review waits a little, but not for ever."""
    answers = iter([None, None, {"metadata": {"name": "g"}}])
    late = SimpleNamespace(graph=lambda *_: next(answers))
    assert Watches.graph_of_pod(late, "n", "g") == {"metadata": {"name": "g"}}
    began = time.monotonic()
    assert Watches.graph_of_pod(SimpleNamespace(graph=lambda *_: None), "n", "g") is None
    assert time.monotonic() - began < 2


def test_settings_of_the_chart():
    """camelCase, defaults for what is not said."""
    found = config.parse(
        "storage: {type: s3, s3: {uri: 's3://b/p', credentialsSecretRef: keys}}\ngc: {giveUpAfter: 5m}"
    )
    assert (found.storage.s3.credentials_secret_ref, found.gc.give_up_after) == ("keys", "5m")
    assert found.storage.pvc.pvc_name == "checkpoint-storage"


@pytest.mark.parametrize(
    ("text", "place"),
    [("storage: {type: nfs}", "storage.type"), ("storage: {type: s3}", "storage.s3.uri"), ("operator: {replicas: x}", "operator.replicas"), ("[", "settings")],
)  # fmt: skip
def test_mistakes_in_the_settings(text, place):
    """Each with its place."""
    with pytest.raises(SettingsError, match=place):
        config.parse(text)


class Pages:
    """Answers lists in pages of one object, and remembers what it was asked."""

    def __init__(self, names, error=0):
        self.names, self.error = names, error
        self.queries = []

    def __call__(self, _method, url, *_, query, **__):
        self.queries.append(query)
        at = int(query.get("continue", 0))
        if self.error and at:
            body = {"message": "too old", "reason": "Expired"}
            return SimpleNamespace(status=self.error, read=lambda: json.dumps(body).encode())
        more = {"continue": str(at + 1)} if at + 1 < len(self.names) else {}
        items = [{"metadata": {"name": self.names[at]}}] if self.names else None
        body = {"items": items, "metadata": {"resourceVersion": "7"} | more}
        return SimpleNamespace(status=200, read=lambda: json.dumps(body).encode())


def paged(monkeypatch, pages):
    cluster = object.__new__(Cluster)
    cluster.answered = lambda *_: None
    monkeypatch.setattr(cluster, "_send", pages)
    return cluster


@pytest.mark.parametrize("names", [[], ["a"], ["a", "b", "c"]])
def test_a_list_comes_in_pages(monkeypatch, names):
    """Many large objects are never in memory at once; all of them come, and what a watch goes on from."""
    pages = Pages(names)
    listed = paged(monkeypatch, pages).list("/pods", labelSelector="x")
    assert [one["metadata"]["name"] for one in listed] == names
    assert listed.version == "7"
    assert len(pages.queries) == max(len(names), 1)
    assert all(query["limit"] and query["labelSelector"] == "x" for query in pages.queries)


def test_a_list_that_went_stale_between_its_pages(monkeypatch):
    """The informer begins anew."""
    with pytest.raises(ApiError) as caught:
        list(paged(monkeypatch, Pages(["a", "b"], error=410)).list("/pods"))
    assert caught.value.status == 410


def test_an_answer_that_is_no_list(monkeypatch):
    """A proxy's, say."""
    cluster = paged(monkeypatch, lambda *_, **__: SimpleNamespace(status=200, read=lambda: b"<html>"))
    with pytest.raises(ApiError, match="/pods"):
        list(cluster.list("/pods"))


def test_the_webhooks_certificate():
    """Good for the service's name, signed by the authority that is announced."""
    made = self_signed("dynamo-entry-webhook.system.svc", timedelta(days=1))
    authority = x509.load_pem_x509_certificate(made["ca.crt"])
    leaf = x509.load_pem_x509_certificate(made["tls.crt"])
    leaf.verify_directly_issued_by(authority)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["dynamo-entry-webhook.system.svc"]
