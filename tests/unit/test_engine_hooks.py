"""PRE_DUMP and POST_RESTORE by name: what vLLM and SGLang are asked, in which order, and when it counts as done."""

import pytest
from servers import tls
from servers.engines import VLLM, SGLang

from dynamo_entry.engine import hooks, http, sleep_protocols
from dynamo_entry.engine import sleep as asleep
from dynamo_entry.errors import CheckpointError, Corrupt

PAUSE, GO_ON = "/pause_generation", "/continue_generation"
RELEASE, RESUME = "/release_memory_occupation", "/resume_memory_occupation"


@pytest.fixture
def vllm():
    with VLLM().serving() as engine:
        yield engine


@pytest.fixture
def sglang():
    with SGLang().serving() as engine:
        yield engine


def sleep(engine, name, limit_s=10, commands=()):
    hooks.call("PRE_DUMP", f"{name}:{engine.port}", limit_s, commands=commands)


def wake(engine, name, commands=()):
    hooks.call("POST_RESTORE", f"{name}:{engine.port}", 10, commands=commands)


def test_vllm_sleeps_and_wakes(vllm):
    """Done is when it says so, not when the request is answered."""
    sleep(vllm, "vllm-sleep")
    assert vllm.is_asleep
    wake(vllm, "vllm-wake")
    assert not vllm.is_asleep
    assert vllm.asked == ["/sleep", "/wake_up"]


def test_vllm_is_paused_before_it_drops_its_cache_and_communicators_come_back_first(vllm):
    sleep(vllm, "vllm-checkpoint")
    assert (vllm.is_paused, vllm.is_asleep, vllm.is_prepared) == (True, True, True)
    wake(vllm, "vllm-resume")
    assert (vllm.is_paused, vllm.is_asleep, vllm.is_prepared) == (False, False, False)
    rpc = "/collective_rpc"
    assert vllm.asked == ["/pause", "/release_kv_cache_memory", rpc, rpc, "/wake_up", "/resume"]


def test_a_vllm_that_cannot_drop_its_cache_alone_sleeps_instead(vllm):
    """0.27 to 0.30."""
    vllm.refused = {"/release_kv_cache_memory": 404}
    sleep(vllm, "vllm-checkpoint")
    assert (vllm.is_paused, vllm.is_asleep, vllm.is_prepared) == (True, True, True)
    wake(vllm, "vllm-resume")
    assert (vllm.is_paused, vllm.is_asleep, vllm.is_prepared) == (False, False, False)
    rpc = "/collective_rpc"
    assert vllm.asked == ["/pause", "/sleep", rpc, rpc, "/wake_up", "/resume"]


@pytest.mark.parametrize("path", ["/pause", "/collective_rpc"])
def test_a_vllm_that_has_no_such_route_is_awake(vllm, path):
    """Older ones."""
    vllm.refused = {path: 404, "/release_kv_cache_memory": 404}
    with pytest.raises(CheckpointError, match="404"):
        sleep(vllm, "vllm-checkpoint")
    assert (vllm.is_paused, vllm.is_asleep, vllm.is_prepared) == (False, False, False)


@pytest.mark.parametrize("path", ["/release_kv_cache_memory", "/collective_rpc"])
def test_a_vllm_that_cannot_is_awake(vllm, path):
    vllm.refused = {path: 500}
    with pytest.raises(CheckpointError, match="500"):
        sleep(vllm, "vllm-checkpoint")
    assert (vllm.is_paused, vllm.is_asleep, vllm.is_prepared) == (False, False, False)


SERVE = ["/usr/bin/python3", "/opt/engine/bin/vllm", "serve", "/models/tiny", "--enable-sleep-mode"]


@pytest.mark.parametrize(
    ("command", "offers"),
    [
        (SERVE, True),
        (["python3", "-m", "vllm.entrypoints.openai.api_server", "--enable_sleep_mode"], True),
        (SERVE[:-1], False),
        (["python3", "server.py", "--enable-sleep-mode"], False),
    ],
)
def test_a_vllm_that_can_be_prepared_says_so_by_its_command_and_its_routes(vllm, command, offers):
    hook = asleep.offered([["sh", "-c", "…"], [*command, "--port", str(vllm.port)]])
    assert hook == (f"vllm-checkpoint:{vllm.port}" if offers else "")


