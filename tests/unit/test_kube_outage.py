"""The API server is away, hangs, or serves other definitions than before: the operator waits, and says so."""

import base64
import socket
import threading
from datetime import timedelta
from types import SimpleNamespace

import pytest
import yaml
from urllib3.exceptions import HTTPError

from dynamo_entry.errors import SettingsError
from dynamo_entry.kube import api, config, foreign
from dynamo_entry.kube import cluster as api_server
from dynamo_entry.kube.cluster import ApiError, Cluster
from dynamo_entry.kube.foreign import Served
from dynamo_entry.kube.leader_election import Lease
from dynamo_entry.kube.metrics import OperatorMetrics
from dynamo_entry.kube.operator import run
from dynamo_entry.kube.webhook.certificates import Certificates, self_signed


class Log:
    def __init__(self):
        self.lines = []

    def warning(self, event, **fields):
        self.lines.append(event)

    info = error = warning


class Away:
    """An API server that answers nothing; each question takes a while."""

    def __init__(self, clock=None):
        self.clock = clock
        self.answered = lambda: None

    def with_short_deadline(self, answered):
        other = Away(self.clock)
        other.answered = answered
        return other

    def guarded(self, _check):
        return self

    def find(self, path):
        if self.clock:
            self.clock.now += 60
        self.answered()
        raise ApiError(0, f"GET {path}: no route to host")

    get = find

    def list(self, path, **_):
        raise ApiError(0, f"GET {path}: no route to host")


def operator(cluster, served=Served("", False), replicas=1):  # noqa: B008 - a value
    settings = config.parse(f"operator: {{replicas: {replicas}}}")
    return run.Operator(settings, cluster, OperatorMetrics(), Log(), served)


@pytest.mark.parametrize("replicas", [1, 2])
def test_an_outage_ends_no_operator(replicas):
    """Whatever is due: the lease, the certificate, the definitions."""
    one = operator(Away(), replicas=replicas)
    one.tick()
    one._resync_at = one._refresh_at = 0.0
    one.tick()
    assert one._log.lines.count("certificate not refreshed") == 2
    assert one._log.lines.count("lease not acquired") == (2 if replicas > 1 else 0)
    assert one._log.lines.count("definitions not read") == (2 if replicas == 1 else 0), (
        "nobody works without the lease"
    )


@pytest.mark.parametrize("kind", ["checkpoint", "graph"])
def test_a_conflict_is_no_failure(kind):
    """Whoever changed the object meanwhile wins; it is looked at again, and nobody is alarmed."""
    one = operator(Away())

    def work(_key):
        raise ApiError(status, "the object has been modified")

    one._work[kind] = work
    status = 409
    assert 0 < one._look((kind, "n", "c")) < 5
    status = 500
    with pytest.raises(ApiError):
        one._look((kind, "n", "c"))


@pytest.mark.parametrize("name", ["short", "long-" * 30 + "name"])
def test_a_change_of_a_pod_is_one_of_its_checkpoint(name):
    """By its owners: a label has no room for a long name, and anybody may give a pod any label."""
    watches = operator(Away())._watches
    added = []
    watches._add = lambda *key: added.append(key)
    job = api.job_name(name)
    owner = {"kind": api.CHECKPOINT_KIND, "name": name}
    found = {"metadata": {"namespace": "n", "name": job, "ownerReferences": [owner]}}
    watches._jobs[0]._take(("n", job), found)
    assert added.pop() == ("checkpoint", "n", name)
    pod = {"namespace": "n", "name": "p", "labels": {}, "ownerReferences": [{"kind": "Job", "name": job}]}
    watches._job_pod_changed({"metadata": pod})
    assert added == [("checkpoint", "n", name)]
    watches._job_pod_changed({"metadata": pod | {"ownerReferences": []}})
    assert len(added) == 1


