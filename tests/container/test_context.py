"""A restored engine learns where it woke up: environment, hostname, addresses."""

import json

from containers import RESTORE
from launcher import SETTINGS, published, restored

from dynamo_entry import context


def test_the_new_environment_is_there_before_the_engine_goes_on(containers):
    """Values in a private file, names in the log; what is the launcher's alone in neither."""
    published(containers, env={"SAME": "1", "TOKEN": "old-secret"})
    new = {"SAME": "1", "TOKEN": "new-secret", "ADDED": "2", "AWS_SECRET_ACCESS_KEY": "store-secret"}
    container = restored(
        containers,
        env=new,
        settings={"POST_RESTORE": 'cp "$DYNAMO_ENTRY_CONTEXT" /checkpoints/told'},
    )  # fmt: skip
    told = containers.checkpoints / "told"
    assert told.stat().st_mode & 0o777 == 0o600
    found = context.read(str(told))
    assert found is not None
    assert found.environment["TOKEN"] == "new-secret"
    assert found.hostname == container.run_inside("hostname").strip()
    assert not [name for name in found.environment if name.startswith(("DYNAMO_CHECKPOINT_", "AWS_"))]
    changed = container.event("environment")["changed"]
    assert {"TOKEN", "ADDED"} <= set(changed)
    assert "SAME" not in changed
    assert "secret" not in container.stderr


def test_the_helper_needs_nothing_but_a_python(containers):
    published(containers)
    container = restored(containers, env={"B": "2"})
    source = context.__file__
    assert source is not None
    with open(source, encoding="utf-8") as file:
        program = (
            file.read()
            + "\nprint(json.dumps([read().changed({})['B'], wait_for_restore(0.1).activation_id]))"
        )
    value, activation = json.loads(container.run_inside("python3", "-I", "-c", program))
    assert value == "2"
    assert len(activation) == 32


def test_a_hook_that_fails_is_a_failed_restore_and_the_cold_engine_finds_no_context(containers):
    published(containers)
    container = containers.start(
        "python3", "/tiny.py",
        options=(*RESTORE,), settings={**SETTINGS, "POST_RESTORE": "exit 3"},
    )  # fmt: skip
    assert container.wait_for_event("Falling back to cold start")["reason"] == "HookFailed"
    container.get("/health")
    assert "context.json" not in container.run_inside("find", "/run", "/tmp", "-name", "context.json")
