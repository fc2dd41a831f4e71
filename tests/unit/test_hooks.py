"""Hooks as people get them wrong: each is refused or fails in its time, and says why."""

import contextlib
import os
import resource
import socket
import threading
import time
from pathlib import Path

import pytest

from dynamo_entry.engine import hooks, http, readiness
from dynamo_entry.errors import CheckpointError, SettingsError

NO_URLS = ["http://127.0.0.1:port/", "http://[::1/x", "http://", "http:///x", "http://h/a b", "http://h/\n", "http://h:0/",
           "http://h:99999/", "http://h/é", "http://a..b/", f"http://{'a' * 64}/"]  # fmt: skip


@pytest.mark.parametrize("url", NO_URLS)
def test_what_is_not_a_url_is_refused_at_once(url):
    for check in (lambda: hooks.check("PRE_DUMP", url), lambda: readiness.check(url),
                  lambda: hooks.call("PRE_DUMP", url, 5)):  # fmt: skip
        with pytest.raises(SettingsError, match="is not a valid URL") as caught:
            check()
        assert caught.value.reason == "SettingsInvalid"


@pytest.mark.parametrize("url", ["http://me@h/", "http://me:key@127.0.0.1:8000/health"])
def test_an_engine_has_no_users(url):
    """It would not be found by such a name, however long its answer is waited for."""
    assert http.unanswered(url, limit_s=1)
    with pytest.raises(SettingsError, match="is not a valid URL"):
        readiness.check(url)


def test_a_hooks_user_is_refused_before_the_engine_is_loaded():
    """Another host's may be one that a proxy knows."""
    with pytest.raises(SettingsError, match="is not a valid URL"):
        hooks.check("PRE_DUMP", "http://me:key@127.0.0.1:8000/sleep")
    hooks.check("PRE_DUMP", "http://me:key@hooks.example.com/sleep")


@pytest.mark.parametrize("hook", ["vllm-sleep:x", "vllm-wake:0", "sglang-release:65536", "vllm-sleep:٣"])
def test_a_protocol_at_what_is_no_port_is_refused_at_once(hook):
    with pytest.raises(SettingsError, match="port from 1 to 65535"):
        hooks.check("PRE_DUMP", hook)


@pytest.mark.parametrize(
    ("name", "hook"),
    [("PRE_DUMP", "vllm-wake"), ("PRE_DUMP", "sglang-resume:1"), ("POST_RESTORE", "vllm-sleep"), ("POST_RESTORE", "vllm-checkpoint")],
)  # fmt: skip
def test_a_restored_engine_is_not_put_to_sleep_nor_is_one_woken_for_its_dump(name, hook):
    with pytest.raises(SettingsError, match=r"puts an engine to sleep|wakes an engine") as caught:
        hooks.check(name, hook)
    assert caught.value.reason == "SettingsInvalid"
    hooks.check("PRE_DUMP" if name == "POST_RESTORE" else "POST_RESTORE", hook)


@pytest.mark.parametrize("hook", ["vllm-checkpoint:9", "vllm-resume:9"])
def test_who_set_no_variable_is_not_told_to_unset_it(hook):
    """The engine offered it, or the archive has it on record."""
    with pytest.raises(CheckpointError, match=f"hook {hook} failed") as caught:
        hooks.call("PRE_DUMP" if hook.startswith("vllm-c") else "POST_RESTORE", hook, 1)
    assert "unset" not in caught.value.hint


def test_the_engine_beside_the_launcher_is_not_asked_through_a_proxy(says, monkeypatch):
    """The proxy would be asked for its own 127.0.0.1."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    hooks.call("PRE_DUMP", says(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), 5)


def test_a_hook_is_followed_by_a_process_with_many_open_files(tmp_path):
    """select(2) takes no descriptor above 1023."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 2048), hard))
    held = []
    try:
        held = [os.dup(0) for _ in range(1100)]
        hooks.call("PRE_DUMP", f"echo done >{tmp_path}/done", 10)
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000/a?b=c", "https://[::1]/", "http://engine", "http://h/%20"]
)
def test_what_is_a_url_is_asked(url):
    hooks.check("PRE_DUMP", url)
    readiness.check(url)