def test_a_server_that_hangs_is_no_dead_operator(monkeypatch):
    """Each question counts as life: a restart would help nobody."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(run.time, "monotonic", lambda: clock.now)
    one = operator(Away(clock))
    one.tick()
    assert clock.now > 1000 + run._HANGS_S, "it took too long in all"
    assert one.liveness() == ""
    clock.now += run._HANGS_S + 1
    assert one.liveness() != ""


def test_a_request_with_a_short_deadline(monkeypatch):
    """Is told of, also where it fails."""
    cluster = object.__new__(Cluster)
    counted, lives, deadlines = [], [], []
    cluster.answered = lambda method, status: counted.append((method, status))
    cluster.before_write = lambda: None
    cluster.timeouts_s = (10, 60)

    def fail(*_, timeouts, **__):
        deadlines.append(sum(timeouts))
        raise HTTPError("timed out")

    cluster._send = fail
    for one in (cluster.with_short_deadline(lambda: lives.append(1)), cluster):
        with pytest.raises(ApiError):
            one.get("/x")
    assert counted == [("GET", 0)] * 2
    assert lives == [1]
    assert deadlines[0] * 4 < run._HANGS_S, "urllib3 tries four times"
    assert deadlines[1] == 70


def test_a_question_is_asked_until_it_is_answered(monkeypatch):
    """The operator may start before the API server does; SIGTERM ends it."""
    monkeypatch.setattr(api_server, "_PAUSE_S", 0.001)
    answers, log, ended = [ApiError(503, "starting"), ApiError(0, "away"), "yes"], Log(), threading.Event()

    def question():
        answer = answers.pop(0)
        if isinstance(answer, ApiError):
            raise answer
        return answer

    assert api_server.insisting(question, ended, log) == "yes"
    assert log.lines == ["API server not reached"] * 2
    ended.set()
    assert api_server.insisting(question, ended, log) is None


def test_standing_aside_survives_an_outage(monkeypatch):
    """The definition is read again later."""
    monkeypatch.setattr(foreign, "_POLL_S", 0.001)
    answers, log, ended, exits = [ApiError(0, "away"), None], Log(), threading.Event(), []

    def find(_path):
        answer = answers.pop(0)
        if answer:
            raise answer

    def leave(code):
        exits.append(code)
        ended.set()

    monkeypatch.setattr("os._exit", leave)
    foreign.stand_aside(SimpleNamespace(find=find), "why", ended, log)
    assert exits == [0]
    assert "definition not read" in log.lines


def serving(graph_versions, has_snapshots):
    def find(path):
        kind = path.rpartition("/")[2]
        if kind == api.SNAPSHOT_CRD:
            return {"spec": {"versions": [{"name": "v1", "served": True}]}} if has_snapshots else None
        versions = [{"name": name, "served": True} for name in graph_versions]
        return {"spec": {"versions": versions}} if versions else None

    return SimpleNamespace(find=find)


@pytest.mark.parametrize(
    ("before", "versions", "has_snapshots", "restarts"),
    [
        (Served("", False), [], False, False),
        (Served("", False), ["v1alpha1"], False, True),
        (Served("", False), [], True, True),
        (Served("v1alpha1", True), ["v1alpha1", "v1beta1"], True, False),
        (Served("v1alpha1", True), ["v1beta1"], True, True),
        (Served("v1alpha1", True), [], True, True),
        (Served("v1alpha1", True), ["v1alpha1"], False, True),
    ],
)
def test_the_operator_begins_anew_where_dynamo_changes(
    monkeypatch, before, versions, has_snapshots, restarts
):
    """Installed, upgraded to another version of its graphs, or removed."""
    exits = []
    monkeypatch.setattr("os._exit", exits.append)
    one = SimpleNamespace(_served=before, _ticking=serving(versions, has_snapshots), _log=Log())
    run.Operator._notice_dynamo(one)
    assert bool(exits) == restarts


def test_no_cluster_at_all(monkeypatch, tmp_path):
    """Is a mistake of who runs it, not a stack trace."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    with pytest.raises(SettingsError, match="KUBECONFIG"):
        Cluster()


def test_a_lease_without_a_holder_is_free():
    """Somebody made it by hand: it has no spec."""
    written = []
    cluster = SimpleNamespace(
        find=lambda _path: {"metadata": {"name": "l"}},
        request=lambda _method, _path, body: written.append(body),
    )
    lease = Lease(cluster, "n", "l", "me", 15)
    assert lease.acquire()
    assert written[0]["spec"]["holderIdentity"] == "me"


def test_a_renewal_whose_answer_got_lost(monkeypatch):
    """The client library sends it again, and the server refuses the second one. Nobody else has the lease."""
    now = [100.0]
    monkeypatch.setattr("dynamo_entry.kube.leader_election._clock", lambda: now[0])
    written = []

    def request(_method, _path, body):
        written.append(body)
        if len(written) > 1:
            raise ApiError(409, "the object has been modified")

    cluster = SimpleNamespace(find=lambda _path: {"spec": {"holderIdentity": "me"}}, request=request)
    lease = Lease(cluster, "n", "l", "me", 15)
    assert lease.acquire()
    now[0] += 4
    assert lease.acquire()
    assert lease.is_held
    now[0] += 8
    assert not lease.acquire(), "it was not renewed for longer than a holder may trust it"


def test_webhooks_that_somebody_removed():
    """Nobody is left to be told whom to trust, and the certificate is served."""
    data = {
        name: base64.b64encode(text).decode()
        for name, text in self_signed("w.n.svc", timedelta(days=300)).items()
    }
    secret = {"metadata": {"resourceVersion": "1"}, "data": data}
    cluster = SimpleNamespace(
        find=lambda path: secret if "/secrets/" in path else {"metadata": {"resourceVersion": "1"}}
    )
    settings = config.parse("{operator: {namespace: n}, webhook: {service: w}}")
    served = Certificates(settings, cluster, Log())
    served.refresh()
    assert served.is_loaded


def test_a_server_that_is_not_reached_is_told_once(monkeypatch, tmp_path):
    """The address, and the error of the system: not what the HTTP library makes of its attempts around both."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    kubeconfig = {
        "apiVersion": "v1", "kind": "Config", "current-context": "x", "users": [{"name": "x", "user": {}}],
        "clusters": [{"name": "x", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
    }  # fmt: skip
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
    monkeypatch.setattr(
        "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig")
    )
    for question in (lambda cluster: cluster.get("/x"), lambda cluster: next(cluster.watch("/x", 1))):
        with pytest.raises(ApiError, match=f"/x: .*{port}.*Connection refused") as caught:
            question(Cluster())
        assert "retries" not in caught.value.message
