"""An engine that PRE_DUMP put to sleep is woken by what its archive records: no restoring pod has to say how."""

import pytest
from containers import ROOT
from gate import CREATE_PHASES, begin, hold, kill
from launcher import create, restored

ENGINES = ROOT / "tests" / "support" / "servers" / "engines.py"
VOLUMES = (f"{ENGINES}:/engines.py:ro",)
SGLANG = ("python3", "/engines.py", "sglang", "30000", "--admin-api-key", "secret")
ASKED = ["/pause_generation", "/pause_generation", "/release_memory_occupation",
         "/resume_memory_occupation", "/continue_generation"]  # fmt: skip


VLLM = ("python3", "/vllm", "vllm", "8000", "--enable-sleep-mode")


def state(container, port=30000):
    return container.json("/state", port=port)


def test_a_vllm_that_offers_it_is_prepared_and_woken_by_itself(containers):
    volumes = (f"{ENGINES}:/vllm:ro",)
    settings = {"SIGNAL_FILE": "", "MODE": "create", "READY_URL": "http://127.0.0.1:8000/health"}
    creator = create(containers, command=VLLM, volumes=volumes, settings=settings)
    assert creator.exit_code() == 0, creator.output()
    assert creator.event("engine is prepared for the dump")["hook"] == "vllm-checkpoint:8000"
    engine = restored(containers, command=VLLM, volumes=volumes)
    assert state(engine, 8000)["asked"].count("/collective_rpc") == 2
    assert {state(engine, 8000)[name] for name in ("is_paused", "is_asleep", "is_prepared")} == {"False"}


def test_unless_it_is_told_not_to(containers):
    volumes = (f"{ENGINES}:/vllm:ro",)
    settings = {
        "SIGNAL_FILE": "",
        "MODE": "create",
        "READY_URL": "http://127.0.0.1:8000/health",
        "PRE_DUMP": "none",
    }
    creator = create(containers, command=VLLM, volumes=volumes, settings=settings)
    assert creator.exit_code() == 0, creator.output()
    assert not creator.event("engine is prepared for the dump")
    assert state(restored(containers, command=VLLM, volumes=volumes), 8000)["asked"] == "[]"


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


@pytest.mark.parametrize(
    ("phase", "event"), [("dump", "Checkpoint not created"), ("written", "Checkpoint published")]
)
def test_an_engine_is_woken_although_the_launchers_helper_is_lost(containers, phase, event):
    """Whether there is an archive by then or not."""
    held = CREATE_PHASES[phase]
    settings = {"SIGNAL_FILE": "", "MODE": "create", "READY_URL": "http://127.0.0.1:30000/health",
                "PRE_DUMP": "sglang-release", "AFTER_DUMP": "continue"}  # fmt: skip
    engine = begin(
        containers, create, held, more=("-v", f"{ENGINES}:/engines.py:ro"), command=SGLANG, **settings
    )
    hold(engine, containers, held)
    kill(engine, "worker")
    engine.wait_for_event(event)
    engine.wait(lambda: state(engine)["is_paused"] == "False", "engine that goes on")
    assert (state(engine)["asked"], state(engine)["released"]) == (str(ASKED), "set()")


def test_what_a_hook_leaves_in_the_background_goes_on_with_the_engine(containers):
    """Nobody waits for it when the creation is over, or ends it."""
    settings = {"PRE_DUMP": "sleep 321 >/dev/null 2>&1 &", "AFTER_DUMP": "continue"}
    creator = create(containers, settings=settings)
    creator.wait_for_event("Checkpoint published")
    assert any("sleep 321" in line for line in creator.processes().values()), creator.output()
