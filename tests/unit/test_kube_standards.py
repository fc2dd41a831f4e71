"""Namespaces that refuse pods with a restore's capabilities: the API server is asked, since labels do not show its defaults."""

import threading
from types import SimpleNamespace

import msgspec
import pytest
from kube_objects import S3

from dynamo_entry.kube.cluster import ApiError
from dynamo_entry.kube.operator import run
from dynamo_entry.kube.webhook import standards
from dynamo_entry.kube.webhook.standards import Standards

REFUSED = ApiError(
    403,
    'pods "dynamo-entry-x" is forbidden: violates PodSecurity "baseline:latest": non-default capabilities (container "engine" must '
    'not include "CHECKPOINT_RESTORE", "SYS_PTRACE" in securityContext.capabilities.add)',
)

#: Answers that do not say whether a pod would be taken.
OTHERS = [
    ApiError(0, "POST /api/v1/namespaces/ns/pods: timed out"),
    ApiError(400, "admission webhook does not support dry run"),
    ApiError(400, 'admission webhook "x" denied the request: no limits'),
    ApiError(401, "Unauthorized"),
    ApiError(403, 'pods is forbidden: User "operator" cannot create resource "pods"'),
    ApiError(403, 'pods "x" is forbidden: failed quota: must specify limits.cpu'),
    ApiError(403, 'pods "x" is forbidden: RuntimeClass "nvidia" not found'),
    ApiError(404, 'namespaces "ns" not found'),
    ApiError(408, "timed out"),
    ApiError(409, "conflict"),
    ApiError(429, "too many requests"),
    ApiError(500, "internal"),
    ApiError(503, "busy"),
]


class World:
    """An API server with one answer; ``answer_all`` does what the background would, and returns what was asked."""

    def __init__(self, monkeypatch, answer=None, *, dry_run=True, profile="minimal"):
        self.answer, self.now = answer, 1000.0
        self._waiting, self._asked = [], []
        monkeypatch.setattr(standards, "ThreadPoolExecutor", lambda *_, **__: self)
        monkeypatch.setattr(standards.time, "monotonic", lambda: self.now)
        config = SimpleNamespace(
            dry_run=dry_run, security=msgspec.structs.replace(S3.security, profile=profile)
        )
        self.known = Standards(config, SimpleNamespace(with_short_deadline=self._hurried))

    def _hurried(self, _noted):
        return SimpleNamespace(create=self._create)

    def submit(self, function, *arguments):
        self._waiting.append((function, arguments))

    def _create(self, path, pod, **query):
        self._asked.append((path, pod, query))
        if self.answer is not None:
            raise self.answer

    def answer_all(self):
        waiting, self._waiting = self._waiting, []
        for function, arguments in waiting:
            function(*arguments)
        asked, self._asked = self._asked, []
        return asked


@pytest.fixture
def world(monkeypatch):
    return World(monkeypatch)


def test_only_pod_security_keeps_a_pod_as_it_is(world):
    """Nothing is known of the first pod, which starts as its namespace's labels say."""
    world.answer = REFUSED
    assert world.known.admit("ns", "")
    assert len(world.answer_all()) == 1
    assert not world.known.admit("ns", "")
    assert world.known.admit("other", "")


@pytest.mark.parametrize("last", [None, REFUSED], ids=["taken", "refused"])
@pytest.mark.parametrize("other", OTHERS, ids=str)
def test_an_answer_that_says_nothing_leaves_the_last_one(world, last, other):
    """And is soon asked for again."""
    world.answer = other
    assert world.known.admit("ns", "")
    world.answer_all()
    assert world.known.admit("ns", ""), "nothing is known yet"
    for answer in (last, other, other):
        world.answer = answer
        world.now += standards._VALID_S + 1
        world.known.admit("ns", "")
        assert len(world.answer_all()) == 1
        assert world.known.admit("ns", "") == (last is None)
    world.now += standards._AGAIN_S + 1
    world.known.admit("ns", "")
    assert len(world.answer_all()) == 1


def test_the_api_server_is_asked_with_the_capabilities_and_nothing_else(world):
    world.known.admit("ns", "")
    ((path, pod, query),) = world.answer_all()
    assert path == "/api/v1/namespaces/ns/pods"
    assert query == {"dryRun": "All"}
    assert "labels" not in pod["metadata"]
    (container,) = pod["spec"].pop("containers")
    assert pod["spec"] == {}
    assert container["securityContext"] == {"capabilities": {"add": ["CHECKPOINT_RESTORE", "SYS_PTRACE"]}}


def test_pod_security_may_exempt_a_runtime_class(world):
    """So each is asked about on its own."""
    world.answer = REFUSED
    world.known.admit("ns", "")
    world.answer_all()
    world.answer = None
    assert world.known.admit("ns", "nvidia")
    ((_, pod, _),) = world.answer_all()
    assert pod["spec"]["runtimeClassName"] == "nvidia"
    assert world.known.admit("ns", "nvidia")
    assert not world.known.admit("ns", "")


def test_an_answer_counts_for_a_while_and_until_the_next_one(world):
    world.answer = REFUSED
    for _ in range(3):
        world.known.admit("ns", "")
    assert len(world.answer_all()) == 1
    world.now += standards._VALID_S - 1
    assert not world.known.admit("ns", "")
    assert not world.answer_all()
    world.answer = None
    world.now += 2
    assert not world.known.admit("ns", ""), "while it is asked again"
    assert len(world.answer_all()) == 1
    assert world.known.admit("ns", "")


def test_a_namespace_with_checkpoints_is_asked_about_before_its_first_pod(world):
    world.answer = REFUSED
    operator = SimpleNamespace(
        _config=SimpleNamespace(webhook=SimpleNamespace(enabled=True)), _standards=world.known, _queue=None
    )
    run.Operator._add(operator, "graph", "other", "g")
    assert not world.answer_all()
    run.Operator._add(operator, "checkpoint", "ns", "c")
    run.Operator._add(operator, "checkpoint", "ns", "d")
    assert len(world.answer_all()) == 1
    assert not world.known.admit("ns", "")


def test_strangers_that_name_runtime_classes_fill_no_memory(world, monkeypatch):
    monkeypatch.setattr(standards, "_MOST", 3)
    for name in "abcde":
        assert world.known.admit("ns", name)
    assert len(world.answer_all()) == 3
    world.now += standards._VALID_S + 1
    world.known.admit("ns", "a")
    assert len(world.answer_all()) == 1


@pytest.mark.parametrize("how", [{"dry_run": False}, {"profile": "none"}])
def test_without_the_right_to_ask_or_a_privilege_to_ask_for_nothing_is_asked(monkeypatch, how):
    world = World(monkeypatch, REFUSED, **how)
    world.known.learn("ns")
    assert world.known.admit("ns", "")
    assert not world.answer_all()


def test_nobody_waits_for_an_api_server_that_hangs():
    ended, asked = threading.Event(), threading.Event()

    def create(*_, **__):
        asked.set()
        ended.wait(60)

    config = SimpleNamespace(dry_run=True, security=S3.security)
    known = Standards(config, SimpleNamespace(with_short_deadline=lambda _: SimpleNamespace(create=create)))
    assert all(known.admit(f"ns-{number}", "") for number in range(100))
    assert asked.wait(60)
    assert not ended.is_set()
    ended.set()
