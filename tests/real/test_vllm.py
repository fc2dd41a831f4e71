"""`vllm serve`, unmodified: prepared by its own routes, created with the README's two capabilities, restored, the same answer."""

import json
import signal
from concurrent.futures import ThreadPoolExecutor

from containers import CREATE, RESTORE
from launcher import SETTINGS
from real import COMPLETION, IMAGE, MEMORY, SERVE, SERVE_ENV

#: A request that takes a while.
LONG = {**COMPLETION, "prompt": [COMPLETION["prompt"]] * 4, "max_tokens": 200, "ignore_eos": True}

#: The longest that requests under way are waited for.
PATIENT = ("--shutdown-timeout", "60")


def answer(container, request, port=8000):
    return json.loads(
        container.get("/v1/completions", port=port, body=json.dumps(request).encode(), limit_s=60)
    )


def ask(container, port=8000):
    return answer(container, COMPLETION, port)["choices"][0]["text"]


def is_at_work(container):
    lines = container.get("/metrics").decode().splitlines()
    running = [line for line in lines if line.startswith("vllm:num_requests_running{")]
    return any(float(line.split()[-1]) for line in running)


def test_it_is_created_and_restored(containers):
    """uvloop and PyTorch take io_uring where they can, which cannot be dumped: they are kept off it."""
    creator = containers.start(
        *SERVE, *PATIENT, image=IMAGE, options=(*CREATE, *MEMORY), env=SERVE_ENV,
        settings={**SETTINGS, "MODE": "create", "READY_URL": "http://127.0.0.1:8000/health", "AFTER_DUMP": "continue"},
    )  # fmt: skip
    creator.wait_for_event("Checkpoint published", limit_s=200)
    assert creator.event("engine is prepared for the dump")["hook"] == "vllm-checkpoint:8000"
    expected = ask(creator)
    container = containers.start(
        *SERVE, *PATIENT, image=IMAGE, options=(*RESTORE, *MEMORY), env=SERVE_ENV, settings=SETTINGS
    )
    container.wait_for_event("Restored", limit_s=100)
    assert ask(container) == expected
    ends_well(container)


def test_two_ranks_of_one_model(containers):
    """Without NET_ADMIN: their connections are closed, and its workers go on without them, by shared memory."""
    serve = (*SERVE, "--tensor-parallel-size", "2")
    env = {**SERVE_ENV, "VLLM_CPU_OMP_THREADS_BIND": "0|1", "VLLM_HOST_IP": "127.0.0.1"}
    creator = containers.start(
        *serve, image=IMAGE, options=(*CREATE, *MEMORY), env=env,
        settings={**SETTINGS, "MODE": "create", "READY_URL": "http://127.0.0.1:8000/health"},
    )  # fmt: skip
    assert creator.exit_code(230) == 0, creator.output()
    assert creator.event("connections inside the engine will be closed")
    container = containers.start(*serve, image=IMAGE, options=(*RESTORE, *MEMORY), env=env, settings=SETTINGS)
    container.wait_for_event("Restored", limit_s=100)
    assert ask(container)


def ends_well(container):
    """A request under way is answered to its end: TERM goes to the server alone, which lets its own processes finish."""
    with ThreadPoolExecutor(1) as pool:
        answered = pool.submit(answer, container, LONG)
        container.wait(lambda: is_at_work(container), "request under way")
        container.signal(signal.SIGTERM)
        assert answered.result()["usage"]["completion_tokens"] == 4 * LONG["max_tokens"]
    assert container.exit_code(60) == 0, container.output()


def test_an_archive_without_weights_by_vllms_own_snapshot_server(containers):
    """One setting on the creating pod; a replica listens where its own command says."""
    creator = containers.start(
        *SERVE, image=IMAGE, options=(*CREATE, *MEMORY), env={**SERVE_ENV, "TORCHDYNAMO_DISABLE": "1"},
        settings={**SETTINGS, "MODE": "create", "PROTOCOL": "vllm-snapshot"},
    )  # fmt: skip
    assert creator.exit_code(200) == 0, creator.output()
    container = containers.start(
        *SERVE, "--port", "8123", image=IMAGE, options=(*RESTORE, *MEMORY), env=SERVE_ENV, settings=SETTINGS
    )
    container.wait_for_event("Restored", limit_s=100)
    assert ask(container, 8123)
