"""Whatever becomes of the webhook, pods start as they would have without it. The API server is real."""

import base64
import contextlib
import json
import socket
import ssl
import tempfile
import threading
import time
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml
from cryptography import x509
from kubernetes.config import kube_config

import images
import operators
from checkpoints import checkpoint
from dynamo_entry.kube import config
from dynamo_entry.kube.cluster import Cluster
from dynamo_entry.kube.webhook.certificates import Certificates, self_signed
from dynamo_entry.kube.webhook.server import Server
from dynamo_entry.kube.webhook.standards import Standards

NAMESPACE = "webhook-tests"
CONFIGURATION = f"dynamo-entry-{NAMESPACE}"
NAME = f"dynamo-entry-webhook.{NAMESPACE}.svc"

VALUES = {"checkpoint": {"enabled": True, "storage": {"type": "pvc"}}, "agent": {"enabled": False}}

#: The chart's timeoutSeconds is 2; the rest is kubectl's own time and slack.
LIMIT_S = 10


class Log:
    def __init__(self):
        self.warnings = []

    def warning(self, event, **fields):
        self.warnings.append(f"{event} {fields}")

    def info(self, event, **fields):
        """Not looked at."""

    error = info


@pytest.fixture(scope="module")
def world(cluster):
    """The chart's webhook configurations, as they are rendered."""
    cluster.kubectl("create", "namespace", NAMESPACE)
    operators.install(cluster, NAMESPACE, VALUES)
    rendered = cluster.run(
        "helm", "template", "x", operators.CHART, "-n", NAMESPACE, "--kube-version", cluster.version, "-f", "-",
        "--show-only", "templates/webhook.yaml", stdin=yaml.safe_dump(VALUES),
    ).stdout  # fmt: skip
    cluster.kubectl("apply", "-f", "-", stdin=rendered)
    while not cluster.get("serviceaccount", "default", NAMESPACE, check=False):
        time.sleep(0.1)
    yield cluster
    for kind in ("mutatingwebhookconfiguration", "validatingwebhookconfiguration"):
        cluster.kubectl("delete", kind, CONFIGURATION)
    cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def context(made):
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile() as file:
        file.write(made["tls.crt"] + made["tls.key"])
        file.flush()
        found.load_cert_chain(file.name)
    return found


class Stub(ThreadingHTTPServer):
    """A server that does with a review what ``answer`` does."""

    daemon_threads = True

    def __init__(self, made, answer):
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                self.review = self.rfile.read(int(self.headers["Content-Length"]))
                answer(self)

            def log_message(self, *_):
                """Quiet."""

        super().__init__(("127.0.0.1", 0), Handler)
        self.socket = context(made).wrap_socket(self.socket, server_side=True)

    def handle_error(self, request, client_address):
        """Quiet."""


def hangs(handler):
    time.sleep(LIMIT_S)


def dies(handler):
    handler.connection.close()


def babbles(handler):
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(b"<html>")


def has_a_bug(request):
    raise KeyError("a bug")


def marks(request):
    """A reviewer that works: without it, none of this would prove anything."""
    changed = request["object"]["metadata"] | {"annotations": {"seen": "true"}}
    return request["object"] | {"metadata": changed}, "marked", False


GOOD = self_signed("localhost", timedelta(days=1))

CASES = {
    "works": lambda: Server(0, context(GOOD), {"/": marks}, lambda *_: None, Log()),
    "has a bug": lambda: Server(0, context(GOOD), {"/": has_a_bug}, lambda *_: None, Log()),
    "hangs": lambda: Stub(GOOD, hangs),
    "dies": lambda: Stub(GOOD, dies),
    "babbles": lambda: Stub(GOOD, babbles),
    "certificate expired": lambda: Stub(self_signed("localhost", timedelta(minutes=-5)), babbles),
    "certificate of another": lambda: Stub(self_signed("elsewhere", timedelta(days=1)), babbles),
    "never shakes hands": lambda: socket.create_server(("127.0.0.1", 0)),
    "absent": lambda: None,
}


@contextlib.contextmanager
def serving(server):
    """A thread answers meanwhile; the port. Without ``shutdown`` it would ask the closed socket for ever."""
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def running(server):
    """Any of ``CASES``; its port."""
    if hasattr(server, "serve_forever"):
        with serving(server) as port:
            yield port
    else:
        with server or contextlib.nullcontext():
            yield server.getsockname()[1] if server else 1


