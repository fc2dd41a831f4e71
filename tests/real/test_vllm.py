"""`vllm serve`, unmodified: prepared by its own routes, created with the README's two capabilities, restored, the same answer."""

import json

from containers import CREATE, RESTORE, TAG
from launcher import SETTINGS

IMAGE = f"localhost/dynamo-entry/vllm:{TAG}"
COMMAND = (
    "vllm",
    "serve",
    "/models/tiny",
    "--served-model-name",
    "tiny",
    "--enforce-eager",
    "--max-model-len",
    "256",
    "--enable-sleep-mode",
)
ENV = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_SERVER_DEV_MODE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "OMP_NUM_THREADS": "2",
}
MEMORY = ("--shm-size", "1g")
COMPLETION = {"model": "tiny", "prompt": "once upon", "max_tokens": 8, "temperature": 0}


def ask(container, port=8000):
    body = json.dumps(COMPLETION).encode()
    return json.loads(container.get("/v1/completions", port=port, body=body, limit_s=60))["choices"][0][
        "text"
    ]


def test_it_is_created_and_restored(containers):
    """uvloop and PyTorch take io_uring where they can, which cannot be dumped: they are kept off it."""
    creator = containers.start(
        *COMMAND, image=IMAGE, options=(*CREATE, *MEMORY), env=ENV,
        settings={**SETTINGS, "MODE": "create", "READY_URL": "http://127.0.0.1:8000/health", "AFTER_DUMP": "continue"},
    )  # fmt: skip
    creator.wait_for_event("Checkpoint published", limit_s=200)
    assert creator.event("engine is prepared for the dump")["hook"] == "vllm-checkpoint:8000"
    expected = ask(creator)
    container = containers.start(
        *COMMAND, image=IMAGE, options=(*RESTORE, *MEMORY), env=ENV, settings=SETTINGS
    )
    container.wait_for_event("Restored", limit_s=100)
    assert ask(container) == expected


def test_an_archive_without_weights_by_vllms_own_snapshot_server(containers):
    """One setting on the creating pod; a replica listens where its own command says."""
    creator = containers.start(
        *COMMAND, image=IMAGE, options=(*CREATE, *MEMORY), env={**ENV, "TORCHDYNAMO_DISABLE": "1"},
        settings={**SETTINGS, "MODE": "create", "PROTOCOL": "vllm-snapshot"},
    )  # fmt: skip
    assert creator.exit_code(200) == 0, creator.output()
    container = containers.start(
        *COMMAND, "--port", "8123", image=IMAGE, options=(*RESTORE, *MEMORY), env=ENV, settings=SETTINGS
    )
    container.wait_for_event("Restored", limit_s=100)
    assert ask(container, 8123)
