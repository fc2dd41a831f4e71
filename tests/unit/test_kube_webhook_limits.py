"""What anybody in the cluster may send to the webhook costs it little, and never an answer to the API server."""

import http.client
import json
import ssl
import threading
from datetime import timedelta

import pytest

from dynamo_entry.kube.webhook import server as server_webhook
from dynamo_entry.kube.webhook.certificates import self_signed

REVIEW = {
    "apiVersion": "admission.k8s.io/v1",
    "kind": "AdmissionReview",
    "request": {"uid": "1", "object": {"metadata": {}}},
}


class Log:
    def error(self, *_, **__):
        pass


@pytest.fixture
def decoded():
    """What reached the reviewer."""
    return []


@pytest.fixture
def server(tmp_path, decoded):
    made = self_signed("localhost", timedelta(days=1))
    (tmp_path / "crt").write_bytes(made["tls.crt"])
    (tmp_path / "key").write_bytes(made["tls.key"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "crt", tmp_path / "key")

    def reviewer(request):
        decoded.append(request)
        return None, "seen", False

    served = server_webhook.Server(0, context, {"/": reviewer}, lambda *_: None, Log())
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield served
    served.shutdown()
    served.server_close()


def post(server, body, path="/", headers=None):
    context = ssl._create_unverified_context()
    connection = http.client.HTTPSConnection(
        "127.0.0.1", server.server_address[1], timeout=20, context=context
    )
    try:
        connection.request("POST", path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_a_review_is_answered(server):
    status, body = post(server, json.dumps(REVIEW))
    assert status == 200
    assert json.loads(body)["response"] == {"uid": "1", "allowed": True}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"[" + b"[]," * 200_000 + b"[]]", 413),
        (b'{"a": "' + b"x" * (4 << 20) + b'"}', 413),
        (b"not JSON", 400),
        (b"[]", 400),
        (b"[" * 5000, 400),
        (json.dumps({"request": {}}).encode(), 400),
    ],
    ids=["too many values", "too large", "not JSON", "no review", "nested", "no uid"],
)
def test_what_is_no_review_of_ours_is_refused_and_the_next_one_answered(server, decoded, body, status):
    try:
        assert post(server, body)[0] == status
    except OSError:
        assert status == 413, "only a body that nobody reads may be cut off"
    assert not decoded
    assert post(server, json.dumps(REVIEW))[0] == 200


def test_a_body_that_does_not_come_is_given_up(server, monkeypatch):
    monkeypatch.setattr(server_webhook, "_REQUEST_S", 0.3)
    assert post(server, b"", headers={"Content-Length": "100"})[0] == 408


def test_connections_have_a_limit(server):
    """Those beyond it are closed at once, and there is room again when others end."""
    server._connections = threading.BoundedSemaphore(1)
    server._connections.acquire()
    with pytest.raises((OSError, http.client.HTTPException)):
        post(server, json.dumps(REVIEW))
    server._connections.release()
    assert post(server, json.dumps(REVIEW))[0] == 200