@pytest.mark.parametrize("case", CASES)
def test_the_pod_starts(world, case):
    """Unchanged, within the webhook's two seconds; and a DynamoCheckpoint is accepted."""
    with running(CASES[case]()) as port:
        name = f"pod-{port}"
        point_to(world, port)
        document = yaml.safe_dump(labelled_pod(name))
        began = time.monotonic()
        world.kubectl("create", "-n", NAMESPACE, "-f", "-", stdin=document)
        assert time.monotonic() - began < LIMIT_S
        made = world.get("pod", name, NAMESPACE)
        world.kubectl("delete", "pod", name, "-n", NAMESPACE, "--grace-period=0", "--force")
        assert made["metadata"].get("annotations", {}) == ({"seen": "true"} if case == "works" else {})
        assert "command" not in made["spec"]["containers"][0]
        document = yaml.safe_dump(checkpoint("model"))
        world.kubectl("create", "--dry-run=server", "-n", NAMESPACE, "-f", "-", stdin=document)


@pytest.mark.parametrize(
    ("level", "is_marked"), [("privileged", True), ("baseline", False), ("restricted", False)]
)
def test_where_capabilities_are_refused_pods_are_left_alone(world, level, is_marked):
    """A namespace that enforces a pod security standard: with ours the pod would not be admitted."""
    name = f"enforces-{level}"
    world.kubectl("create", "namespace", name)
    with serving(CASES["works"]()) as port:
        world.kubectl("label", "namespace", name, f"pod-security.kubernetes.io/enforce={level}")
        point_to(world, port)
        document = yaml.safe_dump(labelled_pod("pod"))
        made = world.kubectl("create", "-n", name, "-f", "-", "-o", "json", stdin=document)
    world.kubectl("delete", "namespace", name, "--wait=false")
    assert ("annotations" in json.loads(made)["metadata"]) == is_marked


def refuses(handler):
    """As pod security does where it is a webhook."""
    message = 'pods "x" is forbidden: violates PodSecurity "baseline:latest": non-default capabilities'
    response = {
        "uid": json.loads(handler.review)["request"]["uid"], "allowed": False,
        "status": {"code": 403, "reason": "Forbidden", "message": message},
    }  # fmt: skip
    body = json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body.encode())


@pytest.fixture
def guarded(world):
    """A namespace whose pods are refused; no label of it says why."""
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    with serving(Stub(GOOD, refuses)) as port:
        webhook = {
            "name": "standard.pods.test", "rules": [rule], "failurePolicy": "Fail", "sideEffects": "None",
            "admissionReviewVersions": ["v1"], "namespaceSelector": {"matchLabels": {"guarded": "true"}},
            "clientConfig": client_config(port),
        }  # fmt: skip
        guard = {
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": "guard"}, "webhooks": [webhook],
        }  # fmt: skip
        world.kubectl("create", "namespace", "guarded")
        world.kubectl("label", "namespace", "guarded", "guarded=true")
        world.apply(guard)
        yield "guarded"
        world.kubectl("delete", "validatingwebhookconfiguration", "guard")
        world.kubectl("delete", "namespace", "guarded", "--wait=false")


def test_a_standard_that_no_label_shows_is_learned_by_a_dry_run(world, guarded, monkeypatch):
    """With the operator's rights, and no pod is made; nobody waits for the answer."""
    act_as_operator(world, monkeypatch)
    known = Standards(config.parse(""), Cluster())
    assert known.admit(guarded, "")
    assert known.admit(NAMESPACE, "")
    deadline = time.monotonic() + LIMIT_S
    while known.admit(guarded, ""):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert known.admit(NAMESPACE, "")
    for name in (guarded, NAMESPACE):
        pods = world.get("pods", namespace=name)["items"]
        assert not [one for one in pods if one["metadata"]["name"].startswith("dynamo-entry-")]


def labelled_pod(name):
    """That asks for a checkpoint, and fits on no node."""
    return {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"nvidia.com/checkpoint-name": "model"}},
        "spec": {
            "nodeSelector": {"no": "node"}, "automountServiceAccountToken": False, "serviceAccountName": "default",
            "containers": [{"name": "main", "image": images.BASE}],
        },
    }  # fmt: skip


def client_config(port):
    return {"url": f"https://localhost:{port}/", "caBundle": base64.b64encode(GOOD["ca.crt"]).decode()}


def point_to(cluster, port):
    """Both configurations as the chart has them, but for where the server is."""
    client = client_config(port)
    for kind, count in (("mutatingwebhookconfiguration", 2), ("validatingwebhookconfiguration", 1)):
        change = [
            {"op": "replace", "path": f"/webhooks/{number}/clientConfig", "value": client}
            for number in range(count)
        ]
        cluster.kubectl("patch", kind, CONFIGURATION, "--type=json", "-p", json.dumps(change))
    time.sleep(0.5)  # the API server learns of it by a watch


