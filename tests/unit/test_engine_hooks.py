"""PRE_DUMP and POST_RESTORE by name: what vLLM and SGLang are asked, and when it counts as done."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from dynamo_entry.engine import hooks
from dynamo_entry.errors import CheckpointError


@pytest.fixture
def engine():
    """Falls asleep and wakes a few questions after it was told to, as vLLM does."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            server.asked.append((self.path, body))
            server.wanted = self.path.startswith(("/sleep", "/release"))
            server.delay = server.patience
            self.answer({}, 404 if self.path in server.unknown else 200)

        def do_GET(self):
            server.delay -= 1
            if server.delay <= 0:
                server.sleeps = server.wanted
            self.answer({"is_sleeping": server.sleeps}, 200)

        def answer(self, value, status):
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.unknown, server.sleeps, server.delay, server.patience = [], (), False, 0, 3
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_vllm_sleeps_and_wakes(engine):
    """Done is when it says so, not when the request is answered."""
    hooks.call("PRE_DUMP", f"vllm-sleep:{engine.server_port}", 10)
    assert engine.sleeps
    hooks.call("POST_RESTORE", f"vllm-wake:{engine.server_port}", 10)
    assert not engine.sleeps
    assert engine.asked == [("/sleep?level=1", ""), ("/wake_up", "")]


def test_sglang_releases_its_cache_and_keeps_its_weights(engine):
    hooks.call("PRE_DUMP", f"sglang-release:{engine.server_port}", 10)
    hooks.call("POST_RESTORE", f"sglang-resume:{engine.server_port}", 10)
    tags = '{"tags": ["kv_cache"]}'
    assert engine.asked == [("/release_memory_occupation", tags), ("/resume_memory_occupation", tags)]


def test_an_engine_without_sleep_mode_fails_the_hook(engine):
    engine.unknown = ("/sleep?level=1",)
    with pytest.raises(CheckpointError) as caught:
        hooks.call("PRE_DUMP", f"vllm-sleep:{engine.server_port}", 10)
    assert caught.value.reason == "HookFailed"
    assert "404" in caught.value.message


def test_an_engine_that_does_not_fall_asleep_fails_the_hook(engine):
    engine.patience = 10_000
    with pytest.raises(CheckpointError, match="is_sleeping"):
        hooks.call("PRE_DUMP", f"vllm-sleep:{engine.server_port}", 0.3)


def test_anything_else_is_a_command(tmp_path):
    hooks.call("PRE_DUMP", f"touch {tmp_path}/done", 10)
    assert (tmp_path / "done").exists()
