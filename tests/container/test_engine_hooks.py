"""An engine that PRE_DUMP put to sleep is woken by what its archive records: no restoring pod has to say how."""

from containers import ROOT
from launcher import create, restored

ENGINES = ROOT / "tests" / "support" / "servers" / "engines.py"
VOLUMES = (f"{ENGINES}:/engines.py:ro",)
SGLANG = ("python3", "/engines.py", "sglang", "30000", "--admin-api-key", "secret")
ASKED = ["/pause_generation", "/pause_generation", "/release_memory_occupation",
         "/resume_memory_occupation", "/continue_generation"]  # fmt: skip


def state(container, port=30000):
    return container.json("/state", port=port)


def test_sglang_is_put_to_sleep_and_woken_by_itself(containers):
    """In the pod that serves on after its creation, and in the restored one."""
    creator = create(
        containers, command=SGLANG, volumes=VOLUMES,
        settings={"SIGNAL_FILE": "", "MODE": "create", "READY_URL": "http://127.0.0.1:30000/health",
                  "PRE_DUMP": "sglang-release", "AFTER_DUMP": "continue"},
    )  # fmt: skip
    creator.wait_for_event("Checkpoint published")
    container = restored(containers, command=SGLANG, volumes=VOLUMES)
    for engine in (creator, container):
        engine.wait(lambda engine=engine: state(engine)["is_paused"] == "False", "engine that goes on")
        assert (state(engine)["asked"], state(engine)["released"]) == (str(ASKED), "set()")