def act_as_operator(cluster, monkeypatch):
    """Clients from now on have the rights of the chart's account."""
    rights = cluster.service_account_kubeconfig(NAMESPACE, "dynamo-entry-operator")
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(rights))


# --- certificates


class Replica:
    """What one operator does about the certificate, and whether the API server would trust it."""

    def __init__(self, cluster, mode, monkeypatch):
        act_as_operator(cluster, monkeypatch)
        settings = {
            "operator": {"namespace": NAMESPACE},
            "webhook": {"configuration": CONFIGURATION, "certificates": {"mode": mode}},
        }  # fmt: skip
        self._cluster = cluster
        self.log = Log()
        self.certificates = Certificates(config.parse(yaml.safe_dump(settings)), Cluster(), self.log)

    def served(self):
        """The certificate that is served, verified as the API server does."""
        found = self._cluster.get("mutatingwebhookconfiguration", CONFIGURATION)
        trusted = base64.b64decode(found["webhooks"][0]["clientConfig"]["caBundle"]).decode()
        client = ssl.create_default_context(cadata=trusted)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        theirs = self.certificates.context.wrap_bio(outgoing, incoming, server_side=True)
        ours = client.wrap_bio(incoming, outgoing, server_hostname=NAME)
        for side in (ours, theirs, ours, theirs):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
        return x509.load_der_x509_certificate(ours.getpeercert(binary_form=True))


@pytest.fixture
def secret(world):
    """Puts a certificate into the Secret; None for no Secret."""

    def put(made):
        world.kubectl("delete", "secret", "dynamo-entry-webhook-tls", "-n", NAMESPACE, "--ignore-not-found")
        if made is not None:
            data = {name: base64.b64encode(value).decode() for name, value in made.items()}
            world.apply(
                {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "dynamo-entry-webhook-tls"}, "data": data},
                namespace=NAMESPACE,
            )  # fmt: skip

    put(None)
    return put


@pytest.fixture
def replica(world, monkeypatch):
    return lambda mode="self-signed": Replica(world, mode, monkeypatch)


def left(certificate):
    return certificate.not_valid_after_utc - datetime.now(timezone.utc)


def test_the_certificate_is_made_once_for_all_replicas(secret, replica):
    """Each serves what the Secret holds, and the API server trusts it."""
    first, second = replica(), replica()
    for one in (first, second):
        one.certificates.refresh()
    assert first.served().serial_number == second.served().serial_number
    assert left(first.served()) > timedelta(days=300)


def test_the_certificate_is_renewed_in_time(secret, replica):
    """A replica that still serves the old one stays trusted, and takes the new one when it looks."""
    secret(self_signed(NAME, timedelta(days=100)))
    first, second = replica("secret"), replica()
    first.certificates.refresh()
    second.certificates.refresh()
    assert left(second.served()) > timedelta(days=300)
    assert left(first.served()) < timedelta(days=101)
    first.certificates.refresh()
    assert first.served().serial_number == second.served().serial_number


@pytest.mark.parametrize("damage", ["tls.key", "tls.crt", "ca.crt"])
def test_a_damaged_certificate_is_replaced(secret, replica, damage):
    """By hand or by half a restore from a backup: it heals by itself."""
    secret(self_signed(NAME, timedelta(days=365)) | {damage: self_signed(NAME, timedelta(days=365))[damage]})
    one = replica()
    one.certificates.refresh()
    assert left(one.served()) > timedelta(days=300)


def test_an_authority_that_the_user_forgot_is_missed(secret, replica):
    """Without it the API server trusts nobody, and would say so only in its own log."""
    made = self_signed(NAME, timedelta(days=9))
    secret({name: made[name] for name in ("tls.crt", "tls.key")})
    one = replica("secret")
    for _ in range(2):
        one.certificates.refresh()
    (warning,) = one.log.warnings
    assert "ca.crt" in warning


def test_a_certificate_of_the_user(secret, replica):
    """Is announced and served as it is; a broken one is reported, and what is served stays."""
    made = self_signed(NAME, timedelta(days=10))
    secret(made)
    one = replica("secret")
    one.certificates.refresh()
    before = one.served()
    assert left(before) < timedelta(days=11)
    secret(made | {"tls.key": b"nonsense"} | {"tls.crt": self_signed(NAME, timedelta(days=9))["tls.crt"]})
    one.certificates.refresh()
    assert one.served() == before
    assert "dynamo-entry-webhook-tls" in one.log.warnings[0]