def test_a_vllm_without_the_routes_offers_nothing():
    with VLLM(is_dev=False).serving() as engine:
        assert asleep.offered([[*SERVE, f"--port={engine.port}"]]) == ""
        port = engine.port
    assert asleep.offered([[*SERVE, f"--port={port}"]]) == ""


@pytest.mark.parametrize("order", [1, -1])
def test_the_port_is_that_of_the_engines_own_command(vllm, order):
    """The first process's, not that of another program; the last one in its command counts, as for vLLM."""
    own = [[*SERVE, "--port=9", "--port", str(vllm.port)], [*SERVE, "--port", "9"]]
    commands = [["nginx-exporter", "--port", "9"], ["sh", "-c", f"exec {' '.join(own[1])}"]][::order]
    assert asleep.offered([*commands, *own]) == f"vllm-checkpoint:{vllm.port}"


def test_an_engine_with_tls_is_asked_over_tls(tmp_path):
    certificate = tls.issue(tmp_path)
    with VLLM().serving(certificate=certificate) as engine:
        command = [*SERVE, "--port", str(engine.port), "--ssl_keyfile", "k", "--ssl-certfile", "c"]
        assert asleep.offered([command]) == f"vllm-checkpoint:{engine.port}"
        sleep(engine, "vllm-checkpoint", commands=[["nginx", "--port", "9"], command])
        assert engine.is_prepared


def test_sglang_is_paused_before_it_releases_and_goes_on_after_it_has_resumed(sglang):
    """It would end if a batch were under way, or other tags came back than went."""
    sleep(sglang, "sglang-release")
    assert (sglang.is_paused, sglang.released) == (True, {"kv_cache"})
    wake(sglang, "sglang-resume")
    assert (sglang.is_paused, sglang.released, sglang.is_dead) == (False, set(), False)
    assert sglang.asked == [PAUSE, PAUSE, RELEASE, RESUME, GO_ON]


@pytest.mark.parametrize(
    ("keys", "command"),
    [
        ({"admin_key": "a", "api_key": "b"}, ["--api-key", "b", "--admin-api-key", "a"]),
        ({"admin_key": "a"}, ["--admin-api-key=a"]),
        ({"api_key": "b"}, ["--api-key", "b"]),
    ],
)
def test_sglangs_key_is_that_of_its_command(keys, command):
    commands = [["sh", "-c", "…"], ["python3", "-m", "sglang.launch_server", *command]]
    with SGLang(**keys).serving() as engine:
        sleep(engine, "sglang-release", commands=commands)
        wake(engine, "sglang-resume", commands=commands)
        assert engine.asked == [PAUSE, PAUSE, RELEASE, RESUME, GO_ON]


def test_a_key_that_is_not_in_the_command_is_a_refusal_that_says_so():
    with SGLang(admin_key="a").serving() as engine, pytest.raises(CheckpointError, match="401"):
        sleep(engine, "sglang-release", commands=[["python3", "--admin-api-key"]])


@pytest.mark.parametrize("path", [PAUSE, RELEASE])
def test_an_engine_that_refuses_is_awake_and_what_was_not_done_is_not_undone(sglang, path):
    """SGLang would end if it were to resume what it had not released."""
    sglang.refused = {path: 500}
    with pytest.raises(CheckpointError, match="500"):
        sleep(sglang, "sglang-release")
    assert (sglang.is_dead, sglang.is_paused) == (False, False)
    assert RESUME not in sglang.asked


def test_an_engine_without_sleep_mode_fails_the_hook():
    with VLLM(is_dev=False).serving() as engine, pytest.raises(CheckpointError) as caught:
        sleep(engine, "vllm-sleep")
    assert caught.value.reason == "HookFailed"
    assert "404" in caught.value.message


