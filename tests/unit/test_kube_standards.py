"""Namespaces that refuse pods with a restore's capabilities: the API server is asked, since labels do not show its defaults."""

import threading
from types import SimpleNamespace

import msgspec
import pytest
from kube_objects import S3

from dynamo_entry.kube.cluster import ApiError
from dynamo_entry.kube.webhook import standards
from dynamo_entry.kube.webhook.standards import Standards

POD_SECURITY = (
    'pods "dynamo-entry-x" is forbidden: violates PodSecurity "baseline:latest": non-default capabilities (container "engine" must '
    'not include "CHECKPOINT_RESTORE", "SYS_PTRACE" in securityContext.capabilities.add)'
)


def asking(answer, dry_run=True, profile="minimal"):
    """(the standards of a cluster with that answer, what it was asked)."""
    asked = []

    def create(path, body, **query):
        asked.append((path, body, query))
        return answer()

    config = SimpleNamespace(dry_run=dry_run, security=msgspec.structs.replace(S3.security, profile=profile))
    return Standards(config, SimpleNamespace(create=create)), asked


def refusal(status, message):
    def answer():
        raise ApiError(status, message)

    return answer


@pytest.mark.parametrize(
    ("answer", "is_admitted"),
    [
        (dict, True),
        (refusal(403, POD_SECURITY), False),
        (refusal(403, 'pods "x" is forbidden: failed quota: must specify limits.cpu'), True),
        (refusal(400, "admission webhook does not support dry run"), True),
    ],
    ids=["taken", "pod security", "quota", "another webhook"],
)
def test_only_pod_security_keeps_a_pod_as_it_is(answer, is_admitted):
    asked = asking(answer)[0]
    assert asked.admit("ns") is is_admitted


def test_the_api_server_is_asked_with_the_capabilities_and_nothing_else_once_a_while(monkeypatch):
    it, asked = asking(dict)
    assert it.admit("a")
    assert it.admit("a")
    assert it.admit("b")
    assert [path for path, _, _ in asked] == ["/api/v1/namespaces/a/pods", "/api/v1/namespaces/b/pods"]
    _, pod, query = asked[0]
    assert query == {"dryRun": "All"}
    assert "labels" not in pod["metadata"]
    (container,) = pod["spec"]["containers"]
    assert container["securityContext"] == {"capabilities": {"add": ["CHECKPOINT_RESTORE", "SYS_PTRACE"]}}
    monkeypatch.setattr(standards, "_VALID_S", -1)
    assert it.admit("a")
    it._asked["a"][1].result(60)
    assert len(asked) == 3


def test_what_is_not_known_in_time_is_a_cold_start_and_known_later(monkeypatch):
    monkeypatch.setattr(standards, "_PATIENCE_S", 0.01)
    may_answer = threading.Event()
    it, asked = asking(lambda: may_answer.wait(60))
    assert not it.admit("ns")
    may_answer.set()
    monkeypatch.setattr(standards, "_PATIENCE_S", 60)
    assert it.admit("ns")
    assert len(asked) == 1


def test_a_pod_does_not_wait_for_an_answer_that_is_made_again(monkeypatch):
    """The last one counts meanwhile: a dry run goes through all webhooks of the cluster."""
    may_answer, answers = threading.Event(), iter([dict, refusal(503, "busy"), refusal(403, POD_SECURITY)])

    def answer():
        found = next(answers)
        assert found is dict or may_answer.wait(60)
        return found()

    it, _ = asking(answer)
    assert it.admit("ns")
    monkeypatch.setattr(standards, "_VALID_S", -1)
    assert it.admit("ns"), "while it is asked again"
    may_answer.set()
    it._asked["ns"][1].exception(60)
    monkeypatch.setattr(standards, "_VALID_S", 300)
    assert it.admit("ns"), "a server that is busy has not said otherwise"
    it.learn("ns")
    it._asked["ns"][1].result(60)
    assert not it.admit("ns")


def test_a_namespace_is_asked_about_before_its_first_pod(monkeypatch):
    """As soon as something in it is known that pods restore from."""
    it, asked = asking(dict)
    it.learn("ns")
    it._asked["ns"][1].result(60)
    monkeypatch.setattr(standards, "_PATIENCE_S", 0)
    assert it.admit("ns")
    assert len(asked) == 1


def test_an_api_server_that_fails_is_asked_again():
    it, asked = asking(refusal(503, "busy"))
    assert not it.admit("ns")
    assert not it.admit("ns")
    assert len(asked) == 2


@pytest.mark.parametrize("how", [{"dry_run": False}, {"profile": "none"}])
def test_without_the_right_to_ask_or_a_privilege_to_ask_for_nothing_is_asked(how):
    it, asked = asking(refusal(403, POD_SECURITY), **how)
    assert it.admit("ns")
    assert not asked