def test_what_a_hook_leaves_in_the_background_is_not_waited_for(tmp_path):
    began = time.monotonic()
    hooks.call("PRE_DUMP", f"sleep 60 & echo $! >{tmp_path}/pid", 30)
    os.kill(int((tmp_path / "pid").read_text()), 9)
    assert time.monotonic() - began < 20


def test_an_image_without_a_shell_has_no_commands(monkeypatch):
    monkeypatch.setattr(hooks, "_SHELL", "/nowhere/sh")
    with pytest.raises(CheckpointError, match="/nowhere/sh: No such file") as caught:
        hooks.call("PRE_DUMP", "true", 5)
    assert caught.value.reason == "HookFailed"


def test_a_hook_that_fails_is_told_with_its_last_words():
    with pytest.raises(CheckpointError, match=r"(?s)exit code 3: .*the end") as caught:
        hooks.call("PRE_DUMP", "yes | head -c 1000000; echo the end; sleep 60 & exit 3", 30)
    assert len(str(caught.value)) < 800


@pytest.mark.parametrize("command", ["sleep 60; true", "exec yes", "trap '' TERM; while :; do sleep 1; done"])
def test_a_hook_that_does_not_end_is_ended_with_what_it_started(command, tmp_path):
    with pytest.raises(CheckpointError, match=r"did not end within 0\.5 s"):
        hooks.call("PRE_DUMP", f"echo $$ >{tmp_path}/pid; {command}", 0.5)
    wait_until(lambda: not running(int((tmp_path / "pid").read_text())))


def running(group):
    """The processes of a group that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            stat = path.read_text().rpartition(")")[2].split()
            if int(stat[2]) == group and stat[0] != "Z":
                found.append(path)
    return found


def wait_until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


ANSWERS = {
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
    "nothing": b"",
    "a body that ends early": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
    "chunks that are none": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a refusal whose chunks are none": b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a line without an end": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70000,
}


@pytest.fixture
def says():
    """Answers one connection with these bytes, and closes it; returns the URL."""
    threads = []

    def serve(answer):
        server = socket.create_server(("127.0.0.1", 0))

        def run():
            with server, server.accept()[0] as connection:
                connection.recv(65536)
                try:
                    connection.sendall(answer)
                except OSError:
                    return  # nobody listens to more

        threads.append(threading.Thread(target=run))
        threads[-1].start()
        return f"http://127.0.0.1:{server.getsockname()[1]}/"

    yield serve
    for thread in threads:
        thread.join(10)


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_that_is_not_http_is_a_failure_of_the_engines(says, answer):
    with pytest.raises(OSError, match=r"not an HTTP|reset by peer|ends early|status 500"):
        http.ask(says(ANSWERS[answer]), method="GET", limit_s=5)
    if "200 OK" not in str(ANSWERS[answer]):
        with pytest.raises(CheckpointError, match="PRE_DUMP hook failed"):
            hooks.call("PRE_DUMP", says(ANSWERS[answer]), 5)


def test_an_answer_without_an_end_is_not_kept(says, monkeypatch):
    monkeypatch.setattr(http, "LIMIT_BYTES", 1 << 20)
    with pytest.raises(OSError, match="more than 1 MiB"):
        http.ask(says(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (3 << 20)), method="GET", limit_s=5)


@pytest.mark.parametrize("url", [*NO_URLS, "file:///etc/passwd", ""])
def test_what_is_not_a_url_is_never_answered(url):
    """An archive may record one."""
    assert http.unanswered(url, limit_s=1)
    with pytest.raises(ValueError, match="not a valid"):
        http.ask(url, method="GET", limit_s=1)
