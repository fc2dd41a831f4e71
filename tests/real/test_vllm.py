"""`vllm serve`, unmodified: prepared by its own routes, created with the README's two capabilities, restored, the same answer."""

import json

from containers import CREATE, RESTORE
from launcher import SETTINGS
from real import COMPLETION, IMAGE, MEMORY, SERVE, SERVE_ENV


def ask(container, port=8000):
    body = json.dumps(COMPLETION).encode()
    return json.loads(container.get("/v1/completions", port=port, body=body, limit_s=60))["choices"][0][
        "text"
    ]


def test_it_is_created_and_restored(containers):
    """uvloop and PyTorch take io_uring where they can, which cannot be dumped: they are kept off it."""
    creator = containers.start(
        *SERVE, image=IMAGE, options=(*CREATE, *MEMORY), env=SERVE_ENV,
        settings={**SETTINGS, "MODE": "create", "READY_URL": "http://127.0.0.1:8000/health", "AFTER_DUMP": "continue"},
    )  # fmt: skip
    creator.wait_for_event("Checkpoint published", limit_s=200)
    assert creator.event("engine is prepared for the dump")["hook"] == "vllm-checkpoint:8000"
    expected = ask(creator)
    container = containers.start(
        *SERVE, image=IMAGE, options=(*RESTORE, *MEMORY), env=SERVE_ENV, settings=SETTINGS
    )
    container.wait_for_event("Restored", limit_s=100)
    assert ask(container) == expected


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