def test_an_engine_that_does_not_fall_asleep_fails_the_hook_and_is_woken(vllm):
    vllm.patience = 15
    with pytest.raises(CheckpointError, match="is_sleeping"):
        sleep(vllm, "vllm-sleep", 0.3)
    assert vllm.asked == ["/sleep", "/wake_up"]
    assert not vllm.is_asleep


def test_an_engine_that_cannot_be_woken_says_so_too(vllm):
    vllm.patience, vllm.refused = 10_000, {"/wake_up": 503}
    with pytest.raises(CheckpointError, match=r"is_sleeping.*does not resume: HTTP status 503"):
        sleep(vllm, "vllm-sleep", 0.3)


@pytest.mark.parametrize(
    ("hook", "wakes"),
    [
        ("vllm-sleep", "vllm-wake:8000"),
        ("vllm-checkpoint:8001", "vllm-resume:8001"),
        ("sglang-release:9000", "sglang-resume:9000"),
        ("vllm-wake", ""),
        ("touch /tmp/x", ""),
        ("", ""),
    ],
)
def test_the_archive_knows_how_to_wake_its_engine(hook, wakes):
    assert sleep_protocols.wake_of(hook) == wakes
    assert sleep_protocols.recorded({"wake": wakes}) == wakes


def test_a_pod_that_names_such_a_hook_by_itself_has_the_last_word():
    recorded = "vllm-wake:8000"
    assert sleep_protocols.wake_hooks(recorded, "") == [recorded]
    assert sleep_protocols.wake_hooks(recorded, "vllm-wake:9000") == ["vllm-wake:9000"]
    assert sleep_protocols.wake_hooks(recorded, "touch /tmp/x") == [recorded, "touch /tmp/x"]
    assert sleep_protocols.wake_hooks("", "") == []


@pytest.mark.parametrize(
    "value", ["rm -rf /", "http://10.0.0.9/", "vllm-sleep:8000", 7, ["vllm-wake"], {"a": 1}]
)
def test_an_archive_names_no_other_hook(value):
    with pytest.raises(Corrupt):
        sleep_protocols.recorded({"wake": value})


def test_anything_else_is_a_command(tmp_path):
    hooks.call("PRE_DUMP", f"touch {tmp_path}/done", 10)
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize("hook", ["exit 3 # sk-secret", "http://127.0.0.1:1/x?token=sk-secret"])
def test_what_a_hook_is_is_not_shown(hook):
    """A command or a URL may have a token in it; the variable's name says which it is."""
    with pytest.raises(CheckpointError) as caught:
        hooks.call("POST_RESTORE", hook, 5)
    assert "sk-secret" not in str(caught.value)
    assert "POST_RESTORE hook failed" in str(caught.value)


@pytest.mark.parametrize(
    ("pre_dump", "is_paused", "hook"),
    [
        ("", False, "vllm-checkpoint"),
        ("", True, ""),
        ("none", False, ""),
        ("none", True, ""),
        ("touch /x", False, "touch /x"),
        ("touch /x", True, "touch /x"),
    ],
)
def test_what_is_called_before_a_dump(vllm, pre_dump, is_paused, hook):
    commands = [[*SERVE, "--port", str(vllm.port)]]
    found = asleep.hook(pre_dump, commands, is_paused=is_paused)
    assert found.partition(":")[0] == hook


@pytest.mark.parametrize("answer", [b"[]", b'"yes"', b"null", b"", b"<html>", b"[" * 100_000], ids=repr)
def test_an_answer_that_is_no_object_fails_the_hook_and_the_engine_is_woken(vllm, monkeypatch, answer):
    """Not the launcher: an engine's server may say anything."""
    ask = http.ask
    monkeypatch.setattr(
        http, "ask", lambda url, **how: answer if url.endswith("/is_sleeping") else ask(url, **how)
    )
    with pytest.raises(CheckpointError) as caught:
        sleep(vllm, "vllm-sleep", 0.3)
    assert caught.value.reason == "HookFailed"
    assert vllm.asked == ["/sleep", "/wake_up"]
