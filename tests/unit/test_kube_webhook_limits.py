"""What anybody in the cluster may send to the webhook costs it little, and never an answer to the API server."""

import contextlib
import http.client
import json
import socket
import ssl
import threading
import time
from datetime import timedelta

import pytest

from dynamo_entry.kube import listening
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


@pytest.mark.parametrize("kind", [None, "Pod", {"kind": 1}, [], {}])
def test_a_review_that_fails_is_answered_whatever_its_kind(kind):
    def reviewer(_request):
        raise KeyError("metadata")

    review = REVIEW | {"request": REVIEW["request"] | {"kind": kind}}
    assert server_webhook.answer(review, reviewer, lambda *_: None, Log())["response"]["allowed"]


@pytest.mark.parametrize("request_", ["text", 1, [], None])
def test_a_request_that_is_no_object_is_refused(server, request_):
    assert post(server, json.dumps(REVIEW | {"request": request_}))[0] == 400


def test_a_body_that_does_not_come_is_given_up(server, monkeypatch):
    monkeypatch.setattr(server_webhook, "_REQUEST_S", 0.3)
    assert post(server, b"", headers={"Content-Length": "100"})[0] == 408


def connected(server):
    """A connection that has shaken hands, and no more."""
    raw = socket.create_connection(("127.0.0.1", server.server_address[1]), timeout=20)
    return ssl._create_unverified_context().wrap_socket(raw)


def is_closed(connection):
    """By the server; waits for it."""
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize(
    "start", [b"", b"POST / HTTP/1.1\r\nX: ", b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n"]
)
def test_connections_that_wait_give_way(server, start):
    """Silent, in the middle of a head or of a body: they cannot keep the API server out."""
    server._connections = threading.BoundedSemaphore(2)
    held = [connected(server) for _ in range(2)]
    for one in held:
        one.sendall(start)
    assert post(server, json.dumps(REVIEW))[0] == 200
    assert is_closed(held[0])
    for one in held:
        one.close()


def test_a_connection_whose_review_is_under_way_does_not_give_way(server, monkeypatch):
    """Those beyond the limit are closed then, and there is room again when it ends."""
    monkeypatch.setattr(listening, "_ROOM_S", 0.1)
    server._connections = threading.BoundedSemaphore(1)
    began, go_on = threading.Event(), threading.Event()

    def slow(_request):
        began.set()
        assert go_on.wait(30)
        return None, "seen", False

    server.reviewers["/slow"] = slow
    answers = []
    first = threading.Thread(target=lambda: answers.append(post(server, json.dumps(REVIEW), "/slow")[0]))
    first.start()
    assert began.wait(30)
    with pytest.raises((OSError, http.client.HTTPException)):
        post(server, json.dumps(REVIEW))
    go_on.set()
    first.join()
    assert answers == [200]
    monkeypatch.setattr(listening, "_ROOM_S", 20)
    assert post(server, json.dumps(REVIEW))[0] == 200


def test_a_head_that_drips_is_given_up(server, monkeypatch):
    """Each byte in time, and the whole one not."""
    monkeypatch.setattr(server_webhook, "_REQUEST_S", 0.5)
    connection = connected(server)
    with contextlib.suppress(OSError):
        for byte in b"POST / HTTP/1.1\r\n" + b"X: y\r\n" * 60:
            connection.sendall(bytes([byte]))
            time.sleep(0.02)
        connection.sendall(b"\r\n")
        pytest.fail("it was listened to for 8 seconds")
    connection.close()


def test_a_connection_is_used_again(server):
    """As the API server does; and what comes with the end of another request is not lost."""
    connection = connected(server)
    body = json.dumps(REVIEW).encode()
    request = b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    connection.sendall(request * 2)
    answers = b""
    while answers.count(b'"allowed": true') < 2:
        piece = connection.recv(4096)
        assert piece, answers
        answers += piece
    connection.close()


def test_few_reviews_are_decoded_at_once(server):
    """Each takes many times its size."""
    began, go_on, answers = threading.Semaphore(0), threading.Event(), []

    def slow(_request):
        began.release()
        assert go_on.wait(30)
        return None, "seen", False

    server.reviewers["/slow"] = slow
    most = server_webhook._AT_ONCE
    posts = [
        threading.Thread(target=lambda: answers.append(post(server, json.dumps(REVIEW), "/slow")[0]))
        for _ in range(most + 2)
    ]
    for one in posts:
        one.start()
    try:
        for _ in range(most):
            assert began.acquire(timeout=30)
        assert not began.acquire(timeout=0.5)
    finally:
        go_on.set()
        for one in posts:
            one.join()
    assert answers == [200] * (most + 2)
